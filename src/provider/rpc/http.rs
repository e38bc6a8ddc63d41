//! A provider behind an address: each call is one request, whose body is one document.
//!
//! Closing the connection and `$/cancel` both tell a server that nobody waits any more; it is not waited for. Ids are
//! texts, as several workers may call the same server.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::describe::Described;
use super::exchange::{Reply, Server};
use super::message::{self, Said};
use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::protocol::ProtocolId;
use crate::core::url::Url;
use crate::provider::{CallCx, Health, address};

/// How long the word of a cancellation may take.
const CANCEL_TIMEOUT: Duration = Duration::from_millis(500);

/// A server.
#[derive(Debug)]
pub(super) struct Remote {
    name: String,
    server: Server,
}

impl Remote {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// `CONFIGURATION_ERROR`: no such address.
    pub(super) fn open(name: &str, url: &Url, answer_bytes_max: usize) -> Result<Remote, Failure> {
        Ok(Remote { name: name.to_owned(), server: Server::new(url, answer_bytes_max)? })
    }

    /// Asks what it is.
    ///
    /// # Errors
    /// `PROVIDER_INITIALIZATION_FAILED`, with what the connection or the server said.
    pub(super) async fn introduce(
        &self,
        protocol: &ProtocolId,
        limit: Duration,
        now: Timestamp,
    ) -> Result<Described, Failure> {
        let params = message::introduction(&self.name, protocol);
        let id = json!("initialize");
        let ask = self.ask(&id, message::INITIALIZE, &params, None, now);
        let answer = timeout(limit, ask).await;
        let failure = match answer {
            Ok(Ok(answer)) => return Ok(Described::read(&answer)),
            Ok(Err(failure)) => failure,
            Err(_) => {
                Failure::new(Code::ProviderTimeout, format!("no answer within {} s", limit.as_secs_f64()))
            }
        };
        let message = format!("provider {} could not start: {}", self.name, failure.message);
        Err(Failure { code: Code::ProviderInitializationFailed, message, retryable: true, ..failure })
    }

    /// Makes a call.
    ///
    /// # Errors
    /// The server's own, or what became of the connection; `TASK_CANCELLED` once the call must end.
    pub(super) async fn call(
        &self,
        cx: &CallCx,
        method: &str,
        params: &Value,
        now: Timestamp,
    ) -> Result<Value, Failure> {
        let id = json!(format!("{}#{}", cx.key, cx.attempt));
        let context = message::context(cx, now);
        tokio::select! {
            biased;
            outcome = self.ask(&id, method, params, Some(&context), now) => return outcome,
            () = cx.cancel.cancelled() => {}
        }
        let cancel = message::notification(message::CANCEL, &json!({"id": id}));
        // Best effort: the connection is closed already.
        let _ = timeout(CANCEL_TIMEOUT, self.server.post(cancel, None)).await;
        Err(Failure::new(Code::TaskCancelled, format!("the request to {} was given up", self.server.shown)))
    }

    /// Whether it answers as a provider does: whatever else listens there does not do its work.
    pub(super) async fn health(&self, now: Timestamp) -> Health {
        match self.heard(&json!("ping"), message::PING, &json!({}), None, now).await {
            Ok(outcome) => super::judge(outcome),
            // It lives, and has had enough of us for now.
            Err(failure) if failure.code == Code::RateLimitExceeded => Health::Up,
            Err(failure) => Health::Down(failure.message),
        }
    }

    async fn ask(
        &self,
        id: &Value,
        method: &str,
        params: &Value,
        context: Option<&Value>,
        now: Timestamp,
    ) -> Result<Value, Failure> {
        self.heard(id, method, params, context, now).await?
    }

