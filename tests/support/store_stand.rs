//! A store for one case: nobody else's keys, removed afterwards; and short words for what cases do with it.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use gleitzeit::core::clock::Timestamp;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::core::state::TaskState;
use gleitzeit::store::{
    Change, Claim, Claimed, Created, End, Fence, Finished, Lease, Message, Plan, PlannedTask, Released, Store,
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
    End::Ended { state, document: document(key, state, result), keep: true, ttl: TTL, entry }
}

/// A plan from task ids and the ids that each depends on.
pub(crate) fn plan(workflow: &str, tasks: &[(&str, &[&str])]) -> Plan {
    let place = |name: &str| tasks.iter().position(|(task, _)| *task == name).expect("a known task");
    let tasks = tasks.iter().map(|(task, dependencies)| {
        let key = within(workflow, task);
        let body = json!({"id": task, "workflow": workflow}).to_string();
        PlannedTask {
            head: head(&key),
            message: Message {
                address: Address::parse("echo.v1").expect("valid"),
                priority: 4,
                body: Bytes::from(body),
            },
            dependencies: dependencies.iter().map(|name| place(name)).collect(),
        }
    });
    Plan {
        id: id(workflow),
        name: format!("Plan {workflow}"),
        tasks: tasks.collect(),
        result_ttl: TTL,
        refused: None,
    }
}

pub(crate) fn names(released: &[Released]) -> Vec<&str> {
    released.iter().map(|released| released.key.id().as_str()).collect()
}

/// The released of a `Finished::Done`.
pub(crate) fn released(finished: Finished) -> Vec<String> {
    match finished {
        Finished::Done { released, .. } => names(&released).into_iter().map(str::to_owned).collect(),
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
}

pub(crate) fn claim(key: &TaskKey, attempt: u32, session: &str) -> Claim {
    Claim { head: head(key), attempt, session: id(session), over: None, inputs: Vec::new() }
}

pub(crate) fn lease(claimed: Claimed) -> Lease {
    match claimed {
        Claimed::Run { lease, .. } => lease,
        other => panic!("{other:?} where a lease was expected"),
    }
}

/// The next change; a store that tells nothing within 10 s has forgotten us.
pub(crate) async fn next(changes: &mut BoxStream<'static, Change>) -> Change {
    let next = tokio::time::timeout(Duration::from_secs(10), changes.next()).await;
    next.expect("a change within 10 s").expect("the stream is endless")
}
