//! Commands: messages to the workflows queue that change what is already there.
//!
//! A command is a message, so that it is not lost with whoever sent it; repeating it is harmless.
//!
//! ```text
//! {"type": "cancel", "id": "w1"}
//! ```

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::Id;
use crate::core::near::did_you_mean;
use crate::core::reading::{self, Reading};
use crate::core::violation::Path;

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Ends a task on its own, or a workflow with all its open tasks.
    Cancel {
        /// The task or workflow.
        id: Id,
    },
}

impl Command {
    /// The types of messages that are commands.
    pub const TYPES: [&'static str; 1] = ["cancel"];

    /// The body of the command's message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let body = match self {
            Command::Cancel { id } => json!({"type": "cancel", "id": id.as_str()}),
        };
        Bytes::from(body.to_string())
    }

    /// What the command is about.
    #[must_use]
    pub fn id(&self) -> &Id {
        match self {
            Command::Cancel { id } => id,
        }
    }

    /// Reads the members of a command's message. A command is acted on as a whole or not at all, so unlike
    /// in a task an unknown key is refused.
    pub(super) fn read(kind: &str, members: &Map<String, Value>) -> Result<Command, Failure> {
        if !Command::TYPES.contains(&kind) {
            let shown: String = kind.chars().take(64).collect();
            let hint = did_you_mean(kind, Command::TYPES.into_iter().chain(["workflow"]));
            let known = Command::TYPES.join(", ");
            let message = format!("unknown message type {shown:?}{hint}; known: workflow, {known}");
            return Err(Failure::new(Code::InvalidRequest, message));
        }
        let mut reading = Reading::default();
        for key in members.keys().filter(|key| !["type", "v", "id"].contains(&key.as_str())) {
            reading.refuse(&Path::Root(key), "is not known", "type, v and id");
        }
        let id = match members.get("id") {
            Some(value) => reading.id(&Path::Root("id"), value),
            None => {
                reading.refuse(&Path::Root("id"), "is missing", "the id of a task or workflow");
                None
            }
        };
        if let Some(v) = members.get("v") {
            super::check_version(v, &mut reading);
        }
        let violations = reading.violations.into_vec();
        match id {
            Some(id) if violations.is_empty() => Ok(Command::Cancel { id }),
            Some(_) | None => Err(reading::failure(Code::InvalidRequest, "the command", &violations)),
        }
    }
}
