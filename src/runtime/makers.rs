//! What the configuration names, as providers: none of them started.

use std::path::PathBuf;
use std::sync::Arc;

use super::Runtime;
use crate::config::{Config, Configured};
use crate::core::balance::Traits;
use crate::core::clock::Clock;
use crate::core::code::Code;
use crate::core::limit::Rule;
use crate::core::near::did_you_mean;
use crate::core::protocol::Protocols;
use crate::error::Error;
use crate::provider::mcp::Catalog;
use crate::provider::registry::InstanceSettings;
use crate::provider::{
    Provider,
    echo::Echo,
    guard::{self, Guard},
    llm::{self, Api, ModelServer, Reach},
    python::{self, Python},
};

/// What providers are made by.
#[derive(Debug, Clone)]
pub(super) struct Makers {
    pub(super) config: Config,
    pub(super) protocols: Arc<Protocols>,
    pub(super) clock: Arc<dyn Clock>,
    /// What the program has brought along.
    pub(super) own: Vec<Arc<dyn Provider>>,
    /// What the servers of tools offer.
    pub(super) catalog: Arc<Catalog>,
}

/// What was made.
pub(super) struct Made {
    /// Every provider, and what is said of it.
    pub(super) all: Vec<(Arc<dyn Provider>, InstanceSettings)>,
    /// The limits, each of something that there is.
    pub(super) rules: Vec<Rule>,
}

impl Runtime {
    pub(super) fn makers(&self) -> Makers {
        Makers {
            config: self.config.clone(),
            protocols: Arc::clone(&self.protocols),
            clock: Arc::clone(&self.clock),
            own: self.own.clone(),
            catalog: Arc::default(),
        }
    }
}

impl Makers {
    /// Makes everything that this build and configuration have.
    ///
    /// # Errors
    /// `CONFIGURATION_ERROR`: a provider of a protocol that nobody has declared, a limit of something that is not there.
    pub(super) fn make(&self) -> Result<Made, Error> {
        let mut all = self.providers();
        self.add_mcp_providers(&mut all);
        self.add_rpc_providers(&mut all)?;
        let rules = self.limits(&all)?;
        Ok(Made { all, rules })
    }

    /// The limits, each of something that there is: one with a misspelt name would limit nothing.
    fn limits(&self, all: &[(Arc<dyn Provider>, InstanceSettings)]) -> Result<Vec<Rule>, Error> {
        let (rules, mut wrong) = (self.config.limits(), Vec::new());
        for Rule { name, protocol, method, provider, .. } in &rules {
            if self.protocols.get(protocol).is_none() {
                wrong.push(format!("limits.{name}.protocol: there is no protocol {protocol}"));
            } else if let Some(method) = method
                && let Err(error) = self.protocols.method(protocol, method)
            {
                wrong.push(format!("limits.{name}.method: {error}"));
            }
            if let Some(provider) = provider
                && !all.iter().any(|(one, _)| one.name() == provider)
            {
                let hint = did_you_mean(provider, all.iter().map(|(one, _)| one.name()));
                wrong.push(format!("limits.{name}.provider: there is no provider {provider}{hint}"));
            }
        }
        if wrong.is_empty() { Ok(rules) } else { Err(Error::new(Code::ConfigurationError, wrong.join("; "))) }
    }

    /// Every provider that this build and configuration have.
    fn providers(&self) -> Vec<(Arc<dyn Provider>, InstanceSettings)> {
        let python = python::Settings {
            interpreter: self.config.text("python.interpreter").into(),
            limits: self.python_limits(),
            ..python::Settings::default()
        };
        let plain = InstanceSettings { breaker: self.config.breaker(), ..InstanceSettings::default() };
        let guarded = |provider, permits| -> Arc<dyn Provider> {
            Arc::new(Guard::new(provider, &guard::Settings { permits, ..guard::Settings::default() }))
        };
        let mut all = vec![
            (guarded(Arc::new(Echo::new(Arc::clone(&self.clock))), None), plain.clone()),
            (guarded(Arc::new(Python::new(python)), None), plain.clone()),
        ];
        for instance in self.model_servers() {
            let settings = InstanceSettings { traits: instance.traits.clone(), ..plain.clone() };
            let server = ModelServer::new(self.model_server(&instance), Arc::clone(&self.clock));
            all.push((guarded(Arc::new(server), instance.concurrency), settings));
        }
        all.extend(self.own.iter().map(|own| (guarded(Arc::clone(own), None), plain.clone())));
        all
    }

    fn python_limits(&self) -> python::Limits {
        let limit = |key: &str| Some(self.config.number(key)).filter(|limit| *limit > 0);
        python::Limits {
            memory_bytes: limit("python.memory_mb").map(|megabytes| megabytes.saturating_mul(1024 * 1024)),
            cpu_seconds: limit("python.cpu_seconds"),
            processes: limit("python.processes"),
            open_files: limit("python.files"),
            is_offline: !self.config.switch("python.network"),
            ..python::Limits::default()
        }
    }

    /// The instances that are configured, else the one server of `ollama.url`, if any.
    fn model_servers(&self) -> Vec<Configured> {
        let configured = self.config.instances();
        let url = self.config.text("ollama.url");
        if !configured.is_empty() || url.is_empty() {
            return configured;
        }
        vec![Configured {
            name: "ollama".to_owned(),
            api: Api::Ollama,
            reach: Reach::at(url),
            concurrency: None,
            traits: Traits::default(),
        }]
    }

    fn model_server(&self, instance: &Configured) -> llm::Settings {
        llm::Settings {
            name: instance.name.clone(),
            api: instance.api,
            reach: instance.reach.clone(),
            read_paths: self.config.texts("llm.read_paths").into_iter().map(PathBuf::from).collect(),
            result_bytes_max: self.result_bytes_max(),
        }
    }

    pub(super) fn result_bytes_max(&self) -> usize {
        usize::try_from(self.config.number("task.result_bytes_max")).unwrap_or(usize::MAX)
    }
}
