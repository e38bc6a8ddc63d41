//! `worker` and `resume`.

use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::args;
use super::follow::{self, Outcome};
use super::live::Live;
use super::print;
use super::run::seconds;
use super::signals::{Hangups, Signals};
use crate::client::Ended;
use crate::config::Config;
use crate::core::code::Code;
use crate::core::id::{Id, TaskKey};
use crate::error::Error;
use crate::runtime::{Role, Runtime};
use crate::store::Filter;
use crate::worker::Worker;

/// `gleitzeit worker`
pub(crate) async fn worker(config: Config, json: bool) -> Result<u8, Error> {
    let hangups = Hangups::listen();
    let runtime = Runtime::open(config, Role::Worker, None).await?;
    let worker = runtime.worker().await?;
    let protocols: Vec<String> = worker.protocols().iter().map(ToString::to_string).collect();
    print::note(&format!(
        "worker {} takes {} ({})",
        worker.session(),
        protocols.join(", "),
        runtime.describe()
    ));

    let (signals, drain) = (Signals::listen(), CancellationToken::new());
    let running = worker.run(drain.clone());
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => {
            ended?;
            return Err(Error::new(Code::SystemShutdown, "the worker stopped by itself"));
        }
        _ = signals.first() => {}
        () = reload_at(hangups, &worker) => {}
    }
    print::note("draining: no new tasks; a second signal stops at once");
    drain.cancel();
    running.await?;
    runtime.close().await;
    if json {
        print::json(&serde_json::json!({"worker": worker.session(), "status": "drained"}));
    }
    Ok(0)
}

/// Reads the configuration again at each SIGHUP; says what came of it. Never ends.
async fn reload_at(mut hangups: Hangups, worker: &Worker) {
    loop {
        hangups.next().await;
        match worker.reload().await {
            Ok(reloaded) if reloaded.changed.is_empty() => print::note("the configuration has not changed"),
            Ok(reloaded) => print::note(&format!("changed: {}", reloaded.changed.join(", "))),
            Err(failure) => print::note(&format!("not reloaded: {}", failure.message)),
        }
    }
}

/// `gleitzeit resume [ID]`
pub(crate) async fn resume(config: Config, args: args::Resume, json: bool) -> Result<u8, Error> {
    let scope = args.id.as_deref().map(Id::parse).transpose()?;
    let timeout = seconds(args.timeout)?;
    let runtime = Runtime::open(config, Role::Client, scope.as_ref()).await?;
    if !runtime.is_embedded() {
        let text = "resume is for embedded runs; in distributed mode any worker continues by itself";
        return Err(Error::new(Code::InvalidRequest, text));
    }
    let open = match &scope {
        Some(id) => vec![known(&runtime, id).await?],
        None => unfinished(&runtime).await?,
    };
    if open.is_empty() {
        print::note("nothing to resume");
    }
    let signals = Signals::listen();
    let (code, ended) = follow::with_worker(&runtime, all(&runtime, &signals, &open, timeout)).await?;
    let mut documents = Vec::new();
    for (id, ended) in open.iter().zip(ended) {
        let Some(ended) = ended else {
            let is_workflow = runtime.store.workflow(id).await?.is_some();
            documents.push(follow::unfinished(&runtime, id, is_workflow).await?);
            continue;
        };
        let document = follow::document(&ended, &TaskKey::alone(id.clone()));
        match (json, ended.is_workflow) {
            (true, _) => documents.push(document),
            (false, true) => super::run::show(&document, false),
            (false, false) => super::call::show(&document, false),
        }
    }
    runtime.close().await;
    if json {
        print::json(&serde_json::Value::Array(documents));
    }
    Ok(code)
}

/// Follows every root to its end, one after the other; the worker runs them all at once. Gives the exit code,
/// and for each root its end, `None` if time was over or a signal came first.
async fn all(
    runtime: &Runtime,
    signals: &Signals,
    open: &[Id],
    timeout: Option<Duration>,
) -> Result<(u8, Vec<Option<Ended>>), Error> {
    let reader = runtime.client().reader();
    let deadline = timeout.map(|timeout| tokio::time::Instant::now() + timeout);
    let (mut worst, mut stopped, mut ends) = (0, None, Vec::new());
    for id in open {
        let key = TaskKey::alone(id.clone());
        if stopped.is_some() {
            ends.push(reader.ended(&key).await?);
            continue;
        }
        let left = deadline.map(|at| at.saturating_duration_since(tokio::time::Instant::now()));
        let outcome = follow::to_end(&runtime.store, signals, &key, Live::new(), left).await?;
        ends.push(match outcome {
            Outcome::Ended(ended) => {
                worst = worst.max(follow::exit_code(&ended));
                Some(ended)
            }
            Outcome::TimeOver => {
                stopped = Some(6);
                None
            }
            Outcome::Interrupted(signal) => {
                stopped = Some(128 + signal);
                None
            }
        });
    }
    Ok((stopped.unwrap_or(worst), ends))
}

async fn known(runtime: &Runtime, id: &Id) -> Result<Id, Error> {
    let task = runtime.store.task(&TaskKey::alone(id.clone())).await?;
    if task.is_some() || runtime.store.workflow(id).await?.is_some() {
        return Ok(id.clone());
    }
    Err(Error::new(Code::WorkflowNotFound, format!("nothing is known of {id} in {}", runtime.describe())))
}

async fn unfinished(runtime: &Runtime) -> Result<Vec<Id>, Error> {
    let known = runtime.store.list(&Filter { state: None, limit: 100_000 }).await?;
    let open = known.into_iter().filter(|summary| summary.ended_at.is_none());
    let mut ids: Vec<Id> = open.map(|summary| summary.id).collect();
    ids.reverse();
    Ok(ids)
}
