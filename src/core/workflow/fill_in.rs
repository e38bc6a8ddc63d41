//! Puts the values of its parameters into a document, everywhere but inside nested workflows, which have
//! parameters of their own, and inside code.

use serde_json::{Map, Value};

use super::WORKFLOW_BYTES_MAX;
use super::parameters::{Parameters, Supply};
use super::problem::Problems;
use crate::core::code::Code;
use crate::core::task::{WORKFLOW, is_code};
use crate::core::template::{Insertion, Place};
use crate::core::violation::Path;

/// Takes `parameters` out of the document and puts their values into the rest.
pub(super) fn fill_in(
    members: &mut Map<String, Value>,
    supply: &Supply,
    problems: &mut Problems,
) -> Parameters {
    let declared = members.shift_remove("parameters");
    let parameters = Parameters::read(declared, supply, problems);
    if parameters.values.is_empty() {
        return parameters;
    }
    let value = |name: &str| parameters.values.get(name);
    let insertion = Insertion::new(&value, WORKFLOW_BYTES_MAX);
    let mut filling = Filling { insertion, problems };
    let protocol = protocol_of(members);
    for (key, value) in members.iter_mut() {
        let path = Path::Root(key);
        match (key.as_str(), value) {
            ("tasks", Value::Array(tasks)) => {
                for (index, task) in tasks.iter_mut().enumerate() {
                    filling.task(task, &path.index(index));
                }
            }
            // In a batch document: the parameters of every task.
            ("template", value) => filling.params(value, &protocol, &path),
            (_, value) => filling.value(value, Place::Plain, &path),
        }
    }
    parameters
}

struct Filling<'f, 'v> {
    insertion: Insertion<'v>,
    problems: &'f mut Problems,
}

impl Filling<'_, '_> {
    fn task(&mut self, task: &mut Value, path: &Path<'_>) {
        let Value::Object(members) = task else { return self.value(task, Place::Plain, path) };
        // What is called must be known before its parameters are looked at.
        for (key, value) in members.iter_mut() {
            let path = path.key(key);
            match key.as_str() {
                "params" | "parameters" | WORKFLOW => {}
                "for_each" => self.value(value, Place::Data, &path),
                "when" => self.value(value, Place::Expression, &path),
                "dependencies" | "depends_on" => self.dependencies(value, &path),
                _ => self.value(value, Place::Plain, &path),
            }
        }
        let protocol = protocol_of(members);
        for (key, value) in
            members.iter_mut().filter(|(key, _)| ["params", "parameters"].contains(&key.as_str()))
        {
            self.params(value, &protocol, &path.key(key));
        }
    }

    /// A reference that is left in code is refused later as any other.
    fn params(&mut self, params: &mut Value, protocol: &str, path: &Path<'_>) {
        match params {
            Value::Object(members) => {
                for (key, value) in members.iter_mut() {
                    let is_own = protocol == WORKFLOW && key == WORKFLOW;
                    if !is_own && !is_code(protocol, &format!("params.{key}")) {
                        self.value(value, Place::Data, &path.key(key));
                    }
                }
            }
            Value::Array(values) => {
                for (index, value) in values.iter_mut().enumerate() {
                    if !is_code(protocol, &format!("params[{index}]")) {
                        self.value(value, Place::Data, &path.index(index));
                    }
                }
            }
            other => self.value(other, Place::Data, path),
        }
    }

    fn dependencies(&mut self, dependencies: &mut Value, path: &Path<'_>) {
        let Value::Array(list) = dependencies else {
            return self.value(dependencies, Place::Plain, path);
        };
        for (index, one) in list.iter_mut().enumerate() {
            let path = path.index(index);
            match one {
                Value::Object(members) => {
                    for (key, value) in members.iter_mut() {
                        let place = if key == "default" { Place::Data } else { Place::Plain };
                        self.value(value, place, &path.key(key));
                    }
                }
                other => self.value(other, Place::Plain, &path),
            }
        }
    }

    fn value(&mut self, value: &mut Value, place: Place, path: &Path<'_>) {
        match value {
            Value::String(text) => match self.insertion.put_in(text, place) {
                Ok(Some(filled)) => *value = filled,
                Ok(None) => {}
                Err(problem) => {
                    let code = Code::TaskParameterError;
                    self.problems.add(code, path.to_string(), problem, "a parameter that fits there");
                }
            },
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.value(item, place, &path.index(index));
                }
            }
            Value::Object(members) => {
                for (key, member) in members.iter_mut() {
                    self.value(member, place, &path.key(key));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// The name of the protocol that a task, or a batch document, calls.
fn protocol_of(members: &Map<String, Value>) -> String {
    let text = |key: &str| members.get(key).and_then(Value::as_str);
    let name = match (text("protocol"), text("method")) {
        (Some(protocol), _) => protocol.split('/').next(),
        (None, Some(method)) => method.split_once('/').map_or(Some("python"), |(name, _)| Some(name)),
        (None, None) => None,
    };
    name.unwrap_or_default().to_owned()
}
