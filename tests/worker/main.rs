//! What a worker does with broadcasts, with the messages of a run and with the dead, with calls that end when the
//! test says so.

mod absent;
mod admit;
mod elsewhere;
mod journal;
mod order;
mod stage;
#[path = "../support/wall_clock.rs"]
mod wall_clock;

use gleitzeit::broker::Heard;
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::TaskKey;
use gleitzeit::core::state::TaskState;
use gleitzeit::store::Cancelled;
use gleitzeit::wire::command::Command;
use serde_json::json;
use std::time::Duration;

use stage::{Stage, alone, id, pong, workflow};

/// The state is recorded, and whoever recorded it died before it told anybody.
#[tokio::test]
async fn a_repeated_cancel_reaches_what_runs() {
    let stage = Stage::new().await;
    let mut document = workflow("a");
    document["reply"] = json!({"to": "somebody"});
    stage.submit("w", &document).await;
    let call = stage.call().await;
    assert!(matches!(stage.cancel("w").await, Cancelled::Done { .. }));
    stage.command(&Command::Cancel { id: id("w") }).await;
    call.is_cancelled().await;
    let replies = stage.replies();
    assert_eq!(replies.len(), 1, "{replies:?}");
    assert!(replies[0].contains(r#""status":"cancelled""#), "{replies:?}");
    stage.stop().await;
}

#[tokio::test]
async fn a_late_broadcast_stops_nothing_that_runs_again() {
    let stage = Stage::new().await;
    stage.submit("w", &workflow("a")).await;
    let first = stage.call().await;
    stage.command(&Command::Cancel { id: id("w") }).await;
    first.is_cancelled().await;
    stage.command(&Command::Retry { id: id("w"), by: Some(id("r")) }).await;
    let again = stage.call().await;
    stage.hears(Heard::Broadcast(r#"{"type":"cancel","id":"w"}"#.into()));
    // What is heard after it has been dealt with after it.
    stage.task("t").await;
    let other = stage.call().await;
    stage.command(&Command::Cancel { id: id("t") }).await;
    other.is_cancelled().await;
    assert!(!again.cancel.is_cancelled());
    again.end(Ok(pong()));
    stage.ends_as("w", "completed").await;
    stage.stop().await;
}

#[tokio::test]
async fn a_missed_broadcast_is_made_up_for() {
    let stage = Stage::new().await;
    for name in ["t", "u"] {
        stage.task(name).await;
    }
    let (one, two) = (stage.call().await, stage.call().await);
    let (t, u) = if one.key == alone("t") { (one, two) } else { (two, one) };
    stage.cancel("t").await;
    assert!(!t.cancel.is_cancelled());
    stage.hears(Heard::Gap);
    t.is_cancelled().await;
    assert!(!u.cancel.is_cancelled());
    u.end(Ok(pong()));
    stage.ends_as("u", "completed").await;
    assert_eq!(stage.state(&alone("t")).await, Some(TaskState::Cancelled));
    stage.stop().await;
}

/// Each may be, together they may not be fetched.
#[tokio::test]
async fn a_task_that_refers_to_too_much_fails_with_the_bound() {
    let stage = Stage::new().await;
    stage.refer_to("w", "join", 9, 8 << 20).await;
    stage.ends_as("w", "failed").await;
    let join = stage.document(&TaskKey::within(id("w"), id("join"))).await;
    assert_eq!((&join["error"]["name"], &join["attempts"]), (&json!("TASK_TOO_LARGE"), &json!(1)), "{join}");
    let message = join["error"]["message"].as_str().expect("a text");
    assert!(message.contains("more than 67108864; store masses elsewhere"), "{message}");
    stage.stop().await;
}

/// From the retry on, also where another attempt is made.
#[tokio::test]
async fn messages_of_a_later_run_say_so() {
    let stage = Stage::new().await;
    stage.submit("w", &workflow("a")).await;
    let broken = || Err(Failure::new(Code::TaskExecutionFailed, "as asked"));
    for attempt in [1, 2] {
        let call = stage.call().await;
        assert_eq!(call.attempt, attempt);
        call.end(broken());
    }
    stage.ends_as("w", "failed").await;
    stage.command(&Command::Retry { id: id("w"), by: Some(id("r")) }).await;
    for (attempt, end) in [(1, broken()), (2, Ok(pong()))] {
        let call = stage.call().await;
        assert_eq!(call.attempt, attempt);
        call.end(end);
    }
    stage.ends_as("w", "completed").await;
    assert_eq!(stage.runs(), [None, None, Some("2".to_owned()), Some("2".to_owned())]);
    stage.stop().await;
}

#[tokio::test]
async fn a_worker_that_has_just_started_takes_over_from_the_dead_at_once() {
    let stage = Stage::new().await;
    stage.claimed_by("other", "t").await;
    stage.task("t").await;
    let call = tokio::select! {
        call = stage.call() => call,
        () = stage.is_looked_at(1) => panic!("the dead are waited for"),
    };
    assert_eq!((call.attempt, stage.looks()), (2, 0));
    call.end(Ok(pong()));
    stage.ends_as("t", "completed").await;
    stage.stop().await;
}

/// While the store was away nobody could beat, and every session ran out.
#[tokio::test]
async fn after_an_outage_of_the_store_nobody_is_dead_before_they_could_beat_again() {
    let stage = Stage::new().await;
    stage.store.go().await;
    stage.claimed_by("other", "t").await;
    stage.store.come_back();
    stage.task("t").await;
    stage.is_looked_at(3).await;
    stage.beat("other", Duration::from_secs(600)).await;
    stage.is_looked_at(9).await;
    assert_eq!(stage.attempts("t").await, 1);
    stage.leave("other").await;
    let call = stage.call().await;
    assert_eq!(call.attempt, 2);
    call.end(Ok(pong()));
    stage.ends_as("t", "completed").await;
    stage.stop().await;
}

/// Else it would be found in time only where nothing else waits.
#[tokio::test]
async fn what_another_worker_held_is_looked_at_before_what_waits() {
    let stage = Stage::new().await;
    stage.beat("other", Duration::from_secs(60)).await;
    stage.claimed_by("other", "t").await;
    stage.task("t").await;
    stage.is_looked_at(2).await;
    for (message, own) in stage.held_priorities() {
        assert_eq!((message, own), (Some(9), json!(4)), "of the message; of the task");
    }
    stage.leave("other").await;
    stage.call().await.end(Ok(pong()));
    stage.ends_as("t", "completed").await;
    stage.stop().await;
}
