//! The client: submits, waits, cancels. Used by the command line, and by Rust programs.
//!
//! Submitting is one confirmed publish; nothing else must happen for a task to survive. The `accepted` record
//! that follows is best effort, so that `status` knows the task before a worker does.

mod away;
mod control;
mod depth;
mod output;
mod schedule;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

use crate::broker::{Broker, DELAY_MAX, Outgoing, Properties, Target};
use crate::core::clock::{Clock, Timestamp};
use crate::core::code::Code;
use crate::core::id::{Id, TaskKey};
use crate::core::priority::Priority;
use crate::core::protocol::{Leniency, LookupError, Protocols};
use crate::core::violation::Violation;
use crate::core::workflow::{WORKFLOW_BYTES_MAX, Workflow};
use crate::error::Error;
use crate::store::{Accepted, Change, Message, Position, SENT_BYTES_MAX, Store};
use crate::topology::{Address, Queue};
use crate::wire;
use crate::wire::task::Task;
pub(crate) use away::Away;
pub use control::Collected;
pub use depth::DepthLimits;
pub use output::OutputReader;

/// Submits work and follows it. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Client {
    broker: Arc<dyn Broker>,
    store: Arc<dyn Store>,
    protocols: Arc<Protocols>,
    clock: Arc<dyn Clock>,
    gate: Arc<depth::Gate>,
}

/// How something ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The state by name.
    pub state: String,
    /// Whether it is a workflow.
    pub is_workflow: bool,
    /// The result document, unless it was not kept or is gone.
    pub document: Option<Bytes>,
}

/// Looks at work and waits for its end; needs the store and nothing else. A key without a task means a task
/// on its own or a whole workflow. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Reader {
    store: Arc<dyn Store>,
}

