//! All protocols that a process knows.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use crate::core::code::Code;
use crate::core::near::near;
use crate::core::protocol::check::{Leniency, listed};
use crate::core::protocol::id::ProtocolId;
use crate::core::protocol::inherit;
use crate::core::protocol::load::{self, Source};
use crate::core::protocol::read::Problem;
use crate::core::protocol::spec::{MethodSpec, ProtocolSpec};
use crate::core::violation::Violation;

/// The protocols that are compiled in, with the names of their files.
const BUILTIN: [(&str, &str); 5] = [
    ("echo-v1.yaml (built in)", include_str!("../../../topology/protocols/echo-v1.yaml")),
    ("llm-v1.yaml (built in)", include_str!("../../../topology/protocols/llm-v1.yaml")),
    ("mcp-v1.yaml (built in)", include_str!("../../../topology/protocols/mcp-v1.yaml")),
    ("python-v1.yaml (built in)", include_str!("../../../topology/protocols/python-v1.yaml")),
    ("workflow-v1.yaml (built in)", include_str!("../../../topology/protocols/workflow-v1.yaml")),
];

/// All protocols that a process knows, consistent, inheritance resolved. It does not change.
#[derive(Debug, Clone)]
pub struct Protocols {
    by_id: BTreeMap<ProtocolId, ProtocolSpec>,
    /// From a method's name, as declared, to the protocols that have it.
    by_method: BTreeMap<String, Vec<ProtocolId>>,
    /// The protocols that have methods with `*`.
    with_patterns: Vec<ProtocolId>,
}

/// A method that was looked up.
#[derive(Debug, Clone, Copy)]
pub struct Method<'a> {
    /// The protocol that it was looked up in.
    pub protocol: &'a ProtocolSpec,
    /// What is declared. Where that is a family of methods (`tool.*`), `spec.name` is the family's.
    pub spec: &'a MethodSpec,
    /// The name without the protocol's: `execute`, `tool.weather`. It is what providers are called with.
    pub name: &'a str,
}

/// Why a set of protocol files cannot be used: everything that is wrong with any of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct LoadError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// Why there is no such method.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No protocol has that name and version.
    #[error("unknown protocol {id}{}; known: {}", hint(near), listed(known.iter().map(String::as_str)))]
    UnknownProtocol {
        /// What was asked for.
        id: ProtocolId,
        /// Names like it, nearest first.
        near: Vec<String>,
        /// All names.
        known: Vec<String>,
    },
    /// The protocol has no method of that name.
    #[error("unknown method {method:?} of {id}{}; known: {}", hint(near), listed(known.iter().map(String::as_str)))]
    UnknownMethod {
        /// Where it was looked for.
        id: ProtocolId,
        /// What was asked for, at most 128 characters of it.
        method: String,
        /// Names like it, nearest first.
        near: Vec<String>,
        /// All names of the protocol's methods.
        known: Vec<String>,
    },
}

impl Protocols {
    /// The protocols that are compiled in.
    ///
    /// # Errors
    /// None that the tests would not have found; it is the other constructors' type.
    pub fn builtin() -> Result<Self, LoadError> {
        Self::with_files(&[])
    }

    /// The protocols that are compiled in, and those of a user's files. A file may extend any of them, but
    /// not declare one that exists.
    ///
    /// # Errors
    /// [`LoadError`] with every problem of every file.
    pub fn with_files(files: &[Source]) -> Result<Self, LoadError> {
        let mut sources: Vec<Source> = Vec::with_capacity(BUILTIN.len() + files.len());
        for (name, text) in BUILTIN {
            sources.push(Source { name: name.to_owned(), text: text.to_owned() });
        }
        sources.extend_from_slice(files);
        Self::from_sources(&sources)
    }

