//! What is said: JSON-RPC 2.0, one document a line (or a body).
//!
//! | we say                                   | kind         | answer                                          |
//! |------------------------------------------|--------------|-------------------------------------------------|
//! | `$/initialize` {client, name, protocol}  | request      | {name, version, methods}                        |
//! | METHOD params, with `context` beside it  | request      | the result, any JSON                            |
//! | `$/cancel` {id}                          | notification | none; the call that is meant is answered soon   |
//! | `$/ping` {}                              | request      | anything, also an error: it lives               |
//! | `$/shutdown` {}                          | notification | none; the process ends                          |
//!
//! and the provider may say `$/progress` {id, progress} and `$/output` {id, text, stream}, notifications. No method of a
//! protocol begins with `$`, so that none of these can be taken for one.
//!
//! | error of a provider                      | code                                    | again?             |
//! |------------------------------------------|-----------------------------------------|--------------------|
//! | -32602                                   | `INVALID_PARAMS`                        | no                 |
//! | -32601                                   | `METHOD_NOT_SUPPORTED`                  | no, but elsewhere  |
//! | -32700, -32600                           | `PROVIDER_ERROR`                        | no                 |
//! | -32603, -32000 to -32099                 | `PROVIDER_ERROR`                        | yes                |
//! | a number of ours that a provider may say | that code                               | as that code       |
//! | any other                                | `TASK_EXECUTION_FAILED`                 | no                 |
//!
//! `data.code` (a name or a number of ours), `data.retryable` and `data.retry_after` (seconds) of the error have the
//! last word.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::protocol::ProtocolId;
use crate::provider::CallCx;

/// The names of what is said beside calls.
pub(super) const INITIALIZE: &str = "$/initialize";
pub(super) const CANCEL: &str = "$/cancel";
pub(super) const PING: &str = "$/ping";
pub(super) const SHUTDOWN: &str = "$/shutdown";
pub(super) const PROGRESS: &str = "$/progress";
pub(super) const OUTPUT: &str = "$/output";
pub(super) const ECHO: &str = "$/echo";

/// The longest wait that a provider may ask for: a day.
const RETRY_AFTER_MAX: f64 = 86_400.0;
/// How much of a provider's words is put into a message, in characters.
const WORDS_MAX: usize = 2000;
/// How much of what a provider adds to an error is kept, in bytes of JSON.
const DATA_BYTES_MAX: usize = 16 * 1024;

/// What a provider said.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// An answer to a request.
    Answer { id: Value, outcome: Result<Value, Failure> },
    /// Something of its own accord.
    Notification { method: String, params: Value },
    /// Nothing that we understand.
    Noise,
}

/// A request.
pub(super) fn request(id: &Value, method: &str, params: &Value, context: Option<&Value>) -> Vec<u8> {
    let mut message = Map::new();
    message.insert("jsonrpc".to_owned(), "2.0".into());
    message.insert("id".to_owned(), id.clone());
    message.insert("method".to_owned(), method.into());
    message.insert("params".to_owned(), params.clone());
    message.extend(context.map(|context| ("context".to_owned(), context.clone())));
    line(&Value::Object(message))
}

/// A notification.
pub(super) fn notification(method: &str, params: &Value) -> Vec<u8> {
    line(&json!({"jsonrpc": "2.0", "method": method, "params": params}))
}

/// The parameters of `$/initialize`.
pub(super) fn introduction(name: &str, protocol: &ProtocolId) -> Value {
    let client = json!({"name": "gleitzeit", "version": env!("CARGO_PKG_VERSION")});
    json!({"client": client, "name": name, "protocol": protocol.to_string()})
}

/// What a call is told beside its parameters.
pub(super) fn context(cx: &CallCx, now: Timestamp) -> Value {
    let mut context = json!({
        "task": cx.key.id().as_str(),
        "attempt": cx.attempt,
        "timeout": cx.timeout.as_secs_f64(),
        "deadline": now.after(cx.timeout).to_string(),
        // The same for each attempt of this task, and for no other.
        "idempotency_key": cx.key.to_string(),
    });
    let more = [
        ("workflow", cx.key.workflow().map(|id| id.as_str().to_owned())),
        ("traceparent", cx.traceparent.clone()),
    ];
    for (name, text) in more {
        if let Some(text) = text {
            context[name] = text.into();
        }
    }
    context
}

