//! `${...}` references from a task's parameters to the results of other tasks.
//!
//! ```text
//! ${load}                 the result of task `load` (its key `result`, if it is an object that has one)
//! ${load.rows[0].name}    a part of it; `.0` is the same as `[0]`
//! ${Load Data.rows}       by name instead of id; of several that fit, the longest counts
//! ${load.result.rows}     the older dialect: from the task's document {id, status, result, error, ...}
//! $${load}                no reference: the text `${load}`
//! ```
//! References stand in string values, at any depth, never in keys. A string that is one reference becomes the
//! value itself with its type; inside other text, strings stand as they are and everything else as JSON.
//!
//! A path is walked from the provider's result first and from the document if that fails. A step is a key of
//! an object or an index of an array, never anything else. What a reference brings in is data: it is not
//! looked at again, so a result that contains `${...}` stays as it is.
//!
//! The parameters of a workflow use the same spelling and are put in before it is read (`parameters.rs`); what
//! they bring in is escaped, so that it stays data.

mod parameters;
mod source;
mod text;
mod walk;

use serde_json::Value;
use std::fmt;

pub(crate) use self::parameters::{Insertion, Place, escape};
pub use self::source::Source;
use self::source::{Nulls, resolve};
use self::text::{Piece, Pieces, beginnings, steps, whole_reference};
use self::walk::weight;
use super::code::Code;
use super::failure::Failure;
use super::violation::Path;

/// The longest reference, in bytes between the braces.
pub const REFERENCE_BYTES_MAX: usize = 1024;

/// A `${...}` in some value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// What stands between the braces, trimmed: `load.rows[0]`.
    pub text: String,
    /// Where: `params.messages[0].content`.
    pub at: String,
    /// Why it can be no reference at all (not closed, empty, too long); `None` if it can be one.
    pub flaw: Option<&'static str>,
}

impl Reference {
    /// The task that it refers to, as it is written here: the longest beginning that `is_task`.
    #[must_use]
    pub fn task(&self, is_task: impl Fn(&str) -> bool) -> Option<&str> {
        beginnings(&self.text).map(|(task, _)| task).find(|task| is_task(task))
    }

    /// What stands before the first dot or bracket: the likely task, for messages about one that is unknown.
    #[must_use]
    pub fn first(&self) -> &str {
        beginnings(&self.text).last().map_or("", |(task, _)| task)
    }
}

/// A reference that could not be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    /// What stands between the braces.
    pub text: String,
    /// Where it stands.
    pub at: String,
    /// Why it could not be replaced.
    pub reason: String,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${{{}}} in {}: {}", self.text, self.at, self.reason)
    }
}

/// Whether the text is one reference and nothing else.
#[must_use]
pub fn is_reference(text: &str) -> bool {
    whole_reference(text).is_some()
}

/// Every reference in `value`, in the order of the text. `root` is the name of the value in paths: `params`.
#[must_use]
pub fn references(value: &Value, root: &str) -> Vec<Reference> {
    let mut found = Vec::new();
    collect(value, &Path::Root(root), &mut found);
    found
}

fn collect(value: &Value, place: &Path<'_>, found: &mut Vec<Reference>) {
    match value {
        Value::String(text) if text.contains("${") => {
            for piece in Pieces(text) {
                let (text, flaw) = match piece {
                    Piece::Text(_) => continue,
                    Piece::Reference(text) => (text, None),
                    Piece::Flawed(text, flaw) => (text, Some(flaw)),
                };
                found.push(Reference { text: shortened(text), at: place.to_string(), flaw });
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, &place.index(index), found);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                collect(member, &place.key(key), found);
            }
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Replaces every reference in `value`. `source` gives what a name in a reference stands for, `None` for what
/// it does not know. `bytes_max` bounds what is brought in, because a short text may refer to a large result
/// many times.
///
/// # Errors
/// Everything that could not be replaced.
pub fn fill<'a>(
    mut value: Value,
    root: &str,
    source: &dyn Fn(&str) -> Option<Source<'a>>,
    bytes_max: usize,
) -> Result<Value, Vec<Unresolved>> {
    let mut filling = Filling { source, bytes_left: bytes_max, bytes_max, unresolved: Vec::new() };
    filling.fill(&mut value, &Path::Root(root));
    if filling.unresolved.is_empty() { Ok(value) } else { Err(filling.unresolved) }
}

/// What one reference of a condition stands for. A condition asks, so whatever is below null is null.
///
/// # Errors
/// Why it stands for nothing.
pub fn value_of<'a>(
    reference: &Reference,
    source: &dyn Fn(&str) -> Option<Source<'a>>,
) -> Result<&'a Value, Unresolved> {
    let found = match reference.flaw {
        Some(flaw) => Err(flaw.to_owned()),
        None => look_up(&reference.text, source, Nulls::Absorb),
    };
    let Reference { text, at, .. } = reference;
    found.map_err(|reason| Unresolved { text: text.clone(), at: at.clone(), reason })
}

