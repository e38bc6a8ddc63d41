//! The worker: takes deliveries, runs them, records, publishes what they released, settles.
//!
//! ```text
//! consumers ──▶ execute   (tasks)          decode ▸ claim ▸ prepare ▸ call ▸ judge ▸ finish ▸ publish ▸ settle
//!           ──▶ coordinate, command, schedule (workflows; cancel, retry, timeouts; schedules and their ticks)
//!           ──▶ inbox     (what the broker ended by itself)
//! listener  ──▶ control   (broadcasts: a cancel that must reach running tasks; orders about providers)
//! session   ──▶ heartbeat
//! monitor   ──▶ what was counted, to the store; metrics and the health of providers, as events
//! liveness  ──▶ who of these makes progress
//! ```
//! `take` has the loops that consume, within the `places` of each queue; `guard` stands for the delivery of a
//! long task; `turn` says who executes beside whom.
//! Every loop is a task of one tracker; every delivery is too, bounded by the consumers' prefetch. Stopping
//! has two tokens: `drain` (take no more) and `abort` (give back what runs); `run` holds their order.

mod attempt;
mod command;
mod control;
mod coordinate;
mod elsewhere;
mod execute;
mod expand;
mod gone;
mod guard;
mod inbox;
mod lease;
mod limit;
mod liveness;
mod monitor;
mod newer;
mod orders;
mod outcome;
mod output;
mod patience;
mod places;
mod profiles;
mod publish;
mod room;
mod running;
mod runs;
mod schedule;
mod session;
mod share;
mod take;
mod tell;
mod turn;

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::{Broker, BrokerError, Delivery};
use crate::config::EventLevel;
use crate::core::clock::Clock;
use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::core::protocol::{ProtocolId, Protocols};
use crate::core::resources::Totals;
use crate::provider::registry::Providers;
use crate::store::Store;
use crate::topology::{Address, Queue, Topology};
use orders::Orders;
use places::{Place, Places};
use profiles::Profiles;
use room::Rooms;
use running::Running;
use take::Loops;
use turn::Turns;

pub use liveness::{Liveness, SILENCE_MAX, Stalled};
pub use monitor::NOTE_EVERY;
pub use orders::{Reload, Reloaded};
pub use session::{BEAT_EVERY, BEAT_TTL};

/// How a worker works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Protocols to consume.
    pub protocols: Vec<ProtocolId>,
    /// Tasks at once, for each protocol.
    pub concurrency: NonZeroU16,
    /// Tasks at once in all; at least one for each protocol. `None`: as many as `concurrency` gives.
    pub max_running: Option<NonZeroU16>,
    /// Whether to take workflows, commands and the dead inbox too.
    pub coordination: bool,
    /// How long running tasks may go on after `drain`.
    pub grace: Duration,
    /// How long an attempt may take when nothing else says so.
    pub task_timeout: Duration,
    /// How long results are kept when nothing else says so.
    pub result_ttl: Duration,
    /// The largest result, in bytes.
    pub result_bytes_max: usize,
    /// How many attempts of one task may end with the death of their worker.
    pub crash_limit: u32,
    /// How long a delivery is held before a guard stands for it: well below the broker's consumer timeout.
    pub guard_after: Duration,
    /// Which events are sent.
    pub events: EventLevel,
    /// What tasks may hold of this machine at once.
    pub resources: Totals,
    /// Between two events that tell of metrics.
    pub metrics_every: Duration,
    /// What is declared again if somebody deletes it; `None`: nothing is.
    pub topology: Option<Topology>,
}

/// What a worker stands on.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Messages.
    pub broker: Arc<dyn Broker>,
    /// State.
    pub store: Arc<dyn Store>,
    /// Who runs calls.
    pub providers: Arc<Providers>,
    /// What calls look like.
    pub protocols: Arc<Protocols>,
    /// Time and chance.
    pub clock: Arc<dyn Clock>,
}

/// A worker. Cloning is cheap and gives the same worker.
#[derive(Debug, Clone)]
pub struct Worker {
    shared: Arc<Shared>,
}

/// What every delivery of the worker needs.
#[derive(Debug)]
struct Shared {
    parts: Parts,
    settings: Settings,
    session: Id,
    heart: Arc<session::Heart>,
    running: Running,
    rooms: Arc<Rooms>,
    orders: Orders,
    gone: gone::Gone,
    turns: Turns,
    profiles: Profiles,
    liveness: Arc<Liveness>,
    publishing: Arc<liveness::Pulse>,
    /// Fires when running tasks must be given back now.
    abort: CancellationToken,
}

