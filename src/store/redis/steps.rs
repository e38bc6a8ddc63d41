//! The steps that change state: what each script is sent, and what its answer means.

use serde_json::json;
use std::time::Duration;

use super::RedisStore;
use super::reply::{Reply, corrupt};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::store::{
    Accepted, Cancelled, Claim, Claimed, Created, End, Fence, Finished, Lease, Message, Plan, Released,
    StoreError,
};
use crate::topology::Address;
use crate::wire::record;

/// How many `accept` steps go into one round trip.
const ACCEPT_BATCH: usize = 1000;

/// A week: the least time that the record of an end is kept.
const TOMBSTONE_MIN: Duration = Duration::from_secs(7 * 24 * 3600);

impl RedisStore {
    pub(super) async fn create_step(&self, plan: &Plan, now: Timestamp) -> Result<Created, StoreError> {
        const STEP: &str = "create";
        let mut dependents = vec![Vec::new(); plan.tasks.len()];
        for (index, task) in plan.tasks.iter().enumerate() {
            for dependency in &task.dependencies {
                let unknown = || corrupt(STEP, format!("task {index} depends on task {dependency}"));
                dependents.get_mut(*dependency).ok_or_else(unknown)?.push(index);
            }
        }
        let names = |indices: &[usize]| {
            let ids: Vec<&str> = indices.iter().map(|at| plan.tasks[*at].head.key.id().as_str()).collect();
            ids.join(" ")
        };
        let mut script = self.scripts.create.key(self.prefix.root(&plan.id));
        script
            .arg(now.to_string())
            .arg(record::workflow_open(&plan.id, &plan.name))
            .arg(millis(plan.result_ttl))
            .arg(millis(tombstone_ttl(plan.result_ttl)))
            .arg(self.prefix.channel(&plan.id))
            .arg(plan.refused.as_ref().map(|failure| json!(failure).to_string()).unwrap_or_default())
            .arg(plan.tasks.len());
        for (task, dependents) in plan.tasks.iter().zip(&dependents) {
            script
                .arg(task.head.key.id().as_str())
                .arg(task.head.open())
                .arg(task.message.address.as_str())
                .arg(task.message.priority)
                .arg(&task.message.body[..])
                .arg(task.dependencies.len())
                .arg(names(&task.dependencies))
                .arg(names(dependents));
        }
        let mut reply = Reply::new(STEP, self.connection.invoke(STEP, &script).await?)?;
        match reply.text()?.as_str() {
            "running" => Ok(Created::Running(released(&plan.id, reply.list()?)?)),
            "over" => Ok(Created::Over(workflow_state(&mut reply)?)),
            "clash" => Err(clash(STEP, &plan.id, "a task on its own")),
            other => Err(reply.corrupt(format!("the answer {other:?}"))),
        }
    }

    pub(super) async fn claim_step(&self, claim: &Claim, now: Timestamp) -> Result<Claimed, StoreError> {
        const STEP: &str = "claim";
        let key = &claim.head.key;
        let mut script = self.scripts.claim.key(self.prefix.task(key));
        script.key(self.prefix.root(&key.root)).key(self.prefix.result(key));
        for input in &claim.inputs {
            script.key(self.prefix.result(&TaskKey::within(key.root.clone(), input.clone())));
        }
        script
            .arg(claim.attempt)
            .arg(claim.session.as_str())
            .arg(claim.over.map(|fence| fence.0.to_string()).unwrap_or_default())
            .arg(now.to_string())
            .arg(claim.head.open())
            .arg(self.prefix.channel(&key.root))
            .arg(millis(self.result_ttl))
            .arg(millis(tombstone_ttl(self.result_ttl)));
        let mut reply = Reply::new(STEP, self.connection.invoke(STEP, &script).await?)?;
        match reply.text()?.as_str() {
            "run" => {
                let (fence, attempt) = (Fence(reply.parsed()?), reply.parsed()?);
                let crashes = reply.parsed()?;
                let history = reply.text()?.lines().map(str::to_owned).collect();
                let mut documents = reply.list()?;
                let mut inputs = Vec::with_capacity(claim.inputs.len());
                while !documents.is_empty() {
                    inputs.push(documents.bytes()?);
                }
                Ok(Claimed::Run {
                    lease: Lease { key: key.clone(), fence, attempt },
                    inputs,
                    crashes,
                    history,
                })
            }
            "held" => Ok(Claimed::Held { session: reply.parsed()?, fence: Fence(reply.parsed()?) }),
            "waiting" => Ok(Claimed::NotReady),
            "next" => {
                let attempt = reply.parsed()?;
                Ok(Claimed::Next { attempt, due: reply.time()?.unwrap_or(now) })
            }
            "over" => {
                let state = task_state(&mut reply)?;
                Ok(Claimed::Over { state, released: released(&key.root, reply.list()?)? })
            }
            "unknown" => Ok(Claimed::NoWorkflow),
            "clash" => Err(clash(STEP, &key.root, "a workflow")),
            other => Err(reply.corrupt(format!("the answer {other:?}"))),
        }
    }

