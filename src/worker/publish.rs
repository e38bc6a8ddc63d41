//! What a delivery causes: released tasks, another attempt, dead letters, replies, events.
//!
//! Every publish here is confirmed before the delivery that caused it is settled; events are not.

use bytes::Bytes;
use serde_json::Value;
use std::time::Duration;

use super::Shared;
use super::elsewhere::{HEADER_ELSEWHERE, HEADER_STOPPED};
use super::execute::protocol_of;
use super::guard::{HEADER_CROWDED, HEADER_GUARD, HEADER_HELD};
use super::limit::HEADER_ADMITTED;
use super::patience::{Stop, insist};
use super::room::{HEADER_NOBODY, HEADER_ROOM};
use crate::broker::{Delivery, Outgoing, Properties, Target};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::Id;
use crate::core::state::TaskState;
use crate::store::{Message, Released};
use crate::topology::{Address, Queue, unrouted};
use crate::wire::envelope::{Envelope, HEADER_REPLAYS, Original, Output, replays};
use crate::wire::record::{Ending, Head};
use crate::wire::task::{self, Decoded, Reply, Task};
use crate::wire::{HEADER_READY, HEADER_ROOT, HEADER_RUN};

/// The largest dead letter, in bytes: below what RabbitMQ 4 takes by default.
const LETTER_BYTES_MAX: usize = 15 * 1024 * 1024;

/// What a dead letter is about, as far as it could be read.
#[derive(Debug, Default)]
pub(super) struct About {
    id: Option<Id>,
    workflow: Option<Id>,
    protocol: Option<String>,
    method: Option<String>,
}

impl From<Option<&Task>> for About {
    fn from(task: Option<&Task>) -> About {
        About {
            id: task.and_then(|task| task.id.clone()),
            workflow: task.and_then(|task| task.workflow.clone()),
            protocol: task.map(|task| task.spec.protocol.to_string()),
            method: task.map(|task| task.spec.method.clone()),
        }
    }
}

impl From<&Head> for About {
    fn from(head: &Head) -> About {
        About {
            id: Some(head.key.id().clone()),
            workflow: head.key.workflow().cloned(),
            protocol: Some(head.protocol.clone()),
            method: Some(head.method.clone()).filter(|method| !method.is_empty()),
        }
    }
}

impl About {
    /// A workflow that was refused.
    pub(super) fn workflow(id: Option<Id>) -> About {
        About { id, ..About::default() }
    }
}

/// What a dead letter tells of the attempts.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// One JSON object an attempt, oldest first.
    pub(super) history: Vec<String>,
    /// Who ran the last one.
    pub(super) provider: Option<String>,
}

impl Shared {
    /// Publishes until everything is confirmed.
    pub(super) async fn publish(&self, messages: Vec<Outgoing>) -> Result<(), Stop> {
        if messages.is_empty() {
            return Ok(());
        }
        let _waiting = self.publishing.wait();
        insist(&self.abort, "publish", || async {
            let published = self.parts.broker.publish(messages.clone()).await;
            if let Err(error) = &published {
                self.declare_what_is_gone(error).await;
            }
            published
        })
        .await?;
        self.publishing.beat();
        Ok(())
    }

    /// Publishes tasks that became ready.
    pub(super) async fn publish_released(&self, released: Vec<Released>) -> Result<(), Stop> {
        self.publish(released.into_iter().map(|one| self.ready(message_released(one))).collect()).await
    }

    /// The message, which is ready from now on, or when its delay is over.
    pub(super) fn ready(&self, mut message: Outgoing) -> Outgoing {
        let at = self.parts.clock.now().after(message.delay.unwrap_or_default());
        message.properties.set_ready(at);
        message
    }

    /// Puts a dead letter into the queue of the task's protocol.
    pub(super) async fn bury(
        &self,
        delivery: &Delivery,
        about: impl Into<About>,
        failure: &Failure,
        past: Past,
    ) -> Result<(), Stop> {
        self.bury_at(letters_of(delivery), delivery, about.into(), failure, past).await
    }

    /// What a dead letter tells of a task that ended without a run here: its history, as it is recorded.
    pub(super) async fn past_of(&self, head: &Head) -> Result<Past, Stop> {
        let record = insist(&self.abort, "task", || self.parts.store.task(&head.key)).await?;
        Ok(Past { history: record.map(|record| record.history).unwrap_or_default(), provider: None })
    }

