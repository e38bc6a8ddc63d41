//! Providers written in Rust: a worker inside another program.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use gleitzeit::config::{self, Config, Sources};
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::task::Spec;
use gleitzeit::provider::CallCx;
use gleitzeit::provider::functions::Functions;
use gleitzeit::wire::task::Task;
use gleitzeit::worker::Worker;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::place::Place;
use crate::support::{Ran, Running, forget_configuration, root};

#[derive(Deserialize, JsonSchema)]
struct Sum {
    numbers: Vec<i64>,
}

async fn add(_: CallCx, sum: Sum) -> Result<i64, Failure> {
    Ok(sum.numbers.iter().sum())
}

async fn fail(_: CallCx, _: BTreeMap<String, Value>) -> Result<(), Failure> {
    Err(Failure::new(Code::TaskExecutionFailed, "as it was told").final_now())
}

fn numbers() -> Functions {
    Functions::new("numbers/v1".parse().expect("a protocol")).function("add", add).function("fail", fail)
}

fn config(folder: &tempfile::TempDir) -> Config {
    let state = folder.path().join("state.db").to_string_lossy().into_owned();
    let flags = vec![("state.path", state, "state")];
    config::load(&Sources { flags, ..Sources::default() }).expect("a configuration")
}

/// How a task of it ended, run by a worker inside this process.
async fn end_of(method: &str, params: Value) -> Value {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let service = Worker::builder().config(config(&folder)).functions(numbers()).start().await;
    let service = service.expect("it starts");
    let client = service.client();
    let spec = Spec::new("numbers/v1".parse().expect("a protocol"), method, params);
    let mut ended = None;
    let submit_and_wait = async {
        let call = client.call(Task::new(None, spec), None).await.expect("it is submitted");
        ended = call.1;
    };
    service.run(submit_and_wait).await.expect("it drains");
    let document = ended.expect("it has ended").document.expect("a document");
    serde_json::from_slice(&document).expect("a document is JSON")
}

#[tokio::test]
async fn a_program_runs_its_own_functions_as_tasks() {
    let document = end_of("add", json!({"numbers": [20, 22]})).await;
    assert_eq!((&document["status"], &document["result"]), (&json!("completed"), &json!(42)), "{document}");
    let document = end_of("fail", json!({"anything": 1})).await;
    assert_eq!(document["error"]["message"], json!("as it was told"), "{document}");
}

#[tokio::test]
async fn a_provider_of_no_known_protocol_and_functions_without_one_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error =
        Worker::builder().config(config(&folder)).provider(numbers()).start().await.expect_err("refused");
    assert!(error.to_string().contains("numbers/v1, which is no known protocol"), "{error}");
    let odd = Functions::new("odd/v1".parse().expect("a protocol"))
        .function("m", |_: CallCx, _: i64| async move { Ok::<(), Failure>(()) });
    let error = Worker::builder().config(config(&folder)).functions(odd).start().await.expect_err("refused");
    assert!(error.to_string().contains("odd/v1: m: its parameters must be a struct"), "{error}");
}

/// The program of `examples/rust`, built as the tests are.
fn weather() -> PathBuf {
    let cargo = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--offline", "--example", "weather"])
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .expect("cargo starts");
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    // target/debug/deps/it-1234 stands beside target/debug/examples/weather.
    let ours = std::env::current_exe().expect("this program");
    ours.ancestors().nth(2).expect("the folder of the build").join("examples/weather")
}

#[test]
fn the_example_serves_its_protocol_to_whoever_has_its_file() {
    let Some(place) = Place::new() else { return };
    let program = weather();
    let printed = Command::new(&program).arg("protocol").output().expect("it starts");
    std::fs::create_dir(place.path("protocols")).expect("a folder");
    std::fs::write(place.path("protocols/weather-v1.json"), printed.stdout).expect("a file");
    let mut command = Command::new(&program);
    forget_configuration(&mut command);
    let envs = place.command(&[]);
    command.envs(envs.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("GLEITZEIT_WORKER_PROTOCOLS", "weather/v1");
    let mut worker = Running(command.stdout(Stdio::null()).spawn().expect("it starts"));

    let folder = place.path("protocols").to_string_lossy().into_owned();
    let call = |params: &str| {
        let mut command = place.command(&["call", "weather/v1", "forecast", "--params", params, "--json"]);
        Ran::of(command.env("GLEITZEIT_PROTOCOLS_FOLDER", &folder).output().expect("it starts"))
    };
    let document = call(r#"{"city": "Bonn", "days": 2}"#).expect(0).json();
    assert_eq!(document["result"]["city"], "Bonn", "{document}");
    assert_eq!(document["result"]["days"].as_array().map(Vec::len), Some(2), "{document}");
    let document = call(r#"{"city": "Atlantis"}"#).expect(5).json();
    assert_eq!(document["error"]["message"], "there is no weather under water");
    // The client knows the types' bounds, too.
    let refused = call(r#"{"city": "", "days": 15, "wind": 1}"#).expect(2);
    for word in ["city", "days", "wind"] {
        assert!(refused.stdout.contains(word) || refused.stderr.contains(word), "{word} in {refused:?}");
    }
    assert_eq!(worker.drain(), Some(0));
}
