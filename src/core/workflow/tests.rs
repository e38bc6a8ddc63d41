use proptest::prelude::*;
use serde_json::json;
use std::sync::LazyLock;

use super::*;
use crate::core::code::Code;
use crate::core::priority::Priority;

mod batch;
mod graph;
mod nested;
mod parameters;

fn protocols() -> &'static Protocols {
    // Reading the protocols takes longer than most workflows.
    static PROTOCOLS: LazyLock<Protocols> = LazyLock::new(|| Protocols::builtin().expect("built in"));
    &PROTOCOLS
}

fn read(document: Value) -> Result<Workflow, Refused> {
    Workflow::read(document, protocols())
}

fn yaml(text: &str) -> Result<Workflow, Refused> {
    load(text, Format::Yaml).and_then(read)
}

/// A workflow of echo tasks, each with its dependencies.
fn echoes(tasks: &[(&str, &[&str])]) -> Value {
    let task = |(id, dependencies): &(&str, &[&str])| json!({"id": id, "method": "echo/echo", "dependencies": dependencies});
    json!({"name": "W", "tasks": tasks.iter().map(task).collect::<Vec<_>>()})
}

#[track_caller]
fn check_refused(document: Value, code: Code, expected: &[&str]) {
    let refused = read(document.clone()).expect_err(&document.to_string());
    let lines: Vec<String> = refused.problems.iter().map(Problem::to_string).collect();
    for part in expected {
        assert!(lines.iter().any(|line| line.contains(part)), "{part} is not in {lines:#?}");
    }
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    assert_eq!(refused.code(), code, "{lines:#?}");
}

#[test]
fn a_file_of_the_first_dialect_is_read() {
    let workflow = yaml(
        r#"
name: "Simple MCP Workflow"
description: ""
version: "1.0"
timeout: 120
tasks:
  - id: "calculate_sum"
    name: "Add Numbers"
    method: "mcp/tool.add"
    parameters: {a: 42, b: 58}
    priority: "normal"
  - id: "calculate_product"
    method: "mcp/tool.multiply"
    dependencies: ["calculate_sum"]
    priority: 1
    parameters:
      a: "${calculate_sum.result}"
      b: 2
  - id: "combine_results"
    method: "mcp/tool.concat"
    dependencies: ["calculate_product"]
    parameters:
      strings:
        - "Sum was ${Add Numbers.result}"
        - "Product is ${calculate_product.result}"
      separator: " | "
    retry: {base_delay: 5.0, max_attempts: 2}
"#,
    )
    .expect("a workflow");
    assert_eq!((workflow.name.as_str(), workflow.tasks.len()), ("Simple MCP Workflow", 3));
    assert!(workflow.warnings.is_empty(), "{:?}", workflow.warnings);
    assert_eq!(workflow.timeout, Some(Duration::from_secs(120)));
    let [sum, product, combine] = workflow.tasks.as_slice() else { panic!("three tasks") };
    assert_eq!((sum.spec.protocol.to_string().as_str(), sum.spec.method.as_str()), ("mcp/v1", "tool.add"));
    assert_eq!((sum.spec.priority, product.spec.priority), (Some(Priority::NORMAL), Some(Priority::HIGH)));
    assert_eq!(product.inputs, [("calculate_sum".to_owned(), 0)]);
    assert_eq!(combine.inputs, [("Add Numbers".to_owned(), 0), ("calculate_product".to_owned(), 1)]);
    assert_eq!(workflow.graph.parents(2), [1]);
    assert_eq!(combine.spec.retry.as_ref().map(|retry| retry.max_attempts), Some(2));
}

#[test]
fn what_is_missing_gets_its_default() {
    let workflow = read(json!({"tasks": [
        {"method": "execute", "params": {"code": "1"}},
        {"method": "echo/echo", "id": "task-3"},
        {"method": "echo", "protocol": "echo/v1.0"},
    ]}))
    .expect("a workflow");
    let ids: Vec<&str> = workflow.tasks.iter().map(|task| task.id.as_str()).collect();
    assert_eq!(ids, ["task-1", "task-3", "task-3x"]);
    assert_eq!(workflow.name, "Unnamed Workflow");
    assert_eq!(workflow.tasks[0].spec.protocol.to_string(), "python/v1");
    assert_eq!(workflow.tasks[2].spec.priority, Some(Priority::NORMAL));
    let warnings: Vec<String> = workflow.warnings.iter().map(Warning::to_string).collect();
    assert_eq!(warnings, ["tasks[0]: no protocol is given, python/v1 is taken"]);
}

