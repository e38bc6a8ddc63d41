//! What a store must answer for one workflow, as plainly as it can be said: no keys, no concurrency.
//!
//! Where the law leaves a choice (who of several that became ready in one step has the first turn), the model
//! takes the adapter's choice, after it has checked that the law allows it.

use gleitzeit::core::id::Id;
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::{Otherwise, Why};

use super::answers::{Again, Answer, Ended};

#[path = "store_turns.rs"]
mod turns;

pub(crate) use turns::verdict;

/// A task as a plan or an expansion has it.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) name: String,
    /// Places in the same list.
    pub(crate) edges: Vec<(usize, Otherwise)>,
    pub(crate) tolerated: bool,
    pub(crate) priority: u8,
}

/// How a lease ends its attempt.
#[derive(Debug, Clone)]
pub(crate) enum How {
    Ended(TaskState),
    Expanded { children: Vec<Spec>, bound: Option<u32> },
    Again,
    Abandoned,
}

#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) edges: Vec<(usize, Otherwise)>,
    pub(crate) parent: Option<usize>,
    pub(crate) children: Vec<usize>,
    pub(crate) state: TaskState,
    tolerated: bool,
    priority: u8,
    /// How many of its children may be under way.
    bound: Option<u32>,
    /// Since its release, or since a retry let it wait for the children that it has kept.
    is_under_way: bool,
    /// Attempts started.
    attempts: u32,
    crashes: u32,
    /// The present or last lease, by its number; none before the first claim.
    lease: Option<u32>,
    session: String,
    /// The step that has made it ready, while it waits for its turn.
    ready: Option<u32>,
    /// The step that has released it last, and whether somebody has claimed it since.
    released: Option<u32>,
    is_claimed: bool,
    /// The step by which its last lease has ended its attempt.
    finished: Option<u32>,
    /// It was a child, and its parent was reset.
    is_gone: bool,
}

/// A workflow.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) tasks: Vec<Task>,
    pub(crate) run: u32,
    bound: Option<u32>,
    step: u32,
    /// How it was ended from outside.
    forced: Option<WorkflowState>,
    /// Who began the last runs.
    retries: Vec<String>,
    /// Named cancels in their order, and the run that each has ended or found cancelled.
    cancels: Vec<(String, Option<u32>)>,
}

impl Model {
    pub(crate) fn new(specs: &[Spec], bound: Option<u32>, chosen: &[String]) -> Result<Model, String> {
        let (tasks, forced, retries, cancels) = (Vec::new(), None, Vec::new(), Vec::new());
        let mut model = Model { tasks, run: 1, bound, step: 1, forced, retries, cancels };
        model.add(specs, None);
        model.settle(chosen)?;
        Ok(model)
    }

    pub(crate) fn state(&self) -> WorkflowState {
        if let Some(state) = self.forced {
            return state;
        }
        let mut own = self.tasks.iter().filter(|task| task.parent.is_none());
        if own.clone().any(|task| !task.state.is_ended()) {
            return WorkflowState::Running;
        }
        let is_good = |task: &Task| match task.state {
            TaskState::Completed | TaskState::Skipped => true,
            _ => task.tolerated,
        };
        if own.all(is_good) { WorkflowState::Completed } else { WorkflowState::Failed }
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.tasks.iter().position(|task| !task.is_gone && task.name == name)
    }

    /// Released, and not claimed since.
    pub(crate) fn unclaimed(&self) -> Vec<String> {
        self.names(|task| task.is_free())
    }

    /// Without those that a worker has had and given back: their messages are in flight, to name them is
    /// neither needed nor wrong.
    pub(crate) fn without_abandoned(&self, mut names: Vec<String>) -> Vec<String> {
        let is_back = |task: &Task| task.state == TaskState::Queued && task.is_claimed;
        names.retain(|name| !self.find(name).is_some_and(|at| is_back(&self.tasks[at])));
        names.sort();
        names
    }

    /// The lease that whoever runs the task has.
    pub(crate) fn lease(&self, index: usize) -> Option<u32> {
        self.tasks[index].lease
    }

