//! Every call against its protocol, every condition against its language.

use serde_json::Value;

use super::problem::Problems;
use super::task::TaskDraft;
use crate::core::code::Code;
use crate::core::condition::Condition;
use crate::core::protocol::{Leniency, LookupError, Protocols};
use crate::core::task::Spec;
use crate::core::template::references;
use crate::core::violation::{Violation, Warning};

/// Most warnings of calls; what is beyond is dropped.
const WARNINGS_MAX: usize = 100;

/// Holds every call against its protocol.
pub(super) fn check_calls(
    tasks: &[TaskDraft],
    protocols: &Protocols,
    warnings: &mut Vec<Warning>,
    problems: &mut Problems,
) {
    for (index, task) in tasks.iter().enumerate() {
        let Some(spec) = &task.spec else { continue };
        check_call(index, spec, protocols, warnings, problems);
    }
}

/// Reads every condition. One with a reference that is none has been refused for that.
pub(super) fn check_conditions(tasks: &[TaskDraft], problems: &mut Problems) {
    for (index, task) in tasks.iter().enumerate() {
        let Some(when) = &task.when else { continue };
        let is_flawed = references(&Value::from(when.as_str()), "").iter().any(|one| one.flaw.is_some());
        if is_flawed {
            continue;
        }
        if let Err(problem) = Condition::parse(when) {
            let path = format!("tasks[{index}].when");
            let allowed = "a condition such as ${load.count} > 3; see docs/conditions.md";
            problems.add(Code::WorkflowValidationFailed, path, problem, allowed);
        }
    }
}

fn check_call(
    index: usize,
    spec: &Spec,
    protocols: &Protocols,
    warnings: &mut Vec<Warning>,
    problems: &mut Problems,
) {
    let method = match protocols.method(&spec.protocol, &spec.method) {
        Ok(method) => method,
        Err(error) => {
            let (code, key, problem, known) = match &error {
                LookupError::UnknownProtocol { id, known, .. } => {
                    (Code::ProtocolNotFound, "protocol", format!("unknown protocol {id}"), known)
                }
                LookupError::UnknownMethod { id, method, known, .. } => {
                    (Code::MethodNotFound, "method", format!("unknown method {method:?} of {id}"), known)
                }
            };
            let near = match &error {
                LookupError::UnknownProtocol { near, .. } | LookupError::UnknownMethod { near, .. } => near,
            };
            let hint =
                if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) };
            let path = format!("tasks[{index}].{key}");
            return problems.add(code, path, problem + &hint, format!("one of {}", known.join(", ")));
        }
    };
    for warning in method.warnings() {
        if warnings.len() < WARNINGS_MAX {
            warnings.push(Warning::at(format!("tasks[{index}].method"), format!(": {warning}")));
        }
    }
    if let Err(violations) = method.validate(spec.params.clone(), Leniency::References) {
        let below = |violation: Violation| Violation {
            path: format!("tasks[{index}].{}", violation.path),
            ..violation
        };
        problems.extend(Code::InvalidParams, violations.into_iter().map(below));
    }
}
