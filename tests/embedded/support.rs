//! A state file of a test's own, and what opens it.

use gleitzeit::broker::sqlite::SqliteBroker;
use gleitzeit::broker::{Broker, Delivery, Outgoing, Properties, Target};
use gleitzeit::core::clock::Clock;
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::core::state::TaskState;
use gleitzeit::sqlite::{Database, Durability, Location};
use gleitzeit::store::sqlite::{Settings, SqliteStore};
use gleitzeit::store::{End, Finished, Lease, Store};
use gleitzeit::topology::{Address, Queue, Topology};
use gleitzeit::wire::record::{Ending, Head};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::wall_clock::WallClock;

/// A folder that goes with the test.
pub(crate) struct State {
    pub(crate) folder: tempfile::TempDir,
}

impl State {
    pub(crate) fn new() -> State {
        State { folder: tempfile::tempdir().expect("a folder") }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("state.db")
    }

    /// A connection of its own, as another process would have.
    pub(crate) async fn open(&self) -> Database {
        open(self.path()).await
    }

    /// A broker over a connection of its own.
    pub(crate) async fn broker(&self) -> SqliteBroker {
        broker(self.open().await).await
    }
}

pub(crate) async fn open(path: PathBuf) -> Database {
    Database::open(Location::File(path), Durability::Process).await.expect("it opens")
}

pub(crate) async fn broker(database: Database) -> SqliteBroker {
    let broker = SqliteBroker::new(database, Arc::new(WallClock));
    broker.declare(&Topology::new([echo()])).await.expect("declares");
    broker
}

pub(crate) fn store(database: Database) -> SqliteStore {
    SqliteStore::new(database, Arc::new(WallClock), Settings::default())
}

pub(crate) fn head(name: &str) -> Head {
    let key = TaskKey::alone(id(name));
    Head { key, name: name.to_owned(), protocol: "echo/v1".to_owned(), method: "echo".to_owned() }
}

/// Ends an attempt well.
pub(crate) async fn complete(store: &SqliteStore, lease: &Lease) -> Finished {
    let now = WallClock.now();
    let document = Ending::unrun(TaskState::Completed, None, now).document(&head(lease.key.id().as_str()));
    let ttl = Duration::from_secs(600);
    let (state, entry) = (TaskState::Completed, "{}".to_owned());
    let end = End::Ended { state, document: document.into(), keep: true, ttl, entry, retry: None };
    store.finish(lease, &end, now).await.expect("finishes")
}

pub(crate) fn echo() -> Address {
    Address::parse("echo.v1").expect("valid")
}

pub(crate) fn tasks() -> Queue {
    Queue::Tasks(echo())
}

pub(crate) fn id(text: &str) -> Id {
    Id::parse(text).expect("valid")
}

pub(crate) fn prefetch(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).expect("not zero")
}

/// A message whose body and message id are `text`.
pub(crate) fn message(text: &str) -> Outgoing {
    Outgoing {
        target: Target::Queue(tasks()),
        body: text.to_owned().into(),
        properties: Properties { message_id: Some(text.to_owned()), ..Properties::default() },
        delay: None,
    }
}

/// What `future` gives, soon.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(100), future).await.expect("it hangs")
}

pub(crate) async fn next(consumer: &mut Box<dyn gleitzeit::broker::Consumer>) -> Delivery {
    soon(consumer.next()).await.expect("not at its end").expect("no error")
}

pub(crate) fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.body.to_vec()).expect("text")
}
