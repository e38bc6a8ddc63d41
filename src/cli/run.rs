//! `run` and `submit`: workflow files.

use serde_json::Value;
use std::time::Duration;

use super::args;
use super::follow;
use super::graph;
use super::live::Live;
use super::load;
use super::output::{self, Shape};
use super::pieces::Pieces;
use super::print;
use super::signals::Signals;
use super::when::{self, When};
use crate::config::Config;
use crate::core::clock::{Clock, Timestamp};
use crate::core::code::Code;
use crate::core::id::{Id, TaskKey};
use crate::core::workflow::Workflow;
use crate::error::Error;
use crate::runtime::{Role, Runtime, clock::SystemClock};

/// `gleitzeit run FILE`
pub(crate) async fn run(config: Config, args: args::Run, json: bool) -> Result<u8, Error> {
    let shape = args.output.as_deref().map(Shape::of_new).transpose()?;
    let protocols = Runtime::protocols(&config)?;
    let (mut document, workflow) = load::workflow(&args.source, &protocols)?;
    let id = workflow_id(args.id.as_deref(), &workflow)?;
    let not_before = timed(&args.when, &mut document, &workflow)?;
    let timeout = seconds(args.timeout)?;
    let runtime = Runtime::open(config.clone(), Role::Client, Some(&id)).await?;
    let signals = Signals::listen();
    mention_unfinished(&runtime, &id).await;
    let key = TaskKey::alone(id.clone());
    let outcome = follow::with_worker(&runtime, async {
        runtime.client().submit_workflow_at(&document, &id, not_before).await?;
        print::note(&format!("workflow {:?} is {id}{}", workflow.name, starts(not_before)));
        if !args.follow {
            return follow::to_end(&runtime.store, &signals, &key, Live::new(), timeout).await;
        }
        let live = Live::new().without_picture();
        let work = follow::to_end(&runtime.store, &signals, &key, live, timeout);
        Box::pin(Pieces::new(&runtime.store, &key, true, json).beside(work)).await
    })
    .await;
    let cancel = args.cancel_on_exit.then_some(config);
    let work = follow::Work { id: &id, is_workflow: true, cancel, json };
    let code = match follow::end_or_code(&runtime, outcome?, work).await? {
        Ok(ended) => {
            let document = follow::document(&ended, &key);
            if let (Some(path), Some(shape)) = (&args.output, shape) {
                output::write(path, &whole_text(&runtime, shape, &id, &document).await?)?;
            }
            show(&document, json);
            follow::exit_code(&ended)
        }
        Err(code) => code,
    };
    runtime.close().await;
    Ok(code)
}

/// `gleitzeit submit FILE`
pub(crate) async fn submit(config: Config, args: args::Submit, json: bool) -> Result<u8, Error> {
    let protocols = Runtime::protocols(&config)?;
    let (mut document, workflow) = load::workflow(&args.source, &protocols)?;
    let id = workflow_id(args.id.as_deref(), &workflow)?;
    let not_before = timed(&args.when, &mut document, &workflow)?;
    let runtime = Runtime::open(config, Role::Client, None).await?;
    runtime.client().submit_workflow_at(&document, &id, not_before).await?;
    if json {
        print::json(&serde_json::json!({"workflow_id": id, "name": workflow.name, "status": "accepted"}));
    } else {
        print::line(id.as_str());
    }
    if runtime.is_embedded() {
        let starts = starts(not_before);
        print::note(&format!(
            "queued in the state file{starts}; `gleitzeit worker` or `gleitzeit resume` executes it"
        ));
    }
    runtime.close().await;
    Ok(0)
}

