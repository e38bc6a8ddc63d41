//! What the store takes in: workflows with their tasks, and what it gives back to be published.

use bytes::Bytes;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::core::clock::Timestamp;
use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::core::state::WorkflowState;
use crate::topology::Address;
use crate::wire::record::Head;

/// A task on its own, or a workflow, that the broker has confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// A task on its own.
    Task {
        /// What it is.
        head: Head,
        /// See [`Claim::digest`](super::Claim::digest).
        digest: Option<String>,
        /// The broker keeps it until then; it is `delayed`.
        due: Option<Timestamp>,
        /// Its message, kept until it ends, so that it can be sent again ([`super::OpenWork::messages`]); `None`
        /// if it is too large for that.
        sent: Option<Message>,
    },
    /// A workflow and its name.
    Workflow {
        /// Its id.
        id: Id,
        /// Its name.
        name: String,
        /// See [`Claim::digest`](super::Claim::digest).
        digest: Option<String>,
        /// The broker keeps it until then.
        due: Option<Timestamp>,
    },
}

/// A workflow, validated: what [`Store::create`](super::Store::create) takes in.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The workflow's id.
    pub id: Id,
    /// For people.
    pub name: String,
    /// The tasks in the order of the file; ids unique, dependencies known and free of cycles.
    pub tasks: Vec<PlannedTask>,
    /// How many of its tasks may be between release and end at once; `None` for any number.
    pub max_parallel: Option<NonZeroU32>,
    /// How long the workflow may take. The store only remembers it, for [`Retried::Running`](super::Retried::Running).
    pub timeout: Option<Duration>,
    /// Who waits for the workflow's result, in the caller's own words; [`Cancelled::Done`](super::Cancelled::Done) gives it back.
    pub reply: Option<String>,
    /// See [`Claim::digest`](super::Claim::digest).
    pub digest: Option<String>,
    /// How long results are kept after the workflow has ended.
    pub result_ttl: Duration,
    /// Why the workflow cannot be taken in. Such a plan has no tasks and ends in the step that creates it, as
    /// `failed` with this error in its document, unless the id is known already.
    pub refused: Option<Failure>,
}

impl Plan {
    /// A workflow that cannot be taken in, because of `failure`.
    #[must_use]
    pub fn refused(id: Id, name: String, failure: Failure, result_ttl: Duration) -> Plan {
        Plan {
            id,
            name,
            tasks: Vec::new(),
            max_parallel: None,
            timeout: None,
            reply: None,
            digest: None,
            result_ttl,
            refused: Some(failure),
        }
    }
}

/// A task of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedTask {
    /// What it is; `head.key.task` is its id.
    pub head: Head,
    /// Its message, ready to publish.
    pub message: Message,
    /// The tasks that it waits for, each once.
    pub dependencies: Vec<Edge>,
    /// Whether the workflow may complete although this task did not.
    pub tolerated: bool,
}

/// What a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// The index of the other task in the list that both are in.
    pub on: usize,
    /// What its end means for this task, unless it completes.
    pub otherwise: Otherwise,
}

/// What becomes of a task whose dependency did not complete; see line 6 of the law.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Otherwise {
    /// It runs all the same.
    Continue,
    /// It is skipped.
    Skip,
    /// It fails.
    Fail,
}

/// A task's message as the store keeps it until the task is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The protocol's address.
    pub address: Address,
    /// 0 to 9.
    pub priority: u8,
    /// The JSON body.
    pub body: Bytes,
}

/// A task that is ready: its message is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// The task.
    pub key: TaskKey,
    /// Its message.
    pub message: Message,
    /// The run that it is released in, from 1; each retry of the root begins another. The message tells it, and
    /// so do the messages of later attempts: [`Claim::run`](super::Claim::run).
    pub run: u32,
}

/// What became of [`Store::create`](super::Store::create).
#[derive(Debug, Clone, PartialEq)]
pub struct Created {
    /// Where the workflow is after this step; ended if it is a repeat, or was cancelled before it came.
    pub state: WorkflowState,
    /// Publish these: the tasks that are released and that no worker has claimed yet.
    pub released: Vec<Released>,
    /// Whether the id was known with another digest: this plan is not what was taken in.
    pub differs: bool,
    /// Which run this is and how long it may take, by the plan that was taken in; `None` for any time.
    pub timeout: Option<(u32, Duration)>,
}
