//! The embedded broker: tables in the state file.
//!
//! ```text
//! publish ──▶ messages (ready) ──deliver──▶ messages (owner) ──Done──▶ gone
//!        └──▶ delayed ──when due──▶ ▲              └── Release, drop, death ──▶ back at its place
//! ```
//! A confirm is a commit. A delivered message names its owner, a row of `processes`; when that process is
//! dead, whoever consumes next (and every consumer once a second) puts back what it held. Publishers of this
//! process wake consumers of this process through topics; other processes' commits are polled for.
//!
//! What is different from a server: replies ([`Target::Reply`]) have nobody to read them, so they are
//! dropped, as the port allows for a requester that is gone; events have no subscribers outside the process
//! and are counted as dropped.

mod broadcast;
mod consumer;
mod desk;
mod lanes;
mod messages;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use self::broadcast::SqliteListener;
use self::consumer::SqliteConsumer;
use self::messages::Incoming;
use super::{
    Broker, BrokerError, Consumer, DELAY_MAX, Depth, Finding, Listener, Migration, Moved, Outgoing, Target,
    Transit,
};
use crate::core::clock::Clock;
use crate::core::fairness::Turns;
use crate::core::id::Id;
use crate::sqlite::{Database, Error, process};
use crate::topology::lane::{self, Fairness, Lanes};
use crate::topology::{Queue, Topology};
use crate::wire::task::fairness_key;

/// The header that names the workflow which a task's message belongs to.
pub const ROOT_HEADER: &str = "gleitzeit-root";

/// The largest body, in bytes: what RabbitMQ 4 takes by default.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What is said of a lane that is not configured.
const SPARE: &str = "is a lane that is not configured any more; workers go on to take what is in it; `gleitzeit topology apply --migrate` removes it";

/// How often consumers look for dead processes.
const RECLAIM_EVERY: Duration = Duration::from_secs(1);

/// The broker in the state file.
pub struct SqliteBroker {
    hub: Arc<Hub>,
    scope: Option<String>,
    fairness: Arc<Fairness>,
}

/// What the broker and its consumers share.
struct Hub {
    database: Database,
    clock: Arc<dyn Clock>,
    /// Our row of `processes`, made by the first consumer.
    owner: OnceCell<i64>,
    closed: CancellationToken,
    reclaimed: Mutex<Option<Instant>>,
    /// Whose turn it is among the lanes of a queue.
    turns: Mutex<BTreeMap<String, Arc<Mutex<Turns>>>>,
    dropped: AtomicU64,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("database", &self.database).finish_non_exhaustive()
    }
}

