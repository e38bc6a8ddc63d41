//! `python/v1`: runs Python in a child process per task.
//!
//! ```text
//! dialect   what to run: parameters ─▶ one payload            (knows Python, no processes)
//! launch    how to run it: a process, its group, its end      (knows processes, no Python)
//! outcome   what it means: end + report ─▶ answer or failure
//! runner.py the other end of the socket, inside the child
//! ```
//! There is **no isolation** here: the code has the rights of the worker's user. A process of its own, in a
//! group of its own, with an empty environment and bounds on time and output protects against accidents, not
//! against malice; each answer says so (`metadata.sandbox.level` is `none`).
//!
//! Nothing outlives its task or its worker: the group is killed when the child ends, is cancelled, times out
//! or floods, and the kernel kills it when the worker's end of the socket closes, however the worker died. A
//! process that leaves the group (`setsid`) escapes; `limits` are a courtesy that it keeps.

mod capture;
mod dialect;
mod interpreter;
mod launch;
mod outcome;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use self::dialect::{Method, Request};
pub use self::interpreter::{Interpreter, VERSION_MIN};
use self::launch::{Job, Launcher};
use self::outcome::Bounds;
use super::process::{self, Program};
use super::{Answer, CallCx, Health, Provider};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::protocol::ProtocolId;

/// The other end, as text for `python -c`.
const RUNNER: &str = include_str!("runner.py");
/// What a report needs beside the result: a traceback, a message.
const REPORT_BYTES: usize = 256 * 1024;
/// The largest payload, in bytes: a task and the results that it refers to.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How `python/v1` works here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The provider's name.
    pub name: String,
    /// The interpreter: a path, or a name to be found on `search_path`.
    pub interpreter: PathBuf,
    /// Where an interpreter given by name is looked for, as in `PATH`.
    pub search_path: OsString,
    /// The processes' working directory, which relative files are relative to; `None`: the worker's.
    pub directory: Option<PathBuf>,
    /// Put before Python's own module path, so that `function` and `imports` find an operator's modules.
    pub module_paths: Vec<PathBuf>,
    /// The folders that `file` may lie in; empty: anywhere.
    pub read_paths: Vec<PathBuf>,
    /// The processes' whole environment; nothing is inherited. A task's own variables are added inside.
    pub environment: BTreeMap<String, String>,
    /// Whether installed packages (site-packages) can be imported.
    pub site: bool,
    /// What each process may use.
    pub limits: Limits,
    /// How much of each stream is kept, in bytes: its beginning and its end.
    pub output_bytes_max: usize,
    /// How much a process may print altogether, in bytes, before it is killed.
    pub flood_bytes: u64,
    /// The largest answer, in bytes of JSON.
    pub result_bytes_max: usize,
}

/// Limits of each process by `setrlimit`; `None`: the worker's own. Core dumps are always off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Data memory, in bytes, per process.
    pub memory_bytes: Option<u64>,
    /// Processor time, in seconds.
    pub cpu_seconds: Option<u64>,
    /// The largest file that a process may write, in bytes.
    pub file_bytes: Option<u64>,
    /// Open descriptors.
    pub open_files: Option<u64>,
    /// Processes and threads of the worker's user altogether, not of this task; not enforced for root.
    pub processes: Option<u64>,
    /// It has no network.
    pub is_offline: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        let path = "/usr/local/bin:/usr/bin:/bin";
        let environment = [("PATH", path), ("LANG", "C.UTF-8")];
        Settings {
            name: "python".to_owned(),
            interpreter: PathBuf::from("python3"),
            search_path: OsString::from(path),
            directory: None,
            module_paths: Vec::new(),
            read_paths: Vec::new(),
            environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            site: true,
            limits: Limits::default(),
            output_bytes_max: 1024 * 1024,
            flood_bytes: 16 * 1024 * 1024,
            result_bytes_max: 4 * 1024 * 1024,
        }
    }
}

/// The provider of `python/v1`.
#[derive(Debug)]
pub struct Python {
    protocol: ProtocolId,
    settings: Settings,
    /// There from `start` to `stop`.
    launcher: Mutex<Option<Arc<Launcher>>>,
}

impl Python {
    /// A provider that is not started yet.
    #[must_use]
    pub fn new(settings: Settings) -> Python {
        let protocol = "python/v1".parse().expect("a protocol's name");
        Python { protocol, settings, launcher: Mutex::new(None) }
    }

    fn launcher(&self) -> Option<Arc<Launcher>> {
        // A poisoned lock still holds a whole value: it is only ever replaced.
        self.launcher.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace_launcher(&self, launcher: Option<Launcher>) -> Option<Arc<Launcher>> {
        let mut slot = self.launcher.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *slot, launcher.map(Arc::new))
    }

