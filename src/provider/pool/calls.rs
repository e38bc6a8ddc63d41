//! Calls of members, and what a pool tells of the provider that it belongs to.

use std::sync::Arc;

use super::{Maker, Pool};
use crate::core::breaker::Ending;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::pool::PATIENCE;
use crate::provider::{CallCx, Health, told_by_code};

/// How often a call that did not begin, as its member had ended, is given to another member.
const TRIES_MAX: usize = 3;
/// Details of failures that are the queue's doing: how many wait, and how many may.
const WAITING: &str = "waiting";
pub(super) const QUEUE_MAX: &str = "queue_max";

impl<M: Maker> Pool<M> {
    /// Makes a call: with one member after the other, as long as it surely did not begin because one had ended.
    ///
    /// # Errors
    /// As [`Pool::acquire`], and as the member says; `PROVIDER_OVERLOADED`: its time was over before it had one.
    pub(in crate::provider) async fn call<T, F>(
        &self,
        cx: &CallCx,
        ask: impl Fn(Arc<M::Member>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut tries = 0;
        loop {
            let lease = tokio::select! {
                biased;
                lease = self.acquire(cx.priority) => lease?,
                () = cx.cancel.cancelled() => return Err(self.no_room(cx)),
            };
            let outcome = ask(Arc::clone(lease.member())).await;
            tries += 1;
            let has_ended = self.shared.maker.has_ended(lease.member());
            if has_ended {
                lease.died();
            }
            match outcome {
                Ok(answer) => {
                    lease.proved();
                    return Ok(answer);
                }
                // Its own time was over, or it was cancelled, before it was its turn: that counts, not who ended then.
                Err(failure) if has_ended && failure.not_begun && cx.cancel.is_cancelled() => {
                    return Err(Failure { code: Code::TaskCancelled, ..failure });
                }
                Err(failure) if has_ended && failure.not_begun && tries < TRIES_MAX => {
                    tracing::debug!(provider = self.shared.name, %failure, "another one is asked");
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// How the provider does where there is nobody to ask: a member that has ended is replaced, and that is no doubt
    /// about the others.
    pub(in crate::provider) fn health(&self) -> Health {
        let standing = self.standing();
        match standing.failures {
            Some((count, failure)) if standing.members == 0 && count >= PATIENCE => {
                Health::Down(failure.message)
            }
            Some(_) | None => Health::Up,
        }
    }

    /// A call whose time was over before it had a member.
    fn no_room(&self, cx: &CallCx) -> Failure {
        let (name, seconds, waiting) = (&self.shared.name, cx.timeout.as_secs_f64(), self.standing().waiting);
        let message = format!("provider {name} had no room within {seconds} s; {waiting} more calls wait");
        Failure::new(Code::ProviderOverloaded, message).with(WAITING, waiting).not_begun()
    }
}

/// What a failure tells of a provider with a pool. That too many wait for its members is nothing that it does.
pub(in crate::provider) fn tells(failure: &Failure) -> Ending {
    let is_queue = [WAITING, QUEUE_MAX].iter().any(|detail| failure.details.contains_key(*detail));
    if is_queue { Ending::Untold } else { told_by_code(failure.code) }
}
