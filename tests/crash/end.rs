//! How a play has ended: what must be the same with a death as without, and what may be more by one.

use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gleitzeit::broker::Broker;
use gleitzeit::core::id::TaskKey;
use gleitzeit::dead::{self, Keep, Letter};
use gleitzeit::store::{Filter, TaskRecord};
use gleitzeit::topology::unrouted;

use crate::play::{echo, nested};
use crate::process::World;

/// What depends on who did it, when, and how often it was tried.
const NOT_COMPARED: [&str; 9] = [
    "attempts",
    "crashes",
    "created_at",
    "ended_at",
    "execution_time",
    "profile",
    "provider_id",
    "started_at",
    "worker_id",
];

/// The end of a play.
#[derive(Debug)]
pub(crate) struct End {
    /// Roots with their documents, tasks with their states, dead letters, replies, schedules.
    told: Value,
    /// By task: attempts, crashes, and calls of its provider.
    tries: BTreeMap<String, [u32; 3]>,
    /// What must never happen, and has.
    wrongs: Vec<String>,
}

/// Looks at everything that there is.
pub(crate) async fn look(
    world: &World,
    broker: &Arc<dyn Broker>,
    replies: BTreeSet<(String, Option<String>, String)>,
) -> End {
    let store = &world.ground.store;
    let (mut roots, mut records) = (Map::new(), Vec::new());
    let listed = store.list(&Filter { state: None, limit: 1000 }).await.expect("the store answers");
    for root in &listed {
        let mut told = json!({"state": root.state, "is_workflow": root.is_workflow});
        let outcome = store.outcome(&root.id).await.expect("the store answers");
        told["document"] = outcome.map_or(Value::Null, |document| comparable(&document));
        if let Some(workflow) = store.workflow(&root.id).await.expect("the store answers") {
            for task in &workflow.tasks {
                let result = store.result(&task.head.key).await.expect("the store answers");
                let document = result.map_or(Value::Null, |document| comparable(&document));
                let row = json!({"state": task.state.name(), "document": document});
                told["tasks"][task.head.key.id().as_str()] = row;
            }
            records.extend(workflow.tasks);
        }
        let alone = TaskKey::alone(root.id.clone());
        records.extend(store.task(&alone).await.expect("the store answers"));
        roots.insert(root.id.to_string(), told);
    }
    roots.sort_keys();
    let schedules = store.schedules(None, 100).await.expect("the store answers");
    let schedules: Vec<Value> = schedules
        .iter()
        .map(|one| json!([one.name, one.state.name(), one.generation, one.fired, one.missed, one.overlapped]))
        .collect();
    let letters = letters(broker).await;
    let told = json!({"roots": roots, "letters": letters, "replies": replies, "schedules": schedules});
    let parents = records.iter().filter_map(|task| Some((task, task.parent.as_ref()?)));
    let parents =
        parents.map(|(task, id)| TaskKey::within(task.head.key.root.clone(), id.clone()).to_string());
    let wrongs = world.ledger.wrongs(&parents.collect());
    End { told, tries: tries(world, &records), wrongs }
}

fn tries(world: &World, records: &[TaskRecord]) -> BTreeMap<String, [u32; 3]> {
    let calls = world.scene.calls.lock().expect("nobody panics with it");
    let tries = records.iter().map(|task| {
        let key = task.head.key.to_string();
        let calls = calls.get(&key).copied().unwrap_or(0);
        (key, [task.attempts, task.crashes, calls])
    });
    tries.collect()
}

/// What lies in the dead queues, one for each death, in no order.
async fn letters(broker: &Arc<dyn Broker>) -> Vec<Value> {
    let addresses = [echo(), nested(), unrouted()];
    let look = dead::hold(broker, &addresses, |_| Keep::Whole).await.expect("the broker answers");
    let deaths: BTreeMap<String, Value> = look.letters.iter().map(row).collect();
    look.release(Vec::new()).await;
    let mut letters: Vec<Value> = deaths.into_values().collect();
    letters.sort_by_key(Value::to_string);
    letters
}

/// What stands for a letter's death, and what is told of it. Of a message without an id nobody can know whether
/// two letters are of one death: the message stands for it.
fn row(letter: &Letter) -> (String, Value) {
    let envelope = letter.envelope.as_ref().expect("a letter of ours");
    let body = String::from_utf8_lossy(&envelope.original.body);
    let death = letter.death.clone().unwrap_or_else(|| body.to_string());
    let told = json!({
        "key": letter.key().map(|key| key.to_string()),
        "address": letter.address.as_str(),
        "queue": envelope.queue,
        "failure": comparable(&serde_json::to_vec(&envelope.failure).expect("JSON")),
        "replays": envelope.replays,
        "method": envelope.method,
    });
    (death, told)
}

fn comparable(document: &[u8]) -> Value {
    let mut value = serde_json::from_slice(document).expect("JSON");
    strip(&mut value);
    value
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|key, _| !NOT_COMPARED.contains(&key.as_str()));
            members.values_mut().for_each(strip);
            if members.get("metadata").and_then(Value::as_object).is_some_and(Map::is_empty) {
                members.remove("metadata");
            }
            let counts = |text: &str| text.split_once(" workers died").map(|(_, told)| told.to_owned());
            if let Some(told) = members.get("message").and_then(Value::as_str).and_then(counts) {
                members.insert("message".to_owned(), told.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl End {
    /// What is wrong with an end without a fault.
    pub(crate) fn wrongs(&self) -> &[String] {
        &self.wrongs
    }

    /// What is not as it is without a fault.
    pub(crate) fn differences(&self, expected: &End) -> Vec<String> {
        let mut found = self.wrongs.clone();
        if self.told != expected.told {
            let lines = |told: &Value| serde_json::to_string_pretty(told).expect("JSON");
            let (here, there) = (lines(&self.told), lines(&expected.told));
            let only = |one: &str, other: &str| -> Vec<String> {
                let other: BTreeSet<&str> = other.lines().collect();
                one.lines().filter(|line| !other.contains(line)).map(|line| line.trim().to_owned()).collect()
            };
            found.push(format!("only with the fault: {:?}", only(&here, &there)));
            found.push(format!("only without it: {:?}", only(&there, &here)));
            if here.lines().count() != there.lines().count() {
                found.push(format!("with the fault:\n{here}\nwithout it:\n{there}"));
            }
        }
        for (key, tries) in &self.tries {
            let before = expected.tries.get(key).copied().unwrap_or_default();
            for (what, (now, before)) in ["attempts", "crashes", "calls"].iter().zip(tries.iter().zip(before))
            {
                if *now > before + 1 {
                    found.push(format!("{key}: {now} {what} instead of {before}, or one more"));
                }
            }
        }
        found
    }
}
