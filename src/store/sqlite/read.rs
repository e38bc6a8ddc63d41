//! Reading: records, documents, the list.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::HashMap;

use super::finish::without_result;
use super::plant::otherwise;
use super::rows;
use crate::core::clock::Timestamp;
use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::core::state::TaskState;
use crate::store::{Filter, Summary, TaskRecord, WorkflowRecord};
use crate::wire::record;

const TASK_COLUMNS: &str = "n, state, attempts, crashes, session, started_at, ended_at, due, name, protocol, \
    method, task, tolerated, parent";

pub(super) fn task(tx: &Connection, key: &TaskKey) -> rusqlite::Result<Option<TaskRecord>> {
    tx.prepare_cached(&format!("SELECT {TASK_COLUMNS} FROM tasks WHERE root = ?1 AND task = ?2"))?
        .query_row([key.root.as_str(), rows::task_column(key)], |row| task_record(tx, key.clone(), row))
        .optional()
}

pub(super) fn workflow(tx: &Connection, id: &Id) -> rusqlite::Result<Option<WorkflowRecord>> {
    let record = tx
        .prepare_cached("SELECT name, state, created_at, ended_at FROM workflows WHERE id = ?1")?
        .query_row([id.as_str()], |row| {
            Ok(WorkflowRecord {
                id: id.clone(),
                name: row.get(0)?,
                state: rows::workflow_state(row, 1)?,
                created_at: Timestamp::from_millis(row.get(2)?),
                ended_at: rows::time(row, 3)?,
                tasks: Vec::new(),
            })
        })
        .optional()?;
    let Some(mut record) = record else { return Ok(None) };
    let tasks: Vec<(i64, Option<i64>, TaskRecord)> = tx
        .prepare_cached(&format!(
            "SELECT {TASK_COLUMNS} FROM tasks WHERE root = ?1 AND task <> '' ORDER BY n"
        ))?
        .query_map([id.as_str()], |row| {
            let task = task_record(tx, TaskKey::within(id.clone(), rows::parsed(row, 11)?), row)?;
            Ok((row.get(0)?, row.get(13)?, task))
        })?
        .collect::<rusqlite::Result<_>>()?;
    record.tasks = children_after_parents(tasks);
    Ok(Some(record))
}

/// `tasks` are numbered and name their parents; brothers and sisters stay in their order.
fn children_after_parents(tasks: Vec<(i64, Option<i64>, TaskRecord)>) -> Vec<TaskRecord> {
    let mut children: HashMap<Option<i64>, Vec<(i64, TaskRecord)>> = HashMap::new();
    for (n, parent, task) in tasks.into_iter().rev() {
        children.entry(parent).or_default().push((n, task));
    }
    // The next one is the last.
    let mut ahead = children.remove(&None).unwrap_or_default();
    let mut ordered = Vec::new();
    while let Some((n, task)) = ahead.pop() {
        ordered.push(task);
        ahead.extend(children.remove(&Some(n)).unwrap_or_default());
    }
    ordered
}

fn task_record(tx: &Connection, key: TaskKey, row: &Row<'_>) -> rusqlite::Result<TaskRecord> {
    let n: i64 = row.get(0)?;
    let state = rows::task_state(row, 1)?;
    let is_running = state == TaskState::Running;
    let dependencies = tx
        .prepare_cached(
            "SELECT t.task, e.otherwise FROM edges e JOIN tasks t ON t.n = e.dependency
             WHERE e.dependent = ?1 ORDER BY e.dependency",
        )?
        .query_map([n], |row| Ok((rows::parsed(row, 0)?, otherwise(row.get(1)?))))?
        .collect::<rusqlite::Result<_>>()?;
    let parent = match row.get::<_, Option<i64>>(13)? {
        Some(parent) => tx
            .prepare_cached("SELECT task FROM tasks WHERE n = ?1")?
            .query_row([parent], |row| rows::parsed(row, 0))
            .optional()?,
        None => None,
    };
    Ok(TaskRecord {
        head: rows::head(key, row, 8)?,
        state,
        attempts: row.get(2)?,
        crashes: row.get(3)?,
        session: if is_running { Some(rows::parsed(row, 4)?) } else { None },
        started_at: rows::time(row, 5)?,
        ended_at: rows::time(row, 6)?,
        due: rows::time(row, 7)?.filter(|_| state == TaskState::Delayed),
        history: rows::history(tx, n)?,
        dependencies,
        parent,
        tolerated: row.get(12)?,
    })
}

/// A task's document while it exists: its own TTL counts, or its workflow's.
pub(super) fn result(tx: &Connection, key: &TaskKey, now: Timestamp) -> rusqlite::Result<Option<Bytes>> {
    let document: Option<Vec<u8>> = tx
        .prepare_cached(
            "SELECT r.document FROM tasks t JOIN results r ON r.task = t.n
             WHERE t.root = ?1 AND t.task = ?2 AND r.kept = 1 AND ?3 < coalesce(t.clean_at,
                 (SELECT clean_at FROM workflows WHERE id = ?1 AND ?2 <> ''), 9223372036854775807)",
        )?
        .query_row(params![key.root.as_str(), rows::task_column(key), now.as_millis()], |row| row.get(0))
        .optional()?;
    Ok(document.map(Bytes::from))
}

