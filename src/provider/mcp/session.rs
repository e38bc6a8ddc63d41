//! One session with a server: from its introduction to its end, and what it says in between.
//!
//! ```text
//! start ─▶ a process and its pipes, or an address ─▶ `initialize` ─▶ what it offers ─▶ the catalog
//!                                                        │ `list_changed`: asked again
//!                                                        ▼
//!                        the end: of the process, of the connection, or ours ─▶ `ended`
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rmcp::ClientHandler;
use rmcp::model::{
    ClientCapabilities, ClientConfig, ClientRequest, Implementation, NumberOrString, PingRequest,
    ProgressNotificationParam, ProgressToken, RequestMetaObject, ServerResult,
};
use rmcp::service::{
    NotificationContext, Peer, PeerRequestOptions, RoleClient, RunningService, ServiceError,
    serve_client_with_ct,
};
use rmcp::transport::IntoTransport;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::outcome::{self, Whose};
use super::process::Process;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::provider::CallCx;

/// How long a process may take to end after its standard input was closed, and a server to hear of our end.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(2);
/// How long a process may live on that could not be introduced to.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long the word of a cancellation may take.
const CANCEL_TIMEOUT: Duration = Duration::from_millis(500);

/// A session with a server.
#[derive(Debug)]
pub(super) struct Session {
    provider: String,
    peer: Peer<RoleClient>,
    pub(super) process: Option<Arc<Process>>,
    /// The address, for failures.
    shown: Option<String>,
    heard: Arc<Heard>,
    /// Ends it.
    close: CancellationToken,
    ended: CancellationToken,
}

/// What the server says of itself.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// How far calls have come, by token; those that wait for an answer are in it.
    progress: Mutex<HashMap<i64, Option<Value>>>,
    /// What it offers has changed.
    pub(super) changed: Notify,
}

/// Hears what the server says.
#[derive(Debug)]
struct Listener(Arc<Heard>);

/// A call that waits for its answer.
struct Waiting<'a> {
    heard: &'a Heard,
    token: i64,
}

impl Session {
    /// Introduces us over a connection.
    ///
    /// # Errors
    /// Why there is no session.
    pub(super) async fn open<T, E, A>(
        provider: &str,
        transport: T,
        process: Option<Process>,
        shown: Option<String>,
        tasks: &TaskTracker,
    ) -> Result<Session, Failure>
    where
        T: IntoTransport<RoleClient, E, A>,
        E: std::error::Error + Send + Sync + 'static,
    {
        let heard = Arc::new(Heard::default());
        let (close, ended) = (CancellationToken::new(), CancellationToken::new());
        let listener = Listener(Arc::clone(&heard));
        let running = serve_client_with_ct(listener, transport, close.clone()).await;
        let running = match running {
            Ok(running) => running,
            Err(error) => {
                if let Some(process) = &process {
                    // How it ends of itself says more than that we have killed it.
                    process.end_within(FAREWELL).await;
                }
                return Err(outcome::not_introduced(&error, shown.as_deref()));
            }
        };
        let peer = running.peer().clone();
        let process = process.map(Arc::new);
        tasks.spawn(last(running, process.clone(), ended.clone()));
        Ok(Session { provider: provider.to_owned(), peer, process, shown, heard, close, ended })
    }

    /// Makes a request, which ends soon after its token fires; the server is told of that.
    ///
    /// # Errors
    /// The server's own; what became of the session; `TASK_CANCELLED`.
    pub(super) async fn call(&self, cx: &CallCx, request: ClientRequest) -> Result<ServerResult, Failure> {
        let cancelled = || Failure::new(Code::TaskCancelled, "the call was cancelled");
        let mark = self.mark();
        if self.has_ended() {
            return Err(self.ended_failure(mark).not_begun());
        }
        let mut meta = RequestMetaObject::new();
        if let Some(traceparent) = &cx.traceparent {
            meta.insert("traceparent".to_owned(), json!(traceparent));
        }
        let options = PeerRequestOptions::no_options().with_meta(meta);
        let mut handle = tokio::select! {
            biased;
            () = cx.cancel.cancelled() => return Err(cancelled().not_begun()),
            sent = self.peer.send_cancellable_request(request, options) => match sent {
                Ok(handle) => handle,
                Err(error) => return Err(self.failed(error, mark).await.not_begun()),
            },
        };
        let waiting = self.heard.wait_for(&handle.progress_token);
        tokio::select! {
            biased;
            answer = &mut handle.rx => {
                let answer = answer.unwrap_or(Err(ServiceError::TransportClosed));
                return match answer {
                    Ok(answer) => Ok(answer),
                    Err(error) => Err(waiting.with_progress(self.failed(error, mark).await)),
                };
            }
            () = cx.cancel.cancelled() => {}
        }
        let reason = "the task was cancelled, or has taken too long".to_owned();
        // Best effort: nobody waits for an answer any more.
        let _ = timeout(CANCEL_TIMEOUT, handle.cancel(Some(reason))).await;
        Err(waiting.with_progress(cancelled()))
    }

