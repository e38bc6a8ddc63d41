//! Running again what did not complete.

use rusqlite::{Connection, OptionalExtension, Row, params};
use std::time::Duration;

use super::flow::Flow;
use super::reset::{self, Graph};
use super::rows::{self, Missing};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::store::{REQUESTS_MAX, Released, Retried};

/// What there is to know of an earlier retry of the same root.
struct Before {
    run: u32,
    by: Option<String>,
    timeout: Option<Duration>,
}

impl Before {
    /// Reads `run, retried_by` and, of a workflow, `timeout` from the first column on.
    fn read(row: &Row<'_>, timeout: Option<i64>) -> rusqlite::Result<Before> {
        let timeout = timeout.map(|nanos| Duration::from_nanos(nanos.unsigned_abs()));
        Ok(Before { run: row.get(0)?, by: row.get(1)?, timeout })
    }

    /// The requests that began the last runs, newest last.
    fn requests(&self) -> impl Iterator<Item = &str> {
        self.by.as_deref().unwrap_or_default().split_ascii_whitespace()
    }

    fn is_by(&self, by: &Id) -> bool {
        self.requests().any(|request| request == by.as_str())
    }

    /// What is remembered once `by` has begun a run.
    fn with(&self, by: &Id) -> String {
        let mut requests: Vec<&str> = self.requests().chain([by.as_str()]).collect();
        let surplus = requests.len().saturating_sub(REQUESTS_MAX);
        requests.drain(..surplus);
        requests.join(" ")
    }
}

pub(super) fn retry(tx: &Connection, root: &Id, by: &Id, now: Timestamp) -> rusqlite::Result<Retried> {
    if let Some(task) = rows::find_task(tx, &TaskKey::alone(root.clone()))? {
        return retry_alone(tx, root, &task, by);
    }
    let Some(workflow) = rows::find_workflow(tx, root)? else { return Ok(Retried::Unknown) };
    let before = tx
        .prepare_cached("SELECT run, retried_by, timeout FROM workflows WHERE id = ?1")?
        .query_row([root.as_str()], |row| Before::read(row, row.get(2)?))?;
    let (run, timeout) = (before.run, before.timeout);
    if before.is_by(by) {
        let is_running = workflow.state == WorkflowState::Running;
        let released = if is_running { rows::unclaimed(tx, root)? } else { Vec::new() };
        return Ok(Retried::Running { released, run, timeout });
    }
    if !workflow.state.is_ended() {
        return Ok(Retried::NotEnded);
    }
    let graph = Graph::read(tx, root, now)?;
    if graph.is_empty() && workflow.state != WorkflowState::Completed {
        return Ok(Retried::NotTakenIn);
    }
    let reset = graph.reset();
    if reset.tasks.is_empty() {
        return Ok(Retried::Nothing);
    }
    if !reset.gone.is_empty() || reset.lacks_message {
        return Ok(Retried::Gone(reset.gone));
    }

    let floor = reset::forget(tx, &reset.lost)?.max(workflow.floor);
    tx.prepare_cached(
        "UPDATE workflows SET state = 'running', run = run + 1, retried_by = ?2, open = ?3, broken = 0,
             active = 0, floor = ?4, ended_at = NULL, error = NULL, clean_at = NULL, forget_at = NULL
         WHERE id = ?1",
    )?
    .execute(params![root.as_str(), before.with(by), reset.open, floor])?;
    for task in &reset.tasks {
        reset::write(tx, task)?;
    }
    let row = rows::find_workflow(tx, root)?
        .ok_or_else(|| rows::unexpected(0, Missing(format!("workflow {root}"))))?;
    let mut flow = Flow::of(tx, root, row, 0, now);
    flow.begin_again(None)?;
    flow.save()?;
    Ok(Retried::Running { released: rows::unclaimed(tx, root)?, run: run.saturating_add(1), timeout })
}

fn retry_alone(tx: &Connection, root: &Id, task: &rows::Task, by: &Id) -> rusqlite::Result<Retried> {
    let before = tx
        .prepare_cached("SELECT run, retried_by FROM tasks WHERE n = ?1")?
        .query_row([task.n], |row| Before::read(row, None))?;
    if before.is_by(by) {
        let released = own_message(tx, root, task.n, before.run, true)?.into_iter().collect();
        return Ok(Retried::Running { released, run: before.run, timeout: None });
    }
    if !task.state.is_ended() {
        return Ok(Retried::NotEnded);
    }
    if matches!(task.state, TaskState::Completed | TaskState::Skipped) {
        return Ok(Retried::Nothing);
    }
    let run = before.run.saturating_add(1);
    let Some(released) = own_message(tx, root, task.n, run, false)? else {
        return Ok(Retried::Gone(Vec::new()));
    };
    tx.prepare_cached("DELETE FROM results WHERE task = ?1")?.execute([task.n])?;
    tx.prepare_cached(
        "UPDATE tasks SET state = 'queued', attempts = 0, crashes = 0, fence = fence + 1, session = NULL,
             due = NULL, started_at = NULL, ended_at = NULL, clean_at = NULL, forget_at = NULL,
             released_by = 0, run = run + 1, retried_by = ?2 WHERE n = ?1",
    )?
    .execute(params![task.n, before.with(by)])?;
    Ok(Retried::Running { released: vec![released], run, timeout: None })
}

/// The message that a task on its own has left; only while nobody has claimed it, if `unclaimed`.
fn own_message(
    tx: &Connection,
    root: &Id,
    n: i64,
    run: u32,
    unclaimed: bool,
) -> rusqlite::Result<Option<Released>> {
    tx.prepare_cached(
        "SELECT p.address, p.priority, p.body FROM tasks t JOIN planned p ON p.task = t.n
         WHERE t.n = ?1 AND (NOT ?2 OR t.state = 'queued' AND t.released_by IS NOT NULL)",
    )?
    .query_row(params![n, unclaimed], |row| {
        Ok(Released { key: TaskKey::alone(root.clone()), message: rows::message(row, 0)?, run })
    })
    .optional()
}
