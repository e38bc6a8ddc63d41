//! What the adapter is told: addresses, names, times. Passwords never leave here in readable form.

use lapin::uri::AMQPUri;
use std::fmt;
use std::time::Duration;

use crate::broker::BrokerError;
use crate::core::url::masked;
use crate::topology::lane::Fairness;
use crate::topology::plan::QueueTypes;

/// Settings of the RabbitMQ adapter.
#[derive(Clone)]
pub struct Settings {
    /// `amqp://USER:PASSWORD@HOST:PORT/VHOST` or `amqps://`; the nodes of one cluster, tried in order.
    pub urls: Vec<String>,
    /// What the server's console shows: `gleitzeit worker HOST ID`.
    pub name: String,
    /// A connection without a sign of life for twice as long is given up.
    pub heartbeat: Duration,
    /// What `declare` may do.
    pub declare: Declare,
    /// Whether the first connect waits for the server, instead of failing when nobody listens.
    pub wait: bool,
    /// The longest one attempt to connect may take. The first one of a process may take twice as long: it is
    /// tried once, and a busy machine is no reason to fail.
    pub connect_timeout: Duration,
    /// The longest a declaration, subscription or question may take.
    pub reply_timeout: Duration,
    /// The longest a message may wait for its confirm, and for a connection before that.
    pub publish_timeout: Duration,
    /// How many messages may be unconfirmed on one channel.
    pub confirm_window: usize,
    /// Queue types against the release's own choice.
    pub queue_types: QueueTypes,
    /// The protocols that have lanes, or had some.
    pub fairness: Fairness,
}

/// What `declare` may do with what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declare {
    /// Create it.
    Auto,
    /// Report it as an error.
    Check,
    /// Not even look.
    Never,
}

impl Settings {
    /// The settings for one server, with defaults.
    #[must_use]
    pub fn new(url: &str, name: &str) -> Settings {
        Settings {
            urls: vec![url.to_owned()],
            name: name.to_owned(),
            heartbeat: Duration::from_secs(10),
            declare: Declare::Auto,
            wait: false,
            connect_timeout: Duration::from_secs(5),
            reply_timeout: Duration::from_secs(20),
            publish_timeout: Duration::from_secs(15),
            confirm_window: 1_000,
            queue_types: QueueTypes::default(),
            fairness: Fairness::new(),
        }
    }

    /// The parsed addresses, each with what an error may show of it.
    pub(super) fn addresses(&self) -> Result<Vec<ServerAddress>, BrokerError> {
        if self.urls.is_empty() {
            let reason = "no address is configured".to_owned();
            return Err(BrokerError::Unreachable { url: String::new(), reason });
        }
        self.urls.iter().map(|url| self.address(url)).collect()
    }

    fn address(&self, url: &str) -> Result<ServerAddress, BrokerError> {
        let masked = masked(url);
        // The parser's own message quotes the address with its password: never pass it on.
        let unreadable =
            |reason: &str| BrokerError::Unreachable { url: masked.clone(), reason: reason.into() };
        let mut uri: AMQPUri = url.parse().map_err(|_| {
            unreadable("the address must look like amqp://USER:PASSWORD@HOST:PORT/VHOST (%2f for the virtual host /)")
        })?;
        if uri.authority.host.is_empty() || url.contains("@[") || url.contains("//[") {
            return Err(unreadable("the host must be a name or an IPv4 address"));
        }
        let seconds = self.heartbeat.as_secs().clamp(1, 3_600);
        uri.query.heartbeat.get_or_insert(u16::try_from(seconds).unwrap_or(10));
        // Never before our own time is over.
        let millis = u64::try_from(self.connect_timeout.as_millis()).unwrap_or(u64::MAX).saturating_mul(2);
        uri.query.connection_timeout.get_or_insert(millis);
        Ok(ServerAddress { uri, masked })
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<String> = self.urls.iter().map(|url| masked(url)).collect();
        f.debug_struct("Settings").field("urls", &urls).field("name", &self.name).finish_non_exhaustive()
    }
}

/// One server's address.
#[derive(Clone)]
pub(super) struct ServerAddress {
    pub(super) uri: AMQPUri,
    /// What people may see of it.
    pub(super) masked: String,
}

impl fmt::Debug for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for url in ["amqp://me:s3cret@host:1/v", "amqp://me:s3/cr@et@host", "me:s3cret@host"] {
            assert!(!format!("{:?}", Settings::new(url, "test")).contains("cret"), "{url}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_read_is_refused_without_its_password() {
        for url in [
            "me:s3cret@host",
            "http://me:s3cret@host/",
            "amqp://me:s3cret@[::1]:5672/",
            "amqp://me:s3cret@host:port/",
        ] {
            let error = Settings::new(url, "test").addresses().expect_err(url).to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
