//! How tasks that have no attempt to report, and workflows, end.

use rusqlite::{Connection, params};
use std::time::Duration;

use super::rows::{self, Cleaning, Workflow};
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
    result_ttl: Duration,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let cleaning = Cleaning::after(now, result_ttl);
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
    pub(super) state: TaskState,
    pub(super) session: Option<String>,
}

/// A workflow while a step ends tasks of it.
#[derive(Debug)]
pub(super) struct Flow<'a> {
    tx: &'a Connection,
    pub(super) id: &'a Id,
    pub(super) now: Timestamp,
    row: Workflow,
}

impl<'a> Flow<'a> {
    pub(super) fn of(tx: &'a Connection, id: &'a Id, row: Workflow, now: Timestamp) -> Flow<'a> {
        Flow { tx, id, now, row }
    }

    /// Counts the end of a task, and gives its place in the order of ends.
    pub(super) fn count(&mut self, state: TaskState) -> i64 {
        self.row.open -= 1;
        if state != TaskState::Completed {
            self.row.broken += 1;
        }
        self.row.total - self.row.open
    }

    /// Ends a task that has no attempt to report: its document is its head and `ending`.
    pub(super) fn end_unrun(&mut self, task: &Open, state: TaskState, ending: &str) -> rusqlite::Result<()> {
        let ended_seq = self.count(state);
        self.tx
            .prepare_cached(
                "UPDATE tasks SET state = ?2, ended_at = ?3, ended_seq = ?4, session = NULL, due = NULL,
                     fence = CASE WHEN fence > 0 THEN fence + 1 ELSE 0 END WHERE n = ?1",
            )?
            .execute(params![task.n, state.name(), self.now.as_millis(), ended_seq])?;
        keep_document(self.tx, task.n, true, (task.head.open() + ending).as_bytes())
    }

    /// The dependents of a task that wait, in the order of the file.
    pub(super) fn waiting_dependents(&self, n: i64) -> rusqlite::Result<Vec<Open>> {
        self.tx
            .prepare_cached(
                "SELECT t.n, t.task, t.state, t.session, t.name, t.protocol, t.method
                 FROM edges e JOIN tasks t ON t.n = e.dependent
                 WHERE e.dependency = ?1 AND t.state = 'waiting' ORDER BY e.dependent",
            )?
            .query_map([n], |row| open(self.id, row))?
            .collect()
    }

    /// Every task that has not ended, in the order of the file.
    pub(super) fn open_tasks(&self) -> rusqlite::Result<Vec<Open>> {
        self.tx
            .prepare_cached(
                "SELECT n, task, state, session, name, protocol, method FROM tasks
                 WHERE root = ?1 AND task <> '' AND ended_at IS NULL ORDER BY n",
            )?
            .query_map([self.id.as_str()], |row| open(self.id, row))?
            .collect()
    }

    /// Writes the counts down, and ends the workflow if no task is open any more. Gives its state.
    pub(super) fn close(self, cancelled: bool) -> rusqlite::Result<WorkflowState> {
        let state = if self.row.open > 0 {
            WorkflowState::Running
        } else if cancelled {
            WorkflowState::Cancelled
        } else if self.row.broken > 0 {
            WorkflowState::Failed
        } else {
            WorkflowState::Completed
        };
        if state.is_ended() {
            self.end(state, None)?;
        } else {
            self.tx
                .prepare_cached("UPDATE workflows SET open = ?2, broken = ?3 WHERE id = ?1")?
                .execute(params![self.id.as_str(), self.row.open, self.row.broken])?;
        }
        Ok(state)
    }

    /// Ends a workflow whose plan cannot be run; it has no tasks.
    pub(super) fn refuse(self, reason: &str) -> rusqlite::Result<WorkflowState> {
        self.end(WorkflowState::Failed, Some(reason))?;
        Ok(WorkflowState::Failed)
    }

    fn end(&self, state: WorkflowState, error: Option<&str>) -> rusqlite::Result<()> {
        let cleaning = Cleaning::after(self.now, self.row.result_ttl);
        self.tx
            .prepare_cached(
                "UPDATE workflows SET open = ?2, broken = ?3, state = ?4, ended_at = ?5, clean_at = ?6,
                     forget_at = ?7, error = ?8 WHERE id = ?1",
            )?
            .execute(params![
                self.id.as_str(),
                self.row.open,
                self.row.broken,
                state.name(),
                self.now.as_millis(),
                cleaning.results_at,
                cleaning.forget_at,
                error
            ])?;
        Ok(())
    }
}

fn open(workflow: &Id, row: &rusqlite::Row<'_>) -> rusqlite::Result<Open> {
    let key = TaskKey::within(workflow.clone(), rows::parsed(row, 1)?);
    Ok(Open {
        n: row.get(0)?,
        head: rows::head(key, row, 4)?,
        state: rows::task_state(row, 2)?,
        session: row.get(3)?,
    })
}

/// Ends every open task of a workflow and the workflow itself. Gives what was running, with its sessions.
pub(super) fn cancel_workflow(
    tx: &Connection,
    id: &Id,
    row: Workflow,
    now: Timestamp,
) -> rusqlite::Result<Vec<(TaskKey, Id)>> {
    let mut flow = Flow::of(tx, id, row, now);
    let ending = record::cancelled(now);
    let mut running = Vec::new();
    for task in flow.open_tasks()? {
        flow.end_unrun(&task, TaskState::Cancelled, &ending)?;
        if task.state != TaskState::Running {
            continue;
        }
        let session = Id::parse(task.session.as_deref().unwrap_or_default());
        running.push((task.head.key, session.map_err(|error| rows::unexpected(3, error))?));
    }
    flow.close(true)?;
    Ok(running)
}
