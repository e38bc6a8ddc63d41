//! From text to a document: a value with the order of the file.

use serde_json::{Map, Value};

use super::problem::Refused;
use super::{TASKS_MAX, WORKFLOW_BYTES_MAX};
use crate::core::code::Code;

/// How a workflow is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// YAML 1.2.
    Yaml,
    /// JSON.
    Json,
}

impl Format {
    /// The format that a file's name tells: `.yaml`, `.yml` or `.json`, in upper or lower case.
    #[must_use]
    pub fn of_file(name: &str) -> Option<Format> {
        let (_, suffix) = name.rsplit_once('.')?;
        match suffix.to_ascii_lowercase().as_str() {
            "yaml" | "yml" => Some(Format::Yaml),
            "json" => Some(Format::Json),
            _ => None,
        }
    }
}

/// Reads a workflow's text.
///
/// # Errors
/// [`Refused`] with `WORKFLOW_TOO_LARGE` or `PARSE_ERROR`: not of that format, a key that stands twice, or
/// not a mapping.
pub fn load(text: &str, format: Format) -> Result<Value, Refused> {
    if text.len() > WORKFLOW_BYTES_MAX {
        return Err(too_large(text.len()));
    }
    let value = match format {
        Format::Yaml => yaml(text),
        Format::Json => serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}")),
    };
    let value = value.map_err(|problem| Refused::whole(Code::ParseError, problem, ""))?;
    mapping(value).map(Value::Object)
}

pub(crate) fn too_large(bytes: usize) -> Refused {
    let problem = format!("the workflow has {bytes} bytes");
    Refused::whole(Code::WorkflowTooLarge, problem, &format!("at most {WORKFLOW_BYTES_MAX} bytes"))
}

/// The members of a value that must be a mapping.
pub(super) fn mapping(value: Value) -> Result<Map<String, Value>, Refused> {
    match value {
        Value::Object(members) => Ok(members),
        other => {
            let problem = format!("is not a mapping, found {}", crate::core::reading::shown(&other));
            Err(Refused::whole(
                Code::ParseError,
                problem,
                "keys such as `name` and `tasks` with their values",
            ))
        }
    }
}

fn yaml(text: &str) -> Result<Value, String> {
    // YAML 1.2: `y`, `no` and `on` are text. Duplicate keys and infinite numbers are refused by default.
    // What text of the largest size can need is allowed, what aliases make of it is bounded.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_events: 100 * TASKS_MAX,
            max_nodes: 50 * TASKS_MAX,
            max_documents: 1,
            max_total_scalar_bytes: 4 * WORKFLOW_BYTES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: TASKS_MAX },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| format!("is not YAML: {error}"))
}
