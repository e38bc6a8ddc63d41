//! Work that starts later, or not at all: `--in`, `--at`, `--expires-in`, `--expires-at`.

use serde_json::Value;

use gleitzeit::core::clock::{Clock, Timestamp};

use crate::place::Place;
use crate::support::{Embedded, task, until};
use crate::wall_clock::WallClock;

fn now() -> Timestamp {
    WallClock.now()
}

fn time(value: &Value) -> Timestamp {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no time"))
}

#[test]
fn a_delayed_task_says_when_it_starts_and_never_starts_before() {
    let here = Embedded::new();
    let before = now();
    here.run(&["exec", "6 * 7", "--in", "6s", "--no-wait", "--id", "later"]).expect(0);
    let status = here.run(&["status", "later", "--json"]).expect(0).json();
    assert_eq!(status["status"], "delayed", "{status}");
    let due = time(&status["due"]);
    assert!(due.since(before).as_millis() >= 6000, "{due} is too early for {before}");
    let shown = here.run(&["status", "later"]).expect(0).stdout;
    assert!(shown.contains("starts in ") && shown.contains(&format!(", at {due}")), "{shown}");
    here.run(&["resume", "later"]).expect(0);
    let document = here.run(&["result", "later", "--json"]).expect(0).json();
    assert_eq!(document["status"], "completed");
    assert!(time(&document["started_at"]) >= due, "{document}");
}

#[test]
fn a_task_at_a_time_is_waited_for_by_whoever_calls_it() {
    let here = Embedded::new();
    let at = Timestamp::from_millis(now().as_millis() + 5000);
    let ran = here.run(&["call", "echo/v1", "ping", "--at", &at.to_string(), "--json"]).expect(0);
    assert!(time(&ran.json()["started_at"]) >= at, "{}", ran.stdout);
    here.run(&["call", "echo/v1", "ping", "--in", "1d", "--timeout", "0.3", "--json"]).expect(6);
}

#[test]
fn what_was_not_started_in_time_ends_as_expired() {
    let here = Embedded::new();
    let args = ["call", "echo/v1", "ping", "--expires-in", "0.3s", "--no-wait", "--id", "old"];
    here.run(&args).expect(0);
    let file = here.write(
        "w.yaml",
        "name: Old\ntasks:\n- {id: a, method: echo/ping}\n- {id: b, method: echo/ping, dependencies: [a]}\n",
    );
    here.run(&["submit", &file, "--id", "flow", "--expires-in", "0.3"]).expect(0);
    let over = now().as_millis() + 300;
    until("the time is over", || now().as_millis() > over);
    let resumed = here.run(&["resume"]).expect(5);
    assert!(resumed.stderr.contains("TASK_EXPIRED"), "{}", resumed.stderr);
    let document = here.run(&["result", "old", "--json"]).expect(5).json();
    assert_eq!(
        (&document["status"], &document["error"]["name"]),
        (&"expired".into(), &"TASK_EXPIRED".into())
    );
    let document = here.run(&["result", "flow", "--json"]).expect(5).json();
    assert_eq!(task(&document, "a")["error"]["name"], "TASK_EXPIRED", "{document}");
    assert_eq!(task(&document, "b")["started_at"], Value::Null, "{document}");
    // In time is in time.
    here.run(&["exec", "1", "--expires-in", "1h"]).expect(0);
}

#[test]
fn a_workflow_begins_when_it_is_to_begin_and_its_timeout_counts_from_then() {
    let here = Embedded::new();
    let file = here.write("w.yaml", "name: Later\ntimeout: 60\ntasks:\n- {id: a, method: echo/ping}\n");
    let start = Timestamp::from_millis(now().as_millis() + 1200);
    let ran = here.run(&["run", &file, "--in", "1.2", "--json"]).expect(0);
    assert!(time(&task(&ran.json(), "a")["started_at"]) >= start, "{}", ran.stdout);
    assert!(ran.stderr.contains(", and begins at "), "{}", ran.stderr);
}

#[test]
fn what_was_started_in_time_is_run_again_by_hand_after_it() {
    let here = Embedded::new();
    let sign = here.write("sign", "");
    std::fs::remove_file(&sign).expect("removed");
    let code = format!("open({sign:?}).read()");
    let tasks = serde_json::json!([{"id": "a", "method": "python/execute", "params": {"code": code}}]);
    let file = here.write("w.json", &serde_json::json!({"name": "W", "tasks": tasks}).to_string());
    here.run(&["run", &file, "--id", "w", "--expires-in", "10"]).expect(5);
    let over = now().as_millis() + 10_000;
    here.write("sign", "");
    until("the time is over", || now().as_millis() > over);
    here.run(&["retry", "w", "--wait"]).expect(0);
}

#[test]
fn times_that_cannot_be_meant_are_refused_and_nothing_is_left_behind() {
    let here = Embedded::new();
    let call = ["call", "echo/v1", "ping", "--json"];
    for (flags, part) in [
        (&["--at", "2020-01-01T00:00:00Z"][..], "is in the past: it is 2"),
        (&["--at", "2099-01-01T00:00:00Z"], "at most 310 days"),
        (&["--in", "400d"], "at most 310 days"),
        (&["--in", "soon"], "no duration"),
        (&["--in", "5", "--at", "2099-01-01T00:00:00Z"], "cannot be used with"),
        (&["--expires-in", "5", "--expires-at", "2099-01-01T00:00:00Z"], "cannot be used with"),
        (&["--in", "1h", "--expires-in", "5m"], "before it may start"),
    ] {
        let args: Vec<&str> = call.iter().chain(flags).copied().collect();
        let ran = here.run(&args).expect(2);
        assert!(ran.stderr.contains(part), "{part} is not in {}", ran.stderr);
        assert_eq!(ran.json()["error"]["name"], "INVALID_REQUEST");
    }
    let left = here.run(&["list", "--json"]).expect(0).json();
    assert_eq!(left.as_array().map(Vec::len), Some(0), "{left}");
}

#[test]
fn over_servers_nothing_starts_before_its_time_or_after_its_end() {
    let Some(place) = Place::new() else { return };
    place.run(&["topology", "apply"]).expect(0);
    place.run(&["call", "echo/v1", "ping", "--expires-in", "0.2", "--no-wait", "--id", "old"]).expect(0);
    let over = now().as_millis() + 200;
    // Long enough that a slow machine has submitted it by then.
    place.run(&["call", "echo/v1", "ping", "--in", "20s", "--no-wait", "--id", "later"]).expect(0);
    let status = place.run(&["status", "later", "--json"]).expect(0).json();
    assert_eq!(status["status"], "delayed", "{status}");
    let due = time(&status["due"]);
    until("the time is over", || now().as_millis() > over);
    let _worker = place.worker(&[]);
    let document = place.run(&["result", "--wait", "--timeout", "240", "later", "--json"]).expect(0).json();
    assert!(time(&document["started_at"]) >= due, "{document}");
    let document = place.run(&["result", "--wait", "--timeout", "240", "old", "--json"]).expect(5).json();
    assert_eq!(
        (&document["status"], &document["error"]["name"]),
        (&"expired".into(), &"TASK_EXPIRED".into())
    );
    let file = place.write("w.yaml", "name: Later\ntasks:\n- {id: a, method: echo/ping}\n");
    let start = Timestamp::from_millis(now().as_millis() + 1000);
    let document = place.run(&["run", &file, "--in", "1", "--json"]).expect(0).json();
    assert!(time(&task(&document, "a")["started_at"]) >= start, "{document}");
}
