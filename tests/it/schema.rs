//! The schema of workflow files: shipped as it is generated, printed by the command, and right about the files
//! that there are.

use std::path::Path;

use serde_json::{Map, Value, json};

use gleitzeit::core::protocol::Protocols;
use gleitzeit::core::workflow::{Format, Workflow, load, workflow_schema};

use crate::place::environment;
use crate::support::{Embedded, root};

const SHIPPED: &str = "docs/workflow.schema.json";

#[test]
fn the_shipped_schema_is_the_generated_one() {
    let text = generated();
    let path = root().join(SHIPPED);
    if environment("GOLDEN").as_deref() == Some("write") {
        std::fs::write(&path, &text).expect("the file can be written");
    }
    let shipped = std::fs::read_to_string(&path).expect(SHIPPED);
    assert!(shipped == text, "{SHIPPED} is not what is generated now; GOLDEN=write replaces it");
}

#[test]
fn the_command_prints_the_schema_or_writes_it() {
    let here = Embedded::new();
    let generated = generated();
    assert!(here.run(&["schema"]).expect(0).stdout == generated, "it is printed as it is generated");
    let file = here.path("s.json").to_string_lossy().into_owned();
    let ran = here.run(&["schema", "--output", &file]).expect(0);
    assert_eq!(ran.stdout, "");
    assert!(std::fs::read_to_string(&file).is_ok_and(|text| text == generated), "and written so");
    here.run(&["schema", "--output", "/nonexistent/s.json"]).expect(3);
}

#[test]
fn every_workflow_file_that_there_is_fits_the_schema() {
    let mut files = Vec::new();
    let mut folders = vec![root().join("examples"), root().join("../shared/external")];
    while let Some(folder) = folders.pop() {
        // The outside files are only where somebody has put them.
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("an entry").path();
            // Protocols, which have a format of their own.
            if path.is_dir() && path.ends_with("providers") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                files.push(path);
            }
        }
    }
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        assert_eq!(problems(&document(&file)), [""; 0], "{}", file.display());
    }
}

#[test]
fn what_the_format_can_say_fits_the_schema() {
    let task = |members: Value| {
        let mut task = json!({"method": "echo/echo"});
        task.as_object_mut().expect("a mapping").extend(members.as_object().expect("a mapping").clone());
        json!({ "tasks": [task] })
    };
    for document in [
        task(
            json!({"dependencies": ["a", {"task": "b", "on_failure": "skip"}, {"task": "c", "default": null}]}),
        ),
        task(json!({"when": "${a.n} > 3", "for_each": "${a.rows}", "max_parallel": 4, "critical": false})),
        task(json!({"priority": "HIGH"})),
        task(json!({"timeout": "${seconds}", "for_each": "${a}", "max_parallel": "${width}"})),
        task(json!({"priority": "${p}", "critical": "${c}", "ignore_result": "${i}", "on_failure": "${f}",
            "protocol": "${protocol}", "method": "${m}", "dependencies": [{"task": "b", "on_failure": "${f}"}],
            "retry": {"max_attempts": "${n}", "base_delay": "${d}", "max_delay": "${d}", "backoff": "${b}", "jitter": "${j}"},
            "resource_requirements": {"cpu_cores": "${n}", "memory_mb": "${n}", "execution_timeout": "${n}"},
            "security_requirements": {"level": "${l}", "network": "${w}"}})),
        task(json!({"retry": {"jitter": "none"}})),
        task(json!({"retry_config": {"max_attempts": 2, "backoff_strategy": "fixed", "initial_delay": 2}})),
        json!({"execution_mode": "${mode}", "priority": "${p}", "tasks": [{"method": "echo/echo"}]}),
        json!({"$schema": "workflow.schema.json", "timeout": "${seconds}", "tasks": [{"method": "echo/echo"}]}),
        task(
            json!({"priority": 1, "retry": {"max_attempts": 10, "jitter": "full", "retry_on": ["TASK_TIMEOUT", -29003]}}),
        ),
        task(
            json!({"security_requirements": {"level": "docker"}, "resource_requirements": {"cpu_cores": 0.5}}),
        ),
        json!({"tasks": [{"id": "inner", "workflow": {"tasks": [{"method": "x"}]}}, {"workflow": "other.yaml"}]}),
        json!({"type": "batch", "batch": {"directory": "d", "pattern": "**/*.txt"}, "template": {"method": "llm/chat"}}),
        json!({"tasks": [{"method": "m"}], "parameters": {"n": 3, "city": {"type": "string", "required": true}}}),
    ] {
        assert_eq!(problems(&document), [""; 0], "{document}");
    }
}

