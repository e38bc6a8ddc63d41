//! One process that speaks JSON-RPC over its standard streams.
//!
//! ```text
//! call ─▶ pending[id] ─▶ channel ─▶ stdin  (one task writes whole lines; what is written is marked as sent)
//!            ▲                      stdout (one line, one document; a line has a bound) ─▶ pending[id]
//!            │                      stderr (its end is kept for failures)
//!            └───── the process ends, for whatever reason: every pending call fails, the whole group is killed
//! ```
//! What the process prints to stdout beside documents is no answer; it is kept with stderr, and up to a bound does no
//! harm. A call that was not written yet surely did not begin.

mod conduct;

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use self::conduct::{Broken, Line, Shared};
use super::message;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::provider::process::{Confined, Ends, Group, LaunchError};
use crate::provider::{CallCx, Output};

/// How long a call may take to end after it was cancelled; then its process is killed. Less than a guard's grace.
pub(super) const CANCEL_GRACE: Duration = Duration::from_secs(1);
/// How long a process may take to end after it was asked to.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(2);
/// Lines that wait to be written.
const LINES_MAX: usize = 64;

/// A process.
#[derive(Debug)]
pub(super) struct Child {
    shared: Arc<Shared>,
    lines: mpsc::Sender<Line>,
    /// The number of its group.
    pub(super) group: i32,
}

impl Child {
    /// Starts a process. It ends when `tasks` is waited for after [`Child::kill`] or its own end.
    pub(super) async fn start(
        name: &str,
        confined: &Confined,
        environment: Vec<(String, String)>,
        line_bytes_max: usize,
        tasks: &TaskTracker,
    ) -> Result<Child, LaunchError> {
        let ends = Ends::listen()?;
        let started = confined.start(environment, Stdio::piped()).await?;
        let (group, mut pipes) = Group::of(started)?;
        let stdin = pipes.stdin.take().ok_or(LaunchError::Lost("the child has no pipes"))?;
        let shared = Arc::new(Shared::new(name, line_bytes_max));
        let (lines, to_write) = mpsc::channel(LINES_MAX);
        let number = group.number();
        tasks.spawn(Arc::clone(&shared).write(stdin, to_write));
        tasks.spawn(Arc::clone(&shared).conduct(group, pipes, ends));
        Ok(Child { shared, lines, group: number })
    }

    /// Makes a request and waits for its answer, without a time limit.
    ///
    /// # Errors
    /// The provider's own; `CONNECTION_LOST`: the process ended first.
    pub(super) async fn request(
        &self,
        method: &str,
        params: &Value,
        context: Option<&Value>,
    ) -> Result<Value, Failure> {
        let mut call = self.begin(method, params, context, Output::nowhere()).await?;
        call.reply().await
    }

    /// Makes a call, which ends soon after its token fires: with the process, if need be.
    ///
    /// # Errors
    /// As [`Child::request`]; `TASK_CANCELLED`: it was killed because it did not end.
    pub(super) async fn call(
        &self,
        cx: &CallCx,
        method: &str,
        params: &Value,
        context: &Value,
    ) -> Result<Value, Failure> {
        let cancelled = || Failure::new(Code::TaskCancelled, "the call was cancelled");
        let mut call = tokio::select! {
            biased;
            () = cx.cancel.cancelled() => return Err(cancelled().not_begun()),
            call = self.begin(method, params, Some(context), cx.output.clone()) => call?,
        };
        tokio::select! {
            biased;
            outcome = call.reply() => return outcome,
            () = cx.cancel.cancelled() => {}
        }
        let cancel = message::notification(message::CANCEL, &serde_json::json!({"id": call.id}));
        let asked = async {
            // A process that does not read is killed like one that does not answer.
            let _ = self.lines.send(Line::Notification(cancel)).await;
            call.reply().await
        };
        if let Ok(outcome) = timeout(CANCEL_GRACE, asked).await {
            return outcome;
        }
        let (details, mark) = call.facts();
        self.shared.break_off(Broken::Disobedient);
        self.shared.ended.cancelled().await;
        let message = "it did not end within a second after its cancellation, and its process was killed";
        let failure = Failure::new(Code::TaskCancelled, message);
        Err(self.shared.with_facts(Failure { details, ..failure }, mark))
    }

    async fn begin(
        &self,
        method: &str,
        params: &Value,
        context: Option<&Value>,
        output: Output,
    ) -> Result<Call<'_>, Failure> {
        let (id, mark, answer) = self.shared.pend(output);
        let line = message::request(&id.into(), method, params, context);
        // Until it is handed over there is nothing that the process could be at.
        let mut call = Call { child: self, id, answer, is_over: true };
        // A process that has ended may have done so before the call was pending: nobody would end it then.
        if self.shared.ended.is_cancelled() || self.lines.send(Line::Request(id, line)).await.is_err() {
            self.shared.ended.cancelled().await;
            return Err(self.shared.died(false, None, mark));
        }
        call.is_over = false;
        Ok(call)
    }

    /// Returns when the process has ended, with how, in words.
    pub(super) async fn ended(&self) -> String {
        self.shared.ended.cancelled().await;
        self.shared.told()
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.shared.end.get().is_some()
    }

    /// Asks it to end, and kills it if it does not.
    pub(super) async fn stop(&self) {
        let farewell = async {
            let goodbye = message::notification(message::SHUTDOWN, &serde_json::json!({}));
            // Whoever has ended needs no farewell.
            let _ = self.lines.send(Line::Notification(goodbye)).await;
            let _ = self.lines.send(Line::Close).await;
            self.shared.ended.cancelled().await;
        };
        if timeout(STOP_GRACE, farewell).await.is_err() {
            self.kill();
            self.shared.ended.cancelled().await;
        }
    }

    /// Kills it with all that it has started.
    pub(super) fn kill(&self) {
        self.shared.break_off(Broken::Told);
    }

    /// The end of what it has printed, for a failure to start.
    pub(super) fn printed(&self) -> String {
        self.shared.printed()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.shared.break_off(Broken::Abandoned);
    }
}

/// A request under way. Dropped before its answer, it leaves a process at something that nobody waits for, so that is
/// killed.
struct Call<'a> {
    child: &'a Child,
    id: u64,
    answer: oneshot::Receiver<Result<Value, Failure>>,
    is_over: bool,
}

impl Call<'_> {
    async fn reply(&mut self) -> Result<Value, Failure> {
        let outcome = (&mut self.answer).await;
        self.is_over = true;
        outcome.unwrap_or_else(|_| Err(self.child.shared.died(true, None, 0)))
    }

    /// How far it had come, and since where its output counts.
    fn facts(&mut self) -> (Map<String, Value>, u64) {
        self.is_over = true;
        let pending = self.child.shared.pending().remove(&self.id);
        let mark = pending.as_ref().map_or(0, |pending| pending.mark);
        let progress = pending.and_then(|pending| pending.progress);
        (progress.map(|progress| ("progress".to_owned(), progress)).into_iter().collect(), mark)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let was_pending = self.child.shared.pending().remove(&self.id).is_some();
        if !self.is_over && was_pending {
            self.child.shared.break_off(Broken::Abandoned);
        }
    }
}
