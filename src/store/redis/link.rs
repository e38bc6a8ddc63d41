//! One connection to the server that takes writes, made anew whenever it broke.
//!
//! It is multiplexed: concurrent calls are pipelined on it by themselves, which measured five to eight times
//! faster than a pool. Whoever needs it while it is broken waits for one attempt that all share, made again with
//! growing pauses for as long as somebody waits. It counts as broken when it was closed, when an answer did not
//! come in time (a server that is frozen or cut off says nothing), and behind Sentinels when the server turns
//! out to be a replica: then the next attempt looks for the master again.

use backon::{BackoffBuilder, ExponentialBuilder};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::address::{Address, CONNECT_TIMEOUT};
use super::connection::{is_away, is_login_refused, is_of_replica};
use super::outage::Part;

/// The longest pause between two attempts to connect, before jitter doubles it at most.
pub(super) const RECONNECT_DELAY_MAX: Duration = Duration::from_millis(500);

/// Pauses between attempts to connect; they never end by count.
pub(super) fn pauses() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(RECONNECT_DELAY_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

/// A connection that heals. Cloning is cheap and gives the same connection.
#[derive(Clone)]
pub(super) struct Link {
    inner: Arc<Inner>,
}

struct Inner {
    address: Arc<Address>,
    part: Part,
    state: Mutex<State>,
    // Held while connecting, on purpose: one attempt for all who wait.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    /// Connections made so far.
    serial: u64,
    /// What the last attempt said, since the connection stood last.
    why_not: Option<String>,
}

/// A connection that stood a moment ago.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) connection: MultiplexedConnection,
    serial: u64,
}

impl Link {
    /// A link that connects when it is needed first.
    pub(super) fn new(address: Arc<Address>, part: Part) -> Link {
        let (state, connecting) = (Mutex::default(), tokio::sync::Mutex::default());
        Link { inner: Arc::new(Inner { address, part, state, connecting }) }
    }

    /// The connection; waits for it for as long as it takes. Cancel-safe.
    ///
    /// # Errors
    /// A login that is refused: waiting does not mend that.
    pub(super) async fn open(&self) -> Result<Open, RedisError> {
        if let Some(open) = self.inner.opened() {
            return Ok(open);
        }
        let _connecting = self.inner.connecting.lock().await;
        let mut pauses = pauses();
        loop {
            if let Some(open) = self.inner.opened() {
                return Ok(open);
            }
            let error = match self.dial(CONNECT_TIMEOUT).await {
                Ok(open) => return Ok(open),
                Err(error) => error,
            };
            self.inner.state().why_not = Some(error.to_string());
            if is_login_refused(&error) {
                self.inner.part.refused(&error.to_string());
                return Err(error);
            }
            self.inner.part.lost(&error.to_string());
            tokio::time::sleep(pauses.next().unwrap_or(RECONNECT_DELAY_MAX)).await;
        }
    }

    /// One attempt, of at most `patience`; what comes of it is the link's connection.
    pub(super) async fn dial(&self, patience: Duration) -> Result<Open, RedisError> {
        let serial = {
            let mut state = self.inner.state();
            state.serial += 1;
            state.serial
        };
        // Weak: the connection must not keep alive what keeps it open.
        let inner = Arc::downgrade(&self.inner);
        let pushed = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection
                && let Some(inner) = inner.upgrade()
            {
                inner.lost(serial, "the server closed the connection");
            }
            Ok::<(), redis::aio::SendError>(())
        };
        let config = AsyncConnectionConfig::new().set_push_sender(pushed);
        let connection = self.inner.address.dial(config, patience).await?;
        let open = Open { connection, serial };
        let mut state = self.inner.state();
        state.open = Some(open.clone());
        state.why_not = None;
        drop(state);
        self.inner.part.back();
        Ok(open)
    }

    /// What a call on `open` ended with: whether that means that the connection is broken.
    pub(super) fn note(&self, open: &Open, error: &RedisError) {
        if is_away(error) || is_of_replica(error) && self.inner.address.has_failover() {
            self.inner.lost(open.serial, &error.to_string());
        }
    }

    /// Why there is no connection at this moment, if there is none.
    pub(super) fn why_not(&self) -> Option<String> {
        self.inner.state().why_not.clone()
    }
}

impl Inner {
    fn opened(&self) -> Option<Open> {
        self.state().open.clone()
    }

    fn lost(&self, serial: u64, reason: &str) {
        let mut state = self.state();
        if state.open.as_ref().is_some_and(|open| open.serial == serial) {
            state.open = None;
            drop(state);
            self.part.lost(reason);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
