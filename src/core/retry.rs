//! When a failed attempt is followed by another one, and after how long.
//!
//! ```text
//! delay before attempt n+1 = spread(min(max_delay, grow(base_delay, n)))     and never above max_delay
//!   grow     fixed: b      linear: b * n      exponential: b * 2^(n-1)
//!   spread   false: d      true: d + 10..30 %      full: 0..d      equal: d/2..d
//! wait = max(delay, min(what the failing side asked for, a day))
//! ```
//! Everything here is a pure function of its arguments: luck comes in as a number from 0 to 1.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::code::Code;
use crate::core::violation::{Path, Violation, Violations};

/// Bounds of [`RetryPolicy::max_attempts`].
pub const MAX_ATTEMPTS: std::ops::RangeInclusive<u32> = 1..=10;
/// Bounds of [`RetryPolicy::base_delay`], in seconds.
pub const BASE_DELAY_SECONDS: std::ops::RangeInclusive<f64> = 0.0..=60.0;
/// Bounds of [`RetryPolicy::max_delay`], in seconds.
pub const MAX_DELAY_SECONDS: std::ops::RangeInclusive<f64> = 0.0..=3600.0;

/// The longest wait that a failing side can ask for (`Retry-After`): a day. It knows better than the policy how
/// long it is of no use, so `max_delay` does not bound it; but a mistake there must not park work for ever.
pub const ASKED_MAX: Duration = Duration::from_secs(24 * 3600);

/// Most codes in one list.
pub const CODES_MAX: usize = 100;
/// Longest name of a code.
const CODE_LENGTH_MAX: usize = 64;

/// How often, after how long and after which failures an attempt is repeated.
///
/// Delays are seconds. `deny_unknown_fields` is missing on purpose: on the wire unknown keys travel
/// untouched; protocol and workflow files check their keys themselves, against [`RetryPolicy::KEYS`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryPolicy {
    /// All attempts, the first one included; 1 to 10, default 3.
    pub max_attempts: u32,
    /// How the delay grows; default exponential.
    pub backoff: Backoff,
    /// Delay before the second attempt, 0 to 60, default 1. `delay` is accepted for it.
    #[serde(alias = "delay")]
    pub base_delay: f64,
    /// Longest delay, spread included; 0 to 3600, default 300.
    pub max_delay: f64,
    /// How the delay is spread, so that what failed together does not come back together; default `true`.
    pub jitter: Jitter,
    /// If not empty: only these failures are followed by another attempt, whether or not they are
    /// retryable by nature.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub retry_on: Vec<CodeRef>,
    /// These failures are never followed by another attempt; stronger than `retry_on`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub never_on: Vec<CodeRef>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            backoff: Backoff::Exponential,
            base_delay: 1.0,
            max_delay: 300.0,
            jitter: Jitter::Added,
            retry_on: Vec::new(),
            never_on: Vec::new(),
        }
    }
}

/// How the delay grows with the number of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    /// Always the base delay.
    Fixed,
    /// The base delay times the number of attempts made.
    Linear,
    /// Doubled after each attempt.
    Exponential,
}

/// How a delay is spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Jitter {
    /// `false`, or `none`: not at all.
    Off,
    /// `true`: 10 to 30 % longer. Near the longest delay the spread lies below it instead of vanishing.
    Added,
    /// `full`: anything from nothing to the whole delay.
    Full,
    /// `equal`: half of the delay is certain, the other half is luck.
    Equal,
}

/// A failure's code as it was written, by number or by name (in any case).
///
/// It is kept as it is, even if this version knows no such code: a newer worker may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum CodeRef {
    /// Such as `-29003`.
    Number(i32),
    /// Such as `TASK_TIMEOUT`.
    Name(String),
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Another attempt.
    Retry,
    /// Another attempt would be made, but there were enough.
    Exhausted,
    /// This failure is not one to repeat.
    Refused,
}

