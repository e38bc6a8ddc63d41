//! The broker in the file: what its conformance cases cannot show.

use crate::support::{State, id, message, next, prefetch, soon, tasks, text};
use crate::wall_clock::WallClock;
use gleitzeit::broker::sqlite::{ROOT_HEADER, SqliteBroker};
use gleitzeit::broker::{Broker, BrokerError, Heard, Settlement};
use gleitzeit::sqlite::{Database, Durability, Location};
use gleitzeit::topology::Topology;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn a_waiting_consumer_gets_what_another_connection_publishes() {
    let state = State::new();
    let (here, there) = (state.broker().await, state.broker().await);
    let mut consumer = here.consume(&tasks(), prefetch(1)).await.expect("consumes");
    let (delivery, published) = tokio::join!(next(&mut consumer), there.publish(vec![message("a")]));
    published.expect("publishes");
    assert_eq!(text(&delivery), "a");
    delivery.settle(Settlement::Done).await.expect("settles");
    assert_eq!(there.depth(&tasks()).await.expect("counts").consumers, 1);
}

#[tokio::test]
async fn a_scoped_consumer_takes_only_messages_of_its_root() {
    let state = State::new();
    let database = state.open().await;
    let all = crate::support::broker(database.clone()).await;
    let mut of_workflow = message("t1");
    of_workflow.properties.headers.insert(ROOT_HEADER.to_owned(), "w".to_owned());
    all.publish(vec![message("other"), of_workflow, message("w")]).await.expect("publishes");
    let scoped = SqliteBroker::scoped(database, Arc::new(WallClock), &id("w"));
    let mut consumer = scoped.consume(&tasks(), prefetch(5)).await.expect("consumes");
    let (first, second) = (next(&mut consumer).await, next(&mut consumer).await);
    assert_eq!((text(&first), text(&second)), ("t1".to_owned(), "w".to_owned()));
    assert_eq!(first.properties.headers[ROOT_HEADER], "w");
    assert_eq!(all.depth(&tasks()).await.expect("counts").ready, 1, "the other one stays");
}

#[tokio::test]
async fn a_dropped_next_loses_nothing() {
    let state = State::new();
    let broker = state.broker().await;
    let mut consumer = broker.consume(&tasks(), prefetch(3)).await.expect("consumes");
    let texts: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    broker.publish(texts.iter().map(|text| message(text)).collect()).await.expect("publishes");
    let mut seen = Vec::new();
    while seen.len() < texts.len() {
        // Polled once and dropped, wherever it is by then.
        let step = tokio::time::timeout(Duration::ZERO, consumer.next()).await;
        tokio::task::yield_now().await;
        if let Ok(Some(Ok(delivery))) = step {
            seen.push(text(&delivery));
            delivery.settle(Settlement::Done).await.expect("settles");
        }
    }
    assert_eq!(seen, texts);
}

#[tokio::test]
async fn what_a_closed_broker_held_comes_again_and_cannot_be_settled() {
    let state = State::new();
    let (here, there) = (state.broker().await, state.broker().await);
    there.publish(vec![message("a"), message("b")]).await.expect("publishes");
    let mut consumer = here.consume(&tasks(), prefetch(2)).await.expect("consumes");
    let held = next(&mut consumer).await;
    here.close().await;
    assert_eq!(held.settle(Settlement::Done).await, Err(BrokerError::DeliveryLost));
    assert!(consumer.next().await.is_none());
    assert_eq!(here.publish(vec![message("c")]).await, Err(BrokerError::Closed));
    let mut other = there.consume(&tasks(), prefetch(2)).await.expect("consumes");
    let again = next(&mut other).await;
    assert_eq!((text(&again), again.redelivered), ("a".to_owned(), true));
    assert_eq!(text(&next(&mut other).await), "b");
}

#[tokio::test]
async fn a_delayed_message_survives_reopening_and_arrives_when_it_is_due() {
    let state = State::new();
    let first = state.open().await;
    let broker = crate::support::broker(first.clone()).await;
    let mut late = message("late");
    late.delay = Some(Duration::from_millis(300));
    let published_at = std::time::Instant::now();
    broker.publish(vec![late, message("now")]).await.expect("publishes");
    broker.close().await;
    first.close().await;
    let broker = state.broker().await;
    let mut consumer = broker.consume(&tasks(), prefetch(1)).await.expect("consumes");
    for expected in ["now", "late"] {
        let delivery = next(&mut consumer).await;
        assert_eq!((text(&delivery), delivery.redelivered), (expected.to_owned(), false));
        delivery.settle(Settlement::Done).await.expect("settles");
    }
    assert!(published_at.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_broadcast_reaches_listeners_of_every_connection() {
    let state = State::new();
    let (here, there) = (state.broker().await, state.broker().await);
    here.broadcast("before".into()).await.expect("sends");
    let (mut near, mut far) = (here.listen().await.expect("listens"), there.listen().await.expect("listens"));
    here.broadcast("one".into()).await.expect("sends");
    there.broadcast("two".into()).await.expect("sends");
    for listener in [&mut near, &mut far] {
        assert_eq!(soon(listener.next()).await, Some(Heard::Broadcast("one".into())));
        assert_eq!(soon(listener.next()).await, Some(Heard::Broadcast("two".into())));
    }
    here.close().await;
    assert_eq!(soon(near.next()).await, None);
}

/// A listener that is slower than the log is long.
#[tokio::test]
async fn a_listener_that_slept_too_long_says_that_it_missed_broadcasts() {
    let state = State::new();
    let broker = state.broker().await;
    let mut listener = broker.listen().await.expect("listens");
    let sending = (0..10_002).map(|number| broker.broadcast(number.to_string().into()));
    for sent in futures_util::future::join_all(sending).await {
        sent.expect("sends");
    }
    assert_eq!(soon(listener.next()).await, Some(Heard::Gap));
    let next = soon(listener.next()).await;
    assert!(matches!(next, Some(Heard::Broadcast(_))), "{next:?}");
}

#[tokio::test]
async fn a_state_in_memory_works_like_a_file() {
    let database = Database::open(Location::Memory, Durability::Process).await.expect("opens");
    let broker = SqliteBroker::new(database, Arc::new(WallClock));
    let unroutable = broker.publish(vec![message("a")]).await;
    assert!(matches!(unroutable, Err(BrokerError::Unroutable { .. })), "{unroutable:?}");
    broker.declare(&Topology::new([crate::support::echo()])).await.expect("declares");
    broker.publish(vec![message("a")]).await.expect("publishes");
    let mut consumer = broker.consume(&tasks(), prefetch(1)).await.expect("consumes");
    assert_eq!(text(&next(&mut consumer).await), "a");
}

#[tokio::test]
async fn a_closed_file_answers_that_it_is_closed() {
    let state = State::new();
    let database = state.open().await;
    let broker = crate::support::broker(database.clone()).await;
    let mut consumer = broker.consume(&tasks(), prefetch(1)).await.expect("consumes");
    database.close().await;
    database.close().await;
    assert_eq!(broker.publish(vec![message("a")]).await, Err(BrokerError::Closed));
    assert!(matches!(soon(consumer.next()).await, None | Some(Err(BrokerError::Closed))));
}
