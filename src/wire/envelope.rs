//! Dead letters: a message that came to nothing, with everything needed to understand it and to send it again.
//!
//! ```text
//! {"v": 1, "id": "t", "workflow": null, "protocol": "python/v1", "method": "execute", "failure": {...},
//!  "history": [...], "worker": "...", "provider": "...", "died_at": "...", "queue": "gleitzeit.tasks.python.v1",
//!  "original": {"body": {...}, "properties": {"message_id": "t", "headers": {...}}}}
//! ```
//! The original body stands as JSON where it is JSON, else as `body_text`, else as `body_base64`. A body beyond
//! [`ORIGINAL_BYTES_MAX`] is cut, with `body_bytes` telling its real size. `output` (the end of what the last
//! attempt printed) and `replays` (how often it had been run again) are there only if there is something to tell;
//! `letter` is the letter's own name.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::Id;
use crate::wire::{Properties, VERSION, newer, object};

/// The largest original body that is kept whole, in bytes: a workflow message, and above all tasks.
pub const ORIGINAL_BYTES_MAX: usize = 12 * 1024 * 1024;

/// How much of a larger one is kept.
const CUT_BYTES: usize = 64 * 1024;

/// How much of each output stream a letter keeps, in bytes: the end, where the reason stands.
pub const OUTPUT_BYTES_MAX: usize = 4 * 1024;

/// Says of a message that was sent again from a dead letter how often it was: the store knows nothing of it.
pub const HEADER_REPLAYS: &str = "gleitzeit-replays";

/// A dead letter.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// This letter's own name: two deaths of the same content in the same moment are two letters. `None` in what
    /// older versions wrote.
    pub letter: Option<Id>,
    /// The task or workflow, if that could be read.
    pub id: Option<Id>,
    /// The workflow that the task belonged to.
    pub workflow: Option<Id>,
    /// As far as it could be read.
    pub protocol: Option<String>,
    /// As far as it could be read.
    pub method: Option<String>,
    /// Why it died.
    pub failure: Failure,
    /// One object per attempt, oldest first.
    pub history: Vec<Value>,
    /// The worker session that gave up.
    pub worker: Option<String>,
    /// Who ran the last attempt.
    pub provider: Option<String>,
    /// The end of what the last attempt printed.
    pub output: Output,
    /// How often it had been run again by hand before it died, by what its history still tells ([`replays`]).
    pub replays: u32,
    /// When.
    pub died_at: Timestamp,
    /// The queue that it came from.
    pub queue: String,
    /// The message.
    pub original: Original,
}

/// The end of what an attempt printed, at most [`OUTPUT_BYTES_MAX`] of each stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Of its standard output; empty if there was none.
    pub stdout: String,
    /// Of its standard error; empty if there was none.
    pub stderr: String,
}

impl Output {
    /// What a failure tells of it, in its details.
    #[must_use]
    pub fn of(failure: &Failure) -> Output {
        let tail = |key: &str| tail(failure.details.get(key).and_then(Value::as_str).unwrap_or_default());
        Output { stdout: tail("stdout"), stderr: tail("stderr") }
    }

    /// Whether nothing was printed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stdout.is_empty() && self.stderr.is_empty()
    }
}

/// How often a task was run again by hand, by its history: attempts count from 1 in every run, and a run that
/// was ended before its first attempt is told as attempt 0. The store keeps the last 100 entries, so of a task
/// that was run again very often it is a lower bound.
#[must_use]
pub fn replays(history: &[Value]) -> u32 {
    let mut replays = 0;
    let mut before = None;
    for entry in history {
        let attempt = entry.get("attempt").and_then(Value::as_u64).unwrap_or_default();
        if before.is_some_and(|before| before == 0 || attempt <= before) {
            replays += 1;
        }
        before = Some(attempt);
    }
    replays
}

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// Its body; only the beginning if `bytes` is more.
    pub body: Bytes,
    /// The size that the body had.
    pub bytes: usize,
    /// What came beside it.
    pub properties: Properties,
}

impl Original {
    /// A message, cut if it is too large to be kept.
    #[must_use]
    pub fn new(body: Bytes, properties: Properties) -> Original {
        let bytes = body.len();
        let body = if bytes > ORIGINAL_BYTES_MAX { body.slice(..CUT_BYTES) } else { body };
        Original { body, bytes, properties }
    }

    /// The same, cut to what always fits.
    #[must_use]
    pub fn cut(self) -> Original {
        let end = self.body.len().min(CUT_BYTES);
        Original { body: self.body.slice(..end), ..self }
    }

    /// Whether the message can be sent again as it was.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.body.len() == self.bytes
    }
}

