//! What is said to every worker at once over the control exchange, and what they answer. Best effort: who does not
//! hear it, or does not know it, lets it be.
//!
//! ```text
//! {"type": "cancel", "id": "w1"}                                                    leases under this root are void
//! {"type": "provider", "v": 1, "id": "0192...", "action": "scale", "name": "text", "count": 3}
//! {"type": "provider-answer", "v": 1, "id": "0192...", "worker": "0192...", "done": true, "providers": [...]}
//! ```
//! An order has an id, so that one that is sent again is done once, and its answers are told from others.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::vitals::Vitals;
use super::{VERSION, newer, object};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::Id;
use crate::core::near::did_you_mean;

/// The longest message that is read, in bytes.
const BYTES_MAX: usize = 1024 * 1024;
/// The longest name of a provider.
const NAME_MAX: usize = 128;

/// A message.
#[derive(Debug, Clone, PartialEq)]
pub enum Control {
    /// Leases under this root are void.
    Cancel(Id),
    /// Something is to be done with providers.
    Order(Order),
    /// A worker has done it, or is at it.
    Answer(Box<Answer>),
    /// Of a newer version, or of a kind that others know.
    Unknown,
}

/// What every worker is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its own id.
    pub id: Id,
    /// What.
    pub action: Action,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Tell how providers do.
    List,
    /// Begin again.
    Start(String),
    /// Take no more calls.
    Stop(String),
    /// Run in something new.
    Restart(String),
    /// Have so many instances.
    Scale(String, u32),
    /// Read the configuration again.
    Reload,
}

/// What a worker answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The order's id.
    pub id: Id,
    /// The worker's session.
    pub worker: Id,
    /// `false`: it is still at it, and answers again.
    pub is_done: bool,
    /// How the providers that it was about do; of a list and a reload, all.
    pub providers: Vec<Row>,
    /// What tasks hold of the worker, by kind: `{"total", "held"}`; without `total` it is not limited. Empty: not told.
    pub resources: Map<String, Value>,
    /// What a reload has changed, by the names of keys.
    pub changed: Vec<String>,
    /// Why it was not done.
    pub error: Option<Failure>,
}

/// How a provider does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: String,
    /// In a word.
    pub state: String,
    /// What is the matter.
    pub why: Option<String>,
    /// Calls that it is at.
    pub running: u32,
    /// Instances that there are, that are always there, and that there may be; `None`: it has no pool.
    pub pool: Option<[u32; 3]>,
    /// How it has done; `None` of a worker that does not tell.
    pub vitals: Option<Vitals>,
}

/// An order that cannot be carried out as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// Its id, if that can be read: then it can be answered.
    pub id: Option<Id>,
    /// Why.
    pub failure: Failure,
}

/// Tells workers that leases under this root are void.
#[must_use]
pub fn cancel(root: &Id) -> Bytes {
    json!({"type": "cancel", "id": root}).to_string().into()
}

/// Reads a message.
///
/// # Errors
/// [`Refused`]: it is none, or one of ours that is not well formed.
pub fn decode(body: &[u8]) -> Result<Control, Box<Refused>> {
    let refused = |id: Option<Id>, failure| Box::new(Refused { id, failure });
    if body.len() > BYTES_MAX {
        let message = format!("the message has more than {BYTES_MAX} bytes");
        return Err(refused(None, Failure::new(Code::ParseError, message)));
    }
    let members = object(body, "the message").map_err(|failure| refused(None, failure))?;
    let id = members.get("id").and_then(Value::as_str).and_then(|id| Id::parse(id).ok());
    let lacks_id = || refused(None, invalid("`id` is missing or none".to_owned()));
    match members.get("type").and_then(Value::as_str) {
        Some("cancel") => id.map(Control::Cancel).ok_or_else(lacks_id),
        Some("provider") => {
            let id = id.ok_or_else(lacks_id)?;
            if let Some(v) = newer(&members) {
                let message = format!("this worker knows orders up to version {VERSION}, not {v}");
                return Err(refused(Some(id), Failure::new(Code::ProtocolVersionMismatch, message)));
            }
            match action(&members) {
                Ok(action) => Ok(Control::Order(Order { id, action })),
                Err(failure) => Err(refused(Some(id), failure)),
            }
        }
        Some("provider-answer") if newer(&members).is_none() => {
            let id = id.ok_or_else(lacks_id)?;
            let answer = answer(id, &members).map_err(|failure| refused(None, failure))?;
            Ok(Control::Answer(Box::new(answer)))
        }
        Some(_) | None => Ok(Control::Unknown),
    }
}

