//! Following work to its end: a live view, time limits, signals.
//!
//! The store tells what begins, is tried again and ends ([`Store::follow`]), also that it may have missed
//! something. So following asks nothing while nothing happens, however long that is.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::{Value, json};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::live::{Live, Seen};
use super::print;
use super::signals::Signals;
use crate::client::{Away, Ended, Reader};
use crate::config::Config;
use crate::core::code::Code;
use crate::core::id::{Id, TaskKey};
use crate::error::Error;
use crate::runtime::{Role, Runtime};
use crate::store::{Change, Store};
use crate::topology::Queue;

/// Many tasks that end at once are shown at once: the least time between two looks.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The most time between a change and the look at it, however long a look takes. The end of all is looked at at once.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How many times longer than a look takes the pause after it is: looking costs a tenth at most.
const PAUSE_FACTOR: u32 = 9;
/// How often the times in a picture go on.
const TICK: Duration = Duration::from_millis(200);

/// Why following ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The work ended.
    Ended(Ended),
    /// `--timeout` is over; the work is not.
    TimeOver,
    /// A signal came: its number.
    Interrupted(u8),
}

/// Follows a task or workflow with a live view until it ends, time is over, or a signal comes.
pub(crate) async fn to_end(
    store: &Arc<dyn Store>,
    signals: &Signals,
    key: &TaskKey,
    live: Live,
    timeout: Option<Duration>,
) -> Result<Outcome, Error> {
    let mut following = Following {
        reader: Reader::new(Arc::clone(store)),
        changes: store.follow(&key.root).await?,
        store: Arc::clone(store),
        key: key.clone(),
        live,
    };
    until(signals, following.run(), timeout).await
}

/// A look at what is followed.
pub(crate) async fn look(store: &Arc<dyn Store>, key: &TaskKey) -> Result<Option<Seen>, Error> {
    if key.task.is_none()
        && let Some(workflow) = store.workflow(&key.root).await?
    {
        return Ok(Some(Seen::Workflow(workflow)));
    }
    Ok(store.task(key).await?.map(Seen::Task))
}

struct Following {
    store: Arc<dyn Store>,
    reader: Reader,
    changes: BoxStream<'static, Change>,
    key: TaskKey,
    live: Live,
}

impl Following {
    async fn run(&mut self) -> Result<Ended, Error> {
        let mut away = Away::default();
        loop {
            let started = Instant::now();
            let Some((seen, ended)) = away.answer(self.look().await).await? else { continue };
            if let Some(seen) = seen {
                self.live.update(seen);
            }
            if let Some(ended) = ended {
                return Ok(ended);
            }
            let pause = (started.elapsed() * PAUSE_FACTOR).clamp(PAUSE_MIN, PAUSE_MAX);
            self.reason_to_look(pause).await;
        }
    }

    /// What is there, and its end if it has ended.
    async fn look(&self) -> Result<(Option<Seen>, Option<Ended>), Error> {
        let seen = look(&self.store, &self.key).await?;
        let has_ended = match &seen {
            Some(Seen::Workflow(workflow)) => workflow.state.is_ended(),
            Some(Seen::Task(task)) => task.state.is_ended(),
            // The record may have expired before its document.
            None => true,
        };
        let ended = if has_ended { self.reader.ended(&self.key).await? } else { None };
        Ok((seen, ended))
    }

    /// Waits until there is reason to look: after the first change, `pause` from now at the earliest, or at once
    /// after the end of all.
    async fn reason_to_look(&mut self, pause: Duration) {
        let begin = Instant::now();
        let mut at: Option<Instant> = None;
        let mut tick = tokio::time::interval(TICK);
        let is_drawn = self.live.is_drawn();
        loop {
            let due = async {
                match at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = self.changes.next() => match change {
                    Some(Change::Task(_) | Change::Moved | Change::Resync) => {
                        at.get_or_insert_with(|| (begin + pause).max(Instant::now() + PAUSE_MIN));
                    }
                    // The end of all; or a closed store, which the next look reports.
                    Some(Change::Root) | None => return,
                },
                () = due => return,
                _ = tick.tick(), if is_drawn => self.live.redraw(),
            }
        }
    }
}

/// Waits for the end of anything, time, or a signal.
pub(crate) async fn end(
    reader: &Reader,
    signals: &Signals,
    key: &TaskKey,
    timeout: Option<Duration>,
) -> Result<Outcome, Error> {
    let waiting = async {
        let ended = reader.wait(key, None).await?;
        ended.ok_or_else(|| Error::new(Code::InternalError, "waiting without a limit ended without an end"))
    };
    until(signals, waiting, timeout).await
}

async fn until(
    signals: &Signals,
    work: impl Future<Output = Result<Ended, Error>>,
    timeout: Option<Duration>,
) -> Result<Outcome, Error> {
    let mut ended = None;
    let work = async {
        ended = Some(work.await?);
        Ok(())
    };
    let stopped = before(signals, work, timeout).await?;
    match (stopped, ended) {
        (None, Some(ended)) => Ok(Outcome::Ended(ended)),
        (Some(stopped), _) => Ok(stopped),
        (None, None) => Err(Error::new(Code::InternalError, "following ended without an end")),
    }
}

