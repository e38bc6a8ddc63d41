//! What comes beside a message's body, whatever the broker.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

use crate::core::clock::Timestamp;
use crate::core::id::TaskKey;

/// Names the workflow that a task belongs to, for an embedded run that executes only its own.
pub const HEADER_ROOT: &str = "gleitzeit-root";

/// The run that a task's message is of, where it is not the first. It goes on to the messages of later attempts.
pub const HEADER_RUN: &str = "gleitzeit-run";

/// When a task's message was ready to be taken, in milliseconds since 1970: from then on it waits. Whoever publishes one
/// may say so; without it nobody knows how long it has waited.
pub const HEADER_READY: &str = "gleitzeit-ready";

/// The properties of a message. They fill in what the body lacks; AMQP has them under the same names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Properties {
    /// The task's or workflow's id, if the body has none.
    pub message_id: Option<String>,
    /// 0 to 9, if the body has no priority.
    pub priority: Option<u8>,
    /// What the requester wants to find in the reply.
    pub correlation_id: Option<String>,
    /// Where the requester wants the reply.
    pub reply_to: Option<String>,
    /// Text headers; `traceparent` counts.
    pub headers: BTreeMap<String, String>,
    /// The headers that are no text: numbers and booleans. They are handed on and not read.
    pub other_headers: BTreeMap<String, Value>,
}

impl Properties {
    /// Every header by its name.
    #[must_use]
    pub fn all_headers(&self) -> Map<String, Value> {
        let texts = self.headers.iter().map(|(name, text)| (name.clone(), text.as_str().into()));
        let others = self.other_headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        // Ours are text, and count.
        others.chain(texts).collect()
    }

    /// Takes each header for what it is; what could be nested is left out.
    pub fn set_all_headers(&mut self, headers: Map<String, Value>) {
        for (name, value) in headers {
            match value {
                Value::String(text) => _ = self.headers.insert(name, text),
                Value::Bool(_) | Value::Number(_) => _ = self.other_headers.insert(name, value),
                Value::Null | Value::Array(_) | Value::Object(_) => {}
            }
        }
    }

    /// When the message was ready, as far as it says so.
    #[must_use]
    pub fn ready_at(&self) -> Option<Timestamp> {
        self.headers.get(HEADER_READY)?.parse().ok().map(Timestamp::from_millis)
    }

    /// Says when the message is ready.
    pub fn set_ready(&mut self, at: Timestamp) {
        self.headers.insert(HEADER_READY.to_owned(), at.as_millis().to_string());
    }

    /// What goes beside the message of a task that a store has released in this run.
    #[must_use]
    pub fn of_released(key: &TaskKey, priority: u8, run: u32) -> Properties {
        let mut properties = Properties {
            message_id: Some(key.id().to_string()),
            priority: Some(priority),
            ..Properties::default()
        };
        if let Some(workflow) = key.workflow() {
            properties.headers.insert(HEADER_ROOT.to_owned(), workflow.to_string());
        }
        if run > 1 {
            properties.headers.insert(HEADER_RUN.to_owned(), run.to_string());
        }
        properties
    }
}