impl Order {
    /// The body of its message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut body = json!({"type": "provider", "v": VERSION, "id": self.id, "action": self.action.word()});
        if let Some(name) = self.action.name() {
            body["name"] = name.into();
        }
        if let Action::Scale(_, count) = &self.action {
            body["count"] = (*count).into();
        }
        body.to_string().into()
    }
}

impl Action {
    /// What it is called.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Action::List => "list",
            Action::Start(_) => "start",
            Action::Stop(_) => "stop",
            Action::Restart(_) => "restart",
            Action::Scale(..) => "scale",
            Action::Reload => "reload",
        }
    }

    /// The provider that it is about.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Action::List | Action::Reload => None,
            Action::Start(name) | Action::Stop(name) | Action::Restart(name) | Action::Scale(name, _) => {
                Some(name)
            }
        }
    }
}

impl Answer {
    /// The body of its message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let providers: Vec<Value> = self.providers.iter().map(Row::to_json).collect();
        let mut body = json!({
            "type": "provider-answer", "v": VERSION, "id": self.id, "worker": self.worker, "done": self.is_done,
            "providers": providers,
        });
        if !self.resources.is_empty() {
            body["resources"] = json!(self.resources);
        }
        if !self.changed.is_empty() {
            body["changed"] = json!(self.changed);
        }
        if let Some(error) = &self.error {
            body["error"] = json!(error);
        }
        body.to_string().into()
    }
}

impl Row {
    /// As documents have it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut row = json!({
            "name": self.name, "protocol": self.protocol, "state": self.state, "running": self.running,
        });
        if let Some([instances, min, max]) = self.pool {
            (row["instances"], row["min"], row["max"]) = (instances.into(), min.into(), max.into());
        }
        if let Some(why) = &self.why {
            row["why"] = why.as_str().into();
        }
        if let Some(vitals) = &self.vitals {
            row["health"] = vitals.to_json();
        }
        row
    }

    fn from_json(row: &Value) -> Option<Row> {
        let text = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_owned);
        let number = |key: &str| u32::try_from(row.get(key)?.as_u64()?).ok();
        let pool = number("instances").zip(number("min")).zip(number("max"));
        Some(Row {
            name: text("name")?,
            protocol: text("protocol")?,
            state: text("state")?,
            why: text("why"),
            running: number("running").unwrap_or(0),
            pool: pool.map(|((instances, min), max)| [instances, min, max]),
            vitals: row.get("health").and_then(Vitals::from_json),
        })
    }
}

fn action(members: &Map<String, Value>) -> Result<Action, Failure> {
    let word = members.get("action").and_then(Value::as_str).unwrap_or_default();
    let name = || {
        let name = members.get("name").and_then(Value::as_str);
        let name = name.filter(|name| !name.is_empty() && name.len() <= NAME_MAX);
        name.map(str::to_owned).ok_or_else(|| invalid("`name` must be the name of a provider".to_owned()))
    };
    match word {
        "list" => Ok(Action::List),
        "reload" => Ok(Action::Reload),
        "start" => Ok(Action::Start(name()?)),
        "stop" => Ok(Action::Stop(name()?)),
        "restart" => Ok(Action::Restart(name()?)),
        "scale" => {
            let count = members.get("count").and_then(Value::as_u64);
            let count = count.and_then(|count| u32::try_from(count).ok());
            let count = count.ok_or_else(|| invalid("`count` must be a whole number".to_owned()))?;
            Ok(Action::Scale(name()?, count))
        }
        unknown => {
            let shown: String = unknown.chars().take(64).collect();
            let known = ["list", "start", "stop", "restart", "scale", "reload"];
            let hint = did_you_mean(&shown, known);
            Err(invalid(format!("unknown action {shown:?}{hint}; known: {}", known.join(", "))))
        }
    }
}

