//! What can be said of a provider of kind `rpc` or `mcp`: a program or an address, and how its processes are kept.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;
use toml::Value;

use super::{INSTANCES, NUMBER_MAX, OF_PROGRAMS, is_http, kind_of, split};
use crate::config::{Config, Origin};
use crate::core::balance::Traits;
use crate::core::pool::{MEMBERS_MAX, Policy};
use crate::core::protocol::ProtocolId;
use crate::provider::process::Limits;
use crate::provider::rpc::{Command, Road};

/// What is said of it beside what is said of every instance, and a value of the type.
const KEYS: [(&str, Form); 22] = [
    ("protocol", Form::Protocol),
    ("command", Form::Words),
    ("url", Form::Url),
    ("token_file", Form::Text),
    ("headers_file", Form::Text),
    ("directory", Form::Text),
    ("start_timeout", Form::Seconds),
    ("pool.min", Form::Number { least: 0, most: MEMBERS_MAX as i64 }),
    ("pool.max", Form::Number { least: 1, most: MEMBERS_MAX as i64 }),
    ("pool.concurrency", Form::Number { least: 1, most: 1000 }),
    ("pool.idle", Form::Seconds),
    ("pool.max_uses", Form::Number { least: 1, most: i64::MAX }),
    ("pool.max_age", Form::Seconds),
    ("pool.max_memory_mb", Form::Number { least: 1, most: NUMBER_MAX }),
    ("pool.queue", Form::Number { least: 0, most: 1_000_000 }),
    ("limits.memory_mb", Form::Number { least: 1, most: NUMBER_MAX }),
    ("limits.cpu_seconds", Form::Number { least: 1, most: i64::MAX }),
    ("limits.processes", Form::Number { least: 1, most: NUMBER_MAX }),
    ("limits.files", Form::Number { least: 8, most: NUMBER_MAX }),
    ("limits.network", Form::Switch),
    ("env.NAME", Form::Text),
    ("env_from_file.NAME", Form::Text),
];
/// What is said of every instance.
const SHARED: [&str; 8] =
    ["kind", "concurrency", "weight", "rank", "region", "models", "labels", "gpu_memory_mb"];
/// What makes sense only where we start the processes.
const OF_COMMANDS: [&str; 4] = ["directory", "limits", "env", "env_from_file"];
/// What makes sense only at an address of an MCP server.
const OF_MCP_ADDRESSES: [&str; 2] = ["token_file", "headers_file"];

/// What a value looks like.
#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Url,
    Protocol,
    /// A list of texts, not empty.
    Words,
    Seconds,
    Switch,
    Number {
        least: i64,
        most: i64,
    },
}

/// A provider that speaks JSON-RPC.
#[derive(Debug, Clone, PartialEq)]
pub struct RpcProvider {
    /// Its name.
    pub name: String,
    /// The protocol that it serves.
    pub protocol: ProtocolId,
    /// How it is reached.
    pub road: Road,
    /// Calls at once, in all its processes together; `None`: any number.
    pub concurrency: Option<NonZeroUsize>,
    /// What it is to those who choose.
    pub traits: Traits,
}

impl Config {
    /// The providers of kind `rpc`, by name.
    #[must_use]
    pub fn rpc_providers(&self) -> Vec<RpcProvider> {
        let names = self.values.iter().filter_map(|(key, (value, _))| {
            let (name, key) = split(key)?;
            (key == "kind" && value.as_str() == Some("rpc")).then_some(name)
        });
        names.filter_map(|name| self.rpc_provider(name)).collect()
    }

    /// `None` for what the checks while loading refuse.
    fn rpc_provider(&self, name: &str) -> Option<RpcProvider> {
        let general = self.instance(name);
        let said = Said { config: self, prefix: format!("{INSTANCES}{name}.") };
        let start_timeout = said.seconds("start_timeout").unwrap_or(Duration::from_secs(30));
        let road = match said.text("url") {
            Some(url) => Road::Http { url: url.into(), start_timeout },
            None => Road::Processes(Box::new(said.command(start_timeout, Policy::default()))),
        };
        Some(RpcProvider {
            name: general.name,
            protocol: said.text("protocol")?.parse().ok()?,
            road,
            concurrency: general.concurrency,
            traits: general.traits,
        })
    }
}

