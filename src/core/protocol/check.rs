//! Checks one value against its schema: types, choices, bounds, and everything inside.

use serde_json::{Map, Number, Value};

use crate::core::near::did_you_mean;
use crate::core::protocol::number;
use crate::core::protocol::spec::{Fields, ParameterSpec, Type};
use crate::core::violation::{Path, Violations};

/// Longest text or number that a message repeats, in characters.
const SHOWN_MAX: usize = 40;

/// Most names that a message lists.
const NAMES_MAX: usize = 30;

/// How strict a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leniency {
    /// Every value is what it will be.
    Exact,
    /// Text may hold references, `${task.field}`, whose values are known only at run time. A string that is
    /// one reference and nothing else may become any type; one with a reference inside stays a string, whose
    /// length, pattern and choice are left open.
    References,
}

/// One walk through a value, collecting what is wrong.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) violations: Violations,
    leniency: Leniency,
    /// Whether properties may be missing: true for the results of examples, which show only a part.
    is_partial: bool,
}

impl Check {
    pub(crate) fn new(leniency: Leniency) -> Self {
        Self { violations: Violations::default(), leniency, is_partial: false }
    }

    pub(crate) fn partial() -> Self {
        Self { is_partial: true, ..Self::new(Leniency::Exact) }
    }

    pub(crate) fn value(&mut self, spec: &ParameterSpec, value: &Value, path: &Path<'_>) {
        if self.leniency == Leniency::References {
            match reference(value) {
                Reference::None => {}
                Reference::Whole => return,
                Reference::Inside if spec.may_be(&[Type::String]) => return,
                Reference::Inside => {
                    self.violations.add(path, format!("found {}", shown(value)), types(spec));
                    return;
                }
            }
        }
        if !spec.types.iter().any(|own| own.accepts(value)) {
            self.violations.add(path, format!("found {}", shown(value)), types(spec));
            return;
        }
        if let Some(allowed) = &spec.allowed
            && !allowed.iter().any(|one| number::same(one, value))
        {
            let choices: Vec<String> = allowed.iter().map(Value::to_string).collect();
            let choices = listed(choices.iter().map(String::as_str));
            self.violations.add(path, format!("found {}", shown(value)), format!("one of {choices}"));
        }
        match value {
            Value::Number(number) => self.range(spec, number, path),
            Value::String(text) => self.text(spec, text, path),
            Value::Array(values) => self.array(spec, values, path),
            Value::Object(map) => {
                self.fields(&spec.properties, spec.additional_properties, "property", map, path)
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// Checks named values; `noun` says what an unknown one is.
    pub(crate) fn fields(
        &mut self,
        fields: &Fields,
        accepts_others: bool,
        noun: &str,
        map: &Map<String, Value>,
        path: &Path<'_>,
    ) {
        for (name, spec) in fields {
            match map.get(name) {
                Some(value) => self.value(spec, value, &path.key(name)),
                None if spec.must_be_given() && !self.is_partial => {
                    self.violations.add(&path.key(name), "is missing", types(spec));
                }
                None => {}
            }
        }
        if accepts_others {
            return;
        }
        let known = || fields.iter().map(|(name, _)| name.as_str());
        for name in map.keys().filter(|name| known().all(|known| known != name.as_str())) {
            let problem = format!("unknown {noun}{}", did_you_mean(name, known()));
            self.violations.add(&path.key(name), problem, listed(known()));
        }
    }

    pub(crate) fn exactly_one_of(&mut self, group: &[String], map: &Map<String, Value>, path: &Path<'_>) {
        let given: Vec<&str> =
            group.iter().map(String::as_str).filter(|name| map.contains_key(*name)).collect();
        let problem = match given.as_slice() {
            [_] => return,
            [] => "none is given".to_owned(),
            several => format!("found {} together", several.join(" and ")),
        };
        let allowed = format!("exactly one of {}", listed(group.iter().map(String::as_str)));
        self.violations.add(path, problem, allowed);
    }

    fn range(&mut self, spec: &ParameterSpec, number: &Number, path: &Path<'_>) {
        let is_below = spec.minimum.as_ref().is_some_and(|min| number::compare(number, min).is_lt());
        let is_above = spec.maximum.as_ref().is_some_and(|max| number::compare(number, max).is_gt());
        if is_below || is_above {
            let allowed = range(spec.minimum.as_ref(), spec.maximum.as_ref());
            self.violations.add(path, format!("found {}", shortened(&number.to_string())), allowed);
        }
    }

    fn text(&mut self, spec: &ParameterSpec, text: &str, path: &Path<'_>) {
        // Counting characters reads the whole text, which may be a mebibyte of code.
        if spec.min_length.is_some() || spec.max_length.is_some() {
            self.length(spec, text.chars().count(), "characters", path);
        }
        if let Some(pattern) = spec.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            let found = format!("found {:?}", shortened(text));
            self.violations.add(path, found, format!("text that matches {pattern}"));
        }
    }

    fn array(&mut self, spec: &ParameterSpec, values: &[Value], path: &Path<'_>) {
        self.length(spec, values.len(), "items", path);
        if let Some(items) = &spec.items {
            for (index, value) in values.iter().enumerate() {
                self.value(items, value, &path.index(index));
            }
        }
    }

    fn length(&mut self, spec: &ParameterSpec, length: usize, noun: &str, path: &Path<'_>) {
        let length = length as u64;
        if spec.min_length.is_some_and(|min| length < min) || spec.max_length.is_some_and(|max| length > max)
        {
            let allowed = format!("{} {noun}", range(spec.min_length.as_ref(), spec.max_length.as_ref()));
            self.violations.add(path, format!("has {length} {noun}"), allowed);
        }
    }
}

/// How a value refers to results that are not there yet.
enum Reference {
    None,
    Whole,
    Inside,
}

/// Looks for `${`, something, and the first `}` after it.
fn reference(value: &Value) -> Reference {
    let Value::String(text) = value else { return Reference::None };
    let mut from = 0;
    while let Some(start) = text[from..].find("${").map(|found| from + found) {
        let Some(length) = text[start..].find('}') else { return Reference::None };
        let end = start + length + 1;
        if length > "${".len() {
            let is_whole = start == 0 && end == text.len();
            return if is_whole { Reference::Whole } else { Reference::Inside };
        }
        from = end;
    }
    Reference::None
}

fn types(spec: &ParameterSpec) -> String {
    let names: Vec<&str> = spec.types.iter().map(|own| own.name()).collect();
    names.join(" or ")
}

fn range<T: std::fmt::Display>(low: Option<T>, high: Option<T>) -> String {
    match (low, high) {
        (Some(low), Some(high)) => format!("{low} to {high}"),
        (Some(low), None) => format!("at least {low}"),
        (None, Some(high)) => format!("at most {high}"),
        (None, None) => "any".to_owned(),
    }
}

/// Names with commas between them; `none` if there are none, and not all if there are very many.
pub(crate) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.len() {
        0 => "none".to_owned(),
        1..=NAMES_MAX => names.join(", "),
        count => format!("{} and {} more", names[..NAMES_MAX].join(", "), count - NAMES_MAX),
    }
}

/// A value as a message shows it: its type, and itself where it is short.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("boolean {value}"),
        Value::Number(number) => format!("number {}", shortened(&number.to_string())),
        Value::String(text) => format!("string {:?}", shortened(text)),
        Value::Array(values) => format!("array of {}", values.len()),
        Value::Object(map) => format!("object with {} keys", map.len()),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::protocol::fixture::{exact, params};
    use crate::core::violation::{VIOLATIONS_MAX, Violation};

