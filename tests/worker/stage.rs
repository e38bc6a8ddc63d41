//! A worker over a state file of its own, between a broker that the test looks into and a provider that it plays.

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use gleitzeit::broker::sqlite::SqliteBroker;
use gleitzeit::broker::{
    Broker, BrokerError, Consumer, Depth, Finding, Heard, Listener, Outgoing, Properties, Target, Transit,
};
use gleitzeit::config::EventLevel;
use gleitzeit::core::clock::Clock;
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::core::limit::Rule;
use gleitzeit::core::protocol::{ProtocolId, Protocols};
use gleitzeit::core::state::TaskState;
use gleitzeit::provider::limit::Limits;
use gleitzeit::provider::registry::Providers;
use gleitzeit::provider::{Answer, CallCx, Provider};
use gleitzeit::sqlite::{Database, Durability, Location};
use gleitzeit::store::sqlite::SqliteStore;
use gleitzeit::store::{
    Cancelled, Claim, Claimed, Edge, End, Lease, Message, Otherwise, Plan, PlannedTask, Store, Why,
};
use gleitzeit::topology::{Address, Queue, Topology};
use gleitzeit::wire::command::Command;
use gleitzeit::wire::record::Head;
use gleitzeit::worker::{Parts, Settings, Worker};

use crate::absent::Absent;
use crate::journal::{Journal, Noted};
use crate::wall_clock::WallClock;

/// The longest that anything may take.
const SOON: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A worker and what is around it.
pub(crate) struct Stage {
    broker: Arc<Between>,
    pub(crate) store: Arc<Absent>,
    pub(crate) journal: Journal,
    calls: tokio::sync::Mutex<mpsc::UnboundedReceiver<Call>>,
    hears: mpsc::UnboundedSender<Heard>,
    drain: CancellationToken,
    working: JoinSet<Result<(), BrokerError>>,
    _folder: tempfile::TempDir,
}

/// A call that runs.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) key: TaskKey,
    pub(crate) attempt: u32,
    pub(crate) timeout: Duration,
    pub(crate) cancel: CancellationToken,
    end: oneshot::Sender<Result<Answer, Failure>>,
}

impl Call {
    /// Ends it.
    pub(crate) fn end(self, outcome: Result<Answer, Failure>) {
        self.end.send(outcome).expect("it still runs");
    }

    /// Waits until it is told to stop.
    pub(crate) async fn is_cancelled(&self) {
        tokio::time::timeout(SOON, self.cancel.cancelled()).await.expect("it is cancelled");
    }
}

pub(crate) fn id(text: &str) -> Id {
    Id::parse(text).expect("valid")
}

pub(crate) fn alone(text: &str) -> TaskKey {
    TaskKey::alone(id(text))
}

/// What a call gives.
pub(crate) fn pong() -> Answer {
    json!({"response": "pong"}).into()
}

/// A workflow of one task with two attempts.
pub(crate) fn workflow(task: &str) -> Value {
    let retry = json!({"max_attempts": 2, "base_delay": 0.01});
    json!({"name": "W", "tasks": [{"id": task, "method": "echo/ping", "retry": retry}]})
}

pub(crate) fn echo() -> Address {
    Address::parse("echo.v1").expect("valid")
}

pub(crate) fn claim(head: Head, session: &str) -> Claim {
    Claim {
        head,
        attempt: 1,
        run: None,
        session: id(session),
        over: None,
        inputs: Vec::new(),
        inputs_bytes_max: 0,
        digest: None,
    }
}

impl Stage {
    pub(crate) async fn new() -> Stage {
        Stage::with(|_| {}).await
    }

    /// With a worker of other settings.
    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Stage {
        Stage::made(Vec::new(), change).await
    }

    /// With limits.
    pub(crate) async fn limited(rules: Vec<Rule>) -> Stage {
        Stage::made(rules, |_| {}).await
    }

