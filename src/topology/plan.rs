//! Everything that RabbitMQ must have for a [`Topology`], as data: exchanges, queues with their arguments,
//! bindings. The adapter declares it, `topology check` compares it, `topology export` prints it.
//!
//! The queue type follows the server. From 4.3 on work queues are quorum queues, which have real priorities
//! there. From 3.10 to 4.2 they are classic queues of version 2 with `x-max-priority`, because quorum queues
//! have none. Arguments can never be changed on a queue that exists, so they are few, and each says why.
//!
//! The queues of the delay cascade are quorum queues on every release. A classic queue hands on what it
//! dead-letters without waiting for anybody: when the broker is killed at that moment, the message is gone from
//! one level and not on disk in the next. Only quorum queues keep a message until the next queue has confirmed it.
//!
//! There is no length limit anywhere: the cascade ends in the work queues, and a delayed message that meets
//! a full queue waits 180 s (or is lost, where an operator made the cascade classic).

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

use super::delay::{self, LEVELS};
use super::{Address, Queue, Topology, lane};

/// Where foreign producers publish tasks; unroutable ones go to the inbox.
pub const TASKS: &str = "gleitzeit.tasks";
/// Where we publish tasks: the same bindings, no alternate exchange, so that `mandatory` tells us.
pub const SUBMIT: &str = "gleitzeit.submit";
/// Workflows and commands, whatever the routing key.
pub const WORKFLOWS: &str = "gleitzeit.workflows";
/// Dead letters, by protocol.
pub const DEAD: &str = "gleitzeit.dead";
/// What the broker ends (dead-letter exchange) or cannot route (alternate exchange) by itself.
pub const INBOX: &str = "gleitzeit.inbox";
/// Broadcasts to every worker.
pub const CONTROL: &str = "gleitzeit.control";
/// Events, for whoever listens.
pub const EVENTS: &str = "gleitzeit.events";
/// Replies to queues that their owners bind here.
pub const REPLIES: &str = "gleitzeit.replies";

/// The routing key of the inbox at [`DEAD`]; no address is without a dot.
const INBOX_KEY: &str = "inbox";
/// The routing key at [`WORKFLOWS`], which ignores it.
const WORKFLOWS_KEY: &str = "workflows";

/// The highest priority of a task queue.
pub const PRIORITY_MAX: u8 = 9;

/// How long a consumer may hold a delivery, where we can say so (quorum from 4.3); the brokers' own default.
pub const CONSUMER_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// What delay queues are unless the operator says otherwise: they need no priorities, and must not lose what they
/// hand on. Their TTL and `at-least-once` exist from 3.10 on.
const CASCADE_TYPE: QueueType = QueueType::Quorum;

/// A RabbitMQ release, as far as the plan depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// 4 in 4.3.6.
    pub major: u16,
    /// 3 in 4.3.6.
    pub minor: u16,
}

impl Release {
    /// Reads `4.3.6`, `3.10.8`, `4.3.0-rc.1`.
    #[must_use]
    pub fn parse(version: &str) -> Option<Release> {
        let mut parts = version.split(['.', '-', '+']);
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        Some(Release { major, minor })
    }

    /// What work queues are on this release unless the operator says otherwise.
    #[must_use]
    pub fn queue_type(self) -> QueueType {
        if self >= (Release { major: 4, minor: 3 }) { QueueType::Quorum } else { QueueType::Classic }
    }
}

/// A queue's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueType {
    /// Kept on one node. Strict priorities on every release.
    Classic,
    /// Kept on a majority of nodes. Priorities from 4.3 on only.
    Quorum,
}

/// What the operator decides against the release's own choice. A queue that exists stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueTypes {
    /// For every queue.
    pub all: Option<QueueType>,
    /// For the task queue of one protocol.
    pub protocols: BTreeMap<Address, QueueType>,
    /// How long a consumer may hold a delivery, where queues say so; `None`: [`CONSUMER_TIMEOUT`].
    pub consumer_timeout: Option<Duration>,
}

impl QueueTypes {
    fn consumer_timeout(&self) -> Duration {
        self.consumer_timeout.unwrap_or(CONSUMER_TIMEOUT)
    }
}

/// What is declared.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// In the order in which they are declared.
    pub exchanges: Vec<Exchange>,
    /// In the order in which they are declared.
    pub queues: Vec<QueueDeclaration>,
    /// After everything that they name.
    pub bindings: Vec<Binding>,
}

/// A durable exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// How it routes.
    pub kind: ExchangeKind,
    /// Where messages go that it cannot route.
    pub alternate: Option<&'static str>,
}

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By the whole routing key.
    Direct,
    /// To all.
    Fanout,
    /// By patterns.
    Topic,
}

impl ExchangeKind {
    /// The name in AMQP.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Topic => "topic",
        }
    }
}

