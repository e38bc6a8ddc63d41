//! Reads one parameter's schema, and refuses constraints that could never apply.

use regex::Regex;
use serde_json::{Number, Value};

use crate::core::protocol::check::{Check, Leniency, shown};
use crate::core::protocol::number;
use crate::core::protocol::read::{Node, Problem, Report, below};
use crate::core::protocol::spec::{Fields, ParameterSpec, Type};
use crate::core::protocol::validate::fill;
use crate::core::violation::{Path, Violation};

/// Longest regular expression, in bytes.
const PATTERN_BYTES_MAX: usize = 4096;

const KEYS: [&str; 13] = [
    "type",
    "description",
    "required",
    "default",
    "enum",
    "minimum",
    "maximum",
    "min_length",
    "max_length",
    "pattern",
    "items",
    "properties",
    "additional_properties",
];

/// Reads a mapping from names to schemas, keeping its order.
pub(super) fn fields(value: &Value, path: String, report: &mut Report<'_>) -> Fields {
    let Value::Object(map) = value else {
        report.add(&path, format!("must be a mapping from names to schemas, found {}", shown(value)));
        return Fields::new();
    };
    let mut fields = Fields::with_capacity(map.len());
    for (name, value) in map {
        if let Some(spec) = parameter(value, below(&path, name), report) {
            fields.push((name.clone(), spec));
        }
    }
    fields
}

/// Reads one schema. `None` if it cannot be understood at all.
pub(super) fn parameter(value: &Value, path: String, report: &mut Report<'_>) -> Option<ParameterSpec> {
    let node = Node::open(value, path, &KEYS, report)?;
    let types = types(&node, report);
    if types.is_empty() {
        return None;
    }
    let spec = ParameterSpec {
        types,
        description: node.text("description", report),
        required: node.flag("required", true, report),
        default: node.value("default").cloned(),
        allowed: node.has("enum").then(|| node.list("enum", report).to_vec()),
        minimum: bound(&node, "minimum", report),
        maximum: bound(&node, "maximum", report),
        min_length: length(&node, "min_length", report),
        max_length: length(&node, "max_length", report),
        pattern: pattern(&node, report),
        items: node.value("items").and_then(|items| parameter(items, node.at("items"), report)).map(Box::new),
        properties: match node.value("properties") {
            Some(properties) => fields(properties, node.at("properties"), report),
            None => Fields::new(),
        },
        additional_properties: node.flag("additional_properties", true, report),
    };
    check_constraints(&node, &spec, report);
    check_values(&node, &spec, report);
    Some(spec)
}

/// Reads one schema that stands outside of a protocol file.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn schema(value: &Value, path: &Path<'_>) -> Result<ParameterSpec, Vec<Violation>> {
    let mut problems = Vec::new();
    let mut report = Report { source: "", protocol: None, problems: &mut problems };
    let spec = parameter(value, path.to_string(), &mut report);
    match spec {
        Some(spec) if problems.is_empty() => Ok(spec),
        Some(_) | None => {
            let violation =
                |one: Problem| Violation { path: one.path, problem: one.message, allowed: String::new() };
            Err(problems.into_iter().map(violation).collect())
        }
    }
}

impl ParameterSpec {
    /// The value with the defaults inside it filled in, if it obeys.
    ///
    /// # Errors
    /// Every violation.
    pub(crate) fn accept(&self, mut value: Value, path: &Path<'_>) -> Result<Value, Vec<Violation>> {
        fill(self, &mut value);
        let mut check = Check::new(Leniency::Exact);
        check.value(self, &value, path);
        let violations = check.violations.into_vec();
        if violations.is_empty() { Ok(value) } else { Err(violations) }
    }
}