    /// Puts a dead letter into the dead queue of `address`.
    pub(super) async fn bury_at(
        &self,
        address: Address,
        delivery: &Delivery,
        about: About,
        failure: &Failure,
        past: Past,
    ) -> Result<(), Stop> {
        tracing::info!(queue = %delivery.queue, code = %failure.code, message = %failure.message, "dead letter");
        let history: Vec<Value> =
            past.history.iter().filter_map(|entry| serde_json::from_str(entry).ok()).collect();
        let last_provider = || history.last()?.get("provider_id")?.as_str().map(str::to_owned);
        let About { id, workflow, protocol, method } = about;
        let sent = sent_with(delivery);
        let (message_id, priority) = (sent.message_id.clone(), sent.priority);
        let envelope = Envelope {
            letter: Some(self.parts.clock.new_id()),
            id,
            workflow,
            protocol,
            method,
            failure: failure.clone(),
            worker: Some(self.session.to_string()),
            provider: past.provider.or_else(last_provider),
            output: Output::of(failure),
            replays: replays(&history).saturating_add(replays_before(delivery)),
            history,
            died_at: self.parts.clock.now(),
            queue: came_from(delivery).name(),
            original: Original::new(delivery.body.clone(), sent),
        };
        let mut body = envelope.encode();
        if body.len() > LETTER_BYTES_MAX {
            // Text that JSON must escape may grow sixfold; the letter then tells of it, cut.
            body = Envelope { original: envelope.original.cut(), ..envelope }.encode();
        }
        let message = Outgoing {
            target: Target::Queue(Queue::Dead(address)),
            body,
            properties: Properties { message_id, priority, ..Properties::default() },
            delay: None,
        };
        self.publish(vec![message]).await
    }

    /// Sends the result document to whoever asked for a reply: the task's own, or in a workflow that has ended
    /// the workflow's. A reply that cannot be delivered fails nothing.
    pub(super) async fn reply(&self, task: &Task, document: Bytes) -> Result<(), Stop> {
        let (Some(reply), Some(id)) = (&task.reply, &task.id) else { return Ok(()) };
        let Some(workflow) = &task.workflow else {
            return self.reply_to(reply, Some(id.to_string()), document).await;
        };
        let read = || self.parts.store.outcome(workflow);
        match insist(&self.abort, "outcome", read).await? {
            Some(document) => self.reply_to(reply, Some(workflow.to_string()), document).await,
            None => Ok(()),
        }
    }

    /// Sends a document to a reply queue.
    pub(super) async fn reply_to(
        &self,
        reply: &Reply,
        id: Option<String>,
        document: Bytes,
    ) -> Result<(), Stop> {
        let message = Outgoing {
            target: Target::Reply(reply.to.clone()),
            body: document,
            properties: Properties {
                message_id: id,
                correlation_id: reply.correlation_id.clone(),
                ..Properties::default()
            },
            delay: None,
        };
        match self.publish(vec![message]).await {
            Err(Stop::Broken { message, .. }) => {
                tracing::warn!(reply_to = %reply.to, error = %message, "a reply could not be sent");
                Ok(())
            }
            other => other,
        }
    }

    /// What to do with a delivery that no step can bring to its end: its task ends where it can be read, and a
    /// dead letter tells why, so that nothing loops and nobody waits for ever.
    pub(super) async fn bury_broken(
        &self,
        delivery: &Delivery,
        code: Code,
        message: &str,
    ) -> Result<(), Stop> {
        tracing::error!(queue = %delivery.queue, %code, message, "a delivery cannot be brought to its end");
        let failure = Failure::new(code, message).final_now();
        let protocol = protocol_of(&delivery.queue);
        let decoded = match &delivery.queue {
            Queue::Tasks(_) => task::decode(&delivery.body, &delivery.properties, &protocol).ok(),
            Queue::Workflows | Queue::Dead(_) | Queue::Inbox => None,
        };
        let Some(Decoded::Task(task)) = decoded else {
            return self.bury(delivery, About::default(), &failure, Past::default()).await;
        };
        if let Some(head) = task.head() {
            let recorded = self.end_unrun(delivery, &head, Some(&task), TaskState::Failed, &failure).await;
            match recorded {
                Ok(_) => {}
                Err(stop @ (Stop::Aborted | Stop::Crowded)) => return Err(stop),
                Err(stop @ Stop::Broken { .. }) => {
                    tracing::error!(task = %head.key, ?stop, "its end cannot be recorded either");
                }
            }
        }
        // The store may be what is broken: the letter does not wait for what it says.
        self.bury(delivery, Some(&*task), &failure, Past::default()).await
    }
}

