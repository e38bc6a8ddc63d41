//! The embedded state: one SQLite file that a thread of its own writes.
//!
//! ```text
//! steps ──▶ bounded queue ──▶ writer thread ──▶ BEGIN · step · step · … · COMMIT ──▶ replies
//! ```
//! A step is a function over the connection. The thread takes whatever waits (at most
//! `writer::BATCH_MAX`) into one transaction, and answers after the commit: a commit costs the same for one
//! step as for hundreds. A step that fails is undone by itself: the transaction is rolled back and its other
//! steps are made again one by one, so a step must be repeatable and must not touch anything but the file.
//!
//! Several processes may have the file open. Writing takes turns (`BEGIN IMMEDIATE`, up to
//! `open::BUSY_MAX`); what others commit is noticed through `PRAGMA data_version`, asked for every
//! `writer::POLL_EVERY` while somebody has a `Foreign`. What this process commits is told by `Topic`s.
//!
//! Safe against the death of the process; with `synchronous = NORMAL` a power cut may take the last commits,
//! with FULL it may not. `:memory:` promises nothing beyond the process.

mod open;
pub(crate) mod process;
mod topics;
mod writer;

use rusqlite::Connection;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use self::process::Process;
pub(crate) use self::topics::Topic;
use self::topics::Topics;
use self::writer::{Request, Signals, Work};

/// Steps that may wait for the writer thread; more callers wait before it.
const WAITING_MAX: usize = 4096;

/// Where the state lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In memory; it ends with the process.
    Memory,
    /// In this file, made if missing (with its folder, for this user only).
    File(PathBuf),
}

impl Location {
    /// What `--state` says: a path or `:memory:`.
    #[must_use]
    pub fn parse(text: &str) -> Location {
        if text == ":memory:" { Location::Memory } else { Location::File(text.into()) }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Memory => f.write_str(":memory:"),
            Location::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The death of the process. A power cut may take the last commits, never the file's integrity.
    #[default]
    Process,
    /// A power cut too: every commit waits for the disk (`synchronous = FULL`).
    Power,
}

/// Why the file did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It cannot be opened, is not ours, or is damaged.
    #[error("the state file {path} cannot be used: {reason}")]
    File {
        /// Its path.
        path: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Another process writes and does not stop.
    #[error("{step} waited too long for another process that writes the state file")]
    Busy {
        /// What was asked.
        step: &'static str,
    },
    /// The disk is full, read-only or broken.
    #[error("the state file refuses {step}: {reason}")]
    Refused {
        /// What was asked.
        step: &'static str,
        /// What the system said.
        reason: String,
    },
    /// The file holds something that we did not write.
    #[error("the state file holds something unexpected in {step}: {reason}")]
    Unexpected {
        /// What was asked.
        step: &'static str,
        /// What it is.
        reason: String,
    },
    /// It was closed by us.
    #[error("the state file is closed")]
    Closed,
}

/// The open file. Cloning shares it; the thread ends with the last clone or with [`Database::close`].
#[derive(Clone)]
pub struct Database {
    shared: Arc<Shared>,
}

struct Shared {
    location: Location,
    requests: mpsc::Sender<Request>,
    room: Arc<Semaphore>,
    signals: Arc<Signals>,
    topics: Arc<Topics>,
    process: Process,
    closed: AtomicBool,
}

/// A place in the queue of steps. Got before the step is made, so that nothing waits after.
#[derive(Debug)]
pub(crate) struct Permit(OwnedSemaphorePermit);

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("location", &self.shared.location).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens the state, making it if it is missing.
    ///
    /// # Errors
    /// [`Error::File`] if the file or its folder cannot be made, read or written, or is damaged, of another
    /// program, or of a newer version.
    pub async fn open(location: Location, durability: Durability) -> Result<Database, Error> {
        let (requests, queue) = mpsc::channel();
        let signals = Arc::new(Signals::new());
        let (opened, outcome) = oneshot::channel();
        let (thread_location, thread_signals) = (location.clone(), Arc::clone(&signals));
        std::thread::Builder::new()
            .name("gleitzeit-state".to_owned())
            .spawn(move || match open::open(&thread_location, durability) {
                Ok(connection) => {
                    let _ = opened.send(Ok(()));
                    writer::run(connection, &thread_location, &queue, &thread_signals);
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            })
            .map_err(|error| Error::File { path: location.to_string(), reason: error.to_string() })?;
        outcome.await.map_err(|_| Error::Closed)??;
        let shared = Shared {
            location,
            requests,
            room: Arc::new(Semaphore::new(WAITING_MAX)),
            signals,
            topics: Arc::new(Topics::default()),
            process: Process::current(),
            closed: AtomicBool::new(false),
        };
        Ok(Database { shared: Arc::new(shared) })
    }

    /// Where the state lives.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.shared.location
    }

