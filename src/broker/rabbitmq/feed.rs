//! A subscription that heals itself: what consumers and listeners have in common.
//!
//! A feed has one channel, with nothing else on it. When the channel ends, for whatever reason (a lost
//! connection, an error, a queue that was deleted, the server's consumer timeout), a task opens another one
//! and subscribes again, with backoff, for as long as it takes. Deliveries of the old channel stay with
//! whoever holds them, and settling them says that they are lost.

use backon::BackoffBuilder;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, DeliveryTag, FieldTable, ShortString};
use lapin::{Channel, Connection};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::connection::{Link, PAUSE_MAX, backoff};
use super::failure::{Failure, NOT_FOUND, within};
use crate::broker::BrokerError;
use crate::topology::Queue;
use crate::topology::plan::CONTROL;

/// What a feed is fed from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A queue, with the number of deliveries that may be unsettled.
    Queue(Queue, NonZeroU16),
    /// Broadcasts, through an exclusive queue that the server names and that goes with the connection.
    Broadcasts,
}

/// Broadcasts that may wait in a listener; older ones are dropped by the server, which tells nobody.
const BROADCASTS_WAITING_MAX: u16 = 1_000;
/// Broadcasts that the server sends ahead.
const BROADCAST_PREFETCH: u16 = 100;
/// After so many broadcasts the server is asked how many wait.
const BROADCASTS_A_LOOK: u16 = 100;
/// With so many waiting, some may have been dropped. The queue was full when one was, and has since lost what was
/// taken until the next look and what the server sends ahead meanwhile.
const BROADCASTS_MANY: u16 = BROADCASTS_WAITING_MAX - 2 * BROADCASTS_A_LOOK - BROADCAST_PREFETCH;

/// What a feed gives.
#[allow(clippy::large_enum_variant, reason = "one at a time, and taken apart where it is given")]
#[derive(Debug)]
pub(super) enum Fed {
    Delivery(Delivery, Arc<Held>),
    /// It is subscribed again after it was not, or broadcasts may have been dropped.
    Again,
}

/// What a feed needs to subscribe, again and again.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) source: Source,
    pub(super) link: Arc<Link>,
    /// The beginning of the consumer tag: who consumes.
    pub(super) name: String,
    pub(super) reply_timeout: Duration,
    pub(super) closed: CancellationToken,
    pub(super) tasks: TaskTracker,
    /// Subscriptions made, for tags that are never used twice.
    pub(super) serial: AtomicU64,
}

/// The channel of a subscription. It lives as long as the subscription or any delivery of it: closing it
/// would take the deliveries back.
///
/// Settling goes by tag, on this channel and no other. lapin's `Acker` would do it in a task, which the
/// closing of the channel may overtake; here the frame is queued for writing when the call returns, before
/// anything that comes later. Nobody waits until it is written: the server answers neither, and that it was
/// written would not mean that it arrived.
#[derive(Debug)]
pub(super) struct Held {
    channel: Channel,
    _connection: Arc<Connection>,
}

impl Held {
    pub(super) fn new(channel: Channel, connection: Arc<Connection>) -> Held {
        Held { channel, _connection: connection }
    }

    /// For what the subscription asks, and nobody else.
    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Ends it with whatever it holds, which goes back.
    pub(super) async fn close(&self, timeout: Duration) {
        let closed = within(timeout, self.channel.close(200, "closed".into())).await;
        tracing::trace!(?closed, "consuming channel closed");
    }

    /// Forgets a delivery; `false` if the channel is gone, and the delivery with it.
    pub(super) fn acknowledge(&self, delivery: DeliveryTag) -> bool {
        let options = BasicAckOptions { multiple: false };
        !matches!(self.channel.basic_ack(delivery, options).now_or_never(), Some(Err(_)))
    }

    /// Returns a delivery to its queue; `false` if the channel is gone, which returns it too.
    pub(super) fn release(&self, delivery: DeliveryTag) -> bool {
        let options = BasicNackOptions { multiple: false, requeue: true };
        !matches!(self.channel.basic_nack(delivery, options).now_or_never(), Some(Err(_)))
    }
}

/// A live subscription.
#[derive(Debug)]
struct Subscription {
    stream: lapin::Consumer,
    held: Arc<Held>,
    /// The queue of its own, of a listener.
    own_queue: Option<ShortString>,
}

/// Deliveries, across lost connections.
#[derive(Debug)]
pub(super) struct Feed {
    subscriber: Arc<Subscriber>,
    state: State,
    /// The last error given out since deliveries came: it is not repeated.
    reported: Option<BrokerError>,
    /// Deliveries until the next look at how many broadcasts wait.
    until_look: u16,
    /// This subscription was lost and its connection was not: so it is this one that people are told of.
    is_lost_alone: bool,
}

