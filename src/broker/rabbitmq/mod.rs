//! The broker on RabbitMQ 3.10 to 4.3, over AMQP 0-9-1.
//!
//! ```text
//!  publish ─▶ publisher ── lanes, each with a confirm channel ─┐
//!  emit ────▶ events ───── a channel without confirms ─────────┼── connection "(publish)"
//!  declare, check, depth, purge ── a channel each ─────────────┘
//!  consume, listen ─▶ feed ── a channel each ──────────────────── connection "(consume)"
//! ```
//!
//! Two connections, because a server in alarm stops reading from whoever publishes, and acknowledgements on
//! the same connection would wait with the publishes. Both are opened when first needed and again after a
//! loss (`connection`); nothing is kept across a loss but what the server holds. `publisher` says how returns
//! find their message, `feed` how a subscription heals, `declare` what is created and what only compared,
//! `message` what a message is on the wire, `migrate` how a queue gets other arguments, `lanes` how a protocol is consumed
//! whose producers are to be treated fairly, `retire` how such lanes go. What is declared is in `topology::plan`, how
//! delays work in `topology::delay`.

mod connection;
mod consumer;
mod declare;
mod events;
mod failure;
mod fairness;
mod feed;
mod header;
mod lanes;
mod message;
mod migrate;
mod mover;
mod publisher;
mod release;
mod retire;
mod settings;

use async_trait::async_trait;
use backon::BackoffBuilder;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connection::{Link, PAUSE_MAX, backoff};
use self::consumer::{BroadcastListener, QueueConsumer};
use self::declare::{Declarer, Part, parts};
use self::events::Events;
use self::feed::{Source, Subscriber};
use self::lanes::LaneConsumer;
use self::message::Frame;
use self::migrate::{Migrator, unfinished};
use self::publisher::{Publisher, send_unconfirmed};
use self::release::Introduction;
pub use self::settings::{Declare, Settings};
use super::{
    Broker, BrokerError, Consumer, Depth, Finding, Listener, Migration, Moved, Outgoing, Target, Transit,
};
use crate::core::fairness::Turns;
use crate::topology::delay::{LEVELS, level_name};
use crate::topology::plan::{CONTROL, Plan, QueueType, Release};
use crate::topology::{Address, Queue, Topology};

/// How long `close` waits for what is being written.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The adapter.
#[derive(Debug)]
pub struct RabbitBroker {
    settings: Settings,
    publishing: Arc<Link>,
    consuming: Arc<Link>,
    publisher: Publisher,
    events: Events,
    introduction: OnceCell<Introduction>,
    /// The protocols that were looked at for lanes which nobody configures, and whether there were any.
    left_over: Mutex<BTreeMap<Address, bool>>,
    /// Whose turn it is among the lanes of a protocol.
    turns: Mutex<BTreeMap<Address, Arc<Mutex<Turns>>>>,
    /// Whether it was said that a lane is missing.
    said_missing: AtomicBool,
    tasks: TaskTracker,
    closed: CancellationToken,
}

impl RabbitBroker {
    /// Connects for publishing; the connection for consuming is opened by the first consumer.
    ///
    /// # Errors
    /// [`BrokerError::Unreachable`] if nobody listens, unless `settings.wait`;
    /// [`BrokerError::LoginRefused`] for a wrong user, password or virtual host.
    pub async fn connect(settings: Settings) -> Result<RabbitBroker, BrokerError> {
        let closed = CancellationToken::new();
        let tasks = TaskTracker::new();
        let publishing = Arc::new(Link::new(&settings, "publish")?);
        let consuming = Arc::new(Link::new(&settings, "consume")?);
        first_connection(&publishing, settings.wait).await?;
        for link in [&publishing, &consuming] {
            tasks.spawn(Arc::clone(link).supervise(closed.clone()));
        }
        let publisher = Publisher::start(&publishing, &settings, &tasks, &closed);
        let events = Events::start(&publishing, &tasks, &closed);
        Ok(RabbitBroker {
            settings,
            publishing,
            consuming,
            publisher,
            events,
            introduction: OnceCell::new(),
            left_over: Mutex::default(),
            turns: Mutex::default(),
            said_missing: AtomicBool::new(false),
            tasks,
            closed,
        })
    }

    /// How many events were dropped because the server did not take them fast enough.
    #[must_use]
    pub fn events_dropped(&self) -> u64 {
        self.events.dropped()
    }

