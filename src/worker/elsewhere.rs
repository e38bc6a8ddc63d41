//! Tasks that cannot run here now, and are given back uncounted: their providers cannot be asked at the moment, or
//! this worker has none for them and another may.

use std::time::Duration;

use super::Shared;
use super::guard::header;
use super::patience::Stop;
use super::publish::message_of;
use crate::broker::Delivery;
use crate::core::clock::Timestamp;
use crate::wire::task::Task;

/// The least wait of a task whose providers cannot be asked now, while others of its protocol can; and up to so much
/// longer it waits, so that not all come back at once.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// The longest wait where nobody can say when one may be asked: it grows with how long the task has waited.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// How long a task looks for a worker that can do it.
const SEARCH_MAX: Duration = Duration::from_secs(60);
/// Since when it looks.
pub(super) const HEADER_ELSEWHERE: &str = "gleitzeit-elsewhere-since";
/// Since when nobody can say when its providers may be asked.
pub(super) const HEADER_STOPPED: &str = "gleitzeit-stopped-since";

impl Shared {
    /// Whether other workers have had their time to take it.
    pub(super) fn has_searched(&self, delivery: &Delivery) -> bool {
        searches_since(delivery).is_some_and(|since| self.parts.clock.now().since(since) >= SEARCH_MAX)
    }

    /// Waits until providers can be asked. Where none of the protocol can, or a limit of all of it is reached, its queue
    /// is left alone: the message goes back to it.
    pub(super) async fn wait_for_providers(
        &self,
        delivery: &Delivery,
        task: Task,
        wait: Option<Duration>,
    ) -> Result<(), Stop> {
        let (providers, protocol) = (&self.parts.providers, &task.spec.protocol);
        if providers.is_shut(protocol) || providers.limits().is_paused(protocol) {
            return Err(Stop::Crowded);
        }
        let (now, chance) = (self.parts.clock.now(), self.parts.clock.chance());
        let since = stopped_since(delivery).filter(|since| *since <= now).unwrap_or(now);
        let wait_for = wait.unwrap_or_else(|| after_waiting(now.since(since))).max(WAIT_MIN);
        let wait_for = wait_for.saturating_add(WAIT_MIN.mul_f64(chance));
        let mut message = message_of(delivery, &task, Some(wait_for));
        if wait.is_none() {
            message.properties.headers.insert(HEADER_STOPPED.to_owned(), since.to_string());
        }
        self.publish(vec![message]).await
    }

    /// Looks for another worker.
    pub(super) async fn search(&self, delivery: &Delivery, task: Task) -> Result<(), Stop> {
        let since = searches_since(delivery).unwrap_or(self.parts.clock.now());
        let mut message = message_of(delivery, &task, Some(WAIT_MIN));
        message.properties.headers.insert(HEADER_ELSEWHERE.to_owned(), since.to_string());
        self.publish(vec![message]).await
    }
}

fn searches_since(delivery: &Delivery) -> Option<Timestamp> {
    header(delivery, HEADER_ELSEWHERE)?.parse().ok()
}

fn stopped_since(delivery: &Delivery) -> Option<Timestamp> {
    header(delivery, HEADER_STOPPED)?.parse().ok()
}

/// How long to wait where nobody can say how long, after so long.
fn after_waiting(waited: Duration) -> Duration {
    (waited / 2).clamp(WAIT_MIN, WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_what_was_stopped_comes_back_ever_less_often() {
        let mut waited = Duration::ZERO;
        let mut looks = 0;
        while waited < Duration::from_secs(3600) {
            let next = after_waiting(waited);
            assert!(next >= WAIT_MIN && next <= WAIT_MAX);
            waited += next;
            looks += 1;
        }
        assert!(looks < 3600 / 15 + 15, "{looks} in an hour");
    }
}
