//! `status`, `result`, `list`, `cancel`: looking at work, and ending it.

use serde_json::{Value, json};
use std::io::BufRead;

use super::args;
use super::follow;
use super::print;
use super::progress::task_line;
use super::run::seconds;
use crate::client::Client;
use crate::config::Config;
use crate::core::code::Code;
use crate::core::id::{Id, TaskKey};
use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::{Filter, TaskRecord, WorkflowRecord};
use crate::topology::Queue;

/// `gleitzeit status ID`
pub(crate) async fn status(config: Config, args: args::Status, json: bool) -> Result<u8, Error> {
    let key: TaskKey = args.id.parse()?;
    let runtime = Runtime::open(config, None).await?;
    let workflow = if key.task.is_none() { runtime.store.workflow(&key.root).await? } else { None };
    let task = if workflow.is_none() { runtime.store.task(&key).await? } else { None };
    runtime.close().await;
    match (workflow, task) {
        (Some(workflow), _) if json => print::json(&workflow_json(&workflow)),
        (Some(workflow), _) => print_workflow(&workflow),
        (None, Some(task)) if json => print::json(&task_json(&task)),
        (None, Some(task)) => print_task(&task),
        (None, None) => return Err(unknown(&args.id)),
    }
    Ok(0)
}

/// `gleitzeit list`
pub(crate) async fn list(config: Config, args: args::List, json: bool) -> Result<u8, Error> {
    let runtime = Runtime::open(config, None).await?;
    let found = runtime.store.list(&Filter { state: args.status, limit: args.limit }).await?;
    runtime.close().await;
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
        print::line(&format!(
            "{:<36}  {:<9}  {}  {:<20}  {}",
            row.id, row.state, row.created_at, kind, row.name
        ));
    }
    if found.is_empty() {
        print::note("nothing yet");
    }
    Ok(0)
}

/// `gleitzeit cancel ID...`
pub(crate) async fn cancel(config: Config, args: args::Cancel, json: bool) -> Result<u8, Error> {
    let ids = args.ids.iter().map(|text| Id::parse(text)).collect::<Result<Vec<Id>, _>>()?;
    let runtime = Runtime::open(config, None).await?;
    let client = runtime.client();
    for id in &ids {
        client.cancel(id).await?;
        if !json {
            print::note(&format!("cancel of {id} is accepted"));
        }
    }
    if runtime.is_embedded() {
        // Nobody else may be there to take the command, so this process does.
        runtime.worker().await?.work_off(&Queue::Workflows).await?;
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
    let runtime = Runtime::open(config, None).await?;
    let client = runtime.client();
    let deadline = timeout.map(|timeout| tokio::time::Instant::now() + timeout);
    let (mut worst, mut documents) = (0, Vec::new());
    for key in &keys {
        let found = match fetch(&runtime, &client, key, args.wait, deadline).await? {
            Found::Ended(ended) => {
                worst = worst.max(follow::exit_code(&ended));
                follow::document(&ended, key.id())
            }
            Found::Open(state) => {
                worst = worst.max(if args.wait { 6 } else { 1 });
                json!({"id": key.to_string(), "status": state, "result": null})
            }
            Found::Unknown => {
                worst = worst.max(7);
                print::note(&format!("error: {}", unknown(&key.to_string())));
                json!({"id": key.to_string(), "status": "unknown", "result": null})
            }
        };
        match (json, found.get("tasks").is_some()) {
            (true, _) => documents.push(found),
            (false, true) => super::run::show(&found, false),
            (false, false) => super::call::show(&found, false),
        }
    }
    runtime.close().await;
    if json {
        let one = documents.len() == 1 && args.ids != ["-"];
        print::json(&if one { documents.remove(0) } else { Value::Array(documents) });
    }
    Ok(worst)
}

enum Found {
    Ended(crate::client::Ended),
    Open(String),
    Unknown,
}

async fn fetch(
    runtime: &Runtime,
    client: &Client,
    key: &TaskKey,
    wait: bool,
    deadline: Option<tokio::time::Instant>,
) -> Result<Found, Error> {
    if key.task.is_some() {
        let document = runtime.store.result(key).await?;
        let state = runtime.store.task(key).await?.map(|task| task.state);
        return Ok(match (document, state) {
            (Some(document), Some(state)) => {
                Found::Ended(crate::client::Ended { state: state.to_string(), document: Some(document) })
            }
            (None, Some(state)) if state.is_ended() => {
                Found::Ended(crate::client::Ended { state: state.to_string(), document: None })
            }
            (_, Some(state)) => Found::Open(state.to_string()),
            (_, None) => Found::Unknown,
        });
    }
    if let Some(ended) = client.ended(&key.root).await? {
        return Ok(Found::Ended(ended));
    }
    if wait {
        let left = deadline.map(|at| at.saturating_duration_since(tokio::time::Instant::now()));
        // An id that nobody has seen may belong to a message that no worker has taken yet: wait for it too.
        return Ok(match client.wait(&key.root, left).await? {
            Some(ended) => Found::Ended(ended),
            None => Found::Open("running".to_owned()),
        });
    }
    if let Some(workflow) = runtime.store.workflow(&key.root).await? {
        return Ok(Found::Open(workflow.state.to_string()));
    }
    let task = runtime.store.task(key).await?;
    Ok(task.map_or(Found::Unknown, |task| Found::Open(task.state.to_string())))
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

fn unknown(id: &str) -> Error {
    let code = if id.contains('/') { Code::TaskNotFound } else { Code::WorkflowNotFound };
    Error::new(code, format!("nothing is known of {id}: never seen here, or its record has expired"))
}

fn print_workflow(workflow: &WorkflowRecord) {
    let done = workflow.tasks.iter().filter(|task| task.state.is_ended()).count();
    let head = format!(
        "{}  {}  {:?}  {done}/{} ended",
        workflow.id,
        workflow.state,
        workflow.name,
        workflow.tasks.len()
    );
    print::line(&head);
    for task in &workflow.tasks {
        let mut line = format!("  {}", task_line(task));
        if !task.dependencies.is_empty() {
            let names: Vec<&str> = task.dependencies.iter().map(Id::as_str).take(8).collect();
            line.push_str(&format!("  ◂ {}", names.join(", ")));
        }
        print::line(&line);
    }
}

fn print_task(task: &TaskRecord) {
    print::line(&format!("{}  {}", task.head.key, task_line(task)));
    for entry in &task.history {
        let entry: Value = serde_json::from_str(entry).unwrap_or_default();
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
        let attempt = entry.get("attempt").map(Value::to_string).unwrap_or_default();
        print::line(&format!(
            "  attempt {attempt}: {} {} by {} at {}",
            text("status"),
            text("code"),
            text("worker_id"),
            text("ended_at")
        ));
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
        "dependencies": task.dependencies,
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
