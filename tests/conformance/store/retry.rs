//! Running again what did not complete.

use serde_json::json;
use std::time::Duration;

use super::stand::{
    Stand, TTL, alone, bounded, claim, document, ended, graph, id, lease, message, not_ready, over, parse,
    plan, planned, released, taken_in, within,
};
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::TaskKey;
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::Otherwise::{self, Continue, Fail, Skip};
use gleitzeit::store::{
    Accepted, Cancelled, Claim, Claimed, End, Finished, Lease, Plan, PlannedTask, Released, Retried, Why,
};

fn running(released: &[&PlannedTask], run: u32) -> Retried {
    let released = released.iter().map(|task| Released {
        key: task.head.key.clone(),
        message: task.message.clone(),
        run,
    });
    Retried::Running { released: released.collect(), run, timeout: None }
}

pub(crate) async fn only_what_failed_and_what_depends_on_it_runs_again(stand: Stand) {
    let tasks: [(&str, &[(&str, Otherwise)]); 7] = [
        ("good", &[]),
        ("bad", &[("good", Fail)]),
        ("failed", &[("bad", Fail)]),
        ("skipped", &[("bad", Skip)]),
        ("substitute", &[("bad", Continue), ("good", Fail)]),
        ("beyond", &[("substitute", Fail)]),
        ("apart", &[("good", Fail)]),
    ];
    let plan = graph("w", &tasks);
    stand.create(&plan).await;
    assert_eq!(stand.retry("w", "r1").await, Retried::NotEnded);
    stand.complete(&within("w", "good")).await;
    let stale = stand.lease(&within("w", "bad")).await;
    stand.end(&stale, TaskState::Failed).await;
    assert_eq!(stand.retry("w", "r1").await, Retried::NotEnded);
    for name in ["apart", "substitute", "beyond"] {
        stand.complete(&within("w", name)).await;
    }
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Failed);
    let before = (stand.result(&within("w", "good")).await, stand.result(&within("w", "apart")).await);

    assert_eq!(stand.retry("w", "r1").await, running(&[&plan.tasks[1]], 2));
    let states = "good completed, bad queued, failed waiting, skipped waiting, substitute waiting, \
                  beyond waiting, apart completed";
    assert_eq!(stand.states("w").await, states);
    let flow = stand.workflow("w").await;
    assert_eq!((flow.state, flow.ended_at), (WorkflowState::Running, None));
    assert_eq!(stand.outcome("w").await, None);
    for name in ["bad", "failed", "skipped", "substitute", "beyond"] {
        let key = within("w", name);
        assert_eq!(stand.result(&key).await, None, "{name}");
        let task = stand.store.task(&key).await.expect("answers").expect("known");
        assert_eq!((task.attempts, task.crashes, task.ended_at), (0, 0, None), "{name}");
        assert_eq!((task.session, task.due), (None, None), "{name}");
    }
    assert_eq!(stand.end(&stale, TaskState::Completed).await, Finished::Lost);
    for (name, next) in [("bad", 3), ("failed", 0), ("skipped", 0), ("substitute", 1), ("beyond", 0)] {
        let lease = stand.lease(&within("w", name)).await;
        assert!(name != "bad" || lease.fence > stale.fence);
        assert_eq!(released(stand.end(&lease, TaskState::Completed).await).len(), next, "{name}");
    }
    assert_eq!(stand.create(&plan).await, taken_in(WorkflowState::Completed));
    let after = (stand.result(&within("w", "good")).await, stand.result(&within("w", "apart")).await);
    assert_eq!(after, before);
    let outcome = parse(stand.outcome("w").await);
    assert_eq!(
        (&outcome["status"], &outcome["tasks"][1]["status"]),
        (&json!("completed"), &json!("completed"))
    );
    let history = stand.store.task(&within("w", "bad")).await.expect("answers").expect("known").history;
    let status =
        |entry: &String| serde_json::from_str::<serde_json::Value>(entry).expect("JSON")["status"].clone();
    assert_eq!(history.iter().map(status).collect::<Vec<_>>(), ["failed", "completed"]);
    assert_eq!(stand.retry("w", "r2").await, Retried::Nothing);
}

