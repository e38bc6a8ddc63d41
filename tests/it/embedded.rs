//! A laptop with nothing else installed: the command line over a state file.

use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};

use crate::support::{Embedded, Ran, Running, task, until};

#[test]
fn the_readme_example_runs_without_any_server() {
    let here = Embedded::new();
    let ran = here.run(&["run", "examples/report.yaml", "--json"]).expect(0);
    let document = ran.json();
    assert_eq!(document["status"], "completed");
    assert_eq!(document["tasks"].as_array().expect("tasks").len(), 6);
    let report = task(&document, "report")["result"]["result"].as_str().expect("text").to_owned();
    assert!(report.starts_with("Report on Cairo and others\n"), "{report}");
    assert_eq!(task(&document, "compare")["result"]["result"][0]["city"], "Cairo");
}

#[test]
fn one_task_is_run_and_its_result_printed() {
    let here = Embedded::new();
    let ran = here.run(&["exec", "sum(range(10))"]).expect(0);
    assert_eq!(ran.stdout, "45\n");
    let ran =
        here.run(&["call", "mcp/v1", "tool.add", "--params", r#"{"a": 40, "b": 2}"#, "--json"]).expect(0);
    assert_eq!(ran.json()["result"]["result"], json!(42));
    assert_eq!(ran.json()["attempts"], json!(1));
}

#[test]
fn a_failed_task_gives_its_code_and_its_output() {
    let here = Embedded::new();
    let ran = here.run(&["exec", "print('before'); 1/0", "--json"]).expect(5);
    let error = &ran.json()["error"];
    assert_eq!(error["name"], "TASK_EXECUTION_FAILED");
    assert_eq!(error["details"]["stdout"], "before\n");
    assert!(error["message"].as_str().expect("text").contains("ZeroDivisionError"));
}

#[test]
fn a_task_that_failed_after_retries_lists_every_cause() {
    let here = Embedded::new();
    let file = here.write(
        "w.yaml",
        "name: Retried\n\
         tasks:\n\
         - {id: a, method: echo/error, params: {message: no}, retry: {max_attempts: 3, base_delay: 0}}\n\
         - {id: b, method: echo/error, params: {message: no}}\n",
    );
    let document = here.run(&["run", &file, "--json"]).expect(5).json();
    let attempts = task(&document, "a")["error"]["details"]["attempts"].as_array().expect("a list");
    let numbers: Vec<&Value> = attempts.iter().map(|entry| &entry["attempt"]).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert!(attempts.iter().all(|entry| entry["error"]["message"] == "no"), "{attempts:?}");
    assert!(task(&document, "b")["error"]["details"].get("attempts").is_none(), "one attempt is the error");
}

#[test]
fn a_failed_task_fails_its_dependents_and_the_workflow() {
    let here = Embedded::new();
    let file = here.write(
        "w.yaml",
        "name: Fails\n\
         tasks:\n\
         - {id: a, method: echo/error, params: {message: no}}\n\
         - {id: b, method: echo/echo, params: {message: \"${a.response}\"}, dependencies: [a]}\n\
         - {id: c, method: echo/echo, params: {message: \"${b.response}\"}, dependencies: [b]}\n\
         - {id: d, method: echo/echo, params: {message: hi}}\n",
    );
    let document = here.run(&["run", &file, "--json"]).expect(5).json();
    assert_eq!(document["status"], "failed");
    let name = |id: &str| task(&document, id)["error"]["name"].clone();
    assert_eq!(name("b"), "TASK_DEPENDENCY_FAILED");
    assert_eq!(name("c"), "TASK_DEPENDENCY_FAILED");
    assert_eq!(task(&document, "d")["status"], "completed");
}

#[test]
fn submitted_work_is_queued_and_resumed_by_another_process() {
    let here = Embedded::new();
    let id = here.run(&["submit", "examples/report.yaml"]).expect(0).stdout.trim().to_owned();
    let status = here.run(&["status", &id, "--json"]).expect(0).json();
    assert_eq!(status["status"], "accepted");
    here.run(&["result", &id]).expect(1);
    here.run(&["resume", &id]).expect(0);
    let document = here.run(&["result", &id, "--json"]).expect(0).json();
    assert_eq!(document["status"], "completed");
    let listed = here.run(&["list", "--json"]).expect(0).json();
    assert_eq!(listed[0]["id"], json!(id));
    let one = here.run(&["result", &format!("{id}/mean"), "--json"]).expect(0).json();
    assert_eq!(one["status"], "completed");
}

#[test]
fn a_killed_run_is_resumed_and_every_task_ends_once() {
    let here = Embedded::new();
    let ledger = here.path("ledger");
    let step = |id: &str, after: &str| {
        format!(
            "- id: {id}\n  method: python/execute\n  dependencies: [{after}]\n  params:\n    context: {{path: {ledger:?}, \
             me: {id}}}\n    code: |\n      import time\n      time.sleep(0.3)\n      open(path, 'a').write(me + chr(10))\n      me\n"
        )
    };
    let tasks: String = [("s1", ""), ("s2", "s1"), ("s3", "s2"), ("s4", "s3")]
        .iter()
        .map(|(id, after)| step(id, after))
        .collect();
    let file = here.write("w.yaml", &format!("name: Killed\ntasks:\n{tasks}"));
    let mut command = here.command(&["run", &file, "--id", "killed"]);
    let mut run =
        Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts"));
    until("the second step", || std::fs::read_to_string(&ledger).is_ok_and(|text| text.lines().count() >= 2));
    run.kill();

    let status = here.run(&["status", "killed", "--json"]).expect(0).json();
    assert_eq!(status["status"], "running", "a killed run keeps its state");
    here.run(&["resume", "killed"]).expect(0);
    let document = here.run(&["result", "killed", "--json"]).expect(0).json();
    assert_eq!(document["status"], "completed");
    for id in ["s1", "s2", "s3", "s4"] {
        assert_eq!(task(&document, id)["result"]["result"], id);
    }
    let lines: Vec<String> =
        std::fs::read_to_string(&ledger).expect("the ledger").lines().map(str::to_owned).collect();
    assert_eq!(
        lines.iter().filter(|line| *line == "s1").count(),
        1,
        "what had ended is not run again: {lines:?}"
    );
}

#[test]
fn results_are_read_for_many_ids_from_stdin() {
    let here = Embedded::new();
    for id in ["one", "two"] {
        here.run(&["call", "echo/v1", "ping", "--id", id]).expect(0);
    }
    let mut child = here
        .command(&["result", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), b"one\ntwo\n").expect("it reads");
    let ran = Ran::of(child.wait_with_output().expect("it ends")).expect(0);
    assert_eq!(ran.json().as_array().expect("a list").len(), 2);
}

#[test]
fn a_queued_task_is_cancelled_and_never_runs() {
    let here = Embedded::new();
    let id = here.run(&["exec", "print(1)", "--no-wait"]).expect(0).stdout.trim().to_owned();
    here.run(&["cancel", &id]).expect(0);
    here.run(&["resume"]).expect(0);
    let document = here.run(&["result", &id, "--json"]).expect(5).json();
    assert_eq!(document["status"], "cancelled");
}

#[test]
fn a_cancel_holds_for_an_id_that_nobody_has_seen() {
    let here = Embedded::new();
    here.run(&["cancel", "later"]).expect(0);
    let ran = here.run(&["exec", "print(1)", "--id", "later", "--json"]).expect(5);
    assert_eq!(ran.json()["status"], "cancelled");
}

#[test]
fn the_time_limit_of_waiting_leaves_the_work_to_be_resumed() {
    let here = Embedded::new();
    let ran = here.run(&[
        "call",
        "echo/v1",
        "delay",
        "--params",
        r#"{"seconds": 5}"#,
        "--timeout",
        "0.3",
        "--id",
        "slow",
    ]);
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.stderr.contains("gleitzeit resume slow"), "{ran:?}");
}

#[test]
fn a_method_that_nobody_provides_is_answered() {
    let here = Embedded::new();
    let params = r#"{"messages": [{"role": "user", "content": "hi"}], "model": "m"}"#;
    let args = ["call", "llm/v1", "chat", "--params", params, "--timeout", "240", "--json"];
    let mut call = here.command(&args);
    let call = call.env("GLEITZEIT_OLLAMA_URL", "").output().expect("the binary starts");
    let document = Ran::of(call).expect(5).json();
    assert_eq!(document["error"]["name"], "PROVIDER_NOT_AVAILABLE", "{document}");
}

#[test]
fn a_workflow_with_an_idempotency_key_runs_once_under_the_id_of_the_key() {
    let here = Embedded::new();
    let file = here
        .write("w.yaml", "name: Once\nidempotency_key: monday\ntasks:\n- {id: a, method: echo/timestamp}\n");
    let first = here.run(&["run", &file, "--json"]).expect(0).json();
    assert_eq!(first, here.run(&["run", &file, "--json"]).expect(0).json());
    let ran = here.run(&["run", &file, "--id", "another", "--json"]).expect(2);
    assert_eq!(ran.json()["error"]["name"], "INVALID_REQUEST");
}

#[test]
fn waiting_for_what_nobody_has_seen_ends_as_unknown() {
    let here = Embedded::new();
    for id in ["nope", "nope/task"] {
        let ran = here.run(&["result", "--wait", "--timeout", "0.2", id, "--json"]).expect(7);
        assert_eq!(ran.json()["status"], "unknown");
    }
}

#[test]
fn a_task_of_a_workflow_is_waited_for() {
    let here = Embedded::new();
    let file = here.write("w.yaml", "name: W\ntasks:\n- {id: a, method: echo/delay, params: {seconds: 1}}\n");
    here.run(&["submit", &file, "--id", "w"]).expect(0);
    let waiting = here.command(&["result", "--wait", "--timeout", "240", "w/a", "--json"]);
    let waiting = spawn_reading(waiting);
    here.run(&["resume", "w"]).expect(0);
    let document = Ran::of(waiting.wait_with_output().expect("it ends")).expect(0).json();
    assert_eq!(document["status"], "completed", "{document}");
}

#[test]
fn what_has_not_ended_is_shown_with_its_state_and_the_names_of_its_document() {
    let here = Embedded::new();
    let file =
        here.write("w.yaml", "name: W\ntasks:\n- {id: a, method: python/execute, params: {code: \"import time; time.sleep(60)\"}}\n");
    let document = here.run(&["run", &file, "--id", "w", "--timeout", "0.5", "--json"]).expect(6).json();
    assert_eq!(document["workflow_id"], "w");
    // A slow machine may not have begun with it by then.
    let status = document["status"].as_str().expect("a state");
    assert!(["accepted", "running"].contains(&status), "{document}");
    here.run(&["exec", "1", "--no-wait", "--id", "t"]).expect(0);
    let documents = here.run(&["resume", "--timeout", "0.5", "--json"]).expect(6).json();
    let documents = documents.as_array().expect("a list");
    assert_eq!(documents.len(), 2, "{documents:?}");
    assert!(documents.iter().any(|document| document["workflow_id"] == "w"), "{documents:?}");
}

#[test]
fn an_interrupted_wait_says_what_it_knows() {
    let here = Embedded::new();
    here.run(&["exec", "1", "--no-wait", "--id", "t"]).expect(0);
    let mut waiting =
        spawn_reading(here.command(&["result", "--wait", "t", "--json", "--log-level", "info"]));
    interrupt_when_listening(&mut waiting);
    let ran = Ran::of(waiting.wait_with_output().expect("it ends")).expect(130);
    assert_eq!(ran.json()["status"], "accepted", "{ran:?}");
}

#[test]
fn an_interrupted_task_is_cancelled_where_that_was_asked_for() {
    let here = Embedded::new();
    let args = ["exec", "import time; time.sleep(60)", "--id", "t", "--cancel-on-exit"];
    let mut call = spawn_reading(here.command(&[&args[..], &["--json"]].concat()));
    until("the task runs", || here.run(&["status", "t", "--json"]).stdout.contains("running"));
    interrupt_when_listening(&mut call);
    let ran = Ran::of(call.wait_with_output().expect("it ends")).expect(130);
    assert_eq!(ran.json()["status"], "cancelled", "{ran:?}");
    assert_eq!(here.run(&["status", "t", "--json"]).expect(0).json()["status"], "cancelled");
}

#[test]
fn a_worker_runs_no_more_tasks_at_once_than_it_was_told() {
    let here = Embedded::new();
    let ledger = here.path("ledger");
    let code = format!(
        "import time\nfor word in 'begin', 'end':\n    open({ledger:?}, 'a').write(word + chr(10))\n    time.sleep(0.1)"
    );
    let ids = ["one", "two", "three"];
    for id in ids {
        here.run(&["exec", &code, "--no-wait", "--id", id]).expect(0);
    }
    // Two for two protocols: one for each, though each could have eight.
    let args = ["worker", "--protocol", "python/v1", "--protocol", "echo/v1", "--max-running", "2"];
    let mut worker = Running(spawn_reading(here.command(&args)));
    here.run(&[&["result", "--wait"], &ids[..]].concat()).expect(0);
    assert_eq!(worker.drain(), Some(0));
    let words = std::fs::read_to_string(&ledger).expect("the ledger");
    assert_eq!(words, "begin\nend\n".repeat(3), "one after the other");
}

#[test]
fn a_cap_below_the_number_of_protocols_is_refused() {
    let here = Embedded::new();
    let args = ["worker", "--protocol", "python/v1", "--protocol", "echo/v1", "--max-running", "1", "--json"];
    let ran = here.run(&args).expect(2);
    assert_eq!(ran.json()["error"]["name"], "CONFIGURATION_ERROR");
    assert!(
        ran.json()["error"]["message"].as_str().expect("text").contains("worker.max_running is 1"),
        "{ran:?}"
    );
}

#[test]
fn a_cancel_needs_no_provider() {
    let here = Embedded::new();
    here.run(&["exec", "1", "--no-wait", "--id", "t"]).expect(0);
    let mut cancel = here.command(&["cancel", "t"]);
    cancel.env("GLEITZEIT_WORKER_PROTOCOLS", "llm/v1").env("GLEITZEIT_PYTHON_INTERPRETER", "/nonexistent");
    Ran::of(cancel.output().expect("the binary starts")).expect(0);
    assert_eq!(here.run(&["status", "t", "--json"]).expect(0).json()["status"], "cancelled");
}

#[test]
fn a_reader_that_goes_away_changes_nothing() {
    let here = Embedded::new();
    for (args, code) in [(&["completions", "bash"][..], 0), (&["call", "echo/v1", "error", "--json"], 5)] {
        let mut child = spawn_reading(here.command(args));
        drop(child.stdout.take());
        let ran = Ran::of(child.wait_with_output().expect("it ends")).expect(code);
        assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    }
}

fn spawn_reading(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
}

/// Sends SIGINT as soon as the process catches it, which the kernel tells.
fn interrupt_when_listening(child: &mut Child) {
    let status = format!("/proc/{}/status", child.id());
    until("the process listens to signals", || {
        let text = std::fs::read_to_string(&status).expect("the process lives");
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a line of Linux");
        u64::from_str_radix(caught.trim(), 16).is_ok_and(|caught| caught & 0b10 != 0)
    });
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("kill is there").success());
}