pub(super) fn results(
    tx: &Connection,
    root: &Id,
    tasks: &[Id],
    now: Timestamp,
) -> rusqlite::Result<Vec<Option<Bytes>>> {
    tasks.iter().map(|task| result(tx, &TaskKey::within(root.clone(), task.clone()), now)).collect()
}

/// The document of a task on its own or of a whole workflow while it exists.
pub(super) fn outcome(
    tx: &Connection,
    root: &Id,
    bytes_max: u64,
    now: Timestamp,
) -> rusqlite::Result<Option<Bytes>> {
    if let Some(document) = result(tx, &TaskKey::alone(root.clone()), now)? {
        return Ok(Some(document));
    }
    let opening = tx
        .prepare_cached(
            "SELECT name, state, created_at, ended_at, error FROM workflows
             WHERE id = ?1 AND ended_at IS NOT NULL AND ?2 < clean_at AND clean_at < forget_at",
        )?
        .query_row(params![root.as_str(), now.as_millis()], |row| {
            let (name, state): (String, _) = (row.get(0)?, rows::workflow_state(row, 1)?);
            let created_at = Timestamp::from_millis(row.get(2)?);
            let ended_at = Timestamp::from_millis(row.get(3)?);
            let error = refusal(row, 4)?.or_else(|| record::workflow_failure(state));
            let status = record::workflow_status(state, created_at, ended_at, error.as_ref());
            Ok(record::workflow_open(root, &name) + &status)
        })
        .optional()?;
    let Some(mut text) = opening.map(String::into_bytes) else { return Ok(None) };
    text.extend_from_slice(b"\"tasks\":[");
    for (at, document) in documents(tx, root, bytes_max)?.iter().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        text.extend_from_slice(document);
    }
    text.extend_from_slice(b"]}");
    Ok(Some(Bytes::from(text)))
}

/// Why a workflow was refused, if it was.
fn refusal(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Failure>> {
    let Some(text) = row.get::<_, Option<String>>(column)? else { return Ok(None) };
    let value = serde_json::from_str(&text).map_err(|error| rows::unexpected(column, error))?;
    Ok(Failure::from_json(&value))
}

/// The documents of a workflow's tasks in the order of the file, without children: whole, without results, or head and status
/// only, the fullest that stays within `bytes_max`.
fn documents(tx: &Connection, workflow: &Id, bytes_max: u64) -> rusqlite::Result<Vec<Vec<u8>>> {
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let whole: i64 = tx
        .prepare_cached(
            "SELECT coalesce(sum(length(r.document)), 0) FROM tasks t JOIN results r ON r.task = t.n
             WHERE t.root = ?1 AND t.task <> '' AND t.parent IS NULL",
        )?
        .query_row([workflow.as_str()], |row| row.get(0))?;
    let cut = usize::try_from(whole).unwrap_or(usize::MAX) > bytes_max;
    let tasks: Vec<(i64, String)> = tx
        .prepare_cached(&format!(
            "SELECT {TASK_COLUMNS} FROM tasks WHERE root = ?1 AND task <> '' AND parent IS NULL ORDER BY n"
        ))?
        .query_map([workflow.as_str()], |row| Ok((row.get(0)?, least(workflow, row)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut read = tx.prepare_cached("SELECT document FROM results WHERE task = ?1")?;
    let (mut documents, mut bytes) = (Vec::with_capacity(tasks.len()), 0_usize);
    for (n, least) in &tasks {
        let document: Option<Vec<u8>> = read.query_row([n], |row| row.get(0)).optional()?;
        let document = match document {
            Some(document) if cut => without_result(&document),
            Some(document) => document,
            None => least.clone().into_bytes(),
        };
        bytes += document.len();
        if cut && bytes > bytes_max {
            return Ok(tasks.into_iter().map(|(_, least)| least.into_bytes()).collect());
        }
        documents.push(document);
    }
    Ok(documents)
}

/// The least that is said of a task in its workflow's document.
fn least(workflow: &Id, row: &Row<'_>) -> rusqlite::Result<String> {
    let head = rows::head(TaskKey::within(workflow.clone(), rows::parsed(row, 11)?), row, 8)?;
    let state = rows::task_state(row, 1)?;
    Ok(format!(r#"{},"status":"{state}","result":{}"#, head.open(), record::RESULT_OMITTED))
}

/// Newest first.
pub(super) fn list(tx: &Connection, filter: &Filter) -> rusqlite::Result<Vec<Summary>> {
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    tx.prepare_cached(
        "SELECT * FROM (
             SELECT id, 1, name, '', state, created_at, ended_at FROM workflows
             WHERE ?1 IS NULL OR state = ?1 ORDER BY created_at DESC, id LIMIT ?2)
         UNION ALL SELECT * FROM (
             SELECT root, 0, name, protocol || ' ' || method, state, created_at, ended_at FROM tasks
             WHERE task = '' AND (?1 IS NULL OR state = ?1) ORDER BY created_at DESC, root LIMIT ?2)
         ORDER BY 6 DESC, 1 LIMIT ?2",
    )?
    .query_map(params![filter.state, limit], |row| {
        Ok(Summary {
            id: rows::parsed(row, 0)?,
            is_workflow: row.get(1)?,
            name: row.get(2)?,
            what: row.get(3)?,
            state: row.get(4)?,
            created_at: Timestamp::from_millis(row.get(5)?),
            ended_at: rows::time(row, 6)?,
        })
    })?
    .collect()
}
