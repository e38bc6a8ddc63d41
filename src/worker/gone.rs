//! Queues and exchanges that somebody deleted while the worker lives: they are declared again.
//!
//! What was in a queue is gone with it; `gleitzeit audit` names those tasks and `--repair` sends them again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

use super::Shared;
use crate::broker::BrokerError;

/// How long it must have been gone: a queue that is moved to another type is away for a moment
/// (`topology apply --migrate`).
const PATIENCE: Duration = Duration::from_secs(2);
/// The least time between two declarations, however many notice what is missing.
const EVERY: Duration = Duration::from_secs(10);

/// When the topology was declared last for want of something.
#[derive(Debug, Default)]
pub(super) struct Gone {
    last: Mutex<Option<Instant>>,
}

impl Gone {
    /// Whether it is time to declare it; whoever is told so does it.
    fn is_due(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| last.elapsed() >= EVERY);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

impl Shared {
    /// Declares what the worker needs once more, where the error says that some of it is gone and the worker is to
    /// declare it at all (`amqp.declare = "auto"`).
    pub(super) async fn declare_what_is_gone(&self, error: &BrokerError) {
        if !matches!(error, BrokerError::NoQueue { .. } | BrokerError::Unroutable { .. }) {
            return;
        }
        let Some(topology) = self.settings.topology.as_ref().filter(|_| self.gone.is_due()) else { return };
        tokio::select! {
            () = tokio::time::sleep(PATIENCE) => {}
            () = self.abort.cancelled() => return,
        }
        match self.parts.broker.declare(topology).await {
            Ok(()) => {
                tracing::warn!(%error, "what was deleted is declared again; `gleitzeit audit` names what it held")
            }
            Err(why) => tracing::error!(%error, %why, "what was deleted cannot be declared again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_of_many_declares_what_is_gone_and_not_too_often() {
        let gone = Gone::default();
        assert!(gone.is_due());
        assert!(!gone.is_due());
        tokio::time::advance(EVERY).await;
        assert!(gone.is_due());
        assert!(!gone.is_due());
    }
}
