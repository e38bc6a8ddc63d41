//! One case: a workflow, and workers that die one after the other until one lives long enough.

use bytes::Bytes;
use serde_json::Value;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use gleitzeit::broker::{Broker, Outgoing, Properties, Target};
use gleitzeit::config::EventLevel;
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::core::protocol::Protocols;
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::provider::echo::Echo;
use gleitzeit::provider::guard::{self, Guard};
use gleitzeit::provider::registry::Providers;
use gleitzeit::store::WorkflowRecord;
use gleitzeit::topology::{Address, Queue, Topology};
use gleitzeit::wire::command::Command;
use gleitzeit::wire::workflow;
use gleitzeit::worker::{Parts, Settings, Worker};

use crate::end::End;
use crate::gate::Gate;
use crate::graph::{Graph, Timeout};
use crate::ledger::{Ledger, Watched, Witness};
use crate::mischief::{Mischief, Wild};
use crate::stores::{Ground, Place};
use crate::wall_clock::WallClock;

/// Most deaths of a case.
const DEATHS_MAX: u32 = 7;
/// Most points that a worker that is to die passes.
const POINTS_MAX: u32 = 50;
/// The longest that one life may take; a run that does not end fails.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// Most lives of a case, whether they end by death or because nothing is left to do.
const LIVES_MAX: u32 = 60;
/// Between two looks at a run.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Lives one case through and tells how many workers died in it, or what was wrong.
pub(crate) fn live(seed: u64, place: &Place, protocols: &Arc<Protocols>) -> Result<u64, String> {
    let outside = runtime();
    let mut case = outside.block_on(Case::start(seed, place, Arc::clone(protocols)));
    let deaths = case.rng.u32(0..=DEATHS_MAX);
    let (mut died, mut lives, mut tries) = (0, 0, case.rng.u32(0..2));
    let ended = loop {
        let gate = Gate::new((died < deaths).then(|| case.rng.u32(1..=POINTS_MAX)));
        match case.life(&outside, &gate) {
            Ok(Life::Died) => died += 1,
            Ok(Life::Stopped) => {}
            Err(wrong) => break Err(wrong),
        }
        lives += 1;
        if lives > LIVES_MAX {
            break Err(format!("it has not ended in {lives} lives"));
        }
        if !outside.block_on(case.is_over()) {
            continue;
        }
        if let Err(wrong) = outside.block_on(case.check()) {
            break Err(wrong);
        }
        if tries == 0 {
            break Ok(());
        }
        tries -= 1;
        outside.block_on(case.retry(tries));
    };
    outside.block_on(place.remove());
    let tell = |wrong| {
        format!("after {died} deaths, {} retries, {:?}: {wrong}\n{:?}", tries, case.timeout, case.graph)
    };
    ended.map(|()| u64::from(died)).map_err(tell)
}

fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("threads can be had")
}

/// How a worker's life ends.
#[derive(Debug, PartialEq, Eq)]
enum Life {
    Died,
    /// There was nothing left to do.
    Stopped,
}

struct Case {
    rng: fastrand::Rng,
    graph: Graph,
    timeout: Timeout,
    id: Id,
    ground: Ground,
    ledger: Arc<Ledger>,
    mischief: Arc<Mischief>,
    protocols: Arc<Protocols>,
    /// Somebody cancels it at some time.
    is_cancelled: bool,
    /// In half of the cases every task that takes a moment is a long one.
    guard_after: Duration,
}

