//! Header values to JSON and back: text, numbers, booleans.
//!
//! Nothing grows on the way, because the headers of a message must fit into one frame each time that it is sent: a number
//! is written in the narrowest type that holds it. Lists and tables are left out, as are bytes that are no text: they can
//! be nested as deep as their sender likes. A point in time comes back as its number of seconds.

use lapin::types::AMQPValue;
use serde_json::{Number, Value};

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
        AMQPValue::FieldArray(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::Void => return None,
    })
}

/// A header that says this; `None` for what is left out.
pub(super) fn to_amqp(value: &Value) -> Option<AMQPValue> {
    match value {
        Value::Bool(is_so) => Some(AMQPValue::Boolean(*is_so)),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Some(whole_to_amqp(whole)),
            None => number.as_f64().map(to_amqp_float),
        },
        Value::String(text) => Some(AMQPValue::LongString(text.as_str().into())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn whole_to_amqp(number: i64) -> AMQPValue {
    if let Ok(number) = i8::try_from(number) {
        return AMQPValue::ShortShortInt(number);
    }
    if let Ok(number) = u8::try_from(number) {
        return AMQPValue::ShortShortUInt(number);
    }
    if let Ok(number) = i16::try_from(number) {
        return AMQPValue::ShortInt(number);
    }
    if let Ok(number) = u16::try_from(number) {
        return AMQPValue::ShortUInt(number);
    }
    if let Ok(number) = i32::try_from(number) {
        return AMQPValue::LongInt(number);
    }
    u32::try_from(number).map_or(AMQPValue::LongLongInt(number), AMQPValue::LongUInt)
}

fn to_amqp_float(number: f64) -> AMQPValue {
    #[allow(clippy::cast_possible_truncation, reason = "it is only used if nothing is lost")]
    let narrow = number as f32;
    if f64::from(narrow).to_bits() == number.to_bits() {
        return AMQPValue::Float(narrow);
    }
    AMQPValue::Double(number)
}

#[cfg(test)]
mod tests {
    use lapin::types::{FieldArray, FieldTable};
    use serde_json::json;

    use super::*;

    #[test]
    fn text_numbers_and_booleans_come_back_as_they_were() {
        let whole =
            [0, -7, 127, 200, -300, 60_000, -70_000, 4_000_000_000, i64::MIN].map(|number| json!(number));
        for value in
            [json!("text"), json!(true), json!(0.5), json!(0.1), json!(1e300)].into_iter().chain(whole)
        {
            assert_eq!(from_amqp(&to_amqp(&value).expect("it is carried")), Some(value));
        }
    }

    #[test]
    fn numbers_do_not_grow() {
        for value in [AMQPValue::ShortShortInt(-1), AMQPValue::ShortShortUInt(200), AMQPValue::ShortInt(-300)]
        {
            let back = from_amqp(&value).and_then(|value| to_amqp(&value));
            assert_eq!(back, Some(value));
        }
        for value in [AMQPValue::ShortUInt(60_000), AMQPValue::LongInt(-70_000), AMQPValue::Float(0.25)] {
            let back = from_amqp(&value).and_then(|value| to_amqp(&value));
            assert_eq!(back, Some(value));
        }
    }

    #[test]
    fn what_can_be_nested_and_what_is_no_text_is_left_out() {
        let left_out = [
            AMQPValue::FieldArray(FieldArray::default()),
            AMQPValue::FieldTable(FieldTable::default()),
            AMQPValue::LongString(vec![0xff].into()),
            AMQPValue::Double(f64::NAN),
            AMQPValue::Void,
        ];
        for value in left_out {
            assert_eq!(from_amqp(&value), None, "{value:?}");
        }
        for value in [json!(null), json!([1]), json!({"a": 1})] {
            assert_eq!(to_amqp(&value), None, "{value}");
        }
    }
}
