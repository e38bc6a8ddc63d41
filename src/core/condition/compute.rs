//! What a condition runs in: the functions that its translation calls, and nothing else.

use std::cmp::Ordering;

use minijinja::value::{Value as Computed, ValueKind};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde_json::Value;

use super::VALUES_BYTES_MAX;

/// Most steps of the library. The longest condition takes far fewer.
const FUEL: u64 = 20_000;

/// How many characters of a text a message shows.
const SHOWN_CHARACTERS_MAX: usize = 40;

/// An environment that can compute conditions.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.add_function("flag", flag);
    environment.add_function("number", number);
    environment.add_function("divisor", divisor);
    environment.add_function("compare", compare);
    environment.add_function("within", within);
    environment.add_function("length", length);
    environment.add_function("lower", lower);
    environment.add_function("upper", upper);
    environment
}

/// A value as the library has it, counted `times` times.
///
/// # Errors
/// It does not fit into `bytes_left`, or holds a number that cannot be reckoned with.
pub(super) fn taken(value: Value, times: usize, bytes_left: &mut usize) -> Result<Computed, String> {
    let own = match &value {
        Value::Null | Value::Bool(_) | Value::Array(_) => 8,
        Value::Number(number) => number.as_str().len(),
        Value::String(text) => text.len() + 8,
        Value::Object(members) => members.keys().map(|key| key.len() + 8).sum::<usize>() + 8,
    };
    let left = own.checked_mul(times).and_then(|bytes| bytes_left.checked_sub(bytes));
    *bytes_left = left.ok_or_else(|| {
        format!("is too large: the values of a condition have at most {VALUES_BYTES_MAX} bytes")
    })?;
    Ok(match value {
        Value::Null => Computed::from(()),
        Value::Bool(flag) => Computed::from(flag),
        Value::Number(number) => match number.as_str().parse::<i128>() {
            Ok(whole) => Computed::from(whole),
            Err(_) => Computed::from(number.as_f64().ok_or_else(|| beyond(number.as_str()))?),
        },
        Value::String(text) => Computed::from(text),
        Value::Array(items) => {
            let items: Result<Vec<Computed>, String> =
                items.into_iter().map(|item| taken(item, times, bytes_left)).collect();
            Computed::from(items?)
        }
        Value::Object(members) => {
            let mut taken_members = Vec::with_capacity(members.len());
            for (key, member) in members {
                taken_members.push((key, taken(member, times, bytes_left)?));
            }
            Computed::from_pairs(taken_members)
        }
    })
}

fn beyond(number: &str) -> String {
    let start: String = number.chars().take(SHOWN_CHARACTERS_MAX).collect();
    let dots = if start.len() < number.len() { "..." } else { "" };
    format!("has the number {start}{dots}: conditions reckon with numbers up to 1.79e308 either way")
}

/// What a message shows of a value.
pub(super) fn shown(value: &Computed) -> String {
    match value.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => value.is_true().to_string(),
        ValueKind::Number => value.to_string(),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let start: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
            let dots = if start.len() < text.len() { "..." } else { "" };
            format!("the text {start:?}{dots}")
        }
        ValueKind::Seq | ValueKind::Iterable => format!("a list of {}", value.len().unwrap_or_default()),
        ValueKind::Map => format!("a mapping with {} keys", value.len().unwrap_or_default()),
        // The kinds are the library's, more may come; a condition has no others.
        _ => "no value".to_owned(),
    }
}

fn refused(at: usize, problem: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("at character {at}: {problem}"))
}

fn flag(value: Computed, at: usize) -> Result<Computed, Error> {
    if value.kind() == ValueKind::Bool {
        return Ok(value);
    }
    Err(refused(at, format_args!("and, or, not take true or false, found {}; compare it", shown(&value))))
}

fn number(value: Computed, at: usize) -> Result<Computed, Error> {
    if value.kind() == ValueKind::Number {
        return Ok(value);
    }
    Err(refused(at, format_args!("reckoning takes numbers, found {}", shown(&value))))
}

fn divisor(value: Computed, at: usize) -> Result<Computed, Error> {
    let value = number(value, at)?;
    if value == Computed::from(0) {
        return Err(refused(at, "division by zero"));
    }
    Ok(value)
}

fn compare(left: Computed, sign: &str, right: Computed, at: usize) -> Result<bool, Error> {
    let kinds = (left.kind(), right.kind());
    match sign {
        // The library takes true for 1.
        "==" => return Ok(kinds.0 == kinds.1 && left == right),
        "!=" => return Ok(kinds.0 != kinds.1 || left != right),
        _ => {}
    }
    if !matches!(kinds, (ValueKind::Number, ValueKind::Number) | (ValueKind::String, ValueKind::String)) {
        let (left, right) = (shown(&left), shown(&right));
        return Err(refused(
            at,
            format_args!("{sign} takes two numbers or two texts, found {left} and {right}"),
        ));
    }
    let order = left.cmp(&right);
    Ok(match sign {
        "<" => order == Ordering::Less,
        "<=" => order != Ordering::Greater,
        ">" => order == Ordering::Greater,
        _ => order != Ordering::Less,
    })
}

/// A part of a text, an item of a list, or a key of a mapping.
fn within(part: Computed, whole: Computed, at: usize) -> Result<bool, Error> {
    match whole.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            for item in whole.try_iter()? {
                if compare(part.clone(), "==", item, at)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        ValueKind::String | ValueKind::Map => {
            let Some(text) = part.as_str() else {
                let (part, whole) = (shown(&part), shown(&whole));
                return Err(refused(at, format_args!("in takes a text for {whole}, found {part}")));
            };
            match whole.as_str() {
                Some(whole) => Ok(whole.contains(text)),
                None => Ok(!whole.get_attr(text)?.is_undefined()),
            }
        }
        _ => Err(refused(at, format_args!("in takes a list, a text or a mapping, found {}", shown(&whole)))),
    }
}

/// The characters of a text, the items of a list, the keys of a mapping.
fn length(value: Computed, at: usize) -> Result<usize, Error> {
    match value.kind() {
        ValueKind::String => Ok(value.as_str().unwrap_or_default().chars().count()),
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => Ok(value.len().unwrap_or_default()),
        _ => Err(refused(at, format_args!("length takes a text, list or mapping, found {}", shown(&value)))),
    }
}

fn lower(value: Computed, at: usize) -> Result<String, Error> {
    text(&value, "lower", at).map(str::to_lowercase)
}

fn upper(value: Computed, at: usize) -> Result<String, Error> {
    text(&value, "upper", at).map(str::to_uppercase)
}

fn text<'v>(value: &'v Computed, name: &str, at: usize) -> Result<&'v str, Error> {
    value.as_str().ok_or_else(|| refused(at, format_args!("{name} takes a text, found {}", shown(value))))
}
