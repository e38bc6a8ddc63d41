//! What every broker must show beside messages: declaring, checking, broadcasts, events, counts, the end.

use bytes::Bytes;
use gleitzeit::broker::{Broker, BrokerError, Depth, Heard, Outgoing, Settlement, Transit};
use gleitzeit::topology::{Address, Queue, Topology};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Case;
use super::cases::{SOON, bodies, consume, depth_becomes, done, next, outgoing, ready};

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// The cases of this file.
        pub(crate) const CASES: &[Case] =
            &[$((stringify!($name), |broker, address| Box::pin($name(broker, address)))),*];
    };
}

cases![
    declaring_again_changes_nothing,
    a_check_finds_what_is_missing,
    a_broadcast_reaches_every_listener_once,
    events_never_wait,
    depth_counts_messages_and_consumers,
    what_is_in_no_queue_is_counted_too,
    a_queue_that_is_not_there_is_an_error,
    purging_removes_what_is_ready,
    a_closed_broker_says_so,
    the_broker_introduces_itself,
];

// Law 7.
async fn declaring_again_changes_nothing(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    broker.publish(vec![outgoing(&tasks, "kept")]).await.expect("confirmed");
    ready(&broker, &address).await;
    let more = Address::parse("llm.v1").expect("valid");
    broker.declare(&Topology::new([more.clone()])).await.expect("another protocol");
    broker.publish(vec![outgoing(&Queue::Tasks(more), "new")]).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 1).await;
    assert_eq!(bodies(&mut consumer, 1).await, ["kept"]);
}

// Law 7.
async fn a_check_finds_what_is_missing(broker: Arc<dyn Broker>, address: Address) {
    ready(&broker, &address).await;
    let complete = Topology::new([address.clone()]);
    assert_eq!(broker.check(&complete).await.expect("checked"), []);
    let more = Topology::new([address, Address::parse("llm.v1").expect("valid")]);
    for _ in 0..2 {
        let findings = broker.check(&more).await.expect("checked");
        let whats: Vec<&str> = findings.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(whats.len(), 2, "{findings:?}");
        assert!(whats.iter().any(|what| what.contains("gleitzeit.tasks.llm.v1")), "{whats:?}");
        assert!(whats.iter().any(|what| what.contains("gleitzeit.dead.llm.v1")), "{whats:?}");
    }
}

// Law 8.
async fn a_broadcast_reaches_every_listener_once(broker: Arc<dyn Broker>, address: Address) {
    ready(&broker, &address).await;
    broker.broadcast(Bytes::from("nobody listens")).await.expect("sent");
    let mut listeners = [broker.listen().await.expect("listens"), broker.listen().await.expect("listens")];
    broker.broadcast(Bytes::from("1")).await.expect("sent");
    broker.broadcast(Bytes::from("2")).await.expect("sent");
    for listener in &mut listeners {
        for expected in ["1", "2"] {
            let heard = tokio::time::timeout(SOON, listener.next()).await.expect("in time");
            assert_eq!(heard.expect("goes on"), Heard::Broadcast(expected.into()));
        }
    }
    let mut late = broker.listen().await.expect("listens");
    broker.broadcast(Bytes::from("3")).await.expect("sent");
    let heard = tokio::time::timeout(SOON, late.next()).await.expect("in time");
    assert_eq!(heard.expect("goes on"), Heard::Broadcast("3".into()));
}

// Law 8.
async fn events_never_wait(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let began = Instant::now();
    for _ in 0..50_000 {
        broker.emit("task.completed", Bytes::from_static(b"{}"));
    }
    broker.emit(&"x".repeat(300), Bytes::new());
    // One wait for the broker each would take minutes.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    broker.publish(vec![outgoing(&tasks, "still works")]).await.expect("confirmed");
}

