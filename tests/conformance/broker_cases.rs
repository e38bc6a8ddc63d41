//! What every broker must show of messages: held, routed, delayed, delivered, settled.

use bytes::Bytes;
use futures_util::future::join_all;
use gleitzeit::broker::{
    Broker, BrokerError, Consumer, Delivery, Depth, Outgoing, Properties, Settlement, Target,
};
use gleitzeit::topology::{Address, Queue, Topology};
use serde_json::json;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Case;

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// The cases of this file.
        pub(crate) const CASES: &[Case] =
            &[$((stringify!($name), |broker, address| Box::pin($name(broker, address)))),*];
    };
}

cases![
    a_published_message_is_in_its_queue,
    an_unroutable_message_is_an_error,
    an_unroutable_message_does_not_blame_its_neighbours,
    a_thousand_messages_arrive_in_order,
    a_delayed_message_is_never_early_and_reaches_its_queue,
    a_delay_that_is_too_long_is_refused,
    what_is_done_does_not_come_again,
    what_is_done_at_the_very_end_does_not_come_again,
    what_is_released_or_dropped_comes_again,
    what_a_dropped_consumer_had_comes_again,
    a_consumer_holds_no_more_than_its_prefetch,
    consumers_have_their_own_prefetch,
    a_higher_priority_goes_first,
    properties_survive,
    properties_survive_a_delay,
    bodies_survive,
    cancelling_returns_what_was_not_given_out,
    a_wait_for_a_delivery_may_be_dropped,
    a_reply_to_nobody_is_no_error,
];

/// Longer than anything takes on a loaded machine.
pub(crate) const SOON: Duration = Duration::from_secs(100);

pub(crate) fn outgoing(queue: &Queue, body: impl Into<Bytes>) -> Outgoing {
    let target = Target::Queue(queue.clone());
    Outgoing { target, body: body.into(), properties: Properties::default(), delay: None }
}

/// Declares `address`, and gives its task queue.
pub(crate) async fn ready(broker: &Arc<dyn Broker>, address: &Address) -> Queue {
    broker.declare(&Topology::new([address.clone()])).await.expect("declared");
    Queue::Tasks(address.clone())
}

pub(crate) async fn consume(broker: &Arc<dyn Broker>, queue: &Queue, prefetch: u16) -> Box<dyn Consumer> {
    broker.consume(queue, NonZeroU16::new(prefetch).expect("not zero")).await.expect("consumes")
}

pub(crate) async fn next(consumer: &mut Box<dyn Consumer>) -> Delivery {
    let delivery = tokio::time::timeout(SOON, consumer.next()).await.expect("a delivery in time");
    delivery.expect("the consumer goes on").expect("a delivery")
}

pub(crate) async fn done(delivery: Delivery) {
    delivery.settle(Settlement::Done).await.expect("settled");
}

pub(crate) async fn bodies(consumer: &mut Box<dyn Consumer>, count: usize) -> Vec<Bytes> {
    let mut bodies = Vec::new();
    for _ in 0..count {
        let delivery = next(consumer).await;
        bodies.push(delivery.body.clone());
        done(delivery).await;
    }
    bodies
}

