//! One provider among others: how it does, and whether it may be called now.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::core::balance::{Candidate, Traits, Wish};
use crate::core::breaker::{self, Breaker, Ending, Pass};
use crate::core::failure::Failure;
use crate::core::latency::Latency;
use crate::provider::{Health, Provider, Stock};

/// What is configured of a provider.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// What it is to those who choose.
    pub traits: Traits,
    /// When it is not called any more.
    pub breaker: breaker::Policy,
}

/// A provider, and what is known of it. Times are since the registry was made.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) provider: Arc<dyn Provider>,
    traits: Traits,
    /// The longest that it is left alone because it asked for it.
    busy_max: Duration,
    running: AtomicU32,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    state: State,
    health: Health,
    breaker: Breaker,
    latency: Latency,
    /// It has asked to be left alone until then, or its limit is reached.
    busy_until: Duration,
    /// It has answered once.
    was_fit: bool,
    /// It has been looked at, or that has taken too long.
    is_checked: bool,
}

#[derive(Debug)]
enum State {
    New,
    Started,
    Failed(Failure),
}

/// Whether an instance may be called now.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fit {
    /// As often as one likes.
    Open,
    /// Works, but others are better.
    Degraded,
    /// A few times, to see whether it has recovered.
    Probes(u32),
    /// Not at all, for about so long.
    Shut {
        /// `None`: nobody knows.
        left: Option<Duration>,
        /// What is the matter.
        why: Why,
    },
}

/// Why an instance may not be called.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Why {
    NotStarted(Option<Failure>),
    Down(String),
    Busy,
    Failing,
    Tried,
}

/// A call under way. Dropped without an end, it tells nothing.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) instance: Arc<Instance>,
    pass: Option<Pass>,
    /// When it began.
    began: Duration,
}

impl Instance {
    pub(super) fn new(provider: Arc<dyn Provider>, settings: Settings) -> Instance {
        let known = Known {
            state: State::New,
            health: Health::Up,
            breaker: Breaker::new(settings.breaker),
            latency: Latency::default(),
            busy_until: Duration::ZERO,
            was_fit: false,
            is_checked: false,
        };
        let (traits, busy_max, running) = (settings.traits, settings.breaker.open_max, AtomicU32::new(0));
        Instance { provider, traits, busy_max, running, known: Mutex::new(known) }
    }

    pub(super) fn name(&self) -> &str {
        self.provider.name()
    }

    pub(super) fn traits(&self) -> &Traits {
        &self.traits
    }

    /// Starts the provider unless it has started. Whether it is ready now.
    pub(super) async fn start(&self) -> Result<(), Failure> {
        if self.is_started() {
            return Ok(());
        }
        let started = self.provider.start().await;
        self.lock().state = match &started {
            Ok(()) => State::Started,
            Err(failure) => State::Failed(failure.clone()),
        };
        started
    }

    pub(super) fn is_started(&self) -> bool {
        matches!(self.lock().state, State::Started)
    }

    /// Whether it may be called.
    pub(super) fn fit(&self, now: Duration) -> Fit {
        let known = self.lock();
        let shut = |left, why| Fit::Shut { left, why };
        match (&known.state, &known.health) {
            (State::New, _) => return shut(None, Why::NotStarted(None)),
            (State::Failed(failure), _) => return shut(None, Why::NotStarted(Some(failure.clone()))),
            (State::Started, Health::Down(why)) => return shut(None, Why::Down(why.clone())),
            (State::Started, Health::Up | Health::Degraded(_)) => {}
        }
        if known.busy_until > now {
            return shut(Some(known.busy_until - now), Why::Busy);
        }
        match (known.breaker.state(now), &known.health) {
            (breaker::State::Open { left }, _) => shut(Some(left), Why::Failing),
            (breaker::State::HalfOpen { free: 0 }, _) => shut(None, Why::Tried),
            (breaker::State::HalfOpen { free }, _) => Fit::Probes(free),
            (breaker::State::Closed, Health::Degraded(_) | Health::Down(_)) => Fit::Degraded,
            (breaker::State::Closed, Health::Up) => Fit::Open,
        }
    }

