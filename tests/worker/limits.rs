//! Tasks that wait for a limit: what they carry with them, what cannot be forged, and in which order it is done.

use serde_json::{Value, json};
use std::time::Duration;

use gleitzeit::broker::{Outgoing, Properties};
use gleitzeit::core::clock::{Clock, Timestamp};
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::limit::{Cost, Key, Pace, Rule, Scope};
use gleitzeit::core::state::TaskState;
use gleitzeit::topology::Queue;

use crate::said::Said;
use crate::stage::{Stage, alone, echo, pong};
use crate::wall_clock::WallClock;

/// So slow that nothing comes while a test runs.
const HOURLY: f64 = 1.0 / 3600.0;
const QUEUE: &str = "gleitzeit.tasks.echo.v1";
const ADMITTED: &str = "gleitzeit-admitted";
const GUARD: &str = "gleitzeit-guard";

/// A limit of echoes that all workers share, for each tenant.
fn tenants(per_second: f64) -> Rule {
    Rule { key: Some(Key::Header("x-tenant".to_owned())), ..all(per_second) }
}

/// A limit of all echoes that all workers share.
fn all(per_second: f64) -> Rule {
    Rule {
        name: "l".to_owned(),
        protocol: "echo/v1".parse().expect("valid"),
        method: None,
        provider: None,
        key: None,
        pace: Pace { per_second, burst: 1.0 },
        scope: Scope::Global,
        cost: Cost::One,
    }
}

/// It costs what nobody can tell before the call: the parameter may have a default.
fn told_late(rule: Rule) -> Rule {
    Rule { cost: Cost::Param(vec!["size".to_owned()]), ..rule }
}

async fn publish(stage: &Stage, name: &str, headers: &[(&str, &str)]) {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let properties = Properties { headers, ..Properties::default() };
    let body = json!({"id": name, "method": "ping"}).to_string();
    stage.publish_with(Queue::Tasks(echo()), body.into(), properties).await;
}

/// The task's next call, which ends well.
async fn runs(stage: &Stage, name: &str) {
    let call = stage.call().await;
    assert_eq!(call.key, alone(name));
    call.end(Ok(pong()));
    stage.ends_as(name, "completed").await;
}

fn is_of(message: &Outgoing, name: &str) -> bool {
    let body: Value = serde_json::from_slice(&message.body).expect("JSON");
    body["id"] == name
}

/// Waits until the worker has parked a task; the message.
async fn parked(stage: &Stage, name: &str) -> Outgoing {
    let found = |stage: &Stage| stage.published().into_iter().find(|message| is_of(message, name));
    stage.comes("a parked message", |stage| found(stage).is_some()).await;
    let message = found(stage).expect("it was there");
    assert!(message.delay.is_some(), "{message:?}");
    message
}

#[tokio::test]
async fn a_parked_task_has_its_place_in_line_and_asks_no_more() {
    // One every 5 s: more than a worker holds a task in hand, however late it is.
    let stage = Stage::limited(vec![tenants(0.2)]).await;
    publish(&stage, "t1", &[("x-tenant", "a")]).await;
    runs(&stage, "t1").await;
    publish(&stage, "t2", &[("x-tenant", "a")]).await;
    let message = parked(&stage, "t2").await;
    let told = message.properties.headers.get(ADMITTED).expect("it has its place").clone();
    assert!(told.starts_with("l=1:"), "{told}");
    runs(&stage, "t2").await;
    assert_eq!(stage.published().iter().filter(|message| is_of(message, "t2")).count(), 1, "it waited once");
    // What another task has, or nobody has proved, is no place.
    for (name, place) in [("t3", told.as_str()), ("t4", "l=1"), ("t5", "l=1:nonsense")] {
        publish(&stage, name, &[("x-tenant", "a"), (ADMITTED, place)]).await;
        let message = parked(&stage, name).await;
        let own = message.properties.headers.get(ADMITTED);
        assert!(own.is_some_and(|own| own != place), "{name}: {own:?}");
    }
    stage.stop().await;
}

#[tokio::test]
async fn what_waits_for_a_key_is_parked_before_it_is_settled() {
    let stage = Stage::limited(vec![tenants(HOURLY)]).await;
    publish(&stage, "t1", &[("x-tenant", "a")]).await;
    runs(&stage, "t1").await;
    stage.journal.until(&format!("settle {QUEUE}")).await;
    publish(&stage, "t2", &[("x-tenant", "a")]).await;
    let entries = stage.journal.until(&format!("settle {QUEUE}")).await;
    assert_eq!(entries, [format!("publish {QUEUE}"), format!("settle {QUEUE}")]);
    assert_eq!(stage.attempts("t2").await, 0);
    stage.stop().await;
}

