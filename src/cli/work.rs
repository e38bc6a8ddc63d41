//! `worker` and `resume`.

use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::args;
use super::follow::{self, Outcome};
use super::print;
use super::progress::Progress;
use super::run::seconds;
use crate::config::Config;
use crate::core::code::Code;
use crate::core::id::Id;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::Filter;

/// `gleitzeit worker`
pub(crate) async fn worker(config: Config, json: bool) -> Result<u8, Error> {
    let runtime = Runtime::open_worker(config).await?;
    let worker = runtime.worker().await?;
    let protocols: Vec<String> = worker.protocols().iter().map(ToString::to_string).collect();
    print::note(&format!(
        "worker {} takes {} ({})",
        worker.session(),
        protocols.join(", "),
        runtime.describe()
    ));

    let drain = CancellationToken::new();
    let running = worker.run(drain.clone());
    tokio::pin!(running);
    let signal = tokio::select! {
        ended = &mut running => {
            ended?;
            return Err(Error::new(Code::SystemShutdown, "the worker stopped by itself"));
        }
        signal = follow::signal() => signal,
    };
    print::note("draining: no new tasks; a second signal stops at once");
    drain.cancel();
    tokio::select! {
        ended = &mut running => ended?,
        _ = follow::signal() => {
            // At-least-once makes this safe: what is not settled is delivered again.
            worker.abort();
            std::process::exit(128 + i32::from(signal));
        }
    }
    runtime.close().await;
    if json {
        print::json(&serde_json::json!({"worker": worker.session(), "status": "drained"}));
    }
    Ok(0)
}

/// `gleitzeit resume [ID]`
pub(crate) async fn resume(config: Config, args: args::Resume, json: bool) -> Result<u8, Error> {
    let scope = args.id.as_deref().map(Id::parse).transpose()?;
    let timeout = seconds(args.timeout)?;
    let runtime = Runtime::open(config, scope.as_ref()).await?;
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
    let outcome = follow::with_worker(&runtime, all(&runtime, &open, timeout)).await?;
    runtime.close().await;
    let (code, documents) = outcome;
    if json {
        print::json(&serde_json::Value::Array(documents));
    } else {
        for document in &documents {
            let alone = document.get("tasks").is_none();
            if alone { super::call::show(document, false) } else { super::run::show(document, false) }
        }
    }
    Ok(code)
}

/// Follows every root to its end, one after the other; the worker runs them all at once.
async fn all(
    runtime: &Runtime,
    open: &[Id],
    timeout: Option<Duration>,
) -> Result<(u8, Vec<serde_json::Value>), Error> {
    let client = runtime.client();
    let deadline = timeout.map(|timeout| tokio::time::Instant::now() + timeout);
    let (mut code, mut documents) = (0, Vec::new());
    for id in open {
        let left = deadline.map(|at| at.saturating_duration_since(tokio::time::Instant::now()));
        let workflow = runtime.store.workflow(id).await?;
        let outcome = match &workflow {
            Some(workflow) => {
                let shown = Progress::new(&workflow.name, workflow.tasks.len(), false);
                follow::workflow(runtime, &client, id, shown, left).await?
            }
            None => follow::task(&client, id, left).await?,
        };
        match outcome {
            Outcome::Ended(ended) => {
                code = code.max(follow::exit_code(&ended));
                documents.push(follow::document(&ended, id));
            }
            Outcome::TimeOver => {
                follow::unfinished(runtime, id, false);
                return Ok((6, documents));
            }
            Outcome::Interrupted(signal) => {
                follow::unfinished(runtime, id, false);
                return Ok((128 + signal, documents));
            }
        }
    }
    Ok((code, documents))
}

async fn known(runtime: &Runtime, id: &Id) -> Result<Id, Error> {
    let task = runtime.store.task(&crate::core::id::TaskKey::alone(id.clone())).await?;
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
