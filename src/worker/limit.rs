//! Tasks and limits: asked before the lease, so that nobody has a lease while it waits.
//!
//! | the limit is of                | a wait up to a second | a longer one                                             |
//! |--------------------------------|-----------------------|----------------------------------------------------------|
//! | a whole protocol               | in the worker's hand  | the message goes back and the queue is left alone so long |
//! | a key or a method, all workers | in the worker's hand  | parked in the broker with its place in line              |
//! | a key or a method, this worker | in the worker's hand  | parked in the broker                                     |
//!
//! All of it is uncounted and keeps the priority. What depends on references or defaults is asked once those are filled in
//! (`attempt`), and what depends on the provider once it is chosen (`provider::registry`). What is given back goes back
//! after the message is confirmed that no longer has it: in between both count, never none.
//!
//! A guard runs nothing, but where it takes over from a dead worker. So it is asked for everything once it has the lease,
//! and not before. That a message is a guard is only what it says of itself: whoever says so wrongly waits later, not less.

use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::elsewhere::HEADER_ELSEWHERE;
use super::guard::{HEADER_CROWDED, HEADER_GUARD, header, may_have_been_cut};
use super::outcome::Attempt;
use super::patience::{Stop, insist};
use super::publish::message_of;
use super::room::{HEADER_NOBODY, HEADER_ROOM};
use crate::broker::{DELAY_MAX, Delivery, Outgoing};
use crate::core::id::TaskKey;
use crate::core::protocol::ProtocolId;
use crate::provider::limit::{AHEAD, Admission, HOLD, Permits, Used, Want};
use crate::wire::task::Task;

/// The places in line that a parked task has already, with the proof of it.
pub(super) const HEADER_ADMITTED: &str = "gleitzeit-admitted";

/// What becomes of a task that may be limited.
#[derive(Debug)]
pub(super) enum Entry {
    /// It may run now.
    Go(Permits),
    /// It waits in the broker.
    Parked,
}

impl Shared {
    /// Waits for the limits that can be told by the message as it is.
    pub(super) async fn within_limits(
        &self,
        delivery: &Delivery,
        task: &Task,
        key: &TaskKey,
    ) -> Result<Entry, Stop> {
        let (limits, spec) = (self.parts.providers.limits(), &task.spec);
        if limits.is_free(&spec.protocol) || is_asked_late(delivery) {
            return Ok(Entry::Go(Permits::default()));
        }
        let method = self.parts.protocols.method(&spec.protocol, &spec.method);
        let method = method.as_ref().map_or(spec.method.as_str(), |method| method.name);
        let of_message = |name: &str| header(delivery, name).map(str::to_owned);
        let wants = limits.early(&spec.protocol, method, &spec.params, &of_message);
        // What it carries stays with the message, and is not given back, until another message is confirmed.
        let told = match header(delivery, HEADER_ADMITTED) {
            Some(sealed) => insist(&self.abort, "secret", || limits.unsealed(sealed, key)).await?,
            None => "",
        };
        let (mut carried, wants) = limits.carried(told, wants);
        let asked = || limits.admit(wants.clone(), HOLD, AHEAD);
        let (taken, wait, ahead) = match insist(&self.abort, "admit", asked).await? {
            Admission::Granted { permits, wait, ahead } => (permits, wait, ahead),
            Admission::Refused { wait, patience, is_of_all: true, .. } => {
                // The message goes back as it is, with what it carries.
                limits.pause(&spec.protocol, self.sooner(wait, patience));
                return Err(Stop::Crowded);
            }
            Admission::Refused { wait, patience, is_of_all: false, .. } => {
                self.publish(vec![parked(delivery, task, self.sooner(wait, patience))]).await?;
                limits.settle(carried, Used::Nothing).await;
                return Ok(Entry::Parked);
            }
        };
        if ahead > HOLD {
            carried.add(taken);
            let (told, rest) = limits.carry(carried);
            let sealed = insist(&self.abort, "secret", || limits.sealed(&told, key)).await?;
            let mut message = parked(delivery, task, ahead);
            message.properties.headers.insert(HEADER_ADMITTED.to_owned(), sealed);
            self.publish(vec![message]).await?;
            limits.settle(rest, Used::Nothing).await;
            return Ok(Entry::Parked);
        }
        carried.add(self.hold(taken, wait).await?);
        Ok(Entry::Go(carried))
    }