fn look_up<'a>(
    text: &str,
    source: &dyn Fn(&str) -> Option<Source<'a>>,
    nulls: Nulls,
) -> Result<&'a Value, String> {
    let found = beginnings(text).find_map(|(task, rest)| Some((task, source(task)?, rest)));
    let Some((task, source, rest)) = found else {
        let first = beginnings(text).last().map_or("", |(task, _)| task);
        return Err(format!("there is no result of a task {first:?}"));
    };
    resolve(source, &steps(rest), nulls).map_err(|reason| match source {
        Source::Value(_) => format!("{task:?} {reason}"),
        Source::Task(_) | Source::Substituted { .. } => format!("the result of task {task:?} {reason}"),
    })
}

struct Filling<'f, 'a> {
    source: &'f dyn Fn(&str) -> Option<Source<'a>>,
    bytes_left: usize,
    bytes_max: usize,
    unresolved: Vec<Unresolved>,
}

impl<'a> Filling<'_, 'a> {
    fn fill(&mut self, value: &mut Value, place: &Path<'_>) {
        match value {
            Value::String(text) if text.contains("${") => *value = self.fill_text(text, place),
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.fill(item, &place.index(index));
                }
            }
            Value::Object(members) => {
                for (key, member) in members.iter_mut() {
                    self.fill(member, &place.key(key));
                }
            }
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn fill_text(&mut self, text: &str, place: &Path<'_>) -> Value {
        if let Some(whole) = whole_reference(text) {
            return self.look_up(whole, place).cloned().unwrap_or_default();
        }
        let mut filled = String::with_capacity(text.len());
        for piece in Pieces(text) {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Flawed(text, flaw) => self.refuse(text, place, flaw.to_owned()),
                Piece::Reference(text) => match self.look_up(text, place) {
                    None => {}
                    Some(Value::String(text)) => filled.push_str(text),
                    Some(other) => filled.push_str(&other.to_string()),
                },
            }
        }
        Value::String(filled)
    }

    /// What the reference stands for; if nothing, that is noted.
    fn look_up(&mut self, text: &str, place: &Path<'_>) -> Option<&'a Value> {
        let value = match look_up(text, self.source, Nulls::Keep) {
            Ok(value) => value,
            Err(reason) => {
                self.refuse(text, place, reason);
                return None;
            }
        };
        let Some(bytes_left) = self.bytes_left.checked_sub(weight(value)) else {
            let reason = format!("the parameters would be larger than {} bytes", self.bytes_max);
            self.refuse(text, place, reason);
            return None;
        };
        self.bytes_left = bytes_left;
        Some(value)
    }

    fn refuse(&mut self, text: &str, place: &Path<'_>, reason: String) {
        /// Reading more does not help; the first ones are what is wrong.
        const UNRESOLVED_MAX: usize = 100;
        if self.unresolved.len() < UNRESOLVED_MAX {
            self.unresolved.push(Unresolved { text: shortened(text), at: place.to_string(), reason });
        }
    }
}

/// The failure of a task whose references could not be replaced.
#[must_use]
pub fn failure(unresolved: &[Unresolved]) -> Failure {
    let all: Vec<String> = unresolved.iter().map(Unresolved::to_string).collect();
    let list: Vec<Value> = unresolved
        .iter()
        .map(|one| serde_json::json!({"reference": one.text, "at": one.at, "reason": one.reason}))
        .collect();
    Failure::new(Code::TaskParameterError, format!("cannot fill in {}", all.join("; ")))
        .with("references", list)
}

