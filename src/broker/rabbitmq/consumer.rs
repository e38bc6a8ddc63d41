//! Consuming: deliveries with a receipt, and broadcasts.

use async_trait::async_trait;
use bytes::Bytes;
use lapin::types::DeliveryTag;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

use super::feed::{Fed, Feed, Held, Subscriber};
use super::message::{deaths, from_amqp};
use crate::broker::{BrokerError, Consumer, Delivery, Heard, Listener, Receipt, Settlement};
use crate::topology::Queue;

/// One subscription to one queue.
#[derive(Debug)]
pub(super) struct QueueConsumer {
    queue: Queue,
    feed: Feed,
}

impl QueueConsumer {
    pub(super) async fn start(queue: Queue, subscriber: Subscriber) -> Result<QueueConsumer, BrokerError> {
        Ok(QueueConsumer { queue, feed: Feed::start(subscriber).await? })
    }
}

#[async_trait]
impl Consumer for QueueConsumer {
    async fn next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        loop {
            match self.feed.next().await? {
                Ok(Fed::Delivery(delivery, held)) => {
                    return Some(Ok(receive(&self.queue, delivery, held, None)));
                }
                // What the lost connection had comes again by itself.
                Ok(Fed::Again) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn is_subscribed(&self) -> bool {
        self.feed.is_subscribed()
    }

    async fn cancel(&mut self) -> Result<(), BrokerError> {
        self.feed.cancel().await;
        Ok(())
    }
}

/// A delivery for the port; `place` is kept until it is settled.
pub(super) fn receive(
    queue: &Queue,
    delivery: lapin::message::Delivery,
    held: Arc<Held>,
    place: Option<OwnedSemaphorePermit>,
) -> Delivery {
    let lapin::message::Delivery { exchange, routing_key, redelivered, properties, data, .. } = delivery;
    Delivery {
        queue: queue.clone(),
        body: Bytes::from(data),
        properties: from_amqp(&properties),
        redelivered,
        deaths: deaths(queue, exchange.as_str(), routing_key.as_str(), &properties),
        receipt: Box::new(ChannelReceipt { tag: delivery.delivery_tag, held, settled: false, _place: place }),
    }
}

/// The handle on one delivery of a channel.
#[derive(Debug)]
struct ChannelReceipt {
    tag: DeliveryTag,
    held: Arc<Held>,
    settled: bool,
    _place: Option<OwnedSemaphorePermit>,
}

#[async_trait]
impl Receipt for ChannelReceipt {
    async fn settle(mut self: Box<Self>, settlement: Settlement) -> Result<(), BrokerError> {
        self.settled = true;
        let queued = match settlement {
            Settlement::Done => self.held.acknowledge(self.tag),
            Settlement::Release => self.held.release(self.tag),
        };
        if queued { Ok(()) } else { Err(BrokerError::DeliveryLost) }
    }
}

impl Drop for ChannelReceipt {
    fn drop(&mut self) {
        if !self.settled {
            self.held.release(self.tag);
        }
    }
}

/// A subscription to broadcasts.
#[derive(Debug)]
pub(super) struct BroadcastListener {
    feed: Feed,
}

impl BroadcastListener {
    pub(super) async fn start(subscriber: Subscriber) -> Result<BroadcastListener, BrokerError> {
        Ok(BroadcastListener { feed: Feed::start(subscriber).await? })
    }
}

#[async_trait]
impl Listener for BroadcastListener {
    async fn next(&mut self) -> Option<Heard> {
        loop {
            match self.feed.next().await? {
                Ok(Fed::Delivery(delivery, held)) => {
                    // Settled before it is given out: at most once, and the server may send the next.
                    held.acknowledge(delivery.delivery_tag);
                    return Some(Heard::Broadcast(Bytes::from(delivery.data)));
                }
                Ok(Fed::Again) => return Some(Heard::Gap),
                Err(error) => tracing::error!(%error, "cannot listen to broadcasts; trying again"),
            }
        }
    }
}
