//! What happens to a task or workflow from outside: cancelled, out of time, retried by hand.

use std::time::Duration;

use super::plan::Released;
use crate::core::id::{Id, TaskKey};

/// How many requests of each kind, for one root, are known as repeats: the last retries that began a run, the last
/// cancels that were answered.
pub(super) const REQUESTS_MAX: usize = 16;

/// How far the fence of a task on its own is raised when a run begins that the store has lost: further than there can
/// have been leases that are lost with it.
pub(super) const FORGOTTEN_LEASES_MAX: u32 = 1_000;

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
    /// This request, or one like it, has ended the present run before. Maybe whoever made that died then: what
    /// follows from the end is to be done again.
    Again {
        /// As in `Done`.
        reply: Option<String>,
    },
    /// This request has ended an earlier run than the present one: nobody is to be told of an end. Maybe whoever
    /// made it died before it stopped what ran then.
    Earlier,
    /// It had ended otherwise before (state by name), or had when this request came first, or the time of a run was
    /// over that is not the present one.
    Over(String),
    /// Nobody has seen it yet; it will be refused when it comes.
    Marked,
}

/// Why something is ended from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Somebody asked for it: the root ends as `cancelled`.
    Request {
        /// Names the request: a repeat of one of the last 16 that were answered ends nothing. `None`: each
        /// delivery is a request of its own.
        by: Option<Id>,
    },
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
    /// It ended before its tasks were known (refused, or cancelled before a worker took it in): it has nothing
    /// that could run.
    NotTakenIn,
    /// What is to run again needs the results of these tasks (or, if empty, the root's own message), which
    /// are not kept any more.
    Gone(Vec<Id>),
    /// Nobody has seen this id.
    Unknown,
}
