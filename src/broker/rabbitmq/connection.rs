//! One supervised connection.
//!
//! lapin's own recovery stays off: it hangs for ever when its attempts run out, and after an error of a
//! channel. Instead, whoever needs the connection asks [`Link::connection`], which opens it once for all
//! who wait, and each user (a publisher's lane, a consumer) opens its own channel again after a loss.
//! A lost connection is noticed by its users: lapin ends every channel on it.

use backon::ExponentialBuilder;
use lapin::{Channel, Connection, ConnectionProperties};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::failure::{ACCESS_REFUSED, NOT_ALLOWED, reply_code, within, words};
use super::settings::{ServerAddress, Settings};
use crate::broker::BrokerError;

/// Attempts to connect wait 100 ms to 2 s in between, with jitter, and never end by count: an outage of a
/// night must not leave a worker that has given up.
pub(super) fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times()
}

/// Users that wait together share a failure for this long, instead of each knocking at a closed door.
const FAILURE_SHARED: Duration = Duration::from_millis(100);

/// How long closing may take; the process ends anyway.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that is opened when it is needed, and again when it was lost.
#[derive(Debug)]
pub(super) struct Link {
    addresses: Vec<ServerAddress>,
    /// What the server's console shows.
    name: String,
    connect_timeout: Duration,
    reply_timeout: Duration,
    /// Fires in [`Link::close`], when all that was to be written is written: from then on nothing connects.
    closed: CancellationToken,
    // Held while connecting, on purpose: one attempt for all who wait.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Arc<Connection>>,
    failure: Option<(Instant, BrokerError)>,
}

impl Link {
    /// A link for `role` ("publish" or "consume"); connects to nothing yet.
    ///
    /// # Errors
    /// [`BrokerError::Unreachable`] if an address cannot be read.
    pub(super) fn new(settings: &Settings, role: &str) -> Result<Link, BrokerError> {
        Ok(Link {
            addresses: settings.addresses()?,
            name: format!("{} ({role})", settings.name),
            connect_timeout: settings.connect_timeout,
            reply_timeout: settings.reply_timeout,
            closed: CancellationToken::new(),
            state: Mutex::default(),
        })
    }

    /// The open connection; makes one attempt at every address if there is none.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, BrokerError> {
        if self.closed.is_cancelled() {
            return Err(BrokerError::Closed);
        }
        let mut state = self.state.lock().await;
        if let Some(connection) = state.connection.as_ref().filter(|open| open.status().connected()) {
            return Ok(Arc::clone(connection));
        }
        if let Some((since, failure)) = state.failure.as_ref().filter(|(at, _)| at.elapsed() < FAILURE_SHARED)
        {
            tracing::trace!(age_ms = since.elapsed().as_millis(), "sharing a failure to connect");
            return Err(failure.clone());
        }
        state.connection = None;
        match self.connect().await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                state.connection = Some(Arc::clone(&connection));
                state.failure = None;
                Ok(connection)
            }
            Err(error) => {
                state.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// A channel of the caller's own, with the connection that it lives on.
    pub(super) async fn channel(&self) -> Result<(Arc<Connection>, Channel), BrokerError> {
        let connection = self.connection().await?;
        match within(self.reply_timeout, connection.create_channel()).await {
            Ok(channel) => Ok((connection, channel)),
            Err(failure) => {
                let reason = if connection.status().blocked() { BLOCKED.to_owned() } else { failure.words() };
                Err(BrokerError::Unreachable { url: self.shown(), reason })
            }
        }
    }

    /// Whether the server has stopped reading what we publish. Never waits: while it connects, it has not.
    pub(super) fn blocked(&self) -> bool {
        let Ok(state) = self.state.try_lock() else { return false };
        state.connection.as_ref().is_some_and(|connection| connection.status().blocked())
    }

    /// The addresses, masked.
    pub(super) fn shown(&self) -> String {
        self.addresses.iter().map(|address| address.masked.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The addresses, for a question outside of AMQP.
    pub(super) fn addresses(&self) -> &[ServerAddress] {
        &self.addresses
    }

    /// Closes the connection if there is one, for good. Never fails, and takes no longer than 4 s.
    pub(super) async fn close(&self) {
        self.closed.cancel();
        // An attempt to connect may be under way; then there is nothing to close.
        let Ok(mut state) = tokio::time::timeout(CLOSE_TIMEOUT, self.state.lock()).await else { return };
        let Some(connection) = state.connection.take() else { return };
        if let Err(failure) = within(CLOSE_TIMEOUT, connection.close(200, "closed".into())).await {
            tracing::debug!(
                connection = self.name,
                reason = failure.words(),
                "connection not closed in order"
            );
        }
    }

    async fn connect(&self) -> Result<Connection, BrokerError> {
        let mut last = None;
        for address in &self.addresses {
            match self.connect_to(address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("the settings have at least one address"))
    }

    async fn connect_to(&self, address: &ServerAddress) -> Result<Connection, BrokerError> {
        let properties = ConnectionProperties::default()
            .with_connection_name(self.name.as_str().into())
            .with_client_property("product".into(), "gleitzeit".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let attempt = Connection::connect_uri(address.uri.clone(), properties);
        let url = address.masked.clone();
        match tokio::time::timeout(self.connect_timeout, attempt).await {
            Ok(Ok(connection)) => {
                tracing::debug!(connection = self.name, url, "connected");
                Ok(connection)
            }
            Ok(Err(error)) => Err(refusal(url, &error)),
            Err(_) => {
                let reason = format!("no answer within {} s", self.connect_timeout.as_secs_f32());
                Err(BrokerError::Unreachable { url, reason })
            }
        }
    }
}

/// What a person needs to know about a connection that takes nothing.
pub(super) const BLOCKED: &str =
    "the server has stopped taking messages (memory or disk alarm; see `rabbitmqctl list_alarms`)";

fn refusal(url: String, error: &lapin::Error) -> BrokerError {
    let reason = words(error);
    match reply_code(error) {
        Some(ACCESS_REFUSED | NOT_ALLOWED) => BrokerError::LoginRefused { url, reason },
        Some(_) | None => BrokerError::Unreachable { url, reason },
    }
}
