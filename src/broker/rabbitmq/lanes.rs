//! Consuming a protocol that has lanes: in turn, and never more than may run.
//!
//! Subscriptions cannot do that. What a server pushes, a worker holds; with a prefetch for each lane it would hold a
//! message of every lane beyond those that it may run, or run no more of a lane than its part of the places when the
//! other lanes are empty. So messages are asked for, one for each place that comes free (`basic.get`), of the lane
//! whose turn it is:
//!
//! ```text
//!  place free ─▶ look: how many wait in each lane? ─▶ some: get one of the lane whose turn it is ─▶ give it out
//!                  (all at once; at most every 50 ms)  └─ none: bells ─▶ one rings ─▶ bells off ─▶ ▲
//! ```
//!
//! While all lanes are empty nobody asks: a *bell* is a subscription to a lane with a prefetch of 1, for as long as a
//! place is free and nothing is there, so an idle worker is a consumer and gets a task at once. What further bells
//! had brought by the time they were off takes the places that are free, or goes back.
//!
//! One task does all of it, with one channel, which it opens again after a loss; whoever drops `next` interrupts
//! nothing. A delivery that nobody took goes back when it is dropped. Which lanes there are is asked of the server
//! when the channel is opened and every half minute, beyond those that are configured until one is missing: lanes that
//! are no longer configured are emptied like any other.

use async_trait::async_trait;
use backon::BackoffBuilder;
use futures_util::future::{join_all, select_all};
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery as Message;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connection::{PAUSE_MAX, backoff};
use super::consumer::receive;
use super::declare::{Declarer, Part};
use super::failure::{Failure, NOT_FOUND, within};
use super::feed::{Held, Subscriber};
use crate::broker::{BrokerError, Consumer, Delivery};
use crate::core::fairness::Turns;
use crate::topology::lane::{LANES_MAX, Lanes, name, turn_of};
use crate::topology::plan::QueueDeclaration;
use crate::topology::{Address, Queue};

/// How long a look at what waits in the lanes is believed.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often it is asked which lanes there are.
const FIND_EVERY: Duration = Duration::from_secs(30);
/// What an operator must allow to whoever consumes.
const HINT: &str = "grant the user read permission on it";

/// Which lanes of `address` the server has: of the first `configured`, and of any that follow without a gap.
pub(super) async fn lanes_there(
    declarer: &mut Declarer<'_>,
    address: &Address,
    configured: u16,
) -> Result<Vec<u16>, BrokerError> {
    let mut there = Vec::new();
    for lane in 0..LANES_MAX {
        let queue = QueueDeclaration { name: name(address, lane), arguments: Vec::new() };
        if declarer.exists(Part::Queue(&queue)).await? {
            there.push(lane);
        } else if lane >= configured {
            break;
        }
    }
    Ok(there)
}

/// A subscription to the queue of a protocol and to its lanes.
#[derive(Debug)]
pub(super) struct LaneConsumer {
    deliveries: mpsc::Receiver<Result<Delivery, BrokerError>>,
    is_open: Arc<AtomicBool>,
    stop: CancellationToken,
    _stop_at_end: DropGuard,
}

impl LaneConsumer {
    /// Looks once; then goes on by itself.
    pub(super) async fn start(
        address: &Address,
        lanes: &Lanes,
        turns: Arc<Mutex<Turns>>,
        prefetch: NonZeroU16,
        subscriber: Subscriber,
    ) -> Result<LaneConsumer, BrokerError> {
        let (stop, is_open) = (subscriber.closed.child_token(), Arc::new(AtomicBool::new(true)));
        let tasks = subscriber.tasks.clone();
        let mut puller = Puller {
            address: address.clone(),
            queue: Queue::Tasks(address.clone()),
            turns,
            configured: lanes.count,
            subscriber,
            places: Arc::new(Semaphore::new(prefetch.get().into())),
            open: None,
            reported: None,
            failures: 0,
            is_open: Arc::clone(&is_open),
            stop: stop.clone(),
        };
        let mut open = puller.open().await?;
        open.look(&puller.queue).await?;
        puller.open = Some(open);
        // One that waits to be taken, at most: what is asked for too early cannot be anybody else's.
        let (out, deliveries) = mpsc::channel(1);
        tasks.spawn(puller.run(out));
        Ok(LaneConsumer { deliveries, is_open, _stop_at_end: stop.clone().drop_guard(), stop })
    }
}

