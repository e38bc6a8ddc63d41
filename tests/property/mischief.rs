//! A broker that carries messages twice and out of order, forgets settlements, and answers through a gate.

use async_trait::async_trait;
use bytes::Bytes;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gleitzeit::broker::{
    Broker, BrokerError, Consumer, Delivery, Depth, Finding, Listener, Outgoing, Receipt, Settlement, Target,
    Transit,
};
use gleitzeit::topology::{Queue, Topology};

use crate::gate::Gate;

/// Where mischief is drawn from.
#[derive(Debug)]
pub(crate) struct Mischief(Option<Mutex<fastrand::Rng>>);

impl Mischief {
    pub(crate) fn new(seed: u64) -> Arc<Mischief> {
        Arc::new(Mischief(Some(Mutex::new(fastrand::Rng::with_seed(seed)))))
    }

    /// A broker that behaves.
    pub(crate) fn none() -> Arc<Mischief> {
        Arc::new(Mischief(None))
    }

    fn happens(&self, chance: f64) -> bool {
        let rng = self.0.as_ref();
        rng.is_some_and(|rng| rng.lock().expect("nobody panics with it").f64() < chance)
    }

    /// Some twice, some late, all in another order.
    fn disturb(&self, messages: Vec<Outgoing>) -> Vec<Outgoing> {
        let Some(rng) = &self.0 else { return messages };
        let mut rng = rng.lock().expect("nobody panics with it");
        let mut disturbed = Vec::new();
        for message in messages {
            let is_ours = matches!(message.target, Target::Queue(_));
            if is_ours && rng.f64() < 0.15 {
                disturbed.push(message.clone());
            }
            disturbed.push(message);
        }
        for message in &mut disturbed {
            let is_ours = matches!(message.target, Target::Queue(_));
            if is_ours && message.delay.is_none() && rng.f64() < 0.2 {
                message.delay = Some(Duration::from_millis(rng.u64(1..15)));
            }
        }
        rng.shuffle(&mut disturbed);
        disturbed
    }
}

/// The broker as one worker has it.
#[derive(Debug, Clone)]
pub(crate) struct Wild<T> {
    pub(crate) inner: T,
    pub(crate) gate: Arc<Gate>,
    pub(crate) mischief: Arc<Mischief>,
}

impl<T> Wild<T> {
    fn with<U>(&self, inner: U) -> Wild<U> {
        Wild { inner, gate: Arc::clone(&self.gate), mischief: Arc::clone(&self.mischief) }
    }
}

#[async_trait]
impl Broker for Wild<Arc<dyn Broker>> {
    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        self.gate.through(self.inner.declare(topology)).await
    }

    async fn check(&self, topology: &Topology) -> Result<Vec<Finding>, BrokerError> {
        self.gate.through(self.inner.check(topology)).await
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Result<(), BrokerError> {
        let messages = self.mischief.disturb(messages);
        self.gate.through(self.inner.publish(messages)).await
    }

    async fn consume(&self, queue: &Queue, prefetch: NonZeroU16) -> Result<Box<dyn Consumer>, BrokerError> {
        let consumer = self.gate.through(self.inner.consume(queue, prefetch)).await?;
        Ok(Box::new(self.with(consumer)))
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, BrokerError> {
        self.gate.through(self.inner.listen()).await
    }

    async fn broadcast(&self, body: Bytes) -> Result<(), BrokerError> {
        self.gate.through(self.inner.broadcast(body)).await
    }

    fn emit(&self, routing_key: &str, body: Bytes) {
        self.inner.emit(routing_key, body);
    }

    async fn depth(&self, queue: &Queue) -> Result<Depth, BrokerError> {
        self.gate.through(self.inner.depth(queue)).await
    }

    async fn transit(&self) -> Result<Transit, BrokerError> {
        self.gate.through(self.inner.transit()).await
    }

    async fn purge(&self, queue: &Queue) -> Result<u64, BrokerError> {
        self.gate.through(self.inner.purge(queue)).await
    }

    async fn version(&self) -> Result<String, BrokerError> {
        self.gate.through(self.inner.version()).await
    }

    async fn close(&self) {
        self.gate.through(self.inner.close()).await;
    }
}

#[async_trait]
impl Consumer for Wild<Box<dyn Consumer>> {
    async fn next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        let next = self.inner.next().await?;
        self.gate.point().await;
        Some(next.map(|delivery| {
            let wild =
                Wild { inner: delivery.receipt, gate: self.gate.clone(), mischief: self.mischief.clone() };
            Delivery { receipt: Box::new(wild), ..delivery }
        }))
    }

    async fn cancel(&mut self) -> Result<(), BrokerError> {
        self.gate.point().await;
        let cancelled = self.inner.cancel().await;
        self.gate.point().await;
        cancelled
    }
}

#[async_trait]
impl Receipt for Wild<Box<dyn Receipt>> {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), BrokerError> {
        if self.mischief.happens(0.1) {
            // Dropped unsettled, it comes again.
            return Err(BrokerError::DeliveryLost);
        }
        let Wild { inner, gate, .. } = *self;
        gate.through(inner.settle(settlement)).await
    }
}
