//! A play: what people, producers and workers do one after the other, with a clock that the play moves on.
//!
//! Where a process dies another one takes its part: a worker goes on with what is there; whoever has asked for
//! something asks once more, as a rule after workers have done what there was, so that the repeat comes late.

use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use gleitzeit::broker::{Broker, Outgoing, Properties, Target};
use gleitzeit::client::Client;
use gleitzeit::core::clock::{Clock, Timestamp};
use gleitzeit::core::id::Id;
use gleitzeit::core::protocol::Protocols;
use gleitzeit::store::Store;
use gleitzeit::topology::{Address, Queue, Topology, unrouted};
use gleitzeit::wire::workflow;

use crate::actor::Cues;
use crate::end::{self, End};
use crate::mischief::Mischief;
use crate::process::{Process, World, runtime};
use crate::set_clock::SetClock;
use crate::stores::Place;
use crate::tally::Tally;

/// Most processes that die in a play.
const DEATHS_MAX: u32 = 12;
/// Most rounds over the queues, and most moves of the clock.
const ROUNDS_MAX: u32 = 300;
/// Between two looks at what another thread does.
const LOOK_EVERY: Duration = Duration::from_millis(1);

pub(crate) fn id(text: &str) -> Id {
    Id::parse(text).expect("valid")
}

pub(crate) fn echo() -> Address {
    Address::parse("echo.v1").expect("valid")
}

/// Every worker that knows workflows takes nested ones.
pub(crate) fn nested() -> Address {
    Address::parse("workflow.v1").expect("valid")
}

/// What workers take from, in the order in which it is taken here.
fn queues() -> [Queue; 4] {
    [Queue::Workflows, Queue::Inbox, Queue::Tasks(nested()), Queue::Tasks(echo())]
}

/// What somebody outside of the workers stands on.
pub(crate) struct Person {
    pub(crate) client: Client,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) store: Arc<dyn Store>,
}

/// What a step sees of a worker that runs beside it.
pub(crate) struct Beside<'a> {
    pub(crate) cues: &'a Cues,
    store: &'a Arc<dyn Store>,
    broker: &'a Arc<dyn Broker>,
}

/// When somebody asks again who has died while he asked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Again {
    AtOnce,
    /// After workers have done what there was.
    Late,
}

pub(crate) struct Play {
    pub(crate) world: World,
    pub(crate) asks_again: Again,
    outside: Runtime,
    /// Past every gate.
    broker: Arc<dyn Broker>,
    worker: Option<Process>,
    deaths: u32,
    /// When something comes out of the delay cascade.
    due: BTreeSet<Timestamp>,
    /// Who was answered: the queue, what for, with what.
    replies: BTreeSet<(String, Option<String>, String)>,
}

impl Play {
    pub(crate) fn new(place: &Place, tally: &Arc<Tally>, protocols: &Arc<Protocols>) -> Play {
        let outside = runtime();
        // On the hour, so that cron is the same at any time of the day.
        let hour = 3_600_000;
        let now = jiff::Timestamp::now().as_millisecond() / hour * hour;
        let clock = SetClock::at(Timestamp::from_millis(now + 500));
        let ground = outside.block_on(place.open(Arc::clone(&clock) as Arc<dyn Clock>));
        let broker = ground.broker();
        let declared = outside.block_on(broker.declare(&Topology::new([echo(), nested(), unrouted()])));
        declared.expect("declares");
        let world = World {
            ground,
            clock,
            tally: Arc::clone(tally),
            scene: Arc::default(),
            ledger: Arc::default(),
            wire: Mischief::none(),
            protocols: Arc::clone(protocols),
            guard_after: Duration::from_secs(60),
        };
        let (due, replies) = (BTreeSet::new(), BTreeSet::new());
        Play { world, asks_again: Again::Late, outside, broker, worker: None, deaths: 0, due, replies }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.world.clock.now()
    }

    /// What failed for being broken succeeds from now on; what ended may end again.
    pub(crate) fn mend(&self) {
        self.world.scene.is_mended.store(true, Ordering::SeqCst);
        self.world.ledger.begin_anew();
    }

    /// Somebody asks for something, with ports that may fail.
    pub(crate) fn ask(&mut self, step: impl AsyncFn(&Person)) {
        loop {
            let world = &self.world;
            let (own, store) = (world.ground.broker(), Arc::clone(&world.ground.store));
            let (gate, broker, store) = world.ports("client", Arc::clone(&own), store);
            let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
            let protocols = Arc::clone(&world.protocols);
            let client = Client::new(Arc::clone(&broker), Arc::clone(&store), protocols, clock);
            let person = Person { client, broker, store };
            let lived = self.outside.block_on(async {
                let lived = tokio::select! {
                    biased;
                    () = gate.death() => false,
                    () = step(&person) => true,
                };
                own.close().await;
                lived
            });
            self.look();
            if lived {
                return;
            }
            self.died();
            match self.asks_again {
                Again::AtOnce => {}
                Again::Late => self.work(),
            }
        }
    }

