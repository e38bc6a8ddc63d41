//! Orders to every worker: sent as a broadcast, collected until every worker that lives has answered.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::Client;
use crate::broker::Heard;
use crate::core::code::Code;
use crate::core::id::Id;
use crate::error::Error;
use crate::wire::control::{self, Action, Answer, Control, Order};

/// How often an order is sent again: a broadcast may be missed, and who knows it only answers again.
const AGAIN: Duration = Duration::from_secs(1);

/// What has come back.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Collected {
    /// The last answer of each worker, in the order of their sessions.
    pub answers: Vec<Answer>,
    /// Workers that live and have not answered: they are busy elsewhere, or older than this exchange.
    pub silent: Vec<Id>,
    /// Every worker that lives has done it.
    pub is_whole: bool,
}

impl Client {
    /// Has every worker do something with its providers, and waits until all that live have done it, for `timeout` at
    /// most. What is not done by then goes on all the same.
    ///
    /// # Errors
    /// What the broker or the store says.
    pub async fn ask_workers(&self, action: Action, timeout: Duration) -> Result<Collected, Error> {
        let deadline = Instant::now() + timeout;
        let mut listener = self.broker.listen().await?;
        let order = Order { id: self.clock.new_id(), action };
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut answers, mut alive) = (BTreeMap::<Id, Answer>::new(), None::<Vec<Id>>);
        let sessions = async {
            loop {
                match self.store.sessions(self.clock.now()).await {
                    // Within its time a busy store is waited for.
                    Err(error) if error.is_transient() => {
                        tracing::warn!(%error, "it is not known yet which workers live; asking again");
                    }
                    other => return other,
                }
                sleep(AGAIN).await;
            }
        };
        tokio::pin!(sessions);
        let mut is_whole = false;
        while !is_whole {
            let is_done = |id: &Id| answers.get(id).is_some_and(|answer| answer.is_done);
            is_whole = alive.as_ref().is_some_and(|alive| alive.iter().all(is_done))
                && answers.values().all(|answer| answer.is_done);
            tokio::select! {
                biased;
                () = std::future::ready(()), if is_whole => {}
                () = sleep_until(deadline) => break,
                _ = again.tick() => self.broker.broadcast(order.encode()).await?,
                found = &mut sessions, if alive.is_none() => alive = Some(found?),
                heard = listener.next() => match heard {
                    Some(Heard::Broadcast(body)) => {
                        if let Ok(Control::Answer(answer)) = control::decode(&body)
                            && answer.id == order.id
                        {
                            answers.insert(answer.worker.clone(), *answer);
                        }
                    }
                    // It is asked again.
                    Some(Heard::Gap) => {}
                    None => return Err(Error::new(Code::ConnectionLost, "the broker connection is closed")),
                },
            }
        }
        let (is_known, mut silent) = (alive.is_some(), Vec::new());
        for session in alive.unwrap_or_default() {
            if !answers.contains_key(&session) && self.store.alive(&session, self.clock.now()).await? {
                silent.push(session);
            }
        }
        let is_whole = is_known && silent.is_empty() && answers.values().all(|answer| answer.is_done);
        Ok(Collected { answers: answers.into_values().collect(), silent, is_whole })
    }
}
