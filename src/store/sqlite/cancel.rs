//! Ending from outside.

use rusqlite::{Connection, OptionalExtension, params};
use std::time::Duration;

use super::answered::{Answered, Found, Record, answered};
use super::ending;
use super::flow::Flow;
use super::rows::{self, Cleaning, Workflow};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::store::{Cancelled, Why};
use crate::wire::record;

/// `result_ttl` is for documents whose task or workflow has not said how long they are wanted.
pub(super) fn cancel(
    tx: &Connection,
    root: &Id,
    why: &Why,
    result_ttl: Duration,
    now: Timestamp,
) -> rusqlite::Result<Cancelled> {
    match why {
        Why::Request { by } => end_on_request(tx, root, by.as_ref(), result_ttl, now),
        Why::Timeout { run } => time_out(tx, root, *run, now),
    }
}

fn end_on_request(
    tx: &Connection,
    root: &Id,
    by: Option<&Id>,
    result_ttl: Duration,
    now: Timestamp,
) -> rusqlite::Result<Cancelled> {
    let key = TaskKey::alone(root.clone());
    if let Some(task) = rows::find_task(tx, &key)? {
        let (is_cancelled, has_ended) = (task.state == TaskState::Cancelled, task.state.is_ended());
        let found = Found { is_cancelled, has_ended, run: task.run };
        return match answered(tx, Record::Task(task.n), by, found)? {
            Some(Answered::Present) => Ok(Cancelled::Again { reply: None }),
            Some(Answered::Earlier) => Ok(Cancelled::Earlier),
            Some(Answered::Otherwise) => Ok(Cancelled::Over(task.state.name().to_owned())),
            None => cancel_task(tx, key, &task, result_ttl, now),
        };
    }
    let Some(workflow) = rows::find_workflow(tx, root)? else {
        tx.prepare_cached(
            "INSERT INTO marks (root, forget) VALUES (?1, ?2) ON CONFLICT (root) DO UPDATE SET forget = ?2",
        )?
        .execute(params![root.as_str(), Cleaning::kept_back(now, result_ttl).forget_at])?;
        answered(tx, Record::Mark(root), by, Found { is_cancelled: true, has_ended: true, run: 1 })?;
        return Ok(Cancelled::Marked);
    };
    let is_cancelled = workflow.state == WorkflowState::Cancelled;
    let found = Found { is_cancelled, has_ended: workflow.state.is_ended(), run: workflow.run };
    match answered(tx, Record::Workflow(root), by, found)? {
        Some(Answered::Present) => return Ok(Cancelled::Again { reply: reply(tx, root)? }),
        Some(Answered::Earlier) => return Ok(Cancelled::Earlier),
        Some(Answered::Otherwise) => return Ok(Cancelled::Over(workflow.state.name().to_owned())),
        None => {}
    }
    if workflow.state == WorkflowState::Cancelled {
        return Ok(Cancelled::Again { reply: reply(tx, root)? });
    }
    if workflow.state.is_ended() {
        return Ok(Cancelled::Over(workflow.state.name().to_owned()));
    }
    // One that nobody has taken in yet ends without tasks, and `create` will find it ended.
    let is_untaken = workflow.state == WorkflowState::Accepted;
    let result_ttl = if is_untaken { result_ttl } else { workflow.result_ttl };
    let mut flow = Flow::of(tx, root, Workflow { result_ttl, ..workflow }, 0, now);
    let running = ending::end_all(&mut flow, &record::cancelled(now), WorkflowState::Cancelled, None)?;
    if is_untaken {
        tx.prepare_cached("UPDATE workflows SET forget_at = ?2 WHERE id = ?1")?
            .execute(params![root.as_str(), Cleaning::kept_back(now, result_ttl).forget_at])?;
    }
    Ok(Cancelled::Done { running, reply: reply(tx, root)? })
}

/// Only a run of a workflow has a time; what is not that run is none of this step's business.
fn time_out(tx: &Connection, root: &Id, run: u32, now: Timestamp) -> rusqlite::Result<Cancelled> {
    if let Some(task) = rows::find_task(tx, &TaskKey::alone(root.clone()))? {
        return Ok(Cancelled::Over(task.state.name().to_owned()));
    }
    let Some(workflow) = rows::find_workflow(tx, root)? else {
        let is_marked = rows::is_marked(tx, root)?;
        let state = if is_marked { WorkflowState::Cancelled.name() } else { "unknown" };
        return Ok(Cancelled::Over(state.to_owned()));
    };
    let is_of_run = workflow.run == run;
    if is_of_run && workflow.state == WorkflowState::Failed && timed_out(tx, root)? == Some(run) {
        return Ok(Cancelled::Again { reply: reply(tx, root)? });
    }
    if !is_of_run || workflow.state != WorkflowState::Running {
        return Ok(Cancelled::Over(workflow.state.name().to_owned()));
    }
    let error = serde_json::to_string(&record::workflow_timed_out());
    let error = error.map_err(|error| rows::unexpected(0, error))?;
    tx.prepare_cached("UPDATE workflows SET timed_out = ?2 WHERE id = ?1")?
        .execute(params![root.as_str(), run])?;
    let mut flow = Flow::of(tx, root, workflow, 0, now);
    let running = ending::end_all(&mut flow, &record::timed_out(now), WorkflowState::Failed, Some(&error))?;
    Ok(Cancelled::Done { running, reply: reply(tx, root)? })
}

/// The run whose time was over, if there is one.
fn timed_out(tx: &Connection, workflow: &Id) -> rusqlite::Result<Option<u32>> {
    tx.prepare_cached("SELECT timed_out FROM workflows WHERE id = ?1")?
        .query_row([workflow.as_str()], |row| row.get(0))
}

fn reply(tx: &Connection, workflow: &Id) -> rusqlite::Result<Option<String>> {
    tx.prepare_cached("SELECT reply FROM workflows WHERE id = ?1")?
        .query_row([workflow.as_str()], |row| row.get(0))
}

fn cancel_task(
    tx: &Connection,
    key: TaskKey,
    task: &rows::Task,
    result_ttl: Duration,
    now: Timestamp,
) -> rusqlite::Result<Cancelled> {
    if task.state == TaskState::Cancelled {
        return Ok(Cancelled::Again { reply: None });
    }
    if task.state.is_ended() {
        return Ok(Cancelled::Over(task.state.name().to_owned()));
    }
    let head = tx
        .prepare_cached("SELECT name, protocol, method FROM tasks WHERE n = ?1")?
        .query_row([task.n], |row| rows::head(key.clone(), row, 0))
        .optional()?
        .ok_or_else(|| rows::unexpected(0, rows::Missing(key.to_string())))?;
    let is_delayed = task.state == TaskState::Delayed;
    let cleaning = if is_delayed { Cleaning::kept_back } else { Cleaning::after }(now, result_ttl);
    ending::cancel_alone(tx, task.n, &head, cleaning, now)?;
    if task.run == 1 {
        // What a retry keeps is of a later run.
        tx.prepare_cached("DELETE FROM planned WHERE task = ?1")?.execute([task.n])?;
    }
    let mut running = Vec::new();
    if task.state == TaskState::Running {
        let session = Id::parse(task.session.as_deref().unwrap_or_default());
        running.push((key, session.map_err(|error| rows::unexpected(5, error))?));
    }
    Ok(Cancelled::Done { running, reply: None })
}
