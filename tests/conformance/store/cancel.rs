//! Ends from outside.

use super::stand::{Stand, accepted, alone, document, id, names, over, parse, plan, taken_in, within};
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::{Accepted, Cancelled, Finished, Plan, Why};
use serde_json::json;

async fn cancel(stand: &Stand, root: &str) -> Cancelled {
    stand.store.cancel(&id(root), Why::Request { by: None }, stand.now()).await.expect("cancel answers")
}

pub(crate) async fn a_queued_task_is_cancelled(stand: Stand) {
    let key = alone("t");
    stand.store.accept(&[accepted(&key)], stand.now()).await.expect("answers");
    assert_eq!(cancel(&stand, "t").await, Cancelled::Done { running: vec![], reply: None });
    let document = parse(stand.result(&key).await);
    assert_eq!((&document["status"], &document["id"]), (&json!("cancelled"), &json!("t")));
    assert_eq!(document["error"]["name"], "TASK_CANCELLED");
    assert_eq!(stand.claim(&key, 1, "worker").await, over(TaskState::Cancelled));
    assert_eq!(cancel(&stand, "t").await, Cancelled::Again { reply: None });
}

pub(crate) async fn a_running_task_is_cancelled(stand: Stand) {
    let key = alone("t");
    let lease = stand.lease(&key).await;
    let running = vec![(key.clone(), id("worker"))];
    assert_eq!(cancel(&stand, "t").await, Cancelled::Done { running, reply: None });
    assert_eq!(stand.end(&lease, TaskState::Completed).await, Finished::Lost);
    assert_eq!(stand.state(&key).await, Some(TaskState::Cancelled));
    assert_eq!(parse(stand.result(&key).await)["status"], "cancelled");
    assert_eq!(stand.take_over(&key, "other", lease.fence).await, over(TaskState::Cancelled));
}

pub(crate) async fn an_ended_task_is_not_cancelled(stand: Stand) {
    let key = alone("t");
    stand.complete(&key).await;
    assert_eq!(cancel(&stand, "t").await, Cancelled::Over("completed".to_owned()));
    assert_eq!(stand.result(&key).await, Some(document(&key, TaskState::Completed, json!("t"))));
    stand.create(&plan("w", &[("a", &[])])).await;
    stand.complete(&within("w", "a")).await;
    assert_eq!(cancel(&stand, "w").await, Cancelled::Over("completed".to_owned()));
}

pub(crate) async fn a_mark_is_obeyed_by_claim(stand: Stand) {
    let key = alone("t");
    assert_eq!(cancel(&stand, "t").await, Cancelled::Marked);
    assert_eq!(cancel(&stand, "t").await, Cancelled::Marked);
    assert_eq!(stand.store.task(&key).await, Ok(None));
    assert_eq!(stand.claim(&key, 1, "worker").await, over(TaskState::Cancelled));
    assert_eq!(stand.claim(&key, 1, "worker").await, over(TaskState::Cancelled));
    // Whoever follows the task learns of its end.
    assert_eq!(stand.state(&key).await, Some(TaskState::Cancelled));
    assert_eq!(parse(stand.result(&key).await)["status"], "cancelled");
    assert_eq!(cancel(&stand, "t").await, Cancelled::Again { reply: None });
}

pub(crate) async fn a_mark_is_obeyed_by_create(stand: Stand) {
    assert_eq!(cancel(&stand, "w").await, Cancelled::Marked);
    assert_eq!(stand.claim(&within("w", "a"), 1, "worker").await, over(TaskState::Cancelled));
    let plan = plan("w", &[("a", &[]), ("b", &["a"])]);
    for _ in 0..2 {
        assert_eq!(stand.create(&plan).await, taken_in(WorkflowState::Cancelled));
    }
    assert_eq!(parse(stand.outcome("w").await)["status"], "cancelled");
    assert_eq!(stand.claim(&within("w", "a"), 1, "worker").await, over(TaskState::Cancelled));
}

pub(crate) async fn an_accepted_workflow_is_cancelled(stand: Stand) {
    let workflow = Accepted::Workflow { id: id("w"), name: "A plan".to_owned(), digest: None, due: None };
    stand.store.accept(&[workflow], stand.now()).await.expect("answers");
    assert_eq!(cancel(&stand, "w").await, Cancelled::Done { running: vec![], reply: None });
    let plan = plan("w", &[("a", &[])]);
    assert_eq!(stand.create(&plan).await, taken_in(WorkflowState::Cancelled));
    let document = parse(stand.outcome("w").await);
    assert_eq!((&document["status"], &document["name"]), (&json!("cancelled"), &json!("A plan")));
    assert_eq!(document["error"]["name"], "WORKFLOW_CANCELLED");
    assert_eq!(cancel(&stand, "w").await, Cancelled::Again { reply: None });
}

