//! Liveness is progress: each loop of a worker says when it last got on, and is missed when it does not.
//!
//! A loop has a [`Pulse`]. It beats when something was done, and also when there is nothing to do by right: a
//! consumer that is subscribed to an empty queue lives, one whose subscription is lost does not, however alive its
//! task. Who only sometimes waits for something (publishing) is missed only while it waits. A loop that was silent for
//! [`SILENCE_MAX`] is an error in the log, all such loops in one line, once until they go on.

use async_trait::async_trait;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::broker::{BrokerError, Consumer, Delivery};

/// How long a loop may make no progress.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How often it is looked at who makes progress.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The loops of a worker.
#[derive(Debug)]
pub struct Liveness {
    /// What times are counted from.
    since: Instant,
    loops: Mutex<Vec<Weak<Pulse>>>,
}

/// A loop that makes no progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stalled {
    /// What the loop does.
    pub name: String,
    /// How long it has made none.
    pub silent: Duration,
}

/// One loop's sign of life.
#[derive(Debug)]
pub(super) struct Pulse {
    name: String,
    since: Instant,
    /// The last progress, in milliseconds from `since`.
    last: AtomicU64,
    /// What it waits for at this moment; it is missed only while that is more than none.
    waiting: AtomicUsize,
    is_reported: AtomicBool,
}

impl Default for Liveness {
    fn default() -> Liveness {
        Liveness { since: Instant::now(), loops: Mutex::default() }
    }
}

impl Liveness {
    /// The loops that have made no progress for [`SILENCE_MAX`].
    #[must_use]
    pub fn stalled(&self) -> Vec<Stalled> {
        let stalled = |pulse: &Arc<Pulse>| {
            let silent = pulse.silent();
            (silent >= SILENCE_MAX).then(|| Stalled { name: pulse.name.clone(), silent })
        };
        self.pulses().iter().filter_map(stalled).collect()
    }

    /// The pulse of a loop that must always get on, until it is dropped.
    pub(super) fn always(&self, name: impl Into<String>) -> Arc<Pulse> {
        self.pulse(name.into(), 1)
    }

    /// The pulse of something that must get on while it is [`Pulse::wait`]ed for.
    pub(super) fn sometimes(&self, name: impl Into<String>) -> Arc<Pulse> {
        self.pulse(name.into(), 0)
    }

    /// A consumer that has a pulse.
    pub(super) fn watch(&self, consumer: Box<dyn Consumer>, name: impl Into<String>) -> Box<dyn Consumer> {
        Box::new(Watched { consumer, pulse: self.always(name) })
    }

    /// Reports who stalls and who goes on, until `stop` fires.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(look.tick()).await.is_some() {
            let (stalled, moving) = self.changes();
            if !stalled.is_empty() {
                let limit = SILENCE_MAX.as_secs();
                tracing::error!(loops = ?stalled, "no progress for {limit} s");
            }
            if !moving.is_empty() {
                tracing::warn!(loops = ?moving, "these make progress again");
            }
        }
    }

    /// The names of those that have stalled and of those that go on, since this was asked last.
    fn changes(&self) -> (Vec<String>, Vec<String>) {
        let (mut stalled, mut moving) = (Vec::new(), Vec::new());
        for pulse in self.pulses() {
            let is_stalled = pulse.silent() >= SILENCE_MAX;
            if pulse.is_reported.swap(is_stalled, Ordering::Relaxed) != is_stalled {
                let changed = if is_stalled { &mut stalled } else { &mut moving };
                changed.push(pulse.name.clone());
            }
        }
        (stalled, moving)
    }

    fn pulse(&self, name: String, waiting: usize) -> Arc<Pulse> {
        let since = self.since;
        let (last, waiting) = (AtomicU64::new(millis(since.elapsed())), AtomicUsize::new(waiting));
        let pulse = Arc::new(Pulse { name, since, last, waiting, is_reported: AtomicBool::new(false) });
        self.loops().push(Arc::downgrade(&pulse));
        pulse
    }

    /// Those of loops that still run.
    fn pulses(&self) -> Vec<Arc<Pulse>> {
        let mut loops = self.loops();
        loops.retain(|pulse| pulse.strong_count() > 0);
        loops.iter().filter_map(Weak::upgrade).collect()
    }

    fn loops(&self) -> MutexGuard<'_, Vec<Weak<Pulse>>> {
        // No code that holds the lock can panic half-way.
        self.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pulse {
    /// Progress was made, or there is nothing to do by right.
    pub(super) fn beat(&self) {
        self.last.store(millis(self.since.elapsed()), Ordering::Relaxed);
    }

    /// Something is waited for, for as long as the answer lives.
    pub(super) fn wait(&self) -> Waiting<'_> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.beat();
        }
        Waiting(self)
    }

    fn silent(&self) -> Duration {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return Duration::ZERO;
        }
        self.since.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// Counts one that is waited for.