/// Or it would be the last of those who wait for room again and again.
#[tokio::test]
async fn while_a_task_waits_for_a_limit_it_stays_known_since_when_it_waits_for_room() {
    let stage = Stage::limited(vec![tenants(HOURLY)]).await;
    publish(&stage, "t1", &[("x-tenant", "a")]).await;
    runs(&stage, "t1").await;
    let since = Timestamp::from_millis(WallClock.now().as_millis() - 5_000).to_string();
    let known = [("gleitzeit-room-since", since.as_str()), ("gleitzeit-room-nobody-since", since.as_str())];
    publish(&stage, "t2", &[("x-tenant", "a"), known[0], known[1]]).await;
    let message = parked(&stage, "t2").await;
    for (name, since) in known {
        assert_eq!(message.properties.headers.get(name).map(String::as_str), Some(since), "{message:?}");
    }
    stage.stop().await;
}

/// A guard is told by a header, and anybody may write one.
#[tokio::test]
async fn who_says_that_it_is_a_guard_waits_like_any_other() {
    let stage = Stage::limited(vec![tenants(HOURLY)]).await;
    publish(&stage, "t1", &[("x-tenant", "a")]).await;
    runs(&stage, "t1").await;
    stage.journal.until(&format!("settle {QUEUE}")).await;
    publish(&stage, "t2", &[("x-tenant", "a"), (GUARD, "somebody:1")]).await;
    let message = parked(&stage, "t2").await;
    assert!(!message.properties.headers.contains_key(GUARD), "{message:?}");
    let entries = stage.journal.until(&format!("settle {QUEUE}")).await;
    assert_eq!(entries, ["finish".to_owned(), format!("publish {QUEUE}"), format!("settle {QUEUE}")]);
    assert_eq!(stage.state(&alone("t2")).await, Some(TaskState::Queued));
    publish(&stage, "t3", &[("x-tenant", "b"), (GUARD, "somebody:1")]).await;
    runs(&stage, "t3").await;
    stage.stop().await;
}

#[tokio::test]
async fn what_is_told_late_counts_for_its_own_key() {
    let stage = Stage::limited(vec![told_late(tenants(HOURLY))]).await;
    publish(&stage, "t1", &[("x-tenant", "a")]).await;
    runs(&stage, "t1").await;
    publish(&stage, "t2", &[("x-tenant", "a")]).await;
    parked(&stage, "t2").await;
    publish(&stage, "t3", &[("x-tenant", "b")]).await;
    runs(&stage, "t3").await;
    assert_eq!(stage.state(&alone("t2")).await, Some(TaskState::Queued));
    stage.stop().await;
}

#[tokio::test]
async fn a_limit_of_a_whole_protocol_leaves_its_queue_alone_also_where_it_is_told_late() {
    let stage = Stage::limited(vec![told_late(all(HOURLY))]).await;
    publish(&stage, "t1", &[]).await;
    runs(&stage, "t1").await;
    stage.journal.until(&format!("settle {QUEUE}")).await;
    publish(&stage, "t2", &[]).await;
    let entries = stage.journal.until(&format!("release {QUEUE}")).await;
    assert_eq!(entries, ["finish".to_owned(), format!("release {QUEUE}")], "it goes back as it came");
    assert_eq!(stage.consumers(&Queue::Tasks(echo())).await, 0, "and nobody takes it again");
    assert_eq!(stage.state(&alone("t2")).await, Some(TaskState::Queued));
    stage.stop().await;
}

/// As a limit of all that it does would be.
#[tokio::test]
async fn a_server_that_asks_for_quiet_during_a_call_leaves_the_queue_alone() {
    let stage = Stage::limited(vec![Rule { provider: Some("player".to_owned()), ..all(1e6) }]).await;
    publish(&stage, "t1", &[]).await;
    let busy = Failure::new(Code::ConnectionLost, "too many requests");
    let wait = Some(Duration::from_secs(60));
    stage.call().await.end(Err(Failure { retry_after: wait, ..busy }));
    stage.journal.until(&format!("settle {QUEUE}")).await;
    publish(&stage, "t2", &[]).await;
    let entries = stage.journal.until(&format!("release {QUEUE}")).await;
    assert_eq!(entries, ["finish".to_owned(), format!("release {QUEUE}")], "it goes back as it came");
    assert_eq!(stage.consumers(&Queue::Tasks(echo())).await, 0, "and nobody takes it again");
    stage.stop().await;
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_for_limits_is_told_once() {
    let said = Said::default();
    let _subscribed = said.subscribe();
    let stage = Stage::limited(vec![tenants(1e6)]).await;
    stage.store.go().await;
    for name in ["t1", "t2"] {
        publish(&stage, name, &[("x-tenant", name)]).await;
    }
    let silent = "the store cannot be asked for limits";
    stage.comes("a warning", |_| said.times(silent) > 0).await;
    stage.store.come_back();
    let both = [stage.call().await, stage.call().await];
    both.into_iter().for_each(|call| call.end(Ok(pong())));
    for name in ["t1", "t2"] {
        stage.ends_as(name, "completed").await;
    }
    assert_eq!((said.times(silent), said.times("the store can be asked for limits again")), (1, 1));
    stage.stop().await;
}
