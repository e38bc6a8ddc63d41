//! The steps of a delivery, and `accept`: what each script is sent, and what its answer means.

use redis::ScriptInvocation;
use std::time::Duration;

use super::RedisStore;
use super::open;
use super::plan::push_tasks;
use super::reply::{Reply, corrupt};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::store::{
    Accepted, Claim, Claimed, End, Fence, Finished, Inputs, Lease, Message, Released, StoreError,
};
use crate::topology::Address;
use crate::wire::record;

/// How many `accept` steps go into one round trip.
const ACCEPT_BATCH: usize = 1000;

/// A week: the least time that the record of an end is kept.
const TOMBSTONE_MIN: Duration = Duration::from_secs(7 * 24 * 3600);

impl RedisStore {
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
            .arg(millis(tombstone_ttl(self.result_ttl)))
            .arg(claim.digest.as_deref().unwrap_or_default())
            .arg(claim.inputs_bytes_max)
            .arg(claim.run.map(|run| run.to_string()).unwrap_or_default())
            .arg(self.prefix.live(&key.root))
            .arg(moved(TaskState::Running.name(), key));
        let mut reply = Reply::new(STEP, self.connection.invoke(STEP, &script).await?)?;
        match reply.text()?.as_str() {
            "run" => {
                let (fence, attempt) = (Fence(reply.parsed()?), reply.parsed()?);
                let crashes = reply.parsed()?;
                let history = reply.text()?.lines().map(str::to_owned).collect();
                let documents = reply.list()?;
                let children = ids(reply.list()?)?;
                let inputs = inputs(documents, &reply.text()?)?;
                let lease = Lease { key: key.clone(), fence, attempt, run: reply.parsed()? };
                Ok(Claimed::Run { lease, inputs, crashes, history, children })
            }
            "held" => Ok(Claimed::Held { session: reply.parsed()?, fence: Fence(reply.parsed()?) }),
            "waiting" => {
                let ready = reply.list()?;
                Ok(Claimed::NotReady { released: released(&key.root, reply.parsed()?, ready)? })
            }
            "superseded" => Ok(Claimed::Superseded),
            "lost" => Ok(Claimed::LostRun { present: reply.parsed()? }),
            "next" => {
                let attempt = reply.parsed()?;
                Ok(Claimed::Next { attempt, due: reply.time()?.unwrap_or(now) })
            }
            "over" => {
                let state = task_state(&mut reply)?;
                let (ready, differs) = (reply.list()?, reply.flag()?);
                Ok(Claimed::Over { state, released: released(&key.root, reply.parsed()?, ready)?, differs })
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
        let (how, state) = match end {
            End::Ended { state, .. } => ("ended", *state),
            End::Again { due, .. } if *due > now => ("again", TaskState::Delayed),
            End::Again { .. } => ("again", TaskState::Queued),
            End::Abandoned => ("abandoned", TaskState::Queued),
            End::Expanded { .. } => ("expanded", TaskState::Waiting),
        };
        script.arg(how).arg(state.name()).arg(now.to_string());
        self.push_end(&mut script, key, end)?;
        if !state.is_ended() {
            script.arg(self.prefix.live(&key.root)).arg(moved(state.name(), key));
        }
        let mut reply = Reply::new(STEP, self.connection.invoke(STEP, &script).await?)?;
        match reply.text()?.as_str() {
            "lost" => Ok(Finished::Lost),
            "done" => {
                let state = match key.task {
                    Some(_) => Some(workflow_state(&mut reply)?),
                    None => reply.text().map(|_| None)?,
                };
                let mut pairs = reply.list()?;
                let mut ended = Vec::new();
                while !pairs.is_empty() {
                    ended.push((pairs.parsed()?, task_state(&mut pairs)?));
                }
                // A lease does not outlive its run.
                let released = released(&key.root, lease.run, reply.list()?)?;
                Ok(Finished::Done { released, ended, workflow: state })
            }
            "refused" => Err(corrupt(STEP, format!("{key} cannot end its attempt so: {}", reply.text()?))),
            other => Err(reply.corrupt(format!("the answer {other:?}"))),
        }
    }

    /// What `lua/finish.lua` wants to know of the end itself.
    fn push_end(&self, script: &mut ScriptInvocation, key: &TaskKey, end: &End) -> Result<(), StoreError> {
        const STEP: &str = "finish";
        match end {
            End::Ended { state, document, keep, ttl, entry, retry } => {
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
                    .arg(cut.unwrap_or(0));
                if let (None, Some(message)) = (&key.task, retry) {
                    script.arg(message.address.as_str()).arg(message.priority).arg(&message.body[..]);
                }
            }
            End::Again { due, entry } => {
                script.arg(one_line(entry)).arg(due.to_string());
            }
            End::Expanded { tasks, max_parallel } => {
                if tasks.is_empty() {
                    return Err(corrupt(STEP, format!("{key} cannot wait for no children")));
                }
                script.arg(max_parallel.map(|tasks| tasks.to_string()).unwrap_or_default()).arg(tasks.len());
                push_tasks(STEP, script, tasks)?;
            }
            End::Abandoned => {}
        }
        Ok(())
    }

    pub(super) async fn accept_step(
        &self,
        accepted: &[Accepted],
        now: Timestamp,
    ) -> Result<Vec<Id>, StoreError> {
        const STEP: &str = "accept";
        let now = now.to_string();
        let mut different = Vec::new();
        for batch in accepted.chunks(ACCEPT_BATCH) {
            let mut pipeline = redis::pipe();
            let mut digests = Vec::new();
            for one in batch {
                let (root, kind, head, digest, due, sent) = match one {
                    Accepted::Task { head, digest, due, sent } => {
                        (&head.key.root, "task", head.open(), digest, *due, sent.as_ref())
                    }
                    Accepted::Workflow { id, name, digest, due } => {
                        (id, "workflow", record::workflow_open(id, name), digest, *due, None)
                    }
                };
                let script = &self.scripts.accept;
                pipeline.cmd("EVALSHA").arg(script.get_hash()).arg(1).arg(self.prefix.root(root));
                pipeline.arg(kind).arg(head).arg(&now).arg(digest.as_deref().unwrap_or_default());
                pipeline.arg(due.map(|due| due.to_string()).unwrap_or_default());
                pipeline.arg(sent.map(open::kept).unwrap_or_default()).ignore();
                digests.extend(digest.as_ref().map(|digest| (root, digest)));
            }
            self.connection.script_pipeline(STEP, &self.scripts.accept, &pipeline).await?;
            different.append(&mut self.different(&digests).await?);
        }
        Ok(different)
    }

    /// Those whose record has another digest. A record's digest never changes once it is there, so this may
    /// come after the step that has noted it.
    async fn different(&self, digests: &[(&Id, &String)]) -> Result<Vec<Id>, StoreError> {
        if digests.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for (root, _) in digests {
            pipeline.cmd("HGET").arg(self.prefix.root(root)).arg("digest");
        }
        let known: Vec<Option<String>> = self.connection.pipeline("accept", &pipeline).await?;
        let differs = |known: &Option<String>, given: &String| known.as_ref().is_some_and(|k| k != given);
        let pairs = digests.iter().zip(&known).filter(|((_, given), known)| differs(known, given));
        Ok(pairs.map(|((root, _), _)| (*root).clone()).collect())
    }
}

/// The results that a claim asked for. `too_many` is how many bytes they have if that is too many.
fn inputs(mut documents: Reply, too_many: &str) -> Result<Inputs, StoreError> {
    if !too_many.is_empty() {
        let bytes =
            too_many.parse().map_err(|_| documents.corrupt(format!("{too_many:?} bytes of results")))?;
        return Ok(Inputs::TooLarge { bytes });
    }
    let mut inputs = Vec::new();
    while !documents.is_empty() {
        inputs.push(documents.bytes()?);
    }
    Ok(Inputs::Read(inputs))
}

/// How long the record of an end outlives it, for results that are kept for `result_ttl`.
pub(super) fn tombstone_ttl(result_ttl: Duration) -> Duration {
    result_ttl.saturating_mul(7).max(TOMBSTONE_MIN)
}

/// As Redis wants it: at least 1, at most some 300 years.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).clamp(1, 10_000_000_000_000)
}

