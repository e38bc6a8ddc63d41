//! Schedules through the real binary: each slot once, whoever is there, whoever dies.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Stdio;
use uuid::Uuid;

use crate::place::Place;
use crate::support::{Embedded, Ran, Running, until};

/// Where a schedule runs: both kinds of place in the same words.
trait Ground {
    fn ask(&self, args: &[&str]) -> Ran;
    fn start_worker(&self) -> Running;

    fn show(&self, name: &str) -> Value {
        self.ask(&["schedule", "show", name, "--json"]).expect(0).json()
    }

    fn fired(&self, name: &str) -> u64 {
        self.show(name)["fired"].as_u64().expect("a count")
    }

    /// Waits until so many slots more have fired.
    fn wait_for(&self, name: &str, more: u64) {
        let wanted = self.fired(name) + more;
        until("slots to fire", || self.fired(name) >= wanted);
    }

    /// Adds a schedule for every second and waits for its first slot.
    fn every_second(&self, name: &str, how: &[&str]) {
        let task =
            ["schedule", "add", name, "* * * * * *", "echo/v1", "echo", "--params", r#"{"message": 1}"#];
        self.ask(&[&task[..], how].concat()).expect(0);
        self.wait_for(name, 1);
    }

    /// The ids of all completed tasks.
    fn completed(&self) -> BTreeSet<String> {
        let list = self.ask(&["list", "--status", "completed", "--limit", "1000", "--json"]).expect(0).json();
        list.as_array().expect("a list").iter().map(|task| text(&task["id"])).collect()
    }

    /// Waits until the tasks of all slots from the first to the last fired have completed, and checks that there
    /// are no others and that none ran more than once.
    fn check_each_slot_once(&self, name: &str) {
        let shown = self.show(name);
        let (fired, last) = (shown["fired"].as_u64().expect("a count"), millis(&shown["last_slot"]));
        let slots = (0..i64::try_from(fired).expect("few")).map(|back| last - back * 1000);
        let expected: BTreeSet<String> = slots.map(|slot| run_id(name, slot)).collect();
        until("the runs to complete", || expected.is_subset(&self.completed()));
        assert_eq!(self.completed(), expected, "{shown}");
        for id in &expected {
            let task = self.ask(&["status", id, "--json"]).expect(0).json();
            assert_eq!(task["attempts"], json!(1), "{task}");
        }
    }

    fn pause(&self, name: &str) {
        self.ask(&["schedule", "pause", name]).expect(0);
        assert_eq!(self.show(name)["state"], "paused");
    }
}

impl Ground for Embedded {
    fn ask(&self, args: &[&str]) -> Ran {
        self.run(args)
    }

    fn start_worker(&self) -> Running {
        let mut command = self.command(&["worker"]);
        Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts"))
    }
}

impl Ground for Place {
    fn ask(&self, args: &[&str]) -> Ran {
        self.run(args)
    }

