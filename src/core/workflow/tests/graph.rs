//! Edges with policies, lists, conditions, bounds.

use super::*;

fn one(task: Value) -> Value {
    json!({"tasks": [{"id": "a", "method": "echo/echo"}, task]})
}

#[test]
fn a_dependency_says_what_its_failure_means() {
    let workflow = yaml(
        r"
tasks:
  - {id: a, name: A, method: echo/echo}
  - {id: b, method: echo/echo}
  - {id: c, method: echo/echo, critical: false}
  - id: d
    method: echo/echo
    on_failure: skip
    dependencies: [c, {task: A, on_failure: continue}, {task: b, default: {rows: ['$${x}']}}, c]
  - {id: e, method: echo/echo, dependencies: [d]}
",
    )
    .expect("a workflow");
    let edge = |on, on_failure| Dependency { on, on_failure };
    let default = OnFailure::Default(json!({"rows": ["${x}"]}));
    let expected = [edge(0, OnFailure::Continue), edge(1, default), edge(2, OnFailure::Skip)];
    assert_eq!(workflow.tasks[3].dependencies, expected);
    assert_eq!(workflow.tasks[4].dependencies, [edge(3, OnFailure::Fail)]);
    // d has a dependent that fails with it, e has none and is critical.
    assert_eq!(workflow.tolerated(), [true, true, true, false, false]);
}

#[test]
fn circles_are_told_together_with_everything_else() {
    let document = json!({"name": "", "tasks": [
        {"id": "a", "method": "echo/echo", "dependencies": ["b", "lost"]},
        {"id": "b", "method": "echo/echo", "dependencies": ["c"], "params": {"message": "${a} ${nobody}"}},
        {"id": "c", "method": "echo/echo", "dependencies": ["a"], "timeout": 0},
        {"id": "d", "method": "echo/echo", "dependencies": ["e"]},
        {"id": "e", "method": "echo/echo", "dependencies": ["d"]},
        // What it waits for is known when the first circle is no more.
        {"id": "behind", "method": "echo/echo", "dependencies": ["c"], "params": {"message": "${b} ${free}"}},
        {"id": "free", "method": "echo/echo", "params": {"message": "${beside}"}},
        {"id": "beside", "method": "python/validate", "params": {}},
        {"id": "beside", "method": "nowhere/run"},
    ]});
    let expected = [
        "name: Workflow name is required",
        "tasks[2].timeout: found 0",
        "tasks[8].id: Duplicate task ID: beside",
        "tasks[0].dependencies[1]: unknown dependency 'lost'",
        "tasks: Circular dependencies detected: a -> b -> c -> a",
        "tasks: Circular dependencies detected: d -> e -> d",
        "tasks[1].params.message: ${nobody} refers to no task",
        "tasks[6].params.message: ${beside} refers to task 'beside', which this task does not wait for",
        "tasks[7].params.code: is missing",
        "tasks[8].protocol: unknown protocol nowhere/v1",
    ];
    check_refused(document, Code::WorkflowValidationFailed, &expected);
}

#[test]
fn many_circles_are_told_up_to_a_bound() {
    let waits = |on: String| json!({"id": on.replace('x', "y"), "method": "echo/echo", "dependencies": [on]});
    let tasks: Vec<Value> = (0..1000)
        .flat_map(|index| {
            let other = json!({"id": format!("x{index}"), "method": "echo/echo", "dependencies": [format!("y{index}")]});
            [waits(format!("x{index}")), other]
        })
        .collect();
    let refused = read(json!({ "tasks": tasks })).expect_err("circles");
    assert_eq!(refused.code(), Code::WorkflowCircularDependency);
    assert!((2..100).contains(&refused.problems.len()), "{refused}");
}

