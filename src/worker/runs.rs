//! The runs of a schedule: sent, buried where they cannot be sent, and whether the last one is over.
//!
//! A run is published like anything else, for as long as that takes, unless no waiting helps: its queue is not there,
//! or no broker takes it as it is. Then it is a dead letter in its protocol's dead queue, under its id and with its
//! message, so that `dead replay` sends it when the queue is back, and ends as failed. The letter comes first: whoever
//! dies between the two may find the queue back and send the run, and a letter of what completed does no harm, but a
//! failed run without one would be lost. The other runs, and the schedule, go on.
//!
//! *Over* is a run that has ended, or of which nothing is known: its record is gone (what is published is noted before
//! the next slot is armed). Any other may still come, wherever its message is: one that was purged is not over before
//! `audit --repair` has sent it again, or it is cancelled.

use serde_json::Value;
use std::time::Duration;

use super::Shared;
use super::guard::HeldApart;
use super::patience::{Stop, insist};
use super::publish::Past;
use crate::broker::{BrokerError, Delivery, Outgoing, Target};
use crate::core::clock::Timestamp;
use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::core::schedule::Overlap;
use crate::core::state::TaskState;
use crate::core::workflow::UNNAMED;
use crate::store::Accepted;
use crate::topology::{Address, Queue, unrouted};
use crate::wire::inbox;
use crate::wire::schedule::{Definition, Work};
use crate::wire::task::{self, Decoded};

/// Most bytes of runs that are published at once.
const PUBLISHED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How often a run is sent that no queue takes: one may be missing for a moment while it is moved.
const TRIES: u32 = 3;
/// Between two tries. All of them fit into the time that a worker has its slot to itself: only the first run of a turn
/// that no queue takes is tried so often.
const TRY_EVERY: Duration = Duration::from_secs(1);

impl Shared {
    /// Publishes the runs of these slots, in order.
    pub(super) async fn publish_runs(
        &self,
        name: &Id,
        definition: &Definition,
        slots: &[Timestamp],
    ) -> Result<(), Stop> {
        let Some(first) = slots.first() else { return Ok(()) };
        let mut tries = TRIES;
        let bytes = definition.run(name, &Definition::run_id(name, *first), Some(*first)).body.len();
        for some in slots.chunks((PUBLISHED_BYTES_MAX / bytes.max(1)).max(1)) {
            let mut messages = Vec::with_capacity(some.len());
            let mut accepted = Vec::with_capacity(some.len());
            for slot in some {
                let id = Definition::run_id(name, *slot);
                let run = definition.run(name, &id, Some(*slot));
                accepted.push(Accepted::of_run(definition, &id, &run));
                match Outgoing::of_run(run, &id) {
                    Ok(message) => messages.push((id.clone(), self.ready(message))),
                    // Nothing whose protocol has no queue is taken in as a schedule.
                    Err(error) => tracing::error!(schedule = %name, %error, "a run without a queue"),
                }
            }
            self.send_runs(name, messages, &mut tries).await?;
            self.note_runs(definition, &accepted).await?;
        }
        Ok(())
    }

    /// Together; or one by one, if the broker refuses one of them: each `tries` times, until one has no queue.
    async fn send_runs(&self, name: &Id, messages: Vec<(Id, Outgoing)>, tries: &mut u32) -> Result<(), Stop> {
        let all = messages.iter().map(|(_, message)| message.clone()).collect();
        if self.try_publish(all, 1).await?.is_ok() {
            return Ok(());
        }
        for (id, message) in messages {
            if let Err(error) = self.try_publish(vec![message.clone()], *tries).await? {
                *tries = 1;
                let failure = Failure::new(error.code(), format!("the run cannot be sent: {error}"));
                let failure = failure.with("schedule", name.as_str()).final_now();
                tracing::error!(schedule = %name, run = %id, %failure, "a run cannot be sent; it is a dead letter");
                self.bury_run(&id, message, failure).await?;
            }
        }
        Ok(())
    }

