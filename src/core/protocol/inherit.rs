//! Resolves `extends`: a protocol has its parent's methods, and its own in their place where names are equal.
//!
//! Only methods are inherited. Parents may extend others; a ring of them, or one that nobody declares, is a
//! problem.

use std::collections::BTreeMap;

use crate::core::near::did_you_mean;
use crate::core::protocol::check::listed;
use crate::core::protocol::id::ProtocolId;
use crate::core::protocol::read::Problem;
use crate::core::protocol::spec::{MethodSpec, ProtocolSpec};

/// Gives every protocol the methods that it inherits.
pub(super) fn resolve(protocols: &mut BTreeMap<ProtocolId, ProtocolSpec>, problems: &mut Vec<Problem>) {
    let found_before = problems.len();
    for spec in protocols.values() {
        check_parent(spec, protocols, problems);
    }
    if problems.len() > found_before {
        return;
    }
    let resolved: Vec<(ProtocolId, Vec<MethodSpec>)> =
        protocols.values().map(|spec| (spec.id.clone(), methods(spec, protocols))).collect();
    for (id, methods) in resolved {
        if let Some(spec) = protocols.get_mut(&id) {
            spec.methods = methods;
        }
    }
}

/// Names a parent that is missing, and a ring, once: at its smallest member.
fn check_parent(
    spec: &ProtocolSpec,
    protocols: &BTreeMap<ProtocolId, ProtocolSpec>,
    problems: &mut Vec<Problem>,
) {
    let mut say = |message: String| {
        problems.push(Problem {
            source: spec.source.clone(),
            protocol: Some(spec.id.to_string()),
            path: "extends".to_owned(),
            message,
        });
    };
    if let Some(parent) = spec.extends.as_ref().filter(|parent| !protocols.contains_key(parent)) {
        let known: Vec<String> = protocols.keys().map(ProtocolId::to_string).collect();
        let names = || known.iter().map(String::as_str);
        let hint = did_you_mean(&parent.to_string(), names());
        say(format!("{parent} is not declared{hint}; known: {}", listed(names())));
        return;
    }
    let chain = ancestors(spec, protocols);
    let returns = chain.last().and_then(|last| last.extends.as_ref()) == Some(&spec.id);
    let is_smallest = chain.iter().all(|other| spec.id <= other.id);
    if returns && is_smallest {
        let mut ring: Vec<String> = chain.iter().map(|member| member.id.to_string()).collect();
        ring.push(spec.id.to_string());
        say(format!("is a cycle: {}", ring.join(" -> ")));
    }
}

/// The protocol itself, its parent, its parent's parent, and so on, each once.
fn ancestors<'a>(
    spec: &'a ProtocolSpec,
    protocols: &'a BTreeMap<ProtocolId, ProtocolSpec>,
) -> Vec<&'a ProtocolSpec> {
    let mut chain = vec![spec];
    let mut next = spec.extends.as_ref();
    while let Some(parent) = next.and_then(|id| protocols.get(id)) {
        if chain.iter().any(|seen| seen.id == parent.id) {
            break;
        }
        chain.push(parent);
        next = parent.extends.as_ref();
    }
    chain
}

fn methods(spec: &ProtocolSpec, protocols: &BTreeMap<ProtocolId, ProtocolSpec>) -> Vec<MethodSpec> {
    let mut methods: Vec<MethodSpec> = Vec::new();
    for ancestor in ancestors(spec, protocols).into_iter().rev() {
        for own in &ancestor.methods {
            match methods.iter_mut().find(|inherited| inherited.name == own.name) {
                Some(inherited) => *inherited = own.clone(),
                None => methods.push(own.clone()),
            }
        }
    }
    methods
}

#[cfg(test)]
mod tests {
    use crate::core::protocol::fixture::load;

    #[test]
    fn a_child_has_its_parents_methods_and_its_own_in_their_place() {
        let protocols = load(&[
            "{name: c, version: v1, extends: b/v1.0, methods: {two: {description: c}, four: {description: c}}}",
            "{name: a, version: v1, methods: {one: {description: a}, two: {description: a}}}",
            "{name: b, version: v1, extends: a/v1, methods: {a/three: {description: b}, one: {description: b}}}",
            "{name: d, version: v1, extends: c/v1}",
        ])
        .expect("consistent");
        let check = |id: &str, expected: &[&str]| {
            let spec = protocols.get(&id.parse().expect(id)).expect(id);
            let methods: Vec<String> = spec
                .methods
                .iter()
                .map(|method| format!("{} of {}", method.name, method.description.as_deref().unwrap_or("?")))
                .collect();
            assert_eq!(methods, expected, "{id}");
        };
        check("a", &["one of a", "two of a"]);
        check("b", &["one of b", "two of a", "a/three of b"]);
        check("c", &["one of b", "two of c", "a/three of b", "four of c"]);
        check("d", &["one of b", "two of c", "a/three of b", "four of c"]);
    }

    #[test]
    fn a_missing_parent_and_a_ring_are_named() {
        let check = |files: &[&str], expected: &[&str]| {
            let error = load(files).expect_err("refused").to_string();
            assert_eq!(error.lines().collect::<Vec<_>>(), expected);
        };
        check(
            &["{name: a, version: v1, extends: a/v1}"],
            &["1.yaml: a/v1: extends: is a cycle: a/v1 -> a/v1"],
        );
        check(
            &[
                "{name: outside, version: v1, extends: b}",
                "{name: b, version: v1, extends: c}",
                "{name: c, version: v1, extends: d}",
                "{name: d, version: v1, extends: b}",
                "{name: x, version: v1, extends: y}",
                "{name: y, version: v1, extends: x}",
            ],
            &[
                "2.yaml: b/v1: extends: is a cycle: b/v1 -> c/v1 -> d/v1 -> b/v1",
                "5.yaml: x/v1: extends: is a cycle: x/v1 -> y/v1 -> x/v1",
            ],
        );
        check(
            &["{name: a, version: v1, extends: pyton/v2}", "{name: python, version: v2, methods: {}}"],
            &[
                "1.yaml: a/v1: extends: pyton/v2 is not declared; did you mean python/v2?; known: a/v1, python/v2",
            ],
        );
    }
}
