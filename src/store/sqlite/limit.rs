//! Buckets: a row each. Workers of one file are on one machine, so its clock is everybody's.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use std::time::Duration;

use super::SqliteStore;
use crate::core::clock::Timestamp;
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
}

fn admit(tx: &Connection, demand: &Demand, now: Timestamp) -> rusqlite::Result<Granted> {
    tx.prepare_cached(
        "DELETE FROM limits WHERE (name, key) IN (SELECT name, key FROM limits WHERE forget_at <= ?1 LIMIT ?2)",
    )?
    .execute(params![now.as_millis(), FORGOTTEN_MAX])?;
    let key = demand.key.as_ref().map(|key| format!("={key}")).unwrap_or_default();
    let there = tx
        .prepare_cached("SELECT full_at, per_second, burst, since FROM limits WHERE name = ?1 AND key = ?2")?
        .query_row(params![demand.limit, key], |row| {
            let pace = Pace { per_second: row.get(1)?, burst: row.get(2)? };
            Ok((Bucket { full_at: row.get(0)? }, pace, row.get::<_, i64>(3)?))
        })
        .optional()?;
    let (mut bucket, mut pace, mut since) = (Bucket::default(), demand.pace, demand.since.as_millis());
    if let Some((there, its_pace, its_since)) = there {
        bucket = there;
        if its_since > since {
            (pace, since) = (its_pace, its_since);
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
    let left = if bucket.full_at > at { duration(bucket.full_at - at) } else { Duration::ZERO };
    let forget_at = now.after(left).after(BUCKET_TTL);
    tx.prepare_cached(
        "INSERT INTO limits (name, key, full_at, per_second, burst, since, forget_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (name, key) DO UPDATE SET \
         full_at = ?3, per_second = ?4, burst = ?5, since = ?6, forget_at = ?7",
    )?
    .execute(params![
        demand.limit,
        key,
        bucket.full_at,
        pace.per_second,
        pace.burst,
        since,
        forget_at.as_millis()
    ])?;
    Ok(Granted { waits, refused, pace })
}