    /// Publishes, for as long as that takes. The inner error: no waiting helps.
    async fn try_publish(
        &self,
        messages: Vec<Outgoing>,
        tries: u32,
    ) -> Result<Result<(), BrokerError>, Stop> {
        let mut refused = Ok(());
        for number in 0..tries {
            if number > 0 {
                self.pause(TRY_EVERY).await?;
            }
            let step = async || match self.parts.broker.publish(messages.clone()).await {
                Err(error) if is_refused(&error) => Ok(Err(error)),
                other => other.map(Ok),
            };
            refused = insist(&self.abort, "publish", step).await?;
            if refused.is_ok() {
                break;
            }
        }
        Ok(refused)
    }

    /// Buries a run that cannot be sent as if it had been delivered, and ends it.
    async fn bury_run(&self, id: &Id, message: Outgoing, failure: Failure) -> Result<(), Stop> {
        let Target::Queue(queue) = message.target else { return Ok(()) };
        let run = Delivery {
            queue: queue.clone(),
            body: message.body,
            properties: message.properties,
            redelivered: false,
            deaths: Vec::new(),
            receipt: Box::new(HeldApart),
        };
        let Queue::Tasks(address) = queue else {
            let document: Value = serde_json::from_slice(&run.body).unwrap_or_default();
            let name = document.get("name").and_then(Value::as_str).unwrap_or(UNNAMED).to_owned();
            let refused = inbox::Refused { id: Some(id.clone()), name, reply: None, failure };
            return self.refuse_workflow(&run, refused).await;
        };
        let protocol = super::execute::protocol_of(&run.queue);
        let task = match task::decode(&run.body, &run.properties, &protocol) {
            Ok(Decoded::Task(task)) => Some(task),
            Ok(Decoded::Newer { .. }) | Err(_) => None,
        };
        let address = self.letters_of(address).await;
        self.bury_at(address, &run, task.as_deref().into(), &failure, Past::default()).await?;
        if let Some((task, head)) = task.as_deref().and_then(|task| Some((task, task.head()?))) {
            self.end_unrun(&run, &head, Some(task), TaskState::Failed, &failure).await?;
        }
        Ok(())
    }

    /// Where the letters of a protocol go: its dead queue may be gone with its queue.
    async fn letters_of(&self, address: Address) -> Address {
        match self.parts.broker.depth(&Queue::Dead(address.clone())).await {
            Err(BrokerError::NoQueue { .. }) => unrouted(),
            Ok(_) | Err(_) => address,
        }
    }

    /// Notes runs as accepted. Where the next slot looks whether they are over they must be known; else it is best
    /// effort, as for what a client submits: they are known from their first claim on.
    async fn note_runs(&self, definition: &Definition, accepted: &[Accepted]) -> Result<(), Stop> {
        let note = || self.parts.store.accept(accepted, self.parts.clock.now());
        match definition.rules.overlap {
            Overlap::Skip => insist(&self.abort, "accept", note).await.map(|_| ()),
            Overlap::Allow => {
                if let Err(error) = note().await {
                    tracing::debug!(%error, "the accepted records were not written; the runs themselves are safe");
                }
                Ok(())
            }
        }
    }

    /// Whether nothing comes of this run any more.
    pub(super) async fn is_over(&self, work: &Work, run: &Id) -> Result<bool, Stop> {
        let store = &self.parts.store;
        match work {
            Work::Task(_) => {
                let key = TaskKey::alone(run.clone());
                let record = insist(&self.abort, "task", || store.task(&key)).await?;
                Ok(record.is_none_or(|record| record.state.is_ended()))
            }
            Work::Workflow(_) => {
                let record = insist(&self.abort, "workflow", || store.workflow(run)).await?;
                Ok(record.is_none_or(|record| record.state.is_ended()))
            }
        }
    }

    async fn pause(&self, time: Duration) -> Result<(), Stop> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            () = self.abort.cancelled() => Err(Stop::Aborted),
        }
    }
}

/// Whether no waiting makes the broker take it.
fn is_refused(error: &BrokerError) -> bool {
    matches!(
        error,
        BrokerError::Unroutable { .. } | BrokerError::NoQueue { .. } | BrokerError::Invalid { .. }
    )
}