/// What a message shows of a text.
fn shortened(text: &str) -> String {
    text.chars().take(REFERENCE_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn documents() -> Value {
        json!({
            "a": {"id": "a", "status": "completed", "error": null, "execution_time": 1.5, "result":
                {"result": {"n": 1}, "z": 2.50, "s": "x", "none": null, "rows": [[{"k": "v"}, true]], "3": "three"}},
            "a.b": {"id": "a.b", "status": "completed", "result": {"c": "dotted"}},
            "Load Data": {"id": "load", "status": "completed", "result": [10, 20]},
            "text": {"id": "text", "status": "completed", "result": "plain ${a.z}"},
            "echo": {"id": "echo", "status": "completed", "result": {"response": "hello"}},
            "bad": {"id": "bad", "status": "failed", "error": {"code": -29002, "message": "no"}, "result": null},
        })
    }

    fn filled(value: Value) -> Result<Value, String> {
        let documents = documents();
        let fill = fill(value, "params", &|task| documents.get(task).map(Source::Task), 10_000);
        fill.map_err(|unresolved| unresolved.iter().map(Unresolved::to_string).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn a_whole_reference_keeps_its_type() {
        let check = |text: &str, expected: Value| assert_eq!(filled(json!(text)), Ok(expected), "{text}");
        check("${a}", json!({"n": 1}));
        check("${a.result}", json!({"n": 1}));
        check("${a.result.n}", json!(1));
        check("${a.z}", json!(2.50));
        check("${ a.z }", json!(2.50));
        check("${a.none}", json!(null));
        check("${a.rows}", json!([[{"k": "v"}, true]]));
        check("${a.rows[0][1]}", json!(true));
        check("${a.rows.0.0.k}", json!("v"));
        check("${a.rows[0].0.k}", json!("v"));
        check("${a.rows.[0].[0].k}", json!("v"));
        check("${a[3]}", json!("three"));
        check("${a.b.c}", json!("dotted"));
        check("${Load Data}", json!([10, 20]));
        check("${Load Data[1]}", json!(20));
        check("${Load Data.1}", json!(20));
        check("${text}", json!("plain ${a.z}"));
    }

    #[test]
    fn the_older_dialect_walks_from_the_document() {
        let check = |text: &str, expected: Value| assert_eq!(filled(json!(text)), Ok(expected), "{text}");
        check("${echo.response}", json!("hello"));
        check("${echo.result.response}", json!("hello"));
        check("${echo.result}", json!({"response": "hello"}));
        check("${echo.status}", json!("completed"));
        check("${echo.task_id}", json!("echo"));
        check("${a.duration_seconds}", json!(1.5));
        check("${a.result.result.n}", json!(1));
        check("${bad.error.message}", json!("no"));
        check("${Load Data.result[0]}", json!(10));
    }

    #[test]
    fn inside_text_strings_stand_as_they_are_and_the_rest_as_json() {
        let check =
            |text: &str, expected: &str| assert_eq!(filled(json!(text)), Ok(json!(expected)), "{text}");
        check("<${a.s}>", "<x>");
        check("${a.s}${a.s}", "xx");
        check("${a.z} ", "2.5 ");
        check("n: ${a.rows}, ${a.none}, ${a.rows[0][1]}", r#"n: [[{"k":"v"},true]], null, true"#);
        check("${text} / ${a.s}", "plain ${a.z} / x");
        check("$${a.z}", "${a.z}");
        check("a $${a.z} ${a.s}", "a ${a.z} x");
        check("$$${a.z}", "$${a.z}");
        check("$${", "${");
        check("$${a ${a.s}}", "${a x}");
        check("$ {a} $", "$ {a} $");
    }

    #[test]
    fn references_are_found_at_any_depth_but_not_in_keys() {
        let value = json!({"m": [{"content": "${a.s} and ${nobody}"}], "${a}": 1, "x": "$${a}"});
        let found = references(&value, "params");
        let texts: Vec<(&str, &str)> = found.iter().map(|r| (r.text.as_str(), r.at.as_str())).collect();
        assert_eq!(texts, [("a.s", "params.m[0].content"), ("nobody", "params.m[0].content")]);
        assert_eq!(
            filled(json!({"m": [{"content": "${a.s}"}], "${a}": "${a.z}", "n": 1})),
            Ok(json!({"m": [{"content": "x"}], "${a}": 2.50, "n": 1}))
        );
    }

    #[test]
    fn a_reference_names_the_task_with_the_longest_name_that_fits() {
        let check = |text: &str, known: &[&str], expected: Option<&str>| {
            let found = references(&json!(format!("${{{text}}}")), "params");
            assert_eq!(found[0].task(|task| known.contains(&task)), expected, "{text}");
        };
        check("a.b.c", &["a", "a.b"], Some("a.b"));
        check("a.b.c", &["a", "a.b", "a.b.c"], Some("a.b.c"));
        check("a.bc", &["a", "a.b"], Some("a"));
        check("Load Data [0]", &["Load Data"], Some("Load Data"));
        check("env.HOME", &["a"], None);
        assert_eq!(references(&json!("${env.HOME.x}"), "params")[0].first(), "env");
    }

    #[test]
    fn what_cannot_be_replaced_is_named_with_its_place_and_all_at_once() {
        let check = |text: &str, expected: &str| {
            assert_eq!(filled(json!({ "p": text })).expect_err(text), expected, "{text}");
        };
        check("${nobody.x}", "${nobody.x} in params.p: there is no result of a task \"nobody\"");
        check(
            "${a.s.x}",
            "${a.s.x} in params.p: the result of task \"a\" has at \"s\" a string, without \"x\"",
        );
        check(
            "${echo.respones}",
            "${echo.respones} in params.p: the result of task \"echo\" has an object with the keys response, without \"respones\"",
        );
        check(
            "${Load Data[2]}",
            "${Load Data[2]} in params.p: the result of task \"Load Data\" has an array of 2, without \"2\"",
        );
        for text in ["${Load Data.01}", "${Load Data.-1}", "${Load Data.+1}", "${a.keys}", "${a.__class__}"] {
            assert!(filled(json!(text)).is_err(), "{text}");
        }
        let two = filled(json!(["${x}", "${y", "${}"])).expect_err("three flaws");
        assert_eq!(two.matches("; ").count(), 4, "{two}");
        assert!(two.contains("not closed") && two.contains("names no task"), "{two}");
    }

    #[test]
    fn what_is_brought_in_is_bounded() {
        let large = json!({"result": "x".repeat(600)});
        let document = |_: &str| Some(Source::Task(&large));
        assert!(fill(json!(["${a}"]), "params", &document, 1000).is_ok());
        let failed = fill(json!(["${a}", "${a}"]), "params", &document, 1000).expect_err("too much");
        assert_eq!(failed[0].at, "params[1]");
        assert_eq!(failure(&failed).code, Code::TaskParameterError);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "[a-c.${}\\[\\]0-2 ]{0,20}",
            "\\$\\{[a-b](\\.[a-c0-2]|\\[[0-2]\\]){0,4}\\}",
            ".{0,8}"
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c0-2]", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_value_is_filled_or_refused(value in any_json(), result in any_json()) {
            let document = json!({"id": "a", "status": "completed", "result": result});
            let known = |task: &str| (task == "a").then_some(Source::Task(&document));
            let found = references(&value, "params");
            let refused = found.iter().any(|r| r.flaw.is_some() || r.task(|task| task == "a").is_none());
            match fill(value.clone(), "params", &known, usize::MAX) {
                Ok(filled) => {
                    prop_assert!(!refused);
                    if !value.to_string().contains("${") {
                        prop_assert_eq!(filled, value);
                    }
                }
                Err(unresolved) => {
                    prop_assert!(!unresolved.is_empty());
                    for one in unresolved {
                        let known = found.iter().any(|r| r.text == one.text && r.at == one.at);
                        prop_assert!(known, "{}", one);
                    }
                }
            }
        }

        #[test]
        fn a_result_is_never_looked_at_again(result in any_json()) {
            let document = json!({ "result": {"x": result.clone()} });
            let known = |task: &str| (task == "a").then_some(Source::Task(&document));
            let filled = fill(json!({"p": "${a.x}", "q": "<${a.x}>"}), "params", &known, usize::MAX);
            let as_text = result.as_str().map_or_else(|| result.to_string(), str::to_owned);
            prop_assert_eq!(filled, Ok(json!({"p": result, "q": format!("<{as_text}>")})));
        }

        #[test]
        fn an_escaped_text_comes_out_as_it_was(text in "[a-c.${} ]{0,20}") {
            let escaped = text.replace("${", "$${");
            prop_assert_eq!(fill(json!(escaped), "params", &|_| None, 0), Ok(json!(text)));
        }
    }
}