impl RetryPolicy {
    /// The keys that it is written with.
    pub const KEYS: [&'static str; 7] =
        ["max_attempts", "backoff", "base_delay", "max_delay", "jitter", "retry_on", "never_on"];

    /// One attempt and no more.
    #[must_use]
    pub fn never() -> Self {
        Self { max_attempts: 1, ..Self::default() }
    }

    /// Whether attempt number `attempt` (1 is the first), which failed with this code, is followed by another.
    ///
    /// `retryable` is the failure's own nature; `retry_on` and `never_on` overrule it.
    #[must_use]
    pub fn judge(&self, code: Code, attempt: u32, retryable: bool) -> Verdict {
        if self.never_on.iter().any(|listed| listed.matches(code)) {
            return Verdict::Refused;
        }
        let wanted = if self.retry_on.is_empty() {
            retryable
        } else {
            self.retry_on.iter().any(|listed| listed.matches(code))
        };
        if !wanted {
            return Verdict::Refused;
        }
        if attempt >= self.max_attempts { Verdict::Exhausted } else { Verdict::Retry }
    }

    /// How long to wait after attempt number `attempt` (1 is the first) failed.
    ///
    /// `chance` is luck from 0 to 1; what is outside counts as the nearer end. The answer is never longer than
    /// `max_delay`, even if the policy itself is out of bounds.
    #[must_use]
    pub fn delay(&self, attempt: u32, chance: f64) -> Duration {
        let longest = within(self.max_delay, *MAX_DELAY_SECONDS.start(), *MAX_DELAY_SECONDS.end());
        let base = within(self.base_delay, 0.0, *BASE_DELAY_SECONDS.end());
        let chance = within(chance, 0.0, 1.0);
        let attempts = f64::from(attempt.max(1));
        let grown = match self.backoff {
            Backoff::Fixed => base,
            Backoff::Linear => base * attempts,
            // 2^40 seconds is beyond every longest delay, and finite.
            Backoff::Exponential => base * (attempts - 1.0).min(40.0).exp2(),
        };
        let capped = grown.min(longest);
        let spread = match self.jitter {
            Jitter::Off => capped,
            Jitter::Added => capped.min(longest / 1.3) * (1.1 + 0.2 * chance),
            Jitter::Full => capped * chance,
            Jitter::Equal => capped / 2.0 + capped / 2.0 * chance,
        };
        Duration::from_secs_f64(within(spread, 0.0, longest))
    }

    /// How long to wait where the failing side may have asked for something: never shorter than [`delay`], and not
    /// shorter than what was asked for, of which at most [`ASKED_MAX`] counts.
    ///
    /// [`delay`]: RetryPolicy::delay
    #[must_use]
    pub fn wait(&self, attempt: u32, chance: f64, asked: Option<Duration>) -> Duration {
        self.delay(attempt, chance).max(asked.unwrap_or_default().min(ASKED_MAX))
    }

    /// The codes of both lists that this version does not know: typing errors, or a newer version's.
    #[must_use]
    pub fn unknown_codes(&self) -> Vec<&CodeRef> {
        self.retry_on.iter().chain(&self.never_on).filter(|code| code.code().is_none()).collect()
    }

    /// Every value that is out of its bounds, with paths below `root`.
    #[must_use]
    pub fn check(&self, root: &str) -> Vec<Violation> {
        let root = Path::Root(root);
        let mut violations = Violations::default();
        if !MAX_ATTEMPTS.contains(&self.max_attempts) {
            let allowed = format!("{} to {}", MAX_ATTEMPTS.start(), MAX_ATTEMPTS.end());
            violations.add(&root.key("max_attempts"), format!("found {}", self.max_attempts), allowed);
        }
        let delays = [
            ("base_delay", self.base_delay, BASE_DELAY_SECONDS),
            ("max_delay", self.max_delay, MAX_DELAY_SECONDS),
        ];
        for (name, value, bounds) in delays {
            if !bounds.contains(&value) {
                let allowed = format!("{} to {} seconds", bounds.start(), bounds.end());
                violations.add(&root.key(name), format!("found {value}"), allowed);
            }
        }
        for (name, codes) in [("retry_on", &self.retry_on), ("never_on", &self.never_on)] {
            let path = root.key(name);
            if codes.len() > CODES_MAX {
                violations.add(&path, format!("has {} codes", codes.len()), format!("at most {CODES_MAX}"));
                continue;
            }
            for (index, code) in codes.iter().enumerate() {
                if !code.is_well_formed() {
                    violations.add(
                        &path.index(index),
                        "found no code",
                        "a number or a name like TASK_TIMEOUT",
                    );
                }
            }
        }
        violations.into_vec()
    }
}

impl CodeRef {
    /// Whether it means that code.
    #[must_use]
    pub fn matches(&self, code: Code) -> bool {
        self.code() == Some(code)
    }

