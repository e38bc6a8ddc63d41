//! Being told of ends.

use futures_util::stream::BoxStream;
use std::collections::BTreeSet;

use super::stand::{Stand, alone, id, next, plan, within};
use gleitzeit::core::state::TaskState;
use gleitzeit::store::{Change, Why};

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
