//! What has not ended.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::SqliteStore;
use super::read;
use super::rows;
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::store::{Message, OpenPage, OpenRoot, OpenWork, Released, StoreError};

/// Keeps the message of a task on its own that is open, until it ends.
pub(super) fn keep(tx: &Connection, key: &TaskKey, message: &Message) -> rusqlite::Result<()> {
    let Some(task) = rows::find_task(tx, key)?.filter(|task| !task.state.is_ended()) else { return Ok(()) };
    let is_kept = tx.prepare_cached("SELECT 1 FROM planned WHERE task = ?1")?.exists([task.n])?;
    if is_kept { Ok(()) } else { rows::keep_message(tx, task.n, message) }
}

#[async_trait]
impl OpenWork for SqliteStore {
    async fn open(&self, after: Option<&str>, limit: usize) -> Result<OpenPage, StoreError> {
        let after = after.unwrap_or_default().to_owned();
        let limit = limit.max(1);
        let read = move |tx: &Connection| page(tx, &after, limit);
        self.database.read("open", read).await.map_err(|error| self.failed("open", error))
    }

    async fn messages(&self, keys: &[TaskKey]) -> Result<Vec<Option<Released>>, StoreError> {
        let keys = keys.to_vec();
        let read = move |tx: &Connection| keys.iter().map(|key| message(tx, key)).collect();
        self.database.read("messages", read).await.map_err(|error| self.failed("messages", error))
    }
}

/// Roots in the order of their ids. Ids of tasks on their own and of workflows are of one kind.
fn page(tx: &Connection, after: &str, limit: usize) -> rusqlite::Result<OpenPage> {
    let rows: Vec<(Id, State, Timestamp)> = tx
        .prepare_cached(
            "SELECT * FROM (
                 SELECT id, 1, created_at, state FROM workflows WHERE id > ?1 ORDER BY id LIMIT ?2)
             UNION ALL SELECT * FROM (
                 SELECT root, 0, created_at, state FROM tasks
                 WHERE root > ?1 AND task = '' ORDER BY root LIMIT ?2)
             ORDER BY 1 LIMIT ?2",
        )?
        .query_map(params![after, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
            let state = match row.get(1)? {
                true => State::Workflow(rows::workflow_state(row, 3)?),
                false => State::Task(rows::task_state(row, 3)?),
            };
            Ok((rows::parsed(row, 0)?, state, Timestamp::from_millis(row.get(2)?)))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|(id, _, _)| id.to_string());
    let (mut roots, mut ended) = (Vec::new(), Vec::new());
    for (id, state, created_at) in rows {
        if let Some(how) = state.ended() {
            ended.push((id, how));
        } else if let State::Task(_) = state {
            let record = read::task(tx, &TaskKey::alone(id))?;
            roots.extend(record.map(|record| OpenRoot::Task { record: Box::new(record), created_at }));
        } else if state == State::Workflow(WorkflowState::Accepted) {
            let due = tx
                .prepare_cached("SELECT max(due) FROM delayed WHERE root = ?1")?
                .query_row([id.as_str()], |row| rows::time(row, 0))?;
            roots.push(OpenRoot::Accepted { id, created_at, due });
        } else {
            roots.push(OpenRoot::Running(id));
        }
    }
    Ok(OpenPage { roots, ended, next })
}

/// What a root is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Task(TaskState),
    Workflow(WorkflowState),
}

impl State {
    fn ended(self) -> Option<&'static str> {
        match self {
            State::Task(state) => state.is_ended().then(|| state.name()),
            State::Workflow(state) => state.is_ended().then(|| state.name()),
        }
    }
}

fn message(tx: &Connection, key: &TaskKey) -> rusqlite::Result<Option<Released>> {
    let task = rows::find_task(tx, key)?;
    let task = task.filter(|task| !task.state.is_ended() && task.state != TaskState::Waiting);
    let Some(task) = task else { return Ok(None) };
    let message = tx
        .prepare_cached("SELECT address, priority, body FROM planned WHERE task = ?1")?
        .query_row([task.n], |row| rows::message(row, 0))
        .optional()?;
    Ok(message.map(|message| Released { key: key.clone(), message, run: task.run }))
}
