//! Messages of runs that the store has lost, as a failover without the last writes leaves them.

use super::stand::{
    Stand, alone, claim, ended_for_retry, id, lease, not_ready, over, parse, plan, released, within,
};
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::TaskKey;
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::{Accepted, Claim, Claimed, End, Finished, Lease, Plan, Why};

/// A message of this run and attempt.
async fn ask(stand: &Stand, key: &TaskKey, run: u32, attempt: u32) -> Claimed {
    stand.ask(&Claim { run: Some(run), ..claim(key, attempt, "worker") }).await
}

async fn take(stand: &Stand, key: &TaskKey, run: u32, attempt: u32) -> Lease {
    let lease = lease(ask(stand, key, run, attempt).await);
    assert_eq!((lease.run, lease.attempt), (run, attempt));
    lease
}

pub(crate) async fn a_message_of_a_later_run_is_believed(stand: Stand) {
    // Nobody knows a task on its own better than its message.
    stand.store.accept(&[super::stand::accepted(&alone("known"))], stand.now()).await.expect("answers");
    for name in ["known", "forgotten"] {
        let first = take(&stand, &alone(name), 3, 2).await;
        stand.finish(&first, &End::Abandoned).await;
        assert_eq!(ask(&stand, &alone(name), 2, 2).await, Claimed::Superseded, "{name}");
        take(&stand, &alone(name), 3, 2).await;
    }
    // What it was in the run before is over, also a lease.
    let key = alone("failed");
    let first = stand.lease(&key).await;
    stand.finish(&first, &ended_for_retry(&key, TaskState::Failed)).await;
    let second = take(&stand, &key, 2, 1).await;
    assert!(second.fence.0 > first.fence.0 + 100, "{second:?}");
    assert_eq!((stand.state(&key).await, stand.result(&key).await), (Some(TaskState::Running), None));
    let third = take(&stand, &key, 4, 2).await;
    assert_eq!(stand.end(&second, TaskState::Completed).await, Finished::Lost);
    assert!(matches!(ask(&stand, &key, 4, 2).await, Claimed::Held { .. }));
    stand.end(&third, TaskState::Completed).await;
    assert_eq!(parse(stand.result(&key).await)["status"], "completed");
    // What has completed or was cancelled is not run again by anybody.
    assert_eq!(ask(&stand, &key, 5, 1).await, over(TaskState::Completed));
    let expired = stand.lease(&alone("expired")).await;
    stand.end(&expired, TaskState::Expired).await;
    take(&stand, &alone("expired"), 2, 1).await;
    let cancelled = alone("cancelled");
    stand.lease(&cancelled).await;
    stand.cancel("cancelled", Why::Request { by: None }).await;
    assert_eq!(ask(&stand, &cancelled, 2, 1).await, over(TaskState::Cancelled));
    assert_eq!(ask(&stand, &cancelled, 1, 1).await, over(TaskState::Cancelled));
    assert_eq!(parse(stand.result(&cancelled).await)["status"], "cancelled");
}

/// Whatever the workflow has come to, as far as the store knows.
pub(crate) async fn a_message_of_a_lost_run_of_a_workflow_starts_nothing(stand: Stand) {
    let of = async |root: &str, task: &str, run| ask(&stand, &within(root, task), run, 1).await;
    let lost = Claimed::LostRun { present: 1 };
    let roots = ["failed", "completed", "cancelled", "running"];
    for root in roots {
        stand.create(&plan(root, &[("a", &[]), ("b", &["a"]), ("z", &[])])).await;
        stand.complete(&within(root, "z")).await;
    }
    stand.end_as(&within("failed", "a"), TaskState::Failed).await;
    stand.complete(&within("completed", "a")).await;
    stand.complete(&within("completed", "b")).await;
    stand.cancel("cancelled", Why::Request { by: None }).await;
    let held = stand.lease(&within("running", "a")).await;
    for root in roots {
        let before = (stand.states(root).await, stand.outcome(root).await);
        // A child that the lost run had planned is among them.
        for task in ["a", "b", "z", "z.0"] {
            for run in [2, 3] {
                assert_eq!(of(root, task, run).await, lost, "{root}/{task}");
            }
        }
        assert_eq!((stand.states(root).await, stand.outcome(root).await), before, "{root}");
    }
    assert_eq!(released(stand.end(&held, TaskState::Completed).await), ["b"]);

    let failure = Failure::new(Code::WorkflowCircularDependency, "a needs a");
    stand.create(&Plan { refused: Some(failure), ..plan("refused", &[]) }).await;
    assert_eq!(of("refused", "a", 2).await, lost);
    // What nobody has taken in has no runs.
    assert_eq!(of("unseen", "a", 2).await, Claimed::NoWorkflow);
    stand.cancel("marked", Why::Request { by: None }).await;
    assert_eq!(of("marked", "a", 2).await, over(TaskState::Cancelled));
    let accepted = Accepted::Workflow { id: id("accepted"), name: "W".to_owned(), digest: None, due: None };
    stand.store.accept(&[accepted], stand.now()).await.expect("answers");
    assert_eq!(of("accepted", "a", 2).await, Claimed::NoWorkflow);
}

pub(crate) async fn a_retry_that_is_asked_for_again_begins_the_lost_run(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"])])).await;
    let (a, b) = (within("w", "a"), within("w", "b"));
    stand.end_as(&a, TaskState::Failed).await;
    assert_eq!(ask(&stand, &b, 2, 1).await, Claimed::LostRun { present: 1 });
    assert_eq!(stand.retried("w", "r").await, ["a"]);
    // From here on what is left of the lost run is of the present one.
    assert_eq!(ask(&stand, &b, 2, 1).await, not_ready());
    assert_eq!(ask(&stand, &b, 3, 1).await, Claimed::LostRun { present: 2 });
    assert_eq!(ask(&stand, &a, 1, 1).await, Claimed::Superseded);
    let lease = take(&stand, &a, 2, 1).await;
    assert_eq!(released(stand.end(&lease, TaskState::Completed).await), ["b"]);
    let lease = take(&stand, &b, 2, 1).await;
    stand.end(&lease, TaskState::Completed).await;
    for run in [1, 2] {
        assert_eq!(ask(&stand, &b, run, 1).await, over(TaskState::Completed));
    }
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Completed);
}
