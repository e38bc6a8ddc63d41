//! MCP servers through the real binary: one by the protocol's official SDK, and one that misbehaves.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::own::is_full;
use crate::place::{environment, missing, say_skipped};
use crate::support::{Embedded, Ran, Running, root, task, until};

const OFFICIAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mcp/server.py");
const MISCHIEF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mcp/mischief.py");

/// A state of its own, and a configuration with these tables.
fn set_up(tables: &str) -> (Embedded, String) {
    let embedded = Embedded::new();
    let config = embedded.write("config.toml", &format!("[ollama]\nurl = ''\n{tables}"));
    (embedded, config)
}

fn mischief(name: &str, more: &str) -> String {
    format!("[providers.{name}]\nkind = 'mcp'\ncommand = ['python3', '-S', '{MISCHIEF}']\n{more}\n")
}

fn official(python: &str, more: &str) -> String {
    format!("[providers.weather]\nkind = 'mcp'\ncommand = ['{python}', '{OFFICIAL}']\n{more}\n")
}

fn call(embedded: &Embedded, config: &str, method: &str, params: &Value) -> Ran {
    embedded.run(&["--config", config, "call", "mcp/v1", method, "--params", &params.to_string(), "--json"])
}

fn result(embedded: &Embedded, config: &str, method: &str, params: &Value) -> Value {
    call(embedded, config, method, params).expect(0).json()["result"].clone()
}

fn error(embedded: &Embedded, config: &str, method: &str, params: &Value) -> Value {
    call(embedded, config, method, params).expect(5).json()["error"].clone()
}

fn workflow(tasks: &[(&str, &str, Value, Value)]) -> String {
    let task = |(id, method, params, more): &(&str, &str, Value, Value)| {
        let mut task = json!({"id": id, "protocol": "mcp/v1", "method": method, "params": params});
        for (key, value) in more.as_object().expect("an object") {
            task[key] = value.clone();
        }
        task
    };
    json!({"name": "tools", "tasks": tasks.iter().map(task).collect::<Vec<_>>()}).to_string()
}

fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A Python with the official SDK.
fn python() -> Option<String> {
    let known = environment("GLEITZEIT_TEST_MCP_PYTHON");
    let python = known.unwrap_or_else(|| format!("{}/.stack/mcp-python/bin/python", root().display()));
    let found = Command::new(&python).args(["-c", "import mcp"]).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    let what = "the official MCP SDK for Python (scripts/test --full installs it)";
    if is_full() {
        return missing(what);
    }
    say_skipped(what);
    None
}

/// What holds for the official server, however it is reached.
fn check_official(embedded: &Embedded, config: &str, calls: &Path) {
    let listed = result(embedded, config, "tools/list", &json!({}));
    let tools = listed["tools"].as_array().expect("tools");
    let forecast = tools.iter().find(|tool| tool["name"] == "forecast").expect("it is listed");
    assert_eq!(
        (&forecast["server"], &forecast["description"]),
        (&json!("weather"), &json!("What the weather will be"))
    );
    assert!(tools.iter().any(|tool| tool["name"] == "concat" && tool.get("server").is_none()));
    let told = result(embedded, config, "tool.forecast", &json!({"city": "Ulm", "days": 3}));
    assert_eq!((&told["result"]["city"], &told["result"]["days"]), (&json!("Ulm"), &json!(3)), "{told}");
    assert_eq!(told["result"]["big"].to_string(), "12345678901234567890");
    assert_eq!(told["result"]["degrees"].to_string(), "21.5");
    let greeted = result(embedded, config, "tool.weather.greet", &json!({"arguments": {"name": "\u{e4}"}}));
    assert_eq!(greeted["response"], "Hello, \u{e4}");
    assert_eq!(greeted["content"][0]["type"], "text");
    let before = lines(calls).len();
    for params in [json!({}), json!({"city": 5}), json!({"city": "Ulm", "days": "three"})] {
        let error = error(embedded, config, "tool.forecast", &params);
        assert_eq!(
            (&error["name"], &error["retryable"]),
            (&json!("INVALID_PARAMS"), &json!(false)),
            "{error}"
        );
    }
    assert_eq!(lines(calls).len(), before, "no wrong call has reached the server");
    let failed = error(embedded, config, "tool.fail", &json!({"why": "no licence"}));
    assert_eq!((&failed["name"], &failed["retryable"]), (&json!("TASK_EXECUTION_FAILED"), &json!(false)));
    let content = failed["details"]["content"][0]["text"].as_str().expect("its content");
    assert!(content.contains("no licence"), "{failed}");
    for (method, params, response) in [
        ("resources/read", json!({"uri": "notes://today"}), "rain"),
        ("resources/read", json!({"uri": "notes://of/monday", "server": "weather"}), "sun on monday"),
        ("resource.notes://of/monday", json!({}), "sun on monday"),
        ("prompts/get", json!({"name": "review", "arguments": {"file": "a.py"}}), "Please review a.py"),
        ("prompt.review", json!({"file": "a.py"}), "Please review a.py"),
    ] {
        assert_eq!(result(embedded, config, method, &params)["response"], response, "{method}");
    }
    let unknown = error(embedded, config, "resources/read", &json!({"uri": "other://x"}));
    assert_eq!(unknown["name"], "INVALID_PARAMS", "{unknown}");
    let resources = result(embedded, config, "resources/list", &json!({}));
    assert_eq!(resources["resources"][0]["uri"], "notes://today");
    assert_eq!(resources["resource_templates"][0]["uriTemplate"], "notes://of/{day}");
    assert_eq!(result(embedded, config, "prompts/list", &json!({}))["prompts"][0]["name"], "review");
    let about = result(embedded, config, "server_info", &json!({}));
    assert_eq!(about["servers"]["weather"]["name"], "weather", "{about}");
    check_cancellation(embedded, config, calls);
}

