//! Workflows: who is released when, and what the end looks like.

use serde_json::{Value, json};

use super::stand::{Stand, TTL, alone, claim, document, id, lease, names, parse, plan, released, within};
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::{Claim, Claimed, Created, End, Finished, Plan};

fn running(created: Created) -> Vec<String> {
    match created {
        Created::Running(released) => names(&released).into_iter().map(str::to_owned).collect(),
        Created::Over(state) => panic!("the workflow is {state}"),
    }
}

pub(crate) async fn create_can_be_repeated(stand: Stand) {
    let plan = plan("w", &[("a", &[]), ("b", &["a"]), ("c", &[])]);
    let first = stand.create(&plan).await;
    let Created::Running(ready) = &first else { panic!("{first:?}") };
    assert_eq!(names(ready), ["a", "c"]);
    assert_eq!(ready[0].message, plan.tasks[0].message);
    assert_eq!(stand.create(&plan).await, first);
    // What a worker has is not to be published again.
    let lease = stand.lease(&within("w", "a")).await;
    assert_eq!(running(stand.create(&plan).await), ["c"]);
    stand.end(&lease, TaskState::Completed).await;
    assert_eq!(running(stand.create(&plan).await), ["b", "c"]);
    stand.complete(&within("w", "b")).await;
    stand.complete(&within("w", "c")).await;
    assert_eq!(stand.create(&plan).await, Created::Over(WorkflowState::Completed));
    let flow = stand.store.workflow(&id("w")).await.expect("answers").expect("known");
    assert_eq!((flow.state, flow.name.as_str()), (WorkflowState::Completed, "Plan w"));
    let states: Vec<TaskState> = flow.tasks.iter().map(|task| task.state).collect();
    assert_eq!(states, [TaskState::Completed; 3]);
    assert_eq!(flow.tasks[1].dependencies, [id("a")]);
}

pub(crate) async fn a_step_of_a_workflow_can_be_repeated(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"]), ("c", &["a"])])).await;
    let lease = stand.lease(&within("w", "a")).await;
    let first = stand.end(&lease, TaskState::Completed).await;
    assert_eq!(stand.end(&lease, TaskState::Completed).await, first);
    let Finished::Done { released: both, .. } = first else { panic!("{first:?}") };
    assert_eq!(names(&both), ["b", "c"]);
    let over = |released| Claimed::Over { state: TaskState::Completed, released };
    assert_eq!(stand.claim(&within("w", "a"), 1, "other").await, over(both.clone()));
    // Once a worker has one of them, only the other one is to be published again.
    stand.lease(&within("w", "b")).await;
    assert_eq!(stand.claim(&within("w", "a"), 1, "other").await, over(both[1..].to_vec()));
    assert_eq!(released(stand.end(&lease, TaskState::Completed).await), ["c"]);
}

pub(crate) async fn a_task_is_not_ready_before_its_dependencies(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &[]), ("c", &["a", "b"])])).await;
    assert_eq!(stand.claim(&within("w", "c"), 1, "worker").await, Claimed::NotReady);
    assert!(released(stand.complete(&within("w", "a")).await).is_empty());
    assert_eq!(stand.claim(&within("w", "c"), 1, "worker").await, Claimed::NotReady);
    assert_eq!(stand.state(&within("w", "c")).await, Some(TaskState::Waiting));
    assert_eq!(released(stand.complete(&within("w", "b")).await), ["c"]);
    assert_eq!(stand.state(&within("w", "c")).await, Some(TaskState::Queued));
    let done = stand.complete(&within("w", "c")).await;
    let workflow = Some(WorkflowState::Completed);
    assert_eq!(done, Finished::Done { released: vec![], failed: vec![], workflow });
}

pub(crate) async fn a_workflow_that_nobody_knows(stand: Stand) {
    assert_eq!(stand.claim(&within("w", "a"), 1, "worker").await, Claimed::NoWorkflow);
    assert_eq!(stand.state(&within("w", "a")).await, None);
    assert_eq!(stand.store.workflow(&id("w")).await, Ok(None));
    assert_eq!(stand.outcome("w").await, None);
}

