//! Bad input: each kind with its own code, everything said at once, nothing left behind.

use serde_json::{Value, json};

use crate::support::{Embedded, Ran, gleitzeit};

/// Runs it, expects the exit code and the error's name, and that nothing was queued.
#[track_caller]
fn refused(here: &Embedded, args: &[&str], exit: i32, name: &str) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let ran = here.run(&args).expect(exit);
    let error = ran.json()["error"].clone();
    assert_eq!(error["name"], name, "{error}");
    let left = here.run(&["list", "--json"]).expect(0).json();
    assert_eq!(left.as_array().map(Vec::len), Some(0), "something was left behind: {left}");
    error
}

#[test]
fn an_unknown_protocol_and_an_unknown_method() {
    let here = Embedded::new();
    let error = refused(&here, &["call", "pyton/v1", "execute"], 2, "PROTOCOL_NOT_FOUND");
    assert!(error["message"].as_str().expect("text").contains("python/v1"), "it names the near one: {error}");
    refused(&here, &["call", "python/v1", "exekute"], 2, "METHOD_NOT_FOUND");
}

#[test]
fn every_missing_and_ill_typed_parameter_is_listed() {
    let here = Embedded::new();
    let error = refused(
        &here,
        &["call", "python/v1", "execute", "--params", r#"{"code": 1, "imports": ["math", 2], "cod": 1}"#],
        2,
        "INVALID_PARAMS",
    );
    let paths: Vec<&str> = error["details"]["violations"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|violation| violation["path"].as_str())
        .collect();
    for path in ["params.code", "params.imports[1]", "params.cod"] {
        assert!(paths.contains(&path), "{path} in {paths:?}");
    }
}

#[test]
fn a_cycle_and_an_unknown_dependency() {
    let here = Embedded::new();
    let tasks = |a: &str, b: &str| {
        format!(
            "name: W\ntasks:\n- {{id: a, method: echo/ping, dependencies: [{a}]}}\n- {{id: b, method: echo/ping, dependencies: [{b}]}}\n"
        )
    };
    let file = here.write("cycle.yaml", &tasks("b", "a"));
    let error = refused(&here, &["run", &file], 2, "WORKFLOW_CIRCULAR_DEPENDENCY");
    assert!(error["message"].as_str().expect("text").contains("a -> b -> a"), "{error}");
    let file = here.write("unknown.yaml", &tasks("c", "a"));
    refused(&here, &["run", &file], 2, "WORKFLOW_UNKNOWN_DEPENDENCY");
}

#[test]
fn a_cycle_is_told_together_with_what_else_is_wrong() {
    let here = Embedded::new();
    let text = "name: W\ntasks:\n- {id: a, method: echo/ping, dependencies: [b]}\n- id: b\n  method: echo/ping\n  dependencies: [a, c]\n  retry_config:\n    backoff_strategy: slow\n- {id: d, method: echo/pong, timeout: 0}\n";
    let file = here.write("w.yaml", text);
    let error = refused(&here, &["run", &file], 2, "WORKFLOW_VALIDATION_FAILED");
    let told = here.run(&["run", &file]).expect(2).stderr;
    for part in [
        ":2:1: tasks: Circular dependencies detected: a -> b -> a",
        ":6:21: tasks[1].dependencies[1]: unknown dependency 'c'",
        ":8:5: tasks[1].retry.backoff: found \"slow\"",
        ":9:30: tasks[2].timeout: found 0",
        ":9:11: tasks[2].method: ",
    ] {
        assert!(told.contains(&format!("  {file}{part}")), "{part} is not in {told}");
    }
    assert_eq!(error["details"]["violations"].as_array().map(Vec::len), Some(5), "{error}");
}

#[test]
fn what_is_wrong_in_a_file_is_told_with_its_line_and_column() {
    let here = Embedded::new();
    let yaml = "# two tasks\nname: W\ntasks:\n- id: a\n  method: echo/ping\n  timeout: 0\n- {id: b, params: {x: '${c.y}'}, method: echo/echo}\n- id: d\n  params: {}\n";
    let json = "{\"tasks\": [\n  {\"id\": \"a\", \"method\": \"echo/ping\",\n    \"retry\": {\"max_attempts\": 99}}\n]}";
    let expected_of = [
        (
            "places.yaml",
            yaml,
            &[
                ":6:3: tasks[0].timeout: found 0",
                ":7:20: tasks[1].params.x: ${c.y} refers to no task",
                ":8:3: tasks[2].method: method is required",
            ][..],
        ),
        ("places.json", json, &[":3:15: tasks[0].retry.max_attempts: found 99"]),
    ];
    for (name, text, expected) in expected_of {
        let file = here.write(name, text);
        for command in ["run", "submit"] {
            let ran = here.run(&[command, &file, "--json"]).expect(2);
            for part in expected {
                assert!(ran.stderr.contains(&format!("  {file}{part}")), "{part} is not in {}", ran.stderr);
            }
            let details = &ran.json()["error"]["details"];
            let first = &details["violations"][0];
            let place = format!(":{}:{}: ", first["line"], first["column"]);
            assert!(expected[0].starts_with(&place), "{details}");
            assert_eq!(details["file"], file.as_str());
        }
    }
}

#[test]
fn what_is_wrong_in_a_template_or_in_a_file_that_is_put_in_is_told_where_it_is_written() {
    let here = Embedded::new();
    std::fs::create_dir(here.path("files")).expect("a folder");
    let folder = here.write("files/a.txt", "a").replace("/a.txt", "");
    here.write("files/b.txt", "b");
    let template = "  method: echo\n  timeout: 0\n  retry: {max_attempts: 99}\n";
    let text = format!("protocol: echo/v1\nbatch: {{directory: {folder}, patern: x}}\ntemplate:\n{template}");
    let file = here.write("batch.yaml", &text);
    let ran = here.run(&["run", &file, "--json"]).expect(2);
    for part in [":2:", ":5:3: template.timeout: found 0", ":6:11: template.retry.max_attempts: found 99"] {
        assert_eq!(ran.stderr.matches(&format!("  {file}{part}")).count(), 1, "{part} in {}", ran.stderr);
    }
    assert!(!ran.stderr.contains("tasks["), "{}", ran.stderr);

    let file = here.write("template.yaml", "method: echo/echo\ntimeout: 0\n");
    let ran = here.run(&["batch", &folder, "--template", &file]).expect(2);
    assert_eq!(
        ran.stderr.matches(&format!("  {file}:2:1: template.timeout: found 0")).count(),
        1,
        "{}",
        ran.stderr
    );

    let inner = here.write("inner.yaml", "tasks:\n- id: a\n  method: echo/ping\n  timeout: 0\n");
    let file = here.write("outer.yaml", &format!("tasks: [{{id: x, workflow: '{inner}'}}]\n"));
    let ran = here.run(&["run", &file, "--json"]).expect(2);
    assert!(
        ran.stderr.contains(&format!("  {inner}:4:3: tasks[0].workflow.tasks[0].timeout")),
        "{}",
        ran.stderr
    );
    let first = &ran.json()["error"]["details"]["violations"][0];
    assert_eq!((&first["file"], &first["line"], &first["column"]), (&json!(inner), &json!(4), &json!(3)));
}

#[test]
fn a_file_that_is_missing_hides_nothing_and_what_is_odd_is_told_with_its_place() {
    let here = Embedded::new();
    let missing =
        "tasks:\n- {id: x, workflow: /nonexistent/w.yaml}\n- {id: y, method: echo/ping, timeout: 0}\n";
    let file = here.write("missing.yaml", missing);
    let ran = here.run(&["run", &file, "--json"]).expect(2);
    for part in
        [":2:11: tasks[0].workflow: cannot read /nonexistent/w.yaml", ":3:30: tasks[1].timeout: found 0"]
    {
        assert_eq!(ran.stderr.matches(&format!("  {file}{part}")).count(), 1, "{part} in {}", ran.stderr);
    }

    std::fs::create_dir(here.path("files")).expect("a folder");
    let folder = here.write("files/a.txt", "a").replace("/a.txt", "");
    here.write("files/b.txt", "b");
    let template = "  method: echo\n  retry: {max_attempts: 2, often: 3}\n";
    let text = format!("protocol: echo/v1\nbatch: {{directory: {folder}}}\ntemplate:\n{template}");
    let batch = here.write("batch.yaml", &text);
    let inner = here.write("inner.yaml", "tasks:\n- id: a\n  method: echo/ping\n  priorty: 1\n");
    let outer = here.write("outer.yaml", &format!("tasks: [{{id: x, workflow: '{inner}'}}]\n"));
    let expected_of = [
        (&batch, format!("warning: {batch}:5:28: unknown key template.retry.often")),
        (&outer, format!("warning: {inner}:4:3: unknown key tasks[0].workflow.tasks[0].priorty")),
    ];
    for (file, expected) in expected_of {
        let ran = here.run(&["submit", file]).expect(0);
        assert_eq!(ran.stderr.matches(&expected).count(), 1, "{expected} in {}", ran.stderr);
        assert_eq!(ran.stderr.matches("warning: ").count(), 1, "{}", ran.stderr);
    }
    let file = here.write("template.yaml", &template.replace("echo", "echo/echo"));
    let ran = here.run(&["batch", &folder, "--template", &file]);
    let expected = format!("warning: {file}:2:28: unknown key template.retry.often");
    assert_eq!(ran.stderr.matches(&expected).count(), 1, "{expected} in {}", ran.stderr);
}

#[test]
fn what_tasks_and_messages_say_cannot_command_the_terminal() {
    let here = Embedded::new();
    let ran = here.run(&["exec", "raise ValueError('\\x1b[2J\\x9b')"]).expect(5);
    assert!(ran.stderr.contains("·[2J·") && !ran.stderr.contains('\u{1b}'), "{}", ran.stderr);
    let file = here.write("w.json", "{\"tasks\": [{\"id\": \"\\u001b[2J\", \"method\": \"echo/\\u001b\"}]}");
    for command in ["run", "graph"] {
        let ran = here.run(&[command, &file]).expect(2);
        assert!(!ran.stderr.contains('\u{1b}'), "{}", ran.stderr);
    }
    here.run(&["call", "echo/v1", "ping", "--id", "a\u{1b}"]).expect(2);
}

#[test]
fn an_unreadable_file_and_text_that_is_no_workflow() {
    let here = Embedded::new();
    refused(&here, &["run", "/nonexistent/w.yaml"], 3, "FILE_UNREADABLE");
    let file = here.write("list.yaml", "- a\n- b\n");
    refused(&here, &["run", &file], 2, "PARSE_ERROR");
    let file = here.write("broken.yaml", "name: [a\n");
    refused(&here, &["submit", &file], 2, "PARSE_ERROR");
}

#[test]
fn a_task_of_five_megabytes() {
    let here = Embedded::new();
    let params = format!("{{\"message\": \"{}\"}}", "x".repeat(5_000_000));
    let file = here.write("params.json", &params);
    refused(&here, &["call", "echo/v1", "echo", "--params", &format!("@{file}")], 2, "TASK_TOO_LARGE");
}

#[test]
fn servers_that_are_not_there() {
    // A worker too: its supervisor starts it again.
    for args in [&["exec", "1", "--json"][..], &["worker", "--json"]] {
        let mut command = gleitzeit(args);
        // Port 1 is reserved; nobody listens there.
        command.args(["--amqp", "amqp://guest:secret@127.0.0.1:1/%2f", "--redis", "redis://127.0.0.1:1/0"]);
        let ran = Ran::of(command.output().expect("the binary starts")).expect(4);
        let error = ran.json()["error"].clone();
        assert!(!error.to_string().contains("secret"), "the password is masked: {error}");
        let names = ["CONNECTION_REFUSED", "PERSISTENCE_CONNECTION_FAILED"];
        assert!(names.iter().any(|name| error["name"] == *name), "{error}");
    }
}

#[test]
fn a_configuration_with_an_unknown_key() {
    let here = Embedded::new();
    let file = here.write("c.toml", "[worker]\nconcurency = 2\n");
    let ran = here.run(&["config", "show", "--config", &file, "--json"]).expect(2);
    assert_eq!(ran.json()["error"]["name"], "CONFIGURATION_ERROR");
    assert!(ran.stderr.contains("worker.concurency"), "{ran:?}");
}

#[test]
fn a_configuration_file_that_is_not_there() {
    let here = Embedded::new();
    let ran = here.run(&["list", "--config", "/nonexistent/c.toml", "--json"]).expect(3);
    assert_eq!(ran.json()["error"]["name"], "FILE_UNREADABLE");
}

#[test]
fn a_password_is_shown_neither_by_config_nor_by_an_error() {
    let here = Embedded::new();
    let mut command = here.command(&["config", "show"]);
    command
        .env("GLEITZEIT_AMQP_URL", "amqp://u:s3/cr@et@h/v")
        .env("GLEITZEIT_REDIS_URL", "redis://h/0?pass=s3cret");
    let ran = Ran::of(command.output().expect("the binary starts")).expect(0);
    assert!(ran.stdout.contains("amqp://u:***@h/v") && !ran.stdout.contains("et@"), "{ran:?}");
    assert!(!ran.stdout.contains("s3cret"), "{ran:?}");
    let file = here.write("c.toml", "[amqp]\nurl = amqp://u:s3cret@h\n");
    let ran = here.run(&["config", "show", "--config", &file, "--json"]).expect(2);
    assert!(ran.stderr.contains("line 2"), "{ran:?}");
    assert!(!ran.stderr.contains("s3cret") && !ran.stdout.contains("s3cret"), "{ran:?}");
}

#[test]
fn arguments_that_make_no_command_line() {
    let here = Embedded::new();
    for args in [&["runn"][..], &["call", "echo/v1"], &["list", "--limit", "x"], &["run", "a", "--nope"]] {
        refused(&here, args, 2, "INVALID_REQUEST");
    }
    assert!(here.run(&["--version"]).expect(0).stdout.starts_with("gleitzeit "));
}

#[test]
fn a_status_that_there_is_not_and_a_workflow_file_of_no_known_kind() {
    let here = Embedded::new();
    let error = refused(&here, &["list", "--status", "complete"], 2, "INVALID_REQUEST");
    assert!(error["message"].as_str().expect("text").contains("completed"), "{error}");
    let file = here.write("w.txt", "name: W\n");
    refused(&here, &["run", &file], 2, "INVALID_REQUEST");
}

#[test]
fn a_worker_for_a_protocol_whose_provider_cannot_start() {
    let here = Embedded::new();
    let mut command = here.command(&["worker", "--protocol", "python/v1", "--json"]);
    command.env("GLEITZEIT_PYTHON_INTERPRETER", "/nonexistent/python3");
    let ran = Ran::of(command.output().expect("the binary starts")).expect(4);
    assert_eq!(ran.json()["error"]["name"], "PROVIDER_INITIALIZATION_FAILED", "{ran:?}");
}