pub(crate) async fn a_retry_by_the_same_request_is_a_repeat(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &[]), ("c", &["a", "b"])])).await;
    stand.end_as(&within("w", "a"), TaskState::Failed).await;
    stand.end_as(&within("w", "b"), TaskState::Expired).await;
    let first = stand.retry("w", "r1").await;
    assert!(matches!(&first, Retried::Running { released, run: 2, .. } if released.len() == 2), "{first:?}");
    assert_eq!(stand.retry("w", "r1").await, first);
    assert_eq!(stand.retry("w", "r2").await, Retried::NotEnded);
    let a = stand.lease(&within("w", "a")).await;
    assert_eq!(stand.retried("w", "r1").await, ["b"]);
    stand.end(&a, TaskState::Failed).await;
    stand.end_as(&within("w", "b"), TaskState::Completed).await;
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Failed);
    // It has ended again: the old request asks for nothing new.
    assert_eq!(stand.retry("w", "r1").await, running(&[], 2));
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Failed);
    let third = stand.retry("w", "r2").await;
    assert!(matches!(&third, Retried::Running { released, run: 3, .. } if released.len() == 1), "{third:?}");
    assert_eq!(stand.states("w").await, "a queued, b completed, c waiting");
}

pub(crate) async fn what_was_never_taken_in_has_nothing_to_retry(stand: Stand) {
    let failure = Failure::new(Code::WorkflowCircularDependency, "a needs a");
    stand.create(&Plan { refused: Some(failure), ..plan("refused", &[]) }).await;
    let accepted = Accepted::Workflow { id: id("cancelled"), name: "W".to_owned(), digest: None, due: None };
    stand.store.accept(&[accepted], stand.now()).await.expect("answers");
    stand.cancel("cancelled", Why::Request { by: None }).await;
    for root in ["refused", "cancelled"] {
        assert_eq!(stand.retry(root, "r").await, Retried::NotTakenIn, "{root}");
        assert!(stand.workflow(root).await.state.is_ended());
    }
    // It has nothing to do, and has done that.
    assert_eq!(stand.create(&plan("empty", &[])).await.state, WorkflowState::Completed);
    assert_eq!(stand.retry("empty", "r").await, Retried::Nothing);
}

/// A request that was delivered again late, when others have begun runs since.
pub(crate) async fn a_late_repeat_of_an_earlier_request_begins_no_run(stand: Stand) {
    stand.create(&plan("w", &[("a", &[])])).await;
    let key = alone("t");
    for number in 1..=16 {
        stand.end_as(&within("w", "a"), TaskState::Failed).await;
        fail_alone(&stand, &key).await;
        for root in ["w", "t"] {
            let again = stand.retry(root, &format!("r{number}")).await;
            assert!(matches!(&again, Retried::Running { run, .. } if *run == number + 1), "{again:?}");
        }
    }
    stand.end_as(&within("w", "a"), TaskState::Failed).await;
    fail_alone(&stand, &key).await;
    for root in ["w", "t"] {
        for number in 1..=16 {
            assert_eq!(stand.retry(root, &format!("r{number}")).await, running(&[], 17), "{root}");
        }
        // A name that is only the beginning of another one is another one.
        assert!(matches!(stand.retry(root, "r").await, Retried::Running { run: 18, .. }));
    }
}

/// Ends a task on its own with its message kept.
async fn fail_alone(stand: &Stand, key: &TaskKey) {
    let lease = stand.lease(key).await;
    let End::Ended { state, document, keep, ttl, entry, .. } = ended(key, TaskState::Failed, json!("t"))
    else {
        panic!("it ends");
    };
    let retry = Some(message(key, 4));
    stand.finish(&lease, &End::Ended { state, document, keep, ttl, entry, retry }).await;
}

