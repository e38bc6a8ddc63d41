//! Dead letters by the command line: listed, shown, replayed, dropped; embedded and over servers.

use serde_json::{Value, json};

use crate::place::Place;
use crate::support::{Embedded, Ran, task, until};

/// Fails until the file is there.
fn flaky(path: &std::path::Path) -> String {
    format!(
        "import os, sys\nprint('looking')\nprint('oh no', file=sys.stderr)\nopen({:?}).read()",
        path.display().to_string()
    )
}

fn ids(listed: &Value) -> Vec<String> {
    let letters = listed["letters"].as_array().expect("letters");
    letters.iter().map(|one| one["id"].as_str().unwrap_or("-").to_owned()).collect()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().filter_map(|one| one["id"].as_str()).collect()
}

fn listed(here: &Embedded) -> Value {
    here.run(&["dead", "list", "--json"]).expect(0).json()
}

#[test]
fn a_task_on_its_own_is_listed_shown_and_replayed() {
    let here = Embedded::new();
    let flag = here.path("flag");
    here.run(&["exec", &flaky(&flag), "--id", "bad", "--priority", "high"]).expect(5);

    let line = here.run(&["dead", "list"]).expect(0);
    assert!(line.stdout.contains("python/v1:execute") && line.stdout.contains("  bad  "), "{line:?}");
    assert_eq!(line.stderr.trim(), "1 TASK_EXECUTION_FAILED");
    let document = listed(&here);
    assert_eq!((&document["total"], &document["codes"]), (&json!(1), &json!({"TASK_EXECUTION_FAILED": 1})));

    let shown = here.run(&["dead", "show", "bad"]).expect(0).stdout;
    for part in [
        "FileNotFoundError",
        "do: ",
        "attempt 1: failed",
        "stdout:\n  looking",
        "stderr:\n  oh no",
        "priority 7",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    let letter = here.run(&["dead", "show", "bad", "--json"]).expect(0).json();
    assert!(letter["output"]["stderr"].as_str().expect("text").starts_with("oh no\n"), "{letter}");
    assert_eq!(letter["replays"], Value::Null);

    // Again in vain: one letter, which knows that it is the second.
    let plan = here.run(&["dead", "replay", "bad", "--dry-run", "--json"]).expect(0).json();
    assert_eq!((names(&plan["replayed"]), &plan["dry_run"]), (vec!["bad"], &json!(true)));
    assert_eq!(here.run(&["status", "bad", "--json"]).expect(0).json()["status"], "failed");
    here.run(&["dead", "replay", "bad"]).expect(0);
    assert_eq!(listed(&here)["total"], 0);
    assert_eq!(here.run(&["status", "bad", "--json"]).expect(0).json()["status"], "queued");
    here.run(&["resume", "bad"]);
    let document = listed(&here);
    assert_eq!((&document["total"], &document["letters"][0]["replays"]), (&json!(1), &json!(1)));
    let again = here.run(&["dead", "show", "bad", "--json"]).expect(0).json();
    assert_eq!(again["original"]["properties"]["priority"], json!(7), "{again}");

    std::fs::write(&flag, "").expect("a file");
    here.run(&["dead", "replay", "--code", "-29002"]).expect(0);
    here.run(&["resume", "bad"]).expect(0);
    let ended = here.run(&["result", "bad", "--json"]).expect(0).json();
    assert_eq!((&ended["id"], &ended["status"]), (&json!("bad"), &json!("completed")));
    assert_eq!(listed(&here)["total"], 0);
}

#[test]
fn of_a_workflow_only_what_failed_runs_again_once_for_all_its_letters() {
    let here = Embedded::new();
    let (flag, count) = (here.path("flag"), here.path("count"));
    let good = format!("open({:?}, 'a').write('x')", count.display().to_string());
    let workflow = json!({"name": "W", "tasks": [
        {"id": "good", "method": "python/execute", "params": {"code": good}},
        {"id": "one", "method": "python/execute", "params": {"code": flaky(&flag)}, "dependencies": ["good"]},
        {"id": "two", "method": "python/execute", "params": {"code": flaky(&flag)}, "dependencies": ["good"]},
        {"id": "after", "method": "echo/ping", "dependencies": ["one"]},
    ]});
    let file = here.write("w.json", &workflow.to_string());
    here.run(&["run", &file, "--id", "w1"]).expect(5);
    let mut found = ids(&listed(&here));
    found.sort();
    assert_eq!(found, ["one", "two"], "what only depends on them is no letter");

    std::fs::write(&flag, "").expect("a file");
    // One of its letters is named: the run is for the other too.
    let plan = here.run(&["dead", "replay", "w1/one", "--json"]).expect(0).json();
    assert_eq!(plan["replayed"], json!([{"id": "w1", "letters": 2}]));
    assert_eq!(listed(&here)["total"], 0);
    here.run(&["resume", "w1"]).expect(0);
    let document = here.run(&["result", "w1", "--json"]).expect(0).json();
    assert_eq!(task(&document, "after")["status"], "completed");
    assert_eq!(std::fs::read_to_string(&count).expect("a file"), "x");
}

#[test]
fn what_completed_meanwhile_only_loses_its_letter() {
    let here = Embedded::new();
    let flag = here.path("flag");
    here.run(&["exec", &flaky(&flag), "--id", "t"]).expect(5);
    std::fs::write(&flag, "").expect("a file");
    here.run(&["retry", "t", "--wait"]).expect(0);
    let plan = here.run(&["dead", "replay", "--all", "--json"]).expect(0).json();
    assert_eq!((names(&plan["completed"]), names(&plan["replayed"])), (vec!["t"], vec![]));
    assert_eq!(listed(&here)["total"], 0);
}

#[test]
fn what_has_not_ended_keeps_its_letter() {
    let here = Embedded::new();
    here.run(&["exec", "1/0", "--id", "t"]).expect(5);
    here.run(&["retry", "t"]).expect(0);
    let plan = here.run(&["dead", "replay", "--all", "--json"]).expect(1).json();
    assert_eq!(names(&plan["kept"]), ["t"]);
    assert!(plan["kept"][0]["reason"].as_str().expect("text").contains("queued"), "{plan}");
    assert_eq!(listed(&here)["total"], 1);
}

#[test]
fn filters_choose_and_a_slip_empties_nothing() {
    let here = Embedded::new();
    here.run(&["exec", "1/0", "--id", "a"]).expect(5);
    here.run(&["exec", "import time; time.sleep(9)", "--id", "b", "--timeout", "9"]);
    here.run(&["call", "echo/v1", "error", "--params", r#"{"message": "x"}"#, "--id", "c"]);
    let all = ids(&listed(&here));
    let list = |args: &[&str]| {
        let args: Vec<&str> = ["dead", "list", "--json"].iter().chain(args).copied().collect();
        ids(&here.run(&args).expect(0).json())
    };
    assert!(all.contains(&"a".to_owned()), "{all:?}");
    assert_eq!(list(&["python/v1", "--code", "task_execution_failed"]), ["a"]);
    assert_eq!(list(&["--id", "a"]), ["a"]);
    assert_eq!(list(&["--older-than", "1h"]), Vec::<String>::new());
    assert_eq!(list(&["--newer-than", "1h"]), all);
    assert_eq!(list(&["--workflow", "w"]), Vec::<String>::new());
    assert_eq!(list(&["--limit", "1"]).len(), 1);
    assert_eq!(list(&["llm/v1"]), Vec::<String>::new());

    for command in ["replay", "drop"] {
        let error = here.run(&["dead", command, "--json"]).expect(2).json();
        assert!(error["error"]["message"].as_str().expect("text").contains("--all"), "{error}");
        here.run(&["dead", command, "nobody"]).expect(7);
    }
    here.run(&["dead", "show"]).expect(2);
    here.run(&["dead", "list", "--code", "TASK_TIMEOT"]).expect(2);
    here.run(&["dead", "list", "--older-than", "soon"]).expect(2);
    assert_eq!(ids(&listed(&here)), all);

    let would = here.run(&["dead", "drop", "a", "--dry-run", "--json"]).expect(0).json();
    assert_eq!(
        (&would["dropped"][0]["id"], listed(&here)["total"].as_u64()),
        (&json!("a"), Some(all.len() as u64))
    );
    let dropped = here.run(&["dead", "drop", "--id", "a"]).expect(0);
    assert!(dropped.stdout.starts_with("a  python/v1:execute"), "{dropped:?}");
    assert!(!ids(&listed(&here)).contains(&"a".to_owned()));
    assert_eq!(here.run(&["status", "a", "--json"]).expect(0).json()["status"], "failed", "its record stays");
}

/// What a command does is told when it is done: here the queue that the letter came from is there no more.
#[test]
fn what_could_not_be_done_is_not_told_as_done() {
    let here = Embedded::new();
    here.run(&["exec", "1/0", "--id", "t"]).expect(5);
    let state = rusqlite::Connection::open(here.path("state.db")).expect("opens");
    let letter: Vec<u8> = state
        .query_row(
            "SELECT body FROM messages WHERE queue = (SELECT id FROM queues WHERE name = 'gleitzeit.dead.python.v1')",
            [],
            |row| row.get(0),
        )
        .expect("the letter");
    let mut letter: Value = serde_json::from_slice(&letter).expect("JSON");
    (letter["id"], letter["queue"]) = (Value::Null, json!("gleitzeit.tasks.gone.v1"));
    state.execute("UPDATE messages SET body = ?1", [letter.to_string().into_bytes()]).expect("one letter");
    let would = here.run(&["dead", "replay", "--all", "--dry-run"]).expect(0);
    assert!(would.stderr.contains("would be published again (1 letter)"), "{would:?}");
    let ran = here.run(&["dead", "replay", "--all"]).expect(4);
    assert!(!ran.stderr.contains("published again"), "{ran:?}");
    assert_eq!(listed(&here)["total"], 1);
}

fn place_list(place: &Place) -> Value {
    place.run(&["dead", "list", "--json"]).expect(0).json()
}

fn wait_for(place: &Place, count: usize) {
    until("the dead letters", || place_list(place)["total"] == json!(count));
}

fn completed(place: &Place, id: &str) -> Ran {
    until("its end", || place.run(&["status", id, "--json"]).stdout.contains("\"completed\""));
    place.run(&["result", id, "--json"]).expect(0)
}

#[test]
fn over_servers_a_replay_keeps_the_id_and_the_letters_keep_their_places() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let flag = place.path("flag");
    for id in ["a", "b", "c"] {
        place.run(&["exec", &flaky(&flag), "--id", id]).expect(5);
    }
    wait_for(&place, 3);
    for _ in 0..3 {
        assert_eq!(ids(&place_list(&place)), ["a", "b", "c"]);
    }
    std::fs::write(&flag, "").expect("a file");
    place.run(&["dead", "replay", "b"]).expect(0);
    completed(&place, "b");
    assert_eq!(ids(&place_list(&place)), ["a", "c"]);

    // Two at once: each replays what it holds, and nothing runs twice.
    let replay =
        || place.command(&["dead", "replay", "--all", "--json"]).stdout(std::process::Stdio::piped()).spawn();
    let both = [replay().expect("starts"), replay().expect("starts")];
    for one in both {
        assert_eq!(one.wait_with_output().expect("ends").status.code(), Some(0));
    }
    for id in ["a", "c"] {
        let document = completed(&place, id).json();
        assert_eq!(document["attempts"], 1, "of the new run");
    }
    assert_eq!(place_list(&place)["total"], 0);
}

#[test]
fn over_servers_garbage_is_published_again_as_it_was() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    place.publish("gleitzeit.tasks", "echo.v1", "{garbage", &json!({}));
    wait_for(&place, 1);
    let before = place_list(&place);
    let name = before["letters"][0]["letter"].as_str().expect("a name").to_owned();
    assert_eq!(before["codes"], json!({"PARSE_ERROR": 1}));
    let shown = place.run(&["dead", "show", &name, "--json"]).expect(0).json();
    assert_eq!(shown["original"]["body_text"], "{garbage");

    let replayed = place.run(&["dead", "replay", &name, "--json"]).expect(0).json();
    assert_eq!(names(&replayed["replayed"]), [name.as_str()]);
    until("it to die again", || {
        let after = place_list(&place);
        after["total"] == json!(1) && after["letters"][0]["letter"] != json!(name)
    });
    let after = place_list(&place)["letters"][0].clone();
    assert_eq!((&after["replays"], &after["name"]), (&json!(1), &json!("PARSE_ERROR")));
    // It has an id now, under which the store keeps it as it was.
    let id = after["id"].as_str().expect("an id").to_owned();
    place.run(&["dead", "replay", &id]).expect(0);
    until("it to die once more", || place_list(&place)["letters"][0]["died_at"] != after["died_at"]);
    place.run(&["dead", "drop", "--protocol", "echo/v1"]).expect(0);
    assert_eq!(place_list(&place)["total"], 0);
}

#[test]
fn over_servers_what_cannot_be_replayed_says_why_and_stays() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    // For a protocol that nobody knows.
    let body = json!({"id": "lost", "protocol": "pyton/v1", "method": "execute", "params": {}}).to_string();
    place.publish("gleitzeit.tasks", "pyton.v1", &body, &json!({}));
    // A workflow that was refused.
    place.publish("gleitzeit.workflows", "", r#"{"id": "w", "tasks": [{"id": "a"}]}"#, &json!({}));
    wait_for(&place, 2);
    let plan = place.run(&["dead", "replay", "--all", "--json"]).expect(1).json();
    let mut kept = names(&plan["kept"]);
    kept.sort_unstable();
    assert_eq!((kept, names(&plan["replayed"])), (vec!["lost", "w"], vec![]));
    assert_eq!(place_list(&place)["total"], 2);
}

#[test]
fn over_servers_a_letter_of_a_forgotten_task_is_published_again_under_its_id() {
    let Some((place, mut worker)) = Place::with_worker() else { return };
    let flag = place.path("flag");
    let code = flaky(&flag);
    let body = json!({"id": "old", "method": "execute", "params": {"code": code}, "retry": {"max_attempts": 2, "base_delay": 0.1}, "metadata": {"order": "17"}});
    let lineage = json!({"gleitzeit-root": "day-3", "origin": "shop"});
    let properties = json!({"priority": 7, "headers": lineage});
    place.publish("gleitzeit.tasks", "python.v1", &body.to_string(), &properties);
    wait_for(&place, 1);
    assert_eq!(worker.drain(), Some(0));
    let keys = ["root", "result"].map(|what| place.key("old", what));
    place.redis_cli(&["DEL", &keys[0], &keys[1]]);
    std::fs::write(&flag, "").expect("a file");
    place.run(&["dead", "replay", "old"]).expect(0);
    let replayed = place.vhost.peek("gleitzeit.tasks.python.v1");
    let properties = &replayed[0]["properties"];
    assert_eq!((replayed.len(), &properties["priority"]), (1, &json!(7)), "{replayed:?}");
    assert_eq!(properties["headers"]["gleitzeit-root"], lineage["gleitzeit-root"], "{replayed:?}");
    assert_eq!(properties["headers"]["origin"], lineage["origin"], "{replayed:?}");
    assert_eq!(properties["headers"]["gleitzeit-replays"], json!("1"), "{replayed:?}");
    let payload: Value = serde_json::from_str(replayed[0]["payload"].as_str().expect("text")).expect("JSON");
    assert_eq!((&payload["id"], &payload["metadata"]), (&body["id"], &body["metadata"]));
    let _worker = place.worker(&[]);
    let document = completed(&place, "old").json();
    assert_eq!(document["attempts"], 1, "a first attempt, though the letter's message was a later one");
    assert_eq!(place_list(&place)["total"], 0);
}
