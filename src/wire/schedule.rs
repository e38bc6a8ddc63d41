//! Schedules on the wire: what one is (its definition), what is to become of one, and its ticks.
//!
//! ```text
//! {"type": "schedule", "id": "nightly", "generation": 1, "cron": "0 3 * * *", "zone": "Europe/Berlin",
//!  "catch_up": "latest", "grace": 60, "overlap": "allow", "task": {"protocol": "python/v1", "method": ...}}
//! {"type": "schedule:pause", "id": "nightly", "generation": 2}         also :resume, :remove
//! {"type": "tick", "id": "nightly", "slot": "2026-01-02T02:00:00.000Z", "generation": 1}   ours
//! ```
//! `generation` is the one that the message makes, one more than the one it was decided on. A message whose
//! generation is not newer than the schedule's changes nothing, so each can be repeated. Without one, the first
//! worker gives it the next and publishes it again.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::time::Duration;

use super::task::{self, Decoded, TASK_BYTES_MAX, Task};
use super::{Properties, check_version, newer, object, workflow};
use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::{Id, schedule_run};
use crate::core::priority::Priority;
use crate::core::protocol::{Leniency, ProtocolId, Protocols};
use crate::core::reading::{self, Reading, SECONDS_MAX};
use crate::core::schedule::{self, CatchUp, GRACE, Overlap, Rules, Timetable};
use crate::core::violation::Path;
use crate::core::workflow::Workflow;

/// What is to become of schedules.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// There shall be this schedule.
    Set {
        /// Its name.
        name: Id,
        /// The generation that this makes; `None` for the next one.
        generation: Option<u32>,
        /// What it is.
        definition: Box<Definition>,
    },
    /// It shall pause, go on or be gone.
    Change {
        /// Its name.
        name: Id,
        /// The generation that this makes; `None` for the next one.
        generation: Option<u32>,
        /// What shall become of it.
        change: Change,
    },
    /// A slot has come.
    Tick(Tick),
}

/// What shall become of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// No more ticks until it is resumed.
    Pause,
    /// From the next slot on.
    Resume,
    /// It is forgotten.
    Remove,
}

/// The message that fires a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    /// The schedule's name.
    pub name: Id,
    /// When it is due.
    pub slot: Timestamp,
    /// The generation of the schedule that has sent it.
    pub generation: u32,
}

/// What a schedule is.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// When it fires.
    pub rules: Rules,
    /// What it runs.
    pub work: Work,
}

/// What a schedule runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// A task on its own, without an id.
    Task(Box<Task>),
    /// A workflow's document.
    Workflow(Value),
}

/// The message of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Whose queue it goes to; `None` for the workflows queue.
    pub protocol: Option<ProtocolId>,
    /// 0 to 9.
    pub priority: Option<u8>,
    /// The message.
    pub body: Bytes,
}

/// The types of messages about schedules.
pub const TYPES: [&str; 5] = ["schedule", "schedule:pause", "schedule:resume", "schedule:remove", "tick"];

/// The members of a definition.
const KEYS: [&str; 7] = ["cron", "zone", "catch_up", "grace", "overlap", "task", "workflow"];

/// What a scheduled task cannot say: it would make all runs one, or hold for the first run only.
const TASK_KEYS_REFUSED: [&str; 7] =
    ["id", "workflow", "idempotency_key", "not_before", "expires_at", "attempt", "reply"];

impl Change {
    /// Every change.
    pub const ALL: [Change; 3] = [Change::Pause, Change::Resume, Change::Remove];

    /// The type of its message.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Change::Pause => "schedule:pause",
            Change::Resume => "schedule:resume",
            Change::Remove => "schedule:remove",
        }
    }
}

impl Order {
    /// The schedule's name.
    #[must_use]
    pub fn name(&self) -> &Id {
        match self {
            Order::Set { name, .. } | Order::Change { name, .. } | Order::Tick(Tick { name, .. }) => name,
        }
    }