/// Repeats of steps of the run before answer nothing that is not theirs.
pub(crate) async fn a_delivery_of_the_run_before_runs_the_task_once(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"])])).await;
    let old = stand.lease(&within("w", "a")).await;
    stand.end(&old, TaskState::Failed).await;
    assert_eq!(stand.retried("w", "r").await, ["a"]);
    // a's first message was not settled.
    let new = stand.lease(&within("w", "a")).await;
    assert!(new.fence > old.fence);
    assert_eq!(new.attempt, 1);
    assert!(matches!(stand.claim(&within("w", "a"), 1, "other").await, Claimed::Held { .. }));
    assert_eq!(stand.end(&old, TaskState::Failed).await, Finished::Lost);
    assert_eq!(stand.claim(&within("w", "b"), 1, "worker").await, not_ready());
    assert_eq!(released(stand.end(&new, TaskState::Completed).await), ["b"]);
}

/// It was waiting for a later attempt when the run ended; the present run has a message of its own.
pub(crate) async fn a_message_of_the_run_before_starts_nothing(stand: Stand) {
    let of = |key: &TaskKey, run, attempt| Claim { run: Some(run), ..claim(key, attempt, "worker") };
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"])])).await;
    let (flow, own) = (within("w", "a"), alone("t"));
    for key in [&flow, &own] {
        let first = lease(stand.ask(&of(key, 1, 1)).await);
        let again = End::Again { due: stand.now(), entry: "{}".to_owned() };
        stand.finish(&first, &again).await;
        let second = lease(stand.ask(&of(key, 1, 2)).await);
        let again = End::Again { due: stand.now(), entry: "{}".to_owned() };
        stand.finish(&second, &again).await;
    }
    // Of a task on its own a message is kept only by who ends it.
    stand.cancel("w", Why::Request { by: None }).await;
    let third = lease(stand.ask(&of(&own, 1, 3)).await);
    let End::Ended { state, document, keep, ttl, entry, .. } = ended(&own, TaskState::Failed, json!(1))
    else {
        panic!("it ends");
    };
    let retry = Some(message(&own, 4));
    stand.finish(&third, &End::Ended { state, document, keep, ttl, entry, retry }).await;
    for (root, key) in [("w", &flow), ("t", &own)] {
        assert!(matches!(stand.ask(&of(key, 1, 3)).await, Claimed::Over { .. }));
        let Retried::Running { released, run: 2, .. } = stand.retry(root, "r").await else { panic!() };
        assert_eq!(released.iter().map(|one| one.run).collect::<Vec<_>>(), [2]);
        for attempt in [1, 3] {
            assert_eq!(stand.ask(&of(key, 1, attempt)).await, Claimed::Superseded);
        }
        let new = lease(stand.ask(&of(key, 2, 1)).await);
        assert_eq!((new.attempt, new.run), (1, 2));
        // Not even while it runs, and not to take over: its own message comes again for that.
        let over = Claim { over: Some(new.fence), ..of(key, 1, 3) };
        assert_eq!(stand.ask(&over).await, Claimed::Superseded);
        assert!(matches!(stand.ask(&of(key, 2, 1)).await, Claimed::Held { .. }));
        stand.end(&new, TaskState::Completed).await;
        assert!(matches!(stand.ask(&of(key, 1, 3)).await, Claimed::Over { .. }));
    }
    let next = stand.claim(&flow, 1, "worker").await;
    let Claimed::Over { released, .. } = next else { panic!("{next:?}") };
    assert_eq!(released.iter().map(|one| one.run).collect::<Vec<_>>(), [2]);
    assert_eq!(stand.ask(&of(&within("w", "b"), 1, 1)).await, Claimed::Superseded);
    lease(stand.ask(&of(&within("w", "b"), 2, 1)).await);
}

