//! Taking in what the broker has confirmed: `accept` and `create`.

use rusqlite::{Connection, OptionalExtension, params};
use std::time::Duration;

use super::answered::{Record, take_mark};
use super::ending;
use super::flow::Flow;
use super::open;
use super::plant::plant;
use super::rows::{self, Clash, Workflow};
use crate::core::clock::Timestamp;
use crate::core::id::Id;
use crate::core::state::{TaskState, WorkflowState};
use crate::store::{Accepted, Created, Plan, PlannedTask, Released};
use crate::wire::record::{self, Head};

/// Notes what nobody knows yet. A mark stays a mark.
pub(super) fn accept(tx: &Connection, accepted: &[Accepted], now: Timestamp) -> rusqlite::Result<Vec<Id>> {
    let mut different = Vec::new();
    for one in accepted {
        let (root, digest, is_new) = match one {
            Accepted::Task { head, digest, due, sent } => {
                let is_new = accept_task(tx, head, digest.as_deref(), *due, now)?;
                if let Some(message) = sent {
                    open::keep(tx, &head.key, message)?;
                }
                (&head.key.root, digest, is_new)
            }
            // When the broker delivers it is in the same file.
            Accepted::Workflow { id, name, digest, due: _ } => {
                (id, digest, accept_workflow(tx, id, name, digest.as_deref(), now)?)
            }
        };
        let Some(digest) = digest else { continue };
        if !is_new && digest_differs(tx, root, digest)? {
            different.push(root.clone());
        }
    }
    Ok(different)
}

fn accept_task(
    tx: &Connection,
    head: &Head,
    digest: Option<&str>,
    due: Option<Timestamp>,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let state = if due.is_some() { TaskState::Delayed } else { TaskState::Accepted };
    let inserted = tx
        .prepare_cached(
            "INSERT OR IGNORE INTO tasks (root, task, name, protocol, method, state, created_at, digest, due)
             SELECT ?1, '', ?2, ?3, ?4, ?7, ?5, ?6, ?8
             WHERE NOT EXISTS (SELECT 1 FROM marks WHERE root = ?1)
               AND NOT EXISTS (SELECT 1 FROM workflows WHERE id = ?1)",
        )?
        .execute(params![
            head.key.root.as_str(),
            head.name,
            head.protocol,
            head.method,
            now.as_millis(),
            digest,
            state.name(),
            due.map(Timestamp::as_millis)
        ])?;
    Ok(inserted > 0)
}

fn accept_workflow(
    tx: &Connection,
    id: &Id,
    name: &str,
    digest: Option<&str>,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let inserted = tx
        .prepare_cached(
            "INSERT OR IGNORE INTO workflows (id, name, state, created_at, digest)
             SELECT ?1, ?2, 'accepted', ?3, ?4
             WHERE NOT EXISTS (SELECT 1 FROM marks WHERE root = ?1)
               AND NOT EXISTS (SELECT 1 FROM tasks WHERE root = ?1 AND task = '')",
        )?
        .execute(params![id.as_str(), name, now.as_millis(), digest])?;
    Ok(inserted > 0)
}

/// Whether the root is known with another digest. If it is known with none it has this one from now on.
pub(super) fn digest_differs(tx: &Connection, root: &Id, digest: &str) -> rusqlite::Result<bool> {
    let known: Option<Option<String>> = tx
        .prepare_cached(
            "SELECT digest FROM tasks WHERE root = ?1 AND task = ''
             UNION ALL SELECT digest FROM workflows WHERE id = ?1",
        )?
        .query_row([root.as_str()], |row| row.get(0))
        .optional()?;
    let Some(known) = known else { return Ok(false) };
    if let Some(known) = known {
        return Ok(known != digest);
    }
    for sql in [
        "UPDATE tasks SET digest = ?2 WHERE root = ?1 AND task = ''",
        "UPDATE workflows SET digest = ?2 WHERE id = ?1",
    ] {
        tx.prepare_cached(sql)?.execute([root.as_str(), digest])?;
    }
    Ok(false)
}

