//! Processes of providers: how each is started, and how it ends with everything that it started.
//!
//! ```text
//! Program ─▶ start ─▶ Group (leads a process group of its own) + its pipes
//!                      │ ended: it has ended, and is not reaped yet      kill: SIGKILL to the whole group
//!                      ▼
//!                     reap: its status
//! ```
//! Nothing is inherited: the environment is the program's own and no more, the standard streams are pipes (or what the
//! caller gives), every other descriptor is closed by the kernel.
//!
//! The group never outlives its leader: when that has ended, for whatever reason, what it started is killed. The group
//! is killed *before* the leader is reaped, as its number cannot be given to another process until then. A process that
//! leaves the group (`setsid`) escapes; only namespaces and control groups catch those.

mod confine;
mod memory;
mod offline;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

use crate::core::code::Code;
use crate::core::failure::Failure;

pub(super) use confine::Confined;
pub use confine::Limits;
pub(super) use memory::{forget_peak, group_bytes, peak_bytes};
pub(super) use offline::offline;

/// How long the kernel may take to end a killed process before it is given up.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// Where programs are looked for, and the `PATH` of processes that are given no other.
pub(super) const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A program to start, and its surroundings. Shown without the values of its environment.
#[derive(Clone)]
pub(super) struct Program {
    /// The executable.
    pub(super) path: PathBuf,
    /// Its arguments.
    pub(super) args: Vec<OsString>,
    /// Its whole environment: nothing is inherited.
    pub(super) environment: BTreeMap<String, String>,
    /// Its working directory; `None`: the worker's.
    pub(super) directory: Option<PathBuf>,
}

/// Variables as they may be shown: their names. The values may be secret.
pub(super) struct Names<'a>(pub(super) &'a BTreeMap<String, String>);

/// Why no process could be started, or why its end is not known. In the first two cases it surely did not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    /// The system has no more of something: processes, memory, descriptors.
    #[error("the system has no room for another process: {0}")]
    Exhausted(io::Error),
    /// The program cannot be started.
    #[error("{path} cannot be started: {error}")]
    Program {
        /// What was to be started.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The process was given up: the runtime ends, or a killed process does not die.
    #[error("the run was lost: {0}")]
    Lost(&'static str),
}

/// The worker's ends of a process's standard streams.
#[derive(Debug)]
pub(super) struct Pipes {
    /// `None` where the caller gave something else.
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

/// A process that leads a process group. Dropped, the group is killed.
#[derive(Debug)]
pub(super) struct Group {
    child: Child,
    leader: Pid,
    is_reaped: bool,
}

/// Hears of children that end. It must be there before a child is started, so that no end is missed.
#[derive(Debug)]
pub(super) struct Ends(SignalStream);

impl Ends {
    /// Listens from now on.
    pub(super) fn listen() -> Result<Ends, LaunchError> {
        signal(SignalKind::child()).map(Ends).map_err(LaunchError::Exhausted)
    }
}

impl fmt::Debug for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|name| (name, "***"))).finish()
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Program { path, args, environment, directory } = self;
        let mut shown = f.debug_struct("Program");
        shown.field("path", path).field("args", args).field("environment", &Names(environment));
        shown.field("directory", directory).finish()
    }
}

impl Program {
    /// The same behind another program, which then becomes it.
    pub(super) fn behind(mut self, path: PathBuf, args: impl IntoIterator<Item = OsString>) -> Program {
        let inner = std::mem::replace(&mut self.path, path);
        let mut all: Vec<OsString> = args.into_iter().collect();
        all.extend([OsString::from("--"), inner.into_os_string()]);
        all.append(&mut self.args);
        Program { args: all, ..self }
    }

    /// Starts it, with this as its standard input. Blocks for about a millisecond.
    pub(super) fn spawn(&self, stdin: Stdio) -> Result<Child, LaunchError> {
        let mut command = Command::new(&self.path);
        command.args(&self.args).env_clear().envs(&self.environment).process_group(0);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command.spawn().map_err(|error| not_started(&self.path, error))
    }
}

