//! What ends without a run: messages that cannot be understood, and messages that the broker ended by itself.
//!
//! Where the task's id can be read, the end is recorded as any other, so that whoever waits for the result
//! learns of it and dependents are resolved. In every case a dead letter tells the reason.

use bytes::Bytes;

use super::Shared;
use super::execute::{protocol_of, settle};
use super::guard::{HELD_LOOKS, may_have_been_cut};
use super::lease::{Purpose, Taken};
use super::patience::{Stop, insist};
use super::publish::{About, Past, again, came_from, document, letters_of, message_of, run_of};
use super::session::BEAT_EVERY;
use crate::broker::{BrokerError, Death, Delivery, Outgoing, Target};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::priority::Priority;
use crate::core::protocol::ProtocolId;
use crate::core::state::{TaskState, WorkflowState};
use crate::store::{Claimed, End, Finished, Message};
use crate::topology::{Address, Queue, lane, unrouted};
use crate::wire::inbox;
use crate::wire::record::{Ending, Head};
use crate::wire::task::{self, Decoded, Refused, Reply, TASK_BYTES_MAX, Task};

impl Shared {
    /// Brings one delivery of the dead inbox to its end and settles it.
    pub(super) async fn inbox(&self, delivery: Delivery) {
        let settlement = self.settlement_of(&delivery, self.ended_by_broker(&delivery).await).await;
        settle(delivery, settlement).await;
    }

    async fn ended_by_broker(&self, delivery: &Delivery) -> Result<(), Stop> {
        let death = delivery.deaths.first();
        if let Some(address) = death.and_then(lost_lane) {
            // Delayed, or sent by others, to a lane that is gone: its protocol's queue takes it.
            let target = Target::Queue(Queue::Tasks(address));
            let message = Outgoing { target, ..again(delivery, None) };
            let publish = async || match self.parts.broker.publish(vec![message.clone()]).await {
                // Nobody has such a protocol: it ends as whatever cannot be routed.
                Err(BrokerError::Unroutable { .. }) => Ok(false),
                published => published.map(|()| true),
            };
            if insist(&self.abort, "publish", publish).await? {
                return Ok(());
            }
        }
        let (state, failure) = verdict_of(death);
        if death.is_some_and(|death| death.queue == Queue::Workflows.name()) {
            return self.workflow_ended_by_broker(delivery, failure).await;
        }
        let is_known = |address: &Address| {
            let protocol = ProtocolId::from_routing(address.as_str()).ok();
            protocol.is_some_and(|id| self.parts.protocols.get(&id).is_some())
        };
        let address = death.and_then(origin).filter(is_known).unwrap_or_else(unrouted);
        let protocol = protocol_of(&Queue::Dead(address.clone()));
        let (task, head, reply) = match task::decode(&delivery.body, &delivery.properties, &protocol) {
            Ok(Decoded::Task(task)) => (Some((*task).clone()), task.head(), task.reply),
            Ok(Decoded::Newer { .. }) => (None, None, None),
            Err(refused) => (None, refused.head, refused.reply),
        };
        let Some(head) = head else {
            return self.bury_at(address, delivery, task.as_ref().into(), &failure, Past::default()).await;
        };
        let unrun = self.end_unrun(delivery, &head, task.as_ref(), state, &failure).await?;
        self.bury_unrun(delivery, address, &head, unrun, &failure, reply.as_ref()).await
    }

    /// Answers who waits for what has ended without a run, and buries its message. One of a run before the present
    /// one is no dead letter, whatever it died of: that run has messages of its own, and nothing is lost.
    async fn bury_unrun(
        &self,
        delivery: &Delivery,
        address: Address,
        head: &Head,
        unrun: Unrun,
        failure: &Failure,
        reply: Option<&Reply>,
    ) -> Result<(), Stop> {
        if matches!(unrun, Unrun::Superseded) {
            tracing::info!(task = %head.key, code = %failure.code, "a message of a run before the present one came to nothing; nothing is lost with it");
            return Ok(());
        }
        self.answer(unrun, reply, head).await?;
        let past = self.past_of(head).await?;
        self.bury_at(address, delivery, head.into(), failure, past).await
    }

