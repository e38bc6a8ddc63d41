//! Configuration: defaults < file < environment < flags.
//!
//! `default.toml` is the reference: its keys are the only ones there are, its values' types are the types.
//! Every value remembers where it came from, so that `config show` can say so. Values go down to whom they
//! concern; there is no global.

mod fairness;
mod file;
mod limits;
mod providers;
mod reload;
mod resources;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use toml::Value;

use crate::core::code::Code;
use crate::core::url::masked;

pub use file::{Sources, load};
pub use providers::{Configured, McpProvider, RpcProvider};
pub use reload::Changes;

/// The commented defaults, which are the reference.
pub const DEFAULTS: &str = include_str!("default.toml");

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Compiled in.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable, or the file that it names.
    Environment(String),
    /// The command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.join("; "))]
pub struct ConfigError {
    /// Every problem found.
    pub problems: Vec<String>,
    /// Whether a file that it is made of could not be read.
    pub is_unreadable: bool,
}

impl ConfigError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        if self.is_unreadable { Code::FileUnreadable } else { Code::ConfigurationError }
    }
}

/// The whole configuration, each value with its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    values: BTreeMap<String, (Value, Origin)>,
    /// What it was made of, to be read again.
    sources: Sources,
}

/// What to do about the topology at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declare {
    /// Look, then declare what is missing.
    Auto,
    /// Look, and refuse to start if something differs.
    Check,
    /// Neither.
    Never,
}

/// Which events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventLevel {
    /// Every event.
    All,
    /// Ends only.
    Ended,
    /// None.
    Off,
}

impl Config {
    /// Reads the file again, and the files that are named in the environment.
    ///
    /// # Errors
    /// As of [`load`].
    pub fn read_again(&self) -> Result<Config, ConfigError> {
        load(&self.sources)
    }

    /// The broker's addresses, nodes of one cluster; none for embedded mode.
    #[must_use]
    pub fn amqp_urls(&self) -> Vec<String> {
        self.texts("amqp.url")
    }

    /// The first of the broker's addresses; `None` for embedded mode.
    #[must_use]
    pub fn amqp_url(&self) -> Option<&str> {
        self.value("amqp.url").as_array()?.first()?.as_str()
    }

    /// The store's address; `None` for embedded mode.
    #[must_use]
    pub fn redis_url(&self) -> Option<&str> {
        Some(self.text("redis.url")).filter(|url| !url.is_empty())
    }

    /// What to do about the topology at start.
    #[must_use]
    pub fn declare(&self) -> Declare {
        match self.text("amqp.declare") {
            "check" => Declare::Check,
            "never" => Declare::Never,
            _ => Declare::Auto,
        }
    }

    /// Which events are sent.
    #[must_use]
    pub fn events(&self) -> EventLevel {
        match self.text("events.level") {
            "all" => EventLevel::All,
            "off" => EventLevel::Off,
            _ => EventLevel::Ended,
        }
    }

    /// The type of every queue that has none of its own: `classic` or `quorum`; `None` for the release's own
    /// choice. Then the protocols whose task queues have another, as they are written.
    #[must_use]
    pub fn queue_types(&self) -> (Option<&str>, Vec<(&str, &str)>) {
        let all = Some(self.text("queues.type")).filter(|kind| *kind != "auto");
        let mut each = Vec::new();
        for (key, (value, _)) in &self.values {
            each.extend(key.strip_prefix(file::QUEUE_TYPES).zip(value.as_str()));
        }
        (all, each)
    }

    /// How many messages may wait where one more is submitted, 0 for any number: everywhere, then the protocols
    /// that have another limit, as they are written.
    #[must_use]
    pub fn max_depths(&self) -> (u64, Vec<(&str, u64)>) {
        let mut each = Vec::new();
        for (key, (value, _)) in &self.values {
            let depth = value.as_integer().and_then(|depth| u64::try_from(depth).ok());
            each.extend(key.strip_prefix(file::MAX_DEPTHS).zip(depth));
        }
        (self.number("queues.max_depth"), each)
    }

    /// A text. The key must be one of `default.toml`, of that type.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.value(key).as_str().expect("the type was checked while loading")
    }

    /// A list of texts.
    #[must_use]
    pub fn texts(&self, key: &str) -> Vec<String> {
        let list = self.value(key).as_array().expect("the type was checked while loading");
        list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    }

    /// A whole number, not negative.
    #[must_use]
    pub fn number(&self, key: &str) -> u64 {
        let number = self.value(key).as_integer().expect("the type was checked while loading");
        u64::try_from(number).expect("the sign was checked while loading")
    }

    /// A switch.
    #[must_use]
    pub fn switch(&self, key: &str) -> bool {
        self.value(key).as_bool().expect("the type was checked while loading")
    }

    /// Seconds.
    #[must_use]
    pub fn seconds(&self, key: &str) -> Duration {
        let seconds = self.value(key).as_float().expect("the type was checked while loading");
        Duration::from_secs_f64(seconds)
    }

    /// A number above 0 that need not be whole.
    #[must_use]
    pub fn fraction(&self, key: &str) -> f64 {
        self.value(key).as_float().expect("the type was checked while loading")
    }

    /// Every key with its value (secrets masked) and its origin.
    #[must_use]
    pub fn shown(&self) -> Vec<(String, Value, String)> {
        let line = |(key, (value, origin)): (&String, &(Value, Origin))| {
            let shown = match value {
                // A variable of a provider may be a secret.
                Value::String(_) if key.starts_with("providers.") && key.contains(".env.") => "***".into(),
                Value::String(text) if key.ends_with(".url") => Value::String(masked(text)),
                Value::Array(items) if key.ends_with(".url") => {
                    let items = items.iter().filter_map(Value::as_str);
                    Value::Array(items.map(|url| Value::String(masked(url))).collect())
                }
                other => other.clone(),
            };
            (key.clone(), shown, origin.to_string())
        };
        self.values.iter().map(line).collect()
    }

    fn value(&self, key: &str) -> &Value {
        let found = self.values.get(key).map(|(value, _)| value);
        found.expect("the key is one of default.toml")
    }
}