    /// `run` is the run that the message is of.
    pub(crate) fn claim(
        &mut self,
        index: usize,
        (run, attempt): (u32, u32),
        session: &str,
        over: Option<u32>,
    ) -> Answer {
        if run > self.run {
            return Answer::LostRun { present: self.run };
        }
        let released = self.released_by(self.tasks[index].finished);
        let children = self.children(index);
        let free = self
            .names(|task| task.is_free() && (task.parent == Some(index) || released.contains(&task.name)));
        let task = &mut self.tasks[index];
        match task.state {
            state if state.is_ended() => return Answer::Over { state, released },
            _ if run < self.run => return Answer::Superseded,
            TaskState::Waiting => return Answer::NotReady { released: free },
            TaskState::Running if over.is_some() && over == task.lease => {
                task.crashes += 1;
                task.attempts += 1;
            }
            TaskState::Running => return Answer::Held { session: task.session.clone() },
            _ if attempt <= task.attempts => return Answer::Next { attempt: task.attempts + 1 },
            _ => task.attempts = attempt,
        }
        task.state = TaskState::Running;
        task.is_claimed = true;
        task.session = session.to_owned();
        task.raise();
        Answer::Run { attempt: task.attempts, crashes: task.crashes, children }
    }

    /// `chosen` is what the adapter has released.
    pub(crate) fn finish(
        &mut self,
        index: usize,
        lease: u32,
        how: &How,
        chosen: &[String],
    ) -> Result<Ended, String> {
        let task = &mut self.tasks[index];
        if task.is_gone || task.lease != Some(lease) {
            return Ok(Ended::Lost);
        }
        if task.state != TaskState::Running {
            let released = self.released_by(self.tasks[index].finished);
            return Ok(Ended::Done { released, ended: Vec::new(), workflow: self.state() });
        }
        self.step += 1;
        task.finished = Some(self.step);
        match how {
            How::Again => task.state = TaskState::Queued,
            How::Abandoned => {
                task.state = TaskState::Queued;
                task.attempts -= 1;
            }
            How::Ended(state) => task.state = *state,
            How::Expanded { children, bound } => {
                task.state = TaskState::Waiting;
                task.attempts -= 1;
                task.bound = *bound;
                self.add(children, Some(index));
            }
        }
        let ended = self.settle(chosen)?;
        let mut released = chosen.to_vec();
        released.sort();
        Ok(Ended::Done { released, ended, workflow: self.state() })
    }

    /// The run that a request like this has ended before.
    pub(crate) fn ended_so(&self, why: &Why) -> Option<u32> {
        let present = |state| (self.forced == Some(state)).then_some(self.run);
        match why {
            Why::Request { by } => {
                let known = by.as_ref().and_then(|by| self.answered(by));
                known.unwrap_or_else(|| present(WorkflowState::Cancelled))
            }
            Why::Timeout { run } => present(WorkflowState::Failed).filter(|present| run == present),
        }
    }

    /// How a request of this name was answered before: one of the last 16.
    fn answered(&self, by: &Id) -> Option<Option<u32>> {
        let known = self.cancels.iter().rev().take(16).find(|(name, _)| name == by.as_str());
        known.map(|(_, ended)| *ended)
    }

    /// Whether something was to be ended.
    pub(crate) fn cancel(&mut self, why: &Why) -> bool {
        if let Why::Request { by: Some(by) } = why {
            if self.answered(by).is_some() {
                return false;
            }
            let is_so = !self.state().is_ended() || self.forced == Some(WorkflowState::Cancelled);
            self.cancels.push((by.to_string(), is_so.then_some(self.run)));
        }
        let state = match why {
            Why::Request { .. } => WorkflowState::Cancelled,
            Why::Timeout { run } if *run == self.run => WorkflowState::Failed,
            Why::Timeout { .. } => return false,
        };
        if self.state().is_ended() {
            return false;
        }
        self.step += 1;
        self.forced = Some(state);
        for task in self.tasks.iter_mut().filter(|task| !task.state.is_ended()) {
            task.state = TaskState::Cancelled;
            task.ready = None;
            task.finished = None;
            task.raise();
        }
        true
    }

