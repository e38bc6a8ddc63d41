//! The port to the broker, and its law.
//!
//! Two adapters: `rabbitmq` (real RabbitMQ over AMQP 0-9-1) and `sqlite` (a table of the embedded file).
//! Both pass `tests/conformance`, which proves each numbered line below.
//!
//! # Law
//! 1. `publish` returns `Ok` only when the broker holds every message: persistent, in a queue, confirmed.
//!    An unroutable message is [`BrokerError::Unroutable`]; nothing is dropped silently. After an error any
//!    part of the messages may be held, so publishing again may duplicate, and consumers must bear that.
//! 2. A message with a delay is not delivered before the delay has passed. Delays survive a restart.
//! 3. A delivery that is settled `Done` is never delivered again by a broker that stays up. One that is
//!    settled `Release`, dropped unsettled, or whose process died, is delivered again.
//! 4. A consumer holds at most `prefetch` unsettled deliveries.
//! 5. In a task queue, or in one lane of it, a higher priority goes first, equal priorities in order of arrival. What
//!    is already delivered is not overtaken.
//! 6. Body, message id, priority, correlation id, reply-to and headers arrive as they were published,
//!    also through delays. Headers that the broker writes itself (`x-death` and its kin) are not sent on.
//! 7. `declare` is idempotent. It never deletes and never redefines.
//! 8. `broadcast` reaches every consumer that `listen` has returned to, once each, at most once; it is
//!    neither persistent nor confirmed. A listener that may have missed one says so ([`Heard::Gap`]) as soon as
//!    it listens again. `emit` never waits and may drop under pressure, counting what it drops.
//! 9. After a lost connection every method fails or waits within its timeout, a consumer goes on by itself
//!    as soon as the broker is back, and settling a delivery of the old connection is
//!    [`BrokerError::DeliveryLost`] (the message comes again).
//! 10. Where a protocol has lanes (`topology::lane`), a task with a fairness key goes to the lane of that key, also
//!     after a delay; a consumer takes from the task queue and its lanes in weighted turns, and keeps nothing that it
//!     has no place for. Every method means the queue with all its lanes. A lane that is missing loses nothing; one
//!     that is not configured any more is consumed like the others, named by `check` and removed by `migrate`.

mod migration;
pub mod rabbitmq;
pub mod sqlite;

use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::time::Duration;

use crate::core::code::Code;
use crate::core::id::Id;
use crate::topology::{Address, InvalidAddress, Queue, Topology};
use crate::wire::schedule::Run;

/// The longest delay of a message, 310 days: what the delay queues can count.
pub use self::migration::{Migration, Moved, STAND_IN};
pub use crate::topology::delay::DELAY_MAX;
pub use crate::wire::Properties;

/// A broker: carries messages, confirms them, delivers them.
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync + 'static {
    /// Makes the broker carry `topology`: looks first, then declares only what is missing.
    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError>;

    /// Compares what the broker has with `topology`. Changes nothing.
    async fn check(&self, topology: &Topology) -> Result<Vec<Finding>, BrokerError>;

    /// Moves every queue whose type or arguments differ from `topology`, without losing a message and without
    /// a moment in which one is unroutable; a message may be delivered twice. Where it ends early, doing it
    /// again goes on. Lanes that are not configured any more are emptied into their protocol's queue and removed. A
    /// broker whose queues have no arguments has nothing else to move.
    async fn migrate(&self, topology: &Topology, wish: &Migration) -> Result<Vec<Moved>, BrokerError> {
        let _ = (topology, wish);
        Ok(Vec::new())
    }

    /// Returns once the broker has confirmed every message.
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<(), BrokerError>;

    /// Starts a consumer with a prefetch of its own. Consumers are independent of each other.
    async fn consume(&self, queue: &Queue, prefetch: NonZeroU16) -> Result<Box<dyn Consumer>, BrokerError>;

    /// Starts to listen to broadcasts sent from now on.
    async fn listen(&self) -> Result<Box<dyn Listener>, BrokerError>;

    /// Sends to everybody who listens now.
    async fn broadcast(&self, body: Bytes) -> Result<(), BrokerError>;

    /// Sends an event such as `task.completed`: transient, unconfirmed, never waits.
    fn emit(&self, routing_key: &str, body: Bytes);

    /// How many messages are ready in `queue`, and how many consumers it has.
    async fn depth(&self, queue: &Queue) -> Result<Depth, BrokerError>;

    /// What [`Broker::depth`] does not count.
    async fn transit(&self) -> Result<Transit, BrokerError>;

    /// Removes every ready message of `queue` and tells how many.
    async fn purge(&self, queue: &Queue) -> Result<u64, BrokerError>;

    /// What the broker says of itself: product and version.
    async fn version(&self) -> Result<String, BrokerError>;

    /// Closes connections. Deliveries that are held come again elsewhere.
    async fn close(&self);
}

