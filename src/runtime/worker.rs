//! The workers of a process: which providers they have, and what they consume.
//!
//! | worker                   | providers              | consumes                                                |
//! |--------------------------|------------------------|---------------------------------------------------------|
//! | `worker`, distributed    | all, or those asked for | what they serve                                         |
//! | `worker`, embedded       | the same               | every protocol, or those asked for                      |
//! | `worker_for_self`        | the same               | every protocol                                          |
//! | `coordinator`            | none                   | no tasks                                                |
//!
//! Among servers, a queue that another worker may serve is left to it: that of a protocol of the user's, and
//! that of a provider which could not start here. Embedded, nobody else would answer: such tasks fail with
//! the reason.

use std::num::NonZeroU16;
use std::sync::Arc;

use super::machine;
use super::makers::Made;
use super::reload::{Known, Reloading};
use super::{Runtime, topology_of};
use crate::broker::Finding;
use crate::config::{Config, Declare};
use crate::core::balance::Strategy;
use crate::core::code::Code;
use crate::core::protocol::ProtocolId;
use crate::error::Error;
use crate::provider::registry::{self, HealthSettings, Providers};
use crate::provider::{Provider, limit::Limits};
use crate::topology::plan::Release;
use crate::worker::{Parts, Settings, Worker};

/// From here on a queue may say how long a delivery of it may be held; before, the argument is ignored.
const QUEUES_CONSUMER_TIMEOUT: Release = Release { major: 3, minor: 12 };
/// From here on our queues say it.
const OWN_CONSUMER_TIMEOUT: Release = Release { major: 4, minor: 3 };

/// The providers of a worker.
struct Started {
    providers: Providers,
    /// Those that could not start, and why.
    broken: Vec<(Arc<dyn Provider>, Error)>,
    /// What a reload goes by.
    known: Known,
}

/// For how long the broker lets a delivery be held, as far as a worker can tell at its start.
#[derive(Debug, PartialEq, Eq)]
struct Held<'a> {
    /// The server's own setting decides, and cannot be asked: the configuration's word is taken for it.
    is_assumed: bool,
    /// The queues that say something else than the configuration.
    others: Vec<&'a Finding>,
}

/// Judges what was found of the queues; `None` is a release that is not known.
fn held_by(release: Option<Release>, findings: &[Finding]) -> Held<'_> {
    let counts = release.is_none_or(|release| release >= QUEUES_CONSUMER_TIMEOUT);
    let differs = |finding: &&Finding| counts && finding.problem.contains("x-consumer-timeout");
    let is_assumed = release.is_none_or(|release| release < OWN_CONSUMER_TIMEOUT);
    Held { is_assumed, others: findings.iter().filter(differs).collect() }
}

/// Of `RabbitMQ 4.3.6`.
fn release_of(version: &str) -> Option<Release> {
    version.rsplit(' ').next().and_then(Release::parse)
}

impl Runtime {
    /// A worker for whoever submits, with every provider that the configuration gives it, started.
    ///
    /// # Errors
    /// A protocol was asked for that nobody here serves, or whose providers cannot start.
    pub async fn worker(&self) -> Result<Worker, Error> {
        self.compare_consumer_timeout().await;
        let asked = asked_protocols(&self.config)?;
        let Started { providers, broken, known } = self.start_providers(&asked, self.is_embedded()).await?;
        for (provider, error) in broken {
            if asked.contains(provider.protocol()) && !providers.has_started(provider.protocol()) {
                return Err(error);
            }
            let then = if self.is_embedded() { "its tasks fail" } else { "its tasks stay in their queue" };
            tracing::warn!(provider = provider.name(), %error, "this provider cannot start; {then}");
        }
        let protocols = match (self.is_embedded(), asked.is_empty()) {
            (true, true) => self.every_protocol(),
            (true, false) => asked.clone(),
            (false, _) => {
                // What cannot start now is consumed as soon as it can.
                providers.protocols()
            }
        };
        let max_running = self.max_running(&protocols)?;
        let reloading = Reloading::new(known, asked, protocols.clone());
        Ok(self.assemble(providers, protocols, max_running).reloaded_by(Arc::new(reloading)))
    }