    /// The body of the message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, name, generation) = match self {
            Order::Set { name, generation, .. } => ("schedule", name, *generation),
            Order::Change { name, generation, change } => (change.kind(), name, *generation),
            Order::Tick(tick) => ("tick", &tick.name, Some(tick.generation)),
        };
        let mut members = Map::new();
        members.insert("type".to_owned(), kind.into());
        members.insert("id".to_owned(), name.as_str().into());
        if let Order::Tick(tick) = self {
            members.insert("slot".to_owned(), tick.slot.to_string().into());
        }
        if let Some(generation) = generation {
            members.insert("generation".to_owned(), generation.into());
        }
        if let Order::Set { definition, .. } = self {
            members.extend(definition.members());
        }
        Bytes::from(Value::Object(members).to_string())
    }

    /// Reads the members of a message of this type; `None` if it is none about schedules.
    pub(super) fn read(
        kind: &str,
        members: &Map<String, Value>,
        protocols: &Protocols,
    ) -> Option<Result<Order, Failure>> {
        let kind = TYPES.into_iter().find(|known| *known == kind)?;
        Some(Order::read_as(kind, members, protocols))
    }

    fn read_as(kind: &str, members: &Map<String, Value>, protocols: &Protocols) -> Result<Order, Failure> {
        let mut reading = Reading::default();
        let own: &[&str] = match kind {
            "schedule" => &KEYS,
            "tick" => &["slot"],
            _ => &[],
        };
        let known = ["type", "v", "id", "generation"];
        for key in members.keys().map(String::as_str) {
            if !known.contains(&key) && !own.contains(&key) {
                let known = known.iter().chain(own).copied().collect::<Vec<_>>().join(", ");
                reading.refuse(&Path::Root(key), "is not known", known);
            }
        }
        if let Some(v) = members.get("v") {
            check_version(v, &mut reading);
        }
        let name = match members.get("id") {
            Some(value) => reading.id(&Path::Root("id"), value),
            None => {
                reading.refuse(&Path::Root("id"), "is missing", "the name of a schedule");
                None
            }
        };
        let generation = generation(members.get("generation"), &mut reading);
        let mut definition = None;
        let mut slot = None;
        match kind {
            "schedule" => definition = Definition::read(members, protocols, &mut reading),
            "tick" => {
                let (given, path) = (members.get("slot"), Path::Root("slot"));
                slot = reading.time(&path, given.unwrap_or(&Value::Null));
                if generation.is_none() {
                    reading.refuse(&Path::Root("generation"), "is missing", "that of the schedule");
                }
            }
            _ => {}
        }
        let change = Change::ALL.into_iter().find(|change| change.kind() == kind);
        let violations = reading.violations.into_vec();
        if violations.is_empty()
            && let Some(name) = name
        {
            match (change, definition, slot, generation) {
                (Some(change), _, _, _) => return Ok(Order::Change { name, generation, change }),
                (None, Some(definition), _, _) => {
                    return Ok(Order::Set { name, generation, definition: Box::new(definition) });
                }
                (None, None, Some(slot), Some(generation)) => {
                    return Ok(Order::Tick(Tick { name, slot, generation }));
                }
                (None, None, _, _) => {}
            }
        }
        Err(reading::failure(Code::InvalidRequest, "the schedule", &violations))
    }
}

fn generation(value: Option<&Value>, reading: &mut Reading) -> Option<u32> {
    let value = value.filter(|value| !value.is_null())?;
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
    if number.is_none() {
        reading.mismatch(&Path::Root("generation"), value, "a whole number from 1");
    }
    number
}

impl Definition {
    /// Reads a definition as a program or the command line gives it: the same members as in a message.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with everything that is wrong.
    pub fn new(members: &Map<String, Value>, protocols: &Protocols) -> Result<Definition, Failure> {
        let mut reading = Reading::default();
        let definition = Definition::read(members, protocols, &mut reading);
        let violations = reading.violations.into_vec();
        match definition {
            Some(definition) if violations.is_empty() => Ok(definition),
            _ => Err(reading::failure(Code::InvalidRequest, "the schedule", &violations)),
        }
    }

    fn read(
        members: &Map<String, Value>,
        protocols: &Protocols,
        reading: &mut Reading,
    ) -> Option<Definition> {
        let rules = rules(members, reading);
        let given = |key: &str| members.get(key).filter(|value| !value.is_null());
        let work = match (given("task"), given("workflow")) {
            (Some(task), None) => scheduled_task(task, Some(protocols), reading),
            (None, Some(document)) => scheduled_workflow(document, protocols, reading),
            (Some(_), Some(_)) => {
                reading.refuse(&Path::Root("workflow"), "found beside task", "one of them");
                None
            }
            (None, None) => {
                reading.refuse(&Path::Root("task"), "is missing", "a task, or a workflow in its place");
                None
            }
        };
        Some(Definition { rules: rules?, work: work? })
    }

