//! What ends without a run: messages that cannot be understood, and messages that the broker ended by itself.
//!
//! Where the task's id can be read, the end is recorded as any other, so that whoever waits for the result
//! learns of it and dependents are resolved. In every case a dead letter tells the reason.

use super::Shared;
use super::execute::{protocol_of, settle};
use super::patience::{Stop, insist};
use super::publish::{Past, document};
use crate::broker::{Death, Delivery};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::Id;
use crate::core::protocol::ProtocolId;
use crate::core::state::TaskState;
use crate::store::{Claim, Claimed, End, Fence, Finished};
use crate::topology::{Address, Queue, unrouted};
use crate::wire::record::{Ending, Head};
use crate::wire::task::{self, Decoded, Refused, Reply};

impl Shared {
    /// Brings one delivery of the dead inbox to its end and settles it.
    pub(super) async fn inbox(&self, delivery: Delivery) {
        let settlement = self.settlement_of(&delivery, self.ended_by_broker(&delivery).await).await;
        settle(delivery, settlement).await;
    }

    async fn ended_by_broker(&self, delivery: &Delivery) -> Result<(), Stop> {
        let death = delivery.deaths.first();
        let (state, failure) = verdict_of(death);
        let is_known = |address: &Address| {
            let protocol = ProtocolId::from_routing(address.as_str()).ok();
            protocol.is_some_and(|id| self.parts.protocols.get(&id).is_some())
        };
        let address = death.and_then(origin).filter(is_known).unwrap_or_else(unrouted);
        let protocol = protocol_of(&Queue::Dead(address.clone()));
        let task = match task::decode(&delivery.body, &delivery.properties, &protocol) {
            Ok(Decoded::Task(task)) => Some(*task),
            Ok(Decoded::Newer { .. }) => None,
            Err(refused) => {
                if let Some(head) = &refused.head {
                    self.end_unrun(head, 1, state, &failure, refused.reply.as_ref()).await?;
                }
                None
            }
        };
        if let Some(task) = &task
            && let Some(head) = task.head()
        {
            self.end_unrun(&head, task.attempt, state, &failure, task.reply.as_ref()).await?;
        }
        self.bury_at(address, delivery, task.as_ref(), &failure, Past::default()).await
    }

    /// A task message that cannot be understood: ends its task where the id can be read, and dies.
    pub(super) async fn refuse(&self, delivery: &Delivery, refused: Refused) -> Result<(), Stop> {
        let Refused { head, reply, failure } = refused;
        match &head {
            Some(head) => self.end_unrun(head, 1, TaskState::Failed, &failure, reply.as_ref()).await?,
            None => {
                if let Some(reply) = &reply {
                    let body = serde_json::json!({"status": "failed", "error": failure}).to_string();
                    self.reply_to(reply, None, body.into()).await?;
                }
            }
        }
        self.bury(delivery, None, &failure, Past::default()).await
    }

    /// Records the end of a task that never ran, publishes what it released, answers who waits.
    /// A task that is running, or that has another attempt to come, is left to it.
    async fn end_unrun(
        &self,
        head: &Head,
        attempt: u32,
        state: TaskState,
        failure: &Failure,
        reply: Option<&Reply>,
    ) -> Result<(), Stop> {
        let mut over: Option<Fence> = None;
        loop {
            let (head, session, inputs) = (head.clone(), self.session.clone(), Vec::<Id>::new());
            let claim = Claim { head, attempt, session, over, inputs };
            let claimed = || self.parts.store.claim(&claim, self.parts.clock.now());
            let lease = match insist(&self.abort, "claim", claimed).await? {
                Claimed::Run { lease, .. } => lease,
                Claimed::Held { session, fence } => {
                    let now = self.parts.clock.now();
                    let alive =
                        insist(&self.abort, "alive", || self.parts.store.alive(&session, now)).await?;
                    if alive {
                        return Ok(());
                    }
                    over = Some(fence);
                    continue;
                }
                Claimed::Over { released, .. } => return self.publish_released(released).await,
                Claimed::NotReady | Claimed::Next { .. } | Claimed::NoWorkflow => return Ok(()),
            };
            let ending = Ending::unrun(state, Some(failure.clone()), self.parts.clock.now());
            let document = document(&ending, &claim.head);
            let end = End::Ended {
                state,
                document: document.clone(),
                keep: true,
                ttl: self.settings.result_ttl,
                entry: super::outcome::entry(&ending),
            };
            let finish = || self.parts.store.finish(&lease, &end, self.parts.clock.now());
            let Finished::Done { released, .. } = insist(&self.abort, "finish", finish).await? else {
                return Ok(());
            };
            self.publish_released(released).await?;
            return match reply {
                Some(reply) => self.reply_to(reply, Some(claim.head.key.id().to_string()), document).await,
                None => Ok(()),
            };
        }
    }
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