    /// The violations of `value` as the parameter `a`, each as one line.
    fn violations(schema: &str, value: Value, leniency: Leniency) -> Vec<String> {
        let method = params(&format!("a: {schema}"));
        match method.validate(json!({"a": value}), leniency) {
            Ok(_) => Vec::new(),
            Err(violations) => violations.iter().map(Violation::to_string).collect(),
        }
    }

    #[test]
    fn values_are_checked_against_every_constraint() {
        let check = |schema: &str, value: &str, expected: &[&str]| {
            assert_eq!(violations(schema, exact(value), Leniency::Exact), expected, "{schema} {value}");
        };
        check("{type: string}", r#""x""#, &[]);
        check("{type: string}", "1", &["params.a: found number 1; allowed: string"]);
        check("{type: [string, integer]}", "1", &[]);
        check(
            "{type: [string, integer]}",
            "1.5",
            &["params.a: found number 1.5; allowed: string or integer"],
        );
        check("{type: [string, 'null']}", "null", &[]);
        check("{type: string}", "null", &["params.a: found null; allowed: string"]);
        check("{type: any}", "[null]", &[]);
        check("{type: integer}", "1.0", &[]);
        check("{type: integer}", "true", &["params.a: found boolean true; allowed: integer"]);
        check("{type: boolean}", "1", &["params.a: found number 1; allowed: boolean"]);
        check("{type: number, minimum: 0, maximum: 2}", "2.0", &[]);
        check("{type: number, minimum: 0, maximum: 2}", "2.01", &["params.a: found 2.01; allowed: 0 to 2"]);
        check("{type: integer, minimum: 1}", "0", &["params.a: found 0; allowed: at least 1"]);
        check(
            "{type: integer, maximum: 1}",
            "123456789012345678901234567890",
            &["params.a: found 123456789012345678901234567890; allowed: at most 1"],
        );
        check(
            "{type: integer, minimum: 9007199254740993}",
            "9007199254740992",
            &["params.a: found 9007199254740992; allowed: at least 9007199254740993"],
        );
        check(
            "{type: string, min_length: 1}",
            r#""""#,
            &["params.a: has 0 characters; allowed: at least 1 characters"],
        );
        check(
            "{type: string, max_length: 2}",
            r#""äöü""#,
            &["params.a: has 3 characters; allowed: at most 2 characters"],
        );
        check("{type: string, max_length: 3}", r#""äöü""#, &[]);
        check("{type: array, min_length: 1}", "[]", &["params.a: has 0 items; allowed: at least 1 items"]);
        check(
            "{type: array, min_length: 1, max_length: 2}",
            "[1, 2, 3]",
            &["params.a: has 3 items; allowed: 1 to 2 items"],
        );
        check("{type: [string, array], min_length: 2}", "[1, 2]", &[]);
        check("{type: string, pattern: 'b+'}", r#""abc""#, &[]);
        check(
            "{type: string, pattern: '^b+$'}",
            r#""abc""#,
            &["params.a: found \"abc\"; allowed: text that matches ^b+$"],
        );
        check("{type: any, enum: [1, two]}", "1.0", &[]);
        check(
            "{type: any, enum: [1, two]}",
            r#""three""#,
            &["params.a: found string \"three\"; allowed: one of 1, \"two\""],
        );
        check(
            "{type: array, items: {type: integer}}",
            r#"[1, "x", 2, null]"#,
            &[
                "params.a[1]: found string \"x\"; allowed: integer",
                "params.a[3]: found null; allowed: integer",
            ],
        );
    }

    #[test]
    fn objects_are_checked_inside() {
        let schema = "{type: object, additional_properties: false, properties: {role: {type: string, enum: [user]}, n: {type: integer, required: false}}}";
        let check = |value: Value, expected: &[&str]| {
            assert_eq!(violations(schema, value.clone(), Leniency::Exact), expected, "{value}");
        };
        check(json!({"role": "user"}), &[]);
        check(json!({}), &["params.a.role: is missing; allowed: string"]);
        check(
            json!({"role": "robot", "n": "1", "rolle": 1}),
            &[
                "params.a.role: found string \"robot\"; allowed: one of \"user\"",
                "params.a.n: found string \"1\"; allowed: integer",
                "params.a.rolle: unknown property; did you mean role?; allowed: role, n",
            ],
        );
    }

    #[test]
    fn references_stand_for_what_is_not_known_yet() {
        let check = |schema: &str, value: Value, expected: &[&str]| {
            assert_eq!(violations(schema, value.clone(), Leniency::References), expected, "{schema} {value}");
        };
        check("{type: integer}", json!("${sum.result}"), &[]);
        check("{type: array, min_length: 1}", json!("${a}"), &[]);
        check("{type: array, items: {type: integer}}", json!([1, "${a.n}"]), &[]);
        check("{type: object, properties: {n: {type: integer}}}", json!({"n": "${a.n}"}), &[]);
        check("{type: string, max_length: 3}", json!("see ${a.text}"), &[]);
        check("{type: string, enum: [x]}", json!("${a}${b}"), &[]);
        check("{type: integer}", json!("1${a}"), &["params.a: found string \"1${a}\"; allowed: integer"]);
        check("{type: integer}", json!("${}"), &["params.a: found string \"${}\"; allowed: integer"]);
        check("{type: integer}", json!("${a"), &["params.a: found string \"${a\"; allowed: integer"]);
        check("{type: integer}", json!("x"), &["params.a: found string \"x\"; allowed: integer"]);
        let exact = violations("{type: integer}", json!("${a}"), Leniency::Exact);
        assert_eq!(exact, ["params.a: found string \"${a}\"; allowed: integer"]);
    }

    #[test]
    fn a_flood_of_violations_is_bounded() {
        let values: Vec<Value> = (0..100_000).map(|n| json!(n)).collect();
        let found = violations("{type: array, items: {type: string}}", json!(values), Leniency::Exact);
        assert!(found.len() <= VIOLATIONS_MAX + 1);
    }
}