pub(crate) async fn a_refused_plan_ends_with_the_reason(stand: Stand) {
    let refused = Failure::new(Code::WorkflowCircularDependency, "a needs b needs a, \"100%\" sure");
    let refuse = |name: &str| Plan { refused: Some(refused.clone()), ..plan(name, &[]) };
    for _ in 0..2 {
        assert_eq!(stand.create(&refuse("w")).await, Created::Over(WorkflowState::Failed));
    }
    let outcome = parse(stand.outcome("w").await);
    assert_eq!((&outcome["status"], &outcome["name"]), (&json!("failed"), &json!("Plan w")));
    assert_eq!(outcome["error"], json!(refused));
    assert_eq!(outcome["tasks"], json!([]));
    let flow = stand.store.workflow(&id("w")).await.expect("answers").expect("known");
    assert_eq!((flow.state, flow.tasks.len()), (WorkflowState::Failed, 0));
    // One that is known already stays what it is.
    stand.create(&plan("x", &[("a", &[])])).await;
    assert!(matches!(stand.create(&refuse("x")).await, Created::Running(_)));
    stand.complete(&within("x", "a")).await;
    assert_eq!(stand.create(&refuse("x")).await, Created::Over(WorkflowState::Completed));
}

pub(crate) async fn a_diamond_is_released_by_one_of_eight(stand: Stand) {
    let other = stand.other().await;
    let parents: Vec<String> = (0..8).map(|number| format!("p{number}")).collect();
    let parents: Vec<&str> = parents.iter().map(String::as_str).collect();
    for round in 0..10 {
        let workflow = format!("w{round}");
        let mut tasks: Vec<(&str, &[&str])> = parents.iter().map(|name| (*name, &[] as &[&str])).collect();
        tasks.push(("join", &parents));
        stand.create(&plan(&workflow, &tasks)).await;
        let mut finishing = tokio::task::JoinSet::new();
        for (number, parent) in parents.iter().enumerate() {
            let stand = if number % 2 == 0 { stand.clone() } else { other.clone() };
            let key = within(&workflow, parent);
            let lease = stand.lease(&key).await;
            finishing.spawn(async move { released(stand.end(&lease, TaskState::Completed).await) });
        }
        let released: Vec<String> = finishing.join_all().await.concat();
        assert_eq!(released, ["join"]);
    }
}

pub(crate) async fn a_failure_cascades(stand: Stand) {
    let tasks: [(&str, &[&str]); 6] = [
        ("a", &[]),
        ("b", &["a"]),
        ("c", &["b"]),
        ("d", &["c", "free"]),
        ("free", &[]),
        ("after", &["free"]),
    ];
    stand.create(&plan("w", &tasks)).await;
    let lease = stand.lease(&within("w", "a")).await;
    let done = stand.end(&lease, TaskState::Failed).await;
    let Finished::Done { released, failed, workflow } = done else { panic!("{done:?}") };
    assert!(released.is_empty());
    assert_eq!(failed, [id("b"), id("c"), id("d")]);
    assert_eq!(workflow, Some(WorkflowState::Running));
    for (task, cause) in [("b", "a"), ("c", "b"), ("d", "c")] {
        let document = parse(stand.result(&within("w", task)).await);
        assert_eq!(document["status"], "failed");
        assert_eq!(document["error"]["name"], "TASK_DEPENDENCY_FAILED");
        assert_eq!(document["error"]["details"]["dependency"], cause);
        assert_eq!(document["name"], format!("the \"{task}\""));
        let over = Claimed::Over { state: TaskState::Failed, released: vec![] };
        assert_eq!(stand.claim(&within("w", task), 1, "worker").await, over);
    }
    assert_eq!(super::stand::released(stand.complete(&within("w", "free")).await), ["after"]);
    let done = stand.complete(&within("w", "after")).await;
    let workflow = Some(WorkflowState::Failed);
    assert_eq!(done, Finished::Done { released: vec![], failed: vec![], workflow });
    let document = parse(stand.outcome("w").await);
    assert_eq!(document["status"], "failed");
    assert_eq!(document["error"]["name"], "WORKFLOW_EXECUTION_FAILED");
    let statuses: Vec<&Value> =
        document["tasks"].as_array().expect("a list").iter().map(|task| &task["status"]).collect();
    assert_eq!(statuses, ["failed", "failed", "failed", "failed", "completed", "completed"]);
}

pub(crate) async fn a_workflow_with_two_failures_ends_once(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &[]), ("c", &["a", "b"])])).await;
    let (a, b) = (stand.lease(&within("w", "a")).await, stand.lease(&within("w", "b")).await);
    let first = stand.end(&a, TaskState::Failed).await;
    let running = Some(WorkflowState::Running);
    assert_eq!(first, Finished::Done { released: vec![], failed: vec![id("c")], workflow: running });
    let cause = parse(stand.result(&within("w", "c")).await);
    let second = stand.end(&b, TaskState::Failed).await;
    let failed = Some(WorkflowState::Failed);
    assert_eq!(second, Finished::Done { released: vec![], failed: vec![], workflow: failed });
    assert_eq!(parse(stand.result(&within("w", "c")).await), cause);
    let outcome = stand.outcome("w").await;
    stand.end(&a, TaskState::Completed).await;
    stand.end(&b, TaskState::Completed).await;
    assert_eq!(stand.outcome("w").await, outcome);
}

