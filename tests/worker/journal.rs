//! What a worker has caused, in the order in which it was done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use gleitzeit::broker::{BrokerError, Consumer, Delivery, Outgoing, Receipt, Settlement, Target};

/// The longest that anything may take.
const SOON: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Records (`finish`) and publishes (`publish QUEUE`) when they are answered, settlements (`settle QUEUE`,
/// `release QUEUE`) when they are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    pub(crate) fn note(&self, entry: impl Into<String>) {
        self.lock().push(entry.into());
    }

    pub(crate) fn published(&self, messages: &[Outgoing]) {
        for message in messages {
            self.note(match &message.target {
                Target::Queue(queue) => format!("publish {}", queue.name()),
                Target::Reply(name) => format!("publish {name}"),
            });
        }
    }

    /// Waits for the entry, and gives everything since the last such question.
    pub(crate) async fn until(&self, entry: &str) -> Vec<String> {
        let looking = async {
            while !self.lock().iter().any(|noted| noted == entry) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let found = tokio::time::timeout(SOON, looking).await;
        let entries = self.so_far();
        assert!(found.is_ok(), "no {entry:?} in {entries:?}");
        entries
    }

    /// Everything since the last question.
    pub(crate) fn so_far(&self) -> Vec<String> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A consumer, or the receipt of one of its deliveries, with settlements noted.
#[derive(Debug)]
pub(crate) struct Noted<T> {
    pub(crate) inner: T,
    pub(crate) queue: String,
    pub(crate) journal: Journal,
}

#[async_trait]
impl Consumer for Noted<Box<dyn Consumer>> {
    async fn next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        let next = self.inner.next().await?;
        Some(next.map(|delivery| {
            let (queue, journal) = (self.queue.clone(), self.journal.clone());
            let receipt = Box::new(Noted { inner: delivery.receipt, queue, journal });
            Delivery { receipt, ..delivery }
        }))
    }

    async fn cancel(&mut self) -> Result<(), BrokerError> {
        self.inner.cancel().await
    }
}

#[async_trait]
impl Receipt for Noted<Box<dyn Receipt>> {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), BrokerError> {
        let how = match settlement {
            Settlement::Done => "settle",
            Settlement::Release => "release",
        };
        self.journal.note(format!("{how} {}", self.queue));
        self.inner.settle(settlement).await
    }
}
