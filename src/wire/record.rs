//! Documents: what the store keeps of an ended task or workflow, and what `call --json` and `run --json`
//! print. Plain JSON, never compressed, keys always in the same order.
//!
//! A document is a *head* (what the task is, known from the start) followed by an *ending*. A store can so
//! write the document of a task that never ran (its dependency failed, it was cancelled) from the head
//! alone, inside the atomic step that ends it.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::time::Duration;

use crate::core::clock::Timestamp;
use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};

/// What a task is: the part of its document that is known before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The task.
    pub key: TaskKey,
    /// For people; the id when none was given.
    pub name: String,
    /// `python/v1`.
    pub protocol: String,
    /// `execute`.
    pub method: String,
}

impl Head {
    /// The document's first members, as an unclosed JSON object: `{"id":"a","name":"A",...`.
    #[must_use]
    pub fn open(&self) -> String {
        let mut members = Map::new();
        members.insert("id".to_owned(), self.key.id().as_str().into());
        if let Some(workflow) = self.key.workflow() {
            members.insert("workflow_id".to_owned(), workflow.as_str().into());
        }
        members.insert("name".to_owned(), self.name.as_str().into());
        members.insert("protocol".to_owned(), self.protocol.as_str().into());
        members.insert("method".to_owned(), self.method.as_str().into());
        let mut text = Value::Object(members).to_string();
        text.pop();
        text
    }
}

/// How a task ended: the second part of its document.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// An ended state.
    pub state: TaskState,
    /// How many attempts were started.
    pub attempts: u32,
    /// The provider's result; null unless completed.
    pub result: Value,
    /// Why it did not complete.
    pub error: Option<Failure>,
    /// How long the last attempt ran.
    pub execution_time: Option<Duration>,
    /// Who ran the last attempt.
    pub provider_id: Option<String>,
    /// The worker session that ran the last attempt.
    pub worker_id: Option<String>,
    /// When the last attempt started.
    pub started_at: Option<Timestamp>,
    /// When the task ended.
    pub ended_at: Timestamp,
    /// What the reader should know: unknown keys, a deprecated method.
    pub warnings: Vec<String>,
    /// Facts beside the result: isolation level, profile.
    pub metadata: Map<String, Value>,
}

impl Ending {
    /// An ending without a run.
    #[must_use]
    pub fn unrun(state: TaskState, error: Option<Failure>, ended_at: Timestamp) -> Ending {
        Ending {
            state,
            attempts: 0,
            result: Value::Null,
            error,
            execution_time: None,
            provider_id: None,
            worker_id: None,
            started_at: None,
            ended_at,
            warnings: Vec::new(),
            metadata: Map::new(),
        }
    }

    /// The whole document of the task with this head.
    #[must_use]
    pub fn document(&self, head: &Head) -> String {
        let mut text = head.open();
        text.push_str(&self.close());
        text
    }

    /// The document's last members: `,"status":"completed",...}`. `result` comes last, so that the shape of
    /// a large document shows in its first line.
    fn close(&self) -> String {
        let mut members = Map::new();
        let time = |at: Option<Timestamp>| at.map_or(Value::Null, |at| at.to_string().into());
        members.insert("status".to_owned(), self.state.name().into());
        members.insert("attempts".to_owned(), self.attempts.into());
        members.insert("error".to_owned(), self.error.as_ref().map_or(Value::Null, |e| json!(e)));
        let seconds = self.execution_time.map(|time| (time.as_secs_f64() * 1e6).round() / 1e6);
        members.insert("execution_time".to_owned(), json!(seconds));
        members.insert("provider_id".to_owned(), json!(self.provider_id));
        members.insert("worker_id".to_owned(), json!(self.worker_id));
        members.insert("started_at".to_owned(), time(self.started_at));
        members.insert("ended_at".to_owned(), time(Some(self.ended_at)));
        if !self.warnings.is_empty() {
            members.insert("warnings".to_owned(), json!(self.warnings));
        }
        if !self.metadata.is_empty() {
            members.insert("metadata".to_owned(), Value::Object(self.metadata.clone()));
        }
        members.insert("result".to_owned(), self.result.clone());
        let body = Value::Object(members).to_string();
        format!(",{}", &body[1..])
    }
}

