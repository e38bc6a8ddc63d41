//! `retry`: running again what did not complete.
//!
//! The command is a message that a worker carries out, so that it is not lost with whoever sent it. What
//! would surely be refused there is refused here, where a person reads it.

use futures_util::StreamExt;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use super::args;
use super::follow::{self, Outcome};
use super::live::{Live, Seen};
use super::look::unknown;
use super::print;
use super::run::seconds;
use super::signals::Signals;
use super::watch;
use crate::config::Config;
use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::error::Error;
use crate::runtime::{Role, Runtime};
use crate::store::{Store, WorkflowRecord};
use crate::topology::Queue;

/// After how long a person is told that no worker has taken the command yet.
const TELL_AFTER: Duration = Duration::from_secs(10);

/// `gleitzeit retry ID`
pub(crate) async fn retry(config: Config, args: args::Retry, json: bool) -> Result<u8, Error> {
    let id = root(&args.id)?;
    let timeout = seconds(args.timeout)?;
    // Where this process does the work, it takes nothing else.
    let runtime = Runtime::open(config, Role::Client, args.wait.then_some(&id)).await?;
    let code = match (Before::look(&runtime.store, &id).await?, args.wait) {
        (Before::Done { is_workflow }, wait) => done(&runtime, &id, is_workflow, wait, json).await?,
        (Before::Ended(ended_at), true) => {
            let signals = Signals::listen();
            let outcome = follow::with_worker(&runtime, async {
                runtime.client().retry(&id).await?;
                again(&runtime.store, &signals, &id, ended_at, timeout).await
            });
            report(&runtime, &id, outcome.await?, json).await?
        }
        (Before::Ended(_), false) => send(&runtime, &id, json).await?,
    };
    runtime.close().await;
    Ok(code)
}

/// Tasks of a workflow are retried with it.
fn root(text: &str) -> Result<Id, Error> {
    let key: TaskKey = text.parse()?;
    if key.task.is_some() {
        let text =
            format!("{text} is a task of a workflow; `gleitzeit retry {}` runs what failed of it", key.root);
        return Err(Error::new(Code::InvalidRequest, text));
    }
    Ok(key.root)
}

/// What there is to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// It ended then, and not everything completed.
    Ended(Option<Timestamp>),
    /// Everything completed.
    Done {
        /// Whether it is a workflow.
        is_workflow: bool,
    },
}

impl Before {
    /// Looks whether it can be retried.
    ///
    /// # Errors
    /// It is not known, has not ended, has nothing that could run again, or the results that the rest needs
    /// are gone.
    pub(super) async fn look(store: &Arc<dyn Store>, id: &Id) -> Result<Before, Error> {
        match follow::look(store, &TaskKey::alone(id.clone())).await? {
            None => Err(unknown(id.as_str())),
            Some(Seen::Task(task)) if !task.state.is_ended() => Err(not_ended(id, task.state.name())),
            Some(Seen::Task(task)) if task.state == TaskState::Completed => {
                Ok(Before::Done { is_workflow: false })
            }
            // What was cancelled may never have been taken in: nobody has its parameters.
            Some(Seen::Task(task)) if task.state == TaskState::Cancelled => {
                Err(nothing_kept(id, task.state.name(), "submit it again"))
            }
            Some(Seen::Task(task)) => Ok(Before::Ended(task.ended_at)),
            Some(Seen::Workflow(workflow)) if !workflow.state.is_ended() => {
                Err(not_ended(id, workflow.state.name()))
            }
            Some(Seen::Workflow(workflow)) => {
                match (workflow.state, failed(&workflow).is_empty()) {
                    (WorkflowState::Completed, true) => return Ok(Before::Done { is_workflow: true }),
                    // Refused, or ended before it was taken in.
                    (state, true) => return Err(nothing_kept(id, state.name(), "run the file again")),
                    (_, false) => {}
                }
                results_are_kept(store, &workflow).await?;
                Ok(Before::Ended(workflow.ended_at))
            }
        }
    }
}

fn not_ended(id: &Id, state: &str) -> Error {
    let text =
        format!("{id} is {state}: only what has ended can be retried; `gleitzeit watch {id}` follows it");
    Error::new(Code::WorkflowInvalidState, text)
}

fn nothing_kept(id: &Id, state: &str, instead: &str) -> Error {
    let text = format!("{id} is {state}, and nothing of it is kept that could run again; {instead}");
    Error::new(Code::WorkflowInvalidState, text)
}

/// The tasks that did not complete. A skipped one was not to run.
fn failed(workflow: &WorkflowRecord) -> Vec<Id> {
    let failed = workflow.tasks.iter().filter(|task| match task.state {
        TaskState::Failed | TaskState::Cancelled | TaskState::Expired => true,
        TaskState::Completed
        | TaskState::Skipped
        | TaskState::Accepted
        | TaskState::Waiting
        | TaskState::Queued
        | TaskState::Delayed
        | TaskState::Running => false,
    });
    failed.map(|task| task.head.key.id().clone()).collect()
}

