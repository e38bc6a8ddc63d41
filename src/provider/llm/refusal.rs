//! A server that answers something else than what was asked for: what its status and its words mean, in our codes.
//!
//! | what happened                         | code                      | again? |
//! |---------------------------------------|---------------------------|--------|
//! | 400, 413, 422                         | `INVALID_PARAMS`          | no     |
//! | 401; 403                              | `AUTHENTICATION_FAILED`; `AUTHORIZATION_FAILED` | no |
//! | 408, 504                              | `PROVIDER_TIMEOUT`        | yes    |
//! | 429                                   | `RATE_LIMIT_EXCEEDED`     | yes, not before `Retry-After`; not when a quota is used up |
//! | 501                                   | `METHOD_NOT_SUPPORTED`    | no     |
//! | 503, 529                              | `PROVIDER_OVERLOADED`     | yes, not before `Retry-After` |
//! | any other 5xx                         | `PROVIDER_ERROR`          | yes    |
//! | any other status                      | `PROVIDER_ERROR`          | no     |

use serde_json::Value;

use super::http::Server;
use super::key::Secret;
use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::provider::address;

/// How much of a server's words is put into a message, in characters.
const WORDS_MAX: usize = 500;

/// What a server answered, whole.
#[derive(Debug)]
pub(super) struct Reply {
    /// The HTTP status.
    pub(super) status: u16,
    /// The body.
    pub(super) body: Vec<u8>,
    /// What `Retry-After` says.
    pub(super) retry_after: Option<String>,
    /// The key that was sent.
    pub(super) secret: Option<Secret>,
}

impl Reply {
    /// What the server says is wrong, as far as it says it in JSON.
    pub(super) fn error(&self) -> Complaint {
        let said: Option<Value> = serde_json::from_slice(&self.body).ok();
        let mut complaint = said.as_ref().and_then(Complaint::of).unwrap_or_default();
        if complaint.words.is_empty() {
            complaint.words = bounded(String::from_utf8_lossy(&self.body).trim());
        }
        complaint
    }

    /// Why there is no answer, by the status. `now` is what a date in `Retry-After` is compared with.
    pub(super) fn refusal(&self, server: &Server, now: Timestamp) -> Failure {
        let complaint = self.error();
        // llama.cpp's server answers 500 for a picture that its model cannot see.
        let is_blind = complaint.words.contains("image input is not supported");
        let code = if is_blind { Code::InvalidParams } else { code_of(self.status) };
        let message = format!("{} answered {}: {}", server.shown, self.status, complaint.words);
        let mut failure =
            Failure::new(code, message).with("server", server.shown.as_str()).with("status", self.status);
        if (code == Code::ProviderError && self.status < 500) || complaint.is_out_of_quota() {
            failure = failure.final_now();
        }
        if is_blind || matches!(self.status, 401 | 429 | 501 | 503 | 529) {
            // RFC 6585 section 4, RFC 9110 sections 15.5.2, 15.6.2 and 15.6.4: the request was turned away at the
            // door, and another server may have the key, the room or the ability.
            failure = failure.not_begun();
        }
        if failure.retryable {
            failure.retry_after = self.retry_after.as_deref().and_then(|text| address::wait(text, Some(now)));
        }
        match &self.secret {
            Some(secret) => secret.hidden(failure),
            None => failure,
        }
    }
}

/// What a server says is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Complaint {
    /// In words, bounded.
    pub(super) words: String,
    /// Its `code` and `type`, where it has them.
    pub(super) kinds: Vec<String>,
    /// The parameter that it is about.
    pub(super) param: Option<String>,
}

impl Complaint {
    /// Reads `{"error": "..."}`, `{"error": {"message", "type", "param", "code"}}`, and the object without the
    /// `error` around it (`{"object": "error", "message", ...}`). `None`: nothing is wrong.
    pub(super) fn of(said: &Value) -> Option<Complaint> {
        let is_bare = said.get("object").and_then(Value::as_str) == Some("error");
        let error = if is_bare { said } else { said.get("error").filter(|error| !error.is_null())? };
        Some(Complaint::about(error))
    }

    /// Reads what is usually under `error`.
    pub(super) fn about(error: &Value) -> Complaint {
        let text = |key: &str| match error.get(key)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let words = error.as_str().map(str::to_owned).or_else(|| text("message"));
        Complaint {
            words: bounded(words.unwrap_or_else(|| error.to_string()).trim()),
            kinds: ["code", "type"].into_iter().filter_map(text).collect(),
            param: text("param"),
        }
    }

    /// Whether it is of one of these kinds.
    pub(super) fn is(&self, kinds: &[&str]) -> bool {
        self.kinds.iter().any(|kind| kinds.contains(&kind.as_str()))
    }

