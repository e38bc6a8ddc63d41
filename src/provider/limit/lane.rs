//! One bucket as this worker sees it: its own, or the way to the one that all workers share.
//!
//! One question to the store is under way at a time. Whoever comes meanwhile writes down what it wants and waits for its
//! turn; who has the turn asks for everybody who is written down. So a question is for one task where tasks are few, and
//! for many where they are many.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{Known, Shared};
use crate::core::limit::{Bucket, Pace, Rule};
use crate::store::{Demand, Granted, StoreError};

/// How many are asked for together.
const BATCH_MAX: usize = 256;

/// The wait of who was taken in; or when to come again.
type Taken = Result<Duration, Duration>;

#[derive(Debug)]
pub(super) struct Lane {
    key: Option<String>,
    state: Mutex<State>,
    // Held while the store is asked, on purpose: it is whose turn it is to ask.
    turn: tokio::sync::Mutex<()>,
    /// That another pace holds was told.
    is_told: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    bucket: Bucket,
    /// What the bucket went by last.
    pace: Option<Pace>,
    waiting: VecDeque<Waiting>,
    /// What is to be settled with the store.
    owed: f64,
    shut: Option<Duration>,
}

#[derive(Debug)]
struct Waiting {
    cost: f64,
    patience: Duration,
    answer: oneshot::Sender<Result<Taken, StoreError>>,
}

impl State {
    /// The bucket, which goes by this rule now.
    fn at(&mut self, rule: &Rule, now: f64) -> &mut Bucket {
        if let Some(before) = self.pace.replace(rule.pace) {
            self.bucket.adopt(&before, &rule.pace, now);
        }
        &mut self.bucket
    }
}

impl Lane {
    pub(super) fn new(key: Option<String>) -> Lane {
        let (state, turn) = (Mutex::default(), tokio::sync::Mutex::new(()));
        Lane { key, state, turn, is_told: AtomicBool::new(false) }
    }

    /// Whether something would be forgotten with it.
    pub(super) fn is_needed(&self, now: f64) -> bool {
        let state = self.lock();
        state.owed != 0.0 || state.shut.is_some() || !state.bucket.is_full(now)
    }

    pub(super) fn take_here(&self, rule: &Rule, cost: f64, patience: Duration, now: f64) -> Taken {
        self.lock().at(rule, now).take(&rule.pace, cost, now, patience)
    }

    pub(super) fn settle_here(&self, rule: &Rule, more: f64, now: f64) {
        // By what holds now: the call may have been taken in by the rule that was before.
        let mut state = self.lock();
        let pace = state.pace.unwrap_or(rule.pace);
        state.bucket.settle(&pace, more, now);
    }

    pub(super) fn shut_here(&self, rule: &Rule, wait: Duration, now: f64) {
        self.lock().at(rule, now).shut(&rule.pace, wait, now);
    }

    pub(super) async fn take(
        &self,
        known: &Known,
        shared: &Shared,
        cost: f64,
        patience: Duration,
    ) -> Result<Taken, StoreError> {
        loop {
            let (answer, mut answered) = oneshot::channel();
            self.lock().waiting.push_back(Waiting { cost, patience, answer });
            loop {
                let _turn = self.turn.lock().await;
                match answered.try_recv() {
                    Ok(taken) => return taken,
                    Err(TryRecvError::Empty) => self.ask(known, shared).await,
                    // Who asked for us was stopped in the middle of it.
                    Err(TryRecvError::Closed) => break,
                }
            }
        }
    }

    /// Settles at once, or with the next question if the store is away.
    pub(super) async fn settle(&self, known: &Known, shared: &Shared, more: f64, shut: Option<Duration>) {
        {
            let mut state = self.lock();
            state.owed += more;
            state.shut = state.shut.max(shut);
        }
        let _turn = self.turn.lock().await;
        let is_open = {
            let state = self.lock();
            state.owed != 0.0 || state.shut.is_some()
        };
        if is_open {
            self.ask(known, shared).await;
        }
    }

    /// Asks for all who wait with the same patience as the first one. By who has the turn.
    async fn ask(&self, known: &Known, shared: &Shared) {
        let Known { rule, since } = known;
        let (batch, settle, shut) = self.next();
        let demand = Demand {
            limit: rule.name.clone(),
            key: self.key.clone(),
            pace: rule.pace,
            since: *since,
            settle,
            shut,
            costs: batch.iter().map(|one| one.cost).collect(),
            patience: batch.first().map_or(Duration::ZERO, |one| one.patience),
        };
        match shared.store.admit(&demand, shared.clock.now()).await {
            Ok(granted) => {
                shared.tell(None);
                self.tell_pace(rule, &granted);
                let mut waits = granted.waits.into_iter();
                let refused = granted.refused.unwrap_or_default();
                for one in batch {
                    let taken = waits.next().ok_or(refused);
                    if one.answer.send(Ok(taken)).is_err() && taken.is_ok() {
                        // It has gone away in the meantime.
                        self.lock().owed -= one.cost;
                    }
                }
            }
            Err(error) => {
                shared.tell(Some(&error));
                let mut state = self.lock();
                state.owed += settle;
                state.shut = state.shut.max(shut);
                drop(state);
                for one in batch {
                    // Who has gone away wants no answer.
                    let _ = one.answer.send(Err(error.clone()));
                }
            }
        }
    }

    fn next(&self) -> (Vec<Waiting>, f64, Option<Duration>) {
        let mut state = self.lock();
        state.waiting.retain(|one| !one.answer.is_closed());
        let mut batch: Vec<Waiting> = Vec::new();
        while let Some(one) = state.waiting.front() {
            let is_alike = batch.first().is_none_or(|first| first.patience == one.patience);
            if !is_alike || batch.len() >= BATCH_MAX {
                break;
            }
            batch.extend(state.waiting.pop_front());
        }
        (batch, std::mem::take(&mut state.owed), state.shut.take())
    }

    /// Says once that a configuration which was read later holds.
    fn tell_pace(&self, rule: &Rule, granted: &Granted) {
        if granted.pace == rule.pace || self.is_told.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(
            limit = rule.name,
            ours = rule.pace.per_second,
            holds = granted.pace.per_second,
            "a worker that has read its configuration later has another rate for this limit, which holds for all"
        );
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that panics is done while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
