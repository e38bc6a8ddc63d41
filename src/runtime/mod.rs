//! Putting the parts together: the only place that names an adapter.

pub mod clock;

use std::num::NonZeroU16;
use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::rabbitmq;
use crate::broker::sqlite::SqliteBroker;
use crate::client::Client;
use crate::config::{Config, Declare};
use crate::core::clock::Clock;
use crate::core::code::Code;
use crate::core::id::Id;
use crate::core::protocol::{ProtocolId, Protocols, Source};
use crate::error::Error;
use crate::provider::registry::Providers;
use crate::provider::{
    Provider,
    echo::Echo,
    guard::{self, Guard},
    mcp_tools::McpTools,
    python::{self, Python},
};
use crate::sqlite::{Database, Durability, Location};
use crate::store::Store;
use crate::store::redis as redis_adapter;
use crate::store::sqlite as sqlite_adapter;
use crate::topology::{Address, Topology};
use crate::worker::{Parts, Settings, Worker};
use clock::SystemClock;

/// The parts of one process, connected.
#[derive(Debug)]
pub struct Runtime {
    /// Messages.
    pub broker: Arc<dyn Broker>,
    /// State.
    pub store: Arc<dyn Store>,
    /// Time and chance.
    pub clock: Arc<dyn Clock>,
    protocols: Arc<Protocols>,
    config: Config,
    database: Option<Database>,
}

impl Runtime {
    /// Connects what the configuration names and makes sure of the topology. `scope`: in embedded mode,
    /// consumers take only what belongs to this task or workflow.
    ///
    /// # Errors
    /// What the broker or the store says, or a configuration that cannot be used.
    pub async fn open(config: Config, scope: Option<&Id>) -> Result<Runtime, Error> {
        let runtime = Runtime::connect(config, scope, "client").await?;
        runtime.declare().await?;
        Ok(runtime)
    }

    /// As [`Runtime::open`], for a process that consumes until it is told to stop.
    ///
    /// # Errors
    /// As [`Runtime::open`].
    pub async fn open_worker(config: Config) -> Result<Runtime, Error> {
        let runtime = Runtime::connect(config, None, "worker").await?;
        runtime.declare().await?;
        Ok(runtime)
    }

    /// As [`Runtime::open`], but leaves the topology alone.
    ///
    /// # Errors
    /// As [`Runtime::open`].
    pub async fn open_undeclared(config: Config) -> Result<Runtime, Error> {
        Runtime::connect(config, None, "operator").await
    }

    async fn connect(config: Config, scope: Option<&Id>, role: &str) -> Result<Runtime, Error> {
        let protocols = Arc::new(Runtime::protocols(&config)?);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (Some(amqp), Some(redis)) = (config.amqp_url(), config.redis_url()) else {
            return Runtime::embedded(config, scope, protocols, clock).await;
        };
        let name = format!("gleitzeit {role} {} {}", host(), std::process::id());
        let declare = match config.declare() {
            Declare::Auto => rabbitmq::Declare::Auto,
            Declare::Check => rabbitmq::Declare::Check,
            Declare::Never => rabbitmq::Declare::Never,
        };
        let settings = rabbitmq::Settings {
            declare,
            publish_timeout: config.seconds("amqp.confirm_timeout"),
            ..rabbitmq::Settings::new(amqp, &name)
        };
        let prefix = redis_adapter::Prefix::parse(config.text("redis.prefix"))
            .map_err(|error| Error::new(Code::ConfigurationError, format!("redis.prefix: {error}")))?;
        let store_settings = redis_adapter::Settings {
            prefix,
            result_ttl: config.seconds("task.result_ttl"),
            ..redis_adapter::Settings::new(redis)
        };
        let (broker, store) = tokio::join!(
            rabbitmq::RabbitBroker::connect(settings),
            redis_adapter::RedisStore::connect(store_settings),
        );
        let (broker, store): (Arc<dyn Broker>, Arc<dyn Store>) = (Arc::new(broker?), Arc::new(store?));
        Ok(Runtime { broker, store, clock, protocols, config, database: None })
    }

    async fn embedded(
        config: Config,
        scope: Option<&Id>,
        protocols: Arc<Protocols>,
        clock: Arc<dyn Clock>,
    ) -> Result<Runtime, Error> {
        let durability = match config.text("state.synchronous") {
            "full" => Durability::Power,
            _ => Durability::Process,
        };
        let database = Database::open(Location::parse(config.text("state.path")), durability)
            .await
            .map_err(|error| Error::new(Code::FileUnreadable, error.to_string()))?;
        let broker = match scope {
            Some(root) => SqliteBroker::scoped(database.clone(), Arc::clone(&clock), root),
            None => SqliteBroker::new(database.clone(), Arc::clone(&clock)),
        };
        let broker: Arc<dyn Broker> = Arc::new(broker);
        let settings =
            sqlite_adapter::Settings { result_ttl: config.seconds("task.result_ttl"), ..Default::default() };
        let store = sqlite_adapter::SqliteStore::new(database.clone(), Arc::clone(&clock), settings);
        let store: Arc<dyn Store> = Arc::new(store);
        Ok(Runtime { broker, store, clock, protocols, config, database: Some(database) })
    }

    async fn declare(&self) -> Result<(), Error> {
        Ok(self.broker.declare(&topology_of(&self.protocols)).await?)
    }

