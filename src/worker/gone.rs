//! Queues and exchanges that somebody deleted while the worker lives: they are declared again.
//!
//! What was in a queue is gone with it; `gleitzeit audit` names those tasks and `--repair` sends them again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

use super::Shared;
use crate::broker::BrokerError;
use crate::topology::Topology;

/// How long it must have been gone: a queue that is moved to another type is away for a moment
/// (`topology apply --migrate`).
const PATIENCE: Duration = Duration::from_secs(2);
/// The least time between two declarations, however many notice what is missing.
const EVERY: Duration = Duration::from_secs(10);

/// When the topology was declared last for want of something, and what that was.
#[derive(Debug, Default)]
pub(super) struct Gone {
    last: Mutex<Option<(Instant, String)>>,
}

impl Gone {
    /// Whether it is time to declare it; whoever is told so does it. And whether this is news.
    fn is_due(&self, what: &str) -> Option<bool> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|(at, _)| at.elapsed() < EVERY) {
            return None;
        }
        let is_news = last.as_ref().is_none_or(|(_, before)| before != what);
        *last = Some((Instant::now(), what.to_owned()));
        Some(is_news)
    }
}

impl Shared {
    /// Declares what the worker needs once more, where the error says that some of it is gone and the worker is to
    /// declare it at all (`amqp.declare = "auto"`). False: not now, as it was done a moment ago, or could not be done.
    pub(super) async fn declare_what_is_gone(&self, error: &BrokerError) -> bool {
        let (Some(topology), BrokerError::NoQueue { .. } | BrokerError::Unroutable { .. }) =
            (&self.settings.topology, error)
        else {
            return true;
        };
        let Some(is_news) = self.gone.is_due(&error.to_string()) else { return false };
        // Lanes lose nothing by being away, and may be on their way out.
        let topology = Topology { lanes: BTreeMap::new(), ..topology.clone() };
        let declared = async {
            tokio::time::sleep(PATIENCE).await;
            self.parts.broker.declare(&topology).await
        };
        match self.abort.run_until_cancelled(declared).await {
            Some(Ok(())) if is_news => {
                tracing::warn!(%error, "the topology is declared again; what a deleted queue held is named by `gleitzeit audit`");
            }
            Some(Ok(())) => tracing::debug!(%error, "the topology is declared again"),
            Some(Err(why)) => {
                tracing::error!(%error, %why, "the topology cannot be declared again");
                return false;
            }
            None => {}
        }
        true
    }

    /// The same, until it is done.
    pub(super) async fn declare_until_it_is_there(&self, error: &BrokerError) {
        while !self.declare_what_is_gone(error).await {
            tokio::time::sleep(PATIENCE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_of_many_declares_what_is_gone_and_not_too_often() {
        let gone = Gone::default();
        assert_eq!(gone.is_due("a"), Some(true));
        assert_eq!(gone.is_due("b"), None);
        tokio::time::advance(EVERY).await;
        assert_eq!(gone.is_due("a"), Some(false), "it was told");
        assert_eq!(gone.is_due("a"), None);
    }
}
