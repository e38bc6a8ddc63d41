//! Tasks that a task has planned.

use serde_json::json;

use super::stand::{
    Stand, bounded, claim, document, id, lease, names, not_ready, over, owned, parse, plan, planned,
    released, taken_in, within,
};
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::Otherwise::{self, Continue, Fail};
use gleitzeit::store::{
    Cancelled, Claim, Claimed, End, Finished, Inputs, Lease, PlannedTask, StoreError, Why,
};

/// Children that do not wait for each other.
fn apart(workflow: &str, names: &[&str]) -> Vec<PlannedTask> {
    let list: Vec<(&str, &[(&str, Otherwise)])> =
        names.iter().map(|name| (*name, &[] as &[(&str, Otherwise)])).collect();
    planned(workflow, &list)
}

fn not_ready_but(claimed: Claimed) -> Vec<String> {
    match claimed {
        Claimed::NotReady { released } => owned(&released),
        other => panic!("{other:?} of a task whose children run"),
    }
}

/// The parent's lease and the children that it is told of.
fn resumed(claimed: Claimed) -> (Lease, Vec<String>) {
    match claimed {
        Claimed::Run { lease, children, .. } => (lease, children.iter().map(|id| id.to_string()).collect()),
        other => panic!("{other:?} of a parent that may go on"),
    }
}

/// A workflow `p -> after` and a free `x`, of which `p` has planned these.
async fn expanded(stand: &Stand, workflow: &str, children: &[&str], bound: u32) -> Lease {
    stand.create(&plan(workflow, &[("p", &[]), ("after", &["p"]), ("x", &[])])).await;
    let lease = stand.lease(&within(workflow, "p")).await;
    stand.expand(&lease, apart(workflow, children), bound).await;
    lease
}

pub(crate) async fn a_parent_goes_on_when_its_children_have_ended(stand: Stand) {
    let plan = plan("w", &[("p", &[]), ("after", &["p"]), ("x", &[])]);
    stand.create(&plan).await;
    let first = stand.lease(&within("w", "p")).await;
    let children = apart("w", &["p.0", "p.1", "p.2"]);
    let last = stand.expand(&first, children.clone(), 0).await;
    let Finished::Done { released: ready, ended, workflow } = last else { panic!("{last:?}") };
    assert_eq!(
        (owned(&ready), ended, workflow),
        (vec!["p.0".to_owned(), "p.1".to_owned(), "p.2".to_owned()], vec![], Some(WorkflowState::Running))
    );
    assert_eq!(ready[1].message, children[1].message);
    assert_eq!(ready[1].key, within("w", "p.1"));
    let states = "p waiting, p.0 queued, p.1 queued, p.2 queued, after waiting, x queued";
    assert_eq!(stand.states("w").await, states);
    let flow = stand.workflow("w").await;
    let parents: Vec<_> = flow.tasks.iter().map(|task| task.parent.clone()).collect();
    assert_eq!(parents, [None, Some(id("p")), Some(id("p")), Some(id("p")), None, None]);
    assert_eq!(flow.tasks[2].head, children[1].head);
    for name in ["p.2", "p.0"] {
        assert!(released(stand.complete(&within("w", name)).await).is_empty());
    }
    let last = stand.complete(&within("w", "p.1")).await;
    let Finished::Done { released: ready, .. } = last else { panic!("{last:?}") };
    assert_eq!((names(&ready), &ready[0].message), (vec!["p"], &plan.tasks[0].message));
    // Whoever has both messages of the parent runs it once, for the attempt that it was.
    let (second, told) = resumed(stand.claim(&within("w", "p"), 1, "worker").await);
    assert_eq!(told, ["p.0", "p.1", "p.2"]);
    assert_eq!(second.attempt, first.attempt);
    assert!(second.fence > first.fence);
    assert!(matches!(stand.claim(&within("w", "p"), 1, "other").await, Claimed::Held { .. }));
    assert_eq!(stand.end(&first, TaskState::Completed).await, Finished::Lost);
    assert_eq!(released(stand.end(&second, TaskState::Completed).await), ["after"]);
    let after = claim(&within("w", "after"), 1, "worker");
    let claimed = stand.ask(&Claim { inputs: vec![id("p.1"), id("p")], ..after }).await;
    let Claimed::Run { lease, inputs: Inputs::Read(inputs), children, .. } = claimed else {
        panic!("{claimed:?}")
    };
    assert_eq!(inputs[0], Some(document(&within("w", "p.1"), TaskState::Completed, json!("p.1"))));
    assert!(inputs[1].is_some() && children.is_empty());
    stand.end(&lease, TaskState::Completed).await;
    stand.complete(&within("w", "x")).await;
    assert_eq!(stand.create(&plan).await, taken_in(WorkflowState::Completed));
}

