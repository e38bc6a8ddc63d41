//! Ending an attempt, and with it, in the same step, whatever follows from that.

use rusqlite::{Connection, params};
use std::num::NonZeroU32;
use std::time::Duration;

use super::ending;
use super::flow::Flow;
use super::output;
use super::plant::plant;
use super::rows::{self, Cleaning, Missing, Task, Wrong};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::state::TaskState;
use crate::store::{End, Finished, Lease, Message, PlannedTask};
use crate::wire::record;

pub(super) fn finish(
    tx: &Connection,
    lease: &Lease,
    end: &End,
    now: Timestamp,
) -> rusqlite::Result<Finished> {
    let key = &lease.key;
    let Some(task) = rows::find_task(tx, key)? else { return Ok(Finished::Lost) };
    if task.fence != lease.fence {
        return Ok(Finished::Lost);
    }
    if task.state != TaskState::Running {
        return repeat(tx, key, &task);
    }
    match end {
        End::Ended { state, document, keep, ttl, entry, retry } => {
            ending::remember(tx, task.n, task.fence, entry)?;
            let (state, document) = (*state, document.as_ref());
            output::end(tx, task.n, lease, state, now)?;
            match key.workflow() {
                None => {
                    keep_for_retry(tx, &task, state, retry.as_ref())?;
                    end_alone(tx, task.n, state, document, keep.then_some(*ttl), now)
                }
                Some(workflow) => {
                    let flow = flow_of(tx, workflow, &task, now)?;
                    end_within(flow, &task, state, document, *keep)
                }
            }
        }
        End::Again { due, entry } => {
            ending::remember(tx, task.n, task.fence, entry)?;
            let state = if *due > now { TaskState::Delayed } else { TaskState::Queued };
            output::end(tx, task.n, lease, state, now)?;
            put_back(tx, task.n, state, task.attempts, Some(*due))?;
            still_running(tx, key)
        }
        End::Expanded { tasks, max_parallel } => {
            let Some(workflow) = key.workflow() else {
                let wrong = format!("task {key} is on its own and cannot plan others");
                return Err(rows::unexpected(0, Wrong(wrong)));
            };
            expand(flow_of(tx, workflow, &task, now)?, &task, tasks, *max_parallel)
        }
        End::Abandoned => {
            output::end(tx, task.n, lease, TaskState::Queued, now)?;
            put_back(tx, task.n, TaskState::Queued, task.attempts.saturating_sub(1), None)?;
            still_running(tx, key)
        }
    }
}

/// The lease has done its step already, and its answer was lost: the answer again.
fn repeat(tx: &Connection, key: &TaskKey, task: &Task) -> rusqlite::Result<Finished> {
    let Some(workflow) = key.workflow() else { return still_running(tx, key) };
    let released = rows::released_by(tx, workflow, task.n)?;
    let state = workflow_of(tx, workflow)?.state;
    Ok(Finished::Done { released, ended: Vec::new(), workflow: Some(state) })
}

fn flow_of<'a>(
    tx: &'a Connection,
    workflow: &'a Id,
    task: &Task,
    now: Timestamp,
) -> rusqlite::Result<Flow<'a>> {
    Ok(Flow::of(tx, workflow, workflow_of(tx, workflow)?, task.n, now))
}

fn workflow_of(tx: &Connection, id: &Id) -> rusqlite::Result<rows::Workflow> {
    rows::find_workflow(tx, id)?.ok_or_else(|| rows::unexpected(0, Missing(format!("workflow {id}"))))
}

fn put_back(
    tx: &Connection,
    n: i64,
    state: TaskState,
    attempts: u32,
    due: Option<Timestamp>,
) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE tasks SET state = ?2, attempts = ?3, due = ?4, session = NULL WHERE n = ?1")?
        .execute(params![n, state.name(), attempts, due.map(Timestamp::as_millis)])?;
    Ok(())
}

fn still_running(tx: &Connection, key: &TaskKey) -> rusqlite::Result<Finished> {
    let workflow = match key.workflow() {
        Some(workflow) => Some(workflow_of(tx, workflow)?.state),
        None => None,
    };
    Ok(Finished::Done { released: Vec::new(), ended: Vec::new(), workflow })
}