#[test]
fn what_the_reader_refuses_or_warns_of_does_not_fit_the_schema() {
    let protocols = Protocols::builtin().expect("built in");
    let task = |members: Value| {
        let mut task = json!({"method": "echo/echo"});
        task.as_object_mut().expect("a mapping").extend(members.as_object().expect("a mapping").clone());
        json!({ "tasks": [task] })
    };
    for document in [
        json!({"name": "W"}),
        json!({"tasks": []}),
        json!({"tasks": [{"id": "a"}]}),
        json!({"tasks": [{"method": "echo/echo"}], "taks": []}),
        json!({"tasks": [{"method": "echo/echo"}], "timeout": 0}),
        json!({"tasks": [{"method": "echo/echo"}], "id": "a b"}),
        json!({"tasks": [{"method": "echo/echo"}], "v": 2}),
        task(json!({"dependancies": []})),
        task(json!({"dependencies": "abc"})),
        task(json!({"dependencies": null})),
        task(json!({"params": null})),
        task(json!({"timeout": "1m"})),
        task(json!({"timeout": "${a} s"})),
        task(json!({"critical": "yes"})),
        task(json!({"retry": {"max_attempts": "3"}})),
        task(json!({"timeout": 604_801})),
        task(json!({"retry": {"max_attempts": 11}})),
        task(json!({"retry": {"backoff": "slow"}})),
        task(json!({"retry_config": {"backoff_strategy": "slow"}})),
        task(json!({"priority": "bulk"})),
        task(json!({"priority": 4})),
        task(json!({"protocol": "Echo/v1"})),
        task(json!({"resource_requirements": {"memory_mb": 0}})),
        task(json!({"security_requirements": {"level": "strong"}})),
        task(json!({"name": "x".repeat(201)})),
    ] {
        assert!(!problems(&document).is_empty(), "the schema takes {document}");
        let is_clean =
            Workflow::read(document.clone(), &protocols).is_ok_and(|read| read.warnings.is_empty());
        assert!(!is_clean, "the reader takes {document}");
    }
}

fn generated() -> String {
    serde_json::to_string_pretty(&workflow_schema()).expect("JSON") + "\n"
}

fn document(file: &Path) -> Value {
    let text = std::fs::read_to_string(file).expect("a workflow file");
    load(&text, Format::Yaml).unwrap_or_else(|refused| panic!("{}: {refused}", file.display()))
}

/// What does not fit the schema.
fn problems(document: &Value) -> Vec<String> {
    let schema = workflow_schema();
    let mut problems = Vec::new();
    validate(&schema, &schema, document, "", &mut problems);
    problems
}

/// Holds a value against a schema, as far as ours goes: a keyword that is not known here fails the test.
fn validate(root: &Value, schema: &Value, value: &Value, at: &str, problems: &mut Vec<String>) {
    let mut refuse = |problem: String| problems.push(format!("{at}: {problem}"));
    let fits = |schema: &Value| {
        let mut problems = Vec::new();
        validate(root, schema, value, at, &mut problems);
        problems.is_empty()
    };
    let number = value.as_f64();
    let characters = value.as_str().map(|text| text.chars().count() as f64);
    let items = value.as_array().map(|items| items.len() as f64);
    for (keyword, rule) in schema.as_object().expect("a schema is a mapping") {
        let bound = rule.as_f64().unwrap_or(f64::NAN);
        let is_right = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "deprecated" | "format" => true,
            "properties" | "additionalProperties" | "items" => true,
            "type" => rule.as_array().unwrap_or(&vec![rule.clone()]).iter().any(|kind| is_kind(kind, value)),
            "enum" => rule.as_array().expect("a list").contains(value),
            "const" => rule == value,
            "minimum" => number.is_none_or(|number| number >= bound),
            "maximum" => number.is_none_or(|number| number <= bound),
            "exclusiveMinimum" => number.is_none_or(|number| number > bound),
            "minLength" => characters.is_none_or(|characters| characters >= bound),
            "maxLength" => characters.is_none_or(|characters| characters <= bound),
            "minItems" => items.is_none_or(|items| items >= bound),
            "maxItems" => items.is_none_or(|items| items <= bound),
            "pattern" => value.as_str().is_none_or(|text| {
                regex::Regex::new(rule.as_str().expect("text")).expect("a pattern").is_match(text)
            }),
            "required" => value.as_object().is_none_or(|members| {
                rule.as_array()
                    .expect("a list")
                    .iter()
                    .all(|key| members.contains_key(key.as_str().expect("text")))
            }),
            "anyOf" => rule.as_array().expect("a list").iter().any(fits),
            "not" => !fits(rule),
            "$ref" => {
                let target = root.pointer(rule.as_str().expect("text").trim_start_matches('#'));
                fits(target.unwrap_or_else(|| panic!("{rule} leads nowhere")))
            }
            other => panic!("the keyword {other} is not known here"),
        };
        if !is_right {
            refuse(format!("{value} does not fit {keyword} {rule}"));
        }
    }
    validate_members(root, schema, value, at, problems);
}

fn validate_members(root: &Value, schema: &Value, value: &Value, at: &str, problems: &mut Vec<String>) {
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    for (key, member) in value.as_object().unwrap_or(&none) {
        let at = format!("{at}/{key}");
        match (properties.get(key), schema.get("additionalProperties")) {
            (Some(schema), _) | (None, Some(schema @ Value::Object(_))) => {
                validate(root, schema, member, &at, problems);
            }
            (None, Some(Value::Bool(false))) => problems.push(format!("{at}: is not known")),
            (None, _) => {}
        }
    }
    if let (Some(schema), Some(items)) = (schema.get("items"), value.as_array()) {
        for (index, item) in items.iter().enumerate() {
            validate(root, schema, item, &format!("{at}/{index}"), problems);
        }
    }
}

fn is_kind(kind: &Value, value: &Value) -> bool {
    match kind.as_str().expect("text") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_i64().is_some() || value.as_u64().is_some(),
        other => panic!("{other} is no type"),
    }
}
