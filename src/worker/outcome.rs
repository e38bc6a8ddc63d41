//! What an attempt's outcome means: the task ends, or another attempt is made.

use serde_json::{Value, json};
use std::time::Duration;

use super::Shared;
use super::expand::Expansion;
use super::lease::Run;
use super::profiles::{record, sample};
use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::priority::Priority;
use crate::core::profile::Sample;
use crate::core::retry::{self, CodeRef, RetryPolicy};
use crate::core::state::TaskState;
use crate::core::task::Spec;
use crate::provider::Answer;
use crate::store::{End, Message};
use crate::topology::Address;
use crate::wire::record::{Ending, Head};
use crate::wire::task::{self, Task};

/// What became of an attempt.
#[derive(Debug)]
pub(super) enum Attempt {
    /// It was made.
    Made {
        /// The answer, or why there is none.
        outcome: Result<Answer, Failure>,
        /// Who was asked, if it came to that.
        provider: Option<String>,
        /// When it started.
        started_at: Timestamp,
        /// How long it took.
        took: Duration,
        /// Whether there can be no other one: its children have had theirs.
        is_last: bool,
    },
    /// There was nothing to do.
    Skipped {
        /// Why.
        reason: String,
    },
    /// It has planned children, and goes on when they have ended.
    Expanded(Expansion),
    /// No provider of this worker can do it; another worker's may.
    Elsewhere {
        /// Why none here can.
        failure: Failure,
        /// When that was found.
        started_at: Timestamp,
    },
    /// No provider may be asked now; it counts as not made.
    NotNow {
        /// When one may be; `None`: nobody can say.
        wait: Option<Duration>,
        /// Why none may be.
        why: String,
    },
    /// There is no room for it here now; it counts as not made.
    NoRoom {
        /// Why, in words.
        why: String,
        /// Since when no worker is known that could ever hold it, if that is so.
        nobody_since: Option<Timestamp>,
    },
    /// Nobody can ever hold it.
    TooLarge {
        /// What it asks for and what there is.
        failure: Failure,
    },
    /// The worker stops; it counts as not made.
    Abandoned,
}

/// What is to be done now.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The task ends so.
    Ended { ending: Box<Ending>, max_attempts: u32, entry: String, sample: Option<Sample> },
    /// Another attempt, after this wait.
    Again { wait: Duration, failure: Failure, max_attempts: u32, entry: String, sample: Option<Sample> },
    /// The attempt goes on when these have ended.
    Expanded(Expansion),
    /// The attempt is given back, uncounted, until providers can be asked again.
    NotNow { wait: Option<Duration>, why: String },
    /// The attempt is given back, uncounted, for another worker.
    Elsewhere { failure: Failure },
    /// The attempt is given back, uncounted, until there is room for it, here or elsewhere.
    NoRoom { why: String, nobody_since: Option<Timestamp> },
    /// The attempt is given back, uncounted.
    Abandoned,
}

impl Shared {
    /// Judges an attempt by the task's retry policy, else its method's, else the default.
    /// `is_too_late`: others have had their time to take it.
    pub(super) fn judge(&self, task: &Task, run: &Run, attempt: Attempt, is_too_late: bool) -> Verdict {
        let (outcome, provider, started_at, took, is_last) = match attempt {
            Attempt::Made { outcome, provider, started_at, took, is_last } => {
                (outcome, provider, started_at, took, is_last)
            }
            Attempt::Skipped { reason } => return self.skipped(task, run, reason),
            Attempt::Expanded(expansion) => return Verdict::Expanded(expansion),
            Attempt::NotNow { wait, why } => return Verdict::NotNow { wait, why },
            Attempt::Elsewhere { failure, .. } if !is_too_late => return Verdict::Elsewhere { failure },
            Attempt::Elsewhere { failure, started_at } => {
                (Err(failure.final_now()), None, started_at, Duration::ZERO, false)
            }
            Attempt::NoRoom { why, nobody_since } => return Verdict::NoRoom { why, nobody_since },
            Attempt::TooLarge { failure } => {
                (Err(failure), None, self.parts.clock.now(), Duration::ZERO, false)
            }
            Attempt::Abandoned => return Verdict::Abandoned,
        };
        let ended_at = self.parts.clock.now();
        let mut ending = Ending {
            attempts: run.lease.attempt,
            execution_time: Some(took),
            provider_id: provider,
            worker_id: Some(self.session.to_string()),
            started_at: Some(started_at),
            warnings: task.warnings.clone(),
            ..Ending::unrun(TaskState::Completed, None, ended_at)
        };
        let mut outcome = outcome.and_then(|answer| self.bounded(answer));
        let sample = sample(run, &mut outcome, &ending, took);
        let failure = match outcome {
            Ok(answer) => {
                ending.result = answer.result;
                ending.metadata = answer.metadata;
                record(&sample, task, &mut ending);
                let entry = entry(&ending);
                let (ending, max_attempts) = (Box::new(ending), run.lease.attempt);
                return Verdict::Ended { ending, max_attempts, entry, sample: Some(sample) };
            }
            Err(failure) => failure,
        };
        record(&sample, task, &mut ending);
        ending.state = match failure.code {
            Code::TaskExpired => TaskState::Expired,
            _ => TaskState::Failed,
        };
        let (policy, made) = (self.retry_policy(task), run.lease.attempt);
        // Who writes a `retry` block wants the task's own failures tried again too.
        let retryable =
            failure.retryable || (task.spec.retry.is_some() && failure.code == Code::TaskExecutionFailed);
        let given_up = failure.code == Code::WorkerLost && !failure.retryable;
        let verdict = match given_up || is_last {
            true => retry::Verdict::Exhausted,
            false => policy.judge(failure.code, made, retryable),
        };
        let max_attempts = policy.max_attempts;
        ending.error = Some(failure.clone());
        let entry = entry(&ending);
        ending.error = Some(with_attempts(failure.clone(), &run.history, &entry));
        match verdict {
            retry::Verdict::Retry => {
                let wait = policy.wait(made, self.parts.clock.chance(), failure.retry_after);
                Verdict::Again { wait, failure, max_attempts, entry, sample: Some(sample) }
            }
            retry::Verdict::Exhausted | retry::Verdict::Refused => {
                Verdict::Ended { ending: Box::new(ending), max_attempts, entry, sample: Some(sample) }
            }
        }
    }

