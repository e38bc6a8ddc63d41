//! Schedules: a row each.

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::SqliteStore;
use crate::core::clock::Timestamp;
use crate::core::id::Id;
use crate::store::schedule::REMOVED_TTL;
use crate::store::{
    Arrangement, Begun, Firing, SCHEDULES_MAX, Schedule, ScheduleState, Schedules, StoreError, Turn,
};

/// How many removed schedules one step forgets at most.
const FORGOTTEN_MAX: i64 = 100;

const COLUMNS: &str = "name, generation, state, definition, armed, last_slot, last_run, fired, missed, overlapped, \
                       created_at, changed_at";

#[async_trait]
impl Schedules for SqliteStore {
    async fn arrange(&self, arrangement: &Arrangement, now: Timestamp) -> Result<Schedule, StoreError> {
        let arrangement = arrangement.clone();
        let step = move |tx: &Connection| arrange(tx, &arrangement, now);
        self.database.write("arrange", step).await.map_err(|error| self.failed("arrange", error))
    }

    async fn begin(&self, turn: &Turn, until: Timestamp, now: Timestamp) -> Result<Begun, StoreError> {
        let turn = turn.clone();
        let step = move |tx: &Connection| begin(tx, &turn, until, now);
        self.database.write("begin", step).await.map_err(|error| self.failed("begin", error))
    }

    async fn fire(&self, firing: &Firing, _now: Timestamp) -> Result<bool, StoreError> {
        let firing = firing.clone();
        let step = move |tx: &Connection| fire(tx, &firing);
        self.database.write("fire", step).await.map_err(|error| self.failed("fire", error))
    }

    async fn schedule(&self, name: &Id) -> Result<Option<Schedule>, StoreError> {
        let name = name.clone();
        let step = move |tx: &Connection| find(tx, &name);
        self.database.read("schedule", step).await.map_err(|error| self.failed("schedule", error))
    }

    async fn schedules(&self, after: Option<&Id>, limit: usize) -> Result<Vec<Schedule>, StoreError> {
        let after = after.map(Id::to_string).unwrap_or_default();
        let limit = i64::try_from(limit.min(SCHEDULES_MAX)).unwrap_or(i64::MAX);
        let step = move |tx: &Connection| {
            let sql = format!(
                "SELECT {COLUMNS} FROM schedules WHERE name > ?1 AND state <> 'removed' ORDER BY name LIMIT ?2"
            );
            let mut statement = tx.prepare_cached(&sql)?;
            statement.query_map(params![after, limit], read)?.collect()
        };
        self.database.read("schedules", step).await.map_err(|error| self.failed("schedules", error))
    }
}

fn find(tx: &Connection, name: &Id) -> rusqlite::Result<Option<Schedule>> {
    let sql = format!("SELECT {COLUMNS} FROM schedules WHERE name = ?1");
    tx.prepare_cached(&sql)?.query_row([name.as_str()], read).optional()
}

