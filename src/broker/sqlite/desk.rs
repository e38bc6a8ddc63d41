//! What a consumer, its receipts and the writer thread share: what is held, what may be asked for.
//!
//! It outlives the consumer for as long as a receipt exists. Answers of the writer thread arrive here and not
//! in a future, so a `next` that is dropped half-way loses nothing.

use async_trait::async_trait;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

use super::messages::{self, Batch, Delivered, Wish};
use super::{Hub, failed};
use crate::broker::{BrokerError, Delivery, Receipt, Settlement};
use crate::core::clock::Timestamp;
use crate::core::fairness::Turns;
use crate::sqlite::{Error, Permit};
use crate::topology::Queue;

/// How long to wait after the file has refused to deliver.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Desk {
    hub: Arc<Hub>,
    queue: Queue,
    name: String,
    owner: i64,
    consumer: i64,
    prefetch: usize,
    scope: Option<String>,
    turns: Option<Arc<Mutex<Turns>>>,
    state: Mutex<State>,
    /// Told after every change of `state` that the consumer may want to know.
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Delivered to us and not given out yet.
    received: VecDeque<Delivered>,
    /// Delivered to us and not settled: `received` and what is given out.
    held: usize,
    /// Whether a request is with the writer thread.
    asking: bool,
    /// Whether the last request got all it asked for, so that there may be more.
    more: bool,
    cancelled: bool,
    next_due: Option<Timestamp>,
    /// Messages whose settlement failed.
    orphans: Vec<i64>,
    paused_until: Option<Instant>,
    trouble: Option<BrokerError>,
}

