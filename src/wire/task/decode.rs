//! From bytes to a task, or to everything that is wrong with them.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

use super::{Item, REPUBLISHED_BYTES_MAX, Reply, TASK_BYTES_MAX, Task};
use crate::core::code::Code;
use crate::core::condition::CONDITION_BYTES_MAX;
use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::core::priority::Priority;
use crate::core::protocol::ProtocolId;
use crate::core::reading::{self, Reading};
use crate::core::task::{Draft, Origin, Spec};
use crate::core::violation::Path;
use crate::wire::record::Head;
use crate::wire::{Properties, check_version, newer, object};

/// The keys of a task message besides those of [`Spec`].
const KEYS: [&str; 7] = ["v", "id", "workflow", "inputs", "attempt", "reply", "traceparent"];

/// The keys that only a task of a workflow has.
const WORKFLOW_KEYS: [&str; 6] = ["substitutes", "when", "for_each", "max_parallel", "item", "index"];

/// The longest name of a queue in AMQP, and of what travels beside it, in characters.
const SHORT_TEXT_MAX: usize = 255;

/// What a task message turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    /// A task.
    Task(Box<Task>),
    /// A message of a newer version: a newer worker may know it.
    Newer {
        /// Its version.
        v: u64,
        /// Its id, if it has one where we look for it.
        id: Option<Id>,
    },
}

/// A task message that cannot be a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// Which task it was, if that can be read: its failure can be recorded.
    pub head: Option<Head>,
    /// Who waits for the answer, if that can be read.
    pub reply: Option<Reply>,
    /// Why.
    pub failure: Failure,
}

/// Reads a task message that came from the queue of `protocol`.
///
/// # Errors
/// [`Refused`] with `TASK_TOO_LARGE`, `PARSE_ERROR`, or `TASK_VALIDATION_FAILED` and every violation.
pub fn decode(body: &[u8], properties: &Properties, protocol: &ProtocolId) -> Result<Decoded, Box<Refused>> {
    let unreadable = |failure| {
        let (head, reply) = traces(&Map::new(), properties, protocol);
        Box::new(Refused { head, reply, failure })
    };
    if body.len() > REPUBLISHED_BYTES_MAX {
        return Err(unreadable(too_large(body.len())));
    }
    let is_large = body.len() > TASK_BYTES_MAX;
    let members = object(body, "the task message")
        .map_err(|failure| unreadable(if is_large { too_large(body.len()) } else { failure }))?;
    if is_large && !is_republished(&members, properties) {
        let (head, reply) = traces(&members, properties, protocol);
        return Err(Box::new(Refused { head, reply, failure: too_large(body.len()) }));
    }
    if let Some(v) = newer(&members) {
        let id = members.get("id").and_then(Value::as_str).or(properties.message_id.as_deref());
        return Ok(Decoded::Newer { v, id: id.and_then(|id| Id::parse(id).ok()) });
    }
    let (head, reply) = traces(&members, properties, protocol);
    match read(members, properties, protocol) {
        Ok(task) => Ok(Decoded::Task(Box::new(task))),
        Err(failure) => Err(Box::new(Refused { head, reply, failure })),
    }
}

/// Whether a worker has published the message: it carries a later attempt, or the same id inside and beside.
fn is_republished(members: &Map<String, Value>, properties: &Properties) -> bool {
    let attempt = members.get("attempt").and_then(Value::as_u64);
    let id = members.get("id").and_then(Value::as_str);
    attempt.is_some_and(|attempt| attempt > 1) || (id.is_some() && id == properties.message_id.as_deref())
}

/// The failure of a task message of that size.
pub(crate) fn too_large(bytes: usize) -> Failure {
    let message = format!(
        "the task message has {bytes} bytes, at most {TASK_BYTES_MAX} are allowed; pass large data by reference"
    );
    Failure::new(Code::TaskTooLarge, message).with("bytes", bytes).with("bytes_max", TASK_BYTES_MAX)
}

