//! Messages on the wire: AMQP properties and headers to ours and back.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::Value;
use std::time::Duration;

use super::header;
use crate::broker::{BrokerError, Death, Outgoing, Properties, STAND_IN, Target};
use crate::topology::plan::{DEAD, INBOX, PRIORITY_MAX, REPLIES, route, route_to};
use crate::topology::{Queue, delay, lane};

/// The largest message, in bytes: RabbitMQ 4.x refuses more by default, and closes the channel for it.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

const PERSISTENT: u8 = 2;
/// Lost with the server, and never written to its disk.
pub(super) const TRANSIENT: u8 = 1;

/// A message ready to be written.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    /// Returned by the server if no queue takes it.
    pub(super) mandatory: bool,
    pub(super) body: Bytes,
    pub(super) properties: BasicProperties,
}

impl Frame {
    /// The frame of a message, which goes to this lane of its protocol; `None` for a reply to a name that can be
    /// nobody's.
    pub(super) fn new(message: Outgoing, lane: Option<u16>) -> Result<Option<Frame>, BrokerError> {
        let properties = to_amqp(&message.properties)?;
        if message.body.len() > MESSAGE_BYTES_MAX {
            let reason = format!("{} bytes are more than {MESSAGE_BYTES_MAX}", message.body.len());
            return Err(invalid("a message", reason));
        }
        let place = match &message.target {
            Target::Queue(queue) => Some(queue_place(queue, lane, message.delay)?),
            Target::Reply(name) => reply_place(name),
        };
        let Some((exchange, routing_key, mandatory)) = place else { return Ok(None) };
        let routing_key = short("routing key", &routing_key)?;
        let exchange = exchange.as_str().into();
        Ok(Some(Frame { exchange, routing_key, mandatory, body: message.body, properties }))
    }
}

impl Frame {
    /// A message that is lost with the server, for whoever listens now.
    pub(super) fn transient(exchange: &str, body: Bytes) -> Frame {
        let properties = BasicProperties::default()
            .with_delivery_mode(TRANSIENT)
            .with_content_type("application/json".into());
        Frame { exchange: exchange.into(), routing_key: "".into(), mandatory: false, body, properties }
    }
}

fn queue_place(
    queue: &Queue,
    lane: Option<u16>,
    delay: Option<Duration>,
) -> Result<(String, String, bool), BrokerError> {
    let (name, key) = match (queue, lane) {
        (Queue::Tasks(address), Some(lane)) => (lane::name(address, lane), lane::route(address, lane)),
        (queue, _) => (queue.name(), route(queue).1.to_owned()),
    };
    let entry = delay::entry_to(delay.unwrap_or_default(), &name);
    Ok(match entry.map_err(|error| invalid("a message", error.to_string()))? {
        Some(entry) => (entry.exchange, entry.routing_key, true),
        None => (route(queue).0.to_owned(), key, true),
    })
}

/// Direct replies go to the default exchange, others to an exchange of ours, so that nobody can have us
/// write into any queue. Never mandatory: old servers return a direct reply to a living requester.
fn reply_place(name: &str) -> Option<(String, String, bool)> {
    const DIRECT: &str = "amq.rabbitmq.reply-to";
    let is_direct = name.strip_prefix(DIRECT).is_some_and(|rest| rest.len() > 1 && rest.starts_with('.'));
    if is_direct && name.len() <= 255 {
        return Some((String::new(), name.to_owned(), false));
    }
    // The bare pseudo-queue closes the channel of whoever publishes to it.
    if name.is_empty() || name.len() > 255 || name.starts_with(DIRECT) {
        tracing::warn!(
            reply_to = name.chars().take(64).collect::<String>(),
            "no such reply queue; reply dropped"
        );
        return None;
    }
    Some((REPLIES.to_owned(), name.to_owned(), false))
}

