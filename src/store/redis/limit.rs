//! Buckets in Redis: a hash each, and a slot each, so that many of them spread over a Cluster.
//!
//! One script, one round trip, and the time is the server's: workers' clocks do not matter.

use async_trait::async_trait;
use redis::Script;
use std::time::Duration;

use super::RedisStore;
use super::reply::Reply;
use super::steps::millis;
use crate::core::clock::Timestamp;
use crate::core::id::Id;
use crate::core::limit::{Pace, duration, micros};
use crate::store::limit::BUCKET_TTL;
use crate::store::{Demand, Granted, Limits, StoreError};

/// The steps, ready to invoke.
#[derive(Debug)]
pub(super) struct Scripts {
    admit: Script,
    secret: Script,
}

impl Scripts {
    pub(super) fn new() -> Scripts {
        let secret = "redis.call('SET', KEYS[1], ARGV[1], 'NX')\nreturn { redis.call('GET', KEYS[1]) }\n";
        Scripts { admit: Script::new(include_str!("lua/admit.lua")), secret: Script::new(secret) }
    }
}

#[async_trait]
impl Limits for RedisStore {
    async fn admit(&self, demand: &Demand, _now: Timestamp) -> Result<Granted, StoreError> {
        const STEP: &str = "admit";
        let Demand { limit, key: _, pace, since, settle, shut, costs, patience } = demand;
        let mut script = self.limits.admit.key(self.prefix.bucket(limit, demand.key_name()));
        script
            .arg(pace.per_second)
            .arg(pace.burst)
            .arg(since.as_millis())
            .arg(*settle)
            .arg(micros(shut.unwrap_or(Duration::ZERO)))
            .arg(micros(*patience))
            .arg(millis(BUCKET_TTL));
        for cost in costs {
            script.arg(*cost);
        }
        let mut reply = Reply::new(STEP, self.connection.invoke(STEP, &script).await?)?;
        let (mut list, mut waits) = (reply.list()?, Vec::with_capacity(costs.len()));
        while !list.is_empty() {
            waits.push(duration(list.parsed()?));
        }
        let refused: f64 = reply.parsed()?;
        let refused = (refused >= 0.0).then(|| duration(refused));
        let pace = Pace { per_second: reply.parsed()?, burst: reply.parsed()? };
        Ok(Granted { waits, refused, pace })
    }

    async fn secret(&self, offered: &Id) -> Result<Id, StoreError> {
        const STEP: &str = "secret";
        let mut script = self.limits.secret.key(self.prefix.secret());
        script.arg(offered.as_str());
        let mut reply = Reply::new(STEP, self.connection.invoke(STEP, &script).await?)?;
        let text = reply.text()?;
        Id::parse(&text).map_err(|error| reply.corrupt(error.to_string()))
    }
}