pub(super) fn create(
    tx: &Connection,
    plan: &Plan,
    now: Timestamp,
) -> rusqlite::Result<Result<Created, Clash>> {
    let is_task =
        tx.prepare_cached("SELECT 1 FROM tasks WHERE root = ?1 AND task = ''")?.exists([plan.id.as_str()])?;
    if is_task {
        return Ok(Err(Clash("a task on its own")));
    }
    let differs = match &plan.digest {
        Some(digest) => digest_differs(tx, &plan.id, digest)?,
        None => false,
    };
    let known = rows::find_workflow(tx, &plan.id)?.map(|workflow| workflow.state);
    let (state, released) = match known {
        None | Some(WorkflowState::Accepted) => take_in(tx, plan, now)?,
        Some(WorkflowState::Running) => (WorkflowState::Running, rows::unclaimed(tx, &plan.id)?),
        Some(
            state @ (WorkflowState::Completed
            | WorkflowState::Failed
            | WorkflowState::Cancelled
            | WorkflowState::Expired),
        ) => (state, Vec::new()),
    };
    let timeout = match state {
        WorkflowState::Running => timeout_of(tx, &plan.id)?,
        WorkflowState::Accepted
        | WorkflowState::Completed
        | WorkflowState::Failed
        | WorkflowState::Cancelled
        | WorkflowState::Expired => None,
    };
    Ok(Ok(Created { state, released, differs, timeout }))
}

/// Which run this is and how long it may take.
fn timeout_of(tx: &Connection, id: &Id) -> rusqlite::Result<Option<(u32, Duration)>> {
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?));
    let (run, nanos) = tx
        .prepare_cached("SELECT run, timeout FROM workflows WHERE id = ?1")?
        .query_row([id.as_str()], read)?;
    Ok(nanos.map(|nanos| (run, Duration::from_nanos(nanos.unsigned_abs()))))
}

fn take_in(tx: &Connection, plan: &Plan, now: Timestamp) -> rusqlite::Result<(WorkflowState, Vec<Released>)> {
    insert_workflow(tx, plan, now)?;
    let mut flow = Flow::of(tx, &plan.id, row_of(plan), 0, now);
    plant(&mut flow, &plan.tasks, None)?;

    if take_mark(tx, &plan.id, Record::Workflow(&plan.id))? {
        ending::end_all(&mut flow, &record::cancelled(now), WorkflowState::Cancelled, None)?;
        return Ok((WorkflowState::Cancelled, Vec::new()));
    }
    if let Some(failure) = &plan.refused {
        let reason = serde_json::to_string(failure).map_err(|error| rows::unexpected(0, error))?;
        flow.end_as(WorkflowState::Failed, Some(&reason))?;
        return Ok((WorkflowState::Failed, Vec::new()));
    }
    if plan.tasks.is_empty() {
        return Ok((flow.close()?, Vec::new()));
    }
    if plan.max_parallel.is_some() {
        flow.save()?;
        return Ok((WorkflowState::Running, rows::unclaimed(tx, &plan.id)?));
    }
    let ready = plan.tasks.iter().filter(|task| task.dependencies.is_empty());
    let first =
        |task: &PlannedTask| Released { key: task.head.key.clone(), message: task.message.clone(), run: 1 };
    let released = ready.map(first);
    Ok((WorkflowState::Running, released.collect()))
}

fn row_of(plan: &Plan) -> Workflow {
    Workflow {
        state: WorkflowState::Running,
        open: i64::try_from(plan.tasks.len()).unwrap_or(i64::MAX),
        broken: 0,
        ends: 0,
        max_parallel: plan.max_parallel.map(|max| i64::from(max.get())),
        active: 0,
        run: 1,
        floor: 0,
        result_ttl: plan.result_ttl,
    }
}

fn insert_workflow(tx: &Connection, plan: &Plan, now: Timestamp) -> rusqlite::Result<()> {
    let row = row_of(plan);
    let nanos = |timeout: Duration| i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX);
    tx.prepare_cached(
        "INSERT INTO workflows (id, name, state, open, max_parallel, timeout, reply, digest, result_ttl,
             created_at)
         VALUES (?1, ?2, 'running', ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (id) DO UPDATE SET name = ?2, state = 'running', open = ?3, max_parallel = ?4,
             timeout = ?5, reply = ?6, result_ttl = ?8",
    )?
    .execute(params![
        plan.id.as_str(),
        plan.name,
        row.open,
        row.max_parallel,
        plan.timeout.map(nanos),
        plan.reply,
        plan.digest,
        i64::try_from(row.result_ttl.as_millis()).unwrap_or(i64::MAX),
        now.as_millis()
    ])?;
    Ok(())
}
