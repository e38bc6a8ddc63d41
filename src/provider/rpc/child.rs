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

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::message::{self, Said};
use super::tail::Tail;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::provider::CallCx;
use crate::provider::process::{self, Confined, Ends, Group, LaunchError, Pipes};

/// How long a call may take to end after it was cancelled; then its process is killed. Less than a guard's grace.
pub(super) const CANCEL_GRACE: Duration = Duration::from_secs(1);
/// How long a process may take to end after it was asked to.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(2);
/// How long the pipes are read on after the group was killed, and a process may live on after it closed its stdout.
const DRAIN_GRACE: Duration = Duration::from_millis(500);
/// How much a process may print to stdout beside documents.
const NOISE_BYTES_MAX: u64 = 1024 * 1024;
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

#[derive(Debug)]
struct Shared {
    name: String,
    pending: Mutex<HashMap<u64, Pending>>,
    next: AtomicU64,
    tail: Mutex<Tail>,
    noise_bytes: AtomicU64,
    /// Kills it.
    kill: CancellationToken,
    /// Why we killed it, before we did.
    why_killed: OnceLock<Broken>,
    ended: CancellationToken,
    /// Set before `ended`.
    end: OnceLock<(String, &'static str, Value)>,
    line_bytes_max: usize,
}

/// Why a process is killed although it would go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    LongLine,
    Noise,
    Disobedient,
    Abandoned,
    Silent,
}

#[derive(Debug)]
struct Pending {
    reply: oneshot::Sender<Result<Value, Failure>>,
    is_sent: bool,
    progress: Option<Value>,
    mark: u64,
}

