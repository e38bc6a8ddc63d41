//! Consuming: deliveries with a receipt, and broadcasts.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use std::sync::Arc;

use super::feed::{Feed, Held, Subscriber, give_back};
use super::message::{deaths, from_amqp};
use crate::broker::{BrokerError, Consumer, Delivery, Listener, Receipt, Settlement};
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
        Some(match self.feed.next().await? {
            Ok((delivery, held)) => Ok(self.receive(delivery, held)),
            Err(error) => Err(error),
        })
    }

    async fn cancel(&mut self) -> Result<(), BrokerError> {
        self.feed.cancel().await;
        Ok(())
    }
}

impl QueueConsumer {
    fn receive(&self, delivery: lapin::message::Delivery, held: Arc<Held>) -> Delivery {
        let lapin::message::Delivery { exchange, routing_key, redelivered, properties, data, acker, .. } =
            delivery;
        Delivery {
            queue: self.queue.clone(),
            body: Bytes::from(data),
            properties: from_amqp(&properties),
            redelivered,
            deaths: deaths(&self.queue, exchange.as_str(), routing_key.as_str(), &properties),
            receipt: Box::new(ChannelReceipt { acker, held, settled: false }),
        }
    }
}

/// The handle on one delivery of a channel.
#[derive(Debug)]
struct ChannelReceipt {
    acker: lapin::Acker,
    /// Keeps the channel open until this is settled.
    #[expect(dead_code, reason = "held, not read")]
    held: Arc<Held>,
    settled: bool,
}

#[async_trait]
impl Receipt for ChannelReceipt {
    /// Queues the frame and does not wait until it is written: the server answers neither, and that it was
    /// written would not mean that it arrived.
    async fn settle(mut self: Box<Self>, settlement: Settlement) -> Result<(), BrokerError> {
        self.settled = true;
        let queued = match settlement {
            Settlement::Done => self.acker.ack(BasicAckOptions::default()).now_or_never(),
            Settlement::Release => {
                self.acker.nack(BasicNackOptions { multiple: false, requeue: true }).now_or_never()
            }
        };
        match queued {
            None | Some(Ok(true)) => Ok(()),
            Some(Ok(false) | Err(_)) => Err(BrokerError::DeliveryLost),
        }
    }
}

impl Drop for ChannelReceipt {
    fn drop(&mut self) {
        if !self.settled {
            give_back(&self.acker);
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
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.feed.next().await? {
                Ok((delivery, _held)) => {
                    // Settled before it is given out: at most once, and the server may send the next.
                    let _ = delivery.acker.ack(BasicAckOptions::default()).now_or_never();
                    return Some(Bytes::from(delivery.data));
                }
                Err(error) => tracing::error!(%error, "cannot listen to broadcasts; trying again"),
            }
        }
    }
}
