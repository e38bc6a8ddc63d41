//! Orders: what is to be done with the providers of every worker, heard as a broadcast and answered with one.
//!
//! ```text
//! order ─▶ its id is known: the answer again, or nothing while it is under way
//!     └──▶ done beside everything else ─▶ after a second "still at it" ─▶ the answer
//! ```
//! Whoever waits for answers sends the order again now and then, as a broadcast may be missed; so it must be known again.
//! Nothing of it is recorded: a worker that is started again is as its configuration says.

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Map;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::Id;
use crate::provider::registry::{self, Ordered, Providers, Standing};
use crate::wire::control::{Action, Answer, Order, Refused, Row};
use crate::wire::vitals::{LastError, Latency, Vitals};

/// How many orders are known again, and may be under way. Those beyond it are refused while all of them are.
const REMEMBERED_MAX: usize = 64;
/// After so long it is told that an order is under way.
const SOON: Duration = Duration::from_secs(1);

/// Reads the configuration again.
#[async_trait]
pub trait Reload: fmt::Debug + Send + Sync + 'static {
    /// Makes the providers be as the configuration is now, or changes nothing at all.
    ///
    /// # Errors
    /// `CONFIGURATION_ERROR`: it cannot be used, or what has changed cannot be changed at run time.
    async fn reload(&self, providers: &Providers) -> Result<Reloaded, Failure>;
}

/// What a reload has done.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reloaded {
    /// The keys that have changed.
    pub changed: Vec<String>,
    /// New providers that could not start, and why; they are tried again.
    pub failed: Vec<(String, Failure)>,
}

/// The orders of one worker.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Those that were heard last, with the answer of those that are done.
    known: Mutex<VecDeque<(Id, Option<Bytes>)>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    reload: OnceLock<Arc<dyn Reload>>,
    /// That something could not be read was told.
    is_told: AtomicBool,
}

/// What is known of an order that is heard.
enum Heard {
    New,
    UnderWay,
    Done(Bytes),
    /// As many as may be are under way.
    TooMany,
}

impl Orders {
    pub(super) fn reload_by(&self, reload: Arc<dyn Reload>) {
        if self.reload.set(reload).is_err() {
            tracing::debug!("this worker knows how to read its configuration already");
        }
    }

