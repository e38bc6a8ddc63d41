//! Limits: held by all workers together, for one protocol, key or budget and for nobody else.

use futures_util::future::join_all;
use gleitzeit::client::Client;
use gleitzeit::config::{self, Sources};
use gleitzeit::core::clock::Timestamp;
use gleitzeit::core::id::Id;
use gleitzeit::core::task::Spec;
use gleitzeit::runtime::{Role, Runtime};
use gleitzeit::wire::task::Task;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use crate::ollama_server::Ollama;
use crate::own::is_full;
use crate::place::{Place, eventually, say_skipped};
use crate::support::{Running, until};

/// How long it is counted.
const COUNTED_MILLIS: i64 = 10_000;

fn workers(place: &Place, count: usize, limits: &str, args: &[&str]) -> Vec<Running> {
    let file = place.write("limits.toml", limits);
    place.run(&["topology", "apply"]).expect(0);
    let args: Vec<&str> = ["--config", &file].iter().chain(args).copied().collect();
    (0..count).map(|_| place.worker(&args)).collect()
}

async fn runtime(place: &Place) -> Runtime {
    let environment = [
        ("GLEITZEIT_AMQP_URL", place.vhost.url()),
        ("GLEITZEIT_REDIS_URL", place.redis.clone()),
        ("GLEITZEIT_REDIS_PREFIX", place.prefix.clone()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value)).into();
    let config = config::load(&Sources { environment, ..Sources::default() }).expect("valid");
    Runtime::open(config, Role::Client, None).await.expect("it connects")
}

async fn submit(client: &Client, id: &str, protocol: &str, method: &str, params: &Value) {
    let spec = Spec::new(protocol.parse().expect("a protocol"), method, params.clone());
    let id = Id::parse(id).expect("an id");
    client.submit(Task::new(Some(id), spec)).await.expect("it is submitted");
}

/// Submits so many sums and waits for all of them; how long that took.
async fn sums(place: &Place, client: &Client, name: &str, count: usize) -> Duration {
    let (began, params) = (Instant::now(), json!({"a": 1, "b": 2}));
    let ids: Vec<String> = (0..count).map(|number| format!("{name}{number}")).collect();
    join_all(ids.iter().map(|id| submit(client, id, "mcp/v1", "tool.add", &params))).await;
    until("all sums", || ended_of(place, &ids) == ids.len());
    began.elapsed()
}

fn results(place: &Place, ids: &[String]) -> Vec<Option<Value>> {
    let keys: Vec<String> = ids.iter().map(|id| place.key(id, "result")).collect();
    let mut words = vec!["--json", "MGET"];
    words.extend(keys.iter().map(String::as_str));
    let all: Vec<Option<String>> = serde_json::from_str(&place.redis_cli(&words)).expect("a list");
    all.iter().map(|text| text.as_ref().map(|text| serde_json::from_str(text).expect("JSON"))).collect()
}

/// How many of them have ended.
fn ended_of(place: &Place, ids: &[String]) -> usize {
    let keys: Vec<String> = ids.iter().map(|id| place.key(id, "result")).collect();
    let words: Vec<&str> = ["EXISTS"].into_iter().chain(keys.iter().map(String::as_str)).collect();
    place.redis_cli(&words).parse().expect("a number")
}

/// What is missing in the bucket of a limit's key, in units.
fn missing(place: &Place, limit: &str, key: &str, per_second: f64) -> f64 {
    let key = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, key.as_bytes());
    let bucket = format!("{}:{{limit/{limit}/{key}}}:bucket", place.prefix);
    let full_at: f64 = place.redis_cli(&["HGET", &bucket, "full"]).parse().expect("there is a bucket");
    let time = place.redis_cli(&["TIME"]);
    let mut time = time.lines().map(|part| part.parse::<f64>().expect("a number"));
    let now = time.next().expect("seconds") * 1e6 + time.next().expect("microseconds");
    (full_at - now) / 1e6 * per_second
}

