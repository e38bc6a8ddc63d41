//! The providers of this worker, by protocol, and which of them gets a call.
//!
//! ```text
//! call ─▶ who may be called now (started, healthy, breaker) ─▶ strategy ─▶ the provider
//!                  │ nobody                                                  │ it surely did not start:
//!                  ▼                                                         ▼ the next one, same attempt
//!         NotNow: nothing was tried                                  its answer or failure,
//!                                                                    told to its breaker
//! ```
//! `lanes` has who there is, which may change; `room` tells how much a protocol takes now; `life` starts and stops on
//! demand.
//!
//! Who fails is not called, and who is not called cannot show that it has recovered. So `health` looks, and the
//! breaker lets a probe through: nobody stays out for ever.

mod health;
mod instance;
mod lanes;
mod life;
mod limited;
mod room;
#[cfg(test)]
mod tests;
mod vitals;

use serde_json::Value;
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::limit::{HOLD, Limits, Permits, Used};
use super::{Answer, CallCx, Provider, Stock};
use crate::core::balance::{self, Strategy, Wish};
use crate::core::breaker::Ending;
use crate::core::clock::Clock;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::protocol::ProtocolId;
use instance::{Call, Fit, Instance, Why};
use lanes::{Lane, Lanes};
use limited::Limited;

pub use health::Settings as HealthSettings;
pub use instance::Settings as InstanceSettings;
pub use lanes::{Change, DuplicateName};
pub use life::{Ordered, Standing};
pub use vitals::Vitals;

/// How often it is looked whether somebody may be called again, where nobody can say when.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest time that a call waits for somebody before it looks again.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long a call waits for the first look at those that it may go to.
const FIRST_LOOK_MAX: Duration = Duration::from_secs(1);

/// How calls are given out.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The strategy of protocols without one of their own.
    pub strategy: Strategy,
    /// Strategies of single protocols.
    pub strategies: Vec<(ProtocolId, Strategy)>,
    /// When providers are looked after.
    pub health: HealthSettings,
    /// Nobody else serves these tasks, so that waiting helps nobody: where every provider is down, one of them gets the
    /// call all the same, and its failure tells why.
    pub is_last_resort: bool,
}

/// Every provider of this worker.
#[derive(Debug)]
pub struct Providers {
    settings: Settings,
    limits: Limits,
    by_protocol: RwLock<Lanes>,
    /// What times are counted from.
    origin: Instant,
    /// Who may be called has changed.
    changed: Notify,
    /// Who there is has changed.
    members_changed: Notify,
}

/// A call to be made.
#[derive(Debug)]
pub struct Ask<'a> {
    /// The protocol.
    pub protocol: &'a ProtocolId,
    /// The method, without the protocol's prefix.
    pub method: &'a str,
    /// What it asks of whoever serves it.
    pub wish: Wish,
}

/// What became of a call.
#[derive(Debug, PartialEq)]
pub enum Called {
    /// Somebody was asked.
    Made {
        /// Who.
        by: String,
        /// The answer, or why there is none.
        outcome: Result<Answer, Failure>,
    },
    /// Nobody may be asked now. Nothing was tried, or it was given back.
    NotNow {
        /// When it may be different, counted from now; `None`: nobody can say.
        wait: Option<Duration>,
        /// Why, in words.
        why: String,
    },
    /// Nobody in this worker can serve it; another worker may.
    Elsewhere(Failure),
    /// Nobody can serve it.
    Never(Failure),
}

/// Who could serve a call, among whom, and what is asked of them.
type Able = (Arc<Lane>, Vec<Arc<Instance>>, Wish);

impl Default for Providers {
    fn default() -> Providers {
        Providers::new(Settings::default())
    }
}

impl Providers {
    /// None yet.
    #[must_use]
    pub fn new(settings: Settings) -> Providers {
        Providers {
            settings,
            limits: Limits::default(),
            by_protocol: RwLock::default(),
            origin: Instant::now(),
            changed: Notify::new(),
            members_changed: Notify::new(),
        }
    }

    /// Whether nobody else serves these tasks.
    #[must_use]
    pub fn is_last_resort(&self) -> bool {
        self.settings.is_last_resort
    }

