//! Taking a lease.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use std::time::Duration;

use super::answered::{Record, take_mark};
use super::create::digest_differs;
use super::ending::{self, remember};
use super::rows::{self, Clash, Cleaning, Task};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::state::TaskState;
use crate::store::{Claim, Claimed, FORGOTTEN_LEASES_MAX, Fence, Inputs, Lease, Released};
use crate::wire::record;

/// `result_ttl` is for the document of a task that was cancelled before anybody had seen it.
pub(super) fn claim(
    tx: &Connection,
    claim: &Claim,
    result_ttl: Duration,
    now: Timestamp,
) -> rusqlite::Result<Result<Claimed, Clash>> {
    let key = &claim.head.key;
    let found = rows::find_task(tx, key)?;
    if let (Some(workflow), Some(told)) = (key.workflow(), claim.run.filter(|told| *told > 1))
        && found.as_ref().is_none_or(|task| told > task.run)
        && let Some(present) = run_before(tx, workflow, told)?
    {
        return Ok(Ok(Claimed::LostRun { present }));
    }
    let Some(mut task) = found else {
        return match key.workflow() {
            Some(workflow) => Ok(Ok(without_record(tx, workflow)?)),
            None => first(tx, claim, result_ttl, now),
        };
    };
    if let Some(told) = claim.run.filter(|told| key.task.is_none() && *told > task.run)
        && !matches!(task.state, TaskState::Completed | TaskState::Skipped | TaskState::Cancelled)
    {
        task = begin_lost_run(tx, task, told)?;
    }
    let differs = match &claim.digest {
        Some(digest) if key.workflow().is_none() => digest_differs(tx, &key.root, digest)?,
        Some(_) | None => false,
    };
    let claimed = match task.state {
        TaskState::Completed
        | TaskState::Failed
        | TaskState::Cancelled
        | TaskState::Expired
        | TaskState::Skipped => over(tx, key, &task, differs)?,
        TaskState::Waiting
        | TaskState::Running
        | TaskState::Accepted
        | TaskState::Queued
        | TaskState::Delayed
            if claim.run.is_some_and(|told| told < task.run) =>
        {
            Claimed::Superseded
        }
        TaskState::Waiting => Claimed::NotReady { released: not_ready(tx, key, &task)? },
        TaskState::Running if claim.over != Some(task.fence) => held(&task)?,
        TaskState::Running => {
            note_lost(tx, &task, now)?;
            let (attempt, crashes) = (task.attempts.saturating_add(1), task.crashes.saturating_add(1));
            run(tx, claim, &task, attempt, crashes, now)?
        }
        TaskState::Accepted | TaskState::Queued | TaskState::Delayed => {
            // An attempt that has waited for its children has started before, and goes on.
            let expected = if task.resumes { task.attempts.max(1) } else { task.attempts.saturating_add(1) };
            if claim.attempt < expected {
                Claimed::Next { attempt: expected, due: task.due.unwrap_or(now) }
            } else {
                // A higher one than expected: the file has lost its last writes, the message knows better.
                run(tx, claim, &task, claim.attempt, task.crashes, now)?
            }
        }
    };
    Ok(Ok(claimed))
}

fn over(tx: &Connection, key: &TaskKey, task: &Task, differs: bool) -> rusqlite::Result<Claimed> {
    let released = match key.workflow() {
        Some(workflow) => rows::released_by(tx, workflow, task.n)?,
        None => Vec::new(),
    };
    Ok(Claimed::Over { state: task.state, released, differs })
}

/// Only a task that has planned others and waits for them has released anything.
fn not_ready(tx: &Connection, key: &TaskKey, task: &Task) -> rusqlite::Result<Vec<Released>> {
    match key.workflow() {
        Some(workflow) => rows::unclaimed_children(tx, workflow, task.n),
        None => Ok(Vec::new()),
    }
}