/// A durable queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueDeclaration {
    /// Its name.
    pub name: String,
    /// Its arguments, in order of declaration.
    pub arguments: Vec<(&'static str, Argument)>,
}

/// A queue argument's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// A binding to a queue or an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The exchange that messages come from.
    pub source: String,
    /// The queue or exchange that they go to.
    pub destination: String,
    /// Whether the destination is a queue.
    pub to_queue: bool,
    /// The routing key or pattern.
    pub routing_key: String,
}

/// Where our own messages for `queue` are published: exchange and routing key.
#[must_use]
pub fn route(queue: &Queue) -> (&'static str, &str) {
    match queue {
        Queue::Tasks(address) => (SUBMIT, address.as_str()),
        Queue::Workflows => (WORKFLOWS, WORKFLOWS_KEY),
        Queue::Dead(address) => (DEAD, address.as_str()),
        Queue::Inbox => (DEAD, INBOX_KEY),
    }
}

/// As [`route`], by the queue's name on the broker, which may be a lane's.
#[must_use]
pub fn route_to(name: &str) -> Option<(&'static str, String)> {
    if let Some((address, number)) = lane::from_name(name) {
        return Some((SUBMIT, lane::route(&address, number)));
    }
    let queue = Queue::from_name(name)?;
    let (exchange, key) = route(&queue);
    Some((exchange, key.to_owned()))
}

impl Plan {
    /// The plan for a topology on a release.
    #[must_use]
    pub fn new(topology: &Topology, release: Release, types: &QueueTypes) -> Plan {
        let shared = types.all.unwrap_or_else(|| release.queue_type());
        let mut plan = Plan { exchanges: shared_exchanges(), queues: Vec::new(), bindings: Vec::new() };
        for queue in topology.queues() {
            let kind = match &queue {
                Queue::Tasks(address) => types.protocols.get(address).copied().unwrap_or(shared),
                Queue::Workflows | Queue::Dead(_) | Queue::Inbox => shared,
            };
            let declared = declaration(&queue, kind, release, types);
            plan.queues.push(declared.clone());
            plan.bind(&queue);
            let Queue::Tasks(address) = &queue else { continue };
            for number in 0..topology.lanes.get(address).copied().unwrap_or(0) {
                let name = lane::name(address, number);
                plan.bindings.extend(lane_bindings(address, number));
                plan.queues.push(QueueDeclaration { name, ..declared.clone() });
            }
        }
        plan.add_cascade(types.all.unwrap_or(CASCADE_TYPE));
        plan
    }

    /// The plan as a `definitions.json` that RabbitMQ imports: virtual host `/`, no users. The same plan
    /// always gives the same text.
    #[must_use]
    pub fn definitions(&self) -> Value {
        json!({
            "vhosts": [{"name": "/"}],
            "exchanges": self.exchanges.iter().map(exchange_definition).collect::<Vec<_>>(),
            "queues": self.queues.iter().map(queue_definition).collect::<Vec<_>>(),
            "bindings": self.bindings.iter().map(binding_definition).collect::<Vec<_>>(),
        })
    }

    fn bind(&mut self, queue: &Queue) {
        let mut add = |source: &str, routing_key: String| {
            let (source, destination) = (source.to_owned(), queue.name());
            self.bindings.push(Binding { source, destination, to_queue: true, routing_key });
        };
        match queue {
            Queue::Tasks(address) => {
                add(TASKS, address.to_string());
                add(SUBMIT, address.to_string());
            }
            Queue::Workflows => add(WORKFLOWS, String::new()),
            Queue::Dead(address) => add(DEAD, address.to_string()),
            Queue::Inbox => {
                add(INBOX, String::new());
                add(DEAD, INBOX_KEY.to_owned());
            }
        }
        add(delay::DUE_EXCHANGE, delay::due_pattern(&queue.name()));
    }

    /// The due exchange first, so that at no time a level leads nowhere.
    fn add_cascade(&mut self, kind: QueueType) {
        let topic = |name: String, alternate| Exchange { name, kind: ExchangeKind::Topic, alternate };
        self.exchanges.push(topic(delay::DUE_EXCHANGE.to_owned(), Some(INBOX)));
        for level in 0..LEVELS {
            let name = delay::level_name(level);
            self.exchanges.push(topic(name.clone(), None));
            self.queues.push(delay_queue(level, kind));
            let binding = |destination, to_queue, waits| Binding {
                source: name.clone(),
                destination,
                to_queue,
                routing_key: delay::level_pattern(level, waits),
            };
            self.bindings.push(binding(name.clone(), true, true));
            self.bindings.push(binding(delay::next_exchange(level), false, false));
        }
    }
}

