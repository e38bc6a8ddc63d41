//! How a task is run: one child process, its group, its pipes, its end. Knows nothing of Python's parameters.
//!
//! ```text
//!                 ┌── socket (the child's descriptor 0): one frame in, one frame out
//! Launcher::run ──┼── pipe: stdout ─▶ Capture        deadline │ cancel │ flood │ stop │ the child's own end
//!                 └── pipe: stderr ─▶ Capture                         ▼
//!                                            SIGKILL to the whole group, then the child is reaped
//! ```
//! The child leads a process group of its own, which never outlives it ([`crate::provider::process`]).
//!
//! The run is a task of the launcher's own tracker: a caller who goes away ends it, and the child is killed
//! and reaped all the same.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::capture::Capture;
use crate::core::output::Stream;
use crate::provider::output::{Output, Printed};
use crate::provider::process::{Ends, Group, LaunchError, Pipes, Program, peak_bytes};

/// How long the pipes are read on after the group was killed: only a process that left the group can hold
/// them open.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// No run lasts longer; a point in time beyond could not be told.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 86_400);

/// One run.
#[derive(Debug)]
pub(super) struct Job {
    /// The frame that the child reads.
    pub(super) payload: Vec<u8>,
    /// After this the group is killed.
    pub(super) timeout: Duration,
    /// Ends the run early.
    pub(super) cancel: CancellationToken,
    /// Gets what is printed as it comes.
    pub(super) output: Output,
    /// The longest frame that the child may answer, in bytes.
    pub(super) frame_bytes_max: usize,
    /// How much of each stream is kept.
    pub(super) output_bytes_max: usize,
    /// How much may come out of both streams together before the group is killed.
    pub(super) flood_bytes: u64,
}

/// What a run gave.
#[derive(Debug)]
pub(super) struct Ended {
    /// How it ended.
    pub(super) end: End,
    /// The child's answer.
    pub(super) frame: Frame,
    /// Standard output.
    pub(super) stdout: Capture,
    /// Standard error.
    pub(super) stderr: Capture,
    /// From start to end.
    pub(super) elapsed: Duration,
    /// The most memory that the child held, in bytes, where it was ended by us.
    pub(super) memory_bytes: Option<u64>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The child exited with this code.
    Exited(i32),
    /// The child died of this signal, not by us.
    Signalled(i32),
    /// The time was over.
    TimedOut,
    /// Somebody asked for its end.
    Cancelled,
    /// The launcher stopped.
    Stopped,
    /// More output than allowed.
    Flooded,
    /// The child announced a frame of this many bytes, more than allowed.
    AnswerTooLarge(usize),
}

/// What came back over the socket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Frame {
    /// Nothing, or not all of it.
    #[default]
    None,
    /// Exactly one frame.
    One(Vec<u8>),
    /// Something after the frame.
    Malformed,
}

/// Starts children and owns them to their end.
#[derive(Debug)]
pub(super) struct Launcher {
    program: Program,
    runs: TaskTracker,
    stop: CancellationToken,
}

