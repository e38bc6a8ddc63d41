//! Tasks that ask for cores and memory: which worker runs them, and what becomes of those that none can.

use serde_json::{Value, json};

use crate::place::Place;
use crate::support::{Embedded, Running, task, until};

/// A worker with so many MiB for its tasks.
fn worker(place: &Place, name: &str, megabytes: u64) -> Running {
    let file =
        place.write(&format!("{name}.toml"), &format!("[worker.resources]\nmemory_mb = {megabytes}\n"));
    place.worker(&["--config", &file, "--protocol", "echo/v1", "--protocol", "python/v1"])
}

fn publish(place: &Place, id: &str, protocol: &str, megabytes: u64, mut body: Value) {
    body["id"] = json!(id);
    body["resource_requirements"] = json!({"memory_mb": megabytes});
    place.publish("gleitzeit.tasks", protocol, &body.to_string(), &json!({"message_id": id}));
}

/// The workers that live, with what they have.
fn workers(place: &Place) -> Vec<(String, u64)> {
    let ran = place.run(&["provider", "list", "--json", "--timeout", "60"]).expect(0);
    let document = ran.json();
    let workers = document["workers"].as_array().expect("a list");
    let of = |worker: &Value| {
        let total = worker["resources"]["memory_mb"]["total"].as_u64().expect("it says what it has");
        (worker["worker"].as_str().expect("a session").to_owned(), total)
    };
    workers.iter().map(of).collect()
}

#[test]
fn a_task_runs_in_a_worker_that_has_what_it_asks_for_and_else_is_a_dead_letter() {
    let Some(place) = Place::new() else { return };
    place.run(&["topology", "apply"]).expect(0);
    let _small = worker(&place, "small", 100);
    let _large = worker(&place, "large", 1000);
    until("both workers", || place.redis_cli(&["HLEN", &format!("{}:{{workers/}}", place.prefix)]) == "2");
    let large = workers(&place).into_iter().find(|(_, total)| *total == 1000).expect("it lives").0;
    for number in 0..8 {
        publish(&place, &format!("t{number}"), "echo.v1", 500, json!({"method": "ping"}));
    }
    for number in 0..8 {
        let document = place.result(&format!("t{number}"));
        assert_eq!(
            (&document["status"], &document["attempts"]),
            (&json!("completed"), &json!(1)),
            "{document}"
        );
        assert_eq!(document["worker_id"], json!(large), "{document}");
    }
    publish(&place, "never", "echo.v1", 2000, json!({"method": "ping"}));
    let document = place.result("never");
    assert_eq!(document["error"]["name"], "RESOURCE_NOT_AVAILABLE", "{document}");
    assert_eq!(document["error"]["details"]["asked"], json!({"memory_mb": 2000}));
    assert_eq!(document["error"]["details"]["worker"], json!(large));
    let letter = place.dead_letter("gleitzeit.dead.echo.v1");
    assert_eq!(
        (&letter["id"], &letter["failure"]["name"]),
        (&json!("never"), &json!("RESOURCE_NOT_AVAILABLE"))
    );
    assert_eq!(letter["failure"]["details"]["nearest"]["memory_mb"], 1000);
    let said = place.said();
    assert!(!said.contains("panicked"), "{said}");
}

/// What they print when they begin and end tells whether two were there at once.
#[test]
fn two_large_tasks_are_never_there_at_once_and_small_ones_go_on_beside_them() {
    let Some(place) = Place::new() else { return };
    place.run(&["topology", "apply"]).expect(0);
    let _worker = worker(&place, "worker", 100);
    let log = place.write("log", "");
    let code = format!(
        "import time\nf = open({log:?}, 'a', buffering=1)\nf.write(name + ' begins\\n')\ntime.sleep(seconds)\n\
         f.write(name + ' ends\\n')\nname"
    );
    let run = |name: &str, megabytes, seconds: f64| {
        let params = json!({"code": code, "context": {"name": name, "seconds": seconds}});
        publish(&place, name, "python.v1", megabytes, json!({"method": "execute", "params": params}));
    };
    for number in 0..3 {
        run(&format!("large{number}"), 80, 2.0);
    }
    for number in 0..6 {
        run(&format!("small{number}"), 10, 0.1);
    }
    for name in (0..3).map(|n| format!("large{n}")).chain((0..6).map(|n| format!("small{n}"))) {
        assert_eq!(place.result(&name)["status"], "completed", "{name}");
    }
    let text = std::fs::read_to_string(&log).expect("they wrote");
    let large: Vec<&str> = text.lines().filter(|line| line.starts_with("large")).collect();
    for pair in large.chunks(2) {
        let [begins, ends] = pair else { panic!("{large:?}") };
        assert_eq!(begins.replace("begins", "ends"), **ends, "one after the other: {large:?}");
    }
}

#[test]
fn an_embedded_run_tells_at_once_what_it_cannot_hold() {
    let place = Embedded::new();
    let config = place.write("c.toml", "[worker.resources]\nmemory_mb = 100\ncpu_cores = 0.5\n");
    let file = |megabytes: u64| {
        let needs = json!({"memory_mb": megabytes, "cpu_cores": 0.5});
        let tasks =
            ["a", "b"].map(|id| json!({"id": id, "method": "echo/ping", "resource_requirements": needs}));
        place.write("w.json", &json!({"name": "W", "tasks": tasks}).to_string())
    };
    let ran = place.run(&["--config", &config, "run", &file(100), "--json"]).expect(0);
    assert_eq!(ran.json()["status"], "completed");
    let ran = place.run(&["--config", &config, "run", &file(101), "--json"]).expect(5);
    let document = ran.json();
    let error = &task(&document, "a")["error"];
    assert_eq!(error["name"], "RESOURCE_NOT_AVAILABLE", "{document}");
    let message = error["message"].as_str().expect("a text");
    assert!(
        message.contains("cpu_cores 0.5, memory_mb 101") && message.contains("memory_mb 100"),
        "{message}"
    );
}
