//! The store in the file: times to live, and the bound of a workflow's document.

use crate::support::{State, complete, head, id};
use gleitzeit::core::clock::{Clock, Timestamp};
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::core::profile::{Profile, Subject, slot_of};
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::sqlite::{Settings, SqliteStore};
use gleitzeit::store::{
    Accepted, Cancelled, Claim, Claimed, Edge, End, Lease, Message, Note, Otherwise, Plan, PlannedTask,
    Profiles, Retried, Store, Why,
};
use gleitzeit::topology::delay::DELAY_MAX;
use gleitzeit::wire::record::{Ending, Head};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// A clock that the test sets.
#[derive(Debug, Default)]
pub(crate) struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
    fn chance(&self) -> f64 {
        0.5
    }
    fn new_id(&self) -> Id {
        Id::from_uuid(uuid::Uuid::now_v7())
    }
}

impl SetClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.store(self.now().after(by).as_millis(), Ordering::Relaxed);
    }
}

pub(crate) async fn stand(state: &State, settings: Settings) -> (SqliteStore, Arc<SetClock>) {
    let clock = Arc::new(SetClock(AtomicI64::new(1_767_323_045_678)));
    let database = state.open().await;
    (SqliteStore::new(database, Arc::<SetClock>::clone(&clock), settings), clock)
}

pub(crate) async fn lease(store: &SqliteStore, head: Head, now: Timestamp) -> Lease {
    let claim = Claim {
        head,
        attempt: 1,
        session: id("s"),
        run: None,
        over: None,
        inputs: Vec::new(),
        inputs_bytes_max: 0,
        digest: None,
    };
    match store.claim(&claim, now).await.expect("claims") {
        Claimed::Run { lease, .. } => lease,
        other => panic!("{other:?}"),
    }
}

/// A workflow of tasks that do not wait for each other.
fn plan(name: &str, tasks: &[&str]) -> Plan {
    let task = |task: &&str| {
        let key = TaskKey::within(id(name), id(task));
        let message = Message { address: crate::support::echo(), priority: 4, body: "{}".into() };
        PlannedTask { head: Head { key, ..head(task) }, message, dependencies: Vec::new(), tolerated: false }
    };
    let tasks = tasks.iter().map(task).collect();
    Plan {
        id: id(name),
        name: name.to_owned(),
        tasks,
        max_parallel: None,
        timeout: None,
        reply: None,
        digest: None,
        result_ttl: HOUR,
        refused: None,
    }
}

async fn end_with(store: &SqliteStore, head: &Head, result: Value, now: Timestamp) {
    let lease = lease(store, head.clone(), now).await;
    let ending = Ending { result, ..Ending::unrun(TaskState::Completed, None, now) };
    let (document, entry) = (ending.document(head).into(), "{}".to_owned());
    let end = End::Ended { state: TaskState::Completed, document, keep: true, ttl: HOUR, entry, retry: None };
    store.finish(&lease, &end, now).await.expect("finishes");
}

#[tokio::test]
async fn results_end_with_their_ttl_and_records_a_week_later() {
    let state = State::new();
    let (store, clock) = stand(&state, Settings::default()).await;
    let (alone, within) = (TaskKey::alone(id("t")), TaskKey::within(id("w"), id("a")));
    end_with(&store, &head("t"), json!(1), clock.now()).await;
    store.create(&plan("w", &["a"]), clock.now()).await.expect("creates");
    end_with(&store, &Head { key: within.clone(), ..head("a") }, json!(1), clock.now()).await;
    let readable = async || {
        let results = [store.result(&alone).await, store.result(&within).await];
        let outcomes = [store.outcome(&id("t")).await, store.outcome(&id("w")).await];
        results.into_iter().chain(outcomes).filter(|found| found.as_ref().is_ok_and(Option::is_some)).count()
    };
    let clean = async || store.beat(&id("s"), HOUR, clock.now()).await.expect("beats");
    let known = async || {
        let workflow = store.workflow(&id("w")).await.expect("answers");
        (store.task(&alone).await.expect("answers").map(|task| task.state), workflow.map(|flow| flow.state))
    };
    let both = (Some(TaskState::Completed), Some(WorkflowState::Completed));
    clean().await;
    assert_eq!(readable().await, 4);
    clock.advance(HOUR);
    assert_eq!(readable().await, 0, "not a moment longer, cleaned or not");
    clean().await;
    assert_eq!((readable().await, known().await), (0, both));
    clock.advance(WEEK - HOUR * 2);
    clean().await;
    assert_eq!(known().await, both);
    assert_eq!(
        store.cancel(&id("t"), Why::Request { by: None }, clock.now()).await,
        Ok(Cancelled::Over("completed".to_owned()))
    );
    clock.advance(HOUR);
    clean().await;
    assert_eq!(known().await, (None, None));
}