    /// The worker of a process that does its own work (embedded mode). It takes tasks of every protocol, so
    /// that each ends, if only with the reason why it cannot run here.
    ///
    /// # Errors
    /// A protocol was asked for that nobody here serves.
    pub async fn worker_for_self(&self) -> Result<Worker, Error> {
        let asked = asked_protocols(&self.config)?;
        let Started { providers, broken, known } = self.start_providers(&asked, true).await?;
        for (provider, error) in broken {
            tracing::warn!(provider = provider.name(), %error, "this provider cannot start; its tasks fail");
        }
        let reloading = Reloading::new(known, asked, self.every_protocol());
        Ok(self.assemble(providers, self.every_protocol(), None).reloaded_by(Arc::new(reloading)))
    }

    /// A worker that runs no tasks: for workflows and commands.
    #[must_use]
    pub fn coordinator(&self) -> Worker {
        self.assemble(Providers::default(), Vec::new(), None)
    }

    /// The providers of the protocols asked for (of all, if none are), started; and those that cannot start.
    async fn start_providers(&self, asked: &[ProtocolId], is_last_resort: bool) -> Result<Started, Error> {
        let makers = self.makers();
        let Made { mut all, rules } = makers.make()?;
        all.retain(|(provider, _)| asked.is_empty() || asked.contains(provider.protocol()));
        for protocol in asked {
            if !all.iter().any(|(provider, _)| provider.protocol() == protocol) {
                let text = format!("no provider of this worker serves {protocol}");
                return Err(Error::new(Code::ProviderNotAvailable, text));
            }
        }
        let mut providers = Providers::new(self.registry_settings(is_last_resort)?).with_limits(Limits::new(
            rules,
            Arc::clone(&self.store),
            Arc::clone(&self.clock),
        ));
        for (provider, settings) in &all {
            providers
                .register_as(Arc::clone(provider), settings.clone())
                .map_err(|error| Error::new(Code::ConfigurationError, error.to_string()))?;
        }
        let mut broken = Vec::new();
        for (name, failure) in providers.start().await {
            let found = all.iter().find(|(provider, _)| provider.name() == name);
            broken.extend(found.map(|(provider, _)| (Arc::clone(provider), Error::from(failure))));
        }
        let settings = all.iter().map(|(provider, settings)| (provider.name().to_owned(), settings.clone()));
        let known = Known { makers, settings: settings.collect() };
        Ok(Started { providers, broken, known })
    }

