//! Task messages: what a producer publishes to a protocol's queue.
//!
//! ```text
//! {"method": "execute", "params": {"code": "6 * 7"}}                     the smallest one
//! {"id": "t1", "protocol": "python/v1", "method": "execute", "params": {...}, "priority": "high",
//!  "timeout": 30, "retry": {"max_attempts": 3}, "reply": {"to": "...", "correlation_id": "..."}}
//! ```
//! - What the body lacks comes from the properties (id, priority, reply, trace) and the queue (protocol).
//! - Null is the same as absent. Unknown keys travel untouched, with a warning.
//! - A version that is newer than ours is an outcome of its own: somebody else may know it.
//! - A body that is refused still says, where it can be read, which task it was and who waits for the answer.
//!
//! A task of a workflow has `workflow`, and `inputs`: from each name that its references use to the id of the
//! task meant, so that a worker fetches exactly these results and need not know the workflow. What else only
//! such a task has is in `references.rs`.

mod decode;
mod encode;
mod references;

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crate::core::id::{Id, TaskKey};
use crate::core::priority::Priority;
use crate::core::reading::Reading;
use crate::core::task::{KEY_CHARACTERS_MAX, Spec};
use crate::wire::record::Head;

pub use decode::{Decoded, Refused, decode};
pub use encode::encode;

pub(super) use decode::{reply, reply_from, trace};
pub(super) use encode::seconds;

/// The largest task message, in bytes.
pub const TASK_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The largest task message that was published again: what its properties said is in its body then, and its
/// id, attempt and protocol.
const REPUBLISHED_BYTES_MAX: usize = TASK_BYTES_MAX + 4 * 1024;

/// The most that references may bring into the parameters of one task, in bytes.
pub const INPUT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A task message.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id; `None` in a foreign message until the first worker gives it one.
    pub id: Option<Id>,
    /// The workflow that it belongs to; then it has an id.
    pub workflow: Option<Id>,
    /// What is to be run, and how.
    pub spec: Spec,
    /// From the names in references to the ids of the tasks meant.
    pub inputs: BTreeMap<String, Id>,
    /// What references to these tasks' results see when they did not complete.
    pub substitutes: BTreeMap<Id, Value>,
    /// An expression on results; the task is skipped where it does not hold.
    pub when: Option<String>,
    /// A list, or a reference to one: the task stands for one task per item.
    pub for_each: Option<Value>,
    /// How many of its items may run at once.
    pub max_parallel: Option<NonZeroU32>,
    /// The item that the task is for, if it is one of those that a `for_each` made.
    pub item: Option<Item>,
    /// The attempt that the message is for, from 1.
    pub attempt: u32,
    /// Who waits for the result: the task's own, or the workflow's if it belongs to one.
    pub reply: Option<Reply>,
    /// The W3C trace context.
    pub traceparent: Option<String>,
    /// Keys that this version does not know, untouched.
    pub extra: Map<String, Value>,
    /// What the reader of the result should know; not part of the message.
    pub warnings: Vec<String>,
}

/// What one of the tasks of a `for_each` is for.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The value: `${item}`.
    pub value: Value,
    /// Its position in the list, from 0: `${index}`.
    pub index: u64,
}

/// Who waits for a result document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The queue.
    pub to: String,
    /// What the reply is to carry.
    pub correlation_id: Option<String>,
}

impl Reply {
    /// As the store keeps it for a workflow.
    #[must_use]
    pub fn encode(&self) -> String {
        encode::reply(self).to_string()
    }

    /// Reads what [`Reply::encode`] wrote.
    #[must_use]
    pub fn decode(text: &str) -> Option<Reply> {
        let value = serde_json::from_str(text).ok()?;
        decode::reply(value, &mut Reading::default())
    }
}

/// The fairness key in a task's body, without reading the rest; `None` where there is none that a worker would take.
#[must_use]
pub fn fairness_key(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Said<'a> {
        #[serde(borrow, default)]
        fairness_key: Option<std::borrow::Cow<'a, str>>,
    }
    let key = serde_json::from_slice::<Said<'_>>(body).ok()?.fairness_key?;
    (1..=KEY_CHARACTERS_MAX).contains(&key.chars().count()).then(|| key.into_owned())
}

/// Stands for what a task with an idempotency key asks for, so that another task under the same key is
/// noticed; `None` without a key, and for later attempts. The same request has the same digest whoever waits
/// for it.
#[must_use]
pub fn digest(task: &Task) -> Option<String> {
    task.spec.idempotency_key.as_ref().filter(|_| task.attempt == 1)?;
    let mut request = Task { id: None, reply: None, traceparent: None, ..task.clone() };
    // The message's properties may say it instead of the body.
    request.spec.priority = None;
    Some(crate::core::id::digest(&encode(&request)))
}

impl Task {
    /// A task on its own.
    #[must_use]
    pub fn new(id: Option<Id>, spec: Spec) -> Task {
        Task {
            id,
            workflow: None,
            spec,
            inputs: BTreeMap::new(),
            substitutes: BTreeMap::new(),
            when: None,
            for_each: None,
            max_parallel: None,
            item: None,
            attempt: 1,
            reply: None,
            traceparent: None,
            extra: Map::new(),
            warnings: Vec::new(),
        }
    }

    /// Where the task lives; `None` while it has no id.
    #[must_use]
    pub fn key(&self) -> Option<TaskKey> {
        let id = self.id.clone()?;
        Some(match &self.workflow {
            Some(workflow) => TaskKey::within(workflow.clone(), id),
            None => TaskKey::alone(id),
        })
    }

    /// The beginning of the task's document; `None` while it has no id.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        let key = self.key()?;
        let name = self.spec.name.clone().unwrap_or_else(|| key.id().to_string());
        let protocol = self.spec.protocol.to_string();
        Some(Head { key, name, protocol, method: self.spec.method.clone() })
    }

    /// The priority for the broker, if the task has one.
    #[must_use]
    pub fn priority(&self) -> Option<u8> {
        self.spec.priority.map(Priority::number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fairness_key_is_found_wherever_it_stands_and_only_where_it_counts() {
        let key = |body: &str| fairness_key(body.as_bytes());
        assert_eq!(
            key(r#"{"method":"ping","params":{"fairness_key":"no"},"fairness_key":"a\u00fc"}"#),
            Some("aü".into())
        );
        let long = format!(r#"{{"fairness_key":"{}"}}"#, "x".repeat(KEY_CHARACTERS_MAX + 1));
        for none in ["", "1", "{", "[]", "{}", r#"{"fairness_key":null}"#, r#"{"fairness_key":7}"#, &long] {
            assert_eq!(key(none), None, "{none}");
        }
        assert_eq!(key(r#"{"fairness_key":""}"#), None);
    }
}
