//! What servers answer, as results and failures of tasks.
//!
//! | a server says | the task |
//! |---|---|
//! | a result | `{response, result, content}`: its texts, its structured content (without one, its texts), all of it |
//! | a result with `isError` | `TASK_EXECUTION_FAILED`, the content in the details unless it is too much |
//! | the error -32602, or that there is no such resource | `INVALID_PARAMS` |
//! | the error -32601 | `METHOD_NOT_SUPPORTED` |
//! | any other error | `PROVIDER_ERROR`, with its code and data in the details |

use std::error::Error;

use rmcp::model::{CallToolResult, ContentBlock, ErrorCode, ErrorData, ServerResult};
use rmcp::service::{ClientInitializeError, ServiceError};
use rmcp::transport::streamable_http_client::StreamableHttpError;
use serde_json::{Value, json};

use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::provider::address;
use crate::provider::rpc::message::is_small;

/// The most characters of what a server says in a message.
const WORDS_MAX: usize = 1000;

/// Whose answer it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whose<'a> {
    /// Of a process of ours.
    Process,
    /// Of a server at this address.
    Address(&'a str),
}

/// The result of a request.
///
/// # Errors
/// `TASK_EXECUTION_FAILED`: the tool says that it has failed. `PROVIDER_ERROR`: no answer to such a request.
pub(super) fn result(answer: ServerResult) -> Result<Value, Failure> {
    match answer {
        ServerResult::CallToolResult(result) => tool_result(result),
        ServerResult::ReadResourceResult(result) => {
            let contents = plain(&result)["contents"].take();
            let response = joined(contents.as_array(), |one| one["text"].as_str().map(str::to_owned));
            Ok(json!({"response": response, "contents": contents}))
        }
        ServerResult::GetPromptResult(result) => {
            let mut told = plain(&result);
            let messages = told["messages"].take();
            let response =
                joined(messages.as_array(), |one| one["content"]["text"].as_str().map(str::to_owned));
            Ok(json!({"response": response, "messages": messages, "description": told["description"].take()}))
        }
        _ => Err(Failure::new(
            Code::ProviderError,
            "the server answered with something else than was asked for",
        )),
    }
}

fn tool_result(result: CallToolResult) -> Result<Value, Failure> {
    let texts: Vec<&str> = result
        .content
        .iter()
        .filter_map(|block| match block {
            ContentBlock::Text(text) => Some(text.text.as_str()),
            _ => None,
        })
        .collect();
    let response = texts.join("\n");
    let content = plain(&result.content);
    if result.is_error == Some(true) {
        let words = bounded(&response);
        let words = if words.is_empty() { "the tool failed without a word".to_owned() } else { words };
        let mut failure = Failure::new(Code::TaskExecutionFailed, words);
        let told = [("content", Some(content)), ("structured_content", result.structured_content)];
        for (name, told) in told {
            if let Some(told) = told.filter(is_small) {
                failure = failure.with(name, told);
            }
        }
        return Err(failure);
    }
    let value = result.structured_content.unwrap_or_else(|| json!(response));
    Ok(json!({"response": response, "result": value, "content": content}))
}

/// As it goes over the wire.
pub(super) fn plain<T: serde::Serialize>(told: &T) -> Value {
    // What came as JSON goes as JSON.
    serde_json::to_value(told).unwrap_or_default()
}

fn joined(all: Option<&Vec<Value>>, text: impl Fn(&Value) -> Option<String>) -> String {
    all.into_iter().flatten().filter_map(text).collect::<Vec<String>>().join("\n")
}

/// What became of a request; `None`: the session ended, and only who holds it knows how.
pub(super) fn failed(error: ServiceError, whose: Whose<'_>) -> Option<Failure> {
    match error {
        ServiceError::McpError(error) => Some(refused(error)),
        ServiceError::TransportSend(error) => match whose {
            // It does not read any more: the call was not heard whole.
            Whose::Process => None,
            Whose::Address(shown) => Some(away(error.error.as_ref(), shown)),
        },
        ServiceError::TransportClosed => None,
        other => Some(Failure::new(Code::ProviderError, bounded(&other.to_string()))),
    }
}

