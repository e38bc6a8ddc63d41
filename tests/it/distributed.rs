//! Real binaries over real RabbitMQ and Redis, each test in a virtual host and key prefix of its own.

use serde_json::{Value, json};

use crate::place::Place;
use crate::support::{Ran, gleitzeit, task, until};

#[test]
fn the_readme_example_gives_the_same_over_servers_as_without() {
    let Some(place) = Place::new() else { return };
    let _workers = [place.worker(&[]), place.worker(&[])];
    let document = place.run(&["run", "examples/report.yaml", "--json"]).expect(0).json();
    let here = crate::support::Embedded::new();
    let embedded = here.run(&["run", "examples/report.yaml", "--json"]).expect(0).json();
    assert_eq!(document["status"], "completed");
    for id in ["collect", "mean", "extremes", "trend", "compare", "report"] {
        assert_eq!(task(&document, id)["result"]["result"], task(&embedded, id)["result"]["result"], "{id}");
    }
}

#[test]
fn a_killed_worker_is_taken_over_from_and_every_task_ends_once() {
    let Some(place) = Place::new() else { return };
    let mut victim = place.worker(&["--concurrency", "4"]);
    let ledger = place.path("ledger");
    let step = |id: &str| {
        format!(
            "- id: {id}\n  method: python/execute\n  params:\n    context: {{path: {ledger:?}, me: {id}}}\n    code: |\n      \
             import time\n      open(path, 'a').write('start ' + me + chr(10))\n      time.sleep(2)\n      me\n"
        )
    };
    let tasks: String = ["a", "b", "c"].iter().map(|id| step(id)).collect();
    let text = format!(
        "name: Killed\ntasks:\n{tasks}- id: end\n  method: python/execute\n  dependencies: [a, b, c]\n  params:\n    \
         context: {{all: [\"${{a.result}}\", \"${{b.result}}\", \"${{c.result}}\"]}}\n    code: \"''.join(all)\"\n"
    );
    let file = place.write("w.yaml", &text);
    let id = place.run(&["submit", &file]).expect(0).stdout.trim().to_owned();
    until("three tasks to start", || {
        std::fs::read_to_string(&ledger).is_ok_and(|text| text.lines().count() == 3)
    });
    victim.kill();
    let _heir = place.worker(&[]);
    let document = place.run(&["result", "--wait", "--timeout", "240", &id, "--json"]).expect(0).json();
    assert_eq!(document["status"], "completed");
    assert_eq!(task(&document, "end")["result"]["result"], "abc");
    assert_eq!(task(&document, "end")["attempts"], json!(1), "a task that was not running lost no attempt");
    for id in ["a", "b", "c"] {
        assert_eq!(task(&document, id)["attempts"], json!(2), "the attempt that died counts once");
    }
}

#[test]
fn a_drained_worker_ends_its_task_and_exits_cleanly() {
    let Some(place) = Place::new() else { return };
    let mut worker = place.worker(&[]);
    let id = place.run(&["call", "echo/v1", "delay", "--params", r#"{"seconds": 8}"#, "--no-wait"]).expect(0);
    let id = id.stdout.trim();
    until("the task to run", || place.run(&["status", id, "--json"]).stdout.contains("\"running\""));
    assert_eq!(worker.drain(), Some(0));
    let document = place.run(&["result", id, "--json"]).expect(0).json();
    assert_eq!((&document["status"], &document["attempts"]), (&json!("completed"), &json!(1)));
}

#[test]
fn a_running_task_is_cancelled() {
    let Some(place) = Place::new() else { return };
    let _worker = place.worker(&[]);
    let id =
        place.run(&["exec", "import time; time.sleep(60)", "--no-wait"]).expect(0).stdout.trim().to_owned();
    until("the task to run", || place.run(&["status", &id, "--json"]).stdout.contains("\"running\""));
    place.run(&["cancel", &id]).expect(0);
    let document = place.run(&["result", "--wait", "--timeout", "240", &id, "--json"]).expect(5).json();
    assert_eq!(document["status"], "cancelled");
}

#[test]
fn a_failed_task_leaves_a_dead_letter_that_tells_why() {
    let Some(place) = Place::new() else { return };
    let _worker = place.worker(&[]);
    place.run(&["exec", "1/0", "--id", "bad"]).expect(5);
    until("the dead letter", || !messages(&place, "gleitzeit.dead.python.v1").is_empty());
    let dead = messages(&place, "gleitzeit.dead.python.v1");
    assert_eq!(dead.len(), 1);
    let envelope: Value = serde_json::from_str(dead[0]["payload"].as_str().expect("text")).expect("JSON");
    assert_eq!(envelope["id"], "bad");
    assert_eq!(envelope["failure"]["name"], "TASK_EXECUTION_FAILED");
    assert!(messages(&place, "gleitzeit.tasks.python.v1").is_empty());
}

#[test]
fn a_message_that_cannot_be_routed_is_recorded_and_kept() {
    let Some(place) = Place::new() else { return };
    let _worker = place.worker(&[]);
    let body = json!({"id": "lost", "method": "execute", "params": {}}).to_string();
    place.run(&["topology", "apply"]).expect(0);
    assert!(place.vhost.publish("gleitzeit.tasks", "pyton.v1", &body, &json!({"delivery_mode": 2})));
    let document = place.run(&["result", "--wait", "--timeout", "240", "lost", "--json"]).expect(5).json();
    assert_eq!(document["error"]["name"], "PROTOCOL_NOT_FOUND");
    until("the dead letter", || messages(&place, "gleitzeit.dead.unknown.v0").len() == 1);
}

/// The processes that a process has started, and theirs.
fn descendants(of: u32) -> Vec<i32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("Linux").flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent: Option<i32> = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1))
            .and_then(|parent| parent.parse().ok());
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        parents.extend(pid.zip(parent));
    }
    let mut found: Vec<i32> = Vec::new();
    let mut ancestors = vec![i32::try_from(of).expect("a pid")];
    while let Some(ancestor) = ancestors.pop() {
        let children = parents.iter().filter(|(_, parent)| *parent == ancestor).map(|(pid, _)| *pid);
        ancestors.extend(children.clone());
        found.extend(children);
    }
    found
}