    /// Just these protocols, without the ones that are compiled in.
    ///
    /// # Errors
    /// [`LoadError`] with every problem of every file.
    pub fn from_sources(sources: &[Source]) -> Result<Self, LoadError> {
        let mut problems = Vec::new();
        let mut by_id: BTreeMap<ProtocolId, ProtocolSpec> = BTreeMap::new();
        for source in sources {
            let Some(spec) = load::protocol(source, &mut problems) else { continue };
            if let Some(earlier) = by_id.get(&spec.id) {
                problems.push(declared_twice(&spec, earlier));
                continue;
            }
            by_id.insert(spec.id.clone(), spec);
        }
        inherit::resolve(&mut by_id, &mut problems);
        if problems.is_empty() { Ok(Self::index(by_id)) } else { Err(LoadError { problems }) }
    }

    fn index(by_id: BTreeMap<ProtocolId, ProtocolSpec>) -> Self {
        let mut by_method: BTreeMap<String, Vec<ProtocolId>> = BTreeMap::new();
        let mut with_patterns = Vec::new();
        for spec in by_id.values() {
            if spec.methods.iter().any(MethodSpec::is_pattern) {
                with_patterns.push(spec.id.clone());
            }
            for method in &spec.methods {
                by_method.entry(method.name.clone()).or_default().push(spec.id.clone());
            }
        }
        Self { by_id, by_method, with_patterns }
    }

    /// A method by its name, given with or without the protocol's (`execute`, `python/execute`).
    ///
    /// # Errors
    /// [`LookupError`] says which of the two is unknown, and names those that are near.
    pub fn method<'a>(&'a self, id: &ProtocolId, name: &'a str) -> Result<Method<'a>, LookupError> {
        let Some(protocol) = self.get(id) else {
            let known: Vec<String> = self.by_id.keys().map(ProtocolId::to_string).collect();
            let near = owned(near(&id.to_string(), known.iter().map(String::as_str)));
            return Err(LookupError::UnknownProtocol { id: id.clone(), near, known });
        };
        if let Some((spec, name)) = protocol.find(name) {
            return Ok(Method { protocol, spec, name });
        }
        let known: Vec<String> = protocol.methods.iter().map(|method| method.name.clone()).collect();
        let near = owned(near(protocol.strip(name), known.iter().map(String::as_str)));
        let method = name.chars().take(128).collect();
        Err(LookupError::UnknownMethod { id: id.clone(), method, near, known })
    }

    /// A protocol by its name and version.
    #[must_use]
    pub fn get(&self, id: &ProtocolId) -> Option<&ProtocolSpec> {
        self.by_id.get(id)
    }

    /// Every protocol, ordered by name and version.
    pub fn iter(&self) -> impl Iterator<Item = &ProtocolSpec> {
        self.by_id.values()
    }

    /// Every protocol that has a method of that name, families of methods included, ordered by name and
    /// version. The name of a protocol in front narrows it to that one: `python/execute`.
    #[must_use]
    pub fn find_compatible_protocols(&self, method: &str) -> Vec<&ProtocolSpec> {
        // Besides the name as it is, the part after the first slash may be the method's name.
        let bare = method.split_once('/').map_or(method, |(_, bare)| bare);
        let mut candidates: Vec<&ProtocolId> = self.with_patterns.iter().collect();
        for name in [method, bare] {
            candidates.extend(self.by_method.get(name).into_iter().flatten());
        }
        candidates.sort();
        candidates.dedup();
        let specs = candidates.into_iter().filter_map(|id| self.by_id.get(id));
        specs.filter(|spec| spec.find(method).is_some()).collect()
    }
}

impl Method<'_> {
    /// Checks a call's parameters; see [`MethodSpec::validate`].
    ///
    /// # Errors
    /// Every violation.
    pub fn validate(&self, params: Value, leniency: Leniency) -> Result<Map<String, Value>, Vec<Violation>> {
        self.spec.validate(params, leniency)
    }

    /// Checks a result; see [`MethodSpec::check_result`].
    #[must_use]
    pub fn check_result(&self, result: &Value) -> Vec<Violation> {
        self.spec.check_result(result)
    }

    /// What somebody who uses it should know, though it works.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        if !self.spec.deprecated {
            return Vec::new();
        }
        let reason = self.spec.description.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
        vec![format!("method {} of {} is deprecated{reason}", self.name, self.protocol.id)]
    }
}