fn started(document: &Value) -> i64 {
    let text = document["started_at"].as_str().expect("it has run");
    text.parse::<Timestamp>().expect("a time").as_millis()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_workers_hold_a_limit_together_and_another_protocol_keeps_its_speed() {
    // A rate can be measured only where nothing else runs.
    if !is_full() {
        return say_skipped("GLEITZEIT_TEST_FULL: a rate is measured, which needs the machine");
    }
    let Some(place) = Place::new() else { return };
    let limits = "[limits.echoes]\nprotocol = 'echo/v1'\nrate = '100/s'\n";
    // So many in hand that a machine which is busy for half a second loses nothing.
    let args = ["--protocol", "echo/v1", "--protocol", "mcp/v1", "--concurrency", "16"];
    let _workers = workers(&place, 4, limits, &args);
    let runtime = runtime(&place).await;
    let client = runtime.client();
    sums(&place, &client, "warm", 200).await;
    let alone = sums(&place, &client, "alone", 100).await;

    let ids: Vec<String> = (0..1_250).map(|number| format!("echo{number}")).collect();
    let params = json!({"message": "hello"});
    join_all(ids.iter().map(|id| submit(&client, id, "echo/v1", "echo", &params))).await;
    let beside = sums(&place, &client, "beside", 100).await;
    let waiting = results(&place, &ids).iter().filter(|document| document.is_none()).count();
    assert!(waiting > 0, "no sum waits for the echoes");
    // Seldom, and without reading them: that would take the time which the workers need.
    until("all echoes", || {
        std::thread::sleep(Duration::from_millis(500));
        ended_of(&place, &ids) == ids.len()
    });
    let documents: Vec<Value> = results(&place, &ids).into_iter().flatten().collect();
    assert!(documents.iter().all(|document| document["attempts"] == 1), "nobody's waiting is counted");
    let times: Vec<i64> = documents.iter().map(started).collect();
    let from = times.iter().min().expect("some") + 1_000;
    let inside = times.iter().filter(|at| (from..from + COUNTED_MILLIS).contains(at)).count();
    println!("{inside} in 10 s at 100/s; 100 sums: {alone:?} alone, {beside:?} beside it");
    assert!((980..=1_020).contains(&inside), "{inside} in 10 s at 100/s");
    assert_eq!(place.said().matches("a limit holds tasks back").count(), 4, "each worker says it once");
    runtime.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_limit_leaves_tasks_in_their_queue_and_takes_nothing_of_another_protocol() {
    let Some(place) = Place::new() else { return };
    // So slow that nothing comes while the test runs, however long that takes.
    let limits = "[limits.echoes]\nprotocol = 'echo/v1'\nrate = '1/h'\n";
    let _workers = workers(&place, 2, limits, &["--protocol", "echo/v1", "--protocol", "mcp/v1"]);
    let runtime = runtime(&place).await;
    let client = runtime.client();
    sums(&place, &client, "warm", 200).await;
    let alone = if is_full() { sums(&place, &client, "alone", 400).await } else { Duration::ZERO };
    let body = |id: &str| json!({"id": id, "method": "ping"}).to_string();
    for number in 0..10 {
        let id = format!("t{number}");
        place.publish("gleitzeit.tasks", "echo.v1", &body(&id), &json!({"message_id": id}));
    }
    let ids: Vec<String> = (0..10).map(|number| format!("t{number}")).collect();
    let queue = || {
        let queue = place.vhost.queue("gleitzeit.tasks.echo.v1");
        ["messages_ready", "messages_unacknowledged", "consumers"].map(|name| queue[name].as_u64())
    };
    let is_alone = || queue() == [Some(9), Some(0), Some(0)] && ended_of(&place, &ids) == 1;
    until("one to end and the others to be in their queue, with nobody who takes them", is_alone);
    // Whoever asked for a permit would make it anew, and would get one.
    let bucket = format!("{}:{{limit/echoes}}:bucket", place.prefix);
    assert_eq!(place.redis_cli(&["DEL", &bucket]), "1");
    let beside = sums(&place, &client, "beside", 400).await;
    assert_eq!(place.redis_cli(&["EXISTS", &bucket]), "0", "nobody asks meanwhile");
    assert!(is_alone(), "{:?}", queue());
    if is_full() {
        println!("400 sums: {alone:?} alone, {beside:?} beside a queue that is limited");
        assert!(beside < 2 * alone + Duration::from_secs(1), "{alone:?} alone, {beside:?} beside");
    }
    runtime.close().await;
}

#[test]
fn a_task_whose_key_is_limited_waits_uncounted_and_others_overtake_it() {
    let Some(place) = Place::new() else { return };
    let limits = "[limits.tenants]\nprotocol = 'echo/v1'\nkey = 'header:x-tenant'\nrate = '30/min'\n";
    place.run(&["topology", "apply"]).expect(0);
    let publish = |tenant: &str, number: usize| {
        let id = format!("{tenant}{number}");
        let properties = json!({"message_id": id, "headers": {"x-tenant": tenant}, "priority": 7});
        let body = json!({"id": id, "method": "ping"}).to_string();
        place.publish("gleitzeit.tasks", "echo.v1", &body, &properties);
        id
    };
    let busy: Vec<String> = (0..5).map(|number| publish("a", number)).collect();
    let others: Vec<String> = ["b", "c", "d"].iter().map(|tenant| publish(tenant, 0)).collect();
    // All of them are there when the first is taken.
    let _workers = workers(&place, 1, limits, &["--protocol", "echo/v1"]);
    let end = |ids: &[String]| -> Vec<i64> {
        until("all to end", || results(&place, ids).iter().all(Option::is_some));
        let documents = results(&place, ids).into_iter().flatten();
        let times = documents.map(|document| {
            assert_eq!((&document["status"], &document["attempts"]), (&json!("completed"), &json!(1)));
            started(&document)
        });
        let mut times: Vec<i64> = times.collect();
        times.sort_unstable();
        times
    };
    let (others, busy) = (end(&others), end(&busy));
    assert!(others.last() < busy.get(2), "others overtake: {others:?} {busy:?}");
    // The last is let in 8 s after the first, which may have started a while after that.
    assert!(busy[4] - busy[0] >= 4_000, "one every 2 s: {busy:?}");
    if !is_full() {
        return;
    }
    for (place, at) in (0..).zip(&busy) {
        assert!(at - busy[0] >= 2_000 * place - 1_000, "one every 2 s: {busy:?}");
    }
    assert!(busy[4] - busy[0] < 12_000, "each comes when it is told to: {busy:?}");
}

#[test]
fn a_budget_of_tokens_is_settled_with_what_was_used() {
    let Some(place) = Place::new() else { return };
    let server = Ollama::start();
    // Each reserves what comes in five minutes, and uses 32 of it.
    let limits = format!(
        "[providers.one]\nkind = 'ollama'\nurl = '{}'\n[limits.tokens]\nprotocol = 'llm/v1'\n\
         key = 'params.model'\nrate = '6000/min'\nburst = 2000\ncost = 'llm_tokens'\n",
        server.url()
    );
    let _workers = workers(&place, 1, &limits, &["--protocol", "llm/v1"]);
    for number in 0..5 {
        let id = format!("t{number}");
        let params = json!({"prompt": "Say hello", "model": "llama3.2", "max_tokens": 30_000});
        let body = json!({"id": id, "method": "chat", "params": params}).to_string();
        place.publish("gleitzeit.tasks", "llm.v1", &body, &json!({"message_id": id}));
        let ended = eventually("an answer", || results(&place, std::slice::from_ref(&id)).remove(0));
        assert_eq!(ended["result"]["tokens_used"], 32, "{ended}");
        until("what was not used is there again", || missing(&place, "tokens", "llama3.2", 100.0) < 2_000.0);
    }
}

#[test]
fn a_limit_of_something_that_is_not_there_is_refused() {
    let Some(place) = Place::new() else { return };
    let text = "[limits.a]\nprotocol = 'ecco/v1'\nrate = '1/s'\n[limits.b]\nprotocol = 'llm/v1'\n\
                provider = 'oolama'\nrate = '1/s'\n";
    let file = place.write("wrong.toml", text);
    let ran = place.run(&["worker", "--config", &file]);
    for part in [
        "limits.a.protocol: there is no protocol ecco/v1",
        "limits.b.provider: there is no provider oolama; did",
    ] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
}
