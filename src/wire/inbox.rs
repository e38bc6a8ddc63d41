//! What comes to the workflows queue: workflows, commands and schedules, told apart by `type`.

use serde_json::{Map, Value};

use super::command::Command;
use super::schedule::Order;
use super::task::{self, Reply};
use super::{Properties, newer, object, workflow};
use crate::core::failure::Failure;
use crate::core::id::Id;
use crate::core::protocol::Protocols;
use crate::core::reading::Reading;
use crate::core::task::NAME_CHARACTERS_MAX;
use crate::core::workflow::{UNNAMED, WORKFLOW_BYTES_MAX, too_large};

/// What a message turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    /// A workflow.
    Workflow(Box<workflow::Message>),
    /// A command.
    Command(Command),
    /// Something about a schedule.
    Schedule(Order),
    /// A message of a newer version: a newer worker may know it.
    Newer {
        /// Its version.
        v: u64,
        /// Its id, if it has one where we look for it.
        id: Option<Id>,
    },
}

/// A message that is neither a workflow nor a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// The workflow that it would have been, if that can be read: its failure can be recorded. `None` for
    /// commands, whose id is not their own.
    pub id: Option<Id>,
    /// The workflow's name.
    pub name: String,
    /// Who waits for the answer, if that can be read.
    pub reply: Option<Reply>,
    /// Why.
    pub failure: Failure,
}

/// Reads a message from the workflows queue. Without `type` it is a workflow.
///
/// # Errors
/// [`Refused`] with `WORKFLOW_TOO_LARGE`, `PARSE_ERROR`, `INVALID_REQUEST`, or what is wrong with the workflow.
pub fn decode(body: &[u8], properties: &Properties, protocols: &Protocols) -> Result<Decoded, Box<Refused>> {
    if body.len() > WORKFLOW_BYTES_MAX {
        return Err(refusal(&Map::new(), properties)(too_large(body.len()).failure()));
    }
    let members = object(body, "the message").map_err(refusal(&Map::new(), properties))?;
    if let Some(v) = newer(&members) {
        let id = members.get("id").and_then(Value::as_str).or(properties.message_id.as_deref());
        return Ok(Decoded::Newer { v, id: id.and_then(|id| Id::parse(id).ok()) });
    }
    if let Some(kind) = members.get("type").and_then(Value::as_str).filter(|kind| *kind != "workflow") {
        let reply = task::reply_from(properties);
        let refuse = |failure| Box::new(Refused { id: None, name: String::new(), reply, failure });
        if let Some(order) = Order::read(kind, &members, protocols) {
            return order.map(Decoded::Schedule).map_err(refuse);
        }
        return Command::read(kind, &members).map(Decoded::Command).map_err(refuse);
    }
    let refuse = refusal(&members, properties);
    let message = workflow::read(members, properties, protocols).map_err(refuse)?;
    Ok(Decoded::Workflow(Box::new(message)))
}

