//! Following work to its end: progress, time limits, signals.

use futures_util::StreamExt;
use serde_json::Value;
use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::print;
use super::progress::Progress;
use crate::client::{Client, Ended};
use crate::core::code::Code;
use crate::core::id::Id;
use crate::error::Error;
use crate::runtime::Runtime;

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
    client: &Client,
    id: &Id,
    shown: Progress,
    timeout: Option<Duration>,
) -> Result<Outcome, Error> {
    let following = async {
        let mut progress = shown;
        let mut changes = runtime.store.watch(id).await?;
        loop {
            let ended = client.ended(id).await?;
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
    until(following, timeout).await
}

/// Waits for a task's end, time, or a signal.
pub(crate) async fn task(client: &Client, id: &Id, timeout: Option<Duration>) -> Result<Outcome, Error> {
    let waiting = async {
        let ended = client.wait(id, None).await?;
        ended.ok_or_else(|| Error::new(Code::InternalError, "waiting without a limit ended without an end"))
    };
    until(waiting, timeout).await
}

async fn until(
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
        ended = work => ended.map(Outcome::Ended),
        () = limit => Ok(Outcome::TimeOver),
        signal = signal() => Ok(Outcome::Interrupted(signal)),
    }
}

/// The first SIGINT or SIGTERM: 2 or 15. The exit code is 128 more.
pub(crate) async fn signal() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
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
    let worker = runtime.worker().await?;
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

/// The exit code of an end: 0 for completed, 5 for every other.
pub(crate) fn exit_code(ended: &Ended) -> u8 {
    if ended.state == "completed" { 0 } else { 5 }
}

/// The document as a value; what was not kept is told.
pub(crate) fn document(ended: &Ended, id: &Id) -> Value {
    let parsed = ended.document.as_ref().and_then(|bytes| serde_json::from_slice(bytes).ok());
    parsed.unwrap_or_else(|| serde_json::json!({"id": id, "status": ended.state, "result": null}))
}

/// What is said when following ends before the work does.
pub(crate) fn unfinished(runtime: &Runtime, id: &Id, json: bool) {
    let hint = if runtime.is_embedded() {
        format!("{id} has not ended; its state is kept: gleitzeit resume {id}")
    } else {
        format!("{id} has not ended and goes on: gleitzeit result --wait {id}")
    };
    print::note(&hint);
    if json {
        print::json(&serde_json::json!({"id": id, "status": "running"}));
    }
}
