//! Batches.

use super::load::mapping;
use super::*;

/// What a document says by itself, without a look at the protocols.
fn read_alone(document: Value) -> Result<Batch, Refused> {
    let mut problems = Problems::default();
    let batch = Batch::of(mapping(document)?, &mut problems);
    if problems.is_empty() { Ok(batch) } else { Err(problems.into_refused()) }
}

fn workflow_of(document: Value, files: &[&str]) -> Workflow {
    let batch = read_alone(document).unwrap_or_else(|error| panic!("{error}"));
    let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
    let document = batch.workflow(&files).expect("files");
    read(document).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_file_gets_a_task() {
    let document = json!({
        "type": "batch", "name": "Summaries", "max_parallel": 2,
        "batch": {"directory": "docs", "pattern": "*.txt"},
        "template": {"method": "llm/chat", "model": "m", "messages": [{"role": "user", "content": "Sum up"}],
            "priority": "low", "timeout": 9, "retry": {"max_attempts": 2}, "metadata": {"k": 1}},
    });
    assert!(Batch::is_batch(&document));
    let batch = read_alone(document.clone()).expect("a batch");
    assert_eq!((batch.directory.as_str(), batch.pattern.as_str()), ("docs", "*.txt"));
    let workflow = workflow_of(document, &["docs/a.txt", "docs/sub/ä ${b}.txt"]);
    assert!(workflow.warnings.is_empty(), "{:?}", workflow.warnings);
    assert_eq!((workflow.name.as_str(), workflow.max_parallel.map(NonZeroU32::get)), ("Summaries", Some(2)));
    let [first, second] = workflow.tasks.as_slice() else { panic!("two tasks") };
    assert_eq!((first.id.as_str(), first.spec.name.as_deref()), ("process-a-txt-0", Some("Process a.txt")));
    assert_eq!(second.id.as_str(), "process-----b--txt-1");
    assert_eq!((first.spec.protocol.to_string().as_str(), first.spec.method.as_str()), ("llm/v1", "chat"));
    let params =
        json!({"model": "m", "messages": [{"role": "user", "content": "Sum up"}], "file_path": "docs/a.txt"});
    assert_eq!(first.spec.params, params);
    assert_eq!(second.spec.params["file_path"], "docs/sub/ä $${b}.txt");
    assert_eq!(
        second.spec.metadata,
        *json!({"k": 1, "file": "docs/sub/ä ${b}.txt"}).as_object().expect("one")
    );
    assert_eq!(first.spec.priority, Some(Priority::LOW));
    assert_eq!(
        (first.spec.timeout, first.spec.retry.as_ref().map(|retry| retry.max_attempts)),
        (Some(Duration::from_secs(9)), Some(2))
    );
    assert_eq!(workflow.metadata["file_count"], 2);
    assert_eq!(
        (&workflow.metadata["directory"], &workflow.metadata["batch"]),
        (&json!("docs"), &json!(true))
    );
}

#[test]
fn the_file_comes_where_the_method_looks_for_it() {
    let check = |protocol: Option<&str>, template: Value, file: &str, pointer: &str| {
        let mut document = json!({"batch": {"directory": "d"}, "template": template});
        if let Some(protocol) = protocol {
            document["protocol"] = json!(protocol);
        }
        let workflow = workflow_of(document, &[file, "d/second"]);
        assert_eq!(
            workflow.tasks[0].spec.params.pointer(pointer),
            Some(&json!(file)),
            "{:?}",
            workflow.tasks[0].spec
        );
    };
    let messages = json!([{"role": "user", "content": "x"}]);
    check(None, json!({"messages": messages}), "d/a.png", "/file_path");
    check(None, json!({"method": "llm/vision", "messages": messages}), "d/a.PNG", "/image_path");
    let python = json!({"method": "python/execute", "file": "x.py", "context": {"k": 1}});
    check(Some("python/v1"), python.clone(), "d/a.csv", "/context/file_path");
    check(
        Some("python/v1"),
        json!({"method": "execute", "params": {"file": "x.py"}}),
        "d/a.csv",
        "/context/file_path",
    );
    check(Some("echo/v1"), json!({"method": "echo"}), "d/a.csv", "/file_path");
    // Every task has a context of its own.
    let document = json!({"protocol": "python/v1", "batch": {"directory": "d"}, "template": python});
    let workflow = workflow_of(document, &["d/1", "d/2"]);
    let paths: Vec<&Value> =
        workflow.tasks.iter().map(|task| &task.spec.params["context"]["file_path"]).collect();
    assert_eq!(paths, ["d/1", "d/2"]);
    assert_eq!(workflow.tasks[1].spec.params["context"]["k"], 1);
}

#[test]
fn the_messages_of_the_original_are_kept_for_batches() {
    let check = |document: Value, expected: &[&str]| {
        let refused = read_alone(document).expect_err("refused");
        let lines: Vec<String> = refused.problems.iter().map(Problem::to_string).collect();
        for part in expected {
            assert!(lines.iter().any(|line| line.contains(part)), "{part} is not in {lines:#?}");
        }
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    };
    let directory = "Batch workflow requires 'batch.directory' to be specified";
    let template = "Batch workflow requires 'template' section to define task parameters";
    check(json!({"type": "batch"}), &[directory, template]);
    check(json!({"batch": {"pattern": ""}, "template": {}}), &[directory, "batch.pattern: found"]);
    check(
        json!({"batch": 7, "template": [], "tasks": []}),
        &["batch: found 7", "template: found", "tasks: found"],
    );
    check(
        json!({"batch": {"directory": 1, "patern": "x"}, "protocol": 3, "template": {"method": 1}}),
        &[
            "batch.directory: found 1",
            "batch.patern: unknown key",
            "protocol: found 3",
            "template.method: found 1",
        ],
    );
    check(
        json!({"batch": {"directory": "d"}, "protocol": "python/v1", "template": {"context": [1]}}),
        &["template.context: found a list of 1"],
    );
    let batch = read_alone(json!({"batch": {"directory": "d"}, "template": {}})).expect("a batch");
    let refused = batch.workflow(&[]).expect_err("no file");
    assert!(refused.to_string().contains("at least one task: no file in d fits *"), "{refused}");
}

#[test]
fn a_batch_that_is_too_large_is_refused_before_it_is_made() {
    let template = json!({"method": "echo/echo", "message": "x".repeat(1 << 20)});
    let document = json!({"batch": {"directory": "d"}, "protocol": "echo/v1", "template": template});
    let batch = read_alone(document).expect("a batch");
    let refused = batch.workflow(&vec!["d/a".to_owned(); 100_000]).expect_err("too large");
    assert_eq!(refused.code(), Code::WorkflowTooLarge);
    assert!(refused.to_string().contains("folder by folder"), "{refused}");
}

#[test]
fn a_batch_has_parameters_too() {
    let document = json!({"type": "batch", "parameters": {"dir": {"type": "string"}, "who": "me"},
        "batch": {"directory": "${dir}"}, "protocol": "echo/v1", "template": {"method": "echo", "message": "For ${who}"}});
    let given = [
        ("dir".to_owned(), Given::Text("docs/${x}".to_owned())),
        ("who".to_owned(), Given::Text("${x}".to_owned())),
    ];
    let batch = Batch::prepare(document, given.into(), Strictness::Warn, protocols()).expect("a batch");
    assert_eq!(batch.directory, "docs/${x}");
    let document = batch.workflow(&["docs/${x}/a".to_owned()]).expect("a file");
    let workflow = read(document).expect("a workflow");
    assert_eq!(workflow.tasks[0].spec.params, json!({"message": "For $${x}", "file_path": "docs/$${x}/a"}));
}

/// The paths at which a batch written as YAML is refused, with lines and columns.
#[track_caller]
fn check_places(text: &str, expected: &[&str]) -> Refused {
    let document = load(text, Format::Yaml).expect("YAML");
    let refused = Batch::prepare(document, BTreeMap::new(), Strictness::Refuse, protocols());
    let refused = refused.expect_err("refused").located(&Sources::of(text, Format::Yaml));
    let shown = |problem: &Problem| {
        let place = problem.place.expect("a place");
        format!("{}:{} {}", place.line, place.column, problem.violation.path)
    };
    let found: Vec<String> = refused.problems.iter().map(shown).collect();
    assert_eq!(found, expected, "{refused}");
    refused
}

#[test]
fn what_is_wrong_with_a_template_is_told_once_and_where_it_is_written() {
    check_places(
        "batch:\n  directory: d\ntemplate:\n  method: llm/chat\n  temperature: hot\n  timeout: -1\n  retry: {max_attempts: 99}\n",
        &[
            "6:3 template.timeout",
            "7:11 template.retry.max_attempts",
            "5:3 template.temperature",
            "3:1 template",
        ],
    );
    // Beside the template and in `params` of it.
    check_places(
        "protocol: echo/v1\nbatch: {directory: d}\ntemplate:\n  method: echo\n  parameters: {a: '${none}'}\n  b: ['${nil}']\n",
        &["5:16 template.params.a", "6:7 template.b[0]"],
    );
    check_places("protocol: nope/v1\nbatch: {directory: d}\ntemplate: {method: x}\n", &["1:1 protocol"]);
}

#[test]
fn everything_that_is_wrong_with_a_batch_is_told_at_once() {
    let refused = check_places(
        "parameters: {count: {type: integer, default: x}}\nbatch: {pattern: 7}\ntimeout: 0\nmetadata: 4\ntemplate:\n  timeout: 0\n  messages: [{role: user, content: '${count}'}]\n",
        &[
            "1:37 parameters.count.default",
            "2:1 batch.directory",
            "2:9 batch.pattern",
            "3:1 timeout",
            "4:1 metadata",
            "6:3 template.timeout",
        ],
    );
    assert_eq!(refused.beyond, 0);
}

#[test]
fn what_is_wrong_with_every_task_in_the_same_way_is_told_once() {
    let batch =
        read_alone(json!({"batch": {"directory": "d"}, "template": {"timeout": -1}})).expect("a batch");
    let files: Vec<String> = (0..40).map(|number| format!("d/{number}")).collect();
    let refused = read(batch.workflow(&files).expect("files")).expect_err("refused");
    let paths: Vec<String> =
        batch.in_template(refused).problems.into_iter().map(|problem| problem.violation.path).collect();
    assert_eq!(paths, ["template.timeout", "template"]);
}

#[test]
fn what_is_odd_about_a_template_is_told_once_and_where_it_is_written() {
    let text = "batch: {directory: d}\nprotocol: echo/v1\ntemplate:\n  method: echo\n  message: hi\n  retry_config: {max_attempts: 2,\n    delay: 1, often: 3}\noutputs: {}\n";
    let document = load(text, Format::Yaml).expect("YAML");
    let batch = Batch::prepare(document, BTreeMap::new(), Strictness::Warn, protocols()).expect("a batch");
    let paths: Vec<&str> = batch.warnings.iter().map(|warning| warning.path.as_str()).collect();
    let sources = Sources::of(text, Format::Yaml);
    let places = sources.places(&paths).into_iter().map(|(file, place)| {
        let place = place.expect("a place");
        assert_eq!(file, None);
        (place.line, place.column)
    });
    let places: Vec<(usize, usize)> = places.collect();
    let mut found: Vec<_> = paths.iter().copied().zip(places).collect();
    found.sort_unstable();
    let expected = [("outputs", (8, 1)), ("template.retry.delay", (7, 5)), ("template.retry.often", (7, 15))];
    assert_eq!(found, expected, "{:?}", batch.warnings);
}