/// What can be told of a workflow that may be wrong in any way.
fn refusal(
    members: &Map<String, Value>,
    properties: &Properties,
) -> impl FnOnce(Failure) -> Box<Refused> + use<> {
    let text = |key: &str| members.get(key).and_then(Value::as_str);
    let id = match (text("id"), text("idempotency_key")) {
        (Some(id), _) => Id::parse(id).ok(),
        (None, Some(key)) => Some(Id::from_idempotency_key(key)),
        (None, None) => properties.message_id.as_deref().and_then(|id| Id::parse(id).ok()),
    };
    let name = text("name").unwrap_or(UNNAMED).chars().take(NAME_CHARACTERS_MAX).collect();
    let reply = members.get("reply").cloned().and_then(|value| task::reply(value, &mut Reading::default()));
    let reply = reply.or_else(|| task::reply_from(properties));
    move |failure| Box::new(Refused { id, name, reply, failure })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::code::Code;
    use crate::core::workflow::{Dependency, OnFailure};
    use crate::wire::task::{TASK_BYTES_MAX, Task};

    fn decoded(body: &Value, properties: &Properties) -> Result<Decoded, Box<Refused>> {
        let protocols = Protocols::builtin().expect("built in");
        decode(body.to_string().as_bytes(), properties, &protocols)
    }

    fn workflow(body: &Value, properties: &Properties) -> workflow::Message {
        match decoded(body, properties).expect("a workflow") {
            Decoded::Workflow(message) => *message,
            other => panic!("{other:?}"),
        }
    }

    fn two_tasks() -> Value {
        json!({"name": "W", "tasks": [
            {"id": "a", "name": "A", "method": "echo/echo", "params": {"message": 1.50}, "priority": 1, "later": true},
            {"id": "b", "method": "echo/echo", "params": {"message": "${A.response}"}, "dependencies": ["A"]},
        ]})
    }

    #[test]
    fn a_workflow_is_told_from_a_command_by_its_type() {
        let plain = workflow(&two_tasks(), &Properties::default());
        assert_eq!((plain.workflow.id, plain.workflow.tasks.len()), (None, 2));
        let id = Id::parse("w").expect("valid");
        let body: Value = serde_json::from_slice(&workflow::encode(&two_tasks(), &id)).expect("JSON");
        assert_eq!((&body["type"], &body["id"]), (&json!("workflow"), &json!("w")));
        assert_eq!(workflow(&body, &Properties::default()).workflow.id, Some(id.clone()));
        let cancel = Command::Cancel { id, by: None };
        let body: Value = serde_json::from_slice(&cancel.encode()).expect("JSON");
        assert_eq!(decoded(&body, &Properties::default()), Ok(Decoded::Command(cancel)));
    }

    #[test]
    fn properties_fill_what_a_workflow_lacks() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let properties = Properties {
            message_id: Some("m".to_owned()),
            reply_to: Some("q".to_owned()),
            headers: [("traceparent".to_owned(), trace.to_owned())].into(),
            ..Properties::default()
        };
        let message = workflow(&two_tasks(), &properties);
        assert_eq!(message.workflow.id.as_ref().map(Id::as_str), Some("m"));
        assert_eq!(message.reply.as_ref().map(|reply| reply.to.as_str()), Some("q"));
        assert_eq!(message.traceparent.as_deref(), Some(trace));
        let mut body = two_tasks();
        body["reply"] = json!({"to": "r"});
        body["idempotency_key"] = json!("k");
        let message = workflow(&body, &properties);
        assert_eq!(message.workflow.id, Some(Id::from_idempotency_key("k")));
        assert_eq!(message.reply.map(|reply| reply.to).as_deref(), Some("r"));
    }

    #[test]
    fn what_is_refused_says_which_workflow_it_was() {
        let check = |body: Value, code: Code, id: Option<&str>| {
            let refused = decoded(&body, &Properties::default()).expect_err("refused");
            assert_eq!(refused.failure.code, code, "{}", refused.failure);
            assert_eq!(refused.id.as_ref().map(Id::as_str), id);
        };
        check(json!({"id": "w", "name": "N"}), Code::WorkflowValidationFailed, Some("w"));
        check(json!([]), Code::ParseError, None);
        check(json!({"type": "cancle", "id": "w"}), Code::InvalidRequest, None);
        check(json!({"type": "cancel"}), Code::InvalidRequest, None);
        check(json!({"type": "cancel", "id": "a b", "force": true}), Code::InvalidRequest, None);
        check(json!({"type": 7, "id": "w", "tasks": []}), Code::WorkflowValidationFailed, Some("w"));
        check(json!({"id": "w", "pad": "x".repeat(WORKFLOW_BYTES_MAX)}), Code::WorkflowTooLarge, None);
        let refused = decoded(&json!({"type": "cancle"}), &Properties::default()).expect_err("refused");
        assert!(refused.failure.message.contains("did you mean cancel?"), "{}", refused.failure);
        let newer = decoded(&json!({"v": 2, "type": "merge", "id": "w"}), &Properties::default());
        assert_eq!(newer, Ok(Decoded::Newer { v: 2, id: Id::parse("w").ok() }));
    }

    #[test]
    fn a_plan_has_the_message_of_every_task() {
        let message = workflow(&two_tasks(), &Properties::default());
        let id = Id::parse("w").expect("valid");
        let planned = workflow::plan(&message, &id).expect("a plan");
        let [a, b] = planned.as_slice() else { panic!("two tasks") };
        assert_eq!((a.priority, b.priority), (7, 4));
        let edge = Dependency { on: 0, on_failure: OnFailure::Fail };
        assert_eq!((a.dependencies.as_slice(), b.dependencies.as_slice()), (&[][..], &[edge][..]));
        assert_eq!((a.head.key.to_string().as_str(), a.head.name.as_str()), ("w/a", "A"));
        let body = r#"{"id":"a","workflow":"w","name":"A","protocol":"echo/v1","method":"echo","params":{"message":1.50},"priority":7,"later":true}"#;
        assert_eq!(a.body, body.replace("1.50", "1.5"));
        let b = read_task(&b.body);
        assert_eq!(b.needs(), [Id::parse("a").expect("valid")]);
        let document = json!({"id": "a", "status": "completed", "result": {"response": 1.5}});
        assert_eq!(b.fill(|id| (id.as_str() == "a").then_some(&document)), Ok(json!({"message": 1.5})));
        let failure = b.fill(|_| None).expect_err("no result");
        assert_eq!(failure.code, Code::TaskParameterError);
    }

    fn read_task(body: &[u8]) -> Task {
        let protocol = "echo/v1".parse().expect("valid");
        match task::decode(body, &Properties::default(), &protocol).expect("a task") {
            task::Decoded::Task(task) => *task,
            task::Decoded::Newer { v, .. } => panic!("version {v}"),
        }
    }

    #[test]
    fn a_task_that_is_too_large_is_named() {
        let mut body = two_tasks();
        body["tasks"][1]["params"]["pad"] = json!("x".repeat(TASK_BYTES_MAX));
        let message = workflow(&body, &Properties::default());
        let refused = workflow::plan(&message, &Id::parse("w").expect("valid")).expect_err("too large");
        assert_eq!(refused.code, Code::TaskTooLarge);
        assert!(refused.message.contains("b (2097"), "{}", refused.message);
    }
}