pub(crate) async fn attempts_begin_anew_and_history_stays(stand: Stand) {
    stand.create(&plan("w", &[("a", &[])])).await;
    let key = within("w", "a");
    let first = stand.lease(&key).await;
    let again = End::Again { due: stand.now(), entry: json!({"attempt": 1}).to_string() };
    stand.finish(&first, &again).await;
    let second = lease(stand.claim(&key, 2, "worker").await);
    let third = lease(stand.take_over(&key, "other", second.fence).await);
    stand.end(&third, TaskState::Failed).await;
    let task = stand.store.task(&key).await.expect("answers").expect("known");
    assert_eq!((task.attempts, task.crashes, task.history.len()), (3, 1, 3));
    assert_eq!(stand.retried("w", "r").await, ["a"]);
    let task = stand.store.task(&key).await.expect("answers").expect("known");
    assert_eq!((task.attempts, task.crashes, task.history.len()), (0, 0, 3));
    let claimed = stand.claim(&key, 1, "worker").await;
    let Claimed::Run { lease, crashes, .. } = claimed else { panic!("{claimed:?}") };
    assert_eq!((lease.attempt, crashes), (1, 0));
    stand.end(&lease, TaskState::Completed).await;
    let task = stand.store.task(&key).await.expect("answers").expect("known");
    assert_eq!((task.attempts, task.history.len()), (1, 4));
}

pub(crate) async fn a_retry_keeps_to_the_turns(stand: Stand) {
    let mut plan = bounded(plan("w", &[("a", &[]), ("b", &[]), ("c", &[]), ("d", &["c"])]), 1);
    plan.tasks[2].message.priority = 7;
    stand.create(&plan).await;
    for (name, next) in [("c", "a"), ("a", "b"), ("b", "")] {
        let released = released(stand.end_as(&within("w", name), TaskState::Failed).await);
        assert_eq!(released.concat(), next);
    }
    assert_eq!(stand.retried("w", "r").await, ["c"]);
    assert_eq!(stand.states("w").await, "a waiting, b waiting, c queued, d waiting");
    for (name, next) in [("c", "a"), ("a", "b"), ("b", "d"), ("d", "")] {
        assert_eq!(released(stand.complete(&within("w", name)).await).concat(), next);
    }
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Completed);
}

pub(crate) async fn a_cancelled_workflow_runs_on(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"]), ("c", &["b"])])).await;
    stand.complete(&within("w", "a")).await;
    let stale = stand.lease(&within("w", "b")).await;
    stand.cancel("w", Why::Request { by: None }).await;
    assert_eq!(stand.retried("w", "r").await, ["b"]);
    assert_eq!(stand.states("w").await, "a completed, b queued, c waiting");
    assert_eq!(stand.end(&stale, TaskState::Completed).await, Finished::Lost);
    assert_eq!(released(stand.complete(&within("w", "b")).await), ["c"]);
    stand.complete(&within("w", "c")).await;
    assert_eq!(parse(stand.outcome("w").await)["status"], "completed");
}

pub(crate) async fn a_workflow_that_took_too_long_has_its_time_again(stand: Stand) {
    let timeout = Some(Duration::from_millis(1500));
    let first = Plan { timeout, ..plan("w", &[("a", &[]), ("b", &["a"])]) };
    stand.create(&first).await;
    stand.cancel("w", Why::Timeout { run: 1 }).await;
    let again = stand.retry("w", "r1").await;
    let Retried::Running { released: ready, run, timeout: told } = &again else { panic!("{again:?}") };
    assert_eq!((ready.len(), *run, *told), (1, 2, timeout));
    // The first run's time is not this one's.
    assert!(matches!(stand.cancel("w", Why::Timeout { run: 1 }).await, Cancelled::Over(_)));
    assert_eq!(stand.states("w").await, "a queued, b waiting");
    stand.complete(&within("w", "a")).await;
    assert!(matches!(stand.cancel("w", Why::Timeout { run: 2 }).await, Cancelled::Done { .. }));
    assert_eq!(stand.states("w").await, "a completed, b cancelled");
    assert_eq!(stand.retried("w", "r2").await, ["b"]);
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Running);
}

