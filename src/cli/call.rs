//! `call` and `exec`: one task.

use serde_json::{Map, Value, json};
use std::io::Read;

use super::args::{self, How};
use super::follow;
use super::live::Live;
use super::pieces::{Pieces, Text};
use super::print;
use super::run::seconds;
use super::signals::Signals;
use crate::config::Config;
use crate::core::clock::Clock;
use crate::core::code::Code;
use crate::core::id::{Id, TaskKey};
use crate::core::priority::Priority;
use crate::core::protocol::{ProtocolId, Type};
use crate::core::task::Spec;
use crate::error::Error;
use crate::runtime::{Role, Runtime, clock::SystemClock};
use crate::wire::task::Task;

/// `gleitzeit call PROTOCOL METHOD`
pub(crate) async fn call(config: Config, args: args::Call, json: bool) -> Result<u8, Error> {
    let params = read_params(&args.params)?;
    Box::pin(one(config, &args.protocol, &args.method, params, &args.how, json)).await
}

/// `gleitzeit exec CODE`
pub(crate) async fn exec(config: Config, args: args::Exec, json: bool) -> Result<u8, Error> {
    Box::pin(one(config, "python/v1", "execute", json!({"code": args.code}), &args.how, json)).await
}

async fn one(
    config: Config,
    protocol: &str,
    method: &str,
    params: Value,
    how: &How,
    json: bool,
) -> Result<u8, Error> {
    let protocol: ProtocolId =
        protocol.parse().map_err(|error| Error::new(Code::InvalidRequest, format!("{error}")))?;
    let id = match &how.id {
        Some(text) => Id::parse(text)?,
        None => SystemClock.new_id(),
    };
    let params = if how.follow { streaming(&config, &protocol, method, params)? } else { params };
    let mut spec = Spec::new(protocol, method, params);
    spec.priority = how.priority.as_deref().map(priority).transpose()?;
    let times = how.when.times(SystemClock.now())?;
    (spec.not_before, spec.expires_at) = (times.not_before, times.expires_at);
    let task = Task::new(Some(id.clone()), spec);
    let timeout = seconds(how.timeout)?;

    // A task that nobody waits for must be open to whoever executes it later.
    let scope = (!how.no_wait).then_some(&id);
    let runtime = Runtime::open(config.clone(), Role::Client, scope).await?;
    let client = runtime.client();
    if how.no_wait {
        client.submit(task).await?;
        runtime.close().await;
        if json {
            print::json(&json!({"id": id, "status": "accepted"}));
        } else {
            print::line(id.as_str());
        }
        return Ok(0);
    }
    let (signals, key) = (Signals::listen(), TaskKey::alone(id.clone()));
    let mut pieces = how.follow.then(|| Pieces::new(&runtime.store, &key, false, json));
    let work = Box::pin(async {
        client.submit(task).await?;
        if let Some(pieces) = &mut pieces {
            return pieces.beside(follow::end(&client.reader(), &signals, &key, timeout)).await;
        }
        let live = Live::new();
        if live.is_drawn() {
            return follow::to_end(&runtime.store, &signals, &key, live, timeout).await;
        }
        // Nobody sees where it is, so nothing but its end is asked for.
        follow::end(&client.reader(), &signals, &key, timeout).await
    });
    let outcome = follow::with_worker(&runtime, work).await?;
    let work =
        follow::Work { id: &id, is_workflow: false, cancel: how.cancel_on_exit.then_some(config), json };
    let code = match follow::end_or_code(&runtime, outcome, work).await? {
        Ok(ended) => {
            let document = follow::document(&ended, &key);
            match pieces.filter(|_| !json) {
                Some(pieces) => show_followed(&document, pieces.text_of(&key)),
                None => show(&document, json),
            }
            follow::exit_code(&ended)
        }
        Err(code) => code,
    };
    runtime.close().await;
    Ok(code)
}

