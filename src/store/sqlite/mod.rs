//! The embedded store: tables in the state file.
//!
//! Each method is one step of the writer thread (`crate::sqlite`): a function over the connection, in the
//! file that bears its name. Steps of many callers share a commit; each sees what those before it did.
//!
//! *The state machine of a task* has four numbers, the same as in Redis. `attempts` counts the attempts that
//! have started: a task that is queued waits for attempt `attempts + 1` (the same one again if it `resumes`),
//! a message for an earlier one is told the next. `fence` rises with each lease, and when a cancel or a retry
//! makes a lease void. `crashes` counts attempts that ended with their worker. `pending` counts dependencies
//! that have not ended; the step that brings it to 0 decides (`flow`).
//!
//! *Steps may be repeated.* A task that is released says by whose step (`released_by`) until it is claimed, so
//! a repeat answers exactly what may not have been published. A lease that is current but whose task does not
//! run any more has done its step: its answer was lost, and it is given again.
//!
//! *Children* are tasks like others, with a `parent`. What counts for all of them is in `parents`.
//!
//! *A workflow's document* is put together when it is read, from its tasks' documents. If they are more than
//! [`Settings::document_bytes_max`], they stand in it without their results (`"result_omitted":true`), and
//! if that is still too much, with head and status only.
//!
//! *Everything that ends has a TTL.* Results of a task on its own from its end on, those of a workflow from
//! the workflow's end on; the records, as tombstones, seven times as long and at least a week. A result is
//! gone for readers as soon as its time is over; the rows are removed by worker sessions, a bounded part with
//! each beat.
//!
//! *A session* names its process, so the sessions of a killed process end at once and not with their TTL.

mod again;
mod answered;
mod cancel;
mod claim;
mod create;
mod ending;
mod finish;
mod flow;
mod limit;
mod open;
mod output;
mod plant;
mod profile;
mod read;
mod reset;
mod retry;
mod rows;
mod schedule;
mod session;
mod watch;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

use self::rows::Clash;
use self::watch::News;
use super::{
    Accepted, Cancelled, Change, Claim, Claimed, Created, End, Filter, Finished, Lease, Plan, Retried, Store,
    StoreError, Summary, TaskRecord, Why, WorkflowRecord,
};
use crate::core::clock::{Clock, Timestamp};
use crate::core::id::{Id, TaskKey};
use crate::sqlite::{Database, Error, process};

/// How the store keeps things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long results are kept whose task says nothing of it because it was cancelled: one day.
    pub result_ttl: Duration,
    /// The largest document of a workflow that holds its tasks' results, in bytes: 16 MiB.
    pub document_bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { result_ttl: Duration::from_secs(24 * 3600), document_bytes_max: 16 << 20 }
    }
}

/// The store in the state file.
pub struct SqliteStore {
    database: Database,
    clock: Arc<dyn Clock>,
    settings: Settings,
    /// Our row of `processes`, made by the first beat.
    process: OnceCell<i64>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("location", self.database.location())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// The store in `database`; `clock` says which results have expired.
    #[must_use]
    pub fn new(database: Database, clock: Arc<dyn Clock>, settings: Settings) -> SqliteStore {
        SqliteStore { database, clock, settings, process: OnceCell::new() }
    }

    async fn process(&self, now: Timestamp) -> Result<i64, StoreError> {
        let register = || async {
            let me = self.database.process().clone();
            self.database.write("register", move |tx| process::register(tx, &me, now)).await
        };
        let process = self.process.get_or_try_init(register).await;
        process.copied().map_err(|error| self.failed("register", error))
    }

    /// Tells those who watch or follow `root`, once a step is committed, what its answer says by `news`.
    fn tell<T: 'static>(
        &self,
        root: &Id,
        news: impl FnOnce(&T) -> Option<News> + Send + 'static,
    ) -> impl FnOnce(&Result<T, Error>) + Send + 'static {
        let (database, root) = (self.database.clone(), root.clone());
        move |outcome| {
            if let Some(news) = outcome.as_ref().ok().and_then(news) {
                database.touch(&news.topic(&root));
            }
        }
    }

    fn failed(&self, step: &'static str, error: Error) -> StoreError {
        match error {
            Error::File { path, reason } => StoreError::File { path, reason },
            Error::Closed => {
                let path = self.database.location().to_string();
                StoreError::File { path, reason: "it is closed".to_owned() }
            }
            Error::Busy { .. } => {
                StoreError::Refused { step, reason: "another process keeps the state file locked".to_owned() }
            }
            Error::Refused { reason, .. } => StoreError::Refused { step, reason },
            Error::Unexpected { reason, .. } => StoreError::Corrupt { step, reason },
        }
    }
}

