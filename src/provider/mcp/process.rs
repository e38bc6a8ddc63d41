//! The process of a server: its standard error is kept, it ends with everything that it started.

use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::ChildStderr;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pipes::Pipes;
use crate::core::failure::Failure;
use crate::provider::process::{self, Confined, Ends, Group, LaunchError};
use crate::provider::rpc::tail::Tail;

/// How long its pipes are read on after the group was killed.
pub(super) const DRAIN_GRACE: Duration = Duration::from_millis(500);
/// How much a process may print to stdout beside messages.
const NOISE_BYTES_MAX: u64 = 1024 * 1024;

/// What is known of a process while it lives, and how it ended.
#[derive(Debug)]
pub(super) struct Life {
    provider: String,
    tail: Mutex<Tail>,
    noise_bytes: AtomicU64,
    /// Kills it.
    kill: CancellationToken,
    ended: CancellationToken,
    /// Set before `ended`: in words, and as a fact.
    end: OnceLock<(String, &'static str, Value)>,
}

/// A process. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) life: Arc<Life>,
    /// The number of its group.
    pub(super) group: i32,
}

impl Process {
    /// Starts one. Its life is over when `tasks` can be waited for.
    pub(super) async fn start(
        provider: &str,
        confined: &Confined,
        environment: Vec<(String, String)>,
        line_bytes_max: usize,
        tasks: &TaskTracker,
    ) -> Result<(Process, Pipes), LaunchError> {
        let ends = Ends::listen()?;
        let started = confined.start(environment, Stdio::piped()).await?;
        let (group, mut pipes) = Group::of(started)?;
        let stdin = pipes.stdin.take().ok_or(LaunchError::Lost("the child has no pipes"))?;
        let life = Arc::new(Life {
            provider: provider.to_owned(),
            tail: Mutex::default(),
            noise_bytes: AtomicU64::new(0),
            kill: CancellationToken::new(),
            ended: CancellationToken::new(),
            end: OnceLock::new(),
        });
        let number = group.number();
        let process = Process { life: Arc::clone(&life), group: number };
        tasks.spawn(Arc::clone(&life).live(group, pipes.stderr, ends));
        Ok((process, Pipes::new(stdin, pipes.stdout, line_bytes_max, life)))
    }

    /// Returns when it has ended: of itself within `grace`, else killed.
    pub(super) async fn end_within(&self, grace: Duration) {
        if timeout(grace, self.life.ended.cancelled()).await.is_err() {
            self.life.kill.cancel();
            self.life.ended.cancelled().await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.life.kill.cancel();
    }
}

impl Life {
    async fn live(self: Arc<Self>, mut group: Group, stderr: ChildStderr, mut ends: Ends) {
        let mut drained = std::pin::pin!(self.drain(stderr));
        let mut is_drained = false;
        loop {
            tokio::select! {
                biased;
                () = group.ended(&mut ends) => break,
                () = self.kill.cancelled() => break,
                () = drained.as_mut(), if !is_drained => is_drained = true,
            }
        }
        group.kill();
        if !is_drained {
            // Only a process that left the group can hold the pipe open.
            let _ = timeout(DRAIN_GRACE, drained).await;
        }
        let end = match group.reap(&mut ends).await {
            Ok(status) => process::told(status),
            Err(error) => (format!("was given up ({error})"), "lost", true.into()),
        };
        let _ = self.end.set(end);
        self.ended.cancel();
    }

    async fn drain(&self, mut stderr: ChildStderr) {
        let mut buffer = vec![0; 8 * 1024];
        loop {
            // An error of a pipe is its end: there is nothing more to be had.
            match stderr.read(&mut buffer).await.unwrap_or(0) {
                0 => return,
                length => self.tail().push(&buffer[..length]),
            }
        }
    }

    /// The provider's name.
    pub(super) fn name(&self) -> &str {
        &self.provider
    }

    /// It has printed something to stdout that is no message. Too much of that, and it is killed.
    pub(super) fn noise(&self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        self.tail().push(text);
        let seen = self.noise_bytes.fetch_add(text.len() as u64, Ordering::Relaxed);
        if seen == 0 {
            let text: String = String::from_utf8_lossy(text).trim_end().chars().take(200).collect();
            let provider = &self.provider;
            tracing::warn!(provider, text, "prints to stdout what is no message; it should print to stderr");
        }
        if seen + text.len() as u64 > NOISE_BYTES_MAX {
            self.kill.cancel();
        }
    }

    /// Whether we have killed it: nothing that it says counts any more.
    pub(super) fn is_killed(&self) -> bool {
        self.kill.is_cancelled()
    }

    /// Returns when it has ended.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// With how it has ended of itself, if it has or does so in a moment, and what it has printed.
    pub(super) async fn explain(&self, failure: Failure) -> Failure {
        let _ = timeout(DRAIN_GRACE, self.ended.cancelled()).await;
        let failure = match self.end() {
            // A signal is ours: who is not introduced is killed.
            Some((words, "exit_code", code)) => {
                let message = format!("{}; its process {words}", failure.message);
                Failure { message, ..failure }.with("exit_code", code.clone())
            }
            Some(_) | None => failure,
        };
        let printed = self.printed(0);
        if printed.is_empty() { failure } else { failure.with("stderr", printed) }
    }

    /// How it ended, in words and as a fact; `None` while it lives.
    pub(super) fn end(&self) -> Option<&(String, &'static str, Value)> {
        self.end.get()
    }

    /// A point to tell from later.
    pub(super) fn mark(&self) -> u64 {
        self.tail().mark()
    }

    /// The end of what it has printed since the mark.
    pub(super) fn printed(&self, mark: u64) -> String {
        self.tail().since(mark)
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        // Nothing that panics is done while it is held.
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
