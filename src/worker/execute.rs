//! The life of one task delivery, told once.
//!
//! decode ▸ admit (id, version, due) ▸ room ▸ limits ▸ claim ▸ attempt (fill, validate, call, check) ▸ judge ▸ finish ▸
//! publish ▸ settle
//!
//! A crash anywhere leaves the delivery unsettled; it comes again, `claim` tells how far it had come, and the
//! publish is repeated. Nothing is settled before what it caused is confirmed.

use serde_json::Value;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

use super::Shared;
use super::guard::{Begun, Held, Hold, crowded, header, is_submission, may_have_been_cut};
use super::lease::{Purpose, Run, Taken};
use super::limit::{Entry, HEADER_ADMITTED, used_of};
use super::outcome::Verdict;
use super::patience::{Stop, insist};
use super::places::{Place, seat};
use super::publish::{Past, document, message_of, run_of};
use super::room::Room;
use crate::broker::{BrokerError, DELAY_MAX, Delivery, Receipt, Settlement};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::TaskKey;
use crate::core::protocol::ProtocolId;
use crate::core::state::{TaskState, WorkflowState};
use crate::provider::limit::Used;
use crate::store::{Claimed, Finished, Released};
use crate::topology::{Queue, unrouted};
use crate::wire::event::Event;
use crate::wire::record::Head;
use crate::wire::task::{self, Decoded, Task};

/// The pause before a delivery that nothing could be done about is given back.
const RELEASE_PAUSE: Duration = Duration::from_secs(5);

impl Shared {
    /// Brings one task delivery to its end, settles it, and only then tells of it. `place` is held until then.
    pub(super) async fn execute(&self, delivery: Delivery, place: Option<Place>) {
        let mut events = Vec::new();
        let seats = place.as_ref().map(Place::seats);
        let (delivery, mut hold) = Hold::new(delivery, place);
        let begun = Begun::default();
        let story = self.live(&delivery, seats, &begun, &mut events);
        let story = self.guarding(&delivery, &mut hold, &begun, story).await;
        if story == Err(Stop::Crowded) {
            // It goes to another worker, and nothing else comes to wait here in its place.
            hold.close().await;
        }
        let settlement = self.settlement_of(&delivery, story).await;
        hold.settle(settlement).await;
        events.iter().for_each(|event| self.tell(event));
    }

    /// The story. `Ok` means: everything that this delivery had to cause is recorded and confirmed.
    async fn live(
        &self,
        delivery: &Delivery,
        seats: Option<Arc<Semaphore>>,
        begun: &Begun,
        events: &mut Vec<Event>,
    ) -> Result<(), Stop> {
        let protocol = protocol_of(&delivery.queue);
        let task = match task::decode(&delivery.body, &delivery.properties, &protocol) {
            Ok(Decoded::Task(task)) => *task,
            Ok(Decoded::Newer { v, id }) => return self.park_newer(delivery, v, id).await,
            Err(refused) => return self.refuse(delivery, *refused).await,
        };
        let Some((task, head)) = self.admit(delivery, task).await? else { return Ok(()) };
        let cancel = self.abort.child_token();
        let Some(entered) = self.running.enter(&head.key, cancel.clone()) else {
            return self.publish_held(delivery, &task, self.running.held(&head.key)).await;
        };
        let room = match self.room(delivery, &task, &head.key).await? {
            Room::Parked => return Ok(()),
            room @ (Room::Taken(_) | Room::Later) => room,
        };
        let permits = match self.within_limits(delivery, &task, &head.key).await? {
            Entry::Go(permits) => permits,
            Entry::Parked => return Ok(()),
        };
        let mut used = Used::Nothing;
        let story = async {
            let _seat = match seats {
                Some(seats) => Some(seat(seats, &self.abort).await?),
                None => None,
            };
            let purpose = Purpose::Execute { crowded: crowded(delivery) };
            let (of, inputs) = (run_of(delivery), task.needs());
            let run = match self.lease(&head, of, task.attempt, inputs, task::digest(&task), purpose).await? {
                Taken::Run(run) => run.of(delivery.properties.ready_at()),
                Taken::Held(fence) => {
                    return self.publish_held(delivery, &task, Held::Elsewhere(fence)).await;
                }
                Taken::Crowded { attempt } => return self.publish_crowded(delivery, &task, attempt).await,
                Taken::Other(_) if self.is_needless(delivery).await? => return Ok(()),
                Taken::Other(claimed) => return self.follow(delivery, &task, &head, claimed).await,
            };
            begun.under(&run.lease);
            self.begin(&entered, run.lease.fence, &cancel).await?;
            // Large; every delivery would have room for one, also while it waits.
            let attempt = Box::pin(self.attempt(delivery, &task, &head, &run, room, cancel)).await?;
            used = used_of(&attempt);
            let verdict = self.judge(&task, &run, attempt, self.has_searched(delivery));
            self.conclude(delivery, &task, &head, &run, verdict, events).await
        };
        let told = story.await;
        if told.is_err() && header(delivery, HEADER_ADMITTED).is_some() {
            // The message may come again with what it carries.
            used = Used::Reserve;
        }
        self.parts.providers.limits().settle(permits, used).await;
        told
    }