    /// Makes a call. A provider where it surely did not start costs nothing: the next one is asked.
    pub async fn call(&self, cx: &CallCx, ask: &Ask<'_>, params: Value, clock: &dyn Clock) -> Called {
        match self.passed_on(ask, &params) {
            Some((method, params)) => {
                let ask = Ask { method: &method, wish: ask.wish.clone(), ..*ask };
                self.call_as_named(cx, &ask, params, clock).await
            }
            None => self.call_as_named(cx, ask, params, clock).await,
        }
    }

    /// Which method is meant, where somebody serves it for others and one of these is there.
    fn passed_on(&self, ask: &Ask<'_>, params: &Value) -> Option<(String, Value)> {
        let lane = self.lane(ask.protocol)?;
        let mut serving = lane.instances.iter().filter(|one| one.provider.serves(ask.method));
        let passed = serving.find_map(|one| one.provider.passes_on(ask.method, params))?;
        lane.instances.iter().any(|one| one.provider.serves(&passed.0)).then_some(passed)
    }

    async fn call_as_named(&self, cx: &CallCx, ask: &Ask<'_>, params: Value, clock: &dyn Clock) -> Called {
        let (lane, able, wish) = match self.able(ask) {
            Ok(able) => able,
            // All were taken out of the configuration while this task was on its way: the queue is left alone.
            Err(failure) if self.lane(ask.protocol).is_some_and(|lane| lane.instances.is_empty()) => {
                return Called::NotNow { wait: None, why: failure.message };
            }
            Err(failure) if self.settings.is_last_resort => return Called::Never(failure),
            Err(failure) => return Called::Elsewhere(failure),
        };
        let deadline = Instant::now() + cx.timeout;
        let mut left = self.stocked(able, &wish).await;
        let (all, mut params, mut cx, mut last) = (left.clone(), params, cx.clone(), None);
        // Who has reached a limit is asked again, and then waited for, when nobody else is left.
        let (mut limited, mut hold) = (Vec::new(), Duration::ZERO);
        loop {
            let Some(call) = self.next(&lane, &left, &wish, clock) else {
                if limited.is_empty() || !hold.is_zero() {
                    break;
                }
                left = limited.iter().map(|one: &Limited| Arc::clone(&one.instance)).collect();
                hold = HOLD;
                continue;
            };
            left.retain(|one| !Arc::ptr_eq(one, &call.instance));
            limited.retain(|one| !Arc::ptr_eq(&one.instance, &call.instance));
            let (call, permits) = match self.permits(&cx, call, ask, &params, hold).await {
                Ok(permitted) => permitted,
                Err(one) => {
                    limited.push(one);
                    if cx.cancel.is_cancelled() {
                        break;
                    }
                    continue;
                }
            };
            let is_last = left.is_empty() && limited.is_empty();
            let given = if is_last { std::mem::take(&mut params) } else { params.clone() };
            let by = call.instance.name().to_owned();
            let provider = Arc::clone(&call.instance.provider);
            let (outcome, was_cut) = uncut(&call.cut, &*provider, &cx, ask.method, given).await;
            self.tell(call, permits, &outcome).await;
            if was_cut && outcome.is_err() && !cx.cancel.is_cancelled() {
                // As where a worker stops: it is given back.
                return Called::NotNow { wait: None, why: format!("{by} is stopped") };
            }
            let failure = match outcome {
                Err(failure) if failure.not_begun => failure,
                outcome => return Called::Made { by, outcome },
            };
            tracing::info!(provider = by, %failure, "the call did not start here");
            // Who will have room later counts for more than who will never do it.
            let may_later = last.as_ref().is_some_and(|(_, last): &(String, Failure)| last.retryable);
            if failure.retryable || !may_later {
                last = Some((by, failure));
            }
            cx.timeout = deadline.saturating_duration_since(Instant::now());
            if cx.timeout.is_zero() {
                break;
            }
        }
        match limited.into_iter().min_by_key(|one| one.wait) {
            Some(one) => Called::NotNow { wait: Some(one.wait.min(WAIT_MAX)), why: one.why },
            None => self.not_begun(&all, last),
        }
    }

