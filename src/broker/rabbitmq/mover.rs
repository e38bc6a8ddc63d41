//! Taking everything out of a queue and putting it elsewhere: consume, publish with confirms, acknowledge.
//!
//! The mover consumes with a priority above that of every worker, so that it gets whatever is ready or comes
//! back. It stays subscribed until the queue is deleted: what comes at the last moment has been sent to it.

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};
use std::sync::Arc;
use std::time::Duration;

use super::connection::Link;
use super::failure::{Failure, within};
use crate::broker::BrokerError;

/// Deliveries that a mover holds: the largest workflows are 12 MiB each.
const HELD_MAX: u16 = 32;

/// How long a queue must give nothing to be looked at as perhaps empty.
const QUIET: Duration = Duration::from_millis(200);

/// Above the workers, which say nothing and have 0.
const CONSUMER_PRIORITY: i32 = 10;

/// A subscription that is served before all others.
pub(super) struct Intake {
    queue: String,
    channel: Channel,
    stream: lapin::Consumer,
    _connection: Arc<Connection>,
}

impl Intake {
    pub(super) async fn open(link: &Link, queue: &str, timeout: Duration) -> Result<Intake, BrokerError> {
        let failed = |failure: Failure| {
            failure.of(&format!("taking what is in {queue}"), "grant the user read permission on it")
        };
        let (connection, channel) = link.channel().await?;
        let qos = channel.basic_qos(HELD_MAX, BasicQosOptions { global: false });
        within(timeout, qos).await.map_err(failed)?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-priority".into(), AMQPValue::LongInt(CONSUMER_PRIORITY));
        let tag = "gleitzeit migration";
        let asked =
            channel.basic_consume(queue.into(), tag.into(), BasicConsumeOptions::default(), arguments);
        let stream = within(timeout, asked).await.map_err(failed)?;
        Ok(Intake { queue: queue.to_owned(), channel, stream, _connection: connection })
    }

    /// What has come; empty if nothing comes for a while, or nothing will.
    pub(super) async fn batch(&mut self) -> Result<Vec<Delivery>, BrokerError> {
        let mut batch = Vec::new();
        let mut next = tokio::time::timeout(QUIET, self.stream.next()).await.unwrap_or_default();
        while let Some(delivery) = next {
            let failed = |error| Failure::Said(error).of(&format!("taking what is in {}", self.queue), "");
            batch.push(delivery.map_err(failed)?);
            if batch.len() >= usize::from(HELD_MAX) {
                break;
            }
            next = self.stream.next().now_or_never().unwrap_or_default();
        }
        Ok(batch)
    }

    /// Whether the subscription stands: without it an empty batch says nothing.
    pub(super) fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    /// Forgets a batch. Where that is lost, the messages come again.
    pub(super) async fn acknowledge(&self, batch: &[Delivery]) -> Result<(), BrokerError> {
        let Some(last) = batch.last() else { return Ok(()) };
        // Nothing else is unsettled on this channel, and a batch is settled whole.
        let done = self.channel.basic_ack(last.delivery_tag, BasicAckOptions { multiple: true }).await;
        done.map_err(|error| Failure::Said(error).of(&format!("settling what was in {}", self.queue), ""))
    }

    /// Ends the subscription; what is unsettled goes back.
    pub(super) async fn close(self, timeout: Duration) {
        let closed = within(timeout, self.channel.close(200, "moved".into())).await;
        tracing::trace!(queue = self.queue, ?closed, "mover closed");
    }
}
