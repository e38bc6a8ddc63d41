//! What is known of a root: digests, several results at once, who waits for it.

use serde_json::json;
use std::time::Duration;

use super::stand::{Stand, alone, claim, document, head, id, over, plan, released, taken_in, within};
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::{Accepted, Cancelled, Claim, Claimed, Plan, Why};

fn digest(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

pub(crate) async fn another_body_under_the_same_id_is_noticed(stand: Stand) {
    let key = alone("t");
    let accept = async |digest: Option<String>| {
        let accepted = [
            Accepted::Task { head: head(&key), digest: digest.clone(), due: None, sent: None },
            Accepted::Task {
                head: head(&alone("other")),
                digest: Some("x".to_owned()),
                due: None,
                sent: None,
            },
            Accepted::Workflow { id: id("w"), name: "w".to_owned(), digest, due: None },
        ];
        stand.store.accept(&accepted, stand.now()).await.expect("answers")
    };
    assert!(accept(digest("one")).await.is_empty());
    assert!(accept(digest("one")).await.is_empty());
    assert_eq!(accept(digest("two")).await, [id("t"), id("w")]);
    assert!(accept(None).await.is_empty());
    let ask = |text: &str| Claim { digest: digest(text), ..claim(&key, 1, "worker") };
    let claimed = stand.ask(&ask("one")).await;
    let lease = super::stand::lease(claimed);
    assert!(matches!(stand.ask(&ask("two")).await, Claimed::Held { .. }));
    stand.end(&lease, TaskState::Completed).await;
    for (text, differs) in [("one", false), ("two", true), ("", false)] {
        let over = Claimed::Over { state: TaskState::Completed, released: vec![], differs };
        assert_eq!(stand.ask(&ask(text)).await, over, "{text}");
    }
    assert_eq!(accept(digest("two")).await, [id("t"), id("w")]);
    // A first claim makes it known; one without a digest leaves nothing to compare.
    let first = Claim { digest: digest("one"), ..claim(&alone("u"), 1, "worker") };
    let lease = super::stand::lease(stand.ask(&first).await);
    stand.end(&lease, TaskState::Completed).await;
    let second = Claim { digest: digest("two"), ..first };
    assert!(matches!(stand.ask(&second).await, Claimed::Over { differs: true, .. }));
    stand.complete(&alone("v")).await;
    let asked = Claim { digest: digest("two"), ..claim(&alone("v"), 1, "worker") };
    assert_eq!(stand.ask(&asked).await, over(TaskState::Completed));
}

pub(crate) async fn another_plan_under_the_same_id_is_noticed(stand: Stand) {
    let first = Plan { digest: digest("one"), ..plan("w", &[("a", &[])]) };
    assert!(!stand.create(&first).await.differs);
    assert!(!stand.create(&first).await.differs);
    let second = Plan { digest: digest("two"), ..plan("w", &[("b", &[])]) };
    let created = stand.create(&second).await;
    assert_eq!((created.differs, super::stand::names(&created.released)), (true, vec!["a"]));
    assert!(!stand.create(&Plan { digest: None, ..second.clone() }).await.differs);
    stand.complete(&within("w", "a")).await;
    assert!(stand.create(&second).await.differs);
    assert_eq!(stand.create(&first).await, taken_in(WorkflowState::Completed));
    assert_eq!(stand.states("w").await, "a completed");
    let accepted =
        [Accepted::Workflow { id: id("w"), name: "w".to_owned(), digest: digest("two"), due: None }];
    assert_eq!(stand.store.accept(&accepted, stand.now()).await, Ok(vec![id("w")]));
}

pub(crate) async fn several_results_come_in_the_order_asked(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &[]), ("c", &[])])).await;
    stand.complete(&within("w", "a")).await;
    stand.complete(&within("w", "c")).await;
    let of = |task: &str| Some(document(&within("w", task), TaskState::Completed, json!(task)));
    let asked = ["c", "b", "nowhere", "a", "c"].map(id);
    let results = stand.store.results(&id("w"), &asked).await.expect("answers");
    assert_eq!(results, [of("c"), None, None, of("a"), of("c")]);
    assert_eq!(stand.store.results(&id("w"), &[]).await, Ok(vec![]));
    assert_eq!(stand.store.results(&id("unseen"), &[id("a")]).await, Ok(vec![None]));
}

pub(crate) async fn who_waits_for_a_workflow_is_told_by_cancel(stand: Stand) {
    let reply = Some("{\"to\": \"somebody\"}".to_owned());
    let first = Plan { reply: reply.clone(), ..plan("w", &[("a", &[])]) };
    stand.create(&first).await;
    assert_eq!(
        stand.cancel("w", Why::Request { by: None }).await,
        Cancelled::Done { running: vec![], reply }
    );
}

pub(crate) async fn a_timeout_ends_the_run_that_it_is_for(stand: Stand) {
    let timeout = Some(Duration::from_secs(90));
    let first = Plan { timeout, ..plan("w", &[("a", &[]), ("b", &["a"]), ("c", &[])]) };
    stand.create(&first).await;
    assert!(released(stand.complete(&within("w", "c")).await).is_empty());
    let lease = stand.lease(&within("w", "a")).await;
    // Of a run that there is not yet.
    assert!(matches!(stand.cancel("w", Why::Timeout { run: 2 }).await, Cancelled::Over(_)));
    assert_eq!(stand.states("w").await, "a running, b waiting, c completed");
    let running = vec![(within("w", "a"), id("worker"))];
    let over = stand.cancel("w", Why::Timeout { run: 1 }).await;
    assert_eq!(over, Cancelled::Done { running, reply: None });
    assert_eq!(stand.states("w").await, "a cancelled, b cancelled, c completed");
    assert_eq!(stand.end(&lease, TaskState::Completed).await, gleitzeit::store::Finished::Lost);
    let outcome = super::stand::parse(stand.outcome("w").await);
    assert_eq!(
        (&outcome["status"], &outcome["error"]["name"]),
        (&json!("failed"), &json!("WORKFLOW_TIMEOUT"))
    );
    assert_eq!(stand.create(&first).await, taken_in(WorkflowState::Failed));
    let over = Cancelled::Over("failed".to_owned());
    assert_eq!(stand.cancel("w", Why::Timeout { run: 1 }).await, Cancelled::Again { reply: None });
    assert_eq!(stand.cancel("w", Why::Request { by: None }).await, over);
    // A task on its own has no such time.
    let lease = stand.lease(&alone("t")).await;
    assert!(matches!(stand.cancel("t", Why::Timeout { run: 1 }).await, Cancelled::Over(_)));
    assert_ne!(stand.end(&lease, TaskState::Completed).await, gleitzeit::store::Finished::Lost);
}