/// Asks until the queue is as expected: what a consumer returns is counted a moment later.
pub(crate) async fn depth_becomes(broker: &Arc<dyn Broker>, queue: &Queue, expected: Depth) {
    let deadline = Instant::now() + SOON;
    loop {
        let depth = broker.depth(queue).await.expect("counted");
        if depth == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{queue}: {depth:?}, expected {expected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// Law 1.
async fn a_published_message_is_in_its_queue(broker: Arc<dyn Broker>, address: Address) {
    let topology = Topology::new([address.clone()]);
    let tasks = ready(&broker, &address).await;
    for queue in topology.queues() {
        broker.publish(vec![outgoing(&queue, "1"), outgoing(&queue, "2")]).await.expect("confirmed");
        assert_eq!(broker.depth(&queue).await.expect("counted"), Depth { ready: 2, consumers: 0 }, "{queue}");
    }
    let mut consumer = consume(&broker, &tasks, 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!((&delivery.queue, &delivery.body[..]), (&tasks, &b"1"[..]));
    assert!(!delivery.redelivered && delivery.deaths.is_empty());
    done(delivery).await;
    broker.publish(Vec::new()).await.expect("nothing is confirmed at once");
}

// Law 1.
async fn an_unroutable_message_is_an_error(broker: Arc<dyn Broker>, address: Address) {
    ready(&broker, &address).await;
    let nobody = Queue::Tasks(Address::parse("nobody.v1").expect("valid"));
    let error = broker.publish(vec![outgoing(&nobody, "x")]).await.expect_err("nobody takes it");
    assert!(matches!(error, BrokerError::Unroutable { .. }), "{error}");
    assert!(!error.is_transient());
}

// Law 1: each of many calls at the same time gets the answer that is its own.
async fn an_unroutable_message_does_not_blame_its_neighbours(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let nobody = Queue::Tasks(Address::parse("nobody.v1").expect("valid"));
    let publishes = (0..600).map(|index| {
        let queue = if index % 3 == 0 { &nobody } else { &tasks };
        broker.publish(vec![outgoing(queue, index.to_string())])
    });
    for (index, result) in join_all(publishes).await.into_iter().enumerate() {
        let is_unroutable = matches!(result, Err(BrokerError::Unroutable { .. }));
        assert_eq!(is_unroutable, index % 3 == 0, "{index}: {result:?}");
        assert_eq!(result.is_ok(), index % 3 != 0, "{index}: {result:?}");
    }
    assert_eq!(broker.depth(&tasks).await.expect("counted").ready, 400);
    let mixed = vec![outgoing(&tasks, "a"), outgoing(&nobody, "b"), outgoing(&tasks, "c")];
    let error = broker.publish(mixed).await.expect_err("one of three is unroutable");
    assert!(matches!(error, BrokerError::Unroutable { .. }), "{error}");
}

// Laws 1, 5: more than any window.
async fn a_thousand_messages_arrive_in_order(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let count = 2_500;
    let messages = (0..count).map(|index| outgoing(&tasks, index.to_string())).collect();
    broker.publish(messages).await.expect("confirmed");
    assert_eq!(broker.depth(&tasks).await.expect("counted").ready, count);
    let mut consumer = consume(&broker, &tasks, 100).await;
    for index in 0..count {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.body, index.to_string());
        done(delivery).await;
    }
}

// Law 2.
async fn a_delayed_message_is_never_early_and_reaches_its_queue(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let queues = [tasks, Queue::Workflows, Queue::Inbox, Queue::Dead(address.clone())];
    let delays = [1, 100, 300, 700, 1_500];
    let began = Instant::now();
    let mut messages = Vec::new();
    for queue in &queues {
        for delay in delays {
            let body = format!("{queue} {delay}");
            messages.push(Outgoing { delay: Some(Duration::from_millis(delay)), ..outgoing(queue, body) });
        }
    }
    broker.publish(messages).await.expect("confirmed");
    let arrivals = queues.iter().map(|queue| {
        let broker = Arc::clone(&broker);
        async move {
            let mut consumer = consume(&broker, queue, 1).await;
            for _ in delays {
                let delivery = next(&mut consumer).await;
                let body = String::from_utf8(delivery.body.to_vec()).expect("text");
                let (target, delay) = body.split_once(' ').expect("two words");
                let delay = Duration::from_millis(delay.parse().expect("a number"));
                assert_eq!(target, queue.name());
                assert!(began.elapsed() >= delay, "{body} came after {:?}", began.elapsed());
                assert_eq!(delivery.deaths, [], "waiting is no death");
                done(delivery).await;
            }
        }
    });
    join_all(arrivals).await;
}

// Law 2: the bound.
async fn a_delay_that_is_too_long_is_refused(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let message = |days: u64| {
        let delay = Some(Duration::from_secs(days * 86_400));
        Outgoing { delay, ..outgoing(&tasks, "x") }
    };
    broker.publish(vec![message(310)]).await.expect("310 days are kept");
    let error = broker.publish(vec![message(311)]).await.expect_err("311 days are not");
    assert!(matches!(error, BrokerError::Invalid { .. }), "{error}");
    assert_eq!(broker.depth(&tasks).await.expect("counted").ready, 0);
}

// Law 3: whatever was given back would come before what is published later.
async fn what_is_done_does_not_come_again(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    broker.publish(vec![outgoing(&tasks, "first")]).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 1).await;
    done(next(&mut consumer).await).await;
    consumer.cancel().await.expect("cancelled");
    drop(consumer);
    broker.publish(vec![outgoing(&tasks, "second")]).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!((&delivery.body[..], delivery.redelivered), (&b"second"[..], false));
    done(delivery).await;
}

// Law 3.
async fn what_is_released_or_dropped_comes_again(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    broker.publish(vec![outgoing(&tasks, "x")]).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 1).await;
    next(&mut consumer).await.settle(Settlement::Release).await.expect("released");
    let again = next(&mut consumer).await;
    assert!(again.redelivered);
    drop(again);
    let again = next(&mut consumer).await;
    assert!(again.redelivered && again.body == "x");
    done(again).await;
    depth_becomes(&broker, &tasks, Depth { ready: 0, consumers: 1 }).await;
}

// Law 3: the last settlement is not overtaken by the end of its consumer.
async fn what_is_done_at_the_very_end_does_not_come_again(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    for index in 0..50 {
        let body = index.to_string();
        broker.publish(vec![outgoing(&tasks, body.clone())]).await.expect("confirmed");
        let mut consumer = consume(&broker, &tasks, 1).await;
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.body, body);
        drop(consumer);
        done(delivery).await;
    }
}

