//! The way that commands go: one link, or the connections to a Cluster's nodes; and what that makes of a pipeline.

use futures_util::{StreamExt, TryStreamExt, stream};
use redis::aio::ConnectionLike;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisFuture, ServerErrorKind, Value};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

use super::address::{Address, RESPONSE_TIMEOUT, tcp};
use super::connection::{is_away, is_login_refused};
use super::link::{Link, Open};
use super::outage::Part;

/// How often a Cluster is asked again, by the slots as they are then, before a call fails.
const CLUSTER_RETRIES: u32 = 3;

/// How long no call on a Cluster must have failed for it to count as back: calls for other nodes go well while one
/// is away, and who waits for that one asks again within this time.
const CLUSTER_QUIET: Duration = Duration::from_secs(5);

/// Commands of a pipeline that go to the nodes of a Cluster at the same time.
const SPLIT_AT_ONCE: usize = 64;

/// A way for commands.
#[derive(Clone)]
pub(super) enum Road {
    Link(Link),
    Cluster(ClusterConnection, Nodes),
}

/// What is known of a Cluster's nodes as a whole.
#[derive(Clone)]
pub(super) struct Nodes {
    part: Part,
    failed_at: Arc<Mutex<Option<Instant>>>,
}

/// A connection for one call.
#[derive(Clone)]
pub(super) enum Wire {
    Link(Open),
    Cluster(ClusterConnection),
}

impl Road {
    /// A road to the servers at `address`; to a Cluster it stands, a link connects when it is needed.
    pub(super) async fn to(address: &Arc<Address>, part: Part) -> Result<Road, RedisError> {
        Ok(match &**address {
            Address::Cluster(nodes) => {
                let builder = ClusterClient::builder(nodes.clone()).tcp_settings(tcp());
                // The time of a call as a whole is ours to bound: it includes the wait behind other calls.
                let builder = builder.response_timeout(RESPONSE_TIMEOUT).overall_response_timeout(None);
                let builder = builder.retries(CLUSTER_RETRIES);
                let nodes = Nodes { part, failed_at: Arc::default() };
                Road::Cluster(builder.build()?.get_async_connection().await?, nodes)
            }
            Address::Server(_) | Address::Sentinel { .. } => Road::Link(Link::new(Arc::clone(address), part)),
        })
    }

    pub(super) async fn wire(&self) -> Result<Wire, RedisError> {
        match self {
            Road::Link(link) => Ok(Wire::Link(link.open().await?)),
            Road::Cluster(cluster, _) => Ok(Wire::Cluster(cluster.clone())),
        }
    }

    /// What a call ended with.
    pub(super) fn note(&self, wire: &Wire, error: Option<&RedisError>) {
        match (self, wire, error) {
            (Road::Link(link), Wire::Link(open), Some(error)) => link.note(open, error),
            (Road::Cluster(_, nodes), _, error) => nodes.note(error),
            (Road::Link(_), _, _) => {}
        }
    }

    pub(super) fn why_not(&self) -> Option<String> {
        match self {
            Road::Link(link) => link.why_not(),
            Road::Cluster(..) => None,
        }
    }
}

impl Nodes {
    /// What a call ended with; the connections heal inside.
    fn note(&self, error: Option<&RedisError>) {
        match error {
            Some(error) if is_login_refused(error) => self.part.refused(&error.to_string()),
            Some(error) if is_away(error) => self.part.lost(&error.to_string()),
            Some(_) => return,
            None if self.part.is_lost() => {
                let quiet = self.failed_at().is_none_or(|at| at.elapsed() >= CLUSTER_QUIET);
                if quiet {
                    self.part.back();
                }
                return;
            }
            None => return,
        }
        *self.failed_at() = Some(Instant::now());
    }

    fn failed_at(&self) -> MutexGuard<'_, Option<Instant>> {
        // No code that holds the lock can panic half-way.
        self.failed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionLike for Wire {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Wire::Link(open) => open.connection.req_packed_command(cmd),
            Wire::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Wire::Link(open) => open.connection.req_packed_commands(pipeline, offset, count),
            Wire::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Wire::Link(open) => open.connection.get_db(),
            Wire::Cluster(cluster) => cluster.get_db(),
        }
    }
}

/// Runs a pipeline whose answers nobody needs.
pub(super) async fn run_all(wire: &mut Wire, pipeline: &Pipeline) -> Result<(), RedisError> {
    match pipeline.exec_async(wire).await {
        Err(error) if is_of_many_slots(&error) => split::<Value>(wire, pipeline).await.map(|_| ()),
        other => other,
    }
}

/// Runs each command of a pipeline by itself, some at the same time; every answer, in their order.
pub(super) async fn split<T: FromRedisValue>(wire: &Wire, pipeline: &Pipeline) -> Result<T, RedisError> {
    let commands: Vec<Cmd> = pipeline.cmd_iter().cloned().collect();
    let commands = commands.into_iter().map(|cmd| {
        let mut wire = wire.clone();
        async move { cmd.query_async::<Value>(&mut wire).await }
    });
    let answers: Vec<Value> = stream::iter(commands).buffered(SPLIT_AT_ONCE).try_collect().await?;
    Ok(T::from_redis_value(Value::Array(answers))?)
}

/// The crate's own word: nothing was sent.
pub(super) fn is_of_many_slots(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::CrossSlot)
}
