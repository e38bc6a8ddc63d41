//! A store that no heartbeat reaches for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::sync::Notify;

use gleitzeit::core::clock::Timestamp;
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::core::output::Piece;
use gleitzeit::store::{
    Accepted, Appended, Arrangement, Begun, Cancelled, Change, Claim, Claimed, Created, Demand, End, Filter,
    Finished, Firing, Granted, Introductions, Lease, Limits, Note, Noted, OpenPage, OpenWork, OutputEntry,
    Outputs, Plan, Position, Profiles, Released, Retried, Schedule, Schedules, Store, StoreError, Summary,
    TaskRecord, Turn, Why, WorkflowRecord,
};

use crate::journal::Journal;

/// The worker's store.
#[derive(Debug)]
pub(crate) struct Absent {
    pub(crate) inner: Arc<dyn Store>,
    is_away: AtomicBool,
    hides: AtomicBool,
    forgets: AtomicBool,
    missed: Notify,
    journal: Journal,
}

impl Absent {
    pub(crate) fn new(inner: Arc<dyn Store>, journal: Journal) -> Absent {
        Absent {
            inner,
            is_away: AtomicBool::new(false),
            hides: AtomicBool::new(false),
            forgets: AtomicBool::new(false),
            missed: Notify::new(),
            journal,
        }
    }

    fn noted<T>(&self, step: &str, answer: T) -> T {
        self.journal.note(step);
        answer
    }

    /// From now on no beat arrives; waits until one did not.
    pub(crate) async fn go(&self) {
        self.is_away.store(true, Ordering::SeqCst);
        self.missed.notified().await;
    }

    /// Whether it says who lives.
    pub(crate) fn hide_who_lives(&self, is_hidden: bool) {
        self.hides.store(is_hidden, Ordering::SeqCst);
    }

    /// The task is queued, and the lease is not its last one.
    async fn forget(&self, lease: &Lease, now: Timestamp) -> Result<(), StoreError> {
        self.inner.finish(lease, &End::Abandoned, now).await?;
        let head = self.inner.task(&lease.key).await?.expect("it is known").head;
        let claim = Claim {
            head,
            attempt: lease.attempt,
            run: None,
            session: Id::parse("ghost").expect("valid"),
            over: None,
            inputs: Vec::new(),
            inputs_bytes_max: 0,
            digest: None,
        };
        if let Claimed::Run { lease, .. } = self.inner.claim(&claim, now).await? {
            self.inner.finish(&lease, &End::Abandoned, now).await?;
        }
        Ok(())
    }

    /// A failover loses the lease of whatever finishes next.
    pub(crate) fn forget_a_lease(&self) {
        self.forgets.store(true, Ordering::SeqCst);
    }

    pub(crate) fn come_back(&self) {
        self.is_away.store(false, Ordering::SeqCst);
    }
}

#[async_trait]
impl Schedules for Absent {
    async fn arrange(&self, arrangement: &Arrangement, now: Timestamp) -> Result<Schedule, StoreError> {
        self.inner.arrange(arrangement, now).await
    }

    async fn begin(&self, turn: &Turn, until: Timestamp, now: Timestamp) -> Result<Begun, StoreError> {
        self.inner.begin(turn, until, now).await
    }

    async fn fire(&self, firing: &Firing, now: Timestamp) -> Result<bool, StoreError> {
        self.inner.fire(firing, now).await
    }

    async fn schedule(&self, name: &Id) -> Result<Option<Schedule>, StoreError> {
        self.inner.schedule(name).await
    }

    async fn schedules(&self, after: Option<&Id>, limit: usize) -> Result<Vec<Schedule>, StoreError> {
        self.inner.schedules(after, limit).await
    }
}

#[async_trait]
impl Limits for Absent {
    async fn admit(&self, demand: &Demand, now: Timestamp) -> Result<Granted, StoreError> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(StoreError::Unanswered { step: "admit", reason: "it is away".to_owned() });
        }
        self.inner.admit(demand, now).await
    }

    async fn secret(&self, offered: &Id) -> Result<Id, StoreError> {
        self.inner.secret(offered).await
    }
}

#[async_trait]
impl Introductions for Absent {
    async fn introduce(&self, session: &Id, about: &str) -> Result<(), StoreError> {
        self.inner.introduce(session, about).await
    }

    async fn introduced(&self, now: Timestamp) -> Result<Vec<(Id, String)>, StoreError> {
        if self.hides.load(Ordering::SeqCst) {
            return Err(StoreError::Unanswered { step: "introduced", reason: "it is away".to_owned() });
        }
        self.inner.introduced(now).await
    }
}