#[derive(Debug)]
enum State {
    Subscribed(Subscription),
    /// In a task of its own, so that a caller that drops `next` does not start it over.
    Healing(AbortOnDropHandle<Result<Subscription, BrokerError>>),
    Ended,
}

impl Feed {
    /// Subscribes; one attempt.
    pub(super) async fn start(subscriber: Subscriber) -> Result<Feed, BrokerError> {
        let subscription = subscriber.subscribe().await?;
        let subscriber = Arc::new(subscriber);
        let state = State::Subscribed(subscription);
        Ok(Feed { subscriber, state, reported: None, until_look: 0, is_lost_alone: false })
    }

    /// The next delivery; `None` once cancelled or closed. Cancel-safe.
    ///
    /// An error is one that needs a person. It is given out once, and the feed goes on trying.
    pub(super) async fn next(&mut self) -> Option<Result<Fed, BrokerError>> {
        loop {
            match &mut self.state {
                State::Ended => return None,
                State::Subscribed(subscription)
                    if self.until_look == 0 && subscription.own_queue.is_some() =>
                {
                    let are_many = subscription.are_many_waiting(self.subscriber.reply_timeout).await;
                    self.until_look = BROADCASTS_A_LOOK;
                    if are_many {
                        return Some(Ok(Fed::Again));
                    }
                }
                State::Subscribed(subscription) => match subscription.stream.next().await {
                    Some(Ok(delivery)) => {
                        self.reported = None;
                        self.until_look = self.until_look.saturating_sub(1);
                        return Some(Ok(Fed::Delivery(delivery, Arc::clone(&subscription.held))));
                    }
                    Some(Err(error)) => {
                        let is_alone = error.is_amqp_soft_error();
                        self.lost(&Failure::Said(error).words(), is_alone);
                    }
                    None => self.lost("the server cancelled the subscription", true),
                },
                State::Healing(task) => match task.await {
                    Ok(Ok(subscription)) => {
                        let source = self.subscriber.label();
                        match std::mem::take(&mut self.is_lost_alone) {
                            true => tracing::warn!(source, "subscribed again"),
                            false => tracing::debug!(source, "subscribed again"),
                        }
                        // What is wrong from now on is news.
                        self.reported = None;
                        self.state = State::Subscribed(subscription);
                        return Some(Ok(Fed::Again));
                    }
                    Ok(Err(BrokerError::Closed)) | Err(_) => self.state = State::Ended,
                    Ok(Err(error)) => {
                        self.reported = Some(error.clone());
                        self.heal();
                        return Some(Err(error));
                    }
                },
            }
        }
    }

    /// Asks for no more. What was received but not given out goes back.
    pub(super) async fn cancel(&mut self) {
        let State::Subscribed(mut subscription) = std::mem::replace(&mut self.state, State::Ended) else {
            return;
        };
        let timeout = self.subscriber.reply_timeout;
        let tag = subscription.stream.tag();
        let cancelled = subscription.held.channel.basic_cancel(tag, BasicCancelOptions::default());
        if let Err(failure) = within(timeout, cancelled).await {
            // The subscription ended by itself, and the server has everything back.
            tracing::debug!(reason = failure.words(), "subscription not cancelled in order");
            return;
        }
        // Ends with `None`, after what was on its way.
        while let Ok(Some(Ok(delivery))) = tokio::time::timeout(timeout, subscription.stream.next()).await {
            subscription.held.release(delivery.delivery_tag);
        }
    }

    fn lost(&mut self, reason: &str, is_alone: bool) {
        if self.subscriber.closed.is_cancelled() {
            self.state = State::Ended;
            return;
        }
        let source = self.subscriber.label();
        if is_alone {
            tracing::warn!(source, reason, "subscription lost; subscribing again");
        } else {
            tracing::debug!(source, reason, "subscription lost with its connection");
        }
        self.is_lost_alone = is_alone;
        self.heal();
    }

    /// Whether deliveries can come now.
    pub(super) fn is_subscribed(&self) -> bool {
        matches!(self.state, State::Subscribed(_))
    }

    fn heal(&mut self) {
        let healing = Arc::clone(&self.subscriber).heal(self.reported.clone());
        self.state = State::Healing(AbortOnDropHandle::new(self.subscriber.tasks.spawn(healing)));
    }
}