pub(crate) async fn a_document_does_not_list_children(stand: Stand) {
    expanded(&stand, "w", &["p.0", "p.1"], 0).await;
    for name in ["p.0", "p.1", "p", "after", "x"] {
        stand.complete(&within("w", name)).await;
    }
    let outcome = parse(stand.outcome("w").await);
    let tasks = outcome["tasks"].as_array().expect("a list");
    let listed: Vec<_> = tasks.iter().map(|task| task["id"].clone()).collect();
    assert_eq!(listed, ["p", "after", "x"]);
    assert_eq!(outcome["status"], "completed");
    assert_eq!(parse(stand.result(&within("w", "p.1")).await)["result"], "p.1");
    assert_eq!(stand.workflow("w").await.tasks.len(), 5);
}

/// A crash between record and publish: the parent's message comes again, or the worker repeats its step.
pub(crate) async fn an_expansion_can_be_repeated(stand: Stand) {
    let first = expanded(&stand, "w", &["p.0", "p.1", "p.2"], 2).await;
    let repeat =
        async |stand: &Stand| released(stand.expand(&first, apart("w", &["p.0", "p.1", "p.2"]), 2).await);
    let comes_again = async |stand: &Stand| not_ready_but(stand.claim(&within("w", "p"), 1, "other").await);
    for _ in 0..2 {
        assert_eq!(repeat(&stand).await, ["p.0", "p.1"]);
        assert_eq!(comes_again(&stand).await, ["p.0", "p.1"]);
    }
    let child = stand.lease(&within("w", "p.1")).await;
    assert_eq!(repeat(&stand).await, ["p.0"]);
    assert_eq!(comes_again(&stand).await, ["p.0"]);
    assert_eq!(released(stand.end(&child, TaskState::Completed).await), ["p.2"]);
    // Its turn came with the end of p.1; the parent's message knows all of its children.
    assert_eq!(repeat(&stand).await, ["p.0"]);
    assert_eq!(comes_again(&stand).await, ["p.0", "p.2"]);
    assert_eq!(released(stand.end(&child, TaskState::Completed).await), ["p.2"]);
    stand.complete(&within("w", "p.0")).await;
    let last = stand.lease(&within("w", "p.2")).await;
    assert!(comes_again(&stand).await.is_empty());
    assert_eq!(released(stand.end(&last, TaskState::Completed).await), ["p"]);
    assert_eq!(released(stand.end(&last, TaskState::Completed).await), ["p"]);
    let claimed = stand.claim(&within("w", "p.2"), 1, "other").await;
    assert!(matches!(&claimed, Claimed::Over { released, .. } if names(released) == ["p"]), "{claimed:?}");
    assert!(repeat(&stand).await.is_empty());
    let (lease, _) = resumed(stand.claim(&within("w", "p"), 1, "worker").await);
    assert!(released(stand.end(&last, TaskState::Completed).await).is_empty());
    assert_eq!(stand.expand(&first, apart("w", &["p.0"]), 2).await, Finished::Lost);
    assert_eq!(released(stand.end(&lease, TaskState::Completed).await), ["after"]);
}

