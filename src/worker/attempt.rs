//! One attempt: from the parameters as written to a checked result.
//!
//! inputs ▸ condition ▸ fill ▸ room ▸ validate ▸ call ▸ check

use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::expand::Kind;
use super::guard::header;
use super::lease::Run;
use super::limit::is_asked_late;
use super::outcome::Attempt;
use super::patience::Stop;
use super::room::Room;
use crate::broker::Delivery;
use crate::core::balance::Wish;
use crate::core::code::Code;
use crate::core::condition::Condition;
use crate::core::failure::Failure;
use crate::core::id::Id;
use crate::core::protocol::{Leniency, LookupError};
use crate::core::requirements::ResourceRequirements;
use crate::core::violation::Violation;
use crate::core::workflow::Workflow;
use crate::provider::limit::Used;
use crate::provider::registry::{Ask, Called};
use crate::provider::{Answer, CallCx, Output};
use crate::wire::record::Head;
use crate::wire::task::{INPUT_BYTES_MAX, Task};

/// What an attempt turns out to be.
enum Prepared {
    /// Its condition does not hold.
    Skip(String),
    /// It stands for several tasks.
    Several(Kind),
    /// A call with these parameters.
    Call(Value),
}

impl Shared {
    /// One attempt: from the parameters as written to a checked result, or to what is to be done instead.
    pub(super) async fn attempt(
        &self,
        delivery: &Delivery,
        task: &Task,
        head: &Head,
        run: &Run,
        room: Room,
        cancel: CancellationToken,
    ) -> Result<Attempt, Stop> {
        let started_at = self.parts.clock.now();
        let started = tokio::time::Instant::now();
        if run.children.is_empty() {
            self.tell_started(head, run.lease.attempt);
        }
        let mut provider = None;
        let outcome = match self.prepare(task, run) {
            Err(failure) => Err(failure),
            Ok(Prepared::Skip(reason)) => return Ok(Attempt::Skipped { reason }),
            Ok(Prepared::Several(kind)) if !run.children.is_empty() => {
                self.collect(task, head, run, &kind).await?
            }
            Ok(Prepared::Several(kind)) => match self.expansion(task, &kind) {
                Err(failure) => Err(failure),
                Ok(Some(expansion)) => return Ok(Attempt::Expanded(expansion)),
                Ok(None) => Ok(Answer::from(kind.nothing())),
            },
            Ok(Prepared::Call(params)) => {
                let _share = match self.room_with_lease(delivery, task, &head.key, room, &cancel).await? {
                    Ok(share) => share,
                    Err(instead) => return Ok(instead),
                };
                match self.call(delivery, task, head, run, params, cancel).await? {
                    Called::Made { by, outcome } => {
                        provider = Some(by);
                        outcome
                    }
                    Called::Never(failure) => Err(failure),
                    Called::Elsewhere(failure) => return Ok(Attempt::Elsewhere { failure, started_at }),
                    Called::NotNow { wait, why } => return Ok(Attempt::NotNow { wait, why }),
                }
            }
        };
        if self.abort.is_cancelled() && outcome.is_err() {
            return Ok(Attempt::Abandoned);
        }
        let is_last = !run.children.is_empty();
        Ok(Attempt::Made { outcome, provider, started_at, took: started.elapsed(), is_last })
    }

    /// What the attempt is about, by the results that it refers to.
    fn prepare(&self, task: &Task, run: &Run) -> Result<Prepared, Failure> {
        if run.crashes >= self.settings.crash_limit {
            let text = format!("{} workers died while they ran this task; it is given up", run.crashes);
            return Err(Failure::new(Code::WorkerLost, text).with("crashes", run.crashes).final_now());
        }
        let expired = task.spec.expires_at.filter(|at| *at <= self.parts.clock.now());
        if let Some(at) = expired.filter(|at| !run.was_started_before(*at)) {
            return Err(Failure::new(Code::TaskExpired, format!("not started by {at}")));
        }
        let inputs = documents(run)?;
        let document = |id: &Id| inputs.get(id);
        // What has planned its children has been found worth doing.
        if run.children.is_empty()
            && let Some(when) = task.condition()
            && !holds(when, &task.condition_values(document)?)?
        {
            return Ok(Prepared::Skip(format!("its condition does not hold: {when}")));
        }
        if task.for_each.is_some() {
            let items = if run.children.is_empty() { task.fill_for_each(document)? } else { None };
            return Ok(Prepared::Several(Kind::Items(items.unwrap_or_default())));
        }
        let params = task.fill(document)?;
        if task.spec.is_workflow() {
            let workflow =
                Workflow::nested(params, &self.parts.protocols).map_err(|refused| refused.failure())?;
            return Ok(Prepared::Several(Kind::Workflow(Box::new(workflow))));
        }
        Ok(Prepared::Call(params))
    }

