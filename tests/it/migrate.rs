//! `topology apply --migrate`: queues get other arguments under load, and nothing is lost.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::own::is_full;
use crate::place::{Place, say_skipped};
use crate::support::{Running, until};

const PYTHON: &str = "gleitzeit.tasks.python.v1";
const ECHO: &str = "gleitzeit.tasks.echo.v1";
/// No healthy machine takes so long for one task.
const STALLED: Duration = Duration::from_secs(60);
const LEVEL: &str = "gleitzeit.delay.04.1.6s";

/// A topology whose queues are of another make.
fn outdated(place: &Place) {
    let dead_letters = json!({"x-queue-type": "classic", "x-dead-letter-exchange": "gleitzeit.inbox"});
    for queue in [PYTHON, ECHO, "gleitzeit.workflows"] {
        place.vhost.declare_queue(queue, &dead_letters);
    }
    place.vhost.declare_queue("gleitzeit.dead.inbox", &json!({"x-queue-type": "classic"}));
    let level = json!({
        "x-queue-type": "classic", "x-message-ttl": 1600, "x-dead-letter-exchange": "gleitzeit.delay.03.800ms",
    });
    place.vhost.declare_queue(LEVEL, &level);
    let ran = place.run(&["topology", "apply"]).expect(4);
    assert!(ran.stdout.contains("queue gleitzeit.tasks.python.v1: has another x-"), "{ran:?}");
}

fn queues(place: &Place) -> Vec<String> {
    let listed = place.vhost.call("GET", &format!("/api/queues/{}", place.vhost.name), &Value::Null);
    let name = |queue: &Value| queue["name"].as_str().expect("a name").to_owned();
    listed.as_array().expect("a list").iter().map(name).collect()
}

/// A migration that goes on in the background.
fn migrating(place: &Place, settle: &str) -> Running {
    let mut command = place.command(&["topology", "apply", "--migrate", "--settle", settle]);
    let log = std::fs::File::create(place.path("migrate.log")).expect("a file of ours");
    Running(command.stdout(Stdio::null()).stderr(log).spawn().expect("the binary starts"))
}

/// What writes this name into the ledger.
fn params(place: &Place, name: &str) -> Value {
    let code = "open(path, 'a').write(me + chr(10))";
    json!({"code": code, "context": {"path": place.path("ledger"), "me": name}})
}

/// A task that writes its name into the ledger.
fn submit(place: &Place, id: &str) {
    let body = json!({
        "id": id, "protocol": "python/v1", "method": "execute", "params": params(place, id),
    });
    // Without an alternate exchange: unroutable would be said.
    place.publish("gleitzeit.submit", "python.v1", &body.to_string(), &json!({"message_id": id}));
}

/// The same two seconds later, at the end of a workflow: it passes the queue of workflows and the delay cascade.
fn submit_workflow(place: &Place, name: &str) {
    let due = jiff::Timestamp::now().as_millisecond() + 2000;
    let due = jiff::Timestamp::from_millisecond(due).expect("a time");
    let first = json!({"id": "first", "method": "echo/ping"});
    let last = json!({
        "id": "last", "method": "python/execute", "params": params(place, name), "dependencies": ["first"],
        "not_before": format!("{due:.3}"),
    });
    let body = json!({"id": format!("flow-{name}"), "name": "Late", "tasks": [first, last]});
    place.publish("gleitzeit.workflows", "", &body.to_string(), &json!({}));
}

fn ledger(place: &Place) -> BTreeMap<String, usize> {
    let mut runs = BTreeMap::new();
    for line in std::fs::read_to_string(place.path("ledger")).unwrap_or_default().lines() {
        *runs.entry(line.to_owned()).or_default() += 1;
    }
    runs
}

