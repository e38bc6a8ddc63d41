//! How tasks of each method do: counted by workers, told by `stats`, by events and in each task's document.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::place::{Place, eventually};
use crate::support::{Embedded, until};

/// Holds some memory, for some time.
const CODE: &str = "import time\nheld = b'x' * (48 << 20)\ntime.sleep(0.3)\nlen(held)";
/// As little as that takes.
const HELD_MIN: u64 = 48 << 20;

fn method<'a>(stats: &'a Value, name: &str) -> Option<&'a Value> {
    stats["methods"].as_array().expect("a list").iter().find(|line| line["method"] == name)
}

#[test]
fn an_embedded_process_tells_how_its_tasks_did_when_it_has_ended() {
    let here = Embedded::new();
    let stats = |of: &[&str]| here.run(&[&["stats", "--json"], of].concat()).expect(0).json();
    assert_eq!(stats(&[])["methods"], json!([]));
    let done = here.run(&["exec", CODE, "--json"]).expect(0).json();
    let profile = &done["metadata"]["profile"];
    assert!(profile["queue_wait"].as_f64().is_some_and(|wait| wait >= 0.0), "{done:#}");
    assert!(profile["memory_peak_bytes"].as_u64().is_some_and(|bytes| bytes >= HELD_MIN), "{done:#}");
    assert!(done["result"].get("_profiling").is_none(), "{done:#}");
    here.run(&["exec", &format!("{CODE}\nraise ValueError()")]).expect(5);
    here.run(&["exec", CODE, "--timeout", "60"]).expect(0);

    let told = stats(&["python/v1/execute", "--since", "1d"]);
    let line = method(&told, "execute").expect("it is told");
    assert_eq!(
        (&line["count"], &line["failures"]),
        (&json!(3), &json!({"TASK_EXECUTION_FAILED": 1})),
        "{line:#}"
    );
    assert_eq!((&line["failed"], &line["workers"]), (&json!(1), &json!(3)), "a process each");
    assert!(line["duration"]["p50"].as_f64().is_some_and(|time| time >= 0.29), "{line:#}");
    assert!(
        line["memory_bytes"]["p50"].as_u64().is_some_and(|bytes| bytes >= HELD_MIN / 32 * 31),
        "{line:#}"
    );
    assert_eq!(line["queue_wait"]["count"], json!(3), "{line:#}");
    assert!(line["throughput_per_minute"].as_f64().is_some_and(|count| count > 0.0), "{line:#}");

    let table = here.run(&["stats"]).expect(0);
    assert!(table.stdout.contains("python/v1/execute") && table.stdout.contains("MiB"), "{table:?}");
    assert!(table.stdout.contains("failed: TASK_EXECUTION_FAILED 1"), "{table:?}");
    let none = here.run(&["stats", "echo"]).expect(0);
    assert!(none.stdout.is_empty() && none.stderr.contains("no attempt of echo"), "{none:?}");
    for wrong in ["2d", "soon"] {
        here.run(&["stats", "--since", wrong]).expect(2);
    }
}

#[test]
fn what_was_measured_is_in_the_result_only_where_the_task_asks_for_it() {
    let here = Embedded::new();
    let workflow = here.write(
        "w.yaml",
        "name: w\ntasks:\n\
         - {id: asks, method: python/execute, params: {code: '{\"n\": 1}'}, metadata: {profiling: true}}\n\
         - {id: plain, method: python/execute, params: {code: '1'}}\n\
         - {id: slow, method: python/execute, timeout: 1, params: {code: 'import time; time.sleep(60)'}}\n",
    );
    let ran = here.run(&["run", &workflow, "--json"]).expect(5).json();
    let of = |id: &str| crate::support::task(&ran, id).clone();
    let profiling = &of("asks")["result"]["_profiling"];
    assert!(profiling["execution_time"].as_f64().is_some_and(|time| time > 0.0), "{profiling}");
    assert!(profiling["peak_memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{profiling}");
    assert_eq!(of("plain")["result"].get("_profiling"), None);
    // Also of one that was ended from outside.
    let slow = of("slow");
    assert_eq!(slow["error"]["name"], json!("TASK_TIMEOUT"), "{slow:#}");
    assert!(
        slow["metadata"]["profile"]["memory_peak_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20),
        "{slow:#}"
    );
}

/// The next event that is so, from this queue.
#[track_caller]
fn event(place: &Place, queue: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let body = |message: &Value| serde_json::from_str(message["payload"].as_str()?).ok();
        place.vhost.take(queue).iter().filter_map(body).find(&is_so)
    })
}

