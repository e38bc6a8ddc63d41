//! What every broker must show of lanes; and every other case once more where its protocol has some.

use gleitzeit::broker::rabbitmq::{RabbitBroker, Settings};
use gleitzeit::broker::sqlite::SqliteBroker;
use gleitzeit::broker::{Broker, Delivery, Depth, Migration, Outgoing, Properties, Settlement};
use gleitzeit::core::fairness::lane_of;
use gleitzeit::sqlite::{Database, Durability, Location};
use gleitzeit::topology::lane::{Fairness, Lanes};
use gleitzeit::topology::{Address, Queue, Topology};
use libtest_mimic::Trial;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::cases::{CASES, SOON, bodies, consume, depth_becomes, done, next};
use super::rabbitmq_server::{Server, VirtualHost};
use super::{Run, dead, in_runtime, rabbitmq, sqlite, trial, upkeep};
use crate::wall_clock::WallClock;

/// A place that brokers of different configurations share.
pub(crate) enum Ground {
    RabbitMq(VirtualHost),
    Sqlite(tempfile::TempDir),
}

impl Ground {
    fn rabbitmq() -> Ground {
        Ground::RabbitMq(Server::from_environment().expect("is_here has looked").vhost())
    }

    fn sqlite() -> Ground {
        Ground::Sqlite(tempfile::tempdir().expect("a folder"))
    }

    async fn broker(&self, fairness: Fairness) -> Arc<dyn Broker> {
        match self {
            Ground::RabbitMq(vhost) => {
                let settings = Settings { fairness, ..Settings::new(&vhost.url(), "gleitzeit test") };
                Arc::new(RabbitBroker::connect(settings).await.expect("connects"))
            }
            Ground::Sqlite(folder) => {
                let location = Location::File(folder.path().join("state.db"));
                let database = Database::open(location, Durability::Process).await.expect("it opens");
                Arc::new(SqliteBroker::new(database, Arc::new(WallClock)).with_fairness(fairness))
            }
        }
    }

    /// A broker with so many lanes, which are declared.
    async fn with_lanes(&self, lanes: Lanes) -> Arc<dyn Broker> {
        let fairness = Fairness::from([(python(), lanes)]);
        let broker = self.broker(fairness.clone()).await;
        broker.declare(&topology(&fairness)).await.expect("declared");
        broker
    }
}

fn python() -> Address {
    Address::parse("python.v1").expect("valid")
}

fn topology(fairness: &Fairness) -> Topology {
    Topology::new([python()]).with_lanes(fairness)
}

fn lanes(count: u16) -> Lanes {
    Lanes { count, ..Lanes::default() }
}

fn tasks() -> Queue {
    Queue::Tasks(python())
}

/// A key of this lane.
fn key(lane: u16, of: u16) -> String {
    (0..).map(|number| format!("tenant-{number}")).find(|key| lane_of(key, of) == lane).expect("there is one")
}

fn keyed(key: &str, number: usize) -> Outgoing {
    let body = json!({"id": format!("{key}-{number}"), "fairness_key": key}).to_string();
    super::cases::outgoing(&tasks(), body)
}

/// What it belongs to: its key, or nothing.
fn key_of(delivery: &Delivery) -> String {
    let body: serde_json::Value = serde_json::from_slice(&delivery.body).unwrap_or_default();
    body["fairness_key"].as_str().unwrap_or_default().to_owned()
}

/// Takes so many, one after the other; whose they were.
async fn take(broker: &Arc<dyn Broker>, count: usize) -> Vec<String> {
    let (mut consumer, mut whose) = (consume(broker, &tasks(), 1).await, Vec::new());
    for _ in 0..count {
        let delivery = next(&mut consumer).await;
        whose.push(key_of(&delivery));
        done(delivery).await;
    }
    consumer.cancel().await.expect("cancelled");
    whose
}

type Case = (&'static str, fn(Ground) -> Run);

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        const OWN: &[Case] = &[$((stringify!($name), |ground| Box::pin($name(ground)))),*];
    };
}

