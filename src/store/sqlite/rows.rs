//! Reading rows into our types, and the questions that several steps ask.

use bytes::Bytes;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::cmp::Reverse;
use std::error::Error as StdError;
use std::str::FromStr;
use std::time::Duration;

use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::store::{Fence, Message, Released};
use crate::topology::Address;
use crate::topology::delay::DELAY_MAX;
use crate::wire::record::Head;

/// A week: the least time that the record of an end is kept.
const TOMBSTONE_MIN: Duration = Duration::from_secs(7 * 24 * 3600);

/// The id of a step is already that of something else: of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clash(pub(super) &'static str);

/// What a step needs to know of a task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) n: i64,
    pub(super) state: TaskState,
    pub(super) attempts: u32,
    pub(super) crashes: u32,
    pub(super) fence: Fence,
    pub(super) session: Option<String>,
    pub(super) due: Option<Timestamp>,
    pub(super) started_at: Option<Timestamp>,
    /// The last of its attempts goes on after its children.
    pub(super) resumes: bool,
    /// The number of the task that has planned it.
    pub(super) parent: Option<i64>,
    pub(super) tolerated: bool,
    /// The run that its root is in.
    pub(super) run: u32,
}

/// What a step needs to know of a workflow.
#[derive(Debug)]
pub(super) struct Workflow {
    pub(super) state: WorkflowState,
    pub(super) open: i64,
    pub(super) broken: i64,
    pub(super) ends: i64,
    pub(super) max_parallel: Option<i64>,
    pub(super) active: i64,
    pub(super) run: u32,
    pub(super) floor: i64,
    pub(super) result_ttl: Duration,
}

/// When results go and when the last traces go, for something that ends now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cleaning {
    pub(super) results_at: i64,
    pub(super) forget_at: i64,
}

impl Cleaning {
    /// The record of an end is kept seven times as long as results, and at least a week.
    pub(super) fn after(now: Timestamp, result_ttl: Duration) -> Cleaning {
        let tombstone_ttl = result_ttl.saturating_mul(7).max(TOMBSTONE_MIN);
        Cleaning {
            results_at: now.after(result_ttl).as_millis(),
            forget_at: now.after(tombstone_ttl).as_millis(),
        }
    }

    /// For what ends before its message has come: the broker may keep that back for so much longer.
    pub(super) fn kept_back(now: Timestamp, result_ttl: Duration) -> Cleaning {
        let cleaning = Cleaning::after(now, result_ttl);
        Cleaning { forget_at: Cleaning::after(now.after(DELAY_MAX), result_ttl).forget_at, ..cleaning }
    }
}

/// The column of a workflow's task that has its id, empty for a task on its own.
pub(super) fn task_column(key: &TaskKey) -> &str {
    key.task.as_ref().map_or("", Id::as_str)
}

pub(super) fn find_task(tx: &Connection, key: &TaskKey) -> rusqlite::Result<Option<Task>> {
    tx.prepare_cached(
        "SELECT n, state, attempts, crashes, fence, session, due, started_at, resumes, parent, tolerated,
             coalesce((SELECT w.run FROM workflows w WHERE w.id = tasks.root), run)
         FROM tasks WHERE root = ?1 AND task = ?2",
    )?
    .query_row(params![key.root.as_str(), task_column(key)], |row| {
        Ok(Task {
            n: row.get(0)?,
            state: task_state(row, 1)?,
            attempts: row.get(2)?,
            crashes: row.get(3)?,
            fence: fence(row, 4)?,
            session: row.get(5)?,
            due: time(row, 6)?,
            started_at: time(row, 7)?,
            resumes: row.get(8)?,
            parent: row.get(9)?,
            tolerated: row.get(10)?,
            run: row.get(11)?,
        })
    })
    .optional()
}

pub(super) fn find_workflow(tx: &Connection, id: &Id) -> rusqlite::Result<Option<Workflow>> {
    tx.prepare_cached(
        "SELECT state, open, broken, ends, max_parallel, active, run, floor, result_ttl
         FROM workflows WHERE id = ?1",
    )?
    .query_row([id.as_str()], |row| {
        Ok(Workflow {
            state: workflow_state(row, 0)?,
            open: row.get(1)?,
            broken: row.get(2)?,
            ends: row.get(3)?,
            max_parallel: row.get(4)?,
            active: row.get(5)?,
            run: row.get(6)?,
            floor: row.get(7)?,
            result_ttl: Duration::from_millis(row.get::<_, i64>(8)?.unsigned_abs()),
        })
    })
    .optional()
}

/// Whether somebody cancelled `root` before anybody had seen it.
pub(super) fn is_marked(tx: &Connection, root: &Id) -> rusqlite::Result<bool> {
    tx.prepare_cached("SELECT 1 FROM marks WHERE root = ?1")?.exists([root.as_str()])
}

const RELEASED_COLUMNS: &str =
    "t.task, p.address, p.priority, p.body, t.turn, (SELECT w.run FROM workflows w WHERE w.id = t.root)";

/// What the steps of task `n` have released and nobody has claimed.
pub(super) fn released_by(tx: &Connection, workflow: &Id, n: i64) -> rusqlite::Result<Vec<Released>> {
    tx.prepare_cached(&format!(
        "SELECT {RELEASED_COLUMNS} FROM tasks t JOIN planned p ON p.task = t.n
         WHERE t.released_by = ?1 AND t.released_by > 0 AND t.state = 'queued' ORDER BY t.n"
    ))?
    .query_map([n], |row| released(workflow, row))?
    .collect::<rusqlite::Result<_>>()
    .map(in_turn)
}

