//! What a case runs: a random workflow, and what a simple model says of its end.

use serde_json::{Value, json};

use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::Otherwise;

/// Most tasks of a workflow, and of one that is nested in it.
const TASKS_MAX: [usize; 2] = [4, 9];

/// A workflow of `echo/v1` tasks.
#[derive(Debug)]
pub(crate) struct Graph {
    tasks: Vec<Task>,
    max_parallel: Option<u32>,
}

#[derive(Debug)]
struct Task {
    /// Earlier tasks.
    edges: Vec<(usize, Otherwise)>,
    fails: bool,
    /// Attempts that are made before it has failed.
    attempts: u32,
    critical: bool,
    priority: &'static str,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Single,
    /// Once for each of so many items, at most so many at once.
    Items(usize, Option<u32>),
    Nested(Graph),
}

/// How a workflow ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) workflow: WorkflowState,
    /// Every task with its state, children after their parent.
    pub(crate) tasks: Vec<(String, TaskState)>,
    /// What each task that completed answered: its own number, or what the first task that it cannot do
    /// without answered. Without children.
    pub(crate) answers: Vec<Option<u64>>,
}

impl Graph {
    /// A workflow with nested ones down to `depth`.
    pub(crate) fn draw(rng: &mut fastrand::Rng, depth: usize) -> Graph {
        let density = rng.f64() * 0.6;
        let failures = [0.0, 0.15, 0.4][rng.usize(0..3)];
        let mut tasks: Vec<Task> = Vec::new();
        for at in 0..rng.usize(1..=TASKS_MAX[depth]) {
            let mut edges = Vec::new();
            for on in 0..at {
                if rng.f64() < density {
                    let ways = [Otherwise::Fail, Otherwise::Fail, Otherwise::Skip, Otherwise::Continue];
                    edges.push((on, ways[rng.usize(0..4)]));
                }
            }
            tasks.push(Task {
                edges,
                fails: rng.f64() < failures,
                attempts: if rng.f64() < 0.3 { rng.u32(2..4) } else { 1 },
                critical: rng.f64() < 0.8,
                priority: ["low", "normal", "high", "urgent"][rng.usize(0..4)],
                kind: Kind::draw(rng, depth),
            });
        }
        let max_parallel = (rng.f64() < 0.4).then(|| rng.u32(1..4));
        Graph { tasks, max_parallel }
    }

    /// The workflow as a file would have it.
    pub(crate) fn document(&self) -> Value {
        let tasks: Vec<Value> =
            (0..self.tasks.len()).map(|at| self.tasks[at].document(at, self.needed(at))).collect();
        let mut document = json!({"name": "Property", "tasks": tasks});
        if let Some(bound) = self.max_parallel {
            document["max_parallel"] = bound.into();
        }
        document
    }

    /// The model: no time, no crashes, no order but that of the list. Names begin with `prefix`.
    pub(crate) fn end(&self, prefix: &str) -> End {
        let mut end = End { workflow: WorkflowState::Completed, tasks: Vec::new(), answers: Vec::new() };
        let mut states: Vec<TaskState> = Vec::new();
        for (at, task) in self.tasks.iter().enumerate() {
            let name = format!("{prefix}t{at}");
            let verdicts = task.edges.iter().map(|(on, otherwise)| verdict(states[*on], *otherwise));
            let verdicts: Vec<TaskState> = verdicts.collect();
            let unrun =
                [TaskState::Failed, TaskState::Skipped].into_iter().find(|one| verdicts.contains(one));
            let (own, children) = task.run(&name);
            let state = unrun.unwrap_or(own);
            end.tasks.push((name, state));
            if unrun.is_none() {
                end.tasks.extend(children);
            }
            if state == TaskState::Failed && !self.tolerates(at) {
                end.workflow = WorkflowState::Failed;
            }
            let answer = match self.needed(at) {
                Some(on) => end.answers[on],
                None => Some(u64::try_from(at).expect("small")),
            };
            let has_answer = state == TaskState::Completed && matches!(task.kind, Kind::Single);
            end.answers.push(answer.filter(|_| has_answer));
            states.push(state);
        }
        end
    }

