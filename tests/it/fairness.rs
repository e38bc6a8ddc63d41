//! Lanes with real workers: who sends much does not keep others waiting, and nothing is lost on the way.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use gleitzeit::client::Client;
use gleitzeit::config::{self, Sources};
use gleitzeit::core::clock::Timestamp;
use gleitzeit::core::fairness::lane_of;
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::core::retry::{Backoff, Jitter, RetryPolicy};
use gleitzeit::core::task::Spec;
use gleitzeit::runtime::{Role, Runtime};
use gleitzeit::wire::task::Task;

use crate::own::is_full;
use crate::place::Place;
use crate::support::{Embedded, Running, until};

const LANES: u16 = 4;
const FOUR: &str = "[fairness.'echo/v1']\nlanes = 4\n";
const TASKS: &str = "gleitzeit.tasks.echo.v1";

/// A key of this lane.
fn key(lane: u16) -> String {
    (0..).map(|number| format!("tenant-{number}")).find(|key| lane_of(key, LANES) == lane).expect("one")
}

fn lane_queue(lane: u16) -> String {
    format!("{TASKS}.lane.{lane}")
}

async fn open(file: &str, environment: &[(&str, String)]) -> Runtime {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    let sources = Sources { file: Some(file.into()), environment: environment.collect(), flags: Vec::new() };
    let config = config::load(&sources).expect("valid");
    Runtime::open(config, Role::Client, None).await.expect("it connects")
}

/// Over the servers of `place`.
async fn open_at(place: &Place, file: &str) -> Runtime {
    let environment = [
        ("GLEITZEIT_AMQP_URL", place.vhost.url()),
        ("GLEITZEIT_REDIS_URL", place.redis.clone()),
        ("GLEITZEIT_REDIS_PREFIX", place.prefix.clone()),
    ];
    open(file, &environment).await
}

fn ping(id: &str, key: &str) -> Task {
    let mut spec = Spec::new("echo/v1".parse().expect("a protocol"), "ping", json!({}));
    spec.fairness_key = Some(key.to_owned());
    Task::new(Some(Id::parse(id).expect("an id")), spec)
}

async fn submit(client: &Client, tasks: Vec<Task>) {
    for some in tasks.chunks(200) {
        for submitted in join_all(some.iter().map(|task| client.submit(task.clone()))).await {
            submitted.expect("it is submitted");
        }
    }
}

fn ids(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}{number}")).collect()
}

/// When each of them was started, once all have ended.
async fn started(client: &Client, ids: &[String]) -> Vec<i64> {
    let mut times = Vec::new();
    for id in ids {
        let ended = client.wait(&Id::parse(id).expect("an id"), Some(Duration::from_secs(240))).await;
        let document = ended.expect("the store answers").expect("it ends").document.expect("it is kept");
        let document: Value = serde_json::from_slice(&document).expect("JSON");
        assert_eq!(
            (&document["status"], &document["attempts"]),
            (&json!("completed"), &json!(1)),
            "{document}"
        );
        let text = document["started_at"].as_str().expect("it has run");
        times.push(text.parse::<Timestamp>().expect("a time").as_millis());
    }
    times
}

