//! From the text of a protocol file to a [`ProtocolSpec`], with every problem that the file has.

use serde_json::Value;

use crate::core::protocol::id::ProtocolId;
use crate::core::protocol::method::method;
use crate::core::protocol::read::{Node, Problem, Report};
use crate::core::protocol::spec::{ProtocolSpec, is_method_name};

/// Longest file, in bytes.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;

const PROTOCOL_KEYS: [&str; 9] = [
    "name",
    "version",
    "description",
    "extends",
    "methods",
    "author",
    "license",
    "documentation_url",
    "tags",
];

/// A protocol file: where it comes from and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its path or whatever else names it in messages. If it ends in `.json` the text is JSON, else YAML 1.2,
    /// whose reader turns integers beyond 64 bits into floats; JSON keeps them.
    pub name: String,
    /// Its content, at most 1 MiB.
    pub text: String,
}

/// Reads one file. Problems are added to `problems`; a protocol comes back whenever at least its name could be
/// read, so that others that extend it are not blamed too.
pub(super) fn protocol(source: &Source, problems: &mut Vec<Problem>) -> Option<ProtocolSpec> {
    let mut report = Report { source: &source.name, protocol: None, problems };
    let document = match parse(source) {
        Ok(document) => document,
        Err(message) => {
            report.add("", message);
            return None;
        }
    };
    let node = Node::open(&document, String::new(), &PROTOCOL_KEYS, &mut report)?;
    let name = node.text("name", &mut report);
    let version = node.text("version", &mut report);
    let id = match (name, version) {
        (Some(name), Some(version)) => ProtocolId::new(&name, &version),
        _ => {
            report.add("", "needs a `name`, such as python, and a `version`, such as v1");
            return None;
        }
    };
    let id = match id {
        Ok(id) => id,
        Err(error) => {
            report.add("", error.to_string());
            return None;
        }
    };
    report.protocol = Some(id.to_string());
    let extends = extends(&node, &mut report);
    let mut spec = ProtocolSpec {
        id,
        description: node.text("description", &mut report),
        extends,
        methods: Vec::new(),
        author: node.text("author", &mut report),
        license: node.text("license", &mut report),
        documentation_url: node.text("documentation_url", &mut report),
        tags: node.texts("tags", &mut report),
        source: source.name.clone(),
    };
    methods(&node, &mut spec, &mut report);
    Some(spec)
}

fn parse(source: &Source) -> Result<Value, String> {
    if source.text.len() > FILE_BYTES_MAX {
        return Err(format!("has {} bytes; at most {FILE_BYTES_MAX} are read", source.text.len()));
    }
    if source.name.to_ascii_lowercase().ends_with(".json") {
        return serde_json::from_str(&source.text).map_err(|error| format!("is not JSON: {error}"));
    }
    // YAML 1.2: `y`, `no` and `on` are text. The message stays on one line.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(&source.text, options)
        .map_err(|error| format!("is not YAML: {error}"))
}

fn extends(node: &Node<'_>, report: &mut Report<'_>) -> Option<ProtocolId> {
    match node.text("extends", report)?.parse() {
        Ok(id) => Some(id),
        Err(error) => {
            report.add("extends", error.to_string());
            None
        }
    }
}

fn methods(node: &Node<'_>, spec: &mut ProtocolSpec, report: &mut Report<'_>) {
    let methods = node.mapping("methods", report);
    if !node.has("methods") && spec.extends.is_none() {
        report.add("methods", "is missing; a protocol has methods, or extends one that has");
    }
    for (written, value) in methods.into_iter().flatten() {
        let path = format!("methods.{written}");
        let name = spec.strip(written).to_owned();
        if !is_method_name(&name) && !is_pattern_name(&name) {
            report.add(
                &path,
                "is no method's name; that is a letter, then letters, digits and _ . / : -, at most 128 in all, \
                 and for a whole family of methods a * at the end",
            );
            continue;
        }
        if spec.methods.iter().any(|method| method.name == name) {
            report.add(&path, format!("is `{name}`, which is declared before"));
            continue;
        }
        if let Some(method) = method(name, value, path, report) {
            spec.methods.push(method);
        }
    }
}

