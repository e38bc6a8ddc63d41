//! Every example runs, and ends as it says.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Embedded, root, task};

/// A workflow file below `examples`: its exit code, and its tasks that do not complete with their codes.
type Example = (&'static str, i32, &'static [(&'static str, &'static str)]);

/// Every workflow file.
const EXAMPLES: &[Example] = &[
    (
        "failure.yaml",
        5,
        &[
            ("after", "TASK_DEPENDENCY_FAILED"),
            ("after-that", "TASK_DEPENDENCY_FAILED"),
            ("flaky", "TASK_EXECUTION_FAILED"),
            ("slow", "TASK_TIMEOUT"),
        ],
    ),
    ("functions.yaml", 0, &[]),
    ("graph.yaml", 0, &[("rate", "TASK_EXECUTION_FAILED")]),
    ("report.yaml", 0, &[]),
    ("tools.yaml", 0, &[]),
];

#[test]
fn every_example_ends_as_it_says() {
    for (name, exit_code, failures) in EXAMPLES {
        let document = run(name, *exit_code);
        let mut found = BTreeMap::new();
        for task in document["tasks"].as_array().expect("tasks") {
            if task["status"] != "completed" {
                assert_eq!(task["status"], "failed", "{name}: {task}");
                let text = |value: &Value| value.as_str().expect("text").to_owned();
                found.insert(text(&task["id"]), text(&task["error"]["name"]));
            }
        }
        let expected = failures.iter().map(|(id, code)| ((*id).to_owned(), (*code).to_owned()));
        assert_eq!(found, expected.collect(), "{name}");
    }
}

#[test]
fn no_example_is_left_out() {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root().join("examples")).expect("the folder is there") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        if name.ends_with(".yaml") {
            files.push(name);
        }
    }
    files.sort();
    let listed: Vec<&str> = EXAMPLES.iter().map(|(name, ..)| *name).collect();
    assert_eq!(files, listed);
    let readme = std::fs::read_to_string(root().join("examples/README.md")).expect("it is there");
    for name in files {
        assert!(readme.contains(&format!("[{name}]({name})")), "examples/README.md does not tell of {name}");
    }
}

#[test]
fn tools_yaml_hands_numbers_on_as_numbers() {
    let document = run("tools.yaml", 0);
    assert_eq!(task(&document, "total")["result"]["result"], json!(298.5));
    let letter = "Dear customer, your order costs 298.5, (99.5 * 3 = 298.5)";
    assert_eq!(task(&document, "letter")["result"]["response"], letter);
}

#[test]
fn graph_yaml_uses_every_kind_of_edge() {
    let document = run("graph.yaml", 0);
    assert_eq!(task(&document, "total")["result"]["result"], json!({"total": 16.8, "rate": "failed"}));
    let squares: Vec<&Value> = task(&document, "square")["result"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| &row["result"])
        .collect();
    assert_eq!(squares, [0, 1, 4, 9]);
    let letter = &task(&document, "letter")["result"];
    assert_eq!(letter["write"]["response"], "Dear customer, it is 16.8");
}

#[test]
fn failure_yaml_keeps_what_was_printed_and_counts_attempts() {
    let document = run("failure.yaml", 5);
    assert_eq!(document["error"]["name"], "WORKFLOW_EXECUTION_FAILED");
    assert_eq!(task(&document, "flaky")["attempts"], json!(2));
    assert_eq!(task(&document, "flaky")["error"]["details"]["stdout"], "asking the service\n");
    assert_eq!(task(&document, "after")["error"]["details"]["dependency"], "flaky");
    assert_eq!(task(&document, "after")["attempts"], json!(0));
}

#[test]
fn count_py_counts_the_words_of_each_file() {
    let args = ["batch", "docs", "--pattern", "*.md", "--script", "examples/count.py", "--json"];
    let document = Embedded::new().run(&args).expect(0).json();
    let text = std::fs::read_to_string(root().join("docs/following.md")).expect("it is there");
    let words = text.split_whitespace().count();
    assert_eq!(document["results"]["docs/following.md"]["content"], json!(words), "{document}");
}

fn run(name: &str, exit_code: i32) -> Value {
    Embedded::new().run(&["run", &format!("examples/{name}"), "--json"]).expect(exit_code).json()
}