impl fmt::Debug for SqliteBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteBroker")
            .field("location", self.hub.database.location())
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl SqliteBroker {
    /// A broker whose consumers take every message.
    #[must_use]
    pub fn new(database: Database, clock: Arc<dyn Clock>) -> SqliteBroker {
        let hub = Hub {
            database,
            clock,
            owner: OnceCell::new(),
            closed: CancellationToken::new(),
            reclaimed: Mutex::new(None),
            turns: Mutex::default(),
            dropped: AtomicU64::new(0),
        };
        SqliteBroker { hub: Arc::new(hub), scope: None, fairness: Arc::default() }
    }

    /// A broker whose consumers take only messages of `root`: a workflow and its tasks, or a task on its own.
    /// A message's root is what its header [`ROOT_HEADER`] says, else its message id.
    #[must_use]
    pub fn scoped(database: Database, clock: Arc<dyn Clock>, root: &Id) -> SqliteBroker {
        let all = SqliteBroker::new(database, clock);
        SqliteBroker { scope: Some(root.to_string()), ..all }
    }

    /// The same with lanes for these protocols.
    #[must_use]
    pub fn with_fairness(self, fairness: Fairness) -> SqliteBroker {
        SqliteBroker { fairness: Arc::new(fairness), ..self }
    }

    /// How many events and replies nobody could receive.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.hub.dropped.load(Ordering::Relaxed)
    }

    fn open(&self) -> Result<&Hub, BrokerError> {
        if self.hub.closed.is_cancelled() { Err(BrokerError::Closed) } else { Ok(&self.hub) }
    }

    fn incoming(&self, message: Outgoing) -> Result<Option<Incoming>, BrokerError> {
        let queue = match &message.target {
            Target::Queue(queue) => self.place_of(queue, &message.body),
            Target::Reply(_) => {
                self.hub.dropped.fetch_add(1, Ordering::Relaxed);
                return Ok(None);
            }
        };
        let invalid = |reason: String| {
            let what = format!("a message for {queue}");
            BrokerError::Invalid { what, reason }
        };
        if message.body.len() > BODY_BYTES_MAX {
            let bytes = message.body.len();
            return Err(invalid(format!("{bytes} bytes are more than the {BODY_BYTES_MAX} allowed")));
        }
        let delay = message.delay.filter(|delay| !delay.is_zero());
        if delay.is_some_and(|delay| delay > DELAY_MAX) {
            return Err(invalid("the delay is longer than 310 days".to_owned()));
        }
        let mut properties = message.properties;
        properties.priority = properties.priority.map(|priority| priority.min(9));
        let headers = properties.all_headers();
        let headers = (!headers.is_empty()).then(|| Value::Object(headers).to_string());
        Ok(Some(Incoming {
            due: delay.map(|delay| self.hub.clock.now().after(delay)),
            root: properties.headers.get(ROOT_HEADER).or(properties.message_id.as_ref()).cloned(),
            queue,
            properties,
            headers,
            body: message.body,
        }))
    }
}

impl SqliteBroker {
    /// The names of the queues that are not there.
    async fn missing(&self, topology: &Topology) -> Result<Vec<String>, BrokerError> {
        let queues: Vec<String> = topology.queues().iter().flat_map(|queue| topology.names(queue)).collect();
        let find = move |tx: &rusqlite::Connection| {
            let mut missing = Vec::new();
            for queue in &queues {
                if messages::find_queue(tx, queue)?.is_none() {
                    missing.push(queue.clone());
                }
            }
            Ok(missing)
        };
        self.open()?.database.read("check", find).await.map_err(|error| failed("check", error))
    }

    /// The lanes that are there and not configured, each with its protocol's queue.
    async fn left_over(&self, topology: &Topology) -> Result<Vec<(String, String)>, BrokerError> {
        let topology = topology.clone();
        let find = move |tx: &rusqlite::Connection| lanes::left_over(tx, &topology);
        self.open()?.database.read("check", find).await.map_err(|error| failed("check", error))
    }

    /// The name of the queue that a message goes to: a lane, where its protocol has some and it has a key.
    fn place_of(&self, queue: &Queue, body: &[u8]) -> String {
        let lane = match queue {
            Queue::Tasks(address) => {
                self.fairness.get(address).filter(|lanes| lanes.count > 0).zip(Some(address))
            }
            Queue::Workflows | Queue::Dead(_) | Queue::Inbox => None,
        };
        let lane =
            lane.and_then(|(lanes, address)| Some(lane::name(address, lanes.of(&fairness_key(body)?)?)));
        lane.unwrap_or_else(|| queue.name())
    }

    /// The turns of a queue's lanes, for whatever this process takes of it, and whether it is to have some.
    fn turns_of(&self, queue: &Queue) -> (Arc<Mutex<Turns>>, bool) {
        let lanes = match queue {
            Queue::Tasks(address) => self.fairness.get(address),
            Queue::Workflows | Queue::Dead(_) | Queue::Inbox => None,
        };
        // No code that holds the lock can panic half-way.
        let mut all = self.hub.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turns = all.entry(queue.name()).or_insert_with(|| {
            let weights = lanes.map(Lanes::turn_weights).unwrap_or_default();
            Arc::new(Mutex::new(Turns::new(weights)))
        });
        (Arc::clone(turns), lanes.is_some())
    }
}

