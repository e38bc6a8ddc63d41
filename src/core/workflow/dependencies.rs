//! How a file says what a task waits for.
//!
//! ```yaml
//! on_failure: skip                              # for those below that don't say it themselves; default fail
//! dependencies:
//!   - load                                      # an id or a name
//!   - {task: check, on_failure: continue}       # fail, skip or continue
//!   - {task: count, default: 0}                 # what references see if it does not complete
//! ```

use serde_json::Value;

use super::OnFailure;
use crate::core::reading::Reading;
use crate::core::template;
use crate::core::violation::Path;

const KEYS: [&str; 3] = ["task", "on_failure", "default"];

/// A dependency before its name is looked up.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Its position in the list.
    pub(super) index: usize,
    /// The id or name.
    pub(super) name: String,
    /// `None` if the task's own default counts.
    pub(super) on_failure: Option<OnFailure>,
}

/// Reads the list.
pub(super) fn read(path: &Path<'_>, value: Value, reading: &mut Reading) -> Vec<Wanted> {
    let Value::Array(values) = value else {
        reading.mismatch(path, &value, "a list of ids or names of tasks");
        return Vec::new();
    };
    let mut wanted = Vec::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        let path = path.index(index);
        match value {
            Value::String(name) => wanted.push(Wanted { index, name, on_failure: None }),
            Value::Object(_) => wanted.extend(mapping(index, &path, value, reading)),
            other => reading.mismatch(
                &path,
                &other,
                "the id or name of a task, or a mapping with `task` and `on_failure` or `default`",
            ),
        }
    }
    wanted
}

fn mapping(index: usize, path: &Path<'_>, value: Value, reading: &mut Reading) -> Option<Wanted> {
    let (mut name, mut policy, mut default) = (None, None, None);
    let mut has_task = false;
    for (key, value) in reading.map(path, value)? {
        let path = path.key(&key);
        match key.as_str() {
            "task" => {
                has_task = true;
                match value {
                    Value::String(text) => name = Some(text),
                    other => reading.mismatch(&path, &other, "the id or name of a task"),
                }
            }
            "on_failure" => policy = on_failure(&path, &value, reading),
            "default" => default = plain(&path, value, reading),
            _ => reading.warn_unknown(&path, KEYS),
        }
    }
    if !has_task {
        reading.refuse(&path.key("task"), "is missing", "the id or name of a task");
    }
    if policy.is_some() && default.is_some() {
        reading.refuse(&path.key("default"), "found beside on_failure", "one of them: `default` continues");
    }
    Some(Wanted { index, name: name?, on_failure: default.map(OnFailure::Default).or(policy) })
}

/// Reads a policy by its name.
pub(super) fn on_failure(path: &Path<'_>, value: &Value, reading: &mut Reading) -> Option<OnFailure> {
    let policy = match value.as_str() {
        Some("fail") => Some(OnFailure::Fail),
        Some("skip") => Some(OnFailure::Skip),
        Some("continue") => Some(OnFailure::Continue),
        Some(_) | None => None,
    };
    if policy.is_none() {
        reading.mismatch(path, value, "fail, skip or continue; `default: VALUE` in the dependency");
    }
    policy
}

/// A value that refers to nothing.
fn plain(path: &Path<'_>, value: Value, reading: &mut Reading) -> Option<Value> {
    match template::fill(value, "", &|_| None, 0) {
        Ok(value) => Some(value),
        Err(_) => {
            reading.refuse(path, "holds a reference", "a plain value; $${ for the text ${");
            None
        }
    }
}
