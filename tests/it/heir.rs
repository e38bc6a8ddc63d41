//! A guard that has become the message of a later lease: whoever got it took its task over, and lost the delivery.
//!
//! The sessions before are played here, by the ports; the worker that meets the message is the real one.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use gleitzeit::broker::rabbitmq::{RabbitBroker, Settings};
use gleitzeit::broker::sqlite::SqliteBroker;
use gleitzeit::broker::{Broker, Depth, Outgoing, Properties, Settlement, Target};
use gleitzeit::core::clock::Clock;
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::sqlite::{Database, Durability, Location};
use gleitzeit::store::redis::{Prefix, RedisStore};
use gleitzeit::store::sqlite::SqliteStore;
use gleitzeit::store::{Claim, Claimed, End, Lease, Store, redis, sqlite};
use gleitzeit::topology::{Address, Queue, Topology};
use gleitzeit::wire::record::Head;

use crate::place::Place;
use crate::support::{Embedded, Ran, Running};
use crate::wall_clock::WallClock;

const GUARD: &str = "gleitzeit-guard";
const HELD: &str = "gleitzeit-held";
/// The longest that anything may take.
const SOON: Duration = Duration::from_secs(60);
/// For how long those live who are played.
const LONG: Duration = Duration::from_secs(600);

/// Runs the command line.
type Ask<'a> = dyn Fn(&[&str]) -> Ran + 'a;

/// A kind of place, by its ports and by its command line.
struct Ground<'a> {
    broker: Arc<dyn Broker>,
    store: Arc<dyn Store>,
    ask: Box<Ask<'a>>,
    start_worker: Box<dyn Fn() -> Running + 'a>,
}

fn id(text: &str) -> Id {
    Id::parse(text).expect("valid")
}

fn echo() -> Address {
    Address::parse("echo.v1").expect("valid")
}

fn queue() -> Queue {
    Queue::Tasks(echo())
}

impl Ground<'_> {
    /// A session that lives takes the task.
    async fn claims(&self, session: &str) -> Lease {
        self.store.beat(&id(session), LONG, WallClock.now()).await.expect("beat answers");
        let head = Head {
            key: TaskKey::alone(id("t")),
            name: "t".to_owned(),
            protocol: "echo/v1".to_owned(),
            method: "ping".to_owned(),
        };
        let claim = Claim {
            head,
            attempt: 1,
            run: None,
            session: id(session),
            over: None,
            inputs: Vec::new(),
            inputs_bytes_max: 0,
            digest: None,
        };
        match self.store.claim(&claim, WallClock.now()).await.expect("claim answers") {
            Claimed::Run { lease, .. } => lease,
            other => panic!("{other:?}"),
        }
    }

    /// What comes with the message that the task's queue has or gets; it stays there.
    async fn looked_at(&self) -> Properties {
        let mut consumer = self.broker.consume(&queue(), NonZeroU16::MIN).await.expect("consumes");
        let next = tokio::time::timeout(SOON, consumer.next()).await.expect("it comes in time");
        let delivery = next.expect("open").expect("a delivery");
        let properties = delivery.properties.clone();
        delivery.settle(Settlement::Release).await.expect("settles");
        properties
    }

    /// How many messages wait for their time.
    async fn delayed(&self) -> u64 {
        self.broker.transit().await.expect("transit answers").delayed.expect("known").values().sum()
    }

    async fn until(&self, is_so: impl Fn(Depth) -> bool) {
        let looking = async {
            while !is_so(self.broker.depth(&queue()).await.expect("depth answers")) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, looking).await.expect("it becomes so in time");
    }

    /// A worker takes the message that is there, and drains. What comes with what it makes of it.
    async fn is_met(&self) -> Properties {
        self.until(|depth| (depth.consumers, depth.ready) == (0, 1)).await;
        let mut worker = (self.start_worker)();
        let published = async {
            while self.delayed().await == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, published).await.expect("it is published again in time");
        assert_eq!(tokio::task::block_in_place(|| worker.drain()), Some(0));
        self.looked_at().await
    }
}

