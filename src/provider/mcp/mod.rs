//! Servers of the Model Context Protocol: each is a provider of `mcp/v1`, by the protocol's own SDK.
//!
//! ```text
//! catalog   what all servers offer; which of them a name means; schemas of tools
//! connect   how a session is made ready for the pool
//! session   one session: introduction, calls, what the server says in between, its end
//! pipes     messages over the standard streams of a process
//! process   the process, and how it ends
//! offer     asking a server what it offers
//! outcome   answers and errors, as results and failures of tasks
//! ```
//! The pool that keeps the processes of other providers keeps sessions here, usually one for many calls at once: one
//! that ends is begun anew, after a pause where that fails. A call under way at its end fails with `CONNECTION_LOST` and
//! may be tried again; one that had not begun waits for the next session.
//!
//! Arguments are held against the schema of their tool first: what does not fit never reaches the server.

mod catalog;
mod connect;
mod offer;
mod outcome;
mod pipes;
mod process;
mod session;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientRequest, GetPromptRequest, GetPromptRequestParams,
    ReadResourceRequest, ReadResourceRequestParams,
};
use serde_json::Value;
use tokio_util::task::TaskTracker;

use self::connect::{Sessions, Way};
use self::session::Session;
use super::pool::{self, Pool};
use super::process::Confined;
use super::rpc::Command;
use super::{Answer, CallCx, Health, PoolStanding, Provider, mcp_tools};
use crate::core::breaker::Ending;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::pool::Policy;
use crate::core::protocol::ProtocolId;
use crate::core::url::Url;

pub use catalog::Catalog;
pub(super) use catalog::Kind;

/// What a message needs beside the result, in bytes.
const ENVELOPE_BYTES: usize = 256 * 1024;

/// A server.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// How it is reached.
    pub road: Road,
    /// Whether the operator has given it a rank: it is an alternative to others that have one, where names are equal.
    pub is_ranked: bool,
    /// The largest result, in bytes of JSON.
    pub result_bytes_max: usize,
}

/// How a server is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum Road {
    /// By processes that we start.
    Processes(Box<Command>),
    /// At an address (streamable HTTP).
    Http(Box<Address>),
}

/// An address.
#[derive(Debug, Clone, PartialEq)]
pub struct Address {
    /// `http://` or `https://`.
    pub url: Url,
    /// A file with the token that is sent as `Authorization: Bearer`, read when a session begins.
    pub token_file: Option<PathBuf>,
    /// A file with headers to be sent, one in a line, read when a session begins.
    pub headers_file: Option<PathBuf>,
    /// How many sessions there are.
    pub pool: Policy,
    /// How long the server may take to be ready.
    pub start_timeout: Duration,
}

/// One server.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    protocol: ProtocolId,
    catalog: Arc<Catalog>,
    /// The bounds of the pool; what is configured unless it was scaled.
    bounds: Mutex<Option<(u32, u32)>>,
    /// There from `start` to `stop`.
    line: Mutex<Option<Line>>,
}

/// A server that has been started.
#[derive(Debug, Clone)]
struct Line {
    pool: Arc<Pool<Sessions>>,
    tasks: TaskTracker,
}

/// What a method means here.
struct Meant<'a> {
    kind: Kind,
    name: &'a str,
}

impl Server {
    /// A server, not started yet, that writes into the catalog what it offers.
    #[must_use]
    pub fn new(settings: Settings, catalog: Arc<Catalog>) -> Server {
        catalog.announce(&settings.name, settings.is_ranked);
        let protocol = "mcp/v1".parse().expect("a protocol's name");
        Server { settings, protocol, catalog, bounds: Mutex::default(), line: Mutex::new(None) }
    }

    async fn open(&self) -> Result<Line, Failure> {
        let tasks = TaskTracker::new();
        let (way, start_timeout, pool) = match &self.settings.road {
            Road::Processes(command) => {
                let confined = Confined::new(command.program()?, &command.limits).await?;
                let way = Way::Process { confined, secrets: command.secrets.clone() };
                (way, command.start_timeout, command.pool)
            }
            Road::Http(address) => {
                let way = Way::to(&address.url, address.token_file.clone(), address.headers_file.clone())?;
                (way, address.start_timeout, address.pool)
            }
        };
        let sessions = Sessions {
            name: self.settings.name.clone(),
            way,
            start_timeout,
            // A result is in its message twice: as structured content, and as text.
            message_bytes_max: self
                .settings
                .result_bytes_max
                .saturating_mul(2)
                .saturating_add(ENVELOPE_BYTES),
            catalog: Arc::clone(&self.catalog),
            tasks: tasks.clone(),
        };
        let pool = Pool::start(self.settings.name.clone(), sessions, self.policy(pool)).await?;
        Ok(Line { pool: Arc::new(pool), tasks })
    }