fn answer(id: Id, members: &Map<String, Value>) -> Result<Answer, Failure> {
    let worker = members.get("worker").and_then(Value::as_str).and_then(|worker| Id::parse(worker).ok());
    let list = |key: &str| members.get(key).and_then(Value::as_array).into_iter().flatten();
    Ok(Answer {
        id,
        worker: worker.ok_or_else(|| invalid("`worker` is missing or none".to_owned()))?,
        is_done: members.get("done").and_then(Value::as_bool).unwrap_or(true),
        providers: list("providers").filter_map(Row::from_json).collect(),
        resources: members.get("resources").and_then(Value::as_object).cloned().unwrap_or_default(),
        changed: list("changed").filter_map(|key| key.as_str().map(str::to_owned)).collect(),
        error: members.get("error").and_then(Failure::from_json),
    })
}

fn invalid(message: String) -> Failure {
    Failure::new(Code::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        Id::parse(text).expect("valid")
    }

    #[test]
    fn orders_and_answers_read_back_what_they_wrote() {
        for action in [
            Action::List,
            Action::Start("a".to_owned()),
            Action::Stop("a".to_owned()),
            Action::Restart("a".to_owned()),
            Action::Scale("a".to_owned(), 3),
            Action::Reload,
        ] {
            let order = Order { id: id("o"), action };
            assert_eq!(decode(&order.encode()), Ok(Control::Order(order)));
        }
        let row = Row {
            name: "a".to_owned(),
            protocol: "a/v1".to_owned(),
            state: "down".to_owned(),
            why: Some("no answer".to_owned()),
            running: 2,
            pool: Some([1, 1, 4]),
            vitals: Some(Vitals { calls: 7, ..Vitals::default() }),
        };
        let plain = Row { why: None, pool: None, vitals: None, ..row.clone() };
        let whole = Answer {
            id: id("o"),
            worker: id("w"),
            is_done: false,
            providers: vec![row, plain],
            resources: Map::from_iter([("cpu_cores".to_owned(), json!({"total": 2, "held": 0.5}))]),
            changed: vec!["limits.a.rate".to_owned()],
            error: Some(Failure::new(Code::ProviderNotFound, "none").with("known", vec!["a"])),
        };
        let empty = Answer {
            is_done: true,
            providers: Vec::new(),
            resources: Map::new(),
            changed: Vec::new(),
            error: None,
            ..whole.clone()
        };
        for answer in [whole, empty] {
            assert_eq!(decode(&answer.encode()), Ok(Control::Answer(Box::new(answer))));
        }
        assert_eq!(decode(&cancel(&id("w"))), Ok(Control::Cancel(id("w"))));
    }

    #[test]
    fn what_others_may_know_is_let_be_and_what_is_ours_and_wrong_is_answered_if_it_can_be() {
        for other in [r#"{"type":"later","id":"o"}"#, r#"{"type":"provider-answer","v":2,"id":"o"}"#, "{}"] {
            assert_eq!(decode(other.as_bytes()), Ok(Control::Unknown), "{other}");
        }
        let more = r#"{"type":"provider","id":"o","action":"list","later":[1]}"#;
        assert!(matches!(decode(more.as_bytes()), Ok(Control::Order(_))), "members that nobody knows");
        for (wrong, has_id, part) in [
            ("\u{ff}", false, "not JSON"),
            ("[]", false, "JSON object"),
            (r#"{"type":"cancel"}"#, false, "`id`"),
            (r#"{"type":"provider","id":"a b"}"#, false, "`id`"),
            (r#"{"type":"provider","id":"o","action":"stpo"}"#, true, "stop"),
            (r#"{"type":"provider","id":"o","action":"stop"}"#, true, "`name`"),
            (r#"{"type":"provider","id":"o","action":"scale","name":"a","count":-1}"#, true, "`count`"),
            (r#"{"type":"provider","v":2,"id":"o","action":"list"}"#, true, "up to version 1"),
            (r#"{"type":"provider-answer","id":"o"}"#, false, "`worker`"),
        ] {
            let refused = decode(wrong.as_bytes()).expect_err(wrong);
            assert_eq!(refused.id.is_some(), has_id, "{wrong}");
            assert!(refused.failure.message.contains(part), "{part} in {:?}", refused.failure);
        }
    }
}
