//! The parameters that a workflow declares, and the values that one run of it gets.
//!
//! ```yaml
//! parameters:
//!   topic: {type: string, description: What it is about}      # must be given
//!   count: {type: integer, default: 5, minimum: 1}            # what a method's parameter may say, may be said
//!   style: plain                                              # a default, and nothing else
//! ```

use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};

use super::problem::Problems;
use crate::core::code::Code;
use crate::core::near::did_you_mean;
use crate::core::protocol::{ParameterSpec, Type, schema};
use crate::core::reading::shown;
use crate::core::violation::{Path, Violation};

/// The longest name of a parameter.
const NAME_BYTES_MAX: usize = 100;

/// What somebody gives for a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Given {
    /// Text of a command line, which becomes what the declared type says.
    Text(String),
    /// A value.
    Value(Value),
    /// Known only when the task runs; until then it stands for any value.
    Later,
}

/// What is given for all parameters.
#[derive(Debug, Clone, Default)]
pub(super) struct Supply {
    pub(super) given: BTreeMap<String, Given>,
    /// Nothing is known yet, not even which ones are given.
    pub(super) all_later: bool,
}

/// The parameters of a workflow with their values.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    pub(super) values: Map<String, Value>,
    /// Those whose values are not known: they come later, or something is wrong with them.
    pub(super) open: HashSet<String>,
}

impl Parameters {
    /// Reads the declarations and gives each parameter its value.
    pub(super) fn read(declared: Option<Value>, supply: &Supply, problems: &mut Problems) -> Parameters {
        let mut parameters = Parameters::default();
        let declared = match declared {
            None => Map::new(),
            Some(Value::Object(declared)) => declared,
            Some(other) => {
                let found = format!("found {}", shown(&other));
                add(problems, &Path::Root("parameters"), found, "a mapping of names to parameters");
                return parameters;
            }
        };
        for name in supply.given.keys().filter(|name| !declared.contains_key(*name)) {
            let hint = did_you_mean(name, declared.keys().map(String::as_str));
            let known: Vec<&str> = declared.keys().map(String::as_str).collect();
            let allowed =
                if known.is_empty() { "none, it declares none".to_owned() } else { known.join(", ") };
            let root = Path::Root("parameters");
            add(problems, &root.key(name), format!("is no parameter of this workflow{hint}"), allowed);
        }
        for (name, declaration) in declared {
            let root = Path::Root("parameters");
            let path = root.key(&name);
            match value_of(&name, declaration, supply, &path) {
                Ok(Some(value)) => _ = parameters.values.insert(name, value),
                Ok(None) => _ = parameters.open.insert(name),
                Err(violations) => {
                    problems.extend(Code::WorkflowValidationFailed, violations);
                    parameters.open.insert(name);
                }
            }
        }
        parameters
    }

    /// Whether one is called so.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name) || self.open.contains(name)
    }

    /// Every name.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().chain(&self.open).map(String::as_str)
    }
}

fn add(problems: &mut Problems, path: &Path<'_>, problem: String, allowed: impl Into<String>) {
    problems.add(Code::WorkflowValidationFailed, path.to_string(), problem, allowed);
}

fn one(path: &Path<'_>, problem: impl Into<String>, allowed: impl Into<String>) -> Vec<Violation> {
    vec![Violation { path: path.to_string(), problem: problem.into(), allowed: allowed.into() }]
}

/// The parameter's value; `None` if it comes later.
fn value_of(
    name: &str,
    declaration: Value,
    supply: &Supply,
    path: &Path<'_>,
) -> Result<Option<Value>, Vec<Violation>> {
    if ["item", "index"].contains(&name) || !is_name(name) {
        let problem = format!("a parameter cannot be called {}", shown(&Value::from(name)));
        return Err(one(path, problem, "letters, digits, _ and -, not item or index"));
    }
    let (spec, types) = declared(declaration, path)?;
    let value = match supply.given.get(name) {
        Some(Given::Later) => return Ok(None),
        None if supply.all_later => return Ok(None),
        Some(Given::Value(value)) => value.clone(),
        Some(Given::Text(text)) => typed(text, &types).ok_or_else(|| {
            let names: Vec<&str> = types.iter().map(|one| one.name()).collect();
            one(path, format!("found {}", shown(&Value::from(text.as_str()))), names.join(" or "))
        })?,
        None => match &spec.default {
            Some(default) => default.clone(),
            None if spec.required => {
                let allowed = format!("a value: --param {name}=VALUE, or `params` of the task that runs it");
                return Err(one(path, "is required and not given", allowed));
            }
            None => return Ok(Some(Value::Null)),
        },
    };
    spec.accept(value, path).map(Some)
}

/// What a declaration says, and the types that text may become. A mapping is a declaration, null says nothing,
/// anything else is a default.
fn declared(declaration: Value, path: &Path<'_>) -> Result<(ParameterSpec, Vec<Type>), Vec<Violation>> {
    let mut members = match declaration {
        Value::Object(members) => members,
        Value::Null => Map::new(),
        default => Map::from_iter([("default".to_owned(), default)]),
    };
    let is_typed = members.contains_key("type");
    if !is_typed {
        members.insert("type".to_owned(), "any".into());
    }
    let spec = schema(&Value::Object(members), path)?;
    let types = match &spec.default {
        Some(default) if !is_typed => vec![type_of(default)],
        _ => spec.types.clone(),
    };
    Ok((spec, types))
}

fn is_name(name: &str) -> bool {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    starts && name.len() <= NAME_BYTES_MAX && name.chars().all(allowed)
}

fn type_of(value: &Value) -> Type {
    match value {
        Value::Null => Type::Any,
        Value::Bool(_) => Type::Boolean,
        Value::Number(_) => Type::Number,
        Value::String(_) => Type::String,
        Value::Array(_) => Type::Array,
        Value::Object(_) => Type::Object,
    }
}

/// What text means for one of the types: JSON for all that is not text.
fn typed(text: &str, types: &[Type]) -> Option<Value> {
    let is_text = |one: &Type| matches!(one, Type::String | Type::Any);
    if !types.iter().all(is_text)
        && let Ok(value) = serde_json::from_str::<Value>(text)
        && types.iter().any(|one| !is_text(one) && one.accepts(&value))
    {
        return Some(value);
    }
    types.iter().any(is_text).then(|| Value::from(text))
}