// Law 3: held and not yet given out.
async fn what_a_dropped_consumer_had_comes_again(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let messages = ["1", "2", "3"].map(|body| outgoing(&tasks, body));
    broker.publish(messages.to_vec()).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 2).await;
    let held = next(&mut consumer).await;
    drop(consumer);
    drop(held);
    let mut consumer = consume(&broker, &tasks, 3).await;
    let mut found = bodies(&mut consumer, 3).await;
    found.sort();
    assert_eq!(found, ["1", "2", "3"]);
}

// Law 4.
async fn a_consumer_holds_no_more_than_its_prefetch(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let messages = (0..5).map(|index| outgoing(&tasks, index.to_string())).collect();
    broker.publish(messages).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 2).await;
    let first = next(&mut consumer).await;
    let _second = next(&mut consumer).await;
    depth_becomes(&broker, &tasks, Depth { ready: 3, consumers: 1 }).await;
    let third = tokio::time::timeout(Duration::from_millis(300), consumer.next()).await;
    assert!(third.is_err(), "a third delivery beyond a prefetch of two");
    done(first).await;
    assert_eq!(next(&mut consumer).await.body, "2");
}

// Law 4.
async fn consumers_have_their_own_prefetch(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let messages = (0..4).map(|index| outgoing(&tasks, index.to_string())).collect();
    broker.publish(messages).await.expect("confirmed");
    let mut one = consume(&broker, &tasks, 1).await;
    let held = next(&mut one).await;
    let mut other = consume(&broker, &tasks, 3).await;
    let mut found = bodies(&mut other, 3).await;
    found.push(held.body.clone());
    found.sort();
    assert_eq!(found, ["0", "1", "2", "3"]);
    done(held).await;
}

// Law 5.
async fn a_higher_priority_goes_first(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let urgencies = [(4, "4a"), (0, "0"), (9, "9"), (7, "7"), (4, "4b"), (200, "9b"), (1, "1")];
    let messages = urgencies.map(|(priority, body)| {
        let properties = Properties { priority: Some(priority), ..Properties::default() };
        Outgoing { properties, ..outgoing(&tasks, body) }
    });
    broker.publish(messages.to_vec()).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 1).await;
    assert_eq!(bodies(&mut consumer, 7).await, ["9", "9b", "7", "4a", "4b", "1", "0"]);
}

fn all_properties() -> Properties {
    let headers = [("traceparent", "00-4bf92f-00f067-01"), ("umlaut", "grün"), ("empty", "")];
    Properties {
        message_id: Some("task-1".to_owned()),
        priority: Some(7),
        correlation_id: Some("call 1".to_owned()),
        reply_to: Some("replies-of-me".to_owned()),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        other_headers: [
            ("tenant".to_owned(), json!(42)),
            ("vip".to_owned(), json!(true)),
            ("share".to_owned(), json!(0.5)),
        ]
        .into_iter()
        .collect(),
    }
}

