//! `status`, `result`, `list`, `cancel`: looking at work, and ending it.

use serde_json::{Value, json};
use std::io::BufRead;
use std::time::Duration;
use tokio::time::Instant;

use super::args;
use super::follow::{self, Outcome};
use super::graph;
use super::print;
use super::run::seconds;
use super::screen;
use super::signals::Signals;
use crate::client::{self, Ended, Reader};
use crate::config::Config;
use crate::core::code::Code;
use crate::core::id::{Id, TaskKey};
use crate::core::near::did_you_mean;
use crate::core::state::{TaskState, WorkflowState};
use crate::error::Error;
use crate::runtime::{Role, Runtime, State};
use crate::store::{Filter, TaskRecord, WorkflowRecord};
use crate::topology::Queue;

/// `gleitzeit status ID`
pub(crate) async fn status(config: Config, args: args::Status, json: bool) -> Result<u8, Error> {
    let key: TaskKey = args.id.parse()?;
    let state = State::open(&config).await?;
    let workflow = if key.task.is_none() { state.store.workflow(&key.root).await? } else { None };
    let task = if workflow.is_none() { state.store.task(&key).await? } else { None };
    state.close().await;
    match (workflow, task) {
        (Some(workflow), _) if json => print::json(&workflow_json(&workflow)),
        (Some(workflow), _) => print::bytes(graph::draw(&workflow, &screen::stdout(args.all)).as_bytes()),
        (None, Some(task)) if json => print::json(&task_json(&task)),
        (None, Some(task)) => print_task(&task),
        (None, None) => return Err(unknown(&args.id)),
    }
    Ok(0)
}

/// `gleitzeit list`
pub(crate) async fn list(config: Config, args: args::List, json: bool) -> Result<u8, Error> {
    if let Some(name) = &args.status {
        known_state(name)?;
    }
    let state = State::open(&config).await?;
    let found = state.store.list(&Filter { state: args.status, limit: args.limit }).await?;
    state.close().await;
    if json {
        let rows: Vec<Value> = found
            .iter()
            .map(|row| {
                json!({
                    "id": row.id,
                    "kind": if row.is_workflow { "workflow" } else { "task" },
                    "name": row.name,
                    "what": row.what,
                    "status": row.state,
                    "created_at": row.created_at,
                    "ended_at": row.ended_at,
                })
            })
            .collect();
        print::json(&Value::Array(rows));
        return Ok(0);
    }
    for row in &found {
        let kind = if row.is_workflow { "workflow" } else { row.what.as_str() };
        let line =
            format!("{:<36}  {:<9}  {}  {:<20}  {}", row.id, row.state, row.created_at, kind, row.name);
        // Names and methods are what producers wrote.
        print::line(&print::printable(&line));
    }
    if found.is_empty() {
        print::note("nothing yet");
    }
    Ok(0)
}

/// Refuses what is the name of no state.
fn known_state(name: &str) -> Result<(), Error> {
    if TaskState::parse(name).is_some() || WorkflowState::parse(name).is_some() {
        return Ok(());
    }
    // Every state of a workflow is also one of a task.
    let known = TaskState::ALL.map(TaskState::name);
    let hint = did_you_mean(name, known);
    let text = format!("--status {name:?} is no state{hint}; known: {}", known.join(", "));
    Err(Error::new(Code::InvalidRequest, text))
}

/// `gleitzeit cancel ID...`
pub(crate) async fn cancel(config: Config, args: args::Cancel, json: bool) -> Result<u8, Error> {
    let ids = args.ids.iter().map(|text| Id::parse(text)).collect::<Result<Vec<Id>, _>>()?;
    let runtime = Runtime::open(config, Role::Client, None).await?;
    let client = runtime.client();
    for id in &ids {
        client.cancel(id).await?;
        if !json {
            print::note(&format!("cancel of {id} is accepted"));
        }
    }
    if runtime.is_embedded() {
        // Nobody else may be there to take the command, so this process does.
        runtime.coordinator().work_off(&Queue::Workflows).await?;
    }
    runtime.close().await;
    if json {
        print::json(&json!({"cancelled": ids}));
    }
    Ok(0)
}