/// Where [`dependency_failed`] and the Redis scripts put the dependency's id.
pub const DEPENDENCY_MARK: &str = "@DEPENDENCY@";

/// The ending, ready to append to a head, of a task whose dependency [`DEPENDENCY_MARK`] did not complete.
/// Stores replace the mark by an [`Id`], which needs no escaping.
#[must_use]
pub fn dependency_failed(now: Timestamp) -> String {
    use crate::core::code::Code;
    let message = format!("task {DEPENDENCY_MARK:?}, which this task depends on, did not complete");
    let failure = Failure::new(Code::TaskDependencyFailed, message.replace('"', "'"))
        .with("dependency", DEPENDENCY_MARK);
    Ending::unrun(TaskState::Failed, Some(failure), now).close()
}

/// The ending, ready to append to a head, of a task that was cancelled before it ended.
#[must_use]
pub fn cancelled(now: Timestamp) -> String {
    use crate::core::code::Code;
    let failure = Failure::new(Code::TaskCancelled, "cancelled on request");
    Ending::unrun(TaskState::Cancelled, Some(failure), now).close()
}

/// The ending, ready to append to a head, of a task that is skipped because its dependency [`DEPENDENCY_MARK`]
/// did not complete. Stores replace the mark by an [`Id`], which needs no escaping.
#[must_use]
pub fn skipped(now: Timestamp) -> String {
    let mut ending = Ending::unrun(TaskState::Skipped, None, now);
    let reason = format!("task '{DEPENDENCY_MARK}', which this task depends on, did not complete");
    ending.metadata.insert("reason".to_owned(), reason.into());
    ending.close()
}

/// The ending, ready to append to a head, of a task that was open when its workflow's time was over.
#[must_use]
pub fn timed_out(now: Timestamp) -> String {
    use crate::core::code::Code;
    let failure = Failure::new(Code::TaskCancelled, "the workflow's time was over");
    Ending::unrun(TaskState::Cancelled, Some(failure), now).close()
}

/// The history's entry of an attempt that ended with the death of its worker: a JSON object on one line.
/// The arguments are texts so that a store may put marks in their place, and need no escaping.
#[must_use]
pub fn attempt_lost(attempt: &str, worker: &str, started_at: &str, ended_at: &str) -> String {
    use crate::core::code::Code;
    let failure = json!(Failure::new(Code::WorkerLost, "the worker died while it ran the task"));
    format!(
        r#"{{"attempt":{attempt},"status":"failed","worker_id":"{worker}","started_at":"{started_at}","ended_at":"{ended_at}","error":{failure}}}"#
    )
}

/// Where the value of `result` begins in a task's document, if that is its last member. What stands before
/// it, followed by [`RESULT_OMITTED`], is the document without its result.
#[must_use]
pub fn result_offset(document: &[u8]) -> Option<usize> {
    #[derive(Deserialize)]
    struct Tail<'a> {
        #[serde(borrow)]
        result: &'a RawValue,
    }
    let tail: Tail<'_> = serde_json::from_slice(document).ok()?;
    let value = tail.result.get();
    let offset = value.as_ptr().addr().checked_sub(document.as_ptr().addr())?;
    (document.get(offset + value.len()..) == Some(b"}")).then_some(offset)
}

/// The end of a document whose result is left out, because nobody keeps it or because the workflow's
/// document would grow beyond its bound.
pub const RESULT_OMITTED: &str = r#"null,"result_omitted":true}"#;

