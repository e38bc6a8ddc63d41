//! The states of tasks and workflows.

use std::fmt;

/// Where a task is in its life.
///
/// ```text
/// accepted ─▶ queued ─▶ running ─▶ completed | failed | cancelled | expired | skipped
///    waiting ─▶ ▲  ▲       │
///               │  └─ delayed ◀─┘ (another attempt)
/// ```
/// `unknown` is the answer for an id that nobody has seen; it is never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TaskState {
    /// Confirmed by the broker; no worker has seen it yet.
    Accepted,
    /// Depends on tasks that have not ended.
    Waiting,
    /// Its message is in a queue.
    Queued,
    /// Its message waits in the broker until it is due.
    Delayed,
    /// A worker session holds its lease.
    Running,
    /// Ended with a result.
    Completed,
    /// Ended without a result.
    Failed,
    /// Ended because somebody asked for it.
    Cancelled,
    /// Ended because it was not started in time.
    Expired,
    /// Ended because its condition or a dependency said so.
    Skipped,
}

impl TaskState {
    /// Every state.
    pub const ALL: [TaskState; 10] = [
        TaskState::Accepted,
        TaskState::Waiting,
        TaskState::Queued,
        TaskState::Delayed,
        TaskState::Running,
        TaskState::Completed,
        TaskState::Failed,
        TaskState::Cancelled,
        TaskState::Expired,
        TaskState::Skipped,
    ];

    /// The state as it is written in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            TaskState::Accepted => "accepted",
            TaskState::Waiting => "waiting",
            TaskState::Queued => "queued",
            TaskState::Delayed => "delayed",
            TaskState::Running => "running",
            TaskState::Completed => "completed",
            TaskState::Failed => "failed",
            TaskState::Cancelled => "cancelled",
            TaskState::Expired => "expired",
            TaskState::Skipped => "skipped",
        }
    }

    /// The state that has this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<TaskState> {
        TaskState::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether the task has ended; an ended task never changes again.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        match self {
            TaskState::Completed
            | TaskState::Failed
            | TaskState::Cancelled
            | TaskState::Expired
            | TaskState::Skipped => true,
            TaskState::Accepted
            | TaskState::Waiting
            | TaskState::Queued
            | TaskState::Delayed
            | TaskState::Running => false,
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a workflow is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkflowState {
    /// Confirmed by the broker; no worker has seen it yet.
    Accepted,
    /// Some task has not ended.
    Running,
    /// Every task completed.
    Completed,
    /// A task failed.
    Failed,
    /// Somebody asked for its end.
    Cancelled,
    /// It was not started in time.
    Expired,
}

impl WorkflowState {
    /// Every state.
    pub const ALL: [WorkflowState; 6] = [
        WorkflowState::Accepted,
        WorkflowState::Running,
        WorkflowState::Completed,
        WorkflowState::Failed,
        WorkflowState::Cancelled,
        WorkflowState::Expired,
    ];

    /// The state as it is written in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            WorkflowState::Accepted => "accepted",
            WorkflowState::Running => "running",
            WorkflowState::Completed => "completed",
            WorkflowState::Failed => "failed",
            WorkflowState::Cancelled => "cancelled",
            WorkflowState::Expired => "expired",
        }
    }

    /// The state that has this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<WorkflowState> {
        WorkflowState::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether the workflow has ended.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        match self {
            WorkflowState::Completed
            | WorkflowState::Failed
            | WorkflowState::Cancelled
            | WorkflowState::Expired => true,
            WorkflowState::Accepted | WorkflowState::Running => false,
        }
    }
}

impl fmt::Display for WorkflowState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
