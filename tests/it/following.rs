//! Seeing workflows, running again what failed, and batches: the command line over a state file.

use serde_json::{Value, json};
use std::process::{Command, Stdio};

use crate::place::{Place, missing};
use crate::support::{Embedded, Ran, Running, forget_configuration, root, task, until};

#[test]
fn the_status_of_a_workflow_is_its_graph() {
    let here = Embedded::new();
    here.run(&["run", "examples/report.yaml", "--id", "w"]).expect(0);
    let plain =
        Ran::of(here.command(&["status", "w"]).env("LC_ALL", "C").output().expect("it starts")).expect(0);
    assert!(plain.stdout.is_ascii(), "{}", plain.stdout);
    assert!(plain.stdout.starts_with("w  completed  \"Weather report\"  6 of 6 ended"), "{}", plain.stdout);
    let boxes = Ran::of(here.command(&["status", "w"]).env("LC_ALL", "C.UTF-8").output().expect("it starts"));
    let pictures: Vec<&str> =
        boxes.stdout.lines().skip(1).map(|line| line.split(" (").next().unwrap_or_default()).collect();
    assert_eq!(
        pictures,
        ["✓ collect", "├─✓ mean", "├─│─✓ extremes", "✓ │ │ trend", "│ │ │", "✓─┴─╯ compare", "│", "✓ report"]
    );
    assert!(!boxes.stdout.contains('\x1b'), "colours are for terminals");
}

#[test]
fn a_failed_workflow_says_in_its_graph_why() {
    let here = Embedded::new();
    here.run(&["run", "examples/failure.yaml", "--id", "w"]).expect(5);
    let shown = here.run(&["status", "w"]).expect(0).stdout;
    assert!(shown.contains("[TASK_TIMEOUT]"), "{shown}");
    assert!(shown.contains("2 attempts"), "{shown}");
    assert!(shown.contains("because of flaky"), "{shown}");
    let one = here.run(&["status", "w/flaky"]).expect(0).stdout;
    assert!(one.contains("attempt 1: failed") && one.contains("[TASK_EXECUTION_FAILED]"), "{one}");
}

#[test]
fn watching_ends_with_the_work_and_prints_its_results() {
    let here = Embedded::new();
    let text = "name: W\ntasks:\n- {id: a, method: echo/delay, params: {seconds: 5}}\n\
                - {id: b, method: echo/ping, dependencies: [a]}\n";
    let file = here.write("w.yaml", text);
    here.run(&["submit", &file, "--id", "w"]).expect(0);
    let mut watch = here.command(&["watch", "w", "--timeout", "240", "--json"]);
    let watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    here.run(&["resume", "w"]).expect(0);
    let ran = Ran::of(watch.wait_with_output().expect("it ends")).expect(0);
    assert_eq!(ran.json()["status"], "completed");
    assert_eq!(ran.json(), here.run(&["result", "w", "--json"]).expect(0).json());
    let told: Vec<&str> = ran.stderr.lines().filter(|line| line.contains(" completed ")).collect();
    assert_eq!(told.len(), 2, "{}", ran.stderr);
}

#[test]
fn watching_what_has_ended_or_is_unknown_ends_at_once() {
    let here = Embedded::new();
    here.run(&["run", "examples/failure.yaml", "--id", "w"]).expect(5);
    let ran = here.run(&["watch", "w"]).expect(5);
    assert!(ran.stdout.contains("flaky: [TASK_EXECUTION_FAILED]"), "{ran:?}");
    here.run(&["watch", "w/flaky", "--json"]).expect(5);
    let error = here.run(&["watch", "nobody", "--json"]).expect(7).json();
    assert_eq!(error["error"]["name"], "WORKFLOW_NOT_FOUND");
    here.run(&["exec", "1", "--no-wait", "--id", "t"]).expect(0);
    let waiting = here.run(&["watch", "t", "--timeout", "0.2", "--json"]).expect(6).json();
    assert_eq!(waiting["status"], "accepted");
}