impl Envelope {
    /// The body of the dead letter's message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let id = |id: &Option<Id>| id.as_ref().map(Id::as_str).map_or(Value::Null, Value::from);
        let mut members = json!({
            "v": VERSION,
            "id": id(&self.id),
            "workflow": id(&self.workflow),
            "protocol": self.protocol,
            "method": self.method,
            "failure": self.failure,
            "history": self.history,
            "worker": self.worker,
            "provider": self.provider,
            "died_at": self.died_at,
            "queue": self.queue,
        });
        if let Some(letter) = &self.letter {
            members["letter"] = letter.as_str().into();
        }
        if !self.output.is_empty() {
            members["output"] = json!({"stdout": self.output.stdout, "stderr": self.output.stderr});
        }
        if self.replays > 0 {
            members["replays"] = self.replays.into();
        }
        // Last, so that the shape of a letter shows at its beginning.
        members["original"] = original(&self.original);
        Bytes::from(members.to_string())
    }

    /// Reads a dead letter.
    ///
    /// # Errors
    /// `PARSE_ERROR` or `PROTOCOL_VERSION_MISMATCH` if it is none that this version knows.
    pub fn decode(body: &[u8]) -> Result<Envelope, Failure> {
        let members = object(body, "the dead letter")?;
        if let Some(v) = newer(&members) {
            let message = format!("the dead letter is of version {v}, at most {VERSION} is known here");
            return Err(Failure::new(Code::ProtocolVersionMismatch, message));
        }
        let wrong = |key: &str| {
            Failure::new(Code::ParseError, format!("the dead letter has no {key} that can be read"))
        };
        let text = |key: &str| members.get(key).and_then(Value::as_str);
        let id = |key: &str| text(key).and_then(|id| Id::parse(id).ok());
        let owned = |key: &str| text(key).map(str::to_owned);
        let history = members.get("history").and_then(Value::as_array).cloned();
        let output = |key: &str| {
            let text = members.get("output").and_then(|output| output.get(key)).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let replays = members.get("replays").and_then(Value::as_u64).unwrap_or_default();
        Ok(Envelope {
            letter: id("letter"),
            id: id("id"),
            workflow: id("workflow"),
            protocol: owned("protocol"),
            method: owned("method"),
            failure: members.get("failure").and_then(Failure::from_json).ok_or_else(|| wrong("failure"))?,
            history: history.unwrap_or_default(),
            worker: owned("worker"),
            provider: owned("provider"),
            output: Output { stdout: output("stdout"), stderr: output("stderr") },
            replays: u32::try_from(replays).unwrap_or(u32::MAX),
            died_at: text("died_at").and_then(|text| text.parse().ok()).ok_or_else(|| wrong("died_at"))?,
            queue: owned("queue").ok_or_else(|| wrong("queue"))?,
            original: members.get("original").and_then(read_original).ok_or_else(|| wrong("original"))?,
        })
    }
}

/// The end of a text, at a character's border.
fn tail(text: &str) -> String {
    let mut start = text.len().saturating_sub(OUTPUT_BYTES_MAX);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

fn original(original: &Original) -> Value {
    let mut members = Map::new();
    match (serde_json::from_slice::<Value>(&original.body), std::str::from_utf8(&original.body)) {
        // Only what comes out again byte by byte is kept as JSON: replaying must not change a message.
        (Ok(value), Ok(text)) if serde_json::to_string(&value).is_ok_and(|written| written == text) => {
            members.insert("body".to_owned(), value);
        }
        (_, Ok(text)) => _ = members.insert("body_text".to_owned(), text.into()),
        (_, Err(_)) => {
            members.insert("body_base64".to_owned(), STANDARD.encode(&original.body).into());
        }
    }
    if !original.is_whole() {
        members.insert("body_bytes".to_owned(), original.bytes.into());
    }
    members.insert("properties".to_owned(), properties(&original.properties));
    Value::Object(members)
}

fn read_original(value: &Value) -> Option<Original> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let body = match (value.get("body"), text("body_text"), text("body_base64")) {
        (Some(body), _, _) => body.to_string().into_bytes(),
        (None, Some(text), _) => text.as_bytes().to_vec(),
        (None, None, Some(encoded)) => STANDARD.decode(encoded).ok()?,
        (None, None, None) => return None,
    };
    let bytes = value.get("body_bytes").and_then(Value::as_u64).and_then(|bytes| usize::try_from(bytes).ok());
    Some(Original {
        bytes: bytes.unwrap_or(body.len()),
        body: body.into(),
        properties: value.get("properties").map(read_properties).unwrap_or_default(),
    })
}

fn properties(properties: &Properties) -> Value {
    let mut members = Map::new();
    let mut put = |key: &str, value: Value| {
        if !value.is_null() {
            members.insert(key.to_owned(), value);
        }
    };
    put("message_id", json!(properties.message_id));
    put("priority", json!(properties.priority));
    put("correlation_id", json!(properties.correlation_id));
    put("reply_to", json!(properties.reply_to));
    let headers = properties.all_headers();
    put("headers", if headers.is_empty() { Value::Null } else { headers.into() });
    Value::Object(members)
}