#[test]
fn wrong_dependencies_are_refused_all_at_once() {
    let document = json!({"tasks": [
        {"id": "a", "method": "echo/echo"},
        {"id": "b", "method": "echo/echo", "on_failure": "retry", "critical": "no", "dependencies": [
            {"task": "a", "on_failure": "default"}, {"on_failure": "skip"}, {"task": 7},
            {"task": "a", "on_failure": "skip", "default": 1}, {"task": "a", "default": "${a}"}, null,
        ]},
    ]});
    let expected = [
        "tasks[1].on_failure: found \"retry\"; allowed: fail, skip or continue",
        "tasks[1].critical: found \"no\"",
        "tasks[1].dependencies[0].on_failure: found \"default\"; allowed: fail, skip or continue; `default: VALUE`",
        "tasks[1].dependencies[1].task: is missing",
        "tasks[1].dependencies[2].task: found 7",
        "tasks[1].dependencies[3].default: found beside on_failure",
        "tasks[1].dependencies[4].default: holds a reference",
        "tasks[1].dependencies[5]: found null",
        "tasks[1].dependencies[3]: names 'a' again, with another policy",
    ];
    check_refused(document, Code::WorkflowValidationFailed, &expected);
}

#[test]
fn a_list_gives_its_task_an_item_and_an_index() {
    let workflow = read(json!({"tasks": [
        {"id": "load", "name": "L", "method": "echo/echo"},
        {"id": "each", "method": "echo/echo", "for_each": "${L.rows}", "max_parallel": 3,
         "dependencies": ["load"], "when": "${index} > 0 and ${item.ok}",
         "params": {"message": "${item.name} of ${load.count}"}},
        {"id": "fixed", "method": "echo/echo", "for_each": ["a", "${load.x}", 3], "dependencies": ["load"]},
    ]}))
    .expect("a workflow");
    let [_, each, fixed] = workflow.tasks.as_slice() else { panic!("three tasks") };
    assert_eq!(each.inputs, [("L".to_owned(), 0), ("load".to_owned(), 0)]);
    assert_eq!(
        (each.for_each.clone(), each.max_parallel.map(NonZeroU32::get)),
        (Some(json!("${L.rows}")), Some(3))
    );
    assert_eq!(each.when.as_deref(), Some("${index} > 0 and ${item.ok}"));
    assert_eq!(fixed.inputs, [("load".to_owned(), 0)]);
}

#[test]
fn wrong_lists_are_refused() {
    let check = |task: Value, code: Code, expected: &str| check_refused(one(task), code, &[expected]);
    let (invalid, parameter) = (Code::WorkflowValidationFailed, Code::TaskParameterError);
    let base = |key: &str, value: Value| {
        let mut task = json!({"id": "b", "method": "echo/echo", "dependencies": ["a"]});
        task[key] = value;
        task
    };
    for list in [json!(null), json!("a, b"), json!("${a} x"), json!(3), json!({"a": 1})] {
        check(base("for_each", list), invalid, "tasks[1].for_each: found");
    }
    check(base("max_parallel", json!(3)), invalid, "tasks[1].max_parallel: found without for_each");
    check(base("for_each", json!("${item}")), parameter, "${item} refers to no task");
    check(base("for_each", json!("${b}")), parameter, "'b', which this task does not wait for");
    check(base("params", json!({"message": "${item}"})), parameter, "of a task with `for_each`");
    let mut waits_for_none = base("for_each", json!("${a}"));
    waits_for_none["dependencies"] = json!([]);
    check(
        waits_for_none,
        parameter,
        "tasks[1].for_each: ${a} refers to task 'a', which this task does not wait for",
    );
    let mut bound = base("for_each", json!([1]));
    bound["max_parallel"] = json!(0);
    check(bound, invalid, "tasks[1].max_parallel: found 0; allowed: a whole number, 1 to 100000");
}

#[test]
fn a_task_called_item_is_ambiguous_where_there_is_one() {
    let document = |params: Value| {
        json!({"tasks": [
            {"id": "item", "method": "echo/echo"},
            {"id": "plain", "method": "echo/echo", "dependencies": ["item"], "params": {"message": "${item.x}"}},
            {"id": "each", "method": "echo/echo", "dependencies": ["item"], "for_each": [1], "params": params},
        ]})
    };
    assert!(read(document(json!({"message": "${index}"}))).is_ok());
    let expected = "tasks[2].params.message: ${item.x} is ambiguous: 'item' is the list's";
    check_refused(document(json!({"message": "${item.x}"})), Code::TaskParameterError, &[expected]);
}

