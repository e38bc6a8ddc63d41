//! What becomes of a task whose dependency did not complete.

use super::stand::{Stand, graph, id, names, over, owned, parse, within};
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::Otherwise::{self, Continue, Fail, Skip};
use gleitzeit::store::{Finished, Plan, Retried};
use serde_json::json;

const ENDS: [TaskState; 5] =
    [TaskState::Completed, TaskState::Skipped, TaskState::Failed, TaskState::Cancelled, TaskState::Expired];

/// The table of the law: how the dependent ends; `None` where it is satisfied.
fn verdict(end: TaskState, otherwise: Otherwise) -> Option<TaskState> {
    match (end, otherwise) {
        (TaskState::Completed, _) | (_, Continue) => None,
        (TaskState::Skipped, _) | (_, Skip) => Some(TaskState::Skipped),
        (_, Fail) => Some(TaskState::Failed),
    }
}

/// Over all edges.
fn sum(verdicts: &[Option<TaskState>]) -> Option<TaskState> {
    [TaskState::Failed, TaskState::Skipped].into_iter().find(|state| verdicts.contains(&Some(*state)))
}

pub(crate) async fn every_policy_does_what_the_table_says(stand: Stand) {
    for end in ENDS {
        let workflow = format!("w-{end}");
        let tasks: [(&str, &[(&str, Otherwise)]); 4] = [
            ("a", &[]),
            ("fail", &[("a", Fail)]),
            ("skip", &[("a", Skip)]),
            ("continue", &[("a", Continue)]),
        ];
        stand.create(&graph(&workflow, &tasks)).await;
        let last = stand.end_as(&within(&workflow, "a"), end).await;
        let Finished::Done { released, ended, .. } = last else { panic!("{last:?}") };
        let (mut ready, mut unrun) = (Vec::new(), Vec::new());
        for (name, otherwise) in [("fail", Fail), ("skip", Skip), ("continue", Continue)] {
            let state = verdict(end, otherwise);
            let key = within(&workflow, name);
            assert_eq!(stand.state(&key).await, Some(state.unwrap_or(TaskState::Queued)), "{end} {name}");
            match state {
                None => ready.push(name),
                Some(state) => {
                    unrun.push((id(name), state));
                    assert_eq!(stand.claim(&key, 1, "worker").await, over(state));
                }
            }
        }
        assert_eq!(names(&released), ready, "{end}");
        assert_eq!(ended, unrun, "{end}");
    }
}

/// Three dependencies that end differently, a dependent for every pair of them and every pair of policies;
/// every order of the three ends.
pub(crate) async fn the_order_of_ends_does_not_matter(stand: Stand) {
    let ends = [TaskState::Completed, TaskState::Skipped, TaskState::Failed];
    let policies = [Fail, Skip, Continue];
    let mut dependents = Vec::new();
    for (first, second) in [(0, 1), (0, 2), (1, 2)] {
        for one in policies {
            for other in policies {
                dependents.push((first, one, second, other));
            }
        }
    }
    let parents = ["completed", "skipped", "failed"];
    let edges: Vec<[(&str, Otherwise); 2]> =
        dependents.iter().map(|(a, one, b, other)| [(parents[*a], *one), (parents[*b], *other)]).collect();
    let labels: Vec<String> = (0..edges.len()).map(|at| format!("d{at}")).collect();
    let mut tasks: Vec<(&str, &[(&str, Otherwise)])> =
        parents.iter().map(|name| (*name, &[] as &[(&str, Otherwise)])).collect();
    tasks.extend(labels.iter().zip(&edges).map(|(label, edges)| (label.as_str(), edges.as_slice())));
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let workflow = format!("w{order:?}").replace(['[', ']', ',', ' '], "");
        stand.create(&graph(&workflow, &tasks)).await;
        let mut done: Vec<usize> = Vec::new();
        for parent in order {
            stand.end_as(&within(&workflow, parents[parent]), ends[parent]).await;
            done.push(parent);
            let flow = stand.workflow(&workflow).await;
            for ((first, one, second, other), task) in dependents.iter().zip(&flow.tasks[3..]) {
                let verdicts = [verdict(ends[*first], *one), verdict(ends[*second], *other)];
                let expected = match done.contains(first) && done.contains(second) {
                    true => sum(&verdicts).unwrap_or(TaskState::Queued),
                    false => TaskState::Waiting,
                };
                let edges = format!("{one:?} {} {other:?} {}", ends[*first], ends[*second]);
                assert_eq!(task.state, expected, "{edges} after {done:?}");
            }
        }
    }
}