/// What can be told of a message that may be wrong in any way: which task it is, and who waits.
fn traces(
    members: &Map<String, Value>,
    properties: &Properties,
    protocol: &ProtocolId,
) -> (Option<Head>, Option<Reply>) {
    let text = |key: &str| members.get(key).and_then(Value::as_str);
    let parsed = |id: &str| Id::parse(id).ok();
    let key = match (text("workflow"), text("id"), text("idempotency_key")) {
        (Some(workflow), id, _) => {
            parsed(workflow).zip(id.and_then(parsed)).map(|(workflow, id)| TaskKey::within(workflow, id))
        }
        (None, Some(id), _) => parsed(id).map(TaskKey::alone),
        (None, None, Some(key)) => Some(TaskKey::alone(Id::from_idempotency_key(key))),
        (None, None, None) => properties.message_id.as_deref().and_then(parsed).map(TaskKey::alone),
    };
    let shortened = |text: &str| text.chars().take(SHORT_TEXT_MAX).collect::<String>();
    let head = key.map(|key| Head {
        name: text("name").map_or_else(|| key.id().to_string(), shortened),
        protocol: text("protocol").map_or_else(|| protocol.to_string(), shortened),
        method: text("method").map(shortened).unwrap_or_default(),
        key,
    });
    let mut silent = Reading::default();
    let reply = members.get("reply").cloned().and_then(|value| reply(value, &mut silent));
    (head, reply.or_else(|| reply_from(properties)))
}

fn read(members: Map<String, Value>, properties: &Properties, queue: &ProtocolId) -> Result<Task, Failure> {
    let has = |key: &str| members.get(key).is_some_and(|value| !value.is_null());
    let (has_method, has_id, is_within) = (has("method"), has("id"), has("workflow"));
    let mut item = Value::Null;
    let mut index = None;
    let mut reading = Reading::default();
    let mut draft = Draft::default();
    let mut task = Task::new(None, Spec::new(queue.clone(), "", Value::Null));
    for (key, value) in members {
        // Null is absent; what we do not know is not ours to drop.
        let keys = || Spec::KEYS.into_iter().chain(KEYS).chain(WORKFLOW_KEYS);
        if value.is_null() && key != "item" && keys().any(|known| known == key) {
            continue;
        }
        let path = Path::Root(&key);
        if !is_within && WORKFLOW_KEYS.contains(&key.as_str()) {
            reading.refuse(&path, "found without workflow", "it in tasks of workflows");
            continue;
        }
        let Some(value) = draft.take(&key, value, Origin::Message, &path, &mut reading) else { continue };
        match key.as_str() {
            "v" => check_version(&value, &mut reading),
            "id" => task.id = reading.id(&path, &value),
            "workflow" => task.workflow = reading.id(&path, &value),
            "inputs" => task.inputs = inputs(&path, value, &mut reading),
            "substitutes" => task.substitutes = substitutes(&path, value, &mut reading),
            "when" => task.when = reading.text(&path, value, CONDITION_BYTES_MAX),
            "for_each" => task.for_each = Some(value),
            "max_parallel" => task.max_parallel = reading.parallel(&path, &value),
            "item" => item = value,
            "index" => index = position(&path, &value, &mut reading),
            "attempt" => task.attempt = attempt(&path, &value, &mut reading).unwrap_or(1),
            "reply" => task.reply = reply(value, &mut reading),
            "traceparent" => {
                task.traceparent = value.as_str().filter(|text| is_trace(text)).map(str::to_owned)
            }
            _ => {
                reading.warn_unknown(&path, keys());
                task.extra.insert(key, value);
            }
        }
    }
    task.item = index.map(|index| Item { value: item, index });
    if !has_method {
        reading.refuse(&Path::Root("method"), "is missing", "text such as execute");
    }
    if task.workflow.is_some() && !has_id {
        reading.refuse(&Path::Root("id"), "is missing", "the task's id within the workflow");
    }
    complete(&mut task, &mut draft, properties, &mut reading);
    let protocol = draft.protocol.take().unwrap_or_else(|| queue.clone());
    if protocol != *queue {
        let allowed = format!("{queue}, the protocol of the queue that the message came from");
        reading.refuse(&Path::Root("protocol"), format!("found {protocol}"), allowed);
    }
    draft.check(&Path::Root("expires_at"), &mut reading);
    let spec = draft.finish(protocol);
    let warnings = reading.told();
    let violations = reading.violations.into_vec();
    match spec {
        Some(spec) if violations.is_empty() => Ok(Task { spec, warnings, ..task }),
        Some(_) | None => Err(reading::failure(Code::TaskValidationFailed, "the task message", &violations)),
    }
}

