//! Limits: how often calls may be made, decided before they are.
//!
//! ```text
//! a task that wants to run ─▶ which limits fit it, with which key, at what cost
//!     ─▶ each of them: its bucket here (local), or one question to the store for all who ask now (global)
//!     ─▶ all take it in: it may start after the longest of their waits
//!     ─▶ one refuses: what the others gave goes back, and it is told when to come again
//! the call has ended ─▶ settle: what was reserved is exchanged for what was used
//! ```
//! *No polling.* Who is taken in has a place in line and sleeps exactly as long as it is told; who is refused is told
//! when to come. *Few round trips.* While a question is under way those who come meanwhile gather, and the next question
//! is for all of them (`lane`), so permits are fetched in batches and none lies about unused.
//!
//! Without an answer from the store nothing is let through, which is said once for each outage.

mod lane;
mod seal;
#[cfg(test)]
mod tests;

use serde_json::Value;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Answer;
use crate::core::clock::{Clock, Timestamp};
use crate::core::failure::Failure;
use crate::core::id::Id;
use crate::core::limit::{COST_MAX, Cost, Rule, Scope, micros};
use crate::core::protocol::ProtocolId;
use crate::store::{Store, StoreError};
use lane::Lane;

/// How long a task may wait in a worker for its place in line.
pub const HOLD: Duration = Duration::from_secs(1);
/// How long a task may wait outside of it for a place that it already has.
pub const AHEAD: Duration = Duration::from_secs(60);
/// How long nobody must have waited for the next wait to be told.
const QUIET: Duration = Duration::from_secs(60);
/// Buckets that are kept here before those that nobody uses are looked for.
const LANES_MAX: usize = 1024;

/// The limits of this worker.
#[derive(Debug)]
pub struct Limits {
    rules: RwLock<Rules>,
    shared: Option<Shared>,
    /// What times of local buckets are counted from.
    origin: Instant,
    state: Mutex<State>,
    /// There are other rules.
    changed: Notify,
}

/// What there is at a moment; whoever has one goes on with it when others are read.
type Rules = Arc<[Arc<Known>]>;

/// A rule, and when it was read.
#[derive(Debug, PartialEq)]
pub(super) struct Known {
    pub(super) rule: Rule,
    pub(super) since: Timestamp,
}

/// What global limits need.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    /// The last question had no answer.
    is_silent: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// By the name of the limit, and the key.
    lanes: HashMap<(String, Option<String>), Arc<Lane>>,
    /// Protocols that are left alone, until when.
    paused: HashMap<ProtocolId, Instant>,
    /// When somebody had to wait for a limit last.
    waited: HashMap<String, Instant>,
    /// The store's, once it was asked for.
    secret: Option<Id>,
}

/// What a call wants of one limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    known: Arc<Known>,
    key: Option<String>,
    cost: f64,
}

/// What was taken for a call: to be settled when it has ended.
#[derive(Debug, Default, Clone, PartialEq)]
#[must_use]
pub struct Permits {
    taken: Vec<Want>,
}

/// Whether a call may be made.
#[derive(Debug, PartialEq)]
pub enum Admission {
    /// After this wait.
    Granted {
        /// To be settled.
        permits: Permits,
        /// Until then.
        wait: Duration,
        /// As far as that is for places in line that it may take along ([`Limits::carry`]).
        ahead: Duration,
    },
    /// Not now; nothing was taken.
    Refused {
        /// When somebody who comes again may start at once.
        wait: Duration,
        /// So much sooner it has a place in line.
        patience: Duration,
        /// The limit's name.
        limit: String,
        /// Whether every task of the protocol would be refused.
        is_of_all: bool,
    },
}

/// What a call has used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Used {
    /// It was not made.
    Nothing,
    /// What it had reserved, as far as is known.
    Reserve,
    /// So many tokens.
    Tokens(f64),
}

impl Shared {
    /// Says once that the store does not answer, and once that it does again.
    fn tell(&self, error: Option<&StoreError>) {
        match (self.is_silent.swap(error.is_some(), Ordering::Relaxed), error) {
            (false, Some(error)) => {
                tracing::warn!(%error, "the store cannot be asked for limits; what has one waits until it can");
            }
            (true, None) => tracing::warn!("the store can be asked for limits again"),
            (true, Some(_)) | (false, None) => {}
        }
    }
}

