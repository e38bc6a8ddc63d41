//! The adapters of the store port, as data.

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

use super::stand::Place;
use crate::wall_clock::WallClock;
use gleitzeit::sqlite::{Database, Durability, Location};
use gleitzeit::store::Store;
use gleitzeit::store::redis::{Prefix, RedisStore, Settings};
use gleitzeit::store::sqlite::{self, SqliteStore};

/// An adapter.
pub(crate) struct Backend {
    pub(crate) name: &'static str,
    /// Why it cannot be had here.
    pub(crate) absent: fn() -> Option<String>,
    /// Whether it is for the full run only, so that its absence is no failure in CI.
    pub(crate) is_extra: bool,
    /// A place of one case's own.
    pub(crate) place: fn() -> BoxFuture<'static, Arc<dyn Place>>,
}

/// Every adapter.
pub(crate) const BACKENDS: &[Backend] = &[
    Backend {
        name: "redis",
        absent: || redis_url().is_none().then(|| "GLEITZEIT_REDIS_URL names no server".to_owned()),
        is_extra: false,
        place: || Box::pin(async { Arc::new(RedisPlace::new()) as Arc<dyn Place> }),
    },
    Backend {
        name: "redis-sentinel",
        absent: || environment(SENTINEL).is_none().then(|| format!("{SENTINEL} names no servers")),
        is_extra: true,
        place: || Box::pin(async { Arc::new(ManyPlace::new(SENTINEL)) as Arc<dyn Place> }),
    },
    Backend {
        name: "redis-cluster",
        absent: || environment(CLUSTER).is_none().then(|| format!("{CLUSTER} names no servers")),
        is_extra: true,
        place: || Box::pin(async { Arc::new(ManyPlace::new(CLUSTER)) as Arc<dyn Place> }),
    },
    Backend {
        name: "sqlite",
        absent: || None,
        is_extra: false,
        place: || Box::pin(async { Arc::new(SqlitePlace::new()) as Arc<dyn Place> }),
    },
];

/// Where `scripts/stack start --redis-replicas 2 --sentinels 3` says its Sentinels.
pub(crate) const SENTINEL: &str = "GLEITZEIT_TEST_SENTINEL_URL";

/// Where `scripts/stack start --redis-cluster 6` says its nodes.
pub(crate) const CLUSTER: &str = "GLEITZEIT_TEST_CLUSTER_URL";

fn redis_url() -> Option<String> {
    environment("GLEITZEIT_REDIS_URL")
}

/// Whether bounds of time are checked too, on a machine that does nothing else (`scripts/test --full`).
#[allow(dead_code, reason = "shared: not every program uses all of it")]
pub(crate) fn is_full() -> bool {
    environment("GLEITZEIT_TEST_FULL").is_some()
}

/// A variable that is set and not empty.
#[allow(clippy::disallowed_methods, reason = "a suite has no configuration but its environment")]
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A prefix of its own on the server of `GLEITZEIT_REDIS_URL`.
#[derive(Debug)]
struct RedisPlace {
    url: String,
    prefix: String,
}

impl RedisPlace {
    fn new() -> RedisPlace {
        let url = redis_url().expect("the case is not run without a server");
        RedisPlace { url, prefix: format!("test-{}", Uuid::now_v7()) }
    }
}

#[async_trait]
impl Place for RedisPlace {
    async fn open(&self) -> Arc<dyn Store> {
        let prefix = Prefix::parse(&self.prefix).expect("the prefix is valid");
        let settings = Settings { prefix, ..Settings::new(self.url.clone()) };
        Arc::new(RedisStore::connect(settings).await.expect("the server is there"))
    }

    async fn remove(&self) {
        let mut server = server(&self.url).await;
        for key in keys(&mut server, &self.prefix).await {
            let _: () = redis::cmd("UNLINK").arg(key).query_async(&mut server).await.expect("UNLINK");
        }
    }

    fn redis(&self) -> Option<(&str, &str)> {
        Some((&self.url, &self.prefix))
    }
}

/// A prefix of its own on servers that are several. They are thrown away after the run, with what is left there.
#[derive(Debug)]
struct ManyPlace {
    url: String,
    prefix: String,
}

impl ManyPlace {
    fn new(variable: &str) -> ManyPlace {
        let url = environment(variable).expect("the case is not run without servers");
        ManyPlace { url, prefix: format!("test-{}", Uuid::now_v7()) }
    }
}

#[async_trait]
impl Place for ManyPlace {
    async fn open(&self) -> Arc<dyn Store> {
        let prefix = Prefix::parse(&self.prefix).expect("the prefix is valid");
        let settings = Settings { prefix, ..Settings::new(self.url.clone()) };
        Arc::new(RedisStore::connect(settings).await.expect("the servers are there"))
    }

    async fn remove(&self) {}
}

/// A state file of its own.
#[derive(Debug)]
struct SqlitePlace {
    folder: tempfile::TempDir,
}

impl SqlitePlace {
    fn new() -> SqlitePlace {
        SqlitePlace { folder: tempfile::tempdir().expect("a folder") }
    }
}

#[async_trait]
impl Place for SqlitePlace {
    async fn open(&self) -> Arc<dyn Store> {
        let location = Location::File(self.folder.path().join("state.db"));
        let database = Database::open(location, Durability::Process).await.expect("it opens");
        Arc::new(SqliteStore::new(database, Arc::new(WallClock), sqlite::Settings::default()))
    }

    /// The folder goes with this.
    async fn remove(&self) {}

    fn is_embedded(&self) -> bool {
        true
    }
}

/// A plain connection, as somebody else's program has it. It is patient: another case may make the server
/// release ten thousand tasks meanwhile.
pub(crate) async fn server(url: &str) -> MultiplexedConnection {
    let client = redis::Client::open(url).expect("the address is valid");
    let patient = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
    client.get_multiplexed_async_connection_with_config(&patient).await.expect("the server is there")
}

/// Every key under a prefix.
pub(crate) async fn keys(server: &mut MultiplexedConnection, prefix: &str) -> Vec<String> {
    let (mut keys, mut cursor) = (Vec::new(), 0_u64);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{prefix}:*")).arg("COUNT").arg(5000);
        let (next, found): (u64, Vec<String>) = scan.query_async(server).await.expect("SCAN");
        keys.extend(found);
        if next == 0 {
            keys.sort();
            keys.dedup();
            return keys;
        }
        cursor = next;
    }
}