/// Takes from the properties what the body lacks, and decides the id.
fn complete(task: &mut Task, draft: &mut Draft, properties: &Properties, reading: &mut Reading) {
    draft.priority = draft
        .priority
        .or_else(|| properties.priority.map(|priority| Priority::from_message_number(i64::from(priority))));
    if task.reply.is_none() {
        task.reply = reply_from(properties);
    }
    task.traceparent = trace(task.traceparent.as_ref(), properties);
    if task.workflow.is_some() {
        return;
    }
    let keyed = draft.idempotency_key.as_deref().map(Id::from_idempotency_key);
    match (&task.id, keyed) {
        (Some(id), Some(keyed)) if *id != keyed => {
            let problem = format!("found {id:?} beside an idempotency_key", id = id.as_str());
            reading.refuse(
                &Path::Root("id"),
                problem,
                format!("no id, or {keyed}, which belongs to that key"),
            );
        }
        (Some(_), _) => {}
        (None, Some(keyed)) => task.id = Some(keyed),
        (None, None) => {
            let value = properties.message_id.clone().map(Value::String);
            task.id = value.and_then(|value| reading.id(&Path::Root("message_id"), &value));
        }
    }
}

fn inputs(path: &Path<'_>, value: Value, reading: &mut Reading) -> BTreeMap<String, Id> {
    let mut inputs = BTreeMap::new();
    for (name, value) in reading.map(path, value).unwrap_or_default() {
        if let Some(id) = reading.id(&path.key(&name), &value) {
            inputs.insert(name, id);
        }
    }
    inputs
}

fn substitutes(path: &Path<'_>, value: Value, reading: &mut Reading) -> BTreeMap<Id, Value> {
    let mut substitutes = BTreeMap::new();
    for (id, value) in reading.map(path, value).unwrap_or_default() {
        match Id::parse(&id) {
            Ok(id) => _ = substitutes.insert(id, value),
            Err(error) => reading.refuse(&path.key(&id), error.to_string(), "ids of tasks"),
        }
    }
    substitutes
}

/// A position in a list.
fn position(path: &Path<'_>, value: &Value, reading: &mut Reading) -> Option<u64> {
    if value.as_u64().is_none() {
        reading.mismatch(path, value, "a whole number from 0");
    }
    value.as_u64()
}

fn attempt(path: &Path<'_>, value: &Value, reading: &mut Reading) -> Option<u32> {
    let attempt =
        value.as_u64().and_then(|attempt| u32::try_from(attempt).ok()).filter(|attempt| *attempt > 0);
    if attempt.is_none() {
        reading.mismatch(path, value, "a whole number from 1");
    }
    attempt
}

/// `{"to": QUEUE, "correlation_id": TEXT}`, or just the queue.
pub(crate) fn reply(value: Value, reading: &mut Reading) -> Option<Reply> {
    let path = Path::Root("reply");
    if value.is_string() {
        let to = reading.text(&path, value, SHORT_TEXT_MAX)?;
        return Some(Reply { to, correlation_id: None });
    }
    let (mut to, mut correlation_id) = (None, None);
    for (key, value) in reading.map(&path, value)? {
        match key.as_str() {
            _ if value.is_null() => {}
            "to" => to = reading.text(&path.key("to"), value, SHORT_TEXT_MAX),
            "correlation_id" => {
                correlation_id = reading.text(&path.key("correlation_id"), value, SHORT_TEXT_MAX);
            }
            _ => reading.warn_unknown(&path.key(&key), ["to", "correlation_id"]),
        }
    }
    if to.is_none() {
        reading.refuse(&path.key("to"), "is missing", "the name of the reply queue");
    }
    Some(Reply { to: to?, correlation_id })
}

pub(crate) fn reply_from(properties: &Properties) -> Option<Reply> {
    let to = properties.reply_to.clone().filter(|to| !to.is_empty())?;
    Some(Reply { to, correlation_id: properties.correlation_id.clone() })
}

/// The trace of the body, or else that of the header. What is none is dropped, as the standard wants.
pub(crate) fn trace(body: Option<&String>, properties: &Properties) -> Option<String> {
    let header = properties.headers.get("traceparent");
    body.into_iter().chain(header).find(|text| is_trace(text)).cloned()
}

