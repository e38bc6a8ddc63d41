//! One supervised connection.
//!
//! lapin's own recovery stays off: it hangs for ever when its attempts run out, and after an error of a
//! channel. Instead, whoever needs the connection asks [`Link::connection`], which opens it once for all
//! who wait, and each user (a publisher's lane, a consumer) opens its own channel again after a loss.
//!
//! A link that was open once is kept open ([`Link::supervise`]), which is also the one that tells people: one line
//! when the connection is lost and one when it is back, however many use it; the same for a server that takes no
//! messages. These are warnings all, for whoever reads the first looks for the second. A login that is refused
//! needs a person and is an error, said once.
//!
//! *Several addresses* are those of one cluster's nodes: the one that worked last is tried first, then all in order.

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::StreamExt;
use lapin::{Channel, Connection, ConnectionProperties, Event};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::failure::{ACCESS_REFUSED, NOT_ALLOWED, reply_code, within, words};
use super::settings::{ServerAddress, Settings};
use crate::broker::BrokerError;

/// The longest pause between two attempts, before jitter, which doubles it at most. Short, because consuming
/// must go on within 3 s of a port that answers again.
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(700);

/// Attempts to connect wait 100 ms to 1.4 s in between, with jitter, and never end by count: an outage of a
/// night must not leave a worker that has given up.
pub(super) fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times()
}

/// Users that wait together share a failure for this long, instead of each knocking at a closed door.
const FAILURE_SHARED: Duration = Duration::from_millis(100);

/// How often a connection is looked at that says nothing of itself.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

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
    /// Connections made so far: who waits for one is woken by the next.
    made: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Arc<Connection>>,
    /// The address that worked last.
    preferred: usize,
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
            made: watch::Sender::new(0),
        })
    }

    /// Keeps the connection open once it was, and tells people of losses. Ends when `closed` fires.
    pub(super) async fn supervise(self: Arc<Self>, closed: CancellationToken) {
        closed.run_until_cancelled(self.keep_open()).await;
    }

    async fn keep_open(&self) {
        let mut made = self.made.subscribe();
        let mut connection = loop {
            if let Some(connection) = self.state.lock().await.connection.clone() {
                break connection;
            }
            if made.changed().await.is_err() {
                return;
            }
        };
        loop {
            let reason = self.until_lost(&connection).await;
            let server = self.shown();
            tracing::warn!(
                connection = self.name,
                server,
                reason,
                "connection to the broker lost; connecting again"
            );
            connection = self.connection_again().await;
            tracing::warn!(connection = self.name, server, "connected to the broker again");
        }
    }

    /// Tells when the server takes no messages and when it does again. Why the connection was lost.
    async fn until_lost(&self, connection: &Connection) -> String {
        let events = connection.events_listener();
        tokio::pin!(events);
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reason = None;
        while connection.status().connected() {
            let event = tokio::select! {
                event = events.next() => event,
                _ = look.tick() => continue,
            };
            match event {
                Some(Event::ConnectionBlocked(alarm)) => {
                    tracing::warn!(connection = self.name, alarm, "{BLOCKED}; publishes wait");
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::warn!(connection = self.name, "the server takes messages again");
                }
                // The status says the same a moment later, unless it is only about a channel.
                Some(Event::Error(error)) if !error.is_amqp_soft_error() => reason = Some(words(&error)),
                Some(_) => {}
                None => break,
            }
        }
        reason.unwrap_or_else(|| "it was closed".to_owned())
    }

    async fn connection_again(&self) -> Arc<Connection> {
        let mut waits = backoff().build();
        let mut told = false;
        loop {
            match self.connection().await {
                Ok(connection) => return connection,
                Err(error) if error.is_transient() || std::mem::replace(&mut told, true) => {
                    tracing::debug!(connection = self.name, %error, "not connected yet");
                }
                Err(error) => {
                    tracing::error!(connection = self.name, %error, "cannot connect to the broker; trying again");
                }
            }
            tokio::time::sleep(waits.next().unwrap_or(PAUSE_MAX)).await;
        }
    }

    /// Fires with the next connection that is made.
    pub(super) fn made(&self) -> watch::Receiver<u64> {
        self.made.subscribe()
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
        match self.connect(state.preferred).await {
            Ok((connection, at)) => {
                let connection = Arc::new(connection);
                state.connection = Some(Arc::clone(&connection));
                (state.failure, state.preferred) = (None, at);
                self.made.send_modify(|made| *made += 1);
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

    /// The connection, and which address it is to.
    async fn connect(&self, preferred: usize) -> Result<(Connection, usize), BrokerError> {
        let others = (0..self.addresses.len()).filter(|at| *at != preferred);
        let mut first_error = None;
        for at in std::iter::once(preferred).chain(others) {
            match self.connect_to(&self.addresses[at]).await {
                Ok(connection) => return Ok((connection, at)),
                // A login that is refused says more than a node that is not there.
                Err(error) if !error.is_transient() => first_error = Some(error),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.expect("the settings have at least one address"))
    }

    async fn connect_to(&self, address: &ServerAddress) -> Result<Connection, BrokerError> {
        let properties = ConnectionProperties::default()
            .with_connection_name(self.name.as_str().into())
            .with_client_property("product".into(), "gleitzeit".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let attempt = Connection::connect_uri(address.uri.clone(), properties);
        let url = address.masked.clone();
        let is_first = *self.made.borrow() == 0;
        let patience = self.connect_timeout * if is_first { 2 } else { 1 };
        match tokio::time::timeout(patience, attempt).await {
            Ok(Ok(connection)) => {
                tracing::debug!(connection = self.name, url, "connected");
                Ok(connection)
            }
            Ok(Err(error)) => Err(refusal(url, &error)),
            Err(_) => {
                let reason = format!("no answer within {} s", patience.as_secs_f32());
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
