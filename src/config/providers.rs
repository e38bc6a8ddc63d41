//! The instances that are configured: `[providers.NAME]`, and how calls are given out among them.

mod mcp;
mod rpc;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::time::Duration;
use toml::Value;

use super::{Config, Origin};
use crate::core::balance::{Strategy, Traits};
use crate::core::breaker;
use crate::provider::llm::{Api, Key, Reach};

pub use mcp::McpProvider;
pub use rpc::RpcProvider;

/// What keys of instances start with; then its name, then what is said of it.
pub(super) const INSTANCES: &str = "providers.";
/// What keys start with whose rest is a protocol.
pub(super) const STRATEGIES: &str = "balance.strategies.";

/// What can be said of an instance, and a value of the type.
const KEYS: [(&str, &str); 14] = [
    ("kind", "string"),
    ("url", "string"),
    ("api_key_file", "string"),
    ("api_key_env", "string"),
    ("connect_timeout", "float"),
    ("idle_timeout", "float"),
    ("timeout", "float"),
    ("concurrency", "integer"),
    ("weight", "integer"),
    ("rank", "integer"),
    ("region", "string"),
    ("models", "array"),
    ("labels", "array"),
    ("gpu_memory_mb", "integer"),
];
/// The kinds that there are.
const KINDS: [&str; 4] = ["mcp", "ollama", "openai", "rpc"];
/// Those that are programs or speak to some.
const OF_PROGRAMS: [&str; 2] = ["mcp", "rpc"];
/// Names that providers have which are always there.
const TAKEN: [&str; 3] = ["echo", "mcp-tools", "python"];
/// The longest name.
const NAME_MAX: usize = 64;
/// The largest number of anything.
const NUMBER_MAX: i64 = 1 << 24;

/// An instance of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configured {
    /// Its name.
    pub name: String,
    /// What its server speaks.
    pub api: Api,
    /// How its server is reached.
    pub reach: Reach,
    /// Calls at once; `None`: any number.
    pub concurrency: Option<NonZeroUsize>,
    /// What it is to those who choose.
    pub traits: Traits,
}

impl Config {
    /// The model servers that are configured, by name.
    #[must_use]
    pub fn instances(&self) -> Vec<Configured> {
        let keys = self.values.keys().filter_map(|key| split(key));
        let names: BTreeSet<&str> = keys.map(|(name, _)| name).collect();
        let names = names.into_iter().filter(|name| !is_program(&self.values, name));
        names.map(|name| self.instance(name)).collect()
    }

    fn instance(&self, name: &str) -> Configured {
        let of = |key: &str| self.values.get(&format!("{INSTANCES}{name}.{key}")).map(|(value, _)| value);
        let text = |key: &str| of(key).and_then(Value::as_str).map(str::to_owned);
        let number = |key: &str| of(key).and_then(Value::as_integer);
        let small = |key: &str| number(key).and_then(|number| u32::try_from(number).ok());
        let list = |key: &str| {
            let items = of(key).and_then(Value::as_array).into_iter().flatten();
            items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        let seconds = |key: &str| {
            let seconds =
                of(key).and_then(|value| value.as_float().or(value.as_integer().map(|whole| whole as f64)));
            seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        };
        let variable =
            |name: String| Key::Variable { value: self.sources.environment.get(&name).cloned(), name };
        let usual = Reach::at(&text("url").unwrap_or_default());
        let reach = Reach {
            connect_timeout: seconds("connect_timeout").unwrap_or(usual.connect_timeout),
            idle_timeout: seconds("idle_timeout").unwrap_or(usual.idle_timeout),
            timeout: seconds("timeout"),
            key: text("api_key_file")
                .map(|path| Key::File(path.into()))
                .or(text("api_key_env").map(variable)),
            ..usual
        };
        Configured {
            name: name.to_owned(),
            api: if text("kind").as_deref() == Some("openai") { Api::OpenAi } else { Api::Ollama },
            reach,
            concurrency: small("concurrency").and_then(|count| NonZeroUsize::new(count as usize)),
            traits: Traits {
                weight: small("weight").unwrap_or(1),
                rank: small("rank").unwrap_or(0),
                region: text("region"),
                models: list("models"),
                labels: list("labels"),
                gpu_memory_mb: number("gpu_memory_mb").and_then(|mb| u64::try_from(mb).ok()),
            },
        }
    }

    /// The strategy everywhere, then the protocols that have another one, as they are written.
    #[must_use]
    pub fn strategies(&self) -> (Strategy, Vec<(&str, Strategy)>) {
        let parse = |text: &str| text.parse().unwrap_or_default();
        let mut each = Vec::new();
        for (key, (value, _)) in &self.values {
            each.extend(key.strip_prefix(STRATEGIES).zip(value.as_str().map(parse)));
        }
        (parse(self.text("balance.strategy")), each)
    }

    /// When a provider is not called any more.
    #[must_use]
    pub fn breaker(&self) -> breaker::Policy {
        let number = |key: &str| u32::try_from(self.number(key)).unwrap_or(u32::MAX);
        breaker::Policy {
            failures: number("breaker.failures"),
            share: self.fraction("breaker.share"),
            calls: number("breaker.calls"),
            window: self.seconds("breaker.window"),
            open: self.seconds("breaker.open"),
            open_max: self.seconds("breaker.open_max"),
            probes: number("breaker.probes"),
        }
    }
}

/// Every problem with these keys.
pub(super) fn problems(values: &BTreeMap<String, (Value, Origin)>) -> Vec<String> {
    let mut found = Vec::new();
    let strategies = Strategy::NAMES.map(|(name, _)| name).join(", ");
    for (key, (value, origin)) in values {
        if key.starts_with(STRATEGIES) || key == "balance.strategy" {
            let known = value.as_str().is_some_and(|text| text.parse::<Strategy>().is_ok());
            if !known {
                found.push(format!("{origin}: {key} must be one of {strategies}"));
            }
        }
        if key.starts_with(INSTANCES) {
            let judged = rpc::judge(values, key, value).unwrap_or_else(|| problem(key, value));
            found.extend(judged.map(|why| format!("{origin}: {key} {why}")));
        }
    }
    if values["breaker.share"].0.as_float().is_some_and(|share| share > 1.0) {
        found.push(format!("{}: breaker.share must be at most 1", values["breaker.share"].1));
    }
    let names: BTreeMap<&str, &Origin> =
        values.iter().filter_map(|(key, (_, origin))| Some((split(key)?.0, origin))).collect();
    for (name, origin) in names {
        let is_program = is_program(values, name);
        if is_program {
            found.extend(rpc::together(name, values).into_iter().map(|why| format!("{origin}: {why}")));
        }
        for key in ["kind", "url"] {
            if !is_program && !values.contains_key(&format!("{INSTANCES}{name}.{key}")) {
                found.push(format!("{origin}: {INSTANCES}{name}.{key} is missing"));
            }
        }
        found.extend(two_logins(values, name).map(|why| format!("{origin}: {INSTANCES}{name} {why}")));
    }
    found
}

/// A server is logged in to in one way.
fn two_logins(values: &BTreeMap<String, (Value, Origin)>, name: &str) -> Option<&'static str> {
    let of =
        |key: &str| values.get(&format!("{INSTANCES}{name}.{key}")).and_then(|(value, _)| value.as_str());
    let logins = [of("api_key_file"), of("api_key_env"), of("url").filter(|url| url.contains('@'))];
    (logins.into_iter().flatten().count() > 1)
        .then_some("has two logins: give one of api_key_file, api_key_env, and a login in its url")
}