/// What a consumer can do next.
#[derive(Debug)]
pub(super) enum Turn {
    Give(Delivered),
    Fail(BrokerError),
    End,
    /// Ask for up to so many; `more` says that there probably are some.
    Ask {
        room: usize,
        more: bool,
    },
    Wait,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("queue", &self.name).field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl Desk {
    pub(super) fn new(
        hub: Arc<Hub>,
        queue: Queue,
        owner: i64,
        consumer: i64,
        prefetch: usize,
        scope: Option<String>,
    ) -> Desk {
        let name = queue.name();
        let state = Mutex::new(State { more: true, ..State::default() });
        Desk {
            hub,
            queue,
            name,
            owner,
            consumer,
            prefetch,
            scope,
            turns: None,
            state,
            changed: Notify::new(),
        }
    }

    /// The same for a queue that has lanes.
    pub(super) fn in_turn(self, turns: Option<Arc<Mutex<Turns>>>) -> Desk {
        Desk { turns, ..self }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do next. A message that is given out here stays held.
    pub(super) fn turn(&self) -> Turn {
        let mut state = self.state();
        if self.hub.closed.is_cancelled() || state.cancelled {
            return Turn::End;
        }
        if let Some(message) = state.received.pop_front() {
            return Turn::Give(message);
        }
        if let Some(error) = state.trouble.take() {
            return Turn::Fail(error);
        }
        let room = self.prefetch.saturating_sub(state.held);
        let paused = state.paused_until.is_some_and(|until| Instant::now() < until);
        if room == 0 || state.asking || paused {
            return Turn::Wait;
        }
        Turn::Ask { room, more: state.more }
    }

    /// How long nothing can come by itself: until something is due, at most `at_most`.
    pub(super) fn patience(&self, at_most: Duration) -> Duration {
        let next_due = self.state().next_due;
        next_due.map_or(at_most, |due| due.since(self.hub.clock.now()).min(at_most))
    }

    /// Asks the writer thread for messages. Does not wait.
    pub(super) fn ask(self: &Arc<Desk>, permit: Permit, room: usize) {
        let orphans = {
            let mut state = self.state();
            state.asking = true;
            std::mem::take(&mut state.orphans)
        };
        let database = &self.hub.database;
        let wish = Wish {
            queue: self.name.clone(),
            owner: self.owner,
            room,
            scope: self.scope.clone(),
            now: self.hub.clock.now(),
            orphans: orphans.clone(),
            reclaim: self.hub.reclaim_is_due().then(|| database.process().clone()),
            turns: self.turns.clone(),
        };
        let desk = Arc::clone(self);
        let deliver = move |tx: &rusqlite::Connection| messages::deliver(tx, &wish);
        database.submit(Some(permit), "deliver", true, deliver, move |outcome| {
            desk.receive(outcome, room, orphans);
        });
    }

    fn receive(self: &Arc<Desk>, outcome: Result<Batch, Error>, room: usize, orphans: Vec<i64>) {
        let mut too_late = Vec::new();
        let mut news = Vec::new();
        {
            let mut state = self.state();
            state.asking = false;
            match outcome {
                Ok(batch) => {
                    state.more = batch.messages.len() >= room;
                    state.next_due = batch.next_due;
                    news = batch.news;
                    if state.cancelled {
                        too_late = batch.messages.iter().map(|message| message.id).collect();
                    } else {
                        state.held += batch.messages.len();
                        state.received.extend(batch.messages);
                    }
                }
                Err(Error::Closed) => state.cancelled = true,
                Err(error) => {
                    state.orphans.extend(orphans);
                    state.more = true;
                    state.paused_until = Some(Instant::now() + PAUSE);
                    tracing::warn!(%error, queue = %self.name, "cannot read the queue, trying again");
                    if matches!(error, Error::File { .. } | Error::Unexpected { .. }) {
                        state.trouble = Some(failed("consume", error));
                    }
                }
            }
        }
        self.hub.touch_all(&news);
        self.release(too_late);
        self.changed.notify_one();
    }

    pub(super) fn delivery(self: &Arc<Desk>, message: Delivered) -> Delivery {
        let Delivered { id, redelivered, properties, body, .. } = message;
        let receipt = SqliteReceipt { desk: Arc::clone(self), id, asked: false };
        Delivery {
            queue: self.queue.clone(),
            body,
            properties,
            redelivered,
            deaths: Vec::new(),
            receipt: Box::new(receipt),
        }
    }

    /// Puts messages back without waiting; they are not counted as held any more.
    fn release(self: &Arc<Desk>, ids: Vec<i64>) {
        if ids.is_empty() {
            return;
        }
        let (desk, owner, kept) = (Arc::clone(self), self.owner, ids.clone());
        let release = move |tx: &rusqlite::Connection| messages::release(tx, owner, &ids);
        // Without a permit: bounded by what was delivered.
        self.hub.database.submit(None, "release", true, release, move |outcome| match outcome {
            Ok(_) => desk.hub.database.touch(&desk.name),
            Err(error) => desk.orphaned(&error, &kept),
        });
    }

    /// Keeps messages that could neither be settled nor released, to be released with the next request.
    fn orphaned(&self, error: &Error, ids: &[i64]) {
        if matches!(error, Error::Closed) {
            return;
        }
        tracing::warn!(%error, queue = %self.name, "cannot give messages back, trying again");
        self.state().orphans.extend(ids);
        self.changed.notify_one();
    }

    /// Asks for no more: what was received goes back. A repeat does nothing. Returns once it is done if
    /// somebody waits for the answer.
    pub(super) fn retire(self: &Arc<Desk>, permit: Option<Permit>) -> oneshot::Receiver<Result<(), Error>> {
        let (reply, answer) = oneshot::channel();
        let ids: Vec<i64> = {
            let mut state = self.state();
            if state.cancelled {
                let _ = reply.send(Ok(()));
                return answer;
            }
            state.cancelled = true;
            let received = state.received.drain(..).map(|message| message.id).collect::<Vec<_>>();
            state.held -= received.len();
            received.into_iter().chain(state.orphans.drain(..)).collect()
        };
        let (desk, owner, consumer) = (Arc::clone(self), self.owner, self.consumer);
        let leave = move |tx: &rusqlite::Connection| messages::leave(tx, consumer, owner, &ids);
        self.hub.database.submit(permit, "cancel", true, leave, move |outcome| {
            desk.hub.database.touch(&desk.name);
            let _ = reply.send(outcome);
        });
        self.changed.notify_one();
        answer
    }

    /// One message less is held.
    fn settled(&self) {
        let mut state = self.state();
        state.held = state.held.saturating_sub(1);
        drop(state);
        self.changed.notify_one();
    }
}

/// The right to settle one message.
struct SqliteReceipt {
    desk: Arc<Desk>,
    id: i64,
    /// Whether the settlement is with the writer thread.
    asked: bool,
}

impl fmt::Debug for SqliteReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteReceipt").field("queue", &self.desk.name).field("id", &self.id).finish()
    }
}

#[async_trait]
impl Receipt for SqliteReceipt {
    async fn settle(mut self: Box<Self>, settlement: Settlement) -> Result<(), BrokerError> {
        let database = self.desk.hub.database.clone();
        let permit = database.permit().await.map_err(|_| BrokerError::DeliveryLost)?;
        self.asked = true;
        let (desk, id, owner) = (Arc::clone(&self.desk), self.id, self.desk.owner);
        let (reply, answer) = oneshot::channel();
        let settle = move |tx: &rusqlite::Connection| match settlement {
            Settlement::Done => messages::remove(tx, owner, id),
            Settlement::Release => messages::release(tx, owner, &[id]).map(|released| released > 0),
        };
        database.submit(Some(permit), "settle", true, settle, move |outcome| {
            match &outcome {
                Ok(true) if settlement == Settlement::Release => desk.hub.database.touch(&desk.name),
                Ok(_) => {}
                Err(error) => desk.orphaned(error, &[id]),
            }
            desk.settled();
            let _ = reply.send(outcome);
        });
        match answer.await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false) | Err(Error::Closed)) | Err(_) => Err(BrokerError::DeliveryLost),
            Ok(Err(error)) => Err(failed("settle", error)),
        }
    }
}

impl Drop for SqliteReceipt {
    fn drop(&mut self) {
        if !self.asked {
            self.desk.settled();
            self.desk.release(vec![self.id]);
        }
    }
}
