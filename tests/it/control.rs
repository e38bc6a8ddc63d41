//! Providers at run time: listed, stopped, started, replaced and scaled in every worker, and a configuration that is read
//! again.

use serde_json::{Value, json};

use crate::place::{Place, eventually};
use crate::support::{Embedded, Ran, Running, until};

const PROVIDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/provider.py");
const WORDS: &str = include_str!("../support/words.yaml");
const QUEUE: &str = "gleitzeit.tasks.words.v1";

/// A configuration with a provider of words/v1.
fn config(folder: &str, pool: &str, more: &str) -> String {
    format!(
        "[protocols]\nfolder = '{folder}'\n[ollama]\nurl = ''\n[providers.words]\nkind = 'rpc'\n\
         protocol = 'words/v1'\ncommand = ['python3', '-S', '{PROVIDER}']\npool = {{ {pool} }}\n{more}"
    )
}

/// The servers, with two workers.
struct Stage {
    place: Place,
    folder: String,
    config: String,
    workers: Vec<Running>,
}

impl Stage {
    fn new(pool: &str, more: &str) -> Option<Stage> {
        let place = Place::new()?;
        let folder = place.path("protocols");
        std::fs::create_dir(&folder).expect("a folder of ours");
        std::fs::write(folder.join("words.yaml"), WORDS).expect("written");
        let folder = folder.display().to_string();
        let config = place.write("worker.toml", &config(&folder, pool, more));
        place.run(&["--config", &config, "topology", "apply"]).expect(0);
        let workers = [(); 2].map(|()| place.worker(&["--config", &config])).into();
        let stage = Stage { place, folder, config, workers };
        stage.until_words("two workers", &|row| row["state"] == "up");
        Some(stage)
    }

    fn provider(&self, args: &[&str]) -> Ran {
        let words: Vec<&str> =
            ["provider"].iter().chain(args).chain(&["--timeout", "60", "--json"]).copied().collect();
        self.place.run(&words)
    }

    /// How the provider `words` does in each worker.
    fn words(&self) -> Vec<Value> {
        rows(&self.provider(&["list"]).expect(0).json(), "words")
    }

    /// Until both workers say so.
    fn until_words(&self, what: &str, is_so: &dyn Fn(&Value) -> bool) {
        until(what, || {
            // Before the first worker is there nobody answers.
            let listed = self.provider(&["list"]);
            let words = if listed.code == 0 { rows(&listed.json(), "words") } else { Vec::new() };
            words.len() == 2 && words.iter().all(is_so)
        });
    }

    fn submit(&self, id: &str, method: &str, params: &Value) {
        let body = json!({"id": id, "method": method, "params": params});
        self.place.publish("gleitzeit.tasks", "words.v1", &body.to_string(), &json!({}));
    }

    fn all_at_the_first_try(&self, ids: &[String]) -> Vec<Value> {
        let ended = ids.iter().map(|id| self.place.result(id));
        ended
            .inspect(|ended| {
                assert_eq!(
                    (&ended["status"], &ended["attempts"]),
                    (&json!("completed"), &json!(1)),
                    "{ended}"
                );
            })
            .map(|ended| ended["result"].clone())
            .collect()
    }
}

fn rows(document: &Value, name: &str) -> Vec<Value> {
    let workers = document["workers"].as_array().expect("a list");
    let all = workers.iter().flat_map(|worker| worker["providers"].as_array().expect("a list"));
    all.filter(|row| row["name"] == name).cloned().collect()
}

