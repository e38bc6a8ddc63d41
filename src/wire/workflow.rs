//! Workflow messages: a whole workflow as one JSON object, with the same names as in a file.
//!
//! ```text
//! {"type": "workflow", "id": "w1", "name": "Report", "tasks": [{"id": "load", "method": ...}, ...]}
//! ```
//! It goes to the workflows queue. Beside what a file has, a message may say who waits (`reply`) and its trace
//! (`traceparent`). What it lacks comes from the properties, as for a task.

use bytes::Bytes;
use serde_json::{Map, Value};
use std::collections::HashSet;

use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::core::protocol::{ProtocolId, Protocols};
use crate::core::reading::{self, Reading};
use crate::core::task::NAME_CHARACTERS_MAX;
use crate::core::violation::Path;
use crate::core::workflow::{self, Dependency, Workflow};
use crate::wire::Properties;
use crate::wire::record::Head;
use crate::wire::task::{self, Item, Reply, TASK_BYTES_MAX, Task};

/// A workflow message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The workflow; its id is `None` until the first worker gives it one.
    pub workflow: Workflow,
    /// Who waits for its result.
    pub reply: Option<Reply>,
    /// The W3C trace context.
    pub traceparent: Option<String>,
    /// Stands for what it asks for, where it has an idempotency key; see [`digest`].
    pub digest: Option<String>,
}

/// Stands for what a workflow with an idempotency key asks for, so that another one under the same key is
/// noticed; `None` without a key. `members` are the document's, as a file or a message has them.
#[must_use]
pub fn digest(members: &Map<String, Value>) -> Option<String> {
    members.get("idempotency_key").filter(|key| !key.is_null())?;
    let own = ["id", "type", "v", "reply", "traceparent"];
    let request: Map<String, Value> = members
        .iter()
        .filter(|(key, _)| !own.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    Some(crate::core::id::digest(Value::Object(request).to_string().as_bytes()))
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
    /// What it waits for, in the order of positions, each task once.
    pub dependencies: Vec<Dependency>,
    /// Whether the workflow may complete although this task does not.
    pub tolerated: bool,
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
    let digest = digest(&members);
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
        digest,
    })
}

/// The messages of all tasks of the workflow that has this id. Each names who waits for the workflow: a task
/// of a workflow has no reply of its own, and whichever ends the workflow answers.
///
/// # Errors
/// `TASK_TOO_LARGE` names every task whose message would be larger than allowed.
pub fn plan(of: &Message, id: &Id) -> Result<Vec<Planned>, Failure> {
    let frame = Frame { root: id, parent: None, reply: &of.reply, traceparent: &of.traceparent };
    plan_in(&of.workflow, &frame)
}

/// The messages of a nested workflow's tasks. `parent` is the task that runs it: theirs are its root, its
/// reply and its trace, and their ids begin with its own. Positions are among themselves.
///
/// # Errors
/// `TASK_TOO_LARGE` as [`plan`]; `TASK_VALIDATION_FAILED` if an id gets too long, or `parent` is no task of a
/// workflow.
pub fn plan_nested(parent: &Task, workflow: &Workflow) -> Result<Vec<Planned>, Failure> {
    let (root, id) = place(parent)?;
    let frame = Frame { root, parent: Some(id), reply: &parent.reply, traceparent: &parent.traceparent };
    plan_in(workflow, &frame)
}

/// The messages of the tasks that a task with `for_each` stands for, one per item, in their order. They wait
/// for nothing.
///
/// # Errors
/// As [`plan_nested`].
pub fn plan_items(parent: &Task, items: Vec<Value>) -> Result<Vec<Planned>, Failure> {
    let (root, id) = place(parent)?;
    let mut planning = Planning::new(items.len());
    let common = parent.for_items();
    for (index, value) in (0_u64..).zip(items) {
        let child = child(id, &index.to_string())?;
        let mut message =
            Task { id: Some(child.clone()), item: Some(Item { value, index }), ..common.clone() };
        if let Some(name) = &parent.spec.name {
            let named = format!("{name} [{index}]");
            message.spec.name = Some(named.chars().take(NAME_CHARACTERS_MAX).collect());
        }
        planning.add(&message, root, &child, Vec::new(), true)?;
    }
    planning.end()
}

fn place(parent: &Task) -> Result<(&Id, &Id), Failure> {
    parent.workflow.as_ref().zip(parent.id.as_ref()).ok_or_else(|| {
        let text = "only a task of a workflow can stand for others";
        Failure::new(Code::TaskValidationFailed, text)
    })
}

