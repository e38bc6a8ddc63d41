//! Workflows inside workflows, and files of them.

use super::*;

fn outer(inner: Value, params: Value) -> Value {
    json!({"tasks": [
        {"id": "load", "method": "echo/echo"},
        {"id": "sub", "name": "Sub", "workflow": inner, "params": params, "dependencies": ["load"]},
    ]})
}

#[test]
fn a_workflow_can_be_a_task() {
    let inner = json!({
        "parameters": {"rows": {"type": "array"}, "limit": 3},
        "tasks": [
            {"id": "load", "method": "echo/echo", "params": {"message": "${rows[0]}"}},
            {"id": "use", "method": "echo/delay", "params": {"seconds": "${load.x}"}, "dependencies": ["load"],
             "when": "${load.n} < ${limit}"},
        ],
    });
    let workflow = read(outer(inner.clone(), json!({"rows": "${load.rows}"}))).expect("a workflow");
    let sub = &workflow.tasks[1];
    assert_eq!((sub.spec.protocol.to_string().as_str(), sub.spec.method.as_str()), ("workflow/v1", "run"));
    assert_eq!(sub.spec.params, json!({"workflow": inner, "params": {"rows": "${load.rows}"}}));
    assert_eq!(sub.inputs, [("load".to_owned(), 0)]);
    assert!(workflow.warnings.is_empty(), "{:?}", workflow.warnings);

    let filled = json!({"workflow": inner, "params": {"rows": ["${evil}", 2]}});
    let run = Workflow::nested(filled, protocols()).expect("a workflow");
    assert_eq!(run.tasks[0].spec.params, json!({"message": "$${evil}"}));
    assert_eq!(run.tasks[1].when.as_deref(), Some("${load.n} < (3)"));
    assert!(Workflow::nested(json!({"workflow": inner, "params": {}}), protocols()).is_err());
    assert!(Workflow::nested(json!({"workflow": 1}), protocols()).is_err());

    let call = json!({"tasks": [{"id": "s", "method": "workflow/run", "params": {"workflow": inner, "params": {"rows": [1]}}}]});
    assert!(read(call).expect("a workflow").tasks[0].spec.is_workflow());
}

#[test]
fn what_is_wrong_inside_is_said_with_its_place() {
    let inner = json!({
        "id": "x", "timeout": 3, "parameters": {"rows": {"type": "array"}, "title": {"type": "string"}},
        "tasks": [
            {"id": "a", "method": "nowhere/run"},
            {"id": "b", "method": "echo/echo", "params": {"message": "${load.x} ${rows} ${title}"}},
            {"id": "c", "method": "echo/echo", "dependencies": ["d"], "timeout": "${rows}"},
        ],
    });
    let document = outer(inner, json!({"rows": "${load.rows}", "rwos": 1}));
    let at = "tasks[1].workflow.";
    let expected = [
        format!("{at}parameters.rwos: is no parameter of this workflow; allowed: rows, title"),
        format!("{at}parameters.title: is required and not given"),
        format!("{at}timeout: is not supported in a nested workflow"),
        format!("{at}tasks[0].protocol: unknown protocol nowhere/v1"),
        format!("{at}tasks[1].params.message: ${{load.x}} refers to no task"),
        format!("{at}tasks[2].dependencies[0]: unknown dependency 'd'"),
        format!("{at}tasks[2].timeout: found \"${{rows}}\""),
    ];
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    check_refused(document, Code::WorkflowValidationFailed, &expected);
}

#[test]
fn known_values_are_checked_before_the_run() {
    let inner = json!({"parameters": {"n": {"type": "integer"}},
        "tasks": [{"id": "a", "method": "echo/delay", "params": {"seconds": "${n}"}}]});
    assert!(read(outer(inner.clone(), json!({"n": 5}))).is_ok());
    let call = |params: &str| {
        let mut document = outer(json!({}), json!({"workflow": inner, "params": params}));
        let sub = document["tasks"][1].as_object_mut().expect("a task");
        sub.shift_remove("workflow");
        sub.insert("method".to_owned(), json!("workflow/run"));
        document
    };
    assert!(read(call("${load.params}")).is_ok());
    check_refused(call("x"), Code::InvalidParams, &["tasks[1].params.params: found"]);
    let invalid = Code::WorkflowValidationFailed;
    check_refused(
        outer(inner.clone(), json!({"n": "x"})),
        invalid,
        &["tasks[1].workflow.parameters.n: found"],
    );
    let expected = "tasks[1].workflow.tasks[0].params.seconds: found 50";
    check_refused(outer(inner.clone(), json!({"n": 50})), Code::InvalidParams, &[expected]);
    check_refused(
        outer(inner, json!({"n": "${nobody}"})),
        Code::TaskParameterError,
        &["tasks[1].params.params.n"],
    );
}