impl Case {
    async fn start(seed: u64, place: &Place, protocols: Arc<Protocols>) -> Case {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (graph, mischief) = (Graph::draw(&mut rng, 1), Mischief::new(rng.u64(..)));
        let timeout = match rng.u32(0..20) {
            0 | 1 => Timeout::Always(rng.u64(1..150)),
            2..=4 => Timeout::Never,
            _ => Timeout::None,
        };
        let (ground, id) = (place.open(Arc::new(WallClock)).await, Id::parse("w").expect("valid"));
        let broker = ground.broker();
        broker.declare(&Topology::new([echo(), nested()])).await.expect("declares");
        let submitted = to_workflows(workflow::encode(&graph.document_within(timeout), &id));
        // It is submitted twice, as by a client that has lost the first confirmation.
        let mut messages = vec![submitted.clone(), submitted];
        let is_cancelled = rng.f64() < 0.15;
        if is_cancelled {
            let delay = Some(Duration::from_millis(rng.u64(1..150)));
            messages.push(Outgoing {
                delay,
                ..to_workflows(Command::Cancel { id: id.clone(), by: Id::parse("c").ok() }.encode())
            });
        }
        broker.publish(messages).await.expect("publishes");
        let ledger = Arc::new(Ledger::new(graph.bounds()));
        let guard_after = Duration::from_millis(if rng.bool() { 5 } else { 60_000 });
        Case { rng, graph, timeout, id, ground, ledger, mischief, protocols, is_cancelled, guard_after }
    }

    /// Asks for what did not complete to be run again, twice.
    async fn retry(&self, number: u32) {
        self.ledger.begin_anew();
        let by = Some(Id::parse(&format!("retry-{number}")).expect("valid"));
        let command = to_workflows(Command::Retry { id: self.id.clone(), by }.encode());
        self.ground.broker().publish(vec![command.clone(), command]).await.expect("publishes");
    }

    /// One worker's life, until it dies or nothing is left to do.
    fn life(&self, outside: &Runtime, gate: &Arc<Gate>) -> Result<Life, String> {
        let inside = runtime();
        let broker = self.ground.broker();
        let worker = inside.block_on(self.worker(Arc::clone(&broker), gate));
        let (session, drain) = (worker.session().clone(), CancellationToken::new());
        let stop = drain.clone();
        let mut working = inside.spawn(async move { worker.run(stop).await });
        let ended = outside.block_on(async {
            tokio::select! {
                () = gate.death() => Ok(Life::Died),
                stopped = &mut working => Err(format!("the worker stopped: {stopped:?}")),
                () = self.end() => Ok(Life::Stopped),
                () = tokio::time::sleep(LIFE_MAX) => Err(self.told().await),
            }
        });
        if ended == Ok(Life::Stopped) {
            drain.cancel();
            // It may still die before it has settled everything.
            let stopped = outside.block_on(async {
                tokio::select! {
                    () = gate.death() => true,
                    stopped = tokio::time::timeout(LIFE_MAX, working) => stopped.is_ok(),
                }
            });
            if !stopped {
                return Err("the worker does not stop".to_owned());
            }
        }
        // Whatever it held is dropped and goes back to the queue; nobody beats for its session any more.
        inside.shutdown_timeout(LIFE_MAX);
        outside.block_on(broker.close());
        outside.block_on(self.ground.store.leave(&session)).map_err(|error| error.to_string())?;
        ended
    }

    async fn worker(&self, broker: Arc<dyn Broker>, gate: &Arc<Gate>) -> Worker {
        let (inner, ledger) = (self.ground.another_store().await, Arc::clone(&self.ledger));
        let (store, own) = (Arc::clone(&inner), Arc::clone(&ledger));
        let echo = Witness { inner: Echo::new(Arc::new(WallClock)), store, ledger: own };
        let mut providers = Providers::default();
        let guarded = Guard::new(Arc::new(echo), &guard::Settings::default());
        providers.register(Arc::new(guarded)).expect("its name is its own");
        assert!(providers.start().await.is_empty());
        let (gate, mischief) = (Arc::clone(gate), Arc::clone(&self.mischief));
        let store = Watched { inner, gate: Arc::clone(&gate), ledger };
        let served = providers.protocols();
        let parts = Parts {
            broker: Arc::new(Wild { inner: broker, gate, mischief }),
            store: Arc::new(store),
            providers: Arc::new(providers),
            protocols: Arc::clone(&self.protocols),
            clock: Arc::new(WallClock),
        };
        let settings = Settings {
            protocols: served,
            concurrency: NonZeroU16::new(4).expect("not zero"),
            max_running: None,
            coordination: true,
            grace: Duration::from_secs(5),
            task_timeout: Duration::from_secs(30),
            result_ttl: Duration::from_secs(3600),
            result_bytes_max: 1 << 20,
            // Here a worker's death is never the task's fault.
            crash_limit: u32::MAX,
            guard_after: self.guard_after,
            events: EventLevel::Off,
            resources: Default::default(),
            metrics_every: Duration::from_secs(60),
            topology: None,
        };
        Worker::new(parts, settings)
    }

