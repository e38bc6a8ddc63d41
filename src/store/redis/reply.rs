//! What a script answered, read from front to back. Anything unexpected is [`StoreError::Corrupt`].

use bytes::Bytes;
use redis::Value;
use std::str::FromStr;

use crate::core::clock::Timestamp;
use crate::store::StoreError;

/// The rest of an answer.
#[derive(Debug)]
pub(super) struct Reply {
    step: &'static str,
    rest: std::vec::IntoIter<Value>,
}

impl Reply {
    pub(super) fn new(step: &'static str, value: Value) -> Result<Reply, StoreError> {
        match value {
            Value::Array(values) => Ok(Reply { step, rest: values.into_iter() }),
            other => Err(corrupt(step, format!("{other:?} where a list was expected"))),
        }
    }

    /// Which step answered.
    pub(super) fn step(&self) -> &'static str {
        self.step
    }

    /// 1 or 0.
    pub(super) fn flag(&mut self) -> Result<bool, StoreError> {
        match self.text()?.as_str() {
            "0" => Ok(false),
            "1" => Ok(true),
            other => Err(corrupt(self.step, format!("{other:?} where 0 or 1 was expected"))),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.len() == 0
    }

    pub(super) fn list(&mut self) -> Result<Reply, StoreError> {
        let value = self.value()?;
        Reply::new(self.step, value)
    }

    pub(super) fn bytes(&mut self) -> Result<Option<Bytes>, StoreError> {
        match self.value()? {
            Value::Nil => Ok(None),
            Value::BulkString(bytes) => Ok(Some(Bytes::from(bytes))),
            Value::SimpleString(text) => Ok(Some(Bytes::from(text))),
            Value::Int(number) => Ok(Some(Bytes::from(number.to_string()))),
            other => Err(corrupt(self.step, format!("{other:?} where a text was expected"))),
        }
    }

    pub(super) fn optional_text(&mut self) -> Result<Option<String>, StoreError> {
        let Some(bytes) = self.bytes()? else { return Ok(None) };
        let text = String::from_utf8(bytes.into());
        text.map(Some).map_err(|_| corrupt(self.step, "a text that is not UTF-8".to_owned()))
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        let text = self.optional_text()?;
        text.ok_or_else(|| corrupt(self.step, "nothing where a text was expected".to_owned()))
    }

    /// A value that is written as text: a number, an id, an address.
    pub(super) fn parsed<T: FromStr>(&mut self) -> Result<T, StoreError> {
        let text = self.text()?;
        text.parse().map_err(|_| corrupt(self.step, format!("{text:?} is not what was expected")))
    }

    /// A number that is absent as long as it is zero.
    pub(super) fn count(&mut self) -> Result<u32, StoreError> {
        let Some(text) = self.optional_text()? else { return Ok(0) };
        text.parse().map_err(|_| corrupt(self.step, format!("{text:?} is not a count")))
    }

    pub(super) fn time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        let Some(text) = self.optional_text()? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| corrupt(self.step, format!("{text:?} is not a time")))
    }

    pub(super) fn corrupt(&self, reason: String) -> StoreError {
        corrupt(self.step, reason)
    }

    fn value(&mut self) -> Result<Value, StoreError> {
        self.rest.next().ok_or_else(|| corrupt(self.step, "the answer is too short".to_owned()))
    }
}

pub(super) fn corrupt(step: &'static str, reason: String) -> StoreError {
    StoreError::Corrupt { step, reason }
}
