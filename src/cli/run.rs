//! `run` and `submit`: workflow files.

use serde_json::Value;
use std::path::Path;
use std::time::Duration;

use super::args;
use super::follow::{self, Outcome};
use super::print;
use super::progress::Progress;
use super::signals::Signals;
use crate::config::Config;
use crate::core::code::Code;
use crate::core::id::{Id, TaskKey};
use crate::core::protocol::Protocols;
use crate::core::workflow::{self, Format, Refused, Workflow};
use crate::error::Error;
use crate::runtime::{Role, Runtime};

/// `gleitzeit run FILE`
pub(crate) async fn run(config: Config, args: args::Run, json: bool) -> Result<u8, Error> {
    let protocols = Runtime::protocols(&config)?;
    let (document, workflow) = load(&args.file, &protocols)?;
    let id = workflow_id(args.id.as_deref(), &workflow)?;
    let timeout = seconds(args.timeout)?;
    let runtime = Runtime::open(config.clone(), Role::Client, Some(&id)).await?;
    let signals = Signals::listen();
    mention_unfinished(&runtime, &id).await;
    let shown = Progress::new(&workflow.name, workflow.tasks.len());
    let outcome = follow::with_worker(&runtime, async {
        runtime.client().submit_workflow(&document, &id).await?;
        print::note(&format!("workflow {:?} is {id}", workflow.name));
        follow::workflow(&runtime, &signals, &id, shown, timeout).await
    })
    .await;
    let code = match outcome? {
        Outcome::Ended(ended) => {
            let document = follow::document(&ended, &TaskKey::alone(id));
            if let Some(path) = &args.output {
                write_output(path, &document)?;
            }
            show(&document, json);
            follow::exit_code(&ended)
        }
        Outcome::TimeOver => {
            show_unfinished(&runtime, &id, json).await?;
            6
        }
        Outcome::Interrupted(signal) => {
            if args.cancel_on_exit {
                follow::cancel(&runtime, config, &id).await?;
            }
            show_unfinished(&runtime, &id, json).await?;
            128 + signal
        }
    };
    runtime.close().await;
    Ok(code)
}

async fn show_unfinished(runtime: &Runtime, id: &Id, json: bool) -> Result<(), Error> {
    let state = follow::unfinished(runtime, id, true).await?;
    if json {
        print::json(&state);
    }
    Ok(())
}

/// `gleitzeit submit FILE`
pub(crate) async fn submit(config: Config, args: args::Submit, json: bool) -> Result<u8, Error> {
    let protocols = Runtime::protocols(&config)?;
    let (document, workflow) = load(&args.file, &protocols)?;
    let id = workflow_id(args.id.as_deref(), &workflow)?;
    let runtime = Runtime::open(config, Role::Client, None).await?;
    runtime.client().submit_workflow(&document, &id).await?;
    if json {
        print::json(&serde_json::json!({"workflow_id": id, "name": workflow.name, "status": "accepted"}));
    } else {
        print::line(id.as_str());
    }
    if runtime.is_embedded() {
        print::note("queued in the state file; `gleitzeit worker` or `gleitzeit resume` executes it");
    }
    runtime.close().await;
    Ok(0)
}

/// Reads and checks a workflow file; warnings go to stderr.
fn load(path: &Path, protocols: &Protocols) -> Result<(Value, Workflow), Error> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::new(Code::FileUnreadable, format!("cannot read {}: {error}", path.display()))
    })?;
    let Some(format) = Format::of_file(&path.to_string_lossy()) else {
        let text = format!("{}: a workflow file ends in .yaml, .yml or .json", path.display());
        return Err(Error::new(Code::InvalidRequest, text));
    };
    let refused = |refused: Refused| {
        let failure = refused.located(&text, format).failure();
        let failure = failure.with("file", path.display().to_string());
        let message = format!("{}: {}", path.display(), failure.message);
        Error { code: failure.code, message, details: failure.details }
    };
    let document = workflow::load(&text, format).map_err(refused)?;
    let workflow = Workflow::read(document.clone(), protocols).map_err(refused)?;
    for warning in &workflow.warnings {
        print::note(&format!("warning: {}: {warning}", path.display()));
    }
    Ok((document, workflow))
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

fn write_output(path: &Path, document: &Value) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(document).unwrap_or_default() + "\n";
    std::fs::write(path, text).map_err(|error| {
        Error::new(Code::FileUnreadable, format!("cannot write {}: {error}", path.display()))
    })
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
            Some(error) => format!("[{}] {}", text(error, "name"), text(error, "message")),
            None => print::brief(main_value(task.get("result").unwrap_or(&Value::Null)), 200),
        };
        print::line(&format!("{}: {shown}", text(task, "id")));
    }
    let done = tasks.iter().filter(|task| text(task, "status") == "completed").count();
    let status = text(document, "status");
    print::note(&format!("{status}: {done} of {} tasks completed", tasks.len()));
}

/// What a person wants to see of a result: the value of Python code or of a tool, not the keys around it.
fn main_value(result: &Value) -> &Value {
    result.get("result").or_else(|| result.get("response")).unwrap_or(result)
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