impl Permits {
    /// These too.
    pub fn add(&mut self, more: Permits) {
        self.taken.extend(more.taken);
    }
}

impl Want {
    fn rule(&self) -> &Rule {
        &self.known.rule
    }
}

impl Used {
    /// By what became of a call.
    #[must_use]
    pub fn by(outcome: &Result<Answer, Failure>) -> Used {
        match outcome {
            Ok(answer) => Used::told(answer),
            Err(failure) if failure.not_begun => Used::Nothing,
            Err(_) => Used::Reserve,
        }
    }

    /// By the facts beside an answer, `usage: {prompt_tokens, completion_tokens}`; where there are none, by the same
    /// two members of the result.
    #[must_use]
    pub fn told(answer: &Answer) -> Used {
        let usage = answer.metadata.get("usage").unwrap_or(&answer.result);
        let count = |name: &str| usage.get(name).and_then(Value::as_f64);
        match (count("prompt_tokens"), count("completion_tokens")) {
            (None, None) => Used::Reserve,
            (prompt, completion) => {
                let tokens = prompt.unwrap_or(0.0).max(0.0) + completion.unwrap_or(0.0).max(0.0);
                // Any program may have told it.
                Used::Tokens(tokens.min(COST_MAX))
            }
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            rules: RwLock::new(Arc::new([])),
            shared: None,
            origin: Instant::now(),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }
}

impl Limits {
    /// These, read now.
    #[must_use]
    pub fn new(rules: Vec<Rule>, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Limits {
        let limits = Limits {
            shared: Some(Shared { store, clock, is_silent: AtomicBool::default() }),
            ..Limits::default()
        };
        limits.replace(rules);
        limits
    }

    /// Has these from now on, read now. What was taken of those before is settled with them, and what is known of a
    /// bucket stays. A rule that is as it was counts as read when it was.
    pub fn replace(&self, rules: Vec<Rule>) {
        // Local ones are asked of nobody else.
        let since = self.shared.as_ref().map_or(Timestamp::from_millis(0), |shared| shared.clock.now());
        let before = self.rules();
        let known = rules.into_iter().map(|rule| {
            let same = before.iter().find(|known| known.rule == rule).cloned();
            same.unwrap_or_else(|| Arc::new(Known { rule, since }))
        });
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = known.collect();
        // What is held back by a limit that was is asked again.
        self.lock().paused.clear();
        self.changed.notify_waiters();
    }

    fn rules(&self) -> Rules {
        // It is replaced as a whole.
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there are none of this protocol.
    #[must_use]
    pub fn is_free(&self, protocol: &ProtocolId) -> bool {
        !self.rules().iter().any(|known| known.rule.protocol == *protocol)
    }

    /// What a task wants of the limits that can be told by its parameters as they are written.
    #[must_use]
    pub fn early(
        &self,
        protocol: &ProtocolId,
        method: &str,
        params: &Value,
        header: &dyn Fn(&str) -> Option<String>,
    ) -> Vec<Want> {
        self.wants(|rule| rule.provider.is_none() && rule.fits(protocol, method), params, false, header)
    }

    /// What it wants of the others, by its parameters with everything filled in. `written`: as they were when it was
    /// asked what can be told by them; `None`: nothing was asked yet, and it wants all.
    #[must_use]
    pub fn late(
        &self,
        protocol: &ProtocolId,
        method: &str,
        written: Option<&Value>,
        params: &Value,
        header: &dyn Fn(&str) -> Option<String>,
    ) -> Vec<Want> {
        let is_late = |rule: &Rule| written.is_none_or(|written| rule.of(written, false, header).is_err());
        let fits = |rule: &Rule| rule.provider.is_none() && rule.fits(protocol, method) && is_late(rule);
        self.wants(fits, params, true, header)
    }

    /// What a call of this provider wants.
    #[must_use]
    pub fn of_provider(&self, name: &str, protocol: &ProtocolId, method: &str, params: &Value) -> Vec<Want> {
        let fits = |rule: &Rule| rule.provider.as_deref() == Some(name) && rule.fits(protocol, method);
        self.wants(fits, params, true, &|_| None)
    }

    fn wants(
        &self,
        fits: impl Fn(&Rule) -> bool,
        params: &Value,
        is_filled: bool,
        header: &dyn Fn(&str) -> Option<String>,
    ) -> Vec<Want> {
        let mut wants = Vec::new();
        for known in self.rules().iter().filter(|known| fits(&known.rule)) {
            if let Ok((key, cost)) = known.rule.of(params, is_filled, header) {
                wants.push(Want { known: Arc::clone(known), key, cost });
            }
        }
        // Those that refuse often first: what the others gave would only go back.
        wants.sort_by_key(|want| want.rule().is_of_all());
        wants
    }

    /// Takes what is wanted, of all limits or of none. A task may wait for `hold`; for a place with a global limit
    /// that is not one of a whole protocol it may wait `ahead`.
    ///
    /// # Errors
    /// What the store says; nothing is held then.
    pub async fn admit(
        &self,
        wants: Vec<Want>,
        hold: Duration,
        ahead: Duration,
    ) -> Result<Admission, StoreError> {
        let (mut permits, mut longest, mut longest_carried) =
            (Permits::default(), Duration::ZERO, Duration::ZERO);
        for want in wants {
            let is_carried = self.is_carried(&want);
            let patience = if is_carried { hold.max(ahead) } else { hold };
            match self.take(&want, patience).await {
                Ok(Ok(wait)) => {
                    longest = longest.max(wait);
                    if is_carried {
                        longest_carried = longest_carried.max(wait);
                    }
                    self.note(want.rule(), wait);
                    permits.taken.push(want);
                }
                Ok(Err(wait)) => {
                    self.note(want.rule(), wait);
                    self.settle(permits, Used::Nothing).await;
                    let rule = want.rule();
                    let (limit, is_of_all) = (rule.name.clone(), rule.is_of_all());
                    return Ok(Admission::Refused { wait, patience, limit, is_of_all });
                }
                Err(error) => {
                    self.settle(permits, Used::Nothing).await;
                    return Err(error);
                }
            }
        }
        Ok(Admission::Granted { permits, wait: longest, ahead: longest_carried })
    }

    /// Exchanges what was taken for what was used. Without an answer from the store it is settled with the next call.
    pub async fn settle(&self, permits: Permits, used: Used) {
        for want in permits.taken {
            let rule = want.rule();
            let more = match (used, &rule.cost) {
                (Used::Nothing, _) => -want.cost,
                (Used::Tokens(real), Cost::Tokens { .. }) => real.min(rule.cost_max()) - want.cost,
                (Used::Tokens(_) | Used::Reserve, _) => 0.0,
            };
            if more == 0.0 {
                continue;
            }
            let lane = self.lane(&want);
            match (rule.scope, &self.shared) {
                (Scope::Global, Some(shared)) => lane.settle(&want.known, shared, more, None).await,
                (Scope::Global | Scope::Local, _) => lane.settle_here(rule, more, self.now()),
            }
        }
    }

    /// A provider wants to be left alone: its limits keep everybody away for so long.
    pub async fn shut_provider(&self, name: &str, wait: Duration) {
        for known in self.rules().iter() {
            let rule = &known.rule;
            if rule.provider.as_deref() != Some(name) || rule.key.is_some() || rule.method.is_some() {
                continue;
            }
            let lane = self.lane(&Want { known: Arc::clone(known), key: None, cost: 0.0 });
            match (rule.scope, &self.shared) {
                (Scope::Global, Some(shared)) => lane.settle(known, shared, 0.0, Some(wait)).await,
                (Scope::Global | Scope::Local, _) => lane.shut_here(rule, wait, self.now()),
            }
        }
    }

    /// What is to be told to whoever takes the task next, so that it need not ask again; and what is not.
    pub fn carry(&self, permits: Permits) -> (String, Permits) {
        let (carried, rest): (Vec<Want>, Vec<Want>) =
            permits.taken.into_iter().partition(|want| self.is_carried(want));
        let told = carried.iter().map(|want| format!("{}={}", want.rule().name, want.cost));
        (told.collect::<Vec<_>>().join(","), Permits { taken: rest })
    }

    /// Reads what [`Limits::carry`] told: those of `wants` that it has taken, and the others.
    pub fn carried(&self, told: &str, wants: Vec<Want>) -> (Permits, Vec<Want>) {
        let cost_of = |name: &str| {
            let mut parts = told.split(',').filter_map(|part| part.split_once('='));
            parts.find(|(of, _)| *of == name).and_then(|(_, cost)| cost.parse::<f64>().ok())
        };
        let (mut permits, mut left) = (Permits::default(), Vec::new());
        for want in wants {
            // Any producer may have written it: what was taken is what is wanted now, or it does not count.
            let is_told = cost_of(&want.rule().name).is_some_and(|cost| cost == want.cost);
            if is_told && self.is_carried(&want) {
                permits.taken.push(want);
            } else {
                left.push(want);
            }
        }
        (permits, left)
    }

    /// Whether every call of a provider is held back alike.
    #[must_use]
    pub fn is_of_whole_provider(&self, want: &Want) -> bool {
        let rule = want.rule();
        rule.key.is_none() && rule.method.is_none()
    }

    fn is_carried(&self, want: &Want) -> bool {
        let rule = want.rule();
        rule.scope == Scope::Global && !rule.is_of_all()
    }

    /// Leaves the queue of a protocol alone for so long.
    pub fn pause(&self, protocol: &ProtocolId, wait: Duration) {
        let until = Instant::now() + wait;
        let mut state = self.lock();
        let paused = state.paused.entry(protocol.clone()).or_insert(until);
        *paused = until.max(*paused);
    }

    /// Whether it is left alone now.
    #[must_use]
    pub fn is_paused(&self, protocol: &ProtocolId) -> bool {
        self.lock().paused.get(protocol).is_some_and(|until| *until > Instant::now())
    }

    /// Waits until the queue of the protocol may be consumed. How many tasks at first, if it was left alone.
    pub async fn opened(&self, protocol: &ProtocolId) -> Option<u16> {
        let mut was_paused = false;
        loop {
            let changed = self.changed.notified();
            let until = self.lock().paused.get(protocol).copied();
            match until {
                Some(until) if until > Instant::now() => {
                    was_paused = true;
                    tokio::select! {
                        () = sleep_until(until) => {}
                        () = changed => {}
                    }
                }
                Some(_) => {
                    self.lock().paused.remove(protocol);
                    was_paused = true;
                }
                None if was_paused => break,
                None => return None,
            }
        }
        let rules = self.rules();
        let all = rules.iter().map(|known| &known.rule);
        let all = all.filter(|rule| rule.protocol == *protocol && rule.is_of_all());
        all.map(|rule| rule.pace.within(HOLD, 1.0)).min()
    }

    async fn take(&self, want: &Want, patience: Duration) -> Result<Result<Duration, Duration>, StoreError> {
        let (rule, lane) = (want.rule(), self.lane(want));
        match (rule.scope, &self.shared) {
            (Scope::Global, Some(shared)) => lane.take(&want.known, shared, want.cost, patience).await,
            (Scope::Global | Scope::Local, _) => Ok(lane.take_here(rule, want.cost, patience, self.now())),
        }
    }

    fn lane(&self, want: &Want) -> Arc<Lane> {
        let now = self.now();
        let mut state = self.lock();
        if state.lanes.len() >= LANES_MAX {
            state.lanes.retain(|_, lane| Arc::strong_count(lane) > 1 || lane.is_needed(now));
        }
        let place = (want.rule().name.clone(), want.key.clone());
        Arc::clone(state.lanes.entry(place).or_insert_with(|| Arc::new(Lane::new(want.key.clone()))))
    }

    /// Says once that a limit holds tasks back.
    fn note(&self, rule: &Rule, wait: Duration) {
        if wait.is_zero() {
            return;
        }
        let now = Instant::now();
        let before = self.lock().waited.insert(rule.name.clone(), now);
        if before.is_none_or(|before| before + QUIET < now) {
            let Rule { name, protocol, pace, .. } = rule;
            tracing::warn!(
                limit = name, %protocol, per_second = pace.per_second, wait_ms = wait.as_millis(),
                "a limit holds tasks back; said again only after a minute without a wait"
            );
        }
    }

    /// In microseconds.
    fn now(&self) -> f64 {
        micros(self.origin.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that panics is done while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
