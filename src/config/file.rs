//! Loading: the only place that reads the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

use super::fairness::{self, FAIRNESS};
use super::limits::{self, LIMITS};
use super::providers::{self, INSTANCES, STRATEGIES};
use super::resources::{self, RESOURCES};
use super::{Config, ConfigError, DEFAULTS, Origin};

/// What keys start with whose rest is a protocol.
pub(super) const QUEUE_TYPES: &str = "queues.types.";
/// The same for the depths of queues.
pub(super) const MAX_DEPTHS: &str = "queues.max_depths.";

/// Numbers whose 0 means that there is none; all others are at least 1.
const MAY_BE_ZERO: [&str; 7] = [
    "worker.max_running",
    "redis.wait_replicas",
    "queues.max_depth",
    "python.memory_mb",
    "python.cpu_seconds",
    "python.processes",
    "python.files",
];

/// What the configuration is made of.
#[derive(Clone, Default, PartialEq)]
pub struct Sources {
    /// `--config FILE`; missing or unreadable is an error.
    pub file: Option<PathBuf>,
    /// The environment, name and value. Never shown.
    pub environment: BTreeMap<String, String>,
    /// Values of flags: key, value as text, the flag's name.
    pub flags: Vec<(&'static str, String, &'static str)>,
}

impl Sources {
    /// The sources of this process, without flags.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>) -> Sources {
        // All of it: which variables hold keys of servers is known once the file is read.
        let all = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Sources { file, environment: all.collect(), flags: Vec::new() }
    }

    fn config_file(&self) -> Option<(PathBuf, bool)> {
        if let Some(file) = &self.file {
            return Some((file.clone(), true));
        }
        if let Some(file) = self.environment.get("GLEITZEIT_CONFIG") {
            return Some((file.into(), true));
        }
        let folder = match (self.environment.get("XDG_CONFIG_HOME"), self.environment.get("HOME")) {
            (Some(folder), _) if !folder.is_empty() => PathBuf::from(folder),
            (_, Some(home)) => Path::new(home).join(".config"),
            (_, None) => return None,
        };
        Some((folder.join("gleitzeit/config.toml"), false))
    }
}

impl fmt::Debug for Sources {
    /// Without values, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags: Vec<&str> = self.flags.iter().map(|(key, _, _)| *key).collect();
        f.debug_struct("Sources").field("file", &self.file).field("flags", &flags).finish_non_exhaustive()
    }
}

/// Merges the sources.
///
/// # Errors
/// [`ConfigError`] with every unknown key, wrong type and unreadable file. No value is in it: it may be secret.
pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
    let defaults: Table = DEFAULTS.parse().expect("default.toml is compiled in and tested");
    let mut flat = BTreeMap::new();
    flatten("", &defaults, &mut flat);
    let mut values: BTreeMap<String, (Value, Origin)> =
        flat.into_iter().map(|(key, value)| (key, (value, Origin::Default))).collect();
    let mut problems = Problems::default();

    if let Some((path, table)) = read_file(sources, &mut problems) {
        let mut found = BTreeMap::new();
        flatten("", &table, &mut found);
        for (key, value) in found {
            set(&mut values, &key, value, Origin::File(path.clone()), &mut problems);
        }
    }
    from_environment(sources, &mut values, &mut problems);
    for (key, text, flag) in &sources.flags {
        let value = typed(text, &values[*key].0);
        set(&mut values, key, value, Origin::Flag((*flag).to_owned()), &mut problems);
    }
    default_state_path(sources, &mut values);
    check(&values, &mut problems);
    if problems.found.is_empty() {
        return Ok(Config { values, sources: sources.clone() });
    }
    Err(ConfigError { problems: problems.found, is_unreadable: problems.is_unreadable })
}

/// What is wrong, and whether a file is.
#[derive(Debug, Default)]
struct Problems {
    found: Vec<String>,
    is_unreadable: bool,
}

impl Problems {
    fn push(&mut self, problem: String) {
        self.found.push(problem);
    }

    fn unreadable(&mut self, problem: String) {
        self.found.push(problem);
        self.is_unreadable = true;
    }
}

/// The configuration file, if there is one that can be read.
fn read_file(sources: &Sources, problems: &mut Problems) -> Option<(PathBuf, Table)> {
    let (path, demanded) = sources.config_file()?;
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !demanded => return None,
        Err(error) => {
            problems.unreadable(format!("cannot read configuration file {}: {error}", path.display()));
            return None;
        }
    };
    match text.parse::<Table>() {
        Ok(table) => Some((path, table)),
        Err(error) => {
            // The error's own text quotes the line, which may hold a password.
            let start = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
            let problem = format!("configuration file {}, line {line}: {}", path.display(), error.message());
            problems.push(problem);
            None
        }
    }
}