    async fn made(rules: Vec<Rule>, change: impl FnOnce(&mut Settings)) -> Stage {
        let (folder, journal) = (tempfile::tempdir().expect("a folder"), Journal::default());
        let location = Location::File(folder.path().join("state.db"));
        let database = Database::open(location, Durability::Process).await.expect("the file opens");
        let settings = gleitzeit::store::sqlite::Settings::default();
        let store = SqliteStore::new(database.clone(), Arc::new(WallClock), settings);
        let store = Arc::new(Absent::new(Arc::new(store), journal.clone()));
        let (hears, heard) = mpsc::unbounded_channel();
        let broker = Arc::new(Between {
            inner: SqliteBroker::new(database, Arc::new(WallClock)),
            heard: Mutex::new(Some(heard)),
            published: Mutex::default(),
            emitted: Mutex::default(),
            journal: journal.clone(),
            others: AtomicU64::new(0),
        });
        let nested = Address::parse("workflow.v1").expect("valid");
        broker.declare(&Topology::new([echo(), nested])).await.expect("declares");
        let (started, calls) = mpsc::unbounded_channel();
        let mut providers = Providers::default();
        let protocol = "echo/v1".parse().expect("valid");
        providers.register(Arc::new(Player { protocol, started })).expect("its name is its own");
        assert!(providers.start().await.is_empty());
        let limits = Limits::new(rules, Arc::clone(&store) as Arc<dyn Store>, Arc::new(WallClock));
        let providers = providers.with_limits(limits);
        let parts = Parts {
            broker: Arc::clone(&broker) as Arc<dyn Broker>,
            store: Arc::clone(&store) as Arc<dyn Store>,
            providers: Arc::new(providers),
            protocols: Arc::new(Protocols::builtin().expect("built in")),
            clock: Arc::new(WallClock),
        };
        let mut settings = Settings {
            protocols: vec!["echo/v1".parse().expect("valid")],
            concurrency: NonZeroU16::new(4).expect("not zero"),
            max_running: None,
            coordination: true,
            grace: SOON,
            guard_after: Duration::from_secs(60),
            task_timeout: SOON,
            result_ttl: SOON,
            result_bytes_max: 1 << 20,
            crash_limit: 3,
            events: EventLevel::Off,
            resources: Default::default(),
            metrics_every: Duration::from_secs(60),
            topology: None,
        };
        change(&mut settings);
        let (worker, drain) = (Worker::new(parts, settings), CancellationToken::new());
        let stop = drain.clone();
        let mut working = JoinSet::new();
        working.spawn(async move { worker.run(stop).await });
        let calls = tokio::sync::Mutex::new(calls);
        Stage { broker, store, journal, calls, hears, drain, working, _folder: folder }
    }

    pub(crate) async fn submit(&self, root: &str, document: &Value) {
        self.publish(Queue::Workflows, gleitzeit::wire::workflow::encode(document, &id(root))).await;
    }

    pub(crate) async fn command(&self, command: &Command) {
        self.publish(Queue::Workflows, command.encode()).await;
    }

    /// Submits a task on its own.
    pub(crate) async fn task(&self, name: &str) {
        self.publish(Queue::Tasks(echo()), json!({"id": name, "method": "ping"}).to_string().into()).await;
    }

