//! Providers that come and go while a worker runs: by a configuration that is read again, and by orders.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Embedded, Ran, Running, until};

const MISCHIEF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mcp/mischief.py");

/// A worker over a state file, and its configuration.
struct Stage {
    here: Embedded,
    config: String,
    _worker: Running,
}

/// What a call that hangs may take.
const GRACE: &str = "[worker]\ngrace = 600\n";

/// A configuration with the server of models at this address, and these tables.
fn all(models: &str, tables: &str) -> String {
    format!("[ollama]\nurl = '{models}'\n{GRACE}{tables}")
}

/// A server of tools that does one call at a time.
fn server(name: &str, environment: &str) -> String {
    format!(
        "[providers.{name}]\nkind = 'mcp'\ncommand = ['python3', '-S', '{MISCHIEF}']\nconcurrency = 1\n\
         env = {{ {environment} }}\n"
    )
}

impl Stage {
    /// Without models.
    fn new(tables: impl FnOnce(&Embedded) -> String) -> Stage {
        Stage::with("", tables)
    }

    fn with(models: &str, tables: impl FnOnce(&Embedded) -> String) -> Stage {
        let here = Embedded::new();
        let config = here.write("worker.toml", &all(models, &tables(&here)));
        let mut worker = here.command(&["--config", &config, "worker"]);
        let worker = Running(worker.stderr(Stdio::null()).spawn().expect("the binary starts"));
        let stage = Stage { here, config, _worker: worker };
        until("the worker", || stage.run(&["provider", "list"]).code == 0);
        stage
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        self.here.command(&[&["--config", &self.config], args].concat())
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("the binary starts"))
    }

    fn write(&self, models: &str, tables: &str) {
        self.here.write("worker.toml", &all(models, tables));
    }

    /// How this provider does; `null` where there is none.
    fn row(&self, name: &str) -> Value {
        let listed = self.run(&["provider", "list", "--json", "--timeout", "60"]).expect(0).json();
        let rows = listed["workers"][0]["providers"].as_array().expect("a list").clone();
        rows.into_iter().find(|row| row["name"] == name).unwrap_or_default()
    }

    fn submit(&self, id: &str, method: &str, params: &Value) {
        let params = params.to_string();
        self.run(&["call", "mcp/v1", method, "--params", &params, "--id", id, "--no-wait"]).expect(0);
    }

    fn ended(&self, id: &str) -> Value {
        self.run(&["result", id, "--wait", "--json", "--timeout", "200"]).json()
    }
}

/// Without a provider of the configuration there is one of `ollama.url`, which has that name.
#[test]
fn a_name_that_another_provider_has_is_refused_and_nothing_changes() {
    let url = "http://127.0.0.1:9";
    let stage = Stage::with(url, |_| String::new());
    let model = "[providers.ollama]\nkind = 'ollama'\nurl = 'http://127.0.0.1:10'\n".to_owned();
    for tables in [server("ollama", ""), model] {
        stage.write(url, &tables);
        let refused = stage.run(&["provider", "reload", "--json", "--timeout", "60"]).expect(2).json();
        let error = &refused["workers"][0]["error"];
        assert_eq!(error["details"]["refused"], json!(["providers.ollama"]), "{refused}");
        let message = error["message"].as_str().expect("a text");
        assert!(message.contains("another provider of this worker has that name"), "{message}");
        assert_eq!(stage.row("ollama")["protocol"], "llm/v1");
    }
    let listed = stage.run(&["call", "mcp/v1", "tools/list", "--json"]).expect(0).json();
    assert!(!listed.to_string().contains("\"server\":"), "it has announced itself to nobody: {listed}");
}

#[test]
fn a_call_that_is_on_its_way_finds_its_server_until_it_has_ended() {
    let stage = Stage::new(|here| server("odd", &format!("CALLS = '{}'", here.path("calls").display())));
    let (calls, gate) = (stage.here.path("calls"), stage.here.path("gate"));
    let held = |id: &str| stage.submit(id, "tool.odd.held", &json!({"gate": gate}));
    held("first");
    until("it to begin", || std::fs::read_to_string(&calls).is_ok_and(|calls| calls.contains("held")));
    // It is at the server, which has not been asked yet: that does one call at a time.
    held("second");
    until("both to be there", || stage.row("odd")["running"] == 2);
    stage.write("", "");
    let mut reload = stage.command(&["provider", "reload", "--timeout", "200"]);
    let reload = reload.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    until("it to be on its way out", || stage.row("odd") == Value::Null);
    std::fs::write(&gate, "").expect("a file of ours");
    for id in ["first", "second"] {
        let ended = stage.ended(id);
        assert_eq!((&ended["status"], &ended["attempts"]), (&json!("completed"), &json!(1)), "{ended}");
    }
    Ran::of(reload.wait_with_output().expect("it ends")).expect(0);
    let listed = stage.run(&["call", "mcp/v1", "tools/list", "--json"]).expect(0).json();
    assert!(!listed.to_string().contains("odd"), "nobody knows it any more: {listed}");
}

/// As a call of any of its tools.
#[test]
fn what_is_read_of_a_server_that_was_stopped_waits_for_it() {
    let stage = Stage::new(|_| server("odd", ""));
    stage.run(&["provider", "stop", "odd", "--timeout", "60"]).expect(0);
    stage.submit("read", "resources/read", &json!({"uri": "notes://today", "server": "odd"}));
    let waiting = stage.run(&["result", "read", "--wait", "--timeout", "3"]);
    assert_eq!(waiting.code, 6, "{waiting:?}");
    let before = stage.row("odd")["health"]["calls"].clone();
    stage.run(&["provider", "start", "odd", "--timeout", "60"]).expect(0);
    let ended = stage.ended("read");
    // It has no resources, and says so itself.
    assert_eq!((&ended["attempts"], &ended["provider_id"]), (&json!(1), &json!("odd")), "{ended}");
    assert!(
        ended["error"]["message"].as_str().is_some_and(|text| text.contains("no resources/read")),
        "{ended}"
    );
    assert_eq!(
        (before, &stage.row("odd")["health"]["calls"]),
        (json!(0), &json!(1)),
        "it counts as a call of it"
    );
}