#[test]
fn what_failed_runs_again_and_what_completed_does_not() {
    let here = Embedded::new();
    let (ledger, gate) = (here.path("ledger"), here.path("gate"));
    let note = format!("open({ledger:?}, 'a').write(me + chr(10))");
    let step = |id: &str, after: &str, code: &str| {
        format!(
            "- id: {id}\n  method: python/execute\n  dependencies: [{after}]\n  params: {{context: {{me: {id}}}, code: \"{}\"}}\n",
            code.replace('"', "'")
        )
    };
    let fails = format!("{note}; open('{}').close()", gate.display()).replace('"', "'");
    let note = note.replace('"', "'");
    let text = format!(
        "name: W\ntasks:\n{}{}{}",
        step("a", "", &note),
        step("b", "a", &fails),
        step("c", "b", &note)
    );
    let file = here.write("w.yaml", &text);
    here.run(&["run", &file, "--id", "w"]).expect(5);
    std::fs::write(&gate, "").expect("a file");
    let document = here.run(&["retry", "w", "--wait", "--timeout", "240", "--json"]).expect(0).json();
    assert_eq!(document["status"], "completed", "{document}");
    assert_eq!(task(&document, "c")["status"], "completed");
    let lines = std::fs::read_to_string(&ledger).expect("the ledger");
    assert_eq!(lines.lines().collect::<Vec<_>>(), ["a", "b", "b", "c"]);
    let again = here.run(&["retry", "w"]).expect(0);
    assert!(again.stderr.contains("nothing to retry"), "{again:?}");
}

#[test]
fn a_retry_without_waiting_is_carried_out_and_resumed() {
    let here = Embedded::new();
    let gate = here.path("gate");
    here.run(&["exec", &format!("open({gate:?}).close()"), "--id", "t"]).expect(5);
    std::fs::write(&gate, "").expect("a file");
    here.run(&["retry", "t"]).expect(0);
    assert_ne!(here.run(&["status", "t", "--json"]).expect(0).json()["status"], "failed");
    here.run(&["resume", "t"]).expect(0);
    assert_eq!(here.run(&["result", "t", "--json"]).expect(0).json()["status"], "completed");
}

#[test]
fn a_retry_is_refused_once_results_that_it_needs_are_not_kept_any_more() {
    let here = Embedded::new();
    let tasks = "tasks:\n- {id: a, method: echo/ping}\n- {id: b, method: echo/error, params: {message: no}, dependencies: [a]}\n";
    let file = here.write("w.yaml", &format!("result_ttl: 2\n{tasks}"));
    here.run(&["run", &file, "--id", "w"]).expect(5);
    until("the results to be gone", || here.run(&["result", "w", "--json"]).json()["tasks"] == json!([]));
    let ran = here.run(&["retry", "w", "--json"]).expect(2);
    let error = ran.json()["error"].clone();
    assert_eq!(error["name"], "WORKFLOW_INVALID_STATE", "{error}");
    let message = error["message"].as_str().expect("text");
    assert!(message.contains("the results of 1 tasks that completed (a) are not kept any more"), "{message}");
    assert_eq!(here.run(&["status", "w", "--json"]).json()["status"], "failed");
    // Where nothing that completed is needed, nothing is missed.
    let tasks = "tasks:\n- {id: b, method: echo/error, params: {message: no}}\n- {id: c, method: echo/ping, dependencies: [b]}\n";
    let file = here.write("v.yaml", &format!("result_ttl: 0.01\n{tasks}"));
    here.run(&["run", &file, "--id", "v"]).expect(5);
    here.run(&["retry", "v"]).expect(0);
}

#[test]
fn what_cannot_be_retried_is_refused_with_the_reason() {
    let here = Embedded::new();
    let name = |args: &[&str], code: i32| {
        here.run(&[args, &["--json"]].concat()).expect(code).json()["error"]["name"].clone()
    };
    assert_eq!(name(&["retry", "nobody"], 7), "WORKFLOW_NOT_FOUND");
    here.run(&["exec", "1", "--no-wait", "--id", "t"]).expect(0);
    assert_eq!(name(&["retry", "t"], 2), "WORKFLOW_INVALID_STATE");
    assert_eq!(name(&["retry", "w/t"], 2), "INVALID_REQUEST");
}

