//! Tasks that run for longer than the broker lets anybody hold a delivery.
//!
//! Where the broker can be told a short consumer timeout by the queue (quorum from RabbitMQ 4.3 on) these
//! tests run past it. Elsewhere a broker looks once a minute, so it is shown that nothing is held; one test has a
//! broker of its own that looks more often.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::own::{Own, is_full};
use crate::place::Place;
use crate::support::{Embedded, Running, task, until};

/// A worker that publishes a guard after a quarter of `timeout` seconds, and a log of its own.
fn worker(place: &Place, timeout: &str, name: &str, args: &[&str]) -> Running {
    place.command(&["topology", "apply"]).env(TIMEOUT, timeout).output().expect("the binary starts");
    let args: Vec<&str> = ["worker"].iter().chain(args).copied().collect();
    let log = std::fs::File::create(log_of(place, name)).expect("a file of ours");
    let mut command = place.command(&args);
    command.env(TIMEOUT, timeout).env("GLEITZEIT_LOG_LEVEL", "warn,gleitzeit::worker=debug");
    command.env("GLEITZEIT_WORKER_GRACE", "0.5");
    Running(command.stdout(Stdio::null()).stderr(log).spawn().expect("the binary starts"))
}

const TIMEOUT: &str = "GLEITZEIT_AMQP_CONSUMER_TIMEOUT";

fn log_of(place: &Place, name: &str) -> PathBuf {
    place.path(&format!("{name}.log"))
}

/// Waits until a task has started, and a guard stands for it.
fn until_guarded(log: &Path, ledger: &str) {
    until("a guard", || std::fs::read_to_string(log).is_ok_and(|log| log.contains("a guard stands")));
    until("its task to start", || starts(ledger) > 0);
}

/// Python that writes down its start and its end, and sleeps in between unless it has started before.
fn code(ledger: &str, me: &str, seconds: f64) -> String {
    format!(
        "import time\nledger = open({ledger:?}, 'a+')\nledger.seek(0)\nfirst = '{me} start' not in ledger.read()\n\
         ledger.write('{me} start ' + str(time.time()) + chr(10))\nledger.flush()\n\
         time.sleep({seconds} if first else 0.1)\nledger.write('{me} end ' + str(time.time()) + chr(10))\n\
         ledger.close()\n'{me}'"
    )
}