    /// What becomes of a call that none of these has begun. `last`: who was asked, and said that it surely did not start.
    fn not_begun(&self, of: &[Arc<Instance>], last: Option<(String, Failure)>) -> Called {
        let ((wait, why), now) = (self.not_now(of), self.now());
        let is_busy = |one: &Arc<Instance>| matches!(one.fit(now), Fit::Shut { why: Why::Busy, .. });
        match last {
            // Another time something may be.
            Some((_, failure)) if failure.retryable && !self.settings.is_last_resort => {
                let wait = failure.retry_after.or(wait).unwrap_or(LOOK_EVERY).min(WAIT_MAX);
                Called::NotNow { wait: Some(wait), why: failure.message }
            }
            // Who was asked can never do it; who has only asked to be left alone may.
            Some(_) if !self.settings.is_last_resort && of.iter().any(is_busy) => {
                Called::NotNow { wait, why }
            }
            // Nobody here can do it, and somebody else may.
            Some((_, failure)) if !self.settings.is_last_resort => Called::Elsewhere(failure),
            Some((by, failure)) => Called::Made { by, outcome: Err(failure) },
            None => Called::NotNow { wait, why },
        }
    }

    /// Who could serve it at all, and what is asked of them.
    fn able(&self, ask: &Ask<'_>) -> Result<Able, Failure> {
        let unavailable = |reason: String| {
            let message =
                format!("no provider for {} of {} in this worker: {reason}", ask.method, ask.protocol);
            Failure::new(Code::ProviderNotAvailable, message)
        };
        let Some(lane) = self.lane(ask.protocol) else {
            return Err(unavailable("configure one for this protocol".to_owned()));
        };
        let told = |of: &[Arc<Instance>]| of.iter().map(|one| one.name()).collect::<Vec<_>>().join(", ");
        let serving = lane.instances.iter().filter(|one| one.provider.serves(ask.method));
        let mut able: Vec<Arc<Instance>> = serving.cloned().collect();
        if able.is_empty() {
            return Err(unavailable(format!("{} does not serve this method", told(&lane.instances))));
        }
        let mut wish = ask.wish.clone();
        if !able.iter().any(|one| one.traits().gpu_memory_mb.is_some()) {
            // Nobody says what there is, which does not mean that there is none.
            wish.gpu_memory_mb = None;
        }
        able.retain(|one| one.traits().weight > 0 && wish.is_met_by(one.traits()));
        if able.is_empty() {
            return Err(unavailable(format!("{} has not what it asks for: {wish}", told(&lane.instances))));
        }
        // What somebody has stopped is waited for.
        if self.settings.is_last_resort && !able.iter().any(|one| one.is_started() || one.is_waited_for()) {
            return Err(unavailable(self.not_now(&able).1));
        }
        Ok((lane, able, wish))
    }

    /// Those of them that have the model that is asked for, or do not tell. Where there is a choice that depends on
    /// it, everybody has been looked at once.
    async fn stocked(&self, mut able: Vec<Arc<Instance>>, wish: &Wish) -> Vec<Arc<Instance>> {
        let Some(model) = wish.model.as_ref().filter(|_| able.len() > 1) else { return able };
        let is_unseen = |one: &&Arc<Instance>| one.is_started() && !one.is_checked();
        let unseen: Vec<_> = able.iter().filter(is_unseen).cloned().collect();
        if !unseen.is_empty() {
            let looks = futures_util::future::join_all(unseen.iter().map(|one| self.look(one)));
            // Who has not answered by then has not told, and is not waited for again.
            let _ = timeout(FIRST_LOOK_MAX, looks).await;
            unseen.iter().for_each(|one| one.was_waited_for());
        }
        let lacks = |one: &Arc<Instance>| one.stock(model) == Stock::Missing;
        if !able.iter().all(lacks) {
            // Where all lack it by their own lists, whoever is asked says best what to do about it.
            able.retain(|one| !lacks(one));
        }
        able
    }