fn types(node: &Node<'_>, report: &mut Report<'_>) -> Vec<Type> {
    let names = match node.value("type") {
        None => {
            report.add(&node.at("type"), "is missing; `any` accepts every value");
            return Vec::new();
        }
        Some(Value::Array(names)) => names.as_slice(),
        Some(name) => std::slice::from_ref(name),
    };
    let mut types = Vec::with_capacity(names.len());
    for name in names {
        match Type::ALL.into_iter().find(|known| name.as_str() == Some(known.name())) {
            Some(known) if types.contains(&known) => {
                report.add(&node.at("type"), format!("names {} twice", known.name()));
            }
            Some(known) => types.push(known),
            None => {
                let known: Vec<&str> = Type::ALL.iter().map(|known| known.name()).collect();
                // Unquoted, the type null is YAML's null.
                let hint = if name.is_null() { "; write 'null' in quotes" } else { "" };
                let message = format!("found {}; known: {}{hint}", shown(name), known.join(", "));
                report.add(&node.at("type"), message);
            }
        }
    }
    if names.is_empty() {
        report.add(&node.at("type"), "names no type");
    }
    types
}

fn bound(node: &Node<'_>, key: &str, report: &mut Report<'_>) -> Option<Number> {
    match node.value(key)? {
        Value::Number(number) => Some(number.clone()),
        other => {
            report.add(&node.at(key), format!("must be a number, found {}", shown(other)));
            None
        }
    }
}

fn length(node: &Node<'_>, key: &str, report: &mut Report<'_>) -> Option<u64> {
    let value = node.value(key)?;
    let length = value.as_u64();
    if length.is_none() {
        report.add(&node.at(key), format!("must be a whole number from 0, found {}", shown(value)));
    }
    length
}

fn pattern(node: &Node<'_>, report: &mut Report<'_>) -> Option<Regex> {
    let text = node.text("pattern", report)?;
    if text.len() > PATTERN_BYTES_MAX {
        report.add(
            &node.at("pattern"),
            format!("has {} bytes; at most {PATTERN_BYTES_MAX} are accepted", text.len()),
        );
        return None;
    }
    match Regex::new(&text) {
        Ok(regex) => Some(regex),
        Err(error) => {
            report.add(&node.at("pattern"), format!("is no regular expression: {error}"));
            None
        }
    }
}

/// A constraint that no accepted type obeys is a mistake, and so is one that nothing can fulfil.
fn check_constraints(node: &Node<'_>, spec: &ParameterSpec, report: &mut Report<'_>) {
    let applies: [(&str, &[Type]); 8] = [
        ("minimum", &[Type::Integer, Type::Number]),
        ("maximum", &[Type::Integer, Type::Number]),
        ("min_length", &[Type::String, Type::Array]),
        ("max_length", &[Type::String, Type::Array]),
        ("pattern", &[Type::String]),
        ("items", &[Type::Array]),
        ("properties", &[Type::Object]),
        ("additional_properties", &[Type::Object]),
    ];
    for (key, types) in applies {
        if node.has(key) && !spec.may_be(types) {
            let names: Vec<&str> = types.iter().map(|one| one.name()).collect();
            report.add(&node.at(key), format!("applies to {} only", names.join(" and ")));
        }
    }
    if let (Some(minimum), Some(maximum)) = (&spec.minimum, &spec.maximum)
        && number::compare(minimum, maximum).is_gt()
    {
        report.add(&node.at("minimum"), format!("{minimum} is above the maximum {maximum}"));
    }
    if let (Some(min), Some(max)) = (spec.min_length, spec.max_length)
        && min > max
    {
        report.add(&node.at("min_length"), format!("{min} is above max_length {max}"));
    }
    if spec.allowed.as_ref().is_some_and(Vec::is_empty) {
        report.add(&node.at("enum"), "allows nothing");
    }
}

/// Choices and defaults must be values that the rest of the schema accepts.
fn check_values(node: &Node<'_>, spec: &ParameterSpec, report: &mut Report<'_>) {
    for (index, choice) in spec.allowed.iter().flatten().enumerate() {
        check_value(format!("{}[{index}]", node.at("enum")), spec, choice.clone(), report);
    }
    if let Some(default) = &spec.default {
        check_value(node.at("default"), spec, default.clone(), report);
    }
}