    /// The step that records the verdict.
    pub(super) fn end_of(&self, head: &Head, task: &Task, verdict: &Verdict) -> End {
        match verdict {
            Verdict::Ended { ending, entry, .. } => End::Ended {
                state: ending.state,
                document: ending.document(head).into(),
                keep: !task.spec.ignore_result,
                ttl: task.spec.result_ttl.unwrap_or(self.settings.result_ttl),
                entry: entry.clone(),
                retry: retry_message(task, ending.state),
            },
            Verdict::Again { wait, entry, .. } => {
                End::Again { due: self.parts.clock.now().after(*wait), entry: entry.clone() }
            }
            Verdict::Expanded(Expansion { tasks, max_parallel }) => {
                End::Expanded { tasks: tasks.clone(), max_parallel: *max_parallel }
            }
            Verdict::NotNow { .. }
            | Verdict::Elsewhere { .. }
            | Verdict::NoRoom { .. }
            | Verdict::Abandoned => End::Abandoned,
        }
    }

    fn skipped(&self, task: &Task, run: &Run, reason: String) -> Verdict {
        let mut ending = Ending {
            attempts: run.lease.attempt,
            worker_id: Some(self.session.to_string()),
            warnings: task.warnings.clone(),
            ..Ending::unrun(TaskState::Skipped, None, self.parts.clock.now())
        };
        ending.metadata.insert("reason".to_owned(), reason.into());
        let entry = entry(&ending);
        let (ending, max_attempts) = (Box::new(ending), run.lease.attempt);
        Verdict::Ended { ending, max_attempts, entry, sample: None }
    }

    fn retry_policy(&self, task: &Task) -> RetryPolicy {
        if let Some(policy) = &task.spec.retry {
            return policy.clone();
        }
        let method = self.parts.protocols.method(&task.spec.protocol, &task.spec.method).ok();
        method.and_then(|method| method.spec.retry_policy.clone()).unwrap_or_else(infrastructure)
    }

    /// Refuses a result that is larger than what may be kept.
    fn bounded(&self, answer: Answer) -> Result<Answer, Failure> {
        let size = json_bytes(&answer.result);
        if size <= self.settings.result_bytes_max {
            return Ok(answer);
        }
        let max = self.settings.result_bytes_max;
        Err(Failure::new(
            Code::ResultTooLarge,
            format!(
                "the result has {size} bytes, more than {max}; store it elsewhere and return where it is"
            ),
        )
        .with("bytes", size)
        .with("bytes_max", max))
    }
}

/// What happens without a `retry` block: the task's own failures are final, ours are tried three times.
fn infrastructure() -> RetryPolicy {
    let ours = [
        Code::WorkerLost,
        Code::SystemShutdown,
        Code::ProviderOverloaded,
        Code::ConnectionLost,
        Code::ConnectionTimeout,
        Code::NetworkUnreachable,
        Code::PersistenceConnectionFailed,
    ];
    let retry_on = ours.into_iter().map(|code| CodeRef::Number(code.number())).collect();
    RetryPolicy { retry_on, ..RetryPolicy::default() }
}

/// What a retry by hand publishes: the store keeps it of a task on its own that did not complete.
pub(super) fn retry_message(task: &Task, state: TaskState) -> Option<Message> {
    if task.workflow.is_some() || state == TaskState::Completed {
        return None;
    }
    let address = Address::parse(&task.spec.protocol.routing()).ok()?;
    let priority = task.priority().unwrap_or_else(|| Priority::NORMAL.number());
    // Who asks for it again wants it run, though its time to start is over.
    let spec = Spec { expires_at: None, ..task.spec.clone() };
    Some(Message { address, priority, body: task::encode(&Task { attempt: 1, spec, ..task.clone() }) })
}

/// A line of the task's history.
pub(super) fn entry(ending: &Ending) -> String {
    // A history stays small: output and the like are in the document.
    let small = |failure: &Failure| Failure { details: serde_json::Map::new(), ..failure.clone() };
    json!({
        "attempt": ending.attempts,
        "status": ending.state.name(),
        "worker_id": ending.worker_id,
        "provider_id": ending.provider_id,
        "started_at": ending.started_at,
        "ended_at": ending.ended_at,
        "error": ending.error.as_ref().map(small),
    })
    .to_string()
}

/// The last cause with every cause in `details.attempts`, itself the last; one that came alone is only itself.
fn with_attempts(failure: Failure, history: &[String], last: &str) -> Failure {
    if history.is_empty() {
        return failure;
    }
    let all = history.iter().map(String::as_str).chain([last]);
    let all: Vec<Value> = all.filter_map(|entry| serde_json::from_str(entry).ok()).collect();
    failure.with("attempts", all)
}

/// The size of a value as JSON, without writing it out.
pub(super) fn json_bytes(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting cannot fail, and a value has only text keys.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_value_is_that_of_its_text() {
        let value = json!({"a": [1, "é\n", null]});
        assert_eq!(json_bytes(&value), value.to_string().len());
    }
}