    /// Deals with what may happen to a task before anybody claims it. `None`: it is dealt with.
    async fn admit(&self, delivery: &Delivery, task: Task) -> Result<Option<(Task, Head)>, Stop> {
        let Some(head) = task.head() else {
            // Published again under an id of its own, so that a redelivery is recognised as the same task.
            let id = self.parts.clock.new_id();
            tracing::info!(task = %id, "a task without an id gets one");
            let task = Task { id: Some(id), ..task };
            self.publish(vec![message_of(delivery, &task, None)]).await?;
            return Ok(None);
        };
        let now = self.parts.clock.now();
        if let Some(due) = task.spec.not_before.filter(|due| *due > now) {
            // Longer than the broker can wait: it waits as long as it can, and comes back here.
            let wait = due.since(now).min(DELAY_MAX);
            self.publish(vec![self.ready(message_of(delivery, &task, Some(wait)))]).await?;
            return Ok(None);
        }
        Ok(Some((task, head)))
    }

    /// There is nothing to run: does again what an earlier delivery may not have come to.
    async fn follow(
        &self,
        delivery: &Delivery,
        task: &Task,
        head: &Head,
        claimed: Claimed,
    ) -> Result<(), Stop> {
        match claimed {
            Claimed::Next { attempt, due } => {
                let next = Task { attempt, ..task.clone() };
                let wait = due.since(self.parts.clock.now());
                self.publish(vec![self.ready(message_of(delivery, &next, Some(wait)))]).await
            }
            // Whoever sent it waits for an answer, and the end of the present run is one.
            Claimed::Superseded if task.reply.is_some() && is_submission(delivery, task) => {
                self.publish_held(delivery, task, Held::Unknown).await
            }
            Claimed::Superseded => {
                tracing::info!(task = %head.key, "a message of a run before the present one; it runs nothing");
                Ok(())
            }
            Claimed::Over { released, differs, .. } => {
                if differs {
                    tracing::warn!(task = %head.key, "another task came first under the same idempotency key; this one is not run");
                }
                self.publish_released(released).await?;
                self.repeat_end(delivery, task, head).await
            }
            // Its children may not have been published: an earlier delivery planned them.
            Claimed::NotReady { released } => self.publish_released(released).await,
            Claimed::NoWorkflow => {
                let text = format!("workflow {} is not known; submit it before its tasks", head.key.root);
                let failure = Failure::new(Code::WorkflowNotFound, text);
                self.bury(delivery, Some(task), &failure, Past::default()).await
            }
            Claimed::LostRun { present } => {
                let (run, workflow) = (run_of(delivery), &head.key.root);
                let text = format!(
                    "the store has lost a retry of workflow {workflow}: this message is of run {run}, the store knows of run {present} as the last one; `gleitzeit retry {workflow}` or a replay of this letter retries it again"
                );
                let failure = Failure::new(Code::WorkflowInvalidState, text).final_now();
                self.bury(delivery, Some(task), &failure, Past::default()).await
            }
            // Dealt with before it comes here.
            Claimed::Run { .. } | Claimed::Held { .. } => Ok(()),
        }
    }