/// What is said of one provider.
pub(super) struct Said<'a> {
    pub(super) config: &'a Config,
    /// What its keys begin with.
    pub(super) prefix: String,
}

impl Said<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        self.config.values.get(&format!("{}{key}", self.prefix)).map(|(value, _)| value)
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.value(key)?.as_str().map(str::to_owned)
    }

    fn number(&self, key: &str) -> Option<u64> {
        u64::try_from(self.value(key)?.as_integer()?).ok()
    }

    fn small(&self, key: &str) -> Option<u32> {
        u32::try_from(self.number(key)?).ok()
    }

    pub(super) fn seconds(&self, key: &str) -> Option<Duration> {
        seconds(self.value(key)?)
    }

    fn megabytes(&self, key: &str) -> Option<u64> {
        self.number(key).map(|number| number.saturating_mul(1024 * 1024))
    }

    /// Everything below a key, by name.
    fn below(&self, key: &str) -> Vec<(String, String)> {
        let prefix = format!("{}{key}.", self.prefix);
        let of = |(key, (value, _)): (&String, &(Value, Origin))| {
            Some((key.strip_prefix(&prefix)?.to_owned(), value.as_str()?.to_owned()))
        };
        self.config.values.iter().filter_map(of).collect()
    }

    pub(super) fn command(&self, start_timeout: Duration, usual: Policy) -> Command {
        let words = self.value("command").and_then(Value::as_array).into_iter().flatten();
        let secrets = self.below("env_from_file").into_iter().map(|(name, path)| (name, PathBuf::from(path)));
        Command {
            line: words.filter_map(|word| word.as_str().map(str::to_owned)).collect(),
            directory: self.text("directory").map(PathBuf::from),
            environment: self.below("env").into_iter().collect(),
            secrets: secrets.collect(),
            limits: Limits {
                memory_bytes: self.megabytes("limits.memory_mb"),
                cpu_seconds: self.number("limits.cpu_seconds"),
                processes: self.number("limits.processes"),
                open_files: self.number("limits.files"),
                is_offline: self.value("limits.network").and_then(Value::as_bool) == Some(false),
            },
            pool: self.pool(usual),
            start_timeout,
        }
    }

    /// How members are kept; `usual` where nothing is said.
    pub(super) fn pool(&self, usual: Policy) -> Policy {
        let min = self.small("pool.min");
        let max = self.small("pool.max").unwrap_or_else(|| usual.max.max(min.unwrap_or(0)));
        Policy {
            min: min.unwrap_or(usual.min),
            max,
            concurrency: self.small("pool.concurrency").unwrap_or(usual.concurrency),
            idle: self.seconds("pool.idle").unwrap_or(usual.idle),
            uses_max: self.number("pool.max_uses"),
            age_max: self.seconds("pool.max_age"),
            memory_bytes_max: self.megabytes("pool.max_memory_mb"),
            queue_max: self.small("pool.queue").map_or(usual.queue_max, |number| number as usize),
            ..usual
        }
    }
}

/// What is wrong with a key of such a provider, if anything; the outer `None`: it is judged like those of all others.
pub(super) fn judge(
    values: &BTreeMap<String, (Value, Origin)>,
    key: &str,
    value: &Value,
) -> Option<Option<String>> {
    let (name, key) = split(key)?;
    let kind = kind_of(values, name).filter(|kind| OF_PROGRAMS.contains(kind))?;
    if SHARED.contains(&key) {
        return None;
    }
    let others: &[&str] = if kind == "mcp" { &["protocol"] } else { &OF_MCP_ADDRESSES };
    let is = |known: &str| match known.strip_suffix(".NAME") {
        Some(table) => key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.')),
        None => known == key,
    };
    let own = KEYS.iter().filter(|(known, _)| !others.contains(known));
    let Some((_, form)) = own.clone().find(|(known, _)| is(known)) else {
        let own = own.map(|(key, _)| *key).collect::<Vec<_>>().join(", ");
        return Some(Some(format!("is not known; there are {}, {own}", SHARED.join(", "))));
    };
    Some(form.problem(value).or_else(|| variable(key)))
}