    /// A message of a foreign producer, who has its confirm.
    pub(crate) fn send(&self, queue: Queue, body: impl Into<Bytes>, properties: Properties) {
        let message = Outgoing { target: Target::Queue(queue), body: body.into(), properties, delay: None };
        self.outside.block_on(self.broker.publish(vec![message])).expect("publishes");
    }

    /// Workers do all that is there now.
    pub(crate) fn work(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let Some(queue) = queues().into_iter().find(|queue| self.ready(queue) > 0) else { return };
            self.take(&queue);
        }
        panic!("the work never ends");
    }

    /// A worker does what is there in one queue.
    pub(crate) fn take(&mut self, queue: &Queue) {
        loop {
            let process = self.worker.take().unwrap_or_else(|| Process::start(&self.world));
            let lived =
                process.live(async { process.worker.work_off(queue).await.expect("the queue is there") });
            self.look();
            if lived {
                self.worker = Some(process);
                return;
            }
            self.died();
            self.outside.block_on(process.bury(&self.world));
        }
    }

    /// Workers do all that is there, and all that comes out of the delay cascade until then.
    pub(crate) fn pass_until(&mut self, end: Timestamp) {
        for _ in 0..ROUNDS_MAX {
            self.work();
            let now = self.now();
            let next = self.due.iter().copied().find(|due| *due > now && *due <= end);
            match next {
                Some(due) => self.world.clock.set(due),
                None => break,
            }
        }
        if self.due.iter().any(|due| *due > self.now() && *due <= end) {
            panic!("the delays never end");
        }
        self.world.clock.set(end.max(self.now()));
        self.work();
    }

    /// The same for seconds from now.
    pub(crate) fn pass(&mut self, seconds: u64) {
        self.pass_until(self.now().after(Duration::from_secs(seconds)));
    }

    /// A worker runs as a process does, with its heart, its listener and all its queues, until `beside` is over;
    /// then it drains. If it dies the next one does the same.
    pub(crate) fn run(&mut self, beside: impl AsyncFn(Beside<'_>)) {
        self.rest();
        loop {
            let process = Process::start(&self.world);
            let drain = CancellationToken::new();
            let lived = process.live(async {
                let told = async {
                    beside(Beside { cues: &process.cues, store: &process.store, broker: &self.broker }).await;
                    drain.cancel();
                };
                let (stopped, ()) = tokio::join!(process.worker.run(drain.clone()), told);
                stopped.expect("the queues are there");
            });
            self.look();
            self.outside.block_on(process.bury(&self.world));
            if lived {
                return;
            }
            self.died();
        }
    }

    /// The end, when nothing comes any more.
    pub(crate) fn end(mut self) -> End {
        for _ in 0..ROUNDS_MAX {
            match self.due.last().copied().filter(|last| *last > self.now()) {
                Some(last) => self.pass_until(last),
                None => break,
            }
        }
        self.work();
        self.rest();
        let late: Vec<&Timestamp> = self.due.iter().filter(|due| **due > self.now()).collect();
        assert!(late.is_empty(), "the delay cascade is never empty: {late:?}");
        self.outside.block_on(end::look(&self.world, &self.broker, self.replies))
    }

    fn rest(&mut self) {
        if let Some(process) = self.worker.take() {
            self.outside.block_on(process.bury(&self.world));
        }
    }

    fn ready(&self, queue: &Queue) -> u64 {
        self.outside.block_on(self.broker.depth(queue)).expect("the broker answers").ready
    }

    fn died(&mut self) {
        self.deaths += 1;
        assert!(self.deaths <= DEATHS_MAX, "processes die all the time");
    }

    /// Reads what was published meanwhile.
    fn look(&mut self) {
        let now = self.now();
        for message in self.world.wire.noted() {
            self.due.extend(message.delay.map(|delay| now.after(delay)));
            if let Target::Reply(to) = message.target {
                let document: Value = serde_json::from_slice(&message.body).expect("JSON");
                let status = document["status"].to_string();
                self.replies.insert((to, message.properties.correlation_id, status));
            }
        }
    }
}

impl Beside<'_> {
    /// Waits until this root has ended and nothing waits to be delivered.
    pub(crate) async fn is_quiet(&self, root: &str) {
        loop {
            let has_ended = self.store.outcome(&id(root)).await.expect("the store answers").is_some();
            let mut ready = 0;
            for queue in queues() {
                ready += self.broker.depth(&queue).await.expect("the broker answers").ready;
            }
            if has_ended && ready == 0 {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Publishes to the workflows queue, past every gate.
    pub(crate) async fn command(&self, body: Bytes) {
        let target = Target::Queue(Queue::Workflows);
        let message = Outgoing { target, body, properties: Properties::default(), delay: None };
        self.broker.publish(vec![message]).await.expect("publishes");
    }
}

/// A workflow's message as a foreign producer sends it, who wants a reply.
pub(crate) fn asked(document: &Value, root: &str) -> (Bytes, Properties) {
    let properties = Properties {
        reply_to: Some("asker".to_owned()),
        correlation_id: Some(root.to_owned()),
        ..Properties::default()
    };
    (workflow::encode(document, &id(root)), properties)
}