fn arrange(tx: &Connection, arrangement: &Arrangement, now: Timestamp) -> rusqlite::Result<Schedule> {
    let Arrangement { name, generation, state, definition, armed } = arrangement;
    tx.prepare_cached(
        "DELETE FROM schedules WHERE name IN \
         (SELECT name FROM schedules WHERE forget_at <= ?1 AND name <> ?2 LIMIT ?3)",
    )?
    .execute(params![now.as_millis(), name.as_str(), FORGOTTEN_MAX])?;
    let there = find(tx, name)?;
    if let Some(there) = &there
        && there.generation >= *generation
    {
        return Ok(there.clone());
    }
    // A removal forgets the counts, and what comes after one begins anew.
    let is_removed = |state: ScheduleState| state == ScheduleState::Removed;
    if is_removed(*state) || there.is_some_and(|there| is_removed(there.state)) {
        tx.prepare_cached("DELETE FROM schedules WHERE name = ?1")?.execute([name.as_str()])?;
    }
    let forget_at = is_removed(*state).then(|| now.after(REMOVED_TTL).as_millis());
    tx.prepare_cached(
        "INSERT INTO schedules (name, generation, state, definition, armed, created_at, changed_at, forget_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7) ON CONFLICT (name) DO UPDATE SET \
         generation = ?2, state = ?3, definition = ?4, armed = ?5, changed_at = ?6, forget_at = ?7, holder = NULL",
    )?
    .execute(params![
        name.as_str(),
        generation,
        state.name(),
        definition.as_ref(),
        armed.map(Timestamp::as_millis),
        now.as_millis(),
        forget_at
    ])?;
    find(tx, name)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

fn begin(tx: &Connection, turn: &Turn, until: Timestamp, now: Timestamp) -> rusqlite::Result<Begun> {
    let Some(schedule) = find(tx, &turn.name)? else { return Ok(Begun::Other(None)) };
    if !is_armed(&schedule, turn.generation, turn.slot) {
        return Ok(Begun::Other(Some(schedule)));
    }
    let held: Option<i64> = tx
        .prepare_cached("SELECT held_until FROM schedules WHERE name = ?1 AND holder <> ?2")?
        .query_row(params![turn.name.as_str(), turn.by.as_str()], |row| row.get(0))
        .optional()?;
    if held.is_some_and(|held_until| held_until > now.as_millis()) {
        return Ok(Begun::Held);
    }
    tx.prepare_cached("UPDATE schedules SET holder = ?2, held_until = ?3 WHERE name = ?1")?
        .execute(params![turn.name.as_str(), turn.by.as_str(), until.as_millis()])?;
    Ok(Begun::Yours(schedule))
}

fn fire(tx: &Connection, firing: &Firing) -> rusqlite::Result<bool> {
    let Firing { name, generation, slot, next, last, fired, missed, overlapped } = firing;
    if !find(tx, name)?.is_some_and(|schedule| is_armed(&schedule, *generation, *slot)) {
        return Ok(false);
    }
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    tx.prepare_cached(
        "UPDATE schedules SET armed = ?2, holder = NULL, last_slot = coalesce(?3, last_slot), \
         last_run = coalesce(?4, last_run), fired = fired + ?5, missed = missed + ?6, \
         overlapped = overlapped + ?7 WHERE name = ?1",
    )?
    .execute(params![
        name.as_str(),
        next.map(Timestamp::as_millis),
        last.as_ref().map(|(slot, _)| slot.as_millis()),
        last.as_ref().map(|(_, run)| run.as_str()),
        number(*fired),
        number(*missed),
        number(*overlapped)
    ])?;
    Ok(true)
}

fn is_armed(schedule: &Schedule, generation: u32, slot: Timestamp) -> bool {
    schedule.generation == generation
        && schedule.state == ScheduleState::Active
        && schedule.armed == Some(slot)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Schedule> {
    let id = |column: usize, text: String| Id::parse(&text).map_err(|error| wrong(column, error.to_string()));
    let state: String = row.get(2)?;
    let count = |column: usize| row.get(column).map(|count: i64| u64::try_from(count).unwrap_or(0));
    let time = |column: usize| row.get(column).map(|at: Option<i64>| at.map(Timestamp::from_millis));
    let last_run: Option<String> = row.get(6)?;
    let last_run = last_run.map(|text| id(6, text)).transpose()?;
    Ok(Schedule {
        name: id(0, row.get(0)?)?,
        generation: row.get(1)?,
        state: ScheduleState::parse(&state)
            .ok_or_else(|| wrong(2, format!("{state:?} is no state of a schedule")))?,
        definition: Bytes::from(row.get::<_, Vec<u8>>(3)?),
        armed: time(4)?,
        last: time(5)?.zip(last_run),
        fired: count(7)?,
        missed: count(8)?,
        overlapped: count(9)?,
        created_at: time(10)?.unwrap_or_default(),
        changed_at: time(11)?.unwrap_or_default(),
    })
}

fn wrong(column: usize, reason: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, reason.into())
}