/// The name of the instance, and what is said of it.
pub(super) fn split(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(INSTANCES)?.split_once('.')
}

pub(super) fn kind_of<'a>(values: &'a BTreeMap<String, (Value, Origin)>, name: &str) -> Option<&'a str> {
    values.get(&format!("{INSTANCES}{name}.kind"))?.0.as_str()
}

fn is_program(values: &BTreeMap<String, (Value, Origin)>, name: &str) -> bool {
    kind_of(values, name).is_some_and(|kind| OF_PROGRAMS.contains(&kind))
}

fn problem(key: &str, value: &Value) -> Option<String> {
    let Some((name, key)) = split(key) else {
        return Some("must be a table, such as [providers.big] with kind and url".to_owned());
    };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(plain) {
        return Some(format!("must have a name of 1 to {NAME_MAX} of a-z, 0-9, - and _"));
    }
    if TAKEN.contains(&name) {
        return Some("must have another name: that one is taken".to_owned());
    }
    if key == "api_key" {
        return Some(
            "is not written here: name a file (api_key_file) or a variable (api_key_env)".to_owned(),
        );
    }
    let Some((_, kind)) = KEYS.iter().find(|(known, _)| *known == key) else {
        let known = KEYS.map(|(key, _)| key).join(", ");
        return Some(format!("is not known; there are {known}"));
    };
    if value.type_str() != *kind && (*kind, value.type_str()) != ("float", "integer") {
        return Some(format!("must be of type {kind}, not {}", value.type_str()));
    }
    match value {
        Value::String(text) if key == "kind" && !KINDS.contains(&text.as_str()) => {
            Some(format!("must be one of {}", KINDS.join(", ")))
        }
        Value::String(text) if key == "api_key_env" && !is_variable(text) => {
            Some("must be the name of a variable of the environment, not the key itself".to_owned())
        }
        Value::String(text) if key == "api_key_file" && text.is_empty() => {
            Some("must be the path of a file".to_owned())
        }
        Value::Float(seconds) if !(seconds.is_finite() && *seconds > 0.0 && *seconds < 1e9) => {
            Some("must be a number of seconds above 0".to_owned())
        }
        Value::String(text) if key == "url" && !is_http(text) => {
            Some("must begin with http:// or https://".to_owned())
        }
        Value::Integer(number) => {
            let least = i64::from(!matches!(key, "weight" | "rank"));
            let is_within = (least..=NUMBER_MAX).contains(number);
            (!is_within).then(|| format!("must be {least} to {NUMBER_MAX}"))
        }
        Value::Array(items) if !items.iter().all(Value::is_str) => Some("must be a list of texts".to_owned()),
        _ => None,
    }
}

