//! A task on its own: leases, attempts, ends.

use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;

use super::stand::{Stand, TTL, accepted, alone, document, done, ended, head, id, lease, over, parse};
use gleitzeit::core::state::TaskState;
use gleitzeit::store::{Accepted, Claimed, End, Filter, Finished, Lease, Why};

pub(crate) async fn a_task_on_its_own_lives(stand: Stand) {
    let key = alone("t");
    assert_eq!(stand.store.task(&key).await, Ok(None));
    let lease = stand.lease(&key).await;
    assert_eq!(lease.attempt, 1);
    let task = stand.store.task(&key).await.expect("answers").expect("known");
    assert_eq!(task.head, head(&key));
    assert_eq!((task.state, task.attempts, task.crashes), (TaskState::Running, 1, 0));
    assert_eq!(task.session, Some(id("worker")));
    assert!(task.started_at.is_some());
    assert_eq!(stand.result(&key).await, None);

    let finished = stand.end(&lease, TaskState::Completed).await;
    assert_eq!(finished, done(&[], None));
    let expected = document(&key, TaskState::Completed, json!("t"));
    assert_eq!(stand.result(&key).await, Some(expected.clone()));
    assert_eq!(stand.outcome("t").await, Some(expected));
    let task = stand.store.task(&key).await.expect("answers").expect("known");
    assert_eq!((task.state, task.attempts, task.session), (TaskState::Completed, 1, None));
    assert!(task.ended_at.is_some());
    assert_eq!(task.history, vec![json!({"attempt": 1, "status": "completed"}).to_string()]);
    assert_eq!(stand.store.workflow(&id("t")).await, Ok(None));
}

pub(crate) async fn every_step_of_a_task_can_be_repeated(stand: Stand) {
    let key = alone("t");
    let lease = stand.lease(&key).await;
    let first = stand.end(&lease, TaskState::Completed).await;
    // The answer may have been lost: the same lease gets the same answer.
    assert_eq!(stand.end(&lease, TaskState::Completed).await, first);
    // And the delivery may come again.
    for attempt in [1, 2] {
        let claimed = stand.claim(&key, attempt, "other").await;
        assert_eq!(claimed, over(TaskState::Completed));
    }
}

pub(crate) async fn a_late_finisher_is_refused(stand: Stand) {
    let key = alone("t");
    let late = stand.lease(&key).await;
    let new = lease(stand.take_over(&key, "other", late.fence).await);
    assert!(new.fence > late.fence, "{new:?} after {late:?}");
    assert_eq!(stand.end(&late, TaskState::Failed).await, Finished::Lost);
    assert_eq!(stand.state(&key).await, Some(TaskState::Running));
    assert_eq!(stand.result(&key).await, None);
    assert_ne!(stand.end(&new, TaskState::Completed).await, Finished::Lost);
    assert_eq!(stand.end(&late, TaskState::Failed).await, Finished::Lost);
    assert_eq!(stand.state(&key).await, Some(TaskState::Completed));
}

pub(crate) async fn a_takeover_counts_a_crash_of_that_task_only(stand: Stand) {
    let (key, innocent) = (alone("t"), alone("innocent"));
    let mut held = stand.lease(&key).await;
    stand.lease(&innocent).await;
    // Naming a lease that is not the current one takes nothing.
    let past = gleitzeit::store::Fence(held.fence.0 + 7);
    assert!(matches!(stand.take_over(&key, "b", past).await, Claimed::Held { .. }));
    for crashes in 1..=3 {
        let claimed = stand.take_over(&key, "b", held.fence).await;
        let Claimed::Run { lease, crashes: counted, history, .. } = claimed else { panic!("{claimed:?}") };
        assert_eq!((counted, lease.attempt), (crashes, crashes + 1));
        assert_eq!(history.len(), usize::try_from(crashes).expect("small"));
        assert!(lease.fence > held.fence);
        held = lease;
    }
    let task = stand.store.task(&key).await.expect("answers").expect("known");
    assert_eq!((task.crashes, task.attempts, task.history.len()), (3, 4, 3));
    let entry: serde_json::Value = serde_json::from_str(&task.history[0]).expect("JSON");
    assert_eq!(entry["attempt"], json!(1));
    assert_eq!(entry["error"]["name"], "WORKER_LOST");
    let task = stand.store.task(&innocent).await.expect("answers").expect("known");
    assert_eq!((task.crashes, task.attempts), (0, 1));
}