/// Without a `ttl` nobody wants the document.
fn end_alone(
    tx: &Connection,
    n: i64,
    state: TaskState,
    document: &[u8],
    ttl: Option<Duration>,
    now: Timestamp,
) -> rusqlite::Result<Finished> {
    let cleaning = Cleaning::after(now, ttl.unwrap_or_default());
    let clean_at = if ttl.is_some() { cleaning.results_at } else { cleaning.forget_at };
    tx.prepare_cached(
        "UPDATE tasks SET state = ?2, ended_at = ?3, session = NULL, clean_at = ?4, forget_at = ?5 WHERE n = ?1",
    )?
    .execute(params![n, state.name(), now.as_millis(), clean_at, cleaning.forget_at])?;
    if ttl.is_some() {
        ending::keep_document(tx, n, true, document)?;
    }
    Ok(Finished::Done { released: Vec::new(), ended: Vec::new(), workflow: None })
}

/// The message of a task on its own, to be published again when somebody retries it. One that was kept before
/// goes when the task completes, and with the end of the first run, whose own it is.
fn keep_for_retry(
    tx: &Connection,
    task: &Task,
    state: TaskState,
    message: Option<&Message>,
) -> rusqlite::Result<()> {
    if let Some(message) = message {
        return rows::keep_message(tx, task.n, message);
    }
    if state == TaskState::Completed || task.run == 1 {
        tx.prepare_cached("DELETE FROM planned WHERE task = ?1")?.execute([task.n])?;
    }
    Ok(())
}

fn end_within(
    mut flow: Flow<'_>,
    task: &Task,
    state: TaskState,
    document: &[u8],
    keep: bool,
) -> rusqlite::Result<Finished> {
    let (tx, workflow, n) = (flow.tx, flow.id, task.n);
    let ended_seq = flow.next_end();
    tx.prepare_cached(
        "UPDATE tasks SET state = ?2, ended_at = ?3, ended_seq = ?4, session = NULL WHERE n = ?1",
    )?
    .execute(params![n, state.name(), flow.now.as_millis(), ended_seq])?;
    if keep {
        ending::keep_document(tx, n, true, document)?;
    } else {
        // Nobody reads the result, but the workflow's document tells how the task ended.
        ending::keep_document(tx, n, false, &without_result(document))?;
    }
    flow.give_up_turn();
    flow.give_up_place(task.parent)?;
    flow.settle(n, state, task.parent)?;
    flow.count(task.parent, task.tolerated, state)?;
    let workflow_state = flow.close()?;
    let released = rows::released_by(tx, workflow, n)?;
    Ok(Finished::Done { released, ended: flow.ended, workflow: Some(workflow_state) })
}

/// The task waits, for the same attempt, until the tasks that it has planned have ended.
fn expand(
    mut flow: Flow<'_>,
    task: &Task,
    tasks: &[PlannedTask],
    max_parallel: Option<NonZeroU32>,
) -> rusqlite::Result<Finished> {
    let (tx, n) = (flow.tx, task.n);
    let has_children = tx.prepare_cached("SELECT 1 FROM parents WHERE task = ?1")?.exists([n])?;
    if has_children || tasks.is_empty() {
        let wrong = if has_children { "has planned tasks before" } else { "plans no task" };
        return Err(rows::unexpected(0, Wrong(format!("task {n} of {} {wrong}", flow.id))));
    }
    tx.prepare_cached("INSERT INTO parents (task, open, max_parallel) VALUES (?1, ?2, ?3)")?.execute(
        params![n, i64::try_from(tasks.len()).unwrap_or(i64::MAX), max_parallel.map(NonZeroU32::get)],
    )?;
    tx.prepare_cached("UPDATE tasks SET state = 'waiting', session = NULL, resumes = 1 WHERE n = ?1")?
        .execute([n])?;
    flow.give_up_turn();
    plant(&mut flow, tasks, Some(n))?;
    let workflow = flow.close()?;
    let released = rows::released_by(tx, flow.id, n)?;
    Ok(Finished::Done { released, ended: flow.ended, workflow: Some(workflow) })
}

/// A task's document without its result.
pub(super) fn without_result(document: &[u8]) -> Vec<u8> {
    match record::result_offset(document) {
        Some(offset) => [&document[..offset], record::RESULT_OMITTED.as_bytes()].concat(),
        None => document.to_vec(),
    }
}
