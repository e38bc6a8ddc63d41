//! Who there is, by protocol. It is replaced as a whole, so that a call goes on among those that it began with.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, PoisonError};

use super::Providers;
use super::instance::{Instance, Settings};
use crate::core::balance::Strategy;
use crate::core::protocol::ProtocolId;
use crate::provider::Provider;

/// Who there is.
pub(super) type Lanes = Arc<BTreeMap<ProtocolId, Arc<Lane>>>;

/// The providers of one protocol.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) strategy: Strategy,
    pub(super) instances: Vec<Arc<Instance>>,
    pub(super) turn: AtomicUsize,
}

/// What is to be different.
#[derive(Debug, Default)]
pub struct Change {
    /// Providers that come.
    pub added: Vec<(Arc<dyn Provider>, Settings)>,
    /// The names of those that go.
    pub removed: Vec<String>,
    /// Other settings of those that stay, by name.
    pub settings: Vec<(String, Settings)>,
}

/// Two providers have the same name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is already a provider named {0:?}; give each its own name")]
pub struct DuplicateName(pub(super) String);

impl Providers {
    /// Adds a provider like any other.
    ///
    /// # Errors
    /// [`DuplicateName`], across all protocols.
    pub fn register(&mut self, provider: Arc<dyn Provider>) -> Result<(), DuplicateName> {
        self.register_as(provider, Settings::default())
    }

    /// Adds a provider.
    ///
    /// # Errors
    /// [`DuplicateName`], across all protocols.
    pub fn register_as(
        &mut self,
        provider: Arc<dyn Provider>,
        settings: Settings,
    ) -> Result<(), DuplicateName> {
        if self.instance(provider.name()).is_some() {
            return Err(DuplicateName(provider.name().to_owned()));
        }
        self.swap(&Change { added: vec![(provider, settings)], ..Change::default() }, Instance::new);
        Ok(())
    }

    /// The protocols that at least one provider is registered for, in order.
    #[must_use]
    pub fn protocols(&self) -> Vec<ProtocolId> {
        self.lanes().keys().cloned().collect()
    }

    /// Whether some provider of the protocol has started.
    #[must_use]
    pub fn has_started(&self, protocol: &ProtocolId) -> bool {
        self.lane(protocol).is_some_and(|lane| lane.instances.iter().any(|one| one.is_started()))
    }

    /// Whether some provider that has started serves this method.
    #[must_use]
    pub fn serves(&self, protocol: &ProtocolId, method: &str) -> bool {
        let serves = |one: &Arc<Instance>| one.is_started() && one.provider.serves(method);
        self.lane(protocol).is_some_and(|lane| lane.instances.iter().any(serves))
    }

    /// Makes the change to who there is. Those that have gone, which are called no more; their protocols stay known.
    pub(super) fn swap(
        &self,
        change: &Change,
        new: fn(Arc<dyn Provider>, Settings) -> Instance,
    ) -> Vec<Arc<Instance>> {
        let mut lanes = self.by_protocol.write().unwrap_or_else(PoisonError::into_inner);
        let mut members: BTreeMap<ProtocolId, Vec<Arc<Instance>>> = BTreeMap::new();
        let mut gone = Vec::new();
        for (protocol, lane) in lanes.iter() {
            let stay = members.entry(protocol.clone()).or_default();
            for one in &lane.instances {
                if change.removed.iter().any(|name| name == one.name()) {
                    gone.push(Arc::clone(one));
                    continue;
                }
                let other = change.settings.iter().find(|(name, _)| name == one.name());
                stay.push(match other {
                    Some((_, settings)) => Arc::new(one.with(settings.clone())),
                    None => Arc::clone(one),
                });
            }
        }
        for (provider, settings) in &change.added {
            let instance = new(Arc::clone(provider), settings.clone());
            members.entry(provider.protocol().clone()).or_default().push(Arc::new(instance));
        }
        let lane = |(protocol, instances)| {
            let lane = Lane { strategy: self.strategy_of(&protocol), instances, turn: AtomicUsize::new(0) };
            (protocol, Arc::new(lane))
        };
        *lanes = Arc::new(members.into_iter().map(lane).collect());
        drop(lanes);
        self.members_changed.notify_one();
        self.changed.notify_waiters();
        gone
    }

    pub(super) fn lane(&self, protocol: &ProtocolId) -> Option<Arc<Lane>> {
        self.lanes().get(protocol).cloned()
    }

    pub(super) fn instance(&self, name: &str) -> Option<Arc<Instance>> {
        self.instances().into_iter().find(|one| one.name() == name)
    }

    pub(super) fn instances(&self) -> Vec<Arc<Instance>> {
        self.lanes().values().flat_map(|lane| lane.instances.iter().cloned()).collect()
    }

    fn lanes(&self) -> Lanes {
        Arc::clone(&self.by_protocol.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn strategy_of(&self, protocol: &ProtocolId) -> Strategy {
        let own = self.settings.strategies.iter().find(|(of, _)| of == protocol);
        own.map_or(self.settings.strategy, |(_, strategy)| *strategy)
    }
}
