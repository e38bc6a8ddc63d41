//! Dead queues: letters held, released, settled; a replay that dies between its publish and its settlement.

use async_trait::async_trait;
use bytes::Bytes;
use gleitzeit::broker::{
    Broker, BrokerError, Consumer, Delivery, Depth, Finding, Listener, Outgoing, Properties, Receipt,
    Settlement, Target, Transit,
};
use gleitzeit::core::clock::Timestamp;
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::core::state::TaskState;
use gleitzeit::dead::{self, Keep, Letter, Look, Step};
use gleitzeit::sqlite::{Database, Durability, Location};
use gleitzeit::store::sqlite::{Settings, SqliteStore};
use gleitzeit::store::{Claim, Claimed, End, Store};
use gleitzeit::topology::{Address, Queue, Topology};
use gleitzeit::wire::envelope::{Envelope, Original, Output};
use gleitzeit::wire::record::Head;
use serde_json::json;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use super::Case;
use super::cases::{bodies, consume, depth_becomes, ready};
use crate::wall_clock::WallClock;

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// The cases of this file.
        pub(crate) const CASES: &[Case] =
            &[$((stringify!($name), |broker, address| Box::pin($name(broker, address)))),*];
    };
}

cases![
    letters_that_are_released_are_there_in_order_of_death,
    large_letters_hide_none_of_those_behind_them,
    two_who_look_at_once_see_no_letter_twice,
    a_dead_queue_that_is_not_there_holds_nothing,
    two_letters_of_one_death_are_known_as_one,
    letters_of_the_same_content_are_told_apart_by_their_own_names,
    a_retry_that_died_before_it_settled_is_repeated_under_the_same_name,
    a_message_that_died_before_it_settled_is_published_again_under_the_same_id,
];

/// More than one wave.
const MANY: usize = 300;

fn letter(id: Option<&str>, died_at: i64, attempt: u32) -> Envelope {
    let body = json!({"id": id, "method": "execute", "params": {"code": "1/0"}}).to_string();
    Envelope {
        letter: None,
        id: id.map(|id| Id::parse(id).expect("valid")),
        workflow: None,
        protocol: Some("python/v1".to_owned()),
        method: Some("execute".to_owned()),
        failure: Failure::new(Code::TaskExecutionFailed, "division by zero"),
        history: vec![json!({"attempt": attempt, "status": "failed"})],
        worker: None,
        provider: None,
        output: Output::default(),
        replays: 0,
        died_at: Timestamp::from_millis(died_at),
        queue: "gleitzeit.tasks.python.v1".to_owned(),
        original: Original::new(Bytes::from(body), Properties::default()),
    }
}

async fn bury(broker: &Arc<dyn Broker>, address: &Address, letters: Vec<Envelope>) {
    let target = Target::Queue(Queue::Dead(address.clone()));
    let outgoing = |letter: Envelope| Outgoing {
        target: target.clone(),
        body: letter.encode(),
        properties: Properties::default(),
        delay: None,
    };
    broker.publish(letters.into_iter().map(outgoing).collect()).await.expect("confirmed");
}

async fn look(broker: &Arc<dyn Broker>, address: &Address) -> Look {
    dead::hold(broker, std::slice::from_ref(address), |_| Keep::Whole).await.expect("held")
}

fn labels(letters: &[Letter]) -> Vec<String> {
    letters.iter().map(Letter::label).collect()
}

async fn settled(letters: Vec<Letter>) {
    for letter in letters {
        letter.settle(Settlement::Done).await.expect("settled");
    }
}

async fn letters_that_are_released_are_there_in_order_of_death(broker: Arc<dyn Broker>, address: Address) {
    ready(&broker, &address).await;
    // A quorum queue may change the places of what comes back over several channels.
    let names: Vec<String> = (0..MANY).map(|n| format!("t{n}")).collect();
    let letters = (0..).zip(&names).map(|(at, name)| letter(Some(name), at, 1)).collect();
    bury(&broker, &address, letters).await;
    let dead = Queue::Dead(address.clone());
    for _ in 0..2 {
        let held = look(&broker, &address).await;
        assert_eq!(labels(&held.letters), names);
        assert!(!held.has_more);
        held.release(Vec::new()).await;
        depth_becomes(&broker, &dead, Depth { ready: MANY as u64, consumers: 0 }).await;
    }
    let mut held = look(&broker, &address).await;
    settled(held.take(|letter| letter.label() == "t7")).await;
    held.release(Vec::new()).await;
    depth_becomes(&broker, &dead, Depth { ready: MANY as u64 - 1, consumers: 0 }).await;
    let held = look(&broker, &address).await;
    let left: Vec<String> = names.into_iter().filter(|name| name != "t7").collect();
    assert_eq!(labels(&held.letters), left);
}

