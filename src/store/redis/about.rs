//! What workers say of themselves in Redis: one hash for all, a field for each session.
//!
//! Fields of sessions that are gone are removed by whoever reads them, and by each worker when it first introduces
//! itself. So there are no more than there were workers at once.

use async_trait::async_trait;
use futures_util::future::try_join_all;
use std::collections::BTreeMap;

use super::RedisStore;
use crate::core::clock::Timestamp;
use crate::core::id::Id;
use crate::store::{Introductions, Store, StoreError};

#[async_trait]
impl Introductions for RedisStore {
    async fn introduce(&self, session: &Id, about: &str) -> Result<(), StoreError> {
        let mut cmd = redis::cmd("HSET");
        cmd.arg(self.prefix.workers()).arg(session.as_str()).arg(about);
        let is_new: u64 = self.connection.query("introduce", &cmd).await?;
        if is_new > 0 {
            // For the sake of what it removes.
            self.introduced(Timestamp::default()).await?;
        }
        Ok(())
    }

    async fn introduced(&self, now: Timestamp) -> Result<Vec<(Id, String)>, StoreError> {
        const STEP: &str = "introduced";
        let mut cmd = redis::cmd("HGETALL");
        cmd.arg(self.prefix.workers());
        let said: BTreeMap<String, String> = self.connection.query(STEP, &cmd).await?;
        // A field that is no id is none of ours, and is left alone.
        let said: Vec<(Id, String)> =
            said.into_iter().filter_map(|(id, about)| Some((Id::parse(&id).ok()?, about))).collect();
        let alive = try_join_all(said.iter().map(|(session, _)| self.alive(session, now))).await?;
        let (mut living, mut gone) = (Vec::new(), Vec::new());
        for ((session, about), is_alive) in said.into_iter().zip(alive) {
            if is_alive { living.push((session, about)) } else { gone.push(session) }
        }
        self.forget_introductions(&gone).await?;
        Ok(living)
    }
}

impl RedisStore {
    /// Forgets what these have said of themselves.
    pub(super) async fn forget_introductions(&self, gone: &[Id]) -> Result<(), StoreError> {
        if gone.is_empty() {
            return Ok(());
        }
        let mut cmd = redis::cmd("HDEL");
        cmd.arg(self.prefix.workers());
        for session in gone {
            cmd.arg(session.as_str());
        }
        self.connection.query::<u64>("leave", &cmd).await.map(|_| ())
    }
}
