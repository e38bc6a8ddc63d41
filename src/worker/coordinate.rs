//! Workflows and commands: what changes state without being a task.

use bytes::Bytes;
use serde_json::{Value, json};

use super::Shared;
use super::execute::settle;
use super::patience::{Stop, insist};
use super::publish::{Past, again};
use crate::broker::Delivery;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::store::{Cancelled, Created, Message, Plan, PlannedTask};
use crate::topology::Address;
use crate::wire::command::Command;
use crate::wire::event::Event;
use crate::wire::inbox::{self, Decoded, Refused};
use crate::wire::workflow;

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
            Ok(Decoded::Newer { v, id }) => self.park_newer(delivery, v, id).await,
            Err(refused) => self.refuse_workflow(delivery, *refused).await,
        }
    }

    /// Carries a command out. A repeat changes nothing.
    pub(super) async fn command(&self, command: &Command) -> Result<(), Stop> {
        match command {
            Command::Cancel { id } => self.cancel(id).await,
        }
    }

    /// Takes a workflow in: record, publish its roots.
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
        match insist(&self.abort, "create", create).await? {
            Created::Running(released) => {
                tracing::info!(workflow = %id, name = %plan.name, tasks = plan.tasks.len(), "workflow taken in");
                self.publish_released(released).await?;
                let (name, tasks) = (plan.name.clone(), plan.tasks.len());
                self.tell(&Event::WorkflowStarted { id, name, tasks });
                Ok(())
            }
            Created::Over(state) => {
                tracing::debug!(workflow = %id, %state, "the workflow is over already");
                Ok(())
            }
        }
    }

    /// What the store takes in.
    fn plan(&self, message: &workflow::Message, id: &Id) -> Result<Plan, Failure> {
        let planned = workflow::plan(message, id)?;
        let mut tasks = Vec::with_capacity(planned.len());
        for task in planned {
            let address = Address::parse(&task.protocol.routing())
                .map_err(|error| Failure::new(Code::ProtocolNotFound, error.to_string()))?;
            let message = Message { address, priority: task.priority, body: task.body };
            tasks.push(PlannedTask { head: task.head, message, dependencies: task.dependencies });
        }
        Ok(Plan {
            id: id.clone(),
            name: message.workflow.name.clone(),
            tasks,
            result_ttl: message.workflow.result_ttl.unwrap_or(self.settings.result_ttl),
            refused: None,
        })
    }

    /// Ends a task or workflow on request: record, then tell whoever runs a part of it.
    async fn cancel(&self, id: &Id) -> Result<(), Stop> {
        let cancel = || self.parts.store.cancel(id, self.parts.clock.now());
        match insist(&self.abort, "cancel", cancel).await? {
            Cancelled::Done { running } => {
                tracing::info!(%id, running = running.len(), "cancelled");
                let alone = TaskKey::alone(id.clone());
                let task = insist(&self.abort, "task", || self.parts.store.task(&alone)).await?;
                self.tell(&match task {
                    Some(_) => Event::TaskEnded { key: alone, state: TaskState::Cancelled },
                    None => Event::WorkflowEnded { id: id.clone(), state: WorkflowState::Cancelled },
                });
                if running.is_empty() {
                    return Ok(());
                }
                let body: Bytes = json!({"type": "cancel", "id": id}).to_string().into();
                insist(&self.abort, "broadcast", || self.parts.broker.broadcast(body.clone())).await
            }
            Cancelled::Over(state) => {
                tracing::debug!(%id, state, "nothing to cancel");
                Ok(())
            }
            Cancelled::Marked => {
                tracing::info!(%id, "cancelled before it was seen; it will be refused when it comes");
                Ok(())
            }
        }
    }

    /// A broadcast: the state is already recorded, this only saves work.
    pub(super) fn control(&self, body: &[u8]) {
        let message: Option<Value> = serde_json::from_slice(body).ok();
        let field = |name: &str| message.as_ref().and_then(|m| m.get(name)).and_then(Value::as_str);
        let id = field("id").and_then(|id| Id::parse(id).ok());
        match (field("type"), id) {
            (Some("cancel"), Some(id)) => {
                let hit = self.running.cancel(&id);
                if hit > 0 {
                    tracing::info!(%id, tasks = hit, "cancelling what runs here");
                }
            }
            _ => tracing::debug!("a broadcast of an unknown kind is ignored"),
        }
    }

    /// A workflow that cannot be taken in ends with the reason where its id is known, and as a dead letter.
    pub(super) async fn refuse_workflow(&self, delivery: &Delivery, refused: Refused) -> Result<(), Stop> {
        let Refused { id, name, reply, failure } = refused;
        if let Some(id) = id {
            let result_ttl = self.settings.result_ttl;
            let plan = Plan { id, name, tasks: Vec::new(), result_ttl, refused: Some(failure.clone()) };
            insist(&self.abort, "create", || self.parts.store.create(&plan, self.parts.clock.now())).await?;
        }
        if let Some(reply) = &reply {
            let body = json!({"status": "failed", "error": failure}).to_string();
            self.reply_to(reply, delivery.properties.message_id.clone(), body.into()).await?;
        }
        self.bury(delivery, None, &failure, Past::default()).await
    }
}
