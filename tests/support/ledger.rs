//! What happened: which lease ended which task, which step released which, which call came too late. And the
//! store and the provider that write it down.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gleitzeit::core::clock::Timestamp;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::core::output::Piece;
use gleitzeit::core::protocol::ProtocolId;
use gleitzeit::core::state::TaskState;
use gleitzeit::provider::{Answer, CallCx, Provider};
use gleitzeit::store::{
    Accepted, Appended, Arrangement, Begun, Cancelled, Change, Claim, Claimed, Created, Demand, End, Filter,
    Finished, Firing, Granted, Introductions, Lease, Limits, Note, Noted, OpenPage, OpenWork, OutputEntry,
    Outputs, Plan, Position, Profiles, Released, Retried, Schedule, Schedules, Store, StoreError, Summary,
    TaskRecord, Turn, Why, WorkflowRecord,
};

use crate::gate::Gate;

type Steps = BTreeMap<String, BTreeSet<String>>;

/// What happened in a case, over all lives of its workers.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    /// By task: the leases that have ended it.
    ended: Steps,
    /// By task: the leases that have planned children for it.
    expanded: Steps,
    /// By task: the leases whose end has released it.
    released: Steps,
    /// Calls for a task that had ended.
    late: Vec<String>,
    /// Calls with a reference that nobody filled.
    unfilled: Vec<String>,
    /// How many tasks may be under way: children of a task by its id, all by ''.
    bounds: BTreeMap<String, usize>,
    /// Of these, those that are: never one that is not, since they are noted after the step by which they are,
    /// and struck out before the step by which they are not any more.
    under_way: Steps,
    /// Where there were more.
    exceeded: BTreeSet<String>,
}

impl Book {
    /// A task runs, and so it is under way with whatever it is a child of.
    fn begins(&mut self, id: &str) {
        self.add("", id);
        let mut child = id;
        while let Some((parent, _)) = child.rsplit_once('.') {
            self.add(parent, child);
            child = parent;
        }
    }

    fn add(&mut self, parent: &str, child: &str) {
        let Some(bound) = self.bounds.get(parent) else { return };
        let children = self.under_way.entry(parent.to_owned()).or_default();
        children.insert(child.to_owned());
        if children.len() > *bound {
            self.exceeded.insert(format!("under way of '{parent}', not {bound} but {children:?}"));
        }
    }

    /// A task's turn is over, if not for ever then until its children have ended.
    fn pauses(&mut self, id: &str, is_for_ever: bool) {
        let parent = id.rsplit_once('.').map(|(parent, _)| parent).filter(|_| is_for_ever);
        for group in [Some(""), parent].into_iter().flatten() {
            if let Some(children) = self.under_way.get_mut(group) {
                children.remove(id);
            }
        }
    }
}

impl Ledger {
    pub(crate) fn new(bounds: Vec<(String, u32)>) -> Ledger {
        let size = |bound: u32| usize::try_from(bound).expect("small");
        let bounds = bounds.into_iter().map(|(id, bound)| (id, size(bound))).collect();
        Ledger(Mutex::new(Book { bounds, ..Book::default() }))
    }

    fn claimed(&self, key: &TaskKey) {
        self.0.lock().expect("nobody panics with it").begins(key.id().as_str());
    }

    fn finishing(&self, key: &TaskKey, end: &End) {
        let is_for_ever = match end {
            End::Ended { .. } => true,
            End::Expanded { .. } => false,
            // It keeps its turn.
            End::Again { .. } | End::Abandoned => return,
        };
        self.0.lock().expect("nobody panics with it").pauses(key.id().as_str(), is_for_ever);
    }

    fn finished(&self, lease: &Lease, end: &End, finished: &Finished) {
        let Finished::Done { released, .. } = finished else { return };
        let mut book = self.0.lock().expect("nobody panics with it");
        let step = format!("{} {}", lease.key, lease.fence.0);
        if matches!(end, End::Ended { .. }) {
            book.ended.entry(lease.key.to_string()).or_default().insert(step.clone());
        }
        if matches!(end, End::Expanded { .. }) {
            book.expanded.entry(lease.key.to_string()).or_default().insert(step.clone());
        }
        for task in released {
            book.released.entry(task.key.to_string()).or_default().insert(step.clone());
        }
    }

    /// Begins a new page: what ended before may end again.
    pub(crate) fn begin_anew(&self) {
        let mut book = self.0.lock().expect("nobody panics with it");
        let (late, exceeded) = (std::mem::take(&mut book.late), std::mem::take(&mut book.exceeded));
        let (bounds, unfilled) = (std::mem::take(&mut book.bounds), std::mem::take(&mut book.unfilled));
        *book = Book { late, unfilled, exceeded, bounds, ..Book::default() };
    }

