//! Addresses of servers, as people may see them.

use std::fmt;

/// An address as it was configured, which may hold a password. It is shown without.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// All of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Url {
    fn from(url: String) -> Url {
        Url(url)
    }
}

impl From<&str> for Url {
    fn from(url: &str) -> Url {
        Url(url.to_owned())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&masked(&self.0), f)
    }
}

/// The address without its password, whatever it looks like: `amqp://user:***@host/vhost`. The query is
/// left out too, for it may hold another.
#[must_use]
pub fn masked(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    // The last `@` counts: a password that was not percent-encoded may hold others, and `/` and `?` too.
    let (login, host) = match rest.rsplit_once('@') {
        Some((login, host)) => (Some(login), host),
        None => (None, rest),
    };
    let host = host.split_once('?').map_or(host, |(before, _)| before);
    let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
    match login.map(|login| login.split_once(':').map_or((login, false), |(user, _)| (user, true))) {
        Some((user, true)) => format!("{scheme}{user}:***@{host}"),
        Some((user, false)) => format!("{scheme}{user}@{host}"),
        None => format!("{scheme}{host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn a_password_is_never_shown() {
        let cases = [
            ("amqp://me:s3cret@host:1/v", "amqp://me:***@host:1/v"),
            ("amqp://me:s3%2Fcret@host/%2f", "amqp://me:***@host/%2f"),
            ("amqp://me:s3/cr@et@host", "amqp://me:***@host"),
            ("amqp://me:s3?cret@host", "amqp://me:***@host"),
            ("amqp://host/v?password=s3cret", "amqp://host/v"),
            ("redis://:s3cret@h:1/0", "redis://:***@h:1/0"),
            ("unix:///run/redis.sock?pass=s3cret", "unix:///run/redis.sock"),
            ("me:s3cret@host", "me:***@host"),
            ("me@host", "me@host"),
            ("amqp://h/v", "amqp://h/v"),
            ("nonsense", "nonsense"),
            ("", ""),
        ];
        for (url, shown) in cases {
            assert_eq!(masked(url), shown);
        }
    }
}