#[test]
fn dependencies_are_ids_or_names_in_either_spelling() {
    let workflow = read(json!({"tasks": [
        {"id": "a", "name": "Load Data", "method": "echo/echo"},
        {"id": "b", "name": "a", "method": "echo/echo", "depends_on": ["Load Data"]},
        {"id": "c", "method": "echo/echo", "dependencies": ["a", "b", "a"], "depends_on": ["a", "b", "a"]},
    ]}))
    .expect("a workflow");
    assert_eq!((workflow.graph.parents(1), workflow.graph.parents(2)), (&[0][..], &[0, 1][..]));
}

#[test]
fn retries_are_read_in_every_spelling() {
    let ours = json!({"max_attempts": 4, "backoff": "fixed", "base_delay": 2, "jitter": false});
    let theirs = json!({"max_attempts": 4, "backoff_strategy": "fixed", "initial_delay": 2, "jitter": false});
    let workflow = read(json!({"tasks": [
        {"method": "echo/echo", "retry": ours},
        {"method": "echo/echo", "retry_config": ours},
        {"method": "echo/echo", "retry": theirs},
        {"method": "echo/echo", "retry_config": theirs},
        {"method": "echo/echo", "retry": ours, "retry_config": ours},
    ]}))
    .expect("a workflow");
    assert_eq!(workflow.warnings, []);
    let first = workflow.tasks[0].spec.retry.clone().expect("a policy");
    assert_eq!((first.max_attempts, first.base_delay), (4, 2.0));
    for task in &workflow.tasks {
        assert_eq!(task.spec.retry.as_ref(), Some(&first), "{}", task.id);
        assert!(task.extra.is_empty(), "{:?}", task.extra);
    }
}

#[test]
fn the_messages_of_the_original_are_kept() {
    use Code::WorkflowValidationFailed as Invalid;
    use Code::{WorkflowCircularDependency as Circular, WorkflowUnknownDependency as Unknown};
    check_refused(json!({"name": "W"}), Invalid, &["Workflow must contain at least one task"]);
    check_refused(json!({"tasks": []}), Invalid, &["Workflow must contain at least one task"]);
    check_refused(
        json!({"name": "", "tasks": [{"method": "echo/echo"}]}),
        Invalid,
        &["Workflow name is required"],
    );
    check_refused(echoes(&[("x", &[]), ("x", &[])]), Invalid, &["tasks[1].id: Duplicate task ID: x"]);
    check_refused(json!({"tasks": [{"id": "a"}]}), Invalid, &["tasks[0].method: method is required"]);
    let unknown = "tasks[1].dependencies[0]: unknown dependency 'lod'; did you mean load?";
    check_refused(echoes(&[("load", &[]), ("b", &["lod"])]), Unknown, &[unknown]);
    check_refused(echoes(&[("a", &["a"])]), Circular, &["cannot depend on itself"]);
    let circle = echoes(&[("a", &["b"]), ("b", &["a"])]);
    check_refused(circle, Circular, &["tasks: Circular dependencies detected: a -> b -> a"]);
    let named = json!({"tasks": [
        {"name": "A", "method": "echo/echo", "dependencies": ["B"]},
        {"name": "B", "method": "echo/echo", "dependencies": ["A"]},
    ]});
    check_refused(named, Circular, &["Circular dependencies detected: A -> B -> A"]);
}

