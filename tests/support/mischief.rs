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

/// What becomes of messages on their way.
#[derive(Debug)]
pub(crate) enum Mischief {
    /// Where it is drawn from.
    Drawn(Mutex<fastrand::Rng>),
    /// None; what is published is noted.
    None(Mutex<Vec<Outgoing>>),
}

impl Mischief {
    pub(crate) fn new(seed: u64) -> Arc<Mischief> {
        Arc::new(Mischief::Drawn(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// A broker that behaves.
    pub(crate) fn none() -> Arc<Mischief> {
        Arc::new(Mischief::None(Mutex::default()))
    }

    /// Takes the messages that were noted.
    pub(crate) fn noted(&self) -> Vec<Outgoing> {
        match self {
            Mischief::Drawn(_) => Vec::new(),
            Mischief::None(noted) => std::mem::take(&mut *noted.lock().expect("nobody panics with it")),
        }
    }

    fn note(&self, messages: &[Outgoing]) {
        if let Mischief::None(noted) = self {
            noted.lock().expect("nobody panics with it").extend_from_slice(messages);
        }
    }

    fn happens(&self, chance: f64) -> bool {
        match self {
            Mischief::Drawn(rng) => rng.lock().expect("nobody panics with it").f64() < chance,
            Mischief::None(_) => false,
        }
    }

    /// Some twice, some late, all in another order.
    fn disturb(&self, messages: Vec<Outgoing>) -> Vec<Outgoing> {
        let Mischief::Drawn(rng) = self else { return messages };
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
        self.gate.through("Broker::declare", self.inner.declare(topology)).await
    }

    async fn check(&self, topology: &Topology) -> Result<Vec<Finding>, BrokerError> {
        self.gate.through("Broker::check", self.inner.check(topology)).await
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Result<(), BrokerError> {
        let messages = self.mischief.disturb(messages);
        let publish = async {
            self.mischief.note(&messages);
            self.inner.publish(messages).await
        };
        self.gate.through("Broker::publish", publish).await
    }

    async fn consume(&self, queue: &Queue, prefetch: NonZeroU16) -> Result<Box<dyn Consumer>, BrokerError> {
        let consumer = self.gate.through("Broker::consume", self.inner.consume(queue, prefetch)).await?;
        Ok(Box::new(self.with(consumer)))
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, BrokerError> {
        self.gate.through("Broker::listen", self.inner.listen()).await
    }

    async fn broadcast(&self, body: Bytes) -> Result<(), BrokerError> {
        self.gate.through("Broker::broadcast", self.inner.broadcast(body)).await
    }

    fn emit(&self, routing_key: &str, body: Bytes) {
        self.inner.emit(routing_key, body);
    }

    async fn depth(&self, queue: &Queue) -> Result<Depth, BrokerError> {
        self.gate.through("Broker::depth", self.inner.depth(queue)).await
    }

    async fn transit(&self) -> Result<Transit, BrokerError> {
        self.gate.through("Broker::transit", self.inner.transit()).await
    }

    async fn purge(&self, queue: &Queue) -> Result<u64, BrokerError> {
        self.gate.through("Broker::purge", self.inner.purge(queue)).await
    }

    async fn version(&self) -> Result<String, BrokerError> {
        self.gate.through("Broker::version", self.inner.version()).await
    }

    async fn close(&self) {
        self.gate.through("Broker::close", self.inner.close()).await;
    }
}

#[async_trait]
impl Consumer for Wild<Box<dyn Consumer>> {
    async fn next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        let next = self.inner.next().await?;
        self.gate.came("Consumer::next").await;
        Some(next.map(|delivery| {
            let wild =
                Wild { inner: delivery.receipt, gate: self.gate.clone(), mischief: self.mischief.clone() };
            Delivery { receipt: Box::new(wild), ..delivery }
        }))
    }

    async fn cancel(&mut self) -> Result<(), BrokerError> {
        let nth = self.gate.before("Consumer::cancel").await;
        let cancelled = self.inner.cancel().await;
        self.gate.after("Consumer::cancel", nth).await;
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
        gate.through("Receipt::settle", inner.settle(settlement)).await
    }
}