fn headers(properties: &Properties) -> [Option<&str>; 2] {
    [GUARD, HELD].map(|name| properties.headers.get(name).map(String::as_str))
}

/// Until it comes again without its receiver, a guard is one. Then it may be the last message of the task: it waits as
/// any message of a held task does, in front of all others, and takes the task over when its holder dies.
async fn a_guard_that_comes_again_is_the_message_of_the_later_lease(ground: &Ground<'_>) {
    ground.broker.declare(&Topology::new([echo()])).await.expect("declares");
    let earlier = ground.claims("earlier").await;
    ground.store.finish(&earlier, &End::Abandoned, WallClock.now()).await.expect("finish answers");
    let later = ground.claims("later").await;
    assert!(earlier.fence < later.fence);

    let made = format!("earlier:{}", earlier.fence.0);
    let properties =
        Properties { headers: [(GUARD.to_owned(), made.clone())].into(), ..Properties::default() };
    let body = json!({"id": "t", "method": "ping"}).to_string().into();
    let message = Outgoing { target: Target::Queue(queue()), body, properties, delay: None };
    ground.broker.publish(vec![message]).await.expect("publishes");

    let guard = ground.is_met().await;
    assert_eq!(headers(&guard), [Some(made.as_str()), None], "it stands for the earlier lease");

    let message = ground.is_met().await;
    let [guard, held] = headers(&message);
    let of_the_later = format!("{}:", later.fence.0);
    assert!(guard.is_none() && held.is_some_and(|held| held.starts_with(&of_the_later)), "{message:?}");
    assert_eq!(message.priority, Some(9), "it overtakes what waits");

    ground.store.leave(&id("later")).await.expect("leave answers");
    let _worker = (ground.start_worker)();
    let ended = tokio::task::block_in_place(|| {
        (ground.ask)(&["result", "--wait", "--timeout", "240", "t", "--json"])
    });
    let document: Value = ended.expect(0).json();
    assert_eq!((&document["status"], &document["attempts"]), (&json!("completed"), &json!(2)), "{document}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_comes_again_is_the_message_of_the_later_lease_embedded() {
    let here = Embedded::new();
    let location = Location::File(here.path("state.db"));
    let database = Database::open(location, Durability::Process).await.expect("the file opens");
    let clock: Arc<dyn Clock> = Arc::new(WallClock);
    let start_worker = || {
        let mut command = here.command(&["worker", "--protocol", "echo/v1"]);
        Running(command.stderr(std::process::Stdio::null()).spawn().expect("the binary starts"))
    };
    let ground = Ground {
        broker: Arc::new(SqliteBroker::new(database.clone(), Arc::clone(&clock))),
        store: Arc::new(SqliteStore::new(database, clock, sqlite::Settings::default())),
        ask: Box::new(|args| here.run(args)),
        start_worker: Box::new(start_worker),
    };
    a_guard_that_comes_again_is_the_message_of_the_later_lease(&ground).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_comes_again_is_the_message_of_the_later_lease_over_servers() {
    let Some(place) = Place::new() else { return };
    let prefix = Prefix::parse(&place.prefix).expect("valid");
    let settings = redis::Settings { prefix, ..redis::Settings::new(place.redis.clone()) };
    let broker = RabbitBroker::connect(Settings::new(&place.vhost.url(), "gleitzeit test")).await;
    let ground = Ground {
        broker: Arc::new(broker.expect("connects")),
        store: Arc::new(RedisStore::connect(settings).await.expect("connects")),
        ask: Box::new(|args| place.run(args)),
        start_worker: Box::new(|| place.worker(&["--protocol", "echo/v1"])),
    };
    a_guard_that_comes_again_is_the_message_of_the_later_lease(&ground).await;
}
