//! Workflows in the file over time: what a retry finds when results have gone, and what cleaning leaves.

use serde_json::json;
use std::time::Duration;

use crate::store::{HOUR, SetClock, WEEK, lease, stand};
use crate::support::{State, echo, head, id};
use gleitzeit::core::clock::{Clock, Timestamp};
use gleitzeit::core::id::TaskKey;
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::sqlite::{Settings, SqliteStore};
use gleitzeit::store::{
    Edge, End, Finished, Lease, Message, Otherwise, Plan, PlannedTask, Released, Retried, Store,
};
use gleitzeit::wire::record::{Ending, Head};

/// A task of the workflow `w` that depends on those at these places.
fn task(name: &str, on: &[usize]) -> PlannedTask {
    let key = TaskKey::within(id("w"), id(name));
    let edge = |on: &usize| Edge { on: *on, otherwise: Otherwise::Fail };
    PlannedTask {
        head: Head { key, ..head(name) },
        message: Message { address: echo(), priority: 4, body: format!("{{\"id\":\"{name}\"}}").into() },
        dependencies: on.iter().map(edge).collect(),
        tolerated: false,
    }
}

fn plan(tasks: Vec<PlannedTask>) -> Plan {
    let refused = Plan::refused(id("w"), "w".to_owned(), failure(), HOUR);
    Plan { tasks, refused: None, ..refused }
}

fn failure() -> gleitzeit::core::failure::Failure {
    gleitzeit::core::failure::Failure::new(gleitzeit::core::code::Code::TaskExecutionFailed, "it broke")
}

async fn end(store: &SqliteStore, name: &str, state: TaskState, keep: bool, now: Timestamp) -> Finished {
    let head = task(name, &[]).head;
    let lease = lease(store, head.clone(), now).await;
    finish(store, &lease, &head, state, keep, now).await
}

async fn finish(
    store: &SqliteStore,
    lease: &Lease,
    head: &Head,
    state: TaskState,
    keep: bool,
    now: Timestamp,
) -> Finished {
    let error = (state != TaskState::Completed).then(failure);
    let ending = Ending { result: json!(1), ..Ending::unrun(state, error, now) };
    let (document, entry) = (ending.document(head).into(), "{}".to_owned());
    let end = End::Ended { state, document, keep, ttl: HOUR, entry, retry: None };
    store.finish(lease, &end, now).await.expect("finishes")
}

async fn clean(store: &SqliteStore, clock: &SetClock) {
    store.beat(&id("s"), HOUR, clock.now()).await.expect("beats");
}

async fn retry(store: &SqliteStore, by: &str, clock: &SetClock) -> Retried {
    store.retry(&id("w"), &id(by), clock.now()).await.expect("answers")
}

fn names(retried: &Retried) -> Vec<&str> {
    match retried {
        Retried::Running { released, .. } => released.iter().map(name).collect(),
        other => panic!("{other:?}"),
    }
}

fn name(released: &Released) -> &str {
    released.key.id().as_str()
}

#[tokio::test]
async fn a_retry_needs_the_results_of_what_completed() {
    for (keep, is_cleaned) in [(true, false), (true, true), (false, true)] {
        let state = State::new();
        let (store, clock) = stand(&state, Settings::default()).await;
        let tasks = vec![task("a", &[]), task("b", &[0]), task("c", &[])];
        store.create(&plan(tasks), clock.now()).await.expect("creates");
        end(&store, "a", TaskState::Completed, keep, clock.now()).await;
        end(&store, "b", TaskState::Failed, true, clock.now()).await;
        end(&store, "c", TaskState::Completed, false, clock.now()).await;
        clock.advance(HOUR);
        if is_cleaned {
            clean(&store, &clock).await;
        }
        let retried = retry(&store, "r", &clock).await;
        if keep {
            assert_eq!(retried, Retried::Gone(vec![id("a")]));
            let flow = store.workflow(&id("w")).await.expect("answers").expect("known");
            assert_eq!(flow.state, WorkflowState::Failed);
        } else {
            assert_eq!(names(&retried), ["b"], "nobody ever wanted the result");
        }
    }
}

#[tokio::test]
async fn results_have_no_ttl_while_a_retry_runs() {
    let state = State::new();
    let (store, clock) = stand(&state, Settings::default()).await;
    store.create(&plan(vec![task("a", &[]), task("b", &[0])]), clock.now()).await.expect("creates");
    end(&store, "a", TaskState::Completed, true, clock.now()).await;
    end(&store, "b", TaskState::Failed, true, clock.now()).await;
    clock.advance(HOUR / 2);
    assert_eq!(names(&retry(&store, "r1", &clock).await), ["b"]);
    clock.advance(WEEK * 2);
    clean(&store, &clock).await;
    let a = TaskKey::within(id("w"), id("a"));
    assert!(store.result(&a).await.expect("answers").is_some());
    end(&store, "b", TaskState::Completed, true, clock.now()).await;
    assert!(store.outcome(&id("w")).await.expect("answers").is_some());
    clock.advance(HOUR);
    assert!(store.result(&a).await.expect("answers").is_none());
    assert_eq!(retry(&store, "r2", &clock).await, Retried::Nothing);
}

