//! The JSON Schema (draft 2020-12) of workflow files, for editors and for programs that write them.
//!
//! It says what the reader takes, and takes its bounds from the constants that the reader takes them from. It
//! is stricter in one thing: the reader warns of keys that it does not know, the schema refuses them, so that
//! an editor marks a typing error. What needs more than one place to be known stays with the reader: names of
//! tasks, cycles, references, and the parameters of each method (`gleitzeit protocol show P M --schema`).

mod task;

use serde_json::{Map, Value, json};

use super::{TASKS_MAX, TIMEOUT_MAX_SECONDS};
use crate::core::id::ID_BYTES_MAX;
use crate::core::protocol::Type;
use crate::core::reading::SECONDS_MAX;
use crate::core::task::{KEY_CHARACTERS_MAX, NAME_CHARACTERS_MAX};

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The schema of a workflow file.
#[must_use]
pub fn workflow_schema() -> Value {
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!(DRAFT));
    schema.insert("title".to_owned(), json!("Gleitzeit workflow"));
    schema.insert("description".to_owned(), json!("Tasks that hand results to each other."));
    schema.extend(object(properties()));
    schema.insert("anyOf".to_owned(), json!([{"required": ["tasks"]}, {"required": ["batch", "template"]}]));
    schema.insert("$defs".to_owned(), definitions());
    Value::Object(schema)
}

/// The members of a workflow.
fn properties() -> Vec<(&'static str, Value)> {
    let tasks =
        json!({"type": "array", "minItems": 1, "maxItems": TASKS_MAX, "items": {"$ref": "#/$defs/task"}});
    let parameters = json!({"type": "object", "additionalProperties": {"$ref": "#/$defs/parameter"}});
    let modes = or_parameter(json!({"enum": ["parallel", "sequential"], "default": "parallel"}));
    vec![
        ("$schema", described(json!({"type": "string"}), "Where an editor finds this schema.")),
        ("type", described(json!({"enum": ["workflow", "batch"]}), "`batch` makes one task of each file.")),
        ("v", described(json!({"const": 1}), "The version of the format.")),
        ("id", described(id(), "What the workflow is called; each run has an id of its own.")),
        ("name", described(text(NAME_CHARACTERS_MAX), "For people.")),
        ("description", described(json!({"type": "string"}), "For people.")),
        ("version", described(json!({"type": ["string", "number"]}), "The author's own; it has no effect.")),
        (
            "tasks",
            described(tasks, "What is to be run. Tasks that do not wait for each other run side by side."),
        ),
        ("metadata", described(json!({"type": "object"}), "Anything; travels with the workflow.")),
        ("timeout", described(seconds(TIMEOUT_MAX_SECONDS), "How long the whole may take, in seconds.")),
        ("priority", described(reference("priority"), "That of every task without one.")),
        (
            "result_ttl",
            described(seconds(SECONDS_MAX), "How long results are kept after the end, in seconds."),
        ),
        (
            "idempotency_key",
            described(
                text(KEY_CHARACTERS_MAX),
                "Workflows with the same key are the same workflow: it runs once.",
            ),
        ),
        ("providers", described(json!({}), "Kept as `metadata.required_providers`.")),
        ("max_parallel", described(parallel(), "Most tasks of it that run at once.")),
        ("max_parallel_tasks", deprecated(parallel(), "Better written `max_parallel`.")),
        (
            "execution_mode",
            described(modes, "`sequential` runs one task after another, in the order of the file."),
        ),
        (
            "parameters",
            described(
                parameters,
                "Names that `${name}` stands for, with defaults; `--param name=value` sets them.",
            ),
        ),
        ("batch", described(batch(), "The files of which each becomes a task.")),
        (
            "template",
            described(
                json!({"type": "object", "properties": {"method": {"$ref": "#/$defs/method"}}}),
                "The task for each file of a batch: `method`, how to run it, and its parameters.",
            ),
        ),
        ("protocol", described(reference("protocol"), "The protocol of a batch's tasks.")),
        ("wait_for_completion", deprecated(json!({}), "Of older files; it has no effect.")),
        ("outputs", deprecated(json!({}), "Of older files; it has no effect.")),
    ]
}

fn batch() -> Value {
    let mut batch = object(vec![
        ("directory", described(json!({"type": "string", "minLength": 1}), "Where the files are.")),
        (
            "pattern",
            described(
                json!({"type": "string", "minLength": 1, "default": "*"}),
                "Which of them, such as `*.txt`; `**` stands for folders at any depth.",
            ),
        ),
    ]);
    batch.insert("required".to_owned(), json!(["directory"]));
    Value::Object(batch)
}

fn definitions() -> Value {
    json!({
        "task": task::task(),
        "dependency": task::dependency(),
        "on_failure": or_parameter(json!({"enum": ["fail", "skip", "continue"]})),
        "retry": task::retry(),
        "code": task::code(),
        "resources": task::resources(),
        "security": task::security(),
        "priority": task::priority(),
        "parameter": parameter(),
        "protocol": described(
            or_parameter(json!({"type": "string", "pattern": "^[a-z][a-z0-9_-]*(/v[0-9]+(\\.[0-9]+)*)?$"})),
            "Such as `python/v1`.",
        ),
        "method": described(
            or_parameter(
                json!({"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_./:-]*[A-Za-z0-9_/:-])?$", "maxLength": 128}),
            ),
            "Such as `python/execute`.",
        ),
    })
}