    /// The next one of these to ask, admitted; `None` if nobody may be asked now.
    fn next(&self, lane: &Lane, of: &[Arc<Instance>], wish: &Wish, clock: &dyn Clock) -> Option<Call> {
        let now = self.now();
        let (mut left, mut anyway) = (Vec::with_capacity(of.len()), Vec::new());
        for instance in of {
            match instance.fit(now) {
                // A probe is a call like any other, or it would never be made while others are healthy.
                Fit::Open | Fit::Probes(_) => left.push((instance, false)),
                Fit::Degraded => left.push((instance, true)),
                Fit::Shut { why, .. } if self.is_asked_anyway(&why) && instance.is_started() => {
                    anyway.push((instance, true));
                }
                Fit::Shut { .. } => {}
            }
        }
        let is_regardless = left.is_empty();
        if is_regardless {
            left = anyway;
        }
        let turn = lane.turn.fetch_add(1, Ordering::Relaxed);
        while !left.is_empty() {
            let candidates: Vec<_> =
                left.iter().map(|(one, is_degraded)| one.candidate(now, *is_degraded, wish)).collect();
            let chosen = balance::choose(lane.strategy, &candidates, wish, turn, &mut || clock.chance())?;
            if let Some(call) = left[chosen].0.admit(now, is_regardless) {
                return Some(call);
            }
            left.swap_remove(chosen);
        }
        None
    }

    /// When one of these may be asked, if somebody can say, and why none may be now.
    fn not_now(&self, of: &[Arc<Instance>]) -> (Option<Duration>, String) {
        let (now, mut soonest, mut reasons) = (self.now(), None::<Duration>, Vec::new());
        for instance in of {
            if let Fit::Shut { left, why } = instance.fit(now) {
                reasons.push(instance.told(&why));
                soonest = soonest.into_iter().chain(left).min();
            }
        }
        (soonest.map(|left| left.min(WAIT_MAX)), reasons.join("; "))
    }

    /// Tells limits and breaker how a call has ended.
    async fn tell(&self, call: Call, permits: Permits, outcome: &Result<Answer, Failure>) {
        self.limits.settle(permits, Used::by(outcome)).await;
        self.spread_wait(&call.instance, outcome).await;
        self.ended(call, outcome);
    }

    fn ended(&self, call: Call, outcome: &Result<Answer, Failure>) {
        let instance = Arc::clone(&call.instance);
        let ending =
            outcome.as_ref().map_or_else(|failure| instance.provider.tells(failure), |_| Ending::Good);
        if call.end(outcome, ending, self.now()) {
            self.tell_change(&instance);
        }
    }

    /// Whether somebody may be called has changed.
    fn tell_change(&self, instance: &Instance) {
        let provider = instance.name();
        match instance.fit(self.now()) {
            Fit::Open => tracing::info!(provider, "is fit for work"),
            Fit::Degraded => tracing::info!(provider, "works, but others are preferred"),
            Fit::Probes(_) => tracing::info!(provider, "is tried again"),
            Fit::Shut { why: why @ (Why::Waking | Why::Stopping | Why::Stopped), .. } => {
                tracing::info!(provider, "{}", instance.told(&why))
            }
            Fit::Shut { why, .. } if instance.was_fit() => {
                tracing::warn!(provider, "{}", instance.told(&why))
            }
            // As where nobody has set up the server that is looked for by default.
            Fit::Shut { why, .. } => tracing::info!(provider, "{}", instance.told(&why)),
        }
        self.changed.notify_waiters();
    }

    /// Returns when who may be called has changed after this is first polled. May miss what changes in between.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}

/// Makes a call that ends early where `cut` fires. Whether that has happened.
async fn uncut(
    cut: &CancellationToken,
    provider: &dyn Provider,
    cx: &CallCx,
    method: &str,
    params: Value,
) -> (Result<Answer, Failure>, bool) {
    let cancel = cx.cancel.child_token();
    let cx = CallCx { cancel: cancel.clone(), ..cx.clone() };
    let call = provider.call(&cx, method, params);
    tokio::pin!(call);
    tokio::select! {
        biased;
        outcome = &mut call => return (outcome, false),
        () = cut.cancelled() => {}
    }
    cancel.cancel();
    (call.await, true)
}
