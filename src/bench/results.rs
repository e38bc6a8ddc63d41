//! When a drain begins and ends: the same criterion for both sides, and one that costs the measured process
//! nothing.
//!
//! Tasks are drained in the order in which they were published, but for the few that are worked on at once.
//! So the bench looks at one result at a time: the last one of the first hundredth until it is there, then that
//! of the next. That is one `EXISTS` every few milliseconds. A drain lasts from the first result seen among the
//! first tasks to the moment when the last ones are all there. Then, outside of the measured time, every
//! result is fetched and checked; had one been late, the drain would have ended with that one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::BenchError;
use super::process::{Child, Usage, own_usage};
use crate::core::id::Id;
use crate::store::Store;

/// How exactly beginning and end are known.
const POLL_EVERY: Duration = Duration::from_millis(2);

/// Among how many tasks the first result is looked for: more than can end between two looks.
const HEAD: usize = 1024;

/// How many results at the end may appear out of order: more than are usually worked on at once.
const TAIL: usize = 256;

/// How many results are looked at on the way; each tells that nothing stands still.
const STEPS: usize = 100;

/// A drain without any new result is given up after this time.
const STALL: Duration = Duration::from_secs(60);

/// How many results are fetched at once.
const FETCH: usize = 500;

/// Where the results of a drain appear, in the order in which the tasks were published.
#[derive(Debug)]
pub(super) enum Results {
    /// Keys in Redis.
    Redis {
        /// A connection that nobody measures.
        connection: redis::aio::MultiplexedConnection,
        /// The keys, in order.
        keys: Vec<String>,
    },
    /// Documents in the embedded store.
    Store {
        /// The store.
        store: Arc<dyn Store>,
        /// The tasks, in order.
        ids: Vec<Id>,
    },
}

/// Who is measured.
#[derive(Debug)]
pub(super) enum Measured<'a> {
    /// A process of its own.
    Child(&'a mut Child),
    /// This process.
    Own,
}

/// A drain from its first to its last result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Drain {
    /// From the call until the first result.
    pub(super) start: Duration,
    /// From the first to the last result.
    pub(super) time: Duration,
    /// Results that came in that time.
    pub(super) tasks: usize,
    /// Processor time used in that time.
    pub(super) cpu: Duration,
    /// The most memory held until its end.
    pub(super) memory_peak_bytes: u64,
}

struct Moment {
    at: Instant,
    done: usize,
    usage: Usage,
}

/// Follows a drain to its end. `what` is for errors.
pub(super) async fn follow(
    results: &mut Results,
    mut measured: Measured<'_>,
    what: &'static str,
) -> Result<Drain, BenchError> {
    let called = Instant::now();
    let tasks = results.len();
    let done = wait(results, &mut measured, 0..HEAD.min(tasks), 1, what).await?;
    let first = Moment { at: Instant::now(), done, usage: measured.usage().await? };
    for step in 1..=STEPS {
        let last = (tasks * step / STEPS).max(1) - 1;
        wait(results, &mut measured, last..last + 1, 1, what).await?;
    }
    let tail = TAIL.min(tasks);
    wait(results, &mut measured, tasks - tail..tasks, tail, what).await?;
    let mut last = Moment { at: Instant::now(), done: tasks, usage: measured.usage().await? };

    let mut from = 0;
    while from < tasks {
        let to = (from + FETCH).min(tasks);
        if results.present(from..to).await? < to - from {
            wait(results, &mut measured, from..to, to - from, what).await?;
            last = Moment { at: Instant::now(), done: tasks, usage: measured.usage().await? };
        }
        from = to;
    }
    Ok(Drain {
        start: first.at - called,
        time: last.at - first.at,
        tasks: last.done - first.done,
        cpu: last.usage.cpu.saturating_sub(first.usage.cpu),
        memory_peak_bytes: last.usage.memory_peak_bytes,
    })
}

/// Waits until at least `count` results of `range` are there, and tells how many are.
async fn wait(
    results: &mut Results,
    measured: &mut Measured<'_>,
    range: std::ops::Range<usize>,
    count: usize,
    what: &'static str,
) -> Result<usize, BenchError> {
    let (mut most, mut since) = (0, Instant::now());
    loop {
        let present = results.present(range.clone()).await?;
        if present >= count {
            return Ok(present);
        }
        if present > most {
            (most, since) = (present, Instant::now());
        }
        if since.elapsed() > STALL {
            let (done, tasks) = (range.start + present, results.len());
            return Err(BenchError::Stalled { what, done, tasks, seconds: STALL.as_secs() });
        }
        measured.still_runs().await?;
        tokio::time::sleep(POLL_EVERY).await;
    }
}

impl Measured<'_> {
    async fn usage(&mut self) -> Result<Usage, BenchError> {
        match self {
            Measured::Child(child) => child.usage().await,
            Measured::Own => own_usage(),
        }
    }

    async fn still_runs(&mut self) -> Result<(), BenchError> {
        match self {
            Measured::Child(child) => child.still_runs().await,
            Measured::Own => Ok(()),
        }
    }
}

impl Results {
    pub(super) fn len(&self) -> usize {
        match self {
            Results::Redis { keys, .. } => keys.len(),
            Results::Store { ids, .. } => ids.len(),
        }
    }

    /// How many results of `range` are there; in the embedded store, how many before the first missing one:
    /// each look there is a query.
    async fn present(&mut self, range: std::ops::Range<usize>) -> Result<usize, BenchError> {
        match self {
            Results::Redis { connection, keys } => {
                let mut exists = redis::cmd("EXISTS");
                exists.arg(&keys[range]);
                exists.query_async(connection).await.map_err(BenchError::redis("look for results"))
            }
            Results::Store { store, ids } => {
                let mut present = 0;
                for id in &ids[range] {
                    if document(store, id).await?.is_none() {
                        break;
                    }
                    present += 1;
                }
                Ok(present)
            }
        }
    }

    /// # Errors
    /// A task of ours that did not complete: a refusal would be fast, and worth nothing.
    pub(super) async fn must_be_completed(&mut self) -> Result<(), BenchError> {
        let tasks = self.len();
        for from in (0..tasks).step_by(FETCH) {
            for document in self.documents(from..(from + FETCH).min(tasks)).await? {
                let status = document.as_deref().map(status).unwrap_or_default();
                if status != "completed" {
                    return Err(BenchError::Invalid(format!("a task ended as {status:?}")));
                }
            }
        }
        Ok(())
    }

    async fn documents(&mut self, range: std::ops::Range<usize>) -> Result<Vec<Option<Vec<u8>>>, BenchError> {
        match self {
            Results::Redis { connection, keys } => {
                let mut get = redis::cmd("MGET");
                get.arg(&keys[range]);
                get.query_async(connection).await.map_err(BenchError::redis("read results"))
            }
            Results::Store { store, ids } => {
                let mut documents = Vec::new();
                for id in &ids[range] {
                    documents.push(document(store, id).await?);
                }
                Ok(documents)
            }
        }
    }
}

async fn document(store: &Arc<dyn Store>, id: &Id) -> Result<Option<Vec<u8>>, BenchError> {
    Ok(store.outcome(id).await.map_err(BenchError::product)?.map(Vec::from))
}

fn status(document: &[u8]) -> String {
    let parsed: Result<serde_json::Value, _> = serde_json::from_slice(document);
    let status = parsed.ok().and_then(|document| Some(document.get("status")?.as_str()?.to_owned()));
    status.unwrap_or_default()
}