pub(crate) async fn a_task_on_its_own_runs_again(stand: Stand) {
    let key = alone("t");
    let first = stand.lease(&key).await;
    assert_eq!(stand.retry("t", "r1").await, Retried::NotEnded);
    let kept = message(&key, 7);
    let end = |state| match ended(&key, state, json!("t")) {
        End::Ended { state, document, keep, ttl, entry, .. } => {
            End::Ended { state, document, keep, ttl, entry, retry: Some(kept.clone()) }
        }
        other => panic!("{other:?}"),
    };
    stand.finish(&first, &end(TaskState::Failed)).await;
    let ready = Released { key: key.clone(), message: kept.clone(), run: 2 };
    let expected = Retried::Running { released: vec![ready], run: 2, timeout: None };
    for _ in 0..2 {
        assert_eq!(stand.retry("t", "r1").await, expected);
    }
    assert_eq!(stand.retry("t", "other").await, Retried::NotEnded);
    let task = stand.store.task(&key).await.expect("answers").expect("known");
    assert_eq!((task.state, task.attempts, task.ended_at), (TaskState::Queued, 0, None));
    assert_eq!((stand.result(&key).await, stand.outcome("t").await), (None, None));
    assert_eq!(stand.end(&first, TaskState::Failed).await, Finished::Lost);
    let second = stand.lease(&key).await;
    assert!(second.fence > first.fence);
    assert_eq!(stand.retry("t", "r1").await, running(&[], 2));
    stand.finish(&second, &end(TaskState::Expired)).await;
    assert_eq!(stand.state(&key).await, Some(TaskState::Expired));
    let again = stand.retry("t", "r2").await;
    assert!(matches!(&again, Retried::Running { released, run: 3, .. } if released.len() == 1), "{again:?}");
    stand.complete(&key).await;
    assert_eq!(stand.retry("t", "r3").await, Retried::Nothing);
    let task = stand.store.task(&key).await.expect("answers").expect("known");
    assert_eq!((task.state, task.attempts, task.history.len()), (TaskState::Completed, 1, 3));
    assert_eq!(stand.outcome("t").await, Some(document(&key, TaskState::Completed, json!("t"))));
}

pub(crate) async fn a_task_without_its_message_cannot_run_again(stand: Stand) {
    let lease = stand.lease(&alone("t")).await;
    stand.end(&lease, TaskState::Failed).await;
    assert_eq!(stand.retry("t", "r").await, Retried::Gone(vec![]));
    assert_eq!(stand.state(&alone("t")).await, Some(TaskState::Failed));
    assert_eq!(stand.claim(&alone("t"), 1, "worker").await, over(TaskState::Failed));
    // Only what has run left one.
    stand.lease(&alone("u")).await;
    stand.cancel("u", Why::Request { by: None }).await;
    assert_eq!(stand.retry("u", "r").await, Retried::Gone(vec![]));
    assert!(parse(stand.outcome("u").await)["status"] == "cancelled");
}

/// Results that were never kept are not missed.
pub(crate) async fn an_unwanted_result_does_not_hinder_a_retry(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"])])).await;
    let key = within("w", "a");
    let lease = stand.lease(&key).await;
    let document = document(&key, TaskState::Completed, json!("a"));
    let entry = "{}".to_owned();
    let end = End::Ended { state: TaskState::Completed, document, keep: false, ttl: TTL, entry, retry: None };
    stand.finish(&lease, &end).await;
    stand.end_as(&within("w", "b"), TaskState::Failed).await;
    assert_eq!(stand.retried("w", "r").await, ["b"]);
}

/// `p` has planned two children of which one failed, and so did `p`; then it failed, or what it depends on.
async fn failed_parent(stand: &Stand, workflow: &str) -> Lease {
    let tasks: [(&str, &[(&str, Otherwise)]); 3] =
        [("a", &[]), ("p", &[("a", Continue)]), ("z", &[("p", Fail)])];
    stand.create(&graph(workflow, &tasks)).await;
    let a = stand.lease(&within(workflow, "a")).await;
    let end = if workflow == "by-dependency" { TaskState::Failed } else { TaskState::Completed };
    stand.end(&a, end).await;
    let p = stand.lease(&within(workflow, "p")).await;
    let children: [(&str, &[(&str, Otherwise)]); 4] =
        [("p.0", &[]), ("p.1", &[]), ("p.2", &[("p.1", Fail)]), ("p.3", &[("p.0", Fail)])];
    stand.expand(&p, planned(workflow, &children), 0).await;
    stand.complete(&within(workflow, "p.0")).await;
    stand.end_as(&within(workflow, "p.1"), TaskState::Failed).await;
    assert_eq!(released(stand.complete(&within(workflow, "p.3")).await), ["p"]);
    let p = stand.lease(&within(workflow, "p")).await;
    stand.end(&p, TaskState::Failed).await;
    p
}

