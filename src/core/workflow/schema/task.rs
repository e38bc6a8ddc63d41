//! The part of the schema that is about tasks.

use serde::Serialize;
use serde_json::{Value, json};

use super::{deprecated, described, id, number, object, or_parameter, parallel, reference, seconds, text};
use crate::core::code::Code;
use crate::core::condition::CONDITION_BYTES_MAX;
use crate::core::reading::SECONDS_MAX;
use crate::core::requirements::{
    AMOUNT_MAX, CPU_CORES_MAX, EXECUTION_TIMEOUT_MAX_SECONDS, IsolationLevel, LIST_MAX,
};
use crate::core::retry::{
    BASE_DELAY_SECONDS, Backoff, CODES_MAX, Jitter, MAX_ATTEMPTS, MAX_DELAY_SECONDS, RetryPolicy,
};
use crate::core::task::{KEY_CHARACTERS_MAX, NAME_CHARACTERS_MAX};

/// A task: a call of a method, or a workflow of its own.
pub(super) fn task() -> Value {
    let mut members = called();
    members.extend(ordered());
    members.extend(run());
    let mut task = object(members);
    task.insert("anyOf".to_owned(), json!([{"required": ["method"]}, {"required": ["workflow"]}]));
    Value::Object(task)
}

/// What is run.
fn called() -> Vec<(&'static str, Value)> {
    let params = json!({"type": ["object", "array"]});
    let nested = json!({"anyOf": [{"$ref": "#"}, {"type": "string", "minLength": 1}]});
    vec![
        ("id", described(id(), "Unique in the workflow; default `task-N`, by position.")),
        (
            "name",
            described(text(NAME_CHARACTERS_MAX), "For people; `dependencies` and references may use it."),
        ),
        (
            "protocol",
            described(
                reference("protocol"),
                "Default: that of the method's name, `python/v1` for `python/execute`.",
            ),
        ),
        ("method", described(reference("method"), "What is called, such as `python/execute`.")),
        (
            "params",
            described(
                params.clone(),
                "By name or by position. `${task.key}` stands for the result of another task, `$${` for the text `${`.",
            ),
        ),
        ("parameters", described(params, "The same as `params`.")),
        ("workflow", described(nested, "Instead of a method: a workflow, or the path of its file.")),
        ("metadata", described(json!({"type": "object"}), "Anything; travels with the task.")),
    ]
}

/// When it is run, and what depends on it.
fn ordered() -> Vec<(&'static str, Value)> {
    let dependencies = json!({"type": "array", "items": {"$ref": "#/$defs/dependency"}});
    let condition = json!({"type": "string", "minLength": 1, "maxLength": CONDITION_BYTES_MAX});
    let list = json!({"anyOf": [{"type": "string", "pattern": "\\$\\{"}, {"type": "array"}]});
    let time = json!({"type": "string", "format": "date-time"});
    vec![
        ("dependencies", described(dependencies.clone(), "Ids or names of the tasks that it waits for.")),
        ("depends_on", described(dependencies, "The same as `dependencies`.")),
        (
            "on_failure",
            described(
                reference("on_failure"),
                "What becomes of it if a task that it waits for does not complete; default `fail`.",
            ),
        ),
        (
            "critical",
            described(
                or_parameter(json!({"type": "boolean", "default": true})),
                "If false, the workflow can complete although this task fails.",
            ),
        ),
        (
            "when",
            described(
                condition,
                "Skipped unless this holds, such as `${load.count} > 3`; see docs/conditions.md.",
            ),
        ),
        ("for_each", described(list, "Runs once for each item of this list, such as `${load.rows}`.")),
        ("max_parallel", described(parallel(), "With `for_each`: most items at once.")),
        ("not_before", described(time.clone(), "Not to be started before this time (RFC 3339).")),
        ("expires_at", described(time, "Ends as `expired` if it was not started by this time (RFC 3339).")),
    ]
}

/// How it is run.
fn run() -> Vec<(&'static str, Value)> {
    let timeout = seconds(EXECUTION_TIMEOUT_MAX_SECONDS);
    vec![
        ("priority", described(reference("priority"), "How urgent it is.")),
        ("timeout", described(timeout, "How long an attempt may take, in seconds.")),
        ("retry", described(reference("retry"), "What follows a failed attempt.")),
        ("retry_config", described(reference("retry"), "The same as `retry`.")),
        ("result_ttl", described(seconds(SECONDS_MAX), "How long the result is kept, in seconds.")),
        ("ignore_result", described(flag(), "Keep only the state, not the result.")),
        (
            "affinity",
            described(text(KEY_CHARACTERS_MAX), "Tasks with the same key are best run by the same instance."),
        ),
        ("fairness_key", described(text(KEY_CHARACTERS_MAX), "Tasks with the same key share one turn.")),
        ("resource_requirements", described(reference("resources"), "What it asks of the machine.")),
        ("security_requirements", described(reference("security"), "How far it wants to be confined.")),
    ]
}

/// An entry of `dependencies`.
pub(super) fn dependency() -> Value {
    let task = json!({"type": "string", "minLength": 1});
    let mut policy = object(vec![
        ("task", described(task.clone(), "The id or name of the task.")),
        ("on_failure", described(reference("on_failure"), "What follows if it does not complete.")),
        ("default", described(json!({}), "The result that is taken if it does not complete.")),
    ]);
    policy.insert("required".to_owned(), json!(["task"]));
    policy.insert("not".to_owned(), json!({"required": ["on_failure", "default"]}));
    json!({"anyOf": [task, policy]})
}

