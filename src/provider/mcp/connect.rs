//! Sessions as members of a pool: how one is made ready.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{HeaderName, HeaderValue};
use rmcp::service::{Peer, RoleClient};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::common::client_side_sse::ExponentialBackoff;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::catalog::Catalog;
use super::offer;
use super::process::Process;
use super::session::Session;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::url::Url;
use crate::provider::address::{self, CONNECT_TIMEOUT, IDLE_TIMEOUT};
use crate::provider::pool::Maker;
use crate::provider::process::{Confined, group_bytes};
use crate::provider::rpc::stdio::{read_secret, read_secrets};

/// How long what a server offers is not asked for again after it was: some say all the time that it has changed.
const RELEARN_PAUSE: Duration = Duration::from_secs(1);
/// Requests to one address at once.
const REQUESTS_MAX: usize = 1000;
/// How often a broken stream is taken up again, and the first pause before.
const RESUMES_MAX: usize = 2;
const RESUME_PAUSE: Duration = Duration::from_millis(200);

/// Makes sessions with one server.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) name: String,
    pub(super) way: Way,
    pub(super) start_timeout: Duration,
    /// The longest message, in bytes.
    pub(super) message_bytes_max: usize,
    pub(super) catalog: Arc<Catalog>,
    pub(super) tasks: TaskTracker,
}

/// How a session begins.
#[derive(Debug)]
pub(super) enum Way {
    /// With a process.
    Process {
        confined: Confined,
        /// Variables and the files that hold their values, read at each start.
        secrets: Vec<(String, PathBuf)>,
    },
    /// With a request to an address.
    Http {
        client: reqwest::Client,
        url: Url,
        /// The address without its password.
        shown: String,
        /// Holds the token of `Authorization: Bearer`, read at each start.
        token_file: Option<PathBuf>,
        /// Holds a header in each line, read at each start.
        headers_file: Option<PathBuf>,
    },
}

impl Sessions {
    async fn open(&self) -> Result<Session, Failure> {
        match &self.way {
            Way::Process { confined, secrets } => {
                let secrets = read_secrets(&self.name, secrets).await?;
                let bytes_max = self.message_bytes_max;
                let started = Process::start(&self.name, confined, secrets, bytes_max, &self.tasks).await;
                let (process, pipes) = started
                    .map_err(|error| Failure::new(Code::ProviderInitializationFailed, error.to_string()))?;
                let life = Arc::clone(&process.life);
                let opened = timeout(
                    self.start_timeout,
                    Session::open(&self.name, pipes, Some(process), None, &self.tasks),
                )
                .await;
                let opened = opened.unwrap_or_else(|_| Err(self.silent()));
                match opened {
                    Ok(session) => Ok(session),
                    Err(failure) => Err(life.explain(failure).await),
                }
            }
            Way::Http { client, url, shown, token_file, headers_file } => {
                let mut config = StreamableHttpClientTransportConfig::with_uri(url.as_str())
                    .max_concurrent_requests(REQUESTS_MAX)
                    .max_json_response_size(self.message_bytes_max)
                    .max_sse_event_size(self.message_bytes_max);
                let mut retry = ExponentialBackoff::default();
                (retry.max_times, retry.base_duration) = (Some(RESUMES_MAX), RESUME_PAUSE);
                config.retry_config = Arc::new(retry);
                if let Some(path) = token_file {
                    config = config.auth_header(read_secret(&self.name, "the token", path).await?);
                }
                if let Some(path) = headers_file {
                    let text = read_secret(&self.name, "the headers", path).await?;
                    config = config.custom_headers(headers(&text)?);
                }
                let transport = StreamableHttpClientTransport::with_client(client.clone(), config);
                let opened = Session::open(&self.name, transport, None, Some(shown.clone()), &self.tasks);
                timeout(self.start_timeout, opened).await.unwrap_or_else(|_| Err(self.silent()))
            }
        }
    }

    fn silent(&self) -> Failure {
        let seconds = self.start_timeout.as_secs_f64();
        Failure::new(Code::ProviderTimeout, format!("it did not answer initialize within {seconds} s"))
    }

    /// Asks what it offers, and writes that down.
    async fn learn(&self, session: &Session) -> Result<(), Failure> {
        let mark = session.mark();
        let asked = timeout(self.start_timeout, offer::ask(&self.name, session.peer())).await;
        let offer = match asked.map_err(|_| self.silent())? {
            Ok(offer) => offer,
            Err(error) => return Err(session.failed(error, mark).await),
        };
        tracing::info!(
            provider = self.name,
            tools = offer.tools.len(),
            resources = offer.resources.len(),
            prompts = offer.prompts.len(),
            "the MCP server has started"
        );
        self.catalog.put(&self.name, offer);
        Ok(())
    }

