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
//! 5. An ended task never changes again, unless a `retry` resets it. Its outcome is recorded once.
//! 6. In the step that ends the last dependency of a task, and only there, it is decided what becomes of that
//!    task, transitively. Every edge has an [`Otherwise`] for a dependency that did not complete:
//!
//!    | the dependency ended        | `Fail`              | `Skip`   | `Continue` |
//!    |-----------------------------|---------------------|----------|------------|
//!    | completed                   | satisfied           | satisfied | satisfied |
//!    | skipped                     | skipped             | skipped  | satisfied  |
//!    | failed, cancelled, expired  | failed              | skipped  | satisfied  |
//!
//!    Over all edges of a task, failed beats skipped beats satisfied, so the order of ends does not matter.
//!    A task that fails so has `TASK_DEPENDENCY_FAILED`; one that is satisfied is *ready*.
//! 7. A ready task is released (queued, and given to the caller to publish) while its workflow has fewer than
//!    `max_parallel` tasks between release and end; else it stays `waiting`, and the steps that end tasks of
//!    the workflow release it in turn: higher priority first, then who was ready first. A task is released by
//!    exactly one step; repeats of that step answer it again until somebody has claimed it.
//! 8. `finish` with [`End::Expanded`] plans further tasks (*children*) within a workflow. Their parent waits,
//!    outside the workflow's `max_parallel`, and is ready again, for the same attempt, when all of them have
//!    ended. A bound of its own (`max_parallel` of the expansion) holds for how many children of the one
//!    parent are *under way*: from a child's release until it has ended itself, also while it waits for
//!    children of its own. A ready child that needs such a place is released in turn, as in line 7.
//!    A child's end never counts for the workflow's state: that is for the parent to judge.
//! 9. When no task of a workflow is open any more the workflow ends: `failed` if a task that is not
//!    `tolerated` ended other than completed or skipped, else `completed`. `cancel` ends every open task of
//!    the root in one step, also the running ones (their leases are void), and the workflow as its reason
//!    says. For an id that nobody has seen it leaves a mark that a later `claim` or `create` obeys. A repeat
//!    is answered so that what follows from the end can be done again; under the name of a request that was
//!    answered before, it ends nothing of a later run.
//! 10. `retry` of an ended workflow resets, in one step, what did not complete (failed, cancelled, expired),
//!     whatever depends on that, transitively, and nothing else: those tasks are as after `create`, with a
//!     fence that is higher than before and their history kept. A parent that is reset because of a dependency
//!     loses its children; one that is reset by itself keeps them, and those that failed are reset too. It is
//!     under way while they run: where a bound of line 8 holds for it they begin when it has its place,
//!     which such parents get in the order of the file, before any other child.
//!     A message says which run it is of. Of a task that is open, a message of an earlier run is
//!     [`Claimed::Superseded`]: the present run has released it under a message of its own, or will, so no
//!     attempt of the run before is counted in it and each run has one chain of messages. A message of the
//!     present run for a later attempt than the record knows of is believed: the store has lost its last writes.
//!     One of a later run tells that a retry is lost, and all that it and its run have changed. A task on its own
//!     that failed, expired or has not ended begins that run with the claim, with a fence far above those that may
//!     be lost. Of a workflow the claim is [`Claimed::LostRun`] and changes nothing: what that run had ended is
//!     not known, so only who asks for a retry once more can begin it.
//! 11. A result exists from the step that ends its task on, until its TTL is over; the record of the end (the
//!     tombstone) outlives it. A running workflow's results have no TTL; it starts when the workflow ends.
//! 12. After a result can be read, everyone who watches its root is told. Who follows it is told as well after
//!     what moves it on: the workflow is taken in or retried, or a task is claimed, is to be tried again, was
//!     given back, or waits for what it has planned. Both may tell too often, never too seldom: what may have
//!     been missed is told as [`Change::Resync`].
//! 13. A session is alive from `beat` on for the given TTL; a session of a process that is known to be dead
//!     is not alive. `sessions` names those that are alive, each once.
//!
//! Lines 14 to 16, of schedules, are in `schedule`; lines 17 and 18, of what has not ended, in `open`; lines 19 to 22, of
//! limits, in `limit`; lines 23 to 27, of what running tasks give, in `output`; lines 28 and 29, of what workers say of
//! themselves, in `about`; lines 30 and 31, of profiles, in `profile`.

mod about;
mod error;
mod lease;
mod limit;
mod open;
mod output;
mod outside;
mod plan;
mod profile;
mod record;
pub mod redis;
pub(crate) mod schedule;
pub mod sqlite;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use std::fmt;
use std::time::Duration;

use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};