#[test]
fn malformed_values_are_refused_all_at_once() {
    let document = json!({
        "description": 7, "timeout": "1m", "id": "a b", "metadata": null, "type": "batch", "v": 2,
        "tasks": [
            "task",
            {"method": "echo/echo", "params": null},
            {"method": "echo/echo", "dependencies": null},
            {"method": "echo/echo", "dependencies": "abc"},
            {"method": "echo/echo", "dependencies": [1]},
            {"method": "echo/echo", "timeout": 0},
            {"method": "echo/echo", "retry": {"max_attempts": 11}},
            {"method": "echo/echo", "priority": true},
            {"method": "", "protocol": "Python/v1"},
            {"method": "echo/echo", "params": {"a": 1}, "parameters": {"a": 2}},
            {"method": "echo/echo", "retry": {"delay": 1, "base_delay": 2}},
            {"method": "echo/echo", "for_each": "${a}"},
            {"method": "echo/echo", "retry": {"max_attempts": 2}, "retry_config": {"max_attempts": 3}},
            {"method": "echo/echo", "retry_config": {"backoff_strategy": "linear", "backoff": "fixed",
                "initial_delay": 1, "base_delay": 2}},
        ],
    });
    let expected = [
        "description: found 7; allowed: text",
        "timeout: found \"1m\"; allowed: seconds",
        "id: id \"a b\" is not valid",
        "metadata: found null; allowed: a mapping",
        "type: found \"batch\"; allowed: workflow",
        "v: found 2",
        "tasks[0]: found \"task\"; allowed: a mapping",
        "tasks[1].params: found null",
        "tasks[2].dependencies: found null; allowed: a list",
        "tasks[3].dependencies: found \"abc\"; allowed: a list",
        "tasks[4].dependencies[0]: found 1",
        "tasks[5].timeout: found 0; allowed: seconds, above 0",
        "tasks[6].retry.max_attempts: found 11; allowed: 1 to 10",
        "tasks[7].priority: found true",
        "tasks[8].method: found \"\"",
        "tasks[8].protocol: ",
        "tasks[9].parameters: differs from params",
        "tasks[10].retry.delay: found beside base_delay",
        "tasks[11].for_each: ${a} refers to no task of this workflow",
        "tasks[12].retry_config: differs from retry, which means the same; allowed: one of them",
        "tasks[13].retry.backoff_strategy: differs from backoff, which means the same",
        "tasks[13].retry.initial_delay: differs from base_delay, which means the same",
    ];
    check_refused(document, Code::WorkflowValidationFailed, &expected);
}

#[test]
fn a_task_with_something_wrong_is_still_found_by_its_name() {
    let document = json!({"tasks": [
        {"name": "First Task", "type": "python", "params": {"code": "1"}},
        {"name": "Second Task", "method": "echo/echo", "depends_on": ["First Task"], "params": {"m": "${First Task}"}},
    ]});
    let expected = [
        "tasks[0].type: is not supported; allowed: `protocol` and `method`",
        "tasks[0].method: method is required",
    ];
    check_refused(document, Code::WorkflowValidationFailed, &expected);
}

#[test]
fn odd_values_are_warned_about() {
    let workflow = read(json!({"wait_for_completion": true, "tasks": [
        {"method": "echo/echo", "priority": 4, "idempotency_key": "k", "retry": {"delay": 1, "tries": 3}},
        {"method": "echo/echo", "priority": "bulk", "dependancies": []},
    ]}))
    .expect("a workflow");
    let expected = [
        "wait_for_completion has no effect",
        "tasks[0].priority: 4 counts as normal",
        "tasks[0].retry.delay: better written base_delay",
        "unknown key tasks[0].retry.tries",
        "tasks[0].idempotency_key has no effect",
        "tasks[1].priority: \"bulk\" counts as normal",
        "unknown key tasks[1].dependancies; did you mean dependencies?",
    ];
    assert_eq!(workflow.warnings.len(), expected.len(), "{:#?}", workflow.warnings);
    for (warning, part) in workflow.warnings.iter().map(Warning::to_string).zip(expected) {
        assert!(warning.contains(part), "{warning}");
    }
    assert_eq!(workflow.tasks[1].extra["dependancies"], json!([]));
}

