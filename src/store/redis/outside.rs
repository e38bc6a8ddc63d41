//! The steps that nobody's lease is for: `cancel` and `retry`.

use std::time::Duration;

use super::RedisStore;
use super::reply::Reply;
use super::steps::{id, ids, millis, released, tombstone_ttl};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::store::{Cancelled, Retried, StoreError, Why};
use crate::topology::delay::DELAY_MAX;

impl RedisStore {
    pub(super) async fn cancel_step(
        &self,
        root: &Id,
        why: Why,
        now: Timestamp,
    ) -> Result<Cancelled, StoreError> {
        const STEP: &str = "cancel";
        let mut script = self.scripts.cancel.key(self.prefix.root(root));
        script
            .key(self.prefix.outcome(root))
            .arg(now.to_string())
            .arg(millis(self.result_ttl))
            .arg(millis(tombstone_ttl(self.result_ttl)))
            .arg(self.prefix.channel(root));
        let (run, by) = match why {
            Why::Request { by } => (None, by),
            Why::Timeout { run } => (Some(run), None),
        };
        script
            .arg(run.map(|run| run.to_string()).unwrap_or_default())
            .arg(millis(tombstone_ttl(self.result_ttl).saturating_add(DELAY_MAX)))
            .arg(by.as_ref().map(Id::as_str).unwrap_or_default());
        let mut reply = Reply::new(STEP, self.connection.invoke(STEP, &script).await?)?;
        match reply.text()?.as_str() {
            "done" => {
                let mut pairs = reply.list()?;
                let mut running = Vec::new();
                while !pairs.is_empty() {
                    let name = pairs.text()?;
                    let task = if name.is_empty() { None } else { Some(id(STEP, &name)?) };
                    running.push((TaskKey { root: root.clone(), task }, pairs.parsed()?));
                }
                let reply = reply.text()?.strip_prefix('=').map(str::to_owned);
                Ok(Cancelled::Done { running, reply })
            }
            "again" => Ok(Cancelled::Again { reply: reply.text()?.strip_prefix('=').map(str::to_owned) }),
            "earlier" => Ok(Cancelled::Earlier),
            "over" => Ok(Cancelled::Over(reply.text()?)),
            "marked" => Ok(Cancelled::Marked),
            other => Err(reply.corrupt(format!("the answer {other:?}"))),
        }
    }

    pub(super) async fn retry_step(&self, root: &Id, by: &Id, now: Timestamp) -> Result<Retried, StoreError> {
        const STEP: &str = "retry";
        let mut script = self.scripts.retry.key(self.prefix.root(root));
        script
            .key(self.prefix.outcome(root))
            .arg(by.as_str())
            .arg(now.to_string())
            .arg(self.prefix.channel(root))
            .arg(self.prefix.live(root))
            .arg(root.as_str());
        let mut reply = Reply::new(STEP, self.connection.invoke(STEP, &script).await?)?;
        match reply.text()?.as_str() {
            "running" => {
                let run = reply.parsed()?;
                let timeout = match reply.text()?.as_str() {
                    "" => None,
                    nanos => {
                        let nanos = nanos.parse();
                        Some(nanos.map_err(|_| reply.corrupt(format!("the timeout of {root}")))?)
                    }
                };
                let released = released(root, run, reply.list()?)?;
                Ok(Retried::Running { released, run, timeout: timeout.map(Duration::from_nanos) })
            }
            "open" => Ok(Retried::NotEnded),
            "nothing" => Ok(Retried::Nothing),
            "untaken" => Ok(Retried::NotTakenIn),
            "gone" => Ok(Retried::Gone(ids(reply.list()?)?)),
            "unknown" => Ok(Retried::Unknown),
            other => Err(reply.corrupt(format!("the answer {other:?}"))),
        }
    }
}
