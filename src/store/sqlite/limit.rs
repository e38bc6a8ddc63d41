//! Buckets: a row each. Workers of one file are on one machine, so its clock is everybody's.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::SqliteStore;
use crate::core::clock::Timestamp;
use crate::core::id::{Id, InvalidId};
use crate::core::limit::{Bucket, Pace, duration};
use crate::store::limit::BUCKET_TTL;
use crate::store::{Demand, Granted, Limits, StoreError};

/// How many buckets one step forgets at most.
const FORGOTTEN_MAX: i64 = 10;

#[async_trait]
impl Limits for SqliteStore {
    async fn admit(&self, demand: &Demand, now: Timestamp) -> Result<Granted, StoreError> {
        let demand = demand.clone();
        let step = move |tx: &Connection| admit(tx, &demand, now);
        self.database.write("admit", step).await.map_err(|error| self.failed("admit", error))
    }

    async fn secret(&self, offered: &Id) -> Result<Id, StoreError> {
        let offered = offered.to_string();
        let step = move |tx: &Connection| {
            tx.prepare_cached("INSERT OR IGNORE INTO secrets (name, secret) VALUES ('limits', ?1)")?
                .execute([&offered])?;
            tx.query_row("SELECT secret FROM secrets WHERE name = 'limits'", [], |row| {
                row.get::<_, String>(0)
            })
        };
        let text = self.database.write("secret", step).await.map_err(|error| self.failed("secret", error))?;
        let corrupt = |error: InvalidId| StoreError::Corrupt { step: "secret", reason: error.to_string() };
        Id::parse(&text).map_err(corrupt)
    }
}

fn admit(tx: &Connection, demand: &Demand, now: Timestamp) -> rusqlite::Result<Granted> {
    tx.prepare_cached(
        "DELETE FROM limits WHERE (name, key) IN (SELECT name, key FROM limits WHERE forget_at <= ?1 LIMIT ?2)",
    )?
    .execute(params![now.as_millis(), FORGOTTEN_MAX])?;
    let key = demand.key_name().map(|name| format!("={name}")).unwrap_or_default();
    let there = tx
        .prepare_cached(
            "SELECT full_at, full_not_before, per_second, burst, since FROM limits WHERE name = ?1 AND key = ?2",
        )?
        .query_row(params![demand.limit, key], |row| {
            let bucket = Bucket { full_at: row.get(0)?, full_not_before: row.get(1)? };
            let pace = Pace { per_second: row.get(2)?, burst: row.get(3)? };
            Ok((bucket, pace, row.get::<_, i64>(4)?))
        })
        .optional()?;
    let (mut bucket, mut pace, mut since) = (Bucket::default(), demand.pace, demand.since.as_millis());
    if let Some((there, its_pace, its_since)) = there {
        bucket = there;
        if its_since > since {
            (pace, since) = (its_pace, its_since);
        } else {
            bucket.adopt(&its_pace, &pace, now.as_millis() as f64 * 1e3);
        }
    }
    let at = now.as_millis() as f64 * 1e3;
    if demand.settle != 0.0 {
        bucket.settle(&pace, demand.settle, at);
    }
    if let Some(wait) = demand.shut {
        bucket.shut(&pace, wait, at);
    }
    let (mut waits, mut refused) = (Vec::with_capacity(demand.costs.len()), None);
    for cost in &demand.costs {
        match bucket.take(&pace, *cost, at, demand.patience) {
            Ok(wait) => waits.push(wait),
            Err(wait) => {
                refused = Some(wait);
                break;
            }
        }
    }
    // A cast from a negative number is zero.
    let left = duration(bucket.full_at.max(bucket.full_not_before) - at);
    let forget_at = now.after(left).after(BUCKET_TTL);
    tx.prepare_cached(
        "INSERT INTO limits (name, key, full_at, per_second, burst, since, forget_at, full_not_before) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (name, key) DO UPDATE SET \
         full_at = ?3, per_second = ?4, burst = ?5, since = ?6, forget_at = ?7, full_not_before = ?8",
    )?
    .execute(params![
        demand.limit,
        key,
        bucket.full_at,
        pace.per_second,
        pace.burst,
        since,
        forget_at.as_millis(),
        bucket.full_not_before
    ])?;
    Ok(Granted { waits, refused, pace })
}