/// Reads what a provider said.
pub(super) fn read(text: &[u8]) -> Said {
    let Ok(Value::Object(mut message)) = serde_json::from_slice(text) else { return Said::Noise };
    if message.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Said::Noise;
    }
    if let Some(Value::String(method)) = message.get("method") {
        let method = method.clone();
        return match message.contains_key("id") {
            // We serve nothing.
            true => Said::Noise,
            false => Said::Notification { method, params: message.remove("params").unwrap_or_default() },
        };
    }
    let Some(id) = message.remove("id") else { return Said::Noise };
    let outcome = match (message.remove("result"), message.remove("error")) {
        (_, Some(Value::Object(error))) => Err(failure(&error)),
        (Some(result), _) => Ok(result),
        (None, _) => return Said::Noise,
    };
    Said::Answer { id, outcome }
}

/// What an error of a provider means.
fn failure(error: &Map<String, Value>) -> Failure {
    let number = error.get("code").and_then(Value::as_i64).and_then(|code| i32::try_from(code).ok());
    let data = error.get("data");
    let named = data.and_then(|data| data.get("code")).and_then(our_code);
    let code = named.unwrap_or_else(|| code_of(number));
    let words = error.get("message").and_then(Value::as_str).unwrap_or("it gave no reason");
    let mut failure = Failure::new(code, words.chars().take(WORDS_MAX).collect::<String>());
    failure = match (code, number) {
        (Code::MethodNotSupported | Code::RateLimitExceeded | Code::ProviderOverloaded, _) => {
            failure.not_begun()
        }
        (Code::ProviderError, Some(-32700 | -32600)) => failure.final_now(),
        _ => failure,
    };
    let Some(data) = data else { return failure };
    let wait = data.get("retry_after").and_then(Value::as_f64).filter(|wait| *wait >= 0.0);
    failure.retry_after = wait.map(|wait| Duration::from_secs_f64(wait.min(RETRY_AFTER_MAX)));
    let told = data.get("retryable").and_then(Value::as_bool);
    failure.retryable = told.unwrap_or(failure.retryable || wait.is_some());
    if is_small(data) {
        failure = failure.with("data", data.clone());
    }
    failure
}

/// Whether it may be put into the details of a failure.
pub(in crate::provider) fn is_small(told: &Value) -> bool {
    told.to_string().len() <= DATA_BYTES_MAX
}

fn code_of(number: Option<i32>) -> Code {
    let Some(number) = number else { return Code::TaskExecutionFailed };
    match number {
        -32602 => Code::InvalidParams,
        -32601 => Code::MethodNotSupported,
        -32700 | -32600 | -32603 | -32099..=-32000 => Code::ProviderError,
        _ => {
            let ours = Code::from_number(number).filter(|code| may_be_said(*code));
            ours.unwrap_or(Code::TaskExecutionFailed)
        }
    }
}

fn our_code(value: &Value) -> Option<Code> {
    let code = match value {
        Value::String(name) => Code::find(name),
        other => Code::find(&other.to_string()),
    };
    code.filter(|code| may_be_said(*code))
}

/// Whether a provider may give this code: what only Gleitzeit can know, it may not.
fn may_be_said(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidParams
            | Code::ResourceExhausted
            | Code::RateLimitExceeded
            | Code::FileUnreadable
            | Code::MethodNotSupported
            | Code::ProviderNotAvailable
            | Code::ProviderUnhealthy
            | Code::ProviderTimeout
            | Code::ProviderOverloaded
            | Code::ProviderError
            | Code::TaskExecutionFailed
            | Code::TaskResultInvalid
            | Code::ResultTooLarge
            | Code::NetworkUnreachable
            | Code::ConnectionRefused
            | Code::ConnectionTimeout
            | Code::ConnectionLost
            | Code::AuthenticationFailed
            | Code::AuthorizationFailed
    )
}

