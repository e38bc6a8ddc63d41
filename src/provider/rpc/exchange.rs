//! One HTTP request and its whole answer, with a bound.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, redirect};

use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::url::{Url, masked};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait that a server may ask for: a day.
const RETRY_AFTER_MAX: u64 = 86_400;
/// How much of a server's words is put into a message, in characters.
const WORDS_MAX: usize = 500;

/// A server, with connections that are used again.
#[derive(Debug)]
pub(super) struct Server {
    url: Url,
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
    /// `Retry-After`, where it is in seconds.
    pub(super) retry_after: Option<Duration>,
}

impl Server {
    /// A server at `url` (`http://` or `https://`). Connects to nothing yet.
    ///
    /// # Errors
    /// `CONFIGURATION_ERROR`: no such address, or no certificates on this machine.
    pub(super) fn new(url: &Url, answer_bytes_max: usize) -> Result<Server, Failure> {
        let (client, shown) = client(url)?;
        Ok(Server { url: url.clone(), shown, client, answer_bytes_max })
    }

    /// Sends a document and takes the whole answer, whatever its status. Dropped, the connection is closed.
    ///
    /// # Errors
    /// No connection, a broken one, an answer above the bound.
    pub(super) async fn post(&self, body: Vec<u8>, traceparent: Option<&str>) -> Result<Reply, Failure> {
        let mut request =
            self.client.post(self.url.as_str()).header(CONTENT_TYPE, "application/json").body(body);
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        let mut response = request.send().await.map_err(|error| broken(&self.shown, &error))?;
        let status = response.status().as_u16();
        let seconds =
            response.headers().get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse::<u64>().ok());
        let retry_after = seconds.map(|seconds| Duration::from_secs(seconds.min(RETRY_AFTER_MAX)));
        let body = self.bounded(&mut response).await?;
        Ok(Reply { status, body, retry_after })
    }

    async fn bounded(&self, response: &mut Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(&self.shown, &error))? {
            if body.len() + chunk.len() > self.answer_bytes_max {
                let max = self.answer_bytes_max;
                let message = format!(
                    "the answer of {} has more than {max} bytes; return less, or store it elsewhere and return where it is",
                    self.shown
                );
                return Err(Failure::new(Code::ResultTooLarge, message).with("bytes_max", max));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// What HTTP to `url` goes through, and how the address is shown: without its password.
///
/// # Errors
/// `CONFIGURATION_ERROR`: no such address, or no certificates on this machine.
pub(in crate::provider) fn client(url: &Url) -> Result<(Client, String), Failure> {
    let shown = masked(url.as_str());
    let wrong = |why: &str| {
        Failure::new(Code::ConfigurationError, format!("{shown:?} is no address of a server: {why}"))
    };
    let parsed = reqwest::Url::parse(url.as_str()).map_err(|error| wrong(&error.to_string()))?;
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
    Ok((client, shown))
}

/// What became of a connection to the server that is shown so.
pub(in crate::provider) fn broken(shown: &str, error: &reqwest::Error) -> Failure {
    let code = match io_kind(error) {
        Some(io::ErrorKind::ConnectionRefused) => Code::ConnectionRefused,
        _ if error.is_timeout() => Code::ConnectionTimeout,
        _ if error.is_connect() => Code::NetworkUnreachable,
        _ => Code::ConnectionLost,
    };
    let message = match code {
        Code::ConnectionRefused => {
            format!("no server listens at {shown}; start it, or correct its address")
        }
        _ => format!("the connection to {shown} failed: {}", causes(error)),
    };
    let failure = Failure::new(code, message).with("server", shown);
    if error.is_connect() { failure.not_begun() } else { failure }
}

impl Reply {
    /// The first words of the body.
    pub(super) fn words(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().chars().take(WORDS_MAX).collect()
    }
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
