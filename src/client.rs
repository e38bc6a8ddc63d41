//! The client: submits, waits, cancels. Used by the command line, and by Rust programs.
//!
//! Submitting is one confirmed publish; nothing else must happen for a task to survive. The `accepted` record
//! that follows is best effort, so that `status` knows the task before a worker does.

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

use crate::broker::{Broker, Outgoing, Properties, Target};
use crate::core::clock::Clock;
use crate::core::code::Code;
use crate::core::id::{Id, TaskKey};
use crate::core::priority::Priority;
use crate::core::protocol::{Leniency, LookupError, Protocols};
use crate::core::violation::Violation;
use crate::core::workflow::{WORKFLOW_BYTES_MAX, Workflow};
use crate::error::Error;
use crate::store::{Accepted, Store};
use crate::topology::{Address, Queue};
use crate::wire;
use crate::wire::task::Task;

/// Submits work and follows it. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Client {
    broker: Arc<dyn Broker>,
    store: Arc<dyn Store>,
    protocols: Arc<Protocols>,
    clock: Arc<dyn Clock>,
}

/// How something ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The state by name.
    pub state: String,
    /// The result document, unless it was not kept or is gone.
    pub document: Option<Bytes>,
}

impl Client {
    /// A client over these ports.
    #[must_use]
    pub fn new(
        broker: Arc<dyn Broker>,
        store: Arc<dyn Store>,
        protocols: Arc<Protocols>,
        clock: Arc<dyn Clock>,
    ) -> Client {
        Client { broker, store, protocols, clock }
    }

    /// Submits a task on its own. Without an id it gets one.
    ///
    /// # Errors
    /// Refuses what does not fit the method's schema, every violation in `details`; otherwise what the broker says.
    pub async fn submit(&self, task: Task) -> Result<Id, Error> {
        let id = task.id.clone().unwrap_or_else(|| self.clock.new_id());
        let task = Task { id: Some(id.clone()), ..task };
        let spec = &task.spec;
        let method = self.protocols.method(&spec.protocol, &spec.method).map_err(lookup_error)?;
        method.validate(spec.params.clone(), Leniency::Exact).map_err(invalid_params)?;
        let address = Address::parse(&spec.protocol.routing())
            .map_err(|error| Error::new(Code::ProtocolNotFound, error.to_string()))?;
        let body = wire::task::encode(&task);
        let bytes_max = wire::task::TASK_BYTES_MAX;
        if body.len() > bytes_max {
            return Err(too_large(Code::TaskTooLarge, "task", body.len(), bytes_max));
        }
        let head =
            task.head().ok_or_else(|| Error::new(Code::InternalError, "a task with an id has no head"))?;
        let wait = spec.not_before.map(|due| due.since(self.clock.now())).filter(|wait| !wait.is_zero());
        let message = Outgoing {
            target: Target::Queue(Queue::Tasks(address)),
            body,
            properties: Properties {
                message_id: Some(id.to_string()),
                priority: Some(spec.priority.unwrap_or(Priority::NORMAL).number()),
                ..Properties::default()
            },
            delay: wait,
        };
        self.broker.publish(vec![message]).await?;
        self.note(Accepted::Task(head)).await;
        Ok(id)
    }

    /// Submits a workflow under `id`: its document as a file or a program gave it.
    ///
    /// # Errors
    /// Refuses a document that is no workflow, everything wrong in `details`, and one whose message is too
    /// large; otherwise what the broker says.
    pub async fn submit_workflow(&self, document: &Value, id: &Id) -> Result<(), Error> {
        let workflow =
            Workflow::read(document.clone(), &self.protocols).map_err(|refused| refused.failure())?;
        let body = wire::workflow::encode(document, id);
        if body.len() > WORKFLOW_BYTES_MAX {
            return Err(too_large(Code::WorkflowTooLarge, "workflow", body.len(), WORKFLOW_BYTES_MAX));
        }
        // A task that is too large by itself would be refused only by the worker.
        let message = wire::workflow::Message { workflow, reply: None, traceparent: None };
        wire::workflow::plan(&message, id)?;
        self.broker.publish(vec![to_workflows(id, body)]).await?;
        self.note(Accepted::Workflow { id: id.clone(), name: message.workflow.name }).await;
        Ok(())
    }

    /// Asks for the end of a task on its own or of a workflow. Holds for ids that nobody has seen yet.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn cancel(&self, id: &Id) -> Result<(), Error> {
        let command = wire::command::Command::Cancel { id: id.clone() };
        self.broker.publish(vec![to_workflows(id, command.encode())]).await?;
        Ok(())
    }

    /// Waits until the task or workflow has ended. `None` if `timeout` passes first.
    ///
    /// # Errors
    /// What the store says.
    pub async fn wait(&self, root: &Id, timeout: Option<Duration>) -> Result<Option<Ended>, Error> {
        let waiting = async {
            let mut changes = self.store.watch(root).await?;
            loop {
                if let Some(ended) = self.ended(root).await? {
                    return Ok(ended);
                }
                changes.next().await;
            }
        };
        match timeout {
            None => waiting.await.map(Some),
            Some(timeout) => match tokio::time::timeout(timeout, waiting).await {
                Ok(ended) => ended.map(Some),
                Err(_) => Ok(None),
            },
        }
    }

    /// How the task or workflow ended; `None` if it has not.
    ///
    /// # Errors
    /// What the store says.
    pub async fn ended(&self, root: &Id) -> Result<Option<Ended>, Error> {
        if let Some(document) = self.store.outcome(root).await? {
            let state = state_of(&document);
            return Ok(Some(Ended { state, document: Some(document) }));
        }
        if let Some(workflow) = self.store.workflow(root).await? {
            let ended = Ended { state: workflow.state.to_string(), document: None };
            return Ok(workflow.state.is_ended().then_some(ended));
        }
        let task = self.store.task(&TaskKey::alone(root.clone())).await?;
        let ended = task.filter(|task| task.state.is_ended());
        Ok(ended.map(|task| Ended { state: task.state.to_string(), document: None }))
    }

    /// Best effort: a task that is not noted is known from its first claim on.
    async fn note(&self, accepted: Accepted) {
        if let Err(error) = self.store.accept(&[accepted], self.clock.now()).await {
            tracing::debug!(%error, "the accepted record was not written; the task itself is safe");
        }
    }
}

/// The `status` of a document, without parsing what may be megabytes of results twice.
fn state_of(document: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Status<'a> {
        #[serde(borrow)]
        status: std::borrow::Cow<'a, str>,
    }
    serde_json::from_slice::<Status<'_>>(document)
        .map_or_else(|_| "unknown".to_owned(), |it| it.status.into_owned())
}

fn to_workflows(id: &Id, body: Bytes) -> Outgoing {
    Outgoing {
        target: Target::Queue(Queue::Workflows),
        body,
        properties: Properties { message_id: Some(id.to_string()), ..Properties::default() },
        delay: None,
    }
}

fn too_large(code: Code, what: &str, bytes: usize, max: usize) -> Error {
    let message = format!(
        "the {what} message has {bytes} bytes, more than {max}; put large data into a file or store and pass its place"
    );
    let details = Map::from_iter([("bytes".to_owned(), bytes.into()), ("bytes_max".to_owned(), max.into())]);
    Error { code, message, details }
}

pub(crate) fn invalid_params(violations: Vec<Violation>) -> Error {
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    let details = Map::from_iter([("violations".to_owned(), json!(violations))]);
    Error { code: Code::InvalidParams, message: lines.join("; "), details }
}

pub(crate) fn lookup_error(error: LookupError) -> Error {
    Error::new(error.code(), error.to_string())
}
