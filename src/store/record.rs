//! What is known of tasks and workflows.

use super::plan::Otherwise;
use crate::core::clock::Timestamp;
use crate::core::id::Id;
use crate::core::state::{TaskState, WorkflowState};
use crate::wire::record::Head;

/// What is known of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRecord {
    /// What it is.
    pub head: Head,
    /// Where it is.
    pub state: TaskState,
    /// Attempts started so far.
    pub attempts: u32,
    /// Attempts that ended with the death of their worker.
    pub crashes: u32,
    /// Who runs it, while it runs.
    pub session: Option<Id>,
    /// When the last attempt started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When the next attempt is due, while it is delayed.
    pub due: Option<Timestamp>,
    /// One JSON object per ended attempt, oldest first, at most the last 100.
    pub history: Vec<String>,
    /// The tasks that it waits for, with what their failure means.
    pub dependencies: Vec<(Id, Otherwise)>,
    /// The task that has planned this one, if one has.
    pub parent: Option<Id>,
    /// Whether the workflow may complete although this task does not.
    pub tolerated: bool,
}

/// What is known of a workflow.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkflowRecord {
    /// Its id.
    pub id: Id,
    /// For people.
    pub name: String,
    /// Where it is.
    pub state: WorkflowState,
    /// When it was taken in.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Its tasks in the order of the file, children after their parent; empty until a worker has taken it in.
    pub tasks: Vec<TaskRecord>,
}

/// What [`Store::list`](super::Store::list) looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// A state by name; `None` for all.
    pub state: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// A line of [`Store::list`](super::Store::list).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The task's or workflow's id.
    pub id: Id,
    /// Whether it is a workflow.
    pub is_workflow: bool,
    /// Its name.
    pub name: String,
    /// `echo/v1 echo` for a task, empty for a workflow.
    pub what: String,
    /// Its state by name.
    pub state: String,
    /// When the store first knew of it.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// What [`Store::watch`](super::Store::watch) and [`Store::follow`](super::Store::follow) tell of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This task of the workflow ended.
    Task(Id),
    /// The root itself ended: the task on its own, or the whole workflow.
    Root,
    /// Something under the root has moved and not ended: it began, is to be tried again, waits for what it has
    /// planned. Only followers are told.
    Moved,
    /// Something may have been missed (a lost connection): look at everything again.
    Resync,
}