fn held(task: &Task) -> rusqlite::Result<Claimed> {
    let session = task.session.as_deref().unwrap_or_default();
    let session = Id::parse(session).map_err(|error| rows::unexpected(5, error))?;
    Ok(Claimed::Held { session, fence: task.fence })
}

/// The attempt that a dead session had started goes into the history.
fn note_lost(tx: &Connection, task: &Task, now: Timestamp) -> rusqlite::Result<()> {
    let session = task.session.as_deref().unwrap_or_default();
    let started_at = task.started_at.unwrap_or(now).to_string();
    let entry = record::attempt_lost(&task.attempts.to_string(), session, &started_at, &now.to_string());
    remember(tx, task.n, task.fence, &entry)
}

fn run(
    tx: &Connection,
    claim: &Claim,
    task: &Task,
    attempt: u32,
    crashes: u32,
    now: Timestamp,
) -> rusqlite::Result<Claimed> {
    let fence = Fence(task.fence.0 + 1);
    tx.prepare_cached(
        "UPDATE tasks SET state = 'running', attempts = ?2, crashes = ?3, fence = ?4, session = ?5,
             started_at = ?6, due = NULL, resumes = 0, released_by = NULL WHERE n = ?1",
    )?
    .execute(params![
        task.n,
        attempt,
        crashes,
        rows::fence_column(fence),
        claim.session.as_str(),
        now.as_millis()
    ])?;
    let key = &claim.head.key;
    // Nobody has ended an attempt before the first lease.
    let history = if task.fence.0 > 0 { rows::history(tx, task.n)? } else { Vec::new() };
    let inputs = inputs_of(tx, claim)?;
    // Nobody plans children without a lease either.
    let children = if task.fence.0 > 0 { rows::children(tx, task.n)? } else { Vec::new() };
    if task.resumes {
        // What its expansion has released is not this lease's to tell.
        tx.prepare_cached("UPDATE tasks SET released_by = 0 WHERE released_by = ?1 AND released_by > 0")?
            .execute([task.n])?;
    }
    Ok(Claimed::Run {
        lease: Lease { key: key.clone(), fence, attempt, run: task.run },
        inputs,
        crashes,
        history,
        children,
    })
}

/// The run that a workflow is in, if the file has lost the retry that began this one.
fn run_before(tx: &Connection, workflow: &Id, told: u32) -> rusqlite::Result<Option<u32>> {
    tx.prepare_cached("SELECT run FROM workflows WHERE id = ?1 AND state <> 'accepted' AND run < ?2")?
        .query_row(params![workflow.as_str(), told], |row| row.get(0))
        .optional()
}

/// The file has lost the retry that began this run of a task on its own: it begins now.
fn begin_lost_run(tx: &Connection, task: Task, told: u32) -> rusqlite::Result<Task> {
    tx.prepare_cached("DELETE FROM results WHERE task = ?1")?.execute([task.n])?;
    tx.prepare_cached(
        "UPDATE tasks SET state = 'queued', attempts = 0, crashes = 0, fence = fence + ?2, session = NULL,
             due = NULL, started_at = NULL, ended_at = NULL, clean_at = NULL, forget_at = NULL,
             released_by = NULL, run = ?3 WHERE n = ?1",
    )?
    .execute(params![task.n, FORGOTTEN_LEASES_MAX, told])?;
    let fence = Fence(task.fence.0 + u64::from(FORGOTTEN_LEASES_MAX));
    let (state, attempts, crashes, due) = (TaskState::Queued, 0, 0, None);
    Ok(Task { state, attempts, crashes, fence, due, run: told, ..task })
}

/// The results that are asked for. They are measured before any is read.
fn inputs_of(tx: &Connection, claim: &Claim) -> rusqlite::Result<Inputs> {
    let workflow = &claim.head.key.root;
    let mut bytes = 0;
    for input in &claim.inputs {
        bytes += bytes_of(tx, workflow, input)?;
    }
    if usize::try_from(bytes).map_or(true, |bytes| bytes > claim.inputs_bytes_max) {
        return Ok(Inputs::TooLarge { bytes });
    }
    let inputs = claim.inputs.iter().map(|input| input_of(tx, workflow, input));
    Ok(Inputs::Read(inputs.collect::<rusqlite::Result<_>>()?))
}

