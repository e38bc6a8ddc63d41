//! Providers in other languages, through the real binary: the misbehaving one of `tests/support/provider.py`, and the
//! examples.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::place::{Place, missing};
use crate::support::{Embedded, Ran, Running, root, task, until};

const PROVIDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/provider.py");
const WORDS: &str = include_str!("../support/words.yaml");

/// A state of its own and a configuration with one provider, `command` or `url` among its keys.
fn set_up(keys: &str) -> (Embedded, String) {
    let embedded = Embedded::new();
    let config = configure(&embedded.path("protocols"), "words", WORDS, keys);
    let config = embedded.write("config.toml", &config);
    (embedded, config)
}

/// The text of a configuration with one protocol and one provider for it.
fn configure(folder: &Path, protocol: &str, text: &str, keys: &str) -> String {
    std::fs::create_dir(folder).expect("a folder of ours");
    std::fs::write(folder.join(format!("{protocol}.yaml")), text).expect("written");
    let folder = folder.display();
    format!(
        "[protocols]\nfolder = '{folder}'\n[ollama]\nurl = ''\n[providers.{protocol}]\nkind = 'rpc'\n\
         protocol = '{protocol}/v1'\n{keys}\n"
    )
}

fn command() -> String {
    format!("command = ['python3', '-S', '{PROVIDER}']")
}

fn call(embedded: &Embedded, config: &str, method: &str, params: &Value) -> Ran {
    embedded.run(&["--config", config, "call", "words/v1", method, "--params", &params.to_string(), "--json"])
}

/// A workflow of tasks of words/v1, each `(id, method, params, more)`.
fn workflow(tasks: &[(&str, &str, Value, Value)]) -> String {
    let task = |(id, method, params, more): &(&str, &str, Value, Value)| {
        let mut task = json!({"id": id, "protocol": "words/v1", "method": method, "params": params});
        for (key, value) in more.as_object().expect("an object") {
            task[key] = value.clone();
        }
        task
    };
    json!({"name": "words", "tasks": tasks.iter().map(task).collect::<Vec<_>>()}).to_string()
}

fn pids(file: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.parse().ok()).collect()
}

fn is_running(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    !matches!(state, Some("Z" | "X"))
}

fn kill(pid: i32) {
    // It may have ended.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn calls_go_to_a_program_and_its_errors_are_told_by_our_codes() {
    let (embedded, config) = set_up(&command());
    let params = json!({"text": "\u{e4}\u{1f600}", "big": 12345678901234567890_u64});
    let document = call(&embedded, &config, "echo", &params).expect(0).json();
    assert_eq!((&document["result"], &document["provider_id"]), (&params, &json!("words")));
    for (method, params, code) in [
        ("error", json!({"code": 1, "message": "no such city"}), "TASK_EXECUTION_FAILED"),
        ("error", json!({"code": -32602, "message": "no city"}), "INVALID_PARAMS"),
        ("error", json!({"code": 1, "message": "m", "data": {"code": "FILE_UNREADABLE"}}), "FILE_UNREADABLE"),
        ("error", json!({}), "PROVIDER_ERROR"),
        ("huge", json!({"bytes": 5_000_000}), "RESULT_TOO_LARGE"),
        ("missing", json!({}), "PROVIDER_NOT_AVAILABLE"),
    ] {
        let document = call(&embedded, &config, method, &params).expect(5).json();
        assert_eq!(document["error"]["name"], code, "{document}");
    }
    call(&embedded, &config, "huge", &json!({"bytes": "many"})).expect(2);
}

