//! The life of one task delivery, told once.
//!
//! decode ▸ admit (id, version, due) ▸ claim ▸ attempt (fill, validate, call, check) ▸ judge ▸ finish ▸
//! publish ▸ settle
//!
//! A crash anywhere leaves the delivery unsettled; it comes again, `claim` tells how far it had come, and the
//! publish is repeated. Nothing is settled before what it caused is confirmed.

use serde_json::Value;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::outcome::{Attempt, Verdict};
use super::patience::{Stop, insist};
use super::publish::{Past, again, document, message_of};
use crate::broker::{BrokerError, Delivery, Settlement};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::Id;
use crate::core::protocol::{Leniency, LookupError, ProtocolId};
use crate::core::state::{TaskState, WorkflowState};
use crate::core::violation::Violation;
use crate::provider::{Answer, CallCx};
use crate::store::{Claim, Claimed, End, Fence, Finished, Lease};
use crate::topology::{Queue, unrouted};
use crate::wire::record::Head;
use crate::wire::task::{self, Decoded, Task};

/// The longest wait before a delivery whose task is held by a live session is looked at again.
const HELD_DELAY_MAX: Duration = Duration::from_secs(60);
/// How often it is looked at each second before the waits grow: past the TTL of a session that went silent.
const HELD_LOOKS: u32 = 7;
/// How long a message of a newer version waits for a newer worker.
const NEWER_DELAY: Duration = Duration::from_secs(60);
/// How long a message of a newer version may wait in all.
const NEWER_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Counts how often a message met a live lease.
const HEADER_HELD: &str = "gleitzeit-held";
/// When a message of a newer version was first seen.
const HEADER_NEWER: &str = "gleitzeit-newer-since";

/// A task that this worker holds the lease of.
#[derive(Debug)]
pub(super) struct Run {
    /// The right to end the attempt.
    pub(super) lease: Lease,
    /// Result documents of the tasks that the parameters refer to.
    pub(super) inputs: Vec<(Id, Option<Value>)>,
    /// Attempts that ended with the death of their worker.
    pub(super) crashes: u32,
    /// The history so far, one JSON object an attempt.
    pub(super) history: Vec<String>,
}

impl Shared {
    /// Brings one task delivery to its end and settles it.
    pub(super) async fn execute(&self, delivery: Delivery) {
        let settlement = self.settlement_of(&delivery, self.live(&delivery).await).await;
        settle(delivery, settlement).await;
    }