impl Worker {
    /// A worker with a session of its own.
    #[must_use]
    pub fn new(parts: Parts, settings: Settings) -> Worker {
        let session = parts.clock.new_id();
        let abort = CancellationToken::new();
        let liveness = Arc::new(Liveness::default());
        let publishing = liveness.sometimes("publishing");
        let rooms = Rooms::new(settings.resources);
        Worker {
            shared: Arc::new(Shared {
                parts,
                settings,
                session,
                heart: Arc::default(),
                running: Running::default(),
                rooms,
                orders: Orders::default(),
                gone: gone::Gone::default(),
                turns: Turns::default(),
                profiles: Profiles::default(),
                liveness,
                publishing,
                abort,
            }),
        }
    }

    /// The worker's session.
    #[must_use]
    pub fn session(&self) -> &Id {
        &self.shared.session
    }

    /// What it consumes.
    #[must_use]
    pub fn protocols(&self) -> &[ProtocolId] {
        &self.shared.settings.protocols
    }

    /// What runs now.
    #[must_use]
    pub fn running(&self) -> Vec<TaskKey> {
        self.shared.running.keys()
    }

    /// Whether its loops make progress.
    #[must_use]
    pub fn liveness(&self) -> &Liveness {
        &self.shared.liveness
    }

    /// Reads its configuration again in this way.
    #[must_use]
    pub fn reloaded_by(self, reload: Arc<dyn Reload>) -> Worker {
        self.shared.orders.reload_by(reload);
        self
    }

    /// Reads its configuration again, as `gleitzeit provider reload` has all workers do.
    ///
    /// # Errors
    /// `CONFIGURATION_ERROR`: it cannot be used, or not at run time; then nothing has changed.
    pub async fn reload(&self) -> Result<Reloaded, Failure> {
        self.shared.reload().await
    }

    /// Stops at once: running tasks are given back, uncounted. For the second signal.
    pub fn abort(&self) {
        self.shared.abort.cancel();
    }

    /// Works until `drain` fires, then ends in order: no more deliveries, running tasks get their grace, what
    /// still runs is given back, the session ends.
    ///
    /// # Errors
    /// [`BrokerError`] if a queue cannot be consumed at the start.
    pub async fn run(&self, drain: CancellationToken) -> Result<(), BrokerError> {
        let shared = &self.shared;
        let (broker, store) = (&shared.parts.broker, &shared.parts.store);
        let (mut consumers, mut waiting) = (Vec::new(), Vec::new());
        let listener = broker.listen().await?;
        // The first beat comes before the first claim: a lease of a silent session would look dead.
        match store.beat(&shared.session, BEAT_TTL, shared.parts.clock.now()).await {
            Ok(()) => shared.heart.beat(),
            Err(error) => {
                shared.heart.missed();
                tracing::warn!(%error, "the first heartbeat did not reach the store");
            }
        }
        for (queue, prefetch) in shared.queues() {
            let places = Places::new(queue, prefetch);
            if shared.is_shut(&places.queue) {
                // Until one of its providers can be asked.
                waiting.push(places);
                continue;
            }
            let Some(subscription) = places.subscribe() else { continue };
            let consumer = broker.consume(&places.queue, subscription.prefetch()).await?;
            let consumer = shared.liveness.watch(consumer, format!("consuming {}", places.queue));
            consumers.push((subscription, consumer));
            waiting.push(places);
        }

        let (loops, takers, deliveries) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
        let taking = Loops { takers: takers.clone(), deliveries: deliveries.clone(), drain: drain.clone() };
        let beat_stop = CancellationToken::new();
        let beats = session::run(
            Arc::clone(store),
            Arc::clone(&shared.parts.clock),
            shared.session.clone(),
            shared.about().encode(),
            Arc::clone(&shared.heart),
            shared.liveness.always("the session's heartbeat"),
            beat_stop.clone(),
        );
        loops.spawn(beats);
        loops.spawn(Arc::clone(&shared.liveness).run(beat_stop.clone()));
        let look_stop = CancellationToken::new();
        let (providers, looking_stop) = (Arc::clone(&shared.parts.providers), look_stop.clone());
        loops.spawn(async move { providers.look_after(looking_stop).await });
        for (subscription, consumer) in consumers {
            takers.spawn(Arc::clone(shared).take(consumer, subscription, taking.clone()));
        }
        for places in waiting {
            takers.spawn(Arc::clone(shared).refill(places, taking.clone()));
        }
        loops.spawn(Arc::clone(shared).listen(listener, beat_stop.clone()));
        loops.spawn(Arc::clone(shared).monitor(look_stop.clone()));
        loops.close();

        drain.cancelled().await;
        // Only when nobody takes deliveries any more does an empty tracker mean that all are done.
        takers.close();
        takers.wait().await;
        self.wind_down(&deliveries).await;
        look_stop.cancel();
        // Nothing may be started behind the back of who stops everything.
        shared.orders.stop().await;
        shared.parts.providers.stop().await;
        // The heart stops last, when no lease is held any more.
        beat_stop.cancel();
        loops.wait().await;
        Ok(())
    }