#[test]
fn ids_of_tasks_that_others_make_are_taken() {
    let document = |ids: [&str; 2], more: Value| {
        let mut first = json!({"id": ids[0]});
        first.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!({"tasks": [first, {"id": ids[1], "method": "echo/echo"}]})
    };
    let list = json!({"method": "echo/echo", "for_each": [1]});
    let nested = json!({"workflow": {"tasks": [{"id": "x", "method": "echo/echo"}]}});
    let check = |ids: [&str; 2], more: &Value, expected: &str| {
        check_refused(document(ids, more.clone()), Code::WorkflowValidationFailed, &[expected]);
    };
    check(["b", "b.0"], &list, "tasks[1].id: 'b.0' is what a task made by 'b' is called");
    check(["b", "b.7.x"], &list, "tasks[1].id");
    check(["b", "b.x"], &nested, "tasks[1].id");
    assert!(read(document(["b", "b.x"], list.clone())).is_ok());
    assert!(read(document(["b", "bb.0"], list.clone())).is_ok());
    assert!(read(document(["b", "b.0"], json!({"method": "echo/echo"}))).is_ok());
    check([&"b".repeat(123), "c"], &list, "is too long for the ids that are made of it");
    assert!(read(document([&"b".repeat(122), "c"], list)).is_ok());
    let expected = "tasks[0].workflow.tasks[0].id: 'x' is too long";
    check([&"b".repeat(127), "c"], &nested, expected);
}

#[test]
fn a_condition_is_text_with_references_upstream() {
    let with =
        |when: Value| one(json!({"id": "b", "method": "echo/echo", "dependencies": ["a"], "when": when}));
    let workflow = read(with(json!("${a.count} > 3 and ${a.status} == 'completed'"))).expect("a workflow");
    assert_eq!(workflow.tasks[1].inputs, [("a".to_owned(), 0)]);
    for wrong in [json!(true), json!(""), json!(null), json!("x".repeat(2001))] {
        check_refused(with(wrong), Code::WorkflowValidationFailed, &["tasks[1].when: "]);
    }
    let parameter = Code::TaskParameterError;
    check_refused(with(json!("${c.x} > 1")), parameter, &["tasks[1].when: ${c.x} refers to no task"]);
    check_refused(with(json!("${b.x} > 1")), parameter, &["which this task does not wait for"]);
    check_refused(with(json!("${a.x > 1")), parameter, &["is no reference"]);
    let invalid = Code::WorkflowValidationFailed;
    for wrong in ["${a.x} >", "${a.x} = 1", "open('x')", "'${a.x}' == 'x'"] {
        check_refused(with(json!(wrong)), invalid, &["tasks[1].when: "]);
    }
}

#[test]
fn a_workflow_bounds_how_many_run_at_once() {
    let bound = |more: Value| {
        let mut document = echoes(&[("a", &[])]);
        document.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        document
    };
    let check = |more: Value, expected: Option<u32>| {
        let workflow = read(bound(more.clone())).unwrap_or_else(|error| panic!("{more}: {error}"));
        assert_eq!(workflow.max_parallel.map(NonZeroU32::get), expected, "{more}");
        assert!(workflow.warnings.is_empty(), "{:?}", workflow.warnings);
    };
    check(json!({}), None);
    check(json!({"max_parallel": 7}), Some(7));
    check(json!({"max_parallel_tasks": 100_000}), Some(100_000));
    check(json!({"execution_mode": "parallel"}), None);
    check(json!({"execution_mode": "sequential"}), Some(1));
    check(json!({"execution_mode": "sequential", "max_parallel": 1}), Some(1));
    let invalid = Code::WorkflowValidationFailed;
    for wrong in [json!(0), json!(100_001), json!("5"), json!(1.5), json!(null), json!(-1)] {
        check_refused(bound(json!({"max_parallel": wrong})), invalid, &["max_parallel: found"]);
    }
    check_refused(bound(json!({"max_parallel": 1, "max_parallel_tasks": 2})), invalid, &["differs from"]);
    check_refused(
        bound(json!({"max_parallel": 2, "execution_mode": "sequential"})),
        invalid,
        &["execution_mode"],
    );
    check_refused(bound(json!({"execution_mode": "fast"})), invalid, &["allowed: parallel or sequential"]);
}