/// A method that can give its answer in pieces is asked for it so, unless the caller has said otherwise.
fn streaming(config: &Config, protocol: &ProtocolId, method: &str, params: Value) -> Result<Value, Error> {
    let protocols = Runtime::protocols(config)?;
    // What `stream` means to others is theirs.
    let can = protocol.to_string() == "llm/v1"
        && protocols.method(protocol, method).is_ok_and(|method| {
            method.spec.params.iter().any(|(name, spec)| name == "stream" && spec.types == [Type::Boolean])
        });
    match params {
        Value::Object(mut params) if can => {
            params.entry("stream").or_insert(Value::Bool(true));
            Ok(Value::Object(params))
        }
        params => Ok(params),
    }
}

/// The result for a person who has followed the task: what was not shown yet.
pub(crate) fn show_followed(document: &Value, text: Text) {
    if text == Text::Part {
        print::note("some of it was left out above; this is all of it:");
    }
    let has_shown_text = text == Text::Whole;
    let result = document.get("result").unwrap_or(&Value::Null);
    let error = document.get("error").filter(|error| !error.is_null());
    let (said, printed) = (result.get("content").and_then(Value::as_str), result.get("stdout"));
    match (error, has_shown_text) {
        (Some(error), true) => show_error(error),
        (Some(_), false) => show(document, false),
        // A model's answer is its words.
        (None, true) if said.is_some() => {}
        (None, false) if said.is_some() => print::line(said.unwrap_or_default()),
        (None, false) => show(document, false),
        (None, true) => {
            let value = printed.map_or(result, |_| result.get("result").unwrap_or(&Value::Null));
            if !value.is_null() {
                print_value(value);
            }
        }
    }
}

fn show_error(error: &Value) {
    let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
    print::note(&format!("[{}] {}", text("name"), text("message")));
}

/// The result for a person (output of Python code as it was printed), or the document for a program.
pub(crate) fn show(document: &Value, json: bool) {
    if json {
        return print::json(document);
    }
    if let Some(error) = document.get("error").filter(|error| !error.is_null()) {
        show_error(error);
        for stream in ["stdout", "stderr"] {
            let output = error.pointer(&format!("/details/{stream}")).and_then(Value::as_str);
            if let Some(output) = output.filter(|output| !output.is_empty()) {
                print::note(output.trim_end());
            }
        }
        return;
    }
    let result = document.get("result").unwrap_or(&Value::Null);
    let printed = result.get("stdout").and_then(Value::as_str);
    if let (Some(printed), Some(value)) = (printed, result.get("result")) {
        if !printed.is_empty() {
            print::line(printed.trim_end_matches('\n'));
        }
        if !value.is_null() {
            print_value(value);
        }
        return;
    }
    print_value(result);
}

fn print_value(value: &Value) {
    match value {
        Value::String(text) => print::line(text),
        other => print::line(&serde_json::to_string_pretty(other).unwrap_or_default()),
    }
}

pub(super) fn read_params(text: &str) -> Result<Value, Error> {
    let source = match text.strip_prefix('@') {
        Some("-") => {
            let mut read = String::new();
            let limit = crate::wire::task::TASK_BYTES_MAX as u64 + 1;
            std::io::stdin().lock().take(limit).read_to_string(&mut read).map(|_| read).map_err(|error| {
                Error::new(Code::FileUnreadable, format!("cannot read parameters from stdin: {error}"))
            })?
        }
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Error::new(Code::FileUnreadable, format!("cannot read {path}: {error}")))?,
        None => text.to_owned(),
    };
    serde_json::from_str(&source).map_err(|error| Error {
        code: Code::ParseError,
        message: format!("--params is not JSON: {error}"),
        details: Map::new(),
    })
}

fn priority(text: &str) -> Result<Priority, Error> {
    let number =
        text.parse().ok().filter(|number| (0..=9).contains(number)).map(Priority::from_message_number);
    Priority::from_word(text).or(number).ok_or_else(|| {
        let text = format!("--priority {text:?} is none of {} or 0 to 9", Priority::WORDS);
        Error::new(Code::InvalidRequest, text)
    })
}