/// `gleitzeit graph FILE`
pub(crate) fn graph(config: &Config, args: &args::Graph, json: bool) -> Result<u8, Error> {
    let protocols = Runtime::protocols(config)?;
    let (_, workflow) = load::workflow(&args.source, &protocols)?;
    let (format, text) = match args.format {
        args::Picture::Mermaid => ("mermaid", graph::mermaid(&workflow)),
        args::Picture::Dot => ("dot", graph::dot(&workflow)),
    };
    if json {
        print::json(&serde_json::json!({"name": workflow.name, "format": format, "graph": text}));
    } else {
        print::bytes(text.as_bytes());
    }
    Ok(0)
}

/// When the workflow is to begin. The end that was given is put into its first tasks.
fn timed(when: &When, document: &mut Value, workflow: &Workflow) -> Result<Option<Timestamp>, Error> {
    let times = when.times(SystemClock.now())?;
    if let Some(end) = times.expires_at {
        when::expire_roots(document, workflow, end);
    }
    Ok(times.not_before)
}

fn starts(not_before: Option<Timestamp>) -> String {
    not_before.map(|start| format!(", and begins at {start}")).unwrap_or_default()
}

/// The id of this run: the flag's, else that of the file's idempotency key, else a new one. An `id` in the
/// file names the workflow, not the run.
fn workflow_id(flag: Option<&str>, workflow: &Workflow) -> Result<Id, Error> {
    match (flag, &workflow.idempotency_key) {
        (Some(text), _) => Ok(Id::parse(text)?),
        (None, Some(key)) => Ok(Id::from_idempotency_key(key)),
        (None, None) => Ok(Runtime::new_id()),
    }
}

/// The text of `--output`.
async fn whole_text(runtime: &Runtime, shape: Shape, id: &Id, document: &Value) -> Result<String, Error> {
    let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let facts = ["workflow_id", "status", "created_at", "ended_at"].map(|key| (key, text(key)));
    let document = output::complete(&runtime.store, id, document).await?;
    Ok(shape.text(&text("name"), &facts, &output::rows(&document), &document))
}

/// The results for a person, or the document for a program.
pub(crate) fn show(document: &Value, json: bool) {
    if json {
        return print::json(document);
    }
    let text =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let tasks = document.get("tasks").and_then(Value::as_array).cloned().unwrap_or_default();
    for task in &tasks {
        let error = task.get("error").filter(|error| !error.is_null());
        let shown = match error {
            Some(error) => {
                format!("[{}] {}", text(error, "name"), print::printable_lines(&text(error, "message")))
            }
            None if output::is_omitted(task) => {
                format!("(see gleitzeit result {}/{})", text(document, "workflow_id"), text(task, "id"))
            }
            None => print::brief(output::main_value(task.get("result").unwrap_or(&Value::Null)), 200),
        };
        print::line(&format!("{}: {shown}", text(task, "id")));
    }
    let done = tasks.iter().filter(|task| text(task, "status") == "completed").count();
    let status = text(document, "status");
    print::note(&format!("{status}: {done} of {} tasks completed", tasks.len()));
}

/// Says which embedded runs were interrupted, so that nobody forgets them.
async fn mention_unfinished(runtime: &Runtime, id: &Id) {
    if !runtime.is_embedded() {
        return;
    }
    let filter = crate::store::Filter { state: None, limit: 100 };
    let Ok(known) = runtime.store.list(&filter).await else { return };
    let open: Vec<String> = known
        .iter()
        .filter(|summary| summary.ended_at.is_none() && summary.id != *id)
        .map(|summary| summary.id.to_string())
        .collect();
    if !open.is_empty() {
        let shown = open.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        print::note(&format!(
            "{} earlier runs have not ended ({shown}); `gleitzeit resume` continues them",
            open.len()
        ));
    }
}

/// A number of seconds from the command line.
pub(crate) fn seconds(value: Option<f64>) -> Result<Option<Duration>, Error> {
    let Some(value) = value else { return Ok(None) };
    match Duration::try_from_secs_f64(value) {
        Ok(duration) if value < 1e9 => Ok(Some(duration)),
        _ => Err(Error::new(Code::InvalidRequest, format!("{value} is not a number of seconds"))),
    }
}
