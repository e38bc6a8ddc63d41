//! What a name in a reference stands for, and the part of it that is meant.

use serde_json::Value;

pub(super) use super::walk::Nulls;
use super::walk::walk;

/// Other names, known from the original, of keys of a document.
const DOCUMENT_ALIASES: [(&str, &str); 3] =
    [("task_id", "id"), ("completed_at", "ended_at"), ("duration_seconds", "execution_time")];

/// What a name in a reference stands for.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A task, by its result document. It has a result only if it completed.
    Task(&'a Value),
    /// A task whose result, unless it completed, is something else: null, or a dependency's `default`.
    Substituted {
        /// The task's document.
        document: &'a Value,
        /// What stands for its result.
        instead: &'a Value,
    },
    /// A value as it is, such as an item of a list.
    Value(&'a Value),
}

/// Follows the steps from where the source says.
pub(super) fn resolve<'a>(source: Source<'a>, steps: &[&str], nulls: Nulls) -> Result<&'a Value, String> {
    match source {
        Source::Value(value) => walk(value, steps, nulls),
        Source::Task(document) => match unfinished(document) {
            None => completed(document, steps, nulls),
            Some(status) => fact(document, steps, nulls).ok_or_else(|| {
                format!(
                    "is not there, because the task is {status}; a dependency with `on_failure: continue` or \
                     a `default` gives one"
                )
            }),
        },
        Source::Substituted { document, instead } => match unfinished(document) {
            None => completed(document, steps, nulls),
            Some(_) => substituted(document, instead, steps, nulls),
        },
    }
}

/// The status of a task that did not complete.
fn unfinished(document: &Value) -> Option<&str> {
    document.get("status")?.as_str().filter(|status| *status != "completed")
}

/// From the provider's result, or else from the document.
fn completed<'a>(document: &'a Value, steps: &[&str], nulls: Nulls) -> Result<&'a Value, String> {
    let result = document.get("result").unwrap_or(&Value::Null);
    if steps.is_empty() {
        return Ok(whole(result));
    }
    let reason = match walk(result, steps, Nulls::Keep) {
        Ok(value) => return Ok(value),
        Err(reason) => reason,
    };
    if let Some(value) = fact(document, steps, nulls) {
        return Ok(value);
    }
    let below = || if steps[0] == "result" { &steps[1..] } else { steps };
    walk(result, below(), nulls).map_err(|_| reason)
}

/// As if `instead` were the result. Most are null, so facts of the document go before what is below null.
fn substituted<'a>(
    document: &'a Value,
    instead: &'a Value,
    steps: &[&str],
    nulls: Nulls,
) -> Result<&'a Value, String> {
    if steps.is_empty() {
        return Ok(whole(instead));
    }
    if let Ok(value) = walk(instead, steps, Nulls::Keep) {
        return Ok(value);
    }
    if let Some(value) = fact(document, steps, nulls) {
        return Ok(value);
    }
    let below = if steps[0] == "result" { &steps[1..] } else { steps };
    walk(instead, below, Nulls::Absorb)
}

/// A result as a whole: of an object that has a key `result`, that.
fn whole(result: &Value) -> &Value {
    result.get("result").unwrap_or(result)
}

/// What a document says besides the result: status, error, times and so on.
fn fact<'a>(document: &'a Value, steps: &[&str], nulls: Nulls) -> Option<&'a Value> {
    let (first, rest) = steps.split_first()?;
    if *first == "result" {
        return None;
    }
    let alias = DOCUMENT_ALIASES.iter().find(|(alias, _)| alias == first).map(|(_, key)| *key);
    let value = document.get(first).or_else(|| document.get(alias?))?;
    walk(value, rest, nulls).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(source: Source<'_>, path: &str, nulls: Nulls) -> Result<Value, String> {
        let steps: Vec<&str> = path.split('.').filter(|step| !step.is_empty()).collect();
        resolve(source, &steps, nulls).cloned()
    }

    #[test]
    fn a_task_that_did_not_complete_has_facts_but_no_result() {
        let failed = json!({"id": "a", "status": "failed", "error": {"message": "no"}, "result": null});
        let check = |path: &str, expected: Option<Value>| {
            assert_eq!(at(Source::Task(&failed), path, Nulls::Keep).ok(), expected, "{path}");
        };
        check("status", Some(json!("failed")));
        check("error.message", Some(json!("no")));
        check("task_id", Some(json!("a")));
        check("", None);
        check("result", None);
        check("rows", None);
        let reason = at(Source::Task(&failed), "rows", Nulls::Keep).expect_err("no result");
        assert!(reason.contains("the task is failed; a dependency with `on_failure: continue`"), "{reason}");
    }

    #[test]
    fn a_substitute_stands_for_the_result_until_there_is_one() {
        let failed = json!({"id": "a", "status": "failed", "error": {"message": "no"}, "result": null});
        let null = Value::Null;
        let rows = json!({"rows": [1], "status": "mine"});
        let check = |instead: &Value, path: &str, expected: Option<Value>| {
            let source = Source::Substituted { document: &failed, instead };
            assert_eq!(at(source, path, Nulls::Keep).ok(), expected, "{instead} {path}");
        };
        for path in ["", "result", "rows", "rows.0.x", "result.rows"] {
            check(&null, path, Some(Value::Null));
        }
        check(&null, "status", Some(json!("failed")));
        check(&null, "error.message", Some(json!("no")));
        check(&rows, "", Some(rows.clone()));
        check(&rows, "rows.0", Some(json!(1)));
        check(&rows, "result.rows.0", Some(json!(1)));
        check(&rows, "status", Some(json!("mine")));
        check(&rows, "error.message", Some(json!("no")));
        check(&rows, "missing", None);
        check(&json!({"result": 5}), "", Some(json!(5)));

        let completed = json!({"status": "completed", "result": {"rows": [7]}});
        let source = Source::Substituted { document: &completed, instead: &null };
        assert_eq!(at(source, "rows.0", Nulls::Keep), Ok(json!(7)));
        assert!(at(source, "other", Nulls::Keep).is_err());
    }

    #[test]
    fn an_item_is_exactly_itself() {
        let item = json!({"result": 1, "status": "x"});
        assert_eq!(at(Source::Value(&item), "", Nulls::Keep), Ok(item.clone()));
        assert_eq!(at(Source::Value(&item), "result", Nulls::Keep), Ok(json!(1)));
        assert!(at(Source::Value(&item), "error", Nulls::Keep).is_err());
    }

    #[test]
    fn what_is_below_null_is_null_where_it_is_asked_for() {
        let document = json!({"status": "completed", "error": null, "result": {"x": null}});
        for path in ["x.y", "error.code", "result.x.y"] {
            assert!(at(Source::Task(&document), path, Nulls::Keep).is_err(), "{path}");
            assert_eq!(at(Source::Task(&document), path, Nulls::Absorb), Ok(Value::Null), "{path}");
        }
        assert!(at(Source::Task(&document), "y", Nulls::Absorb).is_err());
    }
}