#[test]
fn keys_that_nobody_follows_are_refused_with_what_to_write_instead() {
    let document = json!({"conditions": [], "variables": {}, "template": {}, "batch": {}, "outputs": {}, "tasks": [{
        "id": "a", "method": "echo/echo", "condition": "x", "type": "python", "provider": "p", "outputs": [],
        "instance_preference": "x", "fallback_model": "m", "require_gpu": true, "max_latency": 3,
        "container_config": {}, "execution_mode": "parallel",
    }]});
    let expected = [
        "conditions: is not supported; allowed: `when` in a task",
        "variables: is not supported; allowed: `parameters`",
        "template: is not supported; allowed: a file",
        "batch: is not supported; allowed: a file",
        "tasks[0].condition: is not supported; allowed: `when`",
        "tasks[0].type: is not supported; allowed: `protocol` and `method`",
        "tasks[0].provider: is not supported",
        "tasks[0].outputs: is not supported",
        "tasks[0].instance_preference: is not supported; allowed: `affinity`",
        "tasks[0].fallback_model: is not supported",
        "tasks[0].require_gpu: is not supported",
        "tasks[0].max_latency: is not supported; allowed: `timeout`",
        "tasks[0].container_config: is not supported",
        "tasks[0].execution_mode: is not supported",
    ];
    check_refused(document, Code::WorkflowValidationFailed, &expected);
}

#[test]
fn unknown_keys_are_refused_where_that_is_asked_for() {
    let document = json!({"nmae": "x", "tasks": [
        {"id": "a", "method": "echo/echo", "wehn": "x", "retry": {"tries": 3}},
        {"id": "b", "method": "echo/echo", "dependencies": [{"task": "a", "of": 1}]},
        {"id": "c", "workflow": {"tasks": [{"id": "d", "method": "echo/echo", "prio": 1}]}},
    ]});
    let workflow = read(document.clone()).expect("warnings only");
    assert_eq!(workflow.warnings.len(), 5, "{:#?}", workflow.warnings);
    let refused =
        Workflow::prepare(document, BTreeMap::new(), Strictness::Refuse, protocols()).expect_err("refused");
    let lines: Vec<String> = refused.problems.iter().map(Problem::to_string).collect();
    let expected = [
        "nmae: unknown key",
        "tasks[0].wehn: unknown key",
        "tasks[0].retry.tries: unknown key",
        "tasks[1].dependencies[0].of: unknown key",
        "tasks[2].workflow.tasks[0].prio: unknown key",
    ];
    for part in expected {
        assert!(lines.iter().any(|line| line.starts_with(part)), "{part} is not in {lines:#?}");
    }
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
}

#[test]
fn what_keeps_no_result_cannot_be_referred_to() {
    let document = json!({"tasks": [
        {"id": "a", "method": "echo/echo", "ignore_result": true},
        {"id": "b", "method": "echo/echo", "dependencies": ["a"], "params": {"message": "${a.x}"}},
    ]});
    check_refused(document, Code::TaskParameterError, &["refers to task 'a', whose result is not kept"]);
}

#[test]
fn what_the_originals_documents_promise_gets_advice() {
    for reference in ["env.HOME", "config.key", "workflow.variables.x"] {
        let document = one(
            json!({"id": "b", "method": "echo/echo", "params": {"message": format!("${{{reference}}}")}}),
        );
        check_refused(
            document,
            Code::TaskParameterError,
            &["declared under `parameters` and given by --param"],
        );
    }
}