/// Results live as long as the workflow's document, which is never left out. While that is there, so are they.
async fn results_are_kept(store: &Arc<dyn Store>, workflow: &WorkflowRecord) -> Result<(), Error> {
    if store.outcome(&workflow.id).await?.is_some() {
        return Ok(());
    }
    let again = again_with(workflow);
    let kept = workflow.tasks.iter().filter(|task| task.state == TaskState::Completed);
    let kept: Vec<Id> =
        kept.map(|task| task.head.key.id().clone()).filter(|id| !again.contains(id)).collect();
    let results = store.results(&workflow.id, &kept).await?;
    let gone: Vec<&str> =
        kept.iter().zip(&results).filter(|(_, result)| result.is_none()).map(|(id, _)| id.as_str()).collect();
    if gone.is_empty() {
        return Ok(());
    }
    let shown = gone.iter().take(5).copied().collect::<Vec<&str>>().join(", ");
    let text = format!(
        "{} cannot be retried: the results of {} tasks that completed ({shown}) are not kept any more; run the file again",
        workflow.id,
        gone.len()
    );
    Err(Error::new(Code::WorkflowInvalidState, text))
}

/// What failed, and what depends on that by any number of steps: each edge is looked at once.
fn again_with(workflow: &WorkflowRecord) -> HashSet<Id> {
    let mut dependents: HashMap<&Id, Vec<&Id>> = HashMap::new();
    for task in &workflow.tasks {
        for (on, _) in &task.dependencies {
            dependents.entry(on).or_default().push(task.head.key.id());
        }
    }
    let mut open = failed(workflow);
    let mut again: HashSet<Id> = open.iter().cloned().collect();
    while let Some(id) = open.pop() {
        for dependent in dependents.get(&id).into_iter().flatten() {
            if again.insert((*dependent).clone()) {
                open.push((*dependent).clone());
            }
        }
    }
    again
}

/// Nothing failed, so everything that was asked for is there already.
async fn done(runtime: &Runtime, id: &Id, is_workflow: bool, wait: bool, json: bool) -> Result<u8, Error> {
    print::note(&format!("nothing to retry: {id} is completed"));
    let key = TaskKey::alone(id.clone());
    let ended = if wait { runtime.client().reader().ended(&key).await? } else { None };
    match ended {
        Some(ended) => watch::show(&ended, &key, json),
        None if json => print::json(&follow::without_result(&key, "completed", is_workflow)),
        None => {}
    }
    Ok(0)
}

async fn send(runtime: &Runtime, id: &Id, json: bool) -> Result<u8, Error> {
    runtime.client().retry(id).await?;
    if runtime.is_embedded() {
        // Nobody else may be there to take the command, so this process does.
        runtime.coordinator().work_off(&Queue::Workflows).await?;
    }
    let hint = if runtime.is_embedded() { "resume" } else { "watch" };
    print::note(&format!("retry of {id} is accepted: gleitzeit {hint} {id}"));
    if json {
        print::json(&json!({"retried": id}));
    }
    Ok(0)
}

/// Waits until a worker has taken the command, then follows the new run to its end. `ended_at` is when the
/// run before ended: as long as that stands, the document is the old one.
pub(super) async fn again(
    store: &Arc<dyn Store>,
    signals: &Signals,
    id: &Id,
    ended_at: Option<Timestamp>,
    timeout: Option<Duration>,
) -> Result<Outcome, Error> {
    let key = TaskKey::alone(id.clone());
    let started = Instant::now();
    let taken = async {
        let mut changes = store.follow(id).await?;
        let mut is_told = false;
        loop {
            let now = match follow::look(store, &key).await? {
                Some(Seen::Workflow(workflow)) => workflow.ended_at,
                Some(Seen::Task(task)) => task.ended_at,
                None => return Ok(()),
            };
            if now != ended_at {
                return Ok(());
            }
            tokio::select! {
                // What it is does not matter; a closed store tells nothing, and the next look says so.
                _ = changes.next() => {}
                () = tokio::time::sleep_until(started + TELL_AFTER), if !is_told => {
                    is_told = true;
                    print::note(&format!(
                        "no worker has taken the retry of {id} yet; it is kept, and waits for one"
                    ));
                }
            }
        }
    };
    if let Some(stopped) = follow::before(signals, taken, timeout).await? {
        return Ok(stopped);
    }
    let left = timeout.map(|timeout| timeout.saturating_sub(started.elapsed()));
    follow::to_end(store, signals, &key, Live::joining(), left).await
}

async fn report(runtime: &Runtime, id: &Id, outcome: Outcome, json: bool) -> Result<u8, Error> {
    let work = follow::Work { id, is_workflow: true, cancel: None, json };
    Ok(match follow::end_or_code(runtime, outcome, work).await? {
        Ok(ended) => {
            watch::show(&ended, &TaskKey::alone(id.clone()), json);
            follow::exit_code(&ended)
        }
        Err(code) => code,
    })
}
