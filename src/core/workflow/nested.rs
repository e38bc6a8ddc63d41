//! Workflows inside workflows: a task that stands for the tasks of a document of its own.
//!
//! ```yaml
//! - id: report
//!   workflow: {parameters: {rows: {type: array}}, tasks: [...]}     # or, in a file: workflow: report.yaml
//!   params: {rows: "${load.rows}"}
//! ```
//! The document is checked when the outermost one is, with every value that only the run can tell standing
//! for any. Its references are to its own tasks; what it is to know of the outside, it gets by parameters.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

use super::parameters::{Given, Supply};
use super::problem::{Problems, Refused};
use super::task::TaskDraft;
use super::{NESTED_MAX, Scope, read_in};
use crate::core::code::Code;
use crate::core::id::Id;
use crate::core::task::WORKFLOW;
use crate::core::template;
use crate::core::violation::{Violation, Warning};

/// Most warnings of nested workflows; what is beyond is dropped.
const WARNINGS_MAX: usize = 100;

/// Reads the documents of all tasks that are workflows.
pub(super) fn check(
    tasks: &[TaskDraft],
    ids: &[Id],
    scope: &Scope<'_>,
    warnings: &mut Vec<Warning>,
    problems: &mut Problems,
) {
    for (index, task) in tasks.iter().enumerate() {
        let Some(spec) = task.spec.as_ref().filter(|spec| spec.is_workflow()) else { continue };
        let at = format!("tasks[{index}].{WORKFLOW}");
        let Value::Object(params) = &spec.params else {
            problems.add(Code::InvalidParams, at, "has no names for its parameters", "params by name");
            continue;
        };
        let kept = [("timeout", spec.timeout.is_some()), ("retry", spec.retry.is_some())];
        for (key, _) in kept.into_iter().filter(|(_, is_given)| *is_given) {
            let problem = format!("{key} is not supported for a nested workflow");
            let allowed = if key == "timeout" {
                "`timeout` of its tasks, or of the outermost workflow"
            } else {
                "`retry` of its tasks"
            };
            problems.add(Code::WorkflowValidationFailed, format!("tasks[{index}].{key}"), problem, allowed);
        }
        if let Some(Value::String(text)) = params.get(WORKFLOW)
            && text.contains("${")
        {
            let problem = "is a reference: a workflow cannot come from a result";
            problems.add(Code::WorkflowValidationFailed, at, problem, "the workflow itself, with parameters");
            continue;
        }
        // Another shape is a violation of the protocol, which has been noted.
        let Some(Value::Object(document)) = params.get(WORKFLOW) else { continue };
        if scope.depth == NESTED_MAX {
            let problem = format!("is nested more than {NESTED_MAX} times");
            problems.add(Code::WorkflowTooLarge, at, problem, "fewer workflows inside each other");
            continue;
        }
        let supply = supply(params.get("params"));
        let items = if task.for_each.is_some() { ".99999".len() } else { 0 };
        let inner = Scope {
            depth: scope.depth + 1,
            prefix_bytes: scope.prefix_bytes + ids[index].as_str().len() + items + 1,
            ..*scope
        };
        match read_in(document.clone(), &supply, &inner) {
            Ok(workflow) => {
                let room = WARNINGS_MAX.saturating_sub(warnings.len());
                let inner = workflow.warnings.into_iter().take(room);
                warnings.extend(inner.map(|warning| warning.moved(|path| format!("{at}.{path}"))));
            }
            Err(refused) => add(problems, &at, refused),
        }
    }
}

/// Adds what is wrong with a nested document, each path below the place where it stands.
fn add(problems: &mut Problems, at: &str, refused: Refused) {
    for problem in refused.problems {
        let Violation { path, problem: text, allowed } = problem.violation;
        let path = if path.is_empty() { at.to_owned() } else { format!("{at}.{path}") };
        problems.add(problem.code, path, text, allowed);
    }
    problems.count_beyond(refused.beyond);
}

/// What is known of the parameters before the run.
fn supply(params: Option<&Value>) -> Supply {
    let Some(Value::Object(params)) = params else {
        // A reference as a whole, or nothing.
        return Supply { given: BTreeMap::new(), all_later: params.is_some() };
    };
    let given = |value: &Value| match template::fill(value.clone(), "", &|_| None, 0) {
        Ok(value) => Given::Value(value),
        Err(_) => Given::Later,
    };
    Supply {
        given: params.iter().map(|(name, value)| (name.clone(), given(value))).collect(),
        all_later: false,
    }
}

/// The document of a nested workflow and what its parameters are, from the parameters of its task, all filled.
pub(super) fn parts(params: Value) -> Option<(Map<String, Value>, Supply)> {
    let Value::Object(mut params) = params else { return None };
    let Some(Value::Object(document)) = params.shift_remove(WORKFLOW) else { return None };
    let given = match params.shift_remove("params") {
        Some(Value::Object(given)) => given,
        None => Map::new(),
        Some(_) => return None,
    };
    let given = given.into_iter().map(|(name, value)| (name, Given::Value(value))).collect();
    Some((document, Supply { given, all_later: false }))
}