    /// Waits until the workflow has ended and no message that is due is left.
    async fn end(&self) {
        while !self.is_over().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn is_over(&self) -> bool {
        let broker = self.ground.broker();
        let mut ready = 0;
        for queue in [Queue::Tasks(echo()), Queue::Tasks(nested()), Queue::Workflows] {
            ready += broker.depth(&queue).await.expect("the broker answers").ready;
        }
        ready == 0 && self.ground.store.outcome(&self.id).await.expect("the store answers").is_some()
    }

    /// What is known of a run that does not end.
    async fn told(&self) -> String {
        let flow = self.ground.store.workflow(&self.id).await;
        format!("it has not ended within {} s: {flow:?}", LIFE_MAX.as_secs())
    }

    async fn check(&self) -> Result<(), String> {
        let store = &self.ground.store;
        let flow = store.workflow(&self.id).await.map_err(|error| error.to_string())?;
        let flow = flow.ok_or("the workflow is not known")?;
        let parents = flow.tasks.iter().filter_map(|task| task.parent.as_ref());
        let parents = parents.map(|parent| TaskKey::within(self.id.clone(), parent.clone()).to_string());
        let wrongs = self.ledger.wrongs(&parents.collect());
        if !wrongs.is_empty() {
            return Err(wrongs.join("; "));
        }
        let outcome = store.outcome(&self.id).await.map_err(|error| error.to_string())?;
        let outcome: Value = serde_json::from_slice(&outcome.ok_or("there is no outcome")?)
            .map_err(|error| error.to_string())?;
        let expected = End::of(&self.graph, "");
        if self.is_cancelled && flow.state == WorkflowState::Cancelled {
            return check_cut_short(&flow, &expected);
        }
        if matches!(self.timeout, Timeout::Always(_)) {
            let error = &outcome["error"]["name"];
            if flow.state != WorkflowState::Failed || error != "WORKFLOW_TIMEOUT" {
                return Err(format!("it did not run out of time: {outcome}"));
            }
            return check_cut_short(&flow, &expected);
        }
        let listed = outcome["tasks"].as_array().ok_or("the document has no tasks")?;
        let found = End {
            workflow: flow.state,
            tasks: flow.tasks.iter().map(|task| (task.head.key.id().to_string(), task.state)).collect(),
            answers: listed.iter().map(|task| task["result"]["response"].as_u64()).collect(),
        };
        if found != expected {
            return Err(format!("it ended as {found:?} instead of {expected:?}: {outcome}"));
        }
        Ok(())
    }
}

/// A workflow was ended from outside: what had not ended was cancelled, everything else ended as it would have.
fn check_cut_short(flow: &WorkflowRecord, expected: &End) -> Result<(), String> {
    for task in flow.tasks.iter().filter(|task| task.state != TaskState::Cancelled) {
        let name = task.head.key.id().as_str();
        let state = expected.tasks.iter().find(|(other, _)| other == name).map(|(_, state)| *state);
        if state != Some(task.state) {
            return Err(format!("cut short, {name} is {} instead of {state:?} or cancelled", task.state));
        }
    }
    Ok(())
}

fn to_workflows(body: Bytes) -> Outgoing {
    let target = Target::Queue(Queue::Workflows);
    Outgoing { target, body, properties: Properties::default(), delay: None }
}

/// Every worker that knows workflows takes nested ones.
fn nested() -> Address {
    Address::parse("workflow.v1").expect("valid")
}

fn echo() -> Address {
    Address::parse("echo.v1").expect("valid")
}
