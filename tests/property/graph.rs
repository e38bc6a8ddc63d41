//! What a case runs: a random workflow, as a file would have it.

use serde_json::{Value, json};

use crate::when::When;

/// Most tasks of a workflow, and of one that is nested in it.
const TASKS_MAX: [usize; 2] = [4, 9];
/// The one task of a workflow that runs out of time which never ends by itself.
const STUCK: &str = "stuck";

/// A workflow of `echo/v1` tasks.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) tasks: Vec<Task>,
    pub(crate) max_parallel: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct Task {
    /// Earlier tasks.
    pub(crate) edges: Vec<(usize, Policy)>,
    pub(crate) fails: bool,
    /// Attempts that are made before it has failed.
    pub(crate) attempts: u32,
    pub(crate) critical: bool,
    priority: &'static str,
    pub(crate) when: Option<When>,
    /// Once for each item of a list.
    pub(crate) list: Option<List>,
    /// What is run instead of `echo`.
    pub(crate) nested: Option<Graph>,
}

/// So many items, at most so many of them at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct List {
    pub(crate) items: usize,
    pub(crate) max_parallel: Option<u32>,
}

/// What a file says of a dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Fail,
    Skip,
    Continue,
    /// It runs, and this stands for the answer.
    Default(u64),
}

/// How long the whole may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Timeout {
    None,
    /// Longer than any case takes.
    Never,
    /// So many milliseconds, with a task that takes longer.
    Always(u64),
}

impl Graph {
    /// A workflow with nested ones down to `depth`.
    pub(crate) fn draw(rng: &mut fastrand::Rng, depth: usize) -> Graph {
        let density = rng.f64() * 0.6;
        let failures = [0.0, 0.15, 0.4][rng.usize(0..3)];
        let conditions = [0.0, 0.2, 0.5][rng.usize(0..3)];
        let mut tasks: Vec<Task> = Vec::new();
        for at in 0..rng.usize(1..=TASKS_MAX[depth]) {
            let mut edges = Vec::new();
            for on in 0..at {
                if rng.f64() < density {
                    edges.push((on, Policy::draw(rng)));
                }
            }
            let kind = rng.u32(0..10);
            let nested = (depth > 0 && (kind < 1 || kind == 2)).then(|| Graph::draw(rng, depth - 1));
            let list = (kind == 1 || kind == 2).then(|| List::draw(rng));
            let singles: Vec<usize> =
                edges.iter().map(|(on, _)| *on).filter(|on| tasks[*on].is_single()).collect();
            let when = (rng.f64() < conditions).then(|| When::draw(rng, &edges, &singles, list.is_some()));
            tasks.push(Task {
                edges,
                fails: rng.f64() < failures,
                attempts: if rng.f64() < 0.3 { rng.u32(2..4) } else { 1 },
                critical: rng.f64() < 0.8,
                priority: ["low", "normal", "high", "urgent"][rng.usize(0..4)],
                when,
                list,
                nested,
            });
        }
        let max_parallel = (rng.f64() < 0.4).then(|| rng.u32(1..4));
        Graph { tasks, max_parallel }
    }

    /// The workflow as a file would have it.
    pub(crate) fn document(&self) -> Value {
        let tasks: Vec<Value> =
            (0..self.tasks.len()).map(|at| self.tasks[at].document(at, self.referred(at))).collect();
        let mut document = json!({"name": "Property", "tasks": tasks});
        if let Some(bound) = self.max_parallel {
            document["max_parallel"] = bound.into();
        }
        document
    }

    /// The same with a time; the outermost only.
    pub(crate) fn document_within(&self, timeout: Timeout) -> Value {
        let mut document = self.document();
        match timeout {
            Timeout::None => {}
            Timeout::Never => document["timeout"] = 3600.into(),
            Timeout::Always(millis) => {
                document["timeout"] = json!(f64::from(u32::try_from(millis).expect("small")) / 1000.0);
                let stuck = json!({"id": STUCK, "method": "echo/delay", "params": {"seconds": 10}});
                document["tasks"].as_array_mut().expect("it has tasks").push(stuck);
            }
        }
        document
    }