#[test]
fn what_was_cancelled_before_anyone_took_it_is_not_retried() {
    let here = Embedded::new();
    here.run(&["exec", "1", "--no-wait", "--id", "t"]).expect(0);
    here.run(&["cancel", "t"]).expect(0);
    here.run(&["resume"]).expect(0);
    for args in [&["retry", "t"][..], &["retry", "t", "--wait"]] {
        let ran = here.run(args).expect(2);
        assert!(ran.stderr.contains("t is cancelled") && ran.stderr.contains("submit it again"), "{ran:?}");
    }
}

#[test]
fn a_file_is_drawn_as_mermaid_and_dot() {
    let here = Embedded::new();
    let text = "name: Say \"hi\"\ntasks:\n- {id: a, name: 'a \"b\" #c', method: echo/ping}\n\
                - {id: b, method: echo/ping, dependencies: [a]}\n";
    let file = here.write("w.yaml", text);
    let mermaid = here.run(&["graph", &file]).expect(0).stdout;
    assert_eq!(
        mermaid,
        "---\ntitle: \"Say \\\"hi\\\"\"\n---\nflowchart TD\n    n0[\"a<br/>a #34;b#34; #35;c<br/>echo/v1 ping\"]\n    \
         n1[\"b<br/>echo/v1 ping\"]\n    n0 --> n1\n"
    );
    let dot = here.run(&["graph", &file, "--format", "dot"]).expect(0).stdout;
    assert!(dot.starts_with("digraph \"Say \\\"hi\\\"\" {\n"), "{dot}");
    assert!(dot.contains("    n0 [label=\"a\\na \\\"b\\\" #c\\necho/v1 ping\"];\n"), "{dot}");
    assert!(dot.ends_with("    n0 -> n1;\n}\n"), "{dot}");
    here.run(&["graph", "/nonexistent.yaml"]).expect(3);
}

#[test]
fn results_are_written_by_the_suffix_of_the_file() {
    let here = Embedded::new();
    let path = |name: &str| here.path(name).to_string_lossy().into_owned();
    let file = here.write("w.yaml", "name: W\ntasks:\n- {id: a, method: echo/ping, params: {message: hi}}\n");
    for name in ["out.json", "out.md", "out.csv"] {
        here.run(&["run", &file, "--output", &path(name)]).expect(0);
    }
    let read = |name: &str| std::fs::read_to_string(path(name)).expect("it was written");
    let document: Value = serde_json::from_str(&read("out.json")).expect("JSON");
    assert_eq!(document["status"], "completed");
    assert!(read("out.md").starts_with("# W\n\n- **workflow_id**: "), "{}", read("out.md"));
    assert!(read("out.csv").contains("\r\na,completed,hi,,"), "{}", read("out.csv"));
    here.run(&["run", &file, "--output", &path("out.doc")]).expect(2);
    here.run(&["run", &file, "--output", &path("nowhere/out.md")]).expect(3);
}

#[test]
fn parameters_are_given_on_the_command_line() {
    let here = Embedded::new();
    let text = "name: W\nparameters:\n  who: {type: string}\n  times: {type: integer, default: 2}\ntasks:\n\
                - {id: a, method: echo/echo, params: {message: \"hi ${who}, ${times}\"}}\n";
    let file = here.write("w.yaml", text);
    let document =
        here.run(&["run", &file, "--param", "who=${a}", "--param", "times=3", "--json"]).expect(0).json();
    assert_eq!(task(&document, "a")["result"]["response"], "hi ${a}, 3", "{document}");
    for args in
        [&[][..], &["--param", "who=x", "--param", "times=many"], &["--param", "who=x", "--param", "what=y"]]
    {
        here.run(&[&["run", &file, "--json"], args].concat()).expect(2);
    }
    here.run(&["submit", &file, "--param", "who"]).expect(2);
}

#[test]
fn unknown_keys_are_warned_of_or_refused() {
    let here = Embedded::new();
    let file = here.write("w.yaml", "name: W\nodd: 1\ntasks:\n- {id: a, method: echo/ping}\n");
    let ran = here.run(&["submit", &file]).expect(0);
    assert!(ran.stderr.contains("warning") && ran.stderr.contains("odd"), "{ran:?}");
    let ran = here.run(&["submit", &file, "--strict"]).expect(2);
    assert!(ran.stderr.contains("odd"), "{ran:?}");
}

