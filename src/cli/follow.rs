//! Following work to its end: progress, time limits, signals.

use futures_util::StreamExt;
use serde_json::{Value, json};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::print;
use super::progress::Progress;
use super::signals::Signals;
use crate::client::{Ended, Reader};
use crate::config::Config;
use crate::core::code::Code;
use crate::core::id::{Id, TaskKey};
use crate::error::Error;
use crate::runtime::{Role, Runtime};
use crate::topology::Queue;

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

/// Follows a workflow with live progress until it ends, time is over, or a signal comes.
pub(crate) async fn workflow(
    runtime: &Runtime,
    signals: &Signals,
    id: &Id,
    shown: Progress,
    timeout: Option<Duration>,
) -> Result<Outcome, Error> {
    let (reader, key) = (Reader::new(Arc::clone(&runtime.store)), TaskKey::alone(id.clone()));
    let following = async {
        let mut progress = shown;
        let mut changes = runtime.store.watch(id).await?;
        loop {
            let ended = reader.ended(&key).await?;
            if let Some(workflow) = runtime.store.workflow(id).await? {
                progress.update(&workflow);
            }
            if let Some(ended) = ended {
                progress.finish();
                return Ok(ended);
            }
            changes.next().await;
            // Many tasks that end at once are shown once: what piled up meanwhile is one look.
            tokio::time::sleep(Duration::from_millis(20)).await;
            while let Some(Some(_)) = futures_util::FutureExt::now_or_never(changes.next()) {}
        }
    };
    until(signals, following, timeout).await
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
    let limit = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // What has ended counts, also when time is over or a signal came at the same instant.
        biased;
        ended = work => ended.map(Outcome::Ended),
        signal = signals.first() => Ok(Outcome::Interrupted(signal)),
        () = limit => Ok(Outcome::TimeOver),
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
    let running = worker.run(drain.clone());
    tokio::pin!(running);
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
pub(crate) async fn cancel(runtime: &Runtime, config: Config, id: &Id) -> Result<(), Error> {
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
    if !state.is_some_and(|state| state.is_ended) {
        print::note(&if runtime.is_embedded() {
            format!("{id} has not ended; its state is kept: gleitzeit resume {id}")
        } else {
            format!("{id} has not ended and goes on: gleitzeit result --wait {id}")
        });
    }
    Ok(without_result(&key, name, is_workflow))
}