/// One sends very much, another little after that: all of it is there before the first is taken. So many of the flood
/// were started before the last of the others.
async fn flooded(runtime: &Runtime, start_worker: impl FnOnce() -> Running) -> (usize, usize) {
    let (much, few) = if is_full() { (5_000, 50) } else { (600, 20) };
    let client = runtime.client();
    let (flood, others) = (ids("flood", much), ids("other", few));
    submit(&client, flood.iter().map(|id| ping(id, &key(0))).collect()).await;
    submit(&client, others.iter().map(|id| ping(id, &key(2))).collect()).await;
    let _worker = start_worker();
    let last = started(&client, &others).await.into_iter().max().expect("some");
    let before = started(&client, &flood).await.into_iter().filter(|at| *at <= last).count();
    println!("{before} of {much} tasks of a flood were started before the last of {few} others");
    (before, much)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_key_does_not_keep_another_waiting() {
    let Some(place) = Place::new() else { return };
    let file = place.write("lanes.toml", FOUR);
    place.run(&["topology", "apply", "--config", &file]).expect(0);
    let runtime = open_at(&place, &file).await;
    // Fewer places than lanes.
    let args = ["--config", &file, "--protocol", "echo/v1", "--concurrency", "2"];
    let (before, much) = flooded(&runtime, || place.worker(&args)).await;
    assert!(before < much / 2, "{before} of {much}");
    runtime.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_key_does_not_keep_another_waiting_embedded() {
    let here = Embedded::new();
    let file = here.write("lanes.toml", FOUR);
    let state = here.path("state.db").to_string_lossy().into_owned();
    let runtime = open(&file, &[("GLEITZEIT_STATE_PATH", state)]).await;
    let start_worker = || {
        let args = ["worker", "--config", &file, "--protocol", "echo/v1", "--concurrency", "2"];
        let mut command = here.command(&args);
        Running(command.stderr(std::process::Stdio::null()).spawn().expect("the binary starts"))
    };
    let (before, much) = flooded(&runtime, start_worker).await;
    assert!(before < much / 2, "{before} of {much}");
    runtime.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knows_nothing_of_lanes_has_turns_too() {
    let Some(place) = Place::new() else { return };
    let file = place.write("lanes.toml", FOUR);
    place.run(&["topology", "apply", "--config", &file]).expect(0);
    let runtime = open_at(&place, &file).await;
    let client = runtime.client();
    let flood = ids("flood", 400);
    submit(&client, flood.iter().map(|id| ping(id, &key(1))).collect()).await;
    // Without a key, and with one whose lane the producer has computed.
    let (without, with) = (ids("without", 10), ids("with", 10));
    for (ids, routing_key) in [(&without, "echo.v1".to_owned()), (&with, format!("echo.v1.lane.{}", 3))] {
        for id in ids {
            let body = json!({"method": "ping", "id": id}).to_string();
            place.publish("gleitzeit.tasks", &routing_key, &body, &json!({"message_id": id}));
        }
    }
    let _worker = place.worker(&["--config", &file, "--protocol", "echo/v1", "--concurrency", "1"]);
    let others = [started(&client, &without).await, started(&client, &with).await].concat();
    let last = others.into_iter().max().expect("some");
    let before = started(&client, &flood).await.into_iter().filter(|at| *at <= last).count();
    assert!(before < flood.len() / 2, "{before}");
    runtime.close().await;
}

/// How many messages are ready in the protocol's queue and in each lane.
fn ready(place: &Place) -> BTreeMap<String, u64> {
    let names = [TASKS.to_owned()].into_iter().chain((0..LANES).map(lane_queue));
    names
        .filter_map(|name| {
            let count = place.vhost.queue(&name)["messages_ready"].as_u64().unwrap_or(0);
            (count > 0).then_some((name, count))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_comes_back_into_its_lane() {
    let Some(place) = Place::new() else { return };
    let file = place.write("lanes.toml", FOUR);
    place.run(&["topology", "apply", "--config", &file]).expect(0);
    let runtime = open_at(&place, &file).await;
    let client = runtime.client();
    let mut task = ping("again", &key(3));
    task.spec.method = "error".to_owned();
    task.spec.params = json!({"message": "not yet", "retryable": true});
    // Often enough for the worker to be stopped in between, however long that takes.
    task.spec.retry = Some(RetryPolicy {
        max_attempts: 10,
        backoff: Backoff::Fixed,
        base_delay: 4.0,
        jitter: Jitter::Off,
        ..RetryPolicy::default()
    });
    let id = task.id.clone().expect("it has one");
    submit(&client, vec![task]).await;
    let mut worker = place.worker(&["--config", &file, "--protocol", "echo/v1"]);
    let key = TaskKey::alone(id);
    while client.reader().state(&key).await.expect("answers").is_none_or(|state| state.name != "delayed") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::task::block_in_place(|| {
        assert_eq!(worker.drain(), Some(0));
        until("the retry to be due", || !ready(&place).is_empty());
        assert_eq!(ready(&place), BTreeMap::from([(lane_queue(3), 1)]));
    });
    runtime.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_that_are_not_configured_any_more_are_drained_and_can_be_removed() {
    let Some(place) = Place::new() else { return };
    let file = place.write("lanes.toml", FOUR);
    place.run(&["topology", "apply", "--config", &file]).expect(0);
    let runtime = open_at(&place, &file).await;
    let client = runtime.client();
    let early = ids("early", 8);
    submit(&client, early.iter().zip((0..LANES).cycle()).map(|(id, lane)| ping(id, &key(lane))).collect())
        .await;
    // One that is due when its lane is gone.
    let mut late = ping("late", &key(3));
    let soon = jiff::Timestamp::now().as_millisecond() + 15_000;
    late.spec.not_before = Some(Timestamp::from_millis(soon));
    submit(&client, vec![late]).await;
    runtime.close().await;

    let said = tokio::task::block_in_place(|| place.run(&["topology", "check"]).expect(4)).stdout;
    for lane in 0..LANES {
        assert!(said.contains(&format!("{}: is a lane that is not configured", lane_queue(lane))), "{said}");
    }
    let worker = place.worker(&["--protocol", "echo/v1"]);
    let empty = place.write("empty.toml", "");
    let runtime = open_at(&place, &empty).await;
    started(&runtime.client(), &early).await;
    tokio::task::block_in_place(|| {
        let ran = place.run(&["topology", "apply", "--migrate", "--settle", "1"]).expect(0);
        assert!(
            ran.stdout.contains(&format!("queue {}: is not configured any more", lane_queue(3))),
            "{ran:?}"
        );
        place.run(&["topology", "check"]).expect(0);
    });
    started(&runtime.client(), &["late".to_owned()]).await;
    drop(worker);
    runtime.close().await;
}

/// Nobody has such a protocol: no queue of it takes what its lane does not.
#[test]
fn a_lane_of_a_protocol_that_there_is_not_ends_as_a_dead_letter_and_holds_up_nobody() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    for (id, routing_key) in [("lane", "nosuch.v1.lane.0"), ("plain", "nosuch.v1")] {
        let body = json!({"method": "ping", "id": id}).to_string();
        place.publish("gleitzeit.tasks", routing_key, &body, &json!({"message_id": id}));
        let document = place.result(id);
        assert_eq!(document["error"]["name"], "PROTOCOL_NOT_FOUND", "{document}");
    }
    until("both letters", || place.run(&["dead", "list", "--json"]).expect(0).json()["total"] == 2);
    let inbox = || place.vhost.queue("gleitzeit.dead.inbox")["messages"] == 0;
    until("the inbox to be empty", inbox);
}

#[test]
fn what_an_interrupted_removal_of_a_lane_has_left_goes_with_the_next_migration() {
    let Some(place) = Place::new() else { return };
    let file = place.write("lanes.toml", FOUR);
    place.run(&["topology", "apply", "--config", &file]).expect(0);
    // Of the lane above those that are left: the highest goes first.
    let left = format!("{}.migrating", lane_queue(LANES));
    let fanout = json!({"type": "fanout", "durable": true});
    place.vhost.call("PUT", &format!("/api/exchanges/{}/{left}", place.vhost.name), &fanout);
    let told = format!("exchange {left}: is left of a lane");
    for args in [&["topology", "check"][..], &["topology", "check", "--config", &file]] {
        let said = place.run(args).expect(4).stdout;
        assert!(said.contains(&told), "{said}");
    }
    place.run(&["topology", "apply", "--migrate", "--config", &file]).expect(0);
    place.run(&["topology", "check", "--config", &file]).expect(0);
}

#[test]
fn lanes_of_something_that_is_not_there_are_refused() {
    let here = Embedded::new();
    let file = here.write("wrong.toml", "[fairness.'ecco/v1']\nlanes = 2\n");
    let ran = here.run(&["call", "echo/v1", "ping", "--config", &file]).expect(2);
    assert!(ran.stderr.contains("fairness: there is no protocol \"ecco/v1\""), "{ran:?}");
    let file = here.write("lanes.toml", FOUR);
    let shown = here.run(&["topology", "show", "--config", &file]).expect(0).stdout;
    assert!(shown.contains(&lane_queue(3)) && !shown.contains(&lane_queue(4)), "{shown}");
    let shown = here.run(&["topology", "show"]).expect(0).stdout;
    assert!(!shown.contains(".lane."), "{shown}");
}
