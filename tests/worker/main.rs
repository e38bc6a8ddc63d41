//! What a worker does with broadcasts, with the messages of a run and with the dead, with calls that end when the
//! test says so.

mod absent;
mod admit;
mod elsewhere;
mod journal;
mod limits;
mod order;
mod room;
mod said;
mod stage;
#[path = "../support/wall_clock.rs"]
mod wall_clock;

use gleitzeit::broker::Heard;
use gleitzeit::config::EventLevel;
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::TaskKey;
use gleitzeit::core::state::TaskState;
use gleitzeit::store::Cancelled;
use gleitzeit::topology::Queue;
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
    assert!(matches!(stage.cancel("w", None).await, Cancelled::Done { .. }));
    stage.command(&Command::Cancel { id: id("w"), by: None }).await;
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
    stage.command(&Command::Cancel { id: id("w"), by: None }).await;
    first.is_cancelled().await;
    stage.command(&Command::Retry { id: id("w"), by: Some(id("r")) }).await;
    let again = stage.call().await;
    stage.hears(Heard::Broadcast(r#"{"type":"cancel","id":"w"}"#.into()));
    // What is heard after it has been dealt with after it.
    stage.task("t").await;
    let other = stage.call().await;
    stage.command(&Command::Cancel { id: id("t"), by: None }).await;
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
    stage.cancel("t", None).await;
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

/// Whoever recorded the cancel hung before it told anybody, and somebody retried meanwhile.
#[tokio::test]
async fn a_repeated_cancel_stops_what_is_left_of_its_run_and_nothing_of_a_later_one() {
    let stage = Stage::with(|settings| settings.events = EventLevel::Ended).await;
    let mut document = workflow("a");
    document["reply"] = json!({"to": "somebody"});
    stage.submit("w", &document).await;
    let left = stage.call().await;
    assert!(matches!(stage.cancel("w", Some("c")).await, Cancelled::Done { .. }));
    stage.command(&Command::Retry { id: id("w"), by: Some(id("r")) }).await;
    stage.comes("the message of run 2", |stage| stage.runs().contains(&Some("2".to_owned()))).await;
    stage.command(&Command::Cancel { id: id("w"), by: Some(id("c")) }).await;
    left.is_cancelled().await;
    let again = stage.call().await;
    stage.command(&Command::Cancel { id: id("w"), by: Some(id("c")) }).await;
    // What is asked for after it is dealt with after it.
    stage.task("t").await;
    let other = stage.call().await;
    stage.command(&Command::Cancel { id: id("t"), by: Some(id("c")) }).await;
    other.is_cancelled().await;
    assert!(!again.cancel.is_cancelled());
    again.end(Ok(pong()));
    stage.ends_as("w", "completed").await;
    let of_workflow = |stage: &Stage| {
        let events = stage.events();
        events.into_iter().filter(|event| event.starts_with("workflow.")).collect::<Vec<_>>()
    };
    stage.comes("the event of the end", |stage| !of_workflow(stage).is_empty()).await;
    // Nor is anybody told of the later run as if this had ended it.
    stage.command(&Command::Cancel { id: id("w"), by: Some(id("c")) }).await;
    stage.task("u").await;
    let other = stage.call().await;
    stage.command(&Command::Cancel { id: id("u"), by: Some(id("c")) }).await;
    other.is_cancelled().await;
    assert_eq!(of_workflow(&stage), ["workflow.completed"]);
    let replies = stage.replies();
    assert!(replies.len() == 1 && replies[0].contains(r#""status":"completed""#), "{replies:?}");
    stage.stop().await;
}

/// Of a task on its own.
#[tokio::test]
async fn a_repeated_cancel_of_a_task_tells_nobody_of_a_later_run() {
    let stage = Stage::with(|settings| settings.events = EventLevel::Ended).await;
    stage.message(1, &json!({"id": "t", "method": "ping", "reply": {"to": "somebody"}})).await;
    stage.call().await.end(Err(Failure::new(Code::TaskExecutionFailed, "as asked")));
    stage.ends_as("t", "failed").await;
    stage.command(&Command::Retry { id: id("t"), by: Some(id("r1")) }).await;
    let call = stage.call().await;
    stage.command(&Command::Cancel { id: id("t"), by: Some(id("c")) }).await;
    call.is_cancelled().await;
    stage.command(&Command::Retry { id: id("t"), by: Some(id("r2")) }).await;
    let again = stage.call().await;
    let is_cancel = |event: &String| event == "task.cancelled";
    let told = stage.events().into_iter().filter(is_cancel).count();
    stage.command(&Command::Cancel { id: id("t"), by: Some(id("c")) }).await;
    // What is asked for after it is dealt with after it.
    stage.command(&Command::Cancel { id: id("never-seen"), by: Some(id("c")) }).await;
    stage.task("u").await;
    let other = stage.call().await;
    stage.command(&Command::Cancel { id: id("u"), by: None }).await;
    other.is_cancelled().await;
    assert!(!again.cancel.is_cancelled());
    again.end(Ok(pong()));
    stage.ends_as("t", "completed").await;
    assert_eq!(stage.events().into_iter().filter(is_cancel).count(), told + 1, "that of u");
    stage.stop().await;
}

/// What the far end asks for counts more than the policy.
#[tokio::test]
async fn a_retry_waits_for_as_long_as_was_asked_for() {
    let stage = Stage::new().await;
    let retry = json!({"max_attempts": 2, "base_delay": 0.01, "max_delay": 1});
    let body = json!({"id": "t", "method": "ping", "retry": retry});
    stage.publish(Queue::Tasks(stage::echo()), body.to_string().into()).await;
    let hour = Duration::from_secs(3600);
    let failure = Failure::new(Code::TaskExecutionFailed, "not now");
    stage.call().await.end(Err(Failure { retry_after: Some(hour), ..failure }));
    stage.is(&alone("t"), TaskState::Delayed).await;
    stage
        .comes("the next attempt", |stage| stage.published().iter().any(|message| message.delay.is_some()))
        .await;
    let waits = stage.published().into_iter().find_map(|message| message.delay);
    assert!(waits.is_some_and(|wait| wait >= hour), "{waits:?}");
    stage.stop().await;
}

/// Of a retry by hand the store knows nothing any more; messages of its run are left.
#[tokio::test]
async fn messages_of_a_run_that_the_store_has_lost_are_dead_letters_with_advice_until_it_is_retried_again() {
    let stage = Stage::new().await;
    let task =
        |name: &str, on: serde_json::Value| json!({"id": name, "method": "echo/ping", "dependencies": on});
    let tasks = [task("a", json!([])), task("b", json!([])), task("c", json!(["a", "b"]))];
    stage.submit("w", &json!({"name": "W", "tasks": tasks})).await;
    for _ in ["a", "b"] {
        stage.call().await.end(Err(Failure::new(Code::TaskExecutionFailed, "as asked")));
    }
    stage.ends_as("w", "failed").await;
    stage.comes("the letters of a and b", |stage| stage.letters().len() == 2).await;
    let message = |name: &str| json!({"id": name, "workflow": "w", "method": "ping"});
    stage.message(2, &message("c")).await;
    stage.comes("a letter of c", |stage| stage.letters().len() == 3).await;
    let letters = stage.letters();
    assert!(letters[2].contains("WORKFLOW_INVALID_STATE"), "{letters:?}");
    assert!(letters[2].contains("the store has lost a retry of workflow w"), "{letters:?}");
    assert!(letters[2].contains("gleitzeit retry w"), "{letters:?}");

    let before = stage.runs().len();
    stage.command(&Command::Retry { id: id("w"), by: Some(id("r")) }).await;
    stage.comes("the retry", |stage| stage.runs().len() > before).await;
    stage.message(2, &message("c")).await;
    let mut called = Vec::new();
    for _ in ["a", "b", "c"] {
        let call = stage.call().await;
        called.push(call.key.to_string());
        call.end(Ok(pong()));
    }
    called[..2].sort();
    assert_eq!(called, ["w/a", "w/b", "w/c"]);
    stage.ends_as("w", "completed").await;
    // What is left of it is just settled.
    stage.message(2, &message("a")).await;
    stage.message(1, &message("b")).await;
    stage.task("t").await;
    let other = stage.call().await;
    assert_eq!(other.key, alone("t"));
    other.end(Ok(pong()));
    stage.ends_as("t", "completed").await;
    assert_eq!(stage.letters().len(), 3, "{:?}", stage.letters());
    stage.stop().await;
}

/// Somebody sends the task once more, while a retry by hand runs it again.
#[tokio::test]
async fn who_waits_with_a_message_of_the_run_before_is_answered_with_the_end_of_the_present_one() {
    let stage = Stage::new().await;
    let lease = stage.claimed_in(Some(2), "other", "t").await;
    stage.message(1, &json!({"id": "t", "method": "ping", "reply": {"to": "somebody"}})).await;
    stage.is_looked_at(2).await;
    assert_eq!(stage.replies(), [""; 0]);
    stage.completes(&lease).await;
    stage.comes("a reply", |stage| !stage.replies().is_empty()).await;
    let replies = stage.replies();
    assert!(replies.len() == 1 && replies[0].contains(r#""status":"completed""#), "{replies:?}");
    stage.stop().await;
}

#[tokio::test]
async fn what_the_broker_ends_of_the_run_before_is_no_death() {
    let stage = Stage::new().await;
    stage.claimed_in(Some(2), "other", "t").await;
    for name in ["t", "u"] {
        stage.inbox(&json!({"id": name, "method": "ping"})).await;
    }
    stage
        .comes("a letter", |stage| stage.letters().iter().any(|letter| letter.contains(r#""id":"u""#)))
        .await;
    assert_eq!(stage.letters().len(), 1, "{:?}", stage.letters());
    assert_eq!(stage.state(&alone("t")).await, Some(TaskState::Running));
    stage.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_of_the_run_before_is_no_death() {
    let stage = Stage::new().await;
    stage.claimed_in(Some(2), "other", "t").await;
    for name in ["t", "u"] {
        stage.message(1, &json!({"id": name, "method": "ping", "priority": "soonish"})).await;
    }
    stage.ends_as("u", "failed").await;
    stage.comes("a letter", |stage| !stage.letters().is_empty()).await;
    // What is asked for after it is dealt with after it.
    stage.task("v").await;
    stage.call().await.end(Ok(pong()));
    stage.ends_as("v", "completed").await;
    let letters = stage.letters();
    assert!(letters.len() == 1 && letters[0].contains(r#""id":"u""#), "{letters:?}");
    assert_eq!(stage.state(&alone("t")).await, Some(TaskState::Running));
    stage.stop().await;
}

/// Each long attempt has a guard of its own; those of earlier ones must not circle until the task ends.
#[tokio::test]
async fn the_guard_of_an_earlier_attempt_goes_when_a_guard_stands_for_a_later_one() {
    let stage = Stage::with(|settings| settings.guard_after = Duration::from_millis(20)).await;
    stage.beat("other", Duration::from_secs(600)).await;
    let earlier = stage.claimed_by("other", "t").await;
    stage.give_back(&earlier).await;
    stage.task("t").await;
    let call = stage.call().await;
    stage.comes("a guard", |stage| stage.guards() == 1).await;
    assert_eq!(stage.delayed().await, 1, "its own");
    stage.guard("t", "other", &earlier).await;
    assert_eq!(stage.delayed().await, 1, "the earlier one goes");
    call.end(Ok(pong()));
    stage.ends_as("t", "completed").await;
    stage.stop().await;
}

/// It may be the message by which the later lease was taken over; that it was delivered before is forgotten when it
/// is published again.
#[tokio::test]
async fn the_guard_of_an_earlier_attempt_stays_while_it_may_be_the_last_message() {
    let stage = Stage::new().await;
    stage.beat("other", Duration::from_secs(600)).await;
    let earlier = stage.claimed_by("other", "t").await;
    stage.give_back(&earlier).await;
    stage.claimed_by("other", "t").await;
    stage.guard("t", "other", &earlier).await;
    assert_eq!(stage.delayed().await, 1, "it looks again");
    stage.stop().await;
}

#[tokio::test]
async fn an_end_whose_lease_a_failover_lost_is_recorded_when_its_message_comes_again() {
    let stage = Stage::new().await;
    stage.store.forget_a_lease();
    stage.broken("t").await;
    stage.ends_as("t", "failed").await;
    stage.stop().await;
}