pub(crate) async fn a_parent_that_crashes_later_keeps_its_children(stand: Stand) {
    expanded(&stand, "w", &["p.0"], 0).await;
    stand.complete(&within("w", "p.0")).await;
    let (second, _) = resumed(stand.claim(&within("w", "p"), 1, "worker").await);
    let (third, told) = resumed(stand.take_over(&within("w", "p"), "other", second.fence).await);
    assert_eq!(told, ["p.0"]);
    assert!(!matches!(stand.finish(&third, &End::Abandoned).await, Finished::Lost));
    let (fourth, told) = resumed(stand.claim(&within("w", "p"), third.attempt, "worker").await);
    assert_eq!(told, ["p.0"]);
    assert_eq!(released(stand.end(&fourth, TaskState::Completed).await), ["after"]);
}

pub(crate) async fn children_have_a_bound_of_their_own(stand: Stand) {
    stand.create(&plan("w", &[("p", &[]), ("q", &[]), ("x", &[])])).await;
    let p = stand.lease(&within("w", "p")).await;
    let mut children = apart("w", &["p.low", "p.one", "p.two", "p.high"]);
    children[0].message.priority = 1;
    children[3].message.priority = 7;
    assert_eq!(released(stand.expand(&p, children, 1).await), ["p.high"]);
    // The bound is p's alone.
    let q = stand.lease(&within("w", "q")).await;
    assert_eq!(released(stand.expand(&q, apart("w", &["q.0", "q.1", "q.2"]), 2).await), ["q.0", "q.1"]);
    assert_eq!(stand.claim(&within("w", "p.one"), 1, "worker").await, not_ready());
    assert_eq!(released(stand.complete(&within("w", "p.high")).await), ["p.one"]);
    assert_eq!(released(stand.end_as(&within("w", "p.one"), TaskState::Failed).await), ["p.two"]);
    assert_eq!(released(stand.complete(&within("w", "q.1")).await), ["q.2"]);
    assert_eq!(released(stand.complete(&within("w", "p.two")).await), ["p.low"]);
    assert_eq!(released(stand.complete(&within("w", "p.low")).await), ["p"]);
    stand.complete(&within("w", "q.0")).await;
    assert_eq!(released(stand.complete(&within("w", "q.2")).await), ["q"]);
}

pub(crate) async fn a_parent_that_waits_takes_no_turn(stand: Stand) {
    stand.create(&bounded(plan("w", &[("p", &[]), ("x", &[])]), 1)).await;
    let p = stand.lease(&within("w", "p")).await;
    // x has been ready for longer than the children.
    assert_eq!(released(stand.expand(&p, apart("w", &["p.0", "p.1"]), 0).await), ["x"]);
    // Whoever has the parent's message again publishes what its step has released.
    assert_eq!(not_ready_but(stand.claim(&within("w", "p"), 1, "worker").await), ["x"]);
    assert_eq!(released(stand.complete(&within("w", "x")).await), ["p.0"]);
    assert_eq!(not_ready_but(stand.claim(&within("w", "p"), 1, "worker").await), ["p.0"]);
    assert_eq!(released(stand.complete(&within("w", "p.0")).await), ["p.1"]);
    assert_eq!(released(stand.complete(&within("w", "p.1")).await), ["p"]);
    stand.complete(&within("w", "p")).await;
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Completed);
    // Its turn comes again like anybody's.
    stand.create(&bounded(plan("v", &[("p", &[]), ("x", &[]), ("y", &[])]), 2)).await;
    let p = stand.lease(&within("v", "p")).await;
    let mut child = apart("v", &["p.0"]);
    child[0].message.priority = 9;
    assert_eq!(released(stand.expand(&p, child, 0).await), ["p.0"]);
    assert_eq!(released(stand.complete(&within("v", "p.0")).await), ["y"]);
    assert_eq!(stand.claim(&within("v", "p"), 1, "worker").await, not_ready());
    assert_eq!(released(stand.complete(&within("v", "y")).await), ["p"]);
}