    fn follow(&self, session: &Session) {
        let (catalog, name, limit) = (Arc::clone(&self.catalog), self.name.clone(), self.start_timeout);
        let (peer, (heard, ended)) = (session.peer().clone(), session.news());
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = ended.cancelled() => return,
                    () = heard.changed.notified() => {}
                }
                let learn = async {
                    relearn(&name, &peer, &catalog, limit).await;
                    // What changes in the meantime is heard after it.
                    sleep(RELEARN_PAUSE).await;
                };
                tokio::select! {
                    () = ended.cancelled() => return,
                    () = learn => {}
                }
            }
        });
    }
}

/// What it offers has changed.
async fn relearn(name: &str, peer: &Peer<RoleClient>, catalog: &Catalog, limit: Duration) {
    match timeout(limit, offer::ask(name, peer)).await {
        Ok(Ok(offer)) => {
            tracing::info!(
                provider = name,
                tools = offer.tools.len(),
                "the MCP server offers something else"
            );
            catalog.put(name, offer);
        }
        Ok(Err(error)) => tracing::warn!(provider = name, %error, "what it offers now could not be had"),
        Err(_) => tracing::warn!(provider = name, "what it offers now could not be had in time"),
    }
}

/// A header in each line: `Name: value`.
fn headers(text: &str) -> Result<HashMap<HeaderName, HeaderValue>, Failure> {
    let wrong = |number: usize| {
        // Not what stands there: it may be a secret.
        let message = format!("line {} of headers_file is no header, such as `X-Api-Key: value`", number + 1);
        Failure::new(Code::ConfigurationError, message)
    };
    let mut found = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(|| wrong(number))?;
        let name: HeaderName = name.trim().parse().map_err(|_| wrong(number))?;
        let mut value: HeaderValue = value.trim().parse().map_err(|_| wrong(number))?;
        value.set_sensitive(true);
        found.insert(name, value);
    }
    Ok(found)
}

impl Way {
    /// To an address.
    ///
    /// # Errors
    /// `CONFIGURATION_ERROR`: it is none.
    pub(super) fn to(
        url: &Url,
        token_file: Option<PathBuf>,
        headers_file: Option<PathBuf>,
    ) -> Result<Way, Failure> {
        let (client, shown) = address::client(url, CONNECT_TIMEOUT, IDLE_TIMEOUT)?;
        Ok(Way::Http { client, url: url.clone(), shown, token_file, headers_file })
    }
}

#[async_trait]
impl Maker for Sessions {
    type Member = Session;

    async fn start(&self) -> Result<Session, Failure> {
        let could_not = |failure: Failure| {
            let message = format!("provider {} could not start: {}", self.name, failure.message);
            Failure { code: Code::ProviderInitializationFailed, message, retryable: true, ..failure }
        };
        let session = self.open().await.map_err(could_not)?;
        if let Err(failure) = self.learn(&session).await {
            session.stop().await;
            return Err(could_not(failure));
        }
        self.follow(&session);
        Ok(session)
    }

    async fn ended(&self, session: &Session) -> String {
        session.ended().await
    }

    fn has_ended(&self, session: &Session) -> bool {
        session.has_ended()
    }

    async fn stop(&self, session: &Session) {
        session.stop().await;
    }

    async fn held(&self, sessions: &[Arc<Session>]) -> Vec<Option<u64>> {
        let group = |session: &Arc<Session>| session.process.as_ref().map(|process| process.group);
        let groups: Vec<Option<i32>> = sessions.iter().map(group).collect();
        let asked: Vec<i32> = groups.iter().flatten().copied().collect();
        // Reading /proc blocks for some milliseconds.
        let held = self.tasks.spawn_blocking(move || group_bytes(&asked)).await.unwrap_or_default();
        groups.iter().map(|group| held.get(&(*group)?).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_line_by_line_and_never_shown() {
        let read = headers("X-Api-Key: s3cret: x\n\nx-tenant:a\n").expect("two");
        let key = &read[&HeaderName::from_static("x-api-key")];
        assert_eq!((read.len(), key), (2, &HeaderValue::from_static("s3cret: x")));
        assert!(!format!("{read:?}").contains("s3cret"));
        let said = headers("X-A: b\ns3cret\n").expect_err("no header").message;
        assert!(said.contains("line 2") && !said.contains("s3cret"), "{said}");
    }
}