    /// The code that it means, if this version knows it.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            CodeRef::Number(number) => Code::from_number(*number),
            CodeRef::Name(name) => Code::find(name),
        }
    }

    fn is_well_formed(&self) -> bool {
        match self {
            CodeRef::Number(_) => true,
            CodeRef::Name(name) => {
                (1..=CODE_LENGTH_MAX).contains(&name.len())
                    && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
            }
        }
    }
}

impl fmt::Display for CodeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodeRef::Number(number) => write!(f, "{number}"),
            CodeRef::Name(name) => f.write_str(name),
        }
    }
}

// Both go through `Value`, because serde's own way for "one of several types" cannot read numbers while
// serde_json keeps them exact.
impl TryFrom<Value> for Jitter {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match &value {
            Value::Bool(false) => Ok(Jitter::Off),
            Value::Bool(true) => Ok(Jitter::Added),
            Value::String(name) if name == "none" => Ok(Jitter::Off),
            Value::String(name) if name == "full" => Ok(Jitter::Full),
            Value::String(name) if name == "equal" => Ok(Jitter::Equal),
            _ => Err(format!("jitter is true, false, full or equal, not {value}")),
        }
    }
}

impl From<Jitter> for Value {
    fn from(jitter: Jitter) -> Self {
        match jitter {
            Jitter::Off => Value::Bool(false),
            Jitter::Added => Value::Bool(true),
            Jitter::Full => Value::from("full"),
            Jitter::Equal => Value::from("equal"),
        }
    }
}

impl TryFrom<Value> for CodeRef {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        if let Value::String(name) = value {
            return Ok(CodeRef::Name(name));
        }
        match value.as_i64().and_then(|number| i32::try_from(number).ok()) {
            Some(number) => Ok(CodeRef::Number(number)),
            None => Err(format!("a code is a number or a name like TASK_TIMEOUT, not {value}")),
        }
    }
}

impl From<CodeRef> for Value {
    fn from(code: CodeRef) -> Self {
        match code {
            CodeRef::Number(number) => Value::from(number),
            CodeRef::Name(name) => Value::from(name),
        }
    }
}

