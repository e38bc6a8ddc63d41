//! Taking deliveries: one loop for each subscription, and one for each queue that subscribes again.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::execute::protocol_of;
use super::places::{Places, Subscription};
use crate::broker::{BrokerError, Consumer};
use crate::core::protocol::ProtocolId;
use crate::provider::limit::HOLD;
use crate::topology::Queue;

/// The pause after an error that needs a person.
const PAUSE: Duration = Duration::from_secs(2);
/// What frees one place often frees more: they are asked for together.
const GATHER: Duration = Duration::from_millis(100);

/// What the loops belong to.
#[derive(Debug, Clone)]
pub(super) struct Loops {
    /// The loops themselves.
    pub(super) takers: TaskTracker,
    /// What they have taken.
    pub(super) deliveries: TaskTracker,
    /// Fires when they must take no more.
    pub(super) drain: CancellationToken,
}

impl Shared {
    /// Takes deliveries of one subscription until it is closed or `drain` fires.
    pub(super) async fn take(
        self: Arc<Self>,
        mut consumer: Box<dyn Consumer>,
        subscription: Arc<Subscription>,
        loops: Loops,
    ) {
        loop {
            let next = tokio::select! {
                biased;
                () = loops.drain.cancelled() => break,
                () = subscription.close.cancelled() => break,
                next = consumer.next() => next,
            };
            match next {
                Some(Ok(delivery)) => {
                    let place = subscription.enter();
                    loops.deliveries.spawn(Arc::clone(&self).handle(delivery, Some(place)));
                }
                Some(Err(error)) => {
                    tracing::error!(%error, "a queue cannot be consumed");
                    let mended = async {
                        self.declare_until_it_is_there(&error).await;
                        tokio::time::sleep(PAUSE).await;
                    };
                    tokio::select! {
                        () = loops.drain.cancelled() => break,
                        () = subscription.close.cancelled() => break,
                        () = mended => {}
                    }
                }
                None => break,
            }
        }
        if let Err(error) = consumer.cancel().await {
            tracing::debug!(%error, "could not cancel a consumer; its deliveries go back with the connection");
        }
        subscription.retire();
    }

    /// Subscribes again with the places that come free, until `drain` fires; not while no provider of the queue's
    /// protocol may be called, or a limit of it is reached.
    pub(super) async fn refill(self: Arc<Self>, places: Arc<Places>, loops: Loops) {
        let protocol = match &places.queue {
            Queue::Tasks(_) => Some(protocol_of(&places.queue)),
            Queue::Workflows | Queue::Inbox | Queue::Dead(_) => None,
        };
        loop {
            let ready = async {
                places.freed().await;
                tokio::time::sleep(GATHER).await;
                // What would come now would only wait.
                self.turns.no_suspect().await;
                match &protocol {
                    Some(protocol) => self.few_of(protocol).await,
                    None => Few::default(),
                }
            };
            let few = tokio::select! {
                biased;
                () = loops.drain.cancelled() => return,
                few = ready => few,
            };
            let subscription = places.subscribe_some(few.count());
            let Some(subscription) = subscription else { continue };
            let prefetch = subscription.prefetch();
            let error = match self.parts.broker.consume(&places.queue, prefetch).await {
                Ok(consumer) => {
                    tracing::debug!(queue = %places.queue, prefetch, "subscribed with the free places");
                    let consumer = self.liveness.watch(consumer, format!("consuming {}", places.queue));
                    loops.takers.spawn(Arc::clone(&self).take(consumer, subscription, loops.clone()));
                    if let Some(protocol) = &protocol {
                        // The other places wait for what these few will tell.
                        tokio::select! {
                            () = loops.drain.cancelled() => return,
                            () = self.told_by(few, protocol) => {}
                        }
                    }
                    continue;
                }
                Err(BrokerError::Closed) => return,
                Err(error) => error,
            };
            subscription.retire();
            tracing::warn!(queue = %places.queue, %error, "cannot subscribe again yet");
            let mended = async {
                self.declare_until_it_is_there(&error).await;
                tokio::time::sleep(PAUSE).await;
            };
            tokio::select! {
                () = loops.drain.cancelled() => return,
                () = mended => {}
            }
        }
    }

    /// Waits until tasks of this protocol may be taken; how many.
    async fn few_of(&self, protocol: &ProtocolId) -> Few {
        let limits = self.parts.providers.limits();
        let probes = self.parts.providers.opened(protocol).await;
        Few { probes, limited: limits.opened(protocol).await.and_then(NonZeroU16::new) }
    }

    /// Waits until it shows whether there may be more than these few.
    async fn told_by(&self, few: Few, protocol: &ProtocolId) {
        if few.probes.is_some() {
            self.parts.providers.probed(protocol).await;
        }
        if few.limited.is_some() {
            tokio::time::sleep(HOLD).await;
        }
    }
}

/// How many tasks of a queue may be taken at first, where not any number.
#[derive(Debug, Clone, Copy, Default)]
struct Few {
    /// Providers are tried with so many.
    probes: Option<NonZeroU16>,
    /// A limit that was reached gives so many their place within the time that they may be held.
    limited: Option<NonZeroU16>,
}

impl Few {
    fn count(self) -> NonZeroU16 {
        self.probes.into_iter().chain(self.limited).min().unwrap_or(NonZeroU16::MAX)
    }
}
