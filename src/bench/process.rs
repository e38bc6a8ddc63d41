//! Measured processes: started, read from `/proc`, stopped; never left behind.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::error::BenchError;

/// The kernel's unit of processor time in `/proc`: 1/100 s on every Linux that we run on (USER_HZ).
const TICKS_PER_SECOND: u64 = 100;

/// How much of what a process says is kept, in bytes.
const SAID_BYTES_MAX: usize = 8 * 1024;

/// How long a process may take to end after SIGTERM; workers end what runs within their grace.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// How the bench starts its own program again: the same configuration, whether it came from flags, from a
/// file or from the environment.
#[derive(Debug, Clone)]
pub struct Program {
    /// The binary.
    pub path: PathBuf,
    /// Options that come before the command.
    pub options: Vec<String>,
    /// What is set in its environment. Passwords go this way, never through the arguments.
    pub environment: Vec<(String, String)>,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    /// Processor time of all its threads, user and system. Resolution 10 ms.
    pub(super) cpu: Duration,
    /// The most memory it ever held.
    pub(super) memory_peak_bytes: u64,
}

/// A running process. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Child {
    command: String,
    process: tokio::process::Child,
    /// One task: keeps the end of what the process says on stderr.
    said: JoinSet<Vec<u8>>,
}

impl Program {
    /// Starts the program with this command.
    pub(super) fn start(&self, arguments: &[&str]) -> Result<Child, BenchError> {
        let command = format!("gleitzeit {}", arguments.join(" "));
        let failed = |reason: String| BenchError::Process { command: command.clone(), reason };
        let mut starting = Command::new(&self.path);
        starting.args(&self.options).args(arguments);
        for (name, value) in &self.environment {
            // A file named in our own environment would win over the value.
            starting.env(name, value).env_remove(format!("{name}_FILE"));
        }
        starting.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = starting.spawn().map_err(|error| failed(error.to_string()))?;
        let mut said = JoinSet::new();
        if let Some(stderr) = process.stderr.take() {
            said.spawn(last_words(stderr));
        }
        Ok(Child { command, process, said })
    }
}

impl Child {
    /// What it has used so far.
    ///
    /// # Errors
    /// The process has ended; the error tells what it said.
    pub(super) async fn usage(&mut self) -> Result<Usage, BenchError> {
        self.still_runs().await?;
        let pid = self.process.id().ok_or_else(|| self.failed("has ended".to_owned()))?;
        usage(&pid.to_string()).ok_or_else(|| self.failed(format!("/proc/{pid} cannot be read")))
    }

    /// # Errors
    /// The process has ended; the error tells what it said.
    pub(super) async fn still_runs(&mut self) -> Result<(), BenchError> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(status).await),
            Err(error) => Err(self.failed(error.to_string())),
        }
    }

    /// Asks it to end, and waits until it has.
    pub(super) async fn stop(mut self) -> Result<(), BenchError> {
        use nix::sys::signal::{Signal, kill};
        use nix::unistd::Pid;
        let pid = self.process.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            // If it ended by itself meanwhile, waiting tells how.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        match tokio::time::timeout(STOP_TIMEOUT, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.ended(status).await),
            Ok(Err(error)) => Err(self.failed(error.to_string())),
            Err(_) => Err(self.failed(format!("did not end within {} s of SIGTERM", STOP_TIMEOUT.as_secs()))),
        }
    }

    /// Waits for its end, and gives what it wrote to stdout.
    pub(super) async fn output(mut self) -> Result<Vec<u8>, BenchError> {
        let mut written = Vec::new();
        if let Some(mut stdout) = self.process.stdout.take() {
            stdout.read_to_end(&mut written).await.map_err(|error| self.failed(error.to_string()))?;
        }
        let status = self.process.wait().await.map_err(|error| self.failed(error.to_string()))?;
        if status.success() { Ok(written) } else { Err(self.ended(status).await) }
    }

    async fn ended(&mut self, status: ExitStatus) -> BenchError {
        let said = self.said.join_next().await.and_then(Result::ok).unwrap_or_default();
        self.failed(format!("{status}: {}", String::from_utf8_lossy(&said).trim()))
    }

    fn failed(&self, reason: String) -> BenchError {
        BenchError::Process { command: self.command.clone(), reason }
    }
}

/// What this process itself has used so far.
pub(super) fn own_usage() -> Result<Usage, BenchError> {
    usage("self").ok_or_else(|| BenchError::Process {
        command: "gleitzeit bench".to_owned(),
        reason: "/proc/self cannot be read; the bench needs Linux".to_owned(),
    })
}

fn usage(process: &str) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    Some(Usage { cpu: cpu(&stat)?, memory_peak_bytes: memory_peak(&status)? })
}

/// Fields 14 and 15 of `/proc/PID/stat` (proc_pid_stat(5)). The name in field 2 may hold anything, so counting
/// begins after its closing parenthesis.
fn cpu(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / TICKS_PER_SECOND))
}

fn memory_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Reads to the end, so that the process never waits for us, and keeps the last part.
async fn last_words(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut kept = VecDeque::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        kept.extend(&buffer[..length]);
        let surplus = kept.len().saturating_sub(SAID_BYTES_MAX);
        kept.drain(..surplus);
    }
    kept.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<Child, BenchError> {
        let program = Program {
            path: "/bin/sh".into(),
            options: vec!["-c".into(), script.into()],
            environment: vec![],
        };
        program.start(&["worker"])
    }

    #[test]
    fn what_a_process_used_is_read_from_proc() {
        let stat = "565 (a) b) R 544 544 22608 0 -1 4194304 101 0 0 0 150 25 0 0 20 0 1 0 384258 3133440";
        assert_eq!(cpu(stat), Some(Duration::from_millis(1750)));
        assert_eq!(memory_peak("VmPeak:\t  9 kB\nVmHWM:\t    2236 kB\n"), Some(2236 * 1024));
        assert!(own_usage().is_ok_and(|own| own.memory_peak_bytes > 0));
    }

    #[tokio::test]
    async fn a_process_that_ends_too_early_is_told_with_its_last_words() {
        let mut child = shell("echo no queue >&2; exit 4").expect("a shell");
        let error = loop {
            match child.still_runs().await {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("exit status: 4") && error.contains("no queue"), "{error}");
    }

    #[tokio::test]
    async fn a_process_is_asked_to_end_before_it_is_made_to() {
        let child = shell("trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done");
        let mut child = child.expect("a shell");
        let mut ready = [0; 5];
        child.process.stdout.as_mut().expect("a pipe").read_exact(&mut ready).await.expect("its output");
        assert_eq!(child.stop().await, Ok(()));
    }
}
