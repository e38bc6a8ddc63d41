//! The thread that owns the connection: takes steps, commits them in groups, answers.

use rusqlite::{Connection, ErrorCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::{Error, Location};

/// At most so many steps share a commit.
pub(super) const BATCH_MAX: usize = 512;

/// How often other processes' commits are looked for while somebody waits for them.
pub(super) const POLL_EVERY: Duration = Duration::from_millis(50);

/// What the thread is asked.
pub(super) enum Request {
    /// To make a step.
    Step(Box<dyn Step>),
    /// To look again at who waits.
    Nudge,
    /// To end, and to say so.
    Close(oneshot::Sender<()>),
}

/// What the thread shares with those who wait for other processes.
#[derive(Debug)]
pub(super) struct Signals {
    /// How many wait.
    pub(super) waiters: AtomicUsize,
    /// Counts the commits of others.
    pub(super) foreign: watch::Sender<u64>,
}

impl Signals {
    pub(super) fn new() -> Signals {
        Signals { waiters: AtomicUsize::new(0), foreign: watch::channel(0).0 }
    }
}

/// One step. `run` may be called several times, each time on a state without the earlier call's effects;
/// `end` is called once. One that is dropped before has ended with [`Error::Closed`].
pub(super) trait Step: Send {
    fn name(&self) -> &'static str;
    fn writes(&self) -> bool;
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    fn end(self: Box<Self>, outcome: Result<(), Error>);
}

/// A step made of two functions.
pub(super) struct Work<T, W, A>
where
    A: FnOnce(Result<T, Error>),
{
    step: &'static str,
    writes: bool,
    work: W,
    value: Option<T>,
    /// Taken when it is called, which happens exactly once.
    after: Option<A>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<T, W, A> Work<T, W, A>
where
    A: FnOnce(Result<T, Error>),
{
    pub(super) fn new(
        step: &'static str,
        writes: bool,
        work: W,
        after: A,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Work<T, W, A> {
        Work { step, writes, work, value: None, after: Some(after), _permit: permit }
    }
}

impl<T, W, A> Step for Work<T, W, A>
where
    T: Send,
    W: FnMut(&Connection) -> rusqlite::Result<T> + Send,
    A: FnOnce(Result<T, Error>) + Send,
{
    fn name(&self) -> &'static str {
        self.step
    }

    fn writes(&self) -> bool {
        self.writes
    }

    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.value = Some((self.work)(connection)?);
        Ok(())
    }

    fn end(mut self: Box<Self>, outcome: Result<(), Error>) {
        let value = self.value.take().ok_or(Error::Closed);
        if let Some(after) = self.after.take() {
            after(outcome.and(value));
        }
    }
}

impl<T, W, A> Drop for Work<T, W, A>
where
    A: FnOnce(Result<T, Error>),
{
    fn drop(&mut self) {
        if let Some(after) = self.after.take() {
            after(Err(Error::Closed));
        }
    }
}

/// Serves `requests` until it is closed or nobody can ask any more.
pub(super) fn run(
    connection: Connection,
    location: &Location,
    requests: &Receiver<Request>,
    signals: &Signals,
) {
    let polls = *location != Location::Memory;
    let mut writer = Writer { connection, location, version: 0, looked: Instant::now() };
    let mut batch: Vec<Box<dyn Step>> = Vec::new();
    let closed = loop {
        let waited_for = polls && signals.waiters.load(Ordering::Acquire) > 0;
        let mut request = if waited_for {
            match requests.recv_timeout(POLL_EVERY) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break None,
            }
        } else {
            match requests.recv() {
                Ok(request) => Some(request),
                Err(_) => break None,
            }
        };
        let mut close = None;
        while let Some(next) = request {
            match next {
                Request::Step(step) => batch.push(step),
                Request::Nudge => {}
                Request::Close(done) => close = Some(done),
            }
            let full = batch.len() >= BATCH_MAX || close.is_some();
            request = if full { None } else { requests.try_recv().ok() };
        }
        writer.commit(&mut batch);
        if close.is_some() {
            break close;
        }
        if waited_for && writer.looked.elapsed() >= POLL_EVERY && writer.others_committed() {
            signals.foreign.send_modify(|count| *count = count.wrapping_add(1));
        }
    };
    drop(writer);
    if let Some(done) = closed {
        let _ = done.send(());
    }
}

struct Writer<'a> {
    connection: Connection,
    location: &'a Location,
    version: i64,
    looked: Instant,
}

/// Why a batch was not committed.
enum Failure {
    /// It is due to this step: the others may succeed.
    Step(rusqlite::Error),
    /// It is due to the file: no step was at fault.
    Whole(rusqlite::Error),
}

impl Writer<'_> {
    /// Commits the steps as one, or one by one if one of them fails, and answers them.
    fn commit(&self, batch: &mut Vec<Box<dyn Step>>) {
        if batch.is_empty() {
            return;
        }
        match self.attempt(batch) {
            Ok(()) => batch.drain(..).for_each(|step| step.end(Ok(()))),
            Err(Failure::Step(_)) if batch.len() > 1 => {
                for step in batch.drain(..) {
                    self.commit(&mut vec![step]);
                }
            }
            Err(Failure::Step(error) | Failure::Whole(error)) => {
                for step in batch.drain(..) {
                    let outcome = Err(explain(&error, step.name(), self.location));
                    step.end(outcome);
                }
            }
        }
    }

    fn attempt(&self, batch: &mut [Box<dyn Step>]) -> Result<(), Failure> {
        // A step that reads and then wants to write could find itself on an old snapshot, so the lock is
        // taken first. Readers alone need none and work while another process writes.
        let writes = batch.iter().any(|step| step.writes());
        self.execute(if writes { "BEGIN IMMEDIATE" } else { "BEGIN" }).map_err(Failure::Whole)?;
        for step in batch {
            if let Err(error) = step.run(&self.connection) {
                self.roll_back();
                return Err(Failure::Step(error));
            }
        }
        self.execute("COMMIT").map_err(|error| {
            self.roll_back();
            Failure::Whole(error)
        })
    }

    fn roll_back(&self) {
        // Some errors (disk full) have rolled back already.
        if self.connection.is_autocommit() {
            return;
        }
        if let Err(error) = self.execute("ROLLBACK") {
            tracing::error!(%error, location = %self.location, "cannot roll back the state file");
        }
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(|_| ())
    }

    fn others_committed(&mut self) -> bool {
        self.looked = Instant::now();
        let version = self
            .connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)));
        match version {
            Ok(version) if version == self.version => false,
            Ok(version) => {
                self.version = version;
                true
            }
            // Unreadable now: whoever waits looks for himself and meets the error.
            Err(_) => true,
        }
    }
}

/// What `error` means for whoever asked for `step`.
pub(super) fn explain(error: &rusqlite::Error, step: &'static str, location: &Location) -> Error {
    let reason = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Busy { step },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::CannotOpen) => {
            Error::File { path: location.to_string(), reason }
        }
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => Error::Unexpected { step, reason },
        Some(_) => Error::Refused { step, reason },
        None => Error::Unexpected { step, reason },
    }
}