async fn depth_counts_messages_and_consumers(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    assert_eq!(broker.depth(&tasks).await.expect("counted"), Depth { ready: 0, consumers: 0 });
    let messages = (0..3).map(|index| outgoing(&tasks, index.to_string())).collect();
    broker.publish(messages).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 1).await;
    let held = next(&mut consumer).await;
    depth_becomes(&broker, &tasks, Depth { ready: 2, consumers: 1 }).await;
    done(held).await;
    consumer.cancel().await.expect("cancelled");
    depth_becomes(&broker, &tasks, Depth { ready: 2, consumers: 0 }).await;
}

async fn what_is_in_no_queue_is_counted_too(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let delayed =
        |transit: &Transit| transit.delayed.iter().flat_map(|delayed| delayed.values()).sum::<u64>();
    assert_eq!(delayed(&broker.transit().await.expect("counted")), 0);
    let later = |seconds| Outgoing { delay: Some(Duration::from_secs(seconds)), ..outgoing(&tasks, "later") };
    broker.publish(vec![later(3_600), later(90_000), outgoing(&tasks, "now")]).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 1).await;
    let held = next(&mut consumer).await;
    let transit = broker.transit().await.expect("counted");
    assert_eq!(delayed(&transit), 2, "{transit:?}");
    assert!(transit.unacknowledged.is_none_or(|held| held == 1), "{transit:?}");
    done(held).await;
}

async fn a_queue_that_is_not_there_is_an_error(broker: Arc<dyn Broker>, address: Address) {
    ready(&broker, &address).await;
    let nobody = Queue::Tasks(Address::parse("nobody.v1").expect("valid"));
    let one = NonZeroU16::MIN;
    let errors = [
        broker.consume(&nobody, one).await.err(),
        broker.depth(&nobody).await.err(),
        broker.purge(&nobody).await.err(),
    ];
    for error in errors {
        let expected = BrokerError::NoQueue { queue: "gleitzeit.tasks.nobody.v1".to_owned() };
        assert_eq!(error, Some(expected));
    }
}

async fn purging_removes_what_is_ready(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    let messages = (0..4).map(|index| outgoing(&tasks, index.to_string())).collect();
    broker.publish(messages).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 1).await;
    let held = next(&mut consumer).await;
    depth_becomes(&broker, &tasks, Depth { ready: 3, consumers: 1 }).await;
    assert_eq!(broker.purge(&tasks).await.expect("purged"), 3);
    assert_eq!(broker.depth(&tasks).await.expect("counted").ready, 0);
    held.settle(Settlement::Release).await.expect("released");
    assert_eq!(bodies(&mut consumer, 1).await, ["0"]);
}

// Law 9, as far as every adapter can show it.
async fn a_closed_broker_says_so(broker: Arc<dyn Broker>, address: Address) {
    let tasks = ready(&broker, &address).await;
    broker.publish(vec![outgoing(&tasks, "held")]).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks, 1).await;
    let mut listener = broker.listen().await.expect("listens");
    let held = next(&mut consumer).await;
    broker.close().await;
    broker.close().await;
    assert!(tokio::time::timeout(SOON, consumer.next()).await.expect("in time").is_none());
    assert_eq!(tokio::time::timeout(SOON, listener.next()).await.expect("in time"), None);
    let error = held.settle(Settlement::Done).await.expect_err("its connection is gone");
    assert!(matches!(error, BrokerError::DeliveryLost | BrokerError::Closed), "{error}");
    let errors = [
        broker.publish(vec![outgoing(&tasks, "x")]).await.err(),
        broker.depth(&tasks).await.err(),
        broker.consume(&tasks, NonZeroU16::MIN).await.err(),
        broker.broadcast(Bytes::new()).await.err(),
    ];
    for error in errors {
        assert_eq!(error, Some(BrokerError::Closed));
    }
    broker.emit("task.completed", Bytes::new());
}

async fn the_broker_introduces_itself(broker: Arc<dyn Broker>, _address: Address) {
    let version = broker.version().await.expect("known");
    assert!(version.contains(|letter: char| letter.is_ascii_digit()), "{version}");
}