/// Whether a name with a star stands for some possible name: `tool.*`, `resource/*`, `*`.
fn is_pattern_name(name: &str) -> bool {
    name.strip_suffix('*').is_some_and(|start| is_method_name(&format!("{start}x")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::protocol::Type;
    use crate::core::protocol::fixture::{load, method};
    use crate::core::requirements::IsolationLevel;

    #[test]
    fn every_key_is_read() {
        let protocols = load(&["
name: weather
version: v1.2.0
description: Tells the weather
author: A. Nyone
license: MIT
documentation_url: https://example.org
tags: [sky, rain]
methods:
  weather/forecast:
    description: Looks ahead
    deprecated: true
    timeout_seconds: 1.5
    retry_policy: {max_attempts: 2, backoff: fixed, base_delay: 0.5, jitter: full, retry_on: [TASK_TIMEOUT, -29002]}
    resource_requirements: {cpu_cores: 0.5, memory_mb: 64, execution_timeout: 20}
    security_requirements: {level: landlock, network: false, blocked_modules: [os]}
    params_schema:
      city: {type: [string, 'null'], description: Where}
    returns_schema: {type: object}
    examples:
      - {description: Here, params: {city: Bonn}, result: {text: rain}}
"])
        .expect("consistent");
        let spec = protocols.iter().next().expect("one");
        assert_eq!(spec.id.to_string(), "weather/v1.2");
        assert_eq!(spec.author.as_deref(), Some("A. Nyone"));
        assert_eq!(spec.license.as_deref(), Some("MIT"));
        assert_eq!(spec.documentation_url.as_deref(), Some("https://example.org"));
        assert_eq!((spec.tags.len(), spec.source.as_str()), (2, "1.yaml"));
        let method = &spec.methods[0];
        assert_eq!((method.name.as_str(), method.deprecated), ("forecast", true));
        assert_eq!(method.timeout_seconds, Some(1.5));
        assert_eq!(method.retry_policy.as_ref().map(|policy| policy.max_attempts), Some(2));
        assert_eq!(method.resource_requirements.as_ref().and_then(|needs| needs.memory_mb), Some(64));
        let level = method.security_requirements.as_ref().and_then(|security| security.level);
        assert_eq!(level, Some(IsolationLevel::Landlock));
        assert_eq!(method.params[0].1.types, [Type::String, Type::Null]);
        assert_eq!(method.examples[0].result, Some(json!({"text": "rain"})));
    }

    #[test]
    fn parameters_keep_the_order_of_the_file() {
        let method = method("params: {z: {type: any}, a: {type: any}, m: {type: any}}");
        let names: Vec<&str> = method.params.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["z", "a", "m"]);
    }

    #[test]
    fn json_is_read_too() {
        let text = r#"{"name": "p", "version": "v1", "methods": {"m": {"params": {"a": {"type": "any"}}}}}"#;
        for name in ["p.json", "p.JSON", "p.yaml"] {
            let source = Source { name: name.to_owned(), text: text.to_owned() };
            let mut problems = Vec::new();
            let spec = protocol(&source, &mut problems);
            assert_eq!((spec.map(|spec| spec.methods.len()), problems.len()), (Some(1), 0), "{name}");
        }
    }

    #[test]
    fn a_problem_names_the_file_the_protocol_the_place_and_the_remedy() {
        let check = |text: &str, expected: &[&str]| {
            let error = load(&[text]).expect_err(text).to_string();
            assert_eq!(error.lines().collect::<Vec<_>>(), expected, "{text}");
        };
        let protocol = |methods: &str| format!("name: p\nversion: v1\nmethods: {methods}");
        check("- 1", &["1.yaml: must be a mapping, found array of 1"]);
        check("", &["1.yaml: must be a mapping, found null"]);
        check("name: p", &["1.yaml: needs a `name`, such as python, and a `version`, such as v1"]);
        check(
            "{name: p, version: 1}",
            &[
                "1.yaml: version: must be text, found number 1",
                "1.yaml: needs a `name`, such as python, and a `version`, such as v1",
            ],
        );
        check(
            "{name: P, version: v1}",
            &[
                "1.yaml: protocol `P/v1`: the name must be 1 to 64 lower case letters, digits, `_` or `-`, and begin with a letter",
            ],
        );
        check(
            "{name: p, version: v1, extends: Q, methods: {}}",
            &[
                "1.yaml: p/v1: extends: protocol `Q/v1`: the name must be 1 to 64 lower case letters, digits, `_` or `-`, and begin with a letter",
            ],
        );
        check(
            "{name: p, version: v1}",
            &["1.yaml: p/v1: methods: is missing; a protocol has methods, or extends one that has"],
        );
        check(
            "{name: p, version: v1, methods: {}, metods: 1}",
            &[
                "1.yaml: unknown key `metods`; did you mean methods?; known: name, version, description, extends, methods, author, license, documentation_url, tags",
            ],
        );
        check(&protocol("[m]"), &["1.yaml: p/v1: methods: must be a mapping, found array of 1"]);
        check(&protocol("{m: 1}"), &["1.yaml: p/v1: methods.m: must be a mapping, found number 1"]);
        check(&protocol("{p/m: {}, m: {}}"), &["1.yaml: p/v1: methods.m: is `m`, which is declared before"]);
        check(
            &protocol("{m: {params: {}, params_schema: {}}}"),
            &["1.yaml: p/v1: methods.m.params_schema: means the same as `params`; give one of them"],
        );
        check(
            &protocol("{m: {params: [a]}}"),
            &["1.yaml: p/v1: methods.m.params: must be a mapping from names to schemas, found array of 1"],
        );
        check(
            &protocol("{m: {timeout_seconds: 0}}"),
            &["1.yaml: p/v1: methods.m.timeout_seconds: found number 0; allowed: above 0, at most 604800"],
        );
        check(
            &protocol("{m: {retry_policy: {attempts: 1, max_delay: 9999, jitter: some}}}"),
            &[
                "1.yaml: p/v1: methods.m.retry_policy: unknown key `attempts`; known: max_attempts, backoff, base_delay, max_delay, jitter, retry_on, never_on",
                "1.yaml: p/v1: methods.m.retry_policy.jitter: found string \"some\": jitter is true, false, full or equal, not \"some\"",
            ],
        );
        check(
            &protocol("{m: {retry_policy: {max_attempts: 99}}}"),
            &["1.yaml: p/v1: methods.m.retry_policy.max_attempts: found 99; allowed: 1 to 10"],
        );
        check(
            &protocol("{m: {retry_policy: {never_on: [TASK_TIMEOT]}}}"),
            &[
                "1.yaml: p/v1: methods.m.retry_policy: names the unknown code TASK_TIMEOT; did you mean TASK_TIMEOUT?",
            ],
        );
        check(
            &protocol("{m: {resource_requirements: {memory_mb: -1}}}"),
            &["1.yaml: p/v1: methods.m.resource_requirements.memory_mb: found number -1: invalid number"],
        );
        check(
            &protocol("{m: {exactly_one_of: [[a, b], c], params: {a: {type: any}}}}"),
            &[
                "1.yaml: p/v1: methods.m.exactly_one_of[0]: `a` must have `required: false` and no default",
                "1.yaml: p/v1: methods.m.exactly_one_of[0]: names `b`, which is not a parameter",
                "1.yaml: p/v1: methods.m.exactly_one_of[1]: must be a list of parameters, found string \"c\"",
            ],
        );
        check(
            &protocol("{m: {params: {a: {type: integer}}, examples: [{params: {a: x}}, {parms: 1}]}}"),
            &[
                "1.yaml: p/v1: methods.m.examples[1]: unknown key `parms`; did you mean params?; known: description, params, result",
                "1.yaml: p/v1: methods.m.examples[0]: params.a: found string \"x\"; allowed: integer",
                "1.yaml: p/v1: methods.m.examples[1]: params.a: is missing; allowed: integer",
            ],
        );
        check(
            &protocol(
                "{m: {returns: {type: object, properties: {n: {type: integer}, s: {type: string}}}, examples: [{params: {}, result: {n: x}}]}}",
            ),
            &["1.yaml: p/v1: methods.m.examples[0]: result.n: found string \"x\"; allowed: integer"],
        );
    }

    #[test]
    fn yaml_1_2_decides_what_is_text() {
        let method = method(
            "params: {y: {type: string, enum: [y, no, on, 1_000]}, n: {type: boolean, default: true}}",
        );
        assert_eq!(method.params[0].0, "y");
        assert_eq!(
            method.params[0].1.allowed,
            Some(vec![json!("y"), json!("no"), json!("on"), json!("1_000")])
        );
    }

    #[test]
    fn bounds_beyond_64_bits_are_exact_in_json() {
        let text = r#"{"name": "p", "version": "v1", "methods": {"m": {"params": {"n":
            {"type": "integer", "maximum": 123456789012345678901234567890}}}}}"#;
        let source = Source { name: "p.json".to_owned(), text: text.to_owned() };
        let spec = protocol(&source, &mut Vec::new()).expect("consistent");
        let bound = spec.methods[0].params[0].1.maximum.as_ref().map(ToString::to_string);
        assert_eq!(bound.as_deref(), Some("123456789012345678901234567890"));
    }

    #[test]
    fn a_method_has_a_sound_name() {
        let check = |name: &str, is_sound: bool| {
            let text = format!("name: p\nversion: v1\nmethods: {{{name:?}: {{}}}}");
            assert_eq!(load(&[&text]).is_ok(), is_sound, "{name}");
        };
        check("execute", true);
        check("tools/list", true);
        check("tool.add", true);
        check("tool.*", true);
        check("resource:*", true);
        check("*", true);
        check("tool.*.x", false);
        check("tool..*", false);
        check("tool.", false);
        check("1st", false);
        check("a b", false);
        check("", false);
        check(&"m".repeat(129), false);
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let check = |text: &str, part: &str| {
            let error = load(&[text]).expect_err("refused").to_string();
            assert!(error.starts_with("1.yaml: ") && error.contains(part), "{error}");
        };
        check("name: [", "is not YAML");
        check("{name: p, name: q}", "duplicate");
        check("a: &a [*a]", "is not YAML");
        check(&" ".repeat(FILE_BYTES_MAX + 1), "bytes");
        check(&"[".repeat(100_000), "is not YAML");
    }
}
