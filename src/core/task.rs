//! What is to be run, and how: the part that a task message and a task in a workflow file have in common.
//!
//! The members have the same names and meanings in both; only numbers as priorities differ
//! ([`super::priority`]), and null: a message may say null for nothing, a file may not.

use serde_json::{Map, Value};
use std::time::Duration;

use super::clock::Timestamp;
use super::priority::Priority;
use super::protocol::{ProtocolId, is_method_name};
use super::reading::{Reading, SECONDS_MAX};
use super::requirements::{EXECUTION_TIMEOUT_MAX_SECONDS, ResourceRequirements, SecurityRequirements};
use super::retry::RetryPolicy;
use super::template::{self, Reference, Source, Unresolved, references};
use super::violation::Path;

/// By what exponential delays grow.
const BACKOFF_FACTOR: f64 = 2.0;

/// The longest name of a task or workflow, in characters.
pub const NAME_CHARACTERS_MAX: usize = 200;

/// The longest key (affinity, fairness, idempotency), in characters.
pub const KEY_CHARACTERS_MAX: usize = 512;

/// What is to be run, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// For people.
    pub name: Option<String>,
    /// `python/v1`.
    pub protocol: ProtocolId,
    /// The method without the protocol's name in front: `execute`, `tools/list`.
    pub method: String,
    /// By name (an object) or by position (an array), references unfilled.
    pub params: Value,
    /// How urgent it is.
    pub priority: Option<Priority>,
    /// How long an attempt may take.
    pub timeout: Option<Duration>,
    /// What follows a failed attempt; `None` for what the method or the operator says.
    pub retry: Option<RetryPolicy>,
    /// Not to be started before.
    pub not_before: Option<Timestamp>,
    /// Ends as `expired` if it was not started by then.
    pub expires_at: Option<Timestamp>,
    /// How long the result is kept.
    pub result_ttl: Option<Duration>,
    /// Whether nobody wants the result: only the state is kept.
    pub ignore_result: bool,
    /// Tasks with the same key are best run by the same instance.
    pub affinity: Option<String>,
    /// Tasks with the same key share one turn.
    pub fairness_key: Option<String>,
    /// Tasks with the same key are the same task.
    pub idempotency_key: Option<String>,
    /// What it asks of the machine.
    pub resource_requirements: Option<ResourceRequirements>,
    /// How far it wants to be confined.
    pub security_requirements: Option<SecurityRequirements>,
    /// Anything; travels with the task.
    pub metadata: Map<String, Value>,
}

impl Spec {
    /// A call of `method` with `params`, and nothing else said.
    #[must_use]
    pub fn new(protocol: ProtocolId, method: impl Into<String>, params: Value) -> Spec {
        Spec {
            name: None,
            protocol,
            method: method.into(),
            params,
            priority: None,
            timeout: None,
            retry: None,
            not_before: None,
            expires_at: None,
            result_ttl: None,
            ignore_result: false,
            affinity: None,
            fairness_key: None,
            idempotency_key: None,
            resource_requirements: None,
            security_requirements: None,
            metadata: Map::new(),
        }
    }

    /// The names of its members, as messages and files have them.
    pub const KEYS: [&'static str; 17] = [
        "name",
        "protocol",
        "method",
        "params",
        "priority",
        "timeout",
        "retry",
        "not_before",
        "expires_at",
        "result_ttl",
        "ignore_result",
        "affinity",
        "fairness_key",
        "idempotency_key",
        "resource_requirements",
        "security_requirements",
        "metadata",
    ];
}

impl Spec {
    /// Whether the place in the parameters (`params.code`, or by position `params[0]`) holds source code.
    /// No reference may stand there: text of others must not become code.
    #[must_use]
    pub fn is_code(&self, place: &str) -> bool {
        is_code(self.protocol.name(), place)
    }

    /// Whether it runs a workflow of its own, whose document is the parameter `workflow`.
    #[must_use]
    pub fn is_workflow(&self) -> bool {
        self.protocol.name() == WORKFLOW && self.method == "run"
    }

    /// The references in its parameters. Those inside a nested workflow belong to that.
    #[must_use]
    pub fn references(&self) -> Vec<Reference> {
        match &self.params {
            Value::Object(params) if self.is_workflow() => {
                let own = params.iter().filter(|(key, _)| *key != WORKFLOW);
                own.flat_map(|(key, value)| references(value, &format!("params.{key}"))).collect()
            }
            params => references(params, "params"),
        }
    }