    /// A workflow ends with the broker's reason; a command is carried out all the same, late.
    async fn workflow_ended_by_broker(&self, delivery: &Delivery, failure: Failure) -> Result<(), Stop> {
        match inbox::decode(&delivery.body, &delivery.properties, &self.parts.protocols) {
            Ok(inbox::Decoded::Command(command)) => self.command(&command).await,
            Ok(inbox::Decoded::Schedule(order)) => self.order(delivery, order).await,
            Ok(inbox::Decoded::Workflow(message)) => {
                let (id, name) = (message.workflow.id, message.workflow.name);
                let refused = inbox::Refused { id, name, reply: message.reply, failure };
                self.refuse_workflow(delivery, refused).await
            }
            Ok(inbox::Decoded::Newer { id, .. }) => {
                let refused = inbox::Refused { id, name: String::new(), reply: None, failure };
                self.refuse_workflow(delivery, refused).await
            }
            Err(refused) => self.refuse_workflow(delivery, *refused).await,
        }
    }

    /// A task message that cannot be understood: ends its task where the id can be read, and dies.
    pub(super) async fn refuse(&self, delivery: &Delivery, refused: Refused) -> Result<(), Stop> {
        let Refused { head, reply, failure } = refused;
        if let Some(head) = head {
            let unrun = self.end_unrun(delivery, &head, None, TaskState::Failed, &failure).await?;
            let address = letters_of(delivery);
            return self.bury_unrun(delivery, address, &head, unrun, &failure, reply.as_ref()).await;
        }
        if let Some(reply) = reply {
            let body = serde_json::json!({"status": "failed", "error": failure}).to_string();
            self.reply_to(&reply, None, body.into()).await?;
        }
        self.bury(delivery, About::default(), &failure, Past::default()).await
    }

    /// Records the end of a task that never ran, and publishes what it released. A task that really runs is
    /// left to who runs it; one that has another attempt to come gets that one.
    pub(super) async fn end_unrun(
        &self,
        delivery: &Delivery,
        head: &Head,
        task: Option<&Task>,
        state: TaskState,
        failure: &Failure,
    ) -> Result<Unrun, Stop> {
        let attempt = task.map_or(1, |task| task.attempt);
        let Some(_entered) = self.running.enter(&head.key, self.abort.child_token()) else {
            return Ok(Unrun::Left);
        };
        let mut looks = 0;
        let run = loop {
            match self.lease(head, run_of(delivery), attempt, Vec::new(), None, Purpose::End).await? {
                Taken::Run(run) => break run,
                Taken::Held(_) if looks < HELD_LOOKS || !self.heart.can_tell() => {
                    looks += 1;
                    tokio::select! {
                        () = tokio::time::sleep(BEAT_EVERY) => {}
                        () = self.abort.cancelled() => return Err(Stop::Aborted),
                    }
                }
                Taken::Held(_) => return Ok(Unrun::Left),
                Taken::Crowded { .. } => return Err(Stop::Crowded),
                Taken::Other(Claimed::Over { released, .. }) => {
                    self.publish_released(released).await?;
                    return self.ended_before(delivery, head, task).await;
                }
                Taken::Other(Claimed::Next { attempt, due }) => {
                    if let Some(task) = task {
                        let next = Task { attempt, ..task.clone() };
                        let wait = due.since(self.parts.clock.now());
                        self.publish(vec![self.ready(message_of(delivery, &next, Some(wait)))]).await?;
                    }
                    return Ok(Unrun::Left);
                }
                // Nobody else may bring it up again.
                Taken::Other(Claimed::NotReady { released }) => {
                    self.publish_released(released).await?;
                    return Ok(Unrun::Left);
                }
                Taken::Other(Claimed::Superseded) => return Ok(Unrun::Superseded),
                Taken::Other(_) => return Ok(Unrun::Left),
            }
        };
        // An end after attempts of this run is told as the last of them: one told as attempt 0 begins a run.
        let attempts = if run.lease.attempt > 1 { run.lease.attempt } else { 0 };
        let ending =
            Ending { attempts, ..Ending::unrun(state, Some(failure.clone()), self.parts.clock.now()) };
        let document = document(&ending, head);
        let end = End::Ended {
            state,
            document: document.clone(),
            keep: true,
            ttl: self.settings.result_ttl,
            entry: super::outcome::entry(&ending),
            retry: match task {
                Some(task) => super::outcome::retry_message(task, state),
                None => message_as_it_was(delivery, head),
            },
        };
        let finish = || self.parts.store.finish(&run.lease, &end, self.parts.clock.now());
        let Finished::Done { released, ended, workflow } = insist(&self.abort, "finish", finish).await?
        else {
            // Somebody else has recorded an end, or carries it on. If nobody does, a failover of the store has
            // lost the lease: the message goes back, and the end is recorded when it comes again.
            if self.is_forgotten(head).await? {
                tracing::warn!(task = %head.key, "the store has lost this lease; giving the message back");
                return Err(Stop::Aborted);
            }
            return Ok(Unrun::Left);
        };
        self.publish_released(released).await?;
        if workflow.is_some_and(WorkflowState::is_ended) {
            // In a workflow the reply is for the workflow's end, which this is.
            self.answer_again(&head.key.root, task.and_then(|task| task.reply.as_ref())).await?;
        }
        for event in self.events_of_end(head, state, &ended, workflow) {
            self.tell(&event);
        }
        Ok(Unrun::Ended(document))
    }

