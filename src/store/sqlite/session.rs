//! Worker sessions, and the cleaning that each beat pays for.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use std::time::Duration;

use super::SqliteStore;
use crate::core::clock::Timestamp;
use crate::core::id::Id;
use crate::sqlite::process::{self, Process};
use crate::store::{Introductions, StoreError};

/// How many rows of each kind one beat cleans at most. Beats come once a second, so this is also the rate of
/// ending tasks that cleaning keeps up with.
const CLEANED_MAX: i64 = 2_000;

/// How many workflows, each with all its tasks.
const WORKFLOWS_CLEANED_MAX: i64 = 5;

pub(super) fn beat(
    tx: &Connection,
    session: &Id,
    process: i64,
    ttl: Duration,
    now: Timestamp,
) -> rusqlite::Result<()> {
    process::beat(tx, process, now)?;
    tx.prepare_cached(
        "INSERT INTO sessions (id, process, expires) VALUES (?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET process = ?2, expires = ?3",
    )?
    .execute(params![session.as_str(), process, now.after(ttl).as_millis()])?;
    clean(tx, now)
}

/// Not expired, and not of a process that is known to be dead.
pub(super) fn alive(tx: &Connection, me: &Process, session: &Id, now: Timestamp) -> rusqlite::Result<bool> {
    let process: Option<i64> = tx
        .prepare_cached("SELECT process FROM sessions WHERE id = ?1 AND expires > ?2")?
        .query_row(params![session.as_str(), now.as_millis()], |row| row.get(0))
        .optional()?;
    match process {
        Some(process) => Ok(!process::is_known_dead(tx, me, process, now)?),
        None => Ok(false),
    }
}

/// Those that are alive.
pub(super) fn sessions(tx: &Connection, me: &Process, now: Timestamp) -> rusqlite::Result<Vec<Id>> {
    let found: Vec<(String, i64)> = tx
        .prepare_cached("SELECT id, process FROM sessions WHERE expires > ?1 ORDER BY id")?
        .query_map([now.as_millis()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut alive = Vec::new();
    for (id, process) in found {
        if !process::is_known_dead(tx, me, process, now)? {
            // What was written was an id.
            alive.extend(Id::parse(&id).ok());
        }
    }
    Ok(alive)
}

/// Those that are alive and have said something of themselves.
fn introduced(tx: &Connection, me: &Process, now: Timestamp) -> rusqlite::Result<Vec<(Id, String)>> {
    let mut said = Vec::new();
    for session in sessions(tx, me, now)? {
        let about: Option<String> = tx
            .prepare_cached("SELECT about FROM sessions WHERE id = ?1")?
            .query_row([session.as_str()], |row| row.get(0))?;
        said.extend(about.map(|about| (session, about)));
    }
    Ok(said)
}

#[async_trait]
impl Introductions for SqliteStore {
    async fn introduce(&self, session: &Id, about: &str) -> Result<(), StoreError> {
        let (session, about) = (session.to_string(), about.to_owned());
        let introduce = move |tx: &Connection| {
            tx.prepare_cached("UPDATE sessions SET about = ?2 WHERE id = ?1")?
                .execute(params![session, about])
        };
        let done = self.database.write("introduce", introduce).await;
        done.map(|_| ()).map_err(|error| self.failed("introduce", error))
    }

    async fn introduced(&self, now: Timestamp) -> Result<Vec<(Id, String)>, StoreError> {
        let me = self.database.process().clone();
        let said = move |tx: &Connection| introduced(tx, &me, now);
        self.database.read("introduced", said).await.map_err(|error| self.failed("introduced", error))
    }
}

pub(super) fn leave(tx: &Connection, session: &Id) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM sessions WHERE id = ?1")?.execute([session.as_str()])?;
    Ok(())
}

/// Removes what has outlived its time, a bounded part of it per call.
pub(super) fn clean(tx: &Connection, now: Timestamp) -> rusqlite::Result<()> {
    let at = now.as_millis();
    tx.prepare_cached("DELETE FROM sessions WHERE expires <= ?1")?.execute([at])?;
    tx.prepare_cached(
        "DELETE FROM marks WHERE root IN (SELECT root FROM marks WHERE forget <= ?1 LIMIT ?2)",
    )?
    .execute([at, CLEANED_MAX])?;
    tx.prepare_cached(
        "DELETE FROM output WHERE seq IN (SELECT seq FROM output WHERE forget_at <= ?1 LIMIT ?2)",
    )?
    .execute([at, CLEANED_MAX])?;
    let tasks = due(tx, "SELECT n, clean_at < forget_at FROM tasks WHERE clean_at <= ?1 LIMIT ?2", at)?;
    for (n, has_more_time) in tasks {
        tx.prepare_cached("DELETE FROM results WHERE task = ?1")?.execute([n])?;
        if has_more_time {
            tx.prepare_cached("UPDATE tasks SET clean_at = forget_at WHERE n = ?1")?.execute([n])?;
            continue;
        }
        for sql in [
            "DELETE FROM planned WHERE task = ?1",
            "DELETE FROM history WHERE task = ?1",
            "DELETE FROM tasks WHERE n = ?1",
        ] {
            tx.prepare_cached(sql)?.execute([n])?;
        }
    }
    clean_workflows(tx, at)
}

fn due(tx: &Connection, sql: &str, at: i64) -> rusqlite::Result<Vec<(i64, bool)>> {
    tx.prepare_cached(sql)?.query_map([at, CLEANED_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn clean_workflows(tx: &Connection, at: i64) -> rusqlite::Result<()> {
    let workflows: Vec<(String, bool)> = tx
        .prepare_cached("SELECT id, clean_at < forget_at FROM workflows WHERE clean_at <= ?1 LIMIT ?2")?
        .query_map([at, WORKFLOWS_CLEANED_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (id, has_more_time) in workflows {
        let of_its_tasks = |sql: &str| tx.prepare_cached(sql)?.execute([&id]);
        if has_more_time {
            // What was never to be kept still says so, for a retry.
            of_its_tasks(
                "DELETE FROM results WHERE kept = 1 AND task IN (SELECT n FROM tasks WHERE root = ?1)",
            )?;
            // Messages are kept where there is something to retry.
            of_its_tasks(
                "DELETE FROM planned WHERE task IN (SELECT n FROM tasks WHERE root = ?1) AND NOT EXISTS (
                     SELECT 1 FROM tasks WHERE root = ?1 AND state IN ('failed', 'cancelled', 'expired'))",
            )?;
            of_its_tasks("UPDATE workflows SET clean_at = forget_at WHERE id = ?1")?;
            continue;
        }
        of_its_tasks("DELETE FROM results WHERE task IN (SELECT n FROM tasks WHERE root = ?1)")?;
        of_its_tasks("DELETE FROM planned WHERE task IN (SELECT n FROM tasks WHERE root = ?1)")?;
        of_its_tasks("DELETE FROM parents WHERE task IN (SELECT n FROM tasks WHERE root = ?1)")?;
        of_its_tasks("DELETE FROM history WHERE task IN (SELECT n FROM tasks WHERE root = ?1)")?;
        of_its_tasks("DELETE FROM edges WHERE dependency IN (SELECT n FROM tasks WHERE root = ?1)")?;
        of_its_tasks("DELETE FROM tasks WHERE root = ?1")?;
        of_its_tasks("DELETE FROM workflows WHERE id = ?1")?;
    }
    Ok(())
}