    /// What it means where there is no status, because the answer had begun.
    pub(super) fn code(&self) -> Code {
        let status = self.kinds.iter().find_map(|kind| kind.parse().ok());
        match status {
            _ if self.is(&["rate_limit_exceeded", "rate_limit_error", "tokens", "requests"]) => {
                Code::RateLimitExceeded
            }
            _ if self.is(&["overloaded_error", "unavailable_error", "service_unavailable"]) => {
                Code::ProviderOverloaded
            }
            _ if self.is(&["invalid_request_error", "BadRequestError"]) => Code::InvalidParams,
            Some(status @ 400..600) => code_of(status),
            Some(_) | None => Code::ProviderError,
        }
    }

    /// Whether no wait will help.
    fn is_out_of_quota(&self) -> bool {
        self.is(&["insufficient_quota", "billing_hard_limit_reached"])
    }
}

fn code_of(status: u16) -> Code {
    match status {
        400 | 413 | 422 => Code::InvalidParams,
        401 => Code::AuthenticationFailed,
        403 => Code::AuthorizationFailed,
        408 | 504 => Code::ProviderTimeout,
        429 => Code::RateLimitExceeded,
        501 => Code::MethodNotSupported,
        503 | 529 => Code::ProviderOverloaded,
        _ => Code::ProviderError,
    }
}

fn bounded(words: &str) -> String {
    words.chars().take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::provider::llm::http::Reach;

    fn reply(status: u16, body: &str, retry_after: Option<&str>) -> Reply {
        let retry_after = retry_after.map(str::to_owned);
        Reply { status, body: body.as_bytes().to_vec(), retry_after, secret: None }
    }

    fn server() -> Server {
        Server::new(&Reach::at("http://me:s3cret@127.0.0.1:1"), 100).expect("an address")
    }

    #[test]
    fn a_status_says_whether_to_try_again() {
        for (status, code, retryable) in [
            (400, Code::InvalidParams, false),
            (401, Code::AuthenticationFailed, false),
            (403, Code::AuthorizationFailed, false),
            (302, Code::ProviderError, false),
            (418, Code::ProviderError, false),
            (429, Code::RateLimitExceeded, true),
            (500, Code::ProviderError, true),
            (501, Code::MethodNotSupported, false),
            (502, Code::ProviderError, true),
            (503, Code::ProviderOverloaded, true),
            (504, Code::ProviderTimeout, true),
            (529, Code::ProviderOverloaded, true),
        ] {
            let failure =
                reply(status, r#"{"error": "because"}"#, Some("7")).refusal(&server(), Timestamp::default());
            assert_eq!((failure.code, failure.retryable), (code, retryable), "{status}");
            assert!(failure.message.ends_with("because") && !failure.message.contains("s3cret"), "{failure}");
            assert_eq!(failure.retry_after, retryable.then_some(Duration::from_secs(7)), "{status}");
        }
        let body = r#"{"error": {"message": "check your plan", "code": "insufficient_quota"}}"#;
        let failure = reply(429, body, Some("7")).refusal(&server(), Timestamp::default());
        assert_eq!((failure.code, failure.retryable), (Code::RateLimitExceeded, false));
    }

    #[test]
    fn a_server_says_what_is_wrong_in_one_of_four_ways() {
        for (body, words) in [
            (r#"{"error": "no such model"}"#, "no such model"),
            (r#"{"error": {"message": "no such model", "type": "x"}}"#, "no such model"),
            (r#"{"object": "error", "message": "no such model", "code": 404}"#, "no such model"),
            (r#"{"error": {"why": 1}}"#, r#"{"why":1}"#),
            ("<html>Bad Gateway</html>\n", "<html>Bad Gateway</html>"),
            ("", ""),
        ] {
            assert_eq!(reply(500, body, None).error().words, words);
        }
        assert_eq!(reply(500, &"x".repeat(10_000), None).error().words.len(), WORDS_MAX);
        assert_eq!(Complaint::of(&json!({"error": null, "choices": []})), None);
    }

    #[test]
    fn what_goes_wrong_in_the_middle_has_a_code_too() {
        for (error, code) in [
            (json!("out of memory"), Code::ProviderError),
            (
                json!({"message": "slow down", "type": "tokens", "code": "rate_limit_exceeded"}),
                Code::RateLimitExceeded,
            ),
            (
                json!({"message": "loading", "type": "unavailable_error", "code": 503}),
                Code::ProviderOverloaded,
            ),
            (json!({"message": "too long", "type": "BadRequestError", "code": 400}), Code::InvalidParams),
            (
                json!({"message": "too long", "type": "exceed_context_size_error", "code": 400}),
                Code::InvalidParams,
            ),
            (json!({"message": "crashed", "type": "server_error", "code": 500}), Code::ProviderError),
            (json!({"message": "odd", "code": 7}), Code::ProviderError),
        ] {
            let complaint = Complaint::of(&json!({"error": error})).expect("a complaint");
            assert_eq!(complaint.code(), code, "{complaint:?}");
        }
    }
}
