//! The bench itself: it measures both sides, takes nothing of others, and leaves nothing behind.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::place::Place;
use crate::support::{Embedded, Running, until};

const QUEUE: &str = "gleitzeit.tasks.echo.v1";

/// Keys of tasks of a bench.
fn keys(place: &Place) -> Vec<String> {
    let client = redis::Client::open(place.redis.as_str()).expect("an address");
    let mut connection = client.get_connection().expect("a server");
    let pattern = format!("{}:*bench-*", place.prefix);
    redis::cmd("KEYS").arg(pattern).query(&mut connection).expect("keys")
}

#[test]
fn the_floor_and_a_worker_are_measured_side_by_side() {
    let Some(place) = Place::new() else { return };
    let few = ["bench", "--tasks", "1000", "--rounds", "1", "--round-trips", "10", "--json"];
    let report = place.run(&few).expect(0).json();
    assert_eq!((&report["mode"], &report["rounds"]), (&json!("distributed"), &json!(1)));
    for figure in
        ["tasks_per_second", "submitted_per_second", "round_trip_p50_ms", "memory_peak_mib", "start_ms"]
    {
        let value = |place: &str| report.pointer(&format!("/{place}/{figure}")).and_then(Value::as_f64);
        let (floor, ours) = (value("floor/median"), value("ours/median"));
        assert!(floor.is_some_and(|it| it > 0.0) && ours.is_some_and(|it| it > 0.0), "{figure}: {report}");
        assert!(value("ratio").is_some(), "{figure}: {report}");
    }
    assert_eq!(keys(&place), Vec::<String>::new());
    assert!(place.vhost.peek(QUEUE).is_empty());
    let taken = place.vhost.publish("amq.default", "gleitzeit.bench.floor", "{}", &json!({}));
    assert!(!taken, "the floor's queue is still there");
}

#[test]
fn a_bench_does_not_start_where_tasks_wait() {
    let Some(place) = Place::new() else { return };
    place.run(&["call", "echo/v1", "ping", "--no-wait"]).expect(0);
    let refused = place.run(&["bench", "--json"]).expect(2).json();
    let message = refused["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains(QUEUE), "{refused}");
    assert_eq!(place.vhost.peek(QUEUE).len(), 1);
}

#[test]
fn an_interrupted_bench_takes_back_what_it_submitted_and_nothing_else() {
    let Some(place) = Place::new() else { return };
    let mut command = place.command(&["bench", "--tasks", "40000", "--rounds", "1", "--round-trips", "10"]);
    let bench = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let mut bench = Running(bench);
    let mut said = BufReader::new(bench.0.stderr.take().expect("a pipe")).lines();
    assert!(said.any(|line| line.is_ok_and(|line| line.contains("gleitzeit: submitting"))));
    // So many that they are still being submitted.
    until("a task", || !place.vhost.peek(QUEUE).is_empty());
    place.run(&["call", "echo/v1", "ping", "--id", "foreign", "--no-wait"]).expect(0);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(bench.0.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("our child");
    // What it says must be read, or it could not end.
    said.for_each(drop);
    assert_eq!(bench.0.wait().expect("it ends").code(), Some(130));
    let left = place.vhost.peek(QUEUE);
    let ids: Vec<&Value> = left.iter().map(|message| &message["properties"]["message_id"]).collect();
    assert_eq!(ids, [&json!("foreign")]);
    assert_eq!(keys(&place), Vec::<String>::new());
}

#[test]
fn embedded_there_is_no_floor() {
    let here = Embedded::new();
    let few = ["bench", "--tasks", "1000", "--rounds", "1", "--round-trips", "10", "--json"];
    let report = here.run(&few).expect(0).json();
    assert_eq!((&report["mode"], &report["floor"]), (&json!("embedded"), &Value::Null));
    assert!(
        report.pointer("/ours/median/whole_per_second").and_then(Value::as_f64).is_some_and(|it| it > 0.0)
    );
    assert!(!here.path("state.db").exists(), "the user's own state is not touched");
    here.run(&["bench", "floor"]).expect(2);
}
