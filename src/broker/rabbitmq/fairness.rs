//! Which queues a protocol is made of, for who publishes, consumes, counts and empties.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::RabbitBroker;
use super::declare::Declarer;
use super::lanes::lanes_there;
use super::message::Frame;
use crate::broker::{BrokerError, Outgoing, Target};
use crate::core::fairness::Turns;
use crate::topology::lane::{self, Lanes};
use crate::topology::{Address, Queue, Topology};
use crate::wire::task::fairness_key;

impl RabbitBroker {
    /// The lane that a message belongs to. Its body is read only where its protocol has lanes.
    pub(super) fn lane_of(&self, message: &Outgoing) -> Option<u16> {
        let Target::Queue(Queue::Tasks(address)) = &message.target else { return None };
        let lanes = self.settings.fairness.get(address).filter(|lanes| lanes.count > 0)?;
        lanes.of(&fairness_key(&message.body)?)
    }

    /// Publishes; where a lane is missing, what belongs there goes to its protocol's queue: `spare` has the frames
    /// for that. The others may be published twice then, as after any error.
    pub(super) async fn publish_in_lanes(
        &self,
        frames: Vec<Frame>,
        spare: Vec<Frame>,
    ) -> Result<(), BrokerError> {
        if spare.is_empty() {
            return self.publisher.publish(frames).await;
        }
        let error = match self.publisher.publish(frames.clone()).await {
            Err(error @ BrokerError::Unroutable { .. }) => error,
            other => return other,
        };
        if !self.said_missing.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "a lane is missing, its tasks go to their protocol's queue; `gleitzeit topology apply` creates it");
        }
        let is_of_lane = |frame: &Frame| lane::from_route(frame.routing_key.as_str()).is_some();
        let others = frames.into_iter().filter(|frame| !is_of_lane(frame));
        self.publisher.publish(others.chain(spare).collect()).await
    }

    /// The lanes of a protocol to be consumed: those that are configured, or what an earlier configuration has left.
    /// The latter is looked for once.
    pub(super) async fn lanes_to_serve(&self, address: &Address) -> Result<Option<Lanes>, BrokerError> {
        if let Some(lanes) = self.settings.fairness.get(address) {
            return Ok(Some(lanes.clone()));
        }
        let known = self.left_over().get(address).copied();
        let has_some = match known {
            Some(has_some) => has_some,
            None => {
                let mut declarer = Declarer::new(&self.consuming, self.settings.reply_timeout);
                let has_some = !lanes_there(&mut declarer, address, 0).await?.is_empty();
                declarer.finish().await;
                self.left_over().insert(address.clone(), has_some);
                has_some
            }
        };
        Ok(has_some.then(Lanes::default))
    }

    /// The turns of a protocol's lanes, for whatever this process takes of it.
    pub(super) fn turns_of(&self, address: &Address, lanes: &Lanes) -> Arc<Mutex<Turns>> {
        // No code that holds the lock can panic half-way.
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let of_protocol = turns
            .entry(address.clone())
            .or_insert_with(|| Arc::new(Mutex::new(Turns::new(lanes.turn_weights()))));
        Arc::clone(of_protocol)
    }

    /// Remembers what a look has found for who consumes later.
    pub(super) fn remember_left_over(&self, topology: &Topology, found: &[(Address, u16)]) {
        let mut left_over = self.left_over();
        for address in &topology.protocols {
            left_over.insert(address.clone(), found.iter().any(|(of, _)| of == address));
        }
    }

    /// The names of a queue's lanes, as far as there are any.
    pub(super) async fn lanes_of(
        &self,
        declarer: &mut Declarer<'_>,
        queue: &Queue,
    ) -> Result<Vec<String>, BrokerError> {
        let Queue::Tasks(address) = queue else { return Ok(Vec::new()) };
        let is_left_over = self.left_over().get(address) == Some(&true);
        let count = match self.settings.fairness.get(address) {
            Some(lanes) => lanes.count,
            None if is_left_over => 0,
            None => return Ok(Vec::new()),
        };
        let there = lanes_there(declarer, address, count).await?;
        Ok(there.into_iter().map(|number| lane::name(address, number)).collect())
    }

    fn left_over(&self) -> MutexGuard<'_, BTreeMap<Address, bool>> {
        // No code that holds the lock can panic half-way.
        self.left_over.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