pub(crate) async fn a_verdict_goes_down_the_graph(stand: Stand) {
    let tasks: [(&str, &[(&str, Otherwise)]); 9] = [
        ("a", &[]),
        ("skip", &[("a", Skip)]),
        ("after-skip", &[("skip", Fail)]),
        ("on", &[("after-skip", Continue)]),
        ("fail", &[("a", Fail)]),
        ("skip-fail", &[("fail", Skip)]),
        ("both", &[("skip", Fail), ("fail", Fail)]),
        ("on-both", &[("both", Continue), ("skip-fail", Continue)]),
        ("waits", &[("on", Fail), ("on-both", Fail)]),
    ];
    stand.create(&graph("w", &tasks)).await;
    let lease = stand.lease(&within("w", "a")).await;
    let last = stand.end(&lease, TaskState::Failed).await;
    let Finished::Done { released, mut ended, workflow } = last else { panic!("{last:?}") };
    let mut ready = owned(&released);
    ready.sort();
    assert_eq!(ready, ["on", "on-both"]);
    ended.sort_by_key(|(id, _)| id.to_string());
    let expected = [
        ("after-skip", TaskState::Skipped),
        ("both", TaskState::Failed),
        ("fail", TaskState::Failed),
        ("skip", TaskState::Skipped),
        ("skip-fail", TaskState::Skipped),
    ];
    assert_eq!(ended, expected.map(|(name, state)| (id(name), state)));
    assert_eq!(workflow, Some(WorkflowState::Running));
    let states = "a failed, skip skipped, after-skip skipped, on queued, fail failed, skip-fail skipped, \
                  both failed, on-both queued, waits waiting";
    assert_eq!(stand.states("w").await, states);
    for (name, state) in expected {
        let document = parse(stand.result(&within("w", name)).await);
        assert_eq!((&document["id"], &document["status"]), (&json!(name), &json!(state.name())));
        match state {
            TaskState::Failed => assert_eq!(document["error"]["name"], "TASK_DEPENDENCY_FAILED"),
            _ => assert!(document["error"].is_null() && document["metadata"]["reason"].is_string()),
        }
    }
    let reason = parse(stand.result(&within("w", "skip")).await)["metadata"]["reason"].clone();
    assert!(reason.as_str().is_some_and(|reason| reason.contains("'a'")), "{reason}");
    // Whoever repeats the step publishes what goes on.
    let mut again = super::stand::released(stand.end(&lease, TaskState::Failed).await);
    again.sort();
    assert_eq!(again, ["on", "on-both"]);
    stand.complete(&within("w", "on")).await;
    let released = super::stand::released(stand.complete(&within("w", "on-both")).await);
    assert_eq!(released, ["waits"]);
    stand.complete(&within("w", "waits")).await;
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Failed);
}

fn tolerant(workflow: &str, tolerated: &[&str]) -> Plan {
    let tasks: [(&str, &[(&str, Otherwise)]); 3] = [("a", &[]), ("b", &[("a", Fail)]), ("c", &[("a", Skip)])];
    let mut plan = graph(workflow, &tasks);
    for task in &mut plan.tasks {
        task.tolerated = tolerated.contains(&task.head.key.id().as_str());
    }
    plan
}

pub(crate) async fn a_workflow_completes_in_spite_of_what_it_tolerates(stand: Stand) {
    let cases: [(&[&str], TaskState, WorkflowState); 6] = [
        (&[], TaskState::Failed, WorkflowState::Failed),
        (&["a"], TaskState::Failed, WorkflowState::Failed),
        (&["b"], TaskState::Expired, WorkflowState::Failed),
        (&["a", "b"], TaskState::Failed, WorkflowState::Completed),
        (&["a", "b"], TaskState::Expired, WorkflowState::Completed),
        (&[], TaskState::Skipped, WorkflowState::Completed),
    ];
    for (number, (tolerated, end, expected)) in cases.into_iter().enumerate() {
        let workflow = format!("w{number}");
        stand.create(&tolerant(&workflow, tolerated)).await;
        let last = stand.end_as(&within(&workflow, "a"), end).await;
        let Finished::Done { workflow: state, .. } = last else { panic!("{last:?}") };
        assert_eq!(state, Some(expected), "{tolerated:?} {end}");
        let flow = stand.workflow(&workflow).await;
        assert_eq!(flow.state, expected);
        let outcome = parse(stand.outcome(&workflow).await);
        assert_eq!(outcome["status"], expected.name());
        assert_eq!(outcome["error"].is_null(), expected == WorkflowState::Completed);
        let marks: Vec<bool> = flow.tasks.iter().map(|task| task.tolerated).collect();
        assert_eq!(marks, ["a", "b", "c"].map(|name| tolerated.contains(&name)));
        assert_eq!(flow.tasks[2].dependencies, [(id("a"), Skip)]);
    }
}

pub(crate) async fn nothing_to_retry_where_all_is_completed_or_skipped(stand: Stand) {
    stand.create(&tolerant("w", &[])).await;
    assert_eq!(stand.retry("w", "r").await, Retried::NotEnded);
    stand.end_as(&within("w", "a"), TaskState::Skipped).await;
    assert_eq!(stand.retry("w", "r").await, Retried::Nothing);
    assert_eq!(stand.retry("never-seen", "r").await, Retried::Unknown);
}