async fn large_letters_hide_none_of_those_behind_them(broker: Arc<dyn Broker>, address: Address) {
    ready(&broker, &address).await;
    let names: Vec<String> = (0..2 * MANY).map(|n| format!("t{n}")).collect();
    let mut letters: Vec<Envelope> = (0..).zip(&names).map(|(at, name)| letter(Some(name), at, 1)).collect();
    letters[0].original = Original::new(vec![b'x'; 2 << 20].into(), Properties::default());
    bury(&broker, &address, letters).await;
    let mut held = look(&broker, &address).await;
    assert_eq!(labels(&held.letters), names);
    assert!(!held.has_more);
    settled(std::mem::take(&mut held.letters)).await;
}

async fn two_who_look_at_once_see_no_letter_twice(broker: Arc<dyn Broker>, address: Address) {
    ready(&broker, &address).await;
    let names: Vec<String> = (0..MANY).map(|n| format!("t{n:03}")).collect();
    bury(&broker, &address, names.iter().map(|name| letter(Some(name), 1, 1)).collect()).await;
    let (one, other) = tokio::join!(look(&broker, &address), look(&broker, &address));
    let mut seen = [labels(&one.letters), labels(&other.letters)].concat();
    seen.sort();
    assert_eq!(seen, names);
    // Dropped, as by a process that ends: everything is there again.
    drop(one);
    drop(other);
    depth_becomes(&broker, &Queue::Dead(address), Depth { ready: MANY as u64, consumers: 0 }).await;
}

async fn a_dead_queue_that_is_not_there_holds_nothing(broker: Arc<dyn Broker>, address: Address) {
    let held = look(&broker, &address).await;
    assert_eq!((held.letters.len(), held.missing), (0, vec![address]));
}

async fn two_letters_of_one_death_are_known_as_one(broker: Arc<dyn Broker>, address: Address) {
    ready(&broker, &address).await;
    let letters = vec![letter(Some("t"), 1, 3), letter(Some("t"), 2, 3), letter(Some("t"), 3, 1)];
    bury(&broker, &address, letters).await;
    let held = look(&broker, &address).await;
    let deaths: Vec<&Option<String>> = held.letters.iter().map(|letter| &letter.death).collect();
    assert!(deaths[0].is_some() && deaths[0] == deaths[1] && deaths[1] != deaths[2], "{deaths:?}");
}

async fn letters_of_the_same_content_are_told_apart_by_their_own_names(
    broker: Arc<dyn Broker>,
    address: Address,
) {
    ready(&broker, &address).await;
    let named = |name: &str| Envelope { letter: Id::parse(name).ok(), ..letter(None, 1, 1) };
    // The second of them was published twice.
    bury(&broker, &address, vec![named("one"), named("two"), named("two")]).await;
    let store = store().await;
    let held = look(&broker, &address).await;
    let groups = dead::plan(&broker, &store, held.letters).await.expect("planned");
    let mut counts: Vec<usize> = groups.iter().map(|group| group.letters.len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 2], "{groups:?}");
    let mut ids: Vec<Option<String>> = groups
        .into_iter()
        .map(|group| match group.step {
            Step::Publish(message) => message.properties.message_id,
            step => panic!("{step:?}"),
        })
        .collect();
    ids.dedup();
    assert_eq!((ids.len(), ids.contains(&None)), (2, false), "{ids:?}");
}

async fn a_retry_that_died_before_it_settled_is_repeated_under_the_same_name(
    broker: Arc<dyn Broker>,
    address: Address,
) {
    ready(&broker, &address).await;
    bury(&broker, &address, vec![letter(Some("t"), 1, 3), letter(Some("t"), 2, 6)]).await;
    let store = store().await;
    fail(&store, "t").await;
    let commands = commands_of_a_replay_that_is_repeated(&broker, &store, &address, Queue::Workflows).await;
    let text = String::from_utf8(commands[0].to_vec()).expect("text");
    assert!(text.contains("\"retry\"") && text.contains("\"by\""), "{text}");
    assert_eq!(commands[0], commands[1]);
}

async fn a_message_that_died_before_it_settled_is_published_again_under_the_same_id(
    broker: Arc<dyn Broker>,
    address: Address,
) {
    let tasks = ready(&broker, &address).await;
    bury(&broker, &address, vec![letter(None, 1, 1)]).await;
    let store = store().await;
    replay_and_die(&broker, &store, &address).await;
    let held = look(&broker, &address).await;
    for group in dead::plan(&broker, &store, held.letters).await.expect("planned") {
        assert!(matches!(group.step, Step::Publish(_)), "{group:?}");
        assert!(dead::replay(&broker, group).await.expect("replayed").is_empty());
    }
    let mut consumer = consume(&broker, &tasks, 2).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let delivery = super::cases::next(&mut consumer).await;
        ids.push(delivery.properties.message_id.clone());
        super::cases::done(delivery).await;
    }
    assert!(ids[0].is_some() && ids[0] == ids[1], "{ids:?}");
}