    /// Its parameters with every reference replaced but those inside a nested workflow; see
    /// [`template::fill`].
    ///
    /// # Errors
    /// Everything that could not be replaced.
    pub fn fill<'a>(
        &self,
        source: &dyn Fn(&str) -> Option<Source<'a>>,
        bytes_max: usize,
    ) -> Result<Value, Vec<Unresolved>> {
        let mut params = self.params.clone();
        let inner = match &mut params {
            Value::Object(params) if self.is_workflow() => params.get_mut(WORKFLOW).map(std::mem::take),
            _ => None,
        };
        let mut filled = template::fill(params, "params", source, bytes_max)?;
        if let (Some(inner), Some(place)) = (inner, filled.get_mut(WORKFLOW)) {
            *place = inner;
        }
        Ok(filled)
    }
}

/// The protocol of nested workflows, and the parameter that holds one.
pub(crate) const WORKFLOW: &str = "workflow";

/// Whether that place in the parameters of a method of the protocol holds source code.
pub(crate) fn is_code(protocol: &str, place: &str) -> bool {
    // Both of python's methods take `code` first.
    protocol == "python" && (place == "params.code" || place == "params[0]")
}

/// Where a task is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A workflow file: 1 is high.
    File,
    /// A task message: 9 is high.
    Message,
}

/// A task while its members are read; what is missing is decided at the end.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) name: Option<String>,
    pub(crate) protocol: Option<ProtocolId>,
    /// With or without the protocol's name in front.
    pub(crate) method: Option<String>,
    pub(crate) params: Option<Value>,
    pub(crate) priority: Option<Priority>,
    timeout: Option<Duration>,
    retry: Option<RetryPolicy>,
    not_before: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    result_ttl: Option<Duration>,
    ignore_result: bool,
    affinity: Option<String>,
    fairness_key: Option<String>,
    pub(crate) idempotency_key: Option<String>,
    resource_requirements: Option<ResourceRequirements>,
    security_requirements: Option<SecurityRequirements>,
    metadata: Map<String, Value>,
}

impl Draft {
    /// Reads one member; gives the value back if the key is none of [`Spec::KEYS`].
    pub(crate) fn take(
        &mut self,
        key: &str,
        value: Value,
        origin: Origin,
        path: &Path<'_>,
        reading: &mut Reading,
    ) -> Option<Value> {
        match key {
            "name" => self.name = reading.text(path, value, NAME_CHARACTERS_MAX),
            "protocol" => self.protocol = protocol(path, value, reading),
            "method" => self.method = method(path, value, reading),
            "params" => self.params = params(path, value, reading),
            "priority" => self.priority = priority(path, &value, origin, reading),
            "timeout" => self.timeout = reading.seconds(path, &value, EXECUTION_TIMEOUT_MAX_SECONDS),
            "retry" => self.retry = retry(path, value, reading),
            "not_before" => self.not_before = reading.time(path, &value),
            "expires_at" => self.expires_at = reading.time(path, &value),
            "result_ttl" => self.result_ttl = reading.seconds(path, &value, SECONDS_MAX),
            "ignore_result" => self.ignore_result = reading.flag(path, &value).unwrap_or_default(),
            "affinity" => self.affinity = reading.text(path, value, KEY_CHARACTERS_MAX),
            "fairness_key" => self.fairness_key = reading.text(path, value, KEY_CHARACTERS_MAX),
            "idempotency_key" => self.idempotency_key = reading.text(path, value, KEY_CHARACTERS_MAX),
            "resource_requirements" => {
                let (keys, check) = (&ResourceRequirements::KEYS, ResourceRequirements::check);
                self.resource_requirements = reading.data(path, value, keys, &[], check);
            }
            "security_requirements" => {
                let (keys, check) = (&SecurityRequirements::KEYS, SecurityRequirements::check);
                self.security_requirements = reading.data(path, value, keys, &[], check);
            }
            "metadata" => self.metadata = reading.map(path, value).unwrap_or_default(),
            _ => return Some(value),
        }
        None
    }

