//! The members of one task, each read by itself.

use serde_json::{Map, Value};
use std::num::NonZeroU32;

use super::dependencies::{self, Wanted};
use super::{ITEMS_MAX, OnFailure};
use crate::core::condition::CONDITION_BYTES_MAX;
use crate::core::id::Id;
use crate::core::priority::Priority;
use crate::core::protocol::ProtocolId;
use crate::core::reading::Reading;
use crate::core::task::{Draft, Origin, Spec, WORKFLOW};
use crate::core::template;
use crate::core::violation::Path;

const KEYS: [&str; 11] = [
    "id",
    "parameters",
    "retry_config",
    "dependencies",
    "depends_on",
    "on_failure",
    "critical",
    "when",
    "for_each",
    "max_parallel",
    WORKFLOW,
];

/// Keys that would change what runs, if they were followed: to ignore them would be a lie. Each with what to
/// write instead.
const UNSUPPORTED: [(&str, &str); 13] = [
    ("condition", "`when` with a condition such as ${load.count} > 3"),
    ("conditions", "`when` with a condition such as ${load.count} > 3"),
    ("execution_mode", "`max_parallel` of the workflow, or of a task with `for_each`"),
    ("type", "`protocol` and `method`"),
    ("provider", "`protocol` and `method`"),
    ("outputs", "references to the result in the tasks that need it"),
    ("batch", "a document of its own with `type: batch`"),
    ("template", "a document of its own with `type: batch`"),
    ("instance_preference", "`affinity`"),
    (
        "fallback_model",
        "a second task that waits with `on_failure: continue` and runs `when` the first failed",
    ),
    ("require_gpu", "`resource_requirements` with `gpu_memory_mb`"),
    ("max_latency", "`timeout`"),
    ("container_config", "`resource_requirements` and `security_requirements`"),
];

/// A task before its names are looked up.
#[derive(Debug)]
pub(super) struct TaskDraft {
    /// As given.
    pub(super) id: Option<Id>,
    pub(super) name: Option<String>,
    /// `None` if something about it was refused.
    pub(super) spec: Option<Spec>,
    pub(super) dependencies: Vec<Wanted>,
    /// For the dependencies that don't say it themselves.
    pub(super) on_failure: OnFailure,
    pub(super) critical: bool,
    pub(super) when: Option<String>,
    pub(super) for_each: Option<Value>,
    pub(super) max_parallel: Option<NonZeroU32>,
    pub(super) extra: Map<String, Value>,
}

impl TaskDraft {
    fn new() -> TaskDraft {
        TaskDraft {
            id: None,
            name: None,
            spec: None,
            dependencies: Vec::new(),
            on_failure: OnFailure::Fail,
            critical: true,
            when: None,
            for_each: None,
            max_parallel: None,
            extra: Map::new(),
        }
    }
}

/// Reads a task. `priority` is that of the workflow.
pub(super) fn read(
    value: Value,
    path: &Path<'_>,
    priority: Option<Priority>,
    reading: &mut Reading,
) -> TaskDraft {
    let mut task = TaskDraft::new();
    let Some(mut members) = reading.map(path, value) else { return task };
    for (name, alias) in [("params", "parameters"), ("dependencies", "depends_on"), ("retry", "retry_config")]
    {
        reading.unite(&mut members, name, alias, path);
    }
    let has = |key: &str| members.contains_key(key);
    let (has_protocol, has_method, is_nested) = (has("protocol"), has("method"), has(WORKFLOW));
    let bounds_nothing = has("max_parallel") && !has("for_each");

    let (mut draft, mut nested) = (Draft::default(), None);
    for (key, value) in members {
        let path = path.key(&key);
        let Some(value) = draft.take(&key, value, Origin::File, &path, reading) else { continue };
        match key.as_str() {
            "id" => task.id = reading.id(&path, &value),
            "dependencies" => task.dependencies = dependencies::read(&path, value, reading),
            "on_failure" => {
                task.on_failure = dependencies::on_failure(&path, &value, reading).unwrap_or_default();
            }
            "critical" => task.critical = reading.flag(&path, &value).unwrap_or(true),
            "when" => task.when = when(&path, value, reading),
            "for_each" => task.for_each = for_each(&path, value, reading),
            "max_parallel" => task.max_parallel = reading.parallel(&path, &value),
            WORKFLOW => nested = document(&path, value, reading),
            _ => unknown(&mut task, key.clone(), value, &path, reading),
        }
    }
    if bounds_nothing {
        reading.refuse(&path.key("max_parallel"), "found without for_each", "it together with for_each");
    }
    if draft.idempotency_key.take().is_some() {
        reading.warn(path.key("idempotency_key").to_string(), " has no effect: the workflow's own decides");
    }
    draft.check(&path.key("expires_at"), reading);
    draft.priority = draft.priority.or(priority).or(Some(Priority::NORMAL));
    let protocol = if is_nested {
        run(&mut draft, nested, (has_protocol, has_method), path, reading)
    } else {
        if !has_method {
            reading.refuse(&path.key("method"), "method is required", "text such as python/execute");
        }
        if has_protocol { draft.protocol.take() } else { implied(&draft, path, reading) }
    };
    // Others may name it whatever is wrong with it.
    task.name = draft.name.clone();
    task.spec = protocol.and_then(|protocol| draft.finish(protocol));
    task
}

