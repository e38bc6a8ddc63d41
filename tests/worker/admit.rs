//! What happens to a message before its task is run.

use gleitzeit::broker::Properties;
use gleitzeit::core::clock::{Clock, Timestamp};
use gleitzeit::topology::Queue;
use serde_json::json;

use crate::stage::{Stage, alone, echo, pong};
use crate::wall_clock::WallClock;

const TASKS: &str = "gleitzeit.tasks.echo.v1";

#[tokio::test]
async fn what_was_not_started_in_time_is_not_run() {
    let stage = Stage::new().await;
    let task = json!({"id": "t", "method": "ping", "expires_at": "2026-01-01T00:00:00Z"});
    stage.publish(Queue::Tasks(echo()), task.to_string().into()).await;
    tokio::select! {
        call = stage.call() => panic!("it is run: {call:?}"),
        () = stage.ends_as("t", "expired") => {}
    }
    stage.stop().await;
}

#[tokio::test]
async fn what_is_not_to_be_started_yet_goes_back_to_wait() {
    let stage = Stage::new().await;
    let task = json!({"id": "t", "method": "ping", "not_before": "2099-01-01T00:00:00Z"});
    stage.publish(Queue::Tasks(echo()), task.to_string().into()).await;
    let (published, settled) = (format!("publish {TASKS}"), format!("settle {TASKS}"));
    tokio::select! {
        call = stage.call() => panic!("it is run: {call:?}"),
        entries = stage.journal.until(&settled) => assert_eq!(entries, [published, settled.clone()]),
    }
    assert_eq!(stage.state(&alone("t")).await, None);
    stage.stop().await;
}

/// Else a message that comes twice would be two tasks.
#[tokio::test]
async fn a_task_without_an_id_gets_one_before_it_is_run() {
    let stage = Stage::new().await;
    stage.publish(Queue::Tasks(echo()), json!({"method": "ping"}).to_string().into()).await;
    let call = stage.call().await;
    let entries = stage.journal.so_far();
    assert_eq!(entries.first(), Some(&format!("publish {TASKS}")), "{entries:?}");
    let id = call.key.id().clone();
    call.end(Ok(pong()));
    stage.ends_as(id.as_str(), "completed").await;
    stage.stop().await;
}

#[tokio::test]
async fn what_nobody_here_serves_looks_for_another_worker_for_a_minute() {
    let stage = Stage::new().await;
    let task = |id: &str| json!({"id": id, "method": "timestamp"}).to_string();
    stage.publish(Queue::Tasks(echo()), task("t").into()).await;
    stage.comes("two searches", |stage| stage.searches() >= 2).await;
    assert_eq!(stage.attempts("t").await, 0, "nothing is counted");

    let since = Timestamp::from_millis(WallClock.now().as_millis() - 61_000).to_string();
    let headers = [("gleitzeit-elsewhere-since".to_owned(), since)].into();
    let properties = Properties { headers, ..Properties::default() };
    stage.publish_with(Queue::Tasks(echo()), task("u").into(), properties).await;
    stage.ends_as("u", "failed").await;
    stage.comes("a letter", |stage| !stage.letters().is_empty()).await;
    let letters = stage.letters();
    assert!(letters[0].contains("player does not serve this method"), "{letters:?}");
    stage.stop().await;
}