#[async_trait]
impl Consumer for LaneConsumer {
    async fn next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        self.deliveries.recv().await
    }

    fn is_subscribed(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    async fn cancel(&mut self) -> Result<(), BrokerError> {
        self.stop.cancel();
        // What is dropped goes back.
        while self.deliveries.recv().await.is_some() {}
        Ok(())
    }
}

/// The task behind a [`LaneConsumer`].
#[derive(Debug)]
struct Puller {
    address: Address,
    queue: Queue,
    turns: Arc<Mutex<Turns>>,
    /// How many lanes there should be.
    configured: u16,
    subscriber: Subscriber,
    /// One for each delivery that may be unsettled.
    places: Arc<Semaphore>,
    open: Option<Open>,
    /// The last error given out since deliveries came: it is not repeated.
    reported: Option<BrokerError>,
    /// Attempts to open a channel since one worked.
    failures: usize,
    is_open: Arc<AtomicBool>,
    stop: CancellationToken,
}

/// A channel, and what is known of the lanes.
#[derive(Debug)]
struct Open {
    held: Arc<Held>,
    timeout: Duration,
    lanes: Vec<Lane>,
    /// When it was asked which lanes there are.
    found: Instant,
    /// When it was asked how many wait in them.
    looked: Option<Instant>,
    /// What bells have brought beyond the first, by turn.
    received: VecDeque<(usize, Message)>,
    /// An answer may still come that nobody waits for, and bring a message.
    is_doubtful: bool,
}

#[derive(Debug)]
struct Lane {
    /// Its place among the turns.
    turn: usize,
    name: String,
    /// How many wait in it, as far as is known.
    ready: u32,
}

impl Puller {
    async fn run(mut self, out: mpsc::Sender<Result<Delivery, BrokerError>>) {
        while let Some(place) = self.place().await {
            let fetched = match self.fetch().await {
                Some(Ok(message)) => match self.held() {
                    Some(held) => Ok(receive(&self.queue, message, held, Some(place))),
                    None => continue,
                },
                Some(Err(error)) => Err(error),
                None => break,
            };
            tokio::select! {
                biased;
                sent = out.send(fetched) => if sent.is_err() { break },
                () = self.stop.cancelled() => break,
            }
        }
        if let Some(open) = &mut self.open {
            open.give_back();
        }
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        // No code that holds the lock can panic half-way.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> Option<Arc<Held>> {
        self.open.as_ref().map(|open| Arc::clone(&open.held))
    }