fn bytes_of(tx: &Connection, workflow: &Id, task: &Id) -> rusqlite::Result<u64> {
    let bytes: Option<i64> = tx
        .prepare_cached(
            "SELECT length(r.document) FROM tasks t JOIN results r ON r.task = t.n
             WHERE t.root = ?1 AND t.task = ?2 AND r.kept = 1",
        )?
        .query_row([workflow.as_str(), task.as_str()], |row| row.get(0))
        .optional()?;
    Ok(bytes.unwrap_or_default().unsigned_abs())
}

/// A running workflow's results have no TTL, so none is looked at.
fn input_of(tx: &Connection, workflow: &Id, task: &Id) -> rusqlite::Result<Option<Bytes>> {
    let document: Option<Vec<u8>> = tx
        .prepare_cached(
            "SELECT r.document FROM tasks t JOIN results r ON r.task = t.n
             WHERE t.root = ?1 AND t.task = ?2 AND r.kept = 1",
        )?
        .query_row([workflow.as_str(), task.as_str()], |row| row.get(0))
        .optional()?;
    Ok(document.map(Bytes::from))
}

/// A task of a workflow that has no record of it. A mark stands for its end; and where a retry has thrown
/// children away this may be the message of one.
fn without_record(tx: &Connection, workflow: &Id) -> rusqlite::Result<Claimed> {
    let is_over: bool = tx
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM marks WHERE root = ?1)
                 OR EXISTS (SELECT 1 FROM workflows WHERE id = ?1 AND floor > 0)",
        )?
        .query_row([workflow.as_str()], |row| row.get(0))?;
    if is_over {
        return Ok(Claimed::Over { state: TaskState::Cancelled, released: Vec::new(), differs: false });
    }
    Ok(Claimed::NoWorkflow)
}

/// The first that is heard of a task on its own.
fn first(
    tx: &Connection,
    claim: &Claim,
    result_ttl: Duration,
    now: Timestamp,
) -> rusqlite::Result<Result<Claimed, Clash>> {
    let head = &claim.head;
    let (is_workflow, is_marked): (bool, bool) = tx
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM workflows WHERE id = ?1), EXISTS (SELECT 1 FROM marks WHERE root = ?1)",
        )?
        .query_row([head.key.root.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if is_workflow {
        return Ok(Err(Clash("a workflow")));
    }
    let state = if is_marked { TaskState::Queued } else { TaskState::Running };
    let fence = Fence(u64::from(!is_marked));
    let run = claim.run.unwrap_or(1).max(1);
    tx.prepare_cached(
        "INSERT INTO tasks (root, task, name, protocol, method, state, attempts, fence, session, started_at,
             created_at, digest, run) VALUES (?1, '', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, ?10, ?11)",
    )?
    .execute(params![
        head.key.root.as_str(),
        head.name,
        head.protocol,
        head.method,
        state.name(),
        if is_marked { 0 } else { claim.attempt },
        rows::fence_column(fence),
        (!is_marked).then_some(claim.session.as_str()),
        now.as_millis(),
        claim.digest,
        run,
    ])?;
    if is_marked {
        // It ends now, so that whoever follows it learns of it.
        let n = tx.last_insert_rowid();
        take_mark(tx, &head.key.root, Record::Task(n))?;
        ending::cancel_alone(tx, n, head, Cleaning::after(now, result_ttl), now)?;
        return Ok(Ok(Claimed::Over { state: TaskState::Cancelled, released: Vec::new(), differs: false }));
    }
    let lease = Lease { key: head.key.clone(), fence, attempt: claim.attempt, run };
    let inputs = Inputs::Read(vec![None; claim.inputs.len()]);
    Ok(Ok(Claimed::Run { lease, inputs, crashes: 0, history: Vec::new(), children: Vec::new() }))
}
