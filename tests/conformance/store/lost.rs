//! Messages of runs that the store has lost, as a failover without the last writes leaves them.

use serde_json::json;

use super::stand::{
    Stand, alone, bounded, claim, ended_for_retry, id, lease, not_ready, over, owned, parse, plan, planned,
    released, within,
};
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::TaskKey;
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::{Accepted, Claim, Claimed, End, Finished, Lease, Plan, Retried, Why};

/// A message of this run and attempt.
async fn ask(stand: &Stand, key: &TaskKey, run: u32, attempt: u32) -> Claimed {
    stand.ask(&Claim { run: Some(run), ..claim(key, attempt, "worker") }).await
}

async fn take(stand: &Stand, key: &TaskKey, run: u32, attempt: u32) -> Lease {
    let lease = lease(ask(stand, key, run, attempt).await);
    assert_eq!((lease.run, lease.attempt), (run, attempt));
    lease
}

async fn complete(stand: &Stand, task: &str, run: u32) -> Vec<String> {
    let lease = take(stand, &within("w", task), run, 1).await;
    released(stand.end(&lease, TaskState::Completed).await)
}

/// The names of what is to be published.
async fn reopened(stand: &Stand, run: u32) -> Vec<String> {
    let answer = stand.reopen("w", run).await;
    let Retried::Running { released, run: begun, .. } = &answer else { panic!("{answer:?}") };
    assert_eq!(*begun, run);
    assert!(released.iter().all(|one| one.run == run), "{released:?}");
    owned(released)
}

async fn is_published(stand: &Stand, run: u32) {
    stand.store.reopened(&id("w"), run).await.expect("reopened answers");
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
    // What has completed is not run again by anybody.
    assert_eq!(ask(&stand, &key, 5, 1).await, over(TaskState::Completed));
    stand.lease(&alone("cancelled")).await;
    stand.cancel("cancelled", Why::Request { by: None }).await;
    take(&stand, &alone("cancelled"), 2, 1).await;
}

pub(crate) async fn a_run_that_is_lost_begins_anew(stand: Stand) {
    let tasks: [(&str, &[&str]); 5] =
        [("good", &[]), ("bad", &["good"]), ("next", &["bad"]), ("other", &[]), ("last", &["next", "good"])];
    stand.create(&plan("w", &tasks)).await;
    stand.complete(&within("w", "good")).await;
    let before = stand.lease(&within("w", "bad")).await;
    stand.end(&before, TaskState::Failed).await;
    stand.end_as(&within("w", "other"), TaskState::Expired).await;
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Failed);
    // The first that is heard of run 3 is a task that the lost run had got to.
    let next = within("w", "next");
    for _ in 0..2 {
        assert_eq!(ask(&stand, &next, 3, 1).await, Claimed::Forgotten);
    }
    assert!(matches!(ask(&stand, &next, 1, 1).await, Claimed::Over { .. }));
    for _ in 0..2 {
        assert_eq!(reopened(&stand, 3).await, ["bad", "other"]);
    }
    let states = "good completed, bad queued, next waiting, other queued, last waiting";
    assert_eq!(stand.states("w").await, states);
    assert_eq!(stand.outcome("w").await, None);
    // Whoever began it may have died before it published: so does everybody who comes, until it is said.
    for task in ["bad", "other", "good"] {
        assert_eq!(ask(&stand, &within("w", task), 3, 1).await, Claimed::Forgotten, "{task}");
    }
    assert_eq!(ask(&stand, &within("w", "bad"), 1, 2).await, Claimed::Superseded);
    for _ in 0..2 {
        is_published(&stand, 3).await;
    }
    assert_eq!(reopened(&stand, 3).await, ["bad", "other"]);
    assert_eq!(stand.retry("w", "r").await, Retried::NotEnded);
    assert_eq!(ask(&stand, &next, 3, 1).await, not_ready());
    let bad = take(&stand, &within("w", "bad"), 3, 2).await;
    assert!(bad.fence.0 > before.fence.0 + 100, "{bad:?}");
    assert_eq!(released(stand.end(&bad, TaskState::Completed).await), ["next"]);
    assert_eq!(stand.end(&before, TaskState::Failed).await, Finished::Lost);
    assert!(complete(&stand, "other", 3).await.is_empty());
    assert_eq!(complete(&stand, "next", 3).await, ["last"]);
    assert_eq!(ask(&stand, &within("w", "good"), 3, 1).await, over(TaskState::Completed));
    assert!(complete(&stand, "last", 3).await.is_empty());
    let outcome = parse(stand.outcome("w").await);
    assert_eq!(
        (&outcome["status"], outcome["tasks"].as_array().map(Vec::len)),
        (&json!("completed"), Some(5))
    );
    assert_eq!(stand.retry("w", "r").await, Retried::Nothing);
}

