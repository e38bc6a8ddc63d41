//! The port to the store, and its law.
//!
//! The store knows the state of tasks and workflows and keeps their results. Two adapters: `redis` (atomic
//! Lua steps, one slot per task or workflow) and `sqlite` (the embedded file). Both pass `tests/conformance`.
//!
//! # Law
//! 1. Every method is one atomic step: it happens whole or not at all, and everybody sees it in the same order.
//! 2. Every step may be repeated: after a crash the same call is made again, by anybody, and gives an answer
//!    from which the caller can do what the first caller may not have done (publish, then settle).
//! 3. A lease is held by one session at a time. Each new lease of a task has a higher fence than all before.
//! 4. `finish` changes nothing unless its lease is the current one ([`Finished::Lost`]). A repeat by the lease
//!    that has ended the attempt changes nothing either, and is answered as by line 2.
//! 5. An ended task never changes again. Its outcome is recorded once.
//! 6. In the step that ends a task of a workflow, its dependents are readied (all dependencies completed) or
//!    failed with `TASK_DEPENDENCY_FAILED`, transitively; and when no task is open any more the workflow ends:
//!    `cancelled` if it was cancelled, else `failed` if a task did not complete, else `completed`.
//!    A dependent is readied by exactly one step.
//! 7. `cancel` ends every open task of the root in one step, also the running ones (their leases are void).
//!    For an id that nobody has seen it leaves a mark that a later `claim` or `create` obeys.
//! 8. A result exists from the step that ends its task on, until its TTL is over; the record of the end (the
//!    tombstone) outlives it. A running workflow's results have no TTL; it starts when the workflow ends.
//! 9. After a result can be read, everyone who watches its root is told. `watch` may tell too often, never
//!    too seldom.
//! 10. A session is alive from `beat` on for the given TTL; a session of a process that is known to be dead
//!     is not alive.

pub mod redis;
pub mod sqlite;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use std::fmt;
use std::time::Duration;

use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::topology::Address;
use crate::wire::record::Head;

/// The state of tasks and workflows.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Notes that the broker has confirmed these, so that `status` and `list` know them before a worker does.
    /// Best effort: an id that the store already knows stays as it is.
    async fn accept(&self, accepted: &[Accepted], now: Timestamp) -> Result<(), StoreError>;

    /// Takes a workflow in. A repeat changes nothing and answers what is still to be published.
    async fn create(&self, plan: &Plan, now: Timestamp) -> Result<Created, StoreError>;

    /// Takes the lease of a task and fetches the results that it refers to.
    async fn claim(&self, claim: &Claim, now: Timestamp) -> Result<Claimed, StoreError>;

    /// Ends the attempt that `lease` is for.
    async fn finish(&self, lease: &Lease, end: &End, now: Timestamp) -> Result<Finished, StoreError>;

    /// Ends a task on its own or a whole workflow from outside.
    async fn cancel(&self, root: &Id, now: Timestamp) -> Result<Cancelled, StoreError>;

    /// Keeps a worker session alive for `ttl` from now.
    async fn beat(&self, session: &Id, ttl: Duration, now: Timestamp) -> Result<(), StoreError>;

    /// Whether the session is alive.
    async fn alive(&self, session: &Id, now: Timestamp) -> Result<bool, StoreError>;

    /// Ends a session: it holds no lease any more and nobody needs to wait for its TTL.
    async fn leave(&self, session: &Id) -> Result<(), StoreError>;

    /// What is known of a task; `None` for an id that nobody has seen.
    async fn task(&self, key: &TaskKey) -> Result<Option<TaskRecord>, StoreError>;

    /// What is known of a workflow with all its tasks in the order of the file; `None` if it is none.
    async fn workflow(&self, id: &Id) -> Result<Option<WorkflowRecord>, StoreError>;

    /// The result document of a task (alone or within a workflow) while it exists.
    async fn result(&self, key: &TaskKey) -> Result<Option<Bytes>, StoreError>;

    /// The result document of a task on its own or of a whole workflow while it exists.
    async fn outcome(&self, root: &Id) -> Result<Option<Bytes>, StoreError>;

    /// Roots that the store knows, newest first.
    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, StoreError>;

    /// Tells of every end under `root` from now on. The stream is endless; drop it to stop.
    async fn watch(&self, root: &Id) -> Result<BoxStream<'static, Change>, StoreError>;

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// What the store says of itself: product and version.
    async fn version(&self) -> Result<String, StoreError>;

    /// Closes connections.
    async fn close(&self);
}

/// A task on its own, or a workflow, that the broker has confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// A task on its own.
    Task(Head),
    /// A workflow and its name.
    Workflow {
        /// Its id.
        id: Id,
        /// Its name.
        name: String,
    },
}

/// A workflow, validated: what [`Store::create`] takes in.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The workflow's id.
    pub id: Id,
    /// For people.
    pub name: String,
    /// The tasks in the order of the file; ids unique, dependencies known and free of cycles.
    pub tasks: Vec<PlannedTask>,
    /// How long results are kept after the workflow has ended.
    pub result_ttl: Duration,
    /// Why the workflow cannot be taken in. Such a plan has no tasks and ends in the step that creates it, as
    /// `failed` with this error in its document, unless the id is known already.
    pub refused: Option<Failure>,
}

