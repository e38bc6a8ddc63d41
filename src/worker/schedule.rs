//! Schedules: recorded, changed and fired by whichever worker gets the message.
//!
//! A schedule is a definition in the store and one *tick* in the broker, delayed until the armed slot. No worker
//! keeps time and none is special: the tick is delivered to one of them, or waits until there is one.
//!
//! ```text
//! tick ──▶ begin ──▶ publish the runs and the next tick ──▶ fire (arm the next slot) ──▶ settle
//! ```
//! *A crash anywhere loses nothing.* Until `fire` the slot stays armed and the delivery unsettled: it comes again,
//! and the same is published again. After `fire` the next tick has been confirmed, and this one is settled because
//! its slot is not armed any more. So there is always a tick for the armed slot: it is published before the slot is
//! armed, and not settled before another one is.
//!
//! *A crash doubles nothing.* A run has the id of its slot, so its repeats end at `claim` or `create`. A crash
//! between publish and `fire` leaves two ticks for the next slot, alike. `begin` gives that slot to one of them; the
//! other waits a second in the broker and comes back when the slot is not armed any more, and so dies. Without
//! `begin` two ticks that are always due together, at two workers, could go on together for ever.
//!
//! *A tick may come too early:* by the clock of the worker that gets it (then it waits on), because its slot is
//! farther off than the broker can hold a message (it is parked in steps), or because whoever has published it has
//! not armed its slot yet (it comes back in a second; if that lasts a minute, it fires the armed slot instead).
//!
//! *A run that cannot be sent* (its queue is gone, it is too large) ends as failed and is a dead letter of its own
//! (`runs`); the tick goes on. *A definition that cannot be read here* was recorded by a newer worker: its tick is
//! handed on to one (`newer`), and with it the turn. A newer worker may well be there while that takes, so no slot is
//! missed for it: what was due is judged as of the moment when the tick came to the first worker, and what came due
//! since fires. Only when it has taken long is nobody taken to have been there, and the policy decides of all of it.
//!
//! *Commands* carry the generation that they make, and [`crate::store::Schedules::arrange`] takes only a newer one:
//! a repeat changes nothing. It publishes the tick again, since whoever recorded the change may not have come to
//! that; a tick too many dies as above.

use std::time::Duration;

use super::Shared;
use super::newer::newer_since;
use super::patience::{Stop, insist};
use super::publish::again;
use crate::broker::{DELAY_MAX, Delivery, Outgoing, Properties, Target};
use crate::core::clock::Timestamp;
use crate::core::id::Id;
use crate::core::schedule::{Due, Overlap};
use crate::store::{Arrangement, Begun, Firing, Schedule, ScheduleState, Turn};
use crate::topology::Queue;
use crate::wire::schedule::{Change, Definition, Order, Tick};

/// How long a worker has a slot to itself. If it dies meanwhile, the slot fires this much later.
const TURN: Duration = Duration::from_secs(5);
/// When a tick that came too early or to a slot that somebody is at comes again.
const AGAIN: Duration = Duration::from_secs(1);
/// How late a tick must be to fire a slot before its own.
const STRAY_AFTER: Duration = Duration::from_secs(60);
/// For how long a tick that older workers hand on makes no slot a missed one.
const HANDED_ON_MAX: Duration = Duration::from_secs(60);

impl Shared {
    /// Carries out what a message about a schedule says.
    pub(super) async fn order(&self, delivery: &Delivery, order: Order) -> Result<(), Stop> {
        match order {
            Order::Tick(tick) => self.tick(delivery, &tick).await,
            Order::Set { name, generation: Some(generation), definition } => {
                self.set(name, generation, &definition).await
            }
            Order::Change { name, generation: Some(generation), change } => {
                self.change(delivery, &name, generation, change).await
            }
            Order::Set { name, generation: None, definition } => {
                let generation = Some(self.next_generation(&name).await?);
                self.send(&Order::Set { name, generation, definition }, Duration::ZERO).await
            }
            Order::Change { name, generation: None, change } => {
                let generation = Some(self.next_generation(&name).await?);
                self.send(&Order::Change { name, generation, change }, Duration::ZERO).await
            }
        }
    }

    /// Fires what is due, or leaves it to whom it belongs.
    async fn tick(&self, delivery: &Delivery, tick: &Tick) -> Result<(), Stop> {
        let Tick { name, slot, generation } = tick;
        let (mut slot, generation) = (*slot, *generation);
        let by = self.parts.clock.new_id();
        loop {
            let now = self.parts.clock.now();
            if slot > now {
                return self.send_tick(tick, slot.since(now)).await;
            }
            let turn = Turn { name: name.clone(), generation, slot, by: by.clone() };
            let begin = || self.parts.store.begin(&turn, now.after(TURN), now);
            let there = match insist(&self.abort, "begin", begin).await? {
                Begun::Yours(schedule) => return self.fire(delivery, &schedule, &turn).await,
                // As it is, so that it is still known how long it waits for a newer worker.
                Begun::Held => return self.publish(vec![again(delivery, Some(AGAIN))]).await,
                Begun::Other(there) => there,
            };
            match there.filter(|there| there.generation == generation).and_then(|there| there.armed) {
                Some(armed) if armed < slot && now.since(slot) < STRAY_AFTER => {
                    return self.send_tick(tick, AGAIN).await;
                }
                Some(armed) if armed < slot => slot = armed,
                Some(_) | None => {
                    tracing::debug!(schedule = %name, %slot, generation, "a tick for a slot that is not armed");
                    return Ok(());
                }
            }
        }
    }