/// A call that takes too long: the server hears of it, and how far it had come is told.
fn check_cancellation(embedded: &Embedded, config: &str, calls: &Path) {
    let late = json!({"timeout": 3, "retry": {"max_attempts": 1}, "critical": false});
    // The other task keeps the server until it has heard of the cancellation.
    let tasks = [
        ("late", "tool.wait", json!({"seconds": 600}), late),
        ("beside", "tool.wait_for_cancellation", json!({}), json!({})),
    ];
    let file = embedded.write("workflow.json", &workflow(&tasks));
    let document = embedded.run(&["--config", config, "run", &file, "--json"]).expect(0).json();
    let late = &task(&document, "late")["error"];
    assert_eq!(late["name"], "TASK_TIMEOUT", "{late}");
    assert_eq!(
        late["details"]["progress"],
        json!({"progress": 0.5, "total": 1.0, "message": "half"}),
        "{late}"
    );
    assert_eq!(task(&document, "beside")["result"]["response"], "heard");
    assert_eq!(lines(calls).iter().filter(|line| *line == "cancelled").count(), 1);
}

#[test]
fn a_server_by_the_official_sdk_is_used_over_stdio() {
    let Some(python) = python() else { return };
    let calls = tempfile::NamedTempFile::new().expect("a file");
    let (embedded, config) =
        set_up(&official(&python, &format!("env = {{ CALLS = '{}' }}", calls.path().display())));
    check_official(&embedded, &config, calls.path());
    let mut command =
        embedded.command(&["--config", &config, "call", "mcp/v1", "tool.environment", "--json"]);
    command.env("AWS_SECRET_ACCESS_KEY", "s3cret");
    let document = Ran::of(command.output().expect("the binary starts")).expect(0).json();
    let names: Vec<&String> = document["result"]["result"].as_object().expect("variables").keys().collect();
    assert!(
        names.iter().all(|name| ["PATH", "LANG", "CALLS", "LC_CTYPE"].contains(&name.as_str())),
        "{names:?}"
    );
}

