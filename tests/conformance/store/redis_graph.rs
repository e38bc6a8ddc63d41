//! What Redis keeps of a workflow with children and retries, and for how long.

use redis::aio::MultiplexedConnection;
use std::time::Duration;

use super::backends::{keys, server};
use super::stand::{Stand, TTL, bounded, id, plan, planned, released, within};
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::{Finished, Retried, Why};

async fn raw(stand: &Stand) -> (MultiplexedConnection, String) {
    let (url, prefix) = stand.place.redis().expect("the case is Redis's own");
    (server(url).await, prefix.to_owned())
}

async fn ask<T: redis::FromRedisValue>(server: &mut MultiplexedConnection, words: &[&str]) -> T {
    redis::cmd(words[0]).arg(&words[1..]).query_async(server).await.expect("the server answers")
}

/// `p -> z`, of which `p` has completed two children and then failed.
async fn with_children(stand: &Stand, workflow: &str) {
    stand.create(&plan(workflow, &[("p", &[]), ("z", &["p"])])).await;
    let p = stand.lease(&within(workflow, "p")).await;
    stand.expand(&p, planned(workflow, &[("p.0", &[]), ("p.1", &[])]), 1).await;
    stand.complete(&within(workflow, "p.0")).await;
    stand.complete(&within(workflow, "p.1")).await;
    stand.end_as(&within(workflow, "p"), TaskState::Failed).await;
    assert_eq!(stand.workflow(workflow).await.state, WorkflowState::Failed);
}

pub(crate) async fn all_of_an_ended_workflow_has_a_ttl_and_none_of_a_retried_one(stand: Stand) {
    let (mut server, prefix) = raw(&stand).await;
    with_children(&stand, "w").await;
    let ended = keys(&mut server, &prefix).await;
    // The root, its order, its parents, four tasks, four results and its own.
    assert_eq!(ended.len(), 12, "{ended:?}");
    for key in &ended {
        let millis: i64 = ask(&mut server, &["PTTL", key]).await;
        let left = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
        let expected = if key.contains(":result") { TTL } else { Duration::from_secs(7 * 24 * 3600) };
        assert!(left <= expected && left > expected - Duration::from_secs(60), "{key}: {left:?}");
    }
    assert_eq!(stand.retried("w", "r").await, ["p"]);
    let running = keys(&mut server, &prefix).await;
    assert_eq!(running.len(), 9, "{running:?}");
    for key in &running {
        assert_eq!(ask::<i64>(&mut server, &["PTTL", key]).await, -1, "{key}");
    }
}

pub(crate) async fn a_retry_names_the_results_that_are_gone(stand: Stand) {
    let (mut server, prefix) = raw(&stand).await;
    stand.create(&plan("w", &[("a", &[]), ("b", &[]), ("c", &["a", "b"]), ("d", &[])])).await;
    for name in ["a", "b", "d"] {
        stand.complete(&within("w", name)).await;
    }
    stand.end_as(&within("w", "c"), TaskState::Failed).await;
    for name in ["d", "a"] {
        let _: i64 = ask(&mut server, &["DEL", &format!("{prefix}:{{w}}:result:{name}")]).await;
    }
    assert_eq!(stand.retry("w", "r").await, Retried::Gone(vec![id("a"), id("d")]));
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Failed);
    assert!(stand.outcome("w").await.is_some());
    // Those of kept children are wanted as well.
    with_children(&stand, "v").await;
    let _: i64 = ask(&mut server, &["DEL", &format!("{prefix}:{{v}}:result:p.1")]).await;
    assert_eq!(stand.retry("v", "r").await, Retried::Gone(vec![id("p.1")]));
}

pub(crate) async fn messages_are_kept_while_there_is_something_to_retry(stand: Stand) {
    let (mut server, prefix) = raw(&stand).await;
    let ends = [("good", TaskState::Completed), ("bad", TaskState::Failed), ("tolerated", TaskState::Failed)];
    for (workflow, end) in ends {
        let mut plan = plan(workflow, &[("a", &[]), ("b", &[])]);
        plan.tasks[1].tolerated = workflow == "tolerated";
        stand.create(&plan).await;
        stand.complete(&within(workflow, "a")).await;
        stand.end_as(&within(workflow, "b"), end).await;
        for name in ["a", "b"] {
            let key = format!("{prefix}:{{{workflow}}}:task:{name}");
            let is_kept: i64 = ask(&mut server, &["HEXISTS", &key, "body"]).await;
            assert_eq!(is_kept == 1, workflow != "good", "{key}");
        }
    }
    assert_eq!(stand.retried("tolerated", "r").await, ["b"]);
}

/// A child that a retry has thrown away comes again under its old id: nobody who had it then has it now.
pub(crate) async fn a_lease_of_a_deleted_child_stays_lost(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("p", &["a"])])).await;
    stand.complete(&within("w", "a")).await;
    let p = stand.lease(&within("w", "p")).await;
    stand.expand(&p, planned("w", &[("p.0", &[])]), 0).await;
    let stale = stand.lease(&within("w", "p.0")).await;
    stand.cancel("w", Why::Request { by: None }).await;
    assert_eq!(stand.retried("w", "r1").await, ["p.0"]);
    stand.cancel("w", Why::Request { by: None }).await;
    // As if `a` had failed, so that its dependent loses its children.
    let (mut server, prefix) = raw(&stand).await;
    let a = format!("{prefix}:{{w}}:task:a");
    let _: i64 = ask(&mut server, &["HSET", &a, "state", "failed"]).await;
    assert_eq!(stand.retried("w", "r2").await, ["a"]);
    assert_eq!(stand.state(&within("w", "p.0")).await, None);
    let claimed = stand.claim(&within("w", "p.0"), 1, "late").await;
    assert_eq!(claimed, super::stand::over(TaskState::Cancelled));
    stand.complete(&within("w", "a")).await;
    let p = stand.lease(&within("w", "p")).await;
    let last = stand.expand(&p, planned("w", &[("p.0", &[])]), 0).await;
    assert_eq!(released(last), ["p.0"]);
    let fresh = stand.lease(&within("w", "p.0")).await;
    assert!(fresh.fence > stale.fence);
    assert_eq!(stand.end(&stale, TaskState::Failed).await, Finished::Lost);
    assert_eq!(released(stand.end(&fresh, TaskState::Completed).await), ["p"]);
}

/// Ten thousand tasks under a bound are neither slower nor larger than the queue that they stand in.
pub(crate) async fn ten_thousand_wait_for_their_turn(stand: Stand) {
    let labels: Vec<String> = (0..10_000).map(|number| format!("t{number}")).collect();
    let tasks: Vec<(&str, &[&str])> = labels.iter().map(|name| (name.as_str(), &[] as &[&str])).collect();
    let created = stand.create(&bounded(plan("w", &tasks), 3)).await;
    assert_eq!(created.released.len(), 3);
    let (mut server, prefix) = raw(&stand).await;
    let queue = format!("{prefix}:{{w}}:ready");
    assert_eq!(ask::<i64>(&mut server, &["ZCARD", &queue]).await, 9_997);
    assert_eq!(released(stand.complete(&within("w", "t1")).await), ["t3"]);
    stand.cancel("w", Why::Request { by: None }).await;
    assert_eq!(ask::<i64>(&mut server, &["EXISTS", &queue]).await, 0);
    assert_eq!(stand.retried("w", "r").await, ["t0", "t2", "t3"]);
    assert_eq!(stand.outcome("w").await, None);
}
