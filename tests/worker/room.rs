//! Tasks and what the worker has: who holds it, who waits for it, and who can never have it.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};

use gleitzeit::broker::Outgoing;
use gleitzeit::core::clock::Clock;
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::TaskKey;
use gleitzeit::core::resources::{Kind, Totals};
use gleitzeit::core::state::TaskState;
use gleitzeit::store::{Cancelled, Introductions, Store};
use gleitzeit::topology::Queue;
use gleitzeit::wire::command::Command;
use gleitzeit::wire::worker::About;

use crate::stage::{Call, Stage, alone, echo, id, pong};
use crate::wall_clock::WallClock;

const ROOM: &str = "gleitzeit-room-since";
const NOBODY: &str = "gleitzeit-room-nobody-since";

/// A worker with so many MiB for its tasks.
async fn memory(megabytes: u64) -> Stage {
    Stage::with(|settings| settings.resources = Totals::default().with(Kind::Memory, Some(megabytes))).await
}

/// A task that asks for so many MiB.
fn asks(name: &str, megabytes: u64) -> Value {
    json!({"id": name, "method": "ping", "resource_requirements": {"memory_mb": megabytes}})
}

async fn submit(stage: &Stage, body: &Value) {
    stage.publish(Queue::Tasks(echo()), body.to_string().into()).await;
}

/// What the worker has parked of a task for want of room.
fn parked(stage: &Stage, name: &str) -> Vec<Outgoing> {
    let is_of = |message: &Outgoing| {
        let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        body["id"] == name && message.properties.headers.contains_key(ROOM)
    };
    stage.published().into_iter().filter(is_of).collect()
}

/// Waits for the next call, which is of this task.
async fn runs(stage: &Stage, name: &str) -> Call {
    let call = stage.call().await;
    assert_eq!(call.key, alone(name));
    call
}

#[tokio::test]
async fn two_large_tasks_never_run_at_once_and_small_ones_go_on_meanwhile() {
    let stage = memory(100).await;
    submit(&stage, &asks("large-1", 80)).await;
    let first = runs(&stage, "large-1").await;
    submit(
        &stage,
        &json!({"priority": 7, "id": "large-2", "method": "ping",
        "resource_requirements": {"memory_mb": 80}}),
    )
    .await;
    stage.comes("a parked task", |stage| !parked(stage, "large-2").is_empty()).await;
    for small in ["small-1", "small-2"] {
        submit(&stage, &asks(small, 10)).await;
        runs(&stage, small).await.end(Ok(pong()));
        stage.ends_as(small, "completed").await;
    }
    submit(&stage, &json!({"id": "nothing", "method": "ping"})).await;
    runs(&stage, "nothing").await.end(Ok(pong()));
    assert_eq!(stage.attempts("large-2").await, 0, "what waits is uncounted");
    let waits = parked(&stage, "large-2").remove(0);
    assert!(waits.delay.is_some() && waits.properties.priority == Some(7), "{waits:?}");
    first.end(Ok(pong()));
    let second = runs(&stage, "large-2").await;
    assert_eq!(second.attempt, 1);
    second.end(Ok(pong()));
    stage.ends_as("large-2", "completed").await;
    stage.stop().await;
}

/// Two of them run at any time, and many wait: without room that is kept all of it would never be free.
#[tokio::test]
async fn a_large_task_has_its_turn_within_a_stream_of_small_ones() {
    let stage = memory(100).await;
    let mut sent = 0;
    let mut small = async || {
        sent += 1;
        submit(&stage, &asks(&format!("small-{sent}"), 50)).await;
    };
    for _ in 0..6 {
        small().await;
    }
    let mut running = VecDeque::from([stage.call().await, stage.call().await]);
    submit(&stage, &asks("large", 100)).await;
    let large = loop {
        let oldest_ends = tokio::time::sleep(Duration::from_millis(200));
        tokio::select! {
            call = stage.call() => {
                if call.key == alone("large") {
                    break call;
                }
                running.push_back(call);
                assert!(running.len() <= 2, "each has half of it");
                small().await;
            }
            () = oldest_ends => {
                if let Some(oldest) = running.pop_front() {
                    oldest.end(Ok(pong()));
                }
            }
        }
    };
    assert!(running.is_empty(), "it has all of it");
    large.end(Ok(pong()));
    stage.ends_as("large", "completed").await;
    // The others have their turn again.
    stage.call().await.end(Ok(pong()));
}

