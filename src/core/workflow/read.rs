//! From a document to drafts: every member read by itself, nothing yet held against anything else.

use serde_json::{Map, Value};
use std::num::NonZeroU32;
use std::time::Duration;

use super::problem::Problems;
use super::task::{self, TaskDraft};
use super::{TASKS_MAX, TIMEOUT_MAX_SECONDS};
use crate::core::code::Code;
use crate::core::id::Id;
use crate::core::priority::Priority;
use crate::core::reading::{Reading, SECONDS_MAX};
use crate::core::task::{Draft, KEY_CHARACTERS_MAX, NAME_CHARACTERS_MAX, Origin};
use crate::core::violation::{Path, Warning};

/// The longest description, in characters.
const DESCRIPTION_CHARACTERS_MAX: usize = 10_000;

const KEYS: [&str; 19] = [
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
    "parameters",
    "max_parallel",
    "max_parallel_tasks",
    "execution_mode",
    "wait_for_completion",
    "outputs",
];

/// Keys that would change what runs, if they were followed: to ignore them would be a lie. Each with what to
/// write instead.
const UNSUPPORTED: [(&str, &str); 5] = [
    ("batch", "a file, which `gleitzeit run` or `gleitzeit submit` makes a workflow with a task per file"),
    ("template", "a file, which `gleitzeit run` or `gleitzeit submit` makes a workflow with a task per file"),
    ("condition", "`when` in a task"),
    ("conditions", "`when` in a task"),
    ("variables", "`parameters`"),
];

/// A workflow before its parts are held against each other.
#[derive(Debug)]
pub(super) struct WorkflowDraft {
    pub(super) id: Option<Id>,
    pub(super) name: Option<String>,
    pub(super) description: String,
    pub(super) tasks: Vec<TaskDraft>,
    pub(super) max_parallel: Option<NonZeroU32>,
    pub(super) timeout: Option<Duration>,
    pub(super) result_ttl: Option<Duration>,
    pub(super) idempotency_key: Option<String>,
    pub(super) metadata: Map<String, Value>,
    pub(super) warnings: Vec<Warning>,
    pub(super) problems: Problems,
}

/// How a document is to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Keys that are not known are refused.
    pub(super) refuses_unknown: bool,
    /// It is a task of another workflow.
    pub(super) is_nested: bool,
}

/// Reads the members of a workflow, after its parameters have been put in.
pub(super) fn members(mut members: Map<String, Value>, problems: Problems, manner: Manner) -> WorkflowDraft {
    let mut reading = Reading { refuses_unknown: manner.refuses_unknown, ..Reading::default() };
    let mut draft = WorkflowDraft {
        id: None,
        name: None,
        description: String::new(),
        tasks: Vec::new(),
        max_parallel: None,
        timeout: None,
        result_ttl: None,
        idempotency_key: None,
        metadata: Map::new(),
        warnings: Vec::new(),
        problems,
    };
    if manner.is_nested {
        leave_to_the_outer(&mut members, &mut reading);
    }
    let whole = Path::Root("workflow");
    reading.unite(&mut members, "max_parallel", "max_parallel_tasks", &whole);
    let (mut priority, mut tasks) = (None, None);
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
            "max_parallel" => draft.max_parallel = reading.parallel(&path, &value),
            "execution_mode" => execution_mode(&path, &value, &mut draft, &mut reading),
            // Where an editor finds the schema, and what is the author's own.
            "$schema" | "version" => {}
            "wait_for_completion" | "outputs" => reading.warn(key, " has no effect"),
            _ => unknown(&path, &mut reading),
        }
    }
    read_tasks(tasks, priority, &mut draft, &mut reading);
    identify(&mut draft, &mut reading);
    draft.problems.extend(Code::WorkflowValidationFailed, reading.violations.into_vec());
    draft.warnings = reading.warnings;
    draft
}

fn unknown(path: &Path<'_>, reading: &mut Reading) {
    let key = path.to_string();
    match UNSUPPORTED.iter().find(|(unsupported, _)| *unsupported == key) {
        Some((_, instead)) => reading.refuse(path, "is not supported", *instead),
        None => reading.warn_unknown(path, KEYS),
    }
}

/// Takes out what the workflow around a nested one decides.
fn leave_to_the_outer(members: &mut Map<String, Value>, reading: &mut Reading) {
    for key in ["id", "idempotency_key", "result_ttl"] {
        if members.shift_remove(key).is_some() {
            reading.warn(key, " has no effect in a nested workflow");
        }
    }
    if members.shift_remove("timeout").is_some() {
        let path = Path::Root("timeout");
        reading.refuse(&path, "is not supported in a nested workflow", "`timeout` of its tasks");
    }
}

/// One after the other is one at a time.
fn execution_mode(path: &Path<'_>, value: &Value, draft: &mut WorkflowDraft, reading: &mut Reading) {
    match value.as_str() {
        Some("parallel") => {}
        Some("sequential") if draft.max_parallel.is_some_and(|bound| bound != NonZeroU32::MIN) => {
            reading.refuse(path, "found sequential beside max_parallel", "one of them");
        }
        Some("sequential") => draft.max_parallel = Some(NonZeroU32::MIN),
        Some(_) | None => reading.mismatch(path, value, "parallel or sequential"),
    }
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
            let allowed = format!("at most {TASKS_MAX}");
            return draft.problems.add(Code::WorkflowTooLarge, "tasks", problem, allowed);
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
        let task = task::read(task, &path.index(index), priority, reading);
        draft.tasks.push(task);
    }
}

/// The workflow's priority counts for tasks without one.
fn default_priority(path: &Path<'_>, value: Value, reading: &mut Reading) -> Option<Priority> {
    let mut draft = Draft::default();
    draft.take("priority", value, Origin::File, path, reading);
    draft.priority
}

/// The id is that of the idempotency key, if there is one.
fn identify(draft: &mut WorkflowDraft, reading: &mut Reading) {
    let Some(keyed) = draft.idempotency_key.as_deref().map(Id::from_idempotency_key) else { return };
    match &draft.id {
        Some(id) if *id != keyed => {
            let problem = format!("found {:?} beside an idempotency_key", id.as_str());
            let allowed = format!("no id, or {keyed}, which belongs to that key");
            reading.refuse(&Path::Root("id"), problem, allowed);
        }
        Some(_) => {}
        None => draft.id = Some(keyed),
    }
}
