//! Putting the parts together: the only place that names an adapter.

pub mod clock;
mod machine;
mod makers;
mod mcp;
mod reload;
mod rpc;
mod service;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::rabbitmq;
use crate::broker::sqlite::SqliteBroker;
use crate::client::{Client, DepthLimits, Reader};
use crate::config::{Config, Declare};
use crate::core::clock::Clock;
use crate::core::code::Code;
use crate::core::id::Id;
use crate::core::protocol::{ProtocolId, Protocols, Source};
use crate::core::url::masked;
use crate::error::Error;
use crate::provider::Provider;
use crate::sqlite::{Database, Durability, Location};
use crate::store::Store;
use crate::store::redis as redis_adapter;
use crate::store::sqlite as sqlite_adapter;
use crate::topology::lane::Fairness;
use crate::topology::plan::{QueueType, QueueTypes};
use crate::topology::{Address, Topology};
use clock::SystemClock;
pub use service::{Builder, Service};

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
    depth_limits: DepthLimits,
    database: Option<Database>,
    own: Vec<Arc<dyn Provider>>,
}

/// What a program brings along, beside what the configuration names.
#[derive(Debug, Default)]
struct Brought {
    protocols: Vec<Source>,
    providers: Vec<Arc<dyn Provider>>,
}

/// What a process connects for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// To submit, to follow, to end.
    Client,
    /// To consume until it is told to stop.
    Worker,
    /// To look at the topology or to change it: it is not declared at the start.
    Operator,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Worker => "worker",
            Role::Operator => "operator",
        }
    }
}

impl Runtime {
    /// Connects what the configuration names and, but for an operator, makes sure of the topology. `scope`:
    /// in embedded mode, consumers take only what belongs to this task or workflow.
    ///
    /// # Errors
    /// What the broker or the store says, or a configuration that cannot be used.
    pub async fn open(config: Config, role: Role, scope: Option<&Id>) -> Result<Runtime, Error> {
        // Large, and every command would have room for one.
        Box::pin(Runtime::open_with(config, role, scope, Brought::default())).await
    }

    async fn open_with(
        config: Config,
        role: Role,
        scope: Option<&Id>,
        brought: Brought,
    ) -> Result<Runtime, Error> {
        let protocols = Arc::new(protocols_with(&config, &brought.protocols)?);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (broker, state) = match servers(&config) {
            Some(_) => {
                let queue_types = queue_types_of(&config, &protocols)?;
                let fairness = fairness_of(&config, &protocols)?;
                let settings = rabbitmq::Settings { fairness, ..rabbit_settings(&config, role, queue_types) };
                let (broker, state) =
                    tokio::join!(rabbitmq::RabbitBroker::connect(settings), State::open(&config));
                (Arc::new(broker?) as Arc<dyn Broker>, state?)
            }
            None => {
                let state = State::open(&config).await?;
                (embedded_broker(&state, &clock, scope, fairness_of(&config, &protocols)?)?, state)
            }
        };
        let State { store, database } = state;
        let depth_limits = depth_limits(&config, &protocols)?;
        let own = brought.providers;
        let runtime = Runtime { broker, store, clock, protocols, config, depth_limits, database, own };
        if role != Role::Operator {
            runtime.declare().await?;
        }
        Ok(runtime)
    }

    async fn declare(&self) -> Result<(), Error> {
        Ok(self.broker.declare(&topology_of(&self.config, &self.protocols)?).await?)
    }

    /// The topology of the configured protocols.
    ///
    /// # Errors
    /// Protocol files that cannot be used.
    pub fn topology(config: &Config) -> Result<Topology, Error> {
        topology_of(config, &Runtime::protocols(config)?)
    }

    /// The queue types that the configuration chooses.
    ///
    /// # Errors
    /// A type for something that is no known protocol.
    pub fn queue_types(config: &Config) -> Result<QueueTypes, Error> {
        queue_types_of(config, &Runtime::protocols(config)?)
    }

    /// The built-in protocols and those of the configured folder.
    ///
    /// # Errors
    /// Every file that cannot be read or used.
    pub fn protocols(config: &Config) -> Result<Protocols, Error> {
        protocols_with(config, &[])
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
        .with_depth_limits(self.depth_limits.clone())
    }

    /// Whether this process does its own work, in a state file.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.database.is_some()
    }

    /// Where the work is, for people, without secrets.
    #[must_use]
    pub fn describe(&self) -> String {
        if self.is_embedded() {
            return format!("embedded, {}", self.config.text("state.path"));
        }
        let urls: Vec<String> = self.config.amqp_urls().iter().map(|url| masked(url)).collect();
        urls.join(", ")
    }

    /// Closes what was opened: broker, store, file.
    pub async fn close(&self) {
        self.broker.close().await;
        close(&self.store, self.database.as_ref()).await;
    }
}

/// The state alone, for who only looks: nothing is asked of the broker.
#[derive(Debug)]
pub struct State {
    /// State.
    pub store: Arc<dyn Store>,
    database: Option<Database>,
}

