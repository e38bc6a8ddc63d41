//! The worker's session: alive as long as its heart beats.
//!
//! A lease names the session. When the session is dead, others take its leases over; so the beat is what
//! keeps this worker's tasks its own. A beat that does not reach the store for the whole TTL loses them,
//! and the fence then refuses what this worker still finishes.
//!
//! While the store is away nobody's beat reaches it, and all sessions run out together. So a worker takes the
//! others for dead only while it knows, from its own beats, that theirs could have come: [`Heart`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::liveness::Pulse;
use super::patience::{Stop, insist};
use crate::core::clock::Clock;
use crate::core::id::Id;
use crate::store::{Store, StoreError};

/// Between two beats.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How long a session lives without a beat. Recovery after a kill takes this long at most, plus a moment.
pub const BEAT_TTL: Duration = Duration::from_secs(5);
/// How often a worker says what it is: what it has said is gone when others take it for dead, and who beats again must be
/// known again before anybody can tell who lives ([`DOUBT`]).
const INTRODUCED_EVERY: Duration = Duration::from_secs(2);
/// Two beats that are further apart have a gap between them.
const GAP: Duration = BEAT_EVERY.saturating_add(Duration::from_secs(1));
/// How long after a gap a live session may still look dead: a beat may wait as long as an answer may take, and
/// then for the longest pause before the next connection (2 s).
const DOUBT: Duration = BEAT_TTL.saturating_add(Duration::from_secs(2));

/// What this worker's own beats tell of the others'.
#[derive(Debug, Default)]
pub(super) struct Heart {
    rhythm: Mutex<Rhythm>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Rhythm {
    /// No beat has been tried.
    #[default]
    Untried,
    /// The last one failed.
    Broken,
    /// All have succeeded since then, or since the start, up to the last one.
    Steady { since: Option<Instant>, last: Instant },
}

impl Heart {
    /// A beat has reached the store.
    pub(super) fn beat(&self) {
        let now = Instant::now();
        let mut rhythm = self.lock();
        let since = match *rhythm {
            // Who has just been started must not wait to take over from who died before.
            Rhythm::Untried => None,
            Rhythm::Steady { since, last } if now.duration_since(last) <= GAP => since,
            Rhythm::Steady { .. } | Rhythm::Broken => Some(now),
        };
        *rhythm = Rhythm::Steady { since, last: now };
    }

    /// The store could not be reached.
    pub(super) fn missed(&self) {
        *self.lock() = Rhythm::Broken;
    }

    /// Whether a session that is not alive is dead.
    pub(super) fn can_tell(&self) -> bool {
        match *self.lock() {
            Rhythm::Untried => true,
            Rhythm::Broken => false,
            Rhythm::Steady { since, last } => {
                last.elapsed() <= GAP && since.is_none_or(|since| since.elapsed() >= DOUBT)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rhythm> {
        // It is replaced as a whole.
        self.rhythm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It beats.
    Alive,
    /// It does not; but the store was away, and it may again in a moment.
    Doubtful,
    /// It never will again.
    Dead,
}

impl Shared {
    /// Asks for a session's sign of life.
    pub(super) async fn sign_of(&self, session: &Id) -> Result<Sign, Stop> {
        let now = self.parts.clock.now();
        let step = async || {
            let alive = self.parts.store.alive(session, now).await;
            alive.inspect_err(|_| self.heart.missed())
        };
        let is_alive = insist(&self.abort, "alive", step).await?;
        Ok(match (is_alive, self.heart.can_tell()) {
            (true, _) => Sign::Alive,
            (false, false) => Sign::Doubtful,
            (false, true) => Sign::Dead,
        })
    }
}

/// Beats until `stop` fires, saying now and then what this worker is (`about`), then leaves.
pub(super) async fn run(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    id: Id,
    about: String,
    heart: Arc<Heart>,
    pulse: Arc<Pulse>,
    stop: CancellationToken,
) {
    // Beside the beats: none of them may be late for it.
    let introducing = stop.run_until_cancelled(introduce(&*store, &id, &about));
    tokio::join!(beat(&*store, &*clock, &id, &heart, &pulse, &stop), introducing);
    if let Err(error) = store.leave(&id).await {
        tracing::debug!(%error, "could not end the session; it ends by its TTL");
    }
}

async fn beat(
    store: &dyn Store,
    clock: &dyn Clock,
    id: &Id,
    heart: &Heart,
    pulse: &Pulse,
    stop: &CancellationToken,
) {
    let mut ticks = tokio::time::interval(BEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let beat = store.beat(id, BEAT_TTL, clock.now()).await;
        if beat.is_err() {
            heart.missed();
        }
        match beat {
            Ok(()) => {
                silent = false;
                heart.beat();
                pulse.beat();
            }
            // The store itself tells people when it is away.
            Err(error @ (StoreError::Unreachable { .. } | StoreError::Unanswered { .. })) => {
                tracing::debug!(%error, "the session's heartbeat does not reach the store");
            }
            Err(error) if !silent => {
                silent = true;
                tracing::warn!(%error, "the session's heartbeat does not reach the store");
            }
            Err(_) => {}
        }
    }
}

/// Says what this worker is, again and again: a store may have lost it.
async fn introduce(store: &dyn Store, id: &Id, about: &str) {
    loop {
        let wait = match store.introduce(id, about).await {
            Ok(()) => INTRODUCED_EVERY,
            Err(error) => {
                tracing::debug!(%error, "others do not know yet what this worker can hold");
                BEAT_EVERY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn steady(heart: &Heart, seconds: u64) {
        for _ in 0..seconds {
            tokio::time::advance(BEAT_EVERY).await;
            heart.beat();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_just_been_started_can_tell_who_is_dead() {
        let heart = Heart::default();
        assert!(heart.can_tell());
        heart.beat();
        assert!(heart.can_tell());
        steady(&heart, 3).await;
        assert!(heart.can_tell());
        let late = Heart::default();
        late.missed();
        late.beat();
        assert!(!late.can_tell(), "the store was away at the start");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_beat_that_failed_nobody_is_dead_for_a_while() {
        let heart = Heart::default();
        heart.beat();
        heart.missed();
        assert!(!heart.can_tell());
        tokio::time::advance(DOUBT * 2).await;
        assert!(!heart.can_tell(), "it is still away");
        heart.beat();
        steady(&heart, DOUBT.as_secs() - 1).await;
        assert!(!heart.can_tell());
        steady(&heart, 1).await;
        assert!(heart.can_tell());
    }

    #[tokio::test(start_paused = true)]
    async fn a_beat_that_hung_is_a_gap_already_before_it_is_answered() {
        let heart = Heart::default();
        heart.beat();
        tokio::time::advance(GAP).await;
        assert!(heart.can_tell());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!heart.can_tell());
        heart.beat();
        assert!(!heart.can_tell());
        steady(&heart, DOUBT.as_secs()).await;
        assert!(heart.can_tell());
    }
}