#[async_trait]
impl Profiles for Absent {
    async fn note_profiles(&self, note: &Note, now: Timestamp) -> Result<(), StoreError> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(StoreError::Unanswered { step: "note_profiles", reason: "it is away".to_owned() });
        }
        self.inner.note_profiles(note, now).await
    }

    async fn profiles(&self, since: Timestamp, now: Timestamp) -> Result<Vec<Noted>, StoreError> {
        self.inner.profiles(since, now).await
    }
}

#[async_trait]
impl OpenWork for Absent {
    async fn open(&self, after: Option<&str>, limit: usize) -> Result<OpenPage, StoreError> {
        self.inner.open(after, limit).await
    }

    async fn messages(&self, keys: &[TaskKey]) -> Result<Vec<Option<Released>>, StoreError> {
        self.inner.messages(keys).await
    }
}

#[async_trait]
impl Outputs for Absent {
    async fn append(&self, lease: &Lease, pieces: &[Piece], now: Timestamp) -> Result<Appended, StoreError> {
        self.inner.append(lease, pieces, now).await
    }

    async fn output(&self, root: &Id, after: Position, limit: usize) -> Result<Vec<OutputEntry>, StoreError> {
        self.inner.output(root, after, limit).await
    }

    async fn watch_output(&self, root: &Id) -> Result<BoxStream<'static, ()>, StoreError> {
        self.inner.watch_output(root).await
    }
}

#[async_trait]
impl Store for Absent {
    async fn accept(&self, accepted: &[Accepted], now: Timestamp) -> Result<Vec<Id>, StoreError> {
        self.inner.accept(accepted, now).await
    }

    async fn create(&self, plan: &Plan, now: Timestamp) -> Result<Created, StoreError> {
        self.noted("create", self.inner.create(plan, now).await)
    }

    async fn claim(&self, claim: &Claim, now: Timestamp) -> Result<Claimed, StoreError> {
        self.inner.claim(claim, now).await
    }

    async fn finish(&self, lease: &Lease, end: &End, now: Timestamp) -> Result<Finished, StoreError> {
        if self.forgets.swap(false, Ordering::SeqCst) {
            self.forget(lease, now).await?;
        }
        self.noted("finish", self.inner.finish(lease, end, now).await)
    }

    async fn cancel(&self, root: &Id, why: Why, now: Timestamp) -> Result<Cancelled, StoreError> {
        self.noted("cancel", self.inner.cancel(root, why, now).await)
    }

    async fn retry(&self, root: &Id, by: &Id, now: Timestamp) -> Result<Retried, StoreError> {
        self.noted("retry", self.inner.retry(root, by, now).await)
    }

    async fn beat(&self, session: &Id, ttl: Duration, now: Timestamp) -> Result<(), StoreError> {
        if self.is_away.load(Ordering::SeqCst) {
            self.missed.notify_one();
            return Err(StoreError::Unanswered { step: "beat", reason: "it is away".to_owned() });
        }
        self.inner.beat(session, ttl, now).await
    }

    async fn alive(&self, session: &Id, now: Timestamp) -> Result<bool, StoreError> {
        self.inner.alive(session, now).await
    }

    async fn sessions(&self, now: Timestamp) -> Result<Vec<Id>, StoreError> {
        self.inner.sessions(now).await
    }

    async fn leave(&self, session: &Id) -> Result<(), StoreError> {
        self.inner.leave(session).await
    }

    async fn task(&self, key: &TaskKey) -> Result<Option<TaskRecord>, StoreError> {
        self.inner.task(key).await
    }

    async fn workflow(&self, id: &Id) -> Result<Option<WorkflowRecord>, StoreError> {
        self.inner.workflow(id).await
    }

    async fn result(&self, key: &TaskKey) -> Result<Option<Bytes>, StoreError> {
        self.inner.result(key).await
    }

    async fn results(&self, root: &Id, tasks: &[Id]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.inner.results(root, tasks).await
    }

    async fn outcome(&self, root: &Id) -> Result<Option<Bytes>, StoreError> {
        self.inner.outcome(root).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, StoreError> {
        self.inner.list(filter).await
    }

    async fn watch(&self, root: &Id) -> Result<BoxStream<'static, Change>, StoreError> {
        self.inner.watch(root).await
    }

    async fn follow(&self, root: &Id) -> Result<BoxStream<'static, Change>, StoreError> {
        self.inner.follow(root).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }

    async fn version(&self) -> Result<String, StoreError> {
        self.inner.version().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
