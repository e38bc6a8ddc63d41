//! Ending an attempt, and with it, in the same step, whatever follows from that.

use rusqlite::{Connection, params};
use std::collections::VecDeque;
use std::time::Duration;

use super::ending::{self, Flow};
use super::rows::{self, Cleaning, Missing, Task};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::state::TaskState;
use crate::store::{End, Finished, Lease};
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
        End::Ended { state, document, keep, ttl, entry } => {
            ending::remember(tx, task.n, task.fence, entry)?;
            match key.workflow() {
                None => end_alone(tx, task.n, *state, document, keep.then_some(*ttl), now),
                Some(workflow) => end_within(tx, workflow, key.id(), task.n, *state, document, *keep, now),
            }
        }
        End::Again { due, entry } => {
            ending::remember(tx, task.n, task.fence, entry)?;
            let state = if *due > now { TaskState::Delayed } else { TaskState::Queued };
            put_back(tx, task.n, state, task.attempts, Some(*due))?;
            still_running(tx, key)
        }
        End::Abandoned => {
            put_back(tx, task.n, TaskState::Queued, task.attempts.saturating_sub(1), None)?;
            still_running(tx, key)
        }
    }
}

/// The lease has done its step already, and its answer was lost: the answer again.
fn repeat(tx: &Connection, key: &TaskKey, task: &Task) -> rusqlite::Result<Finished> {
    let Some(workflow) = key.workflow() else { return still_running(tx, key) };
    let released = if task.state == TaskState::Completed {
        rows::unclaimed_dependents(tx, workflow, task.n)?
    } else {
        Vec::new()
    };
    let state = workflow_of(tx, workflow)?.state;
    Ok(Finished::Done { released, failed: Vec::new(), workflow: Some(state) })
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
    Ok(Finished::Done { released: Vec::new(), failed: Vec::new(), workflow })
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
    Ok(Finished::Done { released: Vec::new(), failed: Vec::new(), workflow: None })
}

#[expect(clippy::too_many_arguments, reason = "the parts of one lease and one end")]
fn end_within(
    tx: &Connection,
    workflow: &Id,
    task: &Id,
    n: i64,
    state: TaskState,
    document: &[u8],
    keep: bool,
    now: Timestamp,
) -> rusqlite::Result<Finished> {
    let mut flow = Flow::of(tx, workflow, workflow_of(tx, workflow)?, now);
    let ended_seq = flow.count(state);
    tx.prepare_cached(
        "UPDATE tasks SET state = ?2, ended_at = ?3, ended_seq = ?4, session = NULL WHERE n = ?1",
    )?
    .execute(params![n, state.name(), now.as_millis(), ended_seq])?;
    if keep {
        ending::keep_document(tx, n, true, document)?;
    } else {
        // Nobody reads the result, but the workflow's document tells how the task ended.
        ending::keep_document(tx, n, false, &without_result(document))?;
    }
    let (mut released, mut failed) = (Vec::new(), Vec::new());
    if state == TaskState::Completed {
        tx.prepare_cached(
            "UPDATE tasks SET pending = pending - 1,
                 state = CASE WHEN pending = 1 AND state = 'waiting' THEN 'queued' ELSE state END
             WHERE n IN (SELECT dependent FROM edges WHERE dependency = ?1)",
        )?
        .execute([n])?;
        // None of them can have been ready before this step, so all that are ready are this step's.
        released = rows::unclaimed_dependents(tx, workflow, n)?;
    } else {
        failed = fail_dependents(&mut flow, task, n)?;
    }
    let state = flow.close(false)?;
    Ok(Finished::Done { released, failed, workflow: Some(state) })
}

/// A task's document without its result.
pub(super) fn without_result(document: &[u8]) -> Vec<u8> {
    match record::result_offset(document) {
        Some(offset) => [&document[..offset], record::RESULT_OMITTED.as_bytes()].concat(),
        None => document.to_vec(),
    }
}

/// Ends whatever waits for a task that did not complete, and whatever waits for that; nearest first.
fn fail_dependents(flow: &mut Flow<'_>, task: &Id, n: i64) -> rusqlite::Result<Vec<Id>> {
    let ending = record::dependency_failed(flow.now);
    let mut failed = Vec::new();
    let mut causes = VecDeque::from([(task.clone(), n)]);
    while let Some((cause, n)) = causes.pop_front() {
        let waiting = flow.waiting_dependents(n)?;
        if waiting.is_empty() {
            continue;
        }
        let ending = ending.replace(record::DEPENDENCY_MARK, cause.as_str());
        for dependent in waiting {
            flow.end_unrun(&dependent, TaskState::Failed, &ending)?;
            let id = dependent.head.key.id().clone();
            failed.push(id.clone());
            causes.push_back((id, dependent.n));
        }
    }
    Ok(failed)
}
