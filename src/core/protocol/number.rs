//! Compares JSON numbers exactly, however large or long they are.
//!
//! Numbers keep the text they were written with, so that what does not fit 64 bits survives. Converting to
//! `f64` would call 9007199254740993 and 9007199254740992 equal.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// Compares by value: `1`, `1.0` and `1e0` are equal.
pub(crate) fn compare(left: &Number, right: &Number) -> Ordering {
    if let (Some(left), Some(right)) = (left.as_i64(), right.as_i64()) {
        return left.cmp(&right);
    }
    let (left, right) = (Decimal::read(left), Decimal::read(right));
    match (left.is_negative, right.is_negative) {
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => left.compare_size(&right),
        (true, true) => right.compare_size(&left),
    }
}

/// Whether the value has no fraction. `1.0` has none, as in JSON Schema.
pub(crate) fn is_integer(number: &Number) -> bool {
    if number.is_i64() || number.is_u64() {
        return true;
    }
    let decimal = Decimal::read(number);
    i64::try_from(decimal.digits.len()).is_ok_and(|length| decimal.point >= length)
}

/// Whether two values are the same, numbers by value, objects whatever the order of their keys.
pub(crate) fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => compare(left, right) == Ordering::Equal,
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, value)| right.get(key).is_some_and(|other| same(value, other)))
        }
        _ => left == right,
    }
}

/// `0.DIGITS * 10^point`, without zeros at either end of the digits; zero has no digits, and point 0.
struct Decimal {
    is_negative: bool,
    digits: Vec<u8>,
    point: i64,
}

impl Decimal {
    fn read(number: &Number) -> Self {
        let text = number.to_string();
        let (is_negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.as_str()),
        };
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let leading_zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..leading_zeros);
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        if digits.is_empty() {
            return Self { is_negative: false, digits, point: 0 };
        }
        // An exponent beyond 64 bits is as good as infinite, on its side.
        let beyond = if exponent.starts_with('-') { i64::MIN / 2 } else { i64::MAX / 2 };
        let exponent = exponent.parse().unwrap_or(beyond).clamp(i64::MIN / 2, i64::MAX / 2);
        let point = whole.len() as i64 - leading_zeros as i64 + exponent;
        Self { is_negative, digits, point }
    }

    fn compare_size(&self, other: &Self) -> Ordering {
        match (self.digits.is_empty(), other.digits.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => self.point.cmp(&other.point).then_with(|| self.digits.cmp(&other.digits)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn number(text: &str) -> Number {
        serde_json::from_str(text).expect(text)
    }

    #[test]
    fn numbers_are_compared_by_value() {
        let check = |left: &str, right: &str, expected: Ordering| {
            assert_eq!(compare(&number(left), &number(right)), expected, "{left} {right}");
            assert_eq!(compare(&number(right), &number(left)), expected.reverse(), "{right} {left}");
        };
        check("1", "1.0", Ordering::Equal);
        check("1", "10e-1", Ordering::Equal);
        check("0", "-0.0", Ordering::Equal);
        check("0", "0e99999999999999999999", Ordering::Equal);
        check("9007199254740993", "9007199254740992.0", Ordering::Greater);
        check("123456789012345678901234567890", "123456789012345678901234567891", Ordering::Less);
        check("-123456789012345678901234567890", "-123456789012345678901234567891", Ordering::Greater);
        check("1e400", "9e399", Ordering::Greater);
        check("1e-400", "0", Ordering::Greater);
        check("-1e-400", "0", Ordering::Less);
        check("0.1", "0.10000000000000000001", Ordering::Less);
        check("1e99999999999999999999", "1e5", Ordering::Greater);
        check("1e-99999999999999999999", "1e-5", Ordering::Less);
    }

    #[test]
    fn a_number_without_a_fraction_is_an_integer() {
        let check = |text: &str, expected: bool| assert_eq!(is_integer(&number(text)), expected, "{text}");
        check("1", true);
        check("1.0", true);
        check("1.5", false);
        check("1e3", true);
        check("15e-1", false);
        check("150e-1", true);
        check("0.0", true);
        check("123456789012345678901234567890", true);
        check("1e400", true);
        check("1e-400", false);
    }

    #[test]
    fn values_are_the_same_whatever_the_spelling() {
        assert!(same(&json!({"a": [1, null], "b": 2.0}), &json!({"b": 2, "a": [1.0, null]})));
        assert!(!same(&json!({"a": 1}), &json!({"a": 1, "b": null})));
        assert!(!same(&json!([1]), &json!([1, 2])));
        assert!(!same(&json!("1"), &json!(1)));
    }

    proptest! {
        #[test]
        fn it_agrees_with_128_bits(left in any::<i128>(), right in any::<i128>()) {
            prop_assert_eq!(compare(&number(&left.to_string()), &number(&right.to_string())), left.cmp(&right));
        }

        #[test]
        fn it_agrees_with_floats(left in -1e300..1e300_f64, right in -1e300..1e300_f64) {
            let compared = compare(&number(&json!(left).to_string()), &number(&json!(right).to_string()));
            prop_assert_eq!(Some(compared), left.partial_cmp(&right));
        }
    }
}