#[test]
fn a_program_gets_nothing_of_the_workers_environment() {
    let (embedded, config) = set_up(&format!("{}\nenv = {{ REGION = 'eu' }}", command()));
    let mut command = embedded.command(&["--config", &config, "call", "words/v1", "env", "--json"]);
    command.env("AWS_SECRET_ACCESS_KEY", "s3cret").env("PYTHONPATH", "/nonexistent");
    let document = Ran::of(command.output().expect("the binary starts")).expect(0).json();
    let expected = json!({"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "REGION": "eu"});
    assert_eq!(document["result"].as_object(), expected.as_object());
}

#[test]
fn a_program_that_is_killed_in_a_call_is_replaced_and_the_task_tried_again() {
    let (embedded, config) = set_up(&command());
    let note = embedded.path("note");
    let tasks = [
        ("killed", "sleep", json!({"once": true, "note": note}), json!({"retry": {"base_delay": 0.1}})),
        ("always", "die", json!({}), json!({"retry": {"base_delay": 0.01}, "critical": false})),
        ("next", "echo", json!({"n": "${killed.result}"}), json!({"dependencies": ["killed"]})),
    ];
    let file = embedded.write("workflow.json", &workflow(&tasks));
    let run = embedded.command(&["--config", &config, "run", &file, "--json"]);
    let run = piped(run);
    until("the first attempt to begin", || std::fs::read_to_string(&note).is_ok_and(|pid| !pid.is_empty()));
    kill(std::fs::read_to_string(&note).expect("a note").parse().expect("a pid"));
    let document = Ran::of(run.wait_with_output().expect("it ends")).expect(0).json();
    let killed = task(&document, "killed");
    assert_eq!((&killed["status"], &killed["attempts"]), (&json!("completed"), &json!(2)), "{document}");
    let always = task(&document, "always");
    assert_eq!((&always["error"]["name"], &always["attempts"]), (&json!("CONNECTION_LOST"), &json!(3)));
    assert_eq!(always["error"]["details"]["signal"], 9, "{always}");
    assert_eq!(task(&document, "next")["result"], json!({"n": "slept"}));
}

#[test]
fn a_call_that_takes_too_long_is_ended_and_nothing_is_left() {
    let (embedded, config) = set_up(&format!("{}\npool = {{ min = 2 }}", command()));
    let note = embedded.path("note");
    // Enough for both to have begun.
    let late = json!({"timeout": 3, "retry": {"max_attempts": 1}, "critical": false});
    let tasks = [
        ("deaf", "sleep", json!({"note": note}), late.clone()),
        ("obeys", "sleep", json!({"obey": true}), late),
        ("after", "pid", json!({}), json!({"dependencies": []})),
    ];
    let file = embedded.write("workflow.json", &workflow(&tasks));
    let document = embedded.run(&["--config", &config, "run", &file, "--json"]).expect(0).json();
    for id in ["deaf", "obeys"] {
        assert_eq!(task(&document, id)["error"]["name"], "TASK_TIMEOUT", "{document}");
    }
    let pid = std::fs::read_to_string(&note).expect("a note").parse().expect("a pid");
    assert!(!is_running(pid), "it was killed");
}

#[test]
fn programs_end_with_a_worker_that_is_killed() {
    let starts = tempfile::NamedTempFile::new().expect("a file");
    let env = format!("env = {{ STARTS = '{}' }}\npool.min = 2", starts.path().display());
    let (embedded, config) = set_up(&format!("{}\n{env}", command()));
    let mut worker = Running(
        embedded
            .command(&["--config", &config, "worker"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts"),
    );
    until("two processes", || pids(starts.path()).len() == 2);
    worker.kill();
    until("the processes to end", || pids(starts.path()).into_iter().all(|pid| !is_running(pid)));
}

#[test]
fn processes_are_kept_within_what_is_configured() {
    let (embedded, config) = set_up(&format!(
        "{}\npool = {{ max = 1, max_uses = 2 }}\nlimits = {{ memory_mb = 200, files = 64 }}",
        command()
    ));
    let none = || json!({"retry": {"max_attempts": 1}, "critical": false});
    let tasks = [
        ("a", "pid", json!({}), json!({})),
        ("b", "pid", json!({}), json!({"dependencies": ["a"]})),
        ("c", "pid", json!({}), json!({"dependencies": ["b"]})),
        (
            "much",
            "allocate",
            json!({"megabytes": 500}),
            json!({"dependencies": ["c"], "retry": none()["retry"], "critical": false}),
        ),
    ];
    let file = embedded.write("workflow.json", &workflow(&tasks));
    let document = embedded.run(&["--config", &config, "run", &file, "--json"]).expect(0).json();
    let pid = |id| &task(&document, id)["result"];
    assert!(pid("a") == pid("b") && pid("b") != pid("c"), "{document}");
    let much = &task(&document, "much")["error"];
    assert_eq!((&much["name"], &much["details"]["exit_code"]), (&json!("CONNECTION_LOST"), &json!(77)));
}

#[test]
fn processes_of_python_are_kept_within_what_is_configured_too() {
    let embedded = Embedded::new();
    let exec = |code: &str| {
        let mut command = embedded.command(&["exec", code, "--json"]);
        command.env("GLEITZEIT_PYTHON_MEMORY_MB", "200").env("GLEITZEIT_PYTHON_CPU_SECONDS", "1");
        Ran::of(command.output().expect("the binary starts")).expect(5).json()["error"].clone()
    };
    assert_eq!(exec("bytearray(500 << 20)")["details"]["exception"], "MemoryError");
    assert_eq!(exec("while True: pass")["details"]["signal_name"], "SIGXCPU");
}

#[test]
fn a_program_that_cannot_start_says_so_with_its_tasks() {
    let (embedded, config) = set_up(&format!("{}\nenv = {{ START = 'die' }}", command()));
    let document = call(&embedded, &config, "pid", &json!({})).expect(5).json();
    assert_eq!(document["error"]["name"], "PROVIDER_NOT_AVAILABLE");
    let message = document["error"]["message"].as_str().expect("text");
    assert!(message.contains("exit code 3"), "{message}");
    let (embedded, config) = set_up(&command().replace("words", "word"));
    let text = std::fs::read_to_string(&config)
        .expect("ours")
        .replace("protocol = 'words/v1'", "protocol = 'word/v1'");
    let config = embedded.write("wrong.toml", &text);
    let refused = call(&embedded, &config, "pid", &json!({})).expect(2);
    assert!(refused.stderr.contains("there is no protocol word/v1"), "{refused:?}");
}

#[test]
fn a_provider_behind_an_address_is_called_over_http() {
    let (mut server, url) = http_server();
    let (embedded, config) = set_up(&format!("url = '{url}'"));
    let params = json!({"text": "\u{e4}"});
    assert_eq!(call(&embedded, &config, "echo", &params).expect(0).json()["result"], params);
    for (method, params, code) in [
        ("error", json!({"code": 1, "message": "no such city"}), "TASK_EXECUTION_FAILED"),
        ("error", json!({"code": -32602, "message": "no city"}), "INVALID_PARAMS"),
        ("error", json!({}), "PROVIDER_ERROR"),
        ("garbage", json!({}), "PROVIDER_ERROR"),
        ("die", json!({}), "CONNECTION_LOST"),
        ("huge", json!({"bytes": 5_000_000}), "RESULT_TOO_LARGE"),
    ] {
        let document = call(&embedded, &config, method, &params).expect(5).json();
        assert_eq!(document["error"]["name"], code, "{method}: {document}");
    }
    let late = json!({"timeout": 0.5, "retry": {"max_attempts": 1}});
    let file = embedded.write("late.json", &workflow(&[("late", "sleep", json!({"obey": true}), late)]));
    let document = embedded.run(&["--config", &config, "run", &file, "--json"]).expect(5).json();
    assert_eq!(task(&document, "late")["error"]["name"], "TASK_TIMEOUT");
    server.kill();
    let document = call(&embedded, &config, "pid", &json!({})).expect(5).json();
    let message = document["error"]["message"].as_str().expect("text");
    assert!(message.contains("no server listens at"), "{message}");
}

/// The provider over HTTP, and its address.
fn http_server() -> (Running, String) {
    let mut command = Command::new("python3");
    command.args(["-S", PROVIDER, "http"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut server = Running(command.spawn().expect("python3 starts"));
    let mut line = String::new();
    let stdout = server.0.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("its port");
    let port: u16 = line.trim().parse().expect("a port");
    (server, format!("http://127.0.0.1:{port}/"))
}

#[test]
fn the_provider_in_python_serves_its_protocol() {
    serves_text("python3", "python/provider.py");
}

#[test]
fn the_provider_in_node_serves_its_protocol() {
    let Some(node) = node() else { return };
    serves_text(&node, "node/provider.mjs");
}

/// The examples of the protocol through one workflow.
fn serves_text(program: &str, script: &str) {
    let script = root().join("examples/providers").join(script);
    let embedded = Embedded::new();
    let text = std::fs::read_to_string(root().join("examples/providers/text-v1.yaml")).expect("it is there");
    let keys = format!("command = ['{program}', '{}']", script.display());
    let config = configure(&embedded.path("protocols"), "text", &text, &keys);
    let config = embedded.write("config.toml", &config);
    let tasks = json!([
        {"id": "reverse", "protocol": "text/v1", "method": "reverse", "params": {"text": "\u{e4}bc\u{1f600}"}},
        {"id": "count", "protocol": "text/v1", "method": "count", "params": {"text": "to be or not to be", "least": 2}},
        {"id": "fetch", "protocol": "text/v1", "method": "fetch", "params": {"seconds": 0.01}},
        {"id": "spell", "protocol": "text/v1", "method": "spell", "params": {"text": "\u{e4}b"}},
        {"id": "fails", "protocol": "text/v1", "method": "fetch", "critical": false,
         "params": {"seconds": 0, "fail": true}, "retry": {"base_delay": 0.01, "max_attempts": 2}},
        {"id": "late", "protocol": "text/v1", "method": "fetch", "critical": false, "timeout": 0.5,
         "params": {"seconds": 20}, "retry": {"max_attempts": 1}},
    ]);
    let file = embedded.write("w.json", &json!({"name": "text", "tasks": tasks}).to_string());
    let ran = embedded.run(&["--config", &config, "run", &file, "--follow", "--json"]).expect(0);
    let mut lines: Vec<Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let document = lines.pop().expect("the document comes last");
    let of_spell = |line: &&Value| line["task"] == "spell" && line["stream"] == "text";
    let spelled: String = lines.iter().filter(of_spell).filter_map(|line| line["text"].as_str()).collect();
    assert_eq!(
        (spelled.as_str(), &task(&document, "spell")["result"]),
        ("\u{e4}\nb\n", &json!(2)),
        "{ran:?}"
    );
    assert_eq!(task(&document, "reverse")["result"], "\u{1f600}cb\u{e4}", "{document}");
    assert_eq!(task(&document, "count")["result"], json!({"to": 2, "be": 2}));
    assert_eq!(task(&document, "fetch")["result"], Value::Null);
    let fails = task(&document, "fails");
    assert_eq!((&fails["error"]["name"], &fails["attempts"]), (&json!("TASK_EXECUTION_FAILED"), &json!(2)));
    assert!(fails["error"]["details"]["stderr"].as_str().is_some_and(|text| text.contains("attempt 2 of")));
    assert_eq!(task(&document, "late")["error"]["name"], "TASK_TIMEOUT");
}

/// Node by its whole path, as programs are not looked for where a user has put his own.
fn node() -> Option<String> {
    let found = Command::new("sh").args(["-c", "command -v node"]).output().expect("a shell");
    let path = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    if path.is_empty() { missing("node (apt-get install nodejs)") } else { Some(path) }
}

#[test]
fn among_servers_no_task_is_lost_while_processes_are_killed() {
    let Some(place) = Place::new() else { return };
    let starts = place.path("starts");
    let keys = format!("{}\npool = {{ min = 2 }}\nenv = {{ STARTS = '{}' }}", command(), starts.display());
    let config = place.write("config.toml", &configure(&place.path("protocols"), "words", WORDS, &keys));
    place.run(&["--config", &config, "topology", "apply"]).expect(0);
    let _worker = place.worker(&["--config", &config, "--protocol", "words/v1"]);
    until("the processes to start", || pids(&starts).len() >= 2);
    for number in 0..30 {
        let id = format!("t{number}");
        let retry = json!({"max_attempts": 10, "base_delay": 0.05});
        let body = json!({"id": id, "protocol": "words/v1", "method": "sleep", "params": {"seconds": 0.1}, "retry": retry});
        place.publish("gleitzeit.tasks", "words.v1", &body.to_string(), &json!({"message_id": id}));
    }
    for _ in 0..8 {
        pids(&starts).into_iter().filter(|pid| is_running(*pid)).for_each(kill);
        let count = pids(&starts).len();
        until("a process to start again", || pids(&starts).len() > count);
    }
    for number in 0..30 {
        let document = place.result(&format!("t{number}"));
        assert_eq!(
            (&document["status"], &document["result"]),
            (&json!("completed"), &json!("slept")),
            "{document}"
        );
    }
}

/// Starts a command whose output is read at its end.
fn piped(mut command: Command) -> std::process::Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
}

#[test]
fn the_examples_pass_the_suite() {
    let folder = root().join("examples/providers");
    let protocol = folder.join("text-v1.yaml").display().to_string();
    let mut programs = vec![("python3".to_owned(), "python/provider.py")];
    programs.extend(node().map(|node| (node, "node/provider.mjs")));
    for (program, script) in programs {
        let script = folder.join(script).display().to_string();
        let args = ["provider", "conformance", "--json", "--protocol", &protocol, "--", &program, &script];
        let checks = Embedded::new().run(&args).expect(0).json();
        let checks = checks.as_array().expect("a list").clone();
        assert_eq!(checks.len(), 15);
        assert!(checks.iter().all(|check| check["verdict"] == "ok"), "{script}: {checks:?}");
    }
}

#[test]
fn a_provider_that_is_not_as_it_should_be_fails_the_suite() {
    let (embedded, config) = set_up(&command());
    let ran = embedded.run(&["--config", &config, "provider", "conformance", "--name", "words"]).expect(1);
    for line in [
        "ok       introduction      mischief 1, 15 methods",
        "FAILED   protocol          it does not serve missing",
        "skipped  values            there is no $/echo",
        "ok       unknown method    is refused",
        "ok       crash while idle",
    ] {
        assert!(ran.stdout.contains(line), "{line} in {}", ran.stdout);
    }
    let ran = embedded.run(&["provider", "conformance", "--", "true"]).expect(1);
    assert!(ran.stdout.starts_with("FAILED   introduction"), "{}", ran.stdout);
    let refused = embedded.run(&["provider", "conformance", "--name", "other"]).expect(2);
    assert!(refused.stderr.contains("no provider \"other\""), "{}", refused.stderr);
    let (_server, url) = http_server();
    let ran = embedded.run(&["provider", "conformance", "--url", &url]).expect(0);
    for line in [
        "skipped  crash while idle  only for processes that we start",
        "skipped  examples          no examples: nothing was called",
        "skipped  cancel            no examples: there is nothing to call",
    ] {
        assert!(ran.stdout.contains(line), "{line} in {}", ran.stdout);
    }
}

#[test]
fn the_page_that_teaches_it_is_true() {
    let page = std::fs::read_to_string(root().join("docs/provider-in-any-language.md")).expect("it is there");
    let embedded = Embedded::new();
    std::fs::create_dir(embedded.path("protocols")).expect("a folder of ours");
    let files = [
        ("yaml", "protocols/text-v1.yaml", "name: text"),
        ("python", "provider.py", "import json"),
        ("toml", "gleitzeit.toml", "[protocols]"),
    ];
    for (language, name, first) in files {
        let begin = format!("```{language}\n# {name}\n");
        let text = page.split_once(&begin).and_then(|(_, rest)| rest.split_once("```")).expect(name).0;
        assert!(text.starts_with(first), "{text}");
        embedded.write(name, text);
    }
    for line in ["gleitzeit --config gleitzeit.toml call text/v1 reverse", "-- python3 provider.py"] {
        assert!(page.contains(line), "{line}");
    }
    let inside = |args: &[&str]| {
        let mut command = embedded.command(args);
        Ran::of(command.current_dir(embedded.path("")).output().expect("the binary starts"))
    };
    let call =
        ["--config", "gleitzeit.toml", "call", "text/v1", "reverse", "--params", r#"{"text": "Hello"}"#];
    assert_eq!(inside(&call).expect(0).stdout.trim(), "olleH");
    let suite =
        ["provider", "conformance", "--protocol", "protocols/text-v1.yaml", "--", "python3", "provider.py"];
    inside(&suite).expect(0);
}
