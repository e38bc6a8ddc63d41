//! `batch`: one task for each file of a directory, and what came of each.
//!
//! ```text
//! flags --document--> batch document --files--> workflow --run--> results by file --> JSON, CSV, Markdown, table
//! ```
//! A batch is a workflow like any other: `status`, `watch`, `result` and `retry` know it by its id. `--resume`
//! takes it up again: what has not ended goes on, what failed runs again, and the results are of all files.

pub(super) mod files;

use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use super::args;
use super::follow::{self, Outcome};
use super::live::{Live, Seen};
use super::load;
use super::look::unknown;
use super::output::{self, Row, Shape};
use super::print;
use super::retry::{self, Before};
use super::run::seconds;
use super::signals::Signals;
use crate::client::Ended;
use crate::config::Config;
use crate::core::code::Code;
use crate::core::id::{Id, TaskKey};
use crate::core::state::WorkflowState;
use crate::core::template::escape;
use crate::core::workflow::{Batch, Refused, Sources, Strictness, Workflow};
use crate::error::Error;
use crate::runtime::{Role, Runtime};
use crate::store::Store;

/// `gleitzeit batch`
pub(crate) async fn batch(config: Config, args: args::Batch, json: bool) -> Result<u8, Error> {
    let shape = args.output.as_deref().map(Shape::of_new).transpose()?;
    let timeout = seconds(args.timeout)?;
    let start = match &args.resume {
        Some(id) => Start::Again(Id::parse(id)?),
        None => Start::new(&config, &args)?,
    };
    let id = start.id().clone();
    let runtime = Runtime::open(config, Role::Client, Some(&id)).await?;
    let signals = Signals::listen();
    let outcome = follow::with_worker(&runtime, async {
        match &start {
            Start::New { document, .. } => {
                runtime.client().submit_workflow(document, &id).await?;
                print::note(&format!("batch {id}: {} files", tasks_of(document).len()));
                follow::to_end(&runtime.store, &signals, &TaskKey::alone(id.clone()), Live::new(), timeout)
                    .await
            }
            Start::Again(_) => take_up(&runtime, &signals, &id, timeout).await,
        }
    });
    let code = match outcome.await? {
        Outcome::Ended(ended) => {
            let report = Report::of(&runtime.store, &start, &ended).await?;
            if let (Some(path), Some(shape)) = (&args.output, shape) {
                output::write(path, &report.text(shape))?;
            }
            report.show(json);
            follow::exit_code(&ended)
        }
        Outcome::TimeOver => unfinished(&runtime, &id, json, 6).await?,
        Outcome::Interrupted(signal) => unfinished(&runtime, &id, json, 128 + signal).await?,
    };
    runtime.close().await;
    Ok(code)
}

/// What is to be run.
enum Start {
    /// A new batch.
    New {
        /// Its id.
        id: Id,
        /// The workflow.
        document: Value,
        /// The files, in the order of the tasks.
        files: Vec<String>,
        /// What was asked for, for the result.
        parameters: Value,
    },
    /// One that was begun before.
    Again(Id),
}

impl Start {
    fn new(config: &Config, args: &args::Batch) -> Result<Start, Error> {
        let protocols = Runtime::protocols(config)?;
        let mut sources = Sources::default();
        let (document, parameters) = document(args, &mut sources)?;
        let named = args.template.as_deref().unwrap_or(Path::new("batch"));
        let refused = |refused: Refused| load::refused(named, refused.located(&sources));
        let batch =
            Batch::prepare(document, BTreeMap::new(), Strictness::Warn, &protocols).map_err(refused)?;
        let files = files::list(&batch.directory, &batch.pattern)?;
        let mut document = batch.workflow(&files).map_err(refused)?;
        name_by_file(&mut document, &files);
        let (document, _) = Workflow::prepare(document, BTreeMap::new(), Strictness::Warn, &protocols)
            .map_err(|wrong| refused(batch.in_template(wrong)))?;
        load::warn(named, &batch.warnings, &sources);
        let id = Id::parse(&format!("batch-{}", Runtime::new_id()))?;
        Ok(Start::New { id, document, files, parameters })
    }

    fn id(&self) -> &Id {
        match self {
            Start::New { id, .. } | Start::Again(id) => id,
        }
    }
}

