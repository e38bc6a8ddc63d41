//! What running tasks give: a row for each piece.

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::SqliteStore;
use super::rows::{self, Wrong};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::output::{OUTPUT_BYTES_MAX, Piece, Stream};
use crate::core::state::TaskState;
use crate::store::{
    Appended, ENTRY_BYTES, Given, Lease, OUTPUT_TTL, OutputEntry, Outputs, Position, ROOT_BYTES_MAX,
    StoreError,
};

const TRUNCATED: &str = "truncated";
const END: &str = "end";

/// In `tasks.given`: no more of the attempt is kept.
const FULL: i64 = -1;

#[async_trait]
impl Outputs for SqliteStore {
    async fn append(&self, lease: &Lease, pieces: &[Piece], now: Timestamp) -> Result<Appended, StoreError> {
        let (topic, database) = (topic(&lease.key.root), self.database.clone());
        let (lease, pieces) = (lease.clone(), pieces.to_vec());
        let step = move |tx: &Connection| append(tx, &lease, &pieces, now);
        let tell = move |appended: &Result<Appended, _>| {
            if appended.is_ok() {
                database.touch(&topic);
            }
        };
        let appended = self.database.write_then("append", step, tell).await;
        appended.map_err(|error| self.failed("append", error))
    }

    async fn output(&self, root: &Id, after: Position, limit: usize) -> Result<Vec<OutputEntry>, StoreError> {
        let (root, now) = (root.clone(), self.clock.now());
        let limit = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
        let step = move |tx: &Connection| read(tx, &root, after, limit, now);
        self.database.read("output", step).await.map_err(|error| self.failed("output", error))
    }

    async fn watch_output(&self, root: &Id) -> Result<BoxStream<'static, ()>, StoreError> {
        let heard = (self.database.follow(&topic(root)), self.database.foreign());
        let news = stream::unfold(heard, async |(mut topic, mut foreign)| {
            tokio::select! {
                () = topic.changed() => {}
                () = foreign.changed() => {}
            }
            Some(((), (topic, foreign)))
        });
        Ok(news.boxed())
    }
}

fn topic(root: &Id) -> String {
    format!("output:{root}")
}

fn append(tx: &Connection, lease: &Lease, pieces: &[Piece], now: Timestamp) -> rusqlite::Result<Appended> {
    let Some(task) = rows::find_task(tx, &lease.key)? else { return Ok(Appended::Lost) };
    if task.fence != lease.fence || task.state != TaskState::Running {
        return Ok(Appended::Lost);
    }
    let mut at = match given(tx, task.n, lease)? {
        Some(FULL) => return Ok(Appended::Full),
        Some(at) => u64::try_from(at).unwrap_or_default(),
        None => 0,
    };
    let mut appended = Appended::Written;
    for piece in pieces {
        if piece.offset >= OUTPUT_BYTES_MAX {
            write(tx, lease, TRUNCATED, 0, "", now)?;
            appended = Appended::Full;
            break;
        }
        // What begins before is a repeat.
        if piece.offset >= at {
            write(tx, lease, piece.stream.name(), whole(piece.offset), &piece.text, now)?;
            at = piece.end();
        }
    }
    let given = if appended == Appended::Full { FULL } else { whole(at) };
    tx.prepare_cached("UPDATE tasks SET given_by = ?2, given = ?3 WHERE n = ?1")?.execute(params![
        task.n,
        rows::fence_column(lease.fence),
        given
    ])?;
    let root = lease.key.root.as_str();
    tx.prepare_cached("DELETE FROM output WHERE root = ?1 AND sum <= ?2")?
        .execute(params![root, sum(tx, root)? - whole(ROOT_BYTES_MAX)])?;
    Ok(appended)
}

/// Tells that an attempt has ended, if it has given anything. `n` is its task.
pub(super) fn end(
    tx: &Connection,
    n: i64,
    lease: &Lease,
    state: TaskState,
    now: Timestamp,
) -> rusqlite::Result<()> {
    if given(tx, n, lease)?.is_some() {
        write(tx, lease, END, 0, state.name(), now)?;
    }
    Ok(())
}

/// Where the last piece ends that was written for this lease; `None`: it has given nothing.
fn given(tx: &Connection, n: i64, lease: &Lease) -> rusqlite::Result<Option<i64>> {
    tx.prepare_cached("SELECT given FROM tasks WHERE n = ?1 AND given_by = ?2")?
        .query_row(params![n, rows::fence_column(lease.fence)], |row| row.get(0))
        .optional()
}

fn write(
    tx: &Connection,
    lease: &Lease,
    kind: &str,
    at: i64,
    text: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let root = lease.key.root.as_str();
    let sum = sum(tx, root)? + whole(ENTRY_BYTES) + whole(text.len() as u64);
    let forget_at = now.after(OUTPUT_TTL).as_millis();
    let task = rows::task_column(&lease.key);
    tx.prepare_cached(
        "INSERT INTO output (root, task, attempt, fence, kind, at, text, sum, forget_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        root,
        task,
        lease.attempt,
        rows::fence_column(lease.fence),
        kind,
        at,
        text,
        sum,
        forget_at
    ])?;
    Ok(())
}

/// What all entries of a root have counted so far, also those that are gone.
fn sum(tx: &Connection, root: &str) -> rusqlite::Result<i64> {
    let last = tx
        .prepare_cached("SELECT sum FROM output WHERE root = ?1 ORDER BY seq DESC LIMIT 1")?
        .query_row([root], |row| row.get(0))
        .optional()?;
    Ok(last.unwrap_or(0))
}

fn read(
    tx: &Connection,
    root: &Id,
    after: Position,
    limit: i64,
    now: Timestamp,
) -> rusqlite::Result<Vec<OutputEntry>> {
    tx.prepare_cached(
        "SELECT seq, task, attempt, fence, kind, at, text FROM output
         WHERE root = ?1 AND seq > ?2 AND forget_at > ?3 ORDER BY seq LIMIT ?4",
    )?
    .query_map(params![root.as_str(), whole(after.high), now.as_millis(), limit], |row| entry(root, row))?
    .collect()
}

fn entry(root: &Id, row: &Row<'_>) -> rusqlite::Result<OutputEntry> {
    let (seq, offset): (i64, i64) = (row.get(0)?, row.get(5)?);
    let (task, kind, text): (String, String, String) = (row.get(1)?, row.get(4)?, row.get(6)?);
    let task = if task.is_empty() { None } else { Some(rows::parsed(row, 1)?) };
    let what = match (kind.as_str(), Stream::parse(&kind)) {
        (_, Some(stream)) => Given::Piece(Piece { stream, offset: offset.unsigned_abs(), text }),
        (END, None) => Given::Ended(text),
        (TRUNCATED, None) => Given::Truncated,
        (_, None) => return Err(rows::unexpected(4, Wrong(format!("{kind:?} is no kind of output")))),
    };
    Ok(OutputEntry {
        position: Position { high: seq.unsigned_abs(), low: 0 },
        key: TaskKey { root: root.clone(), task },
        attempt: row.get(2)?,
        fence: rows::fence(row, 3)?,
        what,
    })
}

/// SQLite's numbers have a sign; none of these comes near.
fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