impl Group {
    /// Takes over a child that [`Program::spawn`] made.
    pub(super) fn of(child: Child) -> Result<(Group, Pipes), LaunchError> {
        let leader = Pid::from_raw(i32::try_from(child.id()).expect("the kernel's numbers are positive i32"));
        let mut group = Group { child, leader, is_reaped: false };
        let lost = || LaunchError::Lost("the child has no pipes");
        let stdin = group.child.stdin.take();
        let stdout = group.child.stdout.take().ok_or_else(lost)?;
        let stderr = group.child.stderr.take().ok_or_else(lost)?;
        let pipes = Pipes {
            stdin: stdin.map(ChildStdin::from_std).transpose().map_err(LaunchError::Exhausted)?,
            stdout: ChildStdout::from_std(stdout).map_err(LaunchError::Exhausted)?,
            stderr: ChildStderr::from_std(stderr).map_err(LaunchError::Exhausted)?,
        };
        Ok((group, pipes))
    }

    /// The number of the process, which is its group's.
    pub(super) fn number(&self) -> i32 {
        self.leader.as_raw()
    }

    /// Returns when the leader has ended, and leaves it unreaped, so that its number stays its own.
    pub(super) async fn ended(&self, ends: &mut Ends) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        loop {
            match waitid(Id::Pid(self.leader), flags) {
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
                // A status, or one that nix cannot name (real-time signals): `reap` reads it.
                Ok(_) | Err(_) => return,
            }
            if ends.0.recv().await.is_none() {
                // The runtime is ending; `drop` does the rest.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Kills the whole group. Must come before `reap`.
    pub(super) fn kill(&self) {
        // ESRCH: nobody is left. The leader is killed by itself too, in case it moved to another group.
        let _ = killpg(self.leader, Signal::SIGKILL);
        let _ = kill(self.leader, Signal::SIGKILL);
    }

    /// Takes the status of a leader that has ended or was killed.
    pub(super) async fn reap(&mut self, ends: &mut Ends) -> Result<ExitStatus, LaunchError> {
        if tokio::time::timeout(KILL_GRACE, self.ended(ends)).await.is_err() {
            return Err(LaunchError::Lost("a killed process does not end"));
        }
        // Returns at once: the leader has ended.
        let status = self.child.wait().map_err(|_| LaunchError::Lost("the child's status is gone"))?;
        self.is_reaped = true;
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.kill();
            // Without waiting: this is the runtime's end or a process that does not die.
            let _ = self.child.try_wait();
        }
    }
}

fn not_started(path: &Path, error: io::Error) -> LaunchError {
    let errno = error.raw_os_error().map(Errno::from_raw);
    match errno {
        Some(Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE) => LaunchError::Exhausted(error),
        _ => LaunchError::Program { path: path.to_owned(), error },
    }
}

/// How a process ended, in words and as facts for a failure's details.
pub(super) fn told(status: ExitStatus) -> (String, &'static str, Value) {
    match status.signal() {
        Some(number) => {
            let name = Signal::try_from(number).map_or("a real-time signal", Signal::as_str);
            (format!("was killed by signal {number} ({name})"), "signal", number.into())
        }
        None => {
            // Without a signal there is a code.
            let code = status.code().unwrap_or(-1);
            (format!("ended with exit code {code}"), "exit_code", code.into())
        }
    }
}

/// Finds an executable as a shell does: a name with `/` is a path, any other is looked for in `search_path`.
///
/// # Errors
/// `PROVIDER_INITIALIZATION_FAILED`: it is not there.
pub(super) fn find(name: &str, search_path: &str, directory: Option<&Path>) -> Result<PathBuf, Failure> {
    let missing = |place: String| {
        let message = format!("{name:?} is not there ({place}); install it, or name it by its whole path");
        Failure::new(Code::ProviderInitializationFailed, message)
    };
    if name.contains('/') {
        let path = directory.map_or_else(|| PathBuf::from(name), |directory| directory.join(name));
        // As an absolute path, since the process is started in its own directory. Links stay: the interpreter of a virtual
        // environment of Python is one, and finds its packages by its own path.
        let found = std::fs::metadata(&path).and_then(|_| std::path::absolute(&path));
        return found.map_err(|error| missing(error.to_string()));
    }
    let mut folders = search_path.split(':').filter(|folder| !folder.is_empty());
    let found = folders.find_map(|folder| Some(Path::new(folder).join(name)).filter(|path| path.is_file()));
    found.ok_or_else(|| missing(format!("looked for in {search_path}")))
}
