//! Texts that outside programs rely on, compared with what was written before (`tests/golden/README.md`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use gleitzeit::core::clock::Timestamp;
use gleitzeit::core::code::Code;
use gleitzeit::core::failure::Failure;
use gleitzeit::core::id::{Id, TaskKey};
use gleitzeit::core::protocol::{ProtocolId, Protocols};
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::core::workflow::Workflow;
use gleitzeit::topology::plan::{Plan, QueueTypes, Release};
use gleitzeit::topology::{Address, Topology};
use gleitzeit::wire::command::Command;
use gleitzeit::wire::control::{self, Action, Answer, Control, Order, Row};
use gleitzeit::wire::envelope::{Envelope, Original, Output};
use gleitzeit::wire::event::{Event, Metrics};
use gleitzeit::wire::record::{self, Ending, Head};
use gleitzeit::wire::task::{self, Decoded, Task};
use gleitzeit::wire::vitals::{LastError, Latency, Vitals};
use gleitzeit::wire::{Properties, inbox, workflow};

use crate::place::environment;
use crate::support::{Ran, gleitzeit};

#[test]
fn a_task_message_is_read_and_written_as_ever() {
    for name in ["task-minimal", "task-full"] {
        let task = read_task(&golden(&format!("wire/v1/{name}.json")));
        check(&format!("wire/v1/{name}.written.json"), &line(&task::encode(&task)));
    }
    let written = golden("wire/v1/task-full.written.json");
    let again = task::encode(&read_task(&written));
    assert_eq!(line(&again), written, "what is written reads back as the same");
}

#[test]
fn a_workflow_message_gives_the_same_task_messages_as_ever() {
    for name in ["workflow", "workflow-graph"] {
        let document: Value = serde_json::from_str(&golden(&format!("wire/v1/{name}.json"))).expect("JSON");
        check(&format!("wire/v1/{name}.written.json"), &line(&workflow::encode(&document, &id("w1"))));
        check(&format!("wire/v1/{name}.tasks.jsonl"), &bodies(&planned(name)));
    }
}

#[test]
fn a_task_that_stands_for_others_gives_the_same_messages_as_ever() {
    let planned = planned("workflow-graph");
    let [_, each, nested, ..] = planned.as_slice() else { panic!("a list and a nested workflow") };
    let each = read_task_of(each);
    let items = vec![json!({"n": 1, "ok": true}), Value::Null];
    check("wire/v1/items.tasks.jsonl", &bodies(&workflow::plan_items(&each, items).expect("a plan")));
    let nested = read_task_of(nested);
    let loaded = json!({"status": "completed", "result": {"title": "${x}"}});
    let params = nested.fill(|_| Some(&loaded)).expect("parameters");
    let inner = Workflow::nested(params, &builtin()).expect("a workflow");
    check("wire/v1/nested.tasks.jsonl", &bodies(&workflow::plan_nested(&nested, &inner).expect("a plan")));
}

/// The plan of the workflow in a golden file.
fn planned(name: &str) -> Vec<workflow::Planned> {
    let body = golden(&format!("wire/v1/{name}.json"));
    let message = match inbox::decode(body.as_bytes(), &Properties::default(), &builtin()) {
        Ok(inbox::Decoded::Workflow(message)) => *message,
        other => panic!("{other:?}"),
    };
    workflow::plan(&message, &id("w1")).expect("a plan")
}

fn bodies(planned: &[workflow::Planned]) -> String {
    planned.iter().map(|task| line(&task.body)).collect()
}

