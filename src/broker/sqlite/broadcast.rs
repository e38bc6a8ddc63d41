//! Broadcasts: a short log in the file that every listener reads on from where it began.

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, params};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Hub, failed};
use crate::broker::{BrokerError, Heard, Listener};
use crate::core::clock::Timestamp;
use crate::sqlite::{Foreign, Topic};

/// How long a broadcast can be received. A listener that sleeps longer misses it, and says so.
const KEPT: Duration = Duration::from_secs(60);

/// How many are kept at most.
const KEPT_MAX: i64 = 10_000;

/// How many a listener reads at once.
const READ_MAX: i64 = 100;

const TOPIC: &str = "broadcasts";

/// Sends to everybody who listens now, in every process.
pub(super) async fn send(hub: &Hub, body: Bytes) -> Result<(), BrokerError> {
    let now = hub.clock.now();
    let database = hub.database.clone();
    let send = move |tx: &Connection| append(tx, &body, now);
    let wake = move |outcome: &Result<(), _>| {
        if outcome.is_ok() {
            database.touch(TOPIC);
        }
    };
    hub.database.write_then("broadcast", send, wake).await.map_err(|error| failed("broadcast", error))
}

fn append(tx: &Connection, body: &[u8], now: Timestamp) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT INTO broadcasts (at, body) VALUES (?1, ?2)")?
        .execute(params![now.as_millis(), body])?;
    let oldest = tx.last_insert_rowid().saturating_sub(KEPT_MAX);
    let kept = i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
    let since = now.as_millis().saturating_sub(kept);
    tx.prepare_cached("DELETE FROM broadcasts WHERE id <= ?1 OR at < ?2")?.execute([oldest, since])?;
    Ok(())
}

/// The place of the last broadcast so far.
fn last(tx: &Connection) -> rusqlite::Result<i64> {
    tx.prepare_cached("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'broadcasts'), 0)")?
        .query_row([], |row| row.get(0))
}

fn after(tx: &Connection, place: i64) -> rusqlite::Result<Vec<(i64, Vec<u8>)>> {
    tx.prepare_cached("SELECT id, body FROM broadcasts WHERE id > ?1 ORDER BY id LIMIT ?2")?
        .query_map([place, READ_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

#[derive(Debug)]
pub(super) struct SqliteListener {
    hub: Arc<Hub>,
    news: Topic,
    foreign: Foreign,
    place: i64,
    received: VecDeque<Vec<u8>>,
}

impl SqliteListener {
    pub(super) async fn start(hub: &Arc<Hub>) -> Result<SqliteListener, BrokerError> {
        // Before the place is read, so that nothing is missed.
        let (news, foreign) = (hub.database.follow(TOPIC), hub.database.foreign());
        let place = hub.database.read("listen", last).await.map_err(|error| failed("listen", error))?;
        Ok(SqliteListener { hub: Arc::clone(hub), news, foreign, place, received: VecDeque::new() })
    }
}

#[async_trait]
impl Listener for SqliteListener {
    async fn next(&mut self) -> Option<Heard> {
        loop {
            if self.hub.closed.is_cancelled() {
                return None;
            }
            if let Some(body) = self.received.pop_front() {
                return Some(Heard::Broadcast(body.into()));
            }
            let place = self.place;
            match self.hub.database.read("listen", move |tx| after(tx, place)).await {
                Ok(bodies) => {
                    // Places have no holes, and the last broadcast is always kept.
                    let is_gap = bodies.first().is_some_and(|(first, _)| *first > place.saturating_add(1));
                    self.place = bodies.last().map_or(place, |(place, _)| *place);
                    self.received.extend(bodies.into_iter().map(|(_, body)| body));
                    if is_gap {
                        return Some(Heard::Gap);
                    }
                }
                Err(crate::sqlite::Error::Closed) => return None,
                Err(error) => tracing::warn!(%error, "cannot read broadcasts, trying again at the next"),
            }
            if !self.received.is_empty() {
                continue;
            }
            tokio::select! {
                () = self.hub.closed.cancelled() => {}
                () = self.news.changed() => {}
                () = self.foreign.changed() => {}
            }
        }
    }
}