#[tokio::test]
async fn what_is_no_profile_is_left_out() {
    let state = State::new();
    let (store, clock) = stand(&state, Settings::default()).await;
    let slot = slot_of(clock.now());
    let subject = Subject { protocol: "python/v1".to_owned(), method: "execute".to_owned() };
    let note = Note { session: id("a"), slot, profiles: vec![(subject, Profile::default())] };
    store.note_profiles(&note, clock.now()).await.expect("notes");
    let file = rusqlite::Connection::open(state.path()).expect("opens");
    let torn = "INSERT INTO profiles VALUES (?1, 'a', 'python/v1', 'validate', 'torn')";
    file.execute(torn, [slot.as_millis()]).expect("writes");
    let noted = store.profiles(slot, clock.now()).await.expect("the others are told");
    assert_eq!(noted.iter().map(|one| one.subject.method.as_str()).collect::<Vec<_>>(), ["execute"]);
}

#[tokio::test]
async fn a_cancel_is_remembered_for_as_long_as_the_broker_may_keep_the_message_back() {
    let state = State::new();
    let (store, clock) = stand(&state, Settings::default()).await;
    let due = Some(clock.now().after(DELAY_MAX));
    let accepted = [
        Accepted::Task { head: head("delayed"), digest: None, due, sent: None },
        Accepted::Workflow { id: id("flow"), name: "W".to_owned(), digest: None, due: None },
    ];
    store.accept(&accepted, clock.now()).await.expect("notes");
    for root in ["unseen", "delayed", "flow"] {
        store.cancel(&id(root), Why::Request { by: None }, clock.now()).await.expect("cancels");
    }
    let clean = async || store.beat(&id("s"), HOUR, clock.now()).await.expect("beats");
    let claim = async |name: &str| {
        let claim = Claim {
            head: head(name),
            attempt: 1,
            session: id("s"),
            over: None,
            run: None,
            inputs: Vec::new(),
            inputs_bytes_max: 0,
            digest: None,
        };
        store.claim(&claim, clock.now()).await.expect("answers")
    };
    clean().await;
    clock.advance(DELAY_MAX);
    clean().await;
    for name in ["unseen", "delayed"] {
        let claimed = claim(name).await;
        assert!(matches!(claimed, Claimed::Over { state: TaskState::Cancelled, .. }), "{name}: {claimed:?}");
    }
    let flow = store.create(&plan("flow", &["a"]), clock.now()).await.expect("answers");
    assert_eq!(flow.state, WorkflowState::Cancelled);
    clock.advance(WEEK);
    clean().await;
    assert!(matches!(claim("delayed").await, Claimed::Run { .. }), "all of it is forgotten");
}

async fn fail(store: &SqliteStore, head: &Head, now: Timestamp) {
    let lease = lease(store, head.clone(), now).await;
    let document = Ending::unrun(TaskState::Failed, None, now).document(head).into();
    let (state, entry) = (TaskState::Failed, "{}".to_owned());
    let end = End::Ended { state, document, keep: true, ttl: HOUR, entry, retry: None };
    store.finish(&lease, &end, now).await.expect("finishes");
}

#[tokio::test]
async fn a_retry_takes_the_ttl_off_and_names_what_is_gone() {
    let state = State::new();
    let (store, clock) = stand(&state, Settings::default()).await;
    let within = |task: &str| Head { key: TaskKey::within(id("w"), id(task)), ..head(task) };
    let clean = async || store.beat(&id("s"), HOUR, clock.now()).await.expect("beats");
    let result = async || store.result(&within("a").key).await.expect("answers");
    let retry = async |by: &str| store.retry(&id("w"), &id(by), clock.now()).await.expect("answers");
    store.create(&plan("w", &["a", "b"]), clock.now()).await.expect("creates");
    end_with(&store, &within("a"), json!(1), clock.now()).await;
    fail(&store, &within("b"), clock.now()).await;
    clock.advance(HOUR / 2);
    assert!(matches!(retry("r1").await, Retried::Running { run: 2, .. }));
    clock.advance(WEEK * 2);
    clean().await;
    assert!(result().await.is_some(), "a running workflow's results have no TTL");
    fail(&store, &within("b"), clock.now()).await;
    clock.advance(HOUR);
    assert_eq!(result().await, None);
    for _ in 0..2 {
        assert_eq!(retry("r2").await, Retried::Gone(vec![id("a")]));
        clean().await;
    }
    let flow = store.workflow(&id("w")).await.expect("answers").expect("known");
    assert_eq!(flow.state, WorkflowState::Failed);
}

