//! Running the real binary.

use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The repository, which examples are relative to.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The binary with a state file of its own and nothing of the caller's configuration.
#[derive(Debug)]
pub(crate) struct Embedded {
    folder: tempfile::TempDir,
}

impl Embedded {
    pub(crate) fn new() -> Embedded {
        Embedded { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a file in a temporary folder");
        path.to_string_lossy().into_owned()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = gleitzeit(args);
        command.arg("--state").arg(self.path("state.db"));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("the binary starts"))
    }
}

/// The binary, in the repository, with nothing of the caller's configuration.
pub(crate) fn gleitzeit(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gleitzeit"));
    command.args(args).current_dir(root()).stdin(Stdio::null());
    forget_configuration(&mut command);
    command.env("XDG_CONFIG_HOME", "/nonexistent");
    command
}

/// Takes whatever configures the caller's own out of the command's environment.
pub(crate) fn forget_configuration(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GLEITZEIT_") {
            command.env_remove(name);
        }
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The one JSON document on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// The document of one task of a workflow document.
#[track_caller]
pub(crate) fn task<'a>(document: &'a Value, id: &str) -> &'a Value {
    let tasks = document["tasks"].as_array().expect("a workflow document has tasks");
    tasks.iter().find(|task| task["id"] == id).unwrap_or_else(|| panic!("no task {id} in {document}"))
}

/// After so long something hangs, however busy the machine is. It is no bound of the product.
const HANGS: Duration = Duration::from_secs(240);

/// Waits until `done` says so; fails when it hangs.
#[track_caller]
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < HANGS, "waited {HANGS:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A child that does not outlive its test.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// SIGTERM, and the exit code after everything has been settled.
    pub(crate) fn drain(&mut self) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a child of ours");
        self.0.wait().expect("it ends").code()
    }

    /// `kill -9`
    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("a child of ours can be killed");
        self.0.wait().expect("a killed child ends");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
