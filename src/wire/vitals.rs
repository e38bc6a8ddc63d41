//! How a provider has done, as answers to orders tell it and `gleitzeit provider list --json` prints it.
//!
//! ```text
//! {"calls": 120, "failures": 3, "error_rate": 0.025, "consecutive_failures": 0,
//!  "latency": {"p50": 0.8, "p95": 1.9, "p99": 2.4, "max": 2.5, "expected": 0.9},
//!  "last_error": {"code": -25004, "name": "CONNECTION_LOST", "message": "...", "at": "..."},
//!  "last_check": {"at": "...", "took": 0.002}, "next_check": "..."}
//! ```
//! Durations are in seconds. What is not known is absent.

use serde_json::{Value, json};

use crate::core::clock::Timestamp;
use crate::core::code::Code;

/// The longest message of an error, in characters.
const MESSAGE_MAX: usize = 500;

/// How a provider has done since its worker has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vitals {
    /// Calls that have ended.
    pub calls: u64,
    /// Those of them that failed by the provider's own doing.
    pub failures: u64,
    /// Such failures since a call went well.
    pub consecutive_failures: u32,
    /// How long calls took that went well.
    pub latency: Option<Latency>,
    /// The last such failure.
    pub last_error: Option<LastError>,
    /// When the last look began, and how long it took in microseconds.
    pub last_check: Option<(Timestamp, u64)>,
    /// When the next look is due at the latest.
    pub next_check: Option<Timestamp>,
}

/// How long calls took, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latency {
    /// Half of them took no longer.
    pub p50: u64,
    /// 95 of 100.
    pub p95: u64,
    /// 99 of 100.
    pub p99: u64,
    /// The longest one.
    pub max: u64,
    /// What the next one is expected to take.
    pub expected: u64,
}

/// A failure of the provider's own doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// The number of its code: that of a newer version may have no name here.
    pub code: i32,
    /// In words.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

impl Vitals {
    /// The share of calls that failed.
    #[must_use]
    pub fn error_rate(&self) -> f64 {
        if self.calls == 0 { 0.0 } else { self.failures as f64 / self.calls as f64 }
    }

    /// As documents have it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut vitals = json!({
            "calls": self.calls,
            "failures": self.failures,
            "error_rate": (self.error_rate() * 1e4).round() / 1e4,
            "consecutive_failures": self.consecutive_failures,
        });
        if let Some(Latency { p50, p95, p99, max, expected }) = self.latency {
            let [p50, p95, p99, max, expected] = [p50, p95, p99, max, expected].map(seconds);
            vitals["latency"] = json!({"p50": p50, "p95": p95, "p99": p99, "max": max, "expected": expected});
        }
        if let Some(LastError { code, message, at }) = &self.last_error {
            let name = Code::from_number(*code).map(Code::name);
            vitals["last_error"] = json!({"code": code, "name": name, "message": message, "at": at});
        }
        if let Some((at, took)) = self.last_check {
            vitals["last_check"] = json!({"at": at, "took": seconds(took)});
        }
        if let Some(at) = self.next_check {
            vitals["next_check"] = json!(at);
        }
        vitals
    }

    pub(super) fn from_json(vitals: &Value) -> Option<Vitals> {
        let time = |of: &Value, key: &str| of.get(key)?.as_str()?.parse::<Timestamp>().ok();
        let latency = |of: &Value| {
            let read = |key: &str| micros(of.get(key)?);
            Some(Latency {
                p50: read("p50")?,
                p95: read("p95")?,
                p99: read("p99")?,
                max: read("max")?,
                expected: read("expected")?,
            })
        };
        let error = |of: &Value| {
            let code = i32::try_from(of.get("code")?.as_i64()?).ok()?;
            Some(LastError { code, message: of.get("message")?.as_str()?.to_owned(), at: time(of, "at")? })
        };
        let check = |of: &Value| Some((time(of, "at")?, micros(of.get("took")?)?));
        let number = |key: &str| vitals.get(key).and_then(Value::as_u64);
        Some(Vitals {
            calls: number("calls")?,
            failures: number("failures")?,
            consecutive_failures: u32::try_from(number("consecutive_failures")?).ok()?,
            latency: vitals.get("latency").and_then(latency),
            last_error: vitals.get("last_error").and_then(error),
            last_check: vitals.get("last_check").and_then(check),
            next_check: time(vitals, "next_check"),
        })
    }
}

impl LastError {
    /// With as much of the message as is sent.
    #[must_use]
    pub fn new(code: Code, message: &str, at: Timestamp) -> LastError {
        LastError { code: code.number(), message: message.chars().take(MESSAGE_MAX).collect(), at }
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn micros(seconds: &Value) -> Option<u64> {
    let seconds = seconds.as_f64().filter(|seconds| (0.0..1e12).contains(seconds))?;
    Some((seconds * 1e6).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vitals_read_back_what_they_wrote() {
        let at = |millis| Timestamp::from_millis(millis);
        let whole = Vitals {
            calls: 120,
            failures: 3,
            consecutive_failures: 1,
            latency: Some(Latency { p50: 800_001, p95: 1, p99: 2_400_000, max: 7_200_000_003, expected: 0 }),
            last_error: Some(LastError::new(Code::ConnectionLost, &"x".repeat(600), at(1_000))),
            last_check: Some((at(2_000), 1_500)),
            next_check: Some(at(32_000)),
        };
        for vitals in [whole.clone(), Vitals::default()] {
            assert_eq!(Vitals::from_json(&vitals.to_json()), Some(vitals));
        }
        let told = whole.to_json();
        assert_eq!(told["error_rate"], json!(0.025));
        assert_eq!(told["last_error"]["name"], json!("CONNECTION_LOST"));
        assert_eq!(told["last_error"]["message"].as_str().map(str::len), Some(MESSAGE_MAX));
        assert_eq!(Vitals::from_json(&json!({"calls": "many"})), None);
    }
}
