//! Why a task or workflow did not succeed: data that is recorded, as opposed to our own errors.

use serde::Serialize;
use serde::ser::SerializeStruct;
use serde_json::{Map, Value};
use std::fmt;
use std::time::Duration;

use super::code::Code;

/// A recorded failure. On the wire: `{"code", "name", "message", "retryable", "details"}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What kind of failure.
    pub code: Code,
    /// What happened and what to do, in a sentence.
    pub message: String,
    /// Whether another attempt may succeed.
    pub retryable: bool,
    /// Facts for programs: output, violations, attempts.
    pub details: Map<String, Value>,
    /// How long the failing side asked us to wait before another attempt (`Retry-After`).
    pub retry_after: Option<Duration>,
    /// The call surely did not start, so it can be made elsewhere as if nothing had been tried. Not recorded.
    pub not_begun: bool,
}

impl Failure {
    /// A failure that is retryable if its code usually is.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: message.into(),
            retryable: code.is_retryable(),
            details: Map::new(),
            retry_after: None,
            not_begun: false,
        }
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Failure {
        self.details.insert(key.to_owned(), value.into());
        self
    }

    /// Says that no further attempt can help.
    #[must_use]
    pub fn final_now(mut self) -> Failure {
        self.retryable = false;
        self
    }

    /// Says that the call surely did not start.
    #[must_use]
    pub fn not_begun(mut self) -> Failure {
        self.not_begun = true;
        self
    }

    /// Reads what [`Serialize`] wrote. An unknown number becomes `INTERNAL_ERROR` with the original kept
    /// in `details`, so that an older reader does not lose a newer writer's failure.
    #[must_use]
    pub fn from_json(value: &Value) -> Option<Failure> {
        let object = value.as_object()?;
        let number = i32::try_from(object.get("code")?.as_i64()?).ok()?;
        let message = object.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut details = object.get("details").and_then(Value::as_object).cloned().unwrap_or_default();
        let code = Code::from_number(number).unwrap_or_else(|| {
            details.insert("unknown_code".to_owned(), number.into());
            Code::InternalError
        });
        let retryable = object.get("retryable").and_then(Value::as_bool).unwrap_or(code.is_retryable());
        Some(Failure { code, message, retryable, details, retry_after: None, not_begun: false })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.code, self.message)
    }
}

impl Serialize for Failure {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Failure", 5)?;
        out.serialize_field("code", &self.code.number())?;
        out.serialize_field("name", self.code.name())?;
        out.serialize_field("message", &self.message)?;
        out.serialize_field("retryable", &self.retryable)?;
        out.serialize_field("details", &self.details)?;
        out.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_back_what_it_wrote() {
        let failure = Failure::new(Code::TaskTimeout, "took longer than 3 s").with("attempts", 2);
        let value = serde_json::to_value(&failure).expect("a failure is plain data");
        assert_eq!(value["code"], serde_json::json!(-29003));
        assert_eq!(value["name"], "TASK_TIMEOUT");
        assert_eq!(Failure::from_json(&value), Some(failure));
    }
}
