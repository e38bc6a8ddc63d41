//! Reads the mappings of a protocol file key by key, keeping every problem with its place.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::core::near::did_you_mean;
use crate::core::protocol::check::{listed, shown};

/// One thing that is wrong with a protocol file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file's name.
    pub source: String,
    /// The protocol, when its name could be read.
    pub protocol: Option<String>,
    /// Where in the file: `methods.execute.params.code.pattern`; empty for the whole.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        for part in self.protocol.iter().chain(Some(&self.path).filter(|path| !path.is_empty())) {
            write!(f, ": {part}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Where problems of one file go.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) source: &'a str,
    pub(super) protocol: Option<String>,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Report<'_> {
    pub(super) fn add(&mut self, path: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            source: self.source.to_owned(),
            protocol: self.protocol.clone(),
            path: path.to_owned(),
            message: message.into(),
        });
    }

    fn mismatch(&mut self, path: &str, expected: &str, found: &Value) {
        self.add(path, format!("must be {expected}, found {}", shown(found)));
    }
}

/// A mapping whose keys are all known, and the path to it.
#[derive(Debug)]
pub(super) struct Node<'v> {
    path: String,
    map: &'v Map<String, Value>,
}

impl<'v> Node<'v> {
    /// Takes a value that must be a mapping, and reports every key that is not one of `known`.
    pub(super) fn open(
        value: &'v Value,
        path: String,
        known: &[&str],
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let Value::Object(map) = value else {
            report.mismatch(&path, "a mapping", value);
            return None;
        };
        for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
            let hint = did_you_mean(key, known.iter().copied());
            let known = listed(known.iter().copied());
            report.add(&path, format!("unknown key `{key}`{hint}; known: {known}"));
        }
        Some(Self { path, map })
    }

    /// The path to one of its keys.
    pub(super) fn at(&self, key: &str) -> String {
        below(&self.path, key)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(super) fn value(&self, key: &str) -> Option<&'v Value> {
        self.map.get(key)
    }

    /// The value under one of several spellings, with the spelling; giving two is a problem.
    pub(super) fn any_of(
        &self,
        keys: &[&'static str],
        report: &mut Report<'_>,
    ) -> Option<(&'static str, &'v Value)> {
        let mut found = keys.iter().filter_map(|key| Some((*key, self.map.get(*key)?)));
        let first = found.next()?;
        if let Some((second, _)) = found.next() {
            report.add(&self.at(second), format!("means the same as `{}`; give one of them", first.0));
        }
        Some(first)
    }

    pub(super) fn text(&self, key: &str, report: &mut Report<'_>) -> Option<String> {
        match self.value(key)? {
            Value::String(text) => Some(text.clone()),
            // Written out, "nothing" is nothing.
            Value::Null => None,
            other => {
                report.mismatch(&self.at(key), "text", other);
                None
            }
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool, report: &mut Report<'_>) -> bool {
        match self.value(key) {
            None => default,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                report.mismatch(&self.at(key), "true or false", other);
                default
            }
        }
    }

    pub(super) fn list(&self, key: &str, report: &mut Report<'_>) -> &'v [Value] {
        match self.value(key) {
            None => &[],
            Some(Value::Array(values)) => values,
            Some(other) => {
                report.mismatch(&self.at(key), "a list", other);
                &[]
            }
        }
    }

    pub(super) fn mapping(&self, key: &str, report: &mut Report<'_>) -> Option<&'v Map<String, Value>> {
        match self.value(key)? {
            Value::Object(map) => Some(map),
            other => {
                report.mismatch(&self.at(key), "a mapping", other);
                None
            }
        }
    }

    pub(super) fn texts(&self, key: &str, report: &mut Report<'_>) -> Vec<String> {
        texts(self.list(key, report), &self.at(key), report)
    }

    /// Reads plain data by its own type, after its keys are checked. Every key must be optional.
    pub(super) fn data<T: DeserializeOwned>(
        &self,
        key: &str,
        known: &[&str],
        report: &mut Report<'_>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let node = Node::open(value, self.at(key), known, report)?;
        // Read key by key first, because an error of the whole does not say which one it means.
        for (inner, value) in node.map.iter().filter(|(inner, _)| known.contains(&inner.as_str())) {
            let alone = Map::from_iter([(inner.clone(), value.clone())]);
            if let Err(error) = serde_json::from_value::<T>(Value::Object(alone)) {
                report.add(&node.at(inner), format!("found {}: {error}", shown(value)));
            }
        }
        serde_json::from_value(value.clone()).ok()
    }
}

/// A list of texts; what is not text is a problem.
pub(super) fn texts(values: &[Value], path: &str, report: &mut Report<'_>) -> Vec<String> {
    let mut texts = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        match value {
            Value::String(text) => texts.push(text.clone()),
            other => report.mismatch(&format!("{path}[{index}]"), "text", other),
        }
    }
    texts
}

pub(super) fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