#[test]
fn the_whole_fleet_is_told_of_by_stats_and_by_events() {
    let Some(place) = Place::new() else { return };
    place.run(&["topology", "apply"]).expect(0);
    for (queue, key) in [("metrics", "metrics.collected"), ("health", "provider.health")] {
        place.vhost.declare_queue(queue, &json!({}));
        place.vhost.bind("gleitzeit.events", queue, key);
    }
    let config = place.write("worker.toml", "[events]\nmetrics_every = 0.5\n");
    let mut workers = [(); 2].map(|()| place.worker(&["--config", &config, "--concurrency", "1"]));
    let lines = CODE.replace('\n', "\n      ");
    let tasks: Vec<String> = (0..6)
        .map(|number| {
            format!("- id: t{number}\n  method: python/execute\n  params:\n    code: |\n      {lines}\n")
        })
        .collect();
    let workflow = place.write("w.yaml", &format!("name: w\ntasks:\n{}", tasks.concat()));
    let ran = place.run(&["run", &workflow, "--json"]).expect(0).json();
    let done = ran["tasks"].as_array().expect("a list");
    let by: BTreeSet<&str> = done.iter().filter_map(|done| done["worker_id"].as_str()).collect();
    for done in done {
        assert!(done["metadata"]["profile"]["queue_wait"].is_number(), "{done:#}");
    }
    let collected = event(&place, "metrics", "metrics of a worker that has done something", |event| {
        event["type"] == "metrics:collected" && event["metrics"]["completed_tasks"].as_u64() > Some(0)
    });
    let metrics = &collected["metrics"];
    for member in ["active_tasks", "failed_tasks", "throughput_per_minute", "memory_usage_mb"] {
        assert!(metrics[member].is_number(), "{member}: {collected:#}");
    }
    assert!(metrics["average_execution_time"].as_f64().is_some_and(|time| time >= 0.29), "{collected:#}");
    assert_eq!(metrics["provider_health"]["python"], json!("healthy"), "{collected:#}");
    assert!(by.contains(collected["worker_id"].as_str().expect("a session")), "{collected:#}");

    let stats = || place.run(&["stats", "python/v1", "--since", "1d", "--json"]).expect(0).json();
    until("all to be noted", || {
        let told = stats();
        method(&told, "execute").is_some_and(|line| line["count"] == 6)
    });
    let told = stats();
    let line = method(&told, "execute").expect("it is told");
    assert_eq!((&line["failed"], &line["workers"]), (&json!(0), &json!(by.len())), "{line:#}");
    assert_eq!(line["queue_wait"]["count"], json!(6), "{line:#}");
    // One after the other in two workers: the last ones have waited for two others.
    assert!(line["queue_wait"]["max"].as_f64().is_some_and(|wait| wait > 0.5), "{line:#}");
    // A producer of its own says nothing of when it was ready, and nothing is made up.
    place.publish("gleitzeit.tasks", "echo.v1", r#"{"id":"foreign","method":"ping"}"#, &json!({}));
    assert_eq!(place.result("foreign")["metadata"]["profile"]["queue_wait"], Value::Null);

    place.run(&["provider", "stop", "python", "--timeout", "60"]).expect(0);
    let changed =
        event(&place, "health", "a provider to be told of", |event| event["provider_id"] == "python");
    assert_eq!(
        (&changed["type"], &changed["provider_health"], &changed["protocol"]),
        (&json!("provider:health"), &json!("unhealthy"), &json!("python/v1")),
        "{changed:#}"
    );
    for worker in &mut workers {
        assert_eq!(worker.drain(), Some(0));
    }
    // What they had counted is there after they have gone.
    let told = place.run(&["stats", "echo", "--json"]).expect(0).json();
    assert_eq!(method(&told, "ping").map(|line| line["count"].clone()), Some(json!(1)), "{told:#}");
}

#[test]
fn how_a_provider_has_done_is_told_by_list_and_show() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    for _ in 0..3 {
        place.run(&["exec", "1"]).expect(0);
    }
    let list = || place.run(&["provider", "list", "--timeout", "60", "--json"]).expect(0).json();
    let python = || {
        let listed = list();
        let rows = listed["workers"][0]["providers"].as_array().expect("a list").clone();
        rows.into_iter().find(|row| row["name"] == "python").expect("it is there")["health"].clone()
    };
    let health = python();
    assert_eq!((&health["calls"], &health["failures"]), (&json!(3), &json!(0)), "{health:#}");
    assert_eq!(
        (&health["error_rate"], &health["consecutive_failures"]),
        (&json!(0.0), &json!(0)),
        "{health:#}"
    );
    for share in ["p50", "p95", "p99", "max", "expected"] {
        assert!(health["latency"][share].is_number(), "{share}: {health:#}");
    }
    until("it to be looked at", || {
        let health = python();
        health["last_check"]["took"].is_number() && health["next_check"].is_string()
    });
    let table = place.run(&["provider", "list", "--timeout", "60"]).expect(0).stdout;
    assert!(table.contains("calls") && table.contains("p95"), "{table}");
    let shown = place.run(&["provider", "show", "python", "--timeout", "60"]).expect(0).stdout;
    for part in [
        "python (python/v1) up in worker",
        "calls       3, 0 failed (0.0 %)",
        "latency     p50",
        "last check",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let json = place.run(&["provider", "show", "python", "--timeout", "60", "--json"]).expect(0).json();
    assert_eq!(json["workers"][0]["providers"].as_array().map(Vec::len), Some(1), "{json:#}");
    let unknown = place.run(&["provider", "show", "pyton", "--timeout", "60"]).expect(4);
    assert!(unknown.stderr.contains("did you mean"), "{unknown:?}");
}
