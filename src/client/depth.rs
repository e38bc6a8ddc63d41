//! Back-pressure at submission: how many messages may wait in a queue for another to be submitted.
//!
//! The broker itself has no limit: a delayed message whose time has come, or a task that another one releases, is
//! accepted work and must find its place. So it is who brings new work that looks, and a queue may hold more than
//! its limit. A look is remembered for a second and what was submitted since counts with it; so one submitter does
//! not pass the limit, and several pass it by what all of them submit in a second at most.
//!
//! A queue that cannot be looked at (a user without a right on it) has no limit: what really stands in the way,
//! the publish says better.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::broker::Broker;
use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::error::Error;
use crate::topology::{Address, Queue};

/// How long a look at a queue is remembered.
const REMEMBERED: Duration = Duration::from_secs(1);

/// How many messages may wait in a queue to which more are submitted; 0 for any number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DepthLimits {
    /// Everywhere, also of workflows.
    pub all: u64,
    /// Of these protocols, instead.
    pub protocols: BTreeMap<Address, u64>,
}

impl DepthLimits {
    fn of(&self, queue: &Queue) -> Option<u64> {
        let own = match queue {
            Queue::Tasks(address) => self.protocols.get(address),
            Queue::Workflows | Queue::Dead(_) | Queue::Inbox => None,
        };
        Some(*own.unwrap_or(&self.all)).filter(|limit| *limit > 0)
    }
}

/// Lets submissions through as long as their queue is not too deep.
#[derive(Debug, Default)]
pub(super) struct Gate {
    limits: DepthLimits,
    /// When a queue was looked at, and how many messages wait there, with what was submitted since.
    seen: Mutex<HashMap<Queue, (Timestamp, u64)>>,
}

impl Gate {
    pub(super) fn new(limits: DepthLimits) -> Gate {
        Gate { limits, seen: Mutex::default() }
    }

    /// Counts one more message for `queue`, or refuses it.
    ///
    /// # Errors
    /// `QUEUE_FULL`, with the depth and the limit in `details`.
    pub(super) async fn admit(
        &self,
        broker: &dyn Broker,
        queue: &Queue,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(limit) = self.limits.of(queue) else { return Ok(()) };
        let remembered = self.seen().get(queue).copied().filter(|(at, _)| now.since(*at) < REMEMBERED);
        let (at, depth) = match remembered {
            Some(seen) => seen,
            None => match broker.depth(queue).await {
                Ok(depth) => (now, depth.ready),
                Err(error) => {
                    tracing::debug!(%error, %queue, "its depth cannot be looked at");
                    return Ok(());
                }
            },
        };
        if depth >= limit {
            self.seen().insert(queue.clone(), (at, depth));
            return Err(full(queue, depth, limit));
        }
        // Others may have been let through while this one looked: theirs count too.
        let mut seen = self.seen();
        let counted =
            seen.get(queue).filter(|(counted_at, _)| *counted_at >= at).map_or(depth, |(_, depth)| *depth);
        seen.insert(queue.clone(), (at, counted + 1));
        Ok(())
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<Queue, (Timestamp, u64)>> {
        // No code that holds the lock can panic half-way.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn full(queue: &Queue, depth: u64, limit: u64) -> Error {
    let text = format!(
        "{depth} messages wait in {queue}, and {limit} are the limit (queues.max_depth); submit again when workers \
         have caught up"
    );
    let mut error = Error::new(Code::QueueFull, text);
    error.details.insert("depth".to_owned(), depth.into());
    error.details.insert("max_depth".to_owned(), limit.into());
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocols_own_limit_counts_before_the_common_one() {
        let address = |text| Address::parse(text).expect("valid");
        let protocols = BTreeMap::from([(address("echo.v1"), 5), (address("python.v1"), 0)]);
        let limits = DepthLimits { all: 7, protocols };
        let of = |text| limits.of(&Queue::Tasks(address(text)));
        assert_eq!((of("echo.v1"), of("python.v1"), of("llm.v1")), (Some(5), None, Some(7)));
        assert_eq!(limits.of(&Queue::Workflows), Some(7));
        assert_eq!(DepthLimits::default().of(&Queue::Workflows), None);
    }
}
