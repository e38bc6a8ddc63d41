//! A schedule whose worker dies before or after any call of a port: no slot is lost, none is fired twice, and of the
//! ticks that a death doubles one is left.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use gleitzeit::broker::sqlite::SqliteBroker;
use gleitzeit::broker::{Broker, Outgoing, Properties, Settlement, Target};
use gleitzeit::config::EventLevel;
use gleitzeit::core::clock::{Clock, Timestamp};
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::core::protocol::Protocols;
use gleitzeit::core::state::TaskState;
use gleitzeit::provider::registry::Providers;
use gleitzeit::sqlite::{Database, Durability, Location};
use gleitzeit::store::sqlite::SqliteStore;
use gleitzeit::store::{Schedule, Store};
use gleitzeit::topology::{Address, Queue, Topology, unrouted};
use gleitzeit::wire::schedule::{Change, Definition, Order, Tick};
use gleitzeit::worker::{Parts, Settings, Worker};

use crate::gate::Gate;
use crate::ledger::{Ledger, Watched};
use crate::mischief::{Mischief, Wild};
use crate::set_clock::SetClock;

/// More points than any life here passes.
const POINTS_MAX: u32 = 192;

/// Tries a death at every point, until a life passes all of them. `try_one` tells whether it died.
async fn die_at_every_point(try_one: impl AsyncFn(u32) -> bool) {
    for points in 0..POINTS_MAX {
        if !try_one(points).await {
            assert!(points > 10, "the first life passed {points} points only");
            return;
        }
    }
    panic!("every life died");
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn name() -> Id {
    Id::parse("s").expect("valid")
}

fn echo() -> Queue {
    Queue::Tasks(Address::parse("echo.v1").expect("valid"))
}

struct Case {
    folder: tempfile::TempDir,
    database: Database,
    clock: Arc<SetClock>,
    store: Arc<dyn Store>,
    protocols: Arc<Protocols>,
}

impl Case {
    async fn new() -> Case {
        let folder = tempfile::tempdir().expect("a folder");
        let location = Location::File(folder.path().join("state.db"));
        let database = Database::open(location, Durability::Process).await.expect("the file opens");
        let clock = SetClock::at(at("2026-01-01T00:00:00.5Z"));
        let store = SqliteStore::new(database.clone(), clock.clone(), Default::default());
        let protocols = Arc::new(Protocols::builtin().expect("built in"));
        let case = Case { folder, database, clock, store: Arc::new(store), protocols };
        let topology = Topology::new([Address::parse("echo.v1").expect("valid")]);
        case.broker().declare(&topology).await.expect("declares");
        case
    }

    fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(SqliteBroker::new(self.database.clone(), self.clock.clone()))
    }

    fn set(&self, time: &str) {
        self.clock.set(at(time));
    }

    async fn send(&self, order: &Order) {
        let target = Target::Queue(Queue::Workflows);
        let message =
            Outgoing { target, body: order.encode(), properties: Properties::default(), delay: None };
        self.broker().publish(vec![message]).await.expect("publishes");
    }

    /// One worker's life: it does what is there, or dies at the gate. Whether it died.
    async fn life(&self, gate: Arc<Gate>) -> bool {
        let broker = self.broker();
        let wild = Wild { inner: Arc::clone(&broker), gate: Arc::clone(&gate), mischief: Mischief::none() };
        let inner = Arc::clone(&self.store);
        let parts = Parts {
            broker: Arc::new(wild),
            store: Arc::new(Watched { inner, gate: Arc::clone(&gate), ledger: Arc::<Ledger>::default() }),
            providers: Arc::new(Providers::default()),
            protocols: Arc::clone(&self.protocols),
            clock: self.clock.clone(),
        };
        let settings = Settings {
            protocols: Vec::new(),
            concurrency: NonZeroU16::MIN,
            max_running: None,
            coordination: true,
            grace: Duration::ZERO,
            guard_after: Duration::from_secs(60),
            task_timeout: Duration::from_secs(30),
            result_ttl: Duration::from_secs(3600),
            result_bytes_max: 1 << 20,
            crash_limit: 3,
            events: EventLevel::Off,
            resources: Default::default(),
            metrics_every: Duration::from_secs(60),
            topology: None,
        };
        let worker = Worker::new(parts, settings);
        let died = tokio::select! {
            () = gate.death() => true,
            done = worker.work_off(&Queue::Workflows) => { done.expect("the queue is there"); false }
        };
        broker.close().await;
        died
    }

    /// Workers that do not die do what is there, for some seconds of the clock: past turns and parked ticks.
    async fn settle_down(&self) {
        for _ in 0..6 {
            assert!(!self.life(Gate::new(None)).await);
            self.clock.set(self.clock.now().after(Duration::from_secs(2)));
        }
    }

    async fn tick(&self, time: &str) {
        self.send(&Order::Tick(Tick { name: name(), slot: at(time), generation: 1 })).await;
    }

    /// A worker does what is there, later by so many seconds.
    async fn later(&self, seconds: u64) {
        self.clock.set(self.clock.now().after(Duration::from_secs(seconds)));
        assert!(!self.life(Gate::new(None)).await);
    }

    /// The dead letters of what belongs to no protocol that has a dead queue.
    async fn letters(&self) -> Vec<serde_json::Value> {
        let bodies = self.all_of(&Queue::Dead(unrouted())).await;
        bodies.iter().map(|(_, body)| serde_json::from_slice(body).expect("JSON")).collect()
    }

    /// How many ticks wait for their time.
    async fn ticks(&self) -> u64 {
        self.broker().transit().await.expect("answers").delayed.expect("known").values().sum()
    }

    fn state(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.path().join("state.db")).expect("opens")
    }

    async fn schedule(&self) -> Schedule {
        self.store.schedule(&name()).await.expect("answers").expect("it is there")
    }

    async fn fired(&self) -> u64 {
        self.store.schedule(&name()).await.expect("answers").map_or(0, |schedule| schedule.fired)
    }

    /// The ids of all runs that were published.
    async fn runs(&self) -> BTreeSet<String> {
        self.all_of(&echo()).await.into_iter().filter_map(|(id, _)| id).collect()
    }

    /// Takes every message of a queue: id and body.
    async fn all_of(&self, queue: &Queue) -> Vec<(Option<String>, bytes::Bytes)> {
        let broker = self.broker();
        let mut consumer = broker.consume(queue, NonZeroU16::MIN).await.expect("consumes");
        let mut found = Vec::new();
        while broker.depth(queue).await.expect("answers").ready > 0 {
            let delivery = consumer.next().await.expect("open").expect("a delivery");
            found.push((delivery.properties.message_id.clone(), delivery.body.clone()));
            delivery.settle(Settlement::Done).await.expect("settles");
        }
        broker.close().await;
        found
    }

    /// From here on every minute is fired once, by one tick.
    async fn goes_on(&self, points: u32) {
        for minute in ["00:03:00", "00:04:00"] {
            self.set(&format!("2026-01-01T{minute}Z"));
            self.settle_down().await;
        }
        let slots = ["00:01:00", "00:02:00", "00:03:00", "00:04:00"];
        let ids =
            slots.map(|slot| Definition::run_id(&name(), at(&format!("2026-01-01T{slot}Z"))).to_string());
        assert_eq!(self.runs().await, BTreeSet::from(ids), "death after {points} points");
        assert_eq!(self.fired().await, 4, "death after {points} points");
        self.set("2026-01-01T00:05:00Z");
        let ticks = self.broker().depth(&Queue::Workflows).await.expect("answers").ready;
        assert_eq!(ticks, 1, "death after {points} points: the ticks that are left");
    }
}