/// Does the work; what stopped it if time was over or a signal came first.
pub(crate) async fn before(
    signals: &Signals,
    work: impl Future<Output = Result<(), Error>>,
    timeout: Option<Duration>,
) -> Result<Option<Outcome>, Error> {
    let limit = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // What has ended counts, also when time is over or a signal came at the same instant.
        biased;
        done = work => done.map(|()| None),
        signal = signals.first() => Ok(Some(Outcome::Interrupted(signal))),
        () = limit => Ok(Some(Outcome::TimeOver)),
    }
}

/// Runs `work` beside an in-process worker where this process is the one that does the work (embedded mode),
/// and winds the worker down afterwards.
pub(crate) async fn with_worker<T>(
    runtime: &Runtime,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    if !runtime.is_embedded() {
        return work.await;
    }
    let worker = runtime.worker_for_self().await?;
    let drain = CancellationToken::new();
    let mut running = Box::pin(worker.run(drain.clone()));
    let result = tokio::select! {
        result = work => result,
        ended = &mut running => match ended {
            Ok(()) => return Err(Error::new(Code::SystemShutdown, "the worker stopped")),
            Err(error) => return Err(error.into()),
        },
    };
    // What still runs (a signal, a time limit) is given back at once: the state file keeps it.
    worker.abort();
    drain.cancel();
    running.await?;
    result
}

/// Ends what a signal interrupted, for `--cancel-on-exit`. In embedded mode its own worker has stopped, so
/// the command is carried out here.
async fn cancel(runtime: &Runtime, config: Config, id: &Id) -> Result<(), Error> {
    runtime.client().cancel(id).await?;
    print::note(&format!("cancel of {id} is accepted"));
    if runtime.is_embedded() {
        // That runtime takes only what is for its own work; emptying the queue needs one that takes all.
        let runtime = Runtime::open(config, Role::Client, None).await?;
        runtime.coordinator().work_off(&Queue::Workflows).await?;
        runtime.close().await;
    }
    Ok(())
}

/// Work that this process has asked for and follows.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    /// Its id.
    pub(crate) id: &'a Id,
    /// Whether it is a workflow.
    pub(crate) is_workflow: bool,
    /// Given for `--cancel-on-exit`: a signal cancels it.
    pub(crate) cancel: Option<Config>,
    /// Whether a program reads what is printed.
    pub(crate) json: bool,
}

/// How it ended; where following stopped before, the exit code, after saying where the work is and how to go on.
pub(crate) async fn end_or_code(
    runtime: &Runtime,
    outcome: Outcome,
    work: Work<'_>,
) -> Result<Result<Ended, u8>, Error> {
    let code = match outcome {
        Outcome::Ended(ended) => return Ok(Ok(ended)),
        Outcome::TimeOver => 6,
        Outcome::Interrupted(signal) => {
            if let Some(config) = work.cancel {
                cancel(runtime, config, work.id).await?;
            }
            128 + signal
        }
    };
    let state = unfinished(runtime, work.id, work.is_workflow).await?;
    if work.json {
        print::json(&state);
    }
    Ok(Err(code))
}

/// The exit code of an end: 0 for completed, 5 for every other.
pub(crate) fn exit_code(ended: &Ended) -> u8 {
    if ended.state == "completed" { 0 } else { 5 }
}

/// The document as a value; what was not kept is told.
pub(crate) fn document(ended: &Ended, key: &TaskKey) -> Value {
    let parsed = ended.document.as_ref().and_then(|bytes| serde_json::from_slice(bytes).ok());
    parsed.unwrap_or_else(|| without_result(key, &ended.state, ended.is_workflow))
}

/// What stands for the document of something that has none (yet): with the same names.
pub(crate) fn without_result(key: &TaskKey, state: &str, is_workflow: bool) -> Value {
    match (&key.task, is_workflow) {
        (None, true) => json!({"workflow_id": key.root, "status": state, "tasks": []}),
        (None, false) => json!({"id": key.root, "status": state, "result": null}),
        (Some(task), _) => json!({"id": task, "workflow_id": key.root, "status": state, "result": null}),
    }
}

/// What is there when following ends before the work does; says how to go on.
pub(crate) async fn unfinished(runtime: &Runtime, id: &Id, is_workflow: bool) -> Result<Value, Error> {
    let key = TaskKey::alone(id.clone());
    let state = Reader::new(Arc::clone(&runtime.store)).state(&key).await?;
    // The broker has confirmed it; that may be all that is known.
    let name = state.map_or("accepted", |state| state.name);
    let is_workflow = state.map_or(is_workflow, |state| state.is_workflow);
    if !state.is_some_and(|state| state.is_ended) {
        print::note(&if runtime.is_embedded() {
            format!("{id} has not ended; its state is kept: gleitzeit resume {id}")
        } else {
            format!("{id} has not ended and goes on: gleitzeit watch {id}")
        });
    }
    Ok(without_result(&key, name, is_workflow))
}
