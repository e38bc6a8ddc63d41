//! The connection that every step shares, and what its errors mean.
//!
//! `address` says which server that is (one, a master behind Sentinels, a Cluster), `link` keeps a connection to
//! it, `outage` tells people when it is away. A call that meets it broken fails or waits, at most
//! [`CALL_TIMEOUT`].
//!
//! *Cluster.* A script and a pipeline go to the node that has their keys. All keys of a root are in one slot, so
//! every step is; what is of many roots is sent one by one, at the same time, and what concerns all keys is asked of
//! each master ([`Connection::masters`]).
//!
//! *Replicas.* Where [`Connection::open`] is told to wait for some, a step whose message is settled next is
//! followed by `WAIT` in the same pipeline, so on the connection that wrote. Too few in time is an error that is
//! waited out: the step is made again, which changes nothing, and asks again. `WAIT` holds up what comes after
//! it, so these steps have a connection of their own: else a missing replica would silence the heartbeat.
//!
//! The first connection is different: whoever starts us wants to know at once that nobody answers or that
//! the password is wrong. So it is tried once.

use redis::aio::MultiplexedConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, Script, ScriptInvocation,
    ServerErrorKind, Value,
};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::address::{Address, CONNECT_TIMEOUT, FIRST_CONNECT_TIMEOUT};
use super::outage::{Outage, Part};
use super::road::{Road, Wire, is_of_many_slots, run_all, split};
use crate::core::url::masked;
use crate::store::StoreError;

/// How long a call may take, with the wait for a connection that is being made anew.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(7);

/// How long an answer may take that a session's life hangs on: what is overdue then is asked for on a new
/// connection while the session still lives.
const URGENT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long replicas may take.
const REPLICAS_TIMEOUT: Duration = Duration::from_secs(1);

/// Steps that no settlement follows: a lost claim is made again by whoever has the message, what was taken of a limit
/// comes back by itself, profiles are noted again, what a lost secret has proved is asked again, what a task gives before
/// its end is in no promise, and the last one only reads.
const STEPS_WITHOUT_REPLICAS: [&str; 6] = ["admit", "append", "claim", "note_profiles", "secret", "workflow"];

/// How often a script is sent that the server forgets between its text and its call.
const SCRIPT_TRIES: usize = 3;

/// The shared connection; cheap to clone.
#[derive(Clone)]
pub(super) struct Connection {
    address: Arc<Address>,
    shared: Road,
    /// For steps that replicas must have, and how many must.
    replicated: Option<(Road, u32)>,
    outage: Arc<Outage>,
    url_masked: String,
}

impl fmt::Debug for Connection {
    /// Without the address, which knows the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.url_masked).finish()
    }
}

/// A master of a Cluster; without an address, the one server that there is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Master(Option<(String, u16)>);

impl fmt::Display for Master {
    /// Its address; nothing for the one server that there is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((host, port)) => write!(f, "{host}:{port}"),
            None => Ok(()),
        }
    }
}

impl Connection {
    /// Connects, or says why that is not possible. Steps wait for `wait_replicas` replicas.
    pub(super) async fn open(url: &str, wait_replicas: u32) -> Result<Connection, StoreError> {
        let url_masked = masked(url);
        let refused = |error: RedisError| first_refusal(&url_masked, &error);
        let address = Address::parse(url)
            .map_err(|reason| StoreError::Unreachable { url: url_masked.clone(), reason })?;
        let address = Arc::new(address);
        let outage = Outage::new(url_masked.clone());
        let shared = Road::to(&address, outage.part()).await.map_err(refused)?;
        let mut first = match &shared {
            Road::Link(link) => Wire::Link(link.dial(FIRST_CONNECT_TIMEOUT).await.map_err(refused)?),
            Road::Cluster(cluster, _) => Wire::Cluster(cluster.clone()),
        };
        let _: Value = redis::cmd("PING").query_async(&mut first).await.map_err(refused)?;
        let replicated = match wait_replicas {
            0 => None,
            _ => Some((Road::to(&address, outage.part()).await.map_err(refused)?, wait_replicas)),
        };
        Ok(Connection { address, shared, replicated, outage, url_masked })
    }

    /// A connection of its own beside the shared one, for whoever listens.
    pub(super) async fn separate(
        &self,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, RedisError> {
        self.address.dial(config, CONNECT_TIMEOUT).await
    }

    /// Whether the server of a separate connection still is the one to listen to.
    pub(super) async fn check(&self, separate: &mut MultiplexedConnection) -> Result<(), RedisError> {
        self.address.check(separate).await
    }

    /// The share of a separate connection in what people are told of outages.
    pub(super) fn part(&self) -> Part {
        self.outage.part()
    }

    /// Runs one command.
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        step: &'static str,
        cmd: &Cmd,
    ) -> Result<T, StoreError> {
        self.run(step, &self.shared, |mut wire| async move { cmd.query_async(&mut wire).await }).await
    }