    /// Gives up what is under way, and does nothing any more.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn enter(&self, id: &Id) -> Heard {
        let mut known = self.lock();
        match known.iter().find(|(of, _)| of == id) {
            Some((_, None)) => return Heard::UnderWay,
            Some((_, Some(answer))) => return Heard::Done(answer.clone()),
            None => {}
        }
        if known.len() >= REMEMBERED_MAX {
            // One that is under way is never forgotten: it would be done twice at once.
            let Some(oldest) = known.iter().position(|(_, answer)| answer.is_some()) else {
                return Heard::TooMany;
            };
            known.remove(oldest);
        }
        known.push_back((id.clone(), None));
        Heard::New
    }

    fn done(&self, id: &Id, answer: &Bytes) {
        let mut known = self.lock();
        let entry = known.iter_mut().find(|(of, _)| of == id);
        entry.into_iter().for_each(|(_, done)| *done = Some(answer.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Id, Option<Bytes>)>> {
        // Nothing that panics is done while it is held.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Begins to carry an order out, unless it is known.
    pub(super) fn take_order(self: &Arc<Shared>, order: Order) {
        let shared = Arc::clone(self);
        let entered = self.orders.enter(&order.id);
        let work = async move {
            match entered {
                Heard::New => shared.carry_out(order).await,
                Heard::UnderWay => {}
                Heard::Done(answer) => shared.answer_order(answer).await,
                Heard::TooMany => {
                    let message =
                        format!("this worker carries out {REMEMBERED_MAX} orders already; ask again later");
                    let error = Some(Failure::new(Code::ProviderOverloaded, message));
                    shared.answer_order(Answer { error, ..shared.blank(order.id) }.encode()).await;
                }
            }
        };
        self.spawn_order(work);
    }

    /// Says once what cannot be read, and answers where it can be.
    pub(super) fn refuse_order(self: &Arc<Shared>, refused: Refused) {
        let Refused { id, failure } = refused;
        if self.orders.is_told.swap(true, Ordering::Relaxed) {
            tracing::debug!(%failure, "a broadcast cannot be read and is dropped");
        } else {
            tracing::warn!(%failure, "a broadcast cannot be read and is dropped; further ones are told at `debug`");
        }
        let Some(id) = id else { return };
        let shared = Arc::clone(self);
        self.spawn_order(async move {
            let answer = Answer { error: Some(failure), ..shared.blank(id) };
            shared.answer_order(answer.encode()).await;
        });
    }

    /// Reads the configuration again.
    pub(super) async fn reload(&self) -> Result<Reloaded, Failure> {
        let Some(reload) = self.orders.reload.get() else {
            let message = "this worker has no configuration that could be read again";
            return Err(Failure::new(Code::ConfigurationError, message));
        };
        let reloaded = reload.reload(&self.parts.providers).await;
        match &reloaded {
            Ok(Reloaded { changed, failed }) => {
                tracing::info!(?changed, "the configuration was read again");
                for (provider, failure) in failed {
                    tracing::warn!(provider, %failure, "this provider cannot start; it is tried again");
                }
            }
            Err(failure) => tracing::error!(%failure, "the configuration was read again and is not used"),
        }
        reloaded
    }

    fn spawn_order(self: &Arc<Shared>, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.orders.stop.clone();
        self.orders.tasks.spawn(async move { stop.run_until_cancelled(work).await });
    }

    async fn carry_out(&self, order: Order) {
        let Order { id, action } = order;
        tracing::info!(order = %id, action = action.word(), provider = action.name(), "ordered");
        let doing = self.do_order(&id, &action);
        tokio::pin!(doing);
        let answer = tokio::select! {
            answer = &mut doing => answer,
            () = tokio::time::sleep(SOON) => {
                let standings = self.parts.providers.standings(action.name());
                let answer = Answer { is_done: false, ..self.blank(id.clone()) };
                self.answer_order(self.with_rows(answer, &standings).encode()).await;
                doing.await
            }
        };
        let answer = answer.encode();
        self.orders.done(&id, &answer);
        self.answer_order(answer).await;
    }

    async fn do_order(&self, id: &Id, action: &Action) -> Answer {
        let mut answer = self.blank(id.clone());
        let what = match action {
            Action::List => {
                answer.resources = self.rooms.told();
                None
            }
            Action::Start(name) => Some((name, Ordered::Start)),
            Action::Stop(name) => Some((name, Ordered::Stop)),
            Action::Restart(name) => Some((name, Ordered::Restart)),
            Action::Scale(name, count) => Some((name, Ordered::Scale(*count))),
            Action::Reload => {
                match self.reload().await {
                    Ok(Reloaded { changed, failed }) => {
                        answer.changed = changed;
                        answer.error = failed.into_iter().next().map(|(_, failure)| failure);
                    }
                    Err(failure) => answer.error = Some(failure),
                }
                None
            }
        };
        if let Some((name, what)) = what {
            let done = self.parts.providers.order(name, what, self.settings.grace).await;
            answer.error = done.err();
        }
        self.with_rows(answer, &self.parts.providers.standings(action.name()))
    }

    fn with_rows(&self, answer: Answer, standings: &[Standing]) -> Answer {
        let now = self.parts.clock.now();
        Answer { providers: standings.iter().map(|standing| row(standing, now)).collect(), ..answer }
    }

    /// An answer with nothing in it.
    fn blank(&self, id: Id) -> Answer {
        Answer {
            id,
            worker: self.session.clone(),
            is_done: true,
            providers: Vec::new(),
            resources: Map::new(),
            changed: Vec::new(),
            error: None,
        }
    }

    /// Who waits for it asks again, so one that is lost is not missed.
    async fn answer_order(&self, answer: Bytes) {
        if let Err(error) = self.parts.broker.broadcast(answer).await {
            tracing::warn!(%error, "the answer to an order could not be sent");
        }
    }
}

fn row(standing: &Standing, now: Timestamp) -> Row {
    let Standing { name, protocol, state, why, running, pool, vitals } = standing;
    let pool = pool.map(|pool| [u32::try_from(pool.instances).unwrap_or(u32::MAX), pool.min, pool.max]);
    Row {
        name: name.clone(),
        protocol: protocol.to_string(),
        state: (*state).to_owned(),
        why: why.clone(),
        running: *running,
        pool,
        vitals: Some(told(vitals, now)),
    }
}

/// With points in time, as the worker's clock has them.
fn told(vitals: &registry::Vitals, now: Timestamp) -> Vitals {
    let millis = |age: Duration| i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let ago = |age: Duration| Timestamp::from_millis(now.as_millis().saturating_sub(millis(age)));
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let latency = &vitals.latency;
    let of = |share: f64| latency.quantile(share).unwrap_or_default();
    let latency = latency.max().map(|max| Latency {
        p50: of(0.5),
        p95: of(0.95),
        p99: of(0.99),
        max,
        expected: vitals.expected.map_or(0, micros),
    });
    Vitals {
        calls: vitals.calls,
        failures: vitals.failures,
        consecutive_failures: vitals.consecutive_failures,
        latency,
        last_error: vitals
            .last_failure
            .as_ref()
            .map(|(failure, age)| LastError::new(failure.code, &failure.message, ago(*age))),
        last_check: vitals.last_check.map(|(age, took)| (ago(age), micros(took))),
        next_check: vitals.next_check.map(|wait| now.after(wait)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_known_again_until_many_others_have_come() {
        let id = |text: String| Id::parse(&text).expect("valid");
        let orders = Orders::default();
        assert!(matches!(orders.enter(&id("a".to_owned())), Heard::New));
        assert!(matches!(orders.enter(&id("a".to_owned())), Heard::UnderWay));
        orders.done(&id("a".to_owned()), &Bytes::from("done"));
        assert!(matches!(orders.enter(&id("a".to_owned())), Heard::Done(answer) if answer == "done"));
        for number in 0..REMEMBERED_MAX {
            assert!(matches!(orders.enter(&id(format!("o{number}"))), Heard::New));
        }
        assert!(
            matches!(orders.enter(&id("a".to_owned())), Heard::TooMany),
            "nothing under way is forgotten"
        );
        orders.done(&id("o7".to_owned()), &Bytes::from("done"));
        assert!(matches!(orders.enter(&id("a".to_owned())), Heard::New));
    }
}
