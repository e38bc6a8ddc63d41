//! Events: transient, unconfirmed, in batches, on a channel of their own. Under pressure they are dropped
//! and counted; nobody ever waits for one.

use bytes::Bytes;
use futures_util::future::join_all;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Connection};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Link;
use super::message::TRANSIENT;
use crate::topology::plan::EVENTS;

/// Events that may wait to be written.
const WAITING_MAX: usize = 8_192;
/// Events written together.
const BATCH: usize = 256;
/// How long one batch may take before the channel counts as stuck.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long nothing is tried after a failure; events of that time are dropped.
const PAUSE: Duration = Duration::from_millis(500);

/// Takes events without ever waiting.
#[derive(Debug)]
pub(super) struct Events {
    sender: mpsc::Sender<Event>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Event {
    routing_key: ShortString,
    body: Bytes,
}

impl Events {
    /// Starts the task that writes them on `tasks`; it ends when `closed` fires and what waits is written.
    pub(super) fn start(link: &Arc<Link>, tasks: &TaskTracker, closed: &CancellationToken) -> Events {
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer { link: Arc::clone(link), waiting, dropped: Arc::clone(&dropped), open: None };
        tasks.spawn(writer.run(closed.clone()));
        Events { sender, dropped }
    }

    /// Queues an event, or drops and counts it.
    pub(super) fn emit(&self, routing_key: &str, body: Bytes) {
        let queued = ShortString::try_new(routing_key)
            .is_ok_and(|routing_key| self.sender.try_send(Event { routing_key, body }).is_ok());
        if !queued {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Writer {
    link: Arc<Link>,
    waiting: mpsc::Receiver<Event>,
    dropped: Arc<AtomicU64>,
    open: Option<(Arc<Connection>, Channel)>,
}

impl Writer {
    async fn run(mut self, closed: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let received = tokio::select! {
                biased;
                () = closed.cancelled(), if !self.waiting.is_closed() => {
                    self.waiting.close();
                    continue;
                }
                received = self.waiting.recv_many(&mut batch, BATCH) => received,
            };
            if received == 0 {
                break;
            }
            if !self.write(&batch).await {
                self.dropped.fetch_add(received as u64, Ordering::Relaxed);
                self.open = None;
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = closed.cancelled() => {}
                }
            }
            batch.clear();
        }
    }

    #[allow(clippy::disallowed_methods, reason = "events are transient and unconfirmed by contract")]
    async fn write(&mut self, batch: &[Event]) -> bool {
        let usable = self
            .open
            .as_ref()
            .is_some_and(|(link, channel)| link.status().connected() && channel.status().connected());
        if !usable {
            self.open = match tokio::time::timeout(WRITE_TIMEOUT, self.link.channel()).await {
                Ok(Ok(open)) => Some(open),
                Ok(Err(_)) | Err(_) => return false,
            };
        }
        let Some((_, channel)) = &self.open else { return false };
        let writes = batch.iter().map(|event| {
            let properties = BasicProperties::default()
                .with_delivery_mode(TRANSIENT)
                .with_content_type("application/json".into());
            let options = BasicPublishOptions::default();
            channel.basic_publish(EVENTS.into(), event.routing_key.clone(), options, &event.body, properties)
        });
        match tokio::time::timeout(WRITE_TIMEOUT, join_all(writes)).await {
            Ok(results) => results.iter().all(Result::is_ok),
            Err(_) => false,
        }
    }
}
