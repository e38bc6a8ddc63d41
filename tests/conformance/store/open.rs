//! What has not ended, and its messages.

use bytes::Bytes;
use std::collections::BTreeSet;
use std::time::Duration;

use super::stand::{Stand, alone, claim, head, id, lease, plan, within};
use gleitzeit::core::id::TaskKey;
use gleitzeit::core::state::TaskState;
use gleitzeit::store::{Accepted, Message, OpenRoot, Retried, Why};
use gleitzeit::topology::Address;

fn message(body: &'static str) -> Message {
    let address = Address::parse("echo.v1").expect("valid");
    Message { address, priority: 7, body: Bytes::from_static(body.as_bytes()) }
}

fn sent(key: &TaskKey) -> Accepted {
    Accepted::Task { head: head(key), digest: None, due: None, sent: Some(message("{}")) }
}

/// Every open root, as `NAME STATE`.
async fn open(stand: &Stand, limit: usize) -> BTreeSet<String> {
    let (mut found, mut after) = (BTreeSet::new(), None);
    loop {
        let page = stand.store.open(after.as_deref(), limit).await.expect("answers");
        found.extend(page.roots.iter().map(|root| match root {
            OpenRoot::Task { record, .. } => format!("{} {}", record.head.key, record.state),
            OpenRoot::Accepted { id, due, .. } => format!("{id} accepted{}", due.map_or("", |_| " due")),
            OpenRoot::Running(id) => format!("{id} running"),
        }));
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

/// Every ended root, as `NAME STATE`.
async fn ended_roots(stand: &Stand, limit: usize) -> BTreeSet<String> {
    let (mut found, mut after) = (BTreeSet::new(), None);
    loop {
        let page = stand.store.open(after.as_deref(), limit).await.expect("answers");
        found.extend(page.ended.iter().map(|(id, state)| format!("{id} {state}")));
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

async fn kept(stand: &Stand, key: &TaskKey) -> Option<(Message, u32)> {
    let found = stand.store.messages(std::slice::from_ref(key)).await.expect("answers");
    found.into_iter().next().expect("one answer for each").map(|released| (released.message, released.run))
}

pub(crate) async fn every_open_root_is_found_page_by_page(stand: Stand) {
    assert!(open(&stand, 10).await.is_empty());
    let mut expected = BTreeSet::new();
    for number in 0..25 {
        let key = alone(&format!("t{number}"));
        stand.store.accept(&[sent(&key)], stand.now()).await.expect("answers");
        expected.insert(format!("{key} accepted"));
    }
    let accepted = Accepted::Workflow { id: id("new"), name: "W".to_owned(), digest: None, due: None };
    stand.store.accept(&[accepted], stand.now()).await.expect("answers");
    stand.create(&plan("w", &[("a", &[])])).await;
    lease(stand.ask(&claim(&alone("r"), 1, "worker")).await);
    let ended = lease(stand.ask(&claim(&alone("e"), 1, "worker")).await);
    stand.end(&ended, TaskState::Completed).await;
    stand.store.cancel(&id("mark"), Why::Request { by: None }, stand.now()).await.expect("answers");
    expected.extend(["new accepted", "w running", "r running"].map(str::to_owned));
    stand.store.cancel(&id("c"), Why::Request { by: None }, stand.now()).await.expect("answers");
    stand.create(&plan("over", &[("a", &[])])).await;
    stand.store.cancel(&id("over"), Why::Request { by: None }, stand.now()).await.expect("answers");
    for limit in [1, 7, 1000] {
        assert_eq!(open(&stand, limit).await, expected, "{limit}");
        let over = ["e completed", "over cancelled"].map(str::to_owned);
        assert_eq!(ended_roots(&stand, limit).await, over.into(), "{limit}");
    }
}

pub(crate) async fn the_message_of_a_task_is_kept_until_it_ends(stand: Stand) {
    let key = alone("t");
    stand.store.accept(&[sent(&key)], stand.now()).await.expect("answers");
    assert_eq!(kept(&stand, &key).await, Some((message("{}"), 1)));
    let held = lease(stand.ask(&claim(&key, 1, "worker")).await);
    assert_eq!(kept(&stand, &key).await, Some((message("{}"), 1)));
    stand.end(&held, TaskState::Completed).await;
    assert_eq!(kept(&stand, &key).await, None);
    // A worker may be quicker than the record.
    let quick = alone("quick");
    let held = lease(stand.ask(&claim(&quick, 1, "worker")).await);
    assert_eq!(kept(&stand, &quick).await, None);
    stand.store.accept(&[sent(&quick)], stand.now()).await.expect("answers");
    assert_eq!(kept(&stand, &quick).await, Some((message("{}"), 1)));
    stand.end(&held, TaskState::Failed).await;
    stand.store.accept(&[sent(&quick)], stand.now()).await.expect("answers");
    assert_eq!(kept(&stand, &quick).await, None);
    // What is cancelled keeps nothing that could run again.
    let cancelled = alone("cancelled");
    stand.store.accept(&[sent(&cancelled)], stand.now()).await.expect("answers");
    stand.store.cancel(&cancelled.root, Why::Request { by: None }, stand.now()).await.expect("answers");
    assert_eq!(kept(&stand, &cancelled).await, None);
    let retried = stand.store.retry(&cancelled.root, &id("by"), stand.now()).await.expect("answers");
    assert_eq!(retried, Retried::Gone(vec![]));
}

pub(crate) async fn the_messages_of_a_workflow_are_those_that_it_released(stand: Stand) {
    let created = stand.create(&plan("w", &[("a", &[]), ("b", &["a"])])).await;
    let (a, b) = (within("w", "a"), within("w", "b"));
    let found = stand.store.messages(&[a.clone(), b.clone(), alone("nobody")]).await.expect("answers");
    assert_eq!(found, [Some(created.released[0].clone()), None, None]);
    // Running under whoever it was: the message is the same, and causes what claim says.
    let held = lease(stand.ask(&claim(&a, 1, "worker")).await);
    assert_eq!(kept(&stand, &a).await.map(|(_, run)| run), Some(1));
    stand.end(&held, TaskState::Completed).await;
    assert_eq!(kept(&stand, &a).await, None);
    assert!(kept(&stand, &b).await.is_some());
    // A later run says so.
    let held = lease(stand.ask(&claim(&b, 1, "worker")).await);
    stand.end(&held, TaskState::Failed).await;
    stand.store.retry(&id("w"), &id("by"), stand.now()).await.expect("answers");
    assert_eq!(kept(&stand, &b).await.map(|(_, run)| run), Some(2));
}

pub(crate) async fn a_delayed_workflow_says_until_when(stand: Stand) {
    let due = stand.now().after(Duration::from_secs(60));
    let accepted = Accepted::Workflow { id: id("w"), name: "W".to_owned(), digest: None, due: Some(due) };
    stand.store.accept(&[accepted], stand.now()).await.expect("answers");
    assert_eq!(open(&stand, 10).await, ["w accepted due".to_owned()].into());
}