pub(crate) async fn a_workflow_is_cancelled_with_all_its_tasks(stand: Stand) {
    let tasks: [(&str, &[&str]); 5] =
        [("done", &[]), ("run", &["done"]), ("wait", &["run"]), ("queue", &[]), ("run2", &[])];
    stand.create(&plan("w", &tasks)).await;
    stand.complete(&within("w", "done")).await;
    let lease = stand.lease(&within("w", "run")).await;
    let second = super::stand::lease(stand.claim(&within("w", "run2"), 1, "worker2").await);
    let running = vec![(within("w", "run"), id("worker")), (within("w", "run2"), id("worker2"))];
    assert_eq!(cancel(&stand, "w").await, Cancelled::Done { running, reply: None });
    for late in [&lease, &second] {
        assert_eq!(stand.end(late, TaskState::Completed).await, Finished::Lost);
    }
    assert_eq!(cancel(&stand, "w").await, Cancelled::Again { reply: None });
    let flow = stand.store.workflow(&id("w")).await.expect("answers").expect("known");
    assert_eq!(flow.state, WorkflowState::Cancelled);
    let document = parse(stand.outcome("w").await);
    assert_eq!(document["status"], "cancelled");
    let expected = ["completed", "cancelled", "cancelled", "cancelled", "cancelled"];
    for (at, state) in expected.iter().enumerate() {
        assert_eq!(flow.tasks[at].state.name(), *state);
        assert_eq!(document["tasks"][at]["status"], *state);
        let key = &flow.tasks[at].head.key;
        assert_eq!(parse(stand.result(key).await)["status"], *state);
    }
    for task in ["wait", "queue", "run"] {
        assert_eq!(stand.claim(&within("w", task), 1, "worker").await, over(TaskState::Cancelled));
    }
    let claimed = stand.claim(&within("w", "done"), 1, "worker").await;
    assert_eq!(claimed, over(TaskState::Completed));
}

/// Whoever made the first request may have died before it told anybody.
pub(crate) async fn a_repeated_cancel_is_answered_as_one(stand: Stand) {
    let reply = Some("{\"to\": \"somebody\"}".to_owned());
    let first = Plan { reply: reply.clone(), ..plan("w", &[("a", &[])]) };
    let (again, is_over) = (Cancelled::Again { reply: reply.clone() }, Cancelled::Over("failed".to_owned()));
    stand.create(&first).await;
    stand.lease(&within("w", "a")).await;
    let done = stand.cancel("w", Why::Timeout { run: 1 }).await;
    assert!(matches!(&done, Cancelled::Done { running, .. } if running.len() == 1), "{done:?}");
    for _ in 0..2 {
        assert_eq!(stand.cancel("w", Why::Timeout { run: 1 }).await, again);
    }
    assert_eq!(stand.cancel("w", Why::Request { by: None }).await, is_over);
    assert_eq!(stand.cancel("w", Why::Timeout { run: 2 }).await, is_over);

    // A late repeat has nothing to do with the next run.
    assert_eq!(stand.retried("w", "r").await, ["a"]);
    stand.lease(&within("w", "a")).await;
    let is_running = Cancelled::Over("running".to_owned());
    assert_eq!(stand.cancel("w", Why::Timeout { run: 1 }).await, is_running);
    assert!(matches!(stand.cancel("w", Why::Request { by: None }).await, Cancelled::Done { .. }));
    assert_eq!(stand.cancel("w", Why::Request { by: None }).await, again);
    let was_cancelled = Cancelled::Over("cancelled".to_owned());
    for run in [1, 2] {
        assert_eq!(stand.cancel("w", Why::Timeout { run }).await, was_cancelled);
    }
    // What failed by itself was not ended by a request.
    assert_eq!(stand.retried("w", "r2").await, ["a"]);
    stand.end_as(&within("w", "a"), TaskState::Failed).await;
    for why in [Why::Request { by: None }, Why::Timeout { run: 3 }, Why::Timeout { run: 1 }] {
        assert_eq!(stand.cancel("w", why.clone()).await, is_over, "{why:?}");
    }
}

fn named(by: &str) -> Why {
    Why::Request { by: Some(id(by)) }
}