#[derive(Debug)]
pub(super) struct Waiting<'a>(&'a Pulse);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A consumer that says when it gets on.
#[derive(Debug)]
struct Watched {
    consumer: Box<dyn Consumer>,
    pulse: Arc<Pulse>,
}

#[async_trait]
impl Consumer for Watched {
    async fn next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        loop {
            match tokio::time::timeout(LOOK_INTERVAL, self.consumer.next()).await {
                Ok(next) => {
                    if matches!(next, Some(Ok(_))) {
                        self.pulse.beat();
                    }
                    return next;
                }
                // Nothing is ready, or all that may be held is held.
                Err(_) if self.consumer.is_subscribed() => self.pulse.beat(),
                Err(_) => {}
            }
        }
    }

    fn is_subscribed(&self) -> bool {
        self.consumer.is_subscribed()
    }

    async fn cancel(&mut self) -> Result<(), BrokerError> {
        self.consumer.cancel().await
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(liveness: &Liveness) -> Vec<String> {
        liveness.stalled().into_iter().map(|stalled| stalled.name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_loop_is_named_once_and_once_more_when_it_goes_on() {
        let liveness = Liveness::default();
        let (heart, gone) = (liveness.always("heart"), liveness.always("gone"));
        let publishing = liveness.sometimes("publishing");
        tokio::time::advance(SILENCE_MAX / 2).await;
        heart.beat();
        drop(gone);
        let waiting = publishing.wait();
        tokio::time::advance(SILENCE_MAX - Duration::from_millis(1)).await;
        assert_eq!(names(&liveness), [""; 0]);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(names(&liveness), ["heart", "publishing"]);
        let both = || vec!["heart".to_owned(), "publishing".to_owned()];
        assert_eq!(liveness.changes(), (both(), vec![]));
        assert_eq!(liveness.changes(), (vec![], vec![]));
        heart.beat();
        drop(waiting);
        assert_eq!(liveness.changes(), (vec![], both()));
    }

    /// Waits for ever.
    #[derive(Debug)]
    struct Nothing {
        is_subscribed: bool,
    }

    #[async_trait]
    impl Consumer for Nothing {
        async fn next(&mut self) -> Option<Result<Delivery, BrokerError>> {
            std::future::pending().await
        }
        fn is_subscribed(&self) -> bool {
            self.is_subscribed
        }
        async fn cancel(&mut self) -> Result<(), BrokerError> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_queue_is_no_stall_and_a_lost_subscription_is_one() {
        let liveness = Liveness::default();
        let mut idle = liveness.watch(Box::new(Nothing { is_subscribed: true }), "idle");
        let mut lost = liveness.watch(Box::new(Nothing { is_subscribed: false }), "lost");
        let both = async { tokio::join!(idle.next(), lost.next()) };
        assert!(tokio::time::timeout(SILENCE_MAX * 2, both).await.is_err(), "nothing comes");
        assert_eq!(names(&liveness), ["lost"]);
    }
}