/// The server's own error.
fn refused(error: ErrorData) -> Failure {
    let code = match error.code {
        ErrorCode::INVALID_PARAMS | ErrorCode::RESOURCE_NOT_FOUND => Code::InvalidParams,
        ErrorCode::METHOD_NOT_FOUND => Code::MethodNotSupported,
        ErrorCode(number) if number == Code::ResultTooLarge.number() => Code::ResultTooLarge,
        _ => Code::ProviderError,
    };
    if code == Code::ResultTooLarge {
        let message = format!(
            "the answer has {}; return less, or store it elsewhere and return where it is",
            bounded(&error.message)
        );
        return Failure::new(code, message);
    }
    let failure = Failure::new(code, bounded(&error.message)).with("error_code", error.code.0);
    match error.data.filter(is_small) {
        Some(data) => failure.with("data", data),
        None => failure,
    }
}

/// Why a server at an address did not get the request, or could not answer it.
fn away(error: &(dyn Error + 'static), shown: &str) -> Failure {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(known) = current.downcast_ref::<StreamableHttpError<reqwest::Error>>() {
            return told_by_http(known, shown);
        }
        cause = current.source();
    }
    let words = bounded(&error.to_string());
    Failure::new(Code::ConnectionLost, format!("the connection to {shown} failed: {words}"))
}

fn told_by_http(error: &StreamableHttpError<reqwest::Error>, shown: &str) -> Failure {
    let answered = |code: Code| {
        let message = format!("{shown} answered: {}", bounded(&error.to_string()));
        Failure::new(code, message).with("server", shown)
    };
    let by_status = |status: u16| address::refused(status, format!("{shown} answered {status}"));
    match error {
        StreamableHttpError::Client(error) => match error.status().map(|status| status.as_u16()) {
            None => address::broken(shown, None, error),
            Some(status) => by_status(status),
        },
        StreamableHttpError::HttpStatus(error) => {
            let mut failure = by_status(error.status);
            // What time it is, is not known here.
            failure.retry_after = error.retry_after.as_deref().and_then(|text| address::wait(text, None));
            failure
        }
        // RFC 9110 section 15.5.2: not without a key.
        StreamableHttpError::AuthRequired(_) => answered(Code::AuthenticationFailed).not_begun(),
        StreamableHttpError::InsufficientScope(_) => answered(Code::AuthorizationFailed),
        StreamableHttpError::ResponseBodyTooLarge { .. } => answered(Code::ResultTooLarge),
        StreamableHttpError::ReservedHeaderConflict(_) => answered(Code::ConfigurationError),
        StreamableHttpError::SessionExpired
        | StreamableHttpError::UnexpectedEndOfStream
        | StreamableHttpError::TransportChannelClosed
        | StreamableHttpError::Sse(_)
        | StreamableHttpError::Io(_) => answered(Code::ConnectionLost),
        _ => answered(Code::ProviderError),
    }
}

/// Whether nobody is there, as opposed to somebody who answers with an error.
pub(super) fn is_away(failure: &Failure) -> bool {
    matches!(
        failure.code,
        Code::ConnectionRefused | Code::ConnectionTimeout | Code::ConnectionLost | Code::NetworkUnreachable
    )
}

/// Why there is no session.
pub(super) fn not_introduced(error: &ClientInitializeError, shown: Option<&str>) -> Failure {
    if let (ClientInitializeError::TransportError { error, .. }, Some(shown)) = (error, shown) {
        return away(error.error.as_ref(), shown);
    }
    Failure::new(Code::ProviderInitializationFailed, bounded(&error.to_string()))
}

/// As much of a server's words as a message holds.
fn bounded(words: &str) -> String {
    words.chars().take(WORDS_MAX).collect()
}
