//! A consumer of the embedded broker: asks for as many messages as it may hold, and waits for news.

use async_trait::async_trait;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::desk::{Desk, Turn};
use super::{Hub, failed, lanes, messages};
use crate::broker::{BrokerError, Consumer, Delivery};
use crate::core::fairness::Turns;
use crate::sqlite::{Foreign, Topic};
use crate::topology::Queue;

/// How long a consumer waits without looking: a process may have died, the clock may have been set.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct SqliteConsumer {
    hub: Arc<Hub>,
    desk: Arc<Desk>,
    /// What this process does to the queue.
    news: Topic,
    /// What other processes do to the file.
    foreign: Foreign,
    /// Whether there may be something new since the last request.
    stale: bool,
}

impl SqliteConsumer {
    pub(super) async fn start(
        hub: &Arc<Hub>,
        queue: &Queue,
        prefetch: NonZeroU16,
        scope: Option<String>,
        (turns, is_laned): (Arc<Mutex<Turns>>, bool),
    ) -> Result<SqliteConsumer, BrokerError> {
        let owner = hub.owner().await?;
        let name = queue.name();
        // Before the queue is looked at, so that nothing is missed.
        let (news, foreign) = (hub.database.follow(&name), hub.database.foreign());
        let (me, now) = (hub.database.process().clone(), hub.clock.now());
        let enter = move |tx: &rusqlite::Connection| {
            // A killed run's messages come back at once.
            let queues = messages::reclaim(tx, &me, now)?;
            // An earlier configuration may have left some.
            let has_lanes = lanes::parts(tx, &name)?.len() > 1;
            Ok(messages::enter(tx, owner, &name)?.map(|consumer| (consumer, queues, has_lanes)))
        };
        let entered = hub.database.write("consume", enter).await.map_err(|error| failed("consume", error))?;
        let Some((consumer, queues, has_lanes)) = entered else {
            return Err(BrokerError::NoQueue { queue: queue.name() });
        };
        hub.touch_all(&queues);
        let prefetch = usize::from(prefetch.get());
        let turns = (is_laned || has_lanes).then_some(turns);
        let desk = Desk::new(Arc::clone(hub), queue.clone(), owner, consumer, prefetch, scope);
        let desk = desk.in_turn(turns);
        Ok(SqliteConsumer { hub: Arc::clone(hub), desk: Arc::new(desk), news, foreign, stale: true })
    }

    /// Waits until something may have changed, at most `patience`.
    async fn wait(&mut self, patience: Duration) {
        tokio::select! {
            () = self.desk.changed.notified() => {}
            () = self.hub.closed.cancelled() => {}
            () = self.news.changed() => self.stale = true,
            () = self.foreign.changed() => self.stale = true,
            () = tokio::time::sleep(patience) => self.stale = true,
        }
    }
}

#[async_trait]
impl Consumer for SqliteConsumer {
    async fn next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        loop {
            match self.desk.turn() {
                Turn::Give(message) => return Some(Ok(self.desk.delivery(message))),
                Turn::Fail(error) => return Some(Err(error)),
                Turn::End => return None,
                Turn::Ask { room, more } if more || self.stale => {
                    // Nothing is awaited between the permit and the request, so dropping `next` here loses
                    // nothing.
                    match self.hub.database.permit().await {
                        Ok(permit) => {
                            self.stale = false;
                            self.desk.ask(permit, room);
                        }
                        Err(error) => return Some(Err(failed("consume", error))),
                    }
                }
                Turn::Ask { .. } => self.wait(self.desk.patience(LOOK_EVERY)).await,
                // What becomes due meanwhile could not be held anyway.
                Turn::Wait => self.wait(LOOK_EVERY).await,
            }
        }
    }

    async fn cancel(&mut self) -> Result<(), BrokerError> {
        let permit = self.hub.database.permit().await.map_err(|error| failed("cancel", error))?;
        match self.desk.retire(Some(permit)).await {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(error)) => Err(failed("cancel", error)),
        }
    }
}

impl Drop for SqliteConsumer {
    fn drop(&mut self) {
        drop(self.desk.retire(None));
    }
}
