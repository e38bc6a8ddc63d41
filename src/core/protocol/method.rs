//! Reads one method, and holds its examples against its own schemas.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::core::code::Code;
use crate::core::near::did_you_mean;
use crate::core::protocol::check::{Check, Leniency, shown};
use crate::core::protocol::parameter;
use crate::core::protocol::read::{Node, Report, texts};
use crate::core::protocol::spec::{Example, Fields, MethodSpec};
use crate::core::requirements::{EXECUTION_TIMEOUT_MAX_SECONDS, ResourceRequirements, SecurityRequirements};
use crate::core::retry::RetryPolicy;
use crate::core::violation::{Path, Violation};

const KEYS: [&str; 13] = [
    "description",
    "params",
    "params_schema",
    "additional_params",
    "exactly_one_of",
    "returns",
    "returns_schema",
    "examples",
    "deprecated",
    "timeout_seconds",
    "retry_policy",
    "resource_requirements",
    "security_requirements",
];
const EXAMPLE_KEYS: [&str; 3] = ["description", "params", "result"];

/// Reads what a protocol file says of one method.
pub(super) fn method(
    name: String,
    value: &Value,
    path: String,
    report: &mut Report<'_>,
) -> Option<MethodSpec> {
    let node = Node::open(value, path, &KEYS, report)?;
    let params = match node.any_of(&["params", "params_schema"], report) {
        Some((key, value)) => parameter::fields(value, node.at(key), report),
        None => Fields::new(),
    };
    let returns = node
        .any_of(&["returns", "returns_schema"], report)
        .and_then(|(key, value)| parameter::parameter(value, node.at(key), report));
    let method = MethodSpec {
        name,
        description: node.text("description", report),
        exactly_one_of: exactly_one_of(&node, &params, report),
        params,
        additional_params: node.flag("additional_params", false, report),
        returns,
        examples: examples(&node, report),
        deprecated: node.flag("deprecated", false, report),
        timeout_seconds: timeout(&node, report),
        retry_policy: retry_policy(&node, report),
        resource_requirements: bounded(
            &node,
            "resource_requirements",
            &ResourceRequirements::KEYS,
            ResourceRequirements::check,
            report,
        ),
        security_requirements: bounded(
            &node,
            "security_requirements",
            &SecurityRequirements::KEYS,
            SecurityRequirements::check,
            report,
        ),
    };
    for (index, example) in method.examples.iter().enumerate() {
        let path = format!("{}[{index}]", node.at("examples"));
        check_example(&method, example, &path, report);
    }
    Some(method)
}

fn exactly_one_of(node: &Node<'_>, params: &Fields, report: &mut Report<'_>) -> Vec<Vec<String>> {
    let path = node.at("exactly_one_of");
    let mut groups = Vec::new();
    for (index, value) in node.list("exactly_one_of", report).iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Value::Array(values) = value else {
            report.add(&path, format!("must be a list of parameters, found {}", shown(value)));
            continue;
        };
        let group = texts(values, &path, report);
        if group.len() < 2 {
            report.add(&path, "must name at least two parameters");
        }
        for name in &group {
            match params.iter().find(|(known, _)| known == name) {
                None => report.add(&path, format!("names `{name}`, which is not a parameter")),
                Some((_, spec)) if spec.must_be_given() || spec.default.is_some() => {
                    report.add(&path, format!("`{name}` must have `required: false` and no default"));
                }
                Some(_) => {}
            }
        }
        groups.push(group);
    }
    groups
}

fn examples(node: &Node<'_>, report: &mut Report<'_>) -> Vec<Example> {
    let mut examples = Vec::new();
    for (index, value) in node.list("examples", report).iter().enumerate() {
        let path = format!("{}[{index}]", node.at("examples"));
        let Some(example) = Node::open(value, path, &EXAMPLE_KEYS, report) else { continue };
        examples.push(Example {
            description: example.text("description", report),
            params: example.value("params").cloned().unwrap_or_default(),
            result: example.value("result").cloned(),
        });
    }
    examples
}

/// An example that the protocol itself refuses would teach people wrong.
fn check_example(method: &MethodSpec, example: &Example, path: &str, report: &mut Report<'_>) {
    if let Err(violations) = method.validate(example.params.clone(), Leniency::Exact) {
        for violation in violations {
            report.add(path, violation.to_string());
        }
    }
    if let (Some(result), Some(returns)) = (&example.result, &method.returns) {
        let mut check = Check::partial();
        check.value(returns, result, &Path::Root("result"));
        for violation in check.violations.into_vec() {
            report.add(path, violation.to_string());
        }
    }
}

fn timeout(node: &Node<'_>, report: &mut Report<'_>) -> Option<f64> {
    let value = node.value("timeout_seconds")?;
    let seconds =
        value.as_f64().filter(|seconds| *seconds > 0.0 && *seconds <= EXECUTION_TIMEOUT_MAX_SECONDS);
    if seconds.is_none() {
        let allowed = format!("above 0, at most {EXECUTION_TIMEOUT_MAX_SECONDS}");
        report.add(&node.at("timeout_seconds"), format!("found {}; allowed: {allowed}", shown(value)));
    }
    seconds
}

fn retry_policy(node: &Node<'_>, report: &mut Report<'_>) -> Option<RetryPolicy> {
    let policy = bounded(node, "retry_policy", &RetryPolicy::KEYS, RetryPolicy::check, report)?;
    for code in policy.unknown_codes() {
        let names = Code::ALL.iter().map(|known| known.name());
        let hint = did_you_mean(&code.to_string(), names);
        report.add(&node.at("retry_policy"), format!("names the unknown code {code}{hint}"));
    }
    Some(policy)
}

/// Reads plain data with bounds of its own. `check` gets the path and names what is out of them.
fn bounded<T: DeserializeOwned>(
    node: &Node<'_>,
    key: &str,
    known: &[&str],
    check: fn(&T, &str) -> Vec<Violation>,
    report: &mut Report<'_>,
) -> Option<T> {
    let data: T = node.data(key, known, report)?;
    for violation in check(&data, &node.at(key)) {
        report.add(&violation.path, format!("{}; allowed: {}", violation.problem, violation.allowed));
    }
    Some(data)
}
