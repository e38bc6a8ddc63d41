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
//! task meant, so that a worker fetches exactly these results and need not know the workflow.

mod decode;
mod encode;

use serde_json::{Map, Value};
use std::collections::BTreeMap;

use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::core::priority::Priority;
use crate::core::task::Spec;
use crate::core::template::{self, Reference, Unresolved, references};
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

/// Who waits for a result document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The queue.
    pub to: String,
    /// What the reply is to carry.
    pub correlation_id: Option<String>,
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

    /// The tasks whose results the parameters need, each once.
    #[must_use]
    pub fn needs(&self) -> Vec<Id> {
        let mut ids: Vec<Id> = self.inputs.values().cloned().collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// The parameters with every reference replaced. `document` gives the result document of a needed task.
    /// Outside a workflow there is nothing to refer to, and the parameters are what they are.
    ///
    /// # Errors
    /// `TASK_PARAMETER_ERROR` names every reference that cannot be replaced, and why; one that stands in code
    /// among them, since not every message comes from a workflow that was checked.
    pub fn fill<'a>(&self, document: impl Fn(&Id) -> Option<&'a Value>) -> Result<Value, Failure> {
        if self.workflow.is_none() {
            return Ok(self.spec.params.clone());
        }
        let in_code: Vec<Unresolved> = references(&self.spec.params, "params")
            .into_iter()
            .filter(|reference| self.spec.is_code(&reference.at))
            .map(|Reference { text, at, .. }| Unresolved { text, at, reason: "it stands in code".to_owned() })
            .collect();
        if !in_code.is_empty() {
            return Err(template::failure(&in_code));
        }
        let by_name = |name: &str| self.inputs.get(name).and_then(&document);
        template::fill(self.spec.params.clone(), "params", &by_name, INPUT_BYTES_MAX)
            .map_err(|unresolved| template::failure(&unresolved))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::code::Code;

    fn task(params: Value) -> Task {
        let id = |text| Id::parse(text).expect("valid");
        let mut task =
            Task::new(Some(id("t")), Spec::new("python/v1".parse().expect("valid"), "execute", params));
        task.workflow = Some(id("w"));
        task.inputs = [("Load Data".to_owned(), id("load")), ("load".to_owned(), id("load"))].into();
        task
    }

    #[test]
    fn references_are_filled_by_the_names_that_they_use() {
        let document = json!({"id": "load", "result": {"result": [1, 2]}});
        let task =
            task(json!({"code": "context", "context": ["${Load Data}", "${load.result[1]}", "$${load}"]}));
        assert_eq!(task.needs().len(), 1);
        let filled = task.fill(|id| (id.as_str() == "load").then_some(&document));
        assert_eq!(filled, Ok(json!({"code": "context", "context": [[1, 2], 2, "${load}"]})));
    }

    #[test]
    fn nothing_is_filled_into_code_or_outside_a_workflow() {
        let document = json!({"result": "import os"});
        for params in [json!({"code": "${load}"}), json!(["${load}"])] {
            let failure = task(params).fill(|_| Some(&document)).expect_err("refused");
            assert_eq!(failure.code, Code::TaskParameterError);
            assert!(failure.message.contains("it stands in code"), "{failure}");
        }
        let mut alone = task(json!({"code": "f'${price}'", "context": "$${x}"}));
        alone.workflow = None;
        assert_eq!(alone.fill(|_| Some(&document)), Ok(alone.spec.params.clone()));
    }
}