    /// Ends the thread after what was asked before, and returns once the file is closed. What is asked later
    /// answers [`Error::Closed`]. A repeat does nothing.
    pub async fn close(&self) {
        if self.shared.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let (done, closed) = oneshot::channel();
        if self.shared.requests.send(Request::Close(done)).is_ok() {
            let _ = closed.await;
        }
    }

    /// The process that this is.
    pub(crate) fn process(&self) -> &Process {
        &self.shared.process
    }

    /// Makes a step that only reads.
    pub(crate) async fn read<T, W>(&self, step: &'static str, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.answer(step, false, work, |_| ()).await
    }

    /// Makes a step that writes.
    pub(crate) async fn write<T, W>(&self, step: &'static str, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.answer(step, true, work, |_| ()).await
    }

    /// Makes a step that writes; `after` runs on the writer thread once it is committed or has failed, also
    /// when the caller has gone meanwhile.
    pub(crate) async fn write_then<T, W, A>(&self, step: &'static str, work: W, after: A) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        A: FnOnce(&Result<T, Error>) + Send + 'static,
    {
        self.answer(step, true, work, after).await
    }

    async fn answer<T, W, A>(&self, step: &'static str, writes: bool, work: W, after: A) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        A: FnOnce(&Result<T, Error>) + Send + 'static,
    {
        let permit = self.permit().await?;
        let (reply, answer) = oneshot::channel();
        let after = move |outcome: Result<T, Error>| {
            after(&outcome);
            // A caller that has gone wants no answer.
            let _ = reply.send(outcome);
        };
        self.submit(Some(permit), step, writes, work, after);
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Waits for a place in the queue.
    pub(crate) async fn permit(&self) -> Result<Permit, Error> {
        // The semaphore is never closed.
        Arc::clone(&self.shared.room).acquire_owned().await.map(Permit).map_err(|_| Error::Closed)
    }

    /// Asks for a step without waiting. Without a permit only for what `Drop` has to give back, which is
    /// bounded by what was taken. `after` runs once, on the writer thread unless the state is closed.
    pub(crate) fn submit<T, W, A>(
        &self,
        permit: Option<Permit>,
        step: &'static str,
        writes: bool,
        work: W,
        after: A,
    ) where
        T: Send + 'static,
        W: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        A: FnOnce(Result<T, Error>) + Send + 'static,
    {
        let permit = permit.map(|permit| permit.0);
        let work = Work::new(step, writes, work, after, permit);
        if !self.shared.closed.load(Ordering::Acquire) {
            // A step that cannot be sent any more is dropped, and so ends with `Error::Closed`.
            let _ = self.shared.requests.send(Request::Step(Box::new(work)));
        }
    }

    /// Waits for news that this process tells with [`Database::touch`].
    pub(crate) fn follow(&self, topic: &str) -> Topic {
        self.shared.topics.follow(topic)
    }

    /// Tells everyone in this process who follows `topic`.
    pub(crate) fn touch(&self, topic: &str) {
        self.shared.topics.touch(topic);
    }

    /// Waits for commits of other processes, from now on.
    pub(crate) fn foreign(&self) -> Foreign {
        let first = self.shared.signals.waiters.fetch_add(1, Ordering::AcqRel) == 0;
        if first {
            // The thread may sleep without a time limit. If it is gone there is nothing to wait for.
            let _ = self.shared.requests.send(Request::Nudge);
        }
        Foreign {
            commits: self.shared.signals.foreign.subscribe(),
            signals: Arc::clone(&self.shared.signals),
        }
    }
}

/// News of commits by other processes. While one exists, the writer thread looks for them.
#[derive(Debug)]
pub(crate) struct Foreign {
    commits: watch::Receiver<u64>,
    signals: Arc<Signals>,
}

impl Foreign {
    /// Returns once another process has committed something since the last return. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        // `signals` holds the sender, so there is no error to see.
        let _ = self.commits.changed().await;
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.signals.waiters.fetch_sub(1, Ordering::AcqRel);
    }
}
