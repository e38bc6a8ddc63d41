//! Steps that must be done before a delivery may be settled.
//!
//! A store or broker that is away for a while costs nothing: the step is made again until it is done,
//! and the held delivery is the back-pressure. What waiting cannot heal ends the wait.

use backon::{BackoffBuilder, ExponentialBuilder};
use std::fmt;
use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::broker::BrokerError;
use crate::core::code::Code;
use crate::store::StoreError;

/// Why a delivery could not be brought to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// The worker is told to stop now: give the delivery back.
    Aborted,
    /// It could not begin, because a suspect has the worker to itself or all seats are taken: give the delivery
    /// back.
    Crowded,
    /// The step can never succeed as it is.
    Broken {
        /// The error's code.
        code: Code,
        /// What was wrong.
        message: String,
    },
}

/// An error of a step. Most are waited out, also those that need a person (a changed password, a deleted queue):
/// the work is safe in its queue until then. Only what is wrong with the step itself can never be done.
pub(super) trait Step: fmt::Display {
    fn code(&self) -> Code;
    /// Waiting cannot help: the step itself is wrong.
    fn is_hopeless(&self) -> bool;
    /// Waiting helps only if somebody does something.
    fn needs_a_person(&self) -> bool;
    /// The adapter has told people of it already, once for everybody whom it hits.
    fn is_told(&self) -> bool;
}

impl Step for StoreError {
    fn code(&self) -> Code {
        StoreError::code(self)
    }
    fn is_hopeless(&self) -> bool {
        matches!(self, StoreError::Corrupt { .. })
    }
    fn needs_a_person(&self) -> bool {
        !self.is_transient()
    }
    fn is_told(&self) -> bool {
        matches!(
            self,
            StoreError::Unreachable { .. } | StoreError::Unanswered { .. } | StoreError::LoginRefused { .. }
        )
    }
}

impl Step for BrokerError {
    fn code(&self) -> Code {
        BrokerError::code(self)
    }
    fn is_hopeless(&self) -> bool {
        matches!(self, BrokerError::Invalid { .. } | BrokerError::Closed)
    }
    fn needs_a_person(&self) -> bool {
        !self.is_transient()
    }
    fn is_told(&self) -> bool {
        matches!(
            self,
            BrokerError::Unreachable { .. }
                | BrokerError::Unconfirmed { .. }
                | BrokerError::LoginRefused { .. }
        )
    }
}

/// Makes `step` again and again (50 ms, doubling to 2 s) until it is done, broken, or `abort` fires.
pub(super) async fn insist<T, E, F, Next>(
    abort: &CancellationToken,
    what: &str,
    mut step: F,
) -> Result<T, Stop>
where
    E: Step,
    F: FnMut() -> Next,
    Next: Future<Output = Result<T, E>>,
{
    let mut waits = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times()
        .build();
    let mut told = false;
    loop {
        let error = match step().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if error.is_hopeless() {
            return Err(Stop::Broken { code: error.code(), message: format!("{what}: {error}") });
        }
        match (told || error.is_told(), error.needs_a_person()) {
            (true, _) => tracing::debug!(step = what, %error, "not done yet"),
            (false, true) => tracing::error!(step = what, %error, "waiting until somebody mends this"),
            (false, false) => tracing::warn!(step = what, %error, "waiting until this step succeeds"),
        }
        told |= !error.is_told();
        let wait = waits.next().unwrap_or(Duration::from_secs(2));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = abort.cancelled() => return Err(Stop::Aborted),
        }
    }
}