#[test]
fn calls_are_held_against_their_protocols() {
    let task = |task: Value| json!({"tasks": [task]});
    let unknown = task(json!({"id": "a", "protocol": "pythn/v1", "method": "execute"}));
    check_refused(
        unknown,
        Code::ProtocolNotFound,
        &["tasks[0].protocol: unknown protocol pythn/v1; did you mean python/v1?"],
    );
    let unknown = task(json!({"id": "a", "method": "python/exectue"}));
    check_refused(
        unknown,
        Code::MethodNotFound,
        &["did you mean execute?; allowed: one of execute, validate"],
    );
    let wrong = task(json!({"id": "a", "method": "python/validate", "params": {"code": 1, "cod": 2}}));
    check_refused(
        wrong,
        Code::InvalidParams,
        &["tasks[0].params.code: found", "tasks[0].params.cod: unknown"],
    );
    let open = json!({"tasks": [
        {"id": "a", "method": "echo/echo"},
        {"id": "b", "method": "echo/delay", "params": {"seconds": "${a.response}"}, "dependencies": ["a"]},
    ]});
    assert!(read(open).is_ok());
}

#[test]
fn references_must_be_to_upstream_tasks() {
    let with = |message: &str, dependencies: Value| {
        json!({"tasks": [
            {"id": "a", "name": "N", "method": "echo/echo"},
            {"id": "b", "name": "N", "method": "echo/echo", "dependencies": ["a"]},
            {"id": "c", "method": "echo/echo", "params": {"message": message}, "dependencies": dependencies},
            {"id": "d", "method": "echo/echo", "dependencies": ["c"]},
        ]})
    };
    assert!(read(with("${a.response} $${nobody}", json!(["b"]))).is_ok());
    let check = |message: &str, dependencies: Value, expected: &[&str]| {
        check_refused(with(message, dependencies), Code::TaskParameterError, expected);
    };
    let expected = "tasks[2].params.message: ${a.x} refers to task 'a', which this task does not wait for; allowed: add 'a' to dependencies";
    check("${a.x}", json!([]), &[expected]);
    check("${c}", json!(["a"]), &["does not wait for"]);
    check("${d.x} ${e.x}", json!(["a"]), &["'d'", "${e.x} refers to no task of this workflow"]);
    check("${env.HOME}", json!(["a"]), &["${env.HOME} refers to no task"]);
    check("${N.x}", json!(["a"]), &["several tasks are named 'N'"]);
    check("${a", json!(["a"]), &["is no reference; allowed: it is not closed"]);
    let named = json!({"tasks": [
        {"name": "N", "method": "echo/echo"}, {"name": "N", "method": "echo/echo"},
        {"id": "c", "method": "echo/echo", "dependencies": ["N"]},
    ]});
    check_refused(named, Code::WorkflowUnknownDependency, &["several tasks are named 'N'"]);
}

#[test]
fn references_do_not_become_code() {
    let document = json!({"tasks": [
        {"id": "a", "method": "echo/echo"},
        {"id": "b", "method": "python/execute", "dependencies": ["a"],
         "params": {"code": "print('${a.response}')", "context": {"x": "${a.response}"}}},
        {"id": "c", "method": "python/validate", "dependencies": ["a"], "params": ["${a.response}"]},
    ]});
    let expected = [
        "tasks[1].params.code: ${a.response} stands in code; allowed: references in `context`",
        "tasks[2].params[0]: ${a.response} stands in code",
    ];
    check_refused(document, Code::TaskParameterError, &expected);
}

#[test]
fn several_kinds_of_problems_are_reported_together() {
    let document = json!({"tasks": [
        {"id": "a", "method": "nowhere/run", "dependencies": ["x"]},
        {"id": "b", "method": "python/validate", "params": {}, "timeout": -1},
    ]});
    let refused = read(document).expect_err("refused");
    let failure = refused.failure();
    assert_eq!(failure.code, Code::WorkflowValidationFailed);
    let names: Vec<&str> = failure.details["violations"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|v| v["name"].as_str())
        .collect();
    assert_eq!(
        names,
        ["WORKFLOW_VALIDATION_FAILED", "WORKFLOW_UNKNOWN_DEPENDENCY", "PROTOCOL_NOT_FOUND", "INVALID_PARAMS"]
    );
    let many: Vec<Value> = (0..500).map(|_| json!({"method": "echo/echo", "timeout": 0})).collect();
    let refused = read(json!({ "tasks": many })).expect_err("refused");
    assert!(refused.problems.len() <= 101, "{}", refused.problems.len());
}

