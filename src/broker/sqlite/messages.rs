//! The steps over the tables of messages. Each is repeatable and touches nothing but the file.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use serde_json::Map;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::lanes;
use crate::broker::{Properties, Transit};
use crate::core::clock::Timestamp;
use crate::core::fairness::Turns;
use crate::sqlite::process::{self, Process};
use crate::topology::Queue;

/// At most so many messages become ready in one step.
const PROMOTED_MAX: i64 = 1_000;

/// A message on its way into the file.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) queue: String,
    pub(super) due: Option<Timestamp>,
    pub(super) root: Option<String>,
    pub(super) properties: Properties,
    pub(super) headers: Option<String>,
    pub(super) body: Bytes,
}

/// A delivered message.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) id: i64,
    rank: i64,
    pub(super) redelivered: bool,
    pub(super) properties: Properties,
    pub(super) body: Bytes,
}

/// What [`deliver`] wants.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) queue: String,
    pub(super) owner: i64,
    pub(super) room: usize,
    /// Only messages of this root.
    pub(super) scope: Option<String>,
    pub(super) now: Timestamp,
    /// Messages of ours whose settlement failed: they go back first.
    pub(super) orphans: Vec<i64>,
    /// Look also for what dead processes held, as this process.
    pub(super) reclaim: Option<Process>,
    /// The turns of the queue's lanes, where it has some.
    pub(super) turns: Option<Arc<Mutex<Turns>>>,
}

/// What came of a [`Wish`].
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) messages: Vec<Delivered>,
    /// When the next delayed message of any queue is due.
    pub(super) next_due: Option<Timestamp>,
    /// Queues that have something new to deliver.
    pub(super) news: Vec<String>,
}

/// The id of a declared queue.
pub(super) fn find_queue(tx: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    tx.prepare_cached("SELECT id FROM queues WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()
}

/// Remembers a queue.
pub(super) fn declare(tx: &Connection, name: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR IGNORE INTO queues (name) VALUES (?1)")?.execute([name])?;
    Ok(())
}

/// Puts all messages in, or none: then the name of the queue that does not exist is the answer.
pub(super) fn publish(tx: &Connection, messages: &[Incoming]) -> rusqlite::Result<Result<(), String>> {
    let mut queues: BTreeMap<&str, i64> = BTreeMap::new();
    for message in messages {
        if queues.contains_key(message.queue.as_str()) {
            continue;
        }
        match lanes::find_or_base(tx, &message.queue)? {
            Some(id) => queues.insert(&message.queue, id),
            None => return Ok(Err(message.queue.clone())),
        };
    }
    for message in messages {
        let queue = queues[message.queue.as_str()];
        insert(tx, queue, message)?;
    }
    Ok(Ok(()))
}

fn insert(tx: &Connection, queue: i64, message: &Incoming) -> rusqlite::Result<()> {
    let properties = &message.properties;
    let rank = -i64::from(properties.priority.unwrap_or(0));
    let body: &[u8] = &message.body;
    let due = message.due.map(Timestamp::as_millis);
    let mut values: Vec<&dyn ToSql> = vec![
        &queue,
        &rank,
        &message.root,
        &properties.message_id,
        &properties.priority,
        &properties.correlation_id,
        &properties.reply_to,
        &message.headers,
        &body,
    ];
    let sql = if due.is_some() {
        values.push(&due);
        "INSERT INTO delayed (queue, rank, root, message_id, priority, correlation_id, reply_to, headers,
             body, due) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
    } else {
        "INSERT INTO messages (queue, rank, root, message_id, priority, correlation_id, reply_to, headers,
             body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
    };
    tx.prepare_cached(sql)?.execute(values.as_slice())?;
    Ok(())
}

/// When the next delayed message of any queue is due.
fn next_due(tx: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    let due: Option<i64> =
        tx.prepare_cached("SELECT min(due) FROM delayed")?.query_row([], |row| row.get(0))?;
    Ok(due.map(Timestamp::from_millis))
}

