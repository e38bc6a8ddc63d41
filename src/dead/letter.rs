//! One letter that is held.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::broker::{BrokerError, Delivery, Receipt, Settlement};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey, digest};
use crate::topology::{Address, Queue};
use crate::wire::Properties;
use crate::wire::envelope::{Envelope, Output};

/// How much of a letter is kept while it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// What a list tells: without the original's body, the output and the details.
    Facts,
    /// Everything.
    Whole,
}

/// What holding a letter takes beside its text, about: its names, its place, its receipt.
const SLIM_BYTES: usize = 512;

/// A dead letter that is held: unsettled, so that nobody else sees it.
#[derive(Debug)]
pub struct Letter {
    /// What it is called where its task has no id: `letter-` and twelve digits that stand for its content. Each
    /// death gives its letter a name of its own in there, so two that are called the same are one that was
    /// published twice.
    pub name: String,
    /// The protocol of the dead queue that it lies in.
    pub address: Address,
    /// What it says; `None` if it is no dead letter of ours. With [`Keep::Facts`] without what is long.
    pub envelope: Option<Envelope>,
    /// Whether the original message was kept whole.
    pub is_whole: bool,
    /// What letters of the same death have in common; `None` where that cannot be known.
    pub death: Option<String>,
    /// How many bytes of it are kept.
    pub(super) bytes: usize,
    /// Its place among those held, from 0.
    pub(super) place: usize,
    receipt: Box<dyn Receipt>,
}

impl Letter {
    /// Reads a delivery from a dead queue and keeps its receipt.
    pub(super) fn of(delivery: Delivery, address: &Address, place: usize) -> Letter {
        let Delivery { body, receipt, .. } = delivery;
        let stands_for = digest(&body);
        let envelope = Envelope::decode(&body).ok();
        let is_whole = envelope.as_ref().is_some_and(|envelope| envelope.original.is_whole());
        let death = envelope.as_ref().and_then(death);
        let name = format!("letter-{}", &stands_for[..12]);
        Letter {
            name,
            address: address.clone(),
            envelope,
            is_whole,
            death,
            bytes: body.len(),
            place,
            receipt,
        }
    }

    /// The same without what is long: still told, still held. What is left counts as well: a failure's message may
    /// be long too, and masses of small letters are many bytes.
    pub(super) fn slim(self) -> Letter {
        let envelope = self.envelope.map(slim);
        let bytes = SLIM_BYTES + envelope.as_ref().map_or(0, |envelope| envelope.encode().len());
        Letter { envelope, bytes, ..self }
    }

    /// The task or workflow that it is about, `WORKFLOW/TASK` for a task of a workflow; `None` if unknown.
    #[must_use]
    pub fn key(&self) -> Option<TaskKey> {
        let envelope = self.envelope.as_ref()?;
        let id = envelope.id.clone()?;
        Some(match &envelope.workflow {
            Some(workflow) => TaskKey::within(workflow.clone(), id),
            None => TaskKey::alone(id),
        })
    }

    /// What a replay runs again: the task on its own, or the whole workflow.
    #[must_use]
    pub fn root(&self) -> Option<&Id> {
        let envelope = self.envelope.as_ref()?;
        envelope.workflow.as_ref().or(envelope.id.as_ref())
    }

    /// The key as text, else the letter's own name: what `dead show`, `replay` and `drop` take.
    #[must_use]
    pub fn label(&self) -> String {
        self.key().map_or_else(|| self.name.clone(), |key| key.to_string())
    }

    /// When it died; the beginning of time if it does not say.
    #[must_use]
    pub fn died_at(&self) -> Timestamp {
        self.envelope.as_ref().map(|envelope| envelope.died_at).unwrap_or_default()
    }

    /// The whole letter as data, with its name and its queue.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut members = Map::new();
        members.insert("letter".to_owned(), json!(self.name));
        members.insert("dead_queue".to_owned(), json!(Queue::Dead(self.address.clone()).name()));
        if let Some(envelope) = &self.envelope
            && let Ok(Value::Object(own)) = serde_json::from_slice(&envelope.encode())
        {
            members.extend(own);
        }
        Value::Object(members)
    }

    /// Ends it. Released, it is at its place again.
    ///
    /// # Errors
    /// [`BrokerError::DeliveryLost`] if the broker has taken it back: it is in the queue again.
    pub async fn settle(self, settlement: Settlement) -> Result<(), BrokerError> {
        self.receipt.settle(settlement).await
    }
}

/// Stands for one death: the same task, ended by the same attempt of the same run. Attempts that took place are
/// in the history; a task that died without one is told by its message.
fn death(envelope: &Envelope) -> Option<String> {
    let id = envelope.id.as_ref()?;
    let workflow = envelope.workflow.as_ref().map_or("", Id::as_str);
    let last = match envelope.history.last() {
        Some(last) => last.to_string(),
        None => digest(&envelope.original.body),
    };
    let text = format!("{workflow}/{id} {} {} {last}", envelope.failure.code.number(), envelope.replays);
    Some(digest(text.as_bytes()))
}

/// Without what is long.
fn slim(mut envelope: Envelope) -> Envelope {
    envelope.original.body = Bytes::new();
    envelope.original.properties = Properties::default();
    envelope.output = Output::default();
    envelope.failure.details = Map::new();
    envelope.history = Vec::new();
    envelope
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::core::code::Code;
    use crate::core::failure::Failure;
    use crate::wire::envelope::Original;

    /// Of nothing.
    #[derive(Debug)]
    struct Nothing;

    #[async_trait]
    impl Receipt for Nothing {
        async fn settle(self: Box<Self>, _: Settlement) -> Result<(), BrokerError> {
            Ok(())
        }
    }

    #[test]
    fn what_is_kept_of_a_slim_letter_counts() {
        let address = Address::parse("echo.v1").expect("valid");
        let envelope = Envelope {
            letter: None,
            id: None,
            workflow: None,
            protocol: None,
            method: None,
            failure: Failure::new(Code::InvalidRequest, "x".repeat(10_000)),
            history: Vec::new(),
            worker: None,
            provider: None,
            output: Output::default(),
            replays: 0,
            died_at: Timestamp::default(),
            queue: "gleitzeit.tasks.echo.v1".to_owned(),
            original: Original::new(Bytes::from(vec![b'y'; 100_000]), Properties::default()),
        };
        let delivery = Delivery {
            queue: Queue::Dead(address.clone()),
            body: envelope.encode(),
            properties: Properties::default(),
            redelivered: false,
            deaths: Vec::new(),
            receipt: Box::new(Nothing),
        };
        let whole = Letter::of(delivery, &address, 0);
        assert!(whole.bytes > 110_000, "{}", whole.bytes);
        let slim = whole.slim();
        assert!((10_000..20_000).contains(&slim.bytes), "{}", slim.bytes);
    }
}
