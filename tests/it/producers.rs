//! The producers in other languages of `examples/producers`, against real servers and a real worker.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::place::{Place, environment, missing};
use crate::support::{Ran, root};

#[test]
fn python_submits_tasks_and_reads_their_results() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let Some(python) = python() else { return };
    let [smallest, larger] = run(&place, &python, "python/task.py").expect("a document a line");
    assert_eq!(smallest["result"]["stdout"], "42\n");
    assert_eq!(larger["result"]["result"], json!(14));
    assert_eq!((&larger["name"], &larger["attempts"]), (&json!("Sum of squares"), &json!(1)));
}

#[test]
fn python_submits_a_workflow_as_one_message() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let Some(python) = python() else { return };
    let [document] = run(&place, &python, "python/workflow.py").expect("one document");
    assert_eq!(document["status"], "completed");
    let tasks = document["tasks"].as_array().expect("tasks");
    let ids: Vec<&Value> = tasks.iter().map(|task| &task["id"]).collect();
    assert_eq!(ids, ["numbers", "squares", "sum"]);
    assert_eq!(tasks[2]["result"]["result"], json!(55));
}

#[test]
fn python_gets_an_answer_without_redis() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let Some(python) = python() else { return };
    let [document] = run(&place, &python, "python/rpc.py").expect("one document");
    assert_eq!(document["result"]["result"], json!(42));
}

#[test]
fn node_submits_tasks_and_reads_their_results() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let Some(node) = node() else { return };
    let [smallest, larger] = run(&place, &node, "node/task.mjs").expect("a document a line");
    assert_eq!(smallest["result"]["stdout"], "42\n");
    assert_eq!(larger["result"]["response"], "one | two | three");
}

#[test]
fn node_submits_a_workflow_as_one_message() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let Some(node) = node() else { return };
    let [document] = run(&place, &node, "node/workflow.mjs").expect("one document");
    assert_eq!(document["status"], "completed");
    assert_eq!(document["tasks"][2]["result"]["response"], "Sum was 100, Product is 200");
}

#[test]
fn a_shell_script_publishes_the_minimal_message() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    if !is_here("rabbitmqadmin", "--version") {
        return;
    }
    let [document] = run(&place, "sh", "shell/task.sh").expect("one document");
    assert_eq!(document["result"]["stdout"], "42\n");
}

#[test]
fn a_producer_whose_broker_is_not_there_fails() {
    for (program, script) in [(python(), "python/task.py"), (node(), "node/task.mjs")] {
        let Some(program) = program else { continue };
        let mut command = example(&program, script);
        command.env("GLEITZEIT_AMQP_URL", "amqp://guest:guest@127.0.0.1:1/%2f");
        command.env("GLEITZEIT_REDIS_URL", "redis://127.0.0.1:1/0");
        let ran = Ran::of(command.output().expect("the program starts"));
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{ran:?}");
    }
}

/// Runs an example; the documents that it printed.
fn run<const N: usize>(place: &Place, program: &str, script: &str) -> Result<[Value; N], Vec<Value>> {
    let mut command = example(program, script);
    command.env("GLEITZEIT_AMQP_URL", place.vhost.url());
    command.env("GLEITZEIT_REDIS_URL", &place.redis).env("GLEITZEIT_REDIS_PREFIX", &place.prefix);
    command.env("GLEITZEIT_RABBITMQ_API", environment("GLEITZEIT_RABBITMQ_API").unwrap_or_default());
    command.env("GLEITZEIT_RABBITMQ_VHOST", &place.vhost.name);
    let ran = Ran::of(command.output().expect("the program starts")).expect(0);
    let documents = ran.stdout.lines().map(|line| serde_json::from_str(line).expect("a document a line"));
    documents.collect::<Vec<Value>>().try_into()
}

/// An example's command. Examples bound their own waits; this bound is for one that does not.
fn example(program: &str, script: &str) -> Command {
    let mut command = Command::new("timeout");
    command.arg("90").arg(program).arg(root().join("examples/producers").join(script));
    command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
    command
}

/// A Python with the client libraries.
fn python() -> Option<String> {
    let python = environment("GLEITZEIT_TEST_PYTHON").unwrap_or_else(|| "/usr/bin/python3".to_owned());
    let found = Command::new(&python).args(["-c", "import pika, redis"]).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    missing("python3-pika and python3-redis")
}

/// A Node with the packages of the examples.
fn node() -> Option<String> {
    let packages = root().join("examples/producers/node/node_modules/amqplib");
    if !is_here("node", "--version") {
        return None;
    }
    if packages.exists() { Some("node".to_owned()) } else { missing("`npm ci` in examples/producers/node") }
}

fn is_here(program: &str, question: &str) -> bool {
    let asked = Command::new(program).arg(question).stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok() || missing::<()>(program).is_some()
}
