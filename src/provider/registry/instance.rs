//! One provider among others: how it does, and whether it may be called now.
//!
//! ```text
//! New ──▶ Started ──▶ Stopping ──▶ Stopped ──▶ Waking ──▶ Started    by whoever asks for it (`life`)
//!  └────▶ Failed ────────┘            └──────▶ Gone                  configured no more
//! ```

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::core::balance::{Candidate, Traits, Wish};
use crate::core::breaker::{self, Breaker, Ending, Pass};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::latency::Latency;
use crate::provider::registry::vitals::{Record, Vitals};
use crate::provider::{Answer, Health, Provider, Stock};

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
    settings: Settings,
    body: Arc<Body>,
}

/// What stays when its settings change.
#[derive(Debug)]
struct Body {
    running: AtomicU32,
    /// The last call has ended.
    idle: Notify,
    known: Mutex<Known>,
    /// Held by who starts, replaces or stops it: one at a time.
    life: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Known {
    state: State,
    health: Health,
    breaker: Breaker,
    latency: Latency,
    record: Record,
    /// It has asked to be left alone until then, or its limit is reached.
    busy_until: Duration,
    /// It has answered once.
    was_fit: bool,
    /// It has been looked at, or that has taken too long.
    is_checked: bool,
    /// Fires when it is to stop: nothing begins any more.
    halt: CancellationToken,
    /// Fires when its calls must end.
    cut: CancellationToken,
}

#[derive(Debug, Clone)]
pub(super) enum State {
    New,
    /// It is being started while others work: it is waited for.
    Waking,
    Started,
    Failed(Failure),
    Stopping,
    Stopped,
    Gone,
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
    Waking,
    Stopping,
    Stopped,
}

/// A call under way. Dropped without an end, it tells nothing.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) instance: Arc<Instance>,
    pass: Option<Pass>,
    /// When it began.
    began: Duration,
    /// Fires when it must end because its provider is to stop.
    pub(super) cut: CancellationToken,
}