/// Moves what is due to its queue, in the order of becoming due, and names the queues.
fn promote(tx: &Connection, now: Timestamp) -> rusqlite::Result<Vec<String>> {
    let now = now.as_millis();
    let news = tx
        .prepare_cached("SELECT name FROM queues WHERE id IN (SELECT queue FROM delayed WHERE due <= ?1)")?
        .query_map([now], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    tx.prepare_cached(
        "INSERT INTO messages (queue, rank, root, message_id, priority, correlation_id, reply_to, headers, body)
         SELECT queue, rank, root, message_id, priority, correlation_id, reply_to, headers, body
         FROM delayed WHERE due <= ?1 ORDER BY due, id LIMIT ?2",
    )?
    .execute(params![now, PROMOTED_MAX])?;
    tx.prepare_cached(
        "DELETE FROM delayed WHERE id IN (SELECT id FROM delayed WHERE due <= ?1 ORDER BY due, id LIMIT ?2)",
    )?
    .execute(params![now, PROMOTED_MAX])?;
    Ok(news)
}

/// Delivers up to `room` messages, the first in order.
pub(super) fn deliver(tx: &Connection, wish: &Wish) -> rusqlite::Result<Batch> {
    let mut news = Vec::new();
    if !wish.orphans.is_empty() {
        release(tx, wish.owner, &wish.orphans)?;
        news.push(wish.queue.clone());
    }
    if let Some(me) = &wish.reclaim {
        process::beat(tx, wish.owner, wish.now)?;
        news.extend(reclaim(tx, me, wish.now)?);
    }
    let mut due = next_due(tx)?;
    if due.is_some_and(|due| due <= wish.now) {
        news.extend(promote(tx, wish.now)?);
        due = next_due(tx)?;
    }
    let messages = match (&wish.turns, find_queue(tx, &wish.queue)?) {
        (Some(turns), _) => lanes::take(tx, wish, turns)?,
        (None, Some(queue)) => take(tx, wish, queue, wish.room)?,
        (None, None) => Vec::new(),
    };
    Ok(Batch { messages, next_due: due, news })
}

/// Delivers up to `room` messages of this queue, the first in order.
pub(super) fn take(
    tx: &Connection,
    wish: &Wish,
    queue: i64,
    room: usize,
) -> rusqlite::Result<Vec<Delivered>> {
    let sql = if wish.scope.is_some() {
        "UPDATE messages SET owner = ?1, deliveries = deliveries + 1 WHERE id IN (
             SELECT id FROM messages WHERE queue = ?2
             AND owner IS NULL AND root = ?4 ORDER BY rank, id LIMIT ?3)
         RETURNING id, rank, deliveries, message_id, priority, correlation_id, reply_to, headers, body"
    } else {
        "UPDATE messages SET owner = ?1, deliveries = deliveries + 1 WHERE id IN (
             SELECT id FROM messages WHERE queue = ?2
             AND owner IS NULL AND ?4 IS NULL ORDER BY rank, id LIMIT ?3)
         RETURNING id, rank, deliveries, message_id, priority, correlation_id, reply_to, headers, body"
    };
    let room = i64::try_from(room).unwrap_or(i64::MAX);
    let mut messages = tx
        .prepare_cached(sql)?
        .query_map(params![wish.owner, queue, room, wish.scope], read)?
        .collect::<rusqlite::Result<Vec<Delivered>>>()?;
    // RETURNING promises no order.
    messages.sort_by_key(|message| (message.rank, message.id));
    Ok(messages)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Delivered> {
    let deliveries: i64 = row.get(2)?;
    let headers: Option<String> = row.get(7)?;
    let headers = match headers {
        Some(text) => serde_json::from_str(&text).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(7, rusqlite::types::Type::Text, Box::new(error))
        })?,
        None => Map::new(),
    };
    let mut properties = Properties {
        message_id: row.get(3)?,
        priority: row.get(4)?,
        correlation_id: row.get(5)?,
        reply_to: row.get(6)?,
        ..Properties::default()
    };
    properties.set_all_headers(headers);
    let body: Vec<u8> = row.get(8)?;
    Ok(Delivered {
        id: row.get(0)?,
        rank: row.get(1)?,
        redelivered: deliveries > 1,
        properties,
        body: body.into(),
    })
}

/// Forgets a message that is dealt with. False if `owner` does not have it any more.
pub(super) fn remove(tx: &Connection, owner: i64, id: i64) -> rusqlite::Result<bool> {
    let changed =
        tx.prepare_cached("DELETE FROM messages WHERE id = ?1 AND owner = ?2")?.execute([id, owner])?;
    Ok(changed > 0)
}

