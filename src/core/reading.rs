//! Reads an object member by member, so that everything that is wrong with it is said at once.
//!
//! Messages and workflow files share it. A member that cannot be read is noted as a violation and then
//! treated as absent, so that reading goes on.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::num::NonZeroU32;
use std::time::Duration;

use super::clock::Timestamp;
use super::code::Code;
use super::failure::Failure;
use super::id::Id;
use super::near::did_you_mean;
use super::violation::{Path, Violation, Violations, Warning};

/// The longest duration that is read, in seconds: 10 years.
pub(crate) const SECONDS_MAX: f64 = 10.0 * 366.0 * 24.0 * 3600.0;

/// The highest bound of tasks that run at once; a higher one would bound nothing.
pub(crate) const PARALLEL_MAX: u32 = 100_000;

/// Most warnings about one input; what is beyond is dropped.
const WARNINGS_MAX: usize = 100;

/// What was found out while reading.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) violations: Violations,
    pub(crate) warnings: Vec<Warning>,
    /// Whether a key that is not known is a violation instead of a warning.
    pub(crate) refuses_unknown: bool,
}

impl Reading {
    pub(crate) fn refuse(&mut self, path: &Path<'_>, problem: impl Into<String>, allowed: impl Into<String>) {
        self.violations.add(path, problem, allowed);
    }

    pub(crate) fn mismatch(&mut self, path: &Path<'_>, found: &Value, allowed: impl Into<String>) {
        self.refuse(path, format!("found {}", shown(found)), allowed);
    }

    /// What is odd about what stands at `path`; `after` follows it in the sentence.
    pub(crate) fn warn(&mut self, path: impl Into<String>, after: impl Into<String>) {
        self.add_warning(Warning::at(path, after));
    }

