//! Providers in any language: programs that speak JSON-RPC 2.0, over standard streams or over HTTP.
//!
//! ```text
//! message     what is said, and what errors mean                  (knows JSON-RPC, no processes)
//! child       one process: lines in, lines out, its end           (knows processes, no pools)
//! stdio       how a process is made ready for the pool
//! http        the same over HTTP, where somebody else runs the server
//! describe    what a provider says of itself, held against its protocol
//! conformance a suite that any provider can be run through
//! ```
//! A process that dies in a call ends that call with a failure that may be tried again (`CONNECTION_LOST`); one that
//! dies idle is replaced, and who was about to call it calls another one.

mod child;
pub mod conformance;
mod describe;
mod exchange;
mod http;
pub(in crate::provider) mod message;
pub(in crate::provider) mod stdio;
pub(in crate::provider) mod tail;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use self::child::Child;
use self::describe::Described;
use self::http::Remote;
use self::stdio::Processes;
use super::pool::{self, Pool};
use super::process::{self, Confined, Limits, Names, Program, SEARCH_PATH, forget_peak, peak_bytes};
use super::{Answer, CallCx, Health, MEMORY_PEAK, PoolStanding, Provider};
use crate::core::breaker::Ending;
use crate::core::clock::Clock;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::pool::Policy;
use crate::core::protocol::{ProtocolId, ProtocolSpec};
use crate::core::url::Url;

/// What an answer needs beside the result, in bytes.
const ENVELOPE_BYTES: usize = 256 * 1024;

/// A provider that speaks JSON-RPC.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// How it is reached.
    pub road: Road,
    /// The largest result, in bytes of JSON.
    pub result_bytes_max: usize,
}

/// How a provider is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum Road {
    /// By processes that we start.
    Processes(Box<Command>),
    /// At an address.
    Http {
        /// `http://` or `https://`.
        url: Url,
        /// How long the answer to the introduction may take.
        start_timeout: Duration,
    },
}

/// A program, and how its processes are kept. Shown without the values of its environment.
#[derive(Clone, PartialEq)]
pub struct Command {
    /// The program and its arguments; not empty.
    pub line: Vec<String>,
    /// Its working directory; `None`: the worker's.
    pub directory: Option<PathBuf>,
    /// Its environment beside `PATH` and `LANG`, which it overrides; nothing is inherited.
    pub environment: BTreeMap<String, String>,
    /// Variables whose values are read from files when a process starts.
    pub secrets: Vec<(String, PathBuf)>,
    /// What each process may use.
    pub limits: Limits,
    /// How many processes there are.
    pub pool: Policy,
    /// How long a process may take to be ready.
    pub start_timeout: Duration,
}

/// A provider in any language.
#[derive(Debug)]
pub struct Rpc {
    settings: Settings,
    protocol: ProtocolSpec,
    clock: Arc<dyn Clock>,
    described: Arc<Mutex<Described>>,
    /// The bounds of the pool; what is configured unless it was scaled.
    bounds: Mutex<Option<(u32, u32)>>,
    /// There from `start` to `stop`.
    line: Mutex<Option<Line>>,
}

/// A provider that has started.
#[derive(Debug, Clone)]
enum Line {
    Processes(Arc<Pool<Processes>>, TaskTracker),
    Http(Arc<Remote>),
}

impl Rpc {
    /// A provider of this protocol, not started yet.
    #[must_use]
    pub fn new(settings: Settings, protocol: ProtocolSpec, clock: Arc<dyn Clock>) -> Rpc {
        Rpc {
            settings,
            protocol,
            clock,
            described: Arc::default(),
            bounds: Mutex::default(),
            line: Mutex::new(None),
        }
    }

