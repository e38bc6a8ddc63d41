//! Workflows: who is released when, and what the end looks like.

use serde_json::{Value, json};

use super::stand::{
    Stand, TTL, alone, claim, document, done, failed, id, lease, names, not_ready, over, parse, plan,
    released, taken_in, within,
};
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::{Claim, Claimed, Created, End, Finished, Inputs, Otherwise, Plan};

fn running(created: Created) -> Vec<String> {
    assert_eq!(created.state, WorkflowState::Running);
    names(&created.released).into_iter().map(str::to_owned).collect()
}

pub(crate) async fn create_can_be_repeated(stand: Stand) {
    let plan = plan("w", &[("a", &[]), ("b", &["a"]), ("c", &[])]);
    let first = stand.create(&plan).await;
    let ready = &first.released;
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
    assert_eq!(stand.create(&plan).await, taken_in(WorkflowState::Completed));
    let flow = stand.store.workflow(&id("w")).await.expect("answers").expect("known");
    assert_eq!((flow.state, flow.name.as_str()), (WorkflowState::Completed, "Plan w"));
    let states: Vec<TaskState> = flow.tasks.iter().map(|task| task.state).collect();
    assert_eq!(states, [TaskState::Completed; 3]);
    assert_eq!(flow.tasks[1].dependencies, [(id("a"), Otherwise::Fail)]);
}

pub(crate) async fn a_step_of_a_workflow_can_be_repeated(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"]), ("c", &["a"])])).await;
    let lease = stand.lease(&within("w", "a")).await;
    let first = stand.end(&lease, TaskState::Completed).await;
    assert_eq!(stand.end(&lease, TaskState::Completed).await, first);
    let Finished::Done { released: both, .. } = first else { panic!("{first:?}") };
    assert_eq!(names(&both), ["b", "c"]);
    let over = |released| Claimed::Over { state: TaskState::Completed, released, differs: false };
    assert_eq!(stand.claim(&within("w", "a"), 1, "other").await, over(both.clone()));
    // Once a worker has one of them, only the other one is to be published again.
    stand.lease(&within("w", "b")).await;
    assert_eq!(stand.claim(&within("w", "a"), 1, "other").await, over(both[1..].to_vec()));
    assert_eq!(released(stand.end(&lease, TaskState::Completed).await), ["c"]);
}

/// The answer to an end may be lost any number of times.
pub(crate) async fn a_repeated_end_counts_once(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &[]), ("c", &["a", "b"])])).await;
    let lease = stand.lease(&within("w", "a")).await;
    for _ in 0..3 {
        assert!(released(stand.end(&lease, TaskState::Completed).await).is_empty());
    }
    assert_eq!(stand.claim(&within("w", "c"), 1, "worker").await, not_ready());
    assert_eq!(released(stand.complete(&within("w", "b")).await), ["c"]);
    assert_eq!(stand.outcome("w").await, None);
    stand.complete(&within("w", "c")).await;
    assert!(stand.outcome("w").await.is_some());
}

pub(crate) async fn a_task_is_not_ready_before_its_dependencies(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &[]), ("c", &["a", "b"])])).await;
    assert_eq!(stand.claim(&within("w", "c"), 1, "worker").await, not_ready());
    assert!(released(stand.complete(&within("w", "a")).await).is_empty());
    assert_eq!(stand.claim(&within("w", "c"), 1, "worker").await, not_ready());
    assert_eq!(stand.state(&within("w", "c")).await, Some(TaskState::Waiting));
    assert_eq!(released(stand.complete(&within("w", "b")).await), ["c"]);
    assert_eq!(stand.state(&within("w", "c")).await, Some(TaskState::Queued));
    let last = stand.complete(&within("w", "c")).await;
    let workflow = Some(WorkflowState::Completed);
    assert_eq!(last, done(&[], workflow));
}

pub(crate) async fn a_workflow_that_nobody_knows(stand: Stand) {
    assert_eq!(stand.claim(&within("w", "a"), 1, "worker").await, Claimed::NoWorkflow);
    assert_eq!(stand.state(&within("w", "a")).await, None);
    assert_eq!(stand.store.workflow(&id("w")).await, Ok(None));
    assert_eq!(stand.outcome("w").await, None);
}