    /// Records the verdict, publishes what it caused.
    async fn conclude(
        &self,
        delivery: &Delivery,
        task: &Task,
        head: &Head,
        run: &Run,
        verdict: Verdict,
        events: &mut Vec<Event>,
    ) -> Result<(), Stop> {
        let end = self.end_of(head, task, &verdict);
        let step = || self.parts.store.finish(&run.lease, &end, self.parts.clock.now());
        let finished = match verdict {
            Verdict::NotNow { .. }
            | Verdict::Elsewhere { .. }
            | Verdict::NoRoom { .. }
            | Verdict::Abandoned => self.give_back(&run.lease).await?,
            Verdict::Ended { .. } | Verdict::Again { .. } | Verdict::Expanded(_) => {
                insist(&self.abort, "finish", step).await?
            }
        };
        let (released, ended, workflow) = match finished {
            Finished::Done { released, ended, workflow } => (released, ended, workflow),
            Finished::Lost => {
                if self.is_forgotten(head).await? {
                    tracing::warn!(task = %head.key, "the store has lost this attempt; giving its message back");
                    return Err(Stop::Aborted);
                }
                tracing::info!(task = %head.key, "the lease was lost; this worker's result is dropped");
                return self.repeat_end(delivery, task, head).await;
            }
        };
        self.count(task, &verdict);
        match &verdict {
            Verdict::Abandoned => return Err(Stop::Aborted),
            Verdict::NotNow { wait, why } => {
                tracing::debug!(task = %head.key, why, "no provider can be asked now");
                let next = Task { attempt: run.lease.attempt, ..task.clone() };
                self.wait_for_providers(delivery, next, *wait).await?;
            }
            Verdict::Elsewhere { failure } => {
                tracing::info!(task = %head.key, %failure, "left to another worker");
                let next = Task { attempt: run.lease.attempt, ..task.clone() };
                self.search(delivery, next).await?;
            }
            Verdict::NoRoom { why, nobody_since } => {
                tracing::debug!(task = %head.key, why, "waits for room");
                let next = Task { attempt: run.lease.attempt, ..task.clone() };
                self.wait_for_room(delivery, &next, &head.key, *nobody_since).await?;
            }
            Verdict::Expanded(expansion) => {
                // Others first: once the children have ended, nobody asks again what this step has released.
                let own: HashSet<&TaskKey> = expansion.tasks.iter().map(|task| &task.head.key).collect();
                let (children, others) =
                    released.into_iter().partition(|one: &Released| own.contains(&one.key));
                self.publish_released(others).await?;
                self.publish_released(children).await?;
            }
            Verdict::Again { wait, .. } => {
                let next = Task { attempt: run.lease.attempt + 1, ..task.clone() };
                self.publish(vec![self.ready(message_of(delivery, &next, Some(*wait)))]).await?;
            }
            Verdict::Ended { ending, entry, .. } => {
                self.publish_released(released).await?;
                if let Some(failure) = &ending.error {
                    let mut history = run.history.clone();
                    history.push(entry.clone());
                    let past = Past { history, provider: ending.provider_id.clone() };
                    self.bury(delivery, Some(task), failure, past).await?;
                }
                // In a workflow only the step that ended it answers, so that there is one answer.
                if task.workflow.is_none() || workflow.is_some_and(WorkflowState::is_ended) {
                    self.reply(task, document(ending, head)).await?;
                }
            }
        }
        events.extend(self.events_of(head, run, &verdict, &ended, workflow));
        Ok(())
    }

