//! Puts the values of its parameters into a document, everywhere but inside nested workflows, which have
//! parameters of their own, and inside code.

use serde_json::{Map, Value};

use super::WORKFLOW_BYTES_MAX;
use super::batch::is_run_key;
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
    for (key, value) in members.iter_mut().filter(|(key, _)| *key != "template") {
        let path = Path::Root(key);
        match (key.as_str(), value) {
            ("tasks", Value::Array(tasks)) => {
                for (index, task) in tasks.iter_mut().enumerate() {
                    filling.task(task, &path.index(index));
                }
            }
            (_, value) => filling.value(value, Place::Plain, &path),
        }
    }
    // After the protocol of the document, which is its own unless it says another.
    let protocol = protocol_of(members);
    if let Some(template) = members.get_mut("template") {
        filling.template(template, protocol, &Path::Root("template"));
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

    /// The template of a batch: how every task is run, and beside it or in `params` its parameters.
    fn template(&mut self, template: &mut Value, protocol: String, path: &Path<'_>) {
        let Value::Object(members) = template else { return self.value(template, Place::Data, path) };
        for (key, value) in members.iter_mut().filter(|(key, _)| is_run_key(key)) {
            let place = if key == "when" { Place::Expression } else { Place::Plain };
            self.value(value, place, &path.key(key));
        }
        let is_named = members.get("method").and_then(Value::as_str).is_some_and(|name| name.contains('/'));
        // The name of a method does not change the protocol that the document says.
        let says_own = members.contains_key("protocol") || (is_named && protocol != "python");
        let protocol = if says_own { protocol_of(members) } else { protocol };
        for (key, value) in members.iter_mut().filter(|(key, _)| !is_run_key(key)) {
            let path = path.key(key);
            if key == "params" || key == "parameters" {
                self.params(value, &protocol, &path);
            } else if !is_code(&protocol, &format!("params.{key}")) {
                self.value(value, Place::Data, &path);
            }
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
            // A whole mapping from outside could bring in code; it stays a text, which is refused.
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
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