    fn add_warning(&mut self, warning: Warning) {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(warning);
        }
    }

    /// The warnings as texts.
    pub(crate) fn told(&self) -> Vec<String> {
        self.warnings.iter().map(Warning::to_string).collect()
    }

    /// Text of 1 to `characters_max` characters.
    pub(crate) fn text(&mut self, path: &Path<'_>, value: Value, characters_max: usize) -> Option<String> {
        let length = match &value {
            Value::String(text) => text.chars().count(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.mismatch(path, &value, "text");
                return None;
            }
        };
        match value {
            Value::String(text) if (1..=characters_max).contains(&length) => Some(text),
            _ => {
                let allowed = format!("1 to {characters_max} characters");
                self.refuse(path, format!("has {length} characters"), allowed);
                None
            }
        }
    }

    pub(crate) fn id(&mut self, path: &Path<'_>, value: &Value) -> Option<Id> {
        let Value::String(text) = value else {
            self.mismatch(path, value, "text");
            return None;
        };
        match Id::parse(text) {
            Ok(id) => Some(id),
            Err(error) => {
                self.refuse(path, error.to_string(), "1 to 128 letters, digits and . _ : -");
                None
            }
        }
    }

    pub(crate) fn flag(&mut self, path: &Path<'_>, value: &Value) -> Option<bool> {
        if value.as_bool().is_none() {
            self.mismatch(path, value, "true or false");
        }
        value.as_bool()
    }

    /// How many tasks may run at once.
    pub(crate) fn parallel(&mut self, path: &Path<'_>, value: &Value) -> Option<NonZeroU32> {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).and_then(NonZeroU32::new);
        let number = number.filter(|number| number.get() <= PARALLEL_MAX);
        if number.is_none() {
            self.mismatch(path, value, format!("a whole number, 1 to {PARALLEL_MAX}"));
        }
        number
    }

    /// A duration in seconds, above 0, at most `max`.
    pub(crate) fn seconds(&mut self, path: &Path<'_>, value: &Value, max: f64) -> Option<Duration> {
        let seconds = value.as_f64().filter(|seconds| *seconds > 0.0 && *seconds <= max.min(SECONDS_MAX));
        let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let duration = duration.filter(|duration| !duration.is_zero());
        if duration.is_none() {
            self.mismatch(path, value, format!("seconds, above 0, at most {max}"));
        }
        duration
    }

    /// A point in time.
    pub(crate) fn time(&mut self, path: &Path<'_>, value: &Value) -> Option<Timestamp> {
        let time = value.as_str().and_then(|text| text.parse().ok());
        if time.is_none() {
            self.mismatch(path, value, "a time in RFC 3339, such as 2026-01-02T03:04:05Z");
        }
        time
    }

    pub(crate) fn map(&mut self, path: &Path<'_>, value: Value) -> Option<Map<String, Value>> {
        match value {
            Value::Object(map) => Some(map),
            other => {
                self.mismatch(path, &other, "a mapping");
                None
            }
        }
    }

    /// Makes one of two spellings; both may be there as long as they say the same.
    pub(crate) fn unite(
        &mut self,
        members: &mut Map<String, Value>,
        name: &'static str,
        alias: &'static str,
        path: &Path<'_>,
    ) {
        let Some(value) = members.shift_remove(alias) else { return };
        match members.get(name) {
            Some(other) if *other != value => {
                let problem = format!("differs from {name}, which means the same");
                self.refuse(&path.key(alias), problem, "one of them");
            }
            Some(_) => {}
            None => _ = members.insert(name.to_owned(), value),
        }
    }

    /// A mapping that is plain data with bounds of its own. Every key must be optional; `aliases` are other
    /// spellings that the type reads.
    pub(crate) fn data<T: DeserializeOwned>(
        &mut self,
        path: &Path<'_>,
        value: Value,
        keys: &[&str],
        aliases: &[&str],
        check: fn(&T, &str) -> Vec<Violation>,
    ) -> Option<T> {
        let map = self.map(path, value)?;
        let mut known = Map::new();
        for (key, value) in map {
            if !keys.contains(&key.as_str()) && !aliases.contains(&key.as_str()) {
                self.warn_unknown(&path.key(&key), keys.iter().copied());
                continue;
            }
            // Read key by key first, because an error of the whole does not say which one it means.
            let alone = Map::from_iter([(key.clone(), value.clone())]);
            match serde_json::from_value::<T>(Value::Object(alone)) {
                Ok(_) => _ = known.insert(key, value),
                Err(error) => {
                    self.refuse(&path.key(&key), format!("found {}", shown(&value)), error.to_string())
                }
            }
        }
        let data: T = match serde_json::from_value(Value::Object(known)) {
            Ok(data) => data,
            Err(error) => {
                self.refuse(path, "cannot be read", error.to_string());
                return None;
            }
        };
        for violation in check(&data, &path.to_string()) {
            self.refuse(&Path::Root(&violation.path), violation.problem, violation.allowed);
        }
        Some(data)
    }

    /// Notes a key that is not known. It is ignored, unless unknown keys are to be refused.
    pub(crate) fn warn_unknown<'k>(&mut self, path: &Path<'_>, known: impl IntoIterator<Item = &'k str>) {
        let key = match path {
            Path::Root(key) | Path::Key(_, key) => *key,
            Path::Index(_, _) => "",
        };
        let hint = did_you_mean(key, known);
        if self.refuses_unknown {
            return self.refuse(path, format!("unknown key{hint}"), "known keys only");
        }
        self.add_warning(Warning::unknown_key(path.to_string(), hint));
    }
}

/// What a message shows of a value.
pub(crate) fn shown(value: &Value) -> String {
    const CHARACTERS_MAX: usize = 40;
    let text = match value {
        Value::Null => return "null".to_owned(),
        Value::Array(items) => return format!("a list of {}", items.len()),
        Value::Object(members) => return format!("a mapping with {} keys", members.len()),
        Value::Bool(flag) => return flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("{:?}", text.chars().take(CHARACTERS_MAX + 1).collect::<String>()),
    };
    if text.chars().count() <= CHARACTERS_MAX {
        return text;
    }
    let start: String = text.chars().take(CHARACTERS_MAX).collect();
    format!("{start}...")
}

/// The failure of an input with violations; `what` is the input's name: `the task message`.
pub(crate) fn failure(code: Code, what: &str, violations: &[Violation]) -> Failure {
    const MESSAGE_VIOLATIONS_MAX: usize = 10;
    let mut lines: Vec<String> =
        violations.iter().take(MESSAGE_VIOLATIONS_MAX).map(Violation::to_string).collect();
    if violations.len() > MESSAGE_VIOLATIONS_MAX {
        lines.push(format!("and {} more, in details", violations.len() - MESSAGE_VIOLATIONS_MAX));
    }
    Failure::new(code, format!("{what} is not valid: {}", lines.join("; ")))
        .with("violations", serde_json::json!(violations))
}