/// JSON text has no line feed outside of texts, and there it is escaped.
fn line(message: &Value) -> Vec<u8> {
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::core::id::{Id, TaskKey};
    use crate::core::priority::Priority;

    fn said(text: &str) -> Failure {
        match read(text.as_bytes()) {
            Said::Answer { outcome: Err(failure), .. } => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_become_our_codes() {
        for (error, code, retryable, not_begun) in [
            (r#"{"code": -32602, "message": "m"}"#, Code::InvalidParams, false, false),
            (r#"{"code": -32601, "message": "m"}"#, Code::MethodNotSupported, false, true),
            (r#"{"code": -32600, "message": "m"}"#, Code::ProviderError, false, false),
            (r#"{"code": -32603, "message": "m"}"#, Code::ProviderError, true, false),
            (r#"{"code": -32050, "message": "m"}"#, Code::ProviderError, true, false),
            (r#"{"code": 7, "message": "m"}"#, Code::TaskExecutionFailed, false, false),
            (r#"{"code": "x", "message": "m"}"#, Code::TaskExecutionFailed, false, false),
            (r#"{"code": -31005, "message": "m"}"#, Code::RateLimitExceeded, true, true),
            (r#"{"code": -29013, "message": "m"}"#, Code::TaskExecutionFailed, false, false),
            (
                r#"{"code": 7, "message": "m", "data": {"retryable": true}}"#,
                Code::TaskExecutionFailed,
                true,
                false,
            ),
            (
                r#"{"code": 7, "message": "m", "data": {"retry_after": 1}}"#,
                Code::TaskExecutionFailed,
                true,
                false,
            ),
            (
                r#"{"code": 7, "message": "m", "data": {"code": "provider_overloaded"}}"#,
                Code::ProviderOverloaded,
                true,
                true,
            ),
            (
                r#"{"code": 7, "message": "m", "data": {"code": -25001, "retryable": false}}"#,
                Code::NetworkUnreachable,
                false,
                false,
            ),
            (
                r#"{"code": 7, "message": "m", "data": {"code": "TASK_CANCELLED"}}"#,
                Code::TaskExecutionFailed,
                false,
                false,
            ),
        ] {
            let found = said(&format!(r#"{{"jsonrpc": "2.0", "id": 1, "error": {error}}}"#));
            assert_eq!(
                (found.code, found.retryable, found.not_begun),
                (code, retryable, not_begun),
                "{error}"
            );
        }
        let wait =
            said(r#"{"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "data": {"retry_after": 1e99}}}"#);
        assert_eq!(wait.retry_after, Some(Duration::from_secs(86_400)));
        assert_eq!(wait.message, "it gave no reason");
        let long = format!(
            r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":1,"message":"{0}","data":"{0}"}}}}"#,
            "x".repeat(99_999)
        );
        let long = said(&long);
        assert_eq!((long.message.len(), long.details.contains_key("data")), (WORDS_MAX, false));
    }

    #[test]
    fn answers_and_notifications_are_told_from_noise() {
        let answer = |id: Value, result: Value| Said::Answer { id, outcome: Ok(result) };
        assert_eq!(read(br#"{"jsonrpc":"2.0","id":1,"result":null}"#), answer(1.into(), Value::Null));
        assert_eq!(
            read(br#" {"id":"a","result":[1],"error":null,"jsonrpc":"2.0"} "#),
            answer("a".into(), json!([1]))
        );
        let progress = Said::Notification { method: PROGRESS.to_owned(), params: json!({"id": 1}) };
        assert_eq!(read(br#"{"jsonrpc":"2.0","method":"$/progress","params":{"id":1}}"#), progress);
        for noise in [
            "",
            "hello",
            "1",
            "[]",
            "{}",
            r#"{"id":1,"result":1}"#,
            r#"{"jsonrpc":"2.0","result":1}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#,
            "\u{fffd}",
            r#"{"jsonrpc":"2.0","id":1,"error":"text"}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":"#,
        ] {
            assert_eq!(read(noise.as_bytes()), Said::Noise, "{noise}");
        }
    }

    #[test]
    fn a_request_is_one_line_whatever_is_in_it() {
        let params = json!({"text": "a\nb\u{2028}\u{e4}", "n": 12345678901234567890_u64});
        let cx = CallCx {
            key: TaskKey::within(Id::parse("w").expect("an id"), Id::parse("t").expect("an id")),
            attempt: 2,
            timeout: Duration::from_millis(1500),
            cancel: CancellationToken::new(),
            traceparent: Some("00-1-2-01".to_owned()),
            priority: Priority::NORMAL,
            output: Default::default(),
        };
        let context = context(&cx, Timestamp::from_millis(0));
        let line = request(&3.into(), "m", &params, Some(&context));
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let read: Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(
            read,
            json!({"jsonrpc": "2.0", "id": 3, "method": "m", "params": params, "context": {
                "task": "t", "workflow": "w", "attempt": 2, "timeout": 1.5, "deadline": "1970-01-01T00:00:01.500Z",
                "idempotency_key": "w/t", "traceparent": "00-1-2-01",
            }})
        );
    }
}