#[derive(Debug)]
enum Line {
    Request(u64, Vec<u8>),
    Notification(Vec<u8>),
    /// Close the standard input after what was written.
    Close,
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
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            pending: Mutex::default(),
            next: AtomicU64::new(1),
            tail: Mutex::default(),
            noise_bytes: AtomicU64::new(0),
            kill: CancellationToken::new(),
            why_killed: OnceLock::new(),
            ended: CancellationToken::new(),
            end: OnceLock::new(),
            line_bytes_max,
        });
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
        let mut call = self.begin(method, params, context).await?;
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
            call = self.begin(method, params, Some(context)) => call?,
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
    ) -> Result<Call<'_>, Failure> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let line = message::request(&id.into(), method, params, context);
        let (reply, answer) = oneshot::channel();
        let mark = self.shared.tail().mark();
        let pending = Pending { reply, is_sent: false, progress: None, mark };
        self.shared.pending().insert(id, pending);
        let call = Call { child: self, id, answer, is_over: false };
        // A process that has ended may have done so before the call was pending: nobody would end it then.
        if self.shared.ended.is_cancelled() || self.lines.send(Line::Request(id, line)).await.is_err() {
            self.shared.ended.cancelled().await;
            return Err(self.shared.died(false, None, mark));
        }
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
        self.shared.break_off(Broken::Silent);
    }

    /// The end of what it has printed, for a failure to start.
    pub(super) fn printed(&self) -> String {
        self.shared.tail().since(0)
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
    fn facts(&mut self) -> (serde_json::Map<String, Value>, u64) {
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

impl Shared {
    /// The life of the process: reads what it says until it ends or must end.
    async fn conduct(self: Arc<Self>, mut group: Group, pipes: Pipes, mut ends: Ends) {
        let Pipes { stdout, stderr, .. } = pipes;
        let mut heard = std::pin::pin!(self.hear(stdout));
        let mut drained = std::pin::pin!(self.drain(stderr));
        let (mut is_deaf, mut is_drained) = (false, false);
        loop {
            tokio::select! {
                biased;
                () = group.ended(&mut ends) => break,
                () = self.kill.cancelled() => break,
                // Before what is said: what was printed before an answer belongs to its call.
                () = drained.as_mut(), if !is_drained => is_drained = true,
                () = heard.as_mut(), if !is_deaf => {
                    is_deaf = true;
                    // It cannot answer any more; usually it is about to end.
                    if timeout(DRAIN_GRACE, group.ended(&mut ends)).await.is_err() {
                        let _ = self.why_killed.set(Broken::Silent);
                    }
                    break;
                }
            }
        }
        group.kill();
        let rest = async {
            // What is said before the end counts.
            if !is_deaf {
                heard.await;
            }
            if !is_drained {
                drained.await;
            }
        };
        // Only a process that left the group can hold the pipes open.
        let _ = timeout(DRAIN_GRACE, rest).await;
        let end = match group.reap(&mut ends).await {
            Ok(status) => process::told(status),
            Err(error) => (format!("was given up ({error})"), "lost", true.into()),
        };
        let _ = self.end.set(end);
        self.fail_pending();
        self.ended.cancel();
        // A call that came in between has not seen the end.
        self.fail_pending();
    }

    fn fail_pending(&self) {
        let left: Vec<Pending> = self.pending().drain().map(|(_, pending)| pending).collect();
        let is_only = left.len() == 1;
        for pending in left {
            let failure = match self.why_killed.get() {
                Some(Broken::LongLine) if is_only => self.too_long(pending.mark),
                _ => self.died(pending.is_sent, pending.progress, pending.mark),
            };
            // Who went away needs no answer.
            let _ = pending.reply.send(Err(failure));
        }
    }

    async fn write(self: Arc<Self>, mut stdin: ChildStdin, mut lines: mpsc::Receiver<Line>) {
        loop {
            let line = tokio::select! {
                () = self.ended.cancelled() => return,
                line = lines.recv() => line,
            };
            let (id, text) = match line {
                Some(Line::Request(id, text)) => (Some(id), text),
                Some(Line::Notification(text)) => (None, text),
                Some(Line::Close) | None => return,
            };
            let written = tokio::select! {
                () = self.ended.cancelled() => return,
                written = stdin.write_all(&text) => written,
            };
            if written.is_err() {
                // It does not read any more, so it cannot be called.
                self.break_off(Broken::Silent);
                return;
            }
            if let Some(id) = id {
                self.pending().get_mut(&id).into_iter().for_each(|pending| pending.is_sent = true);
            }
        }
    }

    /// Reads documents until stdout ends or a bound is broken.
    async fn hear(&self, stdout: ChildStdout) {
        let mut stdout = BufReader::with_capacity(64 * 1024, stdout);
        let mut line = Vec::new();
        loop {
            line.clear();
            let bound = self.line_bytes_max as u64 + 1;
            match (&mut stdout).take(bound).read_until(b'\n', &mut line).await {
                Ok(length) if length > 0 => {}
                Ok(_) | Err(_) => return,
            }
            if line.last() != Some(&b'\n') {
                if line.len() > self.line_bytes_max {
                    self.break_off(Broken::LongLine);
                    return;
                }
                // Its last words, cut off.
                self.noise(&line);
                return;
            }
            match message::read(&line) {
                Said::Answer { id, outcome } => self.answer(&id, outcome, &line),
                Said::Notification { method, params } => self.notice(&method, params),
                Said::Noise if line.trim_ascii().is_empty() => {}
                Said::Noise => self.noise(&line),
            }
        }
    }

    async fn drain(&self, mut stderr: ChildStderr) {
        let mut buffer = vec![0; 8 * 1024];
        loop {
            match read(&mut stderr, &mut buffer).await {
                0 => return,
                length => self.tail().push(&buffer[..length]),
            }
        }
    }

    fn answer(&self, id: &Value, outcome: Result<Value, Failure>, line: &[u8]) {
        let known = id.as_u64().and_then(|id| self.pending().remove(&id));
        let Some(pending) = known else {
            // An answer to a call that nobody waits for any more, or to none.
            tracing::debug!(provider = self.name, %id, bytes = line.len(), "an answer to no call");
            return;
        };
        let outcome = outcome.map_err(|failure| self.with_facts(failure, pending.mark));
        // Who went away needs no answer.
        let _ = pending.reply.send(outcome);
    }

    fn notice(&self, method: &str, params: Value) {
        let id = params.get("id").and_then(Value::as_u64);
        let is_progress = method == message::PROGRESS;
        if let (true, Some(id), Some(progress)) = (is_progress, id, params.get("progress")) {
            if let Some(pending) = self.pending().get_mut(&id) {
                pending.progress = Some(progress.clone());
            }
            return;
        }
        tracing::debug!(provider = self.name, method, "a notification that has no meaning here");
    }

    fn noise(&self, line: &[u8]) {
        self.tail().push(line);
        let seen = self.noise_bytes.fetch_add(line.len() as u64, Ordering::Relaxed);
        if seen == 0 {
            let text: String = String::from_utf8_lossy(line).trim_end().chars().take(200).collect();
            let provider = &self.name;
            tracing::warn!(provider, text, "prints to stdout what is no JSON-RPC; it should print to stderr");
        }
        if seen + line.len() as u64 > NOISE_BYTES_MAX {
            self.break_off(Broken::Noise);
        }
    }

    fn break_off(&self, why: Broken) {
        // The first reason counts.
        let _ = self.why_killed.set(why);
        self.kill.cancel();
    }

    /// A call whose process ended.
    fn died(&self, is_sent: bool, progress: Option<Value>, mark: u64) -> Failure {
        let when = if is_sent { "during the call" } else { "before the call was sent" };
        let message = format!("provider {}: {} {when}", self.name, self.told());
        let mut failure = Failure::new(Code::ConnectionLost, message);
        if let Some((_, name, value)) = self.end.get() {
            failure = failure.with(name, value.clone());
        }
        if let Some(progress) = progress {
            failure = failure.with("progress", progress);
        }
        failure = self.with_facts(failure, mark);
        if is_sent { failure } else { failure.not_begun() }
    }

    fn too_long(&self, mark: u64) -> Failure {
        let max = self.line_bytes_max;
        let message = format!(
            "provider {} answered with a line of more than {max} bytes, and its process was killed; return less, or store \
             it elsewhere and return where it is",
            self.name
        );
        self.with_facts(Failure::new(Code::ResultTooLarge, message).with("bytes_max", max), mark)
    }

    fn with_facts(&self, failure: Failure, mark: u64) -> Failure {
        let printed = self.tail().since(mark);
        if printed.is_empty() { failure } else { failure.with("stderr", printed) }
    }

    /// How it ended, in words.
    fn told(&self) -> String {
        let end = self.end.get().map_or("has ended", |(words, ..)| words);
        let why = match self.why_killed.get() {
            Some(Broken::LongLine) => ", as it printed a line that is too long",
            Some(Broken::Noise) => ", as it printed too much to stdout that is no JSON-RPC",
            Some(Broken::Disobedient) => ", as it did not obey a cancellation",
            Some(Broken::Silent) => ", as it took or gave no answers any more",
            Some(Broken::Abandoned) => ", as nobody waited for it any more",
            None => "",
        };
        format!("its process {end}{why}")
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        // Nothing that panics is done while it is held.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much was read; an error of a pipe is its end: there is nothing more to be had.
async fn read(stream: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> usize {
    stream.read(buffer).await.unwrap_or(0)
}
