//! Ending from outside.

use rusqlite::{Connection, OptionalExtension, params};
use std::time::Duration;

use super::ending;
use super::rows::{self, Cleaning, Workflow};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::store::Cancelled;

/// `result_ttl` is for documents whose task or workflow has not said how long they are wanted.
pub(super) fn cancel(
    tx: &Connection,
    root: &Id,
    result_ttl: Duration,
    now: Timestamp,
) -> rusqlite::Result<Cancelled> {
    let key = TaskKey::alone(root.clone());
    if let Some(task) = rows::find_task(tx, &key)? {
        return cancel_task(tx, key, &task, result_ttl, now);
    }
    let Some(workflow) = rows::find_workflow(tx, root)? else {
        tx.prepare_cached("INSERT OR REPLACE INTO marks (root, forget) VALUES (?1, ?2)")?
            .execute(params![root.as_str(), Cleaning::after(now, result_ttl).forget_at])?;
        return Ok(Cancelled::Marked);
    };
    if workflow.state.is_ended() {
        return Ok(Cancelled::Over(workflow.state.name().to_owned()));
    }
    // One that nobody has taken in yet ends without tasks, and `create` will find it ended.
    let result_ttl = if workflow.state == WorkflowState::Accepted { result_ttl } else { workflow.result_ttl };
    let running = ending::cancel_workflow(tx, root, Workflow { result_ttl, ..workflow }, now)?;
    Ok(Cancelled::Done { running })
}

fn cancel_task(
    tx: &Connection,
    key: TaskKey,
    task: &rows::Task,
    result_ttl: Duration,
    now: Timestamp,
) -> rusqlite::Result<Cancelled> {
    if task.state.is_ended() {
        return Ok(Cancelled::Over(task.state.name().to_owned()));
    }
    let head = tx
        .prepare_cached("SELECT name, protocol, method FROM tasks WHERE n = ?1")?
        .query_row([task.n], |row| rows::head(key.clone(), row, 0))
        .optional()?
        .ok_or_else(|| rows::unexpected(0, rows::Missing(key.to_string())))?;
    ending::cancel_alone(tx, task.n, &head, result_ttl, now)?;
    let mut running = Vec::new();
    if task.state == TaskState::Running {
        let session = Id::parse(task.session.as_deref().unwrap_or_default());
        running.push((key, session.map_err(|error| rows::unexpected(5, error))?));
    }
    Ok(Cancelled::Done { running })
}
