//! Limits of a process, and its end with the worker's.
//!
//! Both are set before the program begins, by small programs of util-linux which then become it: `prlimit` sets
//! limits, `setpriv` has the kernel kill the process when the thread that started it ends, however the worker dies. So
//! that this thread lives as long as it should, [`Confined`] has one of its own. `unshare` takes the network away
//! (`offline`).
//!
//! Where `setpriv` is not there, a worker that is killed leaves its processes to notice that their standard input has
//! ended. Where `prlimit` is not there, limits are refused rather than left out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use super::{LaunchError, Program, SEARCH_PATH, offline};
use crate::core::code::Code;
use crate::core::failure::Failure;

/// How long `setpriv` may take to show that it works, on a machine that has much else to do.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// What each process may use; `None`: as much as the worker itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Data memory in bytes (`RLIMIT_DATA`): what it allocates; of each process of the group by itself.
    pub memory_bytes: Option<u64>,
    /// Processor time in seconds over its whole life (`RLIMIT_CPU`).
    pub cpu_seconds: Option<u64>,
    /// Processes and threads of the worker's user altogether (`RLIMIT_NPROC`); not enforced for root.
    pub processes: Option<u64>,
    /// Open descriptors (`RLIMIT_NOFILE`).
    pub open_files: Option<u64>,
    /// It has no network.
    pub is_offline: bool,
}

impl Limits {
    fn arguments(&self) -> Vec<OsString> {
        let limits = [("data", self.memory_bytes), ("nproc", self.processes), ("nofile", self.open_files)];
        let set = limits.into_iter().filter_map(|(name, limit)| Some(format!("--{name}={}", limit?)));
        // A second more before SIGKILL, so that SIGXCPU tells why it ended.
        let cpu = self.cpu_seconds.map(|limit| format!("--cpu={limit}:{}", limit.saturating_add(1)));
        set.chain(cpu).map(OsString::from).collect()
    }
}

/// Starts one program as often as is asked, each process under the same limits. Dropped, the kernel kills what is left.
#[derive(Debug)]
pub(in crate::provider) struct Confined {
    program: Program,
    starts: mpsc::Sender<Start>,
}

/// To start what, with which standard input, and whom to tell.
#[derive(Debug)]
struct Start {
    program: Program,
    stdin: Stdio,
    told: oneshot::Sender<Result<Newborn, LaunchError>>,
}

/// A process that nobody has taken yet. Dropped, as when who has asked for it goes away, it is killed with all that it
/// has started, and reaped.
#[derive(Debug)]
struct Newborn(Option<Child>);

impl Confined {
    /// Finds out what this machine can do.
    ///
    /// # Errors
    /// `PROVIDER_INITIALIZATION_FAILED`: limits are wanted that this machine cannot set. `RESOURCE_EXHAUSTED`: no thread.
    pub(in crate::provider) async fn new(program: Program, limits: &Limits) -> Result<Confined, Failure> {
        let program = confined(program, limits).await?;
        let (starts, wanted) = mpsc::channel();
        let name = "gleitzeit-starts".to_owned();
        std::thread::Builder::new().name(name).spawn(move || start_all(&wanted)).map_err(|error| {
            Failure::new(Code::ResourceExhausted, format!("no thread can be started: {error}"))
        })?;
        Ok(Confined { program, starts })
    }

    /// Starts it once.
    pub(in crate::provider) async fn start(
        &self,
        environment: Vec<(String, String)>,
        stdin: Stdio,
    ) -> Result<Child, LaunchError> {
        let (told, child) = oneshot::channel();
        let mut program = self.program.clone();
        program.environment.extend(environment);
        // The thread ends after the last sender only.
        let _ = self.starts.send(Start { program, stdin, told });
        let newborn =
            child.await.unwrap_or(Err(LaunchError::Lost("the thread that starts processes has ended")));
        newborn.map(Newborn::taken)
    }
}

/// The program behind those that confine it.
async fn confined(mut program: Program, limits: &Limits) -> Result<Program, Failure> {
    let arguments = limits.arguments();
    if !arguments.is_empty() {
        let Some(prlimit) = helper("prlimit") else {
            let message = "limits need the program prlimit of util-linux, which is not there: install it";
            return Err(Failure::new(Code::ProviderInitializationFailed, message));
        };
        // No core dumps: they hold what the process knew.
        program = program.behind(prlimit, arguments.into_iter().chain([OsString::from("--core=0")]));
    }
    if let Some(setpriv) = helper("setpriv")
        && is_able(&setpriv).await
    {
        program = program.behind(setpriv, ["--pdeathsig", "KILL"].map(OsString::from));
    }
    // Before the others: the kernel may forget who is to be killed when a process gets other rights.
    if limits.is_offline { offline(program).await } else { Ok(program) }
}

/// The life of the thread that starts processes. Who does not wait any more has no use for a process.
fn start_all(wanted: &mpsc::Receiver<Start>) {
    while let Ok(Start { program, stdin, told }) = wanted.recv() {
        if told.is_closed() {
            continue;
        }
        // Where it goes away in this moment, the newborn is dropped: here, or with the message that nobody takes.
        let _ = told.send(program.spawn(stdin).map(|child| Newborn(Some(child))));
    }
}

impl Newborn {
    fn taken(mut self) -> Child {
        self.0.take().expect("it is taken once")
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        let Some(child) = &mut self.0 else { return };
        // It leads a group of its own, whose number is its own until it is reaped.
        let _ = i32::try_from(child.id()).map(|leader| killpg(Pid::from_raw(leader), Signal::SIGKILL));
        let _ = child.kill();
        // A process that is killed at its beginning ends within a moment.
        let _ = child.wait();
    }
}

pub(super) fn helper(name: &str) -> Option<PathBuf> {
    let mut folders = SEARCH_PATH.split(':');
    folders.find_map(|folder| Some(Path::new(folder).join(name)).filter(|path| path.is_file()))
}

/// Whether this `setpriv` has the option: not every one does.
async fn is_able(setpriv: &Path) -> bool {
    let mut command = tokio::process::Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--", "true"]).env_clear().env("PATH", SEARCH_PATH);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(PROBE_TIMEOUT, command.status()).await;
    ended.is_ok_and(|status| status.is_ok_and(|status| status.success()))
}