#[tokio::test]
async fn what_a_task_holds_is_free_again_however_it_ends() {
    let stage = memory(100).await;
    submit(&stage, &asks("fails", 100)).await;
    runs(&stage, "fails").await.end(Err(Failure::new(Code::TaskExecutionFailed, "as asked").final_now()));
    stage.ends_as("fails", "failed").await;
    submit(&stage, &asks("cancelled", 100)).await;
    let call = runs(&stage, "cancelled").await;
    assert!(matches!(stage.cancel("cancelled", None).await, Cancelled::Done { .. }));
    stage.command(&Command::Cancel { id: id("cancelled"), by: None }).await;
    call.is_cancelled().await;
    // Given back: nobody could be asked.
    submit(&stage, &asks("later", 100)).await;
    let busy = Failure::new(Code::ProviderOverloaded, "not now").not_begun();
    runs(&stage, "later").await.end(Err(busy));
    let again = runs(&stage, "later").await;
    assert_eq!(again.attempt, 1);
    again.end(Ok(pong()));
    stage.ends_as("later", "completed").await;
    submit(&stage, &asks("last", 100)).await;
    runs(&stage, "last").await.end(Ok(pong()));
    stage.ends_as("last", "completed").await;
    stage.stop().await;
}

/// The time that it asks for is its timeout, unless it says another one.
#[tokio::test]
async fn the_time_that_a_task_asks_for_bounds_its_attempts() {
    let stage = Stage::new().await;
    let needs = json!({"execution_timeout": 7});
    for (name, timeout, seconds) in [("a", Value::Null, 7), ("b", json!(5), 5)] {
        let mut body = json!({"id": name, "method": "ping", "resource_requirements": needs});
        if !timeout.is_null() {
            body["timeout"] = timeout;
        }
        submit(&stage, &body).await;
        let call = runs(&stage, name).await;
        // Less what has passed.
        assert_eq!(call.timeout.as_secs_f64().ceil(), f64::from(seconds), "{name}");
        call.end(Ok(pong()));
    }
    stage.stop().await;
}

#[tokio::test]
async fn what_nobody_can_hold_is_a_dead_letter_with_what_it_asks_for_and_what_there_is() {
    let stage = memory(100).await;
    // Larger, but of another protocol; and nearer.
    introduce(&stage, "large", "python/v1", 1000).await;
    introduce(&stage, "near", "echo/v1", 150).await;
    submit(&stage, &asks("t", 200)).await;
    stage.ends_as("t", "failed").await;
    let document = stage.document(&alone("t")).await;
    let error = &document["error"];
    assert_eq!(
        (&error["name"], &document["attempts"]),
        (&json!("RESOURCE_NOT_AVAILABLE"), &json!(1)),
        "{document}"
    );
    let message = error["message"].as_str().expect("a text");
    assert!(message.contains("memory_mb 200; worker near comes nearest, with memory_mb 150"), "{message}");
    assert_eq!(error["details"]["asked"], json!({"memory_mb": 200}));
    assert_eq!(error["details"]["nearest"], json!({"memory_mb": 150}));
    stage.comes("a dead letter", |stage| !stage.letters().is_empty()).await;
    let letters = stage.letters();
    assert!(letters.len() == 1 && letters[0].contains("RESOURCE_NOT_AVAILABLE"), "{letters:?}");
    assert!(!parked(&stage, "t").is_empty(), "it has been looked for somebody first");
    // What is small goes on all the while.
    submit(&stage, &asks("small", 100)).await;
    runs(&stage, "small").await.end(Ok(pong()));
    stage.ends_as("small", "completed").await;
    stage.stop().await;
}

#[tokio::test]
async fn what_another_worker_can_hold_waits_for_that_one() {
    let stage = memory(100).await;
    introduce(&stage, "large", "echo/v1", 300).await;
    let mut body = asks("t", 200);
    body["priority"] = json!(3);
    submit(&stage, &body).await;
    stage.comes("a search", |stage| parked(stage, "t").len() >= 2).await;
    let since = |message: &Outgoing| message.properties.headers[ROOM].clone();
    let sent = parked(&stage, "t");
    assert_eq!(since(&sent[0]), since(&sent[1]), "it is known since when it waits");
    assert!(sent.iter().all(|message| message.properties.priority == Some(3)), "{sent:?}");
    stage.is(&alone("t"), TaskState::Queued).await;
    // That one goes.
    stage.leave("large").await;
    stage.ends_as("t", "failed").await;
    assert_eq!(stage.document(&alone("t")).await["error"]["name"], "RESOURCE_NOT_AVAILABLE");
    stage.stop().await;
}