    /// What was read, with the protocol that counts. `None` if the method is missing or was refused.
    pub(crate) fn finish(self, protocol: ProtocolId) -> Option<Spec> {
        let method = self.method?;
        let bare = method.strip_prefix(protocol.name()).and_then(|rest| rest.strip_prefix('/'));
        let method = bare.map(str::to_owned).unwrap_or(method);
        Some(Spec {
            name: self.name,
            protocol,
            method,
            params: self.params.unwrap_or_else(|| Value::Object(Map::new())),
            priority: self.priority,
            timeout: self.timeout,
            retry: self.retry,
            not_before: self.not_before,
            expires_at: self.expires_at,
            result_ttl: self.result_ttl,
            ignore_result: self.ignore_result,
            affinity: self.affinity,
            fairness_key: self.fairness_key,
            idempotency_key: self.idempotency_key,
            resource_requirements: self.resource_requirements,
            security_requirements: self.security_requirements,
            metadata: self.metadata,
        })
    }

    /// Notes what does not fit together.
    pub(crate) fn check(&self, expires_at: &Path<'_>, reading: &mut Reading) {
        if let (Some(start), Some(end)) = (self.not_before, self.expires_at)
            && end < start
        {
            reading.refuse(
                expires_at,
                format!("found {end}"),
                format!("not earlier than not_before, {start}"),
            );
        }
    }
}

fn protocol(path: &Path<'_>, value: Value, reading: &mut Reading) -> Option<ProtocolId> {
    let Value::String(text) = &value else {
        reading.mismatch(path, &value, "text such as python/v1");
        return None;
    };
    match text.parse() {
        Ok(id) => Some(id),
        Err(error) => {
            reading.refuse(path, error.to_string(), "a protocol such as python/v1");
            None
        }
    }
}

fn method(path: &Path<'_>, value: Value, reading: &mut Reading) -> Option<String> {
    match value {
        Value::String(name) if is_method_name(&name) => Some(name),
        other => {
            reading.mismatch(path, &other, "a method such as execute or python/execute");
            None
        }
    }
}

fn params(path: &Path<'_>, value: Value, reading: &mut Reading) -> Option<Value> {
    if value.is_object() || value.is_array() {
        return Some(value);
    }
    reading.mismatch(path, &value, "a mapping of names to values, or a list of values");
    None
}

fn priority(path: &Path<'_>, value: &Value, origin: Origin, reading: &mut Reading) -> Option<Priority> {
    let number = value.as_i64();
    match (origin, value.as_str(), number) {
        (Origin::Message, None, Some(number)) => Some(Priority::from_message_number(number)),
        (Origin::Message, Some(word), _) if Priority::from_word(word).is_some() => Priority::from_word(word),
        (Origin::Message, _, _) => {
            reading.mismatch(path, value, format!("0 to 9, {}", Priority::WORDS));
            None
        }
        (Origin::File, None, None) => {
            reading.mismatch(path, value, format!("{}; or 1 for high, 2, 3 for low", Priority::WORDS));
            None
        }
        (Origin::File, word, number) => {
            let known = word.and_then(Priority::from_word).or(number.and_then(Priority::from_file_number));
            if known.is_none() {
                let allowed = "1 is high, 2 normal, 3 low";
                let words = Priority::WORDS;
                reading.warn(
                    path.to_string(),
                    format!(": {value} counts as normal; known are {words}, and {allowed}"),
                );
            }
            Some(known.unwrap_or_default())
        }
    }
}

fn retry(path: &Path<'_>, value: Value, reading: &mut Reading) -> Option<RetryPolicy> {
    let mut members = reading.map(path, value)?;
    // As the original's own code and examples spell them.
    reading.unite(&mut members, "backoff", "backoff_strategy", path);
    reading.unite(&mut members, "base_delay", "initial_delay", path);
    if let Some(factor) = members.remove("backoff_multiplier")
        && factor.as_f64() != Some(BACKOFF_FACTOR)
    {
        let path = path.key("backoff_multiplier").to_string();
        reading
            .warn(path, format!(": {factor} counts as {BACKOFF_FACTOR}, by which exponential delays grow"));
    }
    if members.contains_key("delay") {
        let path = path.key("delay");
        if members.contains_key("base_delay") {
            reading.refuse(&path, "found beside base_delay, which means the same", "one of them");
            return None;
        }
        reading.warn(path.to_string(), ": better written base_delay");
    }
    reading.data(path, Value::Object(members), &RetryPolicy::KEYS, &["delay"], RetryPolicy::check)
}