    /// What this server must have for `topology`.
    ///
    /// # Errors
    /// [`BrokerError::Unreachable`] if the server does not say its release.
    pub async fn plan(&self, topology: &Topology) -> Result<Plan, BrokerError> {
        let introduction = self.introduce().await?;
        let release = Release::parse(&introduction.version).ok_or_else(|| BrokerError::Failed {
            what: "reading the server's version".to_owned(),
            reason: format!("{:?} is no version", introduction.version),
        })?;
        warn_of_lost_priorities(release, &self.settings);
        Ok(Plan::new(topology, release, &self.settings.queue_types))
    }

    async fn introduce(&self) -> Result<&Introduction, BrokerError> {
        let ask = || release::ask(self.publishing.addresses(), self.settings.reply_timeout);
        self.introduction.get_or_try_init(ask).await
    }

    fn subscriber(&self, source: Source) -> Subscriber {
        Subscriber {
            source,
            link: Arc::clone(&self.consuming),
            name: self.settings.name.clone(),
            reply_timeout: self.settings.reply_timeout,
            closed: self.closed.clone(),
            tasks: self.tasks.clone(),
            serial: AtomicU64::new(1),
        }
    }

    /// Questions go over the publishing connection, which is there; while the server reads nothing from it,
    /// over the other one.
    fn declarer(&self) -> Declarer<'_> {
        let link = if self.publishing.blocked() { &self.consuming } else { &self.publishing };
        Declarer::new(link, self.settings.reply_timeout)
    }

    fn ensure_open(&self) -> Result<(), BrokerError> {
        if self.closed.is_cancelled() { Err(BrokerError::Closed) } else { Ok(()) }
    }
}