    /// The story. `Ok` means: everything that this delivery had to cause is recorded and confirmed.
    async fn live(&self, delivery: &Delivery) -> Result<(), Stop> {
        let protocol = protocol_of(&delivery.queue);
        let task = match task::decode(&delivery.body, &delivery.properties, &protocol) {
            Ok(Decoded::Task(task)) => *task,
            Ok(Decoded::Newer { v, .. }) => return self.park_newer(delivery, v).await,
            Err(refused) => return self.refuse(delivery, *refused).await,
        };
        let Some((task, head)) = self.admit(delivery, task).await? else { return Ok(()) };
        let cancel = self.abort.child_token();
        let Some(_entered) = self.running.enter(&head.key, cancel.clone()) else {
            return self.publish_held(delivery, &task).await;
        };
        let Some(run) = self.claim(delivery, &task, &head).await? else { return Ok(()) };
        let attempt = self.attempt(&task, &head, &run, cancel).await;
        let verdict = self.judge(&task, &run, attempt);
        self.conclude(delivery, &task, &head, &run, verdict).await
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
            self.publish(vec![message_of(delivery, &task, Some(due.since(now)))]).await?;
            return Ok(None);
        }
        Ok(Some((task, head)))
    }

    /// Takes the lease. `None`: there is nothing to run, and what had to be published is published.
    async fn claim(&self, delivery: &Delivery, task: &Task, head: &Head) -> Result<Option<Run>, Stop> {
        let mut over: Option<Fence> = None;
        loop {
            let claim = Claim {
                head: head.clone(),
                attempt: task.attempt,
                session: self.session.clone(),
                over,
                inputs: task.needs(),
            };
            let step = || self.parts.store.claim(&claim, self.parts.clock.now());
            match insist(&self.abort, "claim", step).await? {
                Claimed::Run { lease, inputs, crashes, history } => {
                    let parse = |bytes: bytes::Bytes| serde_json::from_slice(&bytes).ok();
                    let documents = inputs.into_iter().map(|bytes| bytes.and_then(parse));
                    let inputs = claim.inputs.into_iter().zip(documents).collect();
                    return Ok(Some(Run { lease, inputs, crashes, history }));
                }
                Claimed::Held { fence, session } if session == self.session => {
                    // Our own claim, whose answer was lost: nobody runs it, so it is given back and asked again.
                    let lease = Lease { key: head.key.clone(), fence, attempt: task.attempt };
                    let now = self.parts.clock.now();
                    let step = || self.parts.store.finish(&lease, &End::Abandoned, now);
                    insist(&self.abort, "finish", step).await?;
                    over = None;
                    continue;
                }
                Claimed::Held { session, fence } => {
                    let now = self.parts.clock.now();
                    let alive =
                        insist(&self.abort, "alive", || self.parts.store.alive(&session, now)).await?;
                    if !alive {
                        tracing::warn!(task = %head.key, %session, "taking over from a dead worker");
                        over = Some(fence);
                        continue;
                    }
                    self.publish_held(delivery, task).await?;
                }
                Claimed::NotReady => {
                    tracing::debug!(task = %head.key, "the message is early; it will be published when ready");
                }
                Claimed::Next { attempt, due } => {
                    let next = Task { attempt, ..task.clone() };
                    let wait = due.since(self.parts.clock.now());
                    self.publish(vec![message_of(delivery, &next, Some(wait))]).await?;
                }
                Claimed::Over { state, released } => {
                    self.publish_released(released).await?;
                    self.repeat_end(delivery, task, head, state).await?;
                }
                Claimed::NoWorkflow => {
                    let text = format!("workflow {} is not known; submit it before its tasks", head.key.root);
                    self.bury(
                        delivery,
                        Some(task),
                        &Failure::new(Code::WorkflowNotFound, text),
                        Past::default(),
                    )
                    .await?;
                }
            }
            return Ok(None);
        }
    }

    /// One attempt: from the parameters as written to a checked result.
    async fn attempt(&self, task: &Task, head: &Head, run: &Run, cancel: CancellationToken) -> Attempt {
        let started_at = self.parts.clock.now();
        let started = tokio::time::Instant::now();
        self.tell_started(head, run.lease.attempt);
        let mut provider = None;
        let outcome = self.call(task, head, run, cancel, &mut provider).await;
        if self.abort.is_cancelled() && outcome.is_err() {
            return Attempt::Abandoned;
        }
        Attempt::Made { outcome, provider, started_at, took: started.elapsed() }
    }

    async fn call(
        &self,
        task: &Task,
        head: &Head,
        run: &Run,
        cancel: CancellationToken,
        chosen: &mut Option<String>,
    ) -> Result<Answer, Failure> {
        if run.crashes >= self.settings.crash_limit {
            let text = format!("{} workers died while they ran this task; it is given up", run.crashes);
            return Err(Failure::new(Code::WorkerLost, text).with("crashes", run.crashes).final_now());
        }
        if let Some(at) = task.spec.expires_at.filter(|at| *at <= self.parts.clock.now()) {
            return Err(Failure::new(Code::TaskExpired, format!("not started by {at}")));
        }
        let input = |id: &Id| run.inputs.iter().find(|(input, _)| input == id)?.1.as_ref();
        let params = task.fill(input)?;
        let spec = &task.spec;
        let method = self.parts.protocols.method(&spec.protocol, &spec.method).map_err(unknown)?;
        let params =
            method.validate(params, Leniency::Exact).map_err(|found| invalid(Code::InvalidParams, &found))?;
        let timeout = method.spec.timeout_seconds.map(Duration::from_secs_f64);
        let cx = CallCx {
            key: head.key.clone(),
            attempt: run.lease.attempt,
            timeout: spec.timeout.or(timeout).unwrap_or(self.settings.task_timeout),
            cancel,
            traceparent: task.traceparent.clone(),
        };
        let provider = self.parts.providers.choose(&spec.protocol, method.name)?;
        *chosen = Some(provider.name().to_owned());
        let answer = provider.call(&cx, method.name, Value::Object(params)).await?;
        let found = method.check_result(&answer.result);
        if !found.is_empty() {
            return Err(invalid(Code::TaskResultInvalid, &found));
        }
        Ok(answer)
    }

    /// Records the verdict, publishes what it caused.
    async fn conclude(
        &self,
        delivery: &Delivery,
        task: &Task,
        head: &Head,
        run: &Run,
        verdict: Verdict,
    ) -> Result<(), Stop> {
        let end = self.end_of(head, task, &verdict);
        // Giving an attempt back is the answer to the abort, so the abort must not cut it short.
        let patience =
            if matches!(verdict, Verdict::Abandoned) { CancellationToken::new() } else { self.abort.clone() };
        let step = || self.parts.store.finish(&run.lease, &end, self.parts.clock.now());
        let (released, workflow) = match insist(&patience, "finish", step).await? {
            Finished::Done { released, workflow, .. } => (released, workflow),
            Finished::Lost => {
                tracing::info!(task = %head.key, "the lease was lost; this worker's result is dropped");
                return Ok(());
            }
        };
        match &verdict {
            Verdict::Abandoned => return Err(Stop::Aborted),
            Verdict::Again { wait, .. } => {
                let next = Task { attempt: run.lease.attempt + 1, ..task.clone() };
                self.publish(vec![message_of(delivery, &next, Some(*wait))]).await?;
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
        self.tell_verdict(head, run, &verdict, workflow);
        Ok(())
    }

    /// The end was recorded by a delivery that was not settled: what follows the record is done again.
    async fn repeat_end(
        &self,
        delivery: &Delivery,
        task: &Task,
        head: &Head,
        state: TaskState,
    ) -> Result<(), Stop> {
        let read = || self.parts.store.result(&head.key);
        let Some(document) = insist(&self.abort, "result", read).await? else { return Ok(()) };
        // A second message for a task that has ended is no crash; it gets its reply, but no dead letter.
        if state != TaskState::Completed && delivery.redelivered {
            let value: Value = serde_json::from_slice(&document).unwrap_or_default();
            if let Some(failure) = value.get("error").and_then(Failure::from_json) {
                self.bury(delivery, Some(task), &failure, Past::default()).await?;
            }
        }
        self.reply(task, document).await
    }

    /// Waits with a held task: published again, uncounted, later each time.
    async fn publish_held(&self, delivery: &Delivery, task: &Task) -> Result<(), Stop> {
        let times: u32 = header(delivery, HEADER_HELD).and_then(|text| text.parse().ok()).unwrap_or(0);
        // Every second until a silent session must have run out, then less and less often.
        let wait = Duration::from_secs(1 << times.saturating_sub(HELD_LOOKS).min(6)).min(HELD_DELAY_MAX);
        let mut message = message_of(delivery, task, Some(wait));
        message.properties.headers.insert(HEADER_HELD.to_owned(), times.saturating_add(1).to_string());
        self.publish(vec![message]).await
    }

    /// A message that only a newer worker understands waits for one.
    pub(super) async fn park_newer(&self, delivery: &Delivery, v: u64) -> Result<(), Stop> {
        let now = self.parts.clock.now();
        let since = header(delivery, HEADER_NEWER).and_then(|text| text.parse().ok()).unwrap_or(now);
        if now.since(since) >= NEWER_AGE_MAX {
            let text = format!("the message is of version {v}, which no worker understood for 24 hours");
            return self
                .bury(delivery, None, &Failure::new(Code::ProtocolVersionMismatch, text), Past::default())
                .await;
        }
        let mut message = again(delivery, Some(NEWER_DELAY));
        message.properties.headers.insert(HEADER_NEWER.to_owned(), since.to_string());
        self.publish(vec![message]).await
    }

    /// What a delivery's story means for its settlement.
    pub(super) async fn settlement_of(&self, delivery: &Delivery, story: Result<(), Stop>) -> Settlement {
        let (code, message) = match story {
            Ok(()) => return Settlement::Done,
            Err(Stop::Aborted) => return Settlement::Release,
            Err(Stop::Broken { code, message }) => (code, message),
        };
        match self.bury_broken(delivery, code, &message).await {
            Ok(()) => Settlement::Done,
            Err(_) => Settlement::Release,
        }
    }
}

/// Settles, and says so if the delivery was lost: the message comes again and `claim` ends it.
pub(super) async fn settle(delivery: Delivery, settlement: Settlement) {
    match delivery.settle(settlement).await {
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

fn unknown(error: LookupError) -> Failure {
    Failure::new(error.code(), error.to_string())
}

fn invalid(code: Code, violations: &[Violation]) -> Failure {
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    Failure::new(code, lines.join("; ")).with("violations", serde_json::json!(violations))
}

fn header<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a str> {
    delivery.properties.headers.get(name).map(String::as_str)
}