    pub(crate) fn retry(&mut self, by: &str, chosen: &[String]) -> Result<Again, String> {
        if self.retries.iter().rev().take(16).any(|known| known == by) {
            return Ok(Again::Running { released: self.unclaimed(), run: self.run });
        }
        if !self.state().is_ended() {
            return Ok(Again::NotEnded);
        }
        let own: Vec<usize> = (0..self.tasks.len()).filter(|at| self.tasks[*at].parent.is_none()).collect();
        if !own.iter().any(|at| self.tasks[*at].did_not_complete()) {
            return Ok(Again::Nothing);
        }
        self.step += 1;
        self.run += 1;
        self.forced = None;
        self.retries.push(by.to_owned());
        self.reset(&own);
        self.settle(chosen)?;
        let mut released = chosen.to_vec();
        released.sort();
        Ok(Again::Running { released, run: self.run })
    }

    /// The names of all tasks, as a reader of the workflow sees them.
    pub(crate) fn order(&self) -> Vec<usize> {
        let mut order = Vec::new();
        for at in 0..self.tasks.len() {
            if self.tasks[at].parent.is_none() {
                self.order_below(at, &mut order);
            }
        }
        order
    }

    fn order_below(&self, at: usize, order: &mut Vec<usize>) {
        order.push(at);
        for child in &self.tasks[at].children {
            self.order_below(*child, order);
        }
    }

    fn add(&mut self, specs: &[Spec], parent: Option<usize>) {
        let first = self.tasks.len();
        for spec in specs {
            let edges = spec.edges.iter().map(|(on, otherwise)| (first + on, *otherwise)).collect();
            if let Some(parent) = parent {
                let at = self.tasks.len();
                self.tasks[parent].children.push(at);
            }
            self.tasks.push(Task {
                name: spec.name.clone(),
                edges,
                parent,
                children: Vec::new(),
                state: TaskState::Waiting,
                tolerated: spec.tolerated,
                priority: spec.priority,
                bound: None,
                is_under_way: false,
                attempts: 0,
                crashes: 0,
                lease: None,
                session: String::new(),
                ready: None,
                released: None,
                is_claimed: false,
                finished: None,
                is_gone: false,
            });
        }
    }

    /// Resets what did not complete among these, which are all tasks of the file or all children of a parent.
    fn reset(&mut self, level: &[usize]) {
        let mut reset: Vec<usize> = Vec::new();
        for at in level {
            // Edges lead back in the list.
            let depends = self.tasks[*at].edges.iter().any(|(on, _)| reset.contains(on));
            if !depends && !self.tasks[*at].did_not_complete() {
                continue;
            }
            reset.push(*at);
            let task = &mut self.tasks[*at];
            (task.state, task.is_under_way) = (TaskState::Waiting, false);
            (task.ready, task.released, task.is_claimed, task.finished) = (None, None, false, None);
            (task.attempts, task.crashes) = (0, 0);
            task.raise();
            let children = task.children.clone();
            if depends {
                self.forget_children(*at);
            } else {
                self.reset(&children);
            }
        }
    }

    fn forget_children(&mut self, at: usize) {
        for child in std::mem::take(&mut self.tasks[at].children) {
            let task = &mut self.tasks[child];
            (task.is_gone, task.state) = (true, TaskState::Cancelled);
            (task.ready, task.is_under_way) = (None, false);
            self.forget_children(child);
        }
    }

    fn children(&self, at: usize) -> Vec<String> {
        self.tasks[at].children.iter().map(|child| self.tasks[*child].name.clone()).collect()
    }

    fn released_by(&self, step: Option<u32>) -> Vec<String> {
        self.names(|task| step.is_some() && task.is_free() && task.released == step)
    }

    fn names(&self, which: impl Fn(&Task) -> bool) -> Vec<String> {
        let mut names: Vec<String> =
            self.tasks.iter().filter(|task| which(task)).map(|task| task.name.clone()).collect();
        names.sort();
        names
    }
}

impl Task {
    fn is_free(&self) -> bool {
        self.state == TaskState::Queued && !self.is_claimed
    }

    fn did_not_complete(&self) -> bool {
        matches!(self.state, TaskState::Failed | TaskState::Cancelled | TaskState::Expired)
    }

    /// Makes every lease before this void.
    fn raise(&mut self) {
        self.lease = Some(self.lease.map_or(0, |lease| lease + 1));
    }
}