cases![
    who_sends_much_does_not_keep_others_waiting,
    turns_go_on_where_a_consumer_has_ended,
    a_key_that_weighs_more_gets_more_turns,
    a_priority_holds_within_its_lane,
    nothing_is_held_that_is_not_given_out,
    lanes_are_counted_and_emptied_with_their_queue,
    a_delayed_message_comes_back_into_its_lane,
    lanes_that_are_not_configured_any_more_are_emptied,
    lanes_that_are_not_configured_any_more_can_be_removed,
    a_missing_lane_loses_nothing,
];

/// Where a worker that has all it may have is no consumer, because it asks for each.
const COUNTS_CONSUMERS: [&str; 3] = [
    "a_consumer_holds_no_more_than_its_prefetch",
    "depth_counts_messages_and_consumers",
    "purging_removes_what_is_ready",
];
/// They want a topology without lanes, or nothing declared at all.
const DECLARES_OTHERWISE: [&str; 2] =
    ["a_check_finds_what_is_missing", "a_dead_queue_that_is_not_there_holds_nothing"];

/// Its name, whether it can be had here, and a place for one case.
type Backend = (&'static str, fn() -> Result<(), String>, fn() -> Ground);

/// Every case with every backend.
pub(crate) fn trials() -> Vec<Trial> {
    let backends: [Backend; 2] =
        [("rabbitmq", rabbitmq::is_here, Ground::rabbitmq), ("sqlite", sqlite::is_here, Ground::sqlite)];
    let mut trials = Vec::new();
    for (backend, is_here, ground) in backends {
        for (name, case) in OWN {
            let run = move || in_runtime(async move { case(ground()).await });
            trials.push(trial(format!("lanes::{backend}::{name}"), is_here, run));
        }
        let asks = backend == "rabbitmq";
        let is_left_out =
            |name: &str| DECLARES_OTHERWISE.contains(&name) || (asks && COUNTS_CONSUMERS.contains(&name));
        for (name, case) in CASES.iter().chain(upkeep::CASES).chain(dead::CASES) {
            if is_left_out(name) {
                continue;
            }
            let run = move || {
                in_runtime(async move {
                    let ground = ground();
                    let broker = ground.with_lanes(lanes(3)).await;
                    case(Arc::clone(&broker), python()).await;
                    broker.close().await;
                })
            };
            trials.push(trial(format!("lanes::{backend}::{name}"), is_here, run));
        }
    }
    trials
}

// Law 10.
async fn who_sends_much_does_not_keep_others_waiting(ground: Ground) {
    let broker = ground.with_lanes(lanes(4)).await;
    let (much, few) = (key(0, 4), key(3, 4));
    broker.publish((0..60).map(|number| keyed(&much, number)).collect()).await.expect("confirmed");
    broker.publish((0..5).map(|number| keyed(&few, number)).collect()).await.expect("confirmed");
    let without = (0..5).map(|number| super::cases::outgoing(&tasks(), number.to_string())).collect();
    broker.publish(without).await.expect("confirmed");
    let whose = take(&broker, 70).await;
    let last = |key: &str| whose.iter().rposition(|of| of == key).expect("it came");
    // Three lanes have something: of each three turns each gets one.
    assert!(last(&few) < 15 + 3 && last("") < 15 + 3, "{whose:?}");
    broker.close().await;
}

// Law 10: as with a worker of one place whose tasks are so long that each has a subscription of its own.
async fn turns_go_on_where_a_consumer_has_ended(ground: Ground) {
    let broker = ground.with_lanes(lanes(2)).await;
    let (one, other) = (key(0, 2), key(1, 2));
    for key in [&one, &other] {
        broker.publish((0..3).map(|number| keyed(key, number)).collect()).await.expect("confirmed");
    }
    let mut whose = Vec::new();
    for _ in 0..6 {
        let mut consumer = consume(&broker, &tasks(), 1).await;
        let delivery = next(&mut consumer).await;
        consumer.cancel().await.expect("cancelled");
        whose.push(key_of(&delivery));
        done(delivery).await;
    }
    for pair in whose.chunks(2) {
        assert!(pair.contains(&one) && pair.contains(&other), "{whose:?}");
    }
    broker.close().await;
}

// Law 10.
async fn a_key_that_weighs_more_gets_more_turns(ground: Ground) {
    let (heavy, light) = (key(0, 2), key(1, 2));
    let weights = BTreeMap::from([(heavy.clone(), 3)]);
    let broker = ground.with_lanes(Lanes { count: 2, weights }).await;
    for key in [&heavy, &light] {
        broker.publish((0..40).map(|number| keyed(key, number)).collect()).await.expect("confirmed");
    }
    let whose = take(&broker, 40).await;
    let count = whose.iter().filter(|of| **of == heavy).count();
    assert!((29..=31).contains(&count), "{count} of 40: {whose:?}");
    broker.close().await;
}

// Laws 5, 10.
async fn a_priority_holds_within_its_lane(ground: Ground) {
    let broker = ground.with_lanes(lanes(2)).await;
    let (one, other) = (key(0, 2), key(1, 2));
    let mut messages = Vec::new();
    for (key, priority, number) in [(&one, 1, 1), (&one, 7, 2), (&other, 1, 3), (&one, 9, 4), (&other, 4, 5)]
    {
        let properties = Properties { priority: Some(priority), ..Properties::default() };
        messages.push(Outgoing { properties, ..keyed(key, number) });
    }
    broker.publish(messages).await.expect("confirmed");
    let mut consumer = consume(&broker, &tasks(), 1).await;
    let came: Vec<String> = bodies(&mut consumer, 5)
        .await
        .iter()
        .map(|body| {
            serde_json::from_slice::<serde_json::Value>(body).expect("JSON")["id"]
                .as_str()
                .expect("text")
                .to_owned()
        })
        .collect();
    let of = |key: &str| -> Vec<&str> {
        came.iter().filter_map(|id| id.strip_prefix(key)?.strip_prefix('-')).collect()
    };
    assert_eq!((of(&one), of(&other)), (vec!["4", "2", "1"], vec!["5", "3"]), "{came:?}");
    broker.close().await;
}

// Laws 4, 10: with fewer places than lanes.
async fn nothing_is_held_that_is_not_given_out(ground: Ground) {
    let broker = ground.with_lanes(lanes(6)).await;
    // It waits at every lane.
    let mut first = consume(&broker, &tasks(), 1).await;
    let waited = tokio::time::timeout(Duration::from_millis(100), first.next()).await;
    assert!(waited.is_err(), "nothing was sent");
    broker.publish((0..6).map(|lane| keyed(&key(lane, 6), 0)).collect()).await.expect("confirmed");
    let held = next(&mut first).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(300), first.next()).await.is_err(),
        "beyond its prefetch"
    );
    let mut second = consume(&broker, &tasks(), 6).await;
    let mut all = vec![held];
    for _ in 0..5 {
        all.push(next(&mut second).await);
    }
    let mut whose: Vec<String> = all.iter().map(key_of).collect();
    whose.sort();
    whose.dedup();
    assert_eq!(whose.len(), 6);
    for delivery in all {
        delivery.settle(Settlement::Release).await.expect("released");
    }
    assert_eq!(bodies(&mut second, 5).await.len(), 5, "and all of them come again");
    broker.close().await;
}