/// What is wrong with its keys taken together.
pub(super) fn together(name: &str, values: &BTreeMap<String, (Value, Origin)>) -> Vec<String> {
    let said = |key: &str| values.get(&format!("{INSTANCES}{name}.{key}")).map(|(value, _)| value);
    let mut found = Vec::new();
    let is_mcp = kind_of(values, name) == Some("mcp");
    if said("protocol").is_none() && !is_mcp {
        found.push(format!("{INSTANCES}{name}.protocol is missing"));
    }
    match (said("command"), said("url")) {
        (None, None) => found.push(format!("{INSTANCES}{name} needs a command or a url")),
        (Some(_), Some(_)) => {
            found.push(format!("{INSTANCES}{name} has a command and a url; one of them is enough"))
        }
        (Some(_), None) => {
            for key in OF_MCP_ADDRESSES.into_iter().filter(|key| said(key).is_some()) {
                found.push(format!("{INSTANCES}{name}.{key} needs a url: it is sent to one"));
            }
        }
        (None, Some(_)) => {
            let ours = values.keys().filter_map(|key| split(key)).filter(|(of, _)| *of == name);
            let first = |key: &str| key.split('.').next().unwrap_or_default().to_owned();
            let is_process =
                |key: &str| OF_COMMANDS.contains(&first(key).as_str()) || (!is_mcp && first(key) == "pool");
            for (_, key) in ours.filter(|(_, key)| is_process(key)) {
                found
                    .push(format!("{INSTANCES}{name}.{key} needs a command: a url's processes are not ours"));
            }
        }
    }
    let number = |key: &str| said(key).and_then(Value::as_integer);
    if let (Some(min), Some(max)) = (number("pool.min"), number("pool.max"))
        && min > max
    {
        found.push(format!("{INSTANCES}{name}.pool.min must be at most pool.max"));
    }
    let twice = values.keys().filter_map(|key| key.strip_prefix(&format!("{INSTANCES}{name}.env.")));
    for variable in twice.filter(|variable| said(&format!("env_from_file.{variable}")).is_some()) {
        found.push(format!("{INSTANCES}{name}.env.{variable} is in env_from_file too"));
    }
    found
}

impl Form {
    fn problem(self, value: &Value) -> Option<String> {
        let is_right = match (self, value) {
            (Form::Text, Value::String(text)) => !text.contains('\0'),
            (Form::Url, Value::String(text)) => is_http(text),
            (Form::Protocol, Value::String(text)) => text.parse::<ProtocolId>().is_ok(),
            (Form::Words, Value::Array(words)) => {
                words.iter().all(Value::is_str)
                    && words.first().and_then(Value::as_str).is_some_and(|one| !one.is_empty())
            }
            (Form::Seconds, value) => seconds(value).is_some(),
            (Form::Switch, Value::Boolean(_)) => true,
            (Form::Number { least, most }, Value::Integer(number)) => (least..=most).contains(number),
            _ => false,
        };
        let must = match self {
            Form::Text => "must be a text".to_owned(),
            Form::Url => "must begin with http:// or https://".to_owned(),
            Form::Protocol => "must be a protocol, such as \"words/v1\"".to_owned(),
            Form::Words => "must be a list of texts, such as [\"python3\", \"provider.py\"]".to_owned(),
            Form::Seconds => "must be a number of seconds above 0".to_owned(),
            Form::Switch => "must be true or false".to_owned(),
            Form::Number { least, most: i64::MAX } => format!("must be a whole number, at least {least}"),
            Form::Number { least, most } => format!("must be a whole number, {least} to {most}"),
        };
        (!is_right).then_some(must)
    }
}

/// What is wrong with the name of a variable, if the key has one.
fn variable(key: &str) -> Option<String> {
    let name = key.strip_prefix("env.").or_else(|| key.strip_prefix("env_from_file."))?;
    let is_right = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (!is_right).then(|| "must be the name of a variable: letters, digits and _".to_owned())
}

