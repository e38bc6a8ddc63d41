//! One exchange with a model's server, and what can go wrong with it, in our codes.
//!
//! | what happened                         | code                      | again? |
//! |---------------------------------------|---------------------------|--------|
//! | nobody listens                        | `CONNECTION_REFUSED`      | yes    |
//! | no connection in time                 | `CONNECTION_TIMEOUT`      | yes    |
//! | no such host, no way there, no TLS    | `NETWORK_UNREACHABLE`     | yes    |
//! | the connection broke                  | `CONNECTION_LOST`         | yes    |
//! | 400, 413, 422                         | `INVALID_PARAMS`          | no     |
//! | 401; 403                              | `AUTHENTICATION_FAILED`; `AUTHORIZATION_FAILED` | no |
//! | 408, 504                              | `PROVIDER_TIMEOUT`        | yes    |
//! | 429                                   | `RATE_LIMIT_EXCEEDED`     | yes, not before `Retry-After` |
//! | 503                                   | `PROVIDER_OVERLOADED`     | yes, not before `Retry-After` |
//! | any other 5xx; no JSON                | `PROVIDER_ERROR`          | yes    |
//! | any other status                      | `PROVIDER_ERROR`          | no     |
//! | an answer above the bound             | `RESULT_TOO_LARGE`        | no     |
//!
//! There is no time limit here: a call's limit is kept by the guard around the provider. An exchange that is
//! dropped or cancelled closes its connection, which is how a server learns that nobody waits any more.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use jiff::fmt::rfc2822;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, redirect};
use serde_json::Value;

use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::url::masked;
use crate::provider::CallCx;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a server's words is put into a message, in characters.
const WORDS_MAX: usize = 500;
/// The longest wait that a server may ask for: a day.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);

/// A server, with connections that are used again.
#[derive(Debug)]
pub(super) struct Server {
    base: String,
    /// Its address without a password.
    pub(super) shown: String,
    client: Client,
    answer_bytes_max: usize,
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// The HTTP status.
    pub(super) status: u16,
    /// The body, whole.
    pub(super) body: Vec<u8>,
    retry_after: Option<String>,
}

