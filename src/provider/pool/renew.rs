//! Every member replaced by a new one, while calls go on.
//!
//! One after the other: the new one first where `max` leaves room for it, then the old one gets no more calls and goes
//! when those that it has have ended. Where there is no room the old one goes first. What cannot start ends it: the
//! old ones that are left stay.

use std::sync::Arc;

use super::{Known, Maker, Pool, Shared, stopped};
use crate::core::failure::Failure;

impl<M: Maker> Pool<M> {
    /// Replaces everybody who is there now, and returns when they have gone. `false`: nobody is there.
    ///
    /// # Errors
    /// What keeps new ones from starting; `SYSTEM_SHUTDOWN`: the pool has stopped.
    pub(in crate::provider) async fn renew(&self) -> Result<bool, Failure> {
        let shared = &self.shared;
        if shared.stop.is_cancelled() {
            return Err(stopped(&shared.name));
        }
        let old: Vec<u64> = shared.lock().slots.iter().map(|slot| slot.number).collect();
        if old.is_empty() {
            return Ok(false);
        }
        for number in &old {
            match Coming::announce(shared) {
                Some(coming) => {
                    let member = shared.unless_stopped(shared.maker.start()).await??;
                    shared.join(member);
                    drop(coming);
                    shared.leave(*number);
                }
                None => {
                    shared.leave(*number);
                    shared.until(|known| has_gone(known, *number)).await?;
                    shared.until_replaced().await?;
                }
            }
        }
        shared.until(|known| old.iter().all(|number| has_gone(known, *number))).await?;
        Ok(true)
    }
}

impl<M: Maker> Shared<M> {
    /// It gets no more calls, and goes when it has none.
    fn leave(&self, number: u64) {
        let mut known = self.lock();
        let slot = known.slots.iter_mut().find(|slot| slot.number == number);
        slot.into_iter().for_each(|slot| slot.is_leaving = true);
        self.observe(&mut known);
        drop(known);
        self.changed.notify_one();
    }

    /// Waits for as many as are always there.
    async fn until_replaced(&self) -> Result<(), Failure> {
        let failures = self.lock().failures;
        self.until(|known| {
            let fit = known.slots.iter().filter(|slot| !slot.is_leaving).count();
            fit >= known.policy.min as usize || known.failures > failures
        })
        .await?;
        let known = self.lock();
        let failure = known.last_failure.clone().filter(|_| known.failures > failures);
        failure.map_or(Ok(()), Err)
    }

    async fn until(&self, is_so: impl Fn(&Known<M::Member>) -> bool) -> Result<(), Failure> {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if is_so(&self.lock()) {
                return Ok(());
            }
            self.unless_stopped(moved).await?;
        }
    }

    async fn unless_stopped<T>(&self, what: impl Future<Output = T>) -> Result<T, Failure> {
        let done = self.stop.run_until_cancelled(what).await;
        done.ok_or_else(|| stopped(&self.name))
    }
}

fn has_gone<T>(known: &Known<T>, number: u64) -> bool {
    !known.slots.iter().any(|slot| slot.number == number)
}

/// One that is being started, until this is dropped.
struct Coming<M: Maker>(Arc<Shared<M>>);

impl<M: Maker> Coming<M> {
    /// `None`: there is no room for one more.
    fn announce(shared: &Arc<Shared<M>>) -> Option<Coming<M>> {
        let mut known = shared.lock();
        let everybody = known.slots.len().saturating_add(known.starting as usize);
        if everybody >= known.policy.max as usize {
            return None;
        }
        known.starting += 1;
        Some(Coming(Arc::clone(shared)))
    }
}

impl<M: Maker> Drop for Coming<M> {
    fn drop(&mut self) {
        self.0.lock().starting -= 1;
    }
}
