//! One worker process: its runtime, its connections, its session. When it dies all of that goes at once.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

use gleitzeit::broker::Broker;
use gleitzeit::config::EventLevel;
use gleitzeit::core::clock::Clock;
use gleitzeit::core::protocol::Protocols;
use gleitzeit::provider::echo::Echo;
use gleitzeit::provider::registry::Providers;
use gleitzeit::store::Store;
use gleitzeit::worker::{Parts, Settings, Worker};

use crate::actor::{Actor, Cues, Scene};
use crate::gate::Gate;
use crate::ledger::{Ledger, Watched, Witness};
use crate::mischief::{Mischief, Wild};
use crate::set_clock::SetClock;
use crate::stores::Ground;
use crate::tally::{Calls, Tally};

/// The longest that a process may take for one step.
const STEP_MAX: Duration = Duration::from_secs(30);

/// What all processes of a play have in common.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) ground: Ground,
    pub(crate) clock: Arc<SetClock>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) scene: Arc<Scene>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) wire: Arc<Mischief>,
    pub(crate) protocols: Arc<Protocols>,
    /// From when on a task is a long one.
    pub(crate) guard_after: Duration,
}

impl World {
    /// The ports as a process has them whose calls are counted as `who`'s.
    pub(crate) fn ports(
        &self,
        who: &'static str,
        broker: Arc<dyn Broker>,
        store: Arc<dyn Store>,
    ) -> (Arc<Gate>, Arc<dyn Broker>, Arc<dyn Store>) {
        let gate = Gate::of(Arc::new(Calls { who, tally: Arc::clone(&self.tally) }));
        let broker = Wild { inner: broker, gate: Arc::clone(&gate), mischief: Arc::clone(&self.wire) };
        let store = Watched { inner: store, gate: Arc::clone(&gate), ledger: Arc::clone(&self.ledger) };
        (gate, Arc::new(broker), Arc::new(store))
    }
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be had")
}

/// A worker that lives.
#[derive(Debug)]
pub(crate) struct Process {
    inside: Runtime,
    pub(crate) worker: Worker,
    /// The store with its own connection, past the gate.
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cues: Arc<Cues>,
    broker: Arc<dyn Broker>,
    gate: Arc<Gate>,
}

impl Process {
    pub(crate) fn start(world: &World) -> Process {
        let inside = runtime();
        let store = inside.block_on(world.ground.another_store());
        let (cues, broker) = (Arc::new(Cues::new(&world.tally)), world.ground.broker());
        let (gate, wild, watched) = world.ports("worker", Arc::clone(&broker), Arc::clone(&store));
        let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
        let actor = Actor {
            echo: Echo::new(Arc::clone(&clock)),
            scene: Arc::clone(&world.scene),
            cues: Arc::clone(&cues),
            tally: Arc::clone(&world.tally),
        };
        let (inner, ledger) = (Arc::clone(&store), Arc::clone(&world.ledger));
        let mut providers = Providers::default();
        providers
            .register(Arc::new(Witness { inner: actor, store: inner, ledger }))
            .expect("its name is its own");
        assert!(inside.block_on(providers.start()).is_empty());
        let settings = Settings {
            protocols: providers.protocols(),
            concurrency: NonZeroU16::MIN,
            max_running: None,
            coordination: true,
            grace: Duration::ZERO,
            guard_after: world.guard_after,
            task_timeout: Duration::from_secs(30),
            result_ttl: Duration::from_secs(24 * 3600),
            result_bytes_max: 1 << 20,
            crash_limit: 3,
            events: EventLevel::Off,
            resources: Default::default(),
            metrics_every: Duration::from_secs(60),
            topology: None,
        };
        let protocols = Arc::clone(&world.protocols);
        let parts = Parts { broker: wild, store: watched, providers: Arc::new(providers), protocols, clock };
        Process { inside, worker: Worker::new(parts, settings), store, cues, broker, gate }
    }

    /// Whether it has lived to the end of `act`.
    pub(crate) fn live(&self, act: impl Future<Output = ()>) -> bool {
        self.inside.block_on(async {
            tokio::select! {
                biased;
                () = self.gate.death() => false,
                () = self.cues.poisoned.notified() => false,
                () = act => true,
                () = tokio::time::sleep(STEP_MAX) => panic!("a step takes more than {} s", STEP_MAX.as_secs()),
            }
        })
    }

    /// Gives back what it held; nobody beats for its session any more.
    pub(crate) async fn bury(self, world: &World) {
        let Process { inside, worker, store, cues, broker, gate } = self;
        let session = worker.session().clone();
        drop((worker, store, cues, gate));
        // Its tasks are dropped where they stand, with the deliveries that they hold.
        inside.shutdown_background();
        broker.close().await;
        world.ground.store.leave(&session).await.expect("the store answers");
    }
}