    /// Runs one command that a session's life hangs on.
    pub(super) async fn urgent<T: FromRedisValue>(
        &self,
        step: &'static str,
        cmd: &Cmd,
    ) -> Result<T, StoreError> {
        let call = |mut wire: Wire| async move {
            let answered = tokio::time::timeout(URGENT_TIMEOUT, cmd.query_async(&mut wire)).await;
            answered.unwrap_or_else(|_| {
                let text = format!("no answer within {} s", URGENT_TIMEOUT.as_secs());
                Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text).into())
            })
        };
        self.run(step, &self.shared, call).await
    }

    /// Runs several commands in one round trip; in a Cluster, in one for each slot.
    pub(super) async fn pipeline<T: FromRedisValue>(
        &self,
        step: &'static str,
        pipeline: &Pipeline,
    ) -> Result<T, StoreError> {
        let call = |mut wire: Wire| async move {
            match pipeline.query_async(&mut wire).await {
                Err(error) if is_of_many_slots(&error) => split(&wire, pipeline).await,
                other => other,
            }
        };
        self.run(step, &self.shared, call).await
    }

    /// The servers that have the keys among them, by their addresses.
    pub(super) async fn masters(&self, step: &'static str) -> Result<Vec<Master>, StoreError> {
        if let Road::Link(_) = self.shared {
            return Ok(vec![Master(None)]);
        }
        let slots: Vec<Vec<Value>> = self.query(step, redis::cmd("CLUSTER").arg("SLOTS")).await?;
        let mut masters: Vec<(String, u16)> = Vec::new();
        for range in slots {
            let node = range.get(2).and_then(|node| Vec::<Value>::from_redis_value_ref(node).ok());
            let Some([host, port, ..]) = node.as_deref() else { continue };
            let (host, port) = (String::from_redis_value_ref(host), u16::from_redis_value_ref(port));
            let (Ok(host), Ok(port)) = (host, port) else { continue };
            if !masters.contains(&(host.clone(), port)) {
                masters.push((host, port));
            }
        }
        masters.sort();
        Ok(masters.into_iter().map(|master| Master(Some(master))).collect())
    }

    /// Runs one command on one of [`Connection::masters`].
    pub(super) async fn query_on<T: FromRedisValue>(
        &self,
        step: &'static str,
        master: &Master,
        cmd: &Cmd,
    ) -> Result<T, StoreError> {
        let call = |wire: Wire| async move {
            match (wire, master.0.clone()) {
                (Wire::Cluster(mut cluster), Some((host, port))) => {
                    let there = RoutingInfo::SingleNode(SingleNodeRoutingInfo::ByAddress { host, port });
                    Ok(T::from_redis_value(cluster.route_command(cmd.clone(), there).await?)?)
                }
                (mut wire, _) => cmd.query_async(&mut wire).await,
            }
        };
        self.run(step, &self.shared, call).await
    }

    /// Runs a script; the server is given its text if it does not have it (any more).
    pub(super) async fn invoke(
        &self,
        step: &'static str,
        script: &ScriptInvocation<'_>,
    ) -> Result<Value, StoreError> {
        if let Some((road, want)) = &self.replicated
            && !STEPS_WITHOUT_REPLICAS.contains(&step)
        {
            return self.invoke_on_replicas(road, *want, step, script).await;
        }
        let call = |mut wire: Wire| async move {
            for _ in 1..SCRIPT_TRIES {
                match script.invoke_async(&mut wire).await {
                    Err(error) if is_script_unknown(&error) => {}
                    other => return other,
                }
            }
            script.invoke_async(&mut wire).await
        };
        self.run(step, &self.shared, call).await
    }

    /// Runs a script and waits until enough replicas have what it wrote.
    async fn invoke_on_replicas(
        &self,
        road: &Road,
        want: u32,
        step: &'static str,
        script: &ScriptInvocation<'_>,
    ) -> Result<Value, StoreError> {
        let mut both = redis::pipe();
        both.invoke_script(script);
        both.cmd("WAIT").arg(want).arg(REPLICAS_TIMEOUT.as_secs() * 1000);
        let both = &both;
        let call = |mut wire: Wire| async move {
            for _ in 1..SCRIPT_TRIES {
                match both.query_async(&mut wire).await {
                    Err(error) if is_script_unknown(&error) => {
                        script.load_async(&mut wire).await?;
                    }
                    other => return other,
                }
            }
            both.query_async(&mut wire).await
        };
        let (answer, reached): (Value, u32) = self.run(step, road, call).await?;
        if reached < want {
            let limit = REPLICAS_TIMEOUT.as_secs();
            let reason =
                format!("{reached} of {want} replicas (redis.wait_replicas) had it within {limit} s");
            return Err(StoreError::Refused { step, reason });
        }
        Ok(answer)
    }

    /// Runs many invocations of one script in one round trip; in a Cluster, in one for each slot. All are repeated
    /// if the server does not have the script (any more).
    pub(super) async fn script_pipeline(
        &self,
        step: &'static str,
        script: &Script,
        pipeline: &Pipeline,
    ) -> Result<(), StoreError> {
        let call = |mut wire: Wire| async move {
            for _ in 1..SCRIPT_TRIES {
                match run_all(&mut wire, pipeline).await {
                    Err(error) if is_script_unknown(&error) => {
                        script.load_async(&mut wire).await?;
                    }
                    other => return other,
                }
            }
            run_all(&mut wire, pipeline).await
        };
        self.run(step, &self.shared, call).await
    }

    async fn run<T, Call>(
        &self,
        step: &'static str,
        road: &Road,
        call: impl FnOnce(Wire) -> Call,
    ) -> Result<T, StoreError>
    where
        Call: Future<Output = Result<T, RedisError>>,
    {
        let attempt = async {
            let wire = road.wire().await?;
            let result = call(wire.clone()).await;
            road.note(&wire, result.as_ref().err());
            result
        };
        match tokio::time::timeout(CALL_TIMEOUT, attempt).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.error(step, &error)),
            Err(_) => {
                let limit = CALL_TIMEOUT.as_secs();
                let reason = match road.why_not() {
                    Some(why) => format!("no connection within {limit} s: {why}"),
                    None => format!("no answer within {limit} s"),
                };
                Err(StoreError::Unanswered { step, reason })
            }
        }
    }

    /// What an error of the server or of the connection means for `step`.
    pub(super) fn error(&self, step: &'static str, error: &RedisError) -> StoreError {
        let reason = error.to_string();
        if is_login_refused(error) {
            return StoreError::LoginRefused { url: self.url_masked.clone(), reason };
        }
        if is_away(error) || self.address.has_failover() && is_of_replica(error) {
            return StoreError::Unanswered { step, reason };
        }
        // Whatever else the server says may be mended there; nothing is given up for it.
        StoreError::Refused { step, reason }
    }
}