/// One subscription to one queue.
#[async_trait]
pub trait Consumer: fmt::Debug + Send {
    /// The next delivery; waits for it. Cancel-safe. `None` after [`Consumer::cancel`] and once everything
    /// that was already received is given out, and when the broker was closed. Lost connections are healed
    /// inside; an error is one that needs a person (the queue is gone, access refused). It is given once, and
    /// the consumer goes on trying.
    async fn next(&mut self) -> Option<Result<Delivery, BrokerError>>;

    /// Whether deliveries can come now: `false` from the loss of the subscription until it stands again, as far
    /// as [`Consumer::next`] has noticed.
    fn is_subscribed(&self) -> bool {
        true
    }

    /// Asks for no more. What was received but not yet given out goes back to the queue; what is held stays
    /// held and must be settled.
    async fn cancel(&mut self) -> Result<(), BrokerError>;
}

/// A subscription to broadcasts.
#[async_trait]
pub trait Listener: fmt::Debug + Send {
    /// The next broadcast; waits for it. Cancel-safe. `None` when the broker was closed.
    async fn next(&mut self) -> Option<Heard>;
}

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A broadcast.
    Broadcast(Bytes),
    /// Broadcasts may have been missed (a lost connection, a long sleep); from now on it listens again.
    Gap,
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// Where it goes.
    pub target: Target,
    /// The body, JSON.
    pub body: Bytes,
    /// What goes beside the body.
    pub properties: Properties,
    /// How long the broker keeps it before it is delivered; `None` for at once. At most [`DELAY_MAX`].
    pub delay: Option<Duration>,
}

impl Outgoing {
    /// The message of a scheduled run, which is to have this id.
    ///
    /// # Errors
    /// [`InvalidAddress`] if its protocol cannot have a queue.
    pub fn of_run(run: Run, id: &Id) -> Result<Outgoing, InvalidAddress> {
        let Run { protocol, priority, body } = run;
        let queue = match protocol {
            None => Queue::Workflows,
            Some(protocol) => Queue::Tasks(Address::parse(&protocol.routing())?),
        };
        let properties = Properties { message_id: Some(id.to_string()), priority, ..Properties::default() };
        Ok(Outgoing { target: Target::Queue(queue), body, properties, delay: None })
    }
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A queue of ours, through our own exchange; must be routable.
    Queue(Queue),
    /// A reply queue that the requester named; may be gone, then the message is dropped without an error.
    Reply(String),
}

/// A message received. Settle it exactly once; dropped unsettled, it is delivered again.
#[derive(Debug)]
pub struct Delivery {
    /// The queue it came from.
    pub queue: Queue,
    /// The body as published.
    pub body: Bytes,
    /// What came beside the body.
    pub properties: Properties,
    /// Whether the broker has delivered it before.
    pub redelivered: bool,
    /// Why the broker moved it here by itself; newest first, empty if it did not.
    pub deaths: Vec<Death>,
    /// The adapter's way to settle it.
    pub receipt: Box<dyn Receipt>,
}

impl Delivery {
    /// Ends the delivery. By value: a second settlement does not compile.
    ///
    /// # Errors
    /// [`BrokerError::DeliveryLost`] if the connection it came on is gone: the message comes again.
    pub async fn settle(self, settlement: Settlement) -> Result<(), BrokerError> {
        self.receipt.settle(settlement).await
    }
}

/// How a delivery ends. Retries and dead letters are publishes of their own, made before `Done`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It is dealt with: forget it.
    Done,
    /// Not dealt with: deliver it again, to anybody.
    Release,
}

/// An adapter's handle on one unsettled delivery.
#[async_trait]
pub trait Receipt: fmt::Debug + Send + Sync {
    /// See [`Delivery::settle`].
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), BrokerError>;
}

/// An entry of the broker's own record on why it moved a message (`x-death` in RabbitMQ).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// `expired`, `rejected`, `maxlen` or `delivery_limit`; `unroutable` if an alternate exchange took it.
    pub reason: String,
    /// The queue it was in; empty for `unroutable`.
    pub queue: String,
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with, without the bits of a delay.
    pub routing_key: String,
}

