//! Tasks that stand for several: `for_each` and nested workflows.
//!
//! Such a task is delivered twice. The first delivery plans its children in the store and publishes those that
//! have their turn; the task waits. The step that ends the last child releases the task again, and the second
//! delivery makes the children's results its own:
//!
//! | task            | children                            | result                                   |
//! |-----------------|-------------------------------------|------------------------------------------|
//! | `for_each`      | `ID.0`, `ID.1`, ..., one for an item | a list, null for an item that was skipped |
//! | nested workflow | `ID.TASK` for each of its tasks     | an object from its tasks' ids to results |
//!
//! Every child runs to its end, also when another has failed. Then the task fails if a child did, unless a
//! nested workflow tolerates that; it is not made again by its own `retry`, which its children have had.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::num::NonZeroU32;

use super::Shared;
use super::coordinate::planned_tasks;
use super::lease::Run;
use super::outcome::json_bytes;
use super::patience::{Stop, insist};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::Id;
use crate::core::state::TaskState;
use crate::core::workflow::Workflow;
use crate::provider::Answer;
use crate::store::PlannedTask;
use crate::wire::record::Head;
use crate::wire::task::Task;
use crate::wire::workflow::{plan_items, plan_nested};

/// How many children's documents are fetched at first, and at most at once: their sizes are not known before, and
/// what is too large in all must not be read whole to find that out.
const FETCH_FIRST: usize = 8;
const FETCH_MAX: usize = 64;
/// How many failed children an error names.
const NAMED_MAX: usize = 20;

/// The children of a task.
#[derive(Debug)]
pub(super) struct Expansion {
    /// At least one.
    pub(super) tasks: Vec<PlannedTask>,
    /// How many may be under way at once.
    pub(super) max_parallel: Option<NonZeroU32>,
}

/// What a task with children is.
pub(super) enum Kind {
    /// One child for each of these items.
    Items(Vec<Value>),
    /// The tasks of this workflow.
    Workflow(Box<Workflow>),
}

impl Kind {
    /// The result of a task without children.
    pub(super) fn nothing(&self) -> Value {
        match self {
            Kind::Items(_) => json!([]),
            Kind::Workflow(_) => json!({}),
        }
    }
}

impl Shared {
    /// The children of a task of this kind; `None` if it has none and so is done.
    pub(super) fn expansion(&self, task: &Task, kind: &Kind) -> Result<Option<Expansion>, Failure> {
        let (planned, max_parallel) = match kind {
            Kind::Items(items) => (plan_items(task, items.clone())?, task.max_parallel),
            Kind::Workflow(workflow) => (plan_nested(task, workflow)?, workflow.max_parallel),
        };
        if planned.is_empty() {
            return Ok(None);
        }
        Ok(Some(Expansion { tasks: planned_tasks(planned)?, max_parallel }))
    }

    /// What the children's results make together.
    pub(super) async fn collect(
        &self,
        task: &Task,
        head: &Head,
        run: &Run,
        kind: &Kind,
    ) -> Result<Result<Answer, Failure>, Stop> {
        let tolerated = match kind {
            Kind::Items(_) => Vec::new(),
            Kind::Workflow(workflow) => workflow.tolerated(),
        };
        let mut gathering = Gathering { bytes_left: self.settings.result_bytes_max, ..Gathering::default() };
        let (mut at, mut count) = (0, FETCH_FIRST);
        while at < run.children.len() {
            let ids = &run.children[at..(at + count).min(run.children.len())];
            let fetch = || self.parts.store.results(&head.key.root, ids);
            let documents = insist(&self.abort, "results", fetch).await?;
            for (offset, (id, document)) in ids.iter().zip(documents).enumerate() {
                let tolerated = tolerated.get(at + offset).copied().unwrap_or(false);
                if let Err(failure) = gathering.take(id, document, tolerated) {
                    return Ok(Err(failure));
                }
            }
            (at, count) = (at + count, (count * 2).min(FETCH_MAX));
        }
        if gathering.failed > 0 {
            return Ok(Err(gathering.failure(task, run.children.len())));
        }
        let own = |id: &Id| {
            let name =
                id.as_str().strip_prefix(head.key.id().as_str()).and_then(|rest| rest.strip_prefix('.'));
            name.unwrap_or(id.as_str()).to_owned()
        };
        let result = match kind {
            Kind::Items(_) => Value::Array(gathering.results),
            Kind::Workflow(_) => {
                Value::Object(run.children.iter().map(own).zip(gathering.results).collect::<Map<_, _>>())
            }
        };
        Ok(Ok(Answer::from(result)))
    }
}

/// The ends of children, in their order.
#[derive(Debug, Default)]
struct Gathering {
    results: Vec<Value>,
    /// How many failed, and the first of them.
    failed: usize,
    named: Vec<Value>,
    bytes_left: usize,
}

impl Gathering {
    fn take(&mut self, id: &Id, document: Option<Bytes>, tolerated: bool) -> Result<(), Failure> {
        let document: Value =
            document.map_or(Ok(Value::Null), |text| serde_json::from_slice(&text)).map_err(|error| {
                let text = format!("the result of task {id} is not JSON: {error}");
                Failure::new(Code::PersistenceIntegrityError, text)
            })?;
        let state = document.get("status").and_then(Value::as_str).and_then(TaskState::parse);
        let ended_well = matches!(state, Some(TaskState::Completed | TaskState::Skipped));
        if !ended_well && !tolerated {
            self.failed += 1;
            if self.named.len() < NAMED_MAX {
                // The output and the like are in the child's own document.
                let failure = Failure::from_json(&document["error"]);
                let small = failure.map(|failure| Failure { details: Map::new(), ..failure });
                self.named.push(json!({"id": id, "status": document["status"], "error": small}));
            }
        }
        let result = if let Value::Object(mut members) = document { members.remove("result") } else { None };
        let result = result.unwrap_or_default();
        let Some(bytes_left) = self.bytes_left.checked_sub(json_bytes(&result)) else {
            let text = "the results of its children are too large together; let them store it elsewhere";
            return Err(Failure::new(Code::ResultTooLarge, text));
        };
        self.bytes_left = bytes_left;
        self.results.push(result);
        Ok(())
    }

    fn failure(&self, task: &Task, all: usize) -> Failure {
        let (count, named) = (self.failed, &self.named);
        let names: Vec<&str> = named.iter().filter_map(|one| one["id"].as_str()).collect();
        let more = if count > names.len() { ", ..." } else { "" };
        let what = if task.for_each.is_some() { "items" } else { "tasks" };
        let text = format!("{count} of {all} {what} did not complete: {}{more}", names.join(", "));
        let code = match task.for_each {
            Some(_) => Code::TaskExecutionFailed,
            None => Code::WorkflowExecutionFailed,
        };
        Failure::new(code, text).with("failed", named.clone()).final_now()
    }
}
