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
use crate::provider::{CallCx, Health};

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
    pub(super) fn open(name: &str, url: &str, answer_bytes_max: usize) -> Result<Remote, Failure> {
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
    ) -> Result<Described, Failure> {
        let params = message::introduction(&self.name, protocol);
        let answer = timeout(limit, self.ask(&json!("initialize"), message::INITIALIZE, &params, None)).await;
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
            outcome = self.ask(&id, method, params, Some(&context)) => return outcome,
            () = cx.cancel.cancelled() => {}
        }
        let cancel = message::notification(message::CANCEL, &json!({"id": id}));
        // Best effort: the connection is closed already.
        let _ = timeout(CANCEL_TIMEOUT, self.server.post(cancel, None)).await;
        Err(Failure::new(Code::TaskCancelled, format!("the request to {} was given up", self.server.shown)))
    }

    /// Whether it answers.
    pub(super) async fn health(&self) -> Health {
        match self.ask(&json!("ping"), message::PING, &json!({}), None).await {
            Err(failure) if is_away(&failure) => Health::Down(failure.message),
            answer => super::judge(answer),
        }
    }

    async fn ask(
        &self,
        id: &Value,
        method: &str,
        params: &Value,
        context: Option<&Value>,
    ) -> Result<Value, Failure> {
        let traceparent = context.and_then(|context| context.get("traceparent")?.as_str());
        let reply = self.server.post(message::request(id, method, params, context), traceparent).await?;
        match message::read(&reply.body) {
            // Who could not read the request cannot know its id.
            Said::Answer { id: own, outcome } if own == *id || (own.is_null() && outcome.is_err()) => outcome,
            Said::Answer { .. } | Said::Notification { .. } | Said::Noise => Err(self.refusal(&reply)),
        }
    }

    fn refusal(&self, reply: &Reply) -> Failure {
        let shown = &self.server.shown;
        if reply.status == 200 {
            let message = format!("{shown} did not answer with a JSON-RPC 2.0 response to this request");
            return Failure::new(Code::ProviderError, message);
        }
        let code = match reply.status {
            401 => Code::AuthenticationFailed,
            403 => Code::AuthorizationFailed,
            408 | 504 => Code::ProviderTimeout,
            429 => Code::RateLimitExceeded,
            503 => Code::ProviderOverloaded,
            _ => Code::ProviderError,
        };
        let mut failure = Failure::new(code, format!("{shown} answered {}: {}", reply.status, reply.words()));
        failure = failure.with("status", reply.status);
        if code == Code::ProviderError && reply.status < 500 {
            failure = failure.final_now();
        }
        if matches!(code, Code::RateLimitExceeded | Code::ProviderOverloaded) {
            // RFC 6585 section 4, RFC 9110 section 15.6.4: the request was turned away at the door.
            failure = failure.not_begun();
            failure.retry_after = reply.retry_after;
        }
        failure
    }
}

/// Whether nobody answered at all, as opposed to an answer that is an error.
fn is_away(failure: &Failure) -> bool {
    matches!(
        failure.code,
        Code::ConnectionRefused
            | Code::ConnectionTimeout
            | Code::ConnectionLost
            | Code::NetworkUnreachable
            | Code::ProviderOverloaded
            | Code::AuthenticationFailed
            | Code::AuthorizationFailed
    )
}
