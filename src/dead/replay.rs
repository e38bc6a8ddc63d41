//! Sending dead letters again.
//!
//! Letters of one root (a task on its own, or a workflow) are one replay. What it is, the store decides:
//!
//! | the store knows the root as        | step                                                             |
//! |------------------------------------|------------------------------------------------------------------|
//! | ended, not completed               | a `retry` command: what did not complete runs again under its id |
//! | completed meanwhile                | none: the letters are settled                                    |
//! | not ended, or with nothing kept    | none: the letters stay                                           |
//! | not at all (its record is over, or its message has no id) | the original message once more            |
//!
//! A repeat is harmless, so a replay may be killed anywhere and made again. The command's name is derived from
//! the root and the newest death among its letters, and the letters are settled oldest first: as long as one is
//! left it is the newest, and gives the same name. A message without an id is published under one that is
//! derived from its letter.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::letter::Letter;
use crate::broker::{Broker, BrokerError, Outgoing, Properties, Settlement, Target};
use crate::core::id::{Id, TaskKey, digest};
use crate::core::protocol::ProtocolId;
use crate::core::state::TaskState;
use crate::core::task::Spec;
use crate::store::{Store, StoreError, TaskRecord, WorkflowRecord};
use crate::topology::{Address, Queue, unrouted};
use crate::wire::command::Command;
use crate::wire::envelope::{Envelope, HEADER_REPLAYS};
use crate::wire::task::{self, Decoded, TASK_BYTES_MAX, Task};

/// Headers of ours are about the delivery that died; only this one is about the task.
const HEADER_KEPT: &str = "gleitzeit-root";
/// What the names of our headers begin with.
const HEADERS_OURS: &str = "gleitzeit-";

/// Letters of one root, oldest first; at least one is chosen. All of them are held.
#[derive(Debug)]
pub struct Group {
    /// The root's id, or the letter's own name.
    pub label: String,
    /// Those that were chosen.
    pub letters: Vec<Letter>,
    /// Others of the same root: another run of the root is one of theirs too.
    pub companions: Vec<Letter>,
    /// What is to be done.
    pub step: Step,
}

/// What a replay does with the letters of one root.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Asks for another run of what did not complete.
    Retry(Outgoing),
    /// Publishes the original message.
    Publish(Outgoing),
    /// Nothing is left to do: the letters go.
    Completed,
    /// It cannot be sent again, for this reason: the letters stay.
    Keep(String),
}

/// Decides what is to be done with `letters`, which must be [`Keep::Whole`](super::Keep::Whole).
///
/// # Errors
/// What the store says.
pub async fn plan(
    broker: &Arc<dyn Broker>,
    store: &Arc<dyn Store>,
    letters: Vec<Letter>,
) -> Result<Vec<Group>, crate::error::Error> {
    let mut groups: BTreeMap<String, Vec<Letter>> = BTreeMap::new();
    for letter in letters {
        let label = letter.root().map_or_else(|| letter.name.clone(), Id::to_string);
        groups.entry(label).or_default().push(letter);
    }
    let mut planned = Vec::with_capacity(groups.len());
    for (label, mut letters) in groups {
        // By name where they died in the same moment, so that the newest is the same in every look.
        letters.sort_by(|a, b| (a.died_at(), &a.name).cmp(&(b.died_at(), &b.name)));
        let step = decide(broker, store, &letters).await?;
        planned.push(Group { label, letters, companions: Vec::new(), step });
    }
    planned.sort_by_key(|group| group.letters.first().map(Letter::died_at));
    Ok(planned)
}

/// Does what was decided: publishes, then settles, the newest of the chosen letters last. The letters that stay
/// are the answer.
///
/// # Errors
/// What the broker says. The letters that are not settled go back to their queue, and replaying them again does
/// no harm.
pub async fn replay(broker: &Arc<dyn Broker>, group: Group) -> Result<Vec<Letter>, BrokerError> {
    let letters = group.companions.into_iter().chain(group.letters);
    match group.step {
        Step::Keep(_) => return Ok(letters.collect()),
        Step::Retry(message) | Step::Publish(message) => broker.publish(vec![message]).await?,
        Step::Completed => {}
    }
    for letter in letters {
        letter.settle(Settlement::Done).await?;
    }
    Ok(Vec::new())
}