    fn program(&self, interpreter: &Interpreter) -> Program {
        // -I: no PYTHON* variables, no working directory or user's packages on the module path. -u: what was
        // printed is out before a kill.
        let mut args = vec!["-I", "-B", "-u", "-X", "utf8"];
        if !self.settings.site {
            args.push("-S");
        }
        args.extend(["-c", RUNNER]);
        Program {
            path: interpreter.path.clone(),
            args: args.into_iter().map(OsString::from).collect(),
            environment: self.settings.environment.clone(),
            directory: self.settings.directory.clone(),
        }
    }

    fn job(&self, cx: &CallCx, task: Map<String, Value>, timeout: Duration) -> Result<Job, Failure> {
        let payload = self.payload(task);
        if payload.len() > PAYLOAD_BYTES_MAX {
            let message = format!("the parameters have {} bytes; at most {PAYLOAD_BYTES_MAX}", payload.len());
            return Err(Failure::new(Code::TaskTooLarge, message));
        }
        Ok(Job {
            payload,
            timeout,
            cancel: cx.cancel.clone(),
            output: cx.output.clone(),
            frame_bytes_max: self.settings.result_bytes_max + REPORT_BYTES,
            output_bytes_max: self.settings.output_bytes_max,
            flood_bytes: self.settings.flood_bytes,
        })
    }

    fn payload(&self, mut task: Map<String, Value>) -> Vec<u8> {
        let limits = self.settings.limits;
        let module_paths: Vec<_> =
            self.settings.module_paths.iter().map(|path| path.to_string_lossy()).collect();
        task.insert("module_paths".to_owned(), json!(module_paths));
        task.insert("result_bytes_max".to_owned(), self.settings.result_bytes_max.into());
        task.insert(
            "limits".to_owned(),
            json!({
                "memory_bytes": limits.memory_bytes, "cpu_seconds": limits.cpu_seconds, "file_bytes": limits.file_bytes,
                "open_files": limits.open_files, "processes": limits.processes,
            }),
        );
        Value::Object(task).to_string().into_bytes()
    }

    /// Makes sure that the script lies where scripts may lie.
    async fn admit(&self, request: &mut Request) -> Result<(), Failure> {
        let Some(file) = request.file() else { return Ok(()) };
        if self.settings.read_paths.is_empty() {
            return Ok(());
        }
        let named = match &self.settings.directory {
            Some(directory) => directory.join(file),
            None => PathBuf::from(file),
        };
        let unreadable = |what: String| Failure::new(Code::FileUnreadable, format!("file {file:?} {what}"));
        let found = tokio::fs::canonicalize(&named).await;
        let path = found.map_err(|error| unreadable(format!("cannot be read: {error}")))?;
        for folder in &self.settings.read_paths {
            // A folder that is not there admits nothing.
            if tokio::fs::canonicalize(folder).await.is_ok_and(|folder| path.starts_with(folder)) {
                request.set_file(&path);
                return Ok(());
            }
        }
        Err(unreadable("lies outside of the folders that python/v1 may read here (read_paths)".to_owned()))
    }
}

#[async_trait]
impl Provider for Python {
    fn name(&self) -> &str {
        &self.settings.name
    }

    fn protocol(&self) -> &ProtocolId {
        &self.protocol
    }

    fn serves(&self, method: &str) -> bool {
        Method::parse(method).is_some()
    }

    async fn start(&self) -> Result<(), Failure> {
        if self.launcher().is_some() {
            return Ok(());
        }
        let found = Interpreter::find(&self.settings.interpreter, &self.settings.search_path).await?;
        let (major, minor) = found.version;
        let path = found.path.display();
        tracing::info!(provider = self.name(), %path, version = %format!("{major}.{minor}"), sandbox = "none", "python found");
        let mut program = self.program(&found);
        if self.settings.limits.is_offline {
            program = process::offline(program).await?;
        }
        self.replace_launcher(Some(Launcher::new(program)));
        Ok(())
    }

    async fn call(&self, cx: &CallCx, method: &str, params: Value) -> Result<Answer, Failure> {
        let Some(method) = Method::parse(method) else {
            return Err(Failure::new(Code::MethodNotSupported, format!("python/v1 has no method {method}")));
        };
        let Some(launcher) = self.launcher() else {
            return Err(Failure::new(Code::SystemNotInitialized, "python/v1 is not started here"));
        };
        let mut request = Request::read(method, params)?;
        self.admit(&mut request).await?;
        let timeout = request.timeout.map_or(cx.timeout, |timeout| timeout.min(cx.timeout));
        let job = self.job(cx, request.task, timeout)?;
        let bounds = Bounds {
            timeout,
            result_bytes_max: self.settings.result_bytes_max,
            flood_bytes: self.settings.flood_bytes,
        };
        match launcher.run(job).await {
            Ok(ended) => outcome::judge(method, &ended, bounds),
            Err(error) => Err(outcome::not_launched(&error)),
        }
    }

    async fn health(&self) -> Health {
        match self.launcher() {
            Some(_) => Health::Up,
            None => Health::Down("not started".to_owned()),
        }
    }

    async fn stop(&self) {
        if let Some(launcher) = self.replace_launcher(None) {
            launcher.stop().await;
        }
    }
}