/// Every task that was accepted has run, once. Waits for as long as there is something to wait for.
#[track_caller]
fn all_ran_once(place: &Place, accepted: usize) {
    let missing = || -> Vec<String> {
        let ran = ledger(place);
        let all = (0..accepted).map(|number| format!("task-{number}"));
        all.filter(|id| !ran.contains_key(id)).collect()
    };
    loop {
        let before = missing().len();
        if before == 0 {
            break;
        }
        let started = Instant::now();
        while missing().len() == before {
            assert!(started.elapsed() < STALLED, "nothing more comes of {:?}", missing());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(ledger(place).values().all(|runs| *runs == 1), "{:?}", ledger(place));
}

#[test]
fn queues_are_moved_under_load_and_every_task_runs_once() {
    if !is_full() {
        return say_skipped("GLEITZEIT_TEST_FULL: this one is long");
    }
    let Some(place) = Place::new() else { return };
    outdated(&place);
    let _workers = [place.worker(&[]), place.worker(&[])];
    let stop = AtomicBool::new(false);
    let accepted = std::thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let mut accepted = 0;
            while !stop.load(Ordering::Relaxed) {
                let name = format!("task-{accepted}");
                if accepted % 10 == 9 {
                    submit_workflow(&place, &name);
                } else {
                    submit(&place, &name);
                }
                accepted += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            accepted
        });
        until("the load to run", || ledger(&place).len() > 5);
        let ran = place.run(&["topology", "apply", "--migrate", "--settle", "2", "--json"]);
        stop.store(true, Ordering::Relaxed);
        let accepted = producer.join().expect("every message was routed");
        let moved = ran.expect(0).json()["moved"].clone();
        let moved: Vec<&str> =
            moved.as_array().expect("rows").iter().filter_map(|row| row["queue"].as_str()).collect();
        for queue in [PYTHON, "gleitzeit.workflows", "gleitzeit.dead.inbox", LEVEL] {
            assert!(moved.contains(&queue), "{queue} not in {moved:?}");
        }
        accepted
    });
    all_ran_once(&place, accepted);
    place.run(&["topology", "check"]).expect(0);
    assert!(queues(&place).iter().all(|name| !name.ends_with(".migrating")));
    place.run(&["topology", "apply", "--migrate"]).expect(0);
}

#[test]
fn a_migration_that_was_killed_goes_on_when_it_is_run_again() {
    if !is_full() {
        return say_skipped("GLEITZEIT_TEST_FULL: this one is long");
    }
    let Some(place) = Place::new() else { return };
    outdated(&place);
    let _worker = place.worker(&[]);
    submit(&place, "task-0");
    until("the worker to run", || ledger(&place).len() == 1);
    let mut first = migrating(&place, "60");
    until("the queue to be unbound", || {
        std::fs::read_to_string(place.path("migrate.log"))
            .is_ok_and(|log| log.contains(&format!("{PYTHON}: new messages")))
    });
    submit(&place, "task-1");
    let ran = place.run(&["topology", "apply", "--migrate"]).expect(1);
    assert!(ran.stderr.contains("another migration is under way"), "{ran:?}");
    first.kill();
    let ran = place.run(&["topology", "check"]).expect(4);
    assert!(ran.stdout.contains(&format!("queue {PYTHON}: is being moved")), "{ran:?}");
    place.run(&["topology", "apply", "--migrate", "--settle", "1"]).expect(0);
    submit(&place, "task-2");
    all_ran_once(&place, 3);
}