pub(super) fn retry() -> Value {
    let defaults = RetryPolicy::default();
    let delay = or_parameter(json!({"type": "number", "minimum": number(*BASE_DELAY_SECONDS.start()),
        "maximum": number(*BASE_DELAY_SECONDS.end())}));
    let backoff = or_parameter(json!({
        "enum": written(&[Backoff::Exponential, Backoff::Linear, Backoff::Fixed]),
        "default": defaults.backoff,
    }));
    let mut jitters = written(&[Jitter::Added, Jitter::Off, Jitter::Full, Jitter::Equal]);
    jitters.push(json!("none"));
    let codes = json!({"type": "array", "maxItems": CODES_MAX, "items": {"$ref": "#/$defs/code"}});
    Value::Object(object(vec![
        (
            "max_attempts",
            described(
                or_parameter(json!({"type": "integer", "minimum": MAX_ATTEMPTS.start(),
                    "maximum": MAX_ATTEMPTS.end(), "default": defaults.max_attempts})),
                "All attempts, the first one included.",
            ),
        ),
        ("backoff", described(backoff.clone(), "How the delay grows.")),
        ("backoff_strategy", described(backoff, "The same as `backoff`.")),
        ("base_delay", described(delay.clone(), "Before the second attempt, in seconds; default 1.")),
        ("initial_delay", described(delay.clone(), "The same as `base_delay`.")),
        ("delay", deprecated(delay, "Better written `base_delay`.")),
        (
            "backoff_multiplier",
            deprecated(
                or_parameter(json!({"type": "number"})),
                "Of the original; exponential delays grow by 2.",
            ),
        ),
        (
            "max_delay",
            described(
                or_parameter(json!({"type": "number", "minimum": number(*MAX_DELAY_SECONDS.start()),
                    "maximum": number(*MAX_DELAY_SECONDS.end()), "default": number(defaults.max_delay)})),
                "The longest delay, in seconds.",
            ),
        ),
        (
            "jitter",
            described(
                or_parameter(json!({"enum": jitters})),
                "How the delay is spread; default true: 10 to 30 % longer. `none` is false.",
            ),
        ),
        ("retry_on", described(codes.clone(), "Only these failures are tried again.")),
        ("never_on", described(codes, "These failures are never tried again; stronger than `retry_on`.")),
    ]))
}

/// A failure's code. A newer version may know more names, so others are allowed.
pub(super) fn code() -> Value {
    let names: Vec<&str> = Code::ALL.iter().map(|code| code.name()).collect();
    json!({"anyOf": [{"enum": names}, {"type": "string", "pattern": "^[A-Za-z_]+$"}, {"type": "integer"}]})
}

pub(super) fn resources() -> Value {
    let amount = or_parameter(json!({"type": "integer", "minimum": 1, "maximum": AMOUNT_MAX}));
    let cores =
        or_parameter(json!({"type": "number", "exclusiveMinimum": 0, "maximum": number(CPU_CORES_MAX)}));
    Value::Object(object(vec![
        ("cpu_cores", described(cores, "Processor cores.")),
        ("memory_mb", described(amount.clone(), "Memory, in MiB.")),
        ("gpu_memory_mb", described(amount.clone(), "Memory of the graphics processor, in MiB.")),
        ("disk_space_mb", described(amount.clone(), "Temporary disk space, in MiB.")),
        ("network_bandwidth_mbps", described(amount, "Network bandwidth, in Mbit/s.")),
        (
            "execution_timeout",
            described(seconds(EXECUTION_TIMEOUT_MAX_SECONDS), "The longest execution, in seconds."),
        ),
    ]))
}

pub(super) fn security() -> Value {
    let mut levels = written(&[
        IsolationLevel::None,
        IsolationLevel::Landlock,
        IsolationLevel::Namespaces,
        IsolationLevel::Container,
    ]);
    levels.push(json!("docker"));
    let list = json!({"type": "array", "maxItems": LIST_MAX, "items": {"type": "string", "minLength": 1}});
    Value::Object(object(vec![
        (
            "level",
            described(
                or_parameter(json!({ "enum": levels })),
                "The weakest isolation that will do; `docker` is `container`.",
            ),
        ),
        ("network", described(flag(), "Whether the network is needed, or must be closed.")),
        ("allowed_modules", described(list.clone(), "Modules that may be imported.")),
        ("blocked_modules", described(list.clone(), "Modules that must not be imported.")),
        ("read_paths", described(list, "Files and folders that must be readable.")),
    ]))
}

/// A word in any case, or the numbers of files.
pub(super) fn priority() -> Value {
    let words = ["low", "normal", "high", "urgent"];
    let patterns: Vec<String> = words.iter().map(|word| any_case(word)).collect();
    let spelt = json!({"type": "string", "pattern": format!("^({})$", patterns.join("|"))});
    let numbers = json!({"enum": [1, 2, 3], "description": "1 is high, 2 normal, 3 low."});
    or_parameter(json!({"anyOf": [{"enum": words}, numbers, spelt]}))
}

fn flag() -> Value {
    or_parameter(json!({"type": "boolean"}))
}

/// `[lL][oO][wW]`: the dialect of JSON Schema has no flag for it.
fn any_case(word: &str) -> String {
    word.chars().map(|c| format!("[{c}{}]", c.to_ascii_uppercase())).collect()
}

/// Values as they are written in files.
fn written<T: Serialize>(values: &[T]) -> Vec<Value> {
    values.iter().filter_map(|value| serde_json::to_value(value).ok()).collect()
}