    /// In words, with its name.
    pub(super) fn told(&self, why: &Why) -> String {
        let name = self.name();
        match why {
            Why::NotStarted(None) => format!("{name} is not started"),
            Why::NotStarted(Some(failure)) => format!("{name} could not start: {}", failure.message),
            Why::Down(why) => format!("{name} is down: {why}"),
            Why::Busy => format!("{name} is left alone: it has asked for it, or its limit is reached"),
            Why::Failing => format!("{name} fails too often, its breaker is open"),
            Why::Tried => format!("{name} is being tried, its breaker is half-open"),
        }
    }

    /// What it has of a model; unless it is configured, as far as it is known.
    pub(super) fn stock(&self, model: &str) -> Stock {
        match self.provider.stock(model) {
            Stock::Missing if !self.traits.models.is_empty() => Stock::Unknown,
            stock => stock,
        }
    }

    /// As a candidate.
    pub(super) fn candidate(&self, now: Duration, is_degraded: bool, wish: &Wish) -> Candidate<'_> {
        let is_warm = wish.model.as_ref().is_some_and(|model| self.stock(model) == Stock::Ready);
        Candidate {
            is_warm,
            name: self.provider.name(),
            traits: &self.traits,
            running: self.running.load(Ordering::Relaxed),
            latency: self.lock().latency.at(now),
            is_degraded,
        }
    }

    /// The right to one call. `None`: somebody else has taken the last one. With `regardless` it is given to
    /// whoever has started.
    pub(super) fn admit(self: &Arc<Instance>, now: Duration, regardless: bool) -> Option<Call> {
        let pass = self.lock().breaker.admit(now);
        if pass.is_none() && !regardless {
            return None;
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        Some(Call { instance: Arc::clone(self), pass, began: now })
    }

    /// It is left alone until then.
    pub(super) fn rest(&self, until: Duration) {
        let mut known = self.lock();
        known.busy_until = known.busy_until.max(until);
    }

    /// How long it is left alone when it asks for `wait`.
    pub(super) fn busy_for(&self, wait: Duration) -> Duration {
        wait.min(self.busy_max)
    }

    /// A check has told how it does. Whether that is news.
    pub(super) fn checked(&self, health: Health) -> bool {
        let mut known = self.lock();
        known.is_checked = true;
        known.was_fit |= health == Health::Up;
        let is_news = std::mem::discriminant(&known.health) != std::mem::discriminant(&health);
        known.health = health;
        is_news
    }

    /// Calls have waited long enough for the first look at it.
    pub(super) fn was_waited_for(&self) {
        self.lock().is_checked = true;
    }

    /// Whether it has been looked at, as far as calls wait for that.
    pub(super) fn is_checked(&self) -> bool {
        self.lock().is_checked
    }

    /// Whether it has ever worked: that it does not is news then.
    pub(super) fn was_fit(&self) -> bool {
        self.lock().was_fit
    }

    /// Whether it should be looked at often.
    pub(super) fn is_doubtful(&self, now: Duration) -> bool {
        let known = self.lock();
        let is_steady = matches!((&known.state, &known.health), (State::Started, Health::Up))
            && known.breaker.state(now) == breaker::State::Closed;
        !is_steady
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing that panics is done while it is held.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    /// The call has ended; the instance may ask to be left alone for `wait`. Whether it may be called has changed.
    pub(super) fn end(mut self, is_ok: bool, ending: Ending, wait: Option<Duration>, now: Duration) -> bool {
        let mut known = self.instance.lock();
        let before = (known.breaker.state(now), known.busy_until > now);
        known.was_fit |= is_ok;
        if is_ok {
            known.latency.observe(now.saturating_sub(self.began), now);
        }
        if let Some(wait) = wait {
            known.busy_until = known.busy_until.max(now + self.instance.busy_for(wait));
        }
        if let Some(pass) = self.pass.take() {
            known.breaker.end(pass, ending, now);
        }
        let after = (known.breaker.state(now), known.busy_until > now);
        drop(known);
        std::mem::discriminant(&before.0) != std::mem::discriminant(&after.0) || before.1 != after.1
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.instance.running.fetch_sub(1, Ordering::Relaxed);
        if let Some(pass) = self.pass.take() {
            // Times do not matter for what tells nothing.
            self.instance.lock().breaker.end(pass, Ending::Untold, self.began);
        }
    }
}