fn lines(ledger: &str) -> Vec<String> {
    let text = std::fs::read_to_string(ledger).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn starts(ledger: &str) -> usize {
    lines(ledger).iter().filter(|line| line.contains(" start ")).count()
}

fn submit(place: &Place, id: &str, code: &str) {
    place.run(&["exec", code, "--id", id, "--no-wait"]).expect(0);
}

fn result(place: &Place, id: &str, code: i32) -> Value {
    place.run(&["result", "--wait", "--timeout", "240", id, "--json"]).expect(code).json()
}

#[test]
fn a_task_that_outlives_the_consumer_timeout_runs_once_and_ends_once() {
    let Some(place) = Place::new() else { return };
    let ledger = place.path("ledger").to_string_lossy().into_owned();
    let _workers = [worker(&place, "4", "a", &[]), worker(&place, "4", "b", &[])];
    submit(&place, "long", &code(&ledger, "long", 9.0));
    let document = result(&place, "long", 0);
    assert_eq!((&document["status"], &document["attempts"]), (&json!("completed"), &json!(1)));
    assert_eq!(starts(&ledger), 1, "{:?}", lines(&ledger));
    for name in ["a", "b"] {
        let log = std::fs::read_to_string(log_of(&place, name)).expect("a log");
        assert!(!log.contains("subscription lost"), "nothing was held for too long: {log}");
    }
}

/// Beside it a worker that does not know of the limit shows that it is there.
#[test]
fn a_task_outlives_the_consumer_timeout_that_the_server_enforces() {
    let Some(own) = Own::start(&[]) else { return };
    let look = "application:set_env(rabbit, channel_tick_interval, 500), application:set_env(rabbit, consumer_timeout, 6000).";
    own.rabbitmqctl(&["eval", look]);
    let place = own.place();
    let ledger = place.path("ledger").to_string_lossy().into_owned();
    let _knows = worker(&place, "6", "knows", &["--protocol", "python/v1"]);
    let _ignores = worker(&place, "1800", "ignores", &["--protocol", "echo/v1", "--no-coordination"]);
    submit(&place, "long", &code(&ledger, "long", 14.0));
    let params = r#"{"seconds": 10}"#;
    place.run(&["call", "echo/v1", "delay", "--params", params, "--id", "held", "--no-wait"]).expect(0);
    let document = result(&place, "long", 0);
    assert_eq!((&document["status"], &document["attempts"]), (&json!("completed"), &json!(1)));
    assert_eq!(starts(&ledger), 1, "{:?}", lines(&ledger));
    let said = |name: &str| std::fs::read_to_string(log_of(&place, name)).expect("a log");
    assert!(said("knows").contains("a guard stands"), "{}", said("knows"));
    assert!(!said("knows").contains("subscription lost"), "nothing was held too long: {}", said("knows"));
    until("the other one to lose its subscription", || said("ignores").contains("subscription lost"));
    assert_eq!(result(&place, "held", 0)["status"], "completed");
}

#[test]
fn nothing_is_held_of_a_guarded_task_and_its_guard_goes_when_it_has_ended() {
    let Some(place) = Place::new() else { return };
    let ledger = place.path("ledger").to_string_lossy().into_owned();
    let _worker = worker(&place, "32", "a", &["--concurrency", "1"]);
    submit(&place, "long", &code(&ledger, "long", 22.0));
    let held = || {
        let queue = place.vhost.queue("gleitzeit.tasks.python.v1");
        (queue["messages_unacknowledged"].as_u64(), queue["consumers"].as_u64())
    };
    until("the delivery to be held", || held() == (Some(1), Some(1)));
    until_guarded(&log_of(&place, "a"), &ledger);
    until("nothing to be held", || held() == (Some(0), Some(0)));
    assert_eq!(lines(&ledger).len(), 1, "it still runs");
    let document = result(&place, "long", 0);
    assert_eq!(document["attempts"], json!(1));
    until("the worker to subscribe again and the guard to go", || {
        held() == (Some(0), Some(1)) && place.vhost.peek("gleitzeit.tasks.python.v1").is_empty()
    });
    assert_eq!(starts(&ledger), 1);
}

#[test]
fn a_guarded_task_of_a_killed_worker_is_taken_over() {
    let Some(place) = Place::new() else { return };
    let ledger = place.path("ledger").to_string_lossy().into_owned();
    let mut victim = worker(&place, "4", "victim", &[]);
    submit(&place, "long", &code(&ledger, "long", 60.0));
    until_guarded(&log_of(&place, "victim"), &ledger);
    let _heir = worker(&place, "4", "heir", &[]);
    until("the heir to consume", || place.vhost.queue("gleitzeit.tasks.python.v1")["consumers"] == 2);
    victim.kill();
    let killed = Instant::now();
    until("the heir to start", || starts(&ledger) == 2);
    let took = killed.elapsed();
    let log = || std::fs::read_to_string(log_of(&place, "heir"));
    eprintln!("it started elsewhere {took:?} after the kill");
    assert!(!is_full() || took < Duration::from_secs(7), "{took:?}: {:?}", log());
    let document = result(&place, "long", 0);
    assert_eq!((&document["status"], &document["attempts"]), (&json!("completed"), &json!(2)));
}

#[test]
fn a_drained_worker_gives_a_guarded_task_back_uncounted() {
    let Some(place) = Place::new() else { return };
    let ledger = place.path("ledger").to_string_lossy().into_owned();
    let mut first = worker(&place, "4", "first", &[]);
    submit(&place, "long", &code(&ledger, "long", 60.0));
    until_guarded(&log_of(&place, "first"), &ledger);
    assert_eq!(first.drain(), Some(0));
    let _second = worker(&place, "4", "second", &[]);
    let document = result(&place, "long", 0);
    assert_eq!((&document["status"], &document["attempts"]), (&json!("completed"), &json!(1)));
    assert_eq!(starts(&ledger), 2);
}

#[test]
fn a_guarded_task_is_cancelled_and_its_place_is_free_again() {
    let Some(place) = Place::new() else { return };
    let ledger = place.path("ledger").to_string_lossy().into_owned();
    let _worker = worker(&place, "4", "a", &["--concurrency", "1"]);
    submit(&place, "long", &code(&ledger, "long", 60.0));
    until_guarded(&log_of(&place, "a"), &ledger);
    submit(&place, "next", &code(&ledger, "next", 0.1));
    place.run(&["cancel", "long"]).expect(0);
    assert_eq!(result(&place, "long", 5)["status"], "cancelled");
    assert_eq!(result(&place, "next", 0)["status"], "completed");
    assert_eq!(starts(&ledger), 2, "{:?}", lines(&ledger));
}

#[test]
fn guarded_tasks_count_towards_the_concurrency() {
    let Some(place) = Place::new() else { return };
    let ledger = place.path("ledger").to_string_lossy().into_owned();
    let _worker = worker(&place, "2", "a", &["--concurrency", "3"]);
    let ids: Vec<String> = (0..12).map(|number| format!("t{number}")).collect();
    for (number, id) in ids.iter().enumerate() {
        // Some end before there is a guard for them, some run for long after.
        let code = code(&ledger, id, if number % 3 == 0 { 0.2 } else { 2.5 });
        let body = json!({"id": id, "method": "execute", "params": {"code": code}}).to_string();
        place.publish("gleitzeit.tasks", "python.v1", &body, &json!({"delivery_mode": 2}));
    }
    for id in &ids {
        assert_eq!(result(&place, id, 0)["attempts"], json!(1));
    }
    assert_eq!(most_at_once(&ledger), 3, "as many as may, and never more: {:?}", lines(&ledger));
    assert_eq!(starts(&ledger), ids.len());
}

/// The most that ran at the same time, by the ledger.
fn most_at_once(ledger: &str) -> usize {
    let mut moments: Vec<(f64, i32)> = Vec::new();
    for line in lines(ledger) {
        let words: Vec<&str> = line.split(' ').collect();
        moments.push((words[2].parse().expect("a time"), if words[1] == "start" { 1 } else { -1 }));
    }
    moments.sort_by(|a, b| a.partial_cmp(b).expect("times"));
    let (mut now, mut most) = (0, 0);
    for (_, change) in moments {
        now += change;
        most = most.max(now);
    }
    usize::try_from(most).expect("not negative")
}

#[test]
fn embedded_tasks_are_guarded_too() {
    let here = Embedded::new();
    let ledger = here.path("ledger").to_string_lossy().into_owned();
    let step = |id: &str, seconds: f64| {
        let code = code(&ledger, id, seconds).replace('\n', "\n      ");
        format!("- id: {id}\n  method: python/execute\n  params:\n    code: |\n      {code}\n")
    };
    let text = format!("name: Long\ntasks:\n{}{}{}", step("a", 2.0), step("b", 2.5), step("c", 0.1));
    let file = here.write("w.yaml", &text);
    let mut command = here.command(&["run", &file, "--json"]);
    let ran = crate::support::Ran::of(command.env(TIMEOUT, "2").output().expect("the binary starts"));
    let document = ran.expect(0).json();
    for id in ["a", "b", "c"] {
        assert_eq!(task(&document, id)["attempts"], json!(1), "{id}");
    }
    assert_eq!(starts(&ledger), 3);
}

#[test]
fn a_guarded_task_of_a_killed_run_is_resumed() {
    let here = Embedded::new();
    let ledger = here.path("ledger").to_string_lossy().into_owned();
    let mut command = here.command(&["exec", &code(&ledger, "long", 60.0), "--id", "long"]);
    let log = here.path("log");
    command.env(TIMEOUT, "2").env("GLEITZEIT_LOG_LEVEL", "gleitzeit::worker=debug");
    let stderr = std::fs::File::create(&log).expect("a file of ours");
    let mut run = Running(command.stdout(Stdio::null()).stderr(stderr).spawn().expect("the binary starts"));
    until_guarded(&log, &ledger);
    run.kill();
    here.run(&["resume", "long"]).expect(0);
    let document = here.run(&["result", "long", "--json"]).expect(0).json();
    assert_eq!((&document["status"], &document["attempts"]), (&json!("completed"), &json!(2)));
}