fn ids(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

#[test]
fn a_provider_that_is_stopped_leaves_its_tasks_in_their_queue_until_it_is_started() {
    let Some(stage) = Stage::new("min = 1", "") else { return };
    let stopped = stage.provider(&["stop", "words"]).expect(0).json();
    assert_eq!(stopped["silent"], json!([]));
    let states: Vec<Value> = rows(&stopped, "words").iter().map(|row| row["state"].clone()).collect();
    assert_eq!(states, ["stopped", "stopped"]);
    let ids = ids("t", 5);
    ids.iter().for_each(|id| stage.submit(id, "pid", &json!({})));
    until("all to be in the queue again", || stage.place.vhost.queue(QUEUE)["messages_ready"] == 5);
    stage.provider(&["stop", "words"]).expect(0);
    assert!(stage.words().iter().all(|row| row["state"] == "stopped" && row["instances"] == 0));
    let table = stage.place.run(&["provider", "list", "--timeout", "60"]).expect(0).stdout;
    assert!(table.starts_with("worker") && table.contains("stopped") && table.contains("0 (1-4)"), "{table}");
    // What others serve goes on.
    stage.place.run(&["call", "echo/v1", "ping"]).expect(0);
    stage.provider(&["start", "words"]).expect(0);
    stage.all_at_the_first_try(&ids);
    assert!(stage.words().iter().all(|row| row["state"] == "up"));
}

#[test]
fn a_restart_while_calls_run_loses_nothing_and_brings_new_processes() {
    let Some(stage) = Stage::new("min = 2, max = 3", "") else { return };
    let note = stage.place.path("note");
    let before = ids("before", 20);
    before.iter().for_each(|id| stage.submit(id, "pid", &json!({})));
    let old: Vec<Value> = stage.all_at_the_first_try(&before);
    let running = ids("running", 6);
    for id in &running {
        stage.submit(id, "sleep", &json!({"seconds": 1, "note": note}));
    }
    until("one to begin", || std::fs::read_to_string(&note).is_ok_and(|pid| !pid.is_empty()));
    stage.provider(&["restart", "words"]).expect(0);
    stage.all_at_the_first_try(&running);
    let after = ids("after", 20);
    after.iter().for_each(|id| stage.submit(id, "pid", &json!({})));
    let new = stage.all_at_the_first_try(&after);
    assert!(new.iter().all(|pid| !old.contains(pid)), "{old:?} {new:?}");
}

#[test]
fn a_call_that_takes_longer_than_the_grace_is_given_back_and_no_attempt_is_spent() {
    let Some(stage) = Stage::new("min = 1", "[worker]\ngrace = 0.2\n") else { return };
    let note = stage.place.path("note");
    stage.submit("long", "sleep", &json!({"note": note}));
    until("it to begin", || std::fs::read_to_string(&note).is_ok_and(|pid| !pid.is_empty()));
    stage.provider(&["stop", "words"]).expect(0);
    until("it to be in the queue again", || stage.place.vhost.queue(QUEUE)["messages_ready"] == 1);
    std::fs::remove_file(&note).expect("its note");
    stage.provider(&["start", "words"]).expect(0);
    until("it to begin again", || std::fs::read_to_string(&note).is_ok_and(|pid| !pid.is_empty()));
    let status = stage.place.run(&["status", "long", "--json"]).expect(0).json();
    assert_eq!((&status["status"], &status["attempts"]), (&json!("running"), &json!(1)), "{status}");
}

#[test]
fn a_pool_is_scaled_within_its_bounds_and_what_nobody_has_is_refused_with_what_there_is() {
    let Some(stage) = Stage::new("min = 1, max = 2", "") else { return };
    stage.provider(&["scale", "words", "3"]).expect(0);
    let has = |count: i64| move |row: &Value| row["instances"] == count && row["max"] == count;
    stage.until_words("three processes each", &has(3));
    stage.provider(&["scale", "words", "1"]).expect(0);
    stage.until_words("one process each", &has(1));
    for (args, code, part) in [
        (["scale", "words", "0"], 2, "1 to 1000"),
        (["scale", "words", "1001"], 2, "1 to 1000"),
        (["scale", "python", "2"], 2, "no pool"),
        (["scale", "word", "2"], 4, "did you mean"),
    ] {
        let refused = stage.provider(&args).expect(code).json();
        let errors: Vec<&Value> =
            refused["workers"].as_array().expect("a list").iter().map(|one| &one["error"]).collect();
        let is_told =
            |error: &&Value| error["message"].as_str().is_some_and(|message| message.contains(part));
        assert!(errors.len() == 2 && errors.iter().all(is_told), "{part} in {refused}");
    }
    let unknown = stage.provider(&["stop", "nobody"]).expect(4).json();
    let known = &unknown["workers"][0]["error"]["details"]["known"];
    assert_eq!(known, &json!(["echo", "mcp-tools", "python", "words"]));
    // Whatever else is said there stops nobody.
    for garbage in [
        "garbage",
        "{\"type\":\"provider\"}",
        "{\"type\":\"provider\",\"v\":2,\"id\":\"o\",\"action\":\"stop\"}",
    ] {
        stage.place.publish("gleitzeit.control", "", garbage, &json!({}));
    }
    assert_eq!(stage.words().len(), 2);
    assert!(stage.place.said().contains("a broadcast cannot be read and is dropped"));
}

#[test]
fn a_worker_that_died_is_not_waited_for_and_without_any_there_is_an_error() {
    let Some(mut stage) = Stage::new("min = 1", "") else { return };
    stage.workers[0].kill();
    until("its session to end", || {
        let listed = stage.place.run(&["provider", "list", "--json", "--timeout", "10"]);
        listed.code == 0 && rows(&listed.json(), "words").len() == 1
    });
    assert_eq!(stage.workers[1].drain(), Some(0));
    until("the last session to end", || stage.place.run(&["provider", "list"]).code == 4);
}

#[test]
fn a_configuration_is_read_again_as_a_whole_or_not_at_all() {
    let limit = |rate: &str| format!("[limits.slow]\nprotocol = 'words/v1'\nrate = '{rate}'\nburst = 1\n");
    let Some(stage) = Stage::new("min = 1, max = 1", &limit("1/h")) else { return };
    let write = |pool: &str, more: &str| {
        std::fs::write(&stage.config, config(&stage.folder, pool, more)).expect("a file of ours");
    };
    let errors = |ran: &Ran| {
        let document = ran.json();
        let workers = document["workers"].as_array().expect("a list").clone();
        workers.iter().map(|worker| worker["error"].clone()).collect::<Vec<_>>()
    };
    // Two tasks and a budget of one in an hour: one of them waits until the limit is another one.
    let ids = ids("t", 2);
    ids.iter().for_each(|id| stage.submit(id, "pid", &json!({})));
    until("one to wait for the limit", || stage.place.said().contains("a limit holds tasks back"));

    write("min = 3, max = 3", &format!("{}[worker]\ngrace = 7\n", limit("1000/s")));
    let refused = stage.provider(&["reload"]).expect(2);
    for error in errors(&refused) {
        assert_eq!(error["details"]["refused"], json!(["worker.grace"]), "{error}");
    }
    assert!(stage.words().iter().all(|row| row["max"] == 1), "nothing has changed");

    let second = format!(
        "[providers.more]\nkind = 'rpc'\nprotocol = 'words/v1'\ncommand = ['python3', '-S', '{PROVIDER}']\n{}",
        limit("1000/s")
    );
    write("min = 2, max = 3", &second);
    let changed = stage.provider(&["reload"]).expect(0).json();
    let keys = changed["workers"][0]["changed"].as_array().expect("a list");
    for key in ["limits.slow.rate", "providers.more.kind", "providers.words.pool.min"] {
        assert!(keys.contains(&json!(key)), "{key} in {changed}");
    }
    stage.all_at_the_first_try(&ids);
    stage.until_words("two processes each", &|row| row["instances"] == 2 && row["max"] == 3);
    let listed = stage.provider(&["list"]).expect(0).json();
    assert_eq!(rows(&listed, "more").iter().filter(|row| row["state"] == "up").count(), 2, "{listed}");

    write("min = 2, max = 3", &limit("1000/s"));
    for worker in &stage.workers {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(worker.0.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).expect("a child of ours");
    }
    eventually("the other one to go", || {
        let listed = stage.provider(&["list"]).expect(0).json();
        rows(&listed, "more").is_empty().then_some(())
    });
    std::fs::write(&stage.config, "[limits\n").expect("a file of ours");
    for error in errors(&stage.provider(&["reload"]).expect(2)) {
        assert!(error["message"].as_str().is_some_and(|message| message.contains("line 1")), "{error}");
    }
    assert!(stage.words().iter().all(|row| row["state"] == "up"));
}

#[test]
fn an_embedded_worker_obeys_too_and_a_task_waits_for_its_provider() {
    let embedded = Embedded::new();
    let folder = embedded.path("protocols");
    std::fs::create_dir(&folder).expect("a folder of ours");
    std::fs::write(folder.join("words.yaml"), WORDS).expect("written");
    let file = embedded.write("worker.toml", &config(&folder.display().to_string(), "min = 1", ""));
    let ours = |args: &[&str]| {
        let args: Vec<&str> = ["--config", &file].iter().chain(args).copied().collect();
        embedded.run(&args)
    };
    ours(&["provider", "list"]).expect(4);
    let worker = embedded.command(&["--config", &file, "worker"]).stderr(std::process::Stdio::null()).spawn();
    let _worker = Running(worker.expect("the binary starts"));
    until("the worker", || ours(&["provider", "list"]).code == 0);
    let order =
        |action: &str| ours(&["provider", action, "words", "--timeout", "60", "--json"]).expect(0).json();
    assert_eq!(rows(&order("stop"), "words")[0]["state"], "stopped");
    let call = ours(&["call", "words/v1", "pid", "--id", "t", "--no-wait"]);
    call.expect(0);
    let waiting = ours(&["result", "t", "--wait", "--timeout", "3"]);
    assert_eq!(waiting.code, 6, "{waiting:?}");
    assert_eq!(rows(&order("start"), "words")[0]["state"], "up");
    let ended = ours(&["result", "t", "--wait", "--json"]).expect(0).json();
    assert!(ended.to_string().contains("\"attempts\":1"), "{ended}");
}