/// Names in capitals, so that a key that was put there by mistake is told.
fn is_variable(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    !name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit()) && name.bytes().all(is_plain)
}

pub(super) fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{Sources, load};

    pub(in crate::config) fn read(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).expect("write");
        load(&Sources { file: Some(path), ..Sources::default() }).map_err(|error| error.to_string())
    }

    #[test]
    fn instances_are_read_with_what_they_do_not_say_filled_in() {
        let config = read(
            "[providers.big]\nkind = 'ollama'\nurl = 'http://u:s3cret@a:1'\nweight = 3\nmodels = ['m']\n\
             gpu_memory_mb = 24000\nregion = 'eu'\nconcurrency = 2\n\
             [providers.spare-1]\nkind = 'ollama'\nurl = 'http://b'\nrank = 1\n\
             [balance]\nstrategy = 'least_latency'\n[balance.strategies]\n'llm/v1' = 'affinity'\n\
             [breaker]\nfailures = 2\nshare = 1\n",
        )
        .expect("valid");
        let [big, spare] = &config.instances()[..] else { panic!("two") };
        assert_eq!(
            (big.name.as_str(), big.traits.weight, big.traits.gpu_memory_mb),
            ("big", 3, Some(24_000))
        );
        assert_eq!((big.concurrency, big.traits.region.as_deref()), (NonZeroUsize::new(2), Some("eu")));
        assert_eq!((spare.name.as_str(), spare.traits.rank, spare.traits.weight), ("spare-1", 1, 1));
        assert_eq!(config.strategies(), (Strategy::LeastLatency, vec![("llm/v1", Strategy::Affinity)]));
        assert_eq!((config.breaker().failures, config.breaker().share), (2, 1.0));
        assert!(!format!("{:?}", config.shown()).contains("s3cret"));
    }

    #[test]
    fn a_key_comes_from_a_file_or_a_variable_and_is_never_shown() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("c.toml");
        let text = "[providers.a]\nkind = 'openai'\nurl = 'https://a'\napi_key_env = 'A_KEY'\ntimeout = 5\n\
             [providers.b]\nkind = 'openai'\nurl = 'https://b'\napi_key_file = '/run/key'\nidle_timeout = 0.5\n\
             [providers.c]\nkind = 'ollama'\nurl = 'http://c'\napi_key_env = 'NO_KEY'\n";
        std::fs::write(&path, text).expect("write");
        let environment = BTreeMap::from([("A_KEY".to_owned(), "s3cret".to_owned())]);
        let sources = Sources { file: Some(path), environment, ..Sources::default() };
        let config = load(&sources).expect("valid");
        let [a, b, c] = &config.instances()[..] else { panic!("three") };
        let variable = |name: &str, value: Option<&str>| {
            Some(Key::Variable { name: name.to_owned(), value: value.map(str::to_owned) })
        };
        assert_eq!((a.api, &a.reach.key), (Api::OpenAi, &variable("A_KEY", Some("s3cret"))));
        assert_eq!((c.api, &c.reach.key), (Api::Ollama, &variable("NO_KEY", None)));
        assert_eq!(b.reach.key, Some(Key::File("/run/key".into())));
        assert_eq!((a.reach.timeout, b.reach.timeout), (Some(Duration::from_secs(5)), None));
        assert_eq!(b.reach.idle_timeout, Duration::from_millis(500));
        for shown in [format!("{config:?}"), format!("{sources:?}"), format!("{:?}", config.instances())] {
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn every_problem_of_an_instance_is_told() {
        let said = read(
            "[providers]\nx = 1\n[providers.a]\nkind = 'olama'\nurl = 'localhost'\nweigth = 1\n\
             weight = -1\nconcurrency = 0\nmodels = [1]\nrank = 'first'\napi_key = 's3cret'\n\
             api_key_env = 's3cret'\ntimeout = -1\n[providers.two]\nkind = 'openai'\nurl = 'http://me@h'\n\
             api_key_file = 'x'\n[providers.python]\nkind = 'ollama'\n\
             ['providers'.'Big.one']\nkind = 'ollama'\n[balance]\nstrategy = 'best'\n[breaker]\nshare = 1.5\n",
        )
        .expect_err("wrong in many ways");
        for part in [
            "providers.x must be a table",
            "providers.a.kind must be one of mcp, ollama, openai, rpc",
            "providers.a.api_key is not written here: name a file",
            "providers.a.api_key_env must be the name of a variable",
            "providers.a.timeout must be 1 to",
            "providers.two has two logins",
            "providers.a.url must begin with http",
            "providers.a.weigth is not known; there are kind, url",
            "providers.a.weight must be 0 to",
            "providers.a.concurrency must be 1 to",
            "providers.a.models must be a list of texts",
            "providers.a.rank must be of type integer, not string",
            "providers.python.kind must have another name",
            "providers.python.url is missing",
            "providers.Big.one.kind must have a name",
            "balance.strategy must be one of round_robin",
            "breaker.share must be at most 1",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert!(!said.contains("s3cret"), "{said}");
    }
}