impl LoadError {
    /// The stable code for programs.
    #[must_use]
    pub fn code(&self) -> Code {
        Code::ConfigurationError
    }
}

impl LookupError {
    /// The stable code for programs.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            LookupError::UnknownProtocol { .. } => Code::ProtocolNotFound,
            LookupError::UnknownMethod { .. } => Code::MethodNotFound,
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

fn declared_twice(spec: &ProtocolSpec, earlier: &ProtocolSpec) -> Problem {
    Problem {
        source: spec.source.clone(),
        protocol: Some(spec.id.to_string()),
        path: String::new(),
        message: format!(
            "is declared in {} too; give one of them another name or version, and `extends: {}` to build on it",
            earlier.source, spec.id
        ),
    }
}

fn owned(names: Vec<&str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}

fn hint(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::protocol::fixture::load;

    fn builtin() -> Protocols {
        Protocols::builtin().unwrap_or_else(|error| panic!("{error}"))
    }

    fn id(text: &str) -> ProtocolId {
        text.parse().expect(text)
    }

    #[test]
    fn what_is_built_in_is_consistent_described_and_has_examples() {
        let protocols = builtin();
        let names: Vec<String> = protocols.iter().map(|spec| spec.id.to_string()).collect();
        assert_eq!(names, ["echo/v1", "llm/v1", "mcp/v1", "python/v1", "workflow/v1"]);
        for spec in protocols.iter() {
            assert!(spec.description.is_some(), "{}", spec.id);
            for method in &spec.methods {
                let name = format!("{} {}", spec.id, method.name);
                assert!(method.description.is_some(), "{name}");
                assert!(method.timeout_seconds.is_some(), "{name}");
                assert!(!method.examples.is_empty(), "{name}");
            }
        }
    }

    #[test]
    fn methods_are_found_with_and_without_the_protocols_name() {
        let protocols = builtin();
        let check = |protocol: &str, name: &str, expected: Option<(&str, &str)>| {
            let protocol = id(protocol);
            let found = protocols.method(&protocol, name).ok();
            assert_eq!(found.map(|found| (found.spec.name.as_str(), found.name)), expected, "{name}");
        };
        check("python/v1", "execute", Some(("execute", "execute")));
        check("python/v1.0", "python/execute", Some(("execute", "execute")));
        check("python", "python/v1/execute", None);
        check("python", "llm/execute", None);
        check("python", "Execute", None);
        check("mcp", "tools/list", Some(("tools/list", "tools/list")));
        check("mcp", "mcp/tools/list", Some(("tools/list", "tools/list")));
        check("mcp", "list", None);
        check("mcp", "tool.add", Some(("tool.add", "tool.add")));
        check("mcp", "mcp/tool.add", Some(("tool.add", "tool.add")));
        check("mcp", "mcp/tool.fs.read", Some(("tool.*", "tool.fs.read")));
        check("mcp", "tool.", None);
        check("mcp", "tool.a b", None);
        check("mcp", "tool.*", None);
        check("llm", "llm/generate", Some(("generate", "generate")));
    }

    #[test]
    fn the_longest_family_wins_and_an_exact_name_over_all() {
        let protocols =
            load(&["{name: p, version: v1, methods: {'*': {}, 'a.*': {}, 'a.b*': {}, a.b: {}, p/p/x: {}}}"])
                .expect("consistent");
        let check = |name: &str, expected: &str| {
            let found = protocols.method(&id("p"), name).expect(name);
            assert_eq!(found.spec.name, expected, "{name}");
        };
        check("z", "*");
        check("a.z", "a.*");
        check("a.bz", "a.b*");
        check("a.b", "a.b");
        check("p/a.b", "a.b");
        check("p/x", "p/x");
    }

    #[test]
    fn a_wrong_name_is_refused_with_the_near_ones() {
        let protocols = builtin();
        let check = |protocol: &str, name: &str, expected: &str| {
            let error = protocols.method(&id(protocol), name).expect_err(name);
            assert_eq!(error.to_string(), expected);
            let is_method = matches!(error, LookupError::UnknownMethod { .. });
            assert_eq!(error.code(), if is_method { Code::MethodNotFound } else { Code::ProtocolNotFound });
        };
        check(
            "pyton/v1",
            "execute",
            "unknown protocol pyton/v1; did you mean python/v1?; known: echo/v1, llm/v1, mcp/v1, python/v1, workflow/v1",
        );
        check(
            "python/v2",
            "execute",
            "unknown protocol python/v2; did you mean python/v1?; known: echo/v1, llm/v1, mcp/v1, python/v1, workflow/v1",
        );
        check(
            "python/v1",
            "python/exectue",
            "unknown method \"python/exectue\" of python/v1; did you mean execute?; known: execute, validate",
        );
    }

    #[test]
    fn nobody_overrides_a_protocol_unseen() {
        let file = Source {
            name: "mine.yaml".to_owned(),
            text: "{name: echo, version: v1.0, methods: {m: {}}}".to_owned(),
        };
        let error = Protocols::with_files(&[file]).expect_err("refused").to_string();
        assert!(
            error.starts_with("mine.yaml: echo/v1: is declared in echo-v1.yaml (built in) too"),
            "{error}"
        );
    }

    #[test]
    fn a_users_file_may_extend_what_is_built_in() {
        let file = Source {
            name: "mine.yaml".to_owned(),
            text: "{name: echo, version: v1.1, extends: echo/v1, methods: {shout: {}}}".to_owned(),
        };
        let protocols = Protocols::with_files(&[file]).expect("consistent");
        assert!(protocols.method(&id("echo/v1.1"), "ping").is_ok());
        assert!(protocols.method(&id("echo/v1.1"), "shout").is_ok());
        assert!(protocols.method(&id("echo/v1"), "shout").is_err());
    }

    #[test]
    fn the_problems_of_all_files_are_reported_together() {
        let error = load(&["[", "{name: a, version: v1, methods: {m: {x: 1}}}", "{name: b, version: v1}"])
            .expect_err("refused");
        let sources: Vec<&str> = error.problems.iter().map(|problem| problem.source.as_str()).collect();
        assert_eq!(sources, ["1.yaml", "2.yaml", "3.yaml"]);
    }

    #[test]
    fn protocols_are_found_by_method() {
        let protocols = builtin();
        let check = |method: &str, expected: &[&str]| {
            let found = protocols.find_compatible_protocols(method);
            let names: Vec<String> = found.iter().map(|spec| spec.id.to_string()).collect();
            assert_eq!(names, expected, "{method}");
        };
        check("execute", &["python/v1"]);
        check("python/execute", &["python/v1"]);
        check("ping", &["echo/v1", "mcp/v1"]);
        check("mcp/ping", &["mcp/v1"]);
        check("tools/list", &["mcp/v1"]);
        check("mcp/tools/list", &["mcp/v1"]);
        check("tool.anything", &["mcp/v1"]);
        check("nothing", &[]);
    }

    #[test]
    fn what_is_deprecated_gives_a_warning() {
        let protocols = load(&[
            "{name: p, version: v1, methods: {old: {deprecated: true, description: use new}, new: {}}}",
        ])
        .expect("consistent");
        let warnings = |name: &str| protocols.method(&id("p"), name).expect(name).warnings();
        assert_eq!(warnings("old"), ["method old of p/v1 is deprecated: use new"]);
        assert!(warnings("new").is_empty());
    }

    #[test]
    fn calls_of_every_dialect_are_accepted() {
        let protocols = builtin();
        let check = |protocol: &str, method: &str, params: Value| {
            let found =
                protocols.method(&id(protocol), method).map(|m| m.validate(params, Leniency::References));
            assert!(matches!(found, Ok(Ok(_))), "{method}: {found:?}");
        };
        let messages = json!([{"role": "user", "content": "See ${a.response}"}]);
        check(
            "python",
            "python/execute",
            json!({"code": "1", "timeout": 10, "imports": ["os.path"], "environment": {"A": 1}}),
        );
        check(
            "python",
            "python/execute",
            json!({"file": "examples/scripts/x.py", "context": {"n": "${a.result.n}"}, "timeout": 5}),
        );
        check("python", "python/execute", json!({"function": "fibonacci", "args": [10], "kwargs": {}}));
        check("llm", "llm/chat", json!({"model": "llama3.2", "messages": messages, "temperature": 0.7}));
        check("llm", "llm/chat", json!({"messages": messages, "file_path": "a.txt"}));
        check("llm", "llm/chat", json!({"messages": messages, "files": ["a.txt"], "batch_mode": true}));
        check(
            "llm",
            "generate",
            json!({"prompt": "x", "model": "llama3", "temperature": 0.8, "max_tokens": 50}),
        );
        check("llm", "llm/complete", json!({"prompt": "x"}));
        check("llm", "llm/embed", json!({"text": "x"}));
        check("llm", "llm/vision", json!({"model": "llava", "messages": messages, "images": ["aGk="]}));
        check("llm", "llm/vision", json!({"prompt": "x", "image_path": "a.png"}));
        check("llm", "llm/vision", json!({"prompt": "x", "image_paths": ["a.png"], "batch_mode": true}));
        check("mcp", "mcp/tool.add", json!({"a": "${sum.result}", "b": 2}));
        check("mcp", "mcp/tool.add", json!({"arguments": {"a": 1}}));
        check("mcp", "mcp/tool.concat", json!({"strings": ["${a.response}", 1], "separator": " | "}));
        check("mcp", "mcp/tool.fs.read", json!({"path": "./data/input.json"}));
        check("echo", "echo", json!({"message": "x"}));
    }

    #[test]
    fn calls_that_make_no_sense_are_refused() {
        let protocols = builtin();
        let check = |protocol: &str, method: &str, params: Value, expected: &[&str]| {
            let protocol = id(protocol);
            let found = protocols.method(&protocol, method).expect(method).validate(params, Leniency::Exact);
            let paths: Vec<String> = found.expect_err(method).into_iter().map(|one| one.path).collect();
            assert_eq!(paths, expected, "{method}");
        };
        check("python", "execute", json!({}), &["params"]);
        check("python", "execute", json!({"code": "1", "file": "x"}), &["params"]);
        check("python", "execute", json!({"code": "x".repeat(1024 * 1024 + 1)}), &["params.code"]);
        check("python", "execute", json!({"code": "1", "timeout": 3601}), &["params.timeout"]);
        check(
            "python",
            "execute",
            json!({"code": "1", "imports": ["os; import evil"]}),
            &["params.imports[0]"],
        );
        check("python", "execute", json!({"code": "1", "requirements": "../x"}), &["params.requirements"]);
        check("python", "validate", json!({"code": 1}), &["params.code"]);
        check("llm", "chat", json!({"messages": []}), &["params.messages"]);
        check(
            "llm",
            "chat",
            json!({"messages": [{"role": "robot", "content": ""}], "top_p": 1}),
            &["params.messages[0].role", "params.messages[0].content", "params.top_p"],
        );
        check(
            "llm",
            "chat",
            json!({"prompt": "x", "temperature": 2.1, "max_tokens": 0}),
            &["params.temperature", "params.max_tokens"],
        );
        check("llm", "embed", json!({"text": ""}), &["params.text"]);
        check("mcp", "tool.add", json!({"a": "1"}), &["params.a"]);
        check("echo", "delay", json!({"seconds": 11}), &["params.seconds"]);
    }
}