#[test]
fn texts_that_are_no_mapping_are_refused_with_their_place() {
    let check = |text: &str, format: Format, code: Code, part: &str| {
        let refused = load(text, format).expect_err(part);
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.to_string().contains(part), "{refused}");
    };
    check("- a\n- b\n", Format::Yaml, Code::ParseError, "is not a mapping, found a list of 2");
    check("", Format::Yaml, Code::ParseError, "is not a mapping, found null");
    check("just text", Format::Yaml, Code::ParseError, "is not a mapping");
    check("name: a\nname: b\n", Format::Yaml, Code::ParseError, "name");
    check("name: [a\n", Format::Yaml, Code::ParseError, "is not YAML");
    check("a: 1\n---\nb: 2\n", Format::Yaml, Code::ParseError, "is not YAML");
    check("x: .nan\n", Format::Yaml, Code::ParseError, "is not YAML");
    check("[1]", Format::Json, Code::ParseError, "is not a mapping, found a list of 1");
    check("{", Format::Json, Code::ParseError, "is not JSON");
    check(&" ".repeat(WORKFLOW_BYTES_MAX + 1), Format::Yaml, Code::WorkflowTooLarge, "at most");
    let bomb = "a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\n\
        c: &c [*b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c]\n\
        e: &e [*d, *d, *d, *d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, *e, *e, *e, *e, *e]\n\
        g: &g [*f, *f, *f, *f, *f, *f, *f, *f]\nh: [*g, *g, *g, *g, *g, *g, *g, *g]\n";
    check(bomb, Format::Yaml, Code::ParseError, "is not YAML");
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(90));
    check(&long, Format::Yaml, Code::ParseError, "is not YAML");
}

#[test]
fn yaml_keeps_order_text_and_numbers() {
    let text =
        "z: 1\na: yes\nn: 12345678901234567890\nf: 1.50\nt: 2024-01-01\nu: 1_000\nr: ${a.b}\non: no\nx: ~\n";
    let value = load(text, Format::Yaml).expect("a mapping");
    assert_eq!(
        value.to_string(),
        r#"{"z":1,"a":"yes","n":12345678901234567890,"f":1.5,"t":"2024-01-01","u":"1_000","r":"${a.b}","on":"no","x":null}"#
    );
    assert_eq!(Format::of_file("a/b.YML"), Some(Format::Yaml));
    assert_eq!(Format::of_file("a.json"), Some(Format::Json));
    assert_eq!((Format::of_file("a.txt"), Format::of_file("yaml")), (None, None));
}

#[test]
fn ten_thousand_tasks_are_read() {
    let mut tasks = vec![json!({"id": "t0", "method": "echo/echo"})];
    for index in 1..10_000 {
        let (near, far) = (format!("t{}", index - 1), format!("${{t{}.response}}", index / 2));
        tasks.push(json!({"id": format!("t{index}"), "method": "echo/echo", "dependencies": [near], "params": {"message": far}}));
    }
    let workflow = read(json!({ "tasks": tasks })).expect("a workflow");
    assert_eq!(workflow.tasks[9_999].inputs, [("t4999".to_owned(), 4_999)]);
}

fn any_json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[ab]",
        "\\$\\{[ab](\\.x)?\\}",
        "echo/(echo|delay)",
        "low|python/v1|workflow|-?[0-9.]{1,3}",
        ".{0,4}"
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2..5_i64).prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    let key = prop_oneof![
        "id|name|tasks|method|protocol|params|parameters|dependencies|depends_on|priority|timeout|retry",
        "delay|base_delay|max_attempts|metadata|type|v|message|seconds|idempotency_key|expires_at|not_before",
        "when|for_each|max_parallel|on_failure|critical|task|default|workflow|execution_mode|a|required",
        "retry_config|backoff_strategy|initial_delay",
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_document_is_read_or_refused(name in any_json(), tasks in prop::collection::vec(any_json(), 0..4)) {
        for document in [name.clone(), json!({"name": name, "tasks": tasks})] {
            match read(document) {
                Ok(workflow) => prop_assert_eq!(workflow.graph.len(), workflow.tasks.len()),
                Err(refused) => prop_assert!(!refused.problems.is_empty()),
            }
        }
    }
}