    fn start_worker(&self) -> Running {
        self.worker(&[])
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn millis(value: &Value) -> i64 {
    text(value).parse::<jiff::Timestamp>().expect("a time").as_millisecond()
}

/// The id of a slot's run, as the documents say.
fn run_id(name: &str, slot: i64) -> String {
    let slot = jiff::Timestamp::from_millisecond(slot).expect("a time");
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, b"gleitzeit:schedule");
    Uuid::new_v5(&namespace, format!("{name}\n{slot:.3}").as_bytes()).to_string()
}

/// Workers die by kill -9 and come back; with `all`, no slot is lost and none runs twice.
fn each_slot_is_run_once_whoever_dies(ground: &impl Ground) {
    let (mut first, mut second) = (ground.start_worker(), ground.start_worker());
    ground.every_second("s", &["--catch-up", "all"]);
    ground.wait_for("s", 3);
    first.kill();
    ground.wait_for("s", 2);
    second.kill();
    // Nobody is there until at least three slots have gone by.
    let last = millis(&ground.show("s")["last_slot"]);
    until("slots to be missed", || jiff::Timestamp::now().as_millisecond() > last + 4000);
    let _third = ground.start_worker();
    let _fourth = ground.start_worker();
    ground.wait_for("s", 5);
    ground.pause("s");
    ground.check_each_slot_once("s");
    assert_eq!(ground.show("s")["missed"], json!(0));
}

/// With `latest`, of the slots that nobody was there for only the newest fires.
fn after_a_time_without_workers_the_newest_slot_fires(ground: &impl Ground) {
    let mut worker = ground.start_worker();
    ground.every_second("s", &[]);
    let before = ground.show("s");
    worker.kill();
    let last = millis(&before["last_slot"]);
    until("slots to be missed", || jiff::Timestamp::now().as_millisecond() > last + 5000);
    let _worker = ground.start_worker();
    ground.wait_for("s", 2);
    ground.pause("s");
    let after = ground.show("s");
    let went_by = (millis(&after["last_slot"]) - last) / 1000;
    let count = |key: &str| {
        let of = |shown: &Value| shown[key].as_i64().expect("a count");
        of(&after) - of(&before)
    };
    assert!(count("missed") >= 2, "{before} {after}");
    // A slot may have been fired between the look and the kill; it is in both counts.
    assert_eq!(count("fired") + count("missed"), went_by, "{before} {after}");
}

#[test]
fn each_slot_is_run_once_whoever_dies_embedded() {
    each_slot_is_run_once_whoever_dies(&Embedded::new());
}

#[test]
fn each_slot_is_run_once_whoever_dies_over_servers() {
    let Some(place) = Place::new() else { return };
    each_slot_is_run_once_whoever_dies(&place);
}

#[test]
fn after_a_time_without_workers_the_newest_slot_fires_embedded() {
    after_a_time_without_workers_the_newest_slot_fires(&Embedded::new());
}

#[test]
fn after_a_time_without_workers_the_newest_slot_fires_over_servers() {
    let Some(place) = Place::new() else { return };
    after_a_time_without_workers_the_newest_slot_fires(&place);
}

#[test]
fn a_schedule_is_paused_resumed_replaced_and_removed() {
    let place = Embedded::new();
    let add = ["schedule", "add", "s", "0 6 * * MON-FRI", "echo/v1", "echo", "--params", r#"{"message": 1}"#];
    let added = place.run(&[&add[..], &["--tz", "Europe/Berlin", "--json"]].concat()).expect(0).json();
    assert_eq!((&added["generation"], &added["state"]), (&json!(1), &json!("active")));
    assert_eq!(added["next_slots"].as_array().map(Vec::len), Some(3));
    assert!(text(&added["next_slots"][0]["local"]).contains("T06:00:00+0"), "{added}");
    // The same command again is no other schedule; another one needs --replace.
    place.run(&[&add[..], &["--tz", "Europe/Berlin"]].concat()).expect(0);
    assert_eq!(place.show("s")["generation"], json!(1));
    let refused = place.run(&[&add[..], &["--tz", "Asia/Tokyo"]].concat()).expect(2);
    assert!(refused.stderr.contains("--replace"), "{refused:?}");
    let replaced =
        place.run(&[&add[..], &["--tz", "Asia/Tokyo", "--replace", "--json"]].concat()).expect(0).json();
    assert_eq!((&replaced["generation"], &replaced["zone"]), (&json!(2), &json!("Asia/Tokyo")));

    place.pause("s");
    assert_eq!(place.show("s")["next"], Value::Null);
    place.run(&["schedule", "pause", "s"]).expect(0);
    let resumed = place.run(&["schedule", "unpause", "s", "--json"]).expect(0).json();
    assert_eq!(resumed["state"], "active");
    assert!(resumed["next"].is_string(), "{resumed}");
    assert_eq!(place.run(&["schedule", "list", "--json"]).expect(0).json().as_array().map(Vec::len), Some(1));

    place.run(&["schedule", "remove", "s"]).expect(0);
    for gone in [["schedule", "show", "s"], ["schedule", "remove", "s"], ["schedule", "run-now", "s"]] {
        assert!(place.run(&gone).expect(7).stderr.contains("no schedule s"));
    }
    assert_eq!(place.run(&["schedule", "list", "--json"]).expect(0).json(), json!([]));
    let again = place.run(&[&add[..], &["--json"]].concat()).expect(0).json();
    assert_eq!((&again["generation"], &again["zone"]), (&json!(6), &json!("UTC")));
}

#[test]
fn run_now_runs_a_task_or_a_workflow_once_under_an_id_of_its_own() {
    let place = Embedded::new();
    let task = ["schedule", "add", "t", "@yearly", "echo/v1", "echo", "--params", r#"{"message": 7}"#];
    place.run(&task).expect(0);
    let flow = "name: Flow\ntasks:\n- id: a\n  method: echo/echo\n  params: {message: 8}\n";
    let file = place.write("w.yaml", flow);
    place.run(&["schedule", "add", "w", "@yearly", "--workflow", &file]).expect(0);
    for (name, pointer, expected) in
        [("t", "/result/response", json!(7)), ("w", "/tasks/0/result/response", json!(8))]
    {
        let id = place.run(&["schedule", "run-now", name]).expect(0).stdout.trim().to_owned();
        place.run(&["resume", &id]).expect(0);
        let document = place.run(&["result", &id, "--json"]).expect(0).json();
        assert_eq!((&document["status"], document.pointer(pointer)), (&json!("completed"), Some(&expected)));
        let shown = place.show(name);
        assert_eq!((&shown["fired"], &shown["last_id"]), (&json!(0), &Value::Null), "it is no slot");
    }
}

#[test]
fn a_slot_is_left_out_while_the_run_before_has_not_ended() {
    let place = Embedded::new();
    // It fires schedules and runs no echo tasks, so the first run never ends.
    let mut worker = place.command(&["worker", "--protocol", "python/v1"]);
    let _worker =
        Running(worker.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts"));
    place.every_second("s", &["--overlap", "skip"]);
    until("slots to be left out", || place.show("s")["overlapped"].as_u64() >= Some(2));
    let shown = place.show("s");
    assert_eq!((&shown["fired"], &shown["last_status"]), (&json!(1), &json!("accepted")), "{shown}");
}

#[test]
fn everything_wrong_with_a_schedule_is_said_at_once() {
    let place = Embedded::new();
    let wrong = [
        "schedule",
        "add",
        "s",
        "61 * * * *",
        "echo/v1",
        "ech",
        "--params",
        "{}",
        "--tz",
        "Mars",
        "--catch-up",
        "some",
        "--overlap",
        "maybe",
        "--json",
    ];
    let error = place.run(&wrong).expect(2).json();
    let violations = error["error"]["details"]["violations"].as_array().expect("a list").clone();
    let paths: Vec<String> = violations.iter().map(|violation| text(&violation["path"])).collect();
    for path in ["cron", "zone", "catch_up", "overlap"] {
        assert!(paths.iter().any(|found| found == path), "{path} in {paths:?}");
    }
    assert!(paths.iter().any(|path| path.starts_with("task.")), "{paths:?}");
    assert_eq!(place.run(&["schedule", "list", "--json"]).expect(0).json(), json!([]));
}