/// Clamps, and takes the lower end for what is not a number.
fn within(value: f64, low: f64, high: f64) -> f64 {
    if value.is_nan() { low } else { value.clamp(low, high) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn policy(value: Value) -> RetryPolicy {
        serde_json::from_value(value).expect("well typed")
    }

    #[test]
    fn delays_follow_the_formulas() {
        let check = |value: Value, attempt: u32, chance: f64, expected_seconds: f64| {
            let delay = policy(value.clone()).delay(attempt, chance).as_secs_f64();
            assert!((delay - expected_seconds).abs() < 1e-6, "{value} after {attempt}: {delay}");
        };
        check(json!({"backoff": "fixed", "base_delay": 2, "jitter": false}), 5, 0.5, 2.0);
        check(json!({"backoff": "linear", "base_delay": 2, "jitter": false}), 3, 0.5, 6.0);
        check(json!({"base_delay": 2, "jitter": false}), 1, 0.5, 2.0);
        check(json!({"base_delay": 2, "jitter": false}), 4, 0.5, 16.0);
        check(json!({"base_delay": 2, "jitter": false}), u32::MAX, 0.5, 300.0);
        check(json!({"base_delay": 10, "jitter": true, "backoff": "fixed"}), 1, 0.0, 11.0);
        check(json!({"base_delay": 10, "jitter": true, "backoff": "fixed"}), 1, 1.0, 13.0);
        check(json!({"base_delay": 10, "max_delay": 10, "jitter": true}), 1, 1.0, 10.0);
        check(json!({"base_delay": 10, "max_delay": 10, "jitter": true}), 1, 0.0, 10.0 / 1.3 * 1.1);
        check(json!({"base_delay": 8, "jitter": "full"}), 1, 0.25, 2.0);
        check(json!({"base_delay": 8, "jitter": "equal"}), 1, 0.25, 5.0);
        check(json!({"base_delay": 0}), 9, 1.0, 0.0);
        check(json!({"delay": 7, "jitter": false}), 1, 0.0, 7.0);
        check(json!({"delay": 7, "jitter": "none"}), 1, 0.0, 7.0);
    }

    #[test]
    fn an_attempt_is_judged_by_code_count_and_nature() {
        let check = |value: Value, attempt: u32, retryable: bool, expected: Verdict| {
            let verdict = policy(value.clone()).judge(Code::TaskTimeout, attempt, retryable);
            assert_eq!(verdict, expected, "{value} {attempt} {retryable}");
        };
        check(json!({}), 1, true, Verdict::Retry);
        check(json!({}), 3, true, Verdict::Exhausted);
        check(json!({}), 1, false, Verdict::Refused);
        check(json!({}), 3, false, Verdict::Refused);
        check(json!({"retry_on": ["TASK_TIMEOUT"]}), 1, false, Verdict::Retry);
        check(json!({"retry_on": [-29003]}), 1, false, Verdict::Retry);
        check(json!({"retry_on": ["task_timeout"]}), 1, false, Verdict::Retry);
        check(json!({"retry_on": ["NEWER_CODE"]}), 1, true, Verdict::Refused);
        check(json!({"retry_on": ["TASK_CANCELLED"]}), 1, true, Verdict::Refused);
        check(json!({"never_on": [-29003]}), 1, true, Verdict::Refused);
        check(json!({"never_on": ["TASK_TIMEOUT"], "retry_on": [-29003]}), 1, true, Verdict::Refused);
        check(json!({"max_attempts": 1}), 1, true, Verdict::Exhausted);
    }

    #[test]
    fn bounds_are_checked_and_all_are_named() {
        let check = |value: Value, expected: &[&str]| {
            let paths: Vec<String> =
                policy(value.clone()).check("retry").into_iter().map(|v| v.path).collect();
            assert_eq!(paths, expected, "{value}");
        };
        check(json!({}), &[]);
        check(json!({"max_attempts": 10, "base_delay": 60, "max_delay": 3600, "retry_on": ["X_1", 5]}), &[]);
        check(
            json!({"max_attempts": 11, "base_delay": -1, "max_delay": 3601, "never_on": ["no code"]}),
            &["retry.max_attempts", "retry.base_delay", "retry.max_delay", "retry.never_on[0]"],
        );
        check(json!({"max_attempts": 0}), &["retry.max_attempts"]);
    }

    #[test]
    fn unknown_codes_are_kept_and_can_be_named() {
        let policy = policy(json!({"retry_on": ["TASK_TIMEOUT", "TASK_TIMEOT"], "never_on": [-1]}));
        let unknown: Vec<String> = policy.unknown_codes().into_iter().map(ToString::to_string).collect();
        assert_eq!(unknown, ["TASK_TIMEOT", "-1"]);
        assert!(policy.check("retry").is_empty());
    }

    #[test]
    fn what_is_written_is_kept() {
        let written = json!({"max_attempts": 2, "backoff": "linear", "base_delay": 0.5, "max_delay": 9.0,
            "jitter": "equal", "retry_on": [-29003, "TASK_TIMEOUT"], "never_on": ["TASK_CANCELLED"]});
        assert_eq!(serde_json::to_value(policy(written.clone())).expect("plain data"), written);
        assert_eq!(written.as_object().expect("object").keys().collect::<Vec<_>>(), RetryPolicy::KEYS);
        let from_text: RetryPolicy = serde_json::from_str(&written.to_string()).expect("text");
        assert_eq!(from_text, policy(written));
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        let check = |value: Value, expected: &str| {
            let error = serde_json::from_value::<RetryPolicy>(value).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(json!({"jitter": "some"}), "jitter is true, false, full or equal");
        check(json!({"retry_on": [1.5]}), "a code is a number or a name");
        check(json!({"backoff": "cubic"}), "cubic");
        check(json!({"max_attempts": -1}), "invalid number");
    }

    fn any_policy() -> impl Strategy<Value = RetryPolicy> {
        let backoff = prop_oneof![Just(Backoff::Fixed), Just(Backoff::Linear), Just(Backoff::Exponential)];
        let jitter =
            prop_oneof![Just(Jitter::Off), Just(Jitter::Added), Just(Jitter::Full), Just(Jitter::Equal)];
        (any::<u32>(), backoff, any::<f64>(), any::<f64>(), jitter).prop_map(
            |(max_attempts, backoff, base_delay, max_delay, jitter)| RetryPolicy {
                max_attempts,
                backoff,
                base_delay,
                max_delay,
                jitter,
                ..RetryPolicy::default()
            },
        )
    }

    proptest! {
        #[test]
        fn no_delay_is_above_the_longest_one_whatever_the_policy(
            policy in any_policy(), attempt in any::<u32>(), chance in any::<f64>()
        ) {
            let longest = within(policy.max_delay, 0.0, 3600.0);
            prop_assert!(policy.delay(attempt, chance) <= Duration::from_secs_f64(longest));
        }

        #[test]
        fn with_the_same_luck_no_delay_is_shorter_than_the_one_before(
            policy in any_policy(), attempt in 1..1000_u32, chance in 0.0..1.0_f64
        ) {
            prop_assert!(policy.delay(attempt, chance) <= policy.delay(attempt + 1, chance));
        }

        #[test]
        fn what_was_asked_for_is_waited_for_up_to_a_day_and_never_shortens_a_delay(
            policy in any_policy(), attempt in any::<u32>(), chance in any::<f64>(), seconds in 0..1_000_000_u64
        ) {
            let (delay, asked) = (policy.delay(attempt, chance), Duration::from_secs(seconds));
            let wait = policy.wait(attempt, chance, Some(asked));
            prop_assert!(wait >= delay && wait >= asked.min(ASKED_MAX));
            prop_assert!(wait == delay || wait == asked.min(ASKED_MAX));
            prop_assert_eq!(policy.wait(attempt, chance, None), delay);
        }

        #[test]
        fn what_is_never_tried_again_is_refused_whatever_else_is_said(
            policy in any_policy(), attempt in any::<u32>(), retryable in any::<bool>()
        ) {
            let listed = vec![CodeRef::Number(Code::TaskTimeout.number())];
            let policy = RetryPolicy { retry_on: listed.clone(), never_on: listed, ..policy };
            prop_assert_eq!(policy.judge(Code::TaskTimeout, attempt, retryable), Verdict::Refused);
        }

        #[test]
        fn more_luck_is_never_a_shorter_delay(policy in any_policy(), attempt in 1..20_u32, a in 0.0..1.0_f64, b in 0.0..1.0_f64) {
            prop_assert!(policy.delay(attempt, a.min(b)) <= policy.delay(attempt, a.max(b)));
        }

        #[test]
        fn attempts_end(policy in any_policy(), retryable in any::<bool>()) {
            prop_assert_ne!(policy.judge(Code::TaskTimeout, policy.max_attempts, retryable), Verdict::Retry);
        }
    }
}