pub(crate) async fn inputs_come_in_the_order_asked(stand: Stand) {
    let tasks: [(&str, &[&str]); 3] = [("a", &[]), ("b", &[]), ("c", &["a", "b"])];
    stand.create(&plan("w", &tasks)).await;
    stand.complete(&within("w", "a")).await;
    stand.complete(&within("w", "b")).await;
    let inputs = vec![id("b"), id("nowhere"), id("a"), id("b")];
    let claimed = stand.ask(&Claim { inputs, ..claim(&within("w", "c"), 1, "worker") }).await;
    let Claimed::Run { inputs, .. } = claimed else { panic!("{claimed:?}") };
    let of = |task: &str| Some(document(&within("w", task), TaskState::Completed, json!(task)));
    assert_eq!(inputs, [of("b"), None, of("a"), of("b")]);
}

pub(crate) async fn the_document_has_the_order_of_the_file(stand: Stand) {
    stand.create(&plan("w", &[("z", &[]), ("a", &[]), ("m", &[])])).await;
    assert_eq!(stand.outcome("w").await, None);
    for task in ["m", "a", "z"] {
        stand.complete(&within("w", task)).await;
    }
    let document = parse(stand.outcome("w").await);
    assert_eq!(document["workflow_id"], "w");
    assert_eq!(document["name"], "Plan w");
    assert_eq!(document["status"], "completed");
    assert_eq!(document["error"], Value::Null);
    let flow = stand.store.workflow(&id("w")).await.expect("answers").expect("known");
    assert_eq!(document["created_at"], json!(flow.created_at));
    assert_eq!(document["ended_at"], json!(flow.ended_at.expect("it has ended")));
    let tasks = document["tasks"].as_array().expect("a list");
    let expected = ["z", "a", "m"];
    assert_eq!(tasks.len(), 3);
    for (task, name) in tasks.iter().zip(expected) {
        assert_eq!(*task, parse(stand.result(&within("w", name)).await));
    }
}

pub(crate) async fn an_unwanted_result_is_left_out_of_the_document(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"])])).await;
    let key = within("w", "a");
    let lease = stand.lease(&key).await;
    let document = document(&key, TaskState::Completed, json!("unwanted"));
    let end =
        End::Ended { state: TaskState::Completed, document, keep: false, ttl: TTL, entry: "{}".to_owned() };
    assert_eq!(released(stand.finish(&lease, &end).await), ["b"]);
    assert_eq!(stand.result(&key).await, None);
    stand.complete(&within("w", "b")).await;
    let outcome = stand.outcome("w").await;
    let text = String::from_utf8(outcome.clone().expect("there").to_vec()).expect("text");
    assert!(!text.contains("unwanted"), "{text}");
    let tasks = parse(outcome)["tasks"].clone();
    assert_eq!((&tasks[0]["id"], &tasks[0]["status"]), (&json!("a"), &json!("completed")));
    assert_eq!((&tasks[0]["result"], &tasks[0]["result_omitted"]), (&Value::Null, &json!(true)));
    assert_eq!(tasks[1]["result"], "b");
}

pub(crate) async fn a_retry_keeps_the_workflow_waiting(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"])])).await;
    let first = stand.lease(&within("w", "a")).await;
    let again = End::Again { due: stand.now(), entry: "{}".to_owned() };
    let running = Some(WorkflowState::Running);
    let done = stand.finish(&first, &again).await;
    assert_eq!(done, Finished::Done { released: vec![], failed: vec![], workflow: running });
    assert_eq!(stand.claim(&within("w", "b"), 1, "worker").await, Claimed::NotReady);
    // It has been claimed before, so whoever made the retry publishes it, nobody else.
    assert!(running_names(&stand).await.is_empty());
    let second = lease(stand.claim(&within("w", "a"), 2, "worker").await);
    assert_eq!(released(stand.end(&second, TaskState::Completed).await), ["b"]);
    assert_eq!(stand.state(&alone("w")).await, None);
}

async fn running_names(stand: &Stand) -> Vec<String> {
    running(stand.create(&plan("w", &[("a", &[]), ("b", &["a"])])).await)
}