impl Hub {
    /// Our row of `processes`.
    async fn owner(&self) -> Result<i64, BrokerError> {
        let register = || async {
            let (me, now) = (self.database.process().clone(), self.clock.now());
            self.database.write("register", move |tx| process::register(tx, &me, now)).await
        };
        self.owner.get_or_try_init(register).await.copied().map_err(|error| failed("register", error))
    }

    /// Whether it is time to look for dead processes; whoever asks then does.
    fn reclaim_is_due(&self) -> bool {
        let mut reclaimed = self.reclaimed.lock().unwrap_or_else(PoisonError::into_inner);
        let due = reclaimed.is_none_or(|at| at.elapsed() >= RECLAIM_EVERY);
        if due {
            *reclaimed = Some(Instant::now());
        }
        due
    }

    fn touch_all(&self, queues: &[String]) {
        for queue in queues {
            touch(&self.database, queue);
        }
    }
}

#[async_trait]
impl Broker for SqliteBroker {
    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        let missing = self.missing(topology).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let declare = move |tx: &rusqlite::Connection| {
            missing.iter().try_for_each(|queue| messages::declare(tx, queue))
        };
        self.hub.database.write("declare", declare).await.map_err(|error| failed("declare", error))
    }

    async fn check(&self, topology: &Topology) -> Result<Vec<Finding>, BrokerError> {
        let found = |what, problem: &str| Finding { what, problem: problem.to_owned() };
        let missing = self.missing(topology).await?.into_iter();
        let mut findings: Vec<Finding> =
            missing.map(|what| found(what, "it is missing; `gleitzeit topology apply` creates it")).collect();
        let spare = self.left_over(topology).await?.into_iter();
        findings.extend(spare.map(|(what, _)| found(what, SPARE)));
        Ok(findings)
    }

    /// Queues have no arguments here; what may go are lanes.
    async fn migrate(&self, topology: &Topology, wish: &Migration) -> Result<Vec<Moved>, BrokerError> {
        let mut moved = Vec::new();
        for (queue, base) in self.left_over(topology).await? {
            (wish.tell)(&format!("{queue}: its messages go to {base}, and it is forgotten"));
            let why = "is not configured any more".to_owned();
            if wish.dry_run {
                moved.push(Moved { queue, why, messages: 0 });
                continue;
            }
            let name = queue.clone();
            let retire = {
                let base = base.clone();
                move |tx: &rusqlite::Connection| lanes::retire(tx, &name, &base)
            };
            let written = self.open()?.database.write("migrate", retire).await;
            let messages = written.map_err(|error| failed("migrate", error))? as u64;
            self.hub.database.touch(&base);
            moved.push(Moved { queue, why, messages });
        }
        Ok(moved)
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Result<(), BrokerError> {
        let hub = self.open()?;
        let mut incoming = Vec::with_capacity(messages.len());
        for message in messages {
            incoming.extend(self.incoming(message)?);
        }
        if incoming.is_empty() {
            return Ok(());
        }
        let queues: BTreeSet<String> = incoming.iter().map(|message| message.queue.clone()).collect();
        let target = queues.first().cloned().unwrap_or_default();
        let database = hub.database.clone();
        let wake = move |outcome: &Result<Result<(), String>, Error>| {
            if let Ok(Ok(())) = outcome {
                queues.iter().for_each(|queue| touch(&database, queue));
            }
        };
        let publish = move |tx: &rusqlite::Connection| messages::publish(tx, &incoming);
        match hub.database.write_then("publish", publish, wake).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(target)) => {
                let reason = "it is not declared; `gleitzeit topology apply` creates it".to_owned();
                Err(BrokerError::Unroutable { target, reason })
            }
            Err(Error::Refused { reason, .. }) => Err(BrokerError::Rejected { target, reason }),
            Err(error) => Err(failed("publish", error)),
        }
    }

    async fn consume(&self, queue: &Queue, prefetch: NonZeroU16) -> Result<Box<dyn Consumer>, BrokerError> {
        self.open()?;
        let (scope, turns) = (self.scope.clone(), self.turns_of(queue));
        let consumer = SqliteConsumer::start(&self.hub, queue, prefetch, scope, turns).await?;
        Ok(Box::new(consumer))
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, BrokerError> {
        self.open()?;
        Ok(Box::new(SqliteListener::start(&self.hub).await?))
    }

    async fn broadcast(&self, body: Bytes) -> Result<(), BrokerError> {
        broadcast::send(self.open()?, body).await
    }

    fn emit(&self, _routing_key: &str, _body: Bytes) {
        self.hub.dropped.fetch_add(1, Ordering::Relaxed);
    }

    async fn depth(&self, queue: &Queue) -> Result<Depth, BrokerError> {
        let (name, now) = (queue.name(), self.hub.clock.now());
        let count = move |tx: &rusqlite::Connection| lanes::depth(tx, &name, now);
        let counted = self.open()?.database.read("depth", count).await;
        match counted.map_err(|error| failed("depth", error))? {
            Some((ready, consumers)) => {
                Ok(Depth { ready: ready.unsigned_abs(), consumers: consumers.unsigned_abs() })
            }
            None => Err(BrokerError::NoQueue { queue: queue.name() }),
        }
    }

    async fn transit(&self) -> Result<Transit, BrokerError> {
        let now = self.hub.clock.now();
        let count = move |tx: &rusqlite::Connection| messages::transit(tx, now);
        self.open()?.database.read("transit", count).await.map_err(|error| failed("transit", error))
    }

    async fn purge(&self, queue: &Queue) -> Result<u64, BrokerError> {
        let (name, now) = (queue.name(), self.hub.clock.now());
        let purge = move |tx: &rusqlite::Connection| lanes::purge(tx, &name, now);
        let purged = self.open()?.database.write("purge", purge).await;
        match purged.map_err(|error| failed("purge", error))? {
            Some(purged) => Ok(purged as u64),
            None => Err(BrokerError::NoQueue { queue: queue.name() }),
        }
    }

    async fn version(&self) -> Result<String, BrokerError> {
        self.open()?;
        Ok(format!("SQLite {} (embedded)", rusqlite::version()))
    }

    async fn close(&self) {
        self.hub.closed.cancel();
        let Some(owner) = self.hub.owner.get().copied() else { return };
        let hub = Arc::clone(&self.hub);
        let leave = move |tx: &rusqlite::Connection| {
            let queues = messages::release_all(tx, owner)?;
            process::forget(tx, owner)?;
            Ok(queues)
        };
        let wake = move |queues: &Result<Vec<String>, Error>| {
            if let Ok(queues) = queues {
                hub.touch_all(queues);
            }
        };
        match self.hub.database.write_then("close", leave, wake).await {
            Ok(_) | Err(Error::Closed) => {}
            // The next process finds this one dead and takes them back.
            Err(error) => tracing::warn!(%error, "cannot give deliveries back"),
        }
    }
}

/// Wakes who consumes a queue, which may be a lane of it.
fn touch(database: &Database, name: &str) {
    match lane::from_name(name) {
        Some((address, _)) => database.touch(&Queue::Tasks(address).name()),
        None => database.touch(name),
    }
}

/// What an error of the file means to whoever uses the broker.
fn failed(what: &str, error: Error) -> BrokerError {
    match error {
        Error::Closed => BrokerError::Closed,
        error @ (Error::File { .. }
        | Error::Busy { .. }
        | Error::Refused { .. }
        | Error::Unexpected { .. }) => {
            BrokerError::Failed { what: what.to_owned(), reason: error.to_string() }
        }
    }
}