fn to_amqp(properties: &Properties) -> Result<BasicProperties, BrokerError> {
    let mut amqp = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json".into());
    if let Some(id) = &properties.message_id {
        amqp = amqp.with_message_id(short("message id", id)?);
    }
    if let Some(priority) = properties.priority {
        amqp = amqp.with_priority(priority.min(PRIORITY_MAX));
    }
    if let Some(id) = &properties.correlation_id {
        amqp = amqp.with_correlation_id(short("correlation id", id)?);
    }
    if let Some(name) = &properties.reply_to {
        amqp = amqp.with_reply_to(short("reply-to", name)?);
    }
    let mut headers = FieldTable::default();
    for (name, value) in properties.other_headers.iter().filter(|(name, _)| !is_left_out(name)) {
        if let Some(value) = header::to_amqp(value) {
            headers.insert(short("header name", name)?, value);
        }
    }
    // Ours are text, and count.
    for (name, value) in properties.headers.iter().filter(|(name, _)| !is_left_out(name)) {
        headers.insert(short("header name", name)?, AMQPValue::LongString(value.as_str().into()));
    }
    if !headers.inner().is_empty() {
        amqp = amqp.with_headers(headers);
    }
    Ok(amqp)
}

/// The properties of a message that is moved from one queue to another: all that it came with, save what the
/// server would not take from us (the user) or would believe (its own headers, unless they are to be kept).
pub(super) fn moved(came: &BasicProperties, keeps_deaths: bool) -> BasicProperties {
    let mut amqp = BasicProperties::default().with_delivery_mode(PERSISTENT);
    macro_rules! copy {
        ($($field:ident $with:ident),*) => {
            $(if let Some(value) = came.$field() { amqp = amqp.$with(value.clone()); })*
        };
    }
    copy!(content_type with_content_type, content_encoding with_content_encoding, priority with_priority,
        correlation_id with_correlation_id, reply_to with_reply_to, expiration with_expiration,
        message_id with_message_id, timestamp with_timestamp, kind with_type, app_id with_app_id);
    let mut headers = FieldTable::default();
    for (name, value) in came.headers().iter().flat_map(|headers| headers.inner()) {
        if keeps_deaths || !is_brokers_own(name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    if headers.inner().is_empty() { amqp } else { amqp.with_headers(headers) }
}

/// What arrived beside the body.
pub(super) fn from_amqp(amqp: &BasicProperties) -> Properties {
    let text = |value: &Option<ShortString>| value.as_ref().map(|value| value.as_str().to_owned());
    let mut properties = Properties {
        message_id: text(amqp.message_id()),
        priority: amqp.priority().map(|priority| priority.min(PRIORITY_MAX)),
        correlation_id: text(amqp.correlation_id()),
        reply_to: text(amqp.reply_to()),
        ..Properties::default()
    };
    for (name, value) in amqp.headers().iter().flat_map(|headers| headers.inner()) {
        if is_left_out(name.as_str()) {
            continue;
        }
        let name = name.as_str().to_owned();
        match header::from_amqp(value) {
            Some(Value::String(text)) => _ = properties.headers.insert(name, text),
            Some(other) => _ = properties.other_headers.insert(name, other),
            None => {}
        }
    }
    properties
}

/// Why the server moved a message here by itself, newest first. Waiting in the cascade is no death.
pub(super) fn deaths(queue: &Queue, exchange: &str, routing_key: &str, amqp: &BasicProperties) -> Vec<Death> {
    // The headers of a message that came through an alternate exchange or from us speak of an earlier life.
    if *queue == Queue::Inbox && exchange != INBOX {
        let is_ours = exchange == DEAD || delay::target_of(routing_key) == Some(Queue::Inbox);
        return if is_ours { Vec::new() } else { vec![unroutable(exchange, routing_key)] };
    }
    let headers = amqp.headers().as_ref().map(FieldTable::inner);
    let Some(AMQPValue::FieldArray(entries)) = headers.and_then(|headers| headers.get("x-death")) else {
        return Vec::new();
    };
    let mut deaths = Vec::new();
    for entry in entries.as_slice() {
        if let AMQPValue::FieldTable(entry) = entry
            && let Some(death) = death(entry)
        {
            deaths.push(death);
        }
    }
    deaths
}

fn unroutable(exchange: &str, routing_key: &str) -> Death {
    Death {
        reason: "unroutable".to_owned(),
        queue: String::new(),
        exchange: exchange.to_owned(),
        routing_key: undelayed(routing_key),
    }
}

fn death(entry: &FieldTable) -> Option<Death> {
    let field = |name: &str| entry.inner().get(name).and_then(value_text).unwrap_or_default();
    let queue = field("queue");
    if queue.starts_with(delay::PREFIX) {
        return None;
    }
    // What ended in a stand-in ended in the queue that it stood in for.
    let queue = queue.strip_suffix(STAND_IN).unwrap_or(&queue).to_owned();
    let routing_key = match entry.inner().get("routing-keys") {
        Some(AMQPValue::FieldArray(keys)) => keys.as_slice().first().and_then(value_text).unwrap_or_default(),
        _ => String::new(),
    };
    let routing_key = undelayed(&routing_key);
    Some(Death { reason: field("reason"), queue, exchange: field("exchange"), routing_key })
}

/// The routing key that a message would have had without its delay.
fn undelayed(routing_key: &str) -> String {
    let target = delay::target_name(routing_key).and_then(|name| route_to(&name));
    target.map_or_else(|| routing_key.to_owned(), |(_, key)| key)
}

/// Headers that are not sent on: by `CC` and `BCC` the server would route a message to others each time that it is sent
/// (<https://www.rabbitmq.com/docs/sender-selected>), and the last mean something to the reader of our JSON.
fn is_left_out(header: &str) -> bool {
    is_brokers_own(header) || matches!(header, "CC" | "BCC") || header.starts_with("$serde_json::private::")
}

/// Headers that the server writes. RabbitMQ 3.10 believes them: a message that is sent on with its
/// `x-death` is silently dropped the second time it passes a delay queue.
fn is_brokers_own(header: &str) -> bool {
    matches!(header, "x-death" | "x-delivery-count" | "x-acquired-count")
        || header.starts_with("x-first-death-")
        || header.starts_with("x-last-death-")
}

fn value_text(value: &AMQPValue) -> Option<String> {
    match header::from_amqp(value) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// Text of at most 255 bytes; lapin panics on more.
fn short(what: &str, text: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(text)
        .map_err(|_| invalid("a message", format!("its {what} is longer than 255 bytes")))
}

fn invalid(what: &str, reason: String) -> BrokerError {
    BrokerError::Invalid { what: what.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Address;

    fn python() -> Queue {
        Queue::Tasks(Address::parse("python.v1").expect("valid"))
    }

    fn place(target: Target, delay: Option<Duration>) -> Option<(String, String, bool)> {
        let message = Outgoing { target, body: Bytes::new(), properties: Properties::default(), delay };
        let frame = Frame::new(message, None).expect("fits")?;
        Some((frame.exchange.to_string(), frame.routing_key.to_string(), frame.mandatory))
    }

    fn to(exchange: &str, key: &str, mandatory: bool) -> Option<(String, String, bool)> {
        Some((exchange.to_owned(), key.to_owned(), mandatory))
    }

    #[test]
    fn messages_for_queues_must_arrive_and_replies_may_be_lost() {
        assert_eq!(place(Target::Queue(python()), None), to("gleitzeit.submit", "python.v1", true));
        let (exchange, key, mandatory) =
            place(Target::Queue(python()), Some(Duration::from_millis(100))).expect("routed");
        assert_eq!((exchange.as_str(), mandatory), ("gleitzeit.delay.00.100ms", true));
        assert!(key.ends_with(".1.tasks.python.v1"), "{key}");
        let reply = |name: &str| place(Target::Reply(name.to_owned()), None);
        assert_eq!(reply("amq.rabbitmq.reply-to.g1h2"), to("", "amq.rabbitmq.reply-to.g1h2", false));
        assert_eq!(reply("results"), to("gleitzeit.replies", "results", false));
        for nobody in ["", "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to.", &"x".repeat(256)] {
            assert_eq!(reply(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn a_lane_stands_in_the_routing_key_also_through_a_delay() {
        let frame = |delay| {
            let target = Target::Queue(python());
            let message = Outgoing { target, body: Bytes::new(), properties: Properties::default(), delay };
            Frame::new(message, Some(3)).expect("fits").expect("routed")
        };
        let at_once = frame(None);
        assert_eq!(
            (at_once.exchange.as_str(), at_once.routing_key.as_str()),
            ("gleitzeit.submit", "python.v1.lane.3")
        );
        let later = frame(Some(Duration::from_millis(100))).routing_key;
        assert!(later.as_str().ends_with(".1.tasks.python.v1.lane.3"), "{later}");
        // A lane that is gone when the delay is over.
        let lost = deaths(&Queue::Inbox, delay::DUE_EXCHANGE, later.as_str(), &BasicProperties::default());
        assert_eq!(
            (lost[0].reason.as_str(), lost[0].routing_key.as_str()),
            ("unroutable", "python.v1.lane.3")
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_written() {
        let message = |properties: Properties, delay| Outgoing {
            target: Target::Queue(python()),
            body: Bytes::new(),
            properties,
            delay,
        };
        let long = Properties { correlation_id: Some("x".repeat(256)), ..Properties::default() };
        let year = Some(Duration::from_secs(366 * 86_400));
        for message in [message(long, None), message(Properties::default(), year)] {
            assert!(matches!(Frame::new(message, None), Err(BrokerError::Invalid { .. })));
        }
    }

    #[test]
    fn the_brokers_own_headers_are_not_sent_on() {
        let own = [
            "x-death",
            "x-first-death-queue",
            "x-last-death-reason",
            "x-delivery-count",
            "x-acquired-count",
            "CC",
        ];
        let mut headers: std::collections::BTreeMap<String, String> =
            own.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect();
        headers.insert("traceparent".to_owned(), "00-1".to_owned());
        let amqp =
            to_amqp(&Properties { headers, priority: Some(200), ..Properties::default() }).expect("fits");
        let back = from_amqp(&amqp);
        assert_eq!(back.headers, [("traceparent".to_owned(), "00-1".to_owned())].into());
        assert_eq!(back.priority, Some(9));
    }

    #[test]
    fn a_moved_message_keeps_all_but_what_the_server_wrote() {
        let mut headers = FieldTable::default();
        headers.insert("x-death".into(), AMQPValue::LongString("1".into()));
        headers.insert("traceparent".into(), AMQPValue::LongString("00-1".into()));
        let came = BasicProperties::default()
            .with_headers(headers)
            .with_priority(7)
            .with_user_id("somebody".into())
            .with_expiration("60000".into())
            .with_message_id("m".into());
        let sent = moved(&came, false);
        let names = |amqp: &BasicProperties| {
            let headers = amqp.headers().as_ref().expect("has headers");
            headers.inner().keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&sent), ["traceparent"]);
        assert_eq!((*sent.priority(), sent.user_id()), (Some(7), &None));
        assert_eq!((sent.expiration(), sent.message_id()), (came.expiration(), came.message_id()));
        assert_eq!(names(&moved(&came, true)), ["traceparent", "x-death"]);
    }

    fn died(queue: &str, reason: &str, key: &str) -> AMQPValue {
        let text = |text: &str| AMQPValue::LongString(text.into());
        let mut entry = FieldTable::default();
        entry.insert("queue".into(), text(queue));
        entry.insert("reason".into(), text(reason));
        entry.insert("exchange".into(), text("gleitzeit.tasks"));
        let mut keys = lapin::types::FieldArray::default();
        keys.push(text(key));
        entry.insert("routing-keys".into(), AMQPValue::FieldArray(keys));
        AMQPValue::FieldTable(entry)
    }

    #[test]
    fn deaths_are_read_without_the_waits_of_the_cascade() {
        let delayed =
            delay::entry(Duration::from_secs(1), &python()).expect("fits").expect("waits").routing_key;
        let mut entries = lapin::types::FieldArray::default();
        entries.push(died("gleitzeit.tasks.python.v1", "expired", &delayed));
        entries.push(died("gleitzeit.delay.00.100ms", "expired", &delayed));
        let mut headers = FieldTable::default();
        headers.insert("x-death".into(), AMQPValue::FieldArray(entries));
        let amqp = BasicProperties::default().with_headers(headers);

        let found = deaths(&Queue::Inbox, INBOX, &delayed, &amqp);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].reason.as_str(), found[0].routing_key.as_str()), ("expired", "python.v1"));
        let alternate = deaths(&Queue::Inbox, "gleitzeit.tasks", "nobody.v1", &amqp);
        assert_eq!(
            (alternate[0].reason.as_str(), alternate[0].routing_key.as_str()),
            ("unroutable", "nobody.v1")
        );
        assert_eq!(deaths(&Queue::Inbox, DEAD, "inbox", &amqp), []);
        let later =
            delay::entry(Duration::from_secs(1), &Queue::Inbox).expect("fits").expect("waits").routing_key;
        assert_eq!(deaths(&Queue::Inbox, delay::DUE_EXCHANGE, &later, &amqp), []);
        assert_eq!(deaths(&python(), "gleitzeit.delay.due", &delayed, &BasicProperties::default()), []);
    }
}
