//! Leases of tasks: asked for, held, ended.

use bytes::Bytes;
use std::num::NonZeroU32;
use std::time::Duration;

use super::plan::{Message, PlannedTask, Released};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::wire::record::Head;

/// The number that tells leases of one task apart; a later lease has a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub u64);

/// Who asks for which task.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// What the task is. For a task on its own this makes the record when there is none.
    pub head: Head,
    /// The attempt that the message is for, from 1.
    pub attempt: u32,
    /// The run that the message is of ([`Released::run`]), from 1; `None` if that is not known: the present one.
    pub run: Option<u32>,
    /// Who asks.
    pub session: Id,
    /// Take the lease over from a session that is known to be dead: the fence it held. The attempt it had
    /// started counts as a crash of this task.
    pub over: Option<Fence>,
    /// Tasks of the same workflow whose results are wanted.
    pub inputs: Vec<Id>,
    /// Of how many bytes together, at most; see [`Inputs::TooLarge`].
    pub inputs_bytes_max: usize,
    /// Stands for the body that came with an idempotency key, so that another body under the same key is
    /// noticed; `None` where there is nothing to compare. Of a task on its own only.
    pub digest: Option<String>,
}

/// What became of [`Store::claim`](super::Store::claim).
#[derive(Debug, Clone, PartialEq)]
pub enum Claimed {
    /// Run it.
    Run {
        /// The lease; `finish` wants it.
        lease: Lease,
        /// The results asked for.
        inputs: Inputs,
        /// How many attempts ended with the death of their worker so far.
        crashes: u32,
        /// The attempts so far as in [`TaskRecord::history`](super::TaskRecord::history); empty for a first attempt.
        history: Vec<String>,
        /// The children that an earlier delivery of this attempt has planned, in their order; all have ended.
        children: Vec<Id>,
    },
    /// A session has the lease.
    Held {
        /// Whose it is.
        session: Id,
        /// Which lease; to be named in a take-over.
        fence: Fence,
    },
    /// It waits for dependencies, for its children or for its turn: its message is early and will be published
    /// in time.
    NotReady {
        /// What planning its children has released, and no worker has claimed yet: publish them (again).
        released: Vec<Released>,
    },
    /// A later attempt than the message's is decided: publish that one (again), due then, and settle.
    Next {
        /// The attempt to publish.
        attempt: u32,
        /// When it is due.
        due: Timestamp,
    },
    /// The message is of a run before the present one, in which the task is open and has a message of its own:
    /// settle.
    Superseded,
    /// The message is of a later run of its workflow than the store knows of: the store has lost a retry. Nothing
    /// runs and nothing is changed; tell somebody, and settle.
    LostRun {
        /// The run that the store knows of.
        present: u32,
    },
    /// It has ended. Publish what it released (again), and settle.
    Over {
        /// How it ended.
        state: TaskState,
        /// What its end has released and no worker has claimed yet.
        released: Vec<Released>,
        /// Whether the claim's digest is not that of the task.
        differs: bool,
    },
    /// The workflow that the message names is not known.
    NoWorkflow,
}

/// The result documents that a [`Claim`] has asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inputs {
    /// In the order asked; `None` where there is none.
    Read(Vec<Option<Bytes>>),
    /// Not read: they have so many bytes together, more than [`Claim::inputs_bytes_max`].
    TooLarge {
        /// How many.
        bytes: u64,
    },
}

/// The right to end an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The task.
    pub key: TaskKey,
    /// Which lease.
    pub fence: Fence,
    /// The attempt, from 1.
    pub attempt: u32,
    /// The run, from 1.
    pub run: u32,
}

/// How an attempt ends.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// The task ends.
    Ended {
        /// An ended state.
        state: TaskState,
        /// The task's document.
        document: Bytes,
        /// Whether readers want the document; without it only the state is kept (`ignore_result`).
        keep: bool,
        /// How long the document of a task on its own is kept.
        ttl: Duration,
        /// This attempt, for the history: a JSON object.
        entry: String,
        /// Of a task on its own that did not complete: the message to publish for a [`Store::retry`](super::Store::retry).
        retry: Option<Message>,
    },
    /// The attempt has planned tasks, at least one, and goes on when they have ended (line 8 of the law). Only
    /// within a workflow, and once: a claim that has `children` cannot expand again.
    Expanded {
        /// The children; their ids are new in the workflow.
        tasks: Vec<PlannedTask>,
        /// How many of them may be under way at once; `None` for any number.
        max_parallel: Option<NonZeroU32>,
    },
    /// Another attempt is to be made.
    Again {
        /// When it is due.
        due: Timestamp,
        /// This attempt, for the history: a JSON object.
        entry: String,
    },
    /// The attempt did not take place (drain): the same attempt is to be made by somebody else.
    Abandoned,
}

/// What became of [`Store::finish`](super::Store::finish).
#[derive(Debug, Clone, PartialEq)]
pub enum Finished {
    /// It is recorded. Publish these.
    Done {
        /// What this step has released.
        released: Vec<Released>,
        /// What this step has ended beside the task itself: failed or skipped dependents.
        ended: Vec<(Id, TaskState)>,
        /// The workflow's state after this step, if the task belongs to one.
        workflow: Option<WorkflowState>,
    },
    /// The lease is not current: somebody took over, or it was cancelled. Drop the result.
    Lost,
}
