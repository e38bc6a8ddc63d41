//! How many tasks of one queue the worker may have in hand, and which subscription they came through.
//!
//! The broker counts what is unsettled, for each subscription by itself. A guarded task is settled and goes on,
//! so the broker would send one more than may run. Therefore its subscription is closed before it is settled:
//!
//! ```text
//! places ──prefetch──▶ subscription ──▶ deliveries (each holds one of its places)
//!    ▲                     │ closed: the places that nobody holds, at once
//!    └─────────────────────┴ and each of the others when its delivery ends
//! ```
//! What is free is asked for by the next subscription (`take`); without a guard there is one, and it never ends.
//!
//! After a lost channel the broker counts from zero while what it had sent before goes on here. So whoever would
//! execute takes a *seat*, of which there are as many as places. Who gets none goes back, and closes the
//! subscription that brings too much.

use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::patience::Stop;
use crate::topology::Queue;

/// How many subscriptions one queue may have before they are made one again.
const SUBSCRIPTIONS_MAX: usize = 8;
/// How long a delivery waits for a seat before it goes to another worker.
const SEAT_PATIENCE: Duration = Duration::from_secs(5);

/// The places of one queue.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) queue: Queue,
    state: Mutex<Free>,
    freed: Notify,
    seats: Arc<Semaphore>,
}

#[derive(Debug)]
struct Free {
    places: u16,
    /// Open subscriptions of this generation.
    open: usize,
    /// Closes all of them.
    close: CancellationToken,
    /// How often all were closed.
    generation: u64,
}

/// One subscription's places.
#[derive(Debug)]
pub(super) struct Subscription {
    places: Arc<Places>,
    prefetch: NonZeroU16,
    generation: u64,
    /// Fires when it must ask for no more.
    pub(super) close: CancellationToken,
    /// Fires when nothing comes through it any more.
    closed: CancellationToken,
    state: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    deliveries: u16,
    is_open: bool,
}

/// The place of one delivery, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    subscription: Arc<Subscription>,
}

impl Places {
    /// All of them free.
    pub(super) fn new(queue: Queue, prefetch: NonZeroU16) -> Arc<Places> {
        let free = Free { places: prefetch.get(), open: 0, close: CancellationToken::new(), generation: 0 };
        let seats = Arc::new(Semaphore::new(prefetch.get().into()));
        Arc::new(Places { queue, state: Mutex::new(free), freed: Notify::new(), seats })
    }

    /// Waits until some are free. For one waiter.
    pub(super) async fn freed(&self) {
        while self.lock().places == 0 {
            self.freed.notified().await;
        }
    }

    /// A subscription with every free place; `None` if there is none. Where there are many subscriptions they
    /// are closed, and their places come free.
    pub(super) fn subscribe(self: &Arc<Places>) -> Option<Arc<Subscription>> {
        self.subscribe_some(NonZeroU16::MAX)
    }

    /// As [`Places::subscribe`], with so many places at most.
    pub(super) fn subscribe_some(self: &Arc<Places>, at_most: NonZeroU16) -> Option<Arc<Subscription>> {
        let mut free = self.lock();
        let prefetch = NonZeroU16::new(free.places.min(at_most.get()))?;
        free.places -= prefetch.get();
        if free.open >= SUBSCRIPTIONS_MAX {
            std::mem::take(&mut free.close).cancel();
            (free.open, free.generation) = (0, free.generation + 1);
        }
        free.open += 1;
        Some(Arc::new(Subscription {
            places: Arc::clone(self),
            prefetch,
            generation: free.generation,
            close: free.close.child_token(),
            closed: CancellationToken::new(),
            state: Mutex::new(Held { deliveries: 0, is_open: true }),
        }))
    }

    fn left(&self, generation: u64) {
        let mut free = self.lock();
        if free.generation == generation {
            free.open -= 1;
        }
    }

