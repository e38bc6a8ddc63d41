//! `--follow`: what tasks give while they run, as it comes.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::ollama_server::Ollama;
use crate::place::{Place, eventually};
use crate::proxy::Proxy;
use crate::support::{Embedded, Ran, Running, until};

/// A follower whose output is read while it runs.
struct Follower {
    child: Child,
    stdout: BufReader<ChildStdout>,
    read: String,
}

impl Follower {
    fn start(mut command: Command) -> Follower {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        Follower { child, stdout, read: String::new() }
    }

    /// Reads until `text` was printed. It fails when the follower ends without it.
    #[track_caller]
    fn prints(&mut self, text: &str) {
        while !self.read.contains(text) {
            let found = self.stdout.fill_buf().expect("a pipe can be read");
            if found.is_empty() {
                let mut said = String::new();
                let stderr = self.child.stderr.take();
                let _ = stderr.map(|mut stderr| stderr.read_to_string(&mut said));
                panic!("{text:?} was not printed: {:?}, {said}", self.read);
            }
            self.read.push_str(&String::from_utf8_lossy(found));
            let length = found.len();
            self.stdout.consume(length);
        }
    }

    fn end(mut self) -> Ran {
        self.stdout.read_to_string(&mut self.read).expect("text");
        let mut ran = Ran::of(self.child.wait_with_output().expect("it ends"));
        ran.stdout = self.read;
        ran
    }
}

fn ollama(server: &Ollama) -> String {
    format!("[providers.one]\nkind = 'ollama'\nurl = '{}'\n", server.url())
}

/// The parameters of an answer that stops in the middle until `gate` exists.
fn held(model: &str, gate: &Path) -> Value {
    json!({"model": model, "prompt": gate, "stream": true})
}

/// Whoever waits for it goes on.
fn open(gate: &Path) {
    std::fs::write(gate, "").expect("a file of ours");
}

#[test]
fn embedded_a_models_words_come_before_its_answer_ends() {
    let (here, server) = (Embedded::new(), Ollama::start());
    let config = here.write("config.toml", &ollama(&server));
    let gate = here.path("gate");
    // Without a word on `stream`: who follows wants it.
    let params = json!({"model": "held", "prompt": gate}).to_string();
    let args = ["--config", &config, "call", "llm/v1", "chat", "--params", &params, "--follow"];
    let mut follower = Follower::start(here.command(&args));
    follower.prints("one ");
    open(&gate);
    let ran = follower.end().expect(0);
    assert_eq!(ran.stdout, "one two\n", "{ran:?}");
    assert_eq!(server.asked()[0].body["stream"], json!(true));
}

#[test]
fn embedded_what_python_prints_comes_before_its_end_and_an_error_keeps_its_code() {
    let here = Embedded::new();
    let gate = here.path("gate");
    let code = format!(
        "import os, sys, time\nprint('first')\nprint('aside', file=sys.stderr)\n\
         while not os.path.exists('{}'): time.sleep(0.01)\nprint('last')\n1 / 0",
        gate.display()
    );
    let mut follower = Follower::start(here.command(&["exec", &code, "--follow", "--id", "t"]));
    follower.prints("first\n");
    open(&gate);
    let ran = follower.end().expect(5);
    assert_eq!(ran.stdout, "first\nlast\n", "{ran:?}");
    assert!(ran.stderr.contains("aside") && ran.stderr.contains("ZeroDivisionError"), "{ran:?}");
    // It can still be read, by whoever comes late.
    let late = here.run(&["watch", "t", "--follow"]).expect(5);
    assert_eq!(late.stdout, "first\nlast\n", "{late:?}");
}

/// More than is kept of what comes piece by piece, and less than the result has.
#[test]
fn what_could_not_be_shown_as_it_came_is_shown_with_the_result() {
    let here = Embedded::new();
    let gate = here.path("gate");
    let code = format!(
        "import os, time\nprint('first')\nwhile not os.path.exists('{}'): time.sleep(0.01)\n\
         print(('x' * 99 + '\\n') * 4000)\nprint('last')",
        gate.display()
    );
    let mut follower = Follower::start(here.command(&["exec", &code, "--follow"]));
    follower.prints("first\n");
    open(&gate);
    let ran = follower.end().expect(0);
    assert!(ran.stderr.contains("some of it was left out above"), "{}", ran.stderr);
    let (_, whole) = ran.stdout.split_once("first\n").expect("as it came");
    let (_, whole) = whole.split_once("first\n").expect("and with the result");
    assert_eq!(whole.lines().filter(|line| line.len() == 99).count(), 4000);
    assert!(whole.contains("\nlast\n"), "{}", &whole[whole.len() - 200..]);
}