    /// Asks whether it lives. Dropped before the answer, as when that takes too long, the session is ended.
    ///
    /// # Errors
    /// What became of the session; whoever answers with an error lives.
    pub(super) async fn ping(&self) -> Result<(), Failure> {
        let end = self.close.clone().drop_guard();
        let mark = self.mark();
        let answer = self.peer.send_request(ClientRequest::PingRequest(PingRequest::default())).await;
        match answer {
            Ok(_) | Err(ServiceError::McpError(_)) => {
                end.disarm();
                Ok(())
            }
            Err(error) => Err(self.failed(error, mark).await),
        }
    }

    /// What is asked of it beside calls.
    pub(super) fn peer(&self) -> &Peer<RoleClient> {
        &self.peer
    }

    /// Where it is heard that something has changed, and the end.
    pub(super) fn news(&self) -> (Arc<Heard>, CancellationToken) {
        (Arc::clone(&self.heard), self.ended.clone())
    }

    /// Returns when it has ended, with how, in words.
    pub(super) async fn ended(&self) -> String {
        self.ended.cancelled().await;
        self.told()
    }

    /// Whether it takes no more calls.
    pub(super) fn has_ended(&self) -> bool {
        self.close.is_cancelled() || self.ended.is_cancelled()
    }

    /// Ends it, and returns when it has ended.
    pub(super) async fn stop(&self) {
        self.close.cancel();
        self.ended.cancelled().await;
    }

    /// A point in what its process prints.
    pub(super) fn mark(&self) -> u64 {
        self.process.as_ref().map_or(0, |process| process.life.mark())
    }

    /// What became of a request that was made at the mark.
    pub(super) async fn failed(&self, error: ServiceError, mark: u64) -> Failure {
        let is_unsent = matches!(error, ServiceError::TransportSend(_));
        let whose = match &self.shown {
            Some(address) => Whose::Address(address),
            None => Whose::Process,
        };
        let Some(failure) = outcome::failed(error, whose) else {
            // How the process has ended is known a moment after its pipes are closed.
            self.close.cancel();
            let _ = timeout(2 * STOP_GRACE, self.ended.cancelled()).await;
            let failure = self.ended_failure(mark);
            return if is_unsent { failure.not_begun() } else { failure };
        };
        if self.shown.is_some() && outcome::is_away(&failure) {
            // A new session begins with whoever listens there by then, and with what that one offers.
            self.close.cancel();
        }
        failure
    }

    fn ended_failure(&self, mark: u64) -> Failure {
        let message = format!("provider {}: {}", self.provider, self.told());
        let mut failure = Failure::new(Code::ConnectionLost, message);
        if let Some(process) = &self.process {
            if let Some((_, name, value)) = process.life.end() {
                failure = failure.with(name, value.clone());
            }
            let printed = process.life.printed(mark);
            if !printed.is_empty() {
                failure = failure.with("stderr", printed);
            }
        }
        failure
    }

    fn told(&self) -> String {
        match (&self.process, &self.shown) {
            (Some(process), _) => {
                let end = process.life.end().map_or("does not speak any more", |(words, ..)| words);
                format!("its process {end}")
            }
            (None, Some(address)) => format!("the session with {address} has ended"),
            (None, None) => "the session has ended".to_owned(),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close.cancel();
    }
}

/// The end of a session: of the connection first, then of the process.
async fn last(
    running: RunningService<RoleClient, Listener>,
    process: Option<Arc<Process>>,
    ended: CancellationToken,
) {
    if let Err(error) = running.waiting().await {
        tracing::debug!(%error, "a session has ended badly");
    }
    if let Some(process) = process {
        process.end_within(STOP_GRACE).await;
    }
    ended.cancel();
}

impl Heard {
    fn wait_for(&self, token: &ProgressToken) -> Waiting<'_> {
        // Ours are numbers.
        let token = if let ProgressToken(NumberOrString::Number(number)) = token { *number } else { -1 };
        self.lock().insert(token, None);
        Waiting { heard: self, token }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Option<Value>>> {
        // Nothing that panics is done while it is held.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting<'_> {
    /// With how far it had come.
    fn with_progress(&self, failure: Failure) -> Failure {
        match self.heard.lock().get_mut(&self.token).and_then(Option::take) {
            Some(progress) => failure.with("progress", progress),
            None => failure,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.heard.lock().remove(&self.token);
    }
}

impl ClientHandler for Listener {
    fn get_info(&self) -> ClientConfig {
        let own = Implementation::new("gleitzeit", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), own)
    }

    async fn on_progress(&self, params: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        let ProgressToken(NumberOrString::Number(token)) = params.progress_token else { return };
        let mut told = json!({"progress": params.progress});
        if let Some(total) = params.total {
            told["total"] = json!(total);
        }
        if let Some(message) = params.message {
            told["message"] = json!(message.chars().take(500).collect::<String>());
        }
        // Of a call that nobody waits for any more, it is of no use.
        if let Some(known) = self.0.lock().get_mut(&token) {
            *known = Some(told);
        }
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.0.changed.notify_one();
    }

    async fn on_resource_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.0.changed.notify_one();
    }

    async fn on_prompt_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.0.changed.notify_one();
    }
}