    fn free(&self, places: u16) {
        if places > 0 {
            self.lock().places += places;
            self.freed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        // A panic while it was held cannot have left it half changed: numbers only.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// How many unsettled deliveries it asks for.
    pub(super) fn prefetch(&self) -> NonZeroU16 {
        self.prefetch
    }

    /// A delivery came.
    pub(super) fn enter(self: &Arc<Subscription>) -> Place {
        self.lock().deliveries += 1;
        Place { subscription: Arc::clone(self) }
    }

    /// Nothing comes any more: what is not held is free. A repeat does nothing.
    pub(super) fn retire(&self) {
        let mut held = self.lock();
        if !held.is_open {
            return;
        }
        held.is_open = false;
        let free = self.prefetch.get().saturating_sub(held.deliveries);
        drop(held);
        self.places.left(self.generation);
        self.places.free(free);
        self.closed.cancel();
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Closes its subscription and waits until that is done: what is settled then brings nothing new.
    pub(super) async fn close(&self) {
        self.subscription.close.cancel();
        self.subscription.closed.cancelled().await;
    }

    /// What all executions of the queue sit on.
    pub(super) fn seats(&self) -> Arc<Semaphore> {
        Arc::clone(&self.subscription.places.seats)
    }
}

/// A seat, until it is dropped. [`Stop::Crowded`] if none comes free for too long.
pub(super) async fn seat(
    seats: Arc<Semaphore>,
    abort: &CancellationToken,
) -> Result<OwnedSemaphorePermit, Stop> {
    if let Ok(seat) = Arc::clone(&seats).try_acquire_owned() {
        return Ok(seat);
    }
    tokio::select! {
        seat = seats.acquire_owned() => seat.map_err(|_| Stop::Aborted),
        () = abort.cancelled() => Err(Stop::Aborted),
        () = tokio::time::sleep(SEAT_PATIENCE) => Err(Stop::Crowded),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.subscription.lock();
        held.deliveries = held.deliveries.saturating_sub(1);
        // After a lost connection more may be held than was asked for.
        let is_free = !held.is_open && held.deliveries < self.subscription.prefetch.get();
        drop(held);
        if is_free {
            self.subscription.places.free(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(prefetch: u16) -> Arc<Places> {
        Places::new(Queue::Workflows, NonZeroU16::new(prefetch).expect("not zero"))
    }

    #[test]
    fn a_closed_subscription_gives_its_places_back_as_they_come_free() {
        let places = places(4);
        let first = places.subscribe().expect("all are free");
        assert_eq!(first.prefetch().get(), 4);
        let (guarded, other) = (first.enter(), first.enter());
        drop(first.enter());
        assert!(places.subscribe().is_none(), "the broker fills what an open subscription has");
        first.retire();
        first.retire();
        let second = places.subscribe().expect("two were not held");
        assert_eq!(second.prefetch().get(), 2);
        drop(other);
        assert_eq!(places.subscribe().expect("one ended").prefetch().get(), 1);
        drop(guarded);
        assert_eq!(places.subscribe().expect("the guarded one too").prefetch().get(), 1);
    }

    #[test]
    fn a_few_places_may_be_asked_for_and_the_others_stay_free() {
        let places = places(4);
        let one = places.subscribe_some(NonZeroU16::MIN).expect("all are free");
        assert_eq!(one.prefetch().get(), 1);
        assert_eq!(places.subscribe().expect("three are free").prefetch().get(), 3);
        assert!(places.subscribe_some(NonZeroU16::MIN).is_none());
    }

    #[test]
    fn what_a_lost_connection_brought_twice_frees_no_place_twice() {
        let places = places(2);
        let first = places.subscribe().expect("all are free");
        let held: Vec<Place> = (0..5).map(|_| first.enter()).collect();
        first.retire();
        assert!(places.subscribe().is_none());
        drop(held);
        assert_eq!(places.subscribe().expect("all ended").prefetch().get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_lost_connection_brought_beside_is_not_executed_beside() {
        let (places, abort) = (places(1), CancellationToken::new());
        let subscription = places.subscribe().expect("all are free");
        let (runs, comes) = (subscription.enter(), subscription.enter());
        let sits = seat(runs.seats(), &abort).await.expect("nobody sits");
        assert_eq!(seat(comes.seats(), &abort).await.expect_err("one runs"), Stop::Crowded);
        subscription.retire();
        drop(comes);
        assert!(places.subscribe().is_none(), "one still runs");
        drop((sits, runs));
        let subscription = places.subscribe().expect("it has ended");
        assert_eq!(subscription.prefetch().get(), 1);
        let _sits = seat(subscription.enter().seats(), &abort).await.expect("nobody sits");
    }

    #[test]
    fn many_subscriptions_are_made_one_again() {
        let places = places(u16::try_from(SUBSCRIPTIONS_MAX).expect("small") + 2);
        let mut all = Vec::new();
        let first = places.subscribe().expect("all are free");
        let mut held: Vec<Place> = (0..first.prefetch().get()).map(|_| first.enter()).collect();
        first.retire();
        while let Some(place) = held.pop() {
            drop(place);
            all.push(places.subscribe().expect("one is free"));
        }
        let closed = all.iter().filter(|one| one.close.is_cancelled()).count();
        assert_eq!(closed, SUBSCRIPTIONS_MAX);
        all.iter().filter(|one| one.close.is_cancelled()).for_each(|one| one.retire());
        let merged = places.subscribe().expect("they are free");
        assert_eq!(usize::from(merged.prefetch().get()), SUBSCRIPTIONS_MAX);
    }
}