    /// The end is recorded already. If an earlier delivery may have been cut short after it had done that, nobody
    /// may have been answered: the document is for whoever waits for a task on its own, as if it ended here.
    async fn ended_before(
        &self,
        delivery: &Delivery,
        head: &Head,
        task: Option<&Task>,
    ) -> Result<Unrun, Stop> {
        if !may_have_been_cut(delivery) {
            return Ok(Unrun::Left);
        }
        if head.key.task.is_some() {
            self.answer_again(&head.key.root, task.and_then(|task| task.reply.as_ref())).await?;
            return Ok(Unrun::Left);
        }
        let document = insist(&self.abort, "result", || self.parts.store.result(&head.key)).await?;
        Ok(document.map_or(Unrun::Left, Unrun::Ended))
    }

    async fn answer(&self, unrun: Unrun, reply: Option<&Reply>, head: &Head) -> Result<(), Stop> {
        match (unrun, reply) {
            // Within a workflow nobody waits for one task.
            (Unrun::Ended(document), Some(reply)) if head.key.task.is_none() => {
                self.reply_to(reply, Some(head.key.id().to_string()), document).await
            }
            _ => Ok(()),
        }
    }
}

/// What came of a message that ends without a run.
#[derive(Debug)]
pub(super) enum Unrun {
    /// It has ended its task, with this document.
    Ended(Bytes),
    /// It is of a run before the present one, which has messages of its own.
    Superseded,
    /// The task has ended before, or its end is left to others.
    Left,
}

/// What a replay publishes of a task on its own that could not be read: a newer worker may know it.
fn message_as_it_was(delivery: &Delivery, head: &Head) -> Option<Message> {
    let Queue::Tasks(address) = came_from(delivery) else { return None };
    if head.key.task.is_some() || delivery.body.len() > TASK_BYTES_MAX {
        return None;
    }
    let priority = delivery.properties.priority.unwrap_or_else(|| Priority::NORMAL.number());
    Some(Message { address, priority, body: delivery.body.clone() })
}

/// The protocol whose queue the message was in, or was meant for.
fn origin(death: &Death) -> Option<Address> {
    match Queue::from_name(&death.queue) {
        Some(Queue::Tasks(address)) => Some(address),
        Some(Queue::Workflows | Queue::Dead(_) | Queue::Inbox) | None => {
            Address::parse(&death.routing_key).ok()
        }
    }
}

/// The protocol of a lane that was not there.
fn lost_lane(death: &Death) -> Option<Address> {
    let (address, _) = lane::from_route(&death.routing_key).filter(|_| death.reason == "unroutable")?;
    Some(address)
}

/// What the broker's reason means for the task.
fn verdict_of(death: Option<&Death>) -> (TaskState, Failure) {
    let Some(death) = death else {
        let failure = Failure::new(Code::InvalidRequest, "published to the dead inbox by hand");
        return (TaskState::Failed, failure);
    };
    match death.reason.as_str() {
        "expired" => {
            let text = format!("expired in queue {} before a worker took it", death.queue);
            (TaskState::Expired, Failure::new(Code::TaskExpired, text))
        }
        "unroutable" => {
            let text = format!(
                "no queue takes messages with routing key {:?} (exchange {:?}); is the protocol's name right, and was its topology applied?",
                death.routing_key, death.exchange
            );
            (TaskState::Failed, Failure::new(Code::ProtocolNotFound, text))
        }
        "maxlen" => {
            let text = format!("queue {} was at its length limit; remove the limit", death.queue);
            (TaskState::Failed, Failure::new(Code::QueueFull, text))
        }
        reason => {
            let text = format!("the broker gave up on it in queue {} ({reason})", death.queue);
            (TaskState::Failed, Failure::new(Code::WorkerLost, text).final_now())
        }
    }
}