    fn meant<'a>(&self, method: &'a str) -> Option<Meant<'a>> {
        let (kind, name) = Kind::split(method)?;
        if mcp_tools::is_built_in(method) {
            return None;
        }
        let name = self.catalog.own_name(&self.settings.name, kind, name)?;
        Some(Meant { kind, name })
    }

    /// The request for what is meant.
    ///
    /// # Errors
    /// `INVALID_PARAMS`: the arguments do not fit.
    fn request(&self, meant: &Meant<'_>, params: Value) -> Result<ClientRequest, Failure> {
        let arguments = mcp_tools::arguments(params)?;
        let name = meant.name.to_owned();
        match meant.kind {
            Kind::Resource => {
                let params = ReadResourceRequestParams::new(name);
                Ok(ClientRequest::ReadResourceRequest(ReadResourceRequest::new(params)))
            }
            Kind::Prompt => {
                let params = GetPromptRequestParams::new(name).with_arguments(arguments);
                Ok(ClientRequest::GetPromptRequest(GetPromptRequest::new(params)))
            }
            Kind::Tool => {
                let arguments = Value::Object(arguments);
                let offer = self.catalog.offer(&self.settings.name);
                let tool = offer.as_ref().and_then(|offer| offer.tools.get(&name));
                let violations = tool.map(|tool| tool.violations(&arguments)).unwrap_or_default();
                if !violations.is_empty() {
                    let message = format!(
                        "the arguments do not fit the schema of tool {name}: {}",
                        violations.join("; ")
                    );
                    return Err(Failure::new(Code::InvalidParams, message).with("violations", violations));
                }
                let mut params = CallToolRequestParams::new(name);
                if let Value::Object(arguments) = arguments {
                    params.arguments = Some(arguments);
                }
                Ok(ClientRequest::CallToolRequest(CallToolRequest::new(params)))
            }
        }
    }

    /// How sessions are kept now.
    fn policy(&self, configured: Policy) -> Policy {
        let bounds = *self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        let (min, max) = bounds.unwrap_or((configured.min, configured.max));
        Policy { min, max, ..configured }
    }

    fn line(&self) -> MutexGuard<'_, Option<Line>> {
        // Nothing that panics is done while it is held.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Provider for Server {
    fn name(&self) -> &str {
        &self.settings.name
    }

    fn protocol(&self) -> &ProtocolId {
        &self.protocol
    }

    fn serves(&self, method: &str) -> bool {
        self.meant(method).is_some()
    }

    async fn start(&self) -> Result<(), Failure> {
        if self.line().is_some() {
            return Ok(());
        }
        let line = self.open().await?;
        *self.line() = Some(line);
        Ok(())
    }

    async fn call(&self, cx: &CallCx, method: &str, params: Value) -> Result<Answer, Failure> {
        let name = &self.settings.name;
        let line = self.line().clone();
        let Some(line) = line else {
            let message = format!("provider {name} is not started here");
            // It may have been stopped; whoever starts it again finds the task waiting.
            return Err(Failure::new(Code::ProviderNotAvailable, message).not_begun());
        };
        let Some(meant) = self.meant(method) else {
            let message = format!("the MCP server {name} has no {method}; `tools/list` has what there is");
            return Err(Failure::new(Code::MethodNotSupported, message));
        };
        let request = self.request(&meant, params)?;
        let ask = |session: Arc<Session>| {
            let request = request.clone();
            async move { session.call(cx, request).await }
        };
        let answer = line.pool.call(cx, ask).await;
        let result = answer.and_then(outcome::result);
        result.map(Answer::from).map_err(|failure| failure.with("server", name.as_str()))
    }

    fn tells(&self, failure: &Failure) -> Ending {
        pool::tells(failure)
    }

    async fn health(&self) -> Health {
        let line = self.line().clone();
        let Some(line) = line else { return Health::Down("not started".to_owned()) };
        // Who is at a call may be too busy to answer.
        let Some(lease) = line.pool.idle() else { return line.pool.health() };
        // Dropped, as when it takes too long, the session is ended and begun anew.
        match lease.member().ping().await {
            Ok(()) => {
                lease.proved();
                Health::Up
            }
            Err(_) => {
                lease.died();
                line.pool.health()
            }
        }
    }

    fn pool(&self) -> Option<PoolStanding> {
        if let Some(line) = &*self.line() {
            return Some(line.pool.told());
        }
        let configured = match &self.settings.road {
            Road::Processes(command) => command.pool,
            Road::Http(address) => address.pool,
        };
        let Policy { min, max, .. } = self.policy(configured);
        Some(PoolStanding { instances: 0, min, max })
    }

    fn scale(&self, min: u32, max: u32) -> bool {
        *self.bounds.lock().unwrap_or_else(PoisonError::into_inner) = Some((min, max));
        if let Some(line) = &*self.line() {
            line.pool.scale(min, max);
        }
        true
    }

    async fn renew(&self) -> Result<bool, Failure> {
        let pool = self.line().as_ref().map(|line| Arc::clone(&line.pool));
        let Some(pool) = pool else { return Ok(false) };
        pool.renew().await
    }

    async fn stop(&self) {
        let line = self.line().take();
        if let Some(line) = line {
            line.pool.stop().await;
            line.tasks.close();
            line.tasks.wait().await;
        }
    }
}
