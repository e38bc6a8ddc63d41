//! How tasks that have no attempt to report end, and what is left of an attempt.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::flow::Flow;
use super::rows::{self, Cleaning, Missing};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::store::Fence;
use crate::wire::record::{self, Head};

/// How many ended attempts the history of a task keeps.
const HISTORY_MAX: u64 = 100;

/// Appends to the history and keeps the last [`HISTORY_MAX`]. A lease ends one attempt, so its fence is the
/// entry's place.
pub(super) fn remember(tx: &Connection, n: i64, fence: Fence, entry: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO history (task, fence, entry) VALUES (?1, ?2, ?3)")?
        .execute(params![n, rows::fence_column(fence), entry])?;
    if fence.0 > HISTORY_MAX {
        // Abandoned attempts have fences without entries, so the entries are counted.
        tx.prepare_cached(
            "DELETE FROM history WHERE task = ?1 AND fence <= (
                 SELECT fence FROM history WHERE task = ?1 ORDER BY fence DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![n, i64::try_from(HISTORY_MAX).unwrap_or(i64::MAX)])?;
    }
    Ok(())
}

pub(super) fn keep_document(tx: &Connection, n: i64, kept: bool, document: &[u8]) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO results (task, kept, document) VALUES (?1, ?2, ?3)")?
        .execute(params![n, kept, document])?;
    Ok(())
}

/// Ends a task on its own from outside; a lease of it is void.
pub(super) fn cancel_alone(
    tx: &Connection,
    n: i64,
    head: &Head,
    cleaning: Cleaning,
    now: Timestamp,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE tasks SET state = 'cancelled', ended_at = ?2, fence = fence + 1, session = NULL, due = NULL,
             clean_at = ?3, forget_at = ?4 WHERE n = ?1",
    )?
    .execute(params![n, now.as_millis(), cleaning.results_at, cleaning.forget_at])?;
    keep_document(tx, n, true, (head.open() + &record::cancelled(now)).as_bytes())
}

/// An open task of a workflow, as far as its end is concerned.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) n: i64,
    pub(super) head: Head,
    pub(super) tolerated: bool,
    state: TaskState,
    session: Option<String>,
}

const OPEN_COLUMNS: &str = "n, task, state, session, tolerated, name, protocol, method";

pub(super) fn open_task(tx: &Connection, workflow: &Id, n: i64) -> rusqlite::Result<Open> {
    tx.prepare_cached(&format!("SELECT {OPEN_COLUMNS} FROM tasks WHERE n = ?1"))?
        .query_row([n], |row| open(workflow, row))
        .optional()?
        .ok_or_else(|| rows::unexpected(0, Missing(format!("task {n} of {workflow}"))))
}

/// Every task of a workflow that has not ended, in the order of the file, children after it.
fn open_tasks(tx: &Connection, workflow: &Id) -> rusqlite::Result<Vec<Open>> {
    tx.prepare_cached(&format!(
        "SELECT {OPEN_COLUMNS} FROM tasks WHERE root = ?1 AND task <> '' AND ended_at IS NULL ORDER BY n"
    ))?
    .query_map([workflow.as_str()], |row| open(workflow, row))?
    .collect()
}

fn open(workflow: &Id, row: &Row<'_>) -> rusqlite::Result<Open> {
    let key = TaskKey::within(workflow.clone(), rows::parsed(row, 1)?);
    Ok(Open {
        n: row.get(0)?,
        head: rows::head(key, row, 5)?,
        tolerated: row.get(4)?,
        state: rows::task_state(row, 2)?,
        session: row.get(3)?,
    })
}

/// Ends every open task of a workflow with `ending`, and the workflow itself as `state`, for the reason
/// `error` if the state does not say enough. Gives what was running, with its sessions.
pub(super) fn end_all(
    flow: &mut Flow<'_>,
    ending: &str,
    state: WorkflowState,
    error: Option<&str>,
) -> rusqlite::Result<Vec<(TaskKey, Id)>> {
    let mut running = Vec::new();
    for task in open_tasks(flow.tx, flow.id)? {
        flow.end_unrun(&task, TaskState::Cancelled, ending)?;
        if task.state != TaskState::Running {
            continue;
        }
        let session = Id::parse(task.session.as_deref().unwrap_or_default());
        running.push((task.head.key, session.map_err(|error| rows::unexpected(3, error))?));
    }
    flow.tx.prepare_cached("DELETE FROM turns WHERE root = ?1")?.execute([flow.id.as_str()])?;
    flow.end_as(state, error)?;
    Ok(running)
}