#[async_trait]
impl Broker for RabbitBroker {
    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        self.ensure_open()?;
        if self.settings.declare == Declare::Never {
            return Ok(());
        }
        // Names do not depend on the release, so a complete topology is recognised without asking for it.
        let names = Plan::new(topology, Release { major: 3, minor: 10 }, &self.settings.queue_types);
        let mut declarer = self.declarer();
        let missing = declarer.missing(&names).await?;
        if self.settings.declare == Declare::Check {
            declarer.finish().await;
            return missing.first().map_or(Ok(()), |part| {
                let (what, reason) = (
                    part.name(),
                    "it is missing, and topology.declare is `check`; run `gleitzeit topology apply`"
                        .to_owned(),
                );
                Err(BrokerError::Mismatch { what, reason })
            });
        }
        if missing.is_empty() {
            declarer.create(&[], &names).await?;
        } else {
            let missing: Vec<String> = missing.iter().map(|part| part.name()).collect();
            let plan = self.plan(topology).await?;
            let missing: Vec<Part<'_>> = parts(&plan).filter(|part| missing.contains(&part.name())).collect();
            declarer.create(&missing, &plan).await?;
        }
        declarer.finish().await;
        Ok(())
    }

    async fn check(&self, topology: &Topology) -> Result<Vec<Finding>, BrokerError> {
        self.ensure_open()?;
        let plan = self.plan(topology).await?;
        let mut declarer = self.declarer();
        let missing = declarer.missing(&plan).await?;
        let mut findings = declarer.compare(&plan, &missing).await?;
        findings.extend(unfinished(&mut declarer, &plan).await?);
        let spare = retire::find(&mut declarer, topology).await?;
        declarer.finish().await;
        self.remember_left_over(topology, &spare.lanes);
        findings.extend(spare.findings());
        Ok(findings)
    }

    async fn migrate(&self, topology: &Topology, wish: &Migration) -> Result<Vec<Moved>, BrokerError> {
        self.ensure_open()?;
        let plan = self.plan(topology).await?;
        let mut declarer = Declarer::new(&self.publishing, self.settings.reply_timeout);
        let spare = retire::find(&mut declarer, topology).await?;
        declarer.finish().await;
        let migrator = Migrator {
            asking: &self.publishing,
            consuming: &self.consuming,
            publisher: &self.publisher,
            timeout: self.settings.reply_timeout,
            plan: &plan,
            spare: &spare,
            wish,
        };
        migrator.run().await
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Result<(), BrokerError> {
        let (mut frames, mut replies, mut spare) =
            (Vec::with_capacity(messages.len()), Vec::new(), Vec::new());
        for message in messages {
            let is_reply = matches!(message.target, Target::Reply(_));
            let lane = self.lane_of(&message);
            if lane.is_some() {
                spare.extend(Frame::new(message.clone(), None)?);
            }
            let Some(frame) = Frame::new(message, lane)? else { continue };
            if is_reply { replies.push(frame) } else { frames.push(frame) }
        }
        if replies.is_empty() {
            return self.publish_in_lanes(frames, spare).await;
        }
        let (published, replied) =
            tokio::join!(self.publish_in_lanes(frames, spare), self.publisher.reply(replies));
        published.and(replied)
    }

    async fn consume(&self, queue: &Queue, prefetch: NonZeroU16) -> Result<Box<dyn Consumer>, BrokerError> {
        self.ensure_open()?;
        let subscriber = self.subscriber(Source::Queue(queue.clone(), prefetch));
        if let Queue::Tasks(address) = queue
            && let Some(lanes) = self.lanes_to_serve(address).await?
        {
            let turns = self.turns_of(address, &lanes);
            return Ok(Box::new(LaneConsumer::start(address, &lanes, turns, prefetch, subscriber).await?));
        }
        Ok(Box::new(QueueConsumer::start(queue.clone(), subscriber).await?))
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, BrokerError> {
        self.ensure_open()?;
        Ok(Box::new(BroadcastListener::start(self.subscriber(Source::Broadcasts)).await?))
    }

    async fn broadcast(&self, body: Bytes) -> Result<(), BrokerError> {
        self.ensure_open()?;
        let frame = Frame::transient(CONTROL, body);
        let what = format!("a broadcast through {CONTROL}");
        send_unconfirmed(&self.publishing, &frame, &what, self.settings.reply_timeout).await
    }

    fn emit(&self, routing_key: &str, body: Bytes) {
        self.events.emit(routing_key, body);
    }

    async fn depth(&self, queue: &Queue) -> Result<Depth, BrokerError> {
        self.ensure_open()?;
        let mut declarer = self.declarer();
        let (mut ready, consumers) = declarer.depth(&queue.name()).await?;
        for lane in self.lanes_of(&mut declarer, queue).await? {
            ready += declarer.depth(&lane).await?.0;
        }
        declarer.finish().await;
        Ok(Depth { ready, consumers })
    }

    /// Over AMQP a server tells nobody how many messages are not settled.
    async fn transit(&self) -> Result<Transit, BrokerError> {
        self.ensure_open()?;
        let (mut declarer, mut delayed) = (self.declarer(), BTreeMap::new());
        for level in 0..LEVELS {
            let name = level_name(level);
            match declarer.depth(&name).await {
                Ok((waiting, _)) => _ = delayed.insert(name, waiting),
                Err(BrokerError::NoQueue { .. }) => {}
                // Newer servers want some permission even to look.
                Err(error @ BrokerError::AccessRefused { .. }) => {
                    tracing::warn!(%error, "the delay queues cannot be counted");
                    return Ok(Transit { delayed: None, unacknowledged: None });
                }
                Err(error) => return Err(error),
            }
        }
        declarer.finish().await;
        Ok(Transit { delayed: Some(delayed), unacknowledged: None })
    }

    async fn purge(&self, queue: &Queue) -> Result<u64, BrokerError> {
        self.ensure_open()?;
        let mut declarer = self.declarer();
        let mut removed = declarer.purge(&queue.name()).await?;
        for lane in self.lanes_of(&mut declarer, queue).await? {
            removed += declarer.purge(&lane).await?;
        }
        declarer.finish().await;
        Ok(removed)
    }

    async fn version(&self) -> Result<String, BrokerError> {
        let Introduction { product, version } = self.introduce().await?;
        Ok(format!("{product} {version}"))
    }

    /// Lets what is being written end, then closes both connections. Takes at most 10 s.
    async fn close(&self) {
        self.closed.cancel();
        self.tasks.close();
        if tokio::time::timeout(CLOSE_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("closing the broker connection before all publishes were confirmed");
        }
        tokio::join!(self.publishing.close(), self.consuming.close());
    }
}

async fn first_connection(link: &Link, wait: bool) -> Result<(), BrokerError> {
    let mut waits = backoff().build();
    let mut told = false;
    loop {
        let error = match link.connection().await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if !wait || !error.is_transient() {
            return Err(error);
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(%error, "waiting for the broker");
        }
        tokio::time::sleep(waits.next().unwrap_or(PAUSE_MAX)).await;
    }
}

/// Quorum queues have no priorities before 4.3.
fn warn_of_lost_priorities(release: Release, settings: &Settings) {
    let types = &settings.queue_types;
    let chosen = types.all.iter().chain(types.protocols.values());
    if release.queue_type() == QueueType::Classic && chosen.into_iter().any(|kind| *kind == QueueType::Quorum)
    {
        tracing::warn!(
            "quorum queues of this RabbitMQ release ignore priorities; 4.3 is the first that has them"
        );
    }
}