/// Why a workflow has ended in this state, if it did not complete.
#[must_use]
pub fn workflow_failure(state: WorkflowState) -> Option<Failure> {
    use crate::core::code::Code;
    match state {
        WorkflowState::Failed => {
            Some(Failure::new(Code::WorkflowExecutionFailed, "a task of the workflow did not complete"))
        }
        WorkflowState::Cancelled => Some(Failure::new(Code::WorkflowCancelled, "cancelled on request")),
        WorkflowState::Expired => {
            Some(Failure::new(Code::WorkflowExecutionFailed, "the workflow was not started in time"))
        }
        WorkflowState::Accepted | WorkflowState::Running | WorkflowState::Completed => None,
    }
}

/// Why a workflow has failed that took longer than it may.
#[must_use]
pub fn workflow_timed_out() -> Failure {
    use crate::core::code::Code;
    Failure::new(Code::WorkflowTimeout, "the workflow took longer than its timeout")
}

/// What a workflow's document starts with: `{"workflow_id":"w","name":"W"`.
#[must_use]
pub fn workflow_open(id: &Id, name: &str) -> String {
    let mut text = json!({"workflow_id": id.as_str(), "name": name}).to_string();
    text.pop();
    text
}

/// What follows in a workflow's document before its tasks: status, times, error.
/// A store appends `"tasks":[...]}`, each task's document in the order of the file.
#[must_use]
pub fn workflow_status(
    state: WorkflowState,
    created_at: Timestamp,
    ended_at: Timestamp,
    error: Option<&Failure>,
) -> String {
    let body = json!({
        "status": state.name(),
        "created_at": created_at,
        "ended_at": ended_at,
        "error": error,
    })
    .to_string();
    format!(",{},", &body[1..body.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let id = |text| Id::parse(text).expect("valid");
        Head {
            key: TaskKey::within(id("w"), id("t")),
            name: "say \"hi\"".to_owned(),
            protocol: "echo/v1".to_owned(),
            method: "echo".to_owned(),
        }
    }

    #[test]
    fn a_document_is_a_head_and_an_ending() {
        let mut ending = Ending::unrun(TaskState::Completed, None, Timestamp::from_millis(1000));
        ending.result = json!({"n": 1});
        let document: Value = serde_json::from_str(&ending.document(&head())).expect("valid JSON");
        assert_eq!(document["name"], "say \"hi\"");
        assert_eq!(document["workflow_id"], "w");
        assert_eq!(document["status"], "completed");
        assert_eq!(document["result"]["n"], json!(1));
    }

    #[test]
    fn a_store_can_write_the_document_of_a_task_that_never_ran() {
        let ending = dependency_failed(Timestamp::from_millis(0)).replace(DEPENDENCY_MARK, "a");
        let text = head().open() + &ending;
        let document: Value = serde_json::from_str(&text).expect("valid JSON");
        assert_eq!(document["error"]["name"], "TASK_DEPENDENCY_FAILED");
        assert_eq!(document["error"]["message"], "task 'a', which this task depends on, did not complete");
        assert_eq!(document["error"]["details"]["dependency"], "a");
    }

    #[test]
    fn a_result_can_be_cut_off_a_document() {
        let mut ending = Ending::unrun(TaskState::Completed, None, Timestamp::from_millis(1000));
        ending.result = json!({"result": [1, "}"]});
        let document = ending.document(&head());
        let offset = result_offset(document.as_bytes()).expect("result comes last");
        let cut = format!("{}{RESULT_OMITTED}", &document[..offset]);
        let cut: Value = serde_json::from_str(&cut).expect("valid JSON");
        assert_eq!(cut["status"], "completed");
        assert_eq!(cut["result"], Value::Null);
        assert_eq!(cut["result_omitted"], json!(true));
        for other in ["{}", "[]", "x", r#"{"result":1,"more":2}"#] {
            assert_eq!(result_offset(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_lost_attempt_has_an_entry() {
        let entry = attempt_lost("2", "w", "2026-01-02T03:04:05.678Z", "2026-01-02T03:04:06.678Z");
        let entry: Value = serde_json::from_str(&entry).expect("valid JSON");
        assert_eq!(entry["attempt"], json!(2));
        assert_eq!(entry["error"]["name"], "WORKER_LOST");
    }
}
