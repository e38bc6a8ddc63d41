//! What happens to a task or workflow from outside: cancelled, out of time, retried by hand.

use std::time::Duration;

use super::plan::Released;
use crate::core::id::{Id, TaskKey};

/// What became of [`Store::cancel`](super::Store::cancel).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// It has ended.
    Done {
        /// Tasks that were running, with their sessions.
        running: Vec<(TaskKey, Id)>,
        /// The plan's `reply`, if it was a workflow.
        reply: Option<String>,
    },
    /// It had ended before (state by name).
    Over(String),
    /// Nobody has seen it yet; it will be refused when it comes.
    Marked,
}

/// Why something is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Somebody asked for it: the root ends as `cancelled`.
    Request,
    /// The workflow's time is over: it ends as `failed` with `WORKFLOW_TIMEOUT`, unless it is in another run
    /// than this one ([`Retried::Running`](super::Retried::Running)); the first run is 1.
    Timeout {
        /// Which run.
        run: u32,
    },
}

/// What became of [`Store::retry`](super::Store::retry).
#[derive(Debug, Clone, PartialEq)]
pub enum Retried {
    /// It runs again. Publish these.
    Running {
        /// What is released and no worker has claimed yet.
        released: Vec<Released>,
        /// Which run this is; the first retry makes it 2.
        run: u32,
        /// The plan's timeout.
        timeout: Option<Duration>,
    },
    /// It has not ended yet.
    NotEnded,
    /// Everything that it has is completed or skipped: there is nothing to do.
    Nothing,
    /// What is to run again needs the results of these tasks (or, if empty, the root's own message), which
    /// are not kept any more.
    Gone(Vec<Id>),
    /// Nobody has seen this id.
    Unknown,
}
