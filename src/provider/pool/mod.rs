//! A pool of members that are dear to start and can die: processes of a provider.
//!
//! ```text
//! acquire ─▶ a member with room (used last first) ─▶ Lease ─▶ dropped: its room goes to who waits
//!    │ none                                                       │
//!    ▼                                                            ▼
//! the queue: by priority, then by time                   keeper: one task that looks at what the policy
//!    bounded by `queue_max`, given up by dropping        (core::pool) says whenever something has changed
//! ```
//! A member that ends by itself is taken out and replaced at once; one that ends before it had a call counts as a
//! failed start, so that a program which dies at once is not started in a loop. A member that leaves gets no more
//! calls, and is stopped when those that it has have ended.
//!
//! [`Pool::call`] is what providers use: it leases a member for one call, and another where that one had ended.
//!
//! Every task here belongs to the pool's tracker, and ends with [`Pool::stop`].

mod calls;
mod keeper;
mod queue;
mod renew;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::PoolStanding;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::pool::{self, Policy, Use};
use crate::core::priority::Priority;
use queue::{Queue, Waiting};

pub(super) use calls::tells;

/// Makes members and ends them.
#[async_trait]
pub(super) trait Maker: fmt::Debug + Send + Sync + 'static {
    /// What the pool holds.
    type Member: fmt::Debug + Send + Sync + 'static;
    /// Starts one and returns it ready for calls. Dropped, it leaves nothing behind.
    async fn start(&self) -> Result<Self::Member, Failure>;
    /// Returns once the member can take no more calls, with what became of it in words.
    async fn ended(&self, member: &Self::Member) -> String;
    /// Whether it takes no more calls.
    fn has_ended(&self, member: &Self::Member) -> bool;
    /// Ends it, and returns when it has ended.
    async fn stop(&self, member: &Self::Member);
    /// What each holds, in bytes.
    async fn held(&self, members: &[Arc<Self::Member>]) -> Vec<Option<u64>>;
}

/// A pool.
#[derive(Debug)]
pub(super) struct Pool<M: Maker> {
    shared: Arc<Shared<M>>,
}

#[derive(Debug)]
struct Shared<M: Maker> {
    name: String,
    maker: M,
    known: Mutex<Known<M::Member>>,
    changed: Notify,
    /// Somebody has joined, has gone, or could not start.
    moved: Notify,
    origin: Instant,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Known<T> {
    policy: Policy,
    slots: Vec<Slot<T>>,
    next: u64,
    starting: u32,
    queue: Queue<Given<T>>,
    used: Use,
    grown_at: Option<Duration>,
    failures: u32,
    failed_at: Duration,
    last_failure: Option<Failure>,
}

#[derive(Debug)]
struct Slot<T> {
    number: u64,
    member: Arc<T>,
    born: Duration,
    used_at: Duration,
    running: u32,
    uses: u64,
    held: Option<u64>,
    is_leaving: bool,
    is_stopping: bool,
    /// Whoever called it has seen that it has ended.
    is_dead: bool,
}

/// A member with the right to one call, not yet taken into a [`Lease`].
#[derive(Debug)]
struct Given<T> {
    number: u64,
    member: Arc<T>,
}

/// The right to one call of a member, until it is dropped.
#[derive(Debug)]
pub(super) struct Lease<M: Maker> {
    shared: Arc<Shared<M>>,
    given: Given<M::Member>,
}

/// What a pool has at a moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Standing {
    /// Members that take calls.
    pub(super) members: usize,
    /// Members that are always there, and the most at once.
    pub(super) bounds: (u32, u32),
    /// Calls that wait.
    pub(super) waiting: usize,
    /// Failed starts in a row, with the last one's reason.
    pub(super) failures: Option<(u32, Failure)>,
}