#[test]
fn what_would_have_no_effect_on_a_nested_workflow_is_refused() {
    let mut document = outer(json!({"tasks": [{"id": "a", "method": "echo/echo"}]}), json!({}));
    document["tasks"][1]["timeout"] = json!(3);
    document["tasks"][1]["retry"] = json!({"max_attempts": 2});
    let expected = ["tasks[1].timeout: timeout is not supported", "tasks[1].retry: retry is not supported"];
    check_refused(document, Code::WorkflowValidationFailed, &expected);
}

#[test]
fn a_workflow_does_not_come_from_a_result() {
    let document = json!({"tasks": [{"id": "load", "method": "echo/echo"},
        {"id": "s", "method": "workflow/run", "dependencies": ["load"], "params": {"workflow": "${load.doc}"}}]});
    let expected = ["tasks[1].workflow: is a reference: a workflow cannot come from a result"];
    check_refused(document, Code::WorkflowValidationFailed, &expected);
}

#[test]
fn a_nested_workflow_is_one_of_three_things() {
    let inner = json!({"tasks": [{"id": "a", "method": "echo/echo"}]});
    let invalid = Code::WorkflowValidationFailed;
    let task = |task: Value| json!({ "tasks": [task] });
    let both = task(json!({"id": "s", "workflow": inner, "method": "echo/echo"}));
    check_refused(both, invalid, &["tasks[0].workflow: found beside method"]);
    check_refused(task(json!({"id": "s", "workflow": "sub.yaml"})), invalid, &["a path is followed only"]);
    check_refused(task(json!({"id": "s", "workflow": [1]})), invalid, &["tasks[0].workflow: found a list"]);
    let batch = task(json!({"id": "s", "workflow": {"type": "batch", "batch": {"directory": "x"}}}));
    let expected = [".type: found", ".batch: is not supported", "must contain at least one task"];
    check_refused(batch, invalid, &expected);
}

#[test]
fn workflows_stand_in_each_other_only_so_deep() {
    let nested = |depth: usize| {
        let leaf = json!({"tasks": [{"id": "a", "method": "echo/echo"}]});
        (0..depth).fold(leaf, |inner, _| json!({"tasks": [{"id": "s", "workflow": inner}]}))
    };
    assert!(read(nested(NESTED_MAX)).is_ok());
    check_refused(nested(NESTED_MAX + 1), Code::WorkflowTooLarge, &["is nested more than 8 times"]);
}

