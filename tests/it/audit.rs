//! Audit through the real binary: what operators and failovers destroy is named exactly and brought back.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::own::is_full;
use crate::place::{Place, say_skipped};
use crate::support::{Embedded, Ran, Running, until};

const ECHO: &str = "gleitzeit.tasks.echo.v1";

/// What was named, as `ID why`.
fn named(ran: &Ran) -> BTreeSet<String> {
    let document = ran.json();
    let findings = document["findings"].as_array().expect("findings").iter();
    findings
        .map(|one| format!("{} {}", one["id"].as_str().expect("id"), one["why"].as_str().expect("why")))
        .collect()
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// A chain and one beside it.
fn workflow() -> String {
    json!({"name": "W", "tasks": [
        {"id": "a", "method": "echo/ping"},
        {"id": "b", "method": "echo/ping", "dependencies": ["a"]},
        {"id": "c", "method": "echo/ping"},
    ]})
    .to_string()
}

impl Place {
    fn purge(&self, queue: &str) {
        self.vhost.call("DELETE", &format!("/api/queues/{}/{queue}/contents", self.vhost.name), &Value::Null);
    }

    fn audit(&self, more: &[&str]) -> Ran {
        let args: Vec<&str> = ["audit", "--json", "--older-than", "1s"].iter().chain(more).copied().collect();
        self.run(&args)
    }

    fn status(&self, id: &str) -> String {
        let ran = self.run(&["status", id, "--json"]);
        if ran.code != 0 {
            return "unknown".to_owned();
        }
        ran.json()["status"].as_str().expect("a state").to_owned()
    }

    fn is_completed(&self, ids: &[&str]) {
        for id in ids {
            self.run(&["result", id, "--wait", "--timeout", "240", "--json"]).expect(0);
        }
    }

    fn task(&self, id: &str, more: &[&str]) {
        let args = ["call", "echo/v1", "ping", "--no-wait", "--id", id];
        self.run(&[&args[..], more].concat()).expect(0);
    }
}

#[test]
fn what_was_purged_is_named_exactly_and_brought_back() {
    if !is_full() {
        return say_skipped("GLEITZEIT_TEST_FULL: this one is long");
    }
    let Some(place) = Place::new() else { return };
    place.run(&["topology", "apply"]).expect(0);
    // Takes workflows in, and leaves their tasks to others.
    let coordinator = place.worker(&["--protocol", "python/v1"]);
    let file = place.write("w.json", &workflow());
    place.run(&["submit", &file, "--id", "w"]).expect(0);
    until("the workflow to be taken in", || place.status("w/c") == "queued");
    place.task("one", &[]);
    place.task("two", &["--priority", "high"]);
    place.task("soon", &["--in", "9s"]);
    place.task("late", &["--in", "1h"]);
    until("the queue to fill", || place.vhost.queue(ECHO)["messages_ready"] == 5);
    place.purge(ECHO);
    until("all of it to be old enough", || named(&place.audit(&[])).contains("soon overdue"));

    let found = place.audit(&[]).expect(1);
    let lost = set(&[
        "w/a not_in_queue",
        "w/c not_in_queue",
        "one not_in_queue",
        "two not_in_queue",
        "soon overdue",
    ]);
    assert_eq!(named(&found), lost, "{}", found.stdout);
    assert_eq!(found.json()["open"]["echo/v1"]["delayed"], 2);
    assert_eq!(
        named(&place.audit(&["--workflow", "w"]).expect(1)),
        set(&["w/a not_in_queue", "w/c not_in_queue"])
    );
    let lines = place.run(&["audit", "--older-than", "1s"]).expect(1);
    assert!(lines.stdout.contains("w/c  task queued  since "), "{lines:?}");

    let repaired = place.audit(&["--repair"]).expect(0);
    assert!(
        repaired.json()["findings"].as_array().expect("a list").iter().all(|one| one["repaired"] == true)
    );
    until("the messages to be there", || place.vhost.queue(ECHO)["messages_ready"] == 5);
    assert_eq!(named(&place.audit(&[]).expect(0)), set(&[]));
    let _worker = place.worker(&["--protocol", "echo/v1"]);
    place.is_completed(&["w", "one", "two", "soon"]);
    assert_eq!(named(&place.audit(&[]).expect(0)), set(&[]));
    assert_eq!(place.run(&["status", "one", "--json"]).expect(0).json()["attempts"], 1);
    drop(coordinator);
}

/// The members of an object of numbers, but for some.
fn sum(of: &Value, but: &str) -> u64 {
    let members = of.as_object().expect("an object").iter();
    members.filter(|(key, _)| *key != but).map(|(_, count)| count.as_u64().expect("a count")).sum()
}

#[test]
fn what_was_accepted_adds_up() {
    let here = Embedded::new();
    let file = here.write("w.json", &workflow());
    here.run(&["run", &file, "--id", "done"]).expect(0);
    here.run(&["exec", "1/0", "--id", "bad"]).expect(5);
    here.run(&["submit", &file, "--id", "new"]).expect(0);
    here.run(&["submit", &file, "--id", "later", "--in", "1h"]).expect(0);
    here.run(&["call", "echo/v1", "ping", "--no-wait", "--id", "one"]).expect(0);
    here.run(&["call", "echo/v1", "ping", "--no-wait", "--id", "two"]).expect(0);
    here.run(&["call", "echo/v1", "ping", "--no-wait", "--in", "1h"]).expect(0);
    // Of these no message is there.
    let state = rusqlite::Connection::open(here.path("state.db")).expect("opens");
    state.execute("DELETE FROM messages WHERE message_id = 'two'", []).expect("deletes");
    let audit = here.run(&["audit", "--json", "--older-than", "1h"]).expect(0).json();
    let summary = &audit["summary"];
    assert_eq!(summary["accepted"], 7, "{summary}");
    assert_eq!(summary["ended"], json!({"total": 2, "by_status": {"completed": 1, "failed": 1}}));
    let open = json!({"total": 5, "workflows": 0, "workflows_not_taken_in": 2, "tasks": 3});
    assert_eq!(summary["open"], open);
    let tasks = &summary["open_tasks"];
    assert_eq!((&tasks["ready"], &tasks["not_ready"], &tasks["delayed"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!((&tasks["total"], sum(tasks, "total")), (&json!(3), 3));
    assert_eq!(summary["messages"]["ready"], 2, "a task and a workflow: {summary}");
    let delayed = json!({"total": 2, "queues": {"gleitzeit.tasks.echo.v1": 1, "gleitzeit.workflows": 1}});
    assert_eq!((&summary["messages"]["delayed"], &summary["messages"]["dead"]), (&delayed, &json!(1)));
    let lines = here.run(&["audit", "--older-than", "1h"]).expect(0).stdout;
    for line in [
        "accepted 7 = ended 2 (1 completed, 1 failed) + open 5 (0 workflows, 2 not taken in, 3 tasks)",
        "open tasks 3 = ready 1 + not ready 1 + delayed 1 + running 0 + without a worker 0 + waiting 0",
        "messages: 2 ready, 0 unacknowledged, 2 delayed, 0 in the dead inbox, 1 dead letters; 0 schedules",
    ] {
        assert!(lines.contains(line), "{line} is not in\n{lines}");
    }
}

#[test]
fn the_summary_adds_up_over_servers_while_tasks_run_and_wait() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let flag = place.path("flag");
    let code = format!(
        "import os, time\nwhile not os.path.exists({:?}): time.sleep(0.05)",
        flag.display().to_string()
    );
    let file = place.write(
        "w.json",
        &json!({"name": "W", "tasks": [
            {"id": "a", "method": "echo/ping"},
            {"id": "b", "method": "python/execute", "params": {"code": code}, "dependencies": ["a"]},
            {"id": "c", "method": "echo/ping", "dependencies": ["b"]},
        ]})
        .to_string(),
    );
    place.run(&["submit", &file, "--id", "w"]).expect(0);
    until("it to run", || place.status("w/b") == "running");
    place.task("later", &["--in", "1h"]);
    let summary = place.audit(&[]).expect(0).json()["summary"].clone();
    let open = json!({"total": 2, "workflows": 1, "workflows_not_taken_in": 0, "tasks": 1});
    assert_eq!((&summary["accepted"], &summary["open"]), (&json!(2), &open));
    let expected = json!({
        "total": 3, "ready": 0, "not_ready": 0, "delayed": 1, "running": 1, "without_worker": 0, "waiting": 1
    });
    assert_eq!(summary["open_tasks"], expected);
    assert_eq!(
        (&summary["messages"]["unacknowledged"], &summary["messages"]["delayed"]["total"]),
        (&Value::Null, &json!(1))
    );
    std::fs::write(&flag, "").expect("a file");
    place.is_completed(&["w"]);
}

/// By the real binary; at each call of a port: `tests/property`.
#[test]
fn a_repair_that_is_killed_in_the_middle_and_two_at_once_lose_nothing_and_run_nothing_twice() {
    const WIDTH: usize = 250;
    let Some(place) = Place::new() else { return };
    place.run(&["topology", "apply"]).expect(0);
    let queue = "gleitzeit.tasks.python.v1";
    let ledger = place.path("ledger");
    let tasks: Vec<Value> = (0..WIDTH)
        .map(|number| {
            // Only some of them leave a mark: a process each takes its time.
            let code = match number % 10 {
                0 => format!("open({:?}, 'a').write('{number}\\n')", ledger.display().to_string()),
                _ => String::new(),
            };
            let method = if number % 10 == 0 { "python/execute" } else { "echo/ping" };
            let params = if number % 10 == 0 { json!({"code": code}) } else { json!({}) };
            json!({"id": format!("t{number}"), "method": method, "params": params})
        })
        .collect();
    // Takes the workflow in, and leaves its tasks to others.
    let coordinator = place.worker(&["--protocol", "mcp/v1"]);
    let file = place.write("w.json", &json!({"name": "W", "tasks": tasks}).to_string());
    place.run(&["submit", &file, "--id", "w"]).expect(0);
    let ready = |queue: &str| place.vhost.queue(queue)["messages_ready"].as_u64().unwrap_or_default();
    let (marks, echoes) = (WIDTH / 10, WIDTH - WIDTH / 10);
    until("all of it to be in the queues", || (ready(queue), ready(ECHO)) == (marks as u64, echoes as u64));
    place.purge(queue);
    place.purge(ECHO);
    until("all of it to be old enough", || named(&place.audit(&[])).len() == WIDTH);

    let start = || {
        let mut command = place.command(&["audit", "--json", "--older-than", "1s", "--repair"]);
        Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts"))
    };
    let mut killed = start();
    // Looked at itself: the server's counts are some seconds old.
    let is_sending = || [queue, ECHO].iter().any(|queue| !place.vhost.peek(queue).is_empty());
    until("it to send the first messages", is_sending);
    killed.kill();
    // What it had sent is purged again, so that both of the next have everything to send.
    place.purge(queue);
    place.purge(ECHO);
    let mut both = [start(), start()];
    for repair in &mut both {
        assert_eq!(repair.0.wait().expect("it ends").code(), Some(0));
    }
    until("all of it to be sent", || ready(queue) + ready(ECHO) >= WIDTH as u64);
    let _worker = place.worker(&[]);
    place.is_completed(&["w"]);
    let text = std::fs::read_to_string(&ledger).expect("a ledger");
    let mut lines: Vec<usize> = text.lines().map(|line| line.parse().expect("a number")).collect();
    lines.sort_unstable();
    let expected: Vec<usize> = (0..marks).map(|number| number * 10).collect();
    assert_eq!(lines, expected);
    until("the copies to go", || ready(queue) + ready(ECHO) == 0);
    drop(coordinator);
}

#[test]
fn a_message_that_is_there_already_causes_nothing() {
    let Some(place) = Place::new() else { return };
    place.run(&["topology", "apply"]).expect(0);
    place.task("one", &[]);
    place.purge(ECHO);
    until("it to be old enough", || !named(&place.audit(&[])).is_empty());
    place.audit(&["--repair"]).expect(0);
    // Somebody else repairs too, or the first message was not lost after all.
    let message = crate::place::eventually("the message", || place.take(ECHO));
    for _ in 0..3 {
        let payload = message["payload"].as_str().expect("text");
        place.publish("gleitzeit.tasks", "echo.v1", payload, &message["properties"]);
    }
    let _worker = place.worker(&[]);
    place.is_completed(&["one"]);
    until("the queue to be empty", || place.vhost.queue(ECHO)["messages"] == 0);
    assert_eq!(place.run(&["status", "one", "--json"]).expect(0).json()["attempts"], 1);
}

#[test]
fn a_purged_delay_queue_and_a_purged_workflows_queue_are_noticed() {
    let Some(place) = Place::new() else { return };
    place.run(&["topology", "apply"]).expect(0);
    let file = place.write("w.json", &workflow());
    place.run(&["submit", &file, "--id", "gone"]).expect(0);
    place.run(&["submit", &file, "--id", "later", "--in", "1h"]).expect(0);
    place.purge("gleitzeit.workflows");
    // The first of its delay queues, for 12.8 of the 20 seconds.
    place.task("soon", &["--in", "20s"]);
    place.purge("gleitzeit.delay.07.12.8s");
    until("its time to be over", || named(&place.audit(&[])).contains("soon overdue"));
    assert_eq!(named(&place.audit(&[]).expect(1)), set(&["gone not_taken_in", "soon overdue"]));
    let repaired = place.audit(&["--repair"]).expect(1).json();
    for finding in repaired["findings"].as_array().expect("a list") {
        assert_eq!(finding["repaired"], finding["id"] == "soon", "{finding}");
    }
    let _worker = place.worker(&[]);
    place.is_completed(&["soon"]);
}

#[test]
fn a_purged_tick_is_sent_again() {
    let Some((place, worker)) = Place::with_worker() else { return };
    let add = ["schedule", "add", "s", "*/2 * * * * *", "echo/v1", "ping"];
    place.run(&add).expect(0);
    let fired = || {
        let shown = place.run(&["schedule", "show", "s", "--json"]);
        if shown.code == 0 { shown.json()["fired"].as_u64().expect("a count") } else { 0 }
    };
    until("a slot to fire", || fired() > 0);
    drop(worker);
    // Once it is due it waits in the workflows queue: nobody is there to take it.
    until("the tick to be due", || {
        place.purge("gleitzeit.workflows");
        !named(&place.audit(&[])).is_empty()
    });
    assert_eq!(named(&place.audit(&["--repair"]).expect(0)), set(&["s no_tick"]));
    let before = fired();
    let _worker = place.worker(&[]);
    until("slots to fire again", || fired() > before + 1);
}

#[test]
fn a_dead_worker_whose_message_was_purged_is_named() {
    let Some((place, mut worker)) = Place::with_worker() else { return };
    let flag = place.path("flag");
    let code = format!(
        "import os, time\nwhile not os.path.exists({:?}): time.sleep(0.05)",
        flag.display().to_string()
    );
    place.run(&["exec", &code, "--id", "long", "--no-wait"]).expect(0);
    until("it to run", || place.status("long") == "running");
    worker.kill();
    let queue = "gleitzeit.tasks.python.v1";
    until("the message to come back", || place.vhost.queue(queue)["messages_ready"] == 1);
    assert_eq!(named(&place.audit(&[])), set(&[]), "it waits for another worker");
    place.purge(queue);
    until("its session to be over", || !named(&place.audit(&[])).is_empty());
    assert_eq!(named(&place.audit(&["--repair"]).expect(0)), set(&["long worker_died"]));
    std::fs::write(&flag, "").expect("a file");
    let _worker = place.worker(&[]);
    place.is_completed(&["long"]);
    assert_eq!(place.run(&["status", "long", "--json"]).expect(0).json()["crashes"], 1);
}

#[test]
fn a_failover_that_lost_the_last_writes_is_repaired() {
    let Some((place, mut worker)) = Place::with_worker() else { return };
    let file = place.write("w.json", &workflow());
    worker.drain();
    let coordinator = place.worker(&["--protocol", "python/v1"]);
    place.run(&["submit", &file, "--id", "w"]).expect(0);
    until("the workflow to be taken in", || place.status("w/c") == "queued");
    // The replica that takes over has what was there now.
    let keys = ["root", "order", "task:a", "task:b", "task:c"].map(|what| place.key("w", what));
    for key in &keys {
        place.redis_cli(&["COPY", key, &format!("{key}:old")]);
    }
    let rest = place.worker(&["--protocol", "echo/v1"]);
    place.is_completed(&["w"]);
    for what in ["result", "result:a", "result:b", "result:c"] {
        place.redis_cli(&["DEL", &place.key("w", what)]);
    }
    for key in &keys {
        place.redis_cli(&["COPY", &format!("{key}:old"), key, "REPLACE"]);
    }
    until("the workflow to be old enough", || !named(&place.audit(&[])).is_empty());
    assert_eq!(named(&place.audit(&["--repair"]).expect(0)), set(&["w/a not_in_queue", "w/c not_in_queue"]));
    place.is_completed(&["w"]);
    assert_eq!(named(&place.audit(&[]).expect(0)), set(&[]));
    drop((coordinator, rest));
}

#[test]
fn a_healthy_system_under_load_is_never_accused() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let _second = place.worker(&[]);
    let tasks: Vec<Value> = (0..40)
        .map(|number| {
            let before: Vec<String> = (number > 3).then(|| format!("t{}", number - 4)).into_iter().collect();
            json!({"id": format!("t{number}"), "method": "echo/ping", "dependencies": before})
        })
        .collect();
    let file = place.write("w.json", &json!({"name": "W", "max_parallel": 3, "tasks": tasks}).to_string());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                place.run(&["submit", &file]).expect(0);
                place.run(&["call", "echo/v1", "ping", "--no-wait", "--in", "0.3s"]).expect(0);
                place.run(&["exec", "1", "--no-wait"]).expect(0);
            }
        });
        for _ in 0..3 {
            // No patience at all: everything that waits at the first look is a suspect.
            let audited = place.run(&["audit", "--json", "--older-than", "0s"]);
            let is_clean = audited.code == 0;
            if !is_clean {
                is_over.store(true, Ordering::Relaxed);
            }
            assert!(is_clean, "{audited:?}");
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn embedded_messages_that_are_gone_are_sent_again() {
    let here = Embedded::new();
    let file = here.write("w.json", &workflow());
    here.run(&["submit", &file, "--id", "gone"]).expect(0);
    here.run(&["submit", &file, "--id", "later", "--in", "1h"]).expect(0);
    here.run(&["call", "echo/v1", "ping", "--no-wait", "--id", "one"]).expect(0);
    let audit = |more: &[&str]| {
        let args: Vec<&str> = ["audit", "--json", "--older-than", "0s"].iter().chain(more).copied().collect();
        here.run(&args)
    };
    assert_eq!(named(&audit(&[]).expect(0)), set(&[]));
    let state = rusqlite::Connection::open(here.path("state.db")).expect("opens");
    state.execute("DELETE FROM messages", []).expect("deletes");
    drop(state);
    assert_eq!(named(&audit(&[]).expect(1)), set(&["gone not_taken_in", "one not_in_queue"]));
    assert_eq!(named(&audit(&["--repair"]).expect(1)).len(), 2);
    here.run(&["resume", "one"]).expect(0);
    assert_eq!(named(&audit(&[]).expect(1)), set(&["gone not_taken_in"]));
}