pub use about::Introductions;
pub use error::StoreError;
pub use lease::{Claim, Claimed, End, Fence, Finished, Inputs, Lease};
pub use limit::{Demand, Granted, Limits};
pub use open::{OpenPage, OpenRoot, OpenWork, SENT_BYTES_MAX};
pub use output::{
    Appended, ENTRY_BYTES, Given, InvalidPosition, OUTPUT_TTL, OutputEntry, Outputs, Position, ROOT_BYTES_MAX,
};
pub use outside::{Cancelled, Retried, Why};
use outside::{FORGOTTEN_LEASES_MAX, REQUESTS_MAX};
pub use plan::{Accepted, Created, Edge, Message, Otherwise, Plan, PlannedTask, Released};
pub(crate) use profile::Unreadable;
pub use profile::{Note, Noted, PROFILES_MAX, Profiles};
pub use record::{Change, Filter, Summary, TaskRecord, WorkflowRecord};
pub use schedule::{Arrangement, Begun, Firing, SCHEDULES_MAX, Schedule, ScheduleState, Schedules, Turn};

/// The state of tasks and workflows.
#[async_trait]
pub trait Store:
    Schedules + OpenWork + Limits + Outputs + Introductions + Profiles + fmt::Debug + Send + Sync + 'static
{
    /// Notes that the broker has confirmed these, so that `status` and `list` know them before a worker does.
    /// Best effort: an id that the store already knows stays as it is.
    /// Answers the ids that are known with another digest: their bodies differ from what came first.
    async fn accept(&self, accepted: &[Accepted], now: Timestamp) -> Result<Vec<Id>, StoreError>;

    /// Takes a workflow in. A repeat changes nothing and answers what is still to be published.
    async fn create(&self, plan: &Plan, now: Timestamp) -> Result<Created, StoreError>;

    /// Takes the lease of a task and fetches the results that it refers to.
    async fn claim(&self, claim: &Claim, now: Timestamp) -> Result<Claimed, StoreError>;

    /// Ends the attempt that `lease` is for.
    async fn finish(&self, lease: &Lease, end: &End, now: Timestamp) -> Result<Finished, StoreError>;

    /// Ends a task on its own or a whole workflow from outside. A repeat of a named request ends nothing of a run
    /// that a retry has begun since ([`Why::Request`]).
    async fn cancel(&self, root: &Id, why: Why, now: Timestamp) -> Result<Cancelled, StoreError>;

    /// Runs an ended task or workflow again as far as it did not complete. `by` names the request: a repeat of
    /// one of the last 16 that began a run changes nothing and answers what is still to be published.
    async fn retry(&self, root: &Id, by: &Id, now: Timestamp) -> Result<Retried, StoreError>;

    /// Keeps a worker session alive for `ttl` from now.
    async fn beat(&self, session: &Id, ttl: Duration, now: Timestamp) -> Result<(), StoreError>;

    /// Whether the session is alive.
    async fn alive(&self, session: &Id, now: Timestamp) -> Result<bool, StoreError>;

    /// The sessions that are alive. To be asked by people, not in a loop: in Redis its time grows with everything that
    /// the server holds.
    async fn sessions(&self, now: Timestamp) -> Result<Vec<Id>, StoreError>;

    /// Ends a session: it holds no lease any more and nobody needs to wait for its TTL.
    async fn leave(&self, session: &Id) -> Result<(), StoreError>;

    /// What is known of a task; `None` for an id that nobody has seen.
    async fn task(&self, key: &TaskKey) -> Result<Option<TaskRecord>, StoreError>;

    /// What is known of a workflow with all its tasks in the order of the file; `None` if it is none.
    async fn workflow(&self, id: &Id) -> Result<Option<WorkflowRecord>, StoreError>;

    /// The result document of a task (alone or within a workflow) while it exists.
    async fn result(&self, key: &TaskKey) -> Result<Option<Bytes>, StoreError>;

    /// The result documents of several tasks of a workflow, in the order asked.
    async fn results(&self, root: &Id, tasks: &[Id]) -> Result<Vec<Option<Bytes>>, StoreError>;

    /// The result document of a task on its own or of a whole workflow while it exists.
    async fn outcome(&self, root: &Id) -> Result<Option<Bytes>, StoreError>;

    /// Roots that the store knows, newest first.
    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, StoreError>;

    /// Tells of every end under `root` from now on. The stream is endless; drop it to stop.
    async fn watch(&self, root: &Id) -> Result<BoxStream<'static, Change>, StoreError>;

    /// As `watch`, and tells also of what moves without an end ([`Change::Moved`]): for who shows what goes on.
    async fn follow(&self, root: &Id) -> Result<BoxStream<'static, Change>, StoreError>;

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// What the store says of itself: product and version.
    async fn version(&self) -> Result<String, StoreError>;

    /// Closes connections.
    async fn close(&self);
}
