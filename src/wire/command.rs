//! Commands: messages to the workflows queue that change what is already there.
//!
//! A command is a message, so that it is not lost with whoever sent it; repeating it is harmless.
//!
//! ```text
//! {"type": "cancel", "id": "w1", "by": "0192..."}
//! {"type": "retry", "id": "w1", "by": "0192..."}
//! {"type": "timeout", "id": "w1", "run": 1}          ours: sent with the workflow's timeout as its delay
//! ```

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::schedule;
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
        /// Names this request, so that a redelivery ends nothing of a later run; `None` if its sender did not.
        by: Option<Id>,
    },
    /// Runs what did not complete of an ended task or workflow again, and what depends on that.
    Retry {
        /// The task or workflow.
        id: Id,
        /// Names this request, so that a redelivery is known as one; `None` until the first worker names it.
        by: Option<Id>,
    },
    /// The workflow's time is over.
    Timeout {
        /// The workflow.
        id: Id,
        /// The run that it is for, from 1; each retry begins a new one.
        run: u32,
    },
}

impl Command {
    /// The types of messages that are commands.
    pub const TYPES: [&'static str; 3] = ["cancel", "retry", "timeout"];

    /// The body of the command's message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let body = match self {
            Command::Cancel { id, by: Some(by) } => json!({"type": "cancel", "id": id, "by": by}),
            Command::Cancel { id, by: None } => json!({"type": "cancel", "id": id}),
            Command::Retry { id, by: Some(by) } => json!({"type": "retry", "id": id, "by": by}),
            Command::Retry { id, by: None } => json!({"type": "retry", "id": id}),
            Command::Timeout { id, run } => json!({"type": "timeout", "id": id, "run": run}),
        };
        Bytes::from(body.to_string())
    }

    /// What the command is about.
    #[must_use]
    pub fn id(&self) -> &Id {
        match self {
            Command::Cancel { id, .. } | Command::Retry { id, .. } | Command::Timeout { id, .. } => id,
        }
    }

    /// Reads the members of a command's message. A command is acted on as a whole or not at all, so unlike
    /// in a task an unknown key is refused.
    pub(super) fn read(kind: &str, members: &Map<String, Value>) -> Result<Command, Failure> {
        let own: &[&str] = match kind {
            "cancel" | "retry" => &["by"],
            "timeout" => &["run"],
            _ => return Err(unknown(kind)),
        };
        let mut reading = Reading::default();
        for key in members.keys().map(String::as_str) {
            if !["type", "v", "id"].contains(&key) && !own.contains(&key) {
                let known = ["type", "v", "id"].iter().chain(own).copied().collect::<Vec<_>>().join(", ");
                reading.refuse(&Path::Root(key), "is not known", known);
            }
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
        let by = members.get("by").and_then(|value| reading.id(&Path::Root("by"), value));
        let run = members.get("run").and_then(Value::as_u64).and_then(|run| u32::try_from(run).ok());
        if kind == "timeout" && run.is_none() {
            reading.refuse(
                &Path::Root("run"),
                "is missing or no number",
                "which run of the workflow, from 1",
            );
        }
        let violations = reading.violations.into_vec();
        match (kind, id, run) {
            (_, _, _) if !violations.is_empty() => {}
            ("cancel", Some(id), _) => return Ok(Command::Cancel { id, by }),
            ("retry", Some(id), _) => return Ok(Command::Retry { id, by }),
            ("timeout", Some(id), Some(run)) => return Ok(Command::Timeout { id, run }),
            (_, _, _) => {}
        }
        Err(reading::failure(Code::InvalidRequest, "the command", &violations))
    }
}

fn unknown(kind: &str) -> Failure {
    let shown: String = kind.chars().take(64).collect();
    let hint = did_you_mean(kind, Command::TYPES.into_iter().chain(schedule::TYPES).chain(["workflow"]));
    let known = [Command::TYPES.as_slice(), schedule::TYPES.as_slice()].concat().join(", ");
    let message = format!("unknown message type {shown:?}{hint}; known: workflow, {known}");
    Failure::new(Code::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_read_back_what_they_wrote() {
        let id = |text| Id::parse(text).expect("valid");
        for command in [
            Command::Cancel { id: id("w"), by: None },
            Command::Cancel { id: id("w"), by: Some(id("c")) },
            Command::Retry { id: id("w"), by: None },
            Command::Retry { id: id("w"), by: Some(id("r")) },
            Command::Timeout { id: id("w"), run: 2 },
        ] {
            let members: Map<String, Value> = serde_json::from_slice(&command.encode()).expect("JSON");
            let kind = members["type"].as_str().expect("text").to_owned();
            assert_eq!(Command::read(&kind, &members), Ok(command));
        }
    }

    #[test]
    fn a_command_with_something_unknown_or_missing_is_refused_whole() {
        let read = |value: Value| {
            let members = value.as_object().expect("an object").clone();
            let kind = members["type"].as_str().expect("text").to_owned();
            Command::read(&kind, &members).expect_err("refused").message
        };
        assert!(read(json!({"type": "retry", "id": "w", "force": true})).contains("force"));
        assert!(read(json!({"type": "cancel", "id": "w", "force": true})).contains("force"));
        assert!(read(json!({"type": "cancel", "id": "w", "by": "a b"})).contains("by"));
        assert!(read(json!({"type": "timeout", "id": "w"})).contains("run"));
        assert!(read(json!({"type": "timeout", "id": "w", "run": -1})).contains("run"));
    }
}
