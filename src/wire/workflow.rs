//! Workflow messages: a whole workflow as one JSON object, with the same names as in a file.
//!
//! ```text
//! {"type": "workflow", "id": "w1", "name": "Report", "tasks": [{"id": "load", "method": ...}, ...]}
//! ```
//! It goes to the workflows queue. Beside what a file has, a message may say who waits (`reply`) and its trace
//! (`traceparent`). What it lacks comes from the properties, as for a task.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::core::protocol::{ProtocolId, Protocols};
use crate::core::reading::{self, Reading};
use crate::core::violation::Path;
use crate::core::workflow::Workflow;
use crate::wire::Properties;
use crate::wire::record::Head;
use crate::wire::task::{self, Reply, TASK_BYTES_MAX, Task};

/// A workflow message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The workflow; its id is `None` until the first worker gives it one.
    pub workflow: Workflow,
    /// Who waits for its result.
    pub reply: Option<Reply>,
    /// The W3C trace context.
    pub traceparent: Option<String>,
}

/// A task of a workflow, ready to be stored and published.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// What it is.
    pub head: Head,
    /// Whose queue it goes to.
    pub protocol: ProtocolId,
    /// 0 to 9.
    pub priority: u8,
    /// Its message.
    pub body: Bytes,
    /// The positions of the tasks that it waits for, sorted, without repeats.
    pub dependencies: Vec<usize>,
}

/// The message of the workflow with this document, which must be a mapping, as a file has it.
#[must_use]
pub fn encode(document: &Value, id: &Id) -> Bytes {
    let mut members = Map::new();
    members.insert("type".to_owned(), "workflow".into());
    members.insert("id".to_owned(), id.as_str().into());
    for (key, value) in document.as_object().into_iter().flatten() {
        if key != "type" && key != "id" {
            members.insert(key.clone(), value.clone());
        }
    }
    Bytes::from(Value::Object(members).to_string())
}

/// Reads the members of a workflow message.
pub(super) fn read(
    mut members: Map<String, Value>,
    properties: &Properties,
    protocols: &Protocols,
) -> Result<Message, Failure> {
    let mut reading = Reading::default();
    let reply = members.shift_remove("reply").filter(|value| !value.is_null());
    let reply = reply.and_then(|value| task::reply(value, &mut reading));
    let traceparent = members.shift_remove("traceparent");
    let traceparent = traceparent.as_ref().and_then(Value::as_str).map(str::to_owned);
    let mut workflow =
        Workflow::read(Value::Object(members), protocols).map_err(|refused| refused.failure())?;
    if workflow.id.is_none() {
        let value = properties.message_id.clone().map(Value::String);
        workflow.id = value.and_then(|value| reading.id(&Path::Root("message_id"), &value));
    }
    let violations = reading.violations.into_vec();
    if !violations.is_empty() {
        return Err(reading::failure(Code::WorkflowValidationFailed, "the workflow message", &violations));
    }
    workflow.warnings.extend(reading.warnings);
    Ok(Message {
        workflow,
        reply: reply.or_else(|| task::reply_from(properties)),
        traceparent: task::trace(traceparent.as_ref(), properties),
    })
}

/// The messages of all tasks of the workflow that has this id. Each names who waits for the workflow: a task
/// of a workflow has no reply of its own, and whichever ends the workflow answers.
///
/// # Errors
/// `TASK_TOO_LARGE` names every task whose message would be larger than allowed.
pub fn plan(of: &Message, id: &Id) -> Result<Vec<Planned>, Failure> {
    let workflow = &of.workflow;
    let mut planned = Vec::with_capacity(workflow.tasks.len());
    let mut too_large: Vec<String> = Vec::new();
    for (index, task) in workflow.tasks.iter().enumerate() {
        let message = message(of, id, index);
        let body = task::encode(&message);
        if body.len() > TASK_BYTES_MAX {
            too_large.push(format!("{} ({} bytes)", task.id, body.len()));
        }
        planned.push(Planned {
            head: head(&message, id, &task.id),
            protocol: task.spec.protocol.clone(),
            priority: task.spec.priority.unwrap_or_default().number(),
            body,
            dependencies: workflow.graph.parents(index).to_vec(),
        });
    }
    if too_large.is_empty() {
        return Ok(planned);
    }
    let names = too_large.join(", ");
    let message = format!("tasks with larger messages than the {TASK_BYTES_MAX} bytes allowed: {names}");
    Err(Failure::new(Code::TaskTooLarge, message).with("tasks", too_large))
}

fn message(of: &Message, id: &Id, index: usize) -> Task {
    let workflow = &of.workflow;
    let task = &workflow.tasks[index];
    let id_of = |(name, meant): &(String, usize)| (name.clone(), workflow.tasks[*meant].id.clone());
    let mut message = Task::new(Some(task.id.clone()), task.spec.clone());
    message.workflow = Some(id.clone());
    message.inputs = task.inputs.iter().map(id_of).collect();
    message.traceparent = of.traceparent.clone();
    message.reply = of.reply.clone();
    message.extra = task.extra.clone();
    message
}

fn head(message: &Task, workflow: &Id, task: &Id) -> Head {
    Head {
        key: TaskKey::within(workflow.clone(), task.clone()),
        name: message.spec.name.clone().unwrap_or_else(|| task.to_string()),
        protocol: message.spec.protocol.to_string(),
        method: message.spec.method.clone(),
    }
}