impl Launcher {
    pub(super) fn new(program: Program) -> Launcher {
        Launcher { program, runs: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Runs a child to its end. Dropped before, the child is killed nevertheless.
    pub(super) async fn run(&self, job: Job) -> Result<Ended, LaunchError> {
        let abandoned = CancellationToken::new();
        let _abandon = abandoned.clone().drop_guard();
        let program = self.program.clone();
        let stop = self.stop.clone();
        let run = self.runs.spawn(async move { conduct(&program, job, &stop, &abandoned).await });
        run.await.unwrap_or(Err(LaunchError::Lost("the worker is ending")))
    }

    /// Kills every child and waits until they are reaped.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.runs.close();
        self.runs.wait().await;
    }
}

/// The whole story of one child.
async fn conduct(
    program: &Program,
    job: Job,
    stop: &CancellationToken,
    abandoned: &CancellationToken,
) -> Result<Ended, LaunchError> {
    let begun = Instant::now();
    // Listening comes before starting, so that no child's end is missed.
    let mut ends = Ends::listen()?;
    let (mut group, mut pipes, mut socket) = start(program)?;
    let (mut stdout, mut stderr) = (Capture::new(job.output_bytes_max), Capture::new(job.output_bytes_max));
    let printed = |stream| Printed::new(job.output.clone(), stream);
    let (out, err) = (&mut printed(Stream::Stdout), &mut printed(Stream::Stderr));
    let mut frame = Frame::None;
    let breach = Breach::default();
    let (forced, memory_bytes) = {
        let mut talk = std::pin::pin!(async {
            tokio::join!(
                drain(&mut pipes.stdout, &mut stdout, out, job.flood_bytes, &breach),
                drain(&mut pipes.stderr, &mut stderr, err, job.flood_bytes, &breach),
                converse(&mut socket, &job.payload, job.frame_bytes_max, &mut frame, &breach),
            );
        });
        let mut end = std::pin::pin!(async {
            tokio::select! {
                biased;
                () = group.ended(&mut ends) => None,
                end = breach.happened() => Some(end),
                () = job.cancel.cancelled() => Some(End::Cancelled),
                () = abandoned.cancelled() => Some(End::Cancelled),
                () = stop.cancelled() => Some(End::Stopped),
                () = tokio::time::sleep_until(begun + job.timeout.min(TIMEOUT_MAX)) => Some(End::TimedOut),
            }
        });
        // Silence is no end: a child may close everything and work on.
        let mut is_silent = false;
        let forced = loop {
            tokio::select! {
                () = talk.as_mut(), if !is_silent => is_silent = true,
                forced = end.as_mut() => break forced,
            }
        };
        // What has ended by itself tells nobody any more.
        let memory_bytes = forced.and_then(|_| peak_bytes(group.number()));
        group.kill();
        if !is_silent {
            // Over or not, what was read is kept.
            let _ = tokio::time::timeout(DRAIN_GRACE, talk).await;
        }
        (forced, memory_bytes)
    };
    let status = group.reap(&mut ends).await?;
    let end = forced.unwrap_or_else(|| own_end(status));
    Ok(Ended { end, frame, stdout, stderr, elapsed: begun.elapsed(), memory_bytes })
}

fn own_end(status: ExitStatus) -> End {
    match status.signal() {
        Some(number) => End::Signalled(number),
        // Without a signal there is a code.
        None => End::Exited(status.code().unwrap_or(-1)),
    }
}

/// Starts a child. While the socket is open, the child's kernel-side watch on the worker holds still.
fn start(program: &Program) -> Result<(Group, Pipes, UnixStream), LaunchError> {
    let (ours, theirs) = StdUnixStream::pair().map_err(LaunchError::Exhausted)?;
    ours.set_nonblocking(true).map_err(LaunchError::Exhausted)?;
    let (group, pipes) = Group::of(program.spawn(OwnedFd::from(theirs).into())?)?;
    Ok((group, pipes, UnixStream::from_std(ours).map_err(LaunchError::Exhausted)?))
}

/// The first bound that a child broke.
#[derive(Debug, Default)]
struct Breach {
    output_bytes: AtomicU64,
    end: OnceLock<End>,
    token: CancellationToken,
}

impl Breach {
    fn report(&self, end: End) {
        // The first one counts.
        let _ = self.end.set(end);
        self.token.cancel();
    }

    async fn happened(&self) -> End {
        self.token.cancelled().await;
        self.end.get().copied().unwrap_or(End::Flooded)
    }
}

/// Reads a stream to its end; what is over the flood's bound is still taken away, until the kill comes.
async fn drain(
    stream: &mut (impl AsyncRead + Unpin),
    capture: &mut Capture,
    printed: &mut Printed,
    flood_bytes: u64,
    breach: &Breach,
) {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        match stream.read(&mut buffer).await {
            // An error of a pipe is its end: there is nothing more to be had.
            Ok(0) | Err(_) => return,
            Ok(length) => {
                capture.push(&buffer[..length]);
                printed.push(&buffer[..length]);
                let seen_bytes =
                    breach.output_bytes.fetch_add(length as u64, Ordering::Relaxed) + length as u64;
                if seen_bytes > flood_bytes {
                    breach.report(End::Flooded);
                }
            }
        }
    }
}

/// Sends one frame, and reads one back.
async fn converse(
    socket: &mut UnixStream,
    payload: &[u8],
    frame_bytes_max: usize,
    frame: &mut Frame,
    breach: &Breach,
) {
    // An error here is a child that ended early; how it ended says more.
    let Ok(length) = u32::try_from(payload.len()) else { return };
    if socket.write_all(&length.to_be_bytes()).await.is_err() || socket.write_all(payload).await.is_err() {
        return;
    }
    let Ok(length) = socket.read_u32().await else { return };
    let length = length as usize;
    if length > frame_bytes_max {
        return breach.report(End::AnswerTooLarge(length));
    }
    let mut body = Vec::new();
    let read = (&mut *socket).take(length as u64).read_to_end(&mut body).await;
    if read.is_err() || body.len() < length {
        return;
    }
    *frame = Frame::One(body);
    // A process that the child started may hold the socket open; what counts is that nothing more comes.
    if matches!(socket.read(&mut [0; 1]).await, Ok(1)) {
        *frame = Frame::Malformed;
    }
}