    /// What must not have happened. `parents` are the keys of tasks with children.
    pub(crate) fn wrongs(&self, parents: &BTreeSet<String>) -> Vec<String> {
        let book = self.0.lock().expect("nobody panics with it");
        let mut wrongs: Vec<String> =
            book.late.iter().map(|key| format!("{key} ran after its end")).collect();
        wrongs.extend(book.unfilled.iter().map(|key| format!("{key} was called with a reference")));
        wrongs.extend(book.exceeded.iter().cloned());
        let tables = [("ended", &book.ended), ("expanded", &book.expanded), ("released", &book.released)];
        for (what, steps) in tables {
            for (key, by) in steps {
                // One with children is released once more, when they have ended.
                let most = if what == "released" && parents.contains(key) { 2 } else { 1 };
                if by.len() > most {
                    wrongs.push(format!("{key} was {what} by {by:?}"));
                }
            }
        }
        wrongs
    }
}

/// A provider that looks whether its call should have come.
#[derive(Debug)]
pub(crate) struct Witness<P> {
    pub(crate) inner: P,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) ledger: Arc<Ledger>,
}

#[async_trait]
impl<P: Provider> Provider for Witness<P> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn protocol(&self) -> &ProtocolId {
        self.inner.protocol()
    }

    fn serves(&self, method: &str) -> bool {
        self.inner.serves(method)
    }

    async fn call(&self, cx: &CallCx, method: &str, params: Value) -> Result<Answer, Failure> {
        let task = self.store.task(&cx.key).await.expect("the store answers");
        // A cancel may come between the lease and the call.
        let is_over = |state: TaskState| state.is_ended() && state != TaskState::Cancelled;
        if task.is_none_or(|task| is_over(task.state)) {
            self.ledger.0.lock().expect("nobody panics with it").late.push(cx.key.to_string());
        }
        // No task of these suites asks for the text itself.
        if params.to_string().contains("${") {
            self.ledger.0.lock().expect("nobody panics with it").unfilled.push(cx.key.to_string());
        }
        self.inner.call(cx, method, params).await
    }
}

/// The store as one worker has it.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) inner: Arc<dyn Store>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) ledger: Arc<Ledger>,
}

#[async_trait]
impl Schedules for Watched {
    async fn arrange(&self, arrangement: &Arrangement, now: Timestamp) -> Result<Schedule, StoreError> {
        self.gate.through("Store::arrange", self.inner.arrange(arrangement, now)).await
    }

    async fn begin(&self, turn: &Turn, until: Timestamp, now: Timestamp) -> Result<Begun, StoreError> {
        self.gate.through("Store::begin", self.inner.begin(turn, until, now)).await
    }

    async fn fire(&self, firing: &Firing, now: Timestamp) -> Result<bool, StoreError> {
        self.gate.through("Store::fire", self.inner.fire(firing, now)).await
    }

    async fn schedule(&self, name: &Id) -> Result<Option<Schedule>, StoreError> {
        self.gate.through("Store::schedule", self.inner.schedule(name)).await
    }

    async fn schedules(&self, after: Option<&Id>, limit: usize) -> Result<Vec<Schedule>, StoreError> {
        self.gate.through("Store::schedules", self.inner.schedules(after, limit)).await
    }
}

#[async_trait]
impl Limits for Watched {
    async fn admit(&self, demand: &Demand, now: Timestamp) -> Result<Granted, StoreError> {
        self.gate.through("Store::admit", self.inner.admit(demand, now)).await
    }

    async fn secret(&self, offered: &Id) -> Result<Id, StoreError> {
        self.gate.through("Store::secret", self.inner.secret(offered)).await
    }
}

/// Not through the gate: it happens when it happens, and nothing hangs on it.
#[async_trait]
impl Introductions for Watched {
    async fn introduce(&self, session: &Id, about: &str) -> Result<(), StoreError> {
        self.inner.introduce(session, about).await
    }

    async fn introduced(&self, now: Timestamp) -> Result<Vec<(Id, String)>, StoreError> {
        self.inner.introduced(now).await
    }
}

/// What is counted is nobody's business here: no crash comes by it.
#[async_trait]
impl Profiles for Watched {
    async fn note_profiles(&self, note: &Note, now: Timestamp) -> Result<(), StoreError> {
        self.inner.note_profiles(note, now).await
    }

    async fn profiles(&self, since: Timestamp, now: Timestamp) -> Result<Vec<Noted>, StoreError> {
        self.inner.profiles(since, now).await
    }
}

#[async_trait]
impl OpenWork for Watched {
    async fn open(&self, after: Option<&str>, limit: usize) -> Result<OpenPage, StoreError> {
        self.gate.through("Store::open", self.inner.open(after, limit)).await
    }