/// Where a lane is bound: as its protocol's queue is, by a key of its own.
pub(crate) fn lane_bindings(address: &Address, number: u16) -> [Binding; 3] {
    let destination = lane::name(address, number);
    let due = delay::due_pattern(&destination);
    let bound = |source: &str, routing_key| Binding {
        source: source.to_owned(),
        destination: destination.clone(),
        to_queue: true,
        routing_key,
    };
    let key = lane::route(address, number);
    [bound(TASKS, key.clone()), bound(SUBMIT, key), bound(delay::DUE_EXCHANGE, due)]
}

fn shared_exchanges() -> Vec<Exchange> {
    let exchange = |name: &str, kind, alternate| Exchange { name: name.to_owned(), kind, alternate };
    vec![
        exchange(INBOX, ExchangeKind::Fanout, None),
        exchange(TASKS, ExchangeKind::Direct, Some(INBOX)),
        exchange(SUBMIT, ExchangeKind::Direct, None),
        exchange(WORKFLOWS, ExchangeKind::Fanout, None),
        exchange(DEAD, ExchangeKind::Direct, None),
        exchange(CONTROL, ExchangeKind::Fanout, None),
        exchange(EVENTS, ExchangeKind::Topic, None),
        exchange(REPLIES, ExchangeKind::Direct, None),
    ]
}

fn declaration(queue: &Queue, kind: QueueType, release: Release, types: &QueueTypes) -> QueueDeclaration {
    let mut arguments = type_arguments(kind);
    let is_work = matches!(queue, Queue::Tasks(_) | Queue::Workflows);
    if is_work && kind == QueueType::Classic {
        arguments.push(("x-max-priority", Argument::Number(i64::from(PRIORITY_MAX))));
    }
    if is_work {
        // What the broker ends by itself is not lost: a worker reads it in the inbox and records the end.
        arguments.push(("x-dead-letter-exchange", Argument::Text(INBOX.to_owned())));
    }
    if is_work && kind == QueueType::Quorum {
        arguments.extend(at_least_once());
    }
    if kind == QueueType::Quorum && release.major >= 4 {
        // 4.x kills a message at its 20th return otherwise. On 3.x -1 would kill at the first.
        arguments.push(("x-delivery-limit", Argument::Number(-1)));
    }
    if is_work && kind == QueueType::Quorum && release >= (Release { major: 4, minor: 3 }) {
        let millis = i64::try_from(types.consumer_timeout().as_millis()).unwrap_or(i64::MAX);
        arguments.push(("x-consumer-timeout", Argument::Number(millis)));
    }
    QueueDeclaration { name: queue.name(), arguments }
}

fn delay_queue(level: u8, kind: QueueType) -> QueueDeclaration {
    let wait = i64::try_from(delay::level_wait(level).as_millis()).unwrap_or(i64::MAX);
    let mut arguments = type_arguments(kind);
    arguments.push(("x-message-ttl", Argument::Number(wait)));
    arguments.push(("x-dead-letter-exchange", Argument::Text(delay::next_exchange(level))));
    if kind == QueueType::Quorum {
        arguments.extend(at_least_once());
    }
    QueueDeclaration { name: delay::level_name(level), arguments }
}

/// The type is always said: a virtual host may have another default.
fn type_arguments(kind: QueueType) -> Vec<(&'static str, Argument)> {
    match kind {
        QueueType::Classic => vec![
            ("x-queue-type", Argument::Text("classic".to_owned())),
            ("x-queue-version", Argument::Number(2)),
        ],
        QueueType::Quorum => vec![("x-queue-type", Argument::Text("quorum".to_owned()))],
    }
}

/// Dead-lettering that keeps the message until the next queue has confirmed it. The broker demands
/// `reject-publish` for it, which has no effect without a length limit.
fn at_least_once() -> [(&'static str, Argument); 2] {
    [
        ("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned())),
        ("x-overflow", Argument::Text("reject-publish".to_owned())),
    ]
}

fn exchange_definition(exchange: &Exchange) -> Value {
    let arguments = match exchange.alternate {
        Some(alternate) => json!({"alternate-exchange": alternate}),
        None => json!({}),
    };
    json!({
        "name": exchange.name, "vhost": "/", "type": exchange.kind.name(),
        "durable": true, "auto_delete": false, "internal": false, "arguments": arguments,
    })
}

fn queue_definition(queue: &QueueDeclaration) -> Value {
    let mut arguments = Map::new();
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Text(text) => Value::from(text.as_str()),
            Argument::Number(number) => Value::from(*number),
        };
        arguments.insert((*name).to_owned(), value);
    }
    json!({"name": queue.name, "vhost": "/", "durable": true, "auto_delete": false, "arguments": arguments})
}

fn binding_definition(binding: &Binding) -> Value {
    let destination_type = if binding.to_queue { "queue" } else { "exchange" };
    json!({
        "source": binding.source, "vhost": "/", "destination": binding.destination,
        "destination_type": destination_type, "routing_key": binding.routing_key, "arguments": {},
    })
}

#[cfg(test)]
mod tests;