async fn decide(
    broker: &Arc<dyn Broker>,
    store: &Arc<dyn Store>,
    letters: &[Letter],
) -> Result<Step, crate::error::Error> {
    let Some((newest, envelope)) = letters.iter().rev().find_map(|one| Some((one, one.envelope.as_ref()?)))
    else {
        return Ok(keep("it is no dead letter; drop it, or publish what it holds by hand"));
    };
    let Some(root) = newest.root() else { return Ok(publish(letters)) };
    if let Some(workflow) = store.workflow(root).await? {
        return Ok(of_workflow(store, &workflow, letters, newest).await?);
    }
    let Some(record) = store.task(&TaskKey::alone(root.clone())).await? else {
        if envelope.workflow.is_some() {
            return Ok(keep("nothing is known of its workflow any more; run the file again"));
        }
        return Ok(publish(letters));
    };
    of_task(broker, &record, root, newest, envelope).await
}

async fn of_workflow(
    store: &Arc<dyn Store>,
    workflow: &WorkflowRecord,
    letters: &[Letter],
    newest: &Letter,
) -> Result<Step, StoreError> {
    if !workflow.state.is_ended() {
        return Ok(keep(format!("the workflow is {}; replay when it has ended", workflow.state.name())));
    }
    if workflow.tasks.is_empty() {
        return Ok(keep(
            "the workflow was refused, and its id is taken as long as its record is kept; run the file again",
        ));
    }
    // One that a later run has not planned again is over as well.
    let is_open = |letter: &Letter| {
        let id = letter.envelope.as_ref().and_then(|envelope| envelope.id.as_ref());
        let record = workflow.tasks.iter().find(|task| Some(task.head.key.id()) == id);
        record.is_some_and(|record| !is_done(record.state))
    };
    if !letters.iter().any(is_open) {
        return Ok(Step::Completed);
    }
    let needs_results = workflow.tasks.iter().any(|task| task.state == TaskState::Completed);
    if needs_results && store.outcome(&workflow.id).await?.is_none() {
        return Ok(keep("the results of what completed are not kept any more; run the file again"));
    }
    Ok(retry(&workflow.id, newest))
}

async fn of_task(
    broker: &Arc<dyn Broker>,
    record: &TaskRecord,
    root: &Id,
    newest: &Letter,
    envelope: &Envelope,
) -> Result<Step, crate::error::Error> {
    match record.state {
        TaskState::Completed | TaskState::Skipped => return Ok(Step::Completed),
        TaskState::Cancelled => return Ok(keep("it was cancelled meanwhile; drop it, or submit it again")),
        TaskState::Failed | TaskState::Expired => {}
        TaskState::Accepted
        | TaskState::Waiting
        | TaskState::Queued
        | TaskState::Delayed
        | TaskState::Running => {
            return Ok(keep(format!("it is {}; replay when it has ended", record.state.name())));
        }
    }
    let home = home(envelope, &newest.address);
    if home.is_none() {
        return Ok(keep("no queue of a known protocol was meant by it; submit it again, under another id"));
    }
    let address = match (read(envelope, home.as_ref()), home) {
        (Some(task), _) => Address::parse(&task.spec.protocol.routing()).ok(),
        // The store has kept it as it was, so that a worker of another version may read it.
        (None, Some(Queue::Tasks(address)))
            if envelope.original.bytes <= TASK_BYTES_MAX && !envelope.history.is_empty() =>
        {
            Some(address)
        }
        (None, _) => None,
    };
    let Some(address) = address else {
        return Ok(keep("its message could not be read; mend it and submit it under another id"));
    };
    match broker.depth(&Queue::Tasks(address.clone())).await {
        Ok(_) => Ok(retry(root, newest)),
        Err(BrokerError::NoQueue { queue }) => {
            Ok(keep(format!("there is no queue {queue}: a protocol nobody knows here; see `topology apply`")))
        }
        Err(error) => Err(error.into()),
    }
}