#[test]
fn python_tasks_whose_processes_are_killed_at_any_moment_are_tried_again() {
    let Some((place, worker)) = Place::with_worker() else { return };
    let begun = place.path("begun");
    let code = format!("import time\nopen({begun:?}, 'a').write('x')\ntime.sleep(0.1)\n'slept'\n");
    for number in 0..30 {
        let id = format!("t{number}");
        let retry = json!({"max_attempts": 10, "base_delay": 0.05});
        let body = json!({"id": id, "method": "execute", "params": {"code": code}, "retry": retry});
        place.publish("gleitzeit.tasks", "python.v1", &body.to_string(), &json!({"message_id": id}));
    }
    let so_far = || std::fs::metadata(&begun).map_or(0, |file| file.len());
    for round in 0..8 {
        until("a task to begin", || so_far() > round);
        for pid in descendants(worker.0.id()) {
            // It may have ended.
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
    for number in 0..30 {
        let document = place.result(&format!("t{number}"));
        let result = &document["result"]["result"];
        assert_eq!((&document["status"], result), (&json!("completed"), &json!("slept")), "{document}");
    }
    assert!(so_far() > 30, "some were killed");
}

#[test]
fn replies_and_events_reach_who_asked_for_them() {
    let Some(place) = Place::new() else { return };
    place.run(&["topology", "apply"]).expect(0);
    let _worker = place.worker(&[]);
    for queue in ["answers", "told"] {
        place.vhost.declare_queue(queue, &json!({}));
    }
    place.vhost.bind("gleitzeit.replies", "answers", "answers");
    // What workers say of themselves, from time to time, is not asked for.
    for key in ["task.#", "workflow.#"] {
        place.vhost.bind("gleitzeit.events", "told", key);
    }
    let asked = |correlation: &str| json!({"reply_to": "answers", "correlation_id": correlation});
    let task = json!({"method": "ping", "params": {"message": "hi"}}).to_string();
    assert!(place.vhost.publish("gleitzeit.tasks", "echo.v1", &task, &asked("one")));
    let workflow = json!({"id": "asked", "name": "W", "tasks": [
        {"id": "a", "method": "echo/ping"}, {"id": "b", "method": "echo/ping", "dependencies": ["a"]},
    ]});
    assert!(place.vhost.publish(
        "gleitzeit.workflows",
        "gleitzeit.workflows",
        &workflow.to_string(),
        &asked("two")
    ));

    until("two replies", || messages(&place, "answers").len() == 2);
    for reply in messages(&place, "answers") {
        let document: Value = serde_json::from_str(reply["payload"].as_str().expect("text")).expect("JSON");
        assert_eq!(document["status"], "completed");
        match reply["properties"]["correlation_id"].as_str() {
            Some("one") => assert_eq!(document["result"]["response"], "hi"),
            Some("two") => assert_eq!(document["workflow_id"], "asked"),
            other => panic!("a reply to {other:?}"),
        }
    }
    until("the events", || messages(&place, "told").len() == 4);
    let keys: Vec<Value> =
        messages(&place, "told").iter().map(|event| event["routing_key"].clone()).collect();
    assert_eq!(keys.iter().filter(|key| *key == "task.completed").count(), 3, "{keys:?}");
    assert!(keys.contains(&json!("workflow.completed")), "{keys:?}");
}

#[test]
fn wrong_passwords_and_missing_servers_each_have_their_code() {
    let Some(place) = Place::new() else { return };
    let name = |amqp: &str, redis: &str| -> Value {
        let mut command = gleitzeit(&["call", "echo/v1", "ping", "--no-wait", "--json"]);
        command.env("GLEITZEIT_AMQP_URL", amqp).env("GLEITZEIT_REDIS_URL", redis);
        let ran = Ran::of(command.output().expect("the binary starts")).expect(4);
        assert!(!ran.stdout.contains("hunter2") && !ran.stderr.contains("hunter2"), "{ran:?}");
        ran.json()["error"]["name"].clone()
    };
    let good = place.vhost.url();
    assert_eq!(name(&place.vhost.url_of("guest", "hunter2"), &place.redis), "AUTHENTICATION_FAILED");
    assert_eq!(name("amqp://guest:hunter2@127.0.0.1:1/%2f", &place.redis), "CONNECTION_REFUSED");
    assert_eq!(name(&good, "redis://:hunter2@127.0.0.1:1/0"), "PERSISTENCE_CONNECTION_FAILED");
    let refused = place.redis.replacen("redis://", "redis://nobody:hunter2@", 1);
    assert_eq!(name(&good, &refused), "AUTHENTICATION_FAILED");
}

#[test]
fn the_topology_is_applied_once_and_found_as_declared() {
    let Some(place) = Place::new() else { return };
    let missing = place.run(&["topology", "check", "--json"]).expect(4).json();
    assert!(!missing["findings"].as_array().expect("a list").is_empty());
    place.run(&["topology", "apply"]).expect(0);
    let found = place.run(&["topology", "check", "--json"]).expect(0).json();
    assert_eq!(found["findings"], json!([]));
}

/// The messages of a queue, without taking them.
fn messages(place: &Place, queue: &str) -> Vec<Value> {
    place.vhost.peek(queue)
}

#[test]
fn a_key_is_one_task_and_one_workflow_however_often_it_is_sent() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let task = json!({"idempotency_key": "monday", "method": "ping", "metadata": {"by": "pika"}}).to_string();
    for _ in 0..3 {
        place.publish("gleitzeit.tasks", "echo.v1", &task, &json!({}));
    }
    let tasks = json!([{"id": "a", "method": "echo/ping"}]);
    let workflow = json!({"name": "W", "idempotency_key": "tuesday", "tasks": tasks}).to_string();
    for _ in 0..3 {
        place.publish("gleitzeit.workflows", "", &workflow, &json!({}));
    }
    let ended = || place.run(&["list", "--status", "completed", "--json"]).json();
    until("both to end", || ended().as_array().is_some_and(|rows| rows.len() == 2));
    until("the repeats to be gone", || {
        ["gleitzeit.tasks.echo.v1", "gleitzeit.workflows"]
            .iter()
            .all(|queue| place.vhost.queue(queue)["messages"] == json!(0))
    });
    for row in ended().as_array().expect("a list") {
        let id = row["id"].as_str().expect("an id");
        let record = place.run(&["status", id, "--json"]).expect(0).json();
        let task = record.get("tasks").map_or(&record, |tasks| &tasks[0]);
        assert_eq!(task["attempts"], json!(1), "{record}");
    }
}

#[test]
fn the_history_tells_of_each_attempt_when_where_how_long_and_how_it_ended() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let body = json!({
        "id": "twice", "method": "error", "params": {"message": "as asked"},
        "retry": {"max_attempts": 2, "base_delay": 0.1},
    });
    place.publish("gleitzeit.tasks", "echo.v1", &body.to_string(), &json!({}));
    let ended = place.run(&["result", "--wait", "--timeout", "240", "twice", "--json"]).expect(5).json();
    let history = ended["error"]["details"]["attempts"].as_array().cloned().unwrap_or_default();
    assert_eq!(history.len(), 2, "{ended}");
    for (number, entry) in history.iter().enumerate() {
        let at = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(entry["attempt"], json!(number + 1), "{entry}");
        assert!(at("started_at") <= at("ended_at") && at("started_at").starts_with("20"), "{entry}");
        assert!(!at("worker_id").is_empty() && entry["error"]["message"] == "as asked", "{entry}");
    }
}
