//! Puts the values of a workflow's parameters into its texts, before the workflow is read.
//!
//! ```text
//! place        | whole text `${topic}`    | inside text              | later looked at again
//! plain        | the value                | text, or JSON            | no
//! data         | the value, escaped       | text, or JSON, escaped   | for references: nothing of ours is one
//! expression   | a literal                | a literal                | as an expression: a literal stays one
//! ```
//! References to anything else stay as they are.

use serde_json::Value;

use super::text::{Piece, Pieces, beginnings, steps, whole_reference};
use super::walk::{Nulls, walk, weight};

/// What becomes of a text afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing.
    Plain,
    /// References in it are filled when the task runs.
    Data,
    /// It is a condition.
    Expression,
}

/// Puts parameters into texts.
pub(crate) struct Insertion<'v> {
    /// The value of a parameter by name.
    value: &'v dyn Fn(&str) -> Option<&'v Value>,
    /// How much may still be put in.
    bytes_left: usize,
}

impl<'v> Insertion<'v> {
    /// Puts in at most `bytes_max` in all, because a short text may name a large value many times.
    pub(crate) fn new(value: &'v dyn Fn(&str) -> Option<&'v Value>, bytes_max: usize) -> Insertion<'v> {
        Insertion { value, bytes_left: bytes_max }
    }

    /// The text with every parameter put in; `None` if none is in it.
    ///
    /// # Errors
    /// Why one cannot be put in.
    pub(crate) fn put_in(&mut self, text: &str, place: Place) -> Result<Option<Value>, String> {
        if !self.concerns(text) {
            return Ok(None);
        }
        if place != Place::Expression
            && let Some(whole) = whole_reference(text)
        {
            let Some(value) = self.find(whole)? else { return Ok(None) };
            return Ok(Some(if place == Place::Data { escaped(value) } else { value.clone() }));
        }
        match place {
            Place::Plain => self.plain(text),
            Place::Data => self.data(text),
            Place::Expression => self.expression(text),
        }
        .map(|text| Some(Value::String(text)))
    }

    /// Whether a parameter is in the text. What is no reference is refused when the workflow is read.
    fn concerns(&self, text: &str) -> bool {
        if !text.contains("${") {
            return false;
        }
        let mut found = false;
        for piece in Pieces(text) {
            match piece {
                Piece::Text(_) => {}
                Piece::Flawed(_, _) => return false,
                Piece::Reference(text) => {
                    found |= beginnings(text).any(|(name, _)| (self.value)(name).is_some());
                }
            }
        }
        found
    }

    fn find(&mut self, reference: &str) -> Result<Option<&'v Value>, String> {
        let found = beginnings(reference).find_map(|(name, rest)| Some((name, (self.value)(name)?, rest)));
        let Some((name, value, rest)) = found else { return Ok(None) };
        let value = walk(value, &steps(rest), Nulls::Keep)
            .map_err(|reason| format!("${{{reference}}}: parameter {name:?} {reason}"))?;
        let left = self.bytes_left.checked_sub(weight(value));
        self.bytes_left = left.ok_or("the parameters would make the workflow larger than allowed")?;
        Ok(Some(value))
    }

    fn plain(&mut self, text: &str) -> Result<String, String> {
        let mut out = String::with_capacity(text.len());
        for piece in Pieces(text) {
            match piece {
                Piece::Text(text) => out.push_str(written(text)),
                Piece::Flawed(_, _) => {}
                Piece::Reference(reference) => match self.find(reference)? {
                    Some(value) => out.push_str(&shown(value)),
                    None => push_reference(&mut out, reference),
                },
            }
        }
        Ok(out)
    }

    /// Text between references is collected as what it means, and escaped as a whole: a value and its
    /// neighbours together may look like a reference.
    fn data(&mut self, text: &str) -> Result<String, String> {
        let (mut out, mut meant) = (String::with_capacity(text.len()), String::new());
        for piece in Pieces(text) {
            match piece {
                Piece::Text(text) => meant.push_str(text),
                Piece::Flawed(_, _) => {}
                Piece::Reference(reference) => match self.find(reference)? {
                    Some(value) => meant.push_str(&shown(value)),
                    None if meant.ends_with('$') => {
                        return Err(format!("a value that ends in $ cannot stand before ${{{reference}}}"));
                    }
                    None => {
                        out.push_str(&escape(&meant));
                        meant.clear();
                        push_reference(&mut out, reference);
                    }
                },
            }
        }
        out.push_str(&escape(&meant));
        Ok(out)
    }

    fn expression(&mut self, text: &str) -> Result<String, String> {
        let (mut out, mut quotes) = (String::with_capacity(text.len()), Quotes::default());
        for piece in Pieces(text) {
            match piece {
                Piece::Text(text) => {
                    quotes.pass(text);
                    out.push_str(written(text));
                }
                Piece::Flawed(_, _) => {}
                Piece::Reference(reference) => match self.find(reference)? {
                    Some(_) if quotes.open.is_some() => {
                        return Err(format!("${{{reference}}} stands in quotes; write it without them"));
                    }
                    Some(value) if has_mapping(value) => {
                        return Err(format!(
                            "parameter `{reference}` is a mapping, which a condition cannot hold"
                        ));
                    }
                    Some(value) => push_literal(&mut out, value),
                    None => push_reference(&mut out, reference),
                },
            }
        }
        Ok(out)
    }
}

fn push_reference(out: &mut String, reference: &str) {
    out.push_str("${");
    out.push_str(reference);
    out.push('}');
}