fn unknown(task: &mut TaskDraft, key: String, value: Value, path: &Path<'_>, reading: &mut Reading) {
    match UNSUPPORTED.iter().find(|(unsupported, _)| *unsupported == key) {
        Some((_, instead)) => reading.refuse(path, "is not supported", *instead),
        None => {
            reading.warn_unknown(path, Spec::KEYS.into_iter().chain(KEYS));
            task.extra.insert(key, value);
        }
    }
}

/// Makes the call that a nested workflow is.
fn run(
    draft: &mut Draft,
    nested: Option<Value>,
    (has_protocol, has_method): (bool, bool),
    path: &Path<'_>,
    reading: &mut Reading,
) -> Option<ProtocolId> {
    if has_protocol || has_method {
        let other = if has_method { "method" } else { "protocol" };
        reading.refuse(&path.key(WORKFLOW), format!("found beside {other}"), "one of them");
        return None;
    }
    let mut params = Map::from_iter([(WORKFLOW.to_owned(), nested?)]);
    if let Some(given) = draft.params.take() {
        params.insert("params".to_owned(), given);
    }
    draft.params = Some(Value::Object(params));
    draft.method = Some("run".to_owned());
    ProtocolId::new(WORKFLOW, "v1").ok()
}

/// A nested workflow's document. A path is one only in a file, where it has been replaced by now.
fn document(path: &Path<'_>, value: Value, reading: &mut Reading) -> Option<Value> {
    match value {
        Value::Object(_) => return Some(value),
        Value::String(_) => reading.mismatch(
            path,
            &value,
            "the workflow itself; a path is followed only where a file is run or submitted by `gleitzeit`",
        ),
        other => reading.mismatch(path, &other, "a workflow, or the path of a file with one"),
    }
    None
}

fn when(path: &Path<'_>, value: Value, reading: &mut Reading) -> Option<String> {
    if !value.is_string() {
        reading.mismatch(path, &value, "a condition as text, such as ${load.count} > 3");
        return None;
    }
    reading.text(path, value, CONDITION_BYTES_MAX)
}

fn for_each(path: &Path<'_>, value: Value, reading: &mut Reading) -> Option<Value> {
    match &value {
        Value::Array(items) if items.len() > ITEMS_MAX => {
            reading.refuse(path, format!("has {} items", items.len()), format!("at most {ITEMS_MAX}"));
            None
        }
        Value::Array(_) => Some(value),
        Value::String(text) if template::is_reference(text) => Some(value),
        _ => {
            reading.mismatch(path, &value, "a list, or a reference to one such as ${load.items}");
            None
        }
    }
}

/// The protocol that the method's name implies: `llm/chat` is `llm/v1`, `execute` is `python/v1`.
fn implied(draft: &Draft, path: &Path<'_>, reading: &mut Reading) -> Option<ProtocolId> {
    let method = draft.method.as_deref()?;
    let (name, problem) = match method.split_once('/') {
        Some((name, _)) => (name, None),
        None => ("python", Some(": no protocol is given, python/v1 is taken")),
    };
    if let Some(problem) = problem {
        reading.warn(path.to_string(), problem);
    }
    match ProtocolId::new(name, "v1") {
        Ok(protocol) => Some(protocol),
        Err(error) => {
            reading.refuse(&path.key("method"), error.to_string(), "a protocol's name before the slash");
            None
        }
    }
}