impl Instance {
    pub(super) fn new(provider: Arc<dyn Provider>, settings: Settings) -> Instance {
        let known = Known {
            state: State::New,
            health: Health::Up,
            breaker: Breaker::new(settings.breaker),
            latency: Latency::default(),
            record: Record::default(),
            busy_until: Duration::ZERO,
            was_fit: false,
            is_checked: false,
            halt: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        let body = Body {
            running: AtomicU32::new(0),
            idle: Notify::new(),
            known: Mutex::new(known),
            life: tokio::sync::Mutex::default(),
        };
        Instance { provider, settings, body: Arc::new(body) }
    }

    /// One that comes while others work: it is waited for until it has been started once.
    pub(super) fn awaited(provider: Arc<dyn Provider>, settings: Settings) -> Instance {
        let instance = Instance::new(provider, settings);
        instance.lock().state = State::Waking;
        instance
    }

    /// The same one with other settings.
    pub(super) fn with(&self, settings: Settings) -> Instance {
        self.lock().breaker.adopt(settings.breaker);
        Instance { provider: Arc::clone(&self.provider), settings, body: Arc::clone(&self.body) }
    }

    /// Whether both are the same provider, whatever its settings.
    pub(super) fn is_same(&self, other: &Instance) -> bool {
        Arc::ptr_eq(&self.body, &other.body)
    }

    pub(super) fn name(&self) -> &str {
        self.provider.name()
    }

    pub(super) fn traits(&self) -> &Traits {
        &self.settings.traits
    }

    pub(super) fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Calls that it is at.
    pub(super) fn running(&self) -> u32 {
        self.body.running.load(Ordering::Relaxed)
    }

    /// Starts the provider unless it has started. Whether it is ready now.
    pub(super) async fn start(&self) -> Result<(), Failure> {
        let _life = self.body.life.lock().await;
        let halt = {
            let known = self.lock();
            match &known.state {
                State::Started => return Ok(()),
                State::Stopping | State::Stopped | State::Gone => return Err(self.stopped()),
                State::New | State::Waking | State::Failed(_) => known.halt.clone(),
            }
        };
        let started = halt.run_until_cancelled(self.provider.start()).await;
        let started = started.unwrap_or_else(|| Err(self.stopped()));
        let mut known = self.lock();
        if !matches!(known.state, State::New | State::Waking | State::Failed(_)) {
            return Err(self.stopped());
        }
        known.state = match &started {
            Ok(()) => State::Started,
            Err(failure) => State::Failed(failure.clone()),
        };
        started
    }

    /// Lets what was stopped be started again, as if it were new.
    pub(super) async fn wake(&self) -> Result<(), Failure> {
        let _life = self.body.life.lock().await;
        let mut known = self.lock();
        match known.state {
            State::Gone => return Err(self.stopped()),
            State::New | State::Waking | State::Started | State::Failed(_) => return Ok(()),
            State::Stopping | State::Stopped => {}
        }
        known.state = State::Waking;
        known.health = Health::Up;
        known.is_checked = false;
        known.busy_until = Duration::ZERO;
        known.breaker = Breaker::new(self.settings.breaker);
        (known.halt, known.cut) = (CancellationToken::new(), CancellationToken::new());
        Ok(())
    }

    /// Replaces what its calls run in while they go on. `false`: it cannot.
    pub(super) async fn renew(&self) -> Result<bool, Failure> {
        let _life = self.body.life.lock().await;
        let halt = self.lock().halt.clone();
        if !self.is_started() {
            return Ok(false);
        }
        let renewed = halt.run_until_cancelled(self.provider.renew()).await;
        renewed.unwrap_or_else(|| Err(self.stopped()))
    }

    /// It gets no more calls, and does not start. Whether that is news.
    pub(super) fn halt(&self) -> bool {
        let mut known = self.lock();
        if matches!(known.state, State::Stopping | State::Stopped | State::Gone) {
            return false;
        }
        known.state = State::Stopping;
        known.halt.cancel();
        true
    }

    /// Ends what was halted: its calls get `grace`, then they are cut and get `cut`.
    pub(super) async fn end(&self, grace: Duration, cut: Duration) {
        let _life = self.body.life.lock().await;
        if !matches!(self.state(), State::Stopping) {
            return;
        }
        if timeout(grace, self.idle()).await.is_err() {
            tracing::warn!(
                provider = self.name(),
                calls = self.running(),
                "its calls take longer than the grace: cut"
            );
            self.lock().cut.cancel();
            // Who does not obey ends with the provider.
            let _ = timeout(cut, self.idle()).await;
        }
        self.provider.stop().await;
        self.lock().state = State::Stopped;
    }

    /// It is configured no more.
    pub(super) fn forget(&self) {
        self.lock().state = State::Gone;
    }

    /// Waits until it is at no call.
    async fn idle(&self) {
        loop {
            let idle = self.body.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.running() == 0 {
                return;
            }
            idle.await;
        }
    }

    fn stopped(&self) -> Failure {
        let message = format!("provider {} is stopped; `gleitzeit provider start` starts it", self.name());
        Failure::new(Code::ProviderNotAvailable, message).not_begun()
    }

    pub(super) fn is_started(&self) -> bool {
        matches!(self.lock().state, State::Started)
    }

    /// Somebody starts or has stopped it: its tasks wait for that.
    pub(super) fn is_waited_for(&self) -> bool {
        self.is_halted() || matches!(self.lock().state, State::Waking)
    }

    /// Somebody has stopped it: it is not down, and nothing is started by itself.
    pub(super) fn is_halted(&self) -> bool {
        matches!(self.lock().state, State::Stopping | State::Stopped | State::Gone)
    }

    /// Whether it may be called.
    pub(super) fn fit(&self, now: Duration) -> Fit {
        let known = self.lock();
        let shut = |left, why| Fit::Shut { left, why };
        match (&known.state, &known.health) {
            (State::New, _) => return shut(None, Why::NotStarted(None)),
            (State::Failed(failure), _) => return shut(None, Why::NotStarted(Some(failure.clone()))),
            (State::Waking, _) => return shut(None, Why::Waking),
            (State::Stopping, _) => return shut(None, Why::Stopping),
            (State::Stopped | State::Gone, _) => return shut(None, Why::Stopped),
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
            Why::Waking => format!("{name} is being started"),
            Why::Stopping => format!("{name} is being stopped"),
            Why::Stopped => format!("{name} is stopped"),
        }
    }

    /// What it has of a model; unless it is configured, as far as it is known.
    pub(super) fn stock(&self, model: &str) -> Stock {
        match self.provider.stock(model) {
            Stock::Missing if !self.traits().models.is_empty() => Stock::Unknown,
            stock => stock,
        }
    }

    /// As a candidate.
    pub(super) fn candidate(&self, now: Duration, is_degraded: bool, wish: &Wish) -> Candidate<'_> {
        let is_warm = wish.model.as_ref().is_some_and(|model| self.stock(model) == Stock::Ready);
        Candidate {
            is_warm,
            name: self.provider.name(),
            traits: self.traits(),
            running: self.running(),
            latency: self.lock().latency.at(now),
            is_degraded,
        }
    }

