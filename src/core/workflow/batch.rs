//! Batch documents: one task for each file of a folder.
//!
//! ```yaml
//! type: batch
//! name: Summaries
//! protocol: llm/v1                     # default llm/v1
//! batch: {directory: documents, pattern: "*.txt"}     # pattern: default *; ** for folders in folders
//! template:                            # the parameters of every task, and how it is run
//!   method: llm/chat                   # default llm/chat
//!   model: llama3.2
//!   messages: [{role: user, content: Summarise this file}]
//!   priority: low
//! ```
//! The file comes as `file_path`; as `image_path` for `llm/vision` and a picture; inside `context` for Python.
//! Whoever reads the document lists the files: nothing here looks at a disk.

use serde_json::{Map, Value, json};

use super::WORKFLOW_BYTES_MAX;
use super::problem::{Problems, Refused};
use crate::core::code::Code;
use crate::core::id::ID_BYTES_MAX;
use crate::core::reading::shown;
use crate::core::task::{NAME_CHARACTERS_MAX, Spec};
use crate::core::template::escape;
use crate::core::violation::Warning;

/// Suffixes of pictures.
const IMAGES: [&str; 6] = [".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp"];

/// Keys of a template that say how a task is run; all others are its parameters.
const RUN_KEYS: [&str; 4] = ["critical", "when", "protocol", "retry_config"];

/// A batch document.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Whose files.
    pub directory: String,
    /// Which of them, relative to the directory.
    pub pattern: String,
    /// What its author should know, each at its place in the document; there once it is prepared.
    pub warnings: Vec<Warning>,
    /// `llm/v1`
    protocol: String,
    /// `llm/chat`
    method: String,
    /// The parameters of every task.
    params: Map<String, Value>,
    /// Its other members.
    members: Map<String, Value>,
    /// The template as it was written.
    template: Map<String, Value>,
    /// The rest of the document: a workflow without tasks.
    document: Map<String, Value>,
}

impl Batch {
    /// Whether a document is a batch.
    #[must_use]
    pub fn is_batch(document: &Value) -> bool {
        let has = |key: &str| document.get(key).is_some();
        document.get("type").is_some_and(|kind| kind == "batch")
            || has("batch")
            || (has("template") && !has("tasks"))
    }

    /// Reads the members of a document, after its parameters have been put in; what cannot be read has its default,
    /// so that the rest can be looked at. What it shares with every workflow is read when [`Batch::workflow`] is.
    pub(super) fn of(mut document: Map<String, Value>, problems: &mut Problems) -> Batch {
        document.shift_remove("type");
        if document.contains_key("tasks") {
            add(problems, "tasks", "found in a batch, whose tasks are made", "one of batch and tasks");
        }
        let (directory, pattern) = place(document.shift_remove("batch"), problems);
        let template = match document.shift_remove("template") {
            Some(Value::Object(template)) => template,
            Some(other) => {
                let found = format!("found {}", shown(&other));
                add(problems, "template", found, "a mapping with the parameters of every task");
                Map::new()
            }
            None => {
                let problem = "Batch workflow requires 'template' section to define task parameters";
                add(problems, "template", problem, "a mapping with the parameters of every task");
                Map::new()
            }
        };
        let (mut params, mut members) = divide(template.clone());
        let own = members.shift_remove("protocol");
        let protocol = document.shift_remove("protocol");
        let mut text = |value: Option<Value>, path: &str, default: &str| match value {
            None => default.to_owned(),
            Some(Value::String(text)) => text,
            Some(other) => {
                add(problems, path, format!("found {}", shown(&other)), "text");
                default.to_owned()
            }
        };
        let protocol = text(protocol, "protocol", "llm/v1");
        let protocol = text(own, "template.protocol", &protocol);
        let method = text(params.shift_remove("method"), "template.method", "llm/chat");
        if is_python(&protocol)
            && let Some(context) = params.get("context").filter(|context| !context.is_object())
        {
            let found = format!("found {}", shown(context));
            add(problems, "template.context", found, "a mapping, which gets `file_path`");
        }
        let warnings = Vec::new();
        Batch { directory, pattern, warnings, protocol, method, params, members, template, document }
    }

    /// The workflow with a task for each of these files, in this order. A batch without files is refused.
    ///
    /// # Errors
    /// [`Refused`] if there is no file, or if the tasks would be larger than a workflow may be.
    pub fn workflow(&self, files: &[String]) -> Result<Value, Refused> {
        if files.is_empty() {
            let problem = format!(
                "Workflow must contain at least one task: no file in {} fits {}",
                self.directory, self.pattern
            );
            return Err(Refused::whole(Code::WorkflowValidationFailed, problem, "a pattern that fits files"));
        }
        self.check_size(files)?;
        Ok(Value::Object(self.made_of(files)))
    }

    /// The members of the workflow with a task for each of these files.
    pub(super) fn made_of(&self, files: &[String]) -> Map<String, Value> {
        let mut document = self.document.clone();
        let metadata = document.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(metadata) = metadata {
            metadata.insert("batch".to_owned(), true.into());
            metadata.insert("file_count".to_owned(), files.len().into());
            metadata.insert("directory".to_owned(), self.directory.as_str().into());
            metadata.insert("pattern".to_owned(), self.pattern.as_str().into());
            metadata.insert("template".to_owned(), Value::Object(self.template.clone()));
        }
        let tasks = files.iter().enumerate().map(|(index, file)| self.task(index, file)).collect();
        document.insert("tasks".to_owned(), tasks);
        document
    }

