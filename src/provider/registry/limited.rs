//! Limits of single providers: another one is asked where one may not be called now.

use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

use super::instance::{Call, Instance};
use super::{Ask, LOOK_EVERY, Providers};
use crate::core::failure::Failure;
use crate::provider::limit::{Admission, Limits, Permits, Used};
use crate::provider::{Answer, CallCx};

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

    /// The right to a call as far as the provider's own limits go, after a wait: none without `hold`, else at most that
    /// until one unit is there, and for the rest of a dear one's cost. Without an answer from the store there is no
    /// right, nor for a call that is given up while it waits.
    pub(super) async fn permits(
        &self,
        cx: &CallCx,
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
            Ok(Admission::Granted { permits, wait, .. }) if hold.is_zero() && !wait.is_zero() => {
                // Let in as soon as a cheap one, to wait here for the rest of its cost: others are asked first.
                self.limits.settle(permits, Used::Nothing).await;
                (wait, format!("{}: its limit has too little left", instance.name()))
            }
            Ok(Admission::Granted { permits, wait, .. }) => {
                if cx.cancel.run_until_cancelled(sleep(wait)).await.is_some() {
                    return Ok((call, permits));
                }
                self.limits.settle(permits, Used::Nothing).await;
                let why = format!("{}: given up while it waited for its limit", instance.name());
                return Err(Limited { instance, wait: Duration::ZERO, why });
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