    async fn open(&self) -> Result<Line, Failure> {
        let name = self.settings.name.clone();
        match &self.settings.road {
            Road::Http { url, start_timeout } => {
                let remote = Remote::open(&name, url, self.line_bytes_max())?;
                let described = remote.introduce(&self.protocol.id, *start_timeout, self.clock.now()).await?;
                *lock(&self.described) = described;
                Ok(Line::Http(Arc::new(remote)))
            }
            Road::Processes(command) => {
                let tasks = TaskTracker::new();
                let processes = Processes {
                    name: name.clone(),
                    protocol: self.protocol.id.clone(),
                    confined: Confined::new(command.program()?, &command.limits).await?,
                    secrets: command.secrets.clone(),
                    start_timeout: command.start_timeout,
                    line_bytes_max: self.line_bytes_max(),
                    described: Arc::clone(&self.described),
                    tasks: tasks.clone(),
                };
                let pool = Pool::start(name, processes, self.policy(command)).await?;
                Ok(Line::Processes(Arc::new(pool), tasks))
            }
        }
    }

    /// How processes are kept now.
    fn policy(&self, command: &Command) -> Policy {
        let (min, max) = lock(&self.bounds).unwrap_or((command.pool.min, command.pool.max));
        Policy { min, max, ..command.pool }
    }

    /// Whether a process has one call at a time.
    fn is_alone(&self) -> bool {
        match &self.settings.road {
            Road::Processes(command) => command.pool.concurrency == 1,
            Road::Http { .. } => false,
        }
    }

    fn line(&self) -> Option<Line> {
        lock(&self.line).clone()
    }

    fn line_bytes_max(&self) -> usize {
        self.settings.result_bytes_max.saturating_add(ENVELOPE_BYTES)
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Command { line, directory, environment, secrets, limits, pool, start_timeout } = self;
        let mut shown = f.debug_struct("Command");
        shown.field("line", line).field("directory", directory).field("environment", &Names(environment));
        shown.field("secrets", secrets).field("limits", limits).field("pool", pool);
        shown.field("start_timeout", start_timeout).finish()
    }
}

impl Command {
    pub(in crate::provider) fn program(&self) -> Result<Program, Failure> {
        let (first, args) = self.line.split_first().ok_or_else(|| {
            Failure::new(Code::ConfigurationError, "the command of a provider has no program")
        })?;
        if let Some(directory) = self.directory.as_ref().filter(|directory| !directory.is_dir()) {
            let message = format!("the directory {} is not there", directory.display());
            return Err(Failure::new(Code::ProviderInitializationFailed, message));
        }
        let defaults = [("PATH", SEARCH_PATH), ("LANG", "C.UTF-8")];
        let mut environment: BTreeMap<String, String> =
            defaults.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        environment.extend(self.environment.clone());
        let search_path = environment.get("PATH").map_or(SEARCH_PATH, String::as_str);
        Ok(Program {
            path: process::find(first, search_path, self.directory.as_deref())?,
            args: args.iter().map(Into::into).collect(),
            environment,
            directory: self.directory.clone(),
        })
    }
}

#[async_trait]
impl Provider for Rpc {
    fn name(&self) -> &str {
        &self.settings.name
    }

    fn protocol(&self) -> &ProtocolId {
        &self.protocol.id
    }

    fn serves(&self, method: &str) -> bool {
        self.protocol.find(method).is_some() && lock(&self.described).serves(method)
    }

    async fn start(&self) -> Result<(), Failure> {
        if self.line().is_some() {
            return Ok(());
        }
        let line = self.open().await?;
        *lock(&self.line) = Some(line);
        let described = lock(&self.described).clone();
        let (name, version) = (described.name.as_deref(), described.version.as_deref());
        let provider = &self.settings.name;
        tracing::info!(
            provider,
            name,
            version,
            methods = described.methods.len(),
            "the provider has started"
        );
        for difference in described.differences(&self.protocol) {
            tracing::warn!(provider, protocol = %self.protocol.id, "differs from its protocol: {difference}");
        }
        Ok(())
    }