    /// Takes in a workflow of which all but `task` has completed, with results of so many bytes; publishes that.
    pub(crate) async fn refer_to(&self, root: &str, task: &str, results: usize, bytes: usize) {
        let names: Vec<String> = (0..results).map(|at| format!("p{at}")).collect();
        let text: String = names.iter().map(|name| format!("${{{name}}}")).collect();
        let inputs: Value = names.iter().map(|name| (name.clone(), json!(name))).collect();
        let (params, retry) = (json!({"message": text}), json!({"max_attempts": 3, "base_delay": 0}));
        let body = json!({
            "id": task, "workflow": root, "method": "ping", "params": params, "inputs": inputs, "retry": retry
        });
        let plan = |name: &str, body: &Value, dependencies| PlannedTask {
            head: Head {
                key: TaskKey::within(id(root), id(name)),
                name: name.to_owned(),
                protocol: "echo/v1".to_owned(),
                method: "ping".to_owned(),
            },
            message: Message { address: echo(), priority: 4, body: body.to_string().into() },
            dependencies,
            tolerated: false,
        };
        let mut tasks: Vec<PlannedTask> =
            names.iter().map(|name| plan(name, &Value::Null, Vec::new())).collect();
        let edges = (0..results).map(|on| Edge { on, otherwise: Otherwise::Fail }).collect();
        tasks.push(plan(task, &body, edges));
        let refused = Failure::new(Code::InternalError, "not at all");
        let plan = Plan { tasks, refused: None, ..Plan::refused(id(root), "W".to_owned(), refused, SOON) };
        self.store.create(&plan, WallClock.now()).await.expect("create answers");
        let document = Bytes::from(format!(r#"{{"status":"completed","result":"{}"}}"#, "x".repeat(bytes)));
        for input in &plan.tasks[..results] {
            let claim = claim(input.head.clone(), "test");
            let claimed = self.store.claim(&claim, WallClock.now()).await.expect("claim answers");
            let Claimed::Run { lease, .. } = claimed else { panic!("{claimed:?}") };
            let (state, document) = (TaskState::Completed, document.clone());
            let entry = "{}".to_owned();
            let end = End::Ended { state, document, keep: true, ttl: SOON, entry, retry: None };
            self.store.finish(&lease, &end, WallClock.now()).await.expect("finish answers");
        }
        self.publish(Queue::Tasks(echo()), body.to_string().into()).await;
    }

    /// Publishes what no worker can read as a task, but for its id.
    pub(crate) async fn broken(&self, name: &str) {
        let body = json!({"id": name, "method": "ping", "priority": "soonish"});
        self.publish(Queue::Tasks(echo()), body.to_string().into()).await;
    }

    /// Publishes a guard of a task, as `session` makes it under a lease.
    pub(crate) async fn guard(&self, name: &str, session: &str, lease: &Lease) {
        let headers = [("gleitzeit-guard".to_owned(), format!("{session}:{}", lease.fence.0))].into();
        let body = json!({"id": name, "method": "ping"}).to_string().into();
        let (target, properties) =
            (Target::Queue(Queue::Tasks(echo())), Properties { headers, ..Properties::default() });
        self.broker
            .inner
            .publish(vec![Outgoing { target, body, properties, delay: None }])
            .await
            .expect("publishes");
    }

    /// Waits until no task message is ready or held; how many wait for their time.
    pub(crate) async fn delayed(&self) -> u64 {
        let looking = async {
            loop {
                let ready = self.broker.depth(&Queue::Tasks(echo())).await.expect("depth answers").ready;
                let transit = self.broker.transit().await.expect("transit answers");
                if ready == 0 && transit.unacknowledged == Some(0) {
                    return transit.delayed.expect("known").values().sum();
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(SOON, looking).await.expect("it is dealt with in time")
    }

    /// Another session has the lease of a task on its own; it has never beaten.
    pub(crate) async fn claimed_by(&self, session: &str, task: &str) -> Lease {
        self.claimed_in(None, session, task).await
    }

    /// As [`Stage::claimed_by`], by a message of this run.
    pub(crate) async fn claimed_in(&self, run: Option<u32>, session: &str, task: &str) -> Lease {
        let head = Head {
            key: alone(task),
            name: task.to_owned(),
            protocol: "echo/v1".to_owned(),
            method: "ping".to_owned(),
        };
        let claim = Claim { run, ..claim(head, session) };
        let claimed = self.store.claim(&claim, WallClock.now()).await.expect("claim answers");
        let Claimed::Run { lease, .. } = claimed else { panic!("{claimed:?}") };
        lease
    }

    /// The other session completes it.
    pub(crate) async fn completes(&self, lease: &Lease) {
        let (state, document) = (TaskState::Completed, Bytes::from_static(br#"{"status":"completed"}"#));
        let end = End::Ended { state, document, keep: true, ttl: SOON, entry: "{}".to_owned(), retry: None };
        self.store.finish(lease, &end, WallClock.now()).await.expect("finish answers");
    }

    pub(crate) async fn give_back(&self, lease: &Lease) {
        self.store.finish(lease, &End::Abandoned, WallClock.now()).await.expect("finish answers");
    }

    pub(crate) async fn beat(&self, session: &str, ttl: Duration) {
        self.store.beat(&id(session), ttl, WallClock.now()).await.expect("beat answers");
    }

    pub(crate) async fn leave(&self, session: &str) {
        self.store.leave(&id(session)).await.expect("leave answers");
    }

    /// How many attempts of a task on its own have begun.
    pub(crate) async fn attempts(&self, task: &str) -> u32 {
        let task = self.store.task(&alone(task)).await.expect("task answers");
        task.map_or(0, |task| task.attempts)
    }

    /// How often a message has been found to be of a task that another session has.
    pub(crate) fn looks(&self) -> usize {
        let is_held = |message: &&Outgoing| message.properties.headers.contains_key("gleitzeit-held");
        self.broker.published().iter().filter(is_held).count()
    }

    /// The priorities, of the message and in its body, of what the worker published for another look.
    pub(crate) fn held_priorities(&self) -> Vec<(Option<u8>, Value)> {
        let is_held = |message: &&Outgoing| message.properties.headers.contains_key("gleitzeit-held");
        let priorities = |message: &Outgoing| {
            let body: Value = serde_json::from_slice(&message.body).expect("JSON");
            (message.properties.priority, body["priority"].clone())
        };
        self.broker.published().iter().filter(is_held).map(priorities).collect()
    }

    /// Waits for so many [`Stage::looks`].
    pub(crate) async fn is_looked_at(&self, looks: usize) {
        let looking = async {
            while self.looks() < looks {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(SOON, looking).await.expect("it is looked at in time");
    }

    /// A message of this run to the echo queue.
    pub(crate) async fn message(&self, run: u32, body: &Value) {
        let headers = [("gleitzeit-run".to_owned(), run.to_string())].into();
        let properties = Properties { headers, ..Properties::default() };
        self.publish_with(Queue::Tasks(echo()), body.to_string().into(), properties).await;
    }

    /// As if the broker had ended this message.
    pub(crate) async fn inbox(&self, body: &Value) {
        self.publish(Queue::Inbox, body.to_string().into()).await;
    }

    /// How often the worker has left a task to another one.
    pub(crate) fn searches(&self) -> usize {
        let searches =
            |message: &&Outgoing| message.properties.headers.contains_key("gleitzeit-elsewhere-since");
        self.broker.published().iter().filter(searches).count()
    }

    /// How many guards the worker has published.
    pub(crate) fn guards(&self) -> usize {
        let is_guard = |message: &&Outgoing| message.properties.headers.contains_key("gleitzeit-guard");
        self.broker.published().iter().filter(is_guard).count()
    }

    /// So many others consume every queue too.
    pub(crate) fn others_consume(&self, count: u64) {
        self.broker.others.store(count, Ordering::SeqCst);
    }

    /// How many consumers a queue has.
    pub(crate) async fn consumers(&self, queue: &Queue) -> u64 {
        self.broker.depth(queue).await.expect("it is there").consumers
    }

    pub(crate) async fn publish(&self, queue: Queue, body: Bytes) {
        self.publish_with(queue, body, Properties::default()).await;
    }

    pub(crate) async fn publish_with(&self, queue: Queue, body: Bytes, properties: Properties) {
        let target = Target::Queue(queue);
        let message = Outgoing { target, body, properties, delay: None };
        self.broker.inner.publish(vec![message]).await.expect("publishes");
    }

    /// Records a cancel and tells nobody.
    pub(crate) async fn cancel(&self, root: &str, by: Option<&str>) -> Cancelled {
        let why = Why::Request { by: by.map(id) };
        self.store.cancel(&id(root), why, WallClock.now()).await.expect("cancel answers")
    }

    /// The worker's listener hears this.
    pub(crate) fn hears(&self, heard: Heard) {
        self.hears.send(heard).expect("it listens");
    }

    /// The next call that starts.
    pub(crate) async fn call(&self) -> Call {
        let mut calls = self.calls.lock().await;
        let call = tokio::time::timeout(SOON, calls.recv()).await;
        call.expect("a call starts in time").expect("the worker lives")
    }

    pub(crate) async fn state(&self, key: &TaskKey) -> Option<TaskState> {
        self.store.task(key).await.expect("task answers").map(|task| task.state)
    }

    /// Waits until a task is in this state.
    pub(crate) async fn is(&self, key: &TaskKey, state: TaskState) {
        let looking = async {
            while self.state(key).await != Some(state) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(SOON, looking).await.expect("it becomes so in time");
    }

    /// What is kept of a task that has ended.
    pub(crate) async fn document(&self, key: &TaskKey) -> Value {
        let document = self.store.result(key).await.expect("result answers").expect("it is kept");
        serde_json::from_slice(&document).expect("JSON")
    }

    /// Waits for the root's document.
    pub(crate) async fn ends_as(&self, root: &str, status: &str) {
        let looking = async {
            loop {
                if let Some(document) = self.store.outcome(&id(root)).await.expect("outcome answers") {
                    return document;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let document = tokio::time::timeout(SOON, looking).await.expect("it ends");
        let document: Value = serde_json::from_slice(&document).expect("JSON");
        assert_eq!(document["status"], status, "{document}");
    }

    /// The replies so far.
    pub(crate) fn replies(&self) -> Vec<String> {
        let replies = |message: &Outgoing| match &message.target {
            Target::Reply(_) => Some(String::from_utf8_lossy(&message.body).into_owned()),
            Target::Queue(_) => None,
        };
        self.broker.published().iter().filter_map(replies).collect()
    }

    /// What the worker has published so far.
    pub(crate) fn published(&self) -> Vec<Outgoing> {
        self.broker.published().clone()
    }

    /// The dead letters so far.
    pub(crate) fn letters(&self) -> Vec<String> {
        let letters = |message: &Outgoing| match &message.target {
            Target::Queue(Queue::Dead(_)) => Some(String::from_utf8_lossy(&message.body).into_owned()),
            Target::Queue(_) | Target::Reply(_) => None,
        };
        self.broker.published().iter().filter_map(letters).collect()
    }

    /// The kinds of the events so far.
    pub(crate) fn events(&self) -> Vec<String> {
        self.broker.emitted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until there is one of these.
    pub(crate) async fn comes(&self, what: &str, found: impl Fn(&Stage) -> bool) {
        let looking = async {
            while !found(self) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(SOON, looking).await.unwrap_or_else(|_| panic!("{what} comes in time"));
    }

    /// What the worker's task messages say of the run that they are of.
    pub(crate) fn runs(&self) -> Vec<Option<String>> {
        let is_task = |message: &&Outgoing| matches!(&message.target, Target::Queue(Queue::Tasks(_)));
        let run = |message: &Outgoing| message.properties.headers.get("gleitzeit-run").cloned();
        self.broker.published().iter().filter(is_task).map(run).collect()
    }

    /// Stops the worker.
    pub(crate) async fn drain(&mut self) {
        self.drain.cancel();
        let stopped = tokio::time::timeout(SOON, self.working.join_next()).await.expect("it stops in time");
        let Some(stopped) = stopped else { return };
        stopped.expect("it does not panic").expect("it could consume");
    }

    pub(crate) async fn stop(mut self) {
        self.drain().await;
        self.broker.close().await;
    }
}

/// A provider whose calls are the test's.
#[derive(Debug)]
struct Player {
    protocol: ProtocolId,
    started: mpsc::UnboundedSender<Call>,
}

#[async_trait]
impl Provider for Player {
    fn name(&self) -> &str {
        "player"
    }

    fn protocol(&self) -> &ProtocolId {
        &self.protocol
    }

    fn serves(&self, method: &str) -> bool {
        method == "ping"
    }

    async fn call(&self, cx: &CallCx, _method: &str, _params: Value) -> Result<Answer, Failure> {
        let (end, ended) = oneshot::channel();
        let (key, attempt, timeout, cancel) = (cx.key.clone(), cx.attempt, cx.timeout, cx.cancel.clone());
        let call = Call { key, attempt, timeout, cancel, end };
        self.started.send(call).expect("the test takes calls");
        tokio::select! {
            () = cx.cancel.cancelled() => Err(Failure::new(Code::TaskCancelled, "cancelled")),
            outcome = ended => outcome.expect("the test ends it"),
        }
    }
}

/// The broker, with what the worker publishes noted, and a listener that the test can make hear things.
#[derive(Debug)]
struct Between {
    inner: SqliteBroker,
    heard: Mutex<Option<mpsc::UnboundedReceiver<Heard>>>,
    published: Mutex<Vec<Outgoing>>,
    emitted: Mutex<Vec<String>>,
    journal: Journal,
    /// Consumers of others.
    others: AtomicU64,
}

impl Between {
    fn published(&self) -> std::sync::MutexGuard<'_, Vec<Outgoing>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Broker for Between {
    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        self.inner.declare(topology).await
    }

    async fn check(&self, topology: &Topology) -> Result<Vec<Finding>, BrokerError> {
        self.inner.check(topology).await
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Result<(), BrokerError> {
        self.published().extend(messages.iter().cloned());
        let published = self.inner.publish(messages.clone()).await;
        if published.is_ok() {
            self.journal.published(&messages);
        }
        published
    }

    async fn consume(&self, queue: &Queue, prefetch: NonZeroU16) -> Result<Box<dyn Consumer>, BrokerError> {
        let inner = self.inner.consume(queue, prefetch).await?;
        Ok(Box::new(Noted { inner, queue: queue.name(), journal: self.journal.clone() }))
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, BrokerError> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).take();
        let heard = heard.expect("one worker listens once");
        Ok(Box::new(Ear { inner: self.inner.listen().await?, heard }))
    }

    async fn broadcast(&self, body: Bytes) -> Result<(), BrokerError> {
        self.inner.broadcast(body).await
    }

    fn emit(&self, routing_key: &str, body: Bytes) {
        self.emitted.lock().unwrap_or_else(PoisonError::into_inner).push(routing_key.to_owned());
        self.inner.emit(routing_key, body);
    }

    async fn depth(&self, queue: &Queue) -> Result<Depth, BrokerError> {
        let depth = self.inner.depth(queue).await?;
        Ok(Depth { consumers: depth.consumers + self.others.load(Ordering::SeqCst), ..depth })
    }

    async fn transit(&self) -> Result<Transit, BrokerError> {
        self.inner.transit().await
    }

    async fn purge(&self, queue: &Queue) -> Result<u64, BrokerError> {
        self.inner.purge(queue).await
    }

    async fn version(&self) -> Result<String, BrokerError> {
        self.inner.version().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[derive(Debug)]
struct Ear {
    inner: Box<dyn Listener>,
    heard: mpsc::UnboundedReceiver<Heard>,
}

#[async_trait]
impl Listener for Ear {
    async fn next(&mut self) -> Option<Heard> {
        tokio::select! {
            biased;
            Some(heard) = self.heard.recv() => Some(heard),
            heard = self.inner.next() => heard,
        }
    }
}