/// The state of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Messages that wait to be delivered.
    pub ready: u64,
    /// Consumers on the queue. One that was cancelled may count until what it holds is settled; where there are lanes,
    /// one that holds all it may need not count.
    pub consumers: u64,
}

/// Messages that are in no queue of ours, or in one and not ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transit {
    /// How many wait for their time, by where they do: the delay queue that they are in now, or the queue that they
    /// come to. Where there are none, there may be no entry. `None` if this user may not look.
    pub delayed: Option<BTreeMap<String, u64>>,
    /// How many are delivered and not settled; `None` if this broker tells nobody.
    pub unacknowledged: Option<u64>,
}

/// A difference between what is declared and what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The queue, exchange or binding.
    pub what: String,
    /// What is different, and what to do.
    pub problem: String,
}

/// Why the broker did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// Nobody answers at the address. `url` has its password masked.
    #[error("cannot reach the broker at {url}: {reason}")]
    Unreachable {
        /// The address, masked.
        url: String,
        /// What the attempt said.
        reason: String,
    },
    /// Wrong user, password or virtual host.
    #[error("the broker at {url} refuses the login: {reason}")]
    LoginRefused {
        /// The address, masked.
        url: String,
        /// What the broker said.
        reason: String,
    },
    /// The user lacks a permission.
    #[error("the broker refuses {what}: {reason}")]
    AccessRefused {
        /// What was tried.
        what: String,
        /// What the broker said, and the command that an operator must run.
        reason: String,
    },
    /// No queue is bound for this message.
    #[error("no queue takes messages for {target}: {reason}")]
    Unroutable {
        /// Where it should have gone.
        target: String,
        /// What the broker said.
        reason: String,
    },
    /// The queue does not exist.
    #[error("queue {queue} does not exist; `gleitzeit topology apply` creates it")]
    NoQueue {
        /// Its name.
        queue: String,
    },
    /// The broker refused the message (queue full, too large).
    #[error("the broker rejected a message for {target}: {reason}")]
    Rejected {
        /// Where it should have gone.
        target: String,
        /// What the broker said.
        reason: String,
    },
    /// The broker has a queue or exchange of this name with other properties.
    #[error("{what} exists with other properties: {reason}")]
    Mismatch {
        /// The queue or exchange.
        what: String,
        /// What the broker said.
        reason: String,
    },
    /// It is unknown whether it was done: no confirm in time, or the connection broke before it.
    #[error("no confirmation from the broker for {what}: {reason}")]
    Unconfirmed {
        /// What was tried.
        what: String,
        /// What happened.
        reason: String,
    },
    /// The message cannot be sent as it is: too large, delayed too long, a property that does not fit.
    #[error("cannot send {what}: {reason}")]
    Invalid {
        /// What was to be sent.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The connection of this delivery is gone; the message comes again.
    #[error("the delivery was lost with its connection; the message comes again")]
    DeliveryLost,
    /// The broker was closed by us.
    #[error("the broker connection is closed")]
    Closed,
    /// Anything else, in the broker's words.
    #[error("broker failure in {what}: {reason}")]
    Failed {
        /// What was tried.
        what: String,
        /// What happened.
        reason: String,
    },
}

impl BrokerError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            BrokerError::Unreachable { .. } => Code::ConnectionRefused,
            BrokerError::LoginRefused { .. } => Code::AuthenticationFailed,
            BrokerError::AccessRefused { .. } => Code::AuthorizationFailed,
            BrokerError::Unroutable { .. } | BrokerError::NoQueue { .. } => Code::QueueNotFound,
            BrokerError::Rejected { .. } => Code::QueueFull,
            BrokerError::Mismatch { .. } => Code::TopologyMismatch,
            BrokerError::Unconfirmed { .. } => Code::ConnectionTimeout,
            BrokerError::Invalid { .. } => Code::InvalidRequest,
            BrokerError::DeliveryLost | BrokerError::Closed => Code::ConnectionLost,
            BrokerError::Failed { .. } => Code::InternalError,
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            BrokerError::Unreachable { .. }
            | BrokerError::Rejected { .. }
            | BrokerError::Unconfirmed { .. }
            | BrokerError::DeliveryLost
            | BrokerError::Failed { .. } => true,
            BrokerError::LoginRefused { .. }
            | BrokerError::AccessRefused { .. }
            | BrokerError::Unroutable { .. }
            | BrokerError::NoQueue { .. }
            | BrokerError::Mismatch { .. }
            | BrokerError::Invalid { .. }
            | BrokerError::Closed => false,
        }
    }
}
