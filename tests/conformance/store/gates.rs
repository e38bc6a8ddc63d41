//! Bounds over children that plan children: how many of one parent are under way.

use std::collections::{BTreeMap, VecDeque};

use super::stand::{Stand, bounded, not_ready, owned, plan, planned, released, within};
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::Otherwise::{self, Fail};
use gleitzeit::store::{Cancelled, Claimed, PlannedTask, Why};

/// So many children of `parent` that do not wait for each other.
fn children(parent: &str, count: usize) -> Vec<PlannedTask> {
    let labels: Vec<String> = (0..count).map(|at| format!("{parent}.{at}")).collect();
    let list: Vec<(&str, &[(&str, Otherwise)])> =
        labels.iter().map(|label| (label.as_str(), &[] as &[(&str, Otherwise)])).collect();
    planned("w", &list)
}

/// Who plans how many children, and how many of them may be under way; by the depth of a name.
type Shape = &'static [(usize, u32)];

/// Workers in small: whatever is released is run in some order, and the bounds are looked at after each step.
struct Play<'a> {
    stand: &'a Stand,
    shape: Shape,
    /// Released and not claimed.
    messages: VecDeque<String>,
    /// How a task without children ends.
    ends: fn(&str) -> TaskState,
    /// Most children of a parent that were ever seen under way, by the depth of the children.
    most: BTreeMap<usize, usize>,
}

impl<'a> Play<'a> {
    fn new(stand: &'a Stand, shape: Shape, messages: Vec<String>, ends: fn(&str) -> TaskState) -> Play<'a> {
        let messages = messages.into();
        Play { stand, shape, messages, ends, most: BTreeMap::new() }
    }

    /// Runs until nothing is released, at most so many steps.
    async fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            let Some(name) = self.messages.pop_front() else { return };
            let ready = self.step(&name).await;
            self.messages.extend(ready);
            self.look().await;
        }
    }

    async fn step(&self, name: &str) -> Vec<String> {
        let claimed = self.stand.claim(&within("w", name), 1, "worker").await;
        let Claimed::Run { lease, children: kept, .. } = claimed else { panic!("{claimed:?} of {name}") };
        let shape = self.shape.get(name.matches('.').count());
        if let (Some((count, bound)), true) = (shape, kept.is_empty()) {
            return released(self.stand.expand(&lease, children(name, *count), *bound).await);
        }
        let mut state = (self.ends)(name);
        for child in &kept {
            let ended = self.stand.state(&within("w", child.as_str())).await;
            state = if ended == Some(TaskState::Completed) { state } else { TaskState::Failed };
        }
        released(self.stand.end(&lease, state).await)
    }

    /// A child is under way, as far as can be seen, if it or a task below it is between release and end.
    async fn look(&mut self) {
        let tasks = self.stand.workflow("w").await.tasks;
        let mut busy: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for task in &tasks {
            if !matches!(task.state, TaskState::Queued | TaskState::Running) {
                continue;
            }
            let mut name = task.head.key.id().as_str();
            while let Some((parent, _)) = name.rsplit_once('.') {
                let list = busy.entry(parent.to_owned()).or_default();
                if !list.iter().any(|one| one == name) {
                    list.push(name.to_owned());
                }
                name = parent;
            }
        }
        for (parent, list) in busy {
            let depth = parent.matches('.').count();
            let most = self.most.entry(depth + 1).or_default();
            *most = (*most).max(list.len());
            let bound = usize::try_from(self.shape[depth].1).expect("small");
            assert!(bound == 0 || list.len() <= bound, "{list:?} of {parent} at once");
        }
    }
}

fn completes(_: &str) -> TaskState {
    TaskState::Completed
}

/// Completed but for the second task of every nested workflow.
fn fails_inside(name: &str) -> TaskState {
    let is_bad = name.matches('.').count() == 2 && name.ends_with(".1");
    if is_bad { TaskState::Failed } else { TaskState::Completed }
}