/// Whether a text is a W3C trace context.
fn is_trace(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte) || byte == b'-';
    text.len() <= SHORT_TEXT_MAX && lengths.starts_with(&[2, 32, 16, 2]) && text.bytes().all(hex)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn protocol(text: &str) -> ProtocolId {
        text.parse().expect(text)
    }

    fn decoded(body: &Value, properties: &Properties) -> Result<Task, Box<Refused>> {
        match decode(body.to_string().as_bytes(), properties, &protocol("python/v1"))? {
            Decoded::Task(task) => Ok(*task),
            Decoded::Newer { v, .. } => panic!("version {v}"),
        }
    }

    fn plain(body: Value) -> Task {
        decoded(&body, &Properties::default()).expect("a task")
    }

    #[test]
    fn the_smallest_message_is_a_task() {
        let task = plain(json!({"method": "execute", "params": {"code": "print(6*7)"}}));
        assert_eq!((task.id.clone(), task.key(), task.head()), (None, None, None));
        assert_eq!(task.spec.protocol, protocol("python/v1"));
        assert_eq!(task.spec.method, "execute");
        assert_eq!(task.spec.params["code"], "print(6*7)");
        assert_eq!((task.attempt, task.priority(), task.warnings.len()), (1, None, 0));
    }

    #[test]
    fn every_member_is_read() {
        let task = plain(json!({
            "v": 1, "id": "t1", "name": "T", "protocol": "python/v1.0", "method": "python/execute",
            "params": {"b": 1.50, "a": 1}, "priority": "high", "timeout": 1.5, "retry": {"max_attempts": 2},
            "not_before": "2026-01-02T03:04:05Z", "expires_at": "2026-01-02T03:04:06Z",
            "reply": {"to": "q", "correlation_id": "c"}, "attempt": 2, "metadata": {"k": [1]},
            "result_ttl": 60, "ignore_result": true, "affinity": "a", "fairness_key": "f",
            "resource_requirements": {"memory_mb": 64}, "security_requirements": {"network": false},
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "later": {"x": 1}, "no": null,
        }));
        assert_eq!(task.id.as_ref().map(Id::as_str), Some("t1"));
        assert_eq!(task.spec.method, "execute");
        assert_eq!(task.spec.params.to_string(), r#"{"b":1.50,"a":1}"#.replace("1.50", "1.5"));
        assert_eq!((task.priority(), task.attempt), (Some(7), 2));
        assert_eq!(task.spec.timeout.map(|timeout| timeout.as_millis()), Some(1500));
        assert_eq!(task.spec.retry.as_ref().map(|retry| retry.max_attempts), Some(2));
        assert_eq!(task.reply.as_ref().and_then(|reply| reply.correlation_id.as_deref()), Some("c"));
        assert!(task.spec.ignore_result && task.traceparent.is_some());
        assert_eq!(task.extra["later"], json!({"x": 1}));
        assert_eq!(task.extra["no"], Value::Null);
        assert_eq!(task.warnings, ["unknown key later", "unknown key no"]);
    }

    #[test]
    fn properties_fill_what_the_body_lacks() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let properties = Properties {
            message_id: Some("m1".to_owned()),
            priority: Some(200),
            correlation_id: Some("c".to_owned()),
            reply_to: Some("amq.rabbitmq.reply-to.x".to_owned()),
            headers: [("traceparent".to_owned(), trace.to_owned())].into(),
            ..Properties::default()
        };
        let bare = decoded(&json!({"method": "execute"}), &properties).expect("a task");
        assert_eq!(bare.id.as_ref().map(Id::as_str), Some("m1"));
        assert_eq!(bare.priority(), Some(9));
        assert_eq!(bare.traceparent.as_deref(), Some(trace));
        let reply = bare.reply.expect("a reply");
        assert_eq!(
            (reply.to.as_str(), reply.correlation_id.as_deref()),
            ("amq.rabbitmq.reply-to.x", Some("c"))
        );

        let body = json!({"method": "execute", "id": "b1", "priority": 0, "reply": "q"});
        let full = decoded(&body, &properties).expect("a task");
        assert_eq!(full.id.as_ref().map(Id::as_str), Some("b1"));
        assert_eq!(full.priority(), Some(0));
        assert_eq!(full.reply, Some(Reply { to: "q".to_owned(), correlation_id: None }));
    }

    #[test]
    fn an_idempotency_key_decides_the_id() {
        let keyed = Id::from_idempotency_key("k");
        let properties = Properties { message_id: Some("m".to_owned()), ..Properties::default() };
        let body = json!({"method": "execute", "idempotency_key": "k"});
        assert_eq!(decoded(&body, &properties).expect("a task").id, Some(keyed.clone()));
        assert_eq!(
            plain(json!({"method": "x", "idempotency_key": "k", "id": keyed.as_str()})).id,
            Some(keyed)
        );
        let other = json!({"method": "x", "idempotency_key": "k", "id": "other"});
        assert!(decoded(&other, &Properties::default()).is_err());
    }

    #[test]
    fn null_is_absent() {
        let body = json!({"method": "execute", "params": null, "id": null, "timeout": null, "reply": null});
        assert_eq!(plain(body), plain(json!({"method": "execute"})));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let body = json!({
            "id": "a b", "protocol": "llm/v1", "params": "x", "priority": "bulk", "timeout": 0,
            "retry": {"max_attempts": 11, "backoff_strategy": "random"}, "expires_at": "tomorrow", "attempt": 0,
            "reply": {}, "metadata": [], "ignore_result": "yes", "inputs": {"a": "b c"},
        });
        let refused = decoded(&body, &Properties::default()).expect_err("refused");
        assert_eq!(refused.failure.code, Code::TaskValidationFailed);
        let paths: Vec<&str> = refused.failure.details["violations"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|violation| violation["path"].as_str())
            .collect();
        let expected = [
            "id",
            "params",
            "priority",
            "timeout",
            "retry.backoff",
            "retry.max_attempts",
            "expires_at",
            "attempt",
            "reply.to",
            "metadata",
            "ignore_result",
            "inputs.a",
            "method",
            "protocol",
        ];
        assert_eq!(paths, expected);
        assert!(refused.failure.message.contains("and 4 more"), "{}", refused.failure.message);
    }

    #[test]
    fn what_only_a_workflow_gives_is_read_in_its_tasks_alone() {
        let mut body = json!({
            "id": "t.1", "workflow": "w", "method": "execute", "item": null, "index": 1, "when": "${item} == none",
            "substitutes": {"load": null, "count": 0}, "for_each": [1, "${x}"], "max_parallel": 4,
        });
        let task = plain(body.clone());
        assert_eq!(task.item, Some(Item { value: Value::Null, index: 1 }));
        assert_eq!(task.substitutes.values().collect::<Vec<_>>(), [&json!(0), &Value::Null]);
        assert_eq!(
            (task.for_each, task.max_parallel.map(|bound| bound.get())),
            (Some(json!([1, "${x}"])), Some(4))
        );
        assert_eq!(task.warnings, [""; 0]);
        body.as_object_mut().expect("an object").remove("workflow");
        let refused = decoded(&body, &Properties::default()).expect_err("refused");
        assert!(refused.failure.message.contains("when: found without workflow"), "{}", refused.failure);
        let wrong = json!({"id": "t", "workflow": "w", "method": "x", "index": -1, "max_parallel": 0,
            "substitutes": {"a b": 1}, "when": 7});
        let refused = decoded(&wrong, &Properties::default()).expect_err("refused");
        assert_eq!(refused.failure.details["violations"].as_array().map(Vec::len), Some(4));
    }

    #[test]
    fn a_refused_message_tells_which_task_it_was_and_who_waits() {
        let properties = Properties { reply_to: Some("q".to_owned()), ..Properties::default() };
        let body = json!({"id": "t", "workflow": "w", "method": 7});
        let refused = decoded(&body, &properties).expect_err("refused");
        let head = refused.head.expect("a head");
        assert_eq!((head.key.to_string().as_str(), head.name.as_str()), ("w/t", "t"));
        assert_eq!((head.protocol.as_str(), head.method.as_str()), ("python/v1", ""));
        assert_eq!(refused.reply.map(|reply| reply.to).as_deref(), Some("q"));
        assert!(decoded(&json!({"id": "a b"}), &Properties::default()).expect_err("refused").head.is_none());
        assert!(decoded(&json!({"workflow": "w", "method": "x"}), &properties).is_err());
    }

    #[test]
    fn garbage_and_large_bodies_have_their_own_codes() {
        let check = |body: &[u8], code: Code| {
            let refused = decode(body, &Properties::default(), &protocol("python/v1")).expect_err("refused");
            assert_eq!(refused.failure.code, code);
        };
        for body in [&b""[..], b"\xff\x00", b"{", b"[]", b"null", b"7", b"{} {}", &[b'['; 100_000]] {
            check(body, Code::ParseError);
        }
        check(&vec![b' '; TASK_BYTES_MAX + 1], Code::TaskTooLarge);
        check(b"{}", Code::TaskValidationFailed);
        check(br#"{"v": 0, "method": "execute"}"#, Code::TaskValidationFailed);
    }

    #[test]
    fn a_newer_version_is_not_wrong() {
        let body = br#"{"v": 2, "id": "t", "method": {"unknown": "shape"}}"#;
        let decoded = decode(body, &Properties::default(), &protocol("python/v1"));
        assert_eq!(decoded, Ok(Decoded::Newer { v: 2, id: Id::parse("t").ok() }));
    }
}