    /// What the provider has said, a result or an error; else why it has said nothing.
    async fn heard(
        &self,
        id: &Value,
        method: &str,
        params: &Value,
        context: Option<&Value>,
        now: Timestamp,
    ) -> Result<Result<Value, Failure>, Failure> {
        let traceparent = context.and_then(|context| context.get("traceparent")?.as_str());
        let reply = self.server.post(message::request(id, method, params, context), traceparent).await?;
        match message::read(&reply.body) {
            // Who could not read the request cannot know its id.
            Said::Answer { id: own, outcome } if own == *id || (own.is_null() && outcome.is_err()) => {
                Ok(outcome)
            }
            Said::Answer { .. } | Said::Notification { .. } | Said::Noise => Err(self.refusal(&reply, now)),
        }
    }

    fn refusal(&self, reply: &Reply, now: Timestamp) -> Failure {
        let shown = &self.server.shown;
        if reply.status == 200 {
            let message = format!("{shown} did not answer with a JSON-RPC 2.0 response to this request");
            return Failure::new(Code::ProviderError, message);
        }
        let message = format!("{shown} answered {}: {}", reply.status, reply.words());
        let mut failure = address::refused(reply.status, message);
        if failure.code == Code::ProviderError && reply.status < 500 {
            failure = failure.final_now();
        }
        if matches!(failure.code, Code::RateLimitExceeded | Code::ProviderOverloaded) {
            failure.retry_after =
                reply.retry_after.as_deref().and_then(|text| address::wait(text, Some(now)));
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::tests::answering;

    fn now() -> Timestamp {
        Timestamp::default()
    }

    const STRANGE: &str = "<html>hello</html>";

    #[tokio::test]
    async fn only_who_speaks_json_rpc_is_well() {
        let pong = r#"{"jsonrpc": "2.0", "id": "ping", "result": {}}"#;
        let unknown =
            r#"{"jsonrpc": "2.0", "id": "ping", "error": {"code": -32601, "message": "no $/ping"}}"#;
        for (status, body, is_up) in [
            ("200 OK", pong, true),
            ("200 OK", unknown, true),
            ("404 Not Found", unknown, true),
            ("500 Internal Server Error", unknown, true),
            ("429 Too Many Requests", "", true),
            ("200 OK", STRANGE, false),
            ("404 Not Found", STRANGE, false),
            ("401 Unauthorized", "", false),
            ("502 Bad Gateway", STRANGE, false),
            ("503 Service Unavailable", "", false),
        ] {
            let (url, _server) = answering(&format!("HTTP/1.1 {status}"), body).await;
            let health =
                Remote::open("words", &url.as_str().into(), 10_000).expect("an address").health(now()).await;
            assert_eq!(health == Health::Up, is_up, "{status} {body}: {health:?}");
        }
    }

    #[tokio::test]
    async fn what_was_turned_away_at_the_door_has_surely_not_begun() {
        for (status, code, retryable, not_begun) in [
            ("401 Unauthorized", Code::AuthenticationFailed, false, true),
            ("403 Forbidden", Code::AuthorizationFailed, false, false),
            ("404 Not Found", Code::ProviderError, false, false),
            ("429 Too Many Requests", Code::RateLimitExceeded, true, true),
            ("500 Internal Server Error", Code::ProviderError, true, false),
            ("503 Service Unavailable", Code::ProviderOverloaded, true, true),
            ("504 Gateway Timeout", Code::ProviderTimeout, true, false),
        ] {
            let (url, _server) = answering(&format!("HTTP/1.1 {status}\r\nRetry-After: 7"), STRANGE).await;
            let remote = Remote::open("words", &url.as_str().into(), 10_000).expect("an address");
            let failure = remote.ask(&json!(1), "m", &json!({}), None, now()).await.expect_err(status);
            assert_eq!(
                (failure.code, failure.retryable, failure.not_begun),
                (code, retryable, not_begun),
                "{failure}"
            );
            let wait = retryable && not_begun;
            assert_eq!(failure.retry_after, wait.then_some(Duration::from_secs(7)), "{failure}");
        }
    }
}