fn has_mapping(value: &Value) -> bool {
    match value {
        Value::Object(_) => true,
        Value::Array(items) => items.iter().any(has_mapping),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// A piece of text as it was written: only an escape is read as `${`.
fn written(text: &str) -> &str {
    if text == "${" { "$${" } else { text }
}

/// A value inside text.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The text that means `text`, whatever is in it.
pub(crate) fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

/// The value with every text in it escaped.
fn escaped(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(escape(text)),
        Value::Array(items) => Value::Array(items.iter().map(escaped).collect()),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(key, member)| (key.clone(), escaped(member))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// Whether the end of what has passed is inside a quoted text.
#[derive(Default)]
struct Quotes {
    open: Option<char>,
    escaped: bool,
}

impl Quotes {
    fn pass(&mut self, text: &str) {
        for c in text.chars() {
            match self.open {
                Some(_) if self.escaped => self.escaped = false,
                Some(_) if c == '\\' => self.escaped = true,
                Some(open) if c == open => self.open = None,
                Some(_) => {}
                None if c == '"' || c == '\'' => self.open = Some(c),
                None => {}
            }
        }
    }
}

/// Writes a value so that an expression reads exactly it, and nothing of it as part of the expression.
fn push_literal(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("none"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => {
            out.push('(');
            out.push_str(&number.to_string());
            out.push(')');
        }
        Value::String(text) => push_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                push_literal(out, item);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (index, (key, member)) in members.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                push_text(out, key);
                out.push_str(": ");
                push_literal(out, member);
            }
            out.push('}');
        }
    }
}

/// Whatever could mean something in an expression is written by its number.
fn push_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        if c.is_control() || "\"'\\${}%#".contains(c) {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::core::template::{Source, fill};

    fn put(text: &str, place: Place, values: &Value) -> Result<Value, String> {
        let value = |name: &str| values.get(name);
        let put = Insertion::new(&value, 1000).put_in(text, place)?;
        Ok(put.unwrap_or_else(|| json!(text)))
    }

    #[test]
    fn values_keep_their_types_or_become_text() {
        let values = json!({"n": 5, "s": "x", "l": [1, "a"], "o": {"k": {"v": true}}, "none": null});
        let check =
            |text: &str, expected: Value| assert_eq!(put(text, Place::Data, &values), Ok(expected), "{text}");
        check("${n}", json!(5));
        check("${ n }", json!(5));
        check("n=${n}${s}", json!("n=5x"));
        check("${l} ${none}", json!("[1,\"a\"] null"));
        check("${o.k.v}", json!(true));
        check("${l[1]}", json!("a"));
        check("${task.x}", json!("${task.x}"));
        check("${n} ${task.x} $${n}", json!("5 ${task.x} $${n}"));
        check("$$${n} ${n}", json!("$$${n} 5"));
        check("${n} ${open", json!("${n} ${open"));
        assert!(put("${o.x}", Place::Data, &values).expect_err("no x").contains("without \"x\""));
        assert_eq!(put("${n} ${a.b} $${n}", Place::Plain, &values), Ok(json!("5 ${a.b} $${n}")));
    }

    #[test]
    fn values_never_become_references() {
        let values = json!({"s": "${secret}", "d": "a$", "l": ["${secret}"], "b": "{secret}"});
        let check =
            |text: &str, expected: Value| assert_eq!(put(text, Place::Data, &values), Ok(expected), "{text}");
        check("${s}", json!("$${secret}"));
        check("<${s}>", json!("<$${secret}>"));
        check("${l}", json!(["$${secret}"]));
        check("${l} ", json!("[\"$${secret}\"] "));
        check("${d}${b}", json!("a$${secret}"));
        check("${d}{secret}", json!("a$${secret}"));
        assert!(put("${d}${task}", Place::Data, &values).is_err());
        assert_eq!(put("${s}", Place::Plain, &values), Ok(json!("${secret}")));
    }

    #[test]
    fn a_value_in_an_expression_is_a_literal() {
        let values = json!({"n": -5, "s": "a' or \"b\" ${x}", "l": [1, null, true], "o": {"k}": 1.5}});
        let check = |text: &str, expected: &str| {
            assert_eq!(put(text, Place::Expression, &values), Ok(json!(expected)), "{text}");
        };
        check("${a.x} > ${n}", "${a.x} > (-5)");
        check("${s}", r#""a\u0027 or \u0022b\u0022 \u0024\u007bx\u007d""#);
        check("${a} in ${l}", "${a} in [(1), none, true]");
        let problem = put("${o}", Place::Expression, &values).expect_err("a mapping");
        assert_eq!(problem, "parameter `o` is a mapping, which a condition cannot hold");
        check("'it\\'s' == ${n}", "'it\\'s' == (-5)");
        assert!(put("${a} == '${n}'", Place::Expression, &values).expect_err("quoted").contains("quotes"));
    }

    #[test]
    fn what_is_put_in_is_bounded() {
        let values = json!({"s": "x".repeat(600)});
        assert!(put("${s}", Place::Data, &values).is_ok());
        assert!(put("${s} ${s}", Place::Data, &values).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_put_in_comes_out_as_it_was(
            before in "[a${} ]{0,4}", value in "[a-c.${}\\[\\] ]{0,12}", after in "[a${} ]{0,4}",
        ) {
            let (before, after) = (escape(&before), escape(&after));
            // Before the reference a dollar sign would escape it.
            prop_assume!(!before.ends_with('$'));
            let values = json!({"p": value, "q": "v"});
            let text = format!("{before}${{p}}{after}");
            // The dollar sign of `after` and what follows it are one text with the value.
            let put = put(&text, Place::Data, &values).expect("room");
            let filled = fill(put, "x", &|_: &str| None::<Source<'_>>, 0).expect("no reference");
            let unescaped = |text: &str| text.replace("$${", "${");
            prop_assert_eq!(filled, json!(format!("{}{value}{}", unescaped(&before), unescaped(&after))));
        }
    }
}
