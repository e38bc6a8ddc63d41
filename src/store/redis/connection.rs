//! The connection that every step shares, and what its errors mean.
//!
//! One multiplexed connection: concurrent calls are pipelined on it by themselves, which measured five to
//! eight times faster than a pool. It is made anew in the background when it breaks, for ever, with growing
//! pauses of up to two seconds; a call that meets it broken fails or waits, at most [`CALL_TIMEOUT`].
//!
//! *Silence.* A connection may stand and never answer again, as when a load balancer has lost the server behind
//! it but goes on acknowledging what it is sent: nothing breaks, so nothing would be made anew. So a call
//! without an answer in time gives up the connection that it was made on ([`Line`]).
//!
//! *Replicas.* Where [`Connection::open`] is told to wait for some, a step whose message is settled next is
//! followed by `WAIT` in the same pipeline, so on the connection that wrote. Too few in time is an error that is
//! waited out: the step is made again, which changes nothing, and asks again. `WAIT` holds up what comes after
//! it, so these steps have a connection of their own: else a missing replica would silence the heartbeat.
//!
//! The first connection is different: whoever starts us wants to know at once that nobody answers or that
//! the password is wrong. So it is tried on its own, once.

use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline,
    ProtocolVersion, RedisError, Script, ScriptInvocation, ServerErrorKind, Value,
};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::core::url::masked;
use crate::store::StoreError;

/// How long it may take until a connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an answer may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call may take, with the wait for a connection that is being made anew.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(7);

/// How long replicas may take.
const REPLICAS_TIMEOUT: Duration = Duration::from_secs(1);

/// Steps that no settlement follows: a lost claim is made again by whoever has the message, and the other one
/// only reads.
const STEPS_WITHOUT_REPLICAS: [&str; 2] = ["claim", "workflow"];

/// How often a script is sent that the server forgets between its text and its call.
const SCRIPT_TRIES: usize = 3;

/// The longest pause between two attempts to connect.
pub(super) const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);

/// The shared connection; cheap to clone.
#[derive(Clone)]
pub(super) struct Connection {
    client: Client,
    shared: Line,
    /// For steps that replicas must have, and how many must.
    replicated: Option<(Line, u32)>,
    url_masked: String,
}

/// A connection until it falls silent, then the next one.
#[derive(Clone)]
struct Line {
    client: Client,
    config: ConnectionManagerConfig,
    /// The connection, and how many were given up before it.
    current: Arc<Mutex<(u64, ConnectionManager)>>,
}

impl Line {
    /// Connects with its first use.
    fn new(client: &Client, config: &ConnectionManagerConfig) -> Result<Line, RedisError> {
        let first = ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?;
        Ok(Line {
            client: client.clone(),
            config: config.clone(),
            current: Arc::new(Mutex::new((0, first))),
        })
    }

    /// The connection and its number.
    fn take(&self) -> (u64, ConnectionManager) {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on uses another one. Many calls find out about the same silence; the first one acts.
    fn give_up(&self, number: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != number {
            return;
        }
        match ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone()) {
            Ok(next) => *current = (number + 1, next),
            // It was possible with the same settings at the start.
            Err(error) => tracing::warn!(%error, "a silent connection to the store cannot be made anew"),
        }
    }
}

impl fmt::Debug for Connection {
    /// Without the client, which knows the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.url_masked).finish()
    }
}

impl Connection {
    /// Connects, or says why that is not possible. Steps wait for `wait_replicas` replicas.
    pub(super) async fn open(url: &str, wait_replicas: u32) -> Result<Connection, StoreError> {
        let url_masked = masked(url);
        let refused = |error: RedisError| first_refusal(&url_masked, &error);
        let client = client(url).map_err(refused)?;
        let mut probe = dial(&client, AsyncConnectionConfig::new()).await.map_err(refused)?;
        let _: Value = redis::cmd("PING").query_async(&mut probe).await.map_err(refused)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_number_of_retries(usize::MAX)
            .set_max_delay(RECONNECT_DELAY_MAX);
        let line = || Line::new(&client, &config).map_err(refused);
        let shared = line()?;
        let replicated = if wait_replicas > 0 { Some((line()?, wait_replicas)) } else { None };
        Ok(Connection { client, shared, replicated, url_masked })
    }

    /// A connection of its own beside the shared one.
    pub(super) async fn separate(
        &self,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, RedisError> {
        dial(&self.client, config).await
    }

    /// Runs one command.
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        step: &'static str,
        cmd: &Cmd,
    ) -> Result<T, StoreError> {
        let (number, mut shared) = self.shared.take();
        self.answer(step, &self.shared, number, cmd.query_async(&mut shared)).await
    }

    /// Runs several commands in one round trip.
    pub(super) async fn pipeline<T: FromRedisValue>(
        &self,
        step: &'static str,
        pipeline: &Pipeline,
    ) -> Result<T, StoreError> {
        let (number, mut shared) = self.shared.take();
        self.answer(step, &self.shared, number, pipeline.query_async(&mut shared)).await
    }

    /// Runs a script; the server is given its text if it does not have it (any more).
    pub(super) async fn invoke(
        &self,
        step: &'static str,
        script: &ScriptInvocation<'_>,
    ) -> Result<Value, StoreError> {
        if let Some((line, want)) = &self.replicated
            && !STEPS_WITHOUT_REPLICAS.contains(&step)
        {
            return self.invoke_on_replicas(line, *want, step, script).await;
        }
        let (number, mut shared) = self.shared.take();
        let call = async {
            for _ in 1..SCRIPT_TRIES {
                match script.invoke_async(&mut shared).await {
                    Err(error) if is_script_unknown(&error) => {}
                    other => return other,
                }
            }
            script.invoke_async(&mut shared).await
        };
        self.answer(step, &self.shared, number, call).await
    }