    async fn call(&self, cx: &CallCx, method: &str, params: Value) -> Result<Answer, Failure> {
        let outcome = match self.line() {
            None => {
                let message = format!("provider {} is not started here", self.settings.name);
                // It may have been stopped; whoever starts it again finds the task waiting.
                return Err(Failure::new(Code::ProviderNotAvailable, message).not_begun());
            }
            Some(Line::Processes(pool, _)) => {
                let (params, is_alone) = (&params, self.is_alone());
                let ask = |child: Arc<Child>| async move {
                    let context = message::context(cx, self.clock.now());
                    // What several calls hold together is nobody's own.
                    let is_measured = is_alone && forget_peak(child.group);
                    let outcome = child.call(cx, method, params, &context).await;
                    let is_measured = is_measured && !child.has_ended();
                    weighed(outcome, is_measured.then(|| peak_bytes(child.group)).flatten())
                };
                return pool.call(cx, ask).await;
            }
            Some(Line::Http(remote)) => remote.call(cx, method, &params, self.clock.now()).await,
        };
        outcome.map(Answer::from)
    }

    fn tells(&self, failure: &Failure) -> Ending {
        pool::tells(failure)
    }

    async fn health(&self) -> Health {
        match self.line() {
            None => Health::Down("not started".to_owned()),
            Some(Line::Http(remote)) => remote.health(self.clock.now()).await,
            Some(Line::Processes(pool, _)) => {
                let Some(lease) = pool.idle() else { return pool.health() };
                // Dropped, as when it takes too long, the process is killed and replaced.
                let answer = lease.member().request(message::PING, &json!({}), None).await;
                if lease.member().has_ended() {
                    lease.died();
                    return pool.health();
                }
                let health = judge(answer);
                if health == Health::Up {
                    lease.proved();
                }
                health
            }
        }
    }

    fn pool(&self) -> Option<PoolStanding> {
        match (&self.settings.road, self.line()) {
            (Road::Http { .. }, _) => None,
            (Road::Processes(_), Some(Line::Processes(pool, _))) => Some(pool.told()),
            (Road::Processes(command), _) => {
                let Policy { min, max, .. } = self.policy(command);
                Some(PoolStanding { instances: 0, min, max })
            }
        }
    }

    fn scale(&self, min: u32, max: u32) -> bool {
        if matches!(self.settings.road, Road::Http { .. }) {
            return false;
        }
        *lock(&self.bounds) = Some((min, max));
        if let Some(Line::Processes(pool, _)) = self.line() {
            pool.scale(min, max);
        }
        true
    }

    async fn renew(&self) -> Result<bool, Failure> {
        let Some(Line::Processes(pool, _)) = self.line() else { return Ok(false) };
        pool.renew().await
    }

    async fn stop(&self) {
        let line = lock(&self.line).take();
        if let Some(Line::Processes(pool, tasks)) = line {
            pool.stop().await;
            tasks.close();
            tasks.wait().await;
        }
    }
}

/// With the most memory that its process held, where that is known.
fn weighed(outcome: Result<Value, Failure>, bytes: Option<u64>) -> Result<Answer, Failure> {
    let mut outcome = outcome.map(Answer::from);
    let Some(bytes) = bytes else { return outcome };
    match &mut outcome {
        Ok(answer) => _ = answer.metadata.insert(MEMORY_PEAK.to_owned(), bytes.into()),
        Err(failure) => _ = failure.details.insert(MEMORY_PEAK.to_owned(), bytes.into()),
    }
    outcome
}

/// What the answer to a ping says. Whoever answers that it knows no pings lives.
fn judge(answer: Result<Value, Failure>) -> Health {
    let Ok(answer) = answer else { return Health::Up };
    let text = |key: &str| answer.get(key).and_then(Value::as_str);
    let reason = text("reason").unwrap_or("it says so").chars().take(500).collect();
    match text("status") {
        Some("down") => Health::Down(reason),
        Some("degraded") => Health::Degraded(reason),
        _ => Health::Up,
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that panics is done while it is held.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