/// A task of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedTask {
    /// What it is; `head.key.task` is its id.
    pub head: Head,
    /// Its message, ready to publish.
    pub message: Message,
    /// Indices into `Plan::tasks` of the tasks that it waits for, without repeats.
    pub dependencies: Vec<usize>,
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
}

/// What became of [`Store::create`].
#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    /// It runs. Publish these: the tasks that are ready and that no worker has claimed yet.
    Running(Vec<Released>),
    /// It has ended already (a repeat, or cancelled before it came).
    Over(WorkflowState),
}

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
    /// Who asks.
    pub session: Id,
    /// Take the lease over from a session that is known to be dead: the fence it held. The attempt it had
    /// started counts as a crash of this task.
    pub over: Option<Fence>,
    /// Tasks of the same workflow whose results are wanted.
    pub inputs: Vec<Id>,
}

/// What became of [`Store::claim`].
#[derive(Debug, Clone, PartialEq)]
pub enum Claimed {
    /// Run it.
    Run {
        /// The lease; `finish` wants it.
        lease: Lease,
        /// The result documents asked for, in the order asked; `None` where there is none.
        inputs: Vec<Option<Bytes>>,
        /// How many attempts ended with the death of their worker so far.
        crashes: u32,
        /// The attempts so far as in [`TaskRecord::history`]; empty for a first attempt.
        history: Vec<String>,
    },
    /// A session has the lease.
    Held {
        /// Whose it is.
        session: Id,
        /// Which lease; to be named in a take-over.
        fence: Fence,
    },
    /// It depends on tasks that have not ended: its message is early and will be published in time.
    NotReady,
    /// A later attempt than the message's is decided: publish that one (again), due then, and settle.
    Next {
        /// The attempt to publish.
        attempt: u32,
        /// When it is due.
        due: Timestamp,
    },
    /// It has ended. Publish what it released (again), and settle.
    Over {
        /// How it ended.
        state: TaskState,
        /// Dependents that are ready and that no worker has claimed yet.
        released: Vec<Released>,
    },
    /// The workflow that the message names is not known.
    NoWorkflow,
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

/// What became of [`Store::finish`].
#[derive(Debug, Clone, PartialEq)]
pub enum Finished {
    /// It is recorded. Publish these.
    Done {
        /// Dependents that this step has readied.
        released: Vec<Released>,
        /// Dependents that this step has failed.
        failed: Vec<Id>,
        /// The workflow's state after this step, if the task belongs to one.
        workflow: Option<WorkflowState>,
    },
    /// The lease is not current: somebody took over, or it was cancelled. Drop the result.
    Lost,
}

/// What became of [`Store::cancel`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// It is cancelled; these tasks were running, by these sessions.
    Done {
        /// Task and session.
        running: Vec<(TaskKey, Id)>,
    },
    /// It had ended before (state by name).
    Over(String),
    /// Nobody has seen it yet; it will be refused when it comes.
    Marked,
}

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
    /// Ids of the tasks that it waits for.
    pub dependencies: Vec<Id>,
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
    /// Its tasks in the order of the file; empty until a worker has taken it in.
    pub tasks: Vec<TaskRecord>,
}

/// What [`Store::list`] looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// A state by name; `None` for all.
    pub state: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// A line of [`Store::list`].
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

/// Something ended under a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This task of the workflow.
    Task(Id),
    /// The root itself: the task on its own, or the whole workflow.
    Root,
    /// Something may have been missed (a lost connection): look at everything again.
    Resync,
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nobody answers at the address. `url` has its password masked.
    #[error("cannot reach the store at {url}: {reason}")]
    Unreachable {
        /// The address, masked.
        url: String,
        /// What the attempt said.
        reason: String,
    },
    /// Wrong user or password.
    #[error("the store at {url} refuses the login: {reason}")]
    LoginRefused {
        /// The address, masked.
        url: String,
        /// What the store said.
        reason: String,
    },
    /// The connection broke or no answer came in time: it is unknown whether the step was done.
    #[error("no answer from the store in {step}: {reason}")]
    Unanswered {
        /// Which step.
        step: &'static str,
        /// What happened.
        reason: String,
    },
    /// The store refused the step (read-only, out of memory, out of disk).
    #[error("the store refuses {step}: {reason}")]
    Refused {
        /// Which step.
        step: &'static str,
        /// What the store said.
        reason: String,
    },
    /// The store holds something that we did not write.
    #[error("the store holds something unexpected in {step}: {reason}")]
    Corrupt {
        /// Which step.
        step: &'static str,
        /// What it is.
        reason: String,
    },
    /// The file of the embedded state cannot be used.
    #[error("the state file {path} cannot be used: {reason}")]
    File {
        /// Its path.
        path: String,
        /// What the system said.
        reason: String,
    },
}

impl StoreError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            StoreError::Unreachable { .. } => Code::PersistenceConnectionFailed,
            StoreError::LoginRefused { .. } => Code::AuthenticationFailed,
            StoreError::Unanswered { .. } => Code::PersistenceTransactionFailed,
            StoreError::Refused { .. } => Code::PersistenceWriteFailed,
            StoreError::Corrupt { .. } => Code::PersistenceIntegrityError,
            StoreError::File { .. } => Code::FileUnreadable,
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            StoreError::Unreachable { .. } | StoreError::Unanswered { .. } | StoreError::Refused { .. } => {
                true
            }
            StoreError::LoginRefused { .. } | StoreError::Corrupt { .. } | StoreError::File { .. } => false,
        }
    }
}