    /// A file that stands for all of them.
    pub(super) fn sample(&self) -> &'static str {
        if self.is_vision() { "file.png" } else { "file" }
    }

    /// The template as it was written.
    pub(super) fn template(&self) -> &Map<String, Value> {
        &self.template
    }

    /// Before the template is copied for each file.
    fn check_size(&self, files: &[String]) -> Result<(), Refused> {
        let template = Value::Object(self.template.clone()).to_string().len();
        let paths: usize = files.iter().map(String::len).sum();
        let bytes = template.saturating_mul(files.len()).saturating_add(paths);
        if bytes <= WORKFLOW_BYTES_MAX {
            return Ok(());
        }
        let problem = format!(
            "the template for {} files has {bytes} bytes; allowed are {WORKFLOW_BYTES_MAX}",
            files.len()
        );
        let allowed = "fewer files: run the batch folder by folder";
        Err(Refused::whole(Code::WorkflowTooLarge, problem, allowed))
    }

    fn task(&self, index: usize, file: &str) -> Value {
        let file_name = file.rsplit('/').next().unwrap_or(file);
        let mut params = self.params.clone();
        // A path is data, whatever characters are in it.
        let path = Value::String(escape(file));
        if is_python(&self.protocol) {
            let context = params.entry("context").or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(context) = context {
                context.insert("file_path".to_owned(), path);
            }
        } else {
            params.insert(self.file_key(file_name).to_owned(), path);
        }
        let name: String = format!("Process {file_name}").chars().take(NAME_CHARACTERS_MAX).collect();
        let mut task = Map::from_iter([
            ("id".to_owned(), Value::String(task_id(index, file_name))),
            ("name".to_owned(), Value::String(name)),
            ("protocol".to_owned(), self.protocol.as_str().into()),
            ("method".to_owned(), self.method.as_str().into()),
            ("params".to_owned(), Value::Object(params)),
        ]);
        for (key, value) in &self.members {
            task.insert(key.clone(), value.clone());
        }
        let metadata = task.entry("metadata").or_insert_with(|| json!({}));
        if let Value::Object(metadata) = metadata {
            metadata.insert("file".to_owned(), file.into());
        }
        Value::Object(task)
    }

    /// The parameter that names the file.
    fn file_key(&self, file_name: &str) -> &'static str {
        let file_name = file_name.to_lowercase();
        let is_image = IMAGES.iter().any(|suffix| file_name.ends_with(suffix));
        if is_image && self.is_vision() { "image_path" } else { "file_path" }
    }

    fn is_vision(&self) -> bool {
        self.method == "llm/vision" || (self.method == "vision" && self.protocol.starts_with("llm/"))
    }
}

fn add(problems: &mut Problems, path: &str, problem: impl Into<String>, allowed: &str) {
    problems.add(Code::WorkflowValidationFailed, path, problem, allowed);
}

fn is_python(protocol: &str) -> bool {
    protocol == "python" || protocol.starts_with("python/")
}

/// The directory and the pattern.
fn place(batch: Option<Value>, problems: &mut Problems) -> (String, String) {
    let mut members = match batch {
        Some(Value::Object(members)) => members,
        None => Map::new(),
        Some(other) => {
            let found = format!("found {}", shown(&other));
            add(problems, "batch", found, "a mapping with `directory` and `pattern`");
            return (String::new(), String::new());
        }
    };
    let directory = match members.shift_remove("directory") {
        Some(Value::String(directory)) if !directory.is_empty() => directory,
        Some(Value::String(_)) | None => {
            let problem = "Batch workflow requires 'batch.directory' to be specified";
            add(problems, "batch.directory", problem, "the path of a folder");
            String::new()
        }
        Some(other) => {
            add(problems, "batch.directory", format!("found {}", shown(&other)), "the path of a folder");
            String::new()
        }
    };
    let pattern = match members.shift_remove("pattern") {
        None => "*".to_owned(),
        Some(Value::String(pattern)) if !pattern.is_empty() => pattern,
        Some(other) => {
            add(
                problems,
                "batch.pattern",
                format!("found {}", shown(&other)),
                "text such as *.txt or **/*.md",
            );
            String::new()
        }
    };
    for key in members.keys() {
        add(problems, &format!("batch.{key}"), "unknown key", "directory, pattern");
    }
    (directory, pattern)
}

/// Whether the key of a template says what is run and how, and is no parameter.
pub(super) fn is_run_key(key: &str) -> bool {
    let of_spec = Spec::KEYS.contains(&key) && key != "name" && key != "params";
    of_spec || RUN_KEYS.contains(&key)
}

/// Parameters, and what says how a task is run.
fn divide(template: Map<String, Value>) -> (Map<String, Value>, Map<String, Value>) {
    let (mut params, mut members) = (Map::new(), Map::new());
    for (key, value) in template {
        match value {
            // Written as in a task.
            Value::Object(inner) if key == "params" || key == "parameters" => params.extend(inner),
            value if key != "method" && is_run_key(&key) => _ = members.insert(key, value),
            value => _ = params.insert(key, value),
        }
    }
    (params, members)
}

/// `process-a-txt-0`: unique by the number, short enough, and of the characters that ids have.
fn task_id(index: usize, file_name: &str) -> String {
    let end = format!("-{index}");
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "_:-".contains(c) { c } else { '-' };
    let start: String = "process-".chars().chain(file_name.chars()).map(allowed).collect();
    start[..start.len().min(ID_BYTES_MAX - end.len())].to_owned() + &end
}