pub(crate) async fn children_wait_for_each_other(stand: Stand) {
    stand.create(&plan("w", &[("p", &[])])).await;
    let p = stand.lease(&within("w", "p")).await;
    let list: [(&str, &[(&str, Otherwise)]); 4] = [
        ("p.join", &[("p.b", Fail), ("p.c", Continue)]),
        ("p.a", &[]),
        ("p.b", &[("p.a", Continue)]),
        ("p.c", &[("p.a", Fail)]),
    ];
    assert_eq!(released(stand.expand(&p, planned("w", &list), 0).await), ["p.a"]);
    let last = stand.end_as(&within("w", "p.a"), TaskState::Failed).await;
    let Finished::Done { released: ready, ended, workflow } = last else { panic!("{last:?}") };
    assert_eq!(owned(&ready), ["p.b"]);
    assert_eq!(ended, [(id("p.c"), TaskState::Failed)]);
    assert_eq!(workflow, Some(WorkflowState::Running));
    let flow = stand.workflow("w").await;
    assert_eq!(flow.tasks[1].dependencies, [(id("p.b"), Fail), (id("p.c"), Continue)]);
    assert_eq!(released(stand.complete(&within("w", "p.b")).await), ["p.join"]);
    assert_eq!(released(stand.complete(&within("w", "p.join")).await), ["p"]);
    let (_, told) = resumed(stand.claim(&within("w", "p"), 1, "worker").await);
    assert_eq!(told, ["p.join", "p.a", "p.b", "p.c"]);
}

/// The end that fails the last open children releases their parent.
pub(crate) async fn a_cascade_among_children_releases_their_parent(stand: Stand) {
    stand.create(&plan("w", &[("p", &[])])).await;
    let p = stand.lease(&within("w", "p")).await;
    let list: [(&str, &[(&str, Otherwise)]); 3] =
        [("p.a", &[]), ("p.b", &[("p.a", Fail)]), ("p.c", &[("p.b", Fail)])];
    stand.expand(&p, planned("w", &list), 1).await;
    let last = stand.end_as(&within("w", "p.a"), TaskState::Expired).await;
    let Finished::Done { released: ready, ended, .. } = last else { panic!("{last:?}") };
    assert_eq!(owned(&ready), ["p"]);
    assert_eq!(ended, [(id("p.b"), TaskState::Failed), (id("p.c"), TaskState::Failed)]);
}

pub(crate) async fn a_childs_end_does_not_count(stand: Stand) {
    expanded(&stand, "w", &["p.0", "p.1"], 0).await;
    stand.end_as(&within("w", "p.0"), TaskState::Failed).await;
    stand.end_as(&within("w", "p.1"), TaskState::Expired).await;
    for name in ["p", "after", "x"] {
        stand.complete(&within("w", name)).await;
    }
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Completed);
    // And a parent's failure does, although its children are completed.
    expanded(&stand, "v", &["p.0"], 0).await;
    stand.complete(&within("v", "p.0")).await;
    stand.complete(&within("v", "x")).await;
    stand.end_as(&within("v", "p"), TaskState::Failed).await;
    assert_eq!(stand.workflow("v").await.state, WorkflowState::Failed);
}

pub(crate) async fn a_child_may_have_children(stand: Stand) {
    expanded(&stand, "w", &["p.0", "p.1"], 2).await;
    let child = stand.lease(&within("w", "p.0")).await;
    assert_eq!(released(stand.expand(&child, apart("w", &["p.0.0", "p.0.1"]), 1).await), ["p.0.0"]);
    let states = "p waiting, p.0 waiting, p.0.0 queued, p.0.1 waiting, p.1 queued, after waiting, x queued";
    assert_eq!(stand.states("w").await, states);
    let flow = stand.workflow("w").await;
    assert_eq!(flow.tasks[3].parent, Some(id("p.0")));
    stand.complete(&within("w", "p.1")).await;
    assert_eq!(released(stand.complete(&within("w", "p.0.0")).await), ["p.0.1"]);
    assert_eq!(released(stand.complete(&within("w", "p.0.1")).await), ["p.0"]);
    let (lease, told) = resumed(stand.claim(&within("w", "p.0"), 1, "worker").await);
    assert_eq!(told, ["p.0.0", "p.0.1"]);
    assert_eq!(released(stand.end(&lease, TaskState::Completed).await), ["p"]);
    let (lease, told) = resumed(stand.claim(&within("w", "p"), 1, "worker").await);
    assert_eq!(told, ["p.0", "p.1"]);
    assert_eq!(released(stand.end(&lease, TaskState::Completed).await), ["after"]);
}