/// `gleitzeit result ID...`
pub(crate) async fn result(config: Config, args: args::ResultArgs, json: bool) -> Result<u8, Error> {
    let keys = read_keys(&args.ids)?;
    let timeout = seconds(args.timeout)?;
    let state = State::open(&config).await?;
    let reader = state.reader();
    let mut patience = Patience::new(args.wait, timeout);
    let (mut worst, mut documents) = (0, Vec::new());
    for key in &keys {
        let (code, document) = match patience.look(&reader, key).await? {
            Found::Ended(ended) => {
                let document = follow::document(&ended, key);
                match (json, ended.is_workflow) {
                    (true, _) => {}
                    (false, true) => super::run::show(&document, false),
                    (false, false) => super::call::show(&document, false),
                }
                (follow::exit_code(&ended), document)
            }
            Found::Open(state) => {
                print::note(&format!("{key} has not ended: {}", state.name));
                let code = if args.wait { 6 } else { 1 };
                (code, follow::without_result(key, state.name, state.is_workflow))
            }
            Found::Unknown => {
                print::note(&format!("error: {}", unknown(&key.to_string())));
                (7, follow::without_result(key, "unknown", false))
            }
        };
        worst = worst.max(code);
        documents.push(document);
    }
    state.close().await;
    if json {
        let one = documents.len() == 1 && args.ids != ["-"];
        print::json(&if one { documents.remove(0) } else { Value::Array(documents) });
    }
    Ok(patience.interrupted.map_or(worst, |signal| 128 + signal))
}

enum Found {
    Ended(Ended),
    Open(client::State),
    Unknown,
}

/// How long to wait for results: for one after the other, until a common deadline or a signal.
struct Patience {
    /// `None`: not at all.
    signals: Option<Signals>,
    deadline: Option<Instant>,
    interrupted: Option<u8>,
}

impl Patience {
    fn new(wait: bool, timeout: Option<Duration>) -> Patience {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        Patience { signals: wait.then(Signals::listen), deadline, interrupted: None }
    }

    /// What became of it, after waiting as long as is left. An id that nobody has seen may belong to a message
    /// that no worker has taken yet: it is waited for too.
    async fn look(&mut self, reader: &Reader, key: &TaskKey) -> Result<Found, Error> {
        if let (Some(signals), None) = (&self.signals, self.interrupted) {
            let left = self.deadline.map(|at| at.saturating_duration_since(Instant::now()));
            match follow::end(reader, signals, key, left).await? {
                Outcome::Ended(ended) => return Ok(Found::Ended(ended)),
                Outcome::TimeOver => {}
                Outcome::Interrupted(signal) => self.interrupted = Some(signal),
            }
        }
        if let Some(ended) = reader.ended(key).await? {
            return Ok(Found::Ended(ended));
        }
        Ok(reader.state(key).await?.map_or(Found::Unknown, Found::Open))
    }
}

fn read_keys(ids: &[String]) -> Result<Vec<TaskKey>, Error> {
    let mut keys = Vec::new();
    for text in ids {
        if text != "-" {
            keys.push(text.parse()?);
            continue;
        }
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|error| {
                Error::new(Code::FileUnreadable, format!("cannot read ids from stdin: {error}"))
            })?;
            if !line.trim().is_empty() {
                keys.push(line.trim().parse()?);
            }
        }
    }
    Ok(keys)
}

pub(super) fn unknown(id: &str) -> Error {
    let code = if id.contains('/') { Code::TaskNotFound } else { Code::WorkflowNotFound };
    Error::new(code, format!("nothing is known of {id}: never seen here, or its record has expired"))
}

fn print_task(task: &TaskRecord) {
    print::line(&format!("{}  {}", task.head.key, graph::task_line(task, &screen::stdout(true))));
    for entry in &task.history {
        let entry: Value = serde_json::from_str(entry).unwrap_or_default();
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
        let attempt = entry.get("attempt").map(Value::to_string).unwrap_or_default();
        let mut line = format!(
            "  attempt {attempt}: {} by {} from {} to {}",
            text("status"),
            text("worker_id"),
            text("started_at"),
            text("ended_at")
        );
        if let Some(error) = entry.get("error").filter(|error| !error.is_null()) {
            let name = error.get("name").and_then(Value::as_str).unwrap_or_default();
            let message = error.get("message").unwrap_or(&Value::Null);
            line.push_str(&format!(": [{name}] {}", print::brief(message, 200)));
        }
        print::line(&print::printable(&line));
    }
}

fn task_json(task: &TaskRecord) -> Value {
    let history: Vec<Value> =
        task.history.iter().filter_map(|entry| serde_json::from_str(entry).ok()).collect();
    json!({
        "id": task.head.key.id(),
        "workflow_id": task.head.key.workflow(),
        "name": task.head.name,
        "protocol": task.head.protocol,
        "method": task.head.method,
        "status": task.state.name(),
        "attempts": task.attempts,
        "crashes": task.crashes,
        "worker_id": task.session,
        "started_at": task.started_at,
        "ended_at": task.ended_at,
        "due": task.due,
        "dependencies": task.dependencies.iter().map(|(id, _)| id).collect::<Vec<_>>(),
        "parent": task.parent,
        "tolerated": task.tolerated,
        "history": history,
    })
}

fn workflow_json(workflow: &WorkflowRecord) -> Value {
    json!({
        "workflow_id": workflow.id,
        "name": workflow.name,
        "status": workflow.state.name(),
        "created_at": workflow.created_at,
        "ended_at": workflow.ended_at,
        "tasks": workflow.tasks.iter().map(task_json).collect::<Vec<Value>>(),
    })
}
