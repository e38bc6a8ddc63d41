//! The store in Redis: atomic Lua steps, one slot per task on its own or per workflow.
//!
//! # Design
//! *One step, one script.* Each changing method of the port is one script (`lua/`), which Redis runs alone
//! and whole. A script touches the keys of one root only; all have the root's id as hash tag (`keys.rs`),
//! so a step stays in one slot. Scripts look at everything that can be wrong before they write, because an
//! error does not undo what was written before it.
//!
//! *A root is one hash*, `P:{ID}:root`, and its field `kind` says what it is: `task` (a task on its own, and
//! the whole of it), `workflow`, or `mark` (cancelled before anybody has seen it). So one read tells what an
//! id is, an id cannot be both, and `list` looks for one pattern. A task on its own costs three commands
//! to claim and five to finish; that path stands first in its script, before anything that it does not need.
//!
//! *The state machine of a task* has four numbers. `attempts` counts the attempts that have started: a task
//! that is queued waits for attempt `attempts + 1`, a message for an earlier one is told the next. `fence`
//! rises with each lease, with a cancel and with a retry, which so make a lease void. `crashes` counts attempts
//! that ended with their worker. `pending` counts dependencies that have not ended; the step that brings it to
//! 0 decides what becomes of the task, from the strongest verdict so far (`verdict`, `cause`).
//!
//! *Finish may be repeated.* A lease that is current but whose task does not run any more has done its step:
//! its answer was lost, and it is given again. What a step has released stands in the record of the task that
//! it was for, each name with the fence that the task had then: as long as the task is queued with that fence,
//! nobody has claimed it, and it is answered again. The list has the step's own fence, so a later step or a
//! retry makes it void without a write.
//!
//! *Turns* cost nothing where nothing is bounded: a ready task is released at once. Under `max_parallel` it
//! stands in a sorted set until a step that ends (or expands) a task gives its turn away (`lua/graph.lua`).
//! Children count among the workflow's tasks, and, until they have ended, among those of their parent if that
//! bounds them.
//!
//! *Children* are tasks like others, with a `parent`, whose `open` counts those that have not ended; at 0 it is
//! ready again, and `resume` says that its attempt has started already. Children that a retry has deleted may
//! come again under the same ids: the root's `floor` is the highest fence that any of them had.
//!
//! *A retry* looks at the whole graph, level by level, then writes: what is reset, what keeps its result and
//! loses its TTL, the counters. Messages are therefore kept until a workflow has completed with nothing left
//! to retry, and otherwise as long as the record.
//!
//! *What is known of the past.* The root has the names of the last retries that began a run (`by`) and of the last
//! cancels that were answered (`cancels`), and the run whose time was over (`timed_out`), so that a late repeat of
//! one is known. A message of a later run than a workflow's tells that a failover has lost a retry: the claim says
//! so and changes nothing.
//!
//! *Documents are joined, never parsed.* A task's document is its head, kept from the start, and an ending
//! (`wire::record`). Scripts end unrun tasks and whole workflows by joining texts; those that they write by
//! themselves are constants of the script. A workflow's document holds every task's. If that makes more
//! than [`Settings::document_bytes_max`], the tasks stand in it without their results
//! (`"result_omitted":true`), and if that is still too much, with head and status only; each task's own
//! document stays whole in its own key.
//!
//! *Everything that ends has a TTL.* Results of a task on its own from its end on, those of a workflow from
//! the workflow's end on; the hashes, as tombstones, seven times as long and at least a week.
//!
//! *Waiting is told, not polled* (`watch.rs`): a script publishes the result's key on `P:done:ID` in the
//! step that writes it. Steps that end nothing publish on `P:live:ID`, which is for who shows what goes on:
//! nobody listens there as a rule, and then it costs Redis about 4 us.
//!
//! *What running tasks give* is a stream, one for each root (`lua/output.lua`), and each `append` is told on
//! `P:output:ID`. A task's hash has in `given` what its lease has given, so that a task which gives nothing
//! costs nothing: who ends it sees in the same read that there is nothing to end.
//!
//! *What a step holds up.* Redis runs nothing else meanwhile. Of its CPU on a busy machine with two cores: a
//! claim and a finish of a task on its own 70 µs (a plain `SET` with a TTL 6 µs); a finish that releases
//! 10,000 dependents 0.14 s, one that fails them and ends the workflow 0.5 s, a workflow of 10,000 tasks 0.15 s
//! to create, 0.4 s to cancel and 0.4 s to retry whole.
//!
//! # What Redis must be
//! Version 7 or Valkey, with an append-only file for the promises, and `maxmemory-policy noeviction`. With
//! `appendfsync everysec` a power cut can take the last second; a replica that takes over may lack the last
//! writes. Then messages that still wait in the broker are run again. `hash-max-listpack-value 512` halves
//! the memory of a record (900 to 420 bytes) and of the time to claim.