impl<M: Maker> Pool<M> {
    /// Starts a pool: one member first, as nothing can be done where that fails, then as many as the policy says.
    ///
    /// # Errors
    /// What the maker says of the first member.
    pub(super) async fn start(name: String, maker: M, policy: Policy) -> Result<Pool<M>, Failure> {
        let known = Known {
            policy,
            slots: Vec::new(),
            next: 0,
            starting: 0,
            queue: Queue::default(),
            used: Use::default(),
            grown_at: None,
            failures: 0,
            failed_at: Duration::ZERO,
            last_failure: None,
        };
        let shared = Arc::new(Shared {
            name,
            maker,
            known: Mutex::new(known),
            changed: Notify::new(),
            moved: Notify::new(),
            origin: Instant::now(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        let first = shared.maker.start().await?;
        shared.join(first);
        shared.tasks.spawn(Arc::clone(&shared).keep());
        Ok(Pool { shared })
    }

    /// A member to call. Waits for one; dropped, it waits no more.
    ///
    /// # Errors
    /// All of them before anything began: `PROVIDER_OVERLOADED`: too many wait. `SYSTEM_SHUTDOWN`: the pool has
    /// stopped. Whatever keeps members from starting.
    pub(super) async fn acquire(&self, priority: Priority) -> Result<Lease<M>, Failure> {
        let waiting = {
            let mut known = self.shared.lock();
            if self.shared.stop.is_cancelled() {
                return Err(stopped(&self.shared.name));
            }
            if known.queue.is_empty()
                && let Some(given) = self.shared.take(&mut known)
            {
                return Ok(Lease { shared: Arc::clone(&self.shared), given });
            }
            if known.queue.len() >= known.policy.queue_max {
                let max = known.policy.queue_max;
                let message =
                    format!("provider {}: {max} calls wait for a process already", self.shared.name);
                return Err(Failure::new(Code::ProviderOverloaded, message)
                    .with(calls::QUEUE_MAX, max)
                    .not_begun());
            }
            let (turn, given) = known.queue.join(priority, self.shared.now());
            Waiting::new(Arc::clone(&self.shared), turn, given)
        };
        self.shared.changed.notify_one();
        waiting.given().await
    }

    /// What there is now.
    pub(super) fn standing(&self) -> Standing {
        let known = self.shared.lock();
        let members = known.slots.iter().filter(|slot| !slot.is_leaving).count();
        let failures = known.last_failure.clone().map(|failure| (known.failures, failure));
        let failures = failures.filter(|(count, _)| *count > 0);
        let bounds = (known.policy.min, known.policy.max);
        Standing { members, bounds, waiting: known.queue.len(), failures }
    }

    /// As others see it.
    pub(super) fn told(&self) -> PoolStanding {
        let Standing { members, bounds: (min, max), .. } = self.standing();
        PoolStanding { instances: members, min, max }
    }

    /// Has so many members from now on.
    pub(super) fn scale(&self, min: u32, max: u32) {
        let mut known = self.shared.lock();
        (known.policy.min, known.policy.max) = (min, max.max(min).max(1));
        drop(known);
        self.shared.changed.notify_one();
    }

    /// Everybody who takes calls now.
    pub(super) fn members(&self) -> Vec<Arc<M::Member>> {
        let known = self.shared.lock();
        let fit = known.slots.iter().filter(|slot| !slot.is_leaving);
        fit.map(|slot| Arc::clone(&slot.member)).collect()
    }

    /// A member that has no call now, to look at it; `None` if all have one.
    pub(super) fn idle(&self) -> Option<Lease<M>> {
        let mut known = self.shared.lock();
        let is_idle = known.slots.iter().any(|slot| slot.running == 0 && !slot.is_leaving);
        let given = if is_idle && known.queue.is_empty() { self.shared.take(&mut known) } else { None };
        if let Some(given) = &given {
            // A look is no use.
            let slot = known.slots.iter_mut().find(|slot| slot.number == given.number);
            slot.into_iter().for_each(|slot| slot.uses -= 1);
        }
        drop(known);
        given.map(|given| Lease { shared: Arc::clone(&self.shared), given })
    }

    /// Ends every member; who waits is told. May be repeated.
    pub(super) async fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.tell_all(&stopped(&self.shared.name));
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl<M: Maker> Drop for Pool<M> {
    fn drop(&mut self) {
        // The keeper ends every member and itself.
        self.shared.stop.cancel();
    }
}

impl<M: Maker> Shared<M> {
    /// Takes room from the member that was used last, of those with the fewest calls.
    fn take(&self, known: &mut Known<M::Member>) -> Option<Given<M::Member>> {
        let (now, policy) = (self.now(), known.policy);
        let fit = known.slots.iter_mut().filter(|slot| policy.has_room(&slot.seen(now)));
        let slot = fit.min_by_key(|slot| (slot.running, std::cmp::Reverse(slot.used_at)))?;
        (slot.running, slot.uses, slot.used_at) = (slot.running + 1, slot.uses + 1, now);
        let given = Given { number: slot.number, member: Arc::clone(&slot.member) };
        self.observe(known);
        Some(given)
    }

    /// A call has ended; its room goes to who waits.
    fn release(&self, number: u64) {
        let mut known = self.lock();
        let now = self.now();
        if let Some(slot) = known.slots.iter_mut().find(|slot| slot.number == number) {
            slot.running = slot.running.saturating_sub(1);
            slot.used_at = now;
        }
        self.observe(&mut known);
        self.serve(&mut known);
        drop(known);
        self.changed.notify_one();
    }

    /// Gives room to those who wait, the most urgent first.
    fn serve(&self, known: &mut Known<M::Member>) {
        while !known.queue.is_empty() {
            let Some(given) = self.take(known) else { return };
            if let Some(back) = known.queue.give(given) {
                // Nobody waited in earnest.
                let slot = known.slots.iter_mut().find(|slot| slot.number == back.number);
                slot.into_iter()
                    .for_each(|slot| (slot.running, slot.uses) = (slot.running - 1, slot.uses - 1));
            }
        }
    }

    fn tell_all(&self, failure: &Failure) {
        self.lock().queue.refuse_all(failure);
    }

    fn observe(&self, known: &mut Known<M::Member>) {
        let fit = || known.slots.iter().filter(|slot| !slot.is_leaving);
        let busy = fit().map(|slot| slot.running).sum();
        let all = u32::try_from(fit().count()).unwrap_or(u32::MAX).saturating_mul(known.policy.concurrency);
        known.used.observe(busy, all, self.now());
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Known<M::Member>> {
        // Nothing that panics is done while it is held.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Slot<T> {
    fn seen(&self, now: Duration) -> pool::Member {
        let idle = if self.running == 0 { now.saturating_sub(self.used_at) } else { Duration::ZERO };
        pool::Member {
            age: now.saturating_sub(self.born),
            running: self.running,
            idle,
            uses: self.uses,
            memory_bytes: self.held,
            is_leaving: self.is_leaving || self.is_dead,
        }
    }
}

impl<M: Maker> Lease<M> {
    /// Who is called.
    pub(super) fn member(&self) -> &Arc<M::Member> {
        &self.given.member
    }

    /// It has ended, so nobody else is to call it: it is taken out as soon as the pool has heard of its end.
    pub(super) fn died(&self) {
        let mut known = self.shared.lock();
        let slot = known.slots.iter_mut().find(|slot| slot.number == self.given.number);
        slot.into_iter().for_each(|slot| slot.is_dead = true);
    }

    /// It has shown that it works: earlier failures are forgotten.
    pub(super) fn proved(&self) {
        let mut known = self.shared.lock();
        (known.failures, known.last_failure) = (0, None);
    }
}

impl<M: Maker> Drop for Lease<M> {
    fn drop(&mut self) {
        self.shared.release(self.given.number);
    }
}

fn stopped(name: &str) -> Failure {
    Failure::new(Code::SystemShutdown, format!("provider {name} has stopped")).not_begun()
}