    /// The topology of the configured protocols.
    ///
    /// # Errors
    /// Protocol files that cannot be used.
    pub fn topology(config: &Config) -> Result<Topology, Error> {
        Ok(topology_of(&Runtime::protocols(config)?))
    }

    /// The built-in protocols and those of the configured folder.
    ///
    /// # Errors
    /// Every file that cannot be read or used.
    pub fn protocols(config: &Config) -> Result<Protocols, Error> {
        let folder = config.text("protocols.folder");
        let sources = if folder.is_empty() { Vec::new() } else { read_protocols(folder)? };
        Protocols::with_files(&sources)
            .map_err(|error| Error::new(Code::ConfigurationError, error.to_string()))
    }

    /// A new id for a task or workflow.
    #[must_use]
    pub fn new_id() -> Id {
        SystemClock.new_id()
    }

    /// A client over these parts.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(
            Arc::clone(&self.broker),
            Arc::clone(&self.store),
            Arc::clone(&self.protocols),
            Arc::clone(&self.clock),
        )
    }

    /// A worker over these parts, with every provider that the configuration gives it, started.
    ///
    /// # Errors
    /// A provider that cannot start, or a protocol that nobody here serves.
    pub async fn worker(&self) -> Result<Worker, Error> {
        let config = &self.config;
        let asked = asked_protocols(config)?;
        let mut providers = Providers::default();
        for provider in self.providers() {
            if asked.is_empty() || asked.contains(provider.protocol()) {
                providers
                    .register(provider)
                    .map_err(|error| Error::new(Code::ConfigurationError, error.to_string()))?;
            }
        }
        for protocol in &asked {
            if !providers.protocols().contains(protocol) {
                let text = format!("no provider of this worker serves {protocol}");
                return Err(Error::new(Code::ProviderNotAvailable, text));
            }
        }
        let broken = providers.start().await;
        for (name, failure) in &broken {
            tracing::warn!(provider = %name, %failure, "this provider cannot start; its tasks stay in their queue");
        }
        let mut protocols = providers.protocols();
        if !self.is_embedded() {
            // In embedded mode nobody else could take these tasks, so they fail with the provider's reason.
            protocols.retain(|protocol| providers.has_started(protocol));
        }
        let concurrency = u16::try_from(config.number("worker.concurrency")).unwrap_or(u16::MAX);
        let settings = Settings {
            protocols,
            concurrency: NonZeroU16::new(concurrency).unwrap_or(NonZeroU16::MIN),
            coordination: config.switch("worker.coordination"),
            grace: config.seconds("worker.grace"),
            task_timeout: config.seconds("task.timeout"),
            result_ttl: config.seconds("task.result_ttl"),
            result_bytes_max: usize::try_from(config.number("task.result_bytes_max")).unwrap_or(usize::MAX),
            crash_limit: u32::try_from(config.number("worker.crash_limit")).unwrap_or(u32::MAX),
            events: config.events(),
        };
        let parts = Parts {
            broker: Arc::clone(&self.broker),
            store: Arc::clone(&self.store),
            providers: Arc::new(providers),
            protocols: Arc::clone(&self.protocols),
            clock: Arc::clone(&self.clock),
        };
        Ok(Worker::new(parts, settings))
    }

    /// Every provider that this build and configuration have.
    fn providers(&self) -> Vec<Arc<dyn Provider>> {
        let python = python::Settings {
            interpreter: self.config.text("python.interpreter").into(),
            ..python::Settings::default()
        };
        let guard = guard::Settings::default();
        let all: [Arc<dyn Provider>; 3] = [
            Arc::new(Echo::new(Arc::clone(&self.clock))),
            Arc::new(McpTools::new()),
            Arc::new(Python::new(python)),
        ];
        all.into_iter().map(|provider| Arc::new(Guard::new(provider, &guard)) as Arc<dyn Provider>).collect()
    }

    /// Whether this process does its own work, in a state file.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.database.is_some()
    }

    /// Where the work is, for people, without secrets.
    #[must_use]
    pub fn describe(&self) -> String {
        match (self.config.amqp_url(), self.is_embedded()) {
            (Some(url), false) => crate::config::mask_url(url),
            _ => format!("embedded, {}", self.config.text("state.path")),
        }
    }

    /// Closes what was opened: broker, store, file.
    pub async fn close(&self) {
        self.broker.close().await;
        self.store.close().await;
        if let Some(database) = &self.database {
            database.close().await;
        }
    }
}

fn topology_of(protocols: &Protocols) -> Topology {
    let addresses = protocols.iter().filter_map(|spec| Address::parse(&spec.id.routing()).ok());
    Topology::new(addresses)
}

/// The protocols that the configuration names; empty for all.
fn asked_protocols(config: &Config) -> Result<Vec<ProtocolId>, Error> {
    let parse = |text: String| {
        text.parse::<ProtocolId>().map_err(|error| Error::new(Code::ConfigurationError, error.to_string()))
    };
    config.texts("worker.protocols").into_iter().map(parse).collect()
}

fn read_protocols(folder: &str) -> Result<Vec<Source>, Error> {
    let unreadable = |error: std::io::Error| {
        Error::new(Code::FileUnreadable, format!("cannot read protocols.folder {folder}: {error}"))
    };
    let mut sources = Vec::new();
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.sort();
    for path in paths {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) {
            let text = std::fs::read_to_string(&path).map_err(unreadable)?;
            sources.push(Source { name: path.to_string_lossy().into_owned(), text });
        }
    }
    Ok(sources)
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
}