pub(crate) async fn cancel_reaches_children(stand: Stand) {
    let parent = expanded(&stand, "w", &["p.0", "p.1", "p.2"], 2).await;
    let child = lease(stand.claim(&within("w", "p.0"), 1, "worker2").await);
    stand.complete(&within("w", "p.1")).await;
    let running = vec![(within("w", "p.0"), id("worker2"))];
    assert_eq!(stand.cancel("w", Why::Request { by: None }).await, Cancelled::Done { running, reply: None });
    assert_eq!(stand.end(&child, TaskState::Completed).await, Finished::Lost);
    assert_eq!(stand.expand(&parent, apart("w", &["p.0"]), 0).await, Finished::Lost);
    let states = "p cancelled, p.0 cancelled, p.1 completed, p.2 cancelled, after cancelled, x cancelled";
    assert_eq!(stand.states("w").await, states);
    for name in ["p", "p.0", "p.2"] {
        assert_eq!(stand.claim(&within("w", name), 1, "worker").await, over(TaskState::Cancelled));
        assert_eq!(parse(stand.result(&within("w", name)).await)["error"]["name"], "TASK_CANCELLED");
    }
}

pub(crate) async fn an_expansion_by_a_lost_lease_is_refused(stand: Stand) {
    stand.create(&plan("w", &[("p", &[]), ("x", &[])])).await;
    let first = stand.lease(&within("w", "p")).await;
    let second = lease(stand.take_over(&within("w", "p"), "other", first.fence).await);
    assert_eq!(stand.expand(&first, apart("w", &["p.0"]), 0).await, Finished::Lost);
    assert_eq!(stand.states("w").await, "p running, x queued");
    // An id is a task's for ever.
    let end = End::Expanded { tasks: apart("w", &["x"]), max_parallel: None };
    let error = stand.store.finish(&second, &end, stand.now()).await;
    assert!(matches!(error, Err(StoreError::Corrupt { .. })), "{error:?}");
    assert_eq!(stand.states("w").await, "p running, x queued");
    assert_eq!(released(stand.expand(&second, apart("w", &["p.0"]), 0).await), ["p.0"]);
}

pub(crate) async fn two_thousand_children(stand: Stand) {
    let labels: Vec<String> = (0..2000).map(|number| format!("p.{number}")).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    stand.create(&plan("w", &[("p", &[])])).await;
    let p = stand.lease(&within("w", "p")).await;
    let ready = released(stand.expand(&p, apart("w", &labels), 0).await);
    assert_eq!(ready.len(), 2000);
    let mut finishing = tokio::task::JoinSet::new();
    for child in ready {
        let (stand, key) = (stand.clone(), within("w", &child));
        finishing.spawn(async move { released(stand.complete(&key).await) });
    }
    assert_eq!(finishing.join_all().await.concat(), ["p"]);
    let (lease, told) = resumed(stand.claim(&within("w", "p"), 1, "worker").await);
    assert_eq!(told, labels);
    let told: Vec<_> = told.iter().map(|name| id(name)).collect();
    let results = stand.store.results(&id("w"), &told).await.expect("answers");
    assert_eq!(results.iter().flatten().count(), 2000);
    stand.end(&lease, TaskState::Completed).await;
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Completed);
}