    /// The right to one call. `None`: somebody else has taken the last one. With `regardless` it is given to
    /// whoever has started.
    pub(super) fn admit(self: &Arc<Instance>, now: Duration, regardless: bool) -> Option<Call> {
        let mut known = self.lock();
        if !matches!(known.state, State::Started) {
            return None;
        }
        let pass = known.breaker.admit(now);
        if pass.is_none() && !regardless {
            return None;
        }
        // While it is locked, so that who stops it knows of every call.
        self.body.running.fetch_add(1, Ordering::Relaxed);
        let cut = known.cut.clone();
        Some(Call { instance: Arc::clone(self), pass, began: now, cut })
    }

    /// It is left alone until then.
    pub(super) fn rest(&self, until: Duration) {
        let mut known = self.lock();
        known.busy_until = known.busy_until.max(until);
    }

    /// How long it is left alone when it asks for `wait`.
    pub(super) fn busy_for(&self, wait: Duration) -> Duration {
        wait.min(self.settings.breaker.open_max)
    }

    /// What is known of its calls and of the looks at it.
    pub(super) fn vitals(&self, now: Duration) -> Vitals {
        let known = self.lock();
        known.record.vitals(known.latency.at(now), now)
    }

    /// It was looked at, or somebody has tried to start it.
    pub(super) fn looked_at(&self, began: Duration, now: Duration) {
        self.lock().record.checked(began, now);
    }

    /// It is looked at again by then.
    pub(super) fn next_look(&self, at: Duration) {
        self.lock().record.next_check(at);
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
        self.body.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    /// The call has ended, which tells something of the instance; it may ask to be left alone. Whether it may be called
    /// has changed.
    pub(super) fn end(mut self, outcome: &Result<Answer, Failure>, ending: Ending, now: Duration) -> bool {
        let is_ok = outcome.is_ok();
        let wait = outcome.as_ref().err().and_then(|failure| failure.retry_after);
        let took = now.saturating_sub(self.began);
        let mut known = self.instance.lock();
        let before = (known.breaker.state(now), known.busy_until > now);
        known.was_fit |= is_ok;
        if is_ok {
            known.latency.observe(took, now);
        }
        known.record.ended(outcome.as_ref().map(|_| took), ending, now);
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
        if self.instance.body.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.instance.body.idle.notify_waiters();
        }
        if let Some(pass) = self.pass.take() {
            // Times do not matter for what tells nothing.
            self.instance.lock().breaker.end(pass, Ending::Untold, self.began);
        }
    }
}
