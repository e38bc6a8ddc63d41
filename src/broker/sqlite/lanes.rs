//! Lanes in the file: queues like any other, of which a protocol has several (`topology::lane`).
//!
//! One request of a consumer is one step, so nothing is held that may not run: the step counts what waits in each lane,
//! deals the room among them by their turns, and takes so many of each. Lanes that are no longer configured are taken
//! from like any other, because it is the file that says which there are.

use rusqlite::{Connection, params};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::messages::{self, Delivered, Wish};
use crate::core::clock::Timestamp;
use crate::core::fairness::Turns;
use crate::topology::lane::{self, turn_of};
use crate::topology::{Queue, Topology};

/// The id of a queue; of a lane that is not there, its protocol's.
pub(super) fn find_or_base(tx: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    match (messages::find_queue(tx, name)?, lane::from_name(name)) {
        (None, Some((address, _))) => messages::find_queue(tx, &Queue::Tasks(address).name()),
        (found, _) => Ok(found),
    }
}

/// The ids of the queues that a queue is made of, by turn; none if it does not exist.
pub(super) fn parts(tx: &Connection, name: &str) -> rusqlite::Result<Vec<(usize, i64)>> {
    let Some(own) = messages::find_queue(tx, name)? else { return Ok(Vec::new()) };
    let mut found =
        tx.prepare_cached("SELECT name, id FROM queues WHERE name GLOB ?1 || '.lane.*' ORDER BY id")?;
    let rows = found.query_map([name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    let mut parts = vec![(turn_of(None), own)];
    for row in rows {
        let (name, id) = row?;
        parts.extend(lane::from_name(&name).map(|(_, number)| (turn_of(Some(number)), id)));
    }
    Ok(parts)
}

/// Delivers up to the room of `wish`, the lanes in turn.
pub(super) fn take(tx: &Connection, wish: &Wish, turns: &Mutex<Turns>) -> rusqlite::Result<Vec<Delivered>> {
    let parts = parts(tx, &wish.queue)?;
    let mut waiting = Vec::with_capacity(parts.len());
    for (turn, queue) in &parts {
        waiting.push((*turn, count(tx, *queue, wish)?));
    }
    // No code that holds the lock can panic half-way. A step that is done over has only cost somebody a turn.
    let dealt = turns.lock().unwrap_or_else(PoisonError::into_inner).deal(wish.room, &waiting);
    let mut taken = BTreeMap::new();
    for (turn, queue) in parts {
        let room = dealt.iter().filter(|of| **of == turn).count();
        if room > 0 {
            taken.insert(turn, VecDeque::from(messages::take(tx, wish, queue, room)?));
        }
    }
    Ok(dealt.iter().filter_map(|turn| taken.get_mut(turn)?.pop_front()).collect())
}

/// How many wait in a queue, as far as there is room.
fn count(tx: &Connection, queue: i64, wish: &Wish) -> rusqlite::Result<usize> {
    let sql = if wish.scope.is_some() {
        "SELECT count(*) FROM (SELECT 1 FROM messages WHERE queue = ?1 AND owner IS NULL AND root = ?3 LIMIT ?2)"
    } else {
        "SELECT count(*) FROM (SELECT 1 FROM messages WHERE queue = ?1 AND owner IS NULL AND ?3 IS NULL LIMIT ?2)"
    };
    let room = i64::try_from(wish.room).unwrap_or(i64::MAX);
    let count: i64 = tx.prepare_cached(sql)?.query_row(params![queue, room, wish.scope], |row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Ready messages of all parts, and the consumers; `None` if the queue does not exist.
pub(super) fn depth(tx: &Connection, name: &str, now: Timestamp) -> rusqlite::Result<Option<(i64, i64)>> {
    let mut sum: Option<(i64, i64)> = None;
    for (_, queue) in parts(tx, name)? {
        let (ready, consumers) = messages::depth(tx, queue, now)?;
        let (all, everybody) = sum.unwrap_or_default();
        sum = Some((all + ready, everybody + consumers));
    }
    Ok(sum)
}

/// Removes every ready message of all parts and tells how many; `None` if the queue does not exist.
pub(super) fn purge(tx: &Connection, name: &str, now: Timestamp) -> rusqlite::Result<Option<usize>> {
    let mut sum = None;
    for (_, queue) in parts(tx, name)? {
        sum = Some(sum.unwrap_or(0) + messages::purge(tx, queue, now)?);
    }
    Ok(sum)
}

/// The lanes that are there and not configured, by name, each with its protocol's queue.
pub(super) fn left_over(tx: &Connection, topology: &Topology) -> rusqlite::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for address in &topology.protocols {
        let base = Queue::Tasks(address.clone()).name();
        let count = topology.lanes.get(address).copied().unwrap_or(0);
        for number in count..lane::LANES_MAX {
            let name = lane::name(address, number);
            if messages::find_queue(tx, &name)?.is_some() {
                found.push((name, base.clone()));
            }
        }
    }
    Ok(found)
}

/// Forgets a lane; what is in it, or on its way to it, is its protocol's. How many messages that were.
pub(super) fn retire(tx: &Connection, name: &str, base: &str) -> rusqlite::Result<usize> {
    let (Some(lane), Some(base)) = (messages::find_queue(tx, name)?, messages::find_queue(tx, base)?) else {
        return Ok(0);
    };
    let mut moved = 0;
    for sql in
        ["UPDATE messages SET queue = ?2 WHERE queue = ?1", "UPDATE delayed SET queue = ?2 WHERE queue = ?1"]
    {
        moved += tx.prepare_cached(sql)?.execute([lane, base])?;
    }
    tx.prepare_cached("DELETE FROM queues WHERE id = ?1")?.execute([lane])?;
    Ok(moved)
}