    async fn call(
        &self,
        delivery: &Delivery,
        task: &Task,
        head: &Head,
        run: &Run,
        params: Value,
        cancel: CancellationToken,
    ) -> Result<Called, Stop> {
        let spec = &task.spec;
        let method = match self.parts.protocols.method(&spec.protocol, &spec.method) {
            Ok(method) => method,
            Err(error) => return Ok(Called::Never(unknown(error))),
        };
        let params = match method.validate(params, Leniency::Exact) {
            Ok(params) => params,
            Err(found) => return Ok(Called::Never(invalid(Code::InvalidParams, &found))),
        };
        let needs = self.needs(task);
        let wish = Wish { gpu_memory_mb: needs.gpu_memory_mb, ..Wish::of(spec, &params) };
        let (limits, params) = (self.parts.providers.limits(), Value::Object(params));
        let written = Some(&spec.params).filter(|_| !is_asked_late(delivery));
        let of_message = |name: &str| header(delivery, name).map(str::to_owned);
        let wants = limits.late(&spec.protocol, method.name, written, &params, &of_message);
        let permits = match self.within_late_limits(&spec.protocol, wants, &cancel).await? {
            Ok(permits) => permits,
            Err((wait, why)) => return Ok(Called::NotNow { wait: Some(wait), why }),
        };
        let of_needs = |needs: Option<&ResourceRequirements>| needs.and_then(|needs| needs.execution_timeout);
        let timeout = of_needs(spec.resource_requirements.as_ref())
            .or(method.spec.timeout_seconds)
            .or(needs.execution_timeout)
            .map(Duration::from_secs_f64);
        let (output, pieces) = Output::new();
        // Whoever wants no result kept wants nothing of it kept.
        let output = if spec.ignore_result { Output::nowhere() } else { output };
        let cx = CallCx {
            key: head.key.clone(),
            attempt: run.lease.attempt,
            timeout: spec.timeout.or(timeout).unwrap_or(self.settings.task_timeout),
            cancel,
            traceparent: task.traceparent.clone(),
            priority: spec.priority.unwrap_or_default(),
            output,
        };
        let ask = Ask { protocol: &spec.protocol, method: method.name, wish };
        let calling = self.parts.providers.call(&cx, &ask, params, &*self.parts.clock);
        let mut called = self.handing_on(&run.lease, pieces, calling).await;
        if let Called::Made { outcome, .. } = &mut called {
            let found = outcome.as_ref().map_or(Vec::new(), |answer| method.check_result(&answer.result));
            if !found.is_empty() {
                *outcome = Err(invalid(Code::TaskResultInvalid, &found));
            }
        }
        limits.settle(permits, used_by(&called)).await;
        Ok(called)
    }
}

/// What a call has used of its limits.
fn used_by(called: &Called) -> Used {
    match called {
        Called::Made { outcome, .. } => Used::by(outcome),
        Called::NotNow { .. } | Called::Elsewhere(_) | Called::Never(_) => Used::Nothing,
    }
}

/// Whether a condition holds, by what its references stand for.
fn holds(when: &str, values: &BTreeMap<String, Value>) -> Result<bool, Failure> {
    let refused = |reason: String| {
        Failure::new(Code::TaskParameterError, format!("the condition {when:?} cannot be decided: {reason}"))
    };
    let condition = Condition::parse(when).map_err(refused)?;
    condition.holds(&|reference| values.get(reference).cloned()).map_err(refused)
}

fn unknown(error: LookupError) -> Failure {
    Failure::new(error.code(), error.to_string())
}

fn invalid(code: Code, violations: &[Violation]) -> Failure {
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    Failure::new(code, lines.join("; ")).with("violations", serde_json::json!(violations))
}

/// The result documents that the parameters refer to, read once.
fn documents(run: &Run) -> Result<BTreeMap<&Id, Value>, Failure> {
    let inputs = run.inputs.as_ref().map_err(|bytes| {
        let text = format!(
            "the results that it refers to have {bytes} bytes together, more than {INPUT_BYTES_MAX}; store masses elsewhere and hand on where they are"
        );
        let failure = Failure::new(Code::TaskTooLarge, text).with("bytes", *bytes);
        failure.with("bytes_max", INPUT_BYTES_MAX)
    })?;
    let mut read = BTreeMap::new();
    for (id, document) in inputs {
        let Some(document) = document else { continue };
        let value = serde_json::from_slice(document).map_err(|error| {
            Failure::new(
                Code::PersistenceIntegrityError,
                format!("the result of task {id} is not JSON: {error}"),
            )
        })?;
        read.insert(id, value);
    }
    Ok(read)
}