    /// After a lost lease: whether nobody else carries the task on, because a failover of the store has lost the
    /// claim. Giving the message back once too often does no harm: `claim` ends a second chain.
    pub(super) async fn is_forgotten(&self, head: &Head) -> Result<bool, Stop> {
        let record = insist(&self.abort, "task", || self.parts.store.task(&head.key)).await?;
        let Some(record) = record else { return Ok(true) };
        let (TaskState::Running, Some(session)) = (record.state, record.session) else {
            return Ok(!record.state.is_ended());
        };
        let now = self.parts.clock.now();
        Ok(!insist(&self.abort, "alive", || self.parts.store.alive(&session, now)).await?)
    }

    /// The end was recorded by a delivery that was not settled, or by somebody else: what follows the record is
    /// done again.
    async fn repeat_end(&self, delivery: &Delivery, task: &Task, head: &Head) -> Result<(), Stop> {
        let read = || self.parts.store.task(&head.key);
        let Some(record) = insist(&self.abort, "task", read).await? else { return Ok(()) };
        if !record.state.is_ended() {
            return Ok(());
        }
        // A second message for a task that has ended is no crash: it gets its reply, but no dead letter. Within
        // a workflow it gets neither: who ended the workflow answers.
        if task.workflow.is_some() && !may_have_been_cut(delivery) {
            return Ok(());
        }
        let may_lack_letter =
            matches!(record.state, TaskState::Failed | TaskState::Expired) && may_have_been_cut(delivery);
        let read = || self.parts.store.result(&head.key);
        let document = insist(&self.abort, "result", read).await?;
        if may_lack_letter {
            // The history has it without what it printed; the document may not be kept.
            let told = |text: &[u8]| serde_json::from_slice::<Value>(text).ok();
            let whole = document.as_deref().and_then(told);
            let last = record.history.last().and_then(|entry| told(entry.as_bytes()));
            let failure =
                whole.or(last).as_ref().and_then(|told| told.get("error")).and_then(Failure::from_json);
            if let Some(failure) = failure {
                let past = Past { history: record.history, provider: None };
                self.bury(delivery, Some(task), &failure, past).await?;
            }
        }
        match document {
            Some(document) => self.reply(task, document).await,
            None => Ok(()),
        }
    }

    /// What a delivery's story means for its settlement. What can never be done as it is ends with its reason
    /// recorded and as a dead letter; where even that fails, it is given back after a pause.
    pub(super) async fn settlement_of(&self, delivery: &Delivery, story: Result<(), Stop>) -> Settlement {
        let (code, message) = match story {
            Ok(()) => return Settlement::Done,
            Err(Stop::Aborted | Stop::Crowded) => return Settlement::Release,
            Err(Stop::Broken { code, message }) => (code, message),
        };
        if self.bury_broken(delivery, code, &message).await.is_ok() {
            return Settlement::Done;
        }
        tokio::select! {
            () = tokio::time::sleep(RELEASE_PAUSE) => {}
            () = self.abort.cancelled() => {}
        }
        Settlement::Release
    }
}

/// Settles, and says so if the delivery was lost: the message comes again and `claim` ends it.
pub(super) async fn settle(delivery: Delivery, settlement: Settlement) {
    settle_by(delivery.receipt, settlement).await;
}

/// As [`settle`], by the receipt alone.
pub(super) async fn settle_by(receipt: Box<dyn Receipt>, settlement: Settlement) {
    match receipt.settle(settlement).await {
        Ok(()) => {}
        Err(BrokerError::DeliveryLost) => tracing::debug!("a delivery was lost before it was settled"),
        Err(error) => tracing::warn!(%error, "a delivery could not be settled; it comes again"),
    }
}

/// The protocol whose queue this is.
pub(super) fn protocol_of(queue: &Queue) -> ProtocolId {
    let unknown = || ProtocolId::from_routing(unrouted().as_str());
    let protocol = match queue {
        Queue::Tasks(address) | Queue::Dead(address) => ProtocolId::from_routing(address.as_str()),
        Queue::Workflows | Queue::Inbox => unknown(),
    };
    protocol.or_else(|_| unknown()).expect("unknown/v0 is a protocol's name")
}
