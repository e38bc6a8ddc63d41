//! Record, publish, settle: in this order, so that a crash in between repeats a step and never skips one.

use std::time::Duration;

use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::state::TaskState;
use gleitzeit::topology::Queue;
use gleitzeit::wire::command::Command;
use serde_json::{Value, json};

use crate::stage::{Stage, alone, id, pong};

const TASKS: &str = "gleitzeit.tasks.echo.v1";
const DEAD: &str = "gleitzeit.dead.echo.v1";
const WORKFLOWS: &str = "gleitzeit.workflows";
const INBOX: &str = "gleitzeit.dead.inbox";

fn settle(queue: &str) -> String {
    format!("settle {queue}")
}

fn publish(queue: &str) -> String {
    format!("publish {queue}")
}

/// `b` after `a`; `b` has two attempts.
fn chain() -> Value {
    let retry = json!({"max_attempts": 2, "base_delay": 0.01});
    json!({"name": "W", "tasks": [
        {"id": "a", "method": "echo/ping"},
        {"id": "b", "method": "echo/ping", "dependencies": ["a"], "retry": retry},
    ]})
}

#[tokio::test]
async fn everything_is_recorded_then_published_then_settled() {
    let stage = Stage::new().await;
    let recorded = |step: &str, publishes: &str, settles: &str| {
        vec![step.to_owned(), publish(publishes), settle(settles)]
    };
    let broken = || Err(Failure::new(Code::TaskExecutionFailed, "as asked"));

    stage.submit("w", &chain()).await;
    let a = stage.call().await;
    let entries = stage.journal.until(&settle(WORKFLOWS)).await;
    assert_eq!(entries, recorded("create", TASKS, WORKFLOWS), "a workflow is taken in");
    a.end(Ok(pong()));
    let b = stage.call().await;
    let entries = stage.journal.until(&settle(TASKS)).await;
    assert_eq!(entries, recorded("finish", TASKS, TASKS), "a task releases another one");
    b.end(broken());
    let b = stage.call().await;
    let entries = stage.journal.until(&settle(TASKS)).await;
    assert_eq!(entries, recorded("finish", TASKS, TASKS), "another attempt is to be made");
    b.end(broken());
    let entries = stage.journal.until(&settle(TASKS)).await;
    assert_eq!(entries, recorded("finish", DEAD, TASKS), "a task has failed");
    stage.command(&Command::Retry { id: id("w"), by: Some(id("r")) }).await;
    let b = stage.call().await;
    let entries = stage.journal.until(&settle(WORKFLOWS)).await;
    assert_eq!(entries, recorded("retry", TASKS, WORKFLOWS), "it is retried by hand");
    stage.command(&Command::Cancel { id: id("w"), by: None }).await;
    b.is_cancelled().await;
    let entries = stage.journal.until(&settle(WORKFLOWS)).await;
    assert_eq!(entries[0], "cancel", "it is cancelled: {entries:?}");
    stage.stop().await;
}

#[tokio::test]
async fn a_long_task_is_settled_when_a_guard_stands_for_it() {
    let stage = Stage::with(|settings| settings.guard_after = Duration::from_millis(20)).await;
    stage.task("t").await;
    let call = stage.call().await;
    assert_eq!(stage.journal.until(&settle(TASKS)).await, [publish(TASKS), settle(TASKS)]);
    assert_eq!(stage.guards(), 1);
    call.end(Ok(pong()));
    stage.ends_as("t", "completed").await;
    stage.stop().await;
}

/// Its worker recorded the end of `a`, and died before it published `b`.
#[tokio::test]
async fn what_was_recorded_and_not_published_is_published_by_the_next_delivery() {
    let stage = Stage::new().await;
    stage.ended_elsewhere("w", "a", "b").await;
    assert_eq!(
        stage.journal.until(&settle(TASKS)).await,
        ["create", "finish", &publish(TASKS), &settle(TASKS)]
    );
    stage.call().await.end(Ok(pong()));
    stage.ends_as("w", "completed").await;
    stage.stop().await;
}

/// Its worker recorded the failure, and died before it wrote the letter.
#[tokio::test]
async fn a_letter_that_nobody_wrote_is_written_by_the_next_delivery() {
    let stage = Stage::new().await;
    stage.failed_elsewhere("t").await;
    assert_eq!(stage.journal.until(&settle(TASKS)).await, ["finish", &publish(DEAD), &settle(TASKS)]);
    stage.stop().await;
}

#[tokio::test]
async fn what_the_broker_has_ended_is_recorded_and_buried() {
    let stage = Stage::new().await;
    stage.task("u").await;
    let call = stage.call().await;
    assert_eq!(stage.consumers(&Queue::Inbox).await, 1, "nobody reads what the broker ends");
    stage.publish(Queue::Inbox, json!({"id": "t", "method": "ping"}).to_string().into()).await;
    let entries = stage.journal.until(&settle(INBOX)).await;
    assert_eq!(entries.len(), 3, "{entries:?}");
    assert!(entries[0] == "finish" && entries[1].starts_with("publish gleitzeit.dead."), "{entries:?}");
    stage.ends_as("t", "failed").await;
    call.end(Ok(pong()));
    stage.stop().await;
}

#[tokio::test]
async fn what_a_stopped_worker_gives_back_is_not_counted() {
    let mut stage = Stage::with(|settings| settings.grace = Duration::ZERO).await;
    stage.task("t").await;
    let call = stage.call().await;
    stage.drain().await;
    assert!(call.cancel.is_cancelled());
    assert_eq!((stage.state(&alone("t")).await, stage.attempts("t").await), (Some(TaskState::Queued), 0));
    let entries = stage.journal.until(&format!("release {TASKS}")).await;
    assert_eq!(entries, ["finish".to_owned(), format!("release {TASKS}")]);
    stage.stop().await;
}

#[tokio::test]
async fn a_task_that_has_killed_as_many_workers_as_it_may_is_given_up() {
    let stage = Stage::new().await;
    stage.crashed("t", 3).await;
    stage.task("t").await;
    tokio::select! {
        call = stage.call() => panic!("it runs once more: {call:?}"),
        () = stage.ends_as("t", "failed") => {}
    }
    assert_eq!(stage.document(&alone("t")).await["error"]["name"], "WORKER_LOST");
    stage.stop().await;
}

/// One more crash is the last that it may have: it shall tell whether this task is the cause.
#[tokio::test]
async fn a_suspect_runs_alone() {
    let stage = Stage::new().await;
    stage.task("n").await;
    let neighbour = stage.call().await;
    stage.crashed("s", 2).await;
    stage.task("s").await;
    let s = alone("s");
    tokio::select! {
        call = stage.call() => panic!("it runs beside another one: {call:?}"),
        () = stage.is(&s, TaskState::Queued) => {}
    }
    neighbour.end(Ok(pong()));
    let suspect = stage.call().await;
    assert_eq!(suspect.key, s);
    stage.task("m").await;
    suspect.end(Ok(pong()));
    stage.ends_as("s", "completed").await;
    let next = stage.call().await;
    assert_eq!(next.key, alone("m"));
    next.end(Ok(pong()));
    stage.ends_as("m", "completed").await;
    stage.stop().await;
}