impl State {
    /// Connects to the store that the configuration names.
    ///
    /// # Errors
    /// What the store says, or a configuration that cannot be used.
    pub async fn open(config: &Config) -> Result<State, Error> {
        let result_ttl = config.seconds("task.result_ttl");
        if let Some((_, redis)) = servers(config) {
            let prefix = redis_adapter::Prefix::parse(config.text("redis.prefix"))
                .map_err(|error| Error::new(Code::ConfigurationError, format!("redis.prefix: {error}")))?;
            let wait_replicas = u32::try_from(config.number("redis.wait_replicas")).unwrap_or(u32::MAX);
            let settings = redis_adapter::Settings {
                prefix,
                result_ttl,
                wait_replicas,
                ..redis_adapter::Settings::new(redis)
            };
            let store = redis_adapter::RedisStore::connect(settings).await?;
            return Ok(State { store: Arc::new(store), database: None });
        }
        let durability = match config.text("state.synchronous") {
            "full" => Durability::Power,
            _ => Durability::Process,
        };
        let database = Database::open(Location::parse(config.text("state.path")), durability)
            .await
            .map_err(|error| Error::new(Code::FileUnreadable, error.to_string()))?;
        let settings = sqlite_adapter::Settings { result_ttl, ..Default::default() };
        let store = sqlite_adapter::SqliteStore::new(database.clone(), Arc::new(SystemClock), settings);
        Ok(State { store: Arc::new(store), database: Some(database) })
    }

    /// Reads what is there and waits for ends.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.store))
    }

    /// Closes what was opened: store, file.
    pub async fn close(&self) {
        close(&self.store, self.database.as_ref()).await;
    }
}

async fn close(store: &Arc<dyn Store>, database: Option<&Database>) {
    store.close().await;
    if let Some(database) = database {
        database.close().await;
    }
}

/// The addresses of broker and store; `None` for embedded mode.
fn servers(config: &Config) -> Option<(&str, &str)> {
    config.amqp_url().zip(config.redis_url())
}

fn rabbit_settings(config: &Config, role: Role, queue_types: QueueTypes) -> rabbitmq::Settings {
    let name = format!("gleitzeit {} {} {}", role.name(), host(), std::process::id());
    let declare = match config.declare() {
        Declare::Auto => rabbitmq::Declare::Auto,
        Declare::Check => rabbitmq::Declare::Check,
        Declare::Never => rabbitmq::Declare::Never,
    };
    rabbitmq::Settings {
        urls: config.amqp_urls(),
        declare,
        publish_timeout: config.seconds("amqp.confirm_timeout"),
        queue_types,
        ..rabbitmq::Settings::new("", &name)
    }
}

/// The broker in the same file as the state.
fn embedded_broker(
    state: &State,
    clock: &Arc<dyn Clock>,
    scope: Option<&Id>,
    fairness: Fairness,
) -> Result<Arc<dyn Broker>, Error> {
    let Some(database) = state.database.clone() else {
        return Err(Error::new(Code::InternalError, "the embedded state has no file"));
    };
    let broker = match scope {
        Some(root) => SqliteBroker::scoped(database, Arc::clone(clock), root),
        None => SqliteBroker::new(database, Arc::clone(clock)),
    };
    Ok(Arc::new(broker.with_fairness(fairness)))
}

/// How deep queues may be to which this process submits.
fn depth_limits(config: &Config, protocols: &Protocols) -> Result<DepthLimits, Error> {
    let (all, each) = config.max_depths();
    let mut limits = DepthLimits { all, protocols: BTreeMap::new() };
    for (protocol, limit) in each {
        limits.protocols.insert(address_of(protocols, "queues.max_depths", protocol)?, limit);
    }
    Ok(limits)
}

/// The address of a protocol that `setting` names.
fn address_of(protocols: &Protocols, setting: &str, protocol: &str) -> Result<Address, Error> {
    let id: Option<ProtocolId> = protocol.parse().ok();
    let id = id.filter(|id| protocols.get(id).is_some());
    id.and_then(|id| Address::parse(&id.routing()).ok()).ok_or_else(|| {
        let text = format!("{setting}: there is no protocol {protocol:?}; `gleitzeit protocol list` has all");
        Error::new(Code::ConfigurationError, text)
    })
}

/// The built-in protocols, those of the configured folder, and `more`.
fn protocols_with(config: &Config, more: &[Source]) -> Result<Protocols, Error> {
    let folder = config.text("protocols.folder");
    let mut sources = if folder.is_empty() { Vec::new() } else { read_protocols(folder)? };
    sources.extend_from_slice(more);
    Protocols::with_files(&sources).map_err(|error| Error::new(Code::ConfigurationError, error.to_string()))
}

fn queue_types_of(config: &Config, protocols: &Protocols) -> Result<QueueTypes, Error> {
    let kind = |name: &str| if name == "quorum" { QueueType::Quorum } else { QueueType::Classic };
    let (all, each) = config.queue_types();
    let consumer_timeout = Some(config.seconds("amqp.consumer_timeout"));
    let mut types = QueueTypes { all: all.map(kind), protocols: BTreeMap::new(), consumer_timeout };
    for (protocol, name) in each {
        types.protocols.insert(address_of(protocols, "queues.types", protocol)?, kind(name));
    }
    Ok(types)
}

fn topology_of(config: &Config, protocols: &Protocols) -> Result<Topology, Error> {
    let addresses = protocols.iter().filter_map(|spec| Address::parse(&spec.id.routing()).ok());
    Ok(Topology::new(addresses).with_lanes(&fairness_of(config, protocols)?))
}

/// The protocols that have lanes.
fn fairness_of(config: &Config, protocols: &Protocols) -> Result<Fairness, Error> {
    let mut fairness = Fairness::new();
    for (protocol, lanes) in config.fairness() {
        fairness.insert(address_of(protocols, "fairness", &protocol)?, lanes);
    }
    Ok(fairness)
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
