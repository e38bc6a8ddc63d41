//! A limit as it is configured: what it is of, how often, and what a call costs.

use serde_json::Value;

use super::Pace;
use crate::core::protocol::ProtocolId;

/// The fastest rate, in units a second: beyond that a bucket's time is not exact.
const RATE_MAX: f64 = 1_000_000.0;
/// The most that one call may cost, whatever the rate.
pub const COST_MAX: f64 = 1e9;
/// The longest that one call keeps others away, in seconds.
const DEBT_SECONDS_MAX: f64 = 24.0 * 3600.0;

/// A limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// What it is of.
    pub protocol: ProtocolId,
    /// Only this method.
    pub method: Option<String>,
    /// Only calls of this provider instance.
    pub provider: Option<String>,
    /// A bucket for each value of this.
    pub key: Option<Key>,
    /// How often.
    pub pace: Pace,
    /// Who shares the bucket.
    pub scope: Scope,
    /// What a call takes.
    pub cost: Cost,
}

/// Where the key of a task is found. Tasks without one share a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// In the parameters, by the names of the members.
    Param(Vec<String>),
    /// In a header of the message.
    Header(String),
}

/// Who shares a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The tasks of one worker.
    Local,
    /// All workers.
    Global,
}

/// What a call takes.
#[derive(Debug, Clone, PartialEq)]
pub enum Cost {
    /// One unit.
    One,
    /// A number in the parameters, by the names of the members; one unit where it is absent.
    Param(Vec<String>),
    /// The tokens of a language model: `max_tokens` is reserved, and settled with the real use.
    Tokens {
        /// Reserved where `max_tokens` is not given.
        estimate: f64,
    },
}

impl Rule {
    /// Whether every task of the protocol is held back by it alike.
    #[must_use]
    pub fn is_of_all(&self) -> bool {
        self.method.is_none() && self.provider.is_none() && self.key.is_none()
    }

    /// Whether it is about such calls.
    #[must_use]
    pub fn fits(&self, protocol: &ProtocolId, method: &str) -> bool {
        self.protocol == *protocol && self.method.as_ref().is_none_or(|own| own == method)
    }

    /// Which bucket, `None` for the only one, and how much of it. `Err`: that cannot be told before the references in
    /// the parameters are filled in and what is absent has its default.
    ///
    /// `is_filled`: they are.
    pub fn of(
        &self,
        params: &Value,
        is_filled: bool,
        header: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Option<String>, f64), Unfilled> {
        let key = match &self.key {
            None => None,
            Some(Key::Header(name)) => Some(header(name).unwrap_or_default()),
            Some(Key::Param(path)) => Some(text(found(params, path, is_filled)?)),
        };
        let number = |value: Option<&Value>| value.and_then(Value::as_f64);
        let cost = match &self.cost {
            Cost::One => 1.0,
            Cost::Param(path) => number(found(params, path, is_filled)?).unwrap_or(1.0),
            Cost::Tokens { estimate } => {
                let most = found(params, &["max_tokens".to_owned()], is_filled)?;
                number(most).unwrap_or(*estimate)
            }
        };
        Ok((key, cost.clamp(0.0, self.cost_max())))
    }

    /// The most that one call counts: what comes in a day, or the burst if that is more. Any producer may write a
    /// number, and one message must not keep everybody away for years.
    #[must_use]
    pub fn cost_max(&self) -> f64 {
        (self.pace.per_second * DEBT_SECONDS_MAX).max(self.pace.burst).min(COST_MAX)
    }
}

/// It depends on what is not filled in yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfilled;

fn found<'a>(params: &'a Value, path: &[String], is_filled: bool) -> Result<Option<&'a Value>, Unfilled> {
    let value = path.iter().try_fold(params, |value, name| value.get(name));
    let is_open = value.is_none_or(|value| value.as_str().is_some_and(|text| text.contains("${")));
    if is_open && !is_filled { Err(Unfilled) } else { Ok(value) }
}

fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A text that is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no rate; write a number above 0, a slash and s, min, h or d (100/s, 5000/min), at most 1000000/s"
)]
pub struct InvalidRate(String);

/// Reads `100/s`, `5000/min`, `10/h`, `1000/d` as units a second.
///
/// # Errors
/// [`InvalidRate`] for anything else.
pub fn rate(text: &str) -> Result<f64, InvalidRate> {
    let wrong = || InvalidRate(text.chars().take(40).collect());
    let (number, unit) = text.split_once('/').ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1.0,
        "min" | "m" => 60.0,
        "h" => 3600.0,
        "d" => 24.0 * 3600.0,
        _ => return Err(wrong()),
    };
    let is_plain = number.starts_with(|c: char| c.is_ascii_digit())
        && number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let number = number.parse::<f64>().ok().filter(|_| is_plain).map(|number| number / seconds);
    number.filter(|rate| *rate > 0.0 && *rate <= RATE_MAX).ok_or_else(wrong)
}