/// Puts messages back at their places. Gives how many of them `owner` still had.
pub(super) fn release(tx: &Connection, owner: i64, ids: &[i64]) -> rusqlite::Result<usize> {
    let mut statement = tx.prepare_cached("UPDATE messages SET owner = NULL WHERE id = ?1 AND owner = ?2")?;
    let mut released = 0;
    for id in ids {
        released += statement.execute([*id, owner])?;
    }
    Ok(released)
}

/// Frees everything that dead processes held, and names the queues that it went back to.
pub(super) fn reclaim(tx: &Connection, me: &Process, now: Timestamp) -> rusqlite::Result<Vec<String>> {
    let mut queues = Vec::new();
    for dead in process::dead(tx, me, now)? {
        queues.extend(release_all(tx, dead)?);
        process::forget(tx, dead)?;
    }
    Ok(queues)
}

/// Frees everything that `owner` held.
pub(super) fn release_all(tx: &Connection, owner: i64) -> rusqlite::Result<Vec<String>> {
    let queues = tx
        .prepare_cached("SELECT name FROM queues WHERE id IN (SELECT queue FROM messages WHERE owner = ?1)")?
        .query_map([owner], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    tx.prepare_cached("UPDATE messages SET owner = NULL WHERE owner = ?1")?.execute([owner])?;
    tx.prepare_cached("DELETE FROM consumers WHERE owner = ?1")?.execute([owner])?;
    Ok(queues)
}

/// Notes a consumer; `None` if the queue does not exist.
pub(super) fn enter(tx: &Connection, owner: i64, queue: &str) -> rusqlite::Result<Option<i64>> {
    let Some(queue) = find_queue(tx, queue)? else { return Ok(None) };
    tx.prepare_cached("INSERT INTO consumers (owner, queue) VALUES (?1, ?2)")?.execute([owner, queue])?;
    Ok(Some(tx.last_insert_rowid()))
}

/// Forgets a consumer, and puts back what it had not given out.
pub(super) fn leave(tx: &Connection, consumer: i64, owner: i64, ids: &[i64]) -> rusqlite::Result<()> {
    release(tx, owner, ids)?;
    tx.prepare_cached("DELETE FROM consumers WHERE id = ?1")?.execute([consumer])?;
    Ok(())
}

/// Ready messages, those that are due but not moved yet included, and consumers.
pub(super) fn depth(tx: &Connection, queue: i64, now: Timestamp) -> rusqlite::Result<(i64, i64)> {
    tx.prepare_cached(
        "SELECT (SELECT count(*) FROM messages WHERE queue = ?1 AND owner IS NULL)
              + (SELECT count(*) FROM delayed WHERE due <= ?2 AND queue = ?1),
                (SELECT count(*) FROM consumers WHERE queue = ?1)",
    )?
    .query_row([queue, now.as_millis()], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// What is delayed beyond `now`, by queue, and what is delivered to anybody.
pub(super) fn transit(tx: &Connection, now: Timestamp) -> rusqlite::Result<Transit> {
    let mut counted = tx.prepare_cached(
        "SELECT q.name, count(*) FROM delayed d JOIN queues q ON q.id = d.queue WHERE d.due > ?1 GROUP BY q.name",
    )?;
    let rows = counted.query_map([now.as_millis()], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?.unsigned_abs()))
    })?;
    let mut delayed: BTreeMap<String, u64> = BTreeMap::new();
    for row in rows {
        let (name, count) = row?;
        let name = Queue::from_name(&name).map_or(name, |queue| queue.name());
        *delayed.entry(name).or_default() += count;
    }
    let held: i64 = tx
        .prepare_cached("SELECT count(*) FROM messages WHERE owner IS NOT NULL")?
        .query_row([], |row| row.get(0))?;
    Ok(Transit { delayed: Some(delayed), unacknowledged: Some(held.unsigned_abs()) })
}

/// Removes every ready message and tells how many.
pub(super) fn purge(tx: &Connection, queue: i64, now: Timestamp) -> rusqlite::Result<usize> {
    let ready =
        tx.prepare_cached("DELETE FROM messages WHERE queue = ?1 AND owner IS NULL")?.execute([queue])?;
    let due = tx
        .prepare_cached("DELETE FROM delayed WHERE due <= ?2 AND queue = ?1")?
        .execute([queue, now.as_millis()])?;
    Ok(ready + due)
}
