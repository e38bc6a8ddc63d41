//! Profiles: a row each. Whoever notes some forgets those that are too old, a bounded part of them.

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::SqliteStore;
use crate::core::clock::Timestamp;
use crate::core::id::Id;
use crate::core::profile::{Profile, Subject, slots};
use crate::store::{Note, Noted, PROFILES_MAX, Profiles, StoreError, Unreadable};
use crate::wire::profile::{decode, encode};

/// How many rows one step forgets at most.
const FORGOTTEN_MAX: i64 = 200;

#[async_trait]
impl Profiles for SqliteStore {
    async fn note_profiles(&self, profiles: &Note, now: Timestamp) -> Result<(), StoreError> {
        let profiles = profiles.clone();
        let step = move |tx: &Connection| note(tx, &profiles, now);
        self.database.write("note_profiles", step).await.map_err(|error| self.failed("note_profiles", error))
    }

    async fn profiles(&self, since: Timestamp, now: Timestamp) -> Result<Vec<Noted>, StoreError> {
        const STEP: &str = "profiles";
        let Some(first) = slots(since, now).first().copied() else { return Ok(Vec::new()) };
        let step = move |tx: &Connection| rows(tx, first);
        let rows = self.database.read(STEP, step).await.map_err(|error| self.failed(STEP, error))?;
        let (mut noted, mut unreadable) = (Vec::with_capacity(rows.len()), Unreadable::default());
        for row in rows {
            match read(&row) {
                Some(found) => noted.push(found),
                None => unreadable.found(|| format!("{} {} by {}", row.protocol, row.method, row.session)),
            }
        }
        unreadable.tell();
        Ok(noted)
    }
}

struct Row {
    slot: i64,
    session: String,
    protocol: String,
    method: String,
    text: String,
}

fn note(tx: &Connection, note: &Note, now: Timestamp) -> rusqlite::Result<()> {
    if let Some(kept) = slots(Timestamp::from_millis(0), now).first() {
        tx.prepare_cached(
            "DELETE FROM profiles WHERE (slot, session, protocol, method) IN (
                 SELECT slot, session, protocol, method FROM profiles WHERE slot < ?1 LIMIT ?2)",
        )?
        .execute(params![kept.as_millis(), FORGOTTEN_MAX])?;
    }
    let slot = note.slot.as_millis();
    let most = i64::try_from(PROFILES_MAX).unwrap_or(i64::MAX);
    for (Subject { protocol, method }, profile) in &note.profiles {
        let text = encode(profile);
        let known = tx
            .prepare_cached(
                "UPDATE profiles SET profile = ?5 WHERE slot = ?1 AND session = ?2 AND protocol = ?3 AND method = ?4",
            )?
            .execute(params![slot, note.session.as_str(), protocol, method, text])?;
        if known == 0 {
            tx.prepare_cached(
                "INSERT INTO profiles (slot, session, protocol, method, profile) SELECT ?1, ?2, ?3, ?4, ?5
                 WHERE (SELECT count(*) FROM profiles WHERE slot = ?1) < ?6",
            )?
            .execute(params![slot, note.session.as_str(), protocol, method, text, most])?;
        }
    }
    Ok(())
}

fn rows(tx: &Connection, first: Timestamp) -> rusqlite::Result<Vec<Row>> {
    tx.prepare_cached("SELECT slot, session, protocol, method, profile FROM profiles WHERE slot >= ?1")?
        .query_map([first.as_millis()], |row| {
            Ok(Row {
                slot: row.get(0)?,
                session: row.get(1)?,
                protocol: row.get(2)?,
                method: row.get(3)?,
                text: row.get(4)?,
            })
        })?
        .collect()
}

fn read(row: &Row) -> Option<Noted> {
    let profile: Profile = decode(&row.text)?;
    let subject = Subject { protocol: row.protocol.clone(), method: row.method.clone() };
    let slot = Timestamp::from_millis(row.slot);
    Some(Noted { session: Id::parse(&row.session).ok()?, slot, subject, profile })
}