pub(crate) async fn a_retry_is_decided_once(stand: Stand) {
    let key = alone("t");
    let first = stand.lease(&key).await;
    let due = stand.now().after(Duration::from_secs(30));
    let again = End::Again { due, entry: json!({"attempt": 1}).to_string() };
    let decided = stand.finish(&first, &again).await;
    assert_eq!(decided, done(&[], None));
    assert_eq!(stand.finish(&first, &again).await, decided);
    let task = stand.store.task(&key).await.expect("answers").expect("known");
    assert_eq!((task.state, task.attempts, task.due), (TaskState::Delayed, 1, Some(due)));
    assert_eq!(task.history, vec![json!({"attempt": 1}).to_string()]);

    // The delivery of the first attempt comes again: its second is to be published again.
    assert_eq!(stand.claim(&key, 1, "other").await, Claimed::Next { attempt: 2, due });
    let claimed = stand.claim(&key, 2, "other").await;
    let Claimed::Run { history, .. } = &claimed else { panic!("{claimed:?}") };
    assert_eq!(*history, vec![json!({"attempt": 1}).to_string()]);
    let second = lease(claimed);
    assert_eq!(second.attempt, 2);
    assert!(second.fence > first.fence);
    assert!(matches!(stand.claim(&key, 1, "third").await, Claimed::Held { .. }));
    assert_eq!(stand.finish(&first, &again).await, Finished::Lost);
    assert_ne!(stand.end(&second, TaskState::Failed).await, Finished::Lost);
    let task = stand.store.task(&key).await.expect("answers").expect("known");
    assert_eq!((task.state, task.attempts, task.due), (TaskState::Failed, 2, None));
    assert_eq!((task.history.len(), task.crashes), (2, 0));
}

pub(crate) async fn an_abandoned_attempt_did_not_take_place(stand: Stand) {
    let key = alone("t");
    let first = stand.lease(&key).await;
    assert_ne!(stand.finish(&first, &End::Abandoned).await, Finished::Lost);
    let task = stand.store.task(&key).await.expect("answers").expect("known");
    assert_eq!((task.state, task.attempts, task.crashes), (TaskState::Queued, 0, 0));
    assert!(task.history.is_empty());
    let second = lease(stand.claim(&key, 1, "other").await);
    assert_eq!(second.attempt, 1);
    assert!(second.fence > first.fence);
    assert_eq!(stand.end(&first, TaskState::Completed).await, Finished::Lost);
}

pub(crate) async fn a_session_that_asks_again_is_held(stand: Stand) {
    let key = alone("t");
    let lease = stand.lease(&key).await;
    for session in ["worker", "other"] {
        let held = Claimed::Held { session: id("worker"), fence: lease.fence };
        assert_eq!(stand.claim(&key, 1, session).await, held);
    }
    assert_ne!(stand.end(&lease, TaskState::Completed).await, Finished::Lost);
}