    /// The first task with one answer that this one waits for: it answers the same.
    pub(crate) fn referred(&self, at: usize) -> Option<usize> {
        self.tasks[at].edges.iter().map(|(on, _)| *on).find(|on| self.tasks[*on].is_single())
    }

    /// How many children of a task may be under way, by the task's id; of the workflow's tasks by ''.
    pub(crate) fn bounds(&self) -> Vec<(String, u32)> {
        let mut bounds = Vec::new();
        bounds.extend(self.max_parallel.map(|bound| (String::new(), bound)));
        self.bounds_below("", &mut bounds);
        bounds
    }

    fn bounds_below(&self, prefix: &str, bounds: &mut Vec<(String, u32)>) {
        for (at, task) in self.tasks.iter().enumerate() {
            let mut names = vec![format!("{prefix}t{at}")];
            if let Some(list) = task.list {
                let items = (0..list.items).map(|item| format!("{}.{item}", names[0])).collect();
                let name = std::mem::replace(&mut names, items);
                bounds.extend(list.max_parallel.map(|bound| (name.concat(), bound)));
            }
            let Some(nested) = &task.nested else { continue };
            for name in names {
                bounds.extend(nested.max_parallel.map(|bound| (name.clone(), bound)));
                nested.bounds_below(&format!("{name}."), bounds);
            }
        }
    }
}

impl Policy {
    fn draw(rng: &mut fastrand::Rng) -> Policy {
        match rng.u32(0..5) {
            0 | 1 => Policy::Fail,
            2 => Policy::Skip,
            3 => Policy::Continue,
            _ => Policy::Default(rng.u64(0..9)),
        }
    }
}

impl List {
    fn draw(rng: &mut fastrand::Rng) -> List {
        List { items: rng.usize(0..5), max_parallel: (rng.f64() < 0.6).then(|| rng.u32(1..3)) }
    }
}

impl Task {
    /// Whether it has one answer.
    pub(crate) fn is_single(&self) -> bool {
        self.list.is_none() && self.nested.is_none()
    }

    pub(crate) fn policy(&self, on: usize) -> Option<Policy> {
        self.edges.iter().find(|(other, _)| *other == on).map(|(_, policy)| *policy)
    }

    fn document(&self, at: usize, referred: Option<usize>) -> Value {
        let dependencies: Vec<Value> = self
            .edges
            .iter()
            .map(|(on, policy)| match policy {
                Policy::Fail => json!(format!("t{on}")),
                Policy::Skip => json!({"task": format!("t{on}"), "on_failure": "skip"}),
                Policy::Continue => json!({"task": format!("t{on}"), "on_failure": "continue"}),
                Policy::Default(answer) => {
                    json!({"task": format!("t{on}"), "default": {"response": answer}})
                }
            })
            .collect();
        let message = referred.map_or(json!(at), |on| json!(format!("${{t{on}.response}}")));
        let mut document = json!({"id": format!("t{at}"), "dependencies": dependencies});
        if let Some(nested) = &self.nested {
            document["workflow"] = nested.document();
        } else {
            (document["method"], document["params"]) = match self.fails {
                true => ("echo/error".into(), json!({"message": "as asked", "retryable": true})),
                false => ("echo/echo".into(), json!({"message": message})),
            };
            document["priority"] = self.priority.into();
            document["retry"] = json!({"max_attempts": self.attempts, "base_delay": 0.001, "jitter": false});
        }
        if let Some(when) = &self.when {
            document["when"] = when.text().into();
        }
        if let Some(List { items, max_parallel }) = self.list {
            document["for_each"] = (0..items).collect();
            if let Some(bound) = max_parallel {
                document["max_parallel"] = bound.into();
            }
        }
        if !self.critical {
            document["critical"] = false.into();
        }
        document
    }
}
