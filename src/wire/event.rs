//! Events: what happens, told to whoever listens. Nothing depends on them; they may be lost.
//!
//! ```text
//! routing key   task.completed
//! body          {"type": "task:completed", "timestamp": "...", "task_id": "t", "workflow_id": "w", ...}
//! ```

use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::clock::Timestamp;
use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::wire::task::seconds;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An attempt started.
    TaskStarted {
        /// The task.
        key: TaskKey,
        /// `python/v1`.
        protocol: String,
        /// `execute`.
        method: String,
        /// The attempt, from 1.
        attempt: u32,
    },
    /// A task ended with a result.
    TaskCompleted {
        /// The task.
        key: TaskKey,
        /// How long the last attempt ran.
        execution_time: Duration,
        /// Who ran it.
        provider_id: Option<String>,
        /// The result's size as JSON, in bytes.
        result_size: usize,
    },
    /// A task ended without a result.
    TaskFailed {
        /// The task.
        key: TaskKey,
        /// Why.
        failure: Failure,
        /// Attempts made.
        attempt_count: u32,
        /// Attempts allowed.
        max_attempts: u32,
    },
    /// An attempt failed; another one follows.
    TaskRetried {
        /// The task.
        key: TaskKey,
        /// Why the attempt failed.
        failure: Failure,
        /// Attempts made.
        attempt_count: u32,
        /// Attempts allowed.
        max_attempts: u32,
        /// When the next one is due.
        due: Timestamp,
    },
    /// A task ended in another way: cancelled, expired, skipped.
    TaskEnded {
        /// The task.
        key: TaskKey,
        /// An ended state.
        state: TaskState,
    },
    /// A workflow was taken in.
    WorkflowStarted {
        /// The workflow.
        id: Id,
        /// For people.
        name: String,
        /// How many tasks it has.
        tasks: usize,
    },
    /// A workflow ended.
    WorkflowEnded {
        /// The workflow.
        id: Id,
        /// An ended state.
        state: WorkflowState,
    },
    /// A worker tells how it does; again and again.
    MetricsCollected {
        /// Its session.
        worker: Id,
        /// How it does.
        metrics: Metrics,
    },
    /// A provider does otherwise than it did.
    ProviderHealth {
        /// The session of its worker.
        worker: Id,
        /// Its name.
        provider: String,
        /// Its protocol.
        protocol: String,
        /// `healthy`, `degraded`, `unhealthy` or `unknown`.
        health: &'static str,
        /// The same in the words of `gleitzeit provider list`.
        state: &'static str,
        /// What is the matter, if anything.
        why: Option<String>,
    },
}

/// How a worker does. Counts are since it began.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// Tasks that it is at now.
    pub active_tasks: usize,
    /// Tasks that ended with a result.
    pub completed_tasks: u64,
    /// Tasks that ended without one.
    pub failed_tasks: u64,
    /// Of attempts that a provider ran; `None` before the first one.
    pub average_execution_time: Option<Duration>,
    /// Tasks that ended since the metrics before these, in a minute.
    pub throughput_per_minute: f64,
    /// The memory of the worker's own process; `None` where that cannot be learned.
    pub memory_usage_bytes: Option<u64>,
    /// How each provider does, by its name.
    pub provider_health: BTreeMap<String, &'static str>,
}

impl Metrics {
    /// With the names of the original.
    fn document(&self) -> Value {
        let rounded = |number: f64, parts: f64| (number * parts).round() / parts;
        json!({
            "active_tasks": self.active_tasks,
            "completed_tasks": self.completed_tasks,
            "failed_tasks": self.failed_tasks,
            "average_execution_time": self.average_execution_time.map(seconds),
            "throughput_per_minute": rounded(self.throughput_per_minute, 100.0),
            "memory_usage_mb": self.memory_usage_bytes.map(|bytes| rounded(bytes as f64 / 1_048_576.0, 10.0)),
            "provider_health": self.provider_health,
        })
    }
}

impl Event {
    /// The type: `task:started`.
    #[must_use]
    pub fn kind(&self) -> String {
        match self {
            Event::TaskStarted { .. } => "task:started".to_owned(),
            Event::TaskCompleted { .. } => "task:completed".to_owned(),
            Event::TaskFailed { .. } => "task:failed".to_owned(),
            Event::TaskRetried { .. } => "task:retried".to_owned(),
            Event::TaskEnded { state, .. } => format!("task:{state}"),
            Event::WorkflowStarted { .. } => "workflow:started".to_owned(),
            Event::WorkflowEnded { state, .. } => format!("workflow:{state}"),
            Event::MetricsCollected { .. } => "metrics:collected".to_owned(),
            Event::ProviderHealth { .. } => "provider:health".to_owned(),
        }
    }

    /// The routing key: `task.started`.
    #[must_use]
    pub fn routing_key(&self) -> String {
        self.kind().replace(':', ".")
    }