fn read_properties(value: &Value) -> Properties {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut properties = Properties {
        message_id: text("message_id"),
        priority: value
            .get("priority")
            .and_then(Value::as_u64)
            .and_then(|priority| u8::try_from(priority).ok()),
        correlation_id: text("correlation_id"),
        reply_to: text("reply_to"),
        ..Properties::default()
    };
    if let Some(headers) = value.get("headers").and_then(Value::as_object) {
        properties.set_all_headers(headers.clone());
    }
    properties
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn envelope(body: &[u8]) -> Envelope {
        let properties = Properties {
            message_id: Some("t".to_owned()),
            priority: Some(3),
            headers: [("traceparent".to_owned(), "00-x".to_owned())].into(),
            ..Properties::default()
        };
        Envelope {
            letter: Id::parse("l").ok(),
            id: Id::parse("t").ok(),
            workflow: None,
            protocol: Some("python/v1".to_owned()),
            method: None,
            failure: Failure::new(Code::ParseError, "not JSON").with("at", 7),
            history: vec![json!({"attempt": 1})],
            worker: Some("s".to_owned()),
            provider: None,
            output: Output { stdout: String::new(), stderr: "Traceback".to_owned() },
            replays: 2,
            died_at: Timestamp::from_millis(1_767_323_045_678),
            queue: "gleitzeit.tasks.python.v1".to_owned(),
            original: Original::new(Bytes::copy_from_slice(body), properties),
        }
    }

    #[test]
    fn a_body_stands_as_readable_as_it_can() {
        let check = |body: &[u8], key: &str, expected: Value| {
            let letter = envelope(body);
            let value: Value = serde_json::from_slice(&letter.encode()).expect("JSON");
            assert_eq!(value["original"][key], expected);
            assert_eq!(Envelope::decode(&letter.encode()), Ok(letter));
        };
        check(br#"{"n":1.50}"#, "body", serde_json::from_str(r#"{"n":1.50}"#).expect("JSON"));
        check(br#"{ "n": 1 }"#, "body_text", json!(r#"{ "n": 1 }"#));
        check(b"{broken", "body_text", json!("{broken"));
        check(b"\xff\x00", "body_base64", json!("/wA="));
        check(b"", "body_text", json!(""));
    }

    #[test]
    fn a_huge_body_is_cut_and_says_so() {
        let letter = envelope(&vec![b'x'; ORIGINAL_BYTES_MAX + 1]);
        assert!(!letter.original.is_whole());
        let again = Envelope::decode(&letter.encode()).expect("a letter");
        assert_eq!((again.original.body.len(), again.original.bytes), (CUT_BYTES, ORIGINAL_BYTES_MAX + 1));
    }

    #[test]
    fn the_end_of_the_output_is_kept() {
        let long = format!("{}é{}", "x".repeat(10), "y".repeat(OUTPUT_BYTES_MAX - 1));
        let failure = Failure::new(Code::TaskExecutionFailed, "x").with("stdout", long).with("stderr", "err");
        let output = Output::of(&failure);
        assert_eq!((output.stdout, output.stderr), ("y".repeat(OUTPUT_BYTES_MAX - 1), "err".to_owned()));
        assert!(Output::of(&Failure::new(Code::ParseError, "x")).is_empty());
    }

    #[test]
    fn runs_are_counted_by_their_attempts() {
        let check = |attempts: &[u64], expected: u32| {
            let history: Vec<Value> = attempts.iter().map(|n| json!({"attempt": n})).collect();
            assert_eq!(replays(&history), expected, "{attempts:?}");
        };
        check(&[], 0);
        check(&[1, 2, 3], 0);
        check(&[1, 2, 3, 1, 2, 3, 1], 2);
        check(&[0, 1, 2], 1);
        check(&[0, 0, 0], 2);
    }

    #[test]
    fn what_is_no_letter_is_refused() {
        let check = |body: &[u8], code: Code| {
            assert_eq!(Envelope::decode(body).expect_err("refused").code, code);
        };
        check(b"x", Code::ParseError);
        check(b"{}", Code::ParseError);
        check(br#"{"v": 9}"#, Code::ProtocolVersionMismatch);
    }

    proptest! {
        #[test]
        fn any_body_comes_out_as_it_was(
            body in prop_oneof![prop::collection::vec(any::<u8>(), 0..64), ".{0,64}".prop_map(String::into_bytes)]
        ) {
            let letter = envelope(&body);
            prop_assert_eq!(Envelope::decode(&letter.encode()), Ok(letter));
        }
    }
}