/// While it cannot be known who lives nobody is given up.
#[tokio::test]
async fn while_the_store_cannot_say_who_lives_a_task_waits() {
    let stage = memory(100).await;
    stage.store.hide_who_lives(true);
    submit(&stage, &asks("t", 200)).await;
    // Longer than somebody is looked for once it is known that there is nobody.
    stage.comes("several searches", |stage| parked(stage, "t").len() >= 5).await;
    let counts = |message: &Outgoing| message.properties.headers.contains_key(NOBODY);
    assert!(!parked(&stage, "t").iter().any(counts), "it is not known that there is nobody");
    introduce(&stage, "large", "echo/v1", 300).await;
    stage.store.hide_who_lives(false);
    let before = parked(&stage, "t").len();
    stage.comes("another search", |stage| parked(stage, "t").len() > before).await;
    assert_eq!(stage.letters(), [""; 0]);
    stage.is(&alone("t"), TaskState::Queued).await;
    stage.stop().await;
}

/// Of those who consume its queue one has never said what it has, as an older version does not.
#[tokio::test]
async fn beside_a_worker_that_does_not_say_what_it_has_a_task_is_looked_for_somebody_longer() {
    let stage = memory(100).await;
    stage.others_consume(1);
    submit(&stage, &asks("t", 200)).await;
    let looked_for = |stage: &Stage| {
        let sent = parked(stage, "t");
        let since = sent.last().and_then(|message| message.properties.headers.get(NOBODY));
        let since = since.map(|since| since.parse().expect("a time"));
        since.map_or(Duration::ZERO, |since| WallClock.now().since(since))
    };
    // Among workers that all say what they have it would have been given up by then.
    stage.comes("a search after that", |stage| looked_for(stage) >= Duration::from_secs(12)).await;
    let before = parked(&stage, "t").len();
    stage.comes("another search", |stage| parked(stage, "t").len() > before).await;
    stage.is(&alone("t"), TaskState::Queued).await;
    stage.others_consume(0);
    stage.ends_as("t", "failed").await;
    assert_eq!(stage.document(&alone("t")).await["error"]["name"], "RESOURCE_NOT_AVAILABLE");
    stage.stop().await;
}

/// What need not run needs no room.
#[tokio::test]
async fn a_task_whose_condition_does_not_hold_is_skipped_whatever_it_asks_for() {
    let stage = memory(100).await;
    let task = json!({"id": "t", "method": "echo/ping", "when": "1 == 2", "resource_requirements": {"memory_mb": 200}});
    stage.submit("w", &json!({"name": "W", "tasks": [task]})).await;
    stage.ends_as("w", "completed").await;
    let key = TaskKey::within(id("w"), id("t"));
    assert_eq!(stage.state(&key).await, Some(TaskState::Skipped));
    stage.stop().await;
}

/// A guard runs nothing: it must see a death while others hold all there is.
#[tokio::test]
async fn the_guard_of_a_task_that_holds_everything_looks_on() {
    let stage = Stage::with(|settings| {
        settings.resources = Totals::default().with(Kind::Memory, Some(100));
        settings.guard_after = Duration::from_millis(100);
    })
    .await;
    submit(&stage, &asks("t", 100)).await;
    let call = runs(&stage, "t").await;
    stage.comes("a second look", |stage| stage.guards() >= 2).await;
    assert!(parked(&stage, "t").is_empty(), "it does not wait for what its own task holds");
    call.end(Ok(pong()));
    stage.ends_as("t", "completed").await;
    stage.stop().await;
}

/// A worker that lives, with so much memory for tasks of a protocol.
async fn introduce(stage: &Stage, session: &str, protocol: &str, megabytes: u64) {
    let forever = Duration::from_secs(600);
    stage.store.beat(&id(session), forever, WallClock.now()).await.expect("beat answers");
    let resources = Totals::default().with(Kind::Memory, Some(megabytes));
    let about = About { protocols: vec![protocol.parse().expect("valid")], resources };
    stage.store.introduce(&id(session), &about.encode()).await.expect("introduce answers");
}
