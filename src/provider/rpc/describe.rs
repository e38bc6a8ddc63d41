//! What a provider says that it is, and what its protocol says that it should be.

use serde_json::Value;

use crate::core::protocol::{MethodSpec, ProtocolSpec};

/// The most methods that a provider may name.
const METHODS_MAX: usize = 1000;

/// The answer to `$/initialize`.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Described {
    /// Its own name.
    pub(super) name: Option<String>,
    /// Its own version.
    pub(super) version: Option<String>,
    /// What it serves; empty: it does not say, and all of its protocol is believed.
    pub(super) methods: Vec<DescribedMethod>,
}

/// A method, as a provider describes it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct DescribedMethod {
    pub(super) name: String,
    /// A JSON Schema of its parameters.
    pub(super) params: Option<Value>,
    /// Calls to try: `{params, result}`.
    pub(super) examples: Vec<Value>,
}

impl Described {
    /// Reads the answer. What is not as it should be is left out: nothing depends on it but checks.
    pub(super) fn read(answer: &Value) -> Described {
        let text =
            |key: &str| answer.get(key).and_then(Value::as_str).map(|text| text.chars().take(200).collect());
        let methods = answer.get("methods").and_then(Value::as_array).into_iter().flatten();
        Described {
            name: text("name"),
            version: text("version"),
            methods: methods.filter_map(method).take(METHODS_MAX).collect(),
        }
    }

    /// Whether it serves this method, as far as it has said.
    pub(super) fn serves(&self, method: &str) -> bool {
        let covers = |one: &DescribedMethod| match one.name.strip_suffix('*') {
            Some(start) => method.starts_with(start),
            None => one.name == method,
        };
        self.methods.is_empty() || self.methods.iter().any(covers)
    }

    /// In what it differs from its protocol, in words.
    pub(super) fn differences(&self, protocol: &ProtocolSpec) -> Vec<String> {
        if self.methods.is_empty() || protocol.methods.is_empty() {
            return Vec::new();
        }
        let mut found = Vec::new();
        let declared = |name: &str| protocol.methods.iter().find(|method| method.name == name);
        for method in &protocol.methods {
            if !self.methods.iter().any(|own| own.name == method.name || self.serves(&method.name)) {
                found.push(format!("it does not serve {}", method.name));
            }
        }
        for own in &self.methods {
            match declared(&own.name).or_else(|| protocol.find(&own.name).map(|(method, _)| method)) {
                None => found.push(format!("{} is not in {}", own.name, protocol.id)),
                Some(method) => found.extend(own.difference(method)),
            }
        }
        found
    }
}

impl DescribedMethod {
    fn difference(&self, declared: &MethodSpec) -> Option<String> {
        let own = self.params.as_ref()?.get("properties")?.as_object()?;
        let mut odd: Vec<String> = Vec::new();
        for (name, _) in &declared.params {
            if !own.contains_key(name) {
                odd.push(format!("takes no {name}"));
            }
        }
        for name in own.keys() {
            if !declared.additional_params && !declared.params.iter().any(|(known, _)| known == name) {
                odd.push(format!("takes {name}, which its protocol refuses"));
            }
        }
        (!odd.is_empty()).then(|| format!("{} {}", self.name, odd.join(", ")))
    }
}

/// A name, or an object with one.
fn method(value: &Value) -> Option<DescribedMethod> {
    let name = value.as_str().or_else(|| value.get("name")?.as_str())?;
    let examples = value.get("examples").and_then(Value::as_array).cloned().unwrap_or_default();
    Some(DescribedMethod { name: name.to_owned(), params: value.get("params").cloned(), examples })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::protocol::{Protocols, Source};

    #[test]
    fn what_a_provider_says_is_held_against_its_protocol() {
        let text = "name: words\nversion: v1\nmethods:\n  count:\n    params:\n      text: {type: string}\n      \
                    limit: {type: integer, default: 1}\n  other: {}\n  tool.*: {additional_params: true}\n";
        let source = Source { name: "words.yaml".to_owned(), text: text.to_owned() };
        let protocols = Protocols::from_sources(&[source]).expect("a protocol");
        let words = protocols.iter().next().expect("one");
        let told = Described::read(&json!({"name": "w", "version": "1", "methods": [
            {"name": "count", "params": {"properties": {"text": {}, "size": {}}}}, "extra", "tool.x",
            {"name": 1}, 2,
        ]}));
        assert_eq!(
            told.differences(words),
            [
                "it does not serve other",
                "it does not serve tool.*",
                "count takes no limit, takes size, which its protocol refuses",
                "extra is not in words/v1",
            ]
        );
        assert!(told.serves("count") && !told.serves("other"));
        for silent in [json!(null), json!({"methods": "all"}), json!({"methods": []})] {
            let silent = Described::read(&silent);
            assert!(silent.serves("count") && silent.differences(words).is_empty());
        }
        let family = Described::read(&json!({"methods": ["count", "other", "tool.*"]}));
        assert!(family.serves("tool.anything") && family.differences(words).is_empty());
    }
}