fn seconds(value: &Value) -> Option<Duration> {
    let seconds = value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64))?;
    (seconds.is_finite() && seconds > 0.0 && seconds < 1e9).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::super::tests::read;
    use super::*;

    #[test]
    fn a_program_is_read_with_what_is_not_said_filled_in() {
        let config = read(
            "[providers.words]\nkind = 'rpc'\nprotocol = 'words/v1'\ncommand = ['python3', 'p.py']\nweight = 3\n\
             concurrency = 5\ndirectory = '/srv'\n[providers.words.pool]\nmin = 8\nidle = 5\nmax_memory_mb = 2\n\
             [providers.words.env]\nREGION = 'eu'\nKEY = 's3cret'\n[providers.words.env_from_file]\nTOKEN = '/run/t'\n\
             [providers.words.limits]\nmemory_mb = 1\nfiles = 64\nnetwork = false\n\
             [providers.far]\nkind = 'rpc'\nprotocol = 'words/v1'\nurl = 'http://h/rpc'\nrank = 1\n\
             [providers.big]\nkind = 'ollama'\nurl = 'http://b'\n",
        )
        .expect("valid");
        let [far, words] = &config.rpc_providers()[..] else { panic!("two") };
        assert!(matches!(&far.road, Road::Http { url, .. } if url.as_str() == "http://h/rpc"));
        assert_eq!(
            (far.traits.rank, words.traits.weight, words.protocol.to_string()),
            (1, 3, "words/v1".to_owned())
        );
        let Road::Processes(command) = &words.road else { panic!("a program") };
        assert_eq!(command.line, ["python3", "p.py"]);
        assert_eq!((command.pool.min, command.pool.max, command.pool.concurrency), (8, 8, 1));
        assert_eq!(
            (command.pool.idle, command.pool.memory_bytes_max),
            (Duration::from_secs(5), Some(2 << 20))
        );
        assert_eq!((command.limits.memory_bytes, command.limits.open_files), (Some(1 << 20), Some(64)));
        assert!(command.limits.is_offline);
        assert_eq!(command.environment["REGION"], "eu");
        assert_eq!(command.secrets, [("TOKEN".to_owned(), PathBuf::from("/run/t"))]);
        assert_eq!(words.concurrency, NonZeroUsize::new(5));
        assert_eq!(config.instances().len(), 1, "the model server alone");
        let shown = format!("{:?}", config.shown());
        assert!(!shown.contains("s3cret") && shown.contains("/run/t"), "{shown}");
    }

    #[test]
    fn every_problem_of_a_program_is_told() {
        let said = read(
            "[providers.a]\nkind = 'rpc'\nprotocol = 'w w'\ncommand = []\nmodel = 'x'\n[providers.a.pool]\nmin = 5\n\
             max = 2\nidle = 0\nmax_uses = 0\n[providers.a.env]\n'A-B' = 'x'\nC = 1\nD = 'd'\n\
             [providers.a.env_from_file]\nD = '/d'\n[providers.a.limits]\nmemory = 1\nnetwork = 0\n\
             [providers.b]\nkind = 'rpc'\nurl = 'h'\n[providers.b.pool]\nmin = 1\n\
             [providers.c]\nkind = 'rpc'\nprotocol = 'words/v1'\n\
             [providers.d]\nkind = 'rpc'\nprotocol = 'words/v1'\ncommand = ['x']\nurl = 'http://h'\n\
             [providers.e]\nkind = 'ollama'\nurl = 'http://h'\ncommand = ['x']\n",
        )
        .expect_err("wrong in many ways");
        for part in [
            "providers.a.protocol must be a protocol",
            "providers.a.command must be a list of texts",
            "providers.a.model is not known; there are kind,",
            "providers.a.pool.min must be at most pool.max",
            "providers.a.pool.idle must be a number of seconds above 0",
            "providers.a.pool.max_uses must be a whole number, at least 1",
            "providers.a.env.A-B must be the name of a variable",
            "providers.a.env.C must be a text",
            "providers.a.env.D is in env_from_file too",
            "providers.a.limits.memory is not known; there are kind,",
            "providers.a.limits.network must be true or false",
            "providers.b.protocol is missing",
            "providers.b.url must begin with http",
            "providers.b.pool.min needs a command",
            "providers.c needs a command or a url",
            "providers.d has a command and a url",
            "providers.e.command is not known; there are kind, url",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
}