    async fn messages(&self, keys: &[TaskKey]) -> Result<Vec<Option<Released>>, StoreError> {
        self.gate.through("Store::messages", self.inner.messages(keys)).await
    }
}

#[async_trait]
impl Outputs for Watched {
    async fn append(&self, lease: &Lease, pieces: &[Piece], now: Timestamp) -> Result<Appended, StoreError> {
        self.gate.through("Store::append", self.inner.append(lease, pieces, now)).await
    }

    async fn output(&self, root: &Id, after: Position, limit: usize) -> Result<Vec<OutputEntry>, StoreError> {
        self.gate.through("Store::output", self.inner.output(root, after, limit)).await
    }

    async fn watch_output(&self, root: &Id) -> Result<BoxStream<'static, ()>, StoreError> {
        self.gate.through("Store::watch_output", self.inner.watch_output(root)).await
    }
}

#[async_trait]
impl Store for Watched {
    async fn accept(&self, accepted: &[Accepted], now: Timestamp) -> Result<Vec<Id>, StoreError> {
        self.gate.through("Store::accept", self.inner.accept(accepted, now)).await
    }

    async fn create(&self, plan: &Plan, now: Timestamp) -> Result<Created, StoreError> {
        self.gate.through("Store::create", self.inner.create(plan, now)).await
    }

    async fn claim(&self, claim: &Claim, now: Timestamp) -> Result<Claimed, StoreError> {
        let nth = self.gate.before("Store::claim").await;
        let claimed = self.inner.claim(claim, now).await;
        if matches!(claimed, Ok(Claimed::Run { .. })) {
            self.ledger.claimed(&claim.head.key);
        }
        self.gate.after("Store::claim", nth).await;
        claimed
    }

    async fn finish(&self, lease: &Lease, end: &End, now: Timestamp) -> Result<Finished, StoreError> {
        let nth = self.gate.before("Store::finish").await;
        self.ledger.finishing(&lease.key, end);
        let finished = self.inner.finish(lease, end, now).await;
        if let Ok(finished) = &finished {
            self.ledger.finished(lease, end, finished);
        }
        self.gate.after("Store::finish", nth).await;
        finished
    }

    async fn cancel(&self, root: &Id, why: Why, now: Timestamp) -> Result<Cancelled, StoreError> {
        self.gate.through("Store::cancel", self.inner.cancel(root, why, now)).await
    }

    async fn retry(&self, root: &Id, by: &Id, now: Timestamp) -> Result<Retried, StoreError> {
        self.gate.through("Store::retry", self.inner.retry(root, by, now)).await
    }

    async fn beat(&self, session: &Id, ttl: Duration, now: Timestamp) -> Result<(), StoreError> {
        self.gate.through("Store::beat", self.inner.beat(session, ttl, now)).await
    }

    async fn alive(&self, session: &Id, now: Timestamp) -> Result<bool, StoreError> {
        self.gate.through("Store::alive", self.inner.alive(session, now)).await
    }

    async fn sessions(&self, now: Timestamp) -> Result<Vec<Id>, StoreError> {
        self.gate.through("Store::sessions", self.inner.sessions(now)).await
    }

    async fn leave(&self, session: &Id) -> Result<(), StoreError> {
        self.gate.through("Store::leave", self.inner.leave(session)).await
    }

    async fn task(&self, key: &TaskKey) -> Result<Option<TaskRecord>, StoreError> {
        self.gate.through("Store::task", self.inner.task(key)).await
    }

    async fn workflow(&self, id: &Id) -> Result<Option<WorkflowRecord>, StoreError> {
        self.gate.through("Store::workflow", self.inner.workflow(id)).await
    }

    async fn result(&self, key: &TaskKey) -> Result<Option<Bytes>, StoreError> {
        self.gate.through("Store::result", self.inner.result(key)).await
    }

    async fn results(&self, root: &Id, tasks: &[Id]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.gate.through("Store::results", self.inner.results(root, tasks)).await
    }

    async fn outcome(&self, root: &Id) -> Result<Option<Bytes>, StoreError> {
        self.gate.through("Store::outcome", self.inner.outcome(root)).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, StoreError> {
        self.gate.through("Store::list", self.inner.list(filter)).await
    }

    async fn watch(&self, root: &Id) -> Result<BoxStream<'static, Change>, StoreError> {
        self.gate.through("Store::watch", self.inner.watch(root)).await
    }

    async fn follow(&self, root: &Id) -> Result<BoxStream<'static, Change>, StoreError> {
        self.gate.through("Store::follow", self.inner.follow(root)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.gate.through("Store::ping", self.inner.ping()).await
    }

    async fn version(&self) -> Result<String, StoreError> {
        self.gate.through("Store::version", self.inner.version()).await
    }

    async fn close(&self) {
        self.gate.through("Store::close", self.inner.close()).await;
    }
}