/// The batch document that the flags stand for, and what was asked for.
fn document(args: &args::Batch, sources: &mut Sources) -> Result<(Value, Value), Error> {
    let directory = args.directory.as_deref().unwrap_or_default();
    let mut parameters = Map::new();
    parameters.insert("directory".to_owned(), directory.into());
    parameters.insert("pattern".to_owned(), args.pattern.as_str().into());
    let mut template = match (&args.prompt, &args.script, &args.template) {
        (Some(prompt), _, _) => {
            parameters.insert("prompt".to_owned(), prompt.as_str().into());
            let method = if args.vision { "llm/vision" } else { "llm/chat" };
            // A prompt is text, whatever is in it.
            object(json!({"method": method, "messages": [{"role": "user", "content": escape(prompt)}]}))
        }
        (None, Some(script), _) => {
            parameters.insert("script".to_owned(), script.as_str().into());
            object(json!({"method": "python/execute", "file": escape(script)}))
        }
        (None, None, Some(path)) => {
            parameters.insert("template".to_owned(), path.to_string_lossy().into());
            let (template, text, format) = load::document(path)?;
            sources.add("template", &path.to_string_lossy(), text, format);
            object(template)
        }
        (None, None, None) => {
            let text = "what to do with each file? give --prompt, --script or --template";
            return Err(Error::new(Code::InvalidRequest, text));
        }
    };
    if let Some(model) = &args.model {
        parameters.insert("model".to_owned(), model.as_str().into());
        template.insert("model".to_owned(), model.as_str().into());
    }
    if args.vision {
        parameters.insert("vision".to_owned(), true.into());
    }
    let name = format!("Batch of {}", Path::new(directory).join(&args.pattern).display());
    let mut document = object(json!({
        "name": name.chars().take(crate::core::task::NAME_CHARACTERS_MAX).collect::<String>(),
        "type": "batch",
        "batch": {"directory": directory, "pattern": args.pattern},
    }));
    let method = template.get("method").and_then(Value::as_str);
    if let (None, Some((protocol, _))) =
        (template.get("protocol"), method.and_then(|method| method.split_once('/')))
    {
        document.insert("protocol".to_owned(), format!("{protocol}/v1").into());
    }
    if let Some(max) = args.max_parallel {
        document.insert("max_parallel".to_owned(), max.into());
    }
    document.insert("template".to_owned(), Value::Object(template));
    Ok((Value::Object(document), Value::Object(parameters)))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// The record keeps names, so that another process can tell which task was for which file.
fn name_by_file(document: &mut Value, files: &[String]) {
    let tasks = document.get_mut("tasks").and_then(Value::as_array_mut);
    for (task, file) in tasks.into_iter().flatten().zip(files) {
        let fits = file.chars().count() <= crate::core::task::NAME_CHARACTERS_MAX;
        if let Some(members) = task.as_object_mut().filter(|_| fits) {
            members.insert("name".to_owned(), file.as_str().into());
        }
    }
}

fn tasks_of(document: &Value) -> &[Value] {
    document.get("tasks").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Goes on with what has not ended, then runs again what failed, once.
async fn take_up(
    runtime: &Runtime,
    signals: &Signals,
    id: &Id,
    timeout: Option<Duration>,
) -> Result<Outcome, Error> {
    let key = TaskKey::alone(id.clone());
    match follow::look(&runtime.store, &key).await? {
        Some(Seen::Workflow(workflow)) if !workflow.state.is_ended() => {
            let started = Instant::now();
            let outcome = follow::to_end(&runtime.store, signals, &key, Live::joining(), timeout).await?;
            match &outcome {
                // Not what somebody has cancelled meanwhile.
                Outcome::Ended(ended) if ended.state == WorkflowState::Failed.name() => {
                    let left = timeout.map(|timeout| timeout.saturating_sub(started.elapsed()));
                    what_failed(runtime, signals, id, left).await
                }
                Outcome::Ended(_) | Outcome::TimeOver | Outcome::Interrupted(_) => Ok(outcome),
            }
        }
        Some(Seen::Workflow(_)) => what_failed(runtime, signals, id, timeout).await,
        Some(Seen::Task(_)) => {
            Err(Error::new(Code::InvalidRequest, format!("{id} is a single task, no batch")))
        }
        None => Err(unknown(id.as_str())),
    }
}

async fn what_failed(
    runtime: &Runtime,
    signals: &Signals,
    id: &Id,
    timeout: Option<Duration>,
) -> Result<Outcome, Error> {
    match Before::look(&runtime.store, id).await? {
        Before::Ended(ended_at) => {
            runtime.client().retry(id).await?;
            retry::again(&runtime.store, signals, id, ended_at, timeout).await
        }
        Before::Done { .. } => {
            print::note("nothing failed: these are the results");
            let key = TaskKey::alone(id.clone());
            follow::to_end(&runtime.store, signals, &key, Live::joining(), timeout).await
        }
    }
}

async fn unfinished(runtime: &Runtime, id: &Id, json: bool, code: u8) -> Result<u8, Error> {
    let state = runtime.client().reader().state(&TaskKey::alone(id.clone())).await?;
    let status = state.map_or("accepted", |state| state.name);
    print::note(&format!("batch {id} is {status}: gleitzeit batch --resume {id}"));
    if json {
        print::json(&json!({"batch_id": id, "status": status, "results": {}}));
    }
    Ok(code)
}

/// What came of a batch.
struct Report {
    document: Value,
    facts: Vec<(&'static str, String)>,
    rows: Vec<Row>,
}

impl Report {
    async fn of(store: &Arc<dyn Store>, start: &Start, ended: &Ended) -> Result<Report, Error> {
        let id = start.id();
        let workflow = follow::document(ended, &TaskKey::alone(id.clone()));
        let (mut rows, mut seen) = (Vec::new(), HashSet::new());
        for (index, task) in tasks_of(&workflow).iter().enumerate() {
            let name = match start {
                Start::New { files, .. } => files.get(index).map(String::as_str),
                Start::Again(_) => None,
            };
            let own = task.get("name").and_then(Value::as_str).unwrap_or_default();
            let name = name.unwrap_or_else(|| own.strip_prefix("Process ").unwrap_or(own));
            // A batch from a file has the names of its files without their folders.
            let id_of_task = task.get("id").and_then(Value::as_str).unwrap_or_default();
            let name = if seen.insert(name.to_owned()) { name } else { id_of_task };
            rows.push(match output::whole(store, id, task).await? {
                Some(task) => output::row(&task, name),
                None => output::row(task, name),
            });
        }
        let parameters = match start {
            Start::New { parameters, .. } => parameters.clone(),
            Start::Again(_) => json!({}),
        };
        Ok(Report::assemble(id, &workflow, rows, parameters))
    }

    fn assemble(id: &Id, workflow: &Value, rows: Vec<Row>, parameters: Value) -> Report {
        let successful = rows.iter().filter(|row| row.status == "completed").count();
        let skipped = rows.iter().filter(|row| row.status == "skipped").count();
        let failed = rows.len() - successful - skipped;
        let time = processing_time(workflow);
        let created_at = workflow.get("created_at").cloned().unwrap_or_default();
        let mut results = Map::new();
        for row in &rows {
            let result = match (row.status.as_str(), &row.error) {
                ("completed", _) => json!({"status": "success", "content": row.content}),
                ("skipped", _) => json!({"status": "skipped"}),
                (state, error) => json!({"status": "error", "error": error.as_deref().unwrap_or(state)}),
            };
            results.insert(row.name.clone(), result);
        }
        let document = json!({
            "batch_id": id,
            "status": workflow.get("status"),
            "created_at": created_at,
            "summary": {
                "total": rows.len(), "successful": successful, "failed": failed, "skipped": skipped,
                "processing_time": time,
            },
            "parameters": parameters,
            "results": results,
        });
        let facts = vec![
            ("batch", id.to_string()),
            ("created", created_at.as_str().unwrap_or_default().to_owned()),
            ("files", rows.len().to_string()),
            ("successful", successful.to_string()),
            ("failed", failed.to_string()),
            ("skipped", skipped.to_string()),
            ("processing time", time.map_or_else(String::new, |time| format!("{time:.2} s"))),
        ];
        Report { document, facts, rows }
    }

    fn text(&self, shape: Shape) -> String {
        shape.text("Batch results", &self.facts, &self.rows, &self.document)
    }

    fn show(&self, json: bool) {
        if json {
            return print::json(&self.document);
        }
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).min(60);
        for row in &self.rows {
            // What to do about an error stands at its end.
            let (content, characters_max) = match &row.error {
                Some(error) => (Value::from(error.as_str()), 1000),
                None => (row.content.clone(), 200),
            };
            let name = print::printable(&row.name);
            let line =
                format!("{name:<width$}  {:<9}  {}", row.status, print::brief(&content, characters_max));
            print::line(line.trim_end());
        }
        let facts =
            |name: &str| self.facts.iter().find(|(fact, _)| *fact == name).map_or("", |(_, value)| value);
        let (files, failed) = (facts("files"), facts("failed"));
        let skipped = match facts("skipped") {
            "0" => String::new(),
            skipped => format!("{skipped} skipped, "),
        };
        print::note(&format!(
            "{files} files: {} successful, {failed} failed, {skipped}{}",
            facts("successful"),
            facts("processing time")
        ));
        if failed != "0" {
            print::note(&format!("run again what failed: gleitzeit batch --resume {}", facts("batch")));
        }
    }
}

/// From its beginning to its end, in seconds.
fn processing_time(workflow: &Value) -> Option<f64> {
    let time = |key: &str| workflow.get(key)?.as_str()?.parse::<crate::core::clock::Timestamp>().ok();
    Some(time("ended_at")?.since(time("created_at")?).as_secs_f64())
}
