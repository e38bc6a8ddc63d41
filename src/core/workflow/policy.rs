//! What a task waits for, and what becomes of it when that does not complete.

use serde_json::Value;

/// A task that another one waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct Dependency {
    /// Its position in the workflow.
    pub on: usize,
    /// What becomes of the waiting task if it does not complete.
    pub on_failure: OnFailure,
}

/// What becomes of a task if one that it waits for does not complete (failed, cancelled, expired, skipped).
#[derive(Debug, Clone, PartialEq, Default)]
pub enum OnFailure {
    /// It fails with `TASK_DEPENDENCY_FAILED`.
    #[default]
    Fail,
    /// It is skipped.
    Skip,
    /// It runs; references to the result see null.
    Continue,
    /// It runs; references to the result see this value.
    Default(Value),
}

impl OnFailure {
    /// What references to the result of a task that did not complete see; `None` where nobody looks.
    #[must_use]
    pub fn substitute(&self) -> Option<Value> {
        match self {
            OnFailure::Fail | OnFailure::Skip => None,
            OnFailure::Continue => Some(Value::Null),
            OnFailure::Default(value) => Some(value.clone()),
        }
    }
}
