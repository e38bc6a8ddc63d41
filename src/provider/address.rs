//! Servers behind addresses: how one is reached, what became of a connection, and when it may be asked again. The same
//! for all that speak HTTP; what a status means beyond that differs between them.
//!
//! | what happened                         | code                      | again? |
//! |---------------------------------------|---------------------------|--------|
//! | nobody listens                        | `CONNECTION_REFUSED`      | yes    |
//! | no connection in time                 | `CONNECTION_TIMEOUT`      | yes    |
//! | no such host, no way there, no TLS    | `NETWORK_UNREACHABLE`     | yes    |
//! | the connection broke                  | `CONNECTION_LOST`         | yes    |
//! | the request's own time limit          | `PROVIDER_TIMEOUT`        | yes    |
//! | an answer above the bound             | `RESULT_TOO_LARGE`        | no     |

use std::error::Error as _;
use std::io;
use std::time::Duration;

use jiff::fmt::rfc2822;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, redirect};

use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::url::{Url, masked};

/// How long a connection may take where nothing is said.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection that nobody uses is kept where nothing is said.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// The longest wait that a server may ask for: a day.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);

/// What HTTP to `url` goes through, and how the address is shown: without its password. Connects to nothing yet.
///
/// # Errors
/// `CONFIGURATION_ERROR`: no such address, or no certificates on this machine.
pub(super) fn client(
    url: &Url,
    connect_timeout: Duration,
    idle_timeout: Duration,
) -> Result<(Client, String), Failure> {
    let shown = masked(url.as_str());
    let parsed = reqwest::Url::parse(url.as_str()).map_err(|error| none(&shown, &error.to_string()))?;
    let mut builder = Client::builder()
        .user_agent(concat!("Gleitzeit/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(idle_timeout)
        // The address is the operator's word: no proxy of the environment, and no other server instead.
        .no_proxy()
        .redirect(redirect::Policy::none());
    match parsed.scheme() {
        // No TLS, so no certificates: not every machine has some, and loading them takes time.
        "http" => builder = builder.tls_certs_only([]),
        "https" => {}
        _ => return Err(none(&shown, "it must begin with http:// or https://")),
    }
    let client = builder.build().map_err(|error| none(&shown, &causes(&error)))?;
    Ok((client, shown))
}

/// It is no address of a server.
pub(super) fn none(shown: &str, why: &str) -> Failure {
    Failure::new(Code::ConfigurationError, format!("{shown:?} is no address of a server: {why}"))
}

/// What became of a connection to the server that is shown so. `limit`: how long its requests may take.
pub(super) fn broken(shown: &str, limit: Option<Duration>, error: &reqwest::Error) -> Failure {
    let code = match io_kind(error) {
        Some(io::ErrorKind::ConnectionRefused) => Code::ConnectionRefused,
        _ if error.is_timeout() && error.is_connect() => Code::ConnectionTimeout,
        _ if error.is_timeout() && limit.is_some() => Code::ProviderTimeout,
        _ if error.is_connect() => Code::NetworkUnreachable,
        _ => Code::ConnectionLost,
    };
    let message = match (code, limit) {
        (Code::ConnectionRefused, _) => {
            format!("no server listens at {shown}; start it, or correct its address")
        }
        (Code::ProviderTimeout, Some(limit)) => {
            format!("{shown} did not answer within {} s (`timeout` of this provider)", limit.as_secs_f64())
        }
        _ => format!("the connection to {shown} failed: {}", causes(error)),
    };
    let failure = Failure::new(code, message).with("server", shown);
    if error.is_connect() { failure.not_begun() } else { failure }
}

/// An answer above the bound; `what_to_do` about it.
pub(super) fn too_large(shown: &str, bytes_max: usize, what_to_do: &str) -> Failure {
    let message = format!("the answer of {shown} has more than {bytes_max} bytes; {what_to_do}");
    Failure::new(Code::ResultTooLarge, message).with("bytes_max", bytes_max)
}

/// What an operator's own server says by a status alone, with what it has said in words.
pub(super) fn refused(status: u16, message: String) -> Failure {
    let code = match status {
        401 => Code::AuthenticationFailed,
        403 => Code::AuthorizationFailed,
        408 | 504 => Code::ProviderTimeout,
        429 => Code::RateLimitExceeded,
        503 => Code::ProviderOverloaded,
        _ => Code::ProviderError,
    };
    let failure = Failure::new(code, message).with("status", status);
    // RFC 9110 sections 15.5.2 and 15.6.4, RFC 6585 section 4: the request was turned away at the door, and another
    // server may have the key or the room.
    if matches!(status, 401 | 429 | 503) { failure.not_begun() } else { failure }
}

/// What a server asks for: `Retry-After`, or the finer `retry-after-ms` that some have beside it, in seconds.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let fine = text("retry-after-ms").and_then(|ms| ms.trim().parse::<u64>().ok());
    match fine {
        Some(ms) => Some(ms.div_ceil(1000).to_string()),
        None => text(RETRY_AFTER.as_str()).map(str::to_owned),
    }
}

/// The wait that `Retry-After` asks for: seconds, or a date where it is known what time it is. What is neither asks for
/// nothing.
pub(super) fn wait(text: &str, now: Option<Timestamp>) -> Option<Duration> {
    let asked = match text.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let due = rfc2822::parse(text.trim()).ok()?.timestamp().as_millisecond();
            Timestamp::from_millis(due).since(now?)
        }
    };
    Some(asked.min(RETRY_AFTER_MAX))
}

/// What the system said, if it was the system.
fn io_kind(error: &reqwest::Error) -> Option<io::ErrorKind> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        source = cause.source();
    }
    None
}

/// The error's causes without its address, which may hold a password.
fn causes(error: &reqwest::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    // Each level likes to repeat the one below it.
    causes.dedup();
    if causes.is_empty() { "without a reason".to_owned() } else { causes.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
        for (text, seconds) in [
            ("2", Some(2)),
            ("Fri, 02 Jan 2026 03:04:35 GMT", Some(30)),
            ("Fri, 02 Jan 2026 03:00:00 GMT", Some(0)),
            ("99999999999", Some(86_400)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(wait(text, Some(now)), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(wait("Fri, 02 Jan 2026 03:04:35 GMT", None), None);
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "9".parse().expect("a value"));
        assert_eq!(retry_after(&headers).as_deref(), Some("9"));
        headers.insert("retry-after-ms", "1500".parse().expect("a value"));
        assert_eq!(retry_after(&headers).as_deref(), Some("2"));
    }
}