/// What has been released of a workflow, by whatever step, and nobody has claimed.
pub(super) fn unclaimed(tx: &Connection, workflow: &Id) -> rusqlite::Result<Vec<Released>> {
    tx.prepare_cached(&format!(
        "SELECT {RELEASED_COLUMNS} FROM tasks t JOIN planned p ON p.task = t.n
         WHERE t.root = ?1 AND t.task <> '' AND t.state = 'queued' AND t.released_by IS NOT NULL ORDER BY t.n"
    ))?
    .query_map([workflow.as_str()], |row| released(workflow, row))?
    .collect::<rusqlite::Result<_>>()
    .map(in_turn)
}

/// The children of task `n` that have been released, by whatever step, and nobody has claimed; and what its
/// own step has released beside them.
pub(super) fn unclaimed_children(tx: &Connection, workflow: &Id, n: i64) -> rusqlite::Result<Vec<Released>> {
    tx.prepare_cached(&format!(
        "SELECT {RELEASED_COLUMNS} FROM tasks t JOIN planned p ON p.task = t.n
         WHERE t.n IN (SELECT n FROM tasks WHERE parent = ?1
                       UNION SELECT n FROM tasks WHERE released_by = ?1 AND released_by > 0)
           AND t.state = 'queued' AND t.released_by IS NOT NULL ORDER BY t.n"
    ))?
    .query_map([n], |row| released(workflow, row))?
    .collect::<rusqlite::Result<_>>()
    .map(in_turn)
}

/// In the order in which they were released: what had to wait for its turn after what had not.
fn in_turn(mut released: Vec<(Option<i64>, Released)>) -> Vec<Released> {
    released.sort_by_key(|(turn, task)| turn.map(|turn| (Reverse(task.message.priority), turn)));
    released.into_iter().map(|(_, task)| task).collect()
}

fn released(workflow: &Id, row: &Row<'_>) -> rusqlite::Result<(Option<i64>, Released)> {
    let key = TaskKey::within(workflow.clone(), parsed(row, 0)?);
    Ok((row.get(4)?, Released { key, message: message(row, 1)?, run: row.get(5)? }))
}

/// Reads `address, priority, body` from the column `first` on.
pub(super) fn message(row: &Row<'_>, first: usize) -> rusqlite::Result<Message> {
    let address: String = row.get(first)?;
    let body: Vec<u8> = row.get(first + 2)?;
    Ok(Message {
        address: Address::parse(&address).map_err(|error| unexpected(first, error))?,
        priority: row.get(first + 1)?,
        body: Bytes::from(body),
    })
}

pub(super) fn keep_message(tx: &Connection, n: i64, message: &Message) -> rusqlite::Result<()> {
    let body: &[u8] = &message.body;
    tx.prepare_cached(
        "INSERT OR REPLACE INTO planned (task, address, priority, body) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![n, message.address.as_str(), message.priority, body])?;
    Ok(())
}

/// The tasks that task `n` has planned, in their order.
pub(super) fn children(tx: &Connection, n: i64) -> rusqlite::Result<Vec<Id>> {
    tx.prepare_cached("SELECT task FROM tasks WHERE parent = ?1 ORDER BY n")?
        .query_map([n], |row| parsed(row, 0))?
        .collect()
}

/// The attempts of a task that have ended, oldest first.
pub(super) fn history(tx: &Connection, n: i64) -> rusqlite::Result<Vec<String>> {
    tx.prepare_cached("SELECT entry FROM history WHERE task = ?1 ORDER BY fence")?
        .query_map([n], |row| row.get(0))?
        .collect()
}

/// Reads `name, protocol, method` from the column `first` on.
pub(super) fn head(key: TaskKey, row: &Row<'_>, first: usize) -> rusqlite::Result<Head> {
    Ok(Head { key, name: row.get(first)?, protocol: row.get(first + 1)?, method: row.get(first + 2)? })
}

/// A text column that must have a certain form.
pub(super) fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: StdError + Send + Sync + 'static,
{
    row.get_ref(column)?.as_str()?.parse().map_err(|error| unexpected(column, error))
}

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis))
}

pub(super) fn fence(row: &Row<'_>, column: usize) -> rusqlite::Result<Fence> {
    Ok(Fence(row.get::<_, i64>(column)?.unsigned_abs()))
}

/// As SQLite has it. Fences count leases of one task, so they stay far below the limit.
pub(super) fn fence_column(fence: Fence) -> i64 {
    i64::try_from(fence.0).unwrap_or(i64::MAX)
}

pub(super) fn task_state(row: &Row<'_>, column: usize) -> rusqlite::Result<TaskState> {
    let name = row.get_ref(column)?.as_str()?;
    TaskState::parse(name).ok_or_else(|| unexpected(column, NoState(name.to_owned())))
}

pub(super) fn workflow_state(row: &Row<'_>, column: usize) -> rusqlite::Result<WorkflowState> {
    let name = row.get_ref(column)?.as_str()?;
    WorkflowState::parse(name).ok_or_else(|| unexpected(column, NoState(name.to_owned())))
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no state")]
struct NoState(String);

/// The file holds something that we did not write.
pub(super) fn unexpected(column: usize, error: impl StdError + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

/// A row that another one points to is missing.
#[derive(Debug, thiserror::Error)]
#[error("the record of {0} is missing")]
pub(super) struct Missing(pub(super) String);

/// A step that cannot be made, whatever the file holds.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Wrong(pub(super) String);
