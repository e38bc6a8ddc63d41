//! JSON values out of an answer that comes in pieces. An object is a line, but who writes for people may need several:
//! each byte is looked at once to find where a value ends, and read once.

use serde_json::Value;

/// What has come of an answer.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    come: Vec<u8>,
    /// Where the value begins that is open.
    begin: usize,
    /// Up to where was looked.
    seen: usize,
    /// How many objects and lists are open.
    depth: usize,
    is_in_text: bool,
    is_escaped: bool,
}

impl Pieces {
    /// Adds what has come.
    pub(super) fn push(&mut self, json: &[u8]) {
        self.come.extend_from_slice(json);
    }

    /// The next value that is whole. `None`: there is none until more comes.
    ///
    /// # Errors
    /// It is no JSON.
    pub(super) fn next(&mut self) -> Option<serde_json::Result<Value>> {
        while let Some(byte) = self.come.get(self.seen).copied() {
            self.seen += 1;
            if self.ends(byte) {
                let value = serde_json::from_slice(&self.come[self.begin..self.seen]);
                self.begin = self.seen;
                return Some(value);
            }
            if self.depth > 0 {
                continue;
            }
            if byte.is_ascii_whitespace() {
                self.begin = self.seen;
                continue;
            }
            // Neither an object nor a list: whatever it is, it is no answer.
            let rest = self.come.split_off(self.begin);
            *self = Pieces::default();
            return Some(serde_json::from_slice(&rest));
        }
        self.come.drain(..self.begin);
        (self.seen, self.begin) = (self.come.len(), 0);
        None
    }

    /// Whether every value that has begun is whole.
    pub(super) fn is_empty(&self) -> bool {
        self.come.is_empty()
    }

    /// What is wrong with the value that is open, if not only that it ends too early.
    pub(super) fn fault(&self) -> Option<serde_json::Error> {
        serde_json::from_slice::<Value>(&self.come).err().filter(|error| !error.is_eof())
    }

    /// Whether the value ends with this byte.
    fn ends(&mut self, byte: u8) -> bool {
        if self.is_in_text {
            self.is_in_text = byte != b'"' || self.is_escaped;
            self.is_escaped = byte == b'\\' && !self.is_escaped;
            return false;
        }
        match byte {
            b'"' => self.is_in_text = self.depth > 0,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' if self.depth > 0 => {
                self.depth -= 1;
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What comes of a text in pieces of this length.
    fn read(text: &str, length: usize) -> (Vec<Value>, Pieces) {
        let (mut pieces, mut read) = (Pieces::default(), Vec::new());
        for part in text.as_bytes().chunks(length) {
            pieces.push(part);
            while let Some(value) = pieces.next() {
                read.push(value.expect("JSON"));
            }
        }
        (read, pieces)
    }

    #[test]
    fn values_are_found_wherever_the_pieces_end() {
        let text = r#" {"a": "}{\\", "b": ["\"]", {}]} [1, 2]{"c":{}}
            {"open": ["#;
        for length in 1..=text.len() {
            let (values, pieces) = read(text, length);
            assert_eq!(
                values,
                [json!({"a": "}{\\", "b": ["\"]", {}]}), json!([1, 2]), json!({"c": {}})],
                "{length}"
            );
            assert!(!pieces.is_empty() && pieces.fault().is_none(), "{length}");
        }
        assert!(read("{} \n\t", 1).1.is_empty());
    }

    #[test]
    fn what_is_no_value_is_told() {
        for text in ["<html>", "}", "tru", "{\"a\": nonsense}", "{]"] {
            let mut pieces = Pieces::default();
            pieces.push(text.as_bytes());
            assert!(pieces.next().is_some_and(|value| value.is_err()), "{text}");
        }
        let mut pieces = Pieces::default();
        pieces.push(b"{\"a\": nonsense");
        assert!(pieces.next().is_none() && pieces.fault().is_some());
    }
}
