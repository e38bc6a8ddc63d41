//! Wide graphs.

use super::stand::{Stand, done, id, names, parse, plan, released, within};
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::{Claim, Claimed, Finished, Inputs};

pub(crate) async fn a_fan_in_of_five_hundred(stand: Stand) {
    let parents: Vec<String> = (0..500).map(|number| format!("p{number}")).collect();
    let parents: Vec<&str> = parents.iter().map(String::as_str).collect();
    let mut tasks: Vec<(&str, &[&str])> = parents.iter().map(|name| (*name, &[] as &[&str])).collect();
    tasks.push(("join", &parents));
    stand.create(&plan("w", &tasks)).await;
    let mut finishing = tokio::task::JoinSet::new();
    for parent in &parents {
        let (stand, key) = (stand.clone(), within("w", parent));
        finishing.spawn(async move { released(stand.complete(&key).await) });
    }
    assert_eq!(finishing.join_all().await.concat(), ["join"]);
    let inputs = parents.iter().map(|name| id(name)).collect();
    let join = within("w", "join");
    let claimed = stand.ask(&Claim { inputs, ..super::stand::claim(&join, 1, "worker") }).await;
    let Claimed::Run { lease, inputs: Inputs::Read(inputs), .. } = claimed else { panic!("{claimed:?}") };
    assert_eq!((inputs.len(), inputs.iter().flatten().count()), (500, 500));
    assert_eq!(parse(inputs[7].clone())["result"], "p7");
    let workflow = Some(WorkflowState::Completed);
    let last = stand.end(&lease, TaskState::Completed).await;
    assert_eq!(last, done(&[], workflow));
}

/// A root, `width` tasks that depend on it, and one that depends on all of these.
fn fan(width: usize) -> gleitzeit::store::Plan {
    let children: Vec<String> = (0..width).map(|number| format!("c{number}")).collect();
    let children: Vec<&str> = children.iter().map(String::as_str).collect();
    let mut tasks: Vec<(&str, &[&str])> = vec![("root", &[])];
    tasks.extend(children.iter().map(|name| (*name, &["root"] as &[&str])));
    tasks.push(("join", &children));
    plan("w", &tasks)
}

pub(crate) async fn a_fan_out_of_two_thousand(stand: Stand) {
    let plan = fan(2000);
    let ready = stand.create(&plan).await.released;
    assert_eq!(names(&ready), ["root"]);
    let released = released(stand.complete(&within("w", "root")).await);
    assert_eq!(released.len(), 2000);
    assert_eq!((released[0].as_str(), released[1999].as_str()), ("c0", "c1999"));
    let mut finishing = tokio::task::JoinSet::new();
    for child in released {
        let (stand, key) = (stand.clone(), within("w", &child));
        finishing.spawn(async move { super::stand::released(stand.complete(&key).await) });
    }
    assert_eq!(finishing.join_all().await.concat(), ["join"]);
    stand.complete(&within("w", "join")).await;
    let document = parse(stand.outcome("w").await);
    assert_eq!(document["status"], "completed");
    assert_eq!(document["tasks"].as_array().map(Vec::len), Some(2002));
}

pub(crate) async fn a_failure_before_two_thousand(stand: Stand) {
    stand.create(&fan(2000)).await;
    let lease = stand.lease(&within("w", "root")).await;
    let last = stand.end(&lease, TaskState::Failed).await;
    let Finished::Done { released, ended, workflow } = last else { panic!("{last:?}") };
    assert!(released.is_empty());
    assert_eq!((ended.len(), workflow), (2001, Some(WorkflowState::Failed)));
    assert_eq!(stand.state(&within("w", "join")).await, Some(TaskState::Failed));
}

pub(crate) async fn a_chain_of_two_thousand_fails_in_one_step(stand: Stand) {
    let steps: Vec<String> = (0..2000).map(|number| format!("s{number}")).collect();
    let before: Vec<Vec<&str>> =
        (0..steps.len()).map(|at| steps[..at].last().map(String::as_str).into_iter().collect()).collect();
    let tasks: Vec<(&str, &[&str])> =
        steps.iter().zip(&before).map(|(name, before)| (name.as_str(), before.as_slice())).collect();
    stand.create(&plan("w", &tasks)).await;
    let lease = stand.lease(&within("w", "s0")).await;
    let last = stand.end(&lease, TaskState::Expired).await;
    let Finished::Done { ended, workflow, .. } = last else { panic!("{last:?}") };
    assert_eq!((ended.len(), workflow), (1999, Some(WorkflowState::Failed)));
    let document = parse(stand.result(&within("w", "s1999")).await);
    assert_eq!(document["error"]["details"]["dependency"], "s1998");
}