    /// Runs a script and waits until enough replicas have what it wrote.
    async fn invoke_on_replicas(
        &self,
        line: &Line,
        want: u32,
        step: &'static str,
        script: &ScriptInvocation<'_>,
    ) -> Result<Value, StoreError> {
        let (number, mut connection) = line.take();
        let mut both = redis::pipe();
        both.invoke_script(script);
        both.cmd("WAIT").arg(want).arg(REPLICAS_TIMEOUT.as_secs() * 1000);
        let call = async {
            for _ in 1..SCRIPT_TRIES {
                match both.query_async(&mut connection).await {
                    Err(error) if is_script_unknown(&error) => {
                        script.load_async(&mut connection).await?;
                    }
                    other => return other,
                }
            }
            both.query_async(&mut connection).await
        };
        let (answer, reached): (Value, u32) = self.answer(step, line, number, call).await?;
        if reached < want {
            let limit = REPLICAS_TIMEOUT.as_secs();
            let reason =
                format!("{reached} of {want} replicas (redis.wait_replicas) had it within {limit} s");
            return Err(StoreError::Refused { step, reason });
        }
        Ok(answer)
    }

    /// Runs many invocations of one script in one round trip. All are repeated if the server does not have
    /// the script (any more).
    pub(super) async fn script_pipeline(
        &self,
        step: &'static str,
        script: &Script,
        pipeline: &Pipeline,
    ) -> Result<(), StoreError> {
        let (number, mut shared) = self.shared.take();
        let call = async {
            for _ in 1..SCRIPT_TRIES {
                match pipeline.exec_async(&mut shared).await {
                    Err(error) if is_script_unknown(&error) => {
                        script.load_async(&mut shared).await?;
                    }
                    other => return other,
                }
            }
            pipeline.exec_async(&mut shared).await
        };
        self.answer(step, &self.shared, number, call).await
    }

    /// The answer of a call on connection `number` of `line`, or what its lack means.
    async fn answer<T>(
        &self,
        step: &'static str,
        line: &Line,
        number: u64,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                if error.is_timeout() {
                    line.give_up(number);
                }
                Err(self.error(step, &error))
            }
            Err(_) => {
                let reason = format!("no connection within {} s", CALL_TIMEOUT.as_secs());
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
        if is_refused(error) {
            return StoreError::Refused { step, reason };
        }
        if error.is_io_error() || error.is_unrecoverable_error() || error.is_timeout() {
            return StoreError::Unanswered { step, reason };
        }
        // Whatever else the server says may be mended there; nothing is given up for it.
        StoreError::Refused { step, reason }
    }
}

fn client(url: &str) -> Result<Client, RedisError> {
    // An idle connection that is cut without a word is noticed after about 15 s, a busy one after 10 s.
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(5));
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(Duration::from_secs(10));
    let info = url.into_connection_info()?;
    // The third protocol tells us of a broken connection before the next command would.
    let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Client::open(info.set_tcp_settings(tcp).set_redis_settings(redis))
}

async fn dial(client: &Client, config: AsyncConnectionConfig) -> Result<MultiplexedConnection, RedisError> {
    let config =
        config.set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(Some(RESPONSE_TIMEOUT));
    client.get_multiplexed_async_connection_with_config(&config).await
}

fn first_refusal(url: &str, error: &RedisError) -> StoreError {
    let (url, reason) = (url.to_owned(), error.to_string());
    if is_login_refused(error) {
        return StoreError::LoginRefused { url, reason };
    }
    StoreError::Unreachable { url, reason }
}

fn is_login_refused(error: &RedisError) -> bool {
    let refusals = ["NOAUTH", "WRONGPASS", "NOPERM"];
    error.kind() == ErrorKind::AuthenticationFailed
        || error.code().is_some_and(|code| refusals.contains(&code))
}

fn is_script_unknown(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// The server is there and says no for now: it loads its data, is a replica, has no memory or no disk.
fn is_refused(error: &RedisError) -> bool {
    let for_now = ["OOM", "MISCONF", "NOREPLICAS", "BUSY", "LOADING", "READONLY", "MASTERDOWN"];
    let kinds = [ServerErrorKind::TryAgain, ServerErrorKind::ClusterDown, ServerErrorKind::NoScript];
    error.code().is_some_and(|code| for_now.contains(&code))
        || kinds.iter().any(|kind| error.kind() == ErrorKind::Server(*kind))
}

#[cfg(test)]
mod tests {
    use redis::RedisError;

    use super::{is_login_refused, is_refused};

    fn answered(line: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("{line}\r\n").as_bytes()).expect("a whole answer");
        value.extract_error().expect_err("the answer is an error")
    }

    #[test]
    fn a_server_that_says_no_for_now_is_told_from_one_that_says_no() {
        for line in [
            "-LOADING Redis is loading the dataset in memory",
            "-READONLY You can't write against a read only replica.",
            "-OOM command not allowed when used memory > 'maxmemory'.",
            "-MISCONF Redis is configured to save RDB snapshots",
            "-CLUSTERDOWN The cluster is down",
            "-TRYAGAIN Multiple keys request during rehashing of slot",
            "-BUSY Redis is busy running a script.",
        ] {
            assert!(is_refused(&answered(line)), "{line}");
            assert!(!is_login_refused(&answered(line)), "{line}");
        }
        for line in ["-NOAUTH Authentication required.", "-WRONGPASS invalid", "-NOPERM no permissions"] {
            assert!(is_login_refused(&answered(line)), "{line}");
            assert!(!is_refused(&answered(line)), "{line}");
        }
        assert!(!is_refused(&answered("-WRONGTYPE Operation against a key")));
    }
}