    /// The first task that this one cannot do without, and that has one answer.
    fn needed(&self, at: usize) -> Option<usize> {
        let is_one = |on: usize| matches!(self.tasks[on].kind, Kind::Single);
        let mut edges = self.tasks[at].edges.iter();
        edges.find(|(on, way)| *way != Otherwise::Continue && is_one(*on)).map(|(on, _)| *on)
    }

    /// Whether the workflow may complete although this task fails.
    fn tolerates(&self, at: usize) -> bool {
        let mut ways = self.tasks.iter().flat_map(|task| &task.edges).filter(|(on, _)| *on == at).peekable();
        let is_waited_for = ways.peek().is_some();
        !self.tasks[at].critical || (is_waited_for && ways.all(|(_, way)| *way != Otherwise::Fail))
    }
}

impl Kind {
    fn draw(rng: &mut fastrand::Rng, depth: usize) -> Kind {
        match rng.u32(0..10) {
            0 if depth > 0 => Kind::Nested(Graph::draw(rng, depth - 1)),
            1 => Kind::Items(rng.usize(0..4), (rng.f64() < 0.5).then(|| rng.u32(1..3))),
            _ => Kind::Single,
        }
    }
}

impl Task {
    /// How it ends once it runs, and its children with it.
    fn run(&self, name: &str) -> (TaskState, Vec<(String, TaskState)>) {
        let own = if self.fails { TaskState::Failed } else { TaskState::Completed };
        match &self.kind {
            Kind::Single => (own, Vec::new()),
            Kind::Items(0, _) => (TaskState::Completed, Vec::new()),
            Kind::Items(count, _) => (own, (0..*count).map(|at| (format!("{name}.{at}"), own)).collect()),
            Kind::Nested(graph) => {
                let end = graph.end(&format!("{name}."));
                let is_good = end.workflow == WorkflowState::Completed;
                (if is_good { TaskState::Completed } else { TaskState::Failed }, end.tasks)
            }
        }
    }

    fn document(&self, at: usize, needed: Option<usize>) -> Value {
        let dependencies: Vec<Value> = self
            .edges
            .iter()
            .map(|(on, way)| match way {
                Otherwise::Fail => json!(format!("t{on}")),
                Otherwise::Skip => json!({"task": format!("t{on}"), "on_failure": "skip"}),
                Otherwise::Continue => json!({"task": format!("t{on}"), "on_failure": "continue"}),
            })
            .collect();
        let message = needed.map_or(json!(at), |on| json!(format!("${{t{on}.response}}")));
        let mut document = json!({"id": format!("t{at}"), "dependencies": dependencies});
        if let Kind::Nested(graph) = &self.kind {
            document["workflow"] = graph.document();
        } else {
            (document["method"], document["params"]) = match self.fails {
                true => ("echo/error".into(), json!({"message": "as asked", "retryable": true})),
                false => ("echo/echo".into(), json!({"message": message})),
            };
            document["priority"] = self.priority.into();
            document["retry"] = json!({"max_attempts": self.attempts, "base_delay": 0.001, "jitter": false});
        }
        if let Kind::Items(count, bound) = &self.kind {
            document["for_each"] = (0..*count).collect();
            if let Some(bound) = bound {
                document["max_parallel"] = (*bound).into();
            }
        }
        if !self.critical {
            document["critical"] = false.into();
        }
        document
    }
}

/// The table of the store's law; `Completed` stands for satisfied.
fn verdict(end: TaskState, otherwise: Otherwise) -> TaskState {
    match (end, otherwise) {
        (TaskState::Completed, _) | (_, Otherwise::Continue) => TaskState::Completed,
        (TaskState::Skipped, _) | (_, Otherwise::Skip) => TaskState::Skipped,
        (_, Otherwise::Fail) => TaskState::Failed,
    }
}
