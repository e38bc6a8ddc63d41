//! What to run: the parameters of `execute` and `validate`, as one payload for the runner.
//!
//! Three dialects of workflow files meet here: inline `code` (with `imports` and `environment`), a script
//! `file`, and a named `function` (with `args` and `kwargs`). Exactly one of the three is given. `context`
//! goes with `code` and `file`: the whole of it is the global `context`, and each of its keys that is a
//! Python name is a global of its own. Data never becomes source text.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::core::code::Code;
use crate::core::failure::Failure;

/// The longest source text, in bytes.
pub(super) const CODE_BYTES_MAX: usize = 1024 * 1024;
/// All names and values of `environment` together, in bytes.
const ENVIRONMENT_BYTES_MAX: usize = 128 * 1024;
/// The longest list of `imports`.
const IMPORTS_MAX: usize = 256;
/// The parameters that `execute` knows.
const SOURCES: [&str; 3] = ["code", "file", "function"];

/// A method of `python/v1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Runs something.
    Execute,
    /// Only compiles it.
    Validate,
}

impl Method {
    pub(super) fn parse(name: &str) -> Option<Method> {
        match name {
            "execute" => Some(Method::Execute),
            "validate" => Some(Method::Validate),
            _ => None,
        }
    }
}

/// A call whose parameters make sense.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    /// The task as the runner reads it; the provider adds what its settings say.
    pub(super) task: Map<String, Value>,
    /// What the caller allows the process.
    pub(super) timeout: Option<Duration>,
}

impl Request {
    /// Checks `params`.
    ///
    /// # Errors
    /// `INVALID_PARAMS` says which one, and what to write instead.
    pub(super) fn read(method: Method, params: Value) -> Result<Request, Failure> {
        let Value::Object(mut params) = params else {
            return Err(invalid("the parameters are no object; name them, such as {\"code\": \"6 * 7\"}"));
        };
        // `null` is as good as absent, as schemas without defaults fill nothing in.
        params.retain(|_, value| !value.is_null());
        let timeout = read_timeout(&params)?;
        let task = match method {
            Method::Execute => execute(params)?,
            Method::Validate => validate(params)?,
        };
        Ok(Request { task, timeout })
    }

    /// The script to run, if it is one.
    pub(super) fn file(&self) -> Option<&str> {
        self.task.get("file").and_then(Value::as_str)
    }

    /// Runs this file instead of the one that was named.
    pub(super) fn set_file(&mut self, path: &Path) {
        self.task.insert("file".to_owned(), path.to_string_lossy().into());
    }
}

fn validate(mut params: Map<String, Value>) -> Result<Map<String, Value>, Failure> {
    let Some(Value::String(code)) = params.remove("code") else {
        return Err(invalid("`code` is missing, or no text"));
    };
    check_code(&code)?;
    let mut task = surroundings(json!({}), json!([]));
    task.insert("method".to_owned(), "validate".into());
    task.insert("code".to_owned(), code.into());
    Ok(task)
}

fn execute(mut params: Map<String, Value>) -> Result<Map<String, Value>, Failure> {
    let given: Vec<&str> = SOURCES.into_iter().filter(|name| params.contains_key(*name)).collect();
    let [source] = given[..] else {
        let found = if given.is_empty() { "none".to_owned() } else { given.join(", ") };
        return Err(invalid(format!("give exactly one of `code`, `file` and `function`; found {found}")));
    };
    let Some(Value::String(text)) = params.remove(source) else {
        return Err(invalid(format!("`{source}` is no text")));
    };
    if source == "code" {
        check_code(&text)?;
    } else if text.is_empty() || text.contains('\0') {
        return Err(invalid(format!("`{source}` is empty, or has a NUL character")));
    }
    if let Some(name) = params.get("requirements") {
        return Err(invalid(format!("`requirements`: this worker has no virtual environment named {name}")));
    }
    let environment = read_environment(params.remove("environment"))?;
    let mut task = surroundings(environment, read_imports(params.remove("imports"))?);
    task.insert("method".to_owned(), "execute".into());
    task.insert(source.to_owned(), text.into());
    if source == "function" {
        add_arguments(&mut task, &mut params)?;
    } else {
        add_context(&mut task, &mut params)?;
    }
    Ok(task)
}

fn surroundings(environment: Value, imports: Value) -> Map<String, Value> {
    Map::from_iter([("environment".to_owned(), environment), ("imports".to_owned(), imports)])
}

fn add_arguments(task: &mut Map<String, Value>, params: &mut Map<String, Value>) -> Result<(), Failure> {
    if params.contains_key("context") {
        return Err(invalid("`context` goes with `code` and `file`; give a function its data by `kwargs`"));
    }
    let args = params.remove("args").unwrap_or_else(|| json!([]));
    let kwargs = params.remove("kwargs").unwrap_or_else(|| json!({}));
    if !args.is_array() {
        return Err(invalid("`args` is no list"));
    }
    if !kwargs.is_object() {
        return Err(invalid("`kwargs` is no object"));
    }
    task.insert("args".to_owned(), args);
    task.insert("kwargs".to_owned(), kwargs);
    Ok(())
}