fn is_done(state: TaskState) -> bool {
    matches!(state, TaskState::Completed | TaskState::Skipped)
}

fn keep(reason: impl Into<String>) -> Step {
    Step::Keep(reason.into())
}

/// Another run, under a name that is the same for the same death.
fn retry(root: &Id, newest: &Letter) -> Step {
    let name = digest(format!("replay {root} {} {}", newest.died_at().as_millis(), newest.name).as_bytes());
    let command = Command::Retry { id: root.clone(), by: Id::parse(&name).ok() };
    let properties = Properties { message_id: Some(root.to_string()), ..Properties::default() };
    let target = Target::Queue(Queue::Workflows);
    Step::Retry(Outgoing { target, body: command.encode(), properties, delay: None })
}

/// The newest original that is whole, once more.
fn publish(letters: &[Letter]) -> Step {
    let Some(letter) = letters.iter().rev().find(|letter| letter.is_whole) else {
        return keep("its message was too large to be kept; submit it again from where it came from");
    };
    let Some(envelope) = &letter.envelope else { return keep("it is no dead letter") };
    let Some(home) = home(envelope, &letter.address) else {
        return keep("which queue it was meant for is not known; publish it by hand, or drop it");
    };
    let original = &envelope.original;
    let mut properties = original.properties.clone();
    properties.headers.retain(|name, _| name == HEADER_KEPT || !name.starts_with(HEADERS_OURS));
    properties.other_headers.retain(|name, _| !name.starts_with(HEADERS_OURS));
    let replays = envelope.replays.saturating_add(1).to_string();
    properties.headers.insert(HEADER_REPLAYS.to_owned(), replays);
    let own = || digest(format!("{} {}", envelope.died_at, letter.name).as_bytes());
    let id = envelope.id.as_ref().map(Id::to_string);
    properties.message_id = properties.message_id.or(id).or_else(|| Some(own()));
    let body = match read(envelope, Some(&home)) {
        // As a first attempt, and also when its time to start is over: whoever asks wants it run.
        Some(task) if task.attempt > 1 || task.spec.expires_at.is_some() => {
            let spec = Spec { expires_at: None, ..task.spec.clone() };
            task::encode(&Task { attempt: 1, spec, ..task })
        }
        Some(_) | None => original.body.clone(),
    };
    Step::Publish(Outgoing { target: Target::Queue(home), body, properties, delay: None })
}

/// The queue that it died in; `None` if nobody knows.
fn home(envelope: &Envelope, address: &Address) -> Option<Queue> {
    match Queue::from_name(&envelope.queue) {
        Some(queue @ (Queue::Tasks(_) | Queue::Workflows)) => Some(queue),
        // The inbox has put it to its protocol's letters.
        Some(Queue::Inbox | Queue::Dead(_)) | None if *address != unrouted() => {
            Some(Queue::Tasks(address.clone()))
        }
        Some(Queue::Inbox | Queue::Dead(_)) | None => None,
    }
}

/// The original as a task, if it is one.
fn read(envelope: &Envelope, home: Option<&Queue>) -> Option<Task> {
    let protocol = match home {
        Some(Queue::Tasks(address)) => ProtocolId::from_routing(address.as_str()).ok()?,
        Some(Queue::Workflows | Queue::Dead(_) | Queue::Inbox) | None => return None,
    };
    let original = &envelope.original;
    match task::decode(&original.body, &original.properties, &protocol) {
        Ok(Decoded::Task(task)) if original.is_whole() => Some(*task),
        Ok(Decoded::Task(_) | Decoded::Newer { .. }) | Err(_) => None,
    }
}
