//! The port to providers, and its law.
//!
//! A provider serves methods of one protocol. Policies (time limit, permits, panic) wrap: a guard around a
//! provider is a provider.
//!
//! # Law
//! 1. `call` returns soon after `cx.cancel` fires, and leaves nothing running.
//! 2. `call` may be made many times at once.
//! 3. A caller's mistake is a [`Failure`] that is not retryable; it says nothing about the provider's health.
//! 4. `tells` blames the provider only for what is its own doing.
//! 5. `start` comes before the first call and may be repeated; `stop` may come before `start` and twice, and `start`
//!    after `stop` begins anew.

mod address;
pub mod echo;
pub mod functions;
pub mod guard;
pub mod limit;
pub mod llm;
pub mod mcp;
pub mod mcp_tools;
mod output;
mod pool;
pub mod process;
pub mod python;
pub mod registry;
pub mod rpc;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use serde_json::{Map, Value};
use std::fmt;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::core::breaker::Ending;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::TaskKey;
use crate::core::priority::Priority;
use crate::core::protocol::ProtocolId;

pub use output::Output;
pub(crate) use output::Pieces;

/// Where an answer's metadata, or a failure's details, have the most memory in bytes that a process of the call's own held.
pub const MEMORY_PEAK: &str = "memory_peak_bytes";

/// Something that serves methods of a protocol.
#[async_trait]
pub trait Provider: fmt::Debug + Send + Sync + 'static {
    /// Its name, unique in the worker: `python`, `ollama-1`.
    fn name(&self) -> &str;

    /// The protocol it serves.
    fn protocol(&self) -> &ProtocolId;

    /// Whether it serves the method (without the protocol's prefix: `execute`, `tool.add`).
    fn serves(&self, method: &str) -> bool;

    /// Which method, with which parameters, is meant by a call of one that it serves for others. It is called instead, of
    /// whoever serves that; where nobody does, this provider is called.
    fn passes_on(&self, _method: &str, _params: &Value) -> Option<(String, Value)> {
        None
    }

    /// Prepares for calls.
    async fn start(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Runs one call to its end. `params` are valid by the method's schema, defaults filled in.
    async fn call(&self, cx: &CallCx, method: &str, params: Value) -> Result<Answer, Failure>;

    /// What a failure tells of the provider's fitness; its breaker counts that. A caller's mistake is no failure
    /// of the provider's.
    fn tells(&self, failure: &Failure) -> Ending {
        told_by_code(failure.code)
    }

    /// What it has of a model, as far as it knows now without asking anybody.
    fn stock(&self, _model: &str) -> Stock {
        Stock::Unknown
    }

    /// Whether it is fit for work.
    async fn health(&self) -> Health {
        Health::Up
    }

    /// What its calls run in; `None`: nothing that is kept between calls.
    fn pool(&self) -> Option<PoolStanding> {
        None
    }

    /// Keeps so many instances from now on, also after a `stop` and a `start`. Whether it has a pool.
    fn scale(&self, _min: u32, _max: u32) -> bool {
        false
    }

    /// Replaces what its calls run in while calls go on: the new first where its bounds allow, then what is old goes
    /// when its calls have ended. Whether it can: who cannot is stopped and started instead.
    async fn renew(&self) -> Result<bool, Failure> {
        Ok(false)
    }

    /// Gives up everything it holds.
    async fn stop(&self) {}
}

/// What a provider keeps for its calls: processes or sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStanding {
    /// Those that take calls now.
    pub instances: usize,
    /// Those that are always there.
    pub min: u32,
    /// The most at once.
    pub max: u32,
}

/// What a call knows of its surroundings.
#[derive(Debug, Clone)]
pub struct CallCx {
    /// The task.
    pub key: TaskKey,
    /// The attempt, from 1.
    pub attempt: u32,
    /// How long the call may take; the guard around the provider enforces it.
    pub timeout: Duration,
    /// Fires when the call must end: timeout, cancellation, a worker that stops.
    pub cancel: CancellationToken,
    /// The W3C trace context of the task, to be sent on.
    pub traceparent: Option<String>,
    /// Who goes first where calls must wait.
    pub priority: Priority,
    /// Takes what the call gives before its end, for whoever follows the task.
    pub output: Output,
}

/// What a call gave.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// The result, any JSON.
    pub result: Value,
    /// Facts beside the result: isolation level, profile.
    pub metadata: Map<String, Value>,
}

impl From<Value> for Answer {
    fn from(result: Value) -> Answer {
        Answer { result, metadata: Map::new() }
    }
}

/// What a provider has of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stock {
    /// Nobody knows.
    Unknown,
    /// It is not there.
    Missing,
    /// It is there, and must be loaded first.
    Cold,
    /// It is in memory, or that makes no difference.
    Ready,
}

/// A provider's fitness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Fit.
    Up,
    /// Works, with a reason to prefer others.
    Degraded(String),
    /// Not fit.
    Down(String),
}

/// What a code tells of the provider when nothing more is known. What the caller did wrong tells nothing, and neither
/// does a time limit: it may be too short, or the caller's code too slow.
#[must_use]
pub fn told_by_code(code: Code) -> Ending {
    match code {
        Code::ProviderNotAvailable
        | Code::ProviderInitializationFailed
        | Code::ProviderUnhealthy
        | Code::ProviderTimeout
        | Code::ProviderOverloaded
        | Code::ProviderError
        | Code::InternalError
        | Code::SystemNotInitialized
        | Code::RateLimitExceeded
        | Code::NetworkUnreachable
        | Code::ConnectionRefused
        | Code::ConnectionTimeout
        | Code::ConnectionLost
        | Code::AuthenticationFailed
        | Code::AuthorizationFailed => Ending::Bad,
        // The caller's code was run, and that is what it is for.
        Code::TaskExecutionFailed => Ending::Good,
        _ => Ending::Untold,
    }
}
