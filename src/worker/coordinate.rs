//! Workflows: taken in, their time kept, refused.

use std::time::Duration;

use serde_json::json;

use super::Shared;
use super::execute::settle;
use super::patience::{Stop, insist};
use super::publish::{About, Past, again};
use crate::broker::{Delivery, Outgoing, Properties, Target};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::Id;
use crate::core::state::WorkflowState;
use crate::core::workflow::{Dependency, OnFailure};
use crate::store::{Created, Edge, Message, Otherwise, Plan, PlannedTask};
use crate::topology::{Address, Queue};
use crate::wire::HEADER_ROOT;
use crate::wire::command::Command;
use crate::wire::event::Event;
use crate::wire::inbox::{self, Decoded, Refused};
use crate::wire::task::Reply;
use crate::wire::workflow::{self, Planned};

impl Shared {
    /// Brings one delivery of the workflows queue to its end and settles it.
    pub(super) async fn coordinate(&self, delivery: Delivery) {
        let settlement = self.settlement_of(&delivery, self.coordinated(&delivery).await).await;
        settle(delivery, settlement).await;
    }

    async fn coordinated(&self, delivery: &Delivery) -> Result<(), Stop> {
        match inbox::decode(&delivery.body, &delivery.properties, &self.parts.protocols) {
            Ok(Decoded::Workflow(message)) => self.create(delivery, *message).await,
            Ok(Decoded::Command(command)) => self.command(&command).await,
            Ok(Decoded::Schedule(order)) => self.order(delivery, order).await,
            Ok(Decoded::Newer { v, id }) => self.park_newer(delivery, v, id).await,
            Err(refused) => self.refuse_workflow(delivery, *refused).await,
        }
    }

    /// Takes a workflow in: record, publish its roots and its timeout.
    async fn create(&self, delivery: &Delivery, message: workflow::Message) -> Result<(), Stop> {
        let Some(id) = message.workflow.id.clone() else {
            // Published again under an id of its own, so that a redelivery is recognised as the same workflow.
            let id = self.parts.clock.new_id();
            tracing::info!(workflow = %id, "a workflow without an id gets one");
            let mut message = again(delivery, None);
            message.properties.message_id = Some(id.to_string());
            return self.publish(vec![message]).await;
        };
        let plan = match self.plan(&message, &id) {
            Ok(plan) => plan,
            Err(failure) => {
                let (name, reply) = (message.workflow.name, message.reply);
                return self.refuse_workflow(delivery, Refused { id: Some(id), name, reply, failure }).await;
            }
        };
        let create = || self.parts.store.create(&plan, self.parts.clock.now());
        let Created { state, released, differs, timeout } = insist(&self.abort, "create", create).await?;
        if differs {
            tracing::warn!(workflow = %id, "another workflow came first under the same idempotency key; this one is not run");
        }
        if state != WorkflowState::Running {
            tracing::debug!(workflow = %id, %state, "the workflow is over already");
            return self.answer_again(&id, message.reply.as_ref()).await;
        }
        tracing::info!(workflow = %id, name = %plan.name, tasks = plan.tasks.len(), "workflow taken in");
        self.publish_released(released).await?;
        if let Some((run, timeout)) = timeout {
            // Not this message's own: a repeat does not change what was taken in.
            self.publish_timeout(&id, run, Some(timeout)).await?;
        }
        let (name, tasks) = (plan.name.clone(), plan.tasks.len());
        self.tell(&Event::WorkflowStarted { id, name, tasks });
        Ok(())
    }

    /// Whoever asks for what has ended already gets the same answer.
    pub(super) async fn answer_again(&self, id: &Id, reply: Option<&Reply>) -> Result<(), Stop> {
        let Some(reply) = reply else { return Ok(()) };
        match insist(&self.abort, "outcome", || self.parts.store.outcome(id)).await? {
            Some(document) => self.reply_to(reply, Some(id.to_string()), document).await,
            None => Ok(()),
        }
    }

    /// The message that ends the workflow when its time is over, if it has a timeout.
    pub(super) async fn publish_timeout(
        &self,
        id: &Id,
        run: u32,
        timeout: Option<Duration>,
    ) -> Result<(), Stop> {
        let Some(timeout) = timeout else { return Ok(()) };
        let body = Command::Timeout { id: id.clone(), run }.encode();
        let headers = [(HEADER_ROOT.to_owned(), id.to_string())].into();
        let properties = Properties { headers, ..Properties::default() };
        let target = Target::Queue(Queue::Workflows);
        self.publish(vec![Outgoing { target, body, properties, delay: Some(timeout) }]).await
    }

    /// What the store takes in.
    fn plan(&self, message: &workflow::Message, id: &Id) -> Result<Plan, Failure> {
        Ok(Plan {
            id: id.clone(),
            name: message.workflow.name.clone(),
            tasks: planned_tasks(workflow::plan(message, id)?)?,
            max_parallel: message.workflow.max_parallel,
            timeout: message.workflow.timeout,
            reply: message.reply.as_ref().map(Reply::encode),
            digest: message.digest.clone(),
            result_ttl: message.workflow.result_ttl.unwrap_or(self.settings.result_ttl),
            refused: None,
        })
    }

    /// A workflow that cannot be taken in ends with the reason where its id is known, and as a dead letter.
    pub(super) async fn refuse_workflow(&self, delivery: &Delivery, refused: Refused) -> Result<(), Stop> {
        let Refused { id, name, reply, failure } = refused;
        if let Some(id) = &id {
            let result_ttl = self.settings.result_ttl;
            let plan = Plan::refused(id.clone(), name, failure.clone(), result_ttl);
            insist(&self.abort, "create", || self.parts.store.create(&plan, self.parts.clock.now())).await?;
        }
        if let Some(reply) = &reply {
            let body = json!({"status": "failed", "error": failure}).to_string();
            self.reply_to(reply, delivery.properties.message_id.clone(), body.into()).await?;
        }
        self.bury(delivery, About::workflow(id), &failure, Past::default()).await
    }
}

/// Tasks as the store takes them in.
pub(super) fn planned_tasks(planned: Vec<Planned>) -> Result<Vec<PlannedTask>, Failure> {
    let mut tasks = Vec::with_capacity(planned.len());
    for Planned { head, protocol, priority, body, dependencies, tolerated } in planned {
        let address = Address::parse(&protocol.routing())
            .map_err(|error| Failure::new(Code::ProtocolNotFound, error.to_string()))?;
        let edge = |one: Dependency| Edge { on: one.on, otherwise: otherwise(&one.on_failure) };
        let dependencies = dependencies.into_iter().map(edge).collect();
        tasks.push(PlannedTask {
            head,
            message: Message { address, priority, body },
            dependencies,
            tolerated,
        });
    }
    Ok(tasks)
}

/// What the store needs to know of it: the values that stand in for a result travel in the messages.
fn otherwise(on_failure: &OnFailure) -> Otherwise {
    match on_failure {
        OnFailure::Fail => Otherwise::Fail,
        OnFailure::Skip => Otherwise::Skip,
        OnFailure::Continue | OnFailure::Default(_) => Otherwise::Continue,
    }
}
