//! Workflow files of the original project's making run unchanged: ours of the same kinds always, its own where
//! somebody has put them beside this repository.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::ollama_server::Ollama;
use crate::place::{Place, say_skipped};
use crate::support::{Embedded, Ran, Running, root, task};

/// Runs a file to its end; the document.
type Run<'a> = &'a dyn Fn(&str) -> Value;

#[test]
fn files_of_every_kind_run_without_servers() {
    let ollama = Ollama::start();
    ours(&embedded(&ollama), &ollama);
}

#[test]
fn files_of_every_kind_run_over_servers() {
    let Some(place) = Place::new() else { return };
    let ollama = Ollama::start();
    let _worker = worker(&place, &ollama);
    ours(&|file| place.run(&["run", file, "--json"]).expect(0).json(), &ollama);
}

#[test]
fn a_retry_block_has_the_names_of_the_originals_code_too() {
    let ollama = Ollama::start();
    let document = embedded(&ollama)("tests/workflows/llm-retry-config.yaml");
    assert_all_completed(&document, 1);
    assert_eq!(document["tasks"][0]["attempts"], json!(2));
    let asked = ollama.chats();
    assert!(asked[1].duration_since(asked[0]).as_secs_f64() >= 0.1, "{asked:?}");
}

#[test]
fn the_original_projects_own_files_run_unchanged() {
    let ollama = Ollama::start();
    theirs(&embedded(&ollama), &ollama);
}

#[test]
fn the_original_projects_own_files_run_unchanged_over_servers() {
    let Some(place) = Place::new() else { return };
    let ollama = Ollama::start();
    let _worker = worker(&place, &ollama);
    theirs(&|file| place.run(&["run", file, "--json"]).expect(0).json(), &ollama);
}

/// A worker that asks this server's models.
fn worker(place: &Place, ollama: &Ollama) -> Running {
    let mut worker = place.command(&["worker"]);
    worker.env("GLEITZEIT_OLLAMA_URL", ollama.url()).stdout(Stdio::null()).stderr(Stdio::null());
    Running(worker.spawn().expect("the binary starts"))
}

/// The five sample files of the original, where they are, and what comes of each.
fn theirs(run: Run, ollama: &Ollama) {
    let folder = root().join("../shared/external/gleitzeit-python");
    if !folder.is_dir() {
        say_skipped("the sample files of the original project");
        return;
    }
    let run = |name: &str| run(&folder.join(name).to_string_lossy());

    let document = run("examples/simple_mcp_workflow.yaml");
    let joined = "Hello from Simple MCP! | Sum was 100 | Product is 200";
    assert_eq!(
        result(&document, "combine_results"),
        &json!({"response": joined, "joined": true, "count": 3})
    );
    assert_eq!(result(&document, "calculate_product")["calculation"], "100 * 2 = 200");

    let document = run("tests/mcp_test_workflow.yaml");
    assert_all_completed(&document, 5);
    assert_eq!(result(&document, "test_echo")["response"], "Testing MCP provider");
    assert_eq!(result(&document, "test_echo")["length"], 20);
    assert_eq!(result(&document, "test_math")["calculation"], "10 + 20 = 30");

    let document = run("examples/workflows/simple_echo_v4.yaml");
    let last = "Workflow complete! First: Hello from the first task!, Second: Previous task said: Hello from the \
                first task!";
    assert_eq!(result(&document, "final-echo")["response"], last);

    let document = run("examples/dependent_workflow.yaml");
    assert_all_completed(&document, 3);
    let first = result(&document, "generate_topic")["response"].as_str().expect("text");
    let outline = "Create a 3-point outline for an essay about: ";
    assert_eq!(prompts(ollama)[1], format!("{outline}{first}"));
    assert_eq!(prompts(ollama).len(), 3);

    let document = run("tests/llm_test.yaml");
    assert_all_completed(&document, 1);
    assert_eq!(ollama.asked()[3].body["options"], json!({"temperature": 0.7}));
    assert_no_reference_was_sent(ollama);
}

/// The files of `tests/workflows`, and what comes of each.
fn ours(run: Run, ollama: &Ollama) {
    let run = |name: &str| run(&format!("tests/workflows/{name}"));

    let document = run("tools.yaml");
    let joined = "Good evening! / The sum is 21 / twice that 42";
    assert_eq!(result(&document, "join"), &json!({"response": joined, "joined": true, "count": 3}));
    assert_eq!(result(&document, "double")["calculation"], "21 * 2 = 42");

    let document = run("tools-server.yaml");
    assert_all_completed(&document, 5);
    assert_eq!(result(&document, "ping")["response"], "pong");
    assert_eq!(result(&document, "echo")["length"], 17);
    assert_eq!(result(&document, "add")["calculation"], "30 + 12 = 42");

    let document = run("echo-task-root.yaml");
    let last = "Both: Is anybody there? I heard: Is anybody there?";
    assert_eq!(result(&document, "three-calls")["response"], last);

    let document = run("scripts.yaml");
    assert_all_completed(&document, 3);
    assert_eq!(result(&document, "task-3")["result"], "All 4 numbers: [3, 6, 9, 12], 7.50 on average");

    let document = run("echo-extras.yaml");
    assert_eq!(
        (&document["status"], result(&document, "answer")),
        (&json!("completed"), &json!({"response": "here"}))
    );
    assert_eq!(task(&document, "fail")["error"]["message"], "here, and it fails");

    let document = run("llm-chain.yaml");
    assert_all_completed(&document, 3);
    let first = Ollama::answer_to("Name a river. Only its name.");
    let second = format!("Describe this river in one sentence: {first}");
    let third = format!("Translate into German: {}", Ollama::answer_to(&second));
    assert_eq!(prompts(ollama), ["Name a river. Only its name.", &second, &third]);
    let keys = ["response", "content", "role", "model", "provider_id", "tokens_used", "total_duration"];
    for key in keys {
        assert!(!result(&document, "translate")[key].is_null(), "{key}");
    }

    let document = run("llm-retry.yaml");
    assert_all_completed(&document, 1);
    assert_eq!(document["tasks"][0]["attempts"], json!(2));
    assert_no_reference_was_sent(ollama);
}

fn embedded(ollama: &Ollama) -> impl Fn(&str) -> Value {
    let (here, url) = (Embedded::new(), ollama.url());
    move |file| {
        let mut command = here.command(&["run", file, "--json"]);
        command.env("GLEITZEIT_OLLAMA_URL", &url);
        Ran::of(command.output().expect("the binary starts")).expect(0).json()
    }
}

fn result<'a>(document: &'a Value, id: &str) -> &'a Value {
    &task(document, id)["result"]
}

fn assert_all_completed(document: &Value, count: usize) {
    let tasks = document["tasks"].as_array().expect("a workflow document has tasks");
    assert_eq!((&document["status"], tasks.len()), (&json!("completed"), count), "{document}");
    assert!(tasks.iter().all(|task| task["status"] == "completed"), "{document}");
}

/// What the models were asked last, request by request.
fn prompts(ollama: &Ollama) -> Vec<String> {
    let last = |body: &Value| body["messages"].as_array()?.last()?["content"].as_str().map(str::to_owned);
    ollama.asked().iter().filter_map(|asked| last(&asked.body)).collect()
}

fn assert_no_reference_was_sent(ollama: &Ollama) {
    for asked in ollama.asked() {
        assert!(!asked.body.to_string().contains("${"), "{}", asked.body);
    }
}
