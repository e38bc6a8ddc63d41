//! The life of a process: what is written to it, what it says, and its end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::output::Stream;
use crate::provider::Output;
use crate::provider::process::{self, Ends, Group, Pipes};
use crate::provider::rpc::message::{self, Said};
use crate::provider::rpc::tail::Tail;

/// How long the pipes are read on after the group was killed, and a process may live on after it closed its stdout.
const DRAIN_GRACE: Duration = Duration::from_millis(500);
/// How much a process may print to stdout beside documents.
const NOISE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Shared {
    name: String,
    pending: Mutex<HashMap<u64, Pending>>,
    next: AtomicU64,
    tail: Mutex<Tail>,
    noise_bytes: AtomicU64,
    /// Kills it.
    kill: CancellationToken,
    /// Why we killed it, before we did.
    why_killed: OnceLock<Broken>,
    pub(super) ended: CancellationToken,
    /// Set before `ended`.
    pub(super) end: OnceLock<(String, &'static str, Value)>,
    line_bytes_max: usize,
}

/// Why a process is killed although it would go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    LongLine,
    Noise,
    Disobedient,
    Abandoned,
    Silent,
    /// Whoever owns it wants it so.
    Told,
}

#[derive(Debug)]
pub(super) struct Pending {
    reply: oneshot::Sender<Result<Value, Failure>>,
    is_sent: bool,
    pub(super) progress: Option<Value>,
    output: Output,
    pub(super) mark: u64,
}

#[derive(Debug)]
pub(super) enum Line {
    Request(u64, Vec<u8>),
    Notification(Vec<u8>),
    /// Close the standard input after what was written.
    Close,
}

impl Shared {
    pub(super) fn new(name: &str, line_bytes_max: usize) -> Shared {
        Shared {
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
        }
    }

    /// A new call that waits for its answer: its id, since where its output counts, and where the answer comes.
    pub(super) fn pend(&self, output: Output) -> (u64, u64, oneshot::Receiver<Result<Value, Failure>>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let mark = self.tail().mark();
        self.pending().insert(id, Pending { reply, is_sent: false, progress: None, output, mark });
        (id, mark, answer)
    }

    /// The life of the process: reads what it says until it ends or must end.
    pub(super) async fn conduct(self: Arc<Self>, mut group: Group, pipes: Pipes, mut ends: Ends) {
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
                    let is_broken = self.kill.is_cancelled();
                    if !is_broken && timeout(DRAIN_GRACE, group.ended(&mut ends)).await.is_err() {
                        let _ = self.why_killed.set(Broken::Silent);
                    }
                    break;
                }
            }
        }
        group.kill();
        // What is said before the end counts. Both at once: one may be held open while the other has more to tell.
        let rest = async {
            let heard = async {
                if !is_deaf {
                    heard.await
                }
            };
            let drained = async {
                if !is_drained {
                    drained.await
                }
            };
            tokio::join!(drained, heard);
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

    pub(super) async fn write(self: Arc<Self>, mut stdin: ChildStdin, mut lines: mpsc::Receiver<Line>) {
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
                // It does not read any more, so it cannot be called; usually it is about to end.
                if timeout(DRAIN_GRACE, self.ended.cancelled()).await.is_err() {
                    self.break_off(Broken::Silent);
                }
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
        if let (message::OUTPUT, Some(id)) = (method, id) {
            return self.put(id, &params);
        }
        let is_progress = method == message::PROGRESS;
        if let (true, Some(id), Some(progress)) = (is_progress, id, params.get("progress")) {
            if message::is_small(progress)
                && let Some(pending) = self.pending().get_mut(&id)
            {
                pending.progress = Some(progress.clone());
            }
            return;
        }
        tracing::debug!(provider = self.name, method, "a notification that has no meaning here");
    }

    /// A piece of what a call gives before its end.
    fn put(&self, id: u64, params: &Value) {
        let said = |name: &str| params.get(name).and_then(Value::as_str);
        let (Some(text), Some(stream)) = (said("text"), Stream::parse(said("stream").unwrap_or("text")))
        else {
            tracing::debug!(
                provider = self.name,
                id,
                "an output without a text, or of a stream that there is not"
            );
            return;
        };
        let output = self.pending().get(&id).map(|pending| pending.output.clone());
        // What comes behind the answer belongs to no call.
        output.into_iter().for_each(|output| output.put(stream, text));
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

    pub(super) fn break_off(&self, why: Broken) {
        // The first reason counts.
        let _ = self.why_killed.set(why);
        self.kill.cancel();
    }

    /// A call whose process ended.
    pub(super) fn died(&self, is_sent: bool, progress: Option<Value>, mark: u64) -> Failure {
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

    pub(super) fn with_facts(&self, failure: Failure, mark: u64) -> Failure {
        let printed = self.tail().since(mark);
        if printed.is_empty() { failure } else { failure.with("stderr", printed) }
    }

    /// How it ended, in words.
    pub(super) fn told(&self) -> String {
        let end = self.end.get().map_or("has ended", |(words, ..)| words);
        let why = match self.why_killed.get() {
            Some(Broken::LongLine) => ", as it printed a line that is too long",
            Some(Broken::Noise) => ", as it printed too much to stdout that is no JSON-RPC",
            Some(Broken::Disobedient) => ", as it did not obey a cancellation",
            Some(Broken::Silent) => ", as it took or gave no answers any more",
            Some(Broken::Abandoned) => ", as nobody waited for it any more",
            Some(Broken::Told) | None => "",
        };
        format!("its process {end}{why}")
    }

    /// The end of what it has printed.
    pub(super) fn printed(&self) -> String {
        self.tail().since(0)
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
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
