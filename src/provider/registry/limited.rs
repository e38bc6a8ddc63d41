//! Limits of single providers: another one is asked where one may not be called now.

use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

use super::instance::{Call, Instance};
use super::{Ask, LOOK_EVERY, Providers};
use crate::core::failure::Failure;
use crate::provider::Answer;
use crate::provider::limit::{Admission, Limits, Permits};

/// A provider that may not be called now because of a limit of its own.
#[derive(Debug)]
pub(super) struct Limited {
    pub(super) instance: Arc<Instance>,
    pub(super) wait: Duration,
    pub(super) why: String,
}

impl Providers {
    /// Limits how often calls are made.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Providers {
        Providers { limits, ..self }
    }

    /// The limits of this worker.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The right to a call as far as the provider's own limits go, after a wait of at most `hold` where nobody else is
    /// ahead. Without an answer from the store there is none.
    pub(super) async fn permits(
        &self,
        call: Call,
        ask: &Ask<'_>,
        params: &Value,
        hold: Duration,
    ) -> Result<(Call, Permits), Limited> {
        let wants = self.limits.of_provider(call.instance.name(), ask.protocol, ask.method, params);
        if wants.is_empty() {
            return Ok((call, Permits::default()));
        }
        let is_of_all = wants.iter().all(|want| self.limits.is_of_whole_provider(want));
        let instance = Arc::clone(&call.instance);
        let (wait, why) = match self.limits.admit(wants, hold, hold).await {
            Ok(Admission::Granted { permits, wait }) => {
                sleep(wait).await;
                return Ok((call, permits));
            }
            Ok(Admission::Refused { wait, limit, .. }) => {
                (wait, format!("{}: limit {limit} is reached", instance.name()))
            }
            Err(error) => (LOOK_EVERY, format!("{}: its limit cannot be asked: {error}", instance.name())),
        };
        let wait = wait.saturating_sub(hold / 2);
        if is_of_all && !hold.is_zero() {
            // As if it had asked for it: where it is the only one, its queue is left alone so long.
            instance.rest(self.now() + wait);
            self.changed.notify_waiters();
        }
        Err(Limited { instance, wait, why })
    }

    /// A server that asked to be left alone is left alone by everybody who shares a limit of it.
    pub(super) async fn spread_wait(&self, instance: &Instance, outcome: &Result<Answer, Failure>) {
        if let Err(Failure { retry_after: Some(wait), .. }) = outcome {
            self.limits.shut_provider(instance.name(), instance.busy_for(*wait)).await;
        }
    }
}