    /// A place for one more; `None` when there is to be none any more.
    async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        if let Some(open) = &mut self.open {
            open.give_back();
        }
        tokio::select! {
            place = Arc::clone(&self.places).acquire_owned() => place.ok(),
            () = self.stop.cancelled() => None,
        }
    }

    /// The next message; waits for it. An error is one that needs a person, given once.
    async fn fetch(&mut self) -> Option<Result<Message, BrokerError>> {
        while !self.stop.is_cancelled() {
            let error = match self.step().await {
                Ok(Some(message)) => return Some(Ok(message)),
                Ok(None) => continue,
                Err(BrokerError::Closed) => return None,
                Err(error) => error,
            };
            self.close().await;
            let is_told = error.is_transient()
                || matches!(error, BrokerError::LoginRefused { .. })
                || self.reported.as_ref() == Some(&error);
            tracing::debug!(queue = %self.queue, %error, "lanes are not consumed now");
            if !is_told {
                self.reported = Some(error.clone());
                return Some(Err(error));
            }
            self.pause().await;
        }
        None
    }

    /// Something that brings a message nearer.
    async fn step(&mut self) -> Result<Option<Message>, BrokerError> {
        let mut open = match self.open.take() {
            Some(open) if open.found.elapsed() < FIND_EVERY || !open.received.is_empty() => open,
            Some(open) => Open { lanes: self.lanes().await?, found: Instant::now(), looked: None, ..open },
            None => self.open().await?,
        };
        let stepped = self.step_with(&mut open).await;
        // Also after an error: what it has received is given back with it.
        self.open = Some(open);
        stepped
    }

    async fn step_with(&mut self, open: &mut Open) -> Result<Option<Message>, BrokerError> {
        let next = self.turns().next(open.received.iter().map(|(turn, _)| *turn));
        if let Some(turn) = next {
            self.turns().take(turn);
            let at = open.received.iter().position(|(of, _)| *of == turn);
            return Ok(at.and_then(|at| open.received.remove(at)).map(|(_, message)| message));
        }
        let ready = |open: &Open| -> Vec<usize> {
            open.lanes.iter().filter(|lane| lane.ready > 0).map(|lane| lane.turn).collect()
        };
        if ready(open).is_empty() || open.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            open.look(&self.queue).await?;
            (self.reported, self.failures) = (None, 0);
            self.is_open.store(true, Ordering::Relaxed);
        }
        let next = self.turns().next(ready(open));
        let Some(turn) = next else {
            open.ring(&self.queue, &self.subscriber, &self.stop).await?;
            return Ok(None);
        };
        let got = open.get(&self.queue, turn).await?;
        if got.is_some() {
            self.turns().take(turn);
        }
        Ok(got)
    }

    async fn open(&self) -> Result<Open, BrokerError> {
        let lanes = self.lanes().await?;
        let (connection, channel) = self.subscriber.link.channel().await?;
        let timeout = self.subscriber.reply_timeout;
        // Of each bell.
        let qos = channel.basic_qos(1, BasicQosOptions { global: false });
        within(timeout, qos).await.map_err(|failure| refusal(failure, &self.queue))?;
        let (held, found) = (Arc::new(Held::new(channel, connection)), Instant::now());
        let received = VecDeque::new();
        Ok(Open { held, timeout, lanes, found, looked: None, received, is_doubtful: false })
    }

    /// The protocol's queue, and the lanes that there are.
    async fn lanes(&self) -> Result<Vec<Lane>, BrokerError> {
        let Subscriber { link, reply_timeout, .. } = &self.subscriber;
        let mut declarer = Declarer::new(link, *reply_timeout);
        let there = lanes_there(&mut declarer, &self.address, self.configured).await?;
        declarer.finish().await;
        let missing = (0..self.configured).filter(|lane| !there.contains(lane)).count();
        if missing > 0 {
            tracing::warn!(queue = %self.queue, missing, "lanes are missing; `gleitzeit topology apply` creates them");
        }
        let mut lanes = vec![Lane { turn: turn_of(None), name: self.queue.name(), ready: 0 }];
        let lane = |number| Lane { turn: turn_of(Some(number)), name: name(&self.address, number), ready: 0 };
        lanes.extend(there.into_iter().map(lane));
        Ok(lanes)
    }

    /// Forgets the channel, which lives on while deliveries of it are held.
    async fn close(&mut self) {
        self.is_open.store(false, Ordering::Relaxed);
        let Some(mut open) = self.open.take() else { return };
        open.give_back();
        if open.is_doubtful {
            // A message that came now would be nobody's: all of them go back.
            open.held.close(open.timeout).await;
        }
    }

    async fn pause(&mut self) {
        let wait = backoff().build().nth(self.failures.min(8)).unwrap_or(PAUSE_MAX);
        self.failures += 1;
        let mut made = self.subscriber.link.made();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Ok(()) = made.changed() => {}
            () = self.stop.cancelled() => {}
        }
    }
}

impl Open {
    /// Asks how many wait in each lane, in one go.
    async fn look(&mut self, queue: &Queue) -> Result<(), BrokerError> {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let asked = self.lanes.iter().map(|lane| {
            let name = lane.name.as_str().into();
            within(self.timeout, self.held.channel().queue_declare(name, options, FieldTable::default()))
        });
        let answers = join_all(asked).await;
        for (lane, answer) in self.lanes.iter_mut().zip(answers) {
            lane.ready = answer.map_err(|failure| refusal(failure, queue))?.message_count();
        }
        self.looked = Some(Instant::now());
        Ok(())
    }

