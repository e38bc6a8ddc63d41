//! Results that are larger than what may be kept.

use serde_json::json;

use crate::support::{Embedded, Ran, task};

fn run(folder: &Embedded, args: &[&str]) -> Ran {
    let mut command = folder.command(args);
    command.env("GLEITZEIT_TASK_RESULT_BYTES_MAX", "1000");
    Ran::of(command.output().expect("the binary starts"))
}

#[test]
fn a_result_that_is_too_large_fails_its_task_and_says_how_large_it_was() {
    let folder = Embedded::new();
    let call = |length: usize| {
        let params = json!({"message": "x".repeat(length)}).to_string();
        run(&folder, &["call", "echo/v1", "ping", "--params", &params, "--json"])
    };
    assert_eq!(call(900).expect(0).json()["status"], "completed");
    let document = call(1100).expect(5).json();
    let error = &document["error"];
    assert_eq!(
        (&error["name"], &error["retryable"]),
        (&json!("RESULT_TOO_LARGE"), &json!(false)),
        "{document}"
    );
    assert_eq!(error["details"]["bytes_max"], 1000, "{document}");
    assert!(error["details"]["bytes"].as_u64() > Some(1100), "{document}");
}

#[test]
fn the_results_of_a_list_that_are_too_large_together_fail_the_task_of_the_list() {
    let folder = Embedded::new();
    let list = |items: usize| {
        let items: Vec<String> = (0..items).map(|item| format!("{item}{}", "x".repeat(200))).collect();
        let workflow = json!({
            "name": "list",
            "tasks": [{"id": "each", "method": "echo/ping", "for_each": items, "params": {"message": "${item}"}}],
        });
        let file = folder.write("list.json", &workflow.to_string());
        run(&folder, &["run", &file, "--json"])
    };
    assert_eq!(list(3).expect(0).json()["status"], "completed");
    let document = list(6).expect(5).json();
    assert_eq!(task(&document, "each")["error"]["name"], "RESULT_TOO_LARGE", "{document}");
}