    /// Reads what [`Definition::encode`] wrote. What it runs was checked when it came, and is when it runs.
    ///
    /// # Errors
    /// `PROTOCOL_VERSION_MISMATCH` or `INVALID_REQUEST` if it cannot be read here: a newer version wrote it, or its
    /// time zone is not known.
    pub fn decode(text: &[u8]) -> Result<Definition, Failure> {
        let members = object(text, "the definition of the schedule")?;
        if let Some(v) = newer(&members) {
            let message = format!("the schedule is of version {v}, at most {} is known here", super::VERSION);
            return Err(Failure::new(Code::ProtocolVersionMismatch, message));
        }
        let mut reading = Reading::default();
        // Whoever has recorded it knows what it means, and it may mean that the schedule is to fire otherwise.
        for key in members.keys().map(String::as_str).filter(|key| *key != "v" && !KEYS.contains(key)) {
            reading.refuse(&Path::Root(key), "is not known here", KEYS.join(", "));
        }
        let rules = rules(&members, &mut reading);
        let work = match (members.get("task"), members.get("workflow")) {
            (Some(task), _) => scheduled_task(task, None, &mut reading),
            (None, Some(document)) => Some(Work::Workflow(document.clone())),
            (None, None) => None,
        };
        let violations = reading.violations.into_vec();
        match (rules, work) {
            (Some(rules), Some(work)) if violations.is_empty() => Ok(Definition { rules, work }),
            _ => Err(reading::failure(Code::InvalidRequest, "the schedule", &violations)),
        }
    }

    /// The definition as a JSON object.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        Bytes::from(Value::Object(self.members()).to_string())
    }

    /// The members of the definition, defaults filled in.
    #[must_use]
    pub fn members(&self) -> Map<String, Value> {
        let Rules { timetable, catch_up, grace, overlap } = &self.rules;
        let mut members = Map::new();
        members.insert("cron".to_owned(), timetable.cron().into());
        members.insert("zone".to_owned(), timetable.zone().into());
        members.insert("catch_up".to_owned(), catch_up.name().into());
        members.insert("grace".to_owned(), Value::Number(task::seconds(*grace)));
        members.insert("overlap".to_owned(), overlap.name().into());
        match &self.work {
            Work::Task(task) => {
                let body = serde_json::from_slice(&task::encode(task)).unwrap_or_default();
                members.insert("task".to_owned(), body);
            }
            Work::Workflow(document) => _ = members.insert("workflow".to_owned(), document.clone()),
        }
        members
    }

    /// The id of the run of a slot: always the same, so that a repeated run is known as one.
    #[must_use]
    pub fn run_id(name: &Id, slot: Timestamp) -> Id {
        schedule_run(name, &slot.to_string())
    }

    /// The message of a run under `id`. A task's metadata says which schedule it is of, and which slot.
    #[must_use]
    pub fn run(&self, name: &Id, id: &Id, slot: Option<Timestamp>) -> Run {
        match &self.work {
            Work::Task(task) => {
                let mut task = task.clone();
                task.id = Some(id.clone());
                task.spec.metadata.insert("schedule".to_owned(), name.as_str().into());
                if let Some(slot) = slot {
                    task.spec.metadata.insert("slot".to_owned(), slot.to_string().into());
                }
                Run {
                    protocol: Some(task.spec.protocol.clone()),
                    priority: Some(task.spec.priority.unwrap_or(Priority::NORMAL).number()),
                    body: task::encode(&task),
                }
            }
            Work::Workflow(document) => {
                Run { protocol: None, priority: None, body: workflow::encode(document, id) }
            }
        }
    }

    /// For people: `python/v1 execute`, or the workflow's name.
    #[must_use]
    pub fn what(&self) -> String {
        match &self.work {
            Work::Task(task) => format!("{} {}", task.spec.protocol, task.spec.method),
            Work::Workflow(document) => {
                let name = document.get("name").and_then(Value::as_str);
                format!("workflow {}", name.unwrap_or("without a name"))
            }
        }
    }
}