pub(crate) async fn a_failed_parent_keeps_its_children(stand: Stand) {
    let stale = failed_parent(&stand, "w").await;
    assert_eq!(stand.retried("w", "r").await, ["p.1"]);
    let states = "a completed, p waiting, p.0 completed, p.1 queued, p.2 waiting, p.3 completed, z waiting";
    assert_eq!(stand.states("w").await, states);
    assert_eq!(stand.end(&stale, TaskState::Failed).await, Finished::Lost);
    let claimed = stand.claim(&within("w", "p"), 1, "worker").await;
    assert!(matches!(&claimed, Claimed::NotReady { released } if released.len() == 1), "{claimed:?}");
    assert_eq!(released(stand.complete(&within("w", "p.1")).await), ["p.2"]);
    assert_eq!(released(stand.complete(&within("w", "p.2")).await), ["p"]);
    let claimed = stand.claim(&within("w", "p"), 1, "worker").await;
    let Claimed::Run { lease, children, .. } = claimed else { panic!("{claimed:?}") };
    assert_eq!(children, ["p.0", "p.1", "p.2", "p.3"].map(id));
    assert!(lease.fence > stale.fence);
    assert_eq!(released(stand.end(&lease, TaskState::Completed).await), ["z"]);
    stand.complete(&within("w", "z")).await;
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Completed);
}

pub(crate) async fn a_parent_that_failed_over_good_children_runs_at_once(stand: Stand) {
    stand.create(&plan("w", &[("p", &[])])).await;
    let p = stand.lease(&within("w", "p")).await;
    stand.expand(&p, planned("w", &[("p.0", &[])]), 0).await;
    stand.complete(&within("w", "p.0")).await;
    stand.end_as(&within("w", "p"), TaskState::Failed).await;
    assert_eq!(stand.retried("w", "r").await, ["p"]);
    let claimed = stand.claim(&within("w", "p"), 1, "worker").await;
    let Claimed::Run { lease, children, .. } = claimed else { panic!("{claimed:?}") };
    assert_eq!(children, [id("p.0")]);
    stand.end(&lease, TaskState::Completed).await;
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Completed);
}

pub(crate) async fn a_parent_reset_by_a_dependency_loses_its_children(stand: Stand) {
    failed_parent(&stand, "by-dependency").await;
    assert_eq!(stand.retried("by-dependency", "r").await, ["a"]);
    assert_eq!(stand.states("by-dependency").await, "a queued, p waiting, z waiting");
    for child in ["p.0", "p.1", "p.2", "p.3"] {
        assert_eq!(stand.result(&within("by-dependency", child)).await, None);
        assert_eq!(stand.state(&within("by-dependency", child)).await, None);
    }
    assert_eq!(released(stand.complete(&within("by-dependency", "a")).await), ["p"]);
    // A message of theirs may still come; it is settled.
    assert_eq!(stand.claim(&within("by-dependency", "p.1"), 1, "worker").await, over(TaskState::Cancelled));
    let claimed = stand.ask(&claim(&within("by-dependency", "p"), 1, "worker")).await;
    let Claimed::Run { lease, children, .. } = claimed else { panic!("{claimed:?}") };
    assert!(children.is_empty());
    // The same ids may be planned again.
    let anew = planned("by-dependency", &[("p.0", &[]), ("p.1", &[])]);
    assert_eq!(released(stand.expand(&lease, anew, 0).await), ["p.0", "p.1"]);
    let states = "a completed, p waiting, p.0 queued, p.1 queued, z waiting";
    assert_eq!(stand.states("by-dependency").await, states);
}