#[test]
fn a_batch_runs_a_script_for_each_file_and_takes_up_what_failed() {
    let here = Embedded::new();
    let path = |name: &str| here.path(name).to_string_lossy().into_owned();
    std::fs::create_dir_all(here.path("data/sub")).expect("a folder");
    for (name, text) in [("b.txt", "two words"), ("a.txt", "one"), ("sub/c.txt", "bad"), ("d.md", "no")] {
        here.write(&format!("data/{name}"), text);
    }
    let script = here
        .write("count.py", "words = open(file_path).read().split()\nassert words != ['bad']\nlen(words)\n");
    let args = ["batch", &path("data"), "--pattern", "**/*.txt", "--script", &script];
    let ran = here.run(&[&args[..], &["--output", &path("out.csv"), "--json"]].concat()).expect(5);
    let document = ran.json();
    let id = document["batch_id"].as_str().expect("an id").to_owned();
    assert_eq!(document["summary"]["total"], json!(3));
    assert_eq!(document["summary"]["failed"], json!(1));
    let results = document["results"].as_object().expect("results by file");
    let names: Vec<&str> = results.keys().map(String::as_str).collect();
    assert_eq!(names, [path("data/a.txt"), path("data/b.txt"), path("data/sub/c.txt")]);
    assert_eq!(results[&path("data/b.txt")], json!({"status": "success", "content": 2}));
    assert_eq!(results[&path("data/sub/c.txt")]["status"], "error");
    let csv = std::fs::read_to_string(path("out.csv")).expect("it was written");
    assert_eq!(csv.lines().count(), 4, "{csv}");

    here.write("data/sub/c.txt", "good now");
    let again = here.run(&["batch", "--resume", &id, "--output", &path("out.md"), "--json"]).expect(0).json();
    assert_eq!(again["summary"]["successful"], json!(3), "{again}");
    assert_eq!(again["results"][&path("data/sub/c.txt")]["content"], json!(2));
    assert!(std::fs::read_to_string(path("out.md")).expect("written").contains("## "), "every result");
}

