//! Turns: how many tasks of a workflow are between release and end, and who is next.

use std::collections::BTreeSet;

use super::stand::{Stand, bounded, graph, lease, names, not_ready, owned, plan, released, taken_in, within};
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::Otherwise::{self, Continue, Fail, Skip};
use gleitzeit::store::{Claimed, End, Finished, Plan};

/// Tasks that do not wait for each other, with their priorities.
fn apart(workflow: &str, tasks: &[(&str, u8)], bound: u32) -> Plan {
    let list: Vec<(&str, &[(&str, Otherwise)])> =
        tasks.iter().map(|(name, _)| (*name, &[] as &[(&str, Otherwise)])).collect();
    let mut plan = bounded(graph(workflow, &list), bound);
    for (task, (_, priority)) in plan.tasks.iter_mut().zip(tasks) {
        task.message.priority = *priority;
    }
    plan
}

fn five(workflow: &str, bound: u32) -> Plan {
    apart(workflow, &[("a", 4), ("b", 4), ("c", 4), ("d", 4), ("e", 4)], bound)
}

pub(crate) async fn a_ready_task_waits_for_its_turn(stand: Stand) {
    let plan = five("w", 2);
    let first = stand.create(&plan).await;
    assert_eq!(names(&first.released), ["a", "b"]);
    assert_eq!(stand.create(&plan).await, first);
    assert_eq!(stand.states("w").await, "a queued, b queued, c waiting, d waiting, e waiting");
    assert_eq!(stand.claim(&within("w", "c"), 1, "worker").await, not_ready());
    let (a, b) = (stand.lease(&within("w", "a")).await, stand.lease(&within("w", "b")).await);
    assert!(stand.create(&plan).await.released.is_empty());
    let last = stand.end(&b, TaskState::Completed).await;
    let Finished::Done { released: next, .. } = last else { panic!("{last:?}") };
    assert_eq!(next[0].message, plan.tasks[2].message);
    assert_eq!(owned(&next), ["c"]);
    assert_eq!(released(stand.end(&a, TaskState::Completed).await), ["d"]);
    assert_eq!(released(stand.complete(&within("w", "c")).await), ["e"]);
    assert!(released(stand.complete(&within("w", "d")).await).is_empty());
    stand.complete(&within("w", "e")).await;
    assert_eq!(stand.create(&plan).await, taken_in(WorkflowState::Completed));
}

pub(crate) async fn turns_go_by_priority_then_by_readiness(stand: Stand) {
    let plan = apart("w", &[("low", 1), ("one", 4), ("urgent", 9), ("two", 4), ("high", 7)], 1);
    assert_eq!(names(&stand.create(&plan).await.released), ["urgent"]);
    let mut order = vec!["urgent".to_owned()];
    while let Some(name) = order.last().cloned() {
        let next = released(stand.complete(&within("w", &name)).await);
        assert!(next.len() <= 1, "{next:?}");
        if next.is_empty() {
            break;
        }
        order.extend(next);
    }
    assert_eq!(order, ["urgent", "high", "one", "two", "low"]);
    // Who is ready later waits longer, wherever it stands in the file.
    let tasks: [(&str, &[(&str, Otherwise)]); 4] =
        [("a", &[]), ("late", &[("a", Fail)]), ("b", &[]), ("c", &[])];
    assert_eq!(names(&stand.create(&bounded(graph("x", &tasks), 1)).await.released), ["a"]);
    for (ends, next) in [("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["late"]), ("late", vec![])] {
        assert_eq!(released(stand.complete(&within("x", ends)).await), next);
    }
}

pub(crate) async fn every_end_gives_its_turn_away(stand: Stand) {
    stand.create(&five("w", 1)).await;
    let ends = [TaskState::Failed, TaskState::Skipped, TaskState::Expired, TaskState::Cancelled];
    for ((name, end), next) in ["a", "b", "c", "d"].iter().zip(ends).zip(["b", "c", "d", "e"]) {
        assert_eq!(released(stand.end_as(&within("w", name), end).await), [next], "{end}");
    }
    stand.complete(&within("w", "e")).await;
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Failed);
    // What never ran had no turn to give away.
    let tasks: [(&str, &[(&str, Otherwise)]); 6] = [
        ("a", &[]),
        ("fails", &[("a", Fail)]),
        ("skips", &[("a", Skip)]),
        ("goes", &[("fails", Continue)]),
        ("goes-too", &[("skips", Continue)]),
        ("goes-last", &[("a", Continue)]),
    ];
    stand.create(&bounded(graph("x", &tasks), 1)).await;
    let mut next = released(stand.end_as(&within("x", "a"), TaskState::Failed).await);
    let mut seen = BTreeSet::new();
    while let Some(name) = next.pop() {
        assert!(next.is_empty());
        seen.insert(name.clone());
        next = released(stand.complete(&within("x", &name)).await);
    }
    assert_eq!(seen, ["goes", "goes-last", "goes-too"].map(str::to_owned).into());
    assert_eq!(stand.workflow("x").await.state, WorkflowState::Failed);
}