impl Server {
    /// A server at `url` (`http://` or `https://`, with a path if it has one). Connects to nothing yet.
    ///
    /// # Errors
    /// `CONFIGURATION_ERROR`: no such address, or no certificates on this machine.
    pub(super) fn new(url: &str, answer_bytes_max: usize) -> Result<Server, Failure> {
        let shown = masked(url);
        let wrong = |why: &str| {
            Failure::new(Code::ConfigurationError, format!("{shown:?} is no address of a server: {why}"))
        };
        let parsed = reqwest::Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
        let mut builder = Client::builder()
            .user_agent(concat!("Gleitzeit/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // The address is the operator's word: no proxy of the environment, and no other server instead.
            .no_proxy()
            .redirect(redirect::Policy::none());
        match parsed.scheme() {
            // No TLS, so no certificates: not every machine has some, and loading them takes time.
            "http" => builder = builder.tls_certs_only([]),
            "https" => {}
            _ => return Err(wrong("it must begin with http:// or https://")),
        }
        let client = builder.build().map_err(|error| wrong(&causes(&error)))?;
        Ok(Server { base: url.trim_end_matches('/').to_owned(), shown, client, answer_bytes_max })
    }

    /// Sends JSON and takes the whole answer, whatever its status.
    ///
    /// # Errors
    /// No connection, a broken one, an answer above the bound; `TASK_CANCELLED` once the call must end.
    pub(super) async fn post(&self, cx: &CallCx, path: &str, body: &Value) -> Result<Reply, Failure> {
        let mut request = self.client.post(self.address(path)).header(CONTENT_TYPE, "application/json");
        if let Some(traceparent) = &cx.traceparent {
            request = request.header("traceparent", traceparent);
        }
        tokio::select! {
            biased;
            () = cx.cancel.cancelled() => {
                Err(Failure::new(Code::TaskCancelled, format!("the request to {} was given up", self.shown)))
            }
            reply = self.exchange(request.body(body.to_string())) => reply,
        }
    }

    /// Asks for something.
    ///
    /// # Errors
    /// As [`Server::post`].
    pub(super) async fn get(&self, path: &str) -> Result<Reply, Failure> {
        self.exchange(self.client.get(self.address(path))).await
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn exchange(&self, request: RequestBuilder) -> Result<Reply, Failure> {
        let mut response = request.send().await.map_err(|error| self.broken(&error))?;
        let (status, retry_after) = (response.status().as_u16(), retry_after(response.headers()));
        let body = self.bounded(&mut response).await?;
        Ok(Reply { status, body, retry_after })
    }

    async fn bounded(&self, response: &mut Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(&error))? {
            if body.len() + chunk.len() > self.answer_bytes_max {
                let max = self.answer_bytes_max;
                let message = format!(
                    "the answer of {} has more than {max} bytes; ask for less (`max_tokens`)",
                    self.shown
                );
                return Err(Failure::new(Code::ResultTooLarge, message).with("bytes_max", max));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn broken(&self, error: &reqwest::Error) -> Failure {
        let code = match io_kind(error) {
            Some(io::ErrorKind::ConnectionRefused) => Code::ConnectionRefused,
            _ if error.is_timeout() => Code::ConnectionTimeout,
            _ if error.is_connect() => Code::NetworkUnreachable,
            _ => Code::ConnectionLost,
        };
        let message = match code {
            Code::ConnectionRefused => {
                format!("no server listens at {}; start it, or correct its address", self.shown)
            }
            _ => format!("the connection to {} failed: {}", self.shown, causes(error)),
        };
        let failure = Failure::new(code, message).with("server", self.shown.as_str());
        if error.is_connect() { failure.not_begun() } else { failure }
    }
}

impl Reply {
    /// Whether the server did what it was asked.
    pub(super) fn is_ok(&self) -> bool {
        self.status == 200
    }

    /// What the server says is wrong: `{"error": "..."}`, `{"error": {"message": "..."}}`, or its first words.
    pub(super) fn words(&self) -> String {
        let said: Option<Value> = serde_json::from_slice(&self.body).ok();
        let error = said.as_ref().and_then(|said| said.get("error"));
        let words = error.and_then(|error| error.as_str().or_else(|| error.get("message")?.as_str()));
        let raw = String::from_utf8_lossy(&self.body);
        words.unwrap_or(raw.trim()).chars().take(WORDS_MAX).collect()
    }

    /// Why there is no answer, by the status. `now` is what a date in `Retry-After` is compared with.
    pub(super) fn refusal(&self, server: &Server, now: Timestamp) -> Failure {
        let code = match self.status {
            400 | 413 | 422 => Code::InvalidParams,
            401 => Code::AuthenticationFailed,
            403 => Code::AuthorizationFailed,
            408 | 504 => Code::ProviderTimeout,
            429 => Code::RateLimitExceeded,
            503 => Code::ProviderOverloaded,
            _ => Code::ProviderError,
        };
        let message = format!("{} answered {}: {}", server.shown, self.status, self.words());
        let mut failure =
            Failure::new(code, message).with("server", server.shown.as_str()).with("status", self.status);
        if code == Code::ProviderError && self.status < 500 {
            failure = failure.final_now();
        }
        if matches!(code, Code::RateLimitExceeded | Code::ProviderOverloaded) {
            // RFC 6585 section 4, RFC 9110 section 15.6.4: the request was turned away at the door.
            failure = failure.not_begun();
        }
        if failure.retryable {
            failure.retry_after = self.retry_after.as_deref().and_then(|text| wait(text, now));
        }
        failure
    }
}

fn retry_after(headers: &HeaderMap) -> Option<String> {
    Some(headers.get(RETRY_AFTER)?.to_str().ok()?.to_owned())
}

/// The wait that `Retry-After` asks for: seconds, or a date. What is neither asks for nothing.
fn wait(text: &str, now: Timestamp) -> Option<Duration> {
    let asked = match text.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let due = rfc2822::parse(text.trim()).ok()?.timestamp().as_millisecond();
            Timestamp::from_millis(due).since(now)
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

    fn reply(status: u16, body: &str, retry_after: Option<&str>) -> Reply {
        Reply { status, body: body.as_bytes().to_vec(), retry_after: retry_after.map(str::to_owned) }
    }

    fn server() -> Server {
        Server::new("http://me:s3cret@127.0.0.1:1", 100).expect("an address")
    }

    #[test]
    fn a_status_says_whether_to_try_again() {
        for (status, code, retryable) in [
            (400, Code::InvalidParams, false),
            (401, Code::AuthenticationFailed, false),
            (403, Code::AuthorizationFailed, false),
            (302, Code::ProviderError, false),
            (418, Code::ProviderError, false),
            (429, Code::RateLimitExceeded, true),
            (500, Code::ProviderError, true),
            (502, Code::ProviderError, true),
            (503, Code::ProviderOverloaded, true),
            (504, Code::ProviderTimeout, true),
        ] {
            let failure =
                reply(status, r#"{"error": "because"}"#, Some("7")).refusal(&server(), Timestamp::default());
            assert_eq!((failure.code, failure.retryable), (code, retryable), "{status}");
            assert!(failure.message.ends_with("because") && !failure.message.contains("s3cret"), "{failure}");
            assert_eq!(failure.retry_after, retryable.then_some(Duration::from_secs(7)), "{status}");
        }
    }

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
            assert_eq!(wait(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn a_server_says_what_is_wrong_in_one_of_three_ways() {
        for (body, words) in [
            (r#"{"error": "no such model"}"#, "no such model"),
            (r#"{"error": {"message": "no such model", "type": "x"}}"#, "no such model"),
            ("<html>Bad Gateway</html>\n", "<html>Bad Gateway</html>"),
            ("", ""),
        ] {
            assert_eq!(reply(500, body, None).words(), words);
        }
        assert_eq!(reply(500, &"x".repeat(10_000), None).words().len(), WORDS_MAX);
    }

    #[test]
    fn an_address_that_is_none_is_refused_without_its_password() {
        for url in ["127.0.0.1:11434", "localhost:11434", "ftp://me:s3cret@host", "http://", ""] {
            let failure = Server::new(url, 100).expect_err(url);
            assert_eq!(failure.code, Code::ConfigurationError);
            assert!(!failure.message.contains("s3cret"), "{failure}");
        }
    }
}