    /// Waits for the limits that could not be told before. `Err`: when to come again, and why; where the whole protocol
    /// would be refused, its queue is left alone for so long.
    pub(super) async fn within_late_limits(
        &self,
        protocol: &ProtocolId,
        wants: Vec<Want>,
        cancel: &CancellationToken,
    ) -> Result<Result<Permits, (Duration, String)>, Stop> {
        let limits = self.parts.providers.limits();
        if wants.is_empty() {
            return Ok(Ok(Permits::default()));
        }
        match insist(&self.abort, "admit", || limits.admit(wants.clone(), HOLD, HOLD)).await? {
            Admission::Granted { permits, wait, .. } => {
                if wait.is_zero() || cancel.run_until_cancelled(sleep(wait)).await.is_some() {
                    return Ok(Ok(permits));
                }
                limits.settle(permits, Used::Nothing).await;
                Ok(Err((Duration::ZERO, "given up while it waited for a limit".to_owned())))
            }
            Admission::Refused { wait, patience, limit, is_of_all } => {
                let wait = self.sooner(wait, patience);
                if is_of_all {
                    limits.pause(protocol, wait);
                }
                Ok(Err((wait, format!("limit {limit} is reached"))))
            }
        }
    }

    /// Waits with the task in hand.
    async fn hold(&self, permits: Permits, wait: Duration) -> Result<Permits, Stop> {
        if wait.is_zero() {
            return Ok(permits);
        }
        tokio::select! {
            () = sleep(wait) => Ok(permits),
            () = self.abort.cancelled() => {
                self.parts.providers.limits().settle(permits, Used::Nothing).await;
                Err(Stop::Aborted)
            }
        }
    }

    /// When to come again: in time for a place in line, and not all at once.
    fn sooner(&self, wait: Duration, patience: Duration) -> Duration {
        wait.saturating_sub(patience.mul_f64(0.25 + 0.5 * self.parts.clock.chance()))
    }
}

/// Whether its limits are asked only once it has the lease.
pub(super) fn is_asked_late(delivery: &Delivery) -> bool {
    header(delivery, HEADER_GUARD).is_some()
}

/// What an attempt has used of its limits.
pub(super) fn used_of(attempt: &Attempt) -> Used {
    match attempt {
        Attempt::Made { outcome, provider: Some(_), .. } => Used::by(outcome),
        Attempt::Made { provider: None, .. }
        | Attempt::Skipped { .. }
        | Attempt::Expanded(_)
        | Attempt::Elsewhere { .. }
        | Attempt::NotNow { .. }
        | Attempt::NoRoom { .. }
        | Attempt::TooLarge { .. }
        | Attempt::Abandoned => Used::Nothing,
    }
}

/// The message of a task that waits for a limit, to come after `wait`. What it has been through stays known: that a
/// worker may have died after it recorded the end, since when somebody else is looked for, and since when it waits for room.
pub(super) fn parked(delivery: &Delivery, task: &Task, wait: Duration) -> Outgoing {
    let mut message = message_of(delivery, task, Some(wait.min(DELAY_MAX)));
    let headers = &mut message.properties.headers;
    if may_have_been_cut(delivery) {
        headers.insert(HEADER_CROWDED.to_owned(), "0".to_owned());
    }
    for name in [HEADER_ELSEWHERE, HEADER_ROOM, HEADER_NOBODY] {
        if let Some(since) = header(delivery, name) {
            headers.insert(name.to_owned(), since.to_owned());
        }
    }
    message
}
