//! Sending again what is lost.

use std::collections::HashMap;

use super::{Finding, Parts, Report, Subject, Why};
use crate::broker::{Outgoing, Properties, Target};
use crate::core::id::TaskKey;
use crate::error::Error;
use crate::store::{Message, Released};
use crate::topology::Queue;
use crate::wire::schedule::{Order, Tick};

/// How many messages are published at once. With what the store keeps of one that is at most 200 MiB.
const BATCH: usize = 100;

/// Publishes the messages of what was found once more, and marks what has one. Each batch is confirmed before the
/// next begins.
///
/// # Errors
/// What the broker or the store says; what was published before stays so, and a repeat is harmless.
pub async fn repair(parts: &Parts, report: &mut Report) -> Result<(), Error> {
    for findings in report.findings.chunks_mut(BATCH) {
        let keys: Vec<TaskKey> = findings.iter().filter_map(task_of).collect();
        let released = parts.store.messages(&keys).await?;
        let mut messages: HashMap<TaskKey, Released> =
            released.into_iter().flatten().map(|released| (released.key.clone(), released)).collect();
        let mut batch = Vec::new();
        let mut sent = Vec::new();
        for (at, finding) in findings.iter().enumerate() {
            let message = match &finding.subject {
                Subject::Task(key) => messages.remove(key).map(message_released),
                Subject::Schedule(name, slot, generation) => {
                    Some(tick(&Tick { name: name.clone(), slot: *slot, generation: *generation }))
                }
                Subject::Workflow(_) => None,
            };
            if let Some(message) = message {
                batch.push(message);
                sent.push(at);
            }
        }
        if batch.is_empty() {
            continue;
        }
        parts.broker.publish(batch).await?;
        for at in sent {
            findings[at].is_repaired = true;
        }
    }
    Ok(())
}

impl Finding {
    /// What a person may do about what is not repaired.
    #[must_use]
    pub fn advice(&self) -> String {
        let id = &self.subject;
        match (self.is_repaired, &self.subject, self.why) {
            (true, _, _) => "sent again".to_owned(),
            (false, Subject::Schedule(..), _) => "--repair sends it again".to_owned(),
            (false, Subject::Workflow(_), Why::NotTakenIn) => {
                format!("submit its file again; `gleitzeit cancel {id}` ends this one")
            }
            (false, Subject::Workflow(_), _) => {
                format!("`gleitzeit cancel {id}`, then `gleitzeit retry {id}` runs what did not complete")
            }
            (false, Subject::Task(_), _) => {
                "--repair sends it again where its message is kept; else submit it again".to_owned()
            }
        }
    }
}

fn task_of(finding: &Finding) -> Option<TaskKey> {
    match &finding.subject {
        Subject::Task(key) => Some(key.clone()),
        Subject::Workflow(_) | Subject::Schedule(..) => None,
    }
}

fn message_released(released: Released) -> Outgoing {
    let Released { key, message: Message { address, priority, body }, run } = released;
    let properties = Properties::of_released(&key, priority, run);
    Outgoing { target: Target::Queue(Queue::Tasks(address)), body, properties, delay: None }
}

fn tick(tick: &Tick) -> Outgoing {
    let body = Order::Tick(tick.clone()).encode();
    let target = Target::Queue(Queue::Workflows);
    Outgoing { target, body, properties: Properties::default(), delay: None }
}