/// Whose dead queue has the letter of what died in this queue.
pub(super) fn letters_of(delivery: &Delivery) -> Address {
    match &delivery.queue {
        Queue::Tasks(address) | Queue::Dead(address) => address.clone(),
        Queue::Workflows | Queue::Inbox => unrouted(),
    }
}

/// What its sender gave the message beside its body. One that was put in front of others for another look has its own
/// priority in the body.
fn sent_with(delivery: &Delivery) -> Properties {
    let mut sent = delivery.properties.clone();
    sent.headers.remove(HEADER_ADMITTED);
    sent.headers.remove(HEADER_READY);
    sent.headers.remove(HEADER_NOBODY);
    sent.headers.remove(HEADER_STOPPED);
    let ours = [HEADER_HELD, HEADER_GUARD, HEADER_ROOM].map(|name| sent.headers.remove(name));
    let was_put_first = ours.iter().any(Option::is_some);
    let protocol = protocol_of(&came_from(delivery));
    if was_put_first
        && let Ok(Decoded::Task(task)) = task::decode(&delivery.body, &delivery.properties, &protocol)
        && let Some(priority) = task.priority()
    {
        sent.priority = Some(priority);
    }
    sent
}

/// Of a task whose record was over when it was sent again.
fn replays_before(delivery: &Delivery) -> u32 {
    delivery.properties.headers.get(HEADER_REPLAYS).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The queue that the message died in: the broker may have moved it from there to the inbox.
pub(super) fn came_from(delivery: &Delivery) -> Queue {
    let moved_from = delivery.deaths.first().and_then(|death| Queue::from_name(&death.queue));
    match &delivery.queue {
        Queue::Inbox => moved_from.unwrap_or(Queue::Inbox),
        Queue::Tasks(_) | Queue::Workflows | Queue::Dead(_) => delivery.queue.clone(),
    }
}

/// The task's document from its ending.
pub(super) fn document(ending: &Ending, head: &Head) -> Bytes {
    ending.document(head).into()
}

/// The task's message, made from its delivery: headers and reply address stay.
pub(super) fn message_of(delivery: &Delivery, task: &Task, delay: Option<Duration>) -> Outgoing {
    let mut message = again(delivery, delay);
    for ours in [
        HEADER_HELD,
        HEADER_GUARD,
        HEADER_CROWDED,
        HEADER_ELSEWHERE,
        HEADER_STOPPED,
        HEADER_ADMITTED,
        HEADER_ROOM,
        HEADER_NOBODY,
    ] {
        message.properties.headers.remove(ours);
    }
    message.body = task::encode(task);
    message.properties.message_id = task.id.as_ref().map(Id::to_string);
    if let Some(priority) = task.priority() {
        message.properties.priority = Some(priority);
    }
    if let Some(workflow) = &task.workflow {
        message.properties.headers.insert(HEADER_ROOT.to_owned(), workflow.to_string());
    }
    message
}

/// The run that the delivery's message is of.
pub(super) fn run_of(delivery: &Delivery) -> u32 {
    let told = delivery.properties.headers.get(HEADER_RUN);
    told.and_then(|run| run.parse().ok()).unwrap_or(1)
}

/// The same message once more, as it came.
pub(super) fn again(delivery: &Delivery, delay: Option<Duration>) -> Outgoing {
    Outgoing {
        target: Target::Queue(delivery.queue.clone()),
        body: delivery.body.clone(),
        properties: delivery.properties.clone(),
        delay,
    }
}

fn message_released(released: Released) -> Outgoing {
    let Released { key, message: Message { address, priority, body }, run } = released;
    let properties = Properties::of_released(&key, priority, run);
    Outgoing { target: Target::Queue(Queue::Tasks(address)), body, properties, delay: None }
}