pub(crate) async fn an_attempt_that_is_to_be_repeated_keeps_its_turn(stand: Stand) {
    let plan = five("w", 1);
    stand.create(&plan).await;
    let first = stand.lease(&within("w", "a")).await;
    let again = End::Again { due: stand.now().after(super::stand::TTL), entry: "{}".to_owned() };
    assert!(released(stand.finish(&first, &again).await).is_empty());
    assert_eq!(stand.state(&within("w", "b")).await, Some(TaskState::Waiting));
    assert!(stand.create(&plan).await.released.is_empty());
    let second = lease(stand.claim(&within("w", "a"), 2, "worker").await);
    assert!(released(stand.finish(&second, &End::Abandoned).await).is_empty());
    assert_eq!(stand.claim(&within("w", "b"), 1, "worker").await, not_ready());
    let third = lease(stand.claim(&within("w", "a"), 2, "worker").await);
    let fourth = lease(stand.take_over(&within("w", "a"), "other", third.fence).await);
    assert_eq!(stand.end(&third, TaskState::Completed).await, Finished::Lost);
    assert_eq!(stand.state(&within("w", "b")).await, Some(TaskState::Waiting));
    assert_eq!(released(stand.end(&fourth, TaskState::Completed).await), ["b"]);
}

pub(crate) async fn a_repeat_answers_the_turns_that_it_gave(stand: Stand) {
    let plan = five("w", 2);
    stand.create(&plan).await;
    let (a, b) = (stand.lease(&within("w", "a")).await, stand.lease(&within("w", "b")).await);
    assert_eq!(released(stand.end(&a, TaskState::Failed).await), ["c"]);
    assert_eq!(released(stand.end(&b, TaskState::Completed).await), ["d"]);
    // Each answers its own until a worker has it, not the other's.
    assert_eq!(released(stand.end(&a, TaskState::Failed).await), ["c"]);
    assert_eq!(released(stand.end(&b, TaskState::Completed).await), ["d"]);
    for (name, next) in [("a", "c"), ("b", "d")] {
        let claimed = stand.claim(&within("w", name), 1, "other").await;
        let Claimed::Over { released, .. } = claimed else { panic!("{claimed:?}") };
        assert_eq!(names(&released), [next]);
    }
    assert_eq!(names(&stand.create(&plan).await.released), ["c", "d"]);
    let c = stand.lease(&within("w", "c")).await;
    assert!(released(stand.end(&a, TaskState::Failed).await).is_empty());
    assert_eq!(released(stand.end(&b, TaskState::Completed).await), ["d"]);
    assert_eq!(released(stand.end(&c, TaskState::Completed).await), ["e"]);
    assert_eq!(names(&stand.create(&plan).await.released), ["d", "e"]);
}

/// Forty tasks, three turns, eight workers, two processes: each task has one turn.
pub(crate) async fn turns_are_never_given_twice(stand: Stand) {
    let other = stand.other().await;
    let all: Vec<String> = (0..40).map(|number| format!("t{number}")).collect();
    let tasks: Vec<(&str, &[&str])> = all.iter().map(|name| (name.as_str(), &[] as &[&str])).collect();
    let created = stand.create(&bounded(plan("w", &tasks), 3)).await;
    let (mut seen, mut working) = (BTreeSet::new(), tokio::task::JoinSet::new());
    let mut next = owned(&created.released);
    assert_eq!(next.len(), 3);
    loop {
        for name in next.drain(..) {
            assert!(seen.insert(name.clone()), "{name} has a second turn");
            let stand = if seen.len() % 2 == 0 { stand.clone() } else { other.clone() };
            working.spawn(async move { released(stand.complete(&within("w", &name)).await) });
        }
        assert!(working.len() <= 3);
        match working.join_next().await {
            Some(done) => next = done.expect("it works"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 40);
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Completed);
}
