//! Writing planned tasks down, those of a file and those that a task has planned.

use rusqlite::{Connection, params};

use super::flow::Flow;
use super::rows::{self, Wrong};
use crate::core::state::TaskState;
use crate::store::{Edge, Otherwise, PlannedTask};

/// Writes the tasks down, and what of them is ready. `parent` is the task that has planned them.
pub(super) fn plant(flow: &mut Flow<'_>, tasks: &[PlannedTask], parent: Option<i64>) -> rusqlite::Result<()> {
    let is_free = flow.is_free(parent)?;
    let mut numbers = Vec::with_capacity(tasks.len());
    for task in tasks {
        let at_once = is_free && task.dependencies.is_empty();
        numbers.push(insert_task(flow, task, parent, at_once)?);
    }
    insert_edges(flow.tx, tasks, &numbers)?;
    if is_free {
        return Ok(());
    }
    for (task, n) in tasks.iter().zip(&numbers) {
        if task.dependencies.is_empty() {
            flow.ready(*n, parent)?;
        }
    }
    Ok(())
}

fn insert_task(
    flow: &Flow<'_>,
    task: &PlannedTask,
    parent: Option<i64>,
    at_once: bool,
) -> rusqlite::Result<i64> {
    let head = &task.head;
    let state = if at_once { TaskState::Queued } else { TaskState::Waiting };
    flow.tx
        .prepare_cached(
            "INSERT INTO tasks (root, task, name, protocol, method, state, pending, tolerated, parent,
                 released_by, fence, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            flow.id.as_str(),
            head.key.id().as_str(),
            head.name,
            head.protocol,
            head.method,
            state.name(),
            i64::try_from(task.dependencies.len()).unwrap_or(i64::MAX),
            task.tolerated,
            parent,
            at_once.then_some(flow.step),
            flow.floor(),
            flow.now.as_millis(),
        ])?;
    let n = flow.tx.last_insert_rowid();
    rows::keep_message(flow.tx, n, &task.message)?;
    Ok(n)
}

fn insert_edges(tx: &Connection, tasks: &[PlannedTask], numbers: &[i64]) -> rusqlite::Result<()> {
    let mut insert = tx.prepare_cached(
        "INSERT OR IGNORE INTO edges (dependency, dependent, otherwise) VALUES (?1, ?2, ?3)",
    )?;
    for (task, dependent) in tasks.iter().zip(numbers) {
        for Edge { on, otherwise } in &task.dependencies {
            let Some(dependency) = numbers.get(*on) else {
                let wrong = format!("{} depends on task {on} of {}", task.head.key, tasks.len());
                return Err(rows::unexpected(0, Wrong(wrong)));
            };
            insert.execute(params![dependency, dependent, worst(*otherwise)])?;
        }
    }
    Ok(())
}

/// The worst verdict that an edge can give; see `flow`.
fn worst(otherwise: Otherwise) -> i64 {
    match otherwise {
        Otherwise::Continue => super::flow::RUN,
        Otherwise::Skip => super::flow::SKIP,
        Otherwise::Fail => super::flow::FAIL,
    }
}

/// The edge of which this is the worst verdict.
pub(super) fn otherwise(worst: i64) -> Otherwise {
    match worst {
        super::flow::RUN => Otherwise::Continue,
        super::flow::SKIP => Otherwise::Skip,
        _ => Otherwise::Fail,
    }
}