#[test]
fn of_a_task_whose_result_nobody_wants_kept_nothing_is_kept() {
    let here = Embedded::new();
    let gate = here.path("gate");
    let print = |name: &str, rest: &str| format!("import os, time\nprint('from {name}')\n{rest}\n");
    let wait = format!("while not os.path.exists('{}'): time.sleep(0.01)", gate.display());
    let task = |id: &str, code: String, more: Value| {
        let mut task = json!({"id": id, "method": "python/execute", "params": {"code": code}});
        task.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        task
    };
    let file = json!({"name": "W", "tasks": [
        // Long enough for what it prints to be handed on.
        task("a", print("a", "time.sleep(1)"), json!({"ignore_result": true})),
        task("b", print("b", &wait), json!({"dependencies": ["a"]})),
    ]});
    let file = here.write("w.json", &file.to_string());
    let mut follower = Follower::start(here.command(&["run", &file, "--follow", "--id", "w"]));
    follower.prints("b | from b");
    open(&gate);
    let ran = follower.end().expect(0);
    assert!(!ran.stdout.contains("from a") && !ran.stderr.contains("from a"), "{ran:?}");
    let late = here.run(&["watch", "w/a", "--follow"]).expect(0);
    assert!(!late.stdout.contains("from a"), "{late:?}");
}

#[test]
fn what_has_printed_nothing_is_shown_as_without_following() {
    let here = Embedded::new();
    let ran = here.run(&["exec", "6 * 7", "--follow"]).expect(0);
    assert_eq!(ran.stdout, "42\n", "{ran:?}");
    here.run(&["call", "echo/v1", "ping", "--follow"]).expect(0);
    here.run(&["call", "echo/v1", "ping", "--follow", "--no-wait"]).expect(2);
    here.run(&["watch", "nobody", "--follow"]).expect(7);
}

#[test]
fn embedded_of_several_tasks_each_line_has_a_name() {
    let (here, server) = (Embedded::new(), Ollama::start());
    let config = here.write("config.toml", &ollama(&server));
    let gate = here.path("gate");
    let file = json!({"name": "W", "tasks": [
        {"id": "a", "method": "llm/chat", "params": held("held", &gate)},
        {"id": "b", "method": "llm/chat", "params": held("held", &gate)},
    ]});
    let file = here.write("w.json", &file.to_string());
    let mut follower = Follower::start(here.command(&["--config", &config, "run", &file, "--follow"]));
    follower.prints("a | one ");
    follower.prints("b | one ");
    open(&gate);
    let ran = follower.end().expect(0);
    for name in ["a", "b"] {
        let begin = format!("{name} | ");
        let said: String = ran.stdout.lines().filter_map(|line| line.strip_prefix(&begin)).collect();
        assert_eq!(said, "one two", "{ran:?}");
    }
    assert!(ran.stdout.contains("a: one two") || ran.stdout.contains("a: "), "the results come too: {ran:?}");
}