/// What is told of something that has moved and not ended.
pub(super) fn moved(state: &str, key: &TaskKey) -> String {
    format!("{state} {key}")
}

/// The history has one entry per line. Within JSON a line break can only be white space.
fn one_line(entry: &str) -> std::borrow::Cow<'_, str> {
    if entry.contains(['\n', '\r']) {
        return entry.replace(['\n', '\r'], " ").into();
    }
    entry.into()
}

/// The messages to publish; without a name it is that of a task on its own.
pub(super) fn released(root: &Id, run: u32, mut reply: Reply) -> Result<Vec<Released>, StoreError> {
    let mut released = Vec::new();
    while !reply.is_empty() {
        let name = reply.text()?;
        let task = if name.is_empty() { None } else { Some(id(reply.step(), &name)?) };
        let key = TaskKey { root: root.clone(), task };
        let address = Address::parse(&reply.text()?).map_err(|error| reply.corrupt(error.to_string()))?;
        let priority = reply.parsed()?;
        let body = reply.bytes()?.ok_or_else(|| reply.corrupt(format!("{key} has no message")))?;
        released.push(Released { key, message: Message { address, priority, body }, run });
    }
    Ok(released)
}

pub(super) fn ids(mut reply: Reply) -> Result<Vec<Id>, StoreError> {
    let mut ids = Vec::new();
    while !reply.is_empty() {
        ids.push(reply.parsed()?);
    }
    Ok(ids)
}

pub(super) fn id(step: &'static str, text: &str) -> Result<Id, StoreError> {
    Id::parse(text).map_err(|error| corrupt(step, error.to_string()))
}

pub(super) fn clash(step: &'static str, id: &Id, what: &str) -> StoreError {
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
