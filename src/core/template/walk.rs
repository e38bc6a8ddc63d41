//! From a value to a part of it.

use serde_json::Value;

/// What is below null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nulls {
    /// Nothing: null has no parts.
    Keep,
    /// Null.
    Absorb,
}

/// Follows the steps by keys and indices; says where it ended otherwise.
pub(super) fn walk<'a>(start: &'a Value, steps: &[&str], nulls: Nulls) -> Result<&'a Value, String> {
    let mut value = start;
    for (done, step) in steps.iter().enumerate() {
        let next = match value {
            Value::Object(members) => members.get(*step),
            Value::Array(items) => index(step).and_then(|index| items.get(index)),
            Value::Null if nulls == Nulls::Absorb => return Ok(value),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        };
        let Some(next) = next else {
            let place = if done == 0 { String::new() } else { format!(" at {:?}", steps[..done].join(".")) };
            return Err(format!("has{place} {}, without {step:?}", described(value)));
        };
        value = next;
    }
    Ok(value)
}

/// An index as it is written: digits without sign or leading zeros.
fn index(step: &str) -> Option<usize> {
    let canonical = step == "0" || (!step.starts_with('0') && step.bytes().all(|byte| byte.is_ascii_digit()));
    if canonical { step.parse().ok() } else { None }
}

/// A value in a few words, with an object's first keys, so that a misspelt one shows.
fn described(value: &Value) -> String {
    const KEYS_SHOWN: usize = 10;
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "a boolean".to_owned(),
        Value::Number(_) => "a number".to_owned(),
        Value::String(_) => "a string".to_owned(),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(members) if members.is_empty() => "an empty object".to_owned(),
        Value::Object(members) => {
            let mut keys: Vec<String> =
                members.keys().take(KEYS_SHOWN).map(|key| super::shortened(key)).collect();
            if members.len() > KEYS_SHOWN {
                keys.push("...".to_owned());
            }
            format!("an object with the keys {}", keys.join(", "))
        }
    }
}

/// About how many bytes of JSON a value is.
pub(super) fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 4,
        Value::Number(number) => number.as_str().len(),
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| weight(item) + 1).sum::<usize>(),
        Value::Object(members) => {
            2 + members.iter().map(|(key, member)| key.len() + 4 + weight(member)).sum::<usize>()
        }
    }
}