#[tokio::test]
async fn children_end_with_their_workflow() {
    let state = State::new();
    let (store, clock) = stand(&state, Settings::default()).await;
    let within = |task: &str| Head { key: TaskKey::within(id("w"), id(task)), ..head(task) };
    let clean = async || store.beat(&id("s"), HOUR, clock.now()).await.expect("beats");
    store.create(&plan("w", &["p"]), clock.now()).await.expect("creates");
    let parent = lease(&store, within("p"), clock.now()).await;
    let tasks = plan("w", &["c"]).tasks;
    let end = End::Expanded { tasks, max_parallel: None };
    store.finish(&parent, &end, clock.now()).await.expect("finishes");
    end_with(&store, &within("c"), json!(1), clock.now()).await;
    clock.advance(WEEK * 2);
    clean().await;
    assert!(store.result(&within("c").key).await.expect("answers").is_some());
    end_with(&store, &within("p"), json!(1), clock.now()).await;
    clock.advance(HOUR);
    clean().await;
    assert_eq!(store.result(&within("c").key).await, Ok(None));
    assert!(store.task(&within("c").key).await.expect("answers").is_some());
    clock.advance(WEEK);
    clean().await;
    assert_eq!(store.task(&within("c").key).await, Ok(None));
    assert_eq!(store.workflow(&id("w")).await, Ok(None));
}

#[tokio::test]
async fn cleaning_keeps_up_with_many_ended_tasks() {
    let state = State::new();
    let (store, clock) = stand(&state, Settings::default()).await;
    for number in 0..50 {
        end_with(&store, &head(&format!("t{number}")), json!(1), clock.now()).await;
    }
    clock.advance(WEEK);
    for _ in 0..2 {
        store.beat(&id("s"), HOUR, clock.now()).await.expect("beats");
    }
    let filter = gleitzeit::store::Filter { state: None, limit: 100 };
    assert_eq!(store.list(&filter).await, Ok(vec![]));
}

#[tokio::test]
async fn a_document_too_large_omits_results() {
    let large = "x".repeat(3000);
    for (bytes_max, omitted, least) in [(100_000, false, false), (5_000, true, false), (100, true, true)] {
        let state = State::new();
        let settings = Settings { document_bytes_max: bytes_max, ..Settings::default() };
        let (store, clock) = stand(&state, settings).await;
        store.create(&plan("w", &["a", "b"]), clock.now()).await.expect("creates");
        for task in ["a", "b"] {
            let head = Head { key: TaskKey::within(id("w"), id(task)), ..head(task) };
            end_with(&store, &head, json!(large), clock.now()).await;
        }
        let outcome = store.outcome(&id("w")).await.expect("answers").expect("it has ended");
        let outcome: Value = serde_json::from_slice(&outcome).expect("JSON");
        for (at, name) in ["a", "b"].iter().enumerate() {
            let task = &outcome["tasks"][at];
            assert_eq!((&task["id"], &task["status"]), (&json!(name), &json!("completed")));
            assert_eq!(task["result_omitted"], if omitted { json!(true) } else { Value::Null });
            assert_eq!(task["result"], if omitted { Value::Null } else { json!(large) });
            assert_eq!(task["ended_at"].is_null(), least);
        }
        let own = store.result(&TaskKey::within(id("w"), id("a"))).await.expect("answers");
        assert!(own.expect("it is kept whole").len() > 3000);
    }
}

#[tokio::test]
async fn an_id_is_a_task_or_a_workflow() {
    let state = State::new();
    let (store, clock) = stand(&state, Settings::default()).await;
    let lease = lease(&store, head("t"), clock.now()).await;
    assert!(store.create(&plan("t", &["a"]), clock.now()).await.is_err());
    complete(&store, &lease).await;
    store.create(&plan("w", &["a"]), clock.now()).await.expect("creates");
    let claim = Claim {
        head: head("w"),
        attempt: 1,
        session: id("s"),
        run: None,
        over: None,
        inputs: Vec::new(),
        inputs_bytes_max: 0,
        digest: None,
    };
    assert!(store.claim(&claim, clock.now()).await.is_err());
}

#[tokio::test]
async fn a_step_that_fails_takes_no_other_step_with_it() {
    let state = State::new();
    let (store, clock) = stand(&state, Settings::default()).await;
    let mut wrong = plan("wrong", &["a"]);
    wrong.tasks[0].dependencies.push(Edge { on: 7, otherwise: Otherwise::Fail });
    let now = clock.now();
    let (before, failed, after) = tokio::join!(
        lease(&store, head("before"), now),
        store.create(&wrong, now),
        lease(&store, head("after"), now),
    );
    assert!(failed.is_err());
    for lease in [before, after] {
        assert_eq!(
            store.task(&lease.key).await.expect("answers").map(|task| task.state),
            Some(TaskState::Running)
        );
    }
    assert_eq!(store.workflow(&id("wrong")).await, Ok(None));
    assert_eq!(store.task(&TaskKey::within(id("wrong"), id("a"))).await, Ok(None));
}