mod about;
mod address;
mod connection;
mod keys;
mod limit;
mod link;
mod open;
mod outage;
mod output;
mod outside;
mod plan;
mod profile;
mod read;
mod reply;
mod road;
mod schedule;
mod scripts;
mod steps;
mod watch;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use std::time::Duration;

use self::connection::Connection;
use self::scripts::Scripts;
use self::watch::Watch;
use super::{
    Accepted, Cancelled, Change, Claim, Claimed, Created, End, Filter, Finished, Lease, Plan, Retried, Store,
    StoreError, Summary, TaskRecord, Why, WorkflowRecord,
};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};

pub use self::keys::{InvalidPrefix, PREFIX_BYTES_MAX, Prefix};

/// How to use a Redis.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`, or `rediss://` for TLS;
    /// `redis+sentinel://[[USER]:PASSWORD@]HOST,HOST/MASTER[/DATABASE]` for the master that Sentinels name;
    /// `redis+cluster://[[USER]:PASSWORD@]HOST,HOST` for a Cluster.
    pub url: String,
    /// What every key starts with.
    pub prefix: Prefix,
    /// How long results are kept whose task says nothing of it because it was cancelled: one day.
    pub result_ttl: Duration,
    /// The largest document of a workflow that holds its tasks' results, in bytes: 16 MiB.
    pub document_bytes_max: u64,
    /// How many replicas must have a step's writes before the step is done: none.
    pub wait_replicas: u32,
}

impl Settings {
    /// The Redis at `url` with everything else as it is by default.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Settings {
        Settings {
            url: url.into(),
            prefix: Prefix::default(),
            result_ttl: Duration::from_secs(24 * 3600),
            document_bytes_max: 16 << 20,
            wait_replicas: 0,
        }
    }
}

impl std::fmt::Debug for Settings {
    /// Without the address, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("prefix", &self.prefix)
            .field("result_ttl", &self.result_ttl)
            .field("document_bytes_max", &self.document_bytes_max)
            .field("wait_replicas", &self.wait_replicas)
            .finish_non_exhaustive()
    }
}

/// The store in Redis.
#[derive(Debug)]
pub struct RedisStore {
    connection: Connection,
    scripts: Scripts,
    schedules: schedule::Scripts,
    limits: limit::Scripts,
    outputs: output::Scripts,
    profiles: profile::Scripts,
    prefix: Prefix,
    result_ttl: Duration,
    watch: Watch,
}

