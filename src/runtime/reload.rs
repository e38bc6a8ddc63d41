//! Reading the configuration again while a worker runs.
//!
//! All of it or nothing: what cannot change (`config::reload` has the table) is told by the names of its keys, and then
//! nothing has changed. What is wrong is told as at the start.

use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::Mutex;

use super::makers::{Made, Makers};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::protocol::ProtocolId;
use crate::error::Error;
use crate::provider::registry::{Change, InstanceSettings, Providers};
use crate::worker::{Reload, Reloaded};

/// What a worker's providers are by now.
#[derive(Debug)]
pub(super) struct Known {
    /// With the configuration as it was read last.
    pub(super) makers: Makers,
    /// By name.
    pub(super) settings: BTreeMap<String, InstanceSettings>,
}

/// Reads the configuration of one worker again.
#[derive(Debug)]
pub(super) struct Reloading {
    /// Held from the first look to the last change, on purpose: one reload at a time.
    known: Mutex<Known>,
    /// The protocols that it was told to serve; empty for all.
    asked: Vec<ProtocolId>,
    /// Those that it consumes.
    served: Vec<ProtocolId>,
}

impl Reloading {
    pub(super) fn new(known: Known, asked: Vec<ProtocolId>, served: Vec<ProtocolId>) -> Reloading {
        Reloading { known: Mutex::new(known), asked, served }
    }

    /// What the configuration has now, as far as this worker serves it.
    fn make(&self, makers: &Makers, before: &Known) -> Result<Made, Failure> {
        let mut made = makers.make().map_err(failure)?;
        made.all.retain(|(one, _)| self.asked.is_empty() || self.asked.contains(one.protocol()));
        let mut names = BTreeSet::new();
        for (provider, _) in &made.all {
            let (name, protocol) = (provider.name(), provider.protocol());
            let was_of_file = before.makers.config.has_provider(name);
            let is_another =
                before.settings.contains_key(name) && was_of_file != makers.config.has_provider(name);
            if is_another || !names.insert(name) {
                let message = format!(
                    "providers.{name}: another provider of this worker has that name; choose another one, or start the worker again"
                );
                return Err(refused(message, &[format!("providers.{name}")]));
            }
            if !before.settings.contains_key(name) && !self.served.contains(protocol) {
                let message = format!(
                    "providers.{name}: this worker does not consume {protocol}, and begins to only when it is started again"
                );
                return Err(refused(message, &[format!("providers.{name}.protocol")]));
            }
        }
        Ok(made)
    }
}

#[async_trait]
impl Reload for Reloading {
    async fn reload(&self, providers: &Providers) -> Result<Reloaded, Failure> {
        let mut known = self.known.lock().await;
        let config = known.makers.config.read_again().map_err(|error| failure(error.into()))?;
        let changes = known.makers.config.changes(&config);
        if changes.keys.is_empty() {
            return Ok(Reloaded::default());
        }
        if !changes.refused.is_empty() {
            let keys = changes.refused.join(", ");
            let message =
                format!("cannot change while a worker runs: {keys}; start it again, or change these back");
            return Err(refused(message, &changes.refused));
        }
        let makers = Makers { config, ..known.makers.clone() };
        let made = match self.make(&makers, &known) {
            Ok(made) => made,
            Err(failure) => {
                // What was made has announced itself.
                let servers = makers.catalog.servers();
                let unknown = servers.iter().filter(|server| !known.settings.contains_key(*server));
                unknown.for_each(|server| makers.catalog.forget(server));
                return Err(failure);
            }
        };
        let change = known.become_as(made, makers, providers, &changes.pools);
        let removed = change.removed.clone();
        let failed = providers.change(change, known.makers.config.seconds("worker.grace")).await;
        // Not before: calls that are on their way find their server until they have ended.
        removed.iter().for_each(|name| known.makers.catalog.forget(name));
        Ok(Reloaded { changed: changes.keys, failed })
    }
}

impl Known {
    /// Takes over what was made, as far as it is new, and changes what needs no waiting. What is left to be done.
    fn become_as(
        &mut self,
        made: Made,
        makers: Makers,
        providers: &Providers,
        pools: &BTreeSet<String>,
    ) -> Change {
        let settings: BTreeMap<String, InstanceSettings> =
            made.all.iter().map(|(one, settings)| (one.name().to_owned(), settings.clone())).collect();
        let mut change = Change::default();
        for (provider, of) in made.all {
            match self.settings.get(provider.name()) {
                None => change.added.push((provider, of)),
                Some(before) => {
                    if *before != of {
                        change.settings.push((provider.name().to_owned(), of));
                    }
                    if let Some(pool) = provider.pool().filter(|_| pools.contains(provider.name())) {
                        providers.bound(provider.name(), pool.min, pool.max);
                    }
                }
            }
        }
        change.removed = self.settings.keys().filter(|name| !settings.contains_key(*name)).cloned().collect();
        providers.limits().replace(made.rules);
        (self.makers, self.settings) = (makers, settings);
        change
    }
}

fn refused(message: String, keys: &[String]) -> Failure {
    Failure::new(Code::ConfigurationError, message).with("refused", keys.to_vec())
}

fn failure(error: Error) -> Failure {
    Failure { details: error.details, ..Failure::new(error.code, error.message) }
}