    /// Warns where a queue lets a delivery be held for another time than the configuration says, as far as that
    /// can be learned over AMQP: by a queue's argument, which counts from RabbitMQ 3.12 on. The server's own setting
    /// and policies are told to nobody; what is assumed of them is said at `info`.
    async fn compare_consumer_timeout(&self) {
        if self.is_embedded() {
            return;
        }
        // Whoever runs has been started with it.
        let Ok(topology) = topology_of(&self.config, &self.protocols) else { return };
        let version = self.broker.version().await.ok();
        let release = version.as_deref().and_then(release_of);
        let findings = if release.is_some_and(|release| release < QUEUES_CONSUMER_TIMEOUT) {
            Vec::new()
        } else {
            self.broker.check(&topology).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "the consumer timeout of the queues cannot be compared");
                Vec::new()
            })
        };
        let ours = self.config.seconds("amqp.consumer_timeout");
        let Held { is_assumed, others } = held_by(release, &findings);
        if is_assumed {
            tracing::info!(
                assumed = ?ours, version = version.as_deref().unwrap_or("unknown"),
                "amqp.consumer_timeout must not be larger than the server's consumer_timeout, which it tells nobody over \
                 AMQP: compare with `rabbitmqctl environment`"
            );
        }
        if let Some(first) = others.first() {
            let names: Vec<&str> = others.iter().map(|finding| finding.what.as_str()).collect();
            tracing::warn!(queues = ?names, first = %first.problem, "queues have another consumer timeout than \
                amqp.consumer_timeout ({ours:?}); where it is shorter, long tasks may come back too soon");
        }
    }

    fn every_protocol(&self) -> Vec<ProtocolId> {
        self.protocols.iter().map(|spec| spec.id.clone()).collect()
    }

    /// The cap on tasks at once in all, if there is one that the protocols can be kept within.
    fn max_running(&self, protocols: &[ProtocolId]) -> Result<Option<NonZeroU16>, Error> {
        let cap = u16::try_from(self.config.number("worker.max_running")).unwrap_or(u16::MAX);
        if cap > 0 && usize::from(cap) < protocols.len() {
            let text = format!(
                "worker.max_running is {cap}, and each of {} protocols needs a place: raise it, or name fewer \
                 protocols (worker.protocols, --protocol)",
                protocols.len()
            );
            return Err(Error::new(Code::ConfigurationError, text));
        }
        Ok(NonZeroU16::new(cap))
    }

    fn assemble(
        &self,
        providers: Providers,
        protocols: Vec<ProtocolId>,
        max_running: Option<NonZeroU16>,
    ) -> Worker {
        let config = &self.config;
        let concurrency = u16::try_from(config.number("worker.concurrency")).unwrap_or(u16::MAX);
        let settings = Settings {
            protocols,
            concurrency: NonZeroU16::new(concurrency).unwrap_or(NonZeroU16::MIN),
            max_running,
            coordination: config.switch("worker.coordination"),
            grace: config.seconds("worker.grace"),
            task_timeout: config.seconds("task.timeout"),
            result_ttl: config.seconds("task.result_ttl"),
            result_bytes_max: self.makers().result_bytes_max(),
            crash_limit: u32::try_from(config.number("worker.crash_limit")).unwrap_or(u32::MAX),
            guard_after: config.seconds("amqp.consumer_timeout") / 4,
            events: config.events(),
            resources: config.resources(&machine::totals()),
            metrics_every: config.seconds("events.metrics_every"),
            topology: match config.declare() {
                Declare::Auto => topology_of(config, &self.protocols).ok(),
                Declare::Check | Declare::Never => None,
            },
        };
        tracing::info!(resources = %settings.resources, "what tasks may hold of this worker at once");
        let parts = Parts {
            broker: Arc::clone(&self.broker),
            store: Arc::clone(&self.store),
            providers: Arc::new(providers),
            protocols: Arc::clone(&self.protocols),
            clock: Arc::clone(&self.clock),
        };
        Worker::new(parts, settings)
    }

    /// How calls are given out.
    fn registry_settings(&self, is_last_resort: bool) -> Result<registry::Settings, Error> {
        let (strategy, each) = self.config.strategies();
        let parse = |(protocol, strategy): (&str, Strategy)| {
            let parsed = protocol.parse::<ProtocolId>();
            let wrong = |error| format!("balance.strategies: {error}");
            parsed
                .map(|protocol| (protocol, strategy))
                .map_err(|error| Error::new(Code::ConfigurationError, wrong(error)))
        };
        let health = HealthSettings {
            doubtful: self.config.seconds("health.doubtful"),
            steady: self.config.seconds("health.steady"),
            timeout: self.config.seconds("health.timeout"),
        };
        let strategies = each.into_iter().map(parse).collect::<Result<_, _>>()?;
        Ok(registry::Settings { strategy, strategies, health, is_last_resort })
    }
}

/// The protocols that the configuration names; empty for all.
fn asked_protocols(config: &Config) -> Result<Vec<ProtocolId>, Error> {
    let parse = |text: String| {
        text.parse::<ProtocolId>().map_err(|error| Error::new(Code::ConfigurationError, error.to_string()))
    };
    config.texts("worker.protocols").into_iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(what: &str, problem: &str) -> Finding {
        Finding { what: what.to_owned(), problem: problem.to_owned() }
    }

    #[test]
    fn queues_that_say_another_consumer_timeout_are_told_where_that_counts() {
        let findings = [
            finding("queue a", "inequivalent arg 'x-max-priority' for queue 'a'"),
            finding("queue b", "inequivalent arg 'x-consumer-timeout' for queue 'b'"),
        ];
        let told = |version: &str| {
            let Held { is_assumed, others } = held_by(release_of(version), &findings);
            (is_assumed, others.iter().map(|finding| finding.what.as_str()).collect::<Vec<&str>>())
        };
        let (none, b): (Vec<&str>, Vec<&str>) = (Vec::new(), vec!["queue b"]);
        for (version, is_assumed, others) in [
            ("RabbitMQ 3.10.8", true, &none),
            ("RabbitMQ 3.11.28", true, &none),
            ("RabbitMQ 3.12.1", true, &b),
            ("RabbitMQ 4.2.0", true, &b),
            ("RabbitMQ 4.3.6", false, &b),
            ("something else", true, &b),
        ] {
            assert_eq!(told(version), (is_assumed, others.clone()), "{version}");
        }
        assert_eq!(held_by(None, &findings[..1]).others, [] as [&Finding; 0]);
    }
}