#[test]
fn a_server_by_the_official_sdk_is_used_over_http_with_secrets_from_files() {
    let Some(python) = python() else { return };
    let calls = tempfile::NamedTempFile::new().expect("a file");
    let mut command = Command::new(&python);
    command.args([OFFICIAL, "http"]).env("CALLS", calls.path()).stdout(Stdio::piped());
    let mut server = Running(command.spawn().expect("a server"));
    let mut first = String::new();
    BufReader::new(server.0.stdout.take().expect("a pipe")).read_line(&mut first).expect("a line");
    let folder = tempfile::tempdir().expect("a folder");
    let secrets = [("token", "s3cret\n"), ("wrong", "guess"), ("headers", "X-Tenant: a\n")];
    for (name, text) in secrets {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    let table = |token: &str| {
        let path = |name: &str| folder.path().join(name).display().to_string();
        format!(
            "[providers.weather]\nkind = 'mcp'\nurl = 'http://127.0.0.1:{}/mcp'\ntoken_file = '{}'\nheaders_file = '{}'\n",
            first.trim(),
            path(token),
            path("headers")
        )
    };
    let (embedded, config) = set_up(&table("token"));
    check_official(&embedded, &config, calls.path());
    let (embedded, config) = set_up(&table("wrong"));
    let refused = call(&embedded, &config, "tool.weather.greet", &json!({"name": "a"})).expect(5).json();
    let message = refused["error"]["message"].as_str().expect("a message");
    assert!(message.contains("401") || message.contains("Auth"), "{refused}");
    assert!(!refused.to_string().contains("guess"), "{refused}");
    drop(server);
    let (embedded, config) = set_up(&table("token"));
    let away = call(&embedded, &config, "tool.weather.greet", &json!({"name": "a"})).expect(5).json();
    assert!(away["error"]["message"].as_str().expect("a message").contains("no server listens"), "{away}");
}

#[test]
fn what_a_misbehaving_server_does_is_told_by_our_codes() {
    let calls = tempfile::NamedTempFile::new().expect("a file");
    let env = format!("env = {{ CALLS = '{}' }}", calls.path().display());
    let (embedded, config) = set_up(&mischief("odd", &env));
    for (method, params, response) in [
        ("tool.garbage", json!({}), "after garbage"),
        ("tool.odd.garbage", json!({}), "after garbage"),
        ("tool.bad_schema", json!({"any": 1}), "I am bad_schema"),
        ("tool.odd_content", json!({}), ""),
        ("tool.huge", json!({"bytes": 500_000}), &"x".repeat(500_000)),
    ] {
        assert_eq!(result(&embedded, &config, method, &params)["response"], response, "{method}");
    }
    for (method, params, code) in [
        ("tool.huge", json!({"bytes": 9_000_000}), "RESULT_TOO_LARGE"),
        ("tool.huge_late", json!({"bytes": 9_000_000}), "RESULT_TOO_LARGE"),
        ("tool.odd.echo", json!({"text": "too long"}), "INVALID_PARAMS"),
        ("tool.mask", json!({"city": "Ulm"}), "TASK_EXECUTION_FAILED"),
        ("tool.none", json!({}), "PROVIDER_NOT_AVAILABLE"),
    ] {
        let error = error(&embedded, &config, method, &params);
        assert_eq!(error["name"], code, "{error}");
        if method == "tool.mask" {
            assert_eq!(error["details"]["structured_content"], json!({"city": "Ulm"}), "{error}");
        }
    }
    assert!(!lines(calls.path()).contains(&"echo".to_owned()), "what does not fit never reaches the server");
}

#[test]
fn a_server_that_dies_in_a_call_is_started_again_and_the_task_tried_again() {
    let starts = tempfile::NamedTempFile::new().expect("a file");
    let env = format!("env = {{ STARTS = '{}' }}", starts.path().display());
    let (embedded, config) = set_up(&mischief("odd", &env));
    let tasks = [
        ("dies", "tool.die", json!({}), json!({"retry": {"base_delay": 0.05}, "critical": false})),
        ("before", "tool.pid", json!({}), json!({})),
        (
            "after",
            "tool.pid",
            json!({}),
            json!({"dependencies": ["before", "dies"], "continue_on_error": true}),
        ),
    ];
    let file = embedded.write("workflow.json", &workflow(&tasks[..2]));
    let document = embedded.run(&["--config", &config, "run", &file, "--json"]).expect(0).json();
    let dies = task(&document, "dies");
    assert_eq!((&dies["error"]["name"], &dies["attempts"]), (&json!("CONNECTION_LOST"), &json!(3)), "{dies}");
    assert_eq!(dies["error"]["details"]["exit_code"], 7, "{dies}");
    assert!(dies["error"]["details"]["stderr"].as_str().is_some_and(|said| said.contains("out of cheese")));
    assert!(lines(starts.path()).len() >= 3, "each attempt had a new process");
}

#[test]
fn a_server_that_dies_idle_is_replaced_before_the_next_call() {
    let starts = tempfile::NamedTempFile::new().expect("a file");
    let env = format!("env = {{ STARTS = '{}' }}", starts.path().display());
    let (embedded, config) = set_up(&mischief("odd", &env));
    let tasks = [
        ("first", "tool.pid", json!({}), json!({})),
        ("second", "tool.pid", json!({}), json!({"dependencies": ["gate"]})),
    ];
    let mut flow: Value = serde_json::from_str(&workflow(&tasks)).expect("JSON");
    let (reached, open) = (embedded.path("reached"), embedded.path("open"));
    let code = format!(
        "import os, time\nopen({:?}, 'w').close()\nwhile not os.path.exists({:?}): time.sleep(0.01)",
        reached.display().to_string(),
        open.display().to_string()
    );
    let gate = json!({
        "id": "gate", "protocol": "python/v1", "method": "execute", "params": {"code": code}, "dependencies": ["first"],
    });
    flow["tasks"].as_array_mut().expect("tasks").push(gate);
    let file = embedded.write("workflow.json", &flow.to_string());
    let mut run = embedded.command(&["--config", &config, "run", &file, "--json"]);
    let run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    until("the first call to end", || reached.exists());
    let pid: i32 = lines(starts.path())[0].parse().expect("a number");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("it lives");
    std::fs::write(&open, "").expect("written");
    let document = Ran::of(run.wait_with_output().expect("it ends")).expect(0).json();
    let second = task(&document, "second");
    assert_eq!(second["attempts"], 1, "{second}");
    assert_ne!(second["result"]["response"], json!(pid.to_string()));
}

#[test]
fn a_list_that_changes_is_asked_for_again() {
    let (embedded, config) = set_up(&mischief("odd", ""));
    let retry = json!({"dependencies": ["grow"], "retry": {"base_delay": 0.2, "max_attempts": 5}});
    let tasks = [("grow", "tool.grow", json!({}), json!({})), ("grown", "tool.grown", json!({}), retry)];
    let file = embedded.write("workflow.json", &workflow(&tasks));
    let document = embedded.run(&["--config", &config, "run", &file, "--json"]).expect(0).json();
    assert_eq!(task(&document, "grown")["result"]["response"], "I am grown");
}

#[test]
fn of_several_servers_the_one_that_has_the_tool_is_called() {
    let tables = format!("{}{}", mischief("alpha", ""), mischief("beta", ""));
    let (embedded, config) = set_up(&tables);
    let listed = result(&embedded, &config, "tools/list", &json!({}));
    let of = |server: &str| {
        listed["tools"].as_array().expect("tools").iter().filter(|tool| tool["server"] == server).count()
    };
    assert_eq!((of("alpha"), of("beta")), (16, 16));
    let tasks = [
        ("bare", "tool.pid", json!({}), json!({})),
        ("alpha", "tool.alpha.pid", json!({}), json!({})),
        ("beta", "tool.beta.pid", json!({}), json!({})),
    ];
    let file = embedded.write("workflow.json", &workflow(&tasks));
    let document = embedded.run(&["--config", &config, "run", &file, "--json"]).expect(0).json();
    let of = |id: &str| task(&document, id)["result"]["response"].clone();
    assert_eq!(of("bare"), of("alpha"), "{document}");
    assert_ne!(of("bare"), of("beta"));
    assert_eq!(task(&document, "bare")["provider_id"], "alpha", "{document}");
}

#[test]
fn a_server_that_cannot_start_is_told_where_it_is_named() {
    for (start, said) in [("die", "exit code 3"), ("mute", "did not answer initialize within 1 s")] {
        let more = format!("start_timeout = 1\nenv = {{ START = '{start}' }}");
        let (embedded, config) = set_up(&mischief("odd", &more));
        let error = error(&embedded, &config, "tool.odd.pid", &json!({}));
        assert!(error["message"].as_str().expect("a message").contains(said), "{error}");
        assert_eq!(result(&embedded, &config, "tool.add", &json!({"a": 1, "b": 2}))["result"], 3);
    }
}