pub(crate) async fn children_of_children_are_kept_or_lost_with_them(stand: Stand) {
    for (workflow, first) in [("kept", TaskState::Completed), ("lost", TaskState::Failed)] {
        let tasks: [(&str, &[(&str, Otherwise)]); 2] = [("a", &[]), ("p", &[("a", Continue)])];
        stand.create(&graph(workflow, &tasks)).await;
        stand.end_as(&within(workflow, "a"), first).await;
        let p = stand.lease(&within(workflow, "p")).await;
        stand.expand(&p, planned(workflow, &[("c", &[]), ("d", &[])]), 0).await;
        let c = stand.lease(&within(workflow, "c")).await;
        stand.expand(&c, planned(workflow, &[("c.0", &[]), ("c.1", &[])]), 0).await;
        for (name, state) in
            [("d", "completed"), ("c.0", "completed"), ("c.1", "failed"), ("c", "failed"), ("p", "failed")]
        {
            stand.end_as(&within(workflow, name), TaskState::parse(state).expect("a state")).await;
        }
        assert_eq!(stand.workflow(workflow).await.state, WorkflowState::Failed);
    }
    assert_eq!(stand.retried("kept", "r").await, ["c.1"]);
    let states = "a completed, p waiting, c waiting, c.0 completed, c.1 queued, d completed";
    assert_eq!(stand.states("kept").await, states);
    for (name, next) in [("c.1", "c"), ("c", "p"), ("p", "")] {
        assert_eq!(released(stand.complete(&within("kept", name)).await).concat(), next);
    }
    assert_eq!(stand.retried("lost", "r").await, ["a"]);
    assert_eq!(stand.states("lost").await, "a queued, p waiting");
    assert_eq!(stand.state(&within("lost", "c.0")).await, None);
}

/// A repeat while a worker retries, from two processes.
pub(crate) async fn twenty_retries_make_one_run(stand: Stand) {
    let other = stand.other().await;
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"])])).await;
    stand.end_as(&within("w", "a"), TaskState::Failed).await;
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..20 {
        let stand = if number % 2 == 0 { stand.clone() } else { other.clone() };
        asking.spawn(async move { stand.retry("w", &format!("r{number}")).await });
    }
    let answers = asking.join_all().await;
    let run = answers.iter().filter(|answer| matches!(answer, Retried::Running { run: 2, .. }));
    assert_eq!(run.count(), 1);
    assert_eq!(answers.iter().filter(|answer| **answer == Retried::NotEnded).count(), 19);
}

/// Leases of a task of the same name, of which the parent was reset, are void.
pub(crate) async fn a_child_planned_anew_is_not_ended_by_an_old_lease(stand: Stand) {
    let tasks: [(&str, &[(&str, Otherwise)]); 2] = [("a", &[]), ("p", &[("a", Continue)])];
    stand.create(&graph("w", &tasks)).await;
    let plan_child = async |stand: &Stand| {
        let p = stand.lease(&within("w", "p")).await;
        stand.expand(&p, planned("w", &[("c", &[])]), 0).await;
        stand.lease(&within("w", "c")).await
    };
    stand.end_as(&within("w", "a"), TaskState::Failed).await;
    let old = plan_child(&stand).await;
    let taken = lease(stand.take_over(&within("w", "c"), "other", old.fence).await);
    stand.end(&taken, TaskState::Completed).await;
    stand.complete(&within("w", "p")).await;
    assert_eq!(stand.retried("w", "r").await, ["a"]);
    stand.complete(&within("w", "a")).await;
    let new = plan_child(&stand).await;
    assert!(new.fence > taken.fence, "{new:?} after {taken:?}");
    for late in [&old, &taken] {
        assert_eq!(stand.end(late, TaskState::Failed).await, Finished::Lost);
    }
    assert_eq!(released(stand.end(&new, TaskState::Completed).await), ["p"]);
}
