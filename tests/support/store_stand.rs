//! A store for one case: nobody else's keys, removed afterwards; and short words for what cases do with it.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use gleitzeit::core::clock::Timestamp;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::{
    Accepted, Cancelled, Change, Claim, Claimed, Created, Edge, End, Fence, Finished, Lease, Message,
    Otherwise, Plan, PlannedTask, Released, Retried, Store, TaskRecord, Why, WorkflowRecord,
};
use gleitzeit::topology::Address;
use gleitzeit::wire::record::{Ending, Head};

/// Where a case's store lives.
#[async_trait]
pub(crate) trait Place: Debug + Send + Sync {
    /// Another handle to the same state, as another process would have it.
    async fn open(&self) -> Arc<dyn Store>;
    /// Removes everything that the case has left.
    async fn remove(&self);
    /// The address and the prefix, if this is a Redis.
    fn redis(&self) -> Option<(&str, &str)> {
        None
    }
    /// Whether its clock is the machine's.
    fn is_embedded(&self) -> bool {
        false
    }
}

/// A case's store and its time.
#[derive(Debug, Clone)]
pub(crate) struct Stand {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) place: Arc<dyn Place>,
    millis: Arc<AtomicI64>,
}

pub(crate) const TTL: Duration = Duration::from_secs(600);

pub(crate) fn id(text: &str) -> Id {
    Id::parse(text).expect("the case's ids are valid")
}

pub(crate) fn alone(text: &str) -> TaskKey {
    TaskKey::alone(id(text))
}

pub(crate) fn within(workflow: &str, task: &str) -> TaskKey {
    TaskKey::within(id(workflow), id(task))
}

pub(crate) fn head(key: &TaskKey) -> Head {
    Head {
        key: key.clone(),
        name: format!("the \"{}\"", key.id()),
        protocol: "echo/v1".to_owned(),
        method: "echo".to_owned(),
    }
}

/// What a worker writes when the task ends so.
pub(crate) fn document(key: &TaskKey, state: TaskState, result: Value) -> Bytes {
    let error = (state != TaskState::Completed)
        .then(|| Failure::new(gleitzeit::core::code::Code::TaskExecutionFailed, "it broke"));
    let ending = Ending {
        attempts: 1,
        result,
        ..Ending::unrun(state, error, Timestamp::from_millis(1_767_323_045_678))
    };
    Bytes::from(ending.document(&head(key)))
}

pub(crate) fn ended(key: &TaskKey, state: TaskState, result: Value) -> End {
    let entry = json!({"attempt": 1, "status": state.name()}).to_string();
    End::Ended { state, document: document(key, state, result), keep: true, ttl: TTL, entry, retry: None }
}

/// As [`ended`], with the message of a task on its own kept for a retry.
pub(crate) fn ended_for_retry(key: &TaskKey, state: TaskState) -> End {
    let document = document(key, state, json!(1));
    let (entry, retry) = (json!({"attempt": 1, "status": state.name()}).to_string(), Some(message(key, 4)));
    End::Ended { state, document, keep: true, ttl: TTL, entry, retry }
}

/// A plan from task ids and the ids that each depends on.
pub(crate) fn plan(workflow: &str, tasks: &[(&str, &[&str])]) -> Plan {
    let place = |name: &str| tasks.iter().position(|(task, _)| *task == name).expect("a known task");
    let tasks = tasks.iter().map(|(task, dependencies)| {
        let key = within(workflow, task);
        PlannedTask {
            head: head(&key),
            message: message(&key, 4),
            dependencies: dependencies.iter().map(|name| edge(place(name), Otherwise::Fail)).collect(),
            tolerated: false,
        }
    });
    Plan {
        id: id(workflow),
        name: format!("Plan {workflow}"),
        tasks: tasks.collect(),
        max_parallel: None,
        timeout: None,
        reply: None,
        digest: None,
        result_ttl: TTL,
        refused: None,
    }
}

/// A plan from task ids and the ids that each depends on, with what their end means.
pub(crate) fn graph(workflow: &str, tasks: &[(&str, &[(&str, Otherwise)])]) -> Plan {
    Plan { tasks: planned(workflow, tasks), ..plan(workflow, &[]) }
}