impl Subscription {
    /// Whether so many broadcasts wait that some may have been dropped. If the server does not answer, the channel
    /// is lost, and that is told by itself.
    async fn are_many_waiting(&self, timeout: Duration) -> bool {
        let Some(queue) = &self.own_queue else { return false };
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let look = self.held.channel.queue_declare(queue.clone(), options, FieldTable::default());
        within(timeout, look).await.is_ok_and(|queue| queue.message_count() >= u32::from(BROADCASTS_MANY))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // Deliveries that are held keep the channel open, and it would keep what nobody will ever take.
        while let Some(Some(Ok(delivery))) = self.stream.next().now_or_never() {
            self.held.release(delivery.delivery_tag);
        }
    }
}

impl Subscriber {
    /// What people know the source by.
    fn label(&self) -> String {
        match &self.source {
            Source::Queue(queue, _) => queue.name(),
            Source::Broadcasts => CONTROL.to_owned(),
        }
    }

    /// Subscribes, for as long as it takes. Ends with an error that needs a person unless that is `reported`.
    async fn heal(self: Arc<Self>, reported: Option<BrokerError>) -> Result<Subscription, BrokerError> {
        let mut waits = backoff().build();
        let mut made = self.link.made();
        // After an error that was just reported the next attempt can wait.
        let mut at_once = reported.is_none();
        loop {
            if !at_once {
                tokio::select! {
                    () = tokio::time::sleep(waits.next().unwrap_or(PAUSE_MAX)) => {}
                    Ok(()) = made.changed() => {}
                    () = self.closed.cancelled() => return Err(BrokerError::Closed),
                }
            }
            at_once = false;
            if self.closed.is_cancelled() {
                return Err(BrokerError::Closed);
            }
            match self.subscribe().await {
                Ok(subscription) => return Ok(subscription),
                // The link tells people of a login that is refused, once for all who use it.
                Err(error @ BrokerError::LoginRefused { .. }) => {
                    tracing::debug!(source = %self.label(), %error, "not subscribed yet");
                }
                Err(error) if !error.is_transient() && reported.as_ref() != Some(&error) => {
                    return Err(error);
                }
                Err(error) => tracing::debug!(source = %self.label(), %error, "not subscribed yet"),
            }
        }
    }

    async fn subscribe(&self) -> Result<Subscription, BrokerError> {
        let (connection, channel) = self.link.channel().await?;
        let (queue, prefetch, own_queue) = match &self.source {
            Source::Queue(queue, prefetch) => (queue.name(), prefetch.get(), None),
            Source::Broadcasts => {
                let queue = self.broadcast_queue(&channel).await?;
                (queue.clone(), BROADCAST_PREFETCH, Some(queue.as_str().into()))
            }
        };
        let what = format!("subscribing to {}", self.label());
        let failed = |failure: Failure| match (failure.reply_code(), &self.source) {
            (Some(NOT_FOUND), Source::Queue(queue, _)) => BrokerError::NoQueue { queue: queue.name() },
            _ => failure.of(&what, "grant the user read permission on it"),
        };
        // Per consumer, never per channel: quorum queues refuse that.
        let qos = channel.basic_qos(prefetch, BasicQosOptions { global: false });
        within(self.reply_timeout, qos).await.map_err(failed)?;
        let options = BasicConsumeOptions::default();
        let consume = channel.basic_consume(queue.into(), self.tag(), options, FieldTable::default());
        let stream = within(self.reply_timeout, consume).await.map_err(failed)?;
        let held = Arc::new(Held::new(channel, connection));
        Ok(Subscription { stream, held, own_queue })
    }

    /// An exclusive classic queue: no other kind of temporary queue is allowed on every release.
    async fn broadcast_queue(&self, channel: &Channel) -> Result<String, BrokerError> {
        let failed = |failure: Failure| failure.of("listening to broadcasts", LISTEN_HINT);
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(i64::from(BROADCASTS_WAITING_MAX)));
        let declare = channel.queue_declare("".into(), options, arguments);
        let queue = within(self.reply_timeout, declare).await.map_err(failed)?.name().to_string();
        let (name, exchange) = (queue.as_str().into(), CONTROL.into());
        let bind =
            channel.queue_bind(name, exchange, "".into(), QueueBindOptions::default(), FieldTable::default());
        within(self.reply_timeout, bind).await.map_err(failed)?;
        Ok(queue)
    }

    fn tag(&self) -> ShortString {
        self.tag_of(&self.label())
    }

    /// A tag that explains itself in the server's console, at most 255 bytes.
    pub(super) fn tag_of(&self, source: &str) -> ShortString {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let name: String = self.name.chars().filter(char::is_ascii).take(100).collect();
        let source: String = source.chars().take(130).collect();
        format!("{name} {source} #{serial}").into()
    }
}

/// What an operator must allow to whoever listens.
const LISTEN_HINT: &str =
    "grant the user configure, write and read permission on amq.gen-*, and read on gleitzeit.control";