pub(crate) async fn a_refused_plan_ends_with_the_reason(stand: Stand) {
    let refused = Failure::new(
        Code::WorkflowCircularDependency,
        "a needs b needs a, \"100%\" sure, @NOW@ as @CREATED@",
    );
    let refuse = |name: &str| Plan { refused: Some(refused.clone()), ..plan(name, &[]) };
    for _ in 0..2 {
        assert_eq!(stand.create(&refuse("w")).await, taken_in(WorkflowState::Failed));
    }
    let outcome = parse(stand.outcome("w").await);
    assert_eq!((&outcome["status"], &outcome["name"]), (&json!("failed"), &json!("Plan w")));
    assert_eq!(outcome["error"], json!(refused));
    assert_eq!(outcome["tasks"], json!([]));
    let flow = stand.store.workflow(&id("w")).await.expect("answers").expect("known");
    assert_eq!((flow.state, flow.tasks.len()), (WorkflowState::Failed, 0));
    // One that is known already stays what it is.
    stand.create(&plan("x", &[("a", &[])])).await;
    assert_eq!(stand.create(&refuse("x")).await.state, WorkflowState::Running);
    stand.complete(&within("x", "a")).await;
    assert_eq!(stand.create(&refuse("x")).await, taken_in(WorkflowState::Completed));
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
    let last = stand.end(&lease, TaskState::Failed).await;
    let Finished::Done { released, ended, workflow } = last else { panic!("{last:?}") };
    assert!(released.is_empty());
    assert_eq!(ended, failed(&["b", "c"]));
    assert_eq!(workflow, Some(WorkflowState::Running));
    // What has another dependency is decided when that has ended as well.
    assert_eq!(stand.state(&within("w", "d")).await, Some(TaskState::Waiting));
    let last = stand.complete(&within("w", "free")).await;
    let Finished::Done { released, ended, .. } = last else { panic!("{last:?}") };
    assert_eq!((names(&released), ended), (vec!["after"], failed(&["d"])));
    for (task, cause) in [("b", "a"), ("c", "b"), ("d", "c")] {
        let document = parse(stand.result(&within("w", task)).await);
        assert_eq!(document["status"], "failed");
        assert_eq!(document["error"]["name"], "TASK_DEPENDENCY_FAILED");
        assert_eq!(document["error"]["details"]["dependency"], cause);
        assert_eq!(document["name"], format!("the \"{task}\""));
        let over = over(TaskState::Failed);
        assert_eq!(stand.claim(&within("w", task), 1, "worker").await, over);
    }
    let last = stand.complete(&within("w", "after")).await;
    let workflow = Some(WorkflowState::Failed);
    assert_eq!(last, done(&[], workflow));
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
    assert_eq!(first, done(&[], Some(WorkflowState::Running)));
    let second = stand.end(&b, TaskState::Failed).await;
    assert_eq!(second, done(&["c"], Some(WorkflowState::Failed)));
    let cause = parse(stand.result(&within("w", "c")).await);
    assert_eq!(cause["error"]["details"]["dependency"], "a");
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
    let Claimed::Run { inputs: Inputs::Read(inputs), .. } = claimed else { panic!("{claimed:?}") };
    let of = |task: &str| Some(document(&within("w", task), TaskState::Completed, json!(task)));
    assert_eq!(inputs, [of("b"), None, of("a"), of("b")]);
}

/// They are measured, not read: the attempt starts, so that it can end with the reason.
pub(crate) async fn results_that_are_too_large_together_are_not_read(stand: Stand) {
    stand.create(&plan("w", &[("a", &[]), ("b", &[]), ("c", &["a", "b"])])).await;
    let mut bytes = 0;
    for name in ["a", "b"] {
        stand.complete(&within("w", name)).await;
        bytes += stand.result(&within("w", name)).await.expect("it is kept").len();
    }
    let ask = |inputs_bytes_max| Claim {
        inputs: vec![id("a"), id("nowhere"), id("b")],
        inputs_bytes_max,
        ..claim(&within("w", "c"), 1, "worker")
    };
    let claimed = stand.ask(&ask(bytes - 1)).await;
    let Claimed::Run { lease, inputs, .. } = claimed else { panic!("{claimed:?}") };
    assert_eq!(inputs, Inputs::TooLarge { bytes: u64::try_from(bytes).expect("few") });
    stand.finish(&lease, &End::Abandoned).await;
    let claimed = stand.ask(&ask(bytes)).await;
    let Claimed::Run { inputs: Inputs::Read(inputs), .. } = claimed else { panic!("{claimed:?}") };
    assert_eq!(inputs.iter().flatten().count(), 2);
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
    let end = End::Ended {
        state: TaskState::Completed,
        document,
        keep: false,
        ttl: TTL,
        entry: "{}".to_owned(),
        retry: None,
    };
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
    let last = stand.finish(&first, &again).await;
    assert_eq!(last, done(&[], running));
    assert_eq!(stand.claim(&within("w", "b"), 1, "worker").await, not_ready());
    // It has been claimed before, so whoever made the retry publishes it, nobody else.
    assert!(running_names(&stand).await.is_empty());
    let second = lease(stand.claim(&within("w", "a"), 2, "worker").await);
    assert_eq!(released(stand.end(&second, TaskState::Completed).await), ["b"]);
    assert_eq!(stand.state(&alone("w")).await, None);
}

async fn running_names(stand: &Stand) -> Vec<String> {
    running(stand.create(&plan("w", &[("a", &[]), ("b", &["a"])])).await)
}