/// A parameter of a workflow: its default, or a declaration. A mapping is always a declaration.
fn parameter() -> Value {
    let types: Vec<&str> = Type::ALL.into_iter().map(Type::name).collect();
    let one = json!({ "enum": types });
    let length = || json!({"type": "integer", "minimum": 0});
    let declaration = object(vec![
        ("type", json!({"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]})),
        ("required", described(json!({"type": "boolean"}), "Whether a run must give it.")),
        ("default", described(json!({}), "Its value where a run gives none.")),
        ("description", json!({"type": "string"})),
        ("enum", described(json!({"type": "array", "minItems": 1}), "The values that are allowed.")),
        ("minimum", described(json!({"type": "number"}), "The smallest number.")),
        ("maximum", described(json!({"type": "number"}), "The largest number.")),
        ("min_length", described(length(), "The fewest characters or items.")),
        ("max_length", described(length(), "The most characters or items.")),
        (
            "pattern",
            described(json!({"type": "string"}), "A regular expression that must be found in a text."),
        ),
        ("items", described(json!({"type": "object"}), "What each item of a list looks like.")),
        ("properties", described(json!({"type": "object"}), "The known members of a mapping.")),
        ("additional_properties", described(json!({"type": "boolean"}), "Whether it may have others.")),
    ]);
    json!({"anyOf": [{"type": ["string", "number", "boolean", "array", "null"]}, declaration]})
}

/// A mapping with these members and no others.
fn object(members: Vec<(&'static str, Value)>) -> Map<String, Value> {
    let members: Map<String, Value> =
        members.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    let mut object = Map::new();
    object.insert("type".to_owned(), json!("object"));
    object.insert("properties".to_owned(), Value::Object(members));
    object.insert("additionalProperties".to_owned(), json!(false));
    object
}

fn described(mut schema: Value, description: &str) -> Value {
    if let Value::Object(members) = &mut schema {
        members.insert("description".to_owned(), json!(description));
    }
    schema
}

fn deprecated(schema: Value, description: &str) -> Value {
    let mut schema = described(schema, description);
    if let Value::Object(members) = &mut schema {
        members.insert("deprecated".to_owned(), json!(true));
    }
    schema
}

fn reference(definition: &str) -> Value {
    json!({"$ref": format!("#/$defs/{definition}")})
}

fn id() -> Value {
    json!({"type": "string", "pattern": format!("^[A-Za-z0-9_-][A-Za-z0-9._:-]{{0,{}}}$", ID_BYTES_MAX - 1)})
}

fn text(characters_max: usize) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": characters_max})
}

fn parallel() -> Value {
    or_parameter(json!({"type": "integer", "minimum": 1, "maximum": TASKS_MAX}))
}

/// The same, or a text that is one parameter, `${name}`, which gives it. Where the schema has one type, the other
/// bounds hold only for values of that type.
fn or_parameter(mut schema: Value) -> Value {
    const WHOLE: &str = "^\\$\\{[^{}]+\\}$";
    let has_type = schema.get("type").is_some_and(Value::is_string);
    if !has_type || schema["type"] == "string" {
        return json!({"anyOf": [schema, {"type": "string", "pattern": WHOLE}]});
    }
    schema["type"] = json!([schema["type"], "string"]);
    schema["pattern"] = json!(WHOLE);
    schema
}

/// A duration, above 0.
fn seconds(max: f64) -> Value {
    or_parameter(json!({"type": "number", "exclusiveMinimum": 0, "maximum": number(max)}))
}

/// Whole numbers are written without a fraction.
fn number(value: f64) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or_else(|_| json!(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::requirements::{ResourceRequirements, SecurityRequirements};
    use crate::core::retry::RetryPolicy;
    use crate::core::task::Spec;

    #[track_caller]
    fn check_keys(schema: &Value, keys: &[&str]) {
        for key in keys {
            assert!(schema["properties"].get(*key).is_some(), "{key} is not in the schema");
        }
        assert_eq!(schema["additionalProperties"], json!(false));
    }

    #[test]
    fn every_key_that_the_core_reads_is_in_the_schema() {
        let schema = workflow_schema();
        let definitions = &schema["$defs"];
        let of_tasks: Vec<&str> = Spec::KEYS.into_iter().filter(|key| *key != "idempotency_key").collect();
        check_keys(&definitions["task"], &of_tasks);
        check_keys(&definitions["retry"], &RetryPolicy::KEYS);
        check_keys(&definitions["resources"], &ResourceRequirements::KEYS);
        check_keys(&definitions["security"], &SecurityRequirements::KEYS);
        check_keys(&schema, &["name", "tasks", "batch", "parameters"]);
    }

    #[test]
    fn bounds_are_those_of_the_reader() {
        let schema = workflow_schema();
        assert_eq!(schema["properties"]["timeout"]["maximum"].to_string(), "26784000");
        assert_eq!(schema["$defs"]["task"]["properties"]["timeout"]["maximum"].to_string(), "604800");
        let retry = &schema["$defs"]["retry"]["properties"];
        assert_eq!(
            (&retry["max_attempts"]["minimum"], &retry["max_attempts"]["maximum"]),
            (&json!(1), &json!(10))
        );
        assert_eq!(retry["base_delay"]["maximum"].to_string(), "60");
    }
}