#[tokio::test]
async fn messages_stay_as_long_as_there_is_something_to_retry() {
    let state = State::new();
    let (store, clock) = stand(&state, Settings::default()).await;
    store.create(&plan(vec![task("a", &[])]), clock.now()).await.expect("creates");
    end(&store, "a", TaskState::Failed, true, clock.now()).await;
    clock.advance(WEEK - HOUR);
    clean(&store, &clock).await;
    let Retried::Running { released, run: 2, .. } = retry(&store, "r", &clock).await else {
        panic!("it runs")
    };
    assert_eq!(&released[0].message.body[..], br#"{"id":"a"}"#);
    end(&store, "a", TaskState::Completed, true, clock.now()).await;
    clock.advance(HOUR);
    clean(&store, &clock).await;
    drop(store);
    assert_eq!(rows(&state, &["planned"]), [0]);
}

#[tokio::test]
async fn nothing_is_left_of_a_forgotten_workflow() {
    let state = State::new();
    let (store, clock) = stand(&state, Settings::default()).await;
    let mut plan = plan(vec![task("p", &[]), task("x", &[]), task("y", &[1])]);
    plan.max_parallel = std::num::NonZeroU32::new(1);
    store.create(&plan, clock.now()).await.expect("creates");
    let parent = lease(&store, task("p", &[]).head, clock.now()).await;
    let tasks = vec![task("p.0", &[]), task("p.1", &[0])];
    let expanded = End::Expanded { tasks, max_parallel: std::num::NonZeroU32::new(1) };
    store.finish(&parent, &expanded, clock.now()).await.expect("finishes");
    store.cancel(&id("w"), gleitzeit::store::Why::Request { by: None }, clock.now()).await.expect("cancels");
    clock.advance(WEEK);
    for _ in 0..2 {
        clean(&store, &clock).await;
    }
    drop(store);
    let tables = ["workflows", "tasks", "planned", "edges", "parents", "turns", "results", "history"];
    assert_eq!(rows(&state, &tables), [0; 8]);
}

/// How many rows there are in each table.
fn rows(state: &State, tables: &[&str]) -> Vec<i64> {
    let file = rusqlite::Connection::open(state.path()).expect("opens");
    let count = |table: &&str| {
        file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).expect("counts")
    };
    tables.iter().map(count).collect()
}

/// `cargo test --release --test embedded -- --ignored --nocapture speed` prints how long steps of ten thousand
/// tasks take.
#[tokio::test]
#[ignore = "a measurement"]
async fn speed_of_steps_of_ten_thousand_tasks() {
    const TASKS: usize = 10_000;
    let measured = async |bound: Option<u32>, state: TaskState| {
        let file = State::new();
        let (store, clock) = stand(&file, Settings::default()).await;
        let mut tasks = vec![task("root", &[])];
        tasks.extend((0..TASKS).map(|number| task(&format!("c{number}"), &[0])));
        let mut plan = plan(tasks);
        plan.max_parallel = bound.and_then(std::num::NonZeroU32::new);
        let mut took = Vec::new();
        let began = std::time::Instant::now();
        store.create(&plan, clock.now()).await.expect("creates");
        took.push(("create", began.elapsed()));
        let lease = lease(&store, plan.tasks[0].head.clone(), clock.now()).await;
        let began = std::time::Instant::now();
        let finished = finish(&store, &lease, &plan.tasks[0].head, state, true, clock.now()).await;
        took.push(("finish", began.elapsed()));
        let Finished::Done { released, ended, .. } = finished else { panic!("{finished:?}") };
        println!("{state}, bound {bound:?}: {} released, {} ended", released.len(), ended.len());
        if state == TaskState::Completed {
            let began = std::time::Instant::now();
            for task in &plan.tasks[1..=1000] {
                end(&store, task.head.key.id().as_str(), TaskState::Completed, true, clock.now()).await;
            }
            took.push(("one of 1000 claimed and ended", began.elapsed() / 1000));
            let began = std::time::Instant::now();
            store
                .cancel(&id("w"), gleitzeit::store::Why::Request { by: None }, clock.now())
                .await
                .expect("cancels");
            took.push(("cancel", began.elapsed()));
        }
        let began = std::time::Instant::now();
        assert!(matches!(retry(&store, "r", &clock).await, Retried::Running { .. }));
        took.push(("retry", began.elapsed()));
        let took: Vec<(&str, Duration)> = took;
        println!("{took:?}");
    };
    measured(None, TaskState::Completed).await;
    measured(None, TaskState::Failed).await;
    measured(Some(1000), TaskState::Completed).await;
}