    /// Handles what is ready in one queue, one delivery after the other, until nothing is ready.
    ///
    /// # Errors
    /// [`BrokerError`] if the queue cannot be consumed.
    pub async fn work_off(&self, queue: &Queue) -> Result<(), BrokerError> {
        let broker = &self.shared.parts.broker;
        let mut consumer = broker.consume(queue, NonZeroU16::MIN).await?;
        while broker.depth(queue).await?.ready > 0 {
            // Somebody else may take what was ready: then there is nothing to wait for.
            let next = tokio::time::timeout(Duration::from_millis(200), consumer.next()).await;
            if let Ok(Some(delivery)) = next {
                Arc::clone(&self.shared).handle(delivery?, None).await;
            }
        }
        consumer.cancel().await
    }

    /// Lets running tasks end within their grace, saying every 5 s what is left; then gives back the rest.
    async fn wind_down(&self, deliveries: &TaskTracker) {
        deliveries.close();
        let grace = tokio::time::sleep(self.shared.settings.grace);
        tokio::pin!(grace);
        let mut say = tokio::time::interval(Duration::from_secs(5));
        say.tick().await;
        loop {
            tokio::select! {
                () = deliveries.wait() => return,
                () = &mut grace => break,
                () = self.shared.abort.cancelled() => break,
                _ = say.tick() => {
                    let left: Vec<String> = self.running().iter().map(ToString::to_string).collect();
                    tracing::info!(running = left.len(), tasks = ?left, "draining");
                }
            }
        }
        self.shared.abort.cancel();
        deliveries.wait().await;
    }
}

impl Shared {
    /// The queues of this worker and how many unsettled deliveries each may hold.
    fn queues(&self) -> Vec<(Queue, NonZeroU16)> {
        let mut queues = Vec::new();
        let Settings { protocols, concurrency, max_running, .. } = &self.settings;
        let prefetches = share::prefetches(protocols.len(), *concurrency, *max_running);
        for (protocol, prefetch) in protocols.iter().zip(prefetches) {
            match Address::parse(&protocol.routing()) {
                Ok(address) => queues.push((Queue::Tasks(address), prefetch)),
                Err(error) => tracing::error!(%error, %protocol, "this protocol cannot have a queue"),
            }
        }
        if self.settings.coordination {
            queues.push((Queue::Workflows, COORDINATION_PREFETCH));
            queues.push((Queue::Inbox, COORDINATION_PREFETCH));
            // Nested workflows need no provider: whoever knows workflows can unfold them.
            let nested = Queue::Tasks(nested_address());
            if !queues.iter().any(|(queue, _)| *queue == nested) {
                queues.push((nested, COORDINATION_PREFETCH));
            }
        }
        queues
    }

    /// Whether the queue's protocol has nobody who could be asked.
    fn is_shut(&self, queue: &Queue) -> bool {
        match queue {
            Queue::Tasks(_) => self.parts.providers.is_shut(&execute::protocol_of(queue)),
            Queue::Workflows | Queue::Inbox | Queue::Dead(_) => false,
        }
    }

    /// One delivery, by the queue it came from.
    async fn handle(self: Arc<Self>, delivery: Delivery, place: Option<Place>) {
        match delivery.queue {
            Queue::Tasks(_) => self.execute(delivery, place).await,
            Queue::Workflows => self.coordinate(delivery).await,
            Queue::Inbox => self.inbox(delivery).await,
            // Nobody consumes dead letters here; they are given back untouched.
            Queue::Dead(_) => {}
        }
    }
}

/// Where tasks that are nested workflows go.
fn nested_address() -> Address {
    Address::parse("workflow.v1").expect("letters, a dot and a digit")
}

/// Workflows and dead letters are light; this many at once keep one worker busy.
const COORDINATION_PREFETCH: NonZeroU16 = NonZeroU16::new(16).expect("16 is not zero");