fn check_value(path: String, spec: &ParameterSpec, mut value: Value, report: &mut Report<'_>) {
    fill(spec, &mut value);
    let mut check = Check::new(Leniency::Exact);
    check.value(spec, &value, &Path::Root(&path));
    for violation in check.violations.into_vec() {
        report.add(&violation.path, format!("{}; allowed: {}", violation.problem, violation.allowed));
    }
}

#[cfg(test)]
mod tests {
    use crate::core::protocol::fixture::{load, params};

    #[test]
    fn constraints_that_make_no_sense_are_refused() {
        let check = |schema: &str, expected: &[&str]| {
            let text = format!("name: p\nversion: v1\nmethods: {{m: {{params: {{a: {schema}}}}}}}");
            let error = load(&[&text]).expect_err(schema);
            let lines: Vec<String> = error
                .problems
                .iter()
                .map(|problem| {
                    format!("{}: {}", problem.path.replace("methods.m.params.", ""), problem.message)
                })
                .collect();
            assert_eq!(lines, expected, "{schema}");
        };
        check("1", &["a: must be a mapping, found number 1"]);
        check("{}", &["a.type: is missing; `any` accepts every value"]);
        check("{type: []}", &["a.type: names no type"]);
        check(
            "{type: text}",
            &[
                "a.type: found string \"text\"; known: string, integer, number, boolean, array, object, null, any",
            ],
        );
        check(
            "{type: [string, null]}",
            &[
                "a.type: found null; known: string, integer, number, boolean, array, object, null, any; write 'null' in quotes",
            ],
        );
        check("{type: [string, string]}", &["a.type: names string twice"]);
        check(
            "{type: string, minimum: 1, items: {type: any}}",
            &["a.minimum: applies to integer and number only", "a.items: applies to array only"],
        );
        check(
            "{type: integer, min_length: 1, pattern: x}",
            &["a.min_length: applies to string and array only", "a.pattern: applies to string only"],
        );
        check(
            "{type: integer, properties: {}, additional_properties: false}",
            &["a.properties: applies to object only", "a.additional_properties: applies to object only"],
        );
        check("{type: integer, minimum: 2, maximum: 1}", &["a.minimum: 2 is above the maximum 1"]);
        check("{type: string, min_length: 2, max_length: 1}", &["a.min_length: 2 is above max_length 1"]);
        check(
            "{type: string, min_length: -1}",
            &["a.min_length: must be a whole number from 0, found number -1"],
        );
        check("{type: number, maximum: x}", &["a.maximum: must be a number, found string \"x\""]);
        check("{type: string, enum: []}", &["a.enum: allows nothing"]);
        check("{type: string, enum: [x, 1]}", &["a.enum[1]: found number 1; allowed: string"]);
        check("{type: integer, minimum: 1, default: 0}", &["a.default: found 0; allowed: at least 1"]);
        check("{type: string, default: null}", &["a.default: found null; allowed: string"]);
        check(
            "{type: object, default: {n: x}, properties: {n: {type: integer}}}",
            &["a.default.n: found string \"x\"; allowed: integer"],
        );
        check(
            "{type: string, required: maybe}",
            &["a.required: must be true or false, found string \"maybe\""],
        );
        check(
            "{type: array, items: {type: object, properties: {n: {typ: any}}}}",
            &[
                "a.items.properties.n: unknown key `typ`; did you mean type?; known: type, description, required, default, enum, minimum, maximum, min_length, max_length, pattern, items, properties, additional_properties",
                "a.items.properties.n.type: is missing; `any` accepts every value",
            ],
        );
    }

    #[test]
    fn a_pattern_that_does_not_compile_is_refused_when_loaded() {
        let text = "name: p\nversion: v1\nmethods: {m: {params: {a: {type: string, pattern: '('}}}}";
        let error = load(&[text]).expect_err("refused").to_string();
        assert!(
            error.starts_with("1.yaml: p/v1: methods.m.params.a.pattern: is no regular expression"),
            "{error}"
        );
    }

    #[test]
    fn a_default_need_not_be_complete() {
        let method = params("a: {type: object, default: {}, properties: {n: {type: integer, default: 1}}}");
        assert!(!method.params[0].1.must_be_given());
    }
}