fn first_refusal(url: &str, error: &RedisError) -> StoreError {
    let (url, reason) = (url.to_owned(), error.to_string());
    if is_login_refused(error) {
        return StoreError::LoginRefused { url, reason };
    }
    StoreError::Unreachable { url, reason }
}

pub(super) fn is_login_refused(error: &RedisError) -> bool {
    let refusals = ["NOAUTH", "WRONGPASS", "NOPERM"];
    error.kind() == ErrorKind::AuthenticationFailed
        || error.code().is_some_and(|code| refusals.contains(&code))
}

/// There is nobody to answer at this moment.
pub(super) fn is_away(error: &RedisError) -> bool {
    // In a Cluster that changes: the crate has followed as often as it would.
    let changing = [ServerErrorKind::ClusterDown, ServerErrorKind::Moved, ServerErrorKind::Ask];
    error.is_io_error()
        || error.is_unrecoverable_error()
        || error.is_timeout()
        || changing.iter().any(|kind| error.kind() == ErrorKind::Server(*kind))
}

/// It is a replica that answers: behind Sentinels another one is the master now.
pub(super) fn is_of_replica(error: &RedisError) -> bool {
    matches!(error.code(), Some("READONLY" | "MASTERDOWN"))
}

fn is_script_unknown(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

#[cfg(test)]
mod tests {
    use redis::RedisError;

    use super::{is_away, is_login_refused, is_of_replica};

    fn answered(line: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("{line}\r\n").as_bytes()).expect("a whole answer");
        value.extract_error().expect_err("the answer is an error")
    }

    #[test]
    fn what_the_server_says_is_told_from_nobody_there_and_from_a_refused_login() {
        // Line, nobody there, a replica, the login is refused.
        for (line, away, replica, login) in [
            ("-LOADING Redis is loading the dataset in memory", false, false, false),
            ("-READONLY You can't write against a read only replica.", false, true, false),
            ("-MASTERDOWN Link with MASTER is down", false, true, false),
            ("-OOM command not allowed when used memory > 'maxmemory'.", false, false, false),
            ("-MISCONF Redis is configured to save RDB snapshots", false, false, false),
            ("-CLUSTERDOWN The cluster is down", true, false, false),
            ("-MOVED 4478 127.0.0.1:7000", true, false, false),
            ("-TRYAGAIN Multiple keys request during rehashing of slot", false, false, false),
            ("-BUSY Redis is busy running a script.", false, false, false),
            ("-NOAUTH Authentication required.", false, false, true),
            ("-WRONGPASS invalid", false, false, true),
            ("-NOPERM no permissions", false, false, true),
            ("-WRONGTYPE Operation against a key", false, false, false),
        ] {
            let error = answered(line);
            let found = (is_away(&error), is_of_replica(&error), is_login_refused(&error));
            assert_eq!(found, (away, replica, login), "{line}");
        }
    }
}