fn from_environment(
    sources: &Sources,
    values: &mut BTreeMap<String, (Value, Origin)>,
    problems: &mut Problems,
) {
    let keys: Vec<String> = values.keys().cloned().collect();
    for key in keys {
        let name = format!("GLEITZEIT_{}", key.to_uppercase().replace('.', "_"));
        let text = match sources.environment.get(&format!("{name}_FILE")) {
            Some(path) => match std::fs::read_to_string(path) {
                Ok(text) => text.trim_end_matches(['\r', '\n']).to_owned(),
                Err(error) => {
                    problems.unreadable(format!("cannot read {path}, named by {name}_FILE: {error}"));
                    continue;
                }
            },
            None => match sources.environment.get(&name) {
                Some(text) => text.clone(),
                None => continue,
            },
        };
        let value = typed(&text, &values[&key].0);
        set(values, &key, value, Origin::Environment(name), problems);
    }
}

/// Reads a text as the type that the key has; what cannot be read stays a text and is refused by `set`.
fn typed(text: &str, like: &Value) -> Value {
    let parsed = match like {
        Value::Integer(_) => text.parse().ok().map(Value::Integer),
        Value::Float(_) => text.parse().ok().map(Value::Float),
        Value::Boolean(_) => text.parse().ok().map(Value::Boolean),
        Value::Array(_) => Some(Value::Array(items(text).into_iter().map(Value::String).collect())),
        Value::String(_) | Value::Datetime(_) | Value::Table(_) => None,
    };
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// The items of a list that is written as one text, with commas between them. A comma within an address, as of a
/// password, begins no other one.
fn items(text: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    for part in text.split(',') {
        match items.last_mut() {
            Some(last) if last.contains("://") && !part.contains("://") => {
                last.push(',');
                last.push_str(part);
            }
            Some(_) | None => items.push(part.to_owned()),
        }
    }
    items.iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

fn set(
    values: &mut BTreeMap<String, (Value, Origin)>,
    key: &str,
    value: Value,
    origin: Origin,
    problems: &mut Problems,
) {
    let open = [QUEUE_TYPES, MAX_DEPTHS, STRATEGIES, INSTANCES, LIMITS, FAIRNESS];
    if open.iter().any(|of| key.starts_with(of)) && !values.contains_key(key) {
        values.insert(key.to_owned(), (value, origin));
        return;
    }
    let Some(entry) = values.get_mut(key) else {
        problems.push(format!("{origin}: there is no key {key}; `gleitzeit config show` lists the keys"));
        return;
    };
    let value = match (&entry.0, value) {
        (Value::Float(_), Value::Integer(number)) => Value::Float(number as f64),
        (Value::Array(_), Value::String(text)) => typed(&text, &entry.0),
        // A number or a word.
        (Value::String(_), Value::Integer(number)) if key.starts_with(RESOURCES) => number.to_string().into(),
        (Value::String(_), Value::Float(number)) if key.starts_with(RESOURCES) => number.to_string().into(),
        (_, value) => value,
    };
    if entry.0.type_str() != value.type_str() {
        let (want, got) = (entry.0.type_str(), value.type_str());
        problems.push(format!("{origin}: {key} must be of type {want}, not {got}"));
        return;
    }
    *entry = (value, origin);
}

/// The embedded state lives in the user's data directory unless the user says otherwise.
fn default_state_path(sources: &Sources, values: &mut BTreeMap<String, (Value, Origin)>) {
    let entry = values.get_mut("state.path").expect("default.toml has this key");
    if entry.0.as_str() != Some("") {
        return;
    }
    let folder = match (sources.environment.get("XDG_DATA_HOME"), sources.environment.get("HOME")) {
        (Some(folder), _) if !folder.is_empty() => PathBuf::from(folder),
        (_, Some(home)) => Path::new(home).join(".local/share"),
        (_, None) => PathBuf::from("."),
    };
    let path = folder.join("gleitzeit/state.db");
    entry.0 = Value::String(path.to_string_lossy().into_owned());
}

fn check(values: &BTreeMap<String, (Value, Origin)>, problems: &mut Problems) {
    let mut refuse = |key: &str, why: &str| {
        let origin = &values[key].1;
        problems.push(format!("{origin}: {key} {why}"));
    };
    let is_named = |key: &str| [INSTANCES, LIMITS, FAIRNESS].iter().any(|of| key.starts_with(of));
    for (key, (value, _)) in values.iter().filter(|(key, _)| !is_named(key)) {
        match value {
            Value::Integer(number) if *number < least(key) => {
                refuse(key, &format!("must be at least {}", least(key)));
            }
            Value::Float(number) if !(number.is_finite() && *number > 0.0 && *number < 1e9) => {
                refuse(key, "must be a number of seconds above 0");
            }
            _ => {}
        }
    }
    let choices = [
        ("amqp.declare", &["auto", "check", "never"][..]),
        ("events.level", &["all", "ended", "off"][..]),
        ("state.synchronous", &["normal", "full"][..]),
        ("log.format", &["auto", "text", "json"][..]),
        ("queues.type", &["auto", "classic", "quorum"][..]),
    ];
    for (key, allowed) in choices {
        if !values[key].0.as_str().is_some_and(|text| allowed.contains(&text)) {
            refuse(key, &format!("must be one of {}", allowed.join(", ")));
        }
    }
    for key in values.keys().filter(|key| key.starts_with(QUEUE_TYPES)) {
        if !matches!(values[key].0.as_str(), Some("classic" | "quorum")) {
            refuse(key, "must be one of classic, quorum");
        }
    }
    for key in values.keys().filter(|key| key.starts_with(MAX_DEPTHS)) {
        if !values[key].0.is_integer() {
            refuse(key, "must be a whole number");
        }
    }
    if values["amqp.url"].0.as_array().is_some_and(|urls| urls.iter().any(|url| !url.is_str())) {
        refuse("amqp.url", "must be an address or a list of addresses");
    }
    for key in ["worker.concurrency", "worker.max_running"] {
        if values[key].0.as_integer().is_some_and(|number| number > 10_000) {
            refuse(key, "must be at most 10000");
        }
    }
    let ollama = values["ollama.url"].0.as_str().unwrap_or_default();
    if !(ollama.is_empty() || providers::is_http(ollama)) {
        refuse("ollama.url", "must begin with http:// or https://");
    }
    let given = |key: &str| match &values[key].0 {
        Value::Array(items) => !items.is_empty(),
        value => value.as_str().is_some_and(|text| !text.is_empty()),
    };
    if given("amqp.url") != given("redis.url") {
        let (have, lack) =
            if given("amqp.url") { ("amqp.url", "redis.url") } else { ("redis.url", "amqp.url") };
        refuse(have, &format!("is given but {lack} is not; distributed mode needs both"));
    }
    providers::problems(values).into_iter().for_each(|problem| problems.push(problem));
    resources::problems(values).into_iter().for_each(|problem| problems.push(problem));
    limits::problems(values).into_iter().for_each(|problem| problems.push(problem));
    fairness::problems(values).into_iter().for_each(|problem| problems.push(problem));
}

/// The least that a number may be.
fn least(key: &str) -> i64 {
    i64::from(!MAY_BE_ZERO.contains(&key) && !key.starts_with(MAX_DEPTHS))
}

fn flatten(prefix: &str, table: &Table, out: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(inner) => flatten(&key, inner, out),
            other => {
                out.insert(key, other.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::code::Code;

    fn sources(environment: &[(&str, &str)]) -> Sources {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Sources { file: None, environment, flags: Vec::new() }
    }

    #[test]
    fn the_defaults_are_complete_and_valid() {
        let config = load(&sources(&[])).expect("the defaults are valid");
        assert_eq!(config.amqp_urls(), [""; 0]);
        assert_eq!(config.number("worker.concurrency"), 8);
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "[worker]\nconcurrency = 2\ngrace = 1\n[log]\nlevel = 'info'\n")
            .expect("write");
        let mut from = sources(&[("GLEITZEIT_WORKER_CONCURRENCY", "3"), ("GLEITZEIT_LOG_LEVEL", "debug")]);
        from.file = Some(path.clone());
        from.flags.push(("log.level", "trace".to_owned(), "log-level"));
        let config = load(&from).expect("valid");
        assert_eq!(config.number("worker.concurrency"), 3);
        assert_eq!(config.text("log.level"), "trace");
        assert_eq!(config.seconds("worker.grace").as_secs(), 1);
        let shown = config.shown();
        let origin = |key: &str| shown.iter().find(|line| line.0 == key).map(|line| line.2.clone());
        assert_eq!(origin("worker.grace"), Some(format!("file {}", path.display())));
        assert_eq!(origin("log.level"), Some("flag --log-level".to_owned()));
    }

    #[test]
    fn every_problem_is_reported() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "[worker]\nconcurency = 2\ngrace = 'x'\n").expect("write");
        let mut from = sources(&[("GLEITZEIT_AMQP_URL", "amqp://h"), ("GLEITZEIT_EVENTS_LEVEL", "some")]);
        from.file = Some(path);
        let ConfigError { problems, is_unreadable } = load(&from).expect_err("four problems");
        assert!(!is_unreadable);
        for part in
            ["worker.concurency", "worker.grace must be of type float", "redis.url is not", "all, ended, off"]
        {
            assert!(problems.iter().any(|problem| problem.contains(part)), "{part} in {problems:?}");
        }
    }

    #[test]
    fn numbers_and_addresses_have_bounds() {
        for (name, text, part) in [
            ("GLEITZEIT_WORKER_MAX_RUNNING", "-1", "must be at least 0"),
            ("GLEITZEIT_WORKER_MAX_RUNNING", "10001", "must be at most 10000"),
            ("GLEITZEIT_WORKER_CONCURRENCY", "0", "must be at least 1"),
            ("GLEITZEIT_OLLAMA_URL", "127.0.0.1:11434", "must begin with http:// or https://"),
        ] {
            let said = load(&sources(&[(name, text)])).expect_err(part).to_string();
            assert!(said.contains(part), "{said}");
        }
        load(&sources(&[("GLEITZEIT_OLLAMA_URL", ""), ("GLEITZEIT_WORKER_MAX_RUNNING", "0")])).expect("none");
    }

    #[test]
    fn a_secret_may_come_from_a_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("url");
        std::fs::write(&path, "redis://:secret@h/0\n").expect("write");
        let from = sources(&[
            ("GLEITZEIT_REDIS_URL_FILE", &path.to_string_lossy()),
            ("GLEITZEIT_AMQP_URL", "amqp://u:secret@h"),
        ]);
        let config = load(&from).expect("valid");
        assert_eq!(config.redis_url(), Some("redis://:secret@h/0"));
        assert!(!format!("{:?}", config.shown()).contains("secret"));
    }

    #[test]
    fn several_brokers_are_a_list_or_a_text_and_each_is_masked() {
        let urls = ["amqp://u:se,cret@a", "amqps://u:secret@b:1/v"];
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("c.toml");
        for text in [format!("url = {urls:?}"), format!("url = {:?}", urls.join(", "))] {
            std::fs::write(&path, format!("[amqp]\n{text}\n[redis]\nurl = 'redis://h'")).expect("write");
            let mut from = sources(&[]);
            from.file = Some(path.clone());
            assert_eq!(load(&from).expect("valid").amqp_urls(), urls);
        }
        let from = sources(&[("GLEITZEIT_AMQP_URL", &urls.join(",")), ("GLEITZEIT_REDIS_URL", "redis://h")]);
        let config = load(&from).expect("valid");
        assert_eq!(config.amqp_urls(), urls);
        let shown = format!("{:?}", config.shown());
        assert!(shown.contains("u:***@a") && shown.contains("u:***@b:1/v"), "{shown}");
        assert!(!shown.contains("cret"), "{shown}");
    }

    #[test]
    fn depths_are_whole_numbers_by_protocol() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("c.toml");
        let mut from = sources(&[("GLEITZEIT_QUEUES_MAX_DEPTH", "7")]);
        from.file = Some(path.clone());
        std::fs::write(&path, "[queues.max_depths]\n'python/v1' = 0\n'echo/v1' = 5\n").expect("write");
        let config = load(&from).expect("valid");
        assert_eq!(config.max_depths(), (7, vec![("echo/v1", 5), ("python/v1", 0)]));
        std::fs::write(&path, "[queues.max_depths]\n'python/v1' = -1\n'echo/v1' = 'many'\n").expect("write");
        let said = load(&from).expect_err("neither is one").to_string();
        assert!(
            said.contains("python/v1 must be at least 0") && said.contains("echo/v1 must be a whole"),
            "{said}"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_from_one_that_is_wrong() {
        let mut from = sources(&[]);
        from.file = Some("/nonexistent/c.toml".into());
        assert_eq!(load(&from).expect_err("no such file").code(), Code::FileUnreadable);
    }

    #[test]
    fn a_syntax_error_names_its_line_and_not_what_is_on_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("c.toml");
        for wrong in ["url = amqp://u:s3cret@h", "url = 'amqp://u:s3cret@h", "url = \"amqp://u:s3cret@h\\q\""]
        {
            std::fs::write(&path, format!("[amqp]\n{wrong}\n")).expect("write");
            let mut from = sources(&[]);
            from.file = Some(path.clone());
            let said = load(&from).expect_err(wrong).to_string();
            assert!(said.contains("line 2") && !said.contains("s3cret"), "{said}");
        }
    }
}
