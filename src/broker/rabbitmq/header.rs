//! Header values to JSON and back.
//!
//! What JSON has no word for changes its type or is left out: a point in time comes back as its number of seconds, every
//! whole number with 64 bits; bytes that are no text, decimals and what is not a number are left out.

use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use serde_json::{Number, Value};

use super::message::short;
use crate::broker::BrokerError;

/// What a header says; `None` for what is left out.
pub(super) fn from_amqp(value: &AMQPValue) -> Option<Value> {
    Some(match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok()?.into(),
        AMQPValue::ShortString(text) => text.as_str().into(),
        AMQPValue::Boolean(is_so) => (*is_so).into(),
        AMQPValue::ShortShortInt(number) => (*number).into(),
        AMQPValue::ShortShortUInt(number) => (*number).into(),
        AMQPValue::ShortInt(number) => (*number).into(),
        AMQPValue::ShortUInt(number) => (*number).into(),
        AMQPValue::LongInt(number) => (*number).into(),
        AMQPValue::LongUInt(number) => (*number).into(),
        AMQPValue::LongLongInt(number) => (*number).into(),
        AMQPValue::Timestamp(seconds) => (*seconds).into(),
        AMQPValue::Float(number) => Number::from_f64((*number).into())?.into(),
        AMQPValue::Double(number) => Number::from_f64(*number)?.into(),
        AMQPValue::FieldArray(values) => values.as_slice().iter().filter_map(from_amqp).collect(),
        AMQPValue::FieldTable(table) => {
            let entries = table.inner().iter();
            let named = |(name, value)| Some((ShortString::as_str(name).to_owned(), from_amqp(value)?));
            Value::Object(entries.filter_map(named).collect())
        }
        AMQPValue::Void => Value::Null,
        AMQPValue::ByteArray(_) | AMQPValue::DecimalValue(_) => return None,
    })
}

/// A header that says this.
pub(super) fn to_amqp(value: &Value) -> Result<AMQPValue, BrokerError> {
    Ok(match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(is_so) => AMQPValue::Boolean(*is_so),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => AMQPValue::LongLongInt(whole),
            (None, Some(number)) => AMQPValue::Double(number),
            (None, None) => AMQPValue::LongString(number.to_string().into()),
        },
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(values) => {
            let values: Result<Vec<AMQPValue>, BrokerError> = values.iter().map(to_amqp).collect();
            AMQPValue::FieldArray(FieldArray::from(values?))
        }
        Value::Object(entries) => {
            let mut table = FieldTable::default();
            for (name, value) in entries {
                table.insert(short("header name", name)?, to_amqp(value)?);
            }
            AMQPValue::FieldTable(table)
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_json_has_a_word_for_comes_back_as_it_was() {
        let all =
            json!({"a": null, "b": true, "c": -7, "d": 0.5, "e": "text", "f": [1, [false]], "g": {"h": {}}});
        assert_eq!(from_amqp(&to_amqp(&all).expect("fits")), Some(all));
    }

    #[test]
    fn what_json_has_no_word_for_is_left_out() {
        let mut table = FieldTable::default();
        table.insert("bytes".into(), AMQPValue::LongString(vec![0xff].into()));
        table.insert("none".into(), AMQPValue::Double(f64::NAN));
        table.insert("seconds".into(), AMQPValue::Timestamp(7));
        assert_eq!(from_amqp(&AMQPValue::FieldTable(table)), Some(json!({"seconds": 7})));
        let long = json!({"n".repeat(256): 1});
        assert!(matches!(to_amqp(&long), Err(BrokerError::Invalid { .. })));
    }
}