impl RedisStore {
    /// Connects. Fails at once, not after retries, when that is not possible.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] or [`StoreError::LoginRefused`], both with the password masked.
    pub async fn connect(settings: Settings) -> Result<RedisStore, StoreError> {
        let connection = Connection::open(&settings.url, settings.wait_replicas).await?;
        Ok(RedisStore {
            watch: Watch::new(connection.clone(), settings.prefix.clone()),
            connection,
            scripts: Scripts::new(settings.document_bytes_max),
            schedules: schedule::Scripts::new(),
            limits: limit::Scripts::new(),
            outputs: output::Scripts::new(),
            profiles: profile::Scripts::new(),
            prefix: settings.prefix,
            result_ttl: settings.result_ttl,
        })
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn accept(&self, accepted: &[Accepted], now: Timestamp) -> Result<Vec<Id>, StoreError> {
        self.accept_step(accepted, now).await
    }

    async fn create(&self, plan: &Plan, now: Timestamp) -> Result<Created, StoreError> {
        self.create_step(plan, now).await
    }

    async fn claim(&self, claim: &Claim, now: Timestamp) -> Result<Claimed, StoreError> {
        self.claim_step(claim, now).await
    }

    async fn finish(&self, lease: &Lease, end: &End, now: Timestamp) -> Result<Finished, StoreError> {
        self.finish_step(lease, end, now).await
    }

    async fn cancel(&self, root: &Id, why: Why, now: Timestamp) -> Result<Cancelled, StoreError> {
        self.cancel_step(root, why, now).await
    }

    async fn retry(&self, root: &Id, by: &Id, now: Timestamp) -> Result<Retried, StoreError> {
        self.retry_step(root, by, now).await
    }

    async fn beat(&self, session: &Id, ttl: Duration, now: Timestamp) -> Result<(), StoreError> {
        let mut cmd = redis::cmd("SET");
        cmd.arg(self.prefix.session(session)).arg(now.to_string()).arg("PX").arg(steps::millis(ttl));
        self.connection.urgent("beat", &cmd).await
    }

    async fn alive(&self, session: &Id, _now: Timestamp) -> Result<bool, StoreError> {
        self.connection.query("alive", redis::cmd("EXISTS").arg(self.prefix.session(session))).await
    }

    async fn sessions(&self, _now: Timestamp) -> Result<Vec<Id>, StoreError> {
        self.read_sessions().await
    }

    async fn leave(&self, session: &Id) -> Result<(), StoreError> {
        self.connection.query::<()>("leave", redis::cmd("DEL").arg(self.prefix.session(session))).await?;
        self.forget_introductions(std::slice::from_ref(session)).await
    }

    async fn task(&self, key: &TaskKey) -> Result<Option<TaskRecord>, StoreError> {
        self.read_task(key).await
    }

    async fn workflow(&self, id: &Id) -> Result<Option<WorkflowRecord>, StoreError> {
        self.read_workflow(id).await
    }

    async fn result(&self, key: &TaskKey) -> Result<Option<Bytes>, StoreError> {
        self.read_document(self.prefix.result(key)).await
    }

    async fn results(&self, root: &Id, tasks: &[Id]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.read_documents(root, tasks).await
    }

    async fn outcome(&self, root: &Id) -> Result<Option<Bytes>, StoreError> {
        self.read_document(self.prefix.outcome(root)).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, StoreError> {
        self.read_list(filter).await
    }

    async fn watch(&self, root: &Id) -> Result<BoxStream<'static, Change>, StoreError> {
        self.watch.ends(root).await
    }

    async fn follow(&self, root: &Id) -> Result<BoxStream<'static, Change>, StoreError> {
        self.watch.ends_and_moves(root).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.connection.query("ping", &redis::cmd("PING")).await
    }

    async fn version(&self) -> Result<String, StoreError> {
        const STEP: &str = "version";
        // In a Cluster any of the masters speaks for all.
        let masters = self.connection.masters(STEP).await?;
        let Some(master) = masters.first() else {
            return Err(reply::corrupt(STEP, "the cluster has no masters".to_owned()));
        };
        let info: String = self.connection.query_on(STEP, master, redis::cmd("INFO").arg("server")).await?;
        let field = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        match (field("valkey_version"), field("redis_version")) {
            (Some(version), _) => Ok(format!("valkey {version}")),
            (None, Some(version)) => Ok(format!("redis {version}")),
            (None, None) => Err(reply::corrupt("version", "INFO names no version".to_owned())),
        }
    }

    async fn close(&self) {
        self.watch.close().await;
    }
}