    /// Takes one message of the lane that has this turn, if it still has one.
    async fn get(&mut self, queue: &Queue, turn: usize) -> Result<Option<Message>, BrokerError> {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.turn == turn) else { return Ok(None) };
        let options = BasicGetOptions { no_ack: false };
        let asked = self.held.channel().basic_get(lane.name.as_str().into(), options);
        match within(self.timeout, asked).await {
            Ok(Some(got)) => {
                lane.ready = got.message_count;
                Ok(Some(got.delivery))
            }
            Ok(None) => {
                lane.ready = 0;
                Ok(None)
            }
            Err(failure) => {
                self.is_doubtful = matches!(failure, Failure::Silence(_));
                Err(refusal(failure, queue))
            }
        }
    }

    /// Waits until a message comes to any lane, or it is time to look which lanes there are.
    async fn ring(
        &mut self,
        queue: &Queue,
        subscriber: &Subscriber,
        stop: &CancellationToken,
    ) -> Result<(), BrokerError> {
        let channel = self.held.channel();
        let asked = self.lanes.iter().map(|lane| {
            let (name, tag) = (lane.name.as_str().into(), subscriber.tag_of(&lane.name));
            let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
            within(self.timeout, channel.basic_consume(name, tag, options, arguments))
        });
        let answers = join_all(asked).await;
        let mut bells = Bells { held: Arc::clone(&self.held), streams: Vec::new() };
        let mut failed = None;
        for answer in answers {
            match answer {
                Ok(stream) => bells.streams.push(stream),
                Err(failure) => _ = failed.get_or_insert(failure),
            }
        }
        if let Some(failure) = failed {
            return Err(refusal(failure, queue));
        }
        let first = tokio::select! {
            (rung, at, _) = select_all(bells.streams.iter_mut().map(StreamExt::next)) => Some((at, rung)),
            () = stop.cancelled() => None,
            () = tokio::time::sleep(FIND_EVERY) => None,
        };
        match first {
            Some((at, Some(Ok(message)))) => self.received.push_back((self.lanes[at].turn, message)),
            Some((_, Some(Err(error)))) => return Err(refusal(Failure::Said(error), queue)),
            Some((_, None)) => {
                let (what, reason) = (format!("consuming {queue}"), "the server ended it".to_owned());
                return Err(BrokerError::Unconfirmed { what, reason });
            }
            None => {}
        }
        for (at, message) in bells.off(self.timeout).await.map_err(|failure| refusal(failure, queue))? {
            self.received.push_back((self.lanes[at].turn, message));
        }
        self.looked = None;
        Ok(())
    }

    /// What was received and not given out goes back.
    fn give_back(&mut self) {
        for (_, message) in self.received.drain(..) {
            self.held.release(message.delivery_tag);
        }
    }
}

/// Subscriptions to every lane.
struct Bells {
    held: Arc<Held>,
    streams: Vec<lapin::Consumer>,
}

impl Bells {
    /// Ends them; what they had brought, by place.
    async fn off(mut self, timeout: Duration) -> Result<Vec<(usize, Message)>, Failure> {
        let channel = self.held.channel();
        let asked = self
            .streams
            .iter()
            .map(|stream| within(timeout, channel.basic_cancel(stream.tag(), BasicCancelOptions::default())));
        for answer in join_all(asked).await {
            answer?;
        }
        let mut brought = Vec::new();
        for (at, stream) in self.streams.iter_mut().enumerate() {
            // Ends with `None`, after what was on its way.
            while let Ok(Some(Ok(message))) = tokio::time::timeout(timeout, stream.next()).await {
                brought.push((at, message));
            }
        }
        Ok(brought)
    }
}

impl Drop for Bells {
    fn drop(&mut self) {
        // Deliveries that are held keep the channel open, and it would keep what nobody will ever take.
        for stream in &mut self.streams {
            while let Some(Some(Ok(message))) = stream.next().now_or_never() {
                self.held.release(message.delivery_tag);
            }
        }
    }
}

/// The port's error. A lane that is gone is no error for anybody: the others are found again.
fn refusal(failure: Failure, queue: &Queue) -> BrokerError {
    let what = format!("consuming {queue}");
    if failure.reply_code() != Some(NOT_FOUND) {
        return failure.of(&what, HINT);
    }
    let (queue, reason) = (queue.name(), failure.words());
    if reason.contains(&format!("'{queue}'")) {
        return BrokerError::NoQueue { queue };
    }
    BrokerError::Unconfirmed { what, reason }
}