    /// Publishes what the armed slot causes, and then arms the next one.
    async fn fire(&self, delivery: &Delivery, schedule: &Schedule, turn: &Turn) -> Result<(), Stop> {
        let (name, slot, now) = (&schedule.name, turn.slot, self.parts.clock.now());
        let definition = match Definition::decode(&schedule.definition) {
            Ok(definition) => definition,
            Err(failure) => {
                // Whoever gets the tick next must not wait for the end of this turn, whatever its clock says.
                insist(&self.abort, "begin", || self.parts.store.begin(turn, turn.slot, now)).await?;
                return self.park_unread(delivery, name, &failure).await;
            }
        };
        let since = newer_since(delivery).filter(|since| now.since(*since) <= HANDED_ON_MAX);
        let Due { mut runs, missed, next } = definition.rules.due_since(slot, since.unwrap_or(now), now);
        let overlapped = self.leave_out(schedule, &definition, &mut runs).await?;
        self.publish_runs(name, &definition, &runs).await?;
        let generation = schedule.generation;
        match next {
            Some(next) => {
                let tick = Tick { name: name.clone(), slot: next, generation };
                self.send_tick(&tick, next.since(self.parts.clock.now())).await?;
            }
            None => tracing::warn!(schedule = %name, "the schedule has no more slots"),
        }
        let last = runs.last().map(|slot| (*slot, Definition::run_id(name, *slot)));
        let fired = runs.len() as u64;
        let firing = Firing { name: name.clone(), generation, slot, next, last, fired, missed, overlapped };
        let fire = || self.parts.store.fire(&firing, self.parts.clock.now());
        if insist(&self.abort, "fire", fire).await? {
            tracing::info!(schedule = %name, %slot, fired, missed, overlapped, "schedule fired");
        }
        Ok(())
    }

    /// Takes out the slots that would begin while another run has not ended; how many.
    async fn leave_out(
        &self,
        schedule: &Schedule,
        definition: &Definition,
        runs: &mut Vec<Timestamp>,
    ) -> Result<u64, Stop> {
        match definition.rules.overlap {
            Overlap::Allow => return Ok(0),
            Overlap::Skip if runs.is_empty() => return Ok(0),
            Overlap::Skip => {}
        }
        let is_running = match &schedule.last {
            Some((_, run)) => !self.is_over(&definition.work, run).await?,
            None => false,
        };
        let left_out = runs.split_off(usize::from(!is_running));
        Ok(left_out.len() as u64)
    }

    /// Records a schedule and starts its ticks.
    async fn set(&self, name: Id, generation: u32, definition: &Definition) -> Result<(), Stop> {
        let arrangement = Arrangement {
            name,
            generation,
            state: ScheduleState::Active,
            armed: definition.rules.timetable.after(self.parts.clock.now()),
            definition: definition.encode(),
        };
        self.arrange(&arrangement).await
    }

    /// Pauses, resumes or removes a schedule.
    async fn change(
        &self,
        delivery: &Delivery,
        name: &Id,
        generation: u32,
        change: Change,
    ) -> Result<(), Stop> {
        let read = || self.parts.store.schedule(name);
        let there = insist(&self.abort, "schedule", read).await?;
        let is_repeat = there.as_ref().is_some_and(|there| there.generation >= generation);
        if is_repeat && change != Change::Resume {
            tracing::debug!(schedule = %name, generation, ?change, "carried out already, or overtaken");
            return Ok(());
        }
        let Some(there) = there.filter(|there| there.state != ScheduleState::Removed) else {
            tracing::warn!(schedule = %name, ?change, "there is no such schedule");
            return Ok(());
        };
        let (state, definition, armed) = match change {
            Change::Pause => (ScheduleState::Paused, there.definition, None),
            Change::Remove => (ScheduleState::Removed, bytes::Bytes::new(), None),
            Change::Resume => match Definition::decode(&there.definition) {
                Ok(definition) => {
                    let armed = definition.rules.timetable.after(self.parts.clock.now());
                    (ScheduleState::Active, there.definition, armed)
                }
                Err(failure) => return self.park_unread(delivery, name, &failure).await,
            },
        };
        self.arrange(&Arrangement { name: name.clone(), generation, state, definition, armed }).await
    }

    async fn arrange(&self, arrangement: &Arrangement) -> Result<(), Stop> {
        let Arrangement { name, generation, state, .. } = arrangement;
        let arrange = || self.parts.store.arrange(arrangement, self.parts.clock.now());
        let there = insist(&self.abort, "arrange", arrange).await?;
        if there.generation != *generation
            || there.state != *state
            || there.definition != arrangement.definition
        {
            tracing::warn!(
                schedule = %name, generation, present = there.generation,
                "not changed: the schedule was changed by somebody else first"
            );
            return Ok(());
        }
        tracing::info!(schedule = %name, generation, state = state.name(), "schedule recorded");
        let Some(armed) = there.armed else { return Ok(()) };
        let tick = Tick { name: name.clone(), slot: armed, generation: *generation };
        self.send_tick(&tick, armed.since(self.parts.clock.now())).await
    }

    async fn next_generation(&self, name: &Id) -> Result<u32, Stop> {
        let there = insist(&self.abort, "schedule", || self.parts.store.schedule(name)).await?;
        Ok(there.map_or(1, |there| there.generation.saturating_add(1)))
    }

    async fn send_tick(&self, tick: &Tick, delay: Duration) -> Result<(), Stop> {
        self.send(&Order::Tick(tick.clone()), delay).await
    }

    async fn send(&self, order: &Order, delay: Duration) -> Result<(), Stop> {
        let delay = Some(delay.min(DELAY_MAX)).filter(|delay| !delay.is_zero());
        let target = Target::Queue(Queue::Workflows);
        let message = Outgoing { target, body: order.encode(), properties: Properties::default(), delay };
        self.publish(vec![message]).await
    }
}