fn clash(step: &'static str, id: &Id, Clash(what): Clash) -> StoreError {
    StoreError::Corrupt { step, reason: format!("the id {id} is already that of {what}") }
}

#[async_trait]
impl Store for SqliteStore {
    async fn accept(&self, accepted: &[Accepted], now: Timestamp) -> Result<Vec<Id>, StoreError> {
        if accepted.is_empty() {
            return Ok(Vec::new());
        }
        let accepted = accepted.to_vec();
        let accept = move |tx: &rusqlite::Connection| create::accept(tx, &accepted, now);
        self.database.write("accept", accept).await.map_err(|error| self.failed("accept", error))
    }

    async fn create(&self, plan: &Plan, now: Timestamp) -> Result<Created, StoreError> {
        let news = |created: &Result<Created, Clash>| {
            let state = created.as_ref().ok()?.state;
            Some(if state.is_ended() { News::Ends } else { News::Moves })
        };
        let (plan_of, tell) = (plan.clone(), self.tell(&plan.id, news));
        let create = move |tx: &rusqlite::Connection| create::create(tx, &plan_of, now);
        let created = self.database.write_then("create", create, tell).await;
        let created = created.map_err(|error| self.failed("create", error))?;
        created.map_err(|other| clash("create", &plan.id, other))
    }

    async fn claim(&self, claim: &Claim, now: Timestamp) -> Result<Claimed, StoreError> {
        let root = &claim.head.key.root;
        let news = |claimed: &Result<Claimed, Clash>| match claimed.as_ref().ok()? {
            Claimed::Run { .. } => Some(News::Moves),
            // A mark becomes an end when it is claimed.
            Claimed::Over { .. } => Some(News::Ends),
            Claimed::Held { .. }
            | Claimed::NotReady { .. }
            | Claimed::Next { .. }
            | Claimed::Superseded
            | Claimed::LostRun { .. }
            | Claimed::NoWorkflow => None,
        };
        let (claim_of, tell, ttl) = (claim.clone(), self.tell(root, news), self.settings.result_ttl);
        let take = move |tx: &rusqlite::Connection| claim::claim(tx, &claim_of, ttl, now);
        let claimed = self.database.write_then("claim", take, tell).await;
        let claimed = claimed.map_err(|error| self.failed("claim", error))?;
        claimed.map_err(|other| clash("claim", root, other))
    }

    async fn finish(&self, lease: &Lease, end: &End, now: Timestamp) -> Result<Finished, StoreError> {
        if let End::Ended { state, .. } = end
            && !state.is_ended()
        {
            let reason = format!("a task cannot end as {state}");
            return Err(StoreError::Corrupt { step: "finish", reason });
        }
        let of_end = match end {
            End::Ended { .. } => News::Ends,
            End::Again { .. } | End::Abandoned | End::Expanded { .. } => News::Moves,
        };
        let news = move |finished: &Finished| matches!(finished, Finished::Done { .. }).then_some(of_end);
        let (lease, end, tell) = (lease.clone(), end.clone(), self.tell(&lease.key.root, news));
        let finish = move |tx: &rusqlite::Connection| finish::finish(tx, &lease, &end, now);
        let finished = self.database.write_then("finish", finish, tell).await;
        finished.map_err(|error| self.failed("finish", error))
    }

    async fn cancel(&self, root: &Id, why: Why, now: Timestamp) -> Result<Cancelled, StoreError> {
        let news = |cancelled: &Cancelled| matches!(cancelled, Cancelled::Done { .. }).then_some(News::Ends);
        let (root_of, tell, ttl) = (root.clone(), self.tell(root, news), self.settings.result_ttl);
        let cancel = move |tx: &rusqlite::Connection| cancel::cancel(tx, &root_of, &why, ttl, now);
        let cancelled = self.database.write_then("cancel", cancel, tell).await;
        cancelled.map_err(|error| self.failed("cancel", error))
    }

    async fn retry(&self, root: &Id, by: &Id, now: Timestamp) -> Result<Retried, StoreError> {
        let news = |retried: &Retried| matches!(retried, Retried::Running { .. }).then_some(News::Moves);
        let (root, by, tell) = (root.clone(), by.clone(), self.tell(root, news));
        let retry = move |tx: &rusqlite::Connection| retry::retry(tx, &root, &by, now);
        self.database.write_then("retry", retry, tell).await.map_err(|error| self.failed("retry", error))
    }