// Law 10.
async fn lanes_are_counted_and_emptied_with_their_queue(ground: Ground) {
    let broker = ground.with_lanes(lanes(3)).await;
    for lane in 0..3 {
        broker.publish(vec![keyed(&key(lane, 3), 0), keyed(&key(lane, 3), 1)]).await.expect("confirmed");
    }
    broker.publish(vec![super::cases::outgoing(&tasks(), "{}")]).await.expect("confirmed");
    assert_eq!(broker.depth(&tasks()).await.expect("counted").ready, 7);
    let later = Outgoing { delay: Some(Duration::from_secs(3_600)), ..keyed(&key(1, 3), 2) };
    broker.publish(vec![later]).await.expect("confirmed");
    let delayed = broker.transit().await.expect("counted").delayed.expect("may look");
    assert_eq!(delayed.values().sum::<u64>(), 1, "{delayed:?}");
    let consumer = consume(&broker, &tasks(), 1).await;
    drop(consumer);
    depth_becomes(&broker, &tasks(), Depth { ready: 7, consumers: 0 }).await;
    assert_eq!(broker.purge(&tasks()).await.expect("purged"), 7);
    assert_eq!(broker.depth(&tasks()).await.expect("counted").ready, 0);
    broker.close().await;
}

// Laws 2, 10.
async fn a_delayed_message_comes_back_into_its_lane(ground: Ground) {
    let broker = ground.with_lanes(lanes(4)).await;
    let (much, few) = (key(0, 4), key(2, 4));
    let delay = Some(Duration::from_millis(300));
    let later = (0..20).map(|number| Outgoing { delay, ..keyed(&much, number) });
    broker.publish(later.collect()).await.expect("confirmed");
    depth_becomes(&broker, &tasks(), Depth { ready: 20, consumers: 0 }).await;
    broker.publish((0..3).map(|number| keyed(&few, number)).collect()).await.expect("confirmed");
    let without = (0..3).map(|_| super::cases::outgoing(&tasks(), "{}")).collect();
    broker.publish(without).await.expect("confirmed");
    let whose = take(&broker, 26).await;
    // Were they in the protocol's queue, those without a key would come after them.
    let last = whose.iter().rposition(|of| *of != much).expect("they came");
    assert!(last < 9 + 3, "{whose:?}");
    broker.close().await;
}