    pub(super) async fn finish_step(
        &self,
        lease: &Lease,
        end: &End,
        now: Timestamp,
    ) -> Result<Finished, StoreError> {
        const STEP: &str = "finish";
        let key = &lease.key;
        let mut script = self.scripts.finish.key(self.prefix.task(key));
        script.key(self.prefix.root(&key.root)).key(self.prefix.result(key)).arg(lease.fence.0);
        match end {
            End::Ended { state, .. } => script.arg("ended").arg(state.name()),
            End::Again { due, .. } if *due > now => script.arg("again").arg(TaskState::Delayed.name()),
            End::Again { .. } => script.arg("again").arg(TaskState::Queued.name()),
            End::Abandoned => script.arg("abandoned").arg(TaskState::Queued.name()),
        };
        script.arg(now.to_string());
        match end {
            End::Ended { state, document, keep, ttl, entry } => {
                if !state.is_ended() {
                    return Err(corrupt(STEP, format!("a task cannot end as {state}")));
                }
                let cut = key.task.as_ref().and_then(|_| record::result_offset(document));
                script
                    .arg(one_line(entry))
                    .arg("")
                    .arg(&document[..])
                    .arg(u8::from(*keep))
                    .arg(millis(*ttl))
                    .arg(millis(tombstone_ttl(*ttl)))
                    .arg(self.prefix.channel(&key.root))
                    .arg(cut.unwrap_or(0))
                    .arg(key.id().as_str());
            }
            End::Again { due, entry } => {
                script.arg(one_line(entry)).arg(due.to_string());
            }
            End::Abandoned => {}
        }
        let mut reply = Reply::new(STEP, self.connection.invoke(STEP, &script).await?)?;
        match reply.text()?.as_str() {
            "lost" => Ok(Finished::Lost),
            "done" => {
                let state = match key.task {
                    Some(_) => Some(workflow_state(&mut reply)?),
                    None => reply.text().map(|_| None)?,
                };
                let mut names = reply.list()?;
                let mut failed = Vec::new();
                while !names.is_empty() {
                    failed.push(names.parsed()?);
                }
                let released = released(&key.root, reply.list()?)?;
                Ok(Finished::Done { released, failed, workflow: state })
            }
            other => Err(reply.corrupt(format!("the answer {other:?}"))),
        }
    }

    pub(super) async fn cancel_step(&self, root: &Id, now: Timestamp) -> Result<Cancelled, StoreError> {
        const STEP: &str = "cancel";
        let mut script = self.scripts.cancel.key(self.prefix.root(root));
        script
            .key(self.prefix.outcome(root))
            .arg(now.to_string())
            .arg(millis(self.result_ttl))
            .arg(millis(tombstone_ttl(self.result_ttl)))
            .arg(self.prefix.channel(root));
        let mut reply = Reply::new(STEP, self.connection.invoke(STEP, &script).await?)?;
        match reply.text()?.as_str() {
            "done" => {
                let mut pairs = reply.list()?;
                let mut running = Vec::new();
                while !pairs.is_empty() {
                    let name = pairs.text()?;
                    let task = if name.is_empty() { None } else { Some(id(STEP, &name)?) };
                    running.push((TaskKey { root: root.clone(), task }, pairs.parsed()?));
                }
                Ok(Cancelled::Done { running })
            }
            "over" => Ok(Cancelled::Over(reply.text()?)),
            "marked" => Ok(Cancelled::Marked),
            other => Err(reply.corrupt(format!("the answer {other:?}"))),
        }
    }

    pub(super) async fn accept_step(&self, accepted: &[Accepted], now: Timestamp) -> Result<(), StoreError> {
        const STEP: &str = "accept";
        let now = now.to_string();
        for batch in accepted.chunks(ACCEPT_BATCH) {
            let mut pipeline = redis::pipe();
            for one in batch {
                let (root, kind, head) = match one {
                    Accepted::Task(head) => (&head.key.root, "task", head.open()),
                    Accepted::Workflow { id, name } => (id, "workflow", record::workflow_open(id, name)),
                };
                let script = &self.scripts.accept;
                pipeline.cmd("EVALSHA").arg(script.get_hash()).arg(1).arg(self.prefix.root(root));
                pipeline.arg(kind).arg(head).arg(&now).ignore();
            }
            self.connection.script_pipeline(STEP, &self.scripts.accept, &pipeline).await?;
        }
        Ok(())
    }
}

/// How long the record of an end outlives it, for results that are kept for `result_ttl`.
fn tombstone_ttl(result_ttl: Duration) -> Duration {
    result_ttl.saturating_mul(7).max(TOMBSTONE_MIN)
}

/// As Redis wants it: at least 1, at most some 300 years.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).clamp(1, 10_000_000_000_000)
}

/// The history has one entry per line. Within JSON a line break can only be white space.
fn one_line(entry: &str) -> std::borrow::Cow<'_, str> {
    if entry.contains(['\n', '\r']) {
        return entry.replace(['\n', '\r'], " ").into();
    }
    entry.into()
}

fn released(workflow: &Id, mut reply: Reply) -> Result<Vec<Released>, StoreError> {
    let mut released = Vec::new();
    while !reply.is_empty() {
        let key = TaskKey::within(workflow.clone(), reply.parsed()?);
        let address = Address::parse(&reply.text()?).map_err(|error| reply.corrupt(error.to_string()))?;
        let priority = reply.parsed()?;
        let body = reply.bytes()?.ok_or_else(|| reply.corrupt(format!("{key} has no message")))?;
        released.push(Released { key, message: Message { address, priority, body } });
    }
    Ok(released)
}

fn id(step: &'static str, text: &str) -> Result<Id, StoreError> {
    Id::parse(text).map_err(|error| corrupt(step, error.to_string()))
}

fn clash(step: &'static str, id: &Id, what: &str) -> StoreError {
    corrupt(step, format!("the id {id} is already that of {what}"))
}

pub(super) fn task_state(reply: &mut Reply) -> Result<TaskState, StoreError> {
    let name = reply.text()?;
    TaskState::parse(&name).ok_or_else(|| reply.corrupt(format!("{name:?} is no state of a task")))
}

pub(super) fn workflow_state(reply: &mut Reply) -> Result<WorkflowState, StoreError> {
    let name = reply.text()?;
    WorkflowState::parse(&name).ok_or_else(|| reply.corrupt(format!("{name:?} is no state of a workflow")))
}