#[test]
fn over_servers_everybody_can_read_what_a_task_gives() {
    let (Some(place), server) = (Place::new(), Ollama::start()) else { return };
    let _worker = worker(&place, &server);
    let gate = place.path("gate");
    submit(&place, "held-stumbling", &gate);
    let mut follower = Follower::start(place.command(&["watch", "t", "--follow"]));
    follower.prints("one ");
    let key = place.key("t", "output");
    let read = place.redis_cli(&["XRANGE", &key, "-", "+"]);
    let words: Vec<&str> = read.lines().skip(1).collect();
    let stream = ["attempt", "1", "fence", "1", "stream", "text", "offset", "0", "text", "one "];
    assert_eq!(words, stream, "{read}");
    // One who comes later and goes early disturbs nobody.
    let mut other = Running(follow(&place, "t").child);
    other.kill();
    open(&gate);
    let ran = follower.end().expect(5);
    assert_eq!(ran.stdout, "one two\n", "{ran:?}");
    let late = place.run(&["watch", "t", "--follow", "--json"]).expect(5);
    let lines: Vec<Value> =
        late.stdout.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let text: String = lines.iter().filter_map(|line| line["text"].as_str()).collect();
    assert_eq!(text, "one two");
    let end = lines.iter().find_map(|line| line.get("attempt_ended"));
    assert_eq!(end, Some(&json!("failed")), "{late:?}");
    assert_eq!(lines.last().map(|line| &line["status"]), Some(&json!("failed")));
    let ttl: i64 = place.redis_cli(&["TTL", &key]).parse().expect("a number");
    assert!(ttl > 0 && ttl <= 3600, "{ttl}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_servers_a_broken_connection_neither_repeats_nor_loses() {
    let (Some(place), server) = (Place::new(), Ollama::start()) else { return };
    let _worker = worker(&place, &server);
    let gate = place.path("gate");
    submit(&place, "held", &gate);
    let proxy = Proxy::start(&place.redis).await;
    let mut command = place.command(&["watch", "t", "--follow"]);
    command.env("GLEITZEIT_REDIS_URL", &proxy.url);
    let ran = tokio::task::spawn_blocking(move || {
        let mut follower = Follower::start(command);
        follower.prints("one ");
        proxy.cut();
        open(&gate);
        follower.end()
    });
    let ran = ran.await.expect("no panic").expect(0);
    assert_eq!(ran.stdout, "one two\n", "{ran:?}");
}

#[test]
fn over_servers_the_attempt_after_a_killed_worker_begins_anew() {
    let (Some(place), server) = (Place::new(), Ollama::start()) else { return };
    let mut first = worker(&place, &server);
    let gate = place.path("gate");
    submit(&place, "held", &gate);
    let mut follower = follow(&place, "t");
    follower.prints("one ");
    first.kill();
    let _second = worker(&place, &server);
    follower.prints("one \none ");
    open(&gate);
    let ran = follower.end().expect(0);
    assert_eq!(ran.stdout, "one \none two\n", "{ran:?}");
    assert!(ran.stderr.contains("t: attempt 2 begins anew"), "{ran:?}");
}

#[test]
fn over_servers_a_call_is_followed_to_its_end() {
    let (Some(place), server) = (Place::new(), Ollama::start()) else { return };
    let _worker = worker(&place, &server);
    let gate = place.path("gate");
    let params = held("held", &gate).to_string();
    let args = ["call", "llm/v1", "chat", "--params", &params, "--follow", "--id", "t"];
    let mut follower = Follower::start(place.command(&args));
    follower.prints("one ");
    open(&gate);
    assert_eq!(follower.end().expect(0).stdout, "one two\n");
    // A task that gives nothing leaves nothing.
    place
        .run(&["call", "llm/v1", "chat", "--params", r#"{"prompt": "x", "model": "m"}"#, "--id", "u"])
        .expect(0);
    assert_eq!(place.redis_cli(&["EXISTS", &place.key("u", "output")]), "0");
    assert_eq!(place.redis_cli(&["HEXISTS", &place.key("u", "root"), "given"]), "0");
}

fn worker(place: &Place, server: &Ollama) -> Running {
    let config = place.write("worker.toml", &ollama(server));
    place.run(&["topology", "apply"]).expect(0);
    place.worker(&["--config", &config, "--protocol", "llm/v1"])
}

fn follow(place: &Place, id: &str) -> Follower {
    Follower::start(place.command(&["watch", id, "--follow"]))
}

/// Submits the task `t`, and waits until it is known.
fn submit(place: &Place, model: &str, gate: &Path) {
    let params = held(model, gate).to_string();
    place.run(&["call", "llm/v1", "chat", "--params", &params, "--id", "t", "--no-wait"]).expect(0);
    let known = || Some(place.run(&["status", "t"])).filter(|ran| ran.code == 0);
    eventually("the task to be known", known);
    until("it to be there", || place.run(&["status", "t"]).code == 0);
}
