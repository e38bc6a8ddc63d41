//! `audit --repair` whose process dies before or after any call of a port, and two at once: what was lost is sent,
//! nothing runs twice.

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gleitzeit::audit::{self, Asked};
use gleitzeit::broker::Broker;
use gleitzeit::broker::sqlite::SqliteBroker;
use gleitzeit::config::EventLevel;
use gleitzeit::core::clock::Clock;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::core::protocol::{ProtocolId, Protocols};
use gleitzeit::core::state::TaskState;
use gleitzeit::provider::registry::Providers;
use gleitzeit::provider::{Answer, CallCx, Provider};
use gleitzeit::sqlite::{Database, Durability, Location};
use gleitzeit::store::sqlite::SqliteStore;
use gleitzeit::store::{Accepted, Message, Store};
use gleitzeit::topology::{Address, Queue, Topology};
use gleitzeit::wire::record::Head;
use gleitzeit::worker::{Parts, Settings, Worker};

use crate::gate::Gate;
use crate::ledger::{Ledger, Watched};
use crate::mischief::{Mischief, Wild};
use crate::wall_clock::WallClock;

/// More points than any repair here passes.
const POINTS_MAX: u32 = 256;
const TASKS: [&str; 3] = ["a", "b", "c"];

/// A provider that counts.
#[derive(Debug)]
struct Counter {
    protocol: ProtocolId,
    calls: Arc<Mutex<BTreeMap<String, u32>>>,
}

#[async_trait]
impl Provider for Counter {
    fn name(&self) -> &str {
        "counter"
    }
    fn protocol(&self) -> &ProtocolId {
        &self.protocol
    }
    fn serves(&self, _: &str) -> bool {
        true
    }
    async fn call(&self, cx: &CallCx, _: &str, _: Value) -> Result<Answer, Failure> {
        *self.calls.lock().expect("nobody panics with it").entry(cx.key.to_string()).or_default() += 1;
        Ok(serde_json::json!({"response": "pong"}).into())
    }
}

struct Case {
    _folder: tempfile::TempDir,
    database: Database,
    store: Arc<dyn Store>,
    calls: Arc<Mutex<BTreeMap<String, u32>>>,
}

fn echo() -> Address {
    Address::parse("echo.v1").expect("valid")
}

impl Case {
    /// Tasks that were accepted, and whose messages are gone.
    async fn new() -> Case {
        let folder = tempfile::tempdir().expect("a folder");
        let location = Location::File(folder.path().join("state.db"));
        let database = Database::open(location, Durability::Process).await.expect("the file opens");
        let store = SqliteStore::new(database.clone(), Arc::new(WallClock), Default::default());
        let case = Case { _folder: folder, database, store: Arc::new(store), calls: Arc::default() };
        case.broker().declare(&Topology::new([echo()])).await.expect("declares");
        for name in TASKS {
            let key = TaskKey::alone(Id::parse(name).expect("valid"));
            let head = Head {
                key,
                name: name.to_owned(),
                protocol: "echo/v1".to_owned(),
                method: "ping".to_owned(),
            };
            let body = serde_json::json!({"id": name, "method": "ping"}).to_string();
            let sent = Message { address: echo(), priority: 4, body: Bytes::from(body) };
            let accepted = Accepted::Task { head, digest: None, due: None, sent: Some(sent) };
            case.store.accept(&[accepted], WallClock.now()).await.expect("answers");
        }
        case
    }

    fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(SqliteBroker::new(self.database.clone(), Arc::new(WallClock)))
    }

    /// One `audit --repair`: does it all, or dies at the gate. Whether it died.
    async fn repair(&self, gate: Arc<Gate>) -> bool {
        let wild = Wild { inner: self.broker(), gate: Arc::clone(&gate), mischief: Mischief::none() };
        let inner = Arc::clone(&self.store);
        let parts = audit::Parts {
            broker: Arc::new(wild),
            store: Arc::new(Watched { inner, gate: Arc::clone(&gate), ledger: Arc::<Ledger>::default() }),
            clock: Arc::new(WallClock),
            queues: Topology::new([echo()]).queues(),
        };
        let asked = Asked { older_than: Duration::ZERO, root: None };
        let repairing = async {
            let mut report = audit::audit(&parts, &asked).await.expect("the servers are there");
            audit::repair(&parts, &mut report).await.expect("the servers are there");
        };
        tokio::select! {
            () = gate.death() => true,
            () = repairing => false,
        }
    }

    /// A worker does what is there.
    async fn work(&self) {
        let broker = self.broker();
        let mut providers = Providers::default();
        let protocol = "echo/v1".parse().expect("valid");
        let counter = Counter { protocol, calls: Arc::clone(&self.calls) };
        providers.register(Arc::new(counter)).expect("its name is its own");
        assert!(providers.start().await.is_empty());
        let parts = Parts {
            broker: Arc::clone(&broker),
            store: Arc::clone(&self.store),
            providers: Arc::new(providers),
            protocols: Arc::new(Protocols::builtin().expect("built in")),
            clock: Arc::new(WallClock),
        };
        let settings = Settings {
            protocols: vec!["echo/v1".parse().expect("valid")],
            concurrency: NonZeroU16::MIN,
            max_running: None,
            coordination: false,
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
        Worker::new(parts, settings).work_off(&Queue::Tasks(echo())).await.expect("the queue is there");
        broker.close().await;
    }

    async fn each_ran_once(&self, what: &str) {
        let calls = self.calls.lock().expect("nobody panics with it").clone();
        assert_eq!(calls, TASKS.map(|name| (name.to_owned(), 1)).into(), "{what}");
        for name in TASKS {
            let key = TaskKey::alone(Id::parse(name).expect("valid"));
            let task = self.store.task(&key).await.expect("answers").expect("it is known");
            assert_eq!((task.state, task.attempts), (TaskState::Completed, 1), "{what}");
        }
        assert_eq!(self.broker().depth(&Queue::Tasks(echo())).await.expect("answers").ready, 0, "{what}");
    }
}

/// Nobody waits between the two looks.
async fn at_once<T>(auditing: impl Future<Output = T>) -> T {
    tokio::time::pause();
    let done = auditing.await;
    tokio::time::resume();
    done
}

#[tokio::test]
async fn a_repair_that_dies_anywhere_and_is_made_again_loses_nothing_and_runs_nothing_twice() {
    for points in 0..POINTS_MAX {
        let case = Case::new().await;
        let died = at_once(case.repair(Gate::new(Some(points)))).await;
        // Some may have run already when it is made again, or none.
        if points % 2 == 0 {
            case.work().await;
        }
        assert!(!at_once(case.repair(Gate::new(None))).await);
        case.work().await;
        case.each_ran_once(&format!("death after {points} points")).await;
        if !died {
            assert!(points > 10, "the first repair passed {points} points only");
            return;
        }
    }
    panic!("every repair died");
}

#[tokio::test]
async fn two_repairs_at_once_send_twice_and_nothing_runs_twice() {
    let case = Case::new().await;
    let both = async { tokio::join!(case.repair(Gate::new(None)), case.repair(Gate::new(None))) };
    assert_eq!(at_once(both).await, (false, false));
    assert!(case.broker().depth(&Queue::Tasks(echo())).await.expect("answers").ready >= 3);
    case.work().await;
    case.each_ran_once("two repairs").await;
}
