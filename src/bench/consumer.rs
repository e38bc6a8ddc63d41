//! The floor's consumer: the least that anybody can do who takes messages from RabbitMQ, keeps results in
//! Redis, and loses nothing. Prefetch 128; for each message one `SET` with a TTL, then one ack. `SET`s of
//! messages that are there at the same time share writes and reads (the client pipelines them); nothing
//! waits for a batch. No parsing, no claim, no lease, no retry, no events.

use futures_util::TryStreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

use super::error::BenchError;
use super::floor::{QUEUE, RESULT_TTL_SECONDS, connect};

/// As many as the floor has unacknowledged at once.
pub const PREFETCH: u16 = 128;

/// The consumer's name on its channel.
const TAG: &str = "floor";

/// How often it looks whether the bench that started it still lives.
const PARENT_EVERY: Duration = Duration::from_secs(1);

/// How the bench talks to Redis: on a busy machine an answer that is late is slow, not lost.
pub(super) fn patient() -> AsyncConnectionConfig {
    let patience = Some(Duration::from_secs(30));
    AsyncConnectionConfig::new().set_connection_timeout(patience).set_response_timeout(patience)
}

/// Consumes the floor's queue until SIGTERM, or until whoever started this process is gone.
///
/// # Errors
/// What RabbitMQ or Redis says.
pub async fn run(amqp: &str, redis: &str, prefix: &str) -> Result<(), BenchError> {
    let connection = connect(amqp, "consumer").await?;
    let channel = connection.create_channel().await.map_err(BenchError::amqp("open a channel"))?;
    let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
    qos.await.map_err(BenchError::amqp("set its prefetch"))?;
    let client = redis::Client::open(redis).map_err(BenchError::redis("read the address"))?;
    let results = client
        .get_multiplexed_async_connection_with_config(&patient())
        .await
        .map_err(BenchError::redis("connect"))?;
    let consuming = channel.basic_consume(
        QUEUE.into(),
        TAG.into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let deliveries = consuming.await.map_err(BenchError::amqp("consume"))?;

    let work = deliveries
        .map_err(BenchError::amqp_error)
        .try_for_each_concurrent(usize::from(PREFETCH), |delivery| {
            record_and_settle(delivery, results.clone(), prefix)
        });
    tokio::pin!(work);
    tokio::select! {
        ended = &mut work => ended?,
        stopped = stop() => {
            stopped?;
            // A result is told before its message is acknowledged: what has begun is brought to its end.
            let cancel = channel.basic_cancel(TAG.into(), BasicCancelOptions::default());
            cancel.await.map_err(BenchError::amqp("stop consuming"))?;
            work.await?;
        }
    }
    connection.close(200, "measured".into()).await.map_err(BenchError::amqp("disconnect"))
}

async fn record_and_settle(
    delivery: Delivery,
    mut results: MultiplexedConnection,
    prefix: &str,
) -> Result<(), BenchError> {
    let properties = &delivery.properties;
    let id = properties.message_id().as_ref().map(|id| id.as_str()).unwrap_or_default();
    let set = redis::Cmd::set_ex(key(prefix, id), &delivery.data[..], RESULT_TTL_SECONDS);
    match properties.correlation_id() {
        None => {
            let set: Result<(), _> = set.query_async(&mut results).await;
            set.map_err(BenchError::redis("keep a result"))?;
        }
        Some(channel) => {
            let mut both = redis::pipe();
            both.add_command(set).ignore().publish(channel.as_str(), id).ignore();
            let both: Result<(), _> = both.query_async(&mut results).await;
            both.map_err(BenchError::redis("keep and tell a result"))?;
        }
    }
    let acked = delivery.ack(BasicAckOptions::default()).await.map_err(BenchError::amqp_error)?;
    if acked {
        return Ok(());
    }
    Err(BenchError::Invalid("the floor's channel closed under a delivery".to_owned()))
}

/// Where the floor keeps a result.
pub(super) fn key(prefix: &str, id: &str) -> String {
    format!("{prefix}:bench:{id}")
}

async fn stop() -> Result<(), BenchError> {
    let unheard = |error: std::io::Error| BenchError::Process {
        command: "bench".to_owned(),
        reason: error.to_string(),
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
    let parent = std::os::unix::process::parent_id();
    let mut look = tokio::time::interval(PARENT_EVERY);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = look.tick() => if std::os::unix::process::parent_id() != parent { return Ok(()) },
        }
    }
}
