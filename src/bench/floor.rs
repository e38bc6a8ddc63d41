//! The floor, as the bench sees it: a queue of its own with the arguments of a task queue, publishing with
//! confirms, the round trip. Who consumes is [`super::consumer`], in a process of its own.

use futures_util::StreamExt;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::error::BenchError;
use crate::core::priority::Priority;
use crate::topology::plan::{Argument, QueueDeclaration};

/// The floor's queue, on the configured virtual host, deleted after each round.
pub(super) const QUEUE: &str = "gleitzeit.bench.floor";

/// How many messages wait for their confirm at most; beyond that more in flight makes nothing faster.
const CONFIRM_WINDOW: usize = 1000;

/// How long one round trip may take.
const ROUND_TRIP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a result of the floor is kept, should the bench die before it deletes it; seconds.
pub(super) const RESULT_TTL_SECONDS: u64 = 3600;

/// The floor's producer.
#[derive(Debug)]
pub(super) struct Floor {
    connection: Connection,
    channel: Channel,
    body: Vec<u8>,
}

impl Floor {
    /// Connects and makes a new, empty queue like `like`. `body` is what every message holds.
    pub(super) async fn open(
        amqp: &str,
        like: &QueueDeclaration,
        body: Vec<u8>,
    ) -> Result<Floor, BenchError> {
        let connection = connect(amqp, "producer").await?;
        let channel = connection.create_channel().await.map_err(BenchError::amqp("open a channel"))?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        confirms.await.map_err(BenchError::amqp("ask for confirms"))?;
        let floor = Floor { connection, channel, body };
        // What a bench left that was killed.
        floor.delete().await?;
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let declared = floor.channel.queue_declare(QUEUE.into(), options, table(&like.arguments));
        declared.await.map_err(BenchError::amqp("declare its queue"))?;
        Ok(floor)
    }

    /// Publishes persistent messages with these ids, pipelined, and returns once each is confirmed.
    pub(super) async fn publish(&self, ids: &[String]) -> Result<Duration, BenchError> {
        let started = Instant::now();
        let mut unconfirmed = VecDeque::with_capacity(CONFIRM_WINDOW);
        for id in ids {
            if unconfirmed.len() == CONFIRM_WINDOW
                && let Some(oldest) = unconfirmed.pop_front()
            {
                confirmed(oldest).await?;
            }
            unconfirmed.push_back(self.send(id, None).await?);
        }
        for confirm in unconfirmed {
            confirmed(confirm).await?;
        }
        Ok(started.elapsed())
    }

    /// One message after the other: published, confirmed, consumed, `SET`, notified (`PUBLISH` to a subscriber
    /// here), acknowledged. Gives the time of each from publishing to both confirm and notification.
    pub(super) async fn round_trips(
        &self,
        redis: &redis::Client,
        channel: &str,
        ids: &[String],
    ) -> Result<Vec<Duration>, BenchError> {
        let mut subscriber =
            redis.get_async_pubsub().await.map_err(BenchError::redis("connect a subscriber"))?;
        subscriber.subscribe(channel).await.map_err(BenchError::redis("subscribe"))?;
        let mut told = subscriber.on_message();
        let mut times = Vec::with_capacity(ids.len());
        for id in ids {
            let started = Instant::now();
            confirmed(self.send(id, Some(channel)).await?).await?;
            let next = tokio::time::timeout(ROUND_TRIP_TIMEOUT, told.next());
            match next.await {
                Ok(Some(told)) if told.get_payload_bytes() == id.as_bytes() => times.push(started.elapsed()),
                Ok(other) => {
                    let got =
                        other.map(|told| String::from_utf8_lossy(told.get_payload_bytes()).into_owned());
                    return Err(BenchError::Invalid(format!("instead of {id} the floor answered {got:?}")));
                }
                Err(_) => {
                    let seconds = ROUND_TRIP_TIMEOUT.as_secs();
                    return Err(BenchError::Invalid(format!(
                        "the floor did not answer {id} within {seconds} s"
                    )));
                }
            }
        }
        Ok(times)
    }

    /// Another channel of its connection.
    pub(super) async fn open_channel(&self) -> Result<Channel, BenchError> {
        self.connection.create_channel().await.map_err(BenchError::amqp("open a channel"))
    }

    /// Messages that wait in the queue.
    pub(super) async fn waiting(&self) -> Result<u32, BenchError> {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let found = self.channel.queue_declare(QUEUE.into(), options, FieldTable::default());
        Ok(found.await.map_err(BenchError::amqp("look at its queue"))?.message_count())
    }

    /// Deletes the queue with what is in it, and disconnects.
    pub(super) async fn close(self) -> Result<(), BenchError> {
        self.delete().await?;
        let closing = self.connection.close(200, "measured".into());
        closing.await.map_err(BenchError::amqp("disconnect"))
    }

    async fn delete(&self) -> Result<(), BenchError> {
        let deleting = self.channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default());
        deleting.await.map(|_| ()).map_err(BenchError::amqp("delete its queue"))
    }

    /// Mandatory as ours are; to the default exchange, which is the shortest way into a queue.
    #[allow(clippy::disallowed_methods, reason = "the floor is what the publisher is measured against")]
    async fn send(&self, id: &str, notify: Option<&str>) -> Result<PublisherConfirm, BenchError> {
        let mut properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_priority(Priority::NORMAL.number())
            .with_message_id(id.into());
        if let Some(channel) = notify {
            properties = properties.with_correlation_id(channel.into());
        }
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let sending = self.channel.basic_publish("".into(), QUEUE.into(), options, &self.body, properties);
        sending.await.map_err(BenchError::amqp("publish"))
    }
}

/// Deletes the floor's queue, if a run was stopped before it did so itself.
pub(super) async fn remove(amqp: &str) -> Result<(), BenchError> {
    let connection = connect(amqp, "clean-up").await?;
    let channel = connection.create_channel().await.map_err(BenchError::amqp("open a channel"))?;
    let deleting = channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default());
    deleting.await.map_err(BenchError::amqp("delete its queue"))?;
    connection.close(200, "cleaned up".into()).await.map_err(BenchError::amqp("disconnect"))
}

/// A connection that the server's console shows as the floor's.
pub(super) async fn connect(amqp: &str, role: &str) -> Result<Connection, BenchError> {
    let name = format!("gleitzeit bench floor {role} {}", std::process::id());
    let properties = ConnectionProperties::default().with_connection_name(name.as_str().into());
    Connection::connect(amqp, properties).await.map_err(BenchError::amqp("connect to RabbitMQ"))
}

async fn confirmed(confirm: PublisherConfirm) -> Result<(), BenchError> {
    let refused = |reason: &str| BenchError::Amqp { what: "publish", reason: reason.to_owned() };
    match confirm.await.map_err(BenchError::amqp("publish"))? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) => Err(refused("its queue is gone")),
        Confirmation::Nack(_) => Err(refused("the server refused a message")),
        Confirmation::NotRequested => Err(refused("the channel does not confirm")),
    }
}

fn table(arguments: &[(&'static str, Argument)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        table.insert(ShortString::from(*name), value);
    }
    table
}
