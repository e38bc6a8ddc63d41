//! Taking in what the broker has confirmed: `accept` and `create`.

use rusqlite::{Connection, params};

use super::ending::{self, Flow};
use super::rows::{self, Clash, Missing, Workflow};
use crate::core::clock::Timestamp;
use crate::core::state::{TaskState, WorkflowState};
use crate::store::{Accepted, Created, Plan, PlannedTask, Released};

/// Notes what nobody knows yet. A mark stays a mark.
pub(super) fn accept(tx: &Connection, accepted: &[Accepted], now: Timestamp) -> rusqlite::Result<()> {
    for one in accepted {
        match one {
            Accepted::Task(head) => tx
                .prepare_cached(
                    "INSERT OR IGNORE INTO tasks (root, task, name, protocol, method, state, created_at)
                     SELECT ?1, '', ?2, ?3, ?4, 'accepted', ?5
                     WHERE NOT EXISTS (SELECT 1 FROM marks WHERE root = ?1)
                       AND NOT EXISTS (SELECT 1 FROM workflows WHERE id = ?1)",
                )?
                .execute(params![
                    head.key.root.as_str(),
                    head.name,
                    head.protocol,
                    head.method,
                    now.as_millis()
                ])?,
            Accepted::Workflow { id, name } => tx
                .prepare_cached(
                    "INSERT OR IGNORE INTO workflows (id, name, state, created_at)
                     SELECT ?1, ?2, 'accepted', ?3
                     WHERE NOT EXISTS (SELECT 1 FROM marks WHERE root = ?1)
                       AND NOT EXISTS (SELECT 1 FROM tasks WHERE root = ?1 AND task = '')",
                )?
                .execute(params![id.as_str(), name, now.as_millis()])?,
        };
    }
    Ok(())
}

pub(super) fn create(
    tx: &Connection,
    plan: &Plan,
    now: Timestamp,
) -> rusqlite::Result<Result<Created, Clash>> {
    match rows::find_workflow(tx, &plan.id)?.map(|workflow| workflow.state) {
        None | Some(WorkflowState::Accepted) => {}
        Some(WorkflowState::Running) => {
            return Ok(Ok(Created::Running(rows::unclaimed(tx, &plan.id)?)));
        }
        Some(
            state @ (WorkflowState::Completed
            | WorkflowState::Failed
            | WorkflowState::Cancelled
            | WorkflowState::Expired),
        ) => return Ok(Ok(Created::Over(state))),
    }
    let is_task =
        tx.prepare_cached("SELECT 1 FROM tasks WHERE root = ?1 AND task = ''")?.exists([plan.id.as_str()])?;
    if is_task {
        return Ok(Err(Clash("a task on its own")));
    }
    insert_workflow(tx, plan, now)?;
    insert_tasks(tx, plan, now)?;

    let marked = tx.prepare_cached("DELETE FROM marks WHERE root = ?1")?.execute([plan.id.as_str()])? > 0;
    if marked {
        ending::cancel_workflow(tx, &plan.id, row_of(plan), now)?;
        return Ok(Ok(Created::Over(WorkflowState::Cancelled)));
    }
    if let Some(failure) = &plan.refused {
        let reason = serde_json::to_string(failure).map_err(|error| rows::unexpected(0, error))?;
        let state = Flow::of(tx, &plan.id, row_of(plan), now).refuse(&reason)?;
        return Ok(Ok(Created::Over(state)));
    }
    if plan.tasks.is_empty() {
        let state = Flow::of(tx, &plan.id, row_of(plan), now).close(false)?;
        return Ok(Ok(Created::Over(state)));
    }
    let ready = plan.tasks.iter().filter(|task| task.dependencies.is_empty());
    let released = ready.map(|task| Released { key: task.head.key.clone(), message: task.message.clone() });
    Ok(Ok(Created::Running(released.collect())))
}

fn row_of(plan: &Plan) -> Workflow {
    let total = i64::try_from(plan.tasks.len()).unwrap_or(i64::MAX);
    let state = WorkflowState::Running;
    Workflow { state, total, open: total, broken: 0, result_ttl: plan.result_ttl }
}

fn insert_workflow(tx: &Connection, plan: &Plan, now: Timestamp) -> rusqlite::Result<()> {
    let row = row_of(plan);
    let result_ttl = i64::try_from(row.result_ttl.as_millis()).unwrap_or(i64::MAX);
    tx.prepare_cached(
        "INSERT INTO workflows (id, name, state, total, open, result_ttl, created_at)
         VALUES (?1, ?2, 'running', ?3, ?3, ?4, ?5)
         ON CONFLICT (id) DO UPDATE SET name = ?2, state = 'running', total = ?3, open = ?3, result_ttl = ?4",
    )?
    .execute(params![plan.id.as_str(), plan.name, row.total, result_ttl, now.as_millis()])?;
    Ok(())
}

fn insert_tasks(tx: &Connection, plan: &Plan, now: Timestamp) -> rusqlite::Result<()> {
    let mut numbers = Vec::with_capacity(plan.tasks.len());
    for task in &plan.tasks {
        numbers.push(insert_task(tx, plan, task, now)?);
    }
    let mut edge =
        tx.prepare_cached("INSERT OR IGNORE INTO edges (dependency, dependent) VALUES (?1, ?2)")?;
    for (task, dependent) in plan.tasks.iter().zip(&numbers) {
        for index in &task.dependencies {
            let Some(dependency) = numbers.get(*index) else {
                let missing = Missing(format!("task {index}, which {} depends on", task.head.key));
                return Err(rows::unexpected(0, missing));
            };
            edge.execute([dependency, dependent])?;
        }
    }
    Ok(())
}

fn insert_task(tx: &Connection, plan: &Plan, task: &PlannedTask, now: Timestamp) -> rusqlite::Result<i64> {
    let head = &task.head;
    let state = if task.dependencies.is_empty() { TaskState::Queued } else { TaskState::Waiting };
    tx.prepare_cached(
        "INSERT INTO tasks (root, task, name, protocol, method, state, pending, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        plan.id.as_str(),
        head.key.id().as_str(),
        head.name,
        head.protocol,
        head.method,
        state.name(),
        i64::try_from(task.dependencies.len()).unwrap_or(i64::MAX),
        now.as_millis(),
    ])?;
    let n = tx.last_insert_rowid();
    let body: &[u8] = &task.message.body;
    tx.prepare_cached("INSERT INTO planned (task, address, priority, body) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![n, task.message.address.as_str(), task.message.priority, body])?;
    Ok(n)
}