/// The end of the run before is lost too: leases, turns and places of that are void.
pub(crate) async fn a_run_that_is_lost_begins_anew_in_the_middle_of_the_one_before(stand: Stand) {
    let plan = bounded(plan("w", &[("p", &[]), ("a", &[]), ("b", &["a"]), ("z", &["p", "b"])]), 2);
    stand.create(&plan).await;
    let p = stand.lease(&within("w", "p")).await;
    let children = planned("w", &[("p.0", &[]), ("p.1", &[]), ("p.2", &[])]);
    assert_eq!(released(stand.expand(&p, children, 1).await), ["p.0"]);
    assert_eq!(released(stand.complete(&within("w", "p.0")).await), ["p.1"]);
    let old = [stand.lease(&within("w", "p.1")).await, stand.lease(&within("w", "a")).await];
    assert_eq!(ask(&stand, &within("w", "b"), 2, 1).await, Claimed::Forgotten);
    assert_eq!(reopened(&stand, 2).await, ["p.1", "a"]);
    is_published(&stand, 2).await;
    let states = "p waiting, p.0 completed, p.1 queued, p.2 waiting, a queued, b waiting, z waiting";
    assert_eq!(stand.states("w").await, states);
    for lease in &old {
        assert_eq!(stand.end(lease, TaskState::Completed).await, Finished::Lost);
        assert_eq!(ask(&stand, &lease.key, 1, 2).await, Claimed::Superseded);
    }
    // A child that the lost run had planned, and that nobody knows any more.
    assert_eq!(ask(&stand, &within("w", "p.9"), 2, 1).await, over(TaskState::Cancelled));
    assert_eq!(complete(&stand, "p.1", 2).await, ["p.2"]);
    assert_eq!(complete(&stand, "a", 2).await, ["b"]);
    assert_eq!(complete(&stand, "p.2", 2).await, ["p"]);
    let claimed = ask(&stand, &within("w", "p"), 2, 1).await;
    let Claimed::Run { lease: p, children, .. } = claimed else { panic!("{claimed:?}") };
    assert_eq!(children, ["p.0", "p.1", "p.2"].map(id));
    assert!(released(stand.end(&p, TaskState::Completed).await).is_empty());
    assert_eq!(complete(&stand, "b", 2).await, ["z"]);
    complete(&stand, "z", 2).await;
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Completed);
}

/// A cancel and a retry by hand come as they do to any other run.
pub(crate) async fn a_run_that_began_anew_is_cancelled_and_retried(stand: Stand) {
    stand.create(&plan("w", &[("a", &[])])).await;
    let a = within("w", "a");
    stand.end_as(&a, TaskState::Failed).await;
    assert_eq!(ask(&stand, &a, 2, 1).await, Claimed::Forgotten);
    assert_eq!(reopened(&stand, 2).await, ["a"]);
    stand.cancel("w", Why::Timeout { run: 2 }).await;
    // Nothing is left to publish.
    assert_eq!(ask(&stand, &a, 2, 1).await, Claimed::Forgotten);
    assert!(reopened(&stand, 2).await.is_empty());
    is_published(&stand, 2).await;
    assert_eq!(ask(&stand, &a, 2, 1).await, over(TaskState::Cancelled));
    assert_eq!(stand.retried("w", "r").await, ["a"]);
    take(&stand, &a, 3, 1).await;
    assert_eq!(ask(&stand, &a, 2, 1).await, Claimed::Superseded);

    // Nobody said that it is published, and it is of no importance in a later run.
    stand.cancel("w", Why::Request { by: None }).await;
    assert_eq!(ask(&stand, &a, 4, 1).await, Claimed::Forgotten);
    assert_eq!(reopened(&stand, 4).await, ["a"]);
    stand.cancel("w", Why::Request { by: None }).await;
    assert_eq!(stand.retried("w", "r2").await, ["a"]);
    assert_eq!(ask(&stand, &a, 4, 1).await, Claimed::Superseded);
    take(&stand, &a, 5, 1).await;
}

pub(crate) async fn what_of_a_lost_run_cannot_begin_anew(stand: Stand) {
    let of = async |root: &str| ask(&stand, &within(root, "a"), 2, 1).await;
    assert_eq!(of("unseen").await, Claimed::NoWorkflow);
    assert_eq!(stand.reopen("unseen", 2).await, Retried::Unknown);
    stand.cancel("marked", Why::Request { by: None }).await;
    assert_eq!(of("marked").await, over(TaskState::Cancelled));
    let accepted = Accepted::Workflow { id: id("accepted"), name: "W".to_owned(), digest: None, due: None };
    stand.store.accept(&[accepted], stand.now()).await.expect("answers");
    assert_eq!(of("accepted").await, Claimed::NoWorkflow);
    assert_eq!(stand.reopen("accepted", 2).await, Retried::NotTakenIn);
    let failure = Failure::new(Code::WorkflowCircularDependency, "a needs a");
    stand.create(&Plan { refused: Some(failure), ..plan("refused", &[]) }).await;
    stand.create(&plan("completed", &[("a", &[])])).await;
    stand.complete(&within("completed", "a")).await;
    for (root, answer) in [("refused", Retried::NotTakenIn), ("completed", Retried::Nothing)] {
        for _ in 0..2 {
            assert_eq!(of(root).await, Claimed::Forgotten, "{root}");
            assert_eq!(stand.reopen(root, 2).await, answer, "{root}");
        }
        assert!(stand.workflow(root).await.state.is_ended());
    }
}
