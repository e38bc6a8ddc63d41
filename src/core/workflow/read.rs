//! From a document to drafts: every member read by itself, nothing yet held against anything else.

use serde_json::{Map, Value};
use std::time::Duration;

use super::load::mapping;
use super::problem::{Problems, Refused};
use super::{TASKS_MAX, TIMEOUT_MAX_SECONDS};
use crate::core::code::Code;
use crate::core::id::Id;
use crate::core::priority::Priority;
use crate::core::protocol::ProtocolId;
use crate::core::reading::{Reading, SECONDS_MAX};
use crate::core::task::{Draft, KEY_CHARACTERS_MAX, NAME_CHARACTERS_MAX, Origin, Spec};
use crate::core::violation::Path;

/// The longest description, in characters.
const DESCRIPTION_CHARACTERS_MAX: usize = 10_000;

const KEYS: [&str; 13] = [
    "type",
    "v",
    "id",
    "name",
    "description",
    "tasks",
    "metadata",
    "timeout",
    "priority",
    "result_ttl",
    "idempotency_key",
    "providers",
    "version",
];
const TASK_KEYS: [&str; 4] = ["id", "parameters", "dependencies", "depends_on"];

/// Keys that would change what runs, if they were followed: to ignore them would be a lie.
const UNSUPPORTED: [&str; 6] =
    ["batch", "template", "conditions", "execution_mode", "max_parallel", "parameters"];
const TASK_UNSUPPORTED: [&str; 7] =
    ["when", "condition", "conditions", "for_each", "on_failure", "critical", "workflow"];

/// A workflow before its parts are held against each other.
#[derive(Debug)]
pub(super) struct WorkflowDraft {
    pub(super) id: Option<Id>,
    pub(super) name: Option<String>,
    pub(super) description: String,
    pub(super) tasks: Vec<TaskDraft>,
    pub(super) timeout: Option<Duration>,
    pub(super) result_ttl: Option<Duration>,
    pub(super) idempotency_key: Option<String>,
    pub(super) metadata: Map<String, Value>,
    pub(super) warnings: Vec<String>,
    pub(super) problems: Problems,
}

/// A task before its names are looked up.
#[derive(Debug)]
pub(super) struct TaskDraft {
    /// As given.
    pub(super) id: Option<Id>,
    pub(super) name: Option<String>,
    /// `None` if something about it was refused.
    pub(super) spec: Option<Spec>,
    /// As written, each with its index in the list.
    pub(super) dependencies: Vec<(usize, String)>,
    pub(super) extra: Map<String, Value>,
}

/// Reads the members of a workflow.
pub(super) fn document(document: Value) -> Result<WorkflowDraft, Refused> {
    let members = mapping(document)?;
    let mut reading = Reading::default();
    let mut draft = WorkflowDraft {
        id: None,
        name: None,
        description: String::new(),
        tasks: Vec::new(),
        timeout: None,
        result_ttl: None,
        idempotency_key: None,
        metadata: Map::new(),
        warnings: Vec::new(),
        problems: Problems::default(),
    };
    let mut priority = None;
    let mut tasks = None;
    for (key, value) in members {
        let path = Path::Root(&key);
        match key.as_str() {
            "type" if value == "workflow" => {}
            "type" => reading.mismatch(&path, &value, "workflow"),
            "v" if value.as_u64() == Some(1) => {}
            "v" => reading.mismatch(&path, &value, "1"),
            "id" => draft.id = reading.id(&path, &value),
            "name" if value == "" => {
                reading.refuse(&path, "Workflow name is required", "text, or no name at all");
            }
            "name" => draft.name = reading.text(&path, value, NAME_CHARACTERS_MAX),
            "description" if value == "" => {}
            "description" => {
                draft.description =
                    reading.text(&path, value, DESCRIPTION_CHARACTERS_MAX).unwrap_or_default();
            }
            "tasks" => tasks = Some(value),
            "metadata" => draft.metadata.extend(reading.map(&path, value).unwrap_or_default()),
            "providers" => _ = draft.metadata.insert("required_providers".to_owned(), value),
            "timeout" => draft.timeout = reading.seconds(&path, &value, TIMEOUT_MAX_SECONDS),
            "priority" => priority = default_priority(&path, value, &mut reading),
            "result_ttl" => draft.result_ttl = reading.seconds(&path, &value, SECONDS_MAX),
            "idempotency_key" => draft.idempotency_key = reading.text(&path, value, KEY_CHARACTERS_MAX),
            "version" => {}
            unsupported if UNSUPPORTED.contains(&unsupported) => refuse_unsupported(&path, &mut reading),
            _ => reading.warn_unknown(&path, KEYS),
        }
    }
    read_tasks(tasks, priority, &mut draft, &mut reading);
    identify(&mut draft, &mut reading);
    draft.problems.extend(Code::WorkflowValidationFailed, reading.violations.into_vec());
    draft.warnings = reading.warnings;
    Ok(draft)
}