fn add_context(task: &mut Map<String, Value>, params: &mut Map<String, Value>) -> Result<(), Failure> {
    for name in ["args", "kwargs"] {
        if params.contains_key(name) {
            return Err(invalid(format!("`{name}` goes with `function`; give code its data by `context`")));
        }
    }
    if let Some(context) = params.remove("context") {
        task.insert("context".to_owned(), context);
    }
    Ok(())
}

fn check_code(code: &str) -> Result<(), Failure> {
    if code.len() > CODE_BYTES_MAX {
        return Err(invalid(format!(
            "`code` has {} bytes; at most {CODE_BYTES_MAX} are allowed",
            code.len()
        )));
    }
    Ok(())
}

fn read_timeout(params: &Map<String, Value>) -> Result<Option<Duration>, Failure> {
    let Some(value) = params.get("timeout") else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| *seconds > 0.0);
    match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(invalid(format!("`timeout` is {value}; it must be seconds, more than 0"))),
    }
}

fn read_imports(value: Option<Value>) -> Result<Value, Failure> {
    let Some(value) = value else { return Ok(json!([])) };
    match value.as_array() {
        Some(names) if names.len() <= IMPORTS_MAX && names.iter().all(Value::is_string) => Ok(value),
        _ => Err(invalid(format!("`imports` must be a list of at most {IMPORTS_MAX} names of modules"))),
    }
}

/// Numbers and booleans are set as their JSON text.
fn read_environment(value: Option<Value>) -> Result<Value, Failure> {
    let Some(value) = value else { return Ok(json!({})) };
    let Value::Object(given) = value else { return Err(invalid("`environment` is no object")) };
    let mut variables = Map::new();
    let mut bytes = 0;
    for (name, value) in given {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(invalid(format!("`environment`: {name:?} is not the name of a variable")));
        }
        let text = match value {
            Value::String(text) => text,
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                return Err(invalid(format!("`environment`: the value of {name} is no text")));
            }
        };
        if text.contains('\0') {
            return Err(invalid(format!("`environment`: the value of {name} has a NUL character")));
        }
        bytes += name.len() + text.len() + 2;
        variables.insert(name, text.into());
    }
    if bytes > ENVIRONMENT_BYTES_MAX {
        return Err(invalid(format!("`environment` has {bytes} bytes; at most {ENVIRONMENT_BYTES_MAX}")));
    }
    Ok(Value::Object(variables))
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidParams, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(params: Value) -> Result<Request, Failure> {
        Request::read(Method::Execute, params)
    }

    #[test]
    fn each_dialect_becomes_one_payload() {
        let check = |params: Value, expected: Value| {
            let request = read(params.clone()).expect("good parameters");
            assert_eq!(Value::Object(request.task), expected, "{params}");
        };
        check(
            json!({"code": "1", "timeout": 3, "context": {"a": 1}, "file": null}),
            json!({"environment": {}, "imports": [], "method": "execute", "code": "1", "context": {"a": 1}}),
        );
        check(
            json!({"file": "a.py", "imports": ["os.path"], "environment": {"A": "b", "N": 1.50, "B": true}}),
            json!({"environment": {"A": "b", "N": "1.5", "B": "true"}, "imports": ["os.path"],
                   "method": "execute", "file": "a.py"}),
        );
        check(
            json!({"function": "math:gcd", "args": [12, 18]}),
            json!({"environment": {}, "imports": [], "method": "execute", "function": "math:gcd",
                   "args": [12, 18], "kwargs": {}}),
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_to_do() {
        let check = |params: Value, part: &str| {
            let failure = read(params.clone()).expect_err("bad parameters");
            assert_eq!((failure.code, failure.retryable), (Code::InvalidParams, false), "{params}");
            assert!(failure.message.contains(part), "{params}: {failure}");
        };
        check(json!([1]), "name them");
        check(json!({}), "found none");
        check(json!({"code": "1", "file": "a.py"}), "found code, file");
        check(json!({"code": 1}), "`code` is no text");
        check(json!({"file": ""}), "`file` is empty");
        check(json!({"code": "1", "args": []}), "by `context`");
        check(json!({"function": "a:b", "context": {}}), "by `kwargs`");
        check(json!({"function": "a:b", "args": {}}), "`args` is no list");
        check(json!({"function": "a:b", "kwargs": []}), "`kwargs` is no object");
        check(json!({"code": "1", "timeout": 0}), "more than 0");
        check(json!({"code": "1", "timeout": 1e300}), "more than 0");
        check(json!({"code": "1", "imports": "os"}), "list of at most 256");
        check(json!({"code": "1", "imports": [1]}), "list of at most 256");
        check(json!({"code": "1", "environment": {"A=B": "c"}}), "\"A=B\" is not the name");
        check(json!({"code": "1", "environment": {"A": "b\0c"}}), "NUL");
        check(json!({"code": "1", "environment": {"A": []}}), "value of A is no text");
        check(
            json!({"code": "1", "environment": {"A": "x".repeat(ENVIRONMENT_BYTES_MAX)}}),
            "at most 131072",
        );
        check(json!({"code": " ".repeat(CODE_BYTES_MAX + 1)}), "1048577 bytes");
        check(json!({"code": "1", "requirements": "science"}), "named \"science\"");
    }

    #[test]
    fn the_timeout_is_in_seconds() {
        let request = read(json!({"code": "1", "timeout": 1.5})).expect("good parameters");
        assert_eq!(request.timeout, Some(Duration::from_millis(1500)));
    }
}