fn rules(members: &Map<String, Value>, reading: &mut Reading) -> Option<Rules> {
    let mut given = |key: &'static str, or: &str| match members.get(key).filter(|value| !value.is_null()) {
        None => Some(or.to_owned()),
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => {
            reading.mismatch(&Path::Root(key), other, "text");
            None
        }
    };
    let (cron, zone) = (given("cron", ""), given("zone", "UTC"));
    let (catch_up, overlap) = (given("catch_up", "latest"), given("overlap", "allow"));
    for (key, text, problem, allowed) in [
        (
            "cron",
            &cron,
            schedule::check_cron as fn(&str) -> Option<String>,
            "five fields, as in \"30 9 * * MON-FRI\", six with seconds in front, or @hourly and the like",
        ),
        ("zone", &zone, schedule::check_zone, "a name such as Europe/Berlin or UTC"),
    ] {
        if let Some(text) = text
            && let Some(problem) = problem(text)
        {
            let shown: String = text.chars().take(80).collect();
            reading.refuse(&Path::Root(key), format!("found {shown:?}: {problem}"), allowed);
        }
    }
    let policy = catch_up.as_deref().and_then(CatchUp::parse);
    if let (Some(text), None) = (&catch_up, policy) {
        let allowed = CatchUp::ALL.map(CatchUp::name).join(", ");
        reading.mismatch(&Path::Root("catch_up"), &json!(text), allowed);
    }
    let overlapping = overlap.as_deref().and_then(Overlap::parse);
    if let (Some(text), None) = (&overlap, overlapping) {
        let allowed = Overlap::ALL.map(Overlap::name).join(", ");
        reading.mismatch(&Path::Root("overlap"), &json!(text), allowed);
    }
    let grace = match members.get("grace").filter(|value| !value.is_null()) {
        None => Some(GRACE),
        Some(value) if value.as_f64() == Some(0.0) => Some(Duration::ZERO),
        Some(value) => reading.seconds(&Path::Root("grace"), value, SECONDS_MAX),
    };
    let timetable = Timetable::new(&cron?, &zone?).ok()?;
    Some(Rules { timetable, catch_up: policy?, grace: grace?, overlap: overlapping? })
}

fn scheduled_task(value: &Value, protocols: Option<&Protocols>, reading: &mut Reading) -> Option<Work> {
    let path = Path::Root("task");
    let Some(members) = value.as_object() else {
        reading.mismatch(&path, value, "a mapping, as in a task message");
        return None;
    };
    let refused = TASK_KEYS_REFUSED.into_iter().filter(|key| members.get(*key).is_some_and(|v| !v.is_null()));
    for key in refused {
        reading.refuse(&path.key(key), "has no meaning for every run alike", "not in a schedule");
    }
    let protocol = members.get("protocol").and_then(Value::as_str).unwrap_or_default();
    let protocol: ProtocolId = match protocol.parse() {
        Ok(protocol) => protocol,
        Err(error) => {
            reading.refuse(&path.key("protocol"), error.to_string(), "a protocol such as python/v1");
            return None;
        }
    };
    let task = match task::decode(value.to_string().as_bytes(), &Properties::default(), &protocol) {
        Ok(Decoded::Task(task)) => task,
        Ok(Decoded::Newer { v, .. }) => {
            reading.refuse(&path.key("v"), format!("found {v}"), format!("at most {}", super::VERSION));
            return None;
        }
        Err(refused) => {
            reading.refuse(&path, refused.failure.message, "a task as `submit` takes it");
            return None;
        }
    };
    let Some(protocols) = protocols else { return Some(Work::Task(task)) };
    match protocols.method(&protocol, &task.spec.method) {
        Err(error) => {
            reading.refuse(&path.key("method"), error.to_string(), "one that `gleitzeit protocol show` lists")
        }
        Ok(method) => {
            let wrong = method.validate(task.spec.params.clone(), Leniency::Exact).err();
            for violation in wrong.into_iter().flatten() {
                let path = format!("task.{}", violation.path);
                reading.refuse(&Path::Root(&path), violation.problem, violation.allowed);
            }
        }
    }
    // What each run adds: an id, the schedule's name, the slot.
    const ADDED_BYTES_MAX: usize = 512;
    let bytes = task::encode(&task).len() + ADDED_BYTES_MAX;
    if bytes > TASK_BYTES_MAX {
        reading.refuse(&path, format!("has {bytes} bytes"), format!("at most {TASK_BYTES_MAX}"));
    }
    Some(Work::Task(task))
}

fn scheduled_workflow(document: &Value, protocols: &Protocols, reading: &mut Reading) -> Option<Work> {
    let path = Path::Root("workflow");
    if document.get("idempotency_key").is_some_and(|key| !key.is_null()) {
        let key = path.key("idempotency_key");
        reading.refuse(&key, "would make all runs one", "not in a schedule");
    }
    match Workflow::read(document.clone(), protocols) {
        Ok(_) => Some(Work::Workflow(document.clone())),
        Err(refused) => {
            reading.refuse(&path, refused.failure().message, "a workflow as `submit` takes it");
            None
        }
    }
}

#[cfg(test)]
mod tests;