impl Reader {
    /// A reader of this store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Reader {
        Reader { store }
    }

    /// Waits until it has ended, also for what nobody has seen yet, and through outages of the store that are over
    /// within a minute. `None` if `timeout` passes first.
    ///
    /// # Errors
    /// What the store says.
    pub async fn wait(&self, key: &TaskKey, timeout: Option<Duration>) -> Result<Option<Ended>, Error> {
        let waiting = async {
            let mut changes = self.store.watch(&key.root).await?;
            let mut away = Away::default();
            loop {
                match away.answer(self.ended(key).await).await? {
                    Some(Some(ended)) => return Ok(ended),
                    Some(None) => changed(&mut changes, key).await,
                    None => {}
                }
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

    /// How it ended; `None` if it has not.
    ///
    /// # Errors
    /// What the store says.
    pub async fn ended(&self, key: &TaskKey) -> Result<Option<Ended>, Error> {
        if let Some(ended) = self.document(key).await? {
            return Ok(Some(ended));
        }
        let Some(state) = self.state(key).await?.filter(|state| state.is_ended) else { return Ok(None) };
        // It may have ended between the two looks, and its document come with that.
        if let Some(ended) = self.document(key).await? {
            return Ok(Some(ended));
        }
        Ok(Some(Ended { state: state.name.to_owned(), is_workflow: state.is_workflow, document: None }))
    }

    /// Follows what the tasks of a root give while they run, from `after` on.
    #[must_use]
    pub fn output(&self, root: &Id, after: Position) -> OutputReader {
        OutputReader::new(Arc::clone(&self.store), root.clone(), after)
    }

    /// Where it is; `None` for what nobody has seen.
    ///
    /// # Errors
    /// What the store says.
    pub async fn state(&self, key: &TaskKey) -> Result<Option<State>, Error> {
        if key.task.is_none()
            && let Some(workflow) = self.store.workflow(&key.root).await?
        {
            let (name, is_ended) = (workflow.state.name(), workflow.state.is_ended());
            return Ok(Some(State { name, is_ended, is_workflow: true }));
        }
        let task = self.store.task(key).await?;
        Ok(task.map(|task| State {
            name: task.state.name(),
            is_ended: task.state.is_ended(),
            is_workflow: false,
        }))
    }

    async fn document(&self, key: &TaskKey) -> Result<Option<Ended>, Error> {
        let document = match key.task {
            Some(_) => self.store.result(key).await?,
            None => self.store.outcome(&key.root).await?,
        };
        Ok(document.map(Ended::of))
    }
}

/// Waits for a change that may be the end of `key`. A workflow tells of each of its tasks, and to look at all
/// of it each time would cost the square of its size.
async fn changed(changes: &mut BoxStream<'static, Change>, key: &TaskKey) {
    loop {
        match changes.next().await {
            Some(Change::Task(id)) if key.task.as_ref() != Some(&id) => {}
            // Nobody is told who does not follow, and nothing ends by it.
            Some(Change::Moved) => {}
            Some(Change::Task(_) | Change::Root | Change::Resync) => return,
            // The store is closed: nobody will tell anything any more, and looking says so.
            None => return,
        }
    }
}

/// Where something is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The state by name.
    pub name: &'static str,
    /// Whether it will never change again.
    pub is_ended: bool,
    /// Whether it is a workflow.
    pub is_workflow: bool,
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
        Client { broker, store, protocols, clock, gate: Arc::default() }
    }

    /// The same client, which refuses to submit to queues that are too deep.
    #[must_use]
    pub fn with_depth_limits(self, limits: DepthLimits) -> Client {
        Client { gate: Arc::new(depth::Gate::new(limits)), ..self }
    }

    /// Submits a task on its own. Without an id it gets that of its idempotency key, or a new one.
    ///
    /// # Errors
    /// Refuses what does not fit the method's schema, every violation in `details`; otherwise what the broker says.
    pub async fn submit(&self, task: Task) -> Result<Id, Error> {
        let id = self.id_of(task.id.as_ref(), task.spec.idempotency_key.as_deref())?;
        let task = Task { id: Some(id.clone()), ..task };
        let (message, accepted) = self.prepare(task)?;
        self.send(message).await?;
        self.note(accepted).await;
        Ok(id)
    }

    /// Submits a task on its own and waits for its end: a remote call. The same as [`Client::submit`] followed
    /// by [`Client::wait`], but quicker, because the watch stands before the end comes. `None` if `timeout`
    /// passes first.
    ///
    /// # Errors
    /// As for [`Client::submit`]; what the store says.
    pub async fn call(&self, task: Task, timeout: Option<Duration>) -> Result<(Id, Option<Ended>), Error> {
        let id = self.id_of(task.id.as_ref(), task.spec.idempotency_key.as_deref())?;
        let task = Task { id: Some(id.clone()), ..task };
        let (prepared, accepted) = self.prepare(task)?;
        let publish = self.send(prepared);
        let watch = async { self.store.watch(&id).await.map_err(Error::from) };
        let ((), mut changes) = futures_util::try_join!(publish, watch)?;

        let (reader, key) = (self.reader(), TaskKey::alone(id.clone()));
        let waiting = async {
            // It may have ended before the watch stood, or long ago under the same id.
            let look = async {
                match reader.ended(&key).await {
                    Ok(None) => std::future::pending().await,
                    found => found,
                }
            };
            tokio::select! {
                found = look => return found,
                () = changed(&mut changes, &key) => {}
            }
            loop {
                if let Some(ended) = reader.ended(&key).await? {
                    return Ok(Some(ended));
                }
                changed(&mut changes, &key).await;
            }
        };
        let waiting = async {
            match timeout {
                None => waiting.await,
                Some(timeout) => tokio::time::timeout(timeout, waiting).await.unwrap_or(Ok(None)),
            }
        };
        let ((), ended) = futures_util::join!(self.note(accepted), waiting);
        Ok((id, ended?))
    }

    /// Submits a workflow under `id`: its document as a file or a program gave it. Where the document has an
    /// idempotency key, the id is that key's ([`Id::from_idempotency_key`]).
    ///
    /// # Errors
    /// Refuses a document that is no workflow, everything wrong in `details`, one whose message is too
    /// large, and another id than that of its key; otherwise what the broker says.
    pub async fn submit_workflow(&self, document: &Value, id: &Id) -> Result<(), Error> {
        self.submit_workflow_at(document, id, None).await
    }

    /// As [`Client::submit_workflow`]; the broker keeps the workflow until `not_before`, at most 310 days, so that its
    /// timeout counts from then.
    ///
    /// # Errors
    /// As for [`Client::submit_workflow`], and a time that is further away.
    pub async fn submit_workflow_at(
        &self,
        document: &Value,
        id: &Id,
        not_before: Option<Timestamp>,
    ) -> Result<(), Error> {
        let wait = not_before.map(|due| due.since(self.clock.now())).filter(|wait| !wait.is_zero());
        if wait.is_some_and(|wait| wait > DELAY_MAX) {
            let text = "a workflow can be delayed by at most 310 days";
            return Err(Error::new(Code::InvalidRequest, text));
        }
        let digest = document.as_object().and_then(wire::workflow::digest);
        let workflow =
            Workflow::read(document.clone(), &self.protocols).map_err(|refused| refused.failure())?;
        self.id_of(Some(id), workflow.idempotency_key.as_deref())?;
        let body = wire::workflow::encode(document, id);
        if body.len() > WORKFLOW_BYTES_MAX {
            return Err(too_large(Code::WorkflowTooLarge, "workflow", body.len(), WORKFLOW_BYTES_MAX));
        }
        // A task that is too large by itself would be refused only by the worker.
        let message = wire::workflow::Message { workflow, reply: None, traceparent: None, digest: None };
        wire::workflow::plan(&message, id)?;
        self.send(Outgoing { delay: wait, ..to_workflows(id, body) }).await?;
        let due = not_before.filter(|_| wait.is_some());
        self.note(Accepted::Workflow { id: id.clone(), name: message.workflow.name, digest, due }).await;
        Ok(())
    }

    /// Asks for the end of a task on its own or of a workflow. Holds for ids that nobody has seen yet.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn cancel(&self, id: &Id) -> Result<(), Error> {
        let command = wire::command::Command::Cancel { id: id.clone(), by: Some(self.clock.new_id()) };
        self.broker.publish(vec![to_workflows(id, command.encode())]).await?;
        Ok(())
    }

    /// Asks for another run of what did not complete of an ended task or workflow, and of what depends on that.
    /// A worker carries it out; where there is nothing to run again, its log says why.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn retry(&self, id: &Id) -> Result<(), Error> {
        let command = wire::command::Command::Retry { id: id.clone(), by: Some(self.clock.new_id()) };
        self.broker.publish(vec![to_workflows(id, command.encode())]).await?;
        Ok(())
    }

    /// Waits until the task or workflow has ended. `None` if `timeout` passes first.
    ///
    /// # Errors
    /// What the store says.
    pub async fn wait(&self, root: &Id, timeout: Option<Duration>) -> Result<Option<Ended>, Error> {
        self.reader().wait(&TaskKey::alone(root.clone()), timeout).await
    }

    /// How the task or workflow ended; `None` if it has not.
    ///
    /// # Errors
    /// What the store says.
    pub async fn ended(&self, root: &Id) -> Result<Option<Ended>, Error> {
        self.reader().ended(&TaskKey::alone(root.clone())).await
    }

    /// Reads the same store.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.store))
    }

    /// The message of a task that has an id, and what is noted of it once it is confirmed.
    fn prepare(&self, task: Task) -> Result<(Outgoing, Accepted), Error> {
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
        // What is due later than a broker can count is delayed again by the worker that gets it.
        let now = self.clock.now();
        let due = spec.not_before.filter(|due| *due > now);
        let wait = due.map(|due| due.since(now).min(DELAY_MAX));
        let priority = spec.priority.unwrap_or(Priority::NORMAL).number();
        let sent = (body.len() <= SENT_BYTES_MAX).then(|| Message {
            address: address.clone(),
            priority,
            body: body.clone(),
        });
        let mut properties = Properties {
            message_id: task.id.as_ref().map(Id::to_string),
            priority: Some(priority),
            ..Properties::default()
        };
        properties.set_ready(now.after(wait.unwrap_or_default()));
        let target = Target::Queue(Queue::Tasks(address));
        let message = Outgoing { target, body, properties, delay: wait };
        Ok((message, Accepted::Task { head, digest: wire::task::digest(&task), due, sent }))
    }

    /// Publishes new work, where its queue has room.
    async fn send(&self, message: Outgoing) -> Result<(), Error> {
        if let Target::Queue(queue) = &message.target {
            self.gate.admit(self.broker.as_ref(), queue, self.clock.now()).await?;
        }
        Ok(self.broker.publish(vec![message]).await?)
    }

    /// The id that counts: two names for one thing would make the key useless.
    fn id_of(&self, given: Option<&Id>, key: Option<&str>) -> Result<Id, Error> {
        match (given, key.map(Id::from_idempotency_key)) {
            (Some(id), Some(keyed)) if *id != keyed => {
                let text = format!(
                    "id {id} beside an idempotency key; leave it out, or give {keyed}, the key's own"
                );
                Err(Error::new(Code::InvalidRequest, text))
            }
            (_, Some(keyed)) => Ok(keyed),
            (Some(id), None) => Ok(id.clone()),
            (None, None) => Ok(self.clock.new_id()),
        }
    }

    /// Best effort: a task that is not noted is known from its first claim on.
    async fn note(&self, accepted: Accepted) {
        match self.store.accept(&[accepted], self.clock.now()).await {
            Ok(differing) => {
                for id in differing {
                    tracing::warn!(%id, "its idempotency key was used before with another body; what came first stands");
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the accepted record was not written; the task itself is safe");
            }
        }
    }
}

/// What a document says of itself, without parsing what may be megabytes of results twice.
#[derive(serde::Deserialize)]
struct Said<'a> {
    #[serde(borrow)]
    status: std::borrow::Cow<'a, str>,
    /// Only a workflow's document has tasks.
    tasks: Option<serde::de::IgnoredAny>,
}

impl Ended {
    fn of(document: Bytes) -> Ended {
        let said = serde_json::from_slice::<Said<'_>>(&document).ok();
        let is_workflow = said.as_ref().is_some_and(|said| said.tasks.is_some());
        let state = said.map_or_else(|| "unknown".to_owned(), |said| said.status.into_owned());
        Ended { state, is_workflow, document: Some(document) }
    }
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