#[test]
fn a_moved_message_arrives_as_it_was() {
    let Some(place) = Place::new() else { return };
    outdated(&place);
    for (id, priority) in [("low", 1), ("urgent", 9), ("high", 7)] {
        let properties = json!({
            "message_id": id, "priority": priority, "reply_to": "me", "headers": {"traceparent": "00-1"},
        });
        place.publish("gleitzeit.tasks", "echo.v1", id, &properties);
    }
    place.publish("gleitzeit.tasks", "nobody.v1", "unroutable", &json!({}));
    place.publish("gleitzeit.tasks", "python.v1", "expired", &json!({"expiration": "1"}));
    until("it to expire", || place.vhost.peek("gleitzeit.dead.inbox").len() == 2);
    let key = format!("{}1.0.0.0.0.tasks.python.v1", "0.".repeat(23));
    place.publish(LEVEL, &key, "delayed", &json!({"headers": {"x-death": "believed"}}));
    let inbox = place.vhost.peek("gleitzeit.dead.inbox");

    place.run(&["topology", "apply", "--migrate"]).expect(0);

    let moved = place.vhost.peek(ECHO);
    let ids: Vec<&str> = moved.iter().filter_map(|one| one["properties"]["message_id"].as_str()).collect();
    assert_eq!(ids, ["urgent", "high", "low"], "the priorities are in force");
    assert_eq!(moved[0]["properties"]["headers"], json!({"traceparent": "00-1"}));
    assert_eq!(moved[0]["properties"]["reply_to"], "me");
    assert_eq!(moved[0]["routing_key"].as_str().map(|key| key.contains("echo.v1")), Some(true));

    let still = place.vhost.peek("gleitzeit.dead.inbox");
    let why = |messages: &[Value]| {
        let why = |one: &Value| {
            json!([
                one["payload"],
                one["exchange"],
                one["routing_key"],
                one["properties"]["headers"]["x-death"][0]["reason"]
            ])
        };
        messages.iter().map(why).map(|one| one.to_string()).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(why(&still), why(&inbox), "the inbox can still tell what happened");
    until("the delayed one to be due", || {
        place.vhost.peek(PYTHON).iter().any(|one| one["payload"] == "delayed")
    });
}

#[test]
fn whoever_may_not_migrate_is_told_before_the_first_change_and_a_dry_run_changes_nothing() {
    let Some(mut place) = Place::new() else { return };
    outdated(&place);
    let before = queues(&place);
    let ran = place.run(&["topology", "apply", "--migrate", "--dry-run"]).expect(4);
    assert!(
        ran.stderr.contains(&format!("{PYTHON}: declare {PYTHON}.migrating, bind it, unbind")),
        "{ran:?}"
    );
    assert_eq!(queues(&place), before);

    let user = place.vhost.user(".*", "^amq", ".*");
    let mut command = place.command(&["topology", "apply", "--migrate", "--json"]);
    command.env("GLEITZEIT_AMQP_URL", place.vhost.url_of(&user, "secret"));
    let ran = crate::support::Ran::of(command.output().expect("the binary starts"));
    assert_eq!(ran.json()["error"]["name"], "AUTHORIZATION_FAILED", "{ran:?}");
    assert_eq!(queues(&place), before);
    submit(&place, "still-routed");
    assert_eq!(place.vhost.peek(PYTHON).len(), 1);
}

#[test]
fn definitions_of_an_older_release_work_on_a_newer_one_until_they_are_migrated() {
    let Some(place) = Place::new() else { return };
    let export = place.run(&["topology", "export", "--rabbitmq", "3.10"]).expect(0).stdout;
    let here = format!("\"vhost\": \"{}\"", place.vhost.name);
    let mut import: Value = serde_json::from_str(&export.replace("\"vhost\": \"/\"", &here)).expect("JSON");
    import["vhosts"] = json!([{"name": place.vhost.name}]);
    place.vhost.call("POST", "/api/definitions", &import);
    assert_eq!(place.vhost.queue(PYTHON)["type"], "classic");

    let _worker = place.worker(&[]);
    submit(&place, "task-0");
    until("the worker to run", || ledger(&place).len() == 1);
    let overview = place.vhost.call("GET", "/api/overview", &Value::Null);
    let version = overview["rabbitmq_version"].as_str().expect("a server has a version");
    // The first release whose quorum queues have priorities.
    let is_newer = version.starts_with("4.3") || version.starts_with("4.4");
    let ran = place.run(&["topology", "check"]).expect(if is_newer { 4 } else { 0 });
    assert_eq!(ran.stdout.contains("has another x-"), is_newer, "{ran:?}");
    place.run(&["topology", "apply", "--migrate", "--settle", "1"]).expect(0);
    assert_eq!(place.vhost.queue(PYTHON)["type"], if is_newer { "quorum" } else { "classic" });
    submit(&place, "task-1");
    all_ran_once(&place, 2);
    place.run(&["call", "echo/v1", "ping"]).expect(0);
}