pub(crate) async fn fifty_sessions_get_one_lease(stand: Stand) {
    let other = stand.other().await;
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..50 {
        let stand = if number % 2 == 0 { stand.clone() } else { other.clone() };
        asking.spawn(async move { stand.claim(&alone("t"), 1, &format!("s{number}")).await });
    }
    let claimed = asking.join_all().await;
    let runs: Vec<&Claimed> = claimed.iter().filter(|one| matches!(one, Claimed::Run { .. })).collect();
    assert_eq!(runs.len(), 1, "{runs:?}");
    let holders: HashSet<_> = claimed
        .iter()
        .filter_map(|one| match one {
            Claimed::Held { session, .. } => Some(session.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(holders.len(), 1);
    // A take-over of a dead session's lease is given to one as well.
    let Claimed::Run { lease, .. } = runs[0] else { panic!() };
    let fence = lease.fence;
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..50 {
        let stand = if number % 2 == 0 { stand.clone() } else { other.clone() };
        asking.spawn(async move { stand.take_over(&alone("t"), &format!("s{number}"), fence).await });
    }
    let claimed = asking.join_all().await;
    assert_eq!(claimed.iter().filter(|one| matches!(one, Claimed::Run { .. })).count(), 1);
}

pub(crate) async fn an_end_is_recorded_once(stand: Stand) {
    let key = alone("t");
    let lease = stand.lease(&key).await;
    stand.end(&lease, TaskState::Completed).await;
    let before = (stand.store.task(&key).await, stand.result(&key).await);
    stand.finish(&lease, &ended(&key, TaskState::Failed, json!(null))).await;
    stand.finish(&lease, &End::Abandoned).await;
    stand.finish(&lease, &End::Again { due: stand.now(), entry: "{}".to_owned() }).await;
    stand.claim(&key, 2, "other").await;
    stand.take_over(&key, "other", lease.fence).await;
    stand.store.accept(&[accepted(&key)], stand.now()).await.expect("answers");
    assert_eq!((stand.store.task(&key).await, stand.result(&key).await), before);
}

pub(crate) async fn a_message_knows_better_than_a_store_that_forgot(stand: Stand) {
    let lease = lease(stand.claim(&alone("t"), 3, "worker").await);
    assert_eq!(lease.attempt, 3);
}

pub(crate) async fn the_history_keeps_the_last_hundred(stand: Stand) {
    let key = alone("t");
    for attempt in 1..=105 {
        let lease = lease(stand.claim(&key, attempt, "worker").await);
        let entry = format!("{{\"attempt\":\n{attempt}}}");
        stand.finish(&lease, &End::Again { due: stand.now(), entry }).await;
    }
    let task = stand.store.task(&key).await.expect("answers").expect("known");
    assert_eq!((task.attempts, task.history.len()), (105, 100));
    let number = |entry: &str| {
        let entry: serde_json::Value = serde_json::from_str(entry).expect("JSON");
        entry["attempt"].as_i64()
    };
    assert_eq!(number(&task.history[0]), Some(6));
    assert_eq!(number(&task.history[99]), Some(105));
}

pub(crate) async fn a_result_that_nobody_wants_is_not_kept(stand: Stand) {
    let key = alone("t");
    let lease = stand.lease(&key).await;
    let document = document(&key, TaskState::Completed, json!("t"));
    let entry = "{}".to_owned();
    let end = End::Ended { state: TaskState::Completed, document, keep: false, ttl: TTL, entry, retry: None };
    assert_ne!(stand.finish(&lease, &end).await, Finished::Lost);
    assert_eq!(stand.state(&key).await, Some(TaskState::Completed));
    assert_eq!(stand.result(&key).await, None);
}

pub(crate) async fn what_was_accepted_is_known_until_somebody_knows_better(stand: Stand) {
    let (early, late) = (alone("early"), alone("late"));
    let lease: Lease = stand.lease(&late).await;
    let workflow = Accepted::Workflow { id: id("w"), name: "A plan".to_owned(), digest: None, due: None };
    let (waits, due) = (alone("waits"), stand.now().after(Duration::from_secs(90)));
    let delayed = Accepted::Task { head: head(&waits), digest: None, due: Some(due), sent: None };
    let again = Accepted::Task { head: head(&late), digest: None, due: Some(due), sent: None };
    let all = [accepted(&early), accepted(&late), workflow, delayed, again];
    stand.store.accept(&all, stand.now()).await.expect("answers");
    stand.store.accept(&[], stand.now()).await.expect("answers");
    let task = stand.store.task(&early).await.expect("answers").expect("known");
    assert_eq!((task.state, task.attempts, task.head), (TaskState::Accepted, 0, head(&early)));
    assert_eq!(stand.state(&late).await, Some(TaskState::Running));
    let task = stand.store.task(&waits).await.expect("answers").expect("known");
    assert_eq!((task.state, task.attempts, task.due), (TaskState::Delayed, 0, Some(due)));
    stand.complete(&waits).await;
    let task = stand.store.task(&waits).await.expect("answers").expect("known");
    assert_eq!((task.state, task.attempts, task.due), (TaskState::Completed, 1, None));
    let flow = stand.store.workflow(&id("w")).await.expect("answers").expect("known");
    assert_eq!((flow.state.name(), flow.name.as_str(), flow.tasks.len()), ("accepted", "A plan", 0));
    assert_ne!(stand.end(&lease, TaskState::Completed).await, Finished::Lost);
    stand.complete(&early).await;
    assert_eq!(parse(stand.result(&early).await)["status"], "completed");
}

pub(crate) async fn the_list_is_newest_first(stand: Stand) {
    for name in ["a", "b", "c", "d"] {
        stand.lease(&alone(name)).await;
    }
    stand.create(&super::stand::plan("w", &[("x", &[])])).await;
    stand.store.cancel(&id("c"), Why::Request { by: None }, stand.now()).await.expect("answers");
    stand.store.cancel(&id("never-seen"), Why::Request { by: None }, stand.now()).await.expect("answers");
    let list = async |state: Option<&str>, limit| {
        let filter = Filter { state: state.map(str::to_owned), limit };
        let list = stand.store.list(&filter).await.expect("answers");
        list.into_iter().map(|summary| summary.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(list(None, 10).await, ["w", "d", "c", "b", "a"]);
    assert_eq!(list(None, 2).await, ["w", "d"]);
    assert_eq!(list(Some("running"), 2).await, ["w", "d"]);
    assert_eq!(list(Some("cancelled"), 10).await, ["c"]);
    assert!(list(None, 0).await.is_empty());
    let filter = Filter { state: None, limit: 10 };
    let list = stand.store.list(&filter).await.expect("answers");
    assert_eq!((list[0].is_workflow, list[0].name.as_str(), list[0].what.as_str()), (true, "Plan w", ""));
    assert_eq!((list[2].name.as_str(), list[2].what.as_str()), ("the \"c\"", "echo/v1 echo"));
    assert!(list[2].ended_at.is_some() && list[1].ended_at.is_none());
}

pub(crate) async fn sessions_that_are_alive_are_named_once(stand: Stand) {
    let sessions = async || {
        let mut named = stand.store.sessions(stand.now()).await.expect("answers");
        named.sort();
        named
    };
    assert_eq!(sessions().await, []);
    for name in ["b", "a", "a", "c"] {
        stand.store.beat(&id(name), Duration::from_secs(60), stand.now()).await.expect("answers");
    }
    stand.lease(&alone("session")).await;
    stand.store.leave(&id("b")).await.expect("answers");
    assert_eq!(sessions().await, [id("a"), id("c")]);
}

pub(crate) async fn a_session_lives_from_beat_to_beat(stand: Stand) {
    let session = id("s");
    let alive = async || stand.store.alive(&session, stand.now()).await.expect("answers");
    let beat = async |ttl| stand.store.beat(&session, ttl, stand.now()).await.expect("answers");
    assert!(!alive().await);
    beat(Duration::from_secs(60)).await;
    assert!(alive().await);
    stand.store.leave(&session).await.expect("answers");
    assert!(!alive().await);
    stand.store.leave(&session).await.expect("answers");
    beat(Duration::from_millis(50)).await;
    // Until the TTL is over by the store's clock and by ours.
    for _ in 0..100 {
        if !stand.store.alive(&session, stand.now().after(Duration::from_millis(60))).await.expect("answers")
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a session of 50 ms lives for a second");
}

pub(crate) async fn what_a_session_says_of_itself_is_known_while_it_lives(stand: Stand) {
    let introduced = async |at| stand.store.introduced(at).await.expect("answers");
    let beat = async |name: &str, ttl| stand.store.beat(&id(name), ttl, stand.now()).await.expect("answers");
    let say = async |name: &str, about: &str| stand.store.introduce(&id(name), about).await.expect("answers");
    assert_eq!(introduced(stand.now()).await, []);
    let long = Duration::from_secs(60);
    for name in ["a", "b", "c", "silent"] {
        beat(name, long).await;
    }
    for (name, about) in [("b", "small"), ("a", "\u{e4} {}"), ("b", "large"), ("c", "gone")] {
        say(name, about).await;
    }
    // A beat says nothing else.
    beat("b", long).await;
    stand.store.leave(&id("c")).await.expect("answers");
    let said = vec![(id("a"), "\u{e4} {}".to_owned()), (id("b"), "large".to_owned())];
    assert_eq!(introduced(stand.now()).await, said);
    beat("a", Duration::from_millis(50)).await;
    for _ in 0..1_000 {
        let now = stand.now().after(Duration::from_millis(60));
        if introduced(now).await == said[1..] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("what a session of 50 ms has said is known for long");
}