    /// Whether a task or workflow ended; these are sent by default.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match self {
            Event::TaskStarted { .. } | Event::TaskRetried { .. } | Event::WorkflowStarted { .. } => false,
            Event::MetricsCollected { .. } | Event::ProviderHealth { .. } => false,
            Event::TaskCompleted { .. }
            | Event::TaskFailed { .. }
            | Event::TaskEnded { .. }
            | Event::WorkflowEnded { .. } => true,
        }
    }

    /// Whether it tells of a worker and not of work; these are sent by default too.
    #[must_use]
    pub fn is_of_worker(&self) -> bool {
        matches!(self, Event::MetricsCollected { .. } | Event::ProviderHealth { .. })
    }

    /// The body of the event's message.
    #[must_use]
    pub fn encode(&self, now: Timestamp) -> Bytes {
        let mut members = Map::new();
        let mut put = |key: &str, value: Value| _ = members.insert(key.to_owned(), value);
        put("type", self.kind().into());
        put("timestamp", json!(now));
        match self {
            Event::TaskStarted { key, .. }
            | Event::TaskCompleted { key, .. }
            | Event::TaskFailed { key, .. }
            | Event::TaskRetried { key, .. }
            | Event::TaskEnded { key, .. } => {
                put("task_id", key.id().as_str().into());
                put("workflow_id", key.workflow().map_or(Value::Null, |id| id.as_str().into()));
            }
            Event::WorkflowStarted { id, .. } | Event::WorkflowEnded { id, .. } => {
                put("workflow_id", id.as_str().into());
            }
            Event::MetricsCollected { worker, .. } | Event::ProviderHealth { worker, .. } => {
                put("worker_id", worker.as_str().into());
            }
        }
        match self {
            Event::TaskStarted { protocol, method, attempt, .. } => {
                put("protocol", protocol.as_str().into());
                put("method", method.as_str().into());
                put("provider_requested", true.into());
                put("attempt_count", (*attempt).into());
            }
            Event::TaskCompleted { execution_time, provider_id, result_size, .. } => {
                put("execution_time", seconds(*execution_time).into());
                put("provider_id", json!(provider_id));
                put("result_size", (*result_size).into());
            }
            Event::TaskFailed { failure, attempt_count, max_attempts, .. } => {
                put_failure(&mut put, failure, *attempt_count, *max_attempts);
            }
            Event::TaskRetried { failure, attempt_count, max_attempts, due, .. } => {
                put_failure(&mut put, failure, *attempt_count, *max_attempts);
                put("due", json!(due));
            }
            Event::TaskEnded { state, .. } => put("status", state.name().into()),
            Event::WorkflowStarted { name, tasks, .. } => {
                put("name", name.as_str().into());
                put("total_tasks", (*tasks).into());
            }
            Event::WorkflowEnded { state, .. } => put("status", state.name().into()),
            Event::MetricsCollected { metrics, .. } => put("metrics", metrics.document()),
            Event::ProviderHealth { provider, protocol, health, state, why, .. } => {
                put("provider_id", provider.as_str().into());
                put("protocol", protocol.as_str().into());
                put("provider_health", (*health).into());
                put("state", (*state).into());
                put("reason", json!(why));
            }
        }
        Bytes::from(Value::Object(members).to_string())
    }
}

/// The seeds' names: `max_retries` are the attempts allowed.
fn put_failure(put: &mut impl FnMut(&str, Value), failure: &Failure, attempt_count: u32, max_attempts: u32) {
    put("error_message", failure.to_string().into());
    put("error_code", failure.code.number().into());
    put("is_retryable", failure.retryable.into());
    put("attempt_count", attempt_count.into());
    put("max_retries", max_attempts.into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::code::Code;

    fn check(event: &Event, routing_key: &str, expected: Value) {
        let body: Value = serde_json::from_slice(&event.encode(Timestamp::from_millis(0))).expect("JSON");
        assert_eq!((event.routing_key().as_str(), body), (routing_key, expected));
    }

    #[test]
    fn events_have_the_names_of_the_seeds() {
        let alone = TaskKey::alone(Id::parse("t").expect("valid"));
        let within = TaskKey::within(Id::parse("w").expect("valid"), Id::parse("t").expect("valid"));
        let started = Event::TaskStarted {
            key: alone.clone(),
            protocol: "python/v1".to_owned(),
            method: "execute".to_owned(),
            attempt: 1,
        };
        check(
            &started,
            "task.started",
            json!({"type": "task:started", "timestamp": "1970-01-01T00:00:00.000Z", "task_id": "t",
                "workflow_id": null, "protocol": "python/v1", "method": "execute", "provider_requested": true,
                "attempt_count": 1}),
        );
        let completed = Event::TaskCompleted {
            key: within.clone(),
            execution_time: Duration::from_millis(1500),
            provider_id: Some("python".to_owned()),
            result_size: 7,
        };
        check(
            &completed,
            "task.completed",
            json!({"type": "task:completed", "timestamp": "1970-01-01T00:00:00.000Z", "task_id": "t",
                "workflow_id": "w", "execution_time": 1.5, "provider_id": "python", "result_size": 7}),
        );
        let failed = Event::TaskFailed {
            key: within.clone(),
            failure: Failure::new(Code::TaskTimeout, "took longer than 3 s"),
            attempt_count: 2,
            max_attempts: 3,
        };
        check(
            &failed,
            "task.failed",
            json!({"type": "task:failed", "timestamp": "1970-01-01T00:00:00.000Z", "task_id": "t",
                "workflow_id": "w", "error_message": "[TASK_TIMEOUT] took longer than 3 s", "error_code": -29003,
                "is_retryable": true, "attempt_count": 2, "max_retries": 3}),
        );
        let skipped = Event::TaskEnded { key: within, state: TaskState::Skipped };
        assert_eq!((skipped.kind().as_str(), skipped.is_end()), ("task:skipped", true));
        let ended = Event::WorkflowEnded { id: alone.root, state: WorkflowState::Cancelled };
        assert_eq!((ended.routing_key().as_str(), ended.is_end()), ("workflow.cancelled", true));
        assert!(!started.is_end());
    }
}