fn read_task_of(planned: &workflow::Planned) -> Task {
    match task::decode(&planned.body, &Properties::default(), &planned.protocol) {
        Ok(Decoded::Task(task)) => *task,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_command_is_read_and_written_as_ever() {
    for (name, by) in [("command-cancel", None), ("command-cancel-named", Some(id("c1")))] {
        let (name, cancel) = (format!("wire/v1/{name}.json"), Command::Cancel { id: id("w1"), by });
        check(&name, &line(&cancel.encode()));
        let body = golden(&name);
        let read = inbox::decode(body.as_bytes(), &Properties::default(), &builtin());
        assert_eq!(read, Ok(inbox::Decoded::Command(cancel)));
    }
}

#[test]
fn what_is_said_to_all_workers_is_read_and_written_as_ever() {
    let row = Row {
        name: "text".to_owned(),
        protocol: "text/v1".to_owned(),
        state: "down".to_owned(),
        why: Some("text is down: no disk".to_owned()),
        running: 1,
        pool: Some([2, 1, 4]),
        vitals: None,
    };
    let answer = Answer {
        id: id("o1"),
        worker: id("s1"),
        is_done: true,
        providers: vec![Row { why: None, pool: None, ..row.clone() }, row],
        resources: Default::default(),
        changed: vec!["limits.mail.rate".to_owned()],
        error: Some(Failure::new(Code::ProviderInitializationFailed, "provider text could not start")),
    };
    let vitals = Vitals {
        calls: 120,
        failures: 3,
        consecutive_failures: 1,
        latency: Some(Latency {
            p50: 800_000,
            p95: 1_900_000,
            p99: 2_400_000,
            max: 2_500_000,
            expected: 900_000,
        }),
        last_error: Some(LastError::new(Code::ConnectionLost, "the connection broke", time())),
        last_check: Some((time(), 2_000)),
        next_check: Some(time()),
    };
    let row = Row { vitals: Some(vitals), ..answer.providers[1].clone() };
    let with_health = Answer { providers: vec![row], error: None, changed: Vec::new(), ..answer.clone() };
    let scale = Order { id: id("o1"), action: Action::Scale("text".to_owned(), 3) };
    let said = [
        ("control-cancel", control::cancel(&id("w1")), Control::Cancel(id("w1"))),
        ("control-order", scale.encode(), Control::Order(scale)),
        ("control-answer", answer.encode(), Control::Answer(Box::new(answer))),
        ("control-answer-health", with_health.encode(), Control::Answer(Box::new(with_health))),
    ];
    for (name, body, meant) in said {
        let name = format!("wire/v1/{name}.json");
        check(&name, &line(&body));
        assert_eq!(control::decode(golden(&name).trim_end().as_bytes()), Ok(meant));
    }
}

#[test]
fn a_dead_letter_is_read_and_written_as_ever() {
    let body = golden("wire/v1/task-full.written.json");
    let whole = envelope(body.trim_end().as_bytes(), Some("t1"));
    let garbage = envelope(b"\xff\x00garbage", None);
    let output = Output { stdout: "starting\n".to_owned(), stderr: "slow\n".to_owned() };
    let replayed = Envelope { output, replays: 2, ..whole.clone() };
    let named = Envelope { letter: Some(id("01973c6e-0000-7000-8000-000000000002")), ..garbage.clone() };
    let letters = [
        ("dead-letter", whole),
        ("dead-letter-garbage", garbage),
        ("dead-letter-replayed", replayed),
        ("dead-letter-named", named),
    ];
    for (name, letter) in letters {
        let name = format!("wire/v1/{name}.json");
        check(&name, &line(&letter.encode()));
        assert_eq!(Envelope::decode(golden(&name).as_bytes()), Ok(letter));
    }
}

#[test]
fn documents_are_written_as_ever() {
    let alone = head(TaskKey::alone(id("t1")), "t1");
    let within = head(TaskKey::within(id("w1"), id("load")), "Load data");
    let completed = ending(TaskState::Completed, None);
    let failure = Failure::new(Code::TaskTimeout, "the task took longer than 3 s")
        .with("timeout", 3.0)
        .with("stdout", "starting\n");
    let failed = ending(TaskState::Failed, Some(failure));
    check("documents/v1/task-completed.json", &line(completed.document(&alone).as_bytes()));
    check("documents/v1/task-failed.json", &line(failed.document(&within).as_bytes()));

    let unrun = record::dependency_failed(time()).replace(record::DEPENDENCY_MARK, "load");
    let unrun = within.open() + &unrun;
    check("documents/v1/task-dependency-failed.json", &line(unrun.as_bytes()));
    let cancelled = alone.open() + &record::cancelled(time());
    check("documents/v1/task-cancelled.json", &line(cancelled.as_bytes()));

    let tasks = format!("\"tasks\":[{},{unrun}]}}", failed.document(&within));
    let failure = record::workflow_failure(WorkflowState::Failed);
    let status = record::workflow_status(WorkflowState::Failed, time(), time(), failure.as_ref());
    let whole = record::workflow_open(&id("w1"), "Report") + &status + &tasks;
    serde_json::from_str::<Value>(&whole).expect("the parts make a document");
    check("documents/v1/workflow-failed.json", &line(whole.as_bytes()));
}

#[test]
fn events_are_written_as_ever() {
    let key = TaskKey::within(id("w1"), id("load"));
    let failure = Failure::new(Code::TaskTimeout, "the task took longer than 3 s");
    let events = [
        Event::TaskStarted {
            key: key.clone(),
            protocol: "python/v1".to_owned(),
            method: "execute".to_owned(),
            attempt: 1,
        },
        Event::TaskCompleted {
            key: key.clone(),
            execution_time: Duration::from_millis(1500),
            provider_id: Some("python".to_owned()),
            result_size: 7,
        },
        Event::TaskRetried {
            key: key.clone(),
            failure: failure.clone(),
            attempt_count: 1,
            max_attempts: 3,
            due: time(),
        },
        Event::TaskFailed { key: key.clone(), failure, attempt_count: 3, max_attempts: 3 },
        Event::TaskEnded { key, state: TaskState::Cancelled },
        Event::WorkflowStarted { id: id("w1"), name: "Report".to_owned(), tasks: 2 },
        Event::WorkflowEnded { id: id("w1"), state: WorkflowState::Completed },
    ];
    let lines: String = events
        .iter()
        .map(|event| format!("{} {}", event.routing_key(), line(&event.encode(time()))))
        .collect();
    check("events/v1.txt", &lines);
    let metrics = Metrics {
        active_tasks: 2,
        completed_tasks: 40,
        failed_tasks: 1,
        average_execution_time: Some(Duration::from_millis(1500)),
        throughput_per_minute: 12.345,
        memory_usage_bytes: Some(40 << 20),
        provider_health: [("python".to_owned(), "healthy"), ("text".to_owned(), "unhealthy")].into(),
    };
    let events = [
        Event::MetricsCollected { worker: id("s1"), metrics },
        Event::ProviderHealth {
            worker: id("s1"),
            provider: "text".to_owned(),
            protocol: "text/v1".to_owned(),
            health: "unhealthy",
            state: "down",
            why: Some("text is down: no disk".to_owned()),
        },
    ];
    let lines: String = events
        .iter()
        .map(|event| format!("{} {}", event.routing_key(), line(&event.encode(time()))))
        .collect();
    check("events/v1-worker.txt", &lines);
}

#[test]
fn definitions_are_exported_as_ever() {
    let protocols = builtin();
    let address = |id: &ProtocolId| Address::parse(&id.routing()).expect("built in");
    let topology = Topology::new(protocols.iter().map(|spec| address(&spec.id)));
    for version in ["3.10", "4.3"] {
        let release = Release::parse(version).expect("a version");
        let definitions = Plan::new(&topology, release, &QueueTypes::default()).definitions();
        let text = serde_json::to_string_pretty(&definitions).expect("JSON") + "\n";
        check(&format!("definitions/rabbitmq-{version}.json"), &text);
    }
}

#[test]
fn help_reads_as_it_was_read() {
    let mut commands: Vec<Vec<String>> = vec![Vec::new()];
    let mut names = Vec::new();
    while let Some(command) = commands.pop() {
        let words: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let mut help = gleitzeit(&words);
        // The width of the terminal that the tests run in does not count.
        let ran = Ran::of(help.env_remove("COLUMNS").output().expect("the binary starts")).expect(0);
        let name = if command.is_empty() { "gleitzeit".to_owned() } else { command.join("-") };
        check(&format!("help/{name}.txt"), &ran.stdout);
        names.push(format!("{name}.txt"));
        for subcommand in subcommands(&ran.stdout) {
            commands.push(command.iter().cloned().chain([subcommand]).collect());
        }
    }
    names.sort();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path_of("help")).expect("the folder is there") {
        files.push(entry.expect("an entry").file_name().to_string_lossy().into_owned());
    }
    files.sort();
    assert_eq!(files, names, "every file belongs to a command");
}

/// The commands that a help text lists, without `help` itself.
fn subcommands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let rows = listed.take_while(|line| !line.is_empty());
    // Further lines of a description are indented more.
    let names = rows.filter_map(|row| row.strip_prefix("  ").filter(|row| !row.starts_with(' ')));
    let names = names.filter_map(|row| row.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Compares with the golden file. With `GOLDEN=write`, creates it, or proposes a new one beside it; help texts,
/// which nobody's program reads, are replaced.
#[track_caller]
pub(crate) fn check(name: &str, text: &str) {
    let path = path_of(name);
    let write = environment("GOLDEN").as_deref() == Some("write");
    match std::fs::read_to_string(&path) {
        Ok(golden) if golden == text => {}
        Ok(_) if write && name.starts_with("help/") => save(&path, text),
        Ok(golden) => {
            if write {
                save(&path.with_extension("proposed"), text);
            }
            panic!("{name} differs (GOLDEN=write proposes a new one)\n--- golden\n{golden}\n--- now\n{text}");
        }
        Err(_) if write => save(&path, text),
        Err(error) => panic!("{name}: {error} (GOLDEN=write creates it)"),
    }
}

fn save(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("the folder can be made");
    std::fs::write(path, text).expect("the file can be written");
}

fn path_of(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden(name: &str) -> String {
    std::fs::read_to_string(path_of(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn line(body: &[u8]) -> String {
    String::from_utf8(body.to_vec()).expect("JSON is text") + "\n"
}

fn builtin() -> Protocols {
    Protocols::builtin().expect("the built-in protocols are well formed")
}

fn read_task(body: &str) -> Task {
    let protocol = "python/v1".parse().expect("a protocol");
    match task::decode(body.as_bytes(), &Properties::default(), &protocol).expect("a task") {
        Decoded::Task(task) => *task,
        Decoded::Newer { v, .. } => panic!("version {v}"),
    }
}

fn envelope(body: &[u8], task: Option<&str>) -> Envelope {
    let properties = Properties {
        message_id: task.map(str::to_owned),
        priority: Some(7),
        headers: [("gleitzeit-root".to_owned(), "w1".to_owned())].into(),
        ..Properties::default()
    };
    let failure = match task {
        Some(_) => Failure::new(Code::TaskTimeout, "the task took longer than 3 s").with("timeout", 3.0),
        None => Failure::new(Code::ParseError, "the task message is not JSON: expected value"),
    };
    Envelope {
        letter: None,
        id: task.map(id),
        workflow: None,
        protocol: Some("python/v1".to_owned()),
        method: task.map(|_| "execute".to_owned()),
        failure,
        history: task
            .map(|_| json!({"attempt": 1, "status": "failed", "code": "TASK_TIMEOUT"}))
            .into_iter()
            .collect(),
        worker: Some("01973c6e-0000-7000-8000-000000000001".to_owned()),
        provider: task.map(|_| "python".to_owned()),
        output: Output::default(),
        replays: 0,
        died_at: time(),
        queue: "gleitzeit.tasks.python.v1".to_owned(),
        original: Original::new(bytes::Bytes::copy_from_slice(body), properties),
    }
}

fn ending(state: TaskState, error: Option<Failure>) -> Ending {
    let mut ending = Ending::unrun(state, error, time());
    ending.attempts = 2;
    ending.execution_time = Some(Duration::from_micros(31_250));
    ending.provider_id = Some("python".to_owned());
    ending.worker_id = Some("01973c6e-0000-7000-8000-000000000001".to_owned());
    ending.started_at = Some(time());
    if state == TaskState::Completed {
        ending.warnings = vec!["unknown key later".to_owned()];
        ending.metadata = json!({"sandbox": {"level": "none"}}).as_object().cloned().unwrap_or_default();
        ending.result = json!({"result": 42, "stdout": "", "success": true});
    }
    ending
}

fn head(key: TaskKey, name: &str) -> Head {
    Head { key, name: name.to_owned(), protocol: "python/v1".to_owned(), method: "execute".to_owned() }
}

fn id(text: &str) -> Id {
    Id::parse(text).expect("a valid id")
}

fn time() -> Timestamp {
    "2026-01-02T03:04:05.678Z".parse().expect("a time")
}