/// Files by their paths.
fn files(path: &str) -> Result<String, String> {
    match path {
        "sub.yaml" => Ok("tasks: [{id: a, method: echo/echo}, {id: deep, workflow: deep.json}]".to_owned()),
        "deep.json" => Ok(r#"{"tasks": [{"id": "z", "method": "echo/echo"}]}"#.to_owned()),
        "self.yaml" => Ok("tasks: [{id: a, workflow: other.yaml}]".to_owned()),
        "other.yaml" => Ok("tasks: [{id: a, workflow: self.yaml}]".to_owned()),
        "broken.yaml" => Ok("tasks: [".to_owned()),
        "wide.yaml" => Ok(format!("# {}\ntasks: [{{id: z, method: echo/echo}}]", "x".repeat(7 << 20))),
        chain => match chain.strip_suffix(".yml").and_then(|number| number.parse::<u32>().ok()) {
            Some(number) => Ok(format!("tasks: [{{id: a, workflow: {}.yml}}]", number + 1)),
            None => Err(format!("cannot read {path}: there is no such file")),
        },
    }
}

#[test]
fn files_are_put_in_the_place_of_their_paths() {
    let document = json!({"tasks": [
        {"id": "x", "workflow": "sub.yaml"},
        {"id": "y", "workflow": {"tasks": [{"id": "y", "workflow": "deep.json"}]}},
    ]});
    let (whole, refused) = inline(document, &mut Sources::default(), &files).parts();
    assert!(refused.problems.is_empty(), "{refused}");
    assert_eq!(whole["tasks"][0]["workflow"]["tasks"][1]["workflow"]["tasks"][0]["id"], "z");
    assert_eq!(whole["tasks"][1]["workflow"]["tasks"][0]["workflow"]["tasks"][0]["id"], "z");
    assert!(read(whole).is_ok());
    let odd = json!({"tasks": {"workflow": "sub.yaml"}});
    assert_eq!(inline(odd.clone(), &mut Sources::default(), &files).parts().0, odd);
}

#[test]
fn files_that_cannot_be_put_in_are_named() {
    let check = |paths: &[&str], code: Code, parts: &[&str]| {
        let task = |(at, path): (usize, &&str)| json!({"id": format!("t{at}"), "workflow": path});
        let tasks: Vec<Value> = paths.iter().enumerate().map(task).collect();
        let inlined = inline(json!({ "tasks": tasks }), &mut Sources::default(), &files);
        let refused = inlined.prepare(BTreeMap::new(), Strictness::Warn, protocols()).expect_err("refused");
        assert_eq!(refused.code(), code, "{refused}");
        for part in parts {
            assert!(refused.to_string().contains(part), "{refused}");
        }
    };
    check(
        &["none.yaml"],
        Code::FileUnreadable,
        &["tasks[0].workflow: cannot read none.yaml: there is no such file"],
    );
    check(&["none.txt"], Code::WorkflowValidationFailed, &["ends in .yaml, .yml or .json"]);
    check(&["broken.yaml"], Code::ParseError, &["broken.yaml: is not YAML"]);
    let circle = "tasks[0].workflow.tasks[0].workflow.tasks[0].workflow: includes itself: self.yaml -> other.yaml -> self.yaml";
    check(&["self.yaml"], Code::WorkflowCircularDependency, &[circle]);
    check(&["1.yml"], Code::WorkflowTooLarge, &["is nested more than 8 times"]);
    check(&["wide.yaml", "wide.yaml"], Code::WorkflowTooLarge, &["tasks[1].workflow", "all files together"]);
    check(&["none.yaml", "nil.yaml"], Code::FileUnreadable, &["none.yaml", "nil.yaml"]);
}

#[test]
fn what_is_wrong_in_a_file_that_was_put_in_is_told_with_that_file() {
    let outer = "tasks:\n- id: a\n  workflow: middle.yaml\n  timeout: 5\n- id: b\n  method: echo/echo\n  timeout: -1\n";
    let files = |path: &str| {
        Ok(match path {
            "middle.yaml" => {
                "# inner\ntasks:\n- {id: c, method: echo/echo, timeout: 0}\n- {id: d, workflow: inner.json}\n"
            }
            _ => "{\"tasks\": [\n  {\"id\": \"e\",\n   \"method\": \"echo/none\"}]}",
        }
        .to_owned())
    };
    let mut sources = Sources::of(outer, Format::Yaml);
    let (document, _) = inline(load(outer, Format::Yaml).expect("YAML"), &mut sources, &files).parts();
    let refused = read(document).expect_err("refused").located(&sources);
    let shown = |problem: &Problem| {
        let place = problem.place.expect("a place");
        (problem.file.clone().unwrap_or_default(), place.line, place.column)
    };
    let mut found: Vec<(String, usize, usize)> = refused.problems.iter().map(shown).collect();
    found.sort();
    let expected = [("", 4, 3), ("", 7, 3), ("inner.json", 3, 4), ("middle.yaml", 3, 30)];
    assert_eq!(found, expected.map(|(file, line, column)| (file.to_owned(), line, column)), "{refused}");
    let json = refused.failure().details["violations"].to_string();
    assert!(json.contains("\"file\":\"inner.json\""), "{json}");
}

#[test]
fn a_file_that_cannot_be_put_in_hides_nothing_else_that_is_wrong() {
    let document = json!({"parameters": {"n": {"type": "integer", "default": "x"}}, "tasks": [
        {"id": "x", "workflow": "none.yaml", "params": {"n": 1}, "timeout": 0},
        {"id": "y", "workflow": {"tasks": [{"id": "z", "workflow": "broken.yaml"}, {"id": "v", "method": "echo/none"}]}},
        {"id": "w", "method": "echo/echo", "params": {"message": "${x.result}"}, "dependencies": ["x", "nobody"]},
    ]});
    let refused = inline(document, &mut Sources::default(), &files)
        .prepare(BTreeMap::new(), Strictness::Warn, protocols())
        .expect_err("refused");
    let mut paths: Vec<&str> =
        refused.problems.iter().map(|problem| problem.violation.path.as_str()).collect();
    paths.sort_unstable();
    let expected = [
        "parameters.n.default",
        "tasks[0].timeout",
        "tasks[0].workflow",
        "tasks[1].workflow.tasks[0].workflow",
        "tasks[1].workflow.tasks[1].method",
        "tasks[2].dependencies[1]",
    ];
    assert_eq!(paths, expected, "{refused}");
}

#[test]
fn what_is_odd_inside_is_told_with_the_whole_path() {
    let inner =
        json!({"id": "no", "tasks": [{"id": "a", "method": "echo/echo", "retry": {"delay": 1}, "metod": 1}]});
    let workflow = read(json!({"tasks": [{"id": "x", "workflow": inner}]})).expect("warnings only");
    let mut warnings: Vec<String> = workflow.warnings.iter().map(Warning::to_string).collect();
    warnings.sort();
    let inside = "tasks[0].workflow.tasks[0]";
    let expected = [
        "tasks[0].workflow.id has no effect in a nested workflow".to_owned(),
        format!("{inside}.retry.delay: better written base_delay"),
        format!("unknown key {inside}.metod; did you mean method?"),
    ];
    assert_eq!(warnings, expected);
}