// Law 6.
async fn properties_survive(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let full = Outgoing { properties: all_properties(), ..outgoing(&tasks, "{}") };
    broker.publish(vec![full.clone()]).await.expect("confirmed");
    broker.publish(vec![outgoing(&tasks, "{}")]).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.properties, all_properties());
    done(delivery).await;
    let bare = next(&mut consumer).await;
    assert_eq!(bare.properties, Properties::default());
    done(bare).await;
}

// Law 6: twice, because a server may believe the marks of the first pass.
async fn properties_survive_a_delay(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let mut properties = all_properties();
    for _ in 0..2 {
        let delay = Some(Duration::from_millis(300));
        let message = Outgoing { properties: properties.clone(), delay, ..outgoing(&tasks, "{}") };
        broker.publish(vec![message]).await.expect("confirmed");
        let mut consumer = consume(&broker, &tasks, 1).await;
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.properties, all_properties());
        properties = delivery.properties.clone();
        done(delivery).await;
        consumer.cancel().await.expect("cancelled");
    }
}

// Law 6.
async fn bodies_survive(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let large: Vec<u8> =
        (0..12 * 1024 * 1024u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let sent = [Vec::new(), vec![0], vec![0xff, 0xfe, 0x00], large].map(Bytes::from);
    let messages = sent.iter().map(|body| outgoing(&tasks, body.clone())).collect();
    broker.publish(messages).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 1).await;
    for (received, sent) in bodies(&mut consumer, sent.len()).await.iter().zip(&sent) {
        assert!(received == sent, "{} bytes became {}", sent.len(), received.len());
    }
    let error =
        broker.publish(vec![outgoing(&tasks, vec![b' '; 17 * 1024 * 1024])]).await.expect_err("too large");
    assert!(matches!(error, BrokerError::Invalid { .. }), "{error}");
}

// Law 3, and the consumer's own words.
async fn cancelling_returns_what_was_not_given_out(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let messages = (0..5).map(|index| outgoing(&tasks, index.to_string())).collect();
    broker.publish(messages).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 10).await;
    let held = next(&mut consumer).await;
    consumer.cancel().await.expect("cancelled");
    assert!(tokio::time::timeout(SOON, consumer.next()).await.expect("in time").is_none());
    consumer.cancel().await.expect("once more");
    done(held).await;
    depth_becomes(&broker, &tasks, Depth { ready: 4, consumers: 0 }).await;
    let mut other = consume(&broker, &tasks, 1).await;
    assert_eq!(bodies(&mut other, 4).await.len(), 4);
    depth_becomes(&broker, &tasks, Depth { ready: 0, consumers: 1 }).await;
}

// `next` is cancel-safe.
async fn a_wait_for_a_delivery_may_be_dropped(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let mut consumer = consume(&broker, &tasks, 1).await;
    for index in 0..20 {
        let waited = tokio::time::timeout(Duration::from_millis(1), consumer.next()).await;
        assert!(waited.is_err(), "nothing was sent");
        let body = index.to_string();
        let sent = vec![outgoing(&tasks, body.clone())];
        // Dropped at whatever point the publish ends.
        let early = tokio::select! {
            delivery = consumer.next() => Some(delivery.expect("goes on").expect("a delivery")),
            published = broker.publish(sent) => { published.expect("confirmed"); None }
        };
        let delivery = match early {
            Some(delivery) => delivery,
            None => next(&mut consumer).await,
        };
        assert_eq!(delivery.body, body);
        done(delivery).await;
    }
}

async fn a_reply_to_nobody_is_no_error(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let names =
        ["nobody", "amq.rabbitmq.reply-to.g1hdeadbeef", "amq.rabbitmq.reply-to", "", &"x".repeat(300)];
    for name in names {
        let reply = Outgoing { target: Target::Reply(name.to_owned()), ..outgoing(&tasks, "{}") };
        broker.publish(vec![reply, outgoing(&tasks, "{}")]).await.expect("dropped without an error");
    }
    assert_eq!(broker.depth(&tasks).await.expect("counted").ready, names.len() as u64);
}