/// Tasks of a plan or of an expansion.
pub(crate) fn planned(workflow: &str, tasks: &[(&str, &[(&str, Otherwise)])]) -> Vec<PlannedTask> {
    let place = |name: &str| tasks.iter().position(|(task, _)| *task == name).expect("a known task");
    let task = |(name, edges): &(&str, &[(&str, Otherwise)])| {
        let key = within(workflow, name);
        PlannedTask {
            head: head(&key),
            message: message(&key, 4),
            dependencies: edges.iter().map(|(on, otherwise)| edge(place(on), *otherwise)).collect(),
            tolerated: false,
        }
    };
    tasks.iter().map(task).collect()
}

/// A task's message.
pub(crate) fn message(key: &TaskKey, priority: u8) -> Message {
    let workflow = key.workflow().map(Id::as_str);
    let body = json!({"id": key.id().as_str(), "workflow": workflow}).to_string();
    Message { address: Address::parse("echo.v1").expect("valid"), priority, body: Bytes::from(body) }
}

/// The plan with at most `bound` tasks at once.
pub(crate) fn bounded(plan: Plan, bound: u32) -> Plan {
    Plan { max_parallel: NonZeroU32::new(bound), ..plan }
}

pub(crate) fn edge(on: usize, otherwise: Otherwise) -> Edge {
    Edge { on, otherwise }
}

pub(crate) fn accepted(key: &TaskKey) -> Accepted {
    Accepted::Task { head: head(key), digest: None, due: None, sent: None }
}

/// A `Created` that has nothing to publish.
pub(crate) fn taken_in(state: WorkflowState) -> Created {
    Created { state, released: vec![], differs: false, timeout: None }
}

/// A `Claimed::Over` that has nothing to publish.
pub(crate) fn over(state: TaskState) -> Claimed {
    Claimed::Over { state, released: vec![], differs: false }
}

/// A `Claimed::NotReady` that has nothing to publish.
pub(crate) fn not_ready() -> Claimed {
    Claimed::NotReady { released: vec![] }
}

/// A `Finished::Done` that has nothing to publish, and has failed these.
pub(crate) fn done(names: &[&str], workflow: Option<WorkflowState>) -> Finished {
    Finished::Done { released: vec![], ended: failed(names), workflow }
}

/// Failed dependents as `Finished::Done` names them.
pub(crate) fn failed(names: &[&str]) -> Vec<(Id, TaskState)> {
    names.iter().map(|name| (id(name), TaskState::Failed)).collect()
}

pub(crate) fn names(released: &[Released]) -> Vec<&str> {
    released.iter().map(|released| released.key.id().as_str()).collect()
}

pub(crate) fn owned(released: &[Released]) -> Vec<String> {
    names(released).into_iter().map(str::to_owned).collect()
}

/// The released of a `Finished::Done`.
pub(crate) fn released(finished: Finished) -> Vec<String> {
    match finished {
        Finished::Done { released, .. } => owned(&released),
        Finished::Lost => panic!("the lease is lost"),
    }
}

pub(crate) fn parse(document: Option<Bytes>) -> Value {
    let document = document.expect("the document is there");
    serde_json::from_slice(&document).expect("the document is JSON")
}

impl Stand {
    #[allow(clippy::disallowed_methods, reason = "here the case's time begins")]
    pub(crate) async fn new(place: Arc<dyn Place>) -> Stand {
        let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let millis = i64::try_from(start.as_millis()).expect("before the year 9999");
        Stand { store: place.open().await, place, millis: Arc::new(AtomicI64::new(millis)) }
    }

