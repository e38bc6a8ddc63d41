//! What a store must answer for one workflow, as plainly as it can be said: no keys, no concurrency.

use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::{Claimed, Finished};

use super::stand::names;

/// An answer to `claim` without what adapters may choose: fences, documents, times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Run { attempt: u32, crashes: u32 },
    Held { session: String },
    NotReady,
    Next { attempt: u32 },
    Over { state: TaskState, released: Vec<String> },
    NoWorkflow,
}

/// An answer to `finish` without what adapters may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    Done { released: Vec<String>, failed: Vec<String>, workflow: WorkflowState },
    Lost,
}

/// How a lease ends its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Ended(TaskState),
    Again,
    Abandoned,
}

#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<usize>,
    pub(crate) state: TaskState,
    /// Attempts started.
    attempts: u32,
    crashes: u32,
    /// The present or last lease, by its number; none before the first claim.
    lease: Option<u32>,
    session: String,
    /// How often a step has readied it.
    pub(crate) readied: u32,
}

/// A workflow.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) tasks: Vec<Task>,
    pub(crate) is_cancelled: bool,
}

impl Model {
    pub(crate) fn new(dependencies: &[Vec<usize>]) -> Model {
        let task = |(index, dependencies): (usize, &Vec<usize>)| Task {
            name: format!("t{index}"),
            dependencies: dependencies.clone(),
            state: if dependencies.is_empty() { TaskState::Queued } else { TaskState::Waiting },
            attempts: 0,
            crashes: 0,
            lease: None,
            session: String::new(),
            readied: 0,
        };
        Model { tasks: dependencies.iter().enumerate().map(task).collect(), is_cancelled: false }
    }

    pub(crate) fn state(&self) -> WorkflowState {
        if self.is_cancelled {
            return WorkflowState::Cancelled;
        }
        if self.tasks.iter().any(|task| !task.state.is_ended()) {
            return WorkflowState::Running;
        }
        match self.tasks.iter().all(|task| task.state == TaskState::Completed) {
            true => WorkflowState::Completed,
            false => WorkflowState::Failed,
        }
    }

    /// Ready, and never claimed.
    pub(crate) fn unclaimed(&self) -> Vec<String> {
        let free = |task: &&Task| task.state == TaskState::Queued && task.lease.is_none();
        self.tasks.iter().filter(free).map(|task| task.name.clone()).collect()
    }

    /// The lease that whoever runs the task has.
    pub(crate) fn lease(&self, index: usize) -> Option<u32> {
        self.tasks[index].lease
    }

    pub(crate) fn claim(&mut self, index: usize, attempt: u32, session: &str, over: Option<u32>) -> Answer {
        let released = self.unclaimed_dependents(index);
        let task = &mut self.tasks[index];
        match task.state {
            state if state.is_ended() => return Answer::Over { state, released },
            TaskState::Waiting => return Answer::NotReady,
            TaskState::Running if over.is_some() && over == task.lease => {
                task.crashes += 1;
                task.attempts += 1;
            }
            TaskState::Running => return Answer::Held { session: task.session.clone() },
            _ if attempt <= task.attempts => return Answer::Next { attempt: task.attempts + 1 },
            _ => task.attempts = attempt,
        }
        task.state = TaskState::Running;
        task.session = session.to_owned();
        task.lease = Some(task.lease.map_or(0, |lease| lease + 1));
        Answer::Run { attempt: task.attempts, crashes: task.crashes }
    }

    pub(crate) fn finish(&mut self, index: usize, lease: u32, how: How) -> Ended {
        let done = |released, failed, workflow| Ended::Done { released, failed, workflow };
        if self.tasks[index].lease != Some(lease) {
            return Ended::Lost;
        }
        if self.tasks[index].state != TaskState::Running {
            return done(self.unclaimed_dependents(index), Vec::new(), self.state());
        }
        let (mut released, mut failed) = (Vec::new(), Vec::new());
        match how {
            How::Again => self.tasks[index].state = TaskState::Queued,
            How::Abandoned => {
                self.tasks[index].state = TaskState::Queued;
                self.tasks[index].attempts -= 1;
            }
            How::Ended(state) => {
                self.tasks[index].state = state;
                self.settle_dependents(&mut released, &mut failed);
            }
        }
        done(released, failed, self.state())
    }

    pub(crate) fn cancel(&mut self) {
        self.is_cancelled = true;
        for task in self.tasks.iter_mut().filter(|task| !task.state.is_ended()) {
            task.state = TaskState::Cancelled;
            task.lease = Some(task.lease.map_or(0, |lease| lease + 1));
        }
    }

    /// In the order of the file, which is one in which dependencies come first.
    fn settle_dependents(&mut self, released: &mut Vec<String>, failed: &mut Vec<String>) {
        for index in 0..self.tasks.len() {
            if self.tasks[index].state != TaskState::Waiting {
                continue;
            }
            let states = self.tasks[index].dependencies.iter().map(|at| self.tasks[*at].state);
            let states: Vec<TaskState> = states.collect();
            if states.iter().any(|state| state.is_ended() && *state != TaskState::Completed) {
                self.tasks[index].state = TaskState::Failed;
                failed.push(self.tasks[index].name.clone());
            } else if states.iter().all(|state| *state == TaskState::Completed) {
                self.tasks[index].state = TaskState::Queued;
                self.tasks[index].readied += 1;
                released.push(self.tasks[index].name.clone());
            }
        }
    }

    fn unclaimed_dependents(&self, index: usize) -> Vec<String> {
        if self.tasks[index].state != TaskState::Completed {
            return Vec::new();
        }
        let depends = |task: &&Task| task.dependencies.contains(&index);
        let free = |task: &&Task| task.state == TaskState::Queued && task.lease.is_none();
        self.tasks.iter().filter(depends).filter(free).map(|task| task.name.clone()).collect()
    }
}

impl Answer {
    pub(crate) fn of(claimed: &Claimed) -> Answer {
        match claimed {
            Claimed::Run { lease, crashes, .. } => Answer::Run { attempt: lease.attempt, crashes: *crashes },
            Claimed::Held { session, .. } => Answer::Held { session: session.to_string() },
            Claimed::NotReady => Answer::NotReady,
            Claimed::Next { attempt, .. } => Answer::Next { attempt: *attempt },
            Claimed::Over { state, released } => {
                Answer::Over { state: *state, released: sorted(names(released)) }
            }
            Claimed::NoWorkflow => Answer::NoWorkflow,
        }
    }
}

impl Ended {
    pub(crate) fn of(finished: &Finished) -> Ended {
        match finished {
            Finished::Done { released, failed, workflow } => Ended::Done {
                released: sorted(names(released)),
                failed: sorted(failed.iter().map(|id| id.as_str()).collect()),
                workflow: workflow.expect("the task belongs to a workflow"),
            },
            Finished::Lost => Ended::Lost,
        }
    }
}

pub(crate) fn sorted(names: Vec<&str>) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    names.sort();
    names
}
