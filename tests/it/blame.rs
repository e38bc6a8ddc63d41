//! Tasks that kill the worker that runs them, beside tasks that do not.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::own::is_full;
use crate::place::{Place, say_skipped};
use crate::support::Running;

/// How long everything may take: a few deaths, each noticed after the TTL of a session.
const PATIENCE: Duration = Duration::from_secs(150);

/// Starts a worker, and another one whenever it has died; tells how many there were.
fn supervise(place: &Place, stop: &AtomicBool) -> usize {
    let mut workers = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut worker: Running = place.worker(&["--concurrency", "8"]);
        workers += 1;
        while worker.0.try_wait().expect("a child of ours").is_none() {
            if stop.load(Ordering::Relaxed) {
                return workers;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    workers
}

fn ids(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

/// Publishes `good` tasks with `poison` ones among them; each writes itself down when it starts.
fn publish(place: &Place, good: &[String], poison: &[String]) {
    place.run(&["topology", "apply"]).expect(0);
    let ledger = place.path("ledger");
    let publish = |id: &str, then: &str| {
        let code = format!(
            "import os, time\nopen({ledger:?}, 'a').write('{id}' + chr(10))\ntime.sleep(0.3)\n{then}\n'{id}'"
        );
        let body = json!({"id": id, "method": "execute", "params": {"code": code}});
        place.publish("gleitzeit.tasks", "python.v1", &body.to_string(), &json!({"delivery_mode": 2}));
    };
    let (early, late) = good.split_at(good.len().min(5));
    early.iter().for_each(|id| publish(id, ""));
    poison.iter().for_each(|id| publish(id, "os.kill(os.getppid(), 9)"));
    late.iter().for_each(|id| publish(id, ""));
}

/// The result, once it is there.
fn result(place: &Place, id: &str, deadline: Instant) -> Value {
    let key = place.key(id, "result");
    loop {
        let text = place.redis_cli(&["GET", &key]);
        if !text.is_empty() {
            return serde_json::from_str(&text).expect("a document is JSON");
        }
        assert!(Instant::now() < deadline, "{id} has not ended");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn check(good: usize, poison: usize) {
    let Some(place) = Place::new() else { return };
    let (good, poison) = (ids("good", good), ids("poison", poison));
    publish(&place, &good, &poison);
    let stop = AtomicBool::new(false);
    let (seen, workers) = std::thread::scope(|scope| {
        let supervisor = scope.spawn(|| supervise(&place, &stop));
        let deadline = Instant::now() + PATIENCE;
        // The supervisor must be stopped whatever comes of this.
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let end = |id: &String| (id.clone(), result(&place, id, deadline));
            let ends: Vec<(String, Value)> = good.iter().chain(&poison).map(end).collect();
            let letters = poison.iter().map(|_| place.dead_letter("gleitzeit.dead.python.v1"));
            (ends, letters.collect::<Vec<Value>>())
        }));
        stop.store(true, Ordering::Relaxed);
        (seen, supervisor.join().expect("it ends"))
    });
    let (ends, letters) = seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let ran = std::fs::read_to_string(place.path("ledger")).expect("the ledger");
    let ran = |id: &str| ran.lines().filter(|line| *line == id).count();

    let mut suspects = 0;
    for (id, document) in &ends[..good.len()] {
        assert_eq!(document["status"], "completed", "{id}: {document}");
        let attempts = document["attempts"].as_u64().expect("a number");
        assert!(attempts <= 3, "{id} was blamed more than twice: {document}");
        assert!(ran(id) as u64 <= attempts, "{id}");
        suspects += attempts - 1;
    }
    // Eight ran when a poison struck for the first and for the second time; then it ran alone.
    assert!(suspects <= 14 * poison.len() as u64, "{suspects} of {} were blamed", good.len());
    for (id, document) in &ends[good.len()..] {
        assert_eq!(document["error"]["name"], "WORKER_LOST", "{id}: {document}");
        // Another one may have killed the worker before this one had begun.
        let (least, most) = if poison.len() == 1 { (3, 3) } else { (1, 3) };
        assert!((least..=most).contains(&ran(id)), "{id} ran {} times", ran(id));
    }
    // The first two deaths may be the fault of all, the others are of one each.
    assert!(workers > 2 + poison.len(), "{workers} workers");
    for letter in letters {
        let history = letter["history"].as_array().expect("a list");
        let lost = history.iter().filter(|entry| entry["error"]["name"] == "WORKER_LOST");
        let dead: BTreeSet<&str> = lost.filter_map(|entry| entry["worker_id"].as_str()).collect();
        assert!(dead.len() >= 3, "who died with it: {letter}");
    }
}

#[test]
fn a_poison_task_is_given_up_after_its_crashes_and_its_neighbours_complete() {
    check(50, 1);
}

#[test]
fn two_poison_tasks_at_once_are_both_given_up_and_their_neighbours_complete() {
    if !is_full() {
        return say_skipped("GLEITZEIT_TEST_FULL: this one is long");
    }
    check(20, 2);
}