    /// The time; a millisecond later at each call.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.millis.fetch_add(1, Ordering::Relaxed))
    }

    /// The same state through another handle.
    pub(crate) async fn other(&self) -> Stand {
        Stand { store: self.place.open().await, ..self.clone() }
    }

    /// The same case over this store.
    pub(crate) fn over(&self, store: impl Store) -> Stand {
        Stand { store: Arc::new(store), ..self.clone() }
    }

    pub(crate) async fn create(&self, plan: &Plan) -> Created {
        self.store.create(plan, self.now()).await.expect("create answers")
    }

    pub(crate) async fn ask(&self, claim: &Claim) -> Claimed {
        self.store.claim(claim, self.now()).await.expect("claim answers")
    }

    pub(crate) async fn claim(&self, key: &TaskKey, attempt: u32, session: &str) -> Claimed {
        self.ask(&claim(key, attempt, session)).await
    }

    pub(crate) async fn take_over(&self, key: &TaskKey, session: &str, over: Fence) -> Claimed {
        self.ask(&Claim { over: Some(over), ..claim(key, 1, session) }).await
    }

    /// Claims the first attempt, which must be free.
    pub(crate) async fn lease(&self, key: &TaskKey) -> Lease {
        lease(self.claim(key, 1, "worker").await)
    }

    pub(crate) async fn finish(&self, lease: &Lease, end: &End) -> Finished {
        self.store.finish(lease, end, self.now()).await.expect("finish answers")
    }

    pub(crate) async fn end(&self, lease: &Lease, state: TaskState) -> Finished {
        self.finish(lease, &ended(&lease.key, state, json!(lease.key.id().as_str()))).await
    }

    /// Claims and completes.
    pub(crate) async fn complete(&self, key: &TaskKey) -> Finished {
        let lease = self.lease(key).await;
        self.end(&lease, TaskState::Completed).await
    }

    /// Claims and ends so.
    pub(crate) async fn end_as(&self, key: &TaskKey, state: TaskState) -> Finished {
        let lease = self.lease(key).await;
        self.end(&lease, state).await
    }

    /// Plans children.
    pub(crate) async fn expand(&self, lease: &Lease, tasks: Vec<PlannedTask>, bound: u32) -> Finished {
        self.finish(lease, &End::Expanded { tasks, max_parallel: NonZeroU32::new(bound) }).await
    }

    pub(crate) async fn cancel(&self, root: &str, why: Why) -> Cancelled {
        self.store.cancel(&id(root), why, self.now()).await.expect("cancel answers")
    }

    pub(crate) async fn retry(&self, root: &str, by: &str) -> Retried {
        self.store.retry(&id(root), &id(by), self.now()).await.expect("retry answers")
    }

    /// The names of what a retry of this request has released and nobody has claimed yet.
    pub(crate) async fn retried(&self, root: &str, by: &str) -> Vec<String> {
        match self.retry(root, by).await {
            Retried::Running { released, .. } => owned(&released),
            other => panic!("{other:?} where a retry was expected"),
        }
    }

    pub(crate) async fn workflow(&self, root: &str) -> WorkflowRecord {
        self.store.workflow(&id(root)).await.expect("workflow answers").expect("it is known")
    }

    /// The state of every task of a workflow: `a completed, b running`.
    pub(crate) async fn states(&self, root: &str) -> String {
        let tasks = self.workflow(root).await.tasks;
        let word = |task: &TaskRecord| format!("{} {}", task.head.key.id(), task.state);
        tasks.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    pub(crate) async fn state(&self, key: &TaskKey) -> Option<TaskState> {
        self.store.task(key).await.expect("task answers").map(|task| task.state)
    }

    pub(crate) async fn result(&self, key: &TaskKey) -> Option<Bytes> {
        self.store.result(key).await.expect("result answers")
    }

    pub(crate) async fn outcome(&self, root: &str) -> Option<Bytes> {
        self.store.outcome(&id(root)).await.expect("outcome answers")
    }

    pub(crate) async fn watch(&self, root: &str) -> BoxStream<'static, Change> {
        self.store.watch(&id(root)).await.expect("watch answers")
    }

    pub(crate) async fn follow(&self, root: &str) -> BoxStream<'static, Change> {
        self.store.follow(&id(root)).await.expect("follow answers")
    }
}

pub(crate) fn claim(key: &TaskKey, attempt: u32, session: &str) -> Claim {
    Claim {
        head: head(key),
        attempt,
        run: None,
        session: id(session),
        over: None,
        inputs: Vec::new(),
        inputs_bytes_max: 1 << 20,
        digest: None,
    }
}

pub(crate) fn lease(claimed: Claimed) -> Lease {
    match claimed {
        Claimed::Run { lease, .. } => lease,
        other => panic!("{other:?} where a lease was expected"),
    }
}

/// The next change; a store that tells nothing within 10 s has forgotten us.
pub(crate) async fn next(changes: &mut BoxStream<'static, Change>) -> Change {
    let next = tokio::time::timeout(Duration::from_secs(100), changes.next()).await;
    next.expect("a change within 10 s").expect("the stream is endless")
}
