//! Identifiers: of tasks, workflows and worker sessions.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// The longest id, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// An id of a task, a workflow or a worker session: `[A-Za-z0-9_-][A-Za-z0-9._:-]{0,127}`.
///
/// The alphabet is small so that an id can stand in a Redis key, a routing key, a file name and a shell
/// command as it is. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Id(Arc<str>);

/// A text that is not an [`Id`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("id {text:?} is not valid: {reason}")]
pub struct InvalidId {
    text: String,
    reason: &'static str,
}

impl Id {
    /// Checks `text` against the alphabet and the length.
    ///
    /// # Errors
    /// [`InvalidId`] names the text and what is wrong with it.
    pub fn parse(text: &str) -> Result<Id, InvalidId> {
        let wrong = |reason| {
            let shown: String = text.chars().take(ID_BYTES_MAX).collect();
            Err(InvalidId { text: shown, reason })
        };
        let Some(first) = text.bytes().next() else { return wrong("it is empty") };
        if text.len() > ID_BYTES_MAX {
            return wrong("it is longer than 128 characters");
        }
        if !(first.is_ascii_alphanumeric() || first == b'_' || first == b'-') {
            return wrong("it must start with a letter, a digit, '_' or '-'");
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte)) {
            return wrong("only letters, digits and . _ : - are allowed");
        }
        Ok(Id(text.into()))
    }

    /// An id from a UUID, version 7 for new ones so that ids sort by time.
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Id {
        Id(uuid.hyphenated().to_string().into())
    }

    /// The id that belongs to an idempotency key: the same key always gives the same id (UUIDv5).
    #[must_use]
    pub fn from_idempotency_key(key: &str) -> Id {
        let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, b"gleitzeit:idempotency");
        Id::from_uuid(Uuid::new_v5(&namespace, key.as_bytes()))
    }

    /// The id of a task that this one makes: `ID.NAME`.
    ///
    /// # Errors
    /// [`InvalidId`] if it gets too long, or the name has other characters than an id.
    pub fn child(&self, name: &str) -> Result<Id, InvalidId> {
        Id::parse(&format!("{}.{name}", self.0))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The id of what a schedule runs at a slot: the same slot always gives the same id (UUIDv5).
#[must_use]
pub fn schedule_run(name: &Id, slot: &str) -> Id {
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, b"gleitzeit:schedule");
    // A line feed is in no name, so no two pairs are the same text.
    Id::from_uuid(Uuid::new_v5(&namespace, format!("{name}\n{slot}").as_bytes()))
}

/// A short text that stands for these bytes (UUIDv5): the same bytes always have the same one. To notice
/// mistakes, not forgery.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, b"gleitzeit:digest");
    Uuid::new_v5(&namespace, bytes).simple().to_string()
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> String {
        id.0.to_string()
    }
}

impl TryFrom<String> for Id {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Id, InvalidId> {
        Id::parse(&text)
    }
}

impl std::str::FromStr for Id {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Id, InvalidId> {
        Id::parse(text)
    }
}

/// Where a task lives: on its own (`root` is its id), or in a workflow (`root` is the workflow's id).
///
/// As text `ROOT` or `ROOT/TASK`; `/` is in no id, so the text is unambiguous.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskKey {
    /// The task's own id, or its workflow's.
    pub root: Id,
    /// The task's id within the workflow; `None` for a task on its own.
    pub task: Option<Id>,
}

impl TaskKey {
    /// A task on its own.
    #[must_use]
    pub fn alone(id: Id) -> TaskKey {
        TaskKey { root: id, task: None }
    }

    /// A task of a workflow.
    #[must_use]
    pub fn within(workflow: Id, task: Id) -> TaskKey {
        TaskKey { root: workflow, task: Some(task) }
    }

    /// The task's own id.
    #[must_use]
    pub fn id(&self) -> &Id {
        self.task.as_ref().unwrap_or(&self.root)
    }

    /// The workflow that the task belongs to.
    #[must_use]
    pub fn workflow(&self) -> Option<&Id> {
        self.task.is_some().then_some(&self.root)
    }
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.task {
            Some(task) => write!(f, "{}/{task}", self.root),
            None => write!(f, "{}", self.root),
        }
    }
}

impl std::str::FromStr for TaskKey {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<TaskKey, InvalidId> {
        match text.split_once('/') {
            Some((workflow, task)) => Ok(TaskKey::within(Id::parse(workflow)?, Id::parse(task)?)),
            None => Ok(TaskKey::alone(Id::parse(text)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_kept() {
        for good in ["a", "_a", "-a", "0", "a.b:c-d_e", &"x".repeat(128)] {
            assert!(Id::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".a", ":a", "a/b", "a b", "ä", "a\0", "a{b}", &"x".repeat(129)] {
            assert!(Id::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_same_idempotency_key_gives_the_same_id() {
        assert_eq!(Id::from_idempotency_key("k"), Id::from_idempotency_key("k"));
        assert_ne!(Id::from_idempotency_key("k"), Id::from_idempotency_key("l"));
    }

    #[test]
    fn a_task_key_reads_back_what_it_wrote() {
        for text in ["w/t", "t"] {
            let key: TaskKey = text.parse().expect("valid");
            assert_eq!(key.to_string(), text);
        }
    }
}
