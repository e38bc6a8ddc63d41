//! What runs is shown while it runs, because the store tells of it, and nobody asks for it in between.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::place::{Place, missing};
use crate::support::{Embedded, Running, forget_configuration, root, until};

/// The sign of a task that runs.
const RUNS: &str = "▶";

/// A command on a terminal, which `script` plays.
struct Terminal {
    running: Running,
    shows: PathBuf,
}

impl Terminal {
    /// `None`, said in a line, where `script` is missing.
    fn open(command: &Command, shows: PathBuf) -> Option<Terminal> {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c", &line.join(" "), "/dev/null"]).current_dir(root());
        forget_configuration(&mut script);
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                script.env(name, value);
            }
        }
        script.env("LC_ALL", "C.UTF-8").env("TERM", "xterm").env("NO_COLOR", "1");
        let output = std::fs::File::create(&shows).expect("a file of ours");
        let Ok(child) = script.stdin(Stdio::null()).stdout(output).spawn() else { return missing("script") };
        Some(Terminal { running: Running(child), shows })
    }

    fn shown(&self) -> String {
        std::fs::read_to_string(&self.shows).unwrap_or_default()
    }

    #[track_caller]
    fn until_it_shows(&self, text: &str) {
        until(&format!("{text:?} on the terminal"), || self.shown().contains(text));
    }

    #[track_caller]
    fn ends_well(mut self) {
        let code = self.running.0.wait().expect("it ends").code();
        assert_eq!(code, Some(0), "{}", self.shown());
    }
}

/// Python that runs until there is such a file.
fn until_there_is(gate: &Path) -> [String; 2] {
    ["import os, time".to_owned(), format!("while not os.path.exists({gate:?}): time.sleep(0.02)")]
}

/// A workflow whose first task runs until there is such a file, while the second one waits for it.
fn waiting_workflow(gate: &Path) -> String {
    let code = until_there_is(gate).join("\n      ");
    format!(
        "name: W\ntasks:\n- id: a\n  method: python/execute\n  params:\n    code: |\n      {code}\n\
         - {{id: b, method: echo/ping, dependencies: [a]}}\n"
    )
}

#[test]
fn a_task_that_runs_is_shown_as_running() {
    let here = Embedded::new();
    let gate = here.path("gate");
    let exec = here.command(&["exec", &until_there_is(&gate).join("\n"), "--id", "t"]);
    let Some(exec) = Terminal::open(&exec, here.path("exec.txt")) else { return };
    exec.until_it_shows(RUNS);
    std::fs::write(&gate, "").expect("a file");
    exec.ends_well();
}

#[test]
fn what_another_process_runs_over_the_same_file_is_shown_as_running() {
    let here = Embedded::new();
    let gate = here.path("gate");
    let file = here.write("w.yaml", &waiting_workflow(&gate));
    here.run(&["submit", &file, "--id", "w"]).expect(0);
    let Some(watch) = Terminal::open(&here.command(&["watch", "w"]), here.path("watch.txt")) else { return };
    watch.until_it_shows("accepted");
    let mut resume = here.command(&["resume", "w"]);
    let resume = resume.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
    let mut resume = Running(resume);
    watch.until_it_shows(RUNS);
    std::fs::write(&gate, "").expect("a file");
    watch.ends_well();
    assert_eq!(resume.0.wait().expect("it ends").code(), Some(0));
}

#[test]
fn over_servers_what_begins_is_shown_and_nothing_is_asked_while_nothing_happens() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let monitored = std::fs::File::create(place.path("monitor.txt")).expect("a file of ours");
    let mut monitor = Command::new("redis-cli");
    monitor.args(["-u", &place.redis, "MONITOR"]).stdin(Stdio::null()).stdout(monitored);
    let _monitor = Running(monitor.spawn().expect("redis-cli comes with the server"));
    let said = || std::fs::read_to_string(place.path("monitor.txt")).unwrap_or_default();
    until("the monitor", || said().starts_with("OK"));
    let count = |text: &str| said().lines().filter(|line| line.contains(text)).count();
    let (beat, of_workflow) = (format!("\"SET\" \"{}:session:", place.prefix), place.key("w", ""));

    let gate = place.path("gate");
    let file = place.write("w.yaml", &waiting_workflow(&gate));
    let run = place.command(&["run", &file, "--id", "w"]);
    let Some(run) = Terminal::open(&run, place.path("run.txt")) else { return };
    run.until_it_shows(RUNS);
    // The worker's beats are the clock. The first is for a look that is still due; then, for five seconds, `a`
    // runs and `b` waits, which once was a reason to look whether it has begun.
    let beats = count(&beat);
    until("a beat", || count(&beat) > beats);
    let asked = count(&of_workflow);
    assert!(asked > 0, "the monitor sees what is asked");
    until("five beats", || count(&beat) > beats + 5);
    assert_eq!(count(&of_workflow), asked, "while nothing happens nothing is asked: {}", said());
    std::fs::write(&gate, "").expect("a file");
    run.ends_well();
    assert!(count(&of_workflow) > asked);
}
