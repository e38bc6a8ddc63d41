//! The keeper: does what the policy says, whenever something has changed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::{Known, Maker, Shared, Slot};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::pool::{Need, Plan, Why};

/// How often it is measured what members hold.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// The longest time without a look.
const LOOK_EVERY: Duration = Duration::from_secs(60);

impl<M: Maker> Shared<M> {
    /// Keeps the pool until it stops; then ends every member.
    pub(super) async fn keep(self: Arc<Self>) {
        let measures = self.lock().policy.memory_bytes_max.is_some();
        let mut measured = self.now();
        loop {
            if measures && self.now().saturating_sub(measured) >= MEASURE_EVERY {
                self.measure().await;
                measured = self.now();
            }
            let again = self.act();
            let longest = if measures { MEASURE_EVERY } else { LOOK_EVERY };
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.changed.notified() => {}
                () = sleep(again.unwrap_or(longest).min(longest)) => {}
            }
        }
        let members: Vec<Arc<M::Member>> =
            self.lock().slots.iter().map(|slot| Arc::clone(&slot.member)).collect();
        futures_util::future::join_all(members.iter().map(|member| self.maker.stop(member))).await;
    }

    /// Decides and does. When to decide again although nothing happens.
    fn act(self: &Arc<Self>) -> Option<Duration> {
        let mut known = self.lock();
        let plan = self.decide(&known);
        self.follow(&mut known, &plan);
        plan.again
    }

    fn decide(&self, known: &Known<M::Member>) -> Plan {
        let now = self.now();
        let members: Vec<_> = known.slots.iter().map(|slot| slot.seen(now)).collect();
        known.policy.decide(&Need {
            members: &members,
            starting: known.starting,
            waiting: known.queue.len(),
            waited: known.queue.since().map_or(Duration::ZERO, |since| now.saturating_sub(since)),
            used: known.used.at(now),
            since_growth: known.grown_at.map(|at| now.saturating_sub(at)),
            failures: known.failures,
            since_failure: now.saturating_sub(known.failed_at),
        })
    }

    fn follow(self: &Arc<Self>, known: &mut Known<M::Member>, plan: &Plan) {
        for (place, why) in &plan.leave {
            if let Some(slot) = known.slots.get_mut(*place) {
                slot.is_leaving = true;
                tracing::debug!(provider = self.name, member = slot.number, why = ?why, "leaves the pool");
            }
        }
        for slot in
            known.slots.iter_mut().filter(|slot| slot.is_leaving && slot.running == 0 && !slot.is_stopping)
        {
            slot.is_stopping = true;
            let (shared, member) = (Arc::clone(self), Arc::clone(&slot.member));
            self.tasks.spawn(async move { shared.maker.stop(&member).await });
        }
        if plan.is_growth {
            known.grown_at = Some(self.now());
        }
        for _ in 0..plan.start {
            known.starting += 1;
            self.tasks.spawn(Arc::clone(self).start_one());
        }
        if plan.give_up {
            let reason =
                known.last_failure.as_ref().map_or("it has died too often", |failure| &failure.message);
            let message = format!("provider {} cannot be started: {reason}", self.name);
            let failure = Failure::new(Code::ProviderInitializationFailed, message).not_begun();
            known.queue.refuse_all(&failure);
        }
        if plan.leave.iter().any(|(_, why)| *why != Why::Idle) {
            self.observe(known);
        }
    }

    async fn start_one(self: Arc<Self>) {
        let started = tokio::select! {
            started = self.maker.start() => Some(started),
            () = self.stop.cancelled() => None,
        };
        self.lock().starting -= 1;
        match started {
            Some(Ok(member)) => self.join(member),
            Some(Err(failure)) => self.failed(failure),
            None => {}
        }
        self.changed.notify_one();
    }

    /// Takes a member in, and looks after it until it has ended.
    pub(super) fn join(self: &Arc<Self>, member: M::Member) {
        let member = Arc::new(member);
        let mut known = self.lock();
        if self.stop.is_cancelled() {
            // The keeper may have gone through all members already.
            let shared = Arc::clone(self);
            self.tasks.spawn(async move { shared.maker.stop(&member).await });
            self.moved.notify_waiters();
            return;
        }
        let (number, now) = (known.next, self.now());
        known.next += 1;
        known.slots.push(Slot {
            number,
            member: Arc::clone(&member),
            born: now,
            used_at: now,
            running: 0,
            uses: 0,
            held: None,
            is_leaving: false,
            is_stopping: false,
            is_dead: false,
        });
        self.serve(&mut known);
        self.observe(&mut known);
        drop(known);
        self.moved.notify_waiters();
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            let how = shared.maker.ended(&member).await;
            shared.gone(number, &how);
        });
    }

    /// A member has ended.
    fn gone(&self, number: u64, how: &str) {
        let mut known = self.lock();
        let Some(place) = known.slots.iter().position(|slot| slot.number == number) else { return };
        let slot = known.slots.remove(place);
        self.observe(&mut known);
        drop(known);
        if !slot.is_leaving && !self.stop.is_cancelled() {
            tracing::warn!(provider = self.name, member = number, uses = slot.uses, "{how}; it is replaced");
            if slot.uses == 0 {
                self.failed(Failure::new(Code::ProviderInitializationFailed, how));
            }
        }
        self.changed.notify_one();
        self.moved.notify_waiters();
    }

    fn failed(&self, failure: Failure) {
        let mut known = self.lock();
        known.failures = known.failures.saturating_add(1);
        known.failed_at = self.now();
        let pause = known.policy.pause(known.failures);
        tracing::warn!(provider = self.name, %failure, ?pause, "could not start; tried again after a pause");
        known.last_failure = Some(failure);
        drop(known);
        self.moved.notify_waiters();
    }

    async fn measure(&self) {
        let (numbers, members): (Vec<u64>, Vec<Arc<M::Member>>) =
            self.lock().slots.iter().map(|slot| (slot.number, Arc::clone(&slot.member))).unzip();
        let held = self.maker.held(&members).await;
        let mut known = self.lock();
        for slot in &mut known.slots {
            let place = numbers.iter().position(|number| *number == slot.number);
            slot.held = place.and_then(|place| held.get(place).copied().flatten()).or(slot.held);
        }
    }
}
