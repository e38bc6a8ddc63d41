//! What a simple model says of the end of a workflow: no time, no crashes, no order but that of the list.

use gleitzeit::core::state::{TaskState, WorkflowState};

use crate::graph::{Graph, Policy, Task};

/// How a workflow ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) workflow: WorkflowState,
    /// Every task with its state, children after their parent.
    pub(crate) tasks: Vec<(String, TaskState)>,
    /// What each task that completed answered: its own number, or what the first task with one answer that it
    /// waits for answered, or what stands for that; none for null. Without children.
    pub(crate) answers: Vec<Option<u64>>,
}

impl End {
    /// The end of a workflow whose names begin with `prefix`.
    pub(crate) fn of(graph: &Graph, prefix: &str) -> End {
        let mut end = End { workflow: WorkflowState::Completed, tasks: Vec::new(), answers: Vec::new() };
        let mut states: Vec<TaskState> = Vec::new();
        for (at, task) in graph.tasks.iter().enumerate() {
            let name = format!("{prefix}t{at}");
            let answer = |on: usize| match task.policy(on) {
                Some(Policy::Default(answer)) if states[on] != TaskState::Completed => Some(answer),
                Some(_) | None => end.answers[on],
            };
            let (state, children) = match unrun(task, &states) {
                Some(state) => (state, Vec::new()),
                None => {
                    let is_completed = |on: usize| states[on] == TaskState::Completed;
                    let holds = task.when.map_or(Some(true), |when| when.holds(is_completed, answer));
                    decided(holds).map_or_else(|| run(task, &name), |state| (state, Vec::new()))
                }
            };
            let own = u64::try_from(at).expect("small");
            let answer = graph.referred(at).map_or(Some(own), answer);
            end.answers.push(answer.filter(|_| state == TaskState::Completed && task.is_single()));
            end.tasks.push((name, state));
            end.tasks.extend(children);
            if state == TaskState::Failed && !tolerates(graph, at) {
                end.workflow = WorkflowState::Failed;
            }
            states.push(state);
        }
        end
    }
}

/// How a task ends that does not run because of its dependencies.
fn unrun(task: &Task, states: &[TaskState]) -> Option<TaskState> {
    let verdicts: Vec<TaskState> =
        task.edges.iter().map(|(on, policy)| verdict(states[*on], *policy)).collect();
    [TaskState::Failed, TaskState::Skipped].into_iter().find(|one| verdicts.contains(one))
}

/// How a task ends that does not run because of its condition.
fn decided(holds: Option<bool>) -> Option<TaskState> {
    match holds {
        Some(true) => None,
        Some(false) => Some(TaskState::Skipped),
        None => Some(TaskState::Failed),
    }
}

/// How a task ends once it runs, and its children with it.
fn run(task: &Task, name: &str) -> (TaskState, Vec<(String, TaskState)>) {
    let Some(list) = task.list else { return run_one(task, name) };
    let (mut sum, mut children) = (TaskState::Completed, Vec::new());
    for item in 0..list.items {
        let name = format!("{name}.{item}");
        let holds = task.when.map_or(Some(true), |when| when.holds_for(item));
        let (state, below) = decided(holds).map_or_else(|| run_one(task, &name), |state| (state, Vec::new()));
        if state == TaskState::Failed {
            sum = TaskState::Failed;
        }
        children.push((name, state));
        children.extend(below);
    }
    (sum, children)
}

fn run_one(task: &Task, name: &str) -> (TaskState, Vec<(String, TaskState)>) {
    let Some(nested) = &task.nested else {
        return (if task.fails { TaskState::Failed } else { TaskState::Completed }, Vec::new());
    };
    let end = End::of(nested, &format!("{name}."));
    let is_good = end.workflow == WorkflowState::Completed;
    (if is_good { TaskState::Completed } else { TaskState::Failed }, end.tasks)
}

/// Whether the workflow may complete although this task fails.
fn tolerates(graph: &Graph, at: usize) -> bool {
    let mut policies = graph.tasks.iter().filter_map(|task| task.policy(at)).peekable();
    let is_waited_for = policies.peek().is_some();
    !graph.tasks[at].critical || (is_waited_for && policies.all(|policy| policy != Policy::Fail))
}

/// The table of the store's law; `Completed` stands for satisfied.
fn verdict(end: TaskState, policy: Policy) -> TaskState {
    match (end, policy) {
        (TaskState::Completed, _) | (_, Policy::Continue | Policy::Default(_)) => TaskState::Completed,
        (TaskState::Skipped, _) | (_, Policy::Skip) => TaskState::Skipped,
        (_, Policy::Fail) => TaskState::Failed,
    }
}