/// A worker may hang between the record of a cancel and its settlement, while somebody retries.
pub(crate) async fn a_repeat_of_a_named_cancel_ends_nothing_of_a_later_run(stand: Stand) {
    let again = Cancelled::Again { reply: None };
    let is_over = |state: &str| Cancelled::Over(state.to_owned());
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"])])).await;
    let a = within("w", "a");
    stand.lease(&a).await;
    assert!(
        matches!(stand.cancel("w", named("c1")).await, Cancelled::Done { running, .. } if running.len() == 1)
    );
    // Another request finds it cancelled, and has nothing to end later either.
    assert_eq!(stand.cancel("w", named("c2")).await, again);
    assert_eq!(stand.retried("w", "r1").await, ["a"]);
    for by in ["c1", "c2"] {
        assert_eq!(stand.cancel("w", named(by)).await, Cancelled::Earlier, "{by}");
    }
    assert_eq!(stand.states("w").await, "a queued, b waiting");
    stand.end_as(&a, TaskState::Failed).await;
    assert_eq!(stand.cancel("w", named("c1")).await, Cancelled::Earlier);
    // One that came when it had ended otherwise has ended nothing, and ends nothing.
    assert_eq!(stand.cancel("w", named("c3")).await, is_over("failed"));
    assert_eq!(stand.retried("w", "r2").await, ["a"]);
    assert_eq!(stand.cancel("w", named("c3")).await, is_over("running"));
    assert_eq!(stand.states("w").await, "a queued, b waiting");
    // One without a name is a new one each time it comes.
    let unnamed = || Why::Request { by: None };
    assert!(matches!(stand.cancel("w", unnamed()).await, Cancelled::Done { .. }));
    assert_eq!(stand.retried("w", "r3").await, ["a"]);
    assert!(matches!(stand.cancel("w", unnamed()).await, Cancelled::Done { .. }));
    // The last sixteen are known.
    for number in 0..16 {
        assert_eq!(stand.cancel("w", named(&format!("n{number}"))).await, again);
    }
    assert_eq!(stand.retried("w", "r4").await, ["a"]);
    for number in 0..16 {
        assert_eq!(stand.cancel("w", named(&format!("n{number}"))).await, Cancelled::Earlier);
    }
    assert!(matches!(stand.cancel("w", named("c1")).await, Cancelled::Done { .. }));
    // Also where the present run has been cancelled too.
    assert_eq!(stand.cancel("w", named("c1")).await, again);
    assert_eq!(stand.cancel("w", named("n9")).await, Cancelled::Earlier);
}

/// Also where nobody had seen the id, and where it is that of a task on its own.
pub(crate) async fn a_repeat_of_a_named_cancel_is_known_whatever_it_ended(stand: Stand) {
    let again = Cancelled::Again { reply: None };
    for _ in 0..2 {
        assert_eq!(stand.cancel("w", named("c")).await, Cancelled::Marked);
    }
    assert_eq!(stand.create(&plan("w", &[("a", &[])])).await, taken_in(WorkflowState::Cancelled));
    assert_eq!(stand.cancel("w", named("c")).await, again);
    assert_eq!(stand.retried("w", "r").await, ["a"]);
    assert_eq!(stand.cancel("w", named("c")).await, Cancelled::Earlier);
    assert_eq!(stand.states("w").await, "a queued");

    let key = alone("t");
    let fail = async || {
        let lease = stand.lease(&key).await;
        stand.finish(&lease, &super::stand::ended_for_retry(&key, TaskState::Failed)).await;
    };
    fail().await;
    assert_eq!(stand.retried("t", "r1").await, ["t"]);
    assert!(matches!(stand.cancel("t", named("c")).await, Cancelled::Done { .. }));
    assert_eq!(stand.cancel("t", named("c")).await, again);
    assert_eq!(stand.retried("t", "r2").await, ["t"]);
    assert_eq!(stand.cancel("t", named("c")).await, Cancelled::Earlier);
    assert_eq!(stand.state(&key).await, Some(TaskState::Queued));
    fail().await;
    assert_eq!(stand.cancel("t", named("c")).await, Cancelled::Earlier);

    let key = alone("marked");
    assert_eq!(stand.cancel("marked", named("c")).await, Cancelled::Marked);
    assert_eq!(stand.claim(&key, 1, "worker").await, over(TaskState::Cancelled));
    assert_eq!(stand.cancel("marked", named("c")).await, again);
}

pub(crate) async fn cancel_and_finish_race_to_one_end(stand: Stand) {
    let other = stand.other().await;
    for round in 0..30 {
        let workflow = format!("w{round}");
        stand.create(&plan(&workflow, &[("a", &[]), ("b", &["a"])])).await;
        let lease = stand.lease(&within(&workflow, "a")).await;
        let (finished, cancelled) =
            tokio::join!(stand.end(&lease, TaskState::Completed), cancel(&other, &workflow));
        let Cancelled::Done { running, .. } = cancelled else { panic!("{cancelled:?}") };
        let state = stand.state(&within(&workflow, "a")).await;
        match finished {
            Finished::Lost => {
                assert_eq!(running.len(), 1);
                assert_eq!(state, Some(TaskState::Cancelled));
            }
            Finished::Done { released, .. } => {
                assert!(running.is_empty());
                assert_eq!(names(&released), ["b"]);
                assert_eq!(state, Some(TaskState::Completed));
            }
        }
        assert_eq!(stand.state(&within(&workflow, "b")).await, Some(TaskState::Cancelled));
    }
}