    async fn beat(&self, session: &Id, ttl: Duration, now: Timestamp) -> Result<(), StoreError> {
        let process = self.process(now).await?;
        let session = session.clone();
        let beat = move |tx: &rusqlite::Connection| session::beat(tx, &session, process, ttl, now);
        self.database.write("beat", beat).await.map_err(|error| self.failed("beat", error))
    }

    async fn alive(&self, session: &Id, now: Timestamp) -> Result<bool, StoreError> {
        let (session, me) = (session.clone(), self.database.process().clone());
        let alive = move |tx: &rusqlite::Connection| session::alive(tx, &me, &session, now);
        self.database.read("alive", alive).await.map_err(|error| self.failed("alive", error))
    }

    async fn sessions(&self, now: Timestamp) -> Result<Vec<Id>, StoreError> {
        let me = self.database.process().clone();
        let sessions = move |tx: &rusqlite::Connection| session::sessions(tx, &me, now);
        self.database.read("sessions", sessions).await.map_err(|error| self.failed("sessions", error))
    }

    async fn leave(&self, session: &Id) -> Result<(), StoreError> {
        let session = session.clone();
        let leave = move |tx: &rusqlite::Connection| session::leave(tx, &session);
        self.database.write("leave", leave).await.map_err(|error| self.failed("leave", error))
    }

    async fn task(&self, key: &TaskKey) -> Result<Option<TaskRecord>, StoreError> {
        let key = key.clone();
        let read = move |tx: &rusqlite::Connection| read::task(tx, &key);
        self.database.read("task", read).await.map_err(|error| self.failed("task", error))
    }

    async fn workflow(&self, id: &Id) -> Result<Option<WorkflowRecord>, StoreError> {
        let id = id.clone();
        let read = move |tx: &rusqlite::Connection| read::workflow(tx, &id);
        self.database.read("workflow", read).await.map_err(|error| self.failed("workflow", error))
    }

    async fn result(&self, key: &TaskKey) -> Result<Option<Bytes>, StoreError> {
        let (key, now) = (key.clone(), self.clock.now());
        let read = move |tx: &rusqlite::Connection| read::result(tx, &key, now);
        self.database.read("result", read).await.map_err(|error| self.failed("result", error))
    }

    async fn results(&self, root: &Id, tasks: &[Id]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let (root, tasks, now) = (root.clone(), tasks.to_vec(), self.clock.now());
        let read = move |tx: &rusqlite::Connection| read::results(tx, &root, &tasks, now);
        self.database.read("results", read).await.map_err(|error| self.failed("results", error))
    }

    async fn outcome(&self, root: &Id) -> Result<Option<Bytes>, StoreError> {
        let (root, now, bytes_max) = (root.clone(), self.clock.now(), self.settings.document_bytes_max);
        let read = move |tx: &rusqlite::Connection| read::outcome(tx, &root, bytes_max, now);
        self.database.read("outcome", read).await.map_err(|error| self.failed("outcome", error))
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, StoreError> {
        let filter = filter.clone();
        let read = move |tx: &rusqlite::Connection| read::list(tx, &filter);
        self.database.read("list", read).await.map_err(|error| self.failed("list", error))
    }

    async fn watch(&self, root: &Id) -> Result<BoxStream<'static, Change>, StoreError> {
        watch::ends(&self.database, root).await.map_err(|error| self.failed("watch", error))
    }

    async fn follow(&self, root: &Id) -> Result<BoxStream<'static, Change>, StoreError> {
        watch::ends_and_moves(&self.database, root).await.map_err(|error| self.failed("follow", error))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let read = |tx: &rusqlite::Connection| tx.prepare_cached("SELECT 1")?.query_row([], |_| Ok(()));
        self.database.read("ping", read).await.map_err(|error| self.failed("ping", error))
    }

    async fn version(&self) -> Result<String, StoreError> {
        self.ping().await?;
        Ok(format!("SQLite {} (embedded)", rusqlite::version()))
    }

    /// The file stays open for the broker; [`Database::close`] closes it for both.
    async fn close(&self) {
        let Some(process) = self.process.get().copied() else { return };
        let forget = move |tx: &rusqlite::Connection| process::forget(tx, process);
        match self.database.write("close", forget).await {
            Ok(()) | Err(Error::Closed) => {}
            // The next process finds this one dead.
            Err(error) => tracing::warn!(%error, "cannot take the process out of the state file"),
        }
    }
}
