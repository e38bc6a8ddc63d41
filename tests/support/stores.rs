//! Where a case lives: a state file of its own, and perhaps a Redis prefix of its own.

use redis::AsyncConnectionConfig;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

use gleitzeit::broker::Broker;
use gleitzeit::broker::sqlite::SqliteBroker;
use gleitzeit::core::clock::Clock;
use gleitzeit::sqlite::{Database, Durability, Location};
use gleitzeit::store::Store;
use gleitzeit::store::redis::{Prefix, RedisStore};
use gleitzeit::store::sqlite::SqliteStore;

/// The longest that Redis may take to answer when a case is removed.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A case's place.
#[derive(Debug)]
pub(crate) struct Place {
    /// Where the state file is; `None` for in memory.
    folder: Option<tempfile::TempDir>,
    redis: Option<(String, String)>,
}

/// What a case stands on; workers get it behind a gate.
#[derive(Debug)]
pub(crate) struct Ground {
    database: Database,
    clock: Arc<dyn Clock>,
    redis: Option<(String, String)>,
    /// The store as somebody has it who does not die.
    pub(crate) store: Arc<dyn Store>,
}

impl Place {
    pub(crate) fn sqlite() -> Place {
        Place { folder: Some(tempfile::tempdir().expect("a folder")), redis: None }
    }

    /// A state that is in memory.
    pub(crate) fn memory() -> Place {
        Place { folder: None, redis: None }
    }

    /// The same with the store in Redis.
    pub(crate) fn and_redis(self, url: &str, prefix: String) -> Place {
        Place { redis: Some((url.to_owned(), prefix)), ..self }
    }

    pub(crate) fn redis(url: &str) -> Place {
        let prefix = format!("property-{}", Uuid::now_v7());
        Place::sqlite().and_redis(url, prefix)
    }

    pub(crate) async fn open(&self, clock: Arc<dyn Clock>) -> Ground {
        let file = self.folder.as_ref().map(|folder| folder.path().join("state.db"));
        let location = file.map_or(Location::Memory, Location::File);
        let database = Database::open(location, Durability::Process).await.expect("the file opens");
        let redis = self.redis.clone();
        Ground { store: open_store(&database, &clock, redis.as_ref()).await, database, clock, redis }
    }

    /// Removes what the case has left on the server; the folder goes with this.
    pub(crate) async fn remove(&self) {
        let Some((url, prefix)) = &self.redis else { return };
        let client = redis::Client::open(url.as_str()).expect("the address is valid");
        // The client's own half second is short for a machine that has other things to do.
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER_MAX));
        let config = config.set_connection_timeout(Some(ANSWER_MAX));
        let server = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut server = server.expect("the server is there");
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{prefix}:*")).arg("COUNT").arg(5000);
            let (next, found): (u64, Vec<String>) = scan.query_async(&mut server).await.expect("SCAN");
            for key in found {
                let _: () = redis::cmd("UNLINK").arg(key).query_async(&mut server).await.expect("UNLINK");
            }
            if next == 0 {
                return;
            }
            cursor = next;
        }
    }
}

async fn open_store(
    database: &Database,
    clock: &Arc<dyn Clock>,
    redis: Option<&(String, String)>,
) -> Arc<dyn Store> {
    let Some((url, prefix)) = redis else {
        let settings = gleitzeit::store::sqlite::Settings::default();
        return Arc::new(SqliteStore::new(database.clone(), Arc::clone(clock), settings));
    };
    let prefix = Prefix::parse(prefix).expect("the prefix is valid");
    let settings = gleitzeit::store::redis::Settings::new(url.clone());
    let settings = gleitzeit::store::redis::Settings { prefix, ..settings };
    Arc::new(RedisStore::connect(settings).await.expect("the server is there"))
}

impl Ground {
    /// The store with a connection of its own: a connection lives in the runtime that has opened it.
    pub(crate) async fn another_store(&self) -> Arc<dyn Store> {
        open_store(&self.database, &self.clock, self.redis.as_ref()).await
    }

    /// A broker with consumers of its own, as one process has it.
    pub(crate) fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(SqliteBroker::new(self.database.clone(), Arc::clone(&self.clock)))
    }
}