fn every_minute() -> Order {
    every_minute_of(&serde_json::json!({"cron": "* * * * *", "catch_up": "all",
        "task": {"protocol": "echo/v1", "method": "echo", "params": {"message": 1}}}))
}

fn every_minute_of(members: &serde_json::Value) -> Order {
    let protocols = Protocols::builtin().expect("built in");
    let definition = Definition::new(members.as_object().expect("an object"), &protocols).expect("valid");
    Order::Set { name: name(), generation: Some(1), definition: Box::new(definition) }
}

#[tokio::test]
async fn a_worker_that_dies_while_it_records_a_schedule_loses_and_doubles_nothing() {
    die_at_every_point(async |points| {
        let case = Case::new().await;
        case.send(&every_minute()).await;
        let died = case.life(Gate::new(Some(points))).await;
        case.settle_down().await;
        for minute in ["00:01:00", "00:02:00"] {
            case.set(&format!("2026-01-01T{minute}Z"));
            case.settle_down().await;
        }
        case.goes_on(points).await;
        died
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_dies_while_it_fires_a_slot_loses_and_doubles_nothing() {
    die_at_every_point(async |points| {
        let case = Case::new().await;
        case.send(&every_minute()).await;
        assert!(!case.life(Gate::new(None)).await);
        // Two slots are due: the first was missed.
        case.set("2026-01-01T00:02:00Z");
        let died = case.life(Gate::new(Some(points))).await;
        case.settle_down().await;
        assert_eq!(case.fired().await, 2, "death after {points} points");
        case.goes_on(points).await;
        died
    })
    .await;
}

#[tokio::test]
async fn two_ticks_of_a_slot_that_meet_at_the_same_time_become_one() {
    let case = Case::new().await;
    case.send(&every_minute()).await;
    case.send(&every_minute()).await;
    assert!(!case.life(Gate::new(None)).await);
    for minute in ["00:01:00", "00:02:00"] {
        case.set(&format!("2026-01-01T{minute}Z"));
        let both = tokio::join!(case.life(Gate::new(None)), case.life(Gate::new(None)));
        assert_eq!(both, (false, false));
        case.settle_down().await;
    }
    case.goes_on(0).await;
}

#[tokio::test]
async fn a_worker_that_dies_while_it_pauses_and_resumes_leaves_one_tick() {
    die_at_every_point(async |points| {
        let case = Case::new().await;
        case.send(&every_minute()).await;
        assert!(!case.life(Gate::new(None)).await);
        let change =
            |change, generation| Order::Change { name: name(), generation: Some(generation), change };
        case.send(&change(Change::Pause, 2)).await;
        case.send(&change(Change::Resume, 3)).await;
        let died = case.life(Gate::new(Some(points))).await;
        case.settle_down().await;
        let schedule = case.store.schedule(&name()).await.expect("answers").expect("it is there");
        assert_eq!(
            (schedule.generation, schedule.state.name()),
            (3, "active"),
            "death after {points} points"
        );
        for minute in ["00:01:00", "00:02:00"] {
            case.set(&format!("2026-01-01T{minute}Z"));
            case.settle_down().await;
        }
        case.goes_on(points).await;
        died
    })
    .await;
}

/// A schedule whose definition has a member that this version does not know.
async fn unread(case: &Case) -> String {
    case.send(&every_minute()).await;
    assert!(!case.life(Gate::new(None)).await);
    let known = String::from_utf8(case.schedule().await.definition.to_vec()).expect("text");
    let newer = known.replacen('{', r#"{"jitter": 5, "#, 1);
    case.state().execute("UPDATE schedules SET definition = ?1", [newer.into_bytes()]).expect("writes");
    known
}

#[tokio::test]
async fn a_schedule_that_cannot_be_read_here_waits_for_a_worker_that_can() {
    let case = Case::new().await;
    let known = unread(&case).await;
    case.set("2026-01-01T00:01:00Z");
    for _ in 0..3 {
        case.later(61).await;
        assert_eq!((case.fired().await, case.ticks().await), (0, 1));
    }
    case.state().execute("UPDATE schedules SET definition = ?1", [known.into_bytes()]).expect("writes");
    case.later(61).await;
    assert_eq!(case.letters().await, Vec::<serde_json::Value>::new());
    // Every minute since then, each once.
    assert_eq!((case.fired().await, case.runs().await.len()), (5, 5));
}

/// Every other worker cannot read it, and each gets the tick first: it hands it on at once, with its turn, and the
/// policies with which a slot is soonest missed miss none.
#[tokio::test]
async fn workers_that_cannot_read_a_schedule_cost_it_no_slot() {
    for policy in
        [serde_json::json!({"catch_up": "latest"}), serde_json::json!({"catch_up": "none", "grace": 1})]
    {
        let case = Case::new().await;
        let mut members = serde_json::json!({"cron": "* * * * * *",
            "task": {"protocol": "echo/v1", "method": "echo", "params": {"message": 1}}});
        let policy = policy.as_object().expect("an object").clone();
        members.as_object_mut().expect("an object").extend(policy);
        case.send(&every_minute_of(&members)).await;
        assert!(!case.life(Gate::new(None)).await);
        let known = String::from_utf8(case.schedule().await.definition.to_vec()).expect("text");
        let newer = known.replacen('{', r#"{"jitter": 5, "#, 1);
        let record = |definition: &str| {
            let definition = definition.as_bytes().to_vec();
            case.state().execute("UPDATE schedules SET definition = ?1", [definition]).expect("writes");
        };
        // Two slots pass while the tick is handed on; the third is on time.
        for second in (1..30).step_by(3) {
            record(&newer);
            for later in [0, 100, 200] {
                case.clock
                    .set(at("2026-01-01T00:00:00Z").after(Duration::from_millis(second * 1000 + later)));
                assert!(!case.life(Gate::new(None)).await);
            }
            record(&known);
            for later in [1600, 2000] {
                case.clock
                    .set(at("2026-01-01T00:00:00Z").after(Duration::from_millis(second * 1000 + later)));
                assert!(!case.life(Gate::new(None)).await);
            }
        }
        let schedule = case.schedule().await;
        assert_eq!((schedule.fired, schedule.missed), (30, 0), "{members}");
        let slots = (1..=30).map(|second| at("2026-01-01T00:00:00Z").after(Duration::from_secs(second)));
        let ids = slots.map(|slot| Definition::run_id(&name(), slot).to_string());
        assert_eq!(case.runs().await, ids.collect::<BTreeSet<String>>(), "{members}");
    }
}

/// Nobody was there who could fire it.
#[tokio::test]
async fn when_it_takes_long_until_a_schedule_is_read_its_policy_decides() {
    let case = Case::new().await;
    let task = serde_json::json!({"protocol": "echo/v1", "method": "echo", "params": {"message": 1}});
    case.send(&every_minute_of(&serde_json::json!({"cron": "* * * * *", "task": task}))).await;
    assert!(!case.life(Gate::new(None)).await);
    let known = case.schedule().await.definition.to_vec();
    let newer = br#"{"v": 2}"#.to_vec();
    case.state().execute("UPDATE schedules SET definition = ?1", [newer]).expect("writes");
    case.set("2026-01-01T00:01:00Z");
    case.later(0).await;
    case.state().execute("UPDATE schedules SET definition = ?1", [known]).expect("writes");
    case.set("2026-01-01T00:05:00Z");
    case.later(0).await;
    let schedule = case.schedule().await;
    assert_eq!((schedule.fired, schedule.missed), (1, 4));
}

#[tokio::test]
async fn a_schedule_that_nobody_can_read_for_a_day_is_a_dead_letter() {
    let case = Case::new().await;
    unread(&case).await;
    case.set("2026-01-01T00:01:00Z");
    case.later(0).await;
    case.later(24 * 3600).await;
    let letters = case.letters().await;
    assert_eq!((letters.len(), case.ticks().await, case.fired().await), (1, 0, 0), "{letters:?}");
    let message = letters[0]["failure"]["message"].as_str().expect("text");
    assert!(message.contains("jitter") && message.contains("24 hours"), "{message}");
    // Whoever upgrades later sends the tick again.
    case.tick("2026-01-01T00:01:00Z").await;
    case.later(1).await;
    assert_eq!(case.ticks().await, 1);
}

/// Of a protocol that has no queue.
fn every_minute_without_queue() -> Order {
    every_minute_of(&serde_json::json!({"cron": "* * * * *", "catch_up": "all",
        "task": {"protocol": "python/v1", "method": "execute", "params": {"code": "1"}}}))
}

#[tokio::test]
async fn a_run_whose_queue_is_gone_is_a_dead_letter_and_the_schedule_goes_on() {
    let case = Case::new().await;
    case.send(&every_minute_without_queue()).await;
    assert!(!case.life(Gate::new(None)).await);
    for (minute, count) in [("00:01:00", 1), ("00:02:00", 2)] {
        case.set(&format!("2026-01-01T{minute}Z"));
        case.later(0).await;
        let letters = case.letters().await;
        let id = Definition::run_id(&name(), at(&format!("2026-01-01T{minute}Z")));
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert_eq!(
            (letters[0]["id"].as_str(), letters[0]["queue"].as_str()),
            (Some(id.as_str()), Some("gleitzeit.tasks.python.v1"))
        );
        let task = case.store.task(&TaskKey::alone(id)).await.expect("answers").expect("it is known");
        assert_eq!((task.state, case.fired().await, case.ticks().await), (TaskState::Failed, count, 1));
    }
}

#[tokio::test]
async fn many_missed_runs_whose_queue_is_gone_are_buried_in_one_turn() {
    let case = Case::new().await;
    case.send(&every_minute_without_queue()).await;
    assert!(!case.life(Gate::new(None)).await);
    case.set("2026-01-01T00:20:00Z");
    let begun = std::time::Instant::now();
    case.later(0).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "only one of them is tried for long");
    assert_eq!((case.letters().await.len(), case.fired().await, case.ticks().await), (20, 20, 1));
}

/// The queue is back when the next worker comes.
#[tokio::test]
async fn a_worker_that_dies_while_it_buries_a_run_leaves_no_failed_run_without_a_letter() {
    if crate::environment("GLEITZEIT_TEST_FULL").is_none() {
        eprintln!("not run: each of its many lives waits for a queue (GLEITZEIT_TEST_FULL)");
        return;
    }
    die_at_every_point(async |points| {
        let case = Case::new().await;
        case.send(&every_minute_without_queue()).await;
        assert!(!case.life(Gate::new(None)).await);
        case.set("2026-01-01T00:01:00Z");
        let died = case.life(Gate::new(Some(points))).await;
        let python = Address::parse("python.v1").expect("valid");
        case.broker().declare(&Topology::new([python.clone()])).await.expect("declares");
        case.settle_down().await;
        let mut letters = case.letters().await.len();
        letters += case.all_of(&Queue::Dead(python.clone())).await.len();
        let sent = case.all_of(&Queue::Tasks(python)).await.len();
        let key = TaskKey::alone(Definition::run_id(&name(), at("2026-01-01T00:01:00Z")));
        let task = case.store.task(&key).await.expect("answers").expect("it is known");
        let told = (task.state, letters, sent);
        match task.state {
            TaskState::Failed => assert!(letters > 0, "death after {points} points: {told:?}"),
            _ => assert_eq!(sent, 1, "death after {points} points: {told:?}"),
        }
        assert_eq!(case.fired().await, 1, "death after {points} points");
        died
    })
    .await;
}

fn skipping() -> Order {
    every_minute_of(&serde_json::json!({"cron": "* * * * *", "overlap": "skip",
        "task": {"protocol": "echo/v1", "method": "echo", "params": {"message": 1}}}))
}

async fn skipped_once(case: &Case) {
    case.send(&skipping()).await;
    assert!(!case.life(Gate::new(None)).await);
    case.set("2026-01-01T00:01:00Z");
    case.later(0).await;
    case.set("2026-01-01T00:02:00Z");
    case.later(0).await;
    let schedule = case.schedule().await;
    assert_eq!((schedule.fired, schedule.overlapped), (1, 1), "its message is there: it is not over");
}

/// It may wait for its time, or with a worker; if it was purged, an audit sends it again.
#[tokio::test]
async fn a_last_run_whose_message_is_not_in_its_queue_is_not_over() {
    let case = Case::new().await;
    skipped_once(&case).await;
    assert_eq!(case.broker().purge(&echo()).await, Ok(1));
    case.set("2026-01-01T00:09:00Z");
    case.later(0).await;
    let schedule = case.schedule().await;
    assert_eq!((schedule.fired, schedule.overlapped), (1, 2));
    let last = Definition::run_id(&name(), at("2026-01-01T00:01:00Z"));
    let kept = case.store.messages(&[TaskKey::alone(last)]).await.expect("answers");
    assert!(matches!(kept.as_slice(), [Some(_)]), "an audit can send it again: {kept:?}");
}

#[tokio::test]
async fn a_last_run_of_which_nothing_is_known_is_over() {
    let case = Case::new().await;
    skipped_once(&case).await;
    case.state().execute("DELETE FROM tasks", []).expect("deletes");
    case.set("2026-01-01T00:03:00Z");
    case.later(0).await;
    let schedule = case.schedule().await;
    assert_eq!((schedule.fired, schedule.overlapped), (2, 1));
}