fn child(parent: &Id, name: &str) -> Result<Id, Failure> {
    parent.child(name).map_err(|error| Failure::new(Code::TaskValidationFailed, error.to_string()))
}

/// What the tasks of a workflow have in common.
struct Frame<'a> {
    root: &'a Id,
    /// The task that a nested workflow is.
    parent: Option<&'a Id>,
    reply: &'a Option<Reply>,
    traceparent: &'a Option<String>,
}

fn plan_in(workflow: &Workflow, frame: &Frame<'_>) -> Result<Vec<Planned>, Failure> {
    let ids = match frame.parent {
        None => workflow.tasks.iter().map(|task| task.id.clone()).collect(),
        Some(parent) => {
            let ids = workflow.tasks.iter().map(|task| child(parent, task.id.as_str()));
            ids.collect::<Result<Vec<Id>, Failure>>()?
        }
    };
    let tolerated = workflow.tolerated();
    let mut planning = Planning::new(ids.len());
    for (index, task) in workflow.tasks.iter().enumerate() {
        let message = message(task, &ids, index, frame);
        planning.add(&message, frame.root, &ids[index], task.dependencies.clone(), tolerated[index])?;
    }
    planning.end()
}

fn message(task: &workflow::Task, ids: &[Id], index: usize, frame: &Frame<'_>) -> Task {
    let mut message = Task::new(Some(ids[index].clone()), task.spec.clone());
    message.workflow = Some(frame.root.clone());
    message.inputs = task.inputs.iter().map(|(name, meant)| (name.clone(), ids[*meant].clone())).collect();
    let meant: HashSet<usize> = task.inputs.iter().map(|(_, meant)| *meant).collect();
    for Dependency { on, on_failure } in task.dependencies.iter().filter(|edge| meant.contains(&edge.on)) {
        if let Some(instead) = on_failure.substitute() {
            message.substitutes.insert(ids[*on].clone(), instead);
        }
    }
    message.when = task.when.clone();
    message.for_each = task.for_each.clone();
    message.max_parallel = task.max_parallel;
    message.traceparent = frame.traceparent.clone();
    message.reply = frame.reply.clone();
    message.extra = task.extra.clone();
    message
}

/// The most bytes that the messages of tasks which are planned in one step may have together: the store takes
/// them in whole.
const PLAN_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Collects messages, and those that are too large.
struct Planning {
    planned: Vec<Planned>,
    too_large: Vec<String>,
    bytes: usize,
}

impl Planning {
    fn new(tasks: usize) -> Planning {
        Planning { planned: Vec::with_capacity(tasks), too_large: Vec::new(), bytes: 0 }
    }

    fn add(
        &mut self,
        message: &Task,
        root: &Id,
        id: &Id,
        dependencies: Vec<Dependency>,
        tolerated: bool,
    ) -> Result<(), Failure> {
        /// More names do not help.
        const NAMED_MAX: usize = 100;
        let body = task::encode(message);
        self.bytes += body.len();
        if self.bytes > PLAN_BYTES_MAX {
            let text = format!(
                "the messages of its tasks have more than {PLAN_BYTES_MAX} bytes together; hand large values on as results, or where they are stored"
            );
            return Err(Failure::new(Code::WorkflowTooLarge, text));
        }
        if body.len() > TASK_BYTES_MAX && self.too_large.len() < NAMED_MAX {
            self.too_large.push(format!("{id} ({} bytes)", body.len()));
        }
        self.planned.push(Planned {
            head: head(message, root, id),
            protocol: message.spec.protocol.clone(),
            priority: message.spec.priority.unwrap_or_default().number(),
            body,
            dependencies,
            tolerated,
        });
        Ok(())
    }

    fn end(self) -> Result<Vec<Planned>, Failure> {
        if self.too_large.is_empty() {
            return Ok(self.planned);
        }
        let names = self.too_large.join(", ");
        let message = format!("tasks with larger messages than the {TASK_BYTES_MAX} bytes allowed: {names}");
        Err(Failure::new(Code::TaskTooLarge, message).with("tasks", self.too_large))
    }
}

fn head(message: &Task, workflow: &Id, task: &Id) -> Head {
    Head {
        key: TaskKey::within(workflow.clone(), task.clone()),
        name: message.spec.name.clone().unwrap_or_else(|| task.to_string()),
        protocol: message.spec.protocol.to_string(),
        method: message.spec.method.clone(),
    }
}
