//! Protocols for the tests, from the text that a file would have.

use serde_json::Value;

use crate::core::protocol::{LoadError, MethodSpec, Protocols, Source};

/// Loads files that are named `1.yaml`, `2.yaml` and so on.
pub(super) fn load(files: &[&str]) -> Result<Protocols, LoadError> {
    let named = files.iter().enumerate();
    let sources: Vec<Source> = named
        .map(|(index, text)| Source { name: format!("{}.yaml", index + 1), text: (*text).to_owned() })
        .collect();
    Protocols::from_sources(&sources)
}

/// A method from its YAML, which may be written in one line.
pub(super) fn method(yaml: &str) -> MethodSpec {
    let indented = yaml.replace('\n', "\n    ");
    let file = format!("name: p\nversion: v1\nmethods:\n  m:\n    {indented}\n");
    let protocols = load(&[&file]).unwrap_or_else(|error| panic!("{error}\n{file}"));
    protocols.iter().next().expect("one protocol").methods[0].clone()
}

/// A method's parameters, one schema per line, to check values against.
pub(super) fn params(yaml: &str) -> MethodSpec {
    method(&format!("params:\n{}", yaml.lines().map(|line| format!("  {line}\n")).collect::<String>()))
}

/// JSON text with its numbers as they are written, which `json!` would turn into floats.
pub(super) fn exact(text: &str) -> Value {
    serde_json::from_str(text).expect(text)
}