/// What two replays publish of which the first died.
async fn commands_of_a_replay_that_is_repeated(
    broker: &Arc<dyn Broker>,
    store: &Arc<dyn Store>,
    address: &Address,
    queue: Queue,
) -> Vec<Bytes> {
    replay_and_die(broker, store, address).await;
    let held = look(broker, address).await;
    assert_eq!(held.letters.len(), 1, "the newest is left");
    for group in dead::plan(broker, store, held.letters).await.expect("planned") {
        assert!(matches!(group.step, Step::Retry(_)), "{group:?}");
        assert!(dead::replay(broker, group).await.expect("replayed").is_empty());
    }
    assert_eq!(look(broker, address).await.letters.len(), 0);
    let mut consumer = consume(broker, &queue, 2).await;
    bodies(&mut consumer, 2).await
}

/// A replay whose process dies before its last letter is settled.
async fn replay_and_die(broker: &Arc<dyn Broker>, store: &Arc<dyn Store>, address: &Address) {
    let dying: Arc<dyn Broker> = Arc::new(Dying(Arc::clone(broker)));
    let held = look(&dying, address).await;
    let count = held.letters.len();
    for group in dead::plan(&dying, store, held.letters).await.expect("planned") {
        assert_eq!(dead::replay(&dying, group).await.map(|left| left.len()), Err(BrokerError::DeliveryLost));
    }
    let left = Depth { ready: count.min(1) as u64, consumers: 0 };
    depth_becomes(broker, &Queue::Dead(address.clone()), left).await;
}

async fn store() -> Arc<dyn Store> {
    let database = Database::open(Location::parse(":memory:"), Durability::Process).await.expect("it opens");
    Arc::new(SqliteStore::new(database, Arc::new(WallClock), Settings::default()))
}

/// Records a task on its own as failed.
async fn fail(store: &Arc<dyn Store>, id: &str) {
    let id = Id::parse(id).expect("valid");
    let head = Head {
        key: TaskKey::alone(id.clone()),
        name: id.to_string(),
        protocol: "python/v1".to_owned(),
        method: "execute".to_owned(),
    };
    let now = Timestamp::from_millis(1);
    let claim = Claim {
        head,
        attempt: 1,
        run: None,
        session: id,
        over: None,
        inputs: Vec::new(),
        inputs_bytes_max: 0,
        digest: None,
    };
    let Claimed::Run { lease, .. } = store.claim(&claim, now).await.expect("claimed") else {
        panic!("no lease")
    };
    let end = End::Ended {
        state: TaskState::Failed,
        document: Bytes::from_static(b"{}"),
        keep: true,
        ttl: Duration::from_secs(60),
        entry: "{}".to_owned(),
        retry: None,
    };
    store.finish(&lease, &end, now).await.expect("ended");
}

/// A broker whose user dies before the newest letter is settled.
#[derive(Debug)]
struct Dying(Arc<dyn Broker>);

#[async_trait]
impl Broker for Dying {
    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        self.0.declare(topology).await
    }
    async fn check(&self, topology: &Topology) -> Result<Vec<Finding>, BrokerError> {
        self.0.check(topology).await
    }
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<(), BrokerError> {
        self.0.publish(messages).await
    }
    async fn consume(&self, queue: &Queue, prefetch: NonZeroU16) -> Result<Box<dyn Consumer>, BrokerError> {
        Ok(Box::new(DyingConsumer { inner: self.0.consume(queue, prefetch).await?, left: prefetch.get() }))
    }
    async fn listen(&self) -> Result<Box<dyn Listener>, BrokerError> {
        self.0.listen().await
    }
    async fn broadcast(&self, body: Bytes) -> Result<(), BrokerError> {
        self.0.broadcast(body).await
    }
    fn emit(&self, routing_key: &str, body: Bytes) {
        self.0.emit(routing_key, body);
    }
    async fn depth(&self, queue: &Queue) -> Result<Depth, BrokerError> {
        self.0.depth(queue).await
    }
    async fn transit(&self) -> Result<Transit, BrokerError> {
        self.0.transit().await
    }
    async fn purge(&self, queue: &Queue) -> Result<u64, BrokerError> {
        self.0.purge(queue).await
    }
    async fn version(&self) -> Result<String, BrokerError> {
        self.0.version().await
    }
    async fn close(&self) {
        self.0.close().await;
    }
}

#[derive(Debug)]
struct DyingConsumer {
    inner: Box<dyn Consumer>,
    /// How many deliveries are still to come; the last is never settled.
    left: u16,
}

#[async_trait]
impl Consumer for DyingConsumer {
    async fn next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        let next = self.inner.next().await?;
        self.left = self.left.saturating_sub(1);
        let is_last = self.left == 0;
        Some(next.map(|delivery| match is_last {
            true => Delivery { receipt: Box::new(Never(delivery.receipt)), ..delivery },
            false => delivery,
        }))
    }
    async fn cancel(&mut self) -> Result<(), BrokerError> {
        self.inner.cancel().await
    }
}

/// Is dropped instead of settled.
#[derive(Debug)]
struct Never(Box<dyn Receipt>);

#[async_trait]
impl Receipt for Never {
    async fn settle(self: Box<Self>, _: Settlement) -> Result<(), BrokerError> {
        drop(self.0);
        Err(BrokerError::DeliveryLost)
    }
}