// Law 10.
async fn lanes_that_are_not_configured_any_more_are_emptied(ground: Ground) {
    let before = ground.with_lanes(lanes(4)).await;
    let all = |number| (0..4).map(move |lane| keyed(&key(lane, 4), number));
    before.publish(all(0).chain(all(1)).collect()).await.expect("confirmed");
    before.close().await;
    for (fairness, count) in [(Fairness::from([(python(), lanes(2))]), 3), (Fairness::new(), 5)] {
        let broker = ground.broker(fairness.clone()).await;
        broker.declare(&topology(&fairness)).await.expect("declared");
        assert_eq!(take(&broker, count).await.len(), count);
        broker.close().await;
    }
    let after = ground.with_lanes(lanes(0)).await;
    depth_becomes(&after, &tasks(), Depth { ready: 0, consumers: 0 }).await;
    after.close().await;
}

// Law 10.
async fn lanes_that_are_not_configured_any_more_can_be_removed(ground: Ground) {
    let before = ground.with_lanes(lanes(3)).await;
    before.publish((0..3).map(|lane| keyed(&key(lane, 3), 0)).collect()).await.expect("confirmed");
    before.close().await;
    let fairness = Fairness::from([(python(), lanes(1))]);
    let broker = ground.broker(fairness.clone()).await;
    let whats = |findings: Vec<gleitzeit::broker::Finding>| -> Vec<String> {
        findings.into_iter().map(|finding| finding.what.replace("queue ", "")).collect()
    };
    let spare = |lane: u16| format!("gleitzeit.tasks.python.v1.lane.{lane}");
    let mut found = whats(broker.check(&topology(&fairness)).await.expect("checked"));
    found.sort();
    assert_eq!(found, [spare(1), spare(2)]);
    let wish = |dry_run| Migration {
        settle: Duration::from_secs(1),
        dry_run,
        clock: Arc::new(WallClock),
        tell: |_| {},
    };
    for dry_run in [true, false] {
        let moved = broker.migrate(&topology(&fairness), &wish(dry_run)).await.expect("moved");
        assert_eq!(moved.len(), 2, "{moved:?}");
        let messages: u64 = moved.iter().map(|one| one.messages).sum();
        assert_eq!(messages, if dry_run { 0 } else { 2 }, "{moved:?}");
    }
    assert_eq!(whats(broker.check(&topology(&fairness)).await.expect("checked")), [""; 0]);
    let mut whose = take(&broker, 3).await;
    whose.sort();
    whose.dedup();
    assert_eq!(whose.len(), 3);
    broker.close().await;
}

// Laws 1, 10: a producer knows of lanes that are not there (yet).
async fn a_missing_lane_loses_nothing(ground: Ground) {
    let few = ground.with_lanes(lanes(1)).await;
    let many = ground.broker(Fairness::from([(python(), lanes(8))])).await;
    let messages: Vec<Outgoing> = (0..8).map(|lane| keyed(&key(lane, 8), 0)).collect();
    for message in &messages {
        many.publish(vec![message.clone()]).await.expect("confirmed");
    }
    depth_becomes(&few, &tasks(), Depth { ready: 8, consumers: 0 }).await;
    let mut consumer = consume(&many, &tasks(), 8).await;
    assert_eq!(tokio::time::timeout(SOON, bodies(&mut consumer, 8)).await.expect("in time").len(), 8);
    many.close().await;
    few.close().await;
}
