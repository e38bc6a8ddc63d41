//! Real servers for one test: a virtual host and a key prefix of its own, and the binary between them.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::rabbitmq::{Server, VirtualHost};
use crate::support::{Ran, Running, gleitzeit, until};

/// The servers of one test.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) vhost: VirtualHost,
    pub(crate) redis: String,
    pub(crate) prefix: String,
    folder: tempfile::TempDir,
}

impl Place {
    /// `None`, said in a line, where there are no servers; with `CI=true` that is a failure.
    pub(crate) fn new() -> Option<Place> {
        let (Some(server), Some(redis)) = (Server::from_environment(), environment("GLEITZEIT_REDIS_URL"))
        else {
            return missing("servers (`scripts/stack start` prints them)");
        };
        Some(Place::on(&server, redis))
    }

    /// On these servers.
    pub(crate) fn on(server: &Server, redis: String) -> Place {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let prefix = format!("gz-it-{}", uuid::Uuid::now_v7().simple());
        Place { vhost: server.vhost(), redis, prefix, folder }
    }

    /// As [`Place::new`], with a topology to publish to and a worker.
    pub(crate) fn with_worker() -> Option<(Place, Running)> {
        let place = Place::new()?;
        place.run(&["topology", "apply"]).expect(0);
        let worker = place.worker(&[]);
        Some((place, worker))
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = gleitzeit(args);
        command.env("GLEITZEIT_AMQP_URL", self.vhost.url());
        command.env("GLEITZEIT_REDIS_URL", &self.redis);
        command.env("GLEITZEIT_REDIS_PREFIX", &self.prefix);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("the binary starts"))
    }

    /// A worker. What it says is shown if the test fails.
    pub(crate) fn worker(&self, args: &[&str]) -> Running {
        let args: Vec<&str> = ["worker"].iter().chain(args).copied().collect();
        let log =
            std::fs::File::options().create(true).append(true).open(self.log()).expect("a file of ours");
        let mut command = self.command(&args);
        Running(command.stdout(Stdio::null()).stderr(log).spawn().expect("the binary starts"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a file in a temporary folder");
        path.to_string_lossy().into_owned()
    }

    /// Publishes to `gleitzeit.tasks`, or whichever exchange, as a foreign producer does.
    pub(crate) fn publish(&self, exchange: &str, routing_key: &str, body: &str, properties: &Value) {
        assert!(self.vhost.publish(exchange, routing_key, body, properties), "no queue took it");
    }

    /// The result document, as any program reads it.
    pub(crate) fn result(&self, id: &str) -> Value {
        let key = self.key(id, "result");
        let read = || Some(self.redis_cli(&["GET", &key])).filter(|text| !text.is_empty());
        serde_json::from_str(&eventually("the result", read)).expect("a document is JSON")
    }

    pub(crate) fn key(&self, id: &str, what: &str) -> String {
        format!("{}:{{{id}}}:{what}", self.prefix)
    }

    pub(crate) fn redis_cli(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-u", &self.redis]).args(words).output();
        let output = output.expect("redis-cli comes with the server");
        String::from_utf8(output.stdout).expect("text").trim_end_matches('\n').to_owned()
    }

    /// The next message of a queue, taken from it.
    pub(crate) fn take(&self, queue: &str) -> Option<Value> {
        let path = format!("/api/queues/{}/{queue}/get", self.vhost.name);
        let how = json!({"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"});
        self.vhost.call("POST", &path, &how).as_array()?.first().cloned()
    }

    /// Takes a dead letter from its queue.
    pub(crate) fn dead_letter(&self, queue: &str) -> Value {
        let message = eventually("the dead letter", || self.take(queue));
        serde_json::from_str(message["payload"].as_str().expect("text")).expect("a dead letter is JSON")
    }

    /// What the workers have said so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.path("worker.log")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the workers said:\n{}", self.said());
        }
    }
}

/// Asks until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let mut answer = None;
    until(what, || {
        answer = ask();
        answer.is_some()
    });
    answer.expect("until it is there")
}

/// Says what is missing: the test is skipped, or fails in CI.
pub(crate) fn missing<T>(what: &str) -> Option<T> {
    assert!(environment("CI").as_deref() != Some("true"), "missing, and CI=true: {what}");
    say_skipped(what);
    None
}

/// Says that a test is skipped.
pub(crate) fn say_skipped(what: &str) {
    // Not `eprintln!`: the harness swallows what a passing test prints.
    let _ = writeln!(std::io::stderr(), "skipped, missing: {what}");
}

/// A variable of the environment.
#[allow(clippy::disallowed_methods, reason = "tests learn their servers from the environment")]
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