/// Six items of three tasks each, two items at once.
const SIX_OF_THREE: Shape = &[(6, 2), (3, 0)];

pub(crate) async fn a_child_that_waits_keeps_its_place(stand: Stand) {
    stand.create(&plan("w", &[("p", &[]), ("x", &["p"])])).await;
    let p = stand.lease(&within("w", "p")).await;
    assert_eq!(released(stand.expand(&p, children("p", 3), 1).await), ["p.0"]);
    let first = stand.lease(&within("w", "p.0")).await;
    assert_eq!(released(stand.expand(&first, children("p.0", 2), 0).await), ["p.0.0", "p.0.1"]);
    assert_eq!(stand.claim(&within("w", "p.1"), 1, "worker").await, not_ready());
    assert!(released(stand.complete(&within("w", "p.0.0")).await).is_empty());
    // It goes on in the place that it has.
    assert_eq!(released(stand.complete(&within("w", "p.0.1")).await), ["p.0"]);
    assert_eq!(stand.claim(&within("w", "p.1"), 1, "worker").await, not_ready());
    assert_eq!(released(stand.complete(&within("w", "p.0")).await), ["p.1"]);
    // One that plans nothing has it as long as ever.
    assert_eq!(released(stand.complete(&within("w", "p.1")).await), ["p.2"]);
    assert_eq!(released(stand.complete(&within("w", "p.2")).await), ["p"]);
    assert_eq!(released(stand.complete(&within("w", "p")).await), ["x"]);
}

pub(crate) async fn a_bound_holds_over_nested_workflows(stand: Stand) {
    stand.create(&plan("w", &[("p", &[])])).await;
    let mut play = Play::new(&stand, SIX_OF_THREE, vec!["p".to_owned()], completes);
    play.run(usize::MAX).await;
    assert_eq!(play.most, BTreeMap::from([(1, 2), (2, 3)]));
    let flow = stand.workflow("w").await;
    assert_eq!(flow.state, WorkflowState::Completed);
    assert_eq!(flow.tasks.iter().filter(|task| task.state == TaskState::Completed).count(), 1 + 6 + 18);
}

pub(crate) async fn a_failure_inside_gives_the_place_away(stand: Stand) {
    stand.create(&plan("w", &[("p", &[])])).await;
    let mut play = Play::new(&stand, SIX_OF_THREE, vec!["p".to_owned()], fails_inside);
    play.run(usize::MAX).await;
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Failed);
    let tasks = stand.workflow("w").await.tasks;
    let failed = tasks.iter().filter(|task| task.state == TaskState::Failed).count();
    let completed = tasks.iter().filter(|task| task.state == TaskState::Completed).count();
    assert_eq!((failed, completed), (1 + 6 + 6, 12));
}

pub(crate) async fn a_retry_keeps_to_the_places(stand: Stand) {
    stand.create(&bounded(plan("w", &[("p", &[])]), 3)).await;
    Play::new(&stand, SIX_OF_THREE, vec!["p".to_owned()], fails_inside).run(usize::MAX).await;
    let messages = stand.retried("w", "r1").await;
    // Two of the six that failed begin with what failed in them.
    assert_eq!(messages, ["p.0.1", "p.1.1"]);
    let mut play = Play::new(&stand, SIX_OF_THREE, messages, fails_inside);
    play.run(usize::MAX).await;
    assert_eq!(play.most[&1], 2);
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Failed);
    let messages = stand.retried("w", "r2").await;
    let mut play = Play::new(&stand, SIX_OF_THREE, messages, completes);
    play.run(usize::MAX).await;
    assert_eq!(play.most[&1], 2);
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Completed);
}