#[test]
fn an_interrupted_batch_goes_on_and_runs_again_what_had_failed() {
    let here = Embedded::new();
    let ledger = here.path("ledger");
    std::fs::create_dir(here.path("data")).expect("a folder");
    for name in ["a", "b", "c", "d"] {
        here.write(&format!("data/{name}"), name);
    }
    let gate = here.path("gate");
    let text = format!(
        "import time\nopen({ledger:?}, 'a').write(file_path[-1] + chr(10))\n\
         if file_path[-1] == 'a': open({gate:?}).close()\ntime.sleep(0.3)\nfile_path[-1]\n"
    );
    let script = here.write("slow.py", &text);
    let data = here.path("data").to_string_lossy().into_owned();
    let mut command = here.command(&["batch", &data, "--script", &script, "--max-parallel", "1"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut running = Running(child);
    until("the second file", || std::fs::read_to_string(&ledger).is_ok_and(|text| text.lines().count() >= 2));
    running.kill();
    std::fs::write(&gate, "").expect("a file");
    let listed = here.run(&["list", "--json"]).expect(0).json();
    let id = listed[0]["id"].as_str().expect("an id").to_owned();
    let document = here.run(&["batch", "--resume", &id, "--json"]).expect(0).json();
    assert_eq!(document["summary"]["successful"], json!(4), "{document}");
    let lines = std::fs::read_to_string(&ledger).expect("the ledger");
    assert_eq!(
        lines.lines().filter(|line| *line == "a").count(),
        2,
        "what had failed is run again, also where the rest only went on: {lines}"
    );
}

#[test]
fn a_skipped_file_has_not_failed() {
    let here = Embedded::new();
    std::fs::create_dir(here.path("data")).expect("a folder");
    here.write("data/a", "a");
    let template = here.write("task.yaml", "method: python/execute\ncode: '1'\nwhen: 1 > 2\n");
    let data = here.path("data").to_string_lossy().into_owned();
    let ran = here.run(&["batch", &data, "--template", &template, "--json"]).expect(0);
    let summary = &ran.json()["summary"];
    assert_eq!((&summary["failed"], &summary["skipped"]), (&json!(0), &json!(1)), "{ran:?}");
    assert!(!ran.stderr.contains("what failed"), "{ran:?}");
}

#[test]
fn a_batch_file_is_a_workflow_file() {
    let here = Embedded::new();
    std::fs::create_dir(here.path("data")).expect("a folder");
    for name in ["b.txt", "a.txt"] {
        here.write(&format!("data/{name}"), name);
    }
    let script = here.write("read.py", "open(file_path).read()\n");
    let data = here.path("data").to_string_lossy().into_owned();
    let text = format!(
        "type: batch\nname: B\nprotocol: python/v1\nbatch: {{directory: {data:?}, pattern: '*.txt'}}\n\
         template: {{method: python/execute, file: {script:?}}}\n"
    );
    let file = here.write("batch.yaml", &text);
    let document = here.run(&["run", &file, "--json"]).expect(0).json();
    let results: Vec<&Value> =
        document["tasks"].as_array().expect("tasks").iter().map(|task| &task["result"]["result"]).collect();
    assert_eq!(results, [&json!("a.txt"), &json!("b.txt")]);
}

#[test]
fn a_batch_without_files_or_without_a_folder_is_refused() {
    let here = Embedded::new();
    let folder = here.path("").to_string_lossy().into_owned();
    let ran = here.run(&["batch", &folder, "--pattern", "*.none", "--prompt", "hi"]).expect(2);
    assert!(ran.stderr.contains("*.none"), "{ran:?}");
    let ran = here.run(&["batch", "/nonexistent", "--prompt", "hi"]).expect(3);
    assert!(ran.stderr.contains("Directory not found: /nonexistent"), "{ran:?}");
    here.run(&["batch", &folder]).expect(2);
    here.run(&["batch", &folder, "--prompt", "a", "--script", "b"]).expect(2);
    here.run(&["batch", "--resume", "nobody"]).expect(7);
}

#[test]
fn a_live_picture_is_redrawn_on_a_terminal() {
    let here = Embedded::new();
    let state = here.path("state.db");
    let line =
        format!("{} run examples/report.yaml --state {}", env!("CARGO_BIN_EXE_gleitzeit"), state.display());
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", &line, "/dev/null"]).current_dir(root()).stdin(Stdio::null());
    command
        .env("LC_ALL", "C.UTF-8")
        .env("TERM", "xterm")
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .env_remove("NO_COLOR");
    forget_configuration(&mut command);
    let Ok(output) = command.output() else {
        return missing("script").unwrap_or_default();
    };
    let ran = Ran::of(output).expect(0);
    assert!(ran.stdout.contains("\x1b[J"), "it is drawn again in place: {ran:?}");
    assert!(ran.stdout.contains("\x1b[32m✓\x1b[0m"), "with colours: {ran:?}");
    assert!(ran.stdout.contains("6 of 6 ended"), "{ran:?}");
}

#[test]
fn over_servers_a_workflow_is_watched_from_elsewhere_and_what_failed_runs_again() {
    let Some((place, _worker)) = Place::with_worker() else { return };
    let gate = place.path("gate");
    let open = format!("open('{}').close()", gate.display());
    let text = format!(
        "name: W\ntasks:\n- {{id: a, method: echo/delay, params: {{seconds: 8}}}}\n\
         - {{id: b, method: python/execute, dependencies: [a], params: {{code: \"{open}\"}}}}\n\
         - {{id: c, method: echo/ping, dependencies: [b]}}\n"
    );
    let file = place.write("w.yaml", &text);
    place.run(&["submit", &file, "--id", "w"]).expect(0);
    let watched = place.run(&["watch", "w", "--timeout", "240", "--json"]).expect(5);
    assert_eq!(watched.json()["status"], "failed");
    assert_eq!(watched.stderr.lines().filter(|line| line.contains("/3)")).count(), 3, "{}", watched.stderr);
    std::fs::write(&gate, "").expect("a file");
    let again = place.run(&["retry", "w", "--wait", "--timeout", "240", "--json"]).expect(0).json();
    assert_eq!(again["status"], "completed", "{again}");
    assert_eq!(task(&again, "a")["attempts"], json!(1), "what completed is not run again");
    let done = place.run(&["retry", "w", "--wait", "--json"]).expect(0).json();
    assert_eq!(done, again);
}