fn read_tasks(
    tasks: Option<Value>,
    priority: Option<Priority>,
    draft: &mut WorkflowDraft,
    reading: &mut Reading,
) {
    let path = Path::Root("tasks");
    let tasks = match tasks {
        Some(Value::Array(tasks)) if tasks.len() > TASKS_MAX => {
            let problem = format!("has {} tasks", tasks.len());
            return draft.problems.add(
                Code::WorkflowTooLarge,
                "tasks",
                problem,
                format!("at most {TASKS_MAX}"),
            );
        }
        Some(Value::Array(tasks)) => tasks,
        Some(other) => return reading.mismatch(&path, &other, "a list of tasks"),
        None => Vec::new(),
    };
    if tasks.is_empty() {
        return reading.refuse(&path, "Workflow must contain at least one task", "a list of tasks");
    }
    draft.tasks = Vec::with_capacity(tasks.len());
    for (index, task) in tasks.into_iter().enumerate() {
        let task = read_task(task, &path.index(index), priority, reading);
        draft.tasks.push(task);
    }
}

fn read_task(value: Value, path: &Path<'_>, priority: Option<Priority>, reading: &mut Reading) -> TaskDraft {
    let mut task =
        TaskDraft { id: None, name: None, spec: None, dependencies: Vec::new(), extra: Map::new() };
    let Some(mut members) = reading.map(path, value) else { return task };
    unite(&mut members, "params", "parameters", path, reading);
    unite(&mut members, "dependencies", "depends_on", path, reading);
    let (has_protocol, has_method) = (members.contains_key("protocol"), members.contains_key("method"));

    let mut draft = Draft::default();
    for (key, value) in members {
        let path = path.key(&key);
        let Some(value) = draft.take(&key, value, Origin::File, &path, reading) else { continue };
        match key.as_str() {
            "id" => task.id = reading.id(&path, &value),
            "dependencies" => task.dependencies = dependencies(&path, value, reading),
            unsupported if TASK_UNSUPPORTED.contains(&unsupported) => refuse_unsupported(&path, reading),
            _ => {
                reading.warn_unknown(&path, Spec::KEYS.into_iter().chain(TASK_KEYS));
                task.extra.insert(key, value);
            }
        }
    }
    if !has_method {
        reading.refuse(&path.key("method"), "method is required", "text such as python/execute");
    }
    if draft.idempotency_key.take().is_some() {
        reading.warn(format!("{path}.idempotency_key has no effect: the workflow's own decides"));
    }
    draft.check(&path.key("expires_at"), reading);
    draft.priority = draft.priority.or(priority).or(Some(Priority::NORMAL));
    let protocol = if has_protocol { draft.protocol.take() } else { implied(&draft, path, reading) };
    let spec = protocol.and_then(|protocol| draft.finish(protocol));
    task.name = spec.as_ref().and_then(|spec| spec.name.clone());
    task.spec = spec;
    task
}

/// The protocol that the method's name implies: `llm/chat` is `llm/v1`, `execute` is `python/v1`.
fn implied(draft: &Draft, path: &Path<'_>, reading: &mut Reading) -> Option<ProtocolId> {
    let method = draft.method.as_deref()?;
    let (name, problem) = match method.split_once('/') {
        Some((name, _)) => (name, None),
        None => ("python", Some(format!("{path}: no protocol is given, python/v1 is taken"))),
    };
    if let Some(problem) = problem {
        reading.warn(problem);
    }
    match ProtocolId::new(name, "v1") {
        Ok(protocol) => Some(protocol),
        Err(error) => {
            reading.refuse(&path.key("method"), error.to_string(), "a protocol's name before the slash");
            None
        }
    }
}

/// Makes one of two spellings; both are fine as long as they say the same.
fn unite(
    members: &mut Map<String, Value>,
    name: &'static str,
    alias: &'static str,
    path: &Path<'_>,
    reading: &mut Reading,
) {
    let Some(value) = members.shift_remove(alias) else { return };
    match members.get(name) {
        Some(other) if *other != value => {
            let problem = format!("differs from {name}, which means the same");
            reading.refuse(&path.key(alias), problem, "one of them");
        }
        Some(_) => {}
        None => _ = members.insert(name.to_owned(), value),
    }
}

fn dependencies(path: &Path<'_>, value: Value, reading: &mut Reading) -> Vec<(usize, String)> {
    let Value::Array(values) = value else {
        reading.mismatch(path, &value, "a list of ids or names of tasks");
        return Vec::new();
    };
    let mut names = Vec::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        match value {
            Value::String(name) => names.push((index, name)),
            other => reading.mismatch(&path.index(index), &other, "the id or name of a task"),
        }
    }
    names
}

/// The workflow's priority counts for tasks without one.
fn default_priority(path: &Path<'_>, value: Value, reading: &mut Reading) -> Option<Priority> {
    let mut draft = Draft::default();
    draft.take("priority", value, Origin::File, path, reading);
    draft.priority
}

fn refuse_unsupported(path: &Path<'_>, reading: &mut Reading) {
    reading.refuse(path, "is not supported", "leave it out");
}

/// The id is that of the idempotency key, if there is one.
fn identify(draft: &mut WorkflowDraft, reading: &mut Reading) {
    let Some(keyed) = draft.idempotency_key.as_deref().map(Id::from_idempotency_key) else { return };
    match &draft.id {
        Some(id) if *id != keyed => {
            let problem = format!("found {:?} beside an idempotency_key", id.as_str());
            reading.refuse(
                &Path::Root("id"),
                problem,
                format!("no id, or {keyed}, which belongs to that key"),
            );
        }
        Some(_) => {}
        None => draft.id = Some(keyed),
    }
}