pub(crate) async fn a_retried_parent_has_its_place_before_others(stand: Stand) {
    stand.create(&plan("w", &[("p", &[])])).await;
    let p = stand.lease(&within("w", "p")).await;
    let list: [(&str, &[(&str, Otherwise)]); 4] =
        [("p.plain", &[]), ("p.a", &[]), ("p.b", &[]), ("p.last", &[("p.plain", Fail)])];
    let mut planned = planned("w", &list);
    planned[0].message.priority = 9;
    stand.expand(&p, planned, 1).await;
    let mut next = vec![String::from("p.plain")];
    while let Some(name) = next.pop() {
        let lease = stand.lease(&within("w", &name)).await;
        let parts = name.matches('.').count() == 1 && name.len() == 3;
        let is_new = parts && stand.state(&within("w", &format!("{name}.0"))).await.is_none();
        next = released(match is_new {
            true => stand.expand(&lease, children(&name, 2), 1).await,
            false => stand.end(&lease, TaskState::Failed).await,
        });
    }
    let before = stand.states("w").await;
    assert!(!before.contains("queued") && !before.contains("completed"), "{before}");
    for (asked, released_next) in [
        ("", "p.a.0"),
        ("p.a.0", "p.a.1"),
        ("p.a.1", "p.a"),
        ("p.a", "p.b.0"),
        ("p.b.0", "p.b.1"),
        ("p.b.1", "p.b"),
        ("p.b", "p.plain"),
        ("p.plain", "p.last"),
        ("p.last", "p"),
        ("p", ""),
    ] {
        let next = match asked {
            "" => stand.retried("w", "r").await,
            name => released(stand.complete(&within("w", name)).await),
        };
        assert_eq!(next.concat(), released_next, "after {asked:?}");
    }
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Completed);
}

pub(crate) async fn a_cancel_gives_all_places_back(stand: Stand) {
    stand.create(&plan("w", &[("p", &[])])).await;
    Play::new(&stand, SIX_OF_THREE, vec!["p".to_owned()], completes).run(9).await;
    assert!(matches!(stand.cancel("w", Why::Request { by: None }).await, Cancelled::Done { .. }));
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Cancelled);
    // It runs on within the bound, is cancelled before all have had their places again, and runs on to its end.
    let messages = stand.retried("w", "r1").await;
    Play::new(&stand, SIX_OF_THREE, messages, completes).run(3).await;
    assert!(matches!(stand.cancel("w", Why::Request { by: None }).await, Cancelled::Done { .. }));
    let messages = stand.retried("w", "r2").await;
    let mut play = Play::new(&stand, SIX_OF_THREE, messages, completes);
    play.run(usize::MAX).await;
    assert_eq!(play.most[&1], 2);
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Completed);
}

/// Three items, two at once, each of four workflows, one at once, each of three tasks, two at once; four tasks of
/// the whole at once.
pub(crate) async fn a_gate_within_a_gate_within_a_bounded_workflow(stand: Stand) {
    const SHAPE: Shape = &[(3, 2), (4, 1), (3, 2)];
    stand.create(&bounded(plan("w", &[("p", &[]), ("q", &[])]), 4)).await;
    let ends = |name: &str| match name {
        "p.1.2.0" | "q.0.3.1" => TaskState::Failed,
        _ => TaskState::Completed,
    };
    let mut play = Play::new(&stand, SHAPE, vec!["p".to_owned(), "q".to_owned()], ends);
    play.run(usize::MAX).await;
    assert_eq!(play.most, BTreeMap::from([(1, 2), (2, 1), (3, 2)]));
    let flow = stand.workflow("w").await;
    assert_eq!(flow.tasks.len(), 2 * (1 + 3 + 3 * 4 + 3 * 4 * 3));
    assert_eq!(flow.state, WorkflowState::Failed);
    let mut play = Play::new(&stand, SHAPE, stand.retried("w", "r").await, completes);
    play.run(usize::MAX).await;
    assert_eq!(stand.workflow("w").await.state, WorkflowState::Completed);
    // Nobody's place is left behind: a stale lease of the last run gives none away.
    let late = stand.claim(&within("w", "p.1.2.0"), 1, "worker").await;
    assert!(matches!(&late, Claimed::Over { released, .. } if owned(released).is_empty()), "{late:?}");
}
