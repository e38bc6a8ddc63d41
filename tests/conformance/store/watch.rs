//! Being told of ends, and of what moves.

use futures_util::stream::BoxStream;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

use super::stand::{Stand, alone, claim, ended_for_retry, id, lease, next, plan, planned, within};
use gleitzeit::core::state::TaskState;
use gleitzeit::store::{Change, End, Why};

/// Reads until all of these tasks and the root are told. The store may tell more, never less.
async fn all_told(changes: &mut BoxStream<'static, Change>, tasks: &[&str]) {
    let mut missing: BTreeSet<String> = tasks.iter().map(|task| (*task).to_owned()).collect();
    let mut root = false;
    while !missing.is_empty() || !root {
        match next(changes).await {
            Change::Task(task) => {
                missing.remove(task.as_str());
            }
            Change::Root => root = true,
            Change::Moved => {}
            Change::Resync => return,
        }
    }
}

pub(crate) async fn every_end_is_told(stand: Stand) {
    let mut changes = stand.watch("w").await;
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"]), ("c", &["a"])])).await;
    for task in ["a", "b", "c"] {
        stand.complete(&within("w", task)).await;
    }
    all_told(&mut changes, &["a", "b", "c"]).await;
    assert!(stand.outcome("w").await.is_some());
}

/// Subscribe, read, wait: an end between the subscription and the read is seen by the read, one after the
/// read is told.
pub(crate) async fn an_end_right_after_the_subscription_is_told(stand: Stand) {
    let other = stand.other().await;
    for round in 0..20 {
        let name = format!("t{round}");
        let lease = stand.lease(&alone(&name)).await;
        let mut changes = other.watch(&name).await;
        stand.end(&lease, TaskState::Completed).await;
        assert!(matches!(next(&mut changes).await, Change::Root | Change::Resync));
        assert!(other.result(&alone(&name)).await.is_some());
    }
}

pub(crate) async fn watchers_do_not_disturb_each_other(stand: Stand) {
    let mut first = stand.watch("t").await;
    let second = stand.watch("t").await;
    let mut elsewhere = stand.watch("u").await;
    drop(second);
    let third = stand.watch("t").await;
    stand.complete(&alone("t")).await;
    assert!(matches!(next(&mut first).await, Change::Root | Change::Resync));
    drop((first, third));
    // The same root again, after nobody watched it.
    let mut again = stand.watch("t").await;
    stand.complete(&alone("u")).await;
    assert!(matches!(next(&mut elsewhere).await, Change::Root | Change::Resync));
    let mut unseen = stand.watch("v").await;
    stand.store.cancel(&id("v"), Why::Request { by: None }, stand.now()).await.expect("answers");
    stand.claim(&alone("v"), 1, "worker").await;
    assert!(matches!(next(&mut unseen).await, Change::Root | Change::Resync));
    // What ended before the subscription is not told again.
    let told = tokio::time::timeout(std::time::Duration::from_millis(1), next(&mut again)).await;
    assert!(matches!(told, Err(_) | Ok(Change::Resync)), "{told:?}");
}

pub(crate) async fn what_ends_unrun_is_told(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"]), ("c", &["b"])])).await;
    let mut changes = stand.watch("w").await;
    let lease = stand.lease(&within("w", "a")).await;
    stand.end(&lease, TaskState::Failed).await;
    all_told(&mut changes, &["a", "b", "c"]).await;
    stand.create(&plan("x", &[("a", &[]), ("b", &["a"])])).await;
    let mut changes = stand.watch("x").await;
    stand.store.cancel(&id("x"), Why::Request { by: None }, stand.now()).await.expect("answers");
    all_told(&mut changes, &["a", "b"]).await;
}

pub(crate) async fn another_process_is_told(stand: Stand) {
    let other = stand.other().await;
    let mut changes = other.watch("w").await;
    stand.create(&plan("w", &[("a", &[])])).await;
    stand.complete(&within("w", "a")).await;
    all_told(&mut changes, &["a"]).await;
}

/// Makes a step of which somebody who follows since just before it is told, in whichever process.
async fn moves<T>(stand: &Stand, root: &str, step: impl Future<Output = T>) -> T {
    let other = stand.other().await;
    let (mut here, mut elsewhere) = (stand.follow(root).await, other.follow(root).await);
    let done = step.await;
    while !matches!(next(&mut here).await, Change::Moved | Change::Resync) {}
    while !matches!(next(&mut elsewhere).await, Change::Moved | Change::Resync) {}
    done
}

pub(crate) async fn a_follower_is_told_of_a_claim(stand: Stand) {
    let first = moves(&stand, "t", stand.lease(&alone("t"))).await;
    moves(&stand, "t", stand.take_over(&alone("t"), "another", first.fence)).await;
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"])])).await;
    moves(&stand, "w", stand.lease(&within("w", "a"))).await;
}

pub(crate) async fn a_follower_is_told_of_an_attempt_that_is_put_back(stand: Stand) {
    let again = |due| End::Again { due, entry: json!({"attempt": 1}).to_string() };
    stand.create(&plan("w", &[("a", &[])])).await;
    for key in [alone("t"), within("w", "a")] {
        let root = key.root.as_str();
        let attempt = async |number| lease(stand.ask(&claim(&key, number, "worker")).await);
        let first = attempt(1).await;
        moves(&stand, root, stand.finish(&first, &again(stand.now().after(Duration::from_secs(60))))).await;
        let second = moves(&stand, root, attempt(2)).await;
        moves(&stand, root, stand.finish(&second, &End::Abandoned)).await;
        let second = moves(&stand, root, attempt(2)).await;
        moves(&stand, root, stand.finish(&second, &again(stand.now()))).await;
    }
}

pub(crate) async fn a_follower_is_told_of_what_is_taken_in_planned_and_retried(stand: Stand) {
    moves(&stand, "w", stand.create(&plan("w", &[("a", &[]), ("b", &[])]))).await;
    let parent = stand.lease(&within("w", "a")).await;
    moves(&stand, "w", stand.expand(&parent, planned("w", &[("a.0", &[])]), 0)).await;
    stand.end_as(&within("w", "a.0"), TaskState::Failed).await;
    let resumed = claim(&within("w", "a"), 1, "worker");
    let parent = lease(moves(&stand, "w", stand.ask(&resumed)).await);
    stand.end(&parent, TaskState::Failed).await;
    stand.end_as(&within("w", "b"), TaskState::Completed).await;
    moves(&stand, "w", stand.retry("w", "r")).await;

    let first = stand.lease(&alone("t")).await;
    stand.finish(&first, &ended_for_retry(&alone("t"), TaskState::Failed)).await;
    moves(&stand, "t", stand.retry("t", "r")).await;
}

pub(crate) async fn a_follower_is_told_of_every_end(stand: Stand) {
    let mut changes = stand.follow("w").await;
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"]), ("c", &["a"])])).await;
    for task in ["a", "b", "c"] {
        stand.complete(&within("w", task)).await;
    }
    all_told(&mut changes, &["a", "b", "c"]).await;
}
