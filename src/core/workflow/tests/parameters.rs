//! Parameters: declared, given, put in.

use super::*;

fn prepare(document: &Value, given: &[(&str, Given)]) -> Result<(Value, Workflow), Refused> {
    let given = given.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Workflow::prepare(document.clone(), given, Strictness::Warn, protocols())
}

fn text(text: &str) -> Given {
    Given::Text(text.to_owned())
}

fn message_of(document: &Value) -> &Value {
    &document["tasks"][0]["params"]["message"]
}

fn template(parameters: Value, message: Value) -> Value {
    json!({"parameters": parameters, "tasks": [{"id": "a", "method": "echo/echo", "params": {"message": message}}]})
}

#[test]
fn a_template_of_the_original_is_read() {
    let document = json!({
        "id": "search-example", "name": "Search for ${query}", "version": "1.0.0",
        "parameters": {"query": "default query", "max_results": 5},
        "tasks": [
            {"id": "search", "protocol": "echo/v1", "method": "echo",
             "params": {"query": "${query}", "max_results": "${max_results}"}, "priority": "high", "timeout": 30},
            {"id": "summarize", "protocol": "echo/v1", "method": "echo",
             "params": {"text": "${search.result.combined_text}", "max_length": 200}, "dependencies": ["search"]},
        ],
        "metadata": {"category": "information-retrieval"},
    });
    let (filled, workflow) = prepare(&document, &[]).expect("defaults");
    assert_eq!(workflow.name, "Search for default query");
    assert_eq!(filled["tasks"][0]["params"], json!({"query": "default query", "max_results": 5}));
    assert_eq!(filled["tasks"][1]["params"]["text"], "${search.result.combined_text}");
    assert!(filled.get("parameters").is_none());
    let given = [("query", text("rust")), ("max_results", text("7"))];
    let (filled, _) = prepare(&document, &given).expect("given");
    assert_eq!(filled["tasks"][0]["params"], json!({"query": "rust", "max_results": 7}));
    // What is submitted is read the same way again.
    assert!(read(filled).is_ok());
}

#[test]
fn text_becomes_what_the_declaration_says() {
    let check = |declaration: Value, given: &str, expected: Option<Value>| {
        let document = template(json!({ "p": declaration }), json!("${p}"));
        let filled =
            prepare(&document, &[("p", text(given))]).ok().map(|(filled, _)| message_of(&filled).clone());
        assert_eq!(filled, expected, "{declaration} {given}");
    };
    check(json!({"type": "integer"}), "5", Some(json!(5)));
    check(json!({"type": "integer"}), "5.5", None);
    check(json!({"type": "integer", "maximum": 4}), "5", None);
    check(json!({"type": "boolean"}), "true", Some(json!(true)));
    check(json!({"type": "string"}), "5", Some(json!("5")));
    check(json!({"type": ["string", "integer"]}), "5", Some(json!(5)));
    check(json!({"type": ["string", "integer"]}), "x", Some(json!("x")));
    check(json!({"type": "array"}), "[1, 2]", Some(json!([1, 2])));
    check(json!({"type": "object"}), "[1]", None);
    check(json!({"enum": ["a", "b"]}), "b", Some(json!("b")));
    check(json!({"enum": ["a", "b"]}), "c", None);
    check(json!({}), "5", Some(json!("5")));
    check(json!(null), "5", Some(json!("5")));
    check(json!({"default": 1}), "5", Some(json!(5)));
    check(json!(1.5), "x", None);
    check(json!("x"), "5", Some(json!("5")));
    check(json!({"default": {"a": 1}}), r#"{"b": 2}"#, Some(json!({"b": 2})));
    check(json!({"tpye": "string"}), "x", None);
}

#[test]
fn everything_wrong_with_parameters_is_said_at_once() {
    let document = json!({
        "parameters": {
            "needed": {"type": "string"}, "count": {"type": "integer"}, "odd": {"type": "integr"},
            "small": {"type": "integer", "default": 1, "maximum": 3}, "item": 1, "a b": 2, "load": 1,
        },
        "tasks": [
            {"id": "load", "method": "echo/echo", "timeout": 0},
            {"id": "b", "method": "echo/echo", "params": {"message": "${needed} ${count} ${nobody}"}},
        ],
    });
    let given = [("count", text("many")), ("small", Given::Value(json!(4))), ("cuont", text("1"))];
    let refused = prepare(&document, &given).expect_err("refused");
    let lines: Vec<String> = refused.problems.iter().map(Problem::to_string).collect();
    let expected = [
        "parameters.cuont: is no parameter of this workflow; did you mean count?",
        "parameters.needed: is required and not given; allowed: a value: --param needed=VALUE",
        "parameters.count: found \"many\"; allowed: integer",
        "parameters.odd.type: found string \"integr\"; known:",
        "parameters.small: found 4; allowed: at most 3",
        "parameters.item: a parameter cannot be called \"item\"",
        "parameters[\"a b\"]: a parameter cannot be called \"a b\"",
        "tasks[0].timeout: found 0",
        "parameters.load: has the name of a task",
        "tasks[1].params.message: ${nobody} refers to no task",
    ];
    for part in expected {
        let (path, _) = part.split_once(": ").expect("a path");
        assert!(lines.iter().any(|line| line.starts_with(path)), "{part} is not in {lines:#?}");
    }
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    assert!(lines[1].contains("--param needed=VALUE"), "{lines:#?}");
    check_refused(
        json!({"parameters": [1], "tasks": [{"id": "a", "method": "echo/echo"}]}),
        Code::WorkflowValidationFailed,
        &["parameters: found a list of 1"],
    );
    let unknown = prepare(&echoes(&[("a", &[])]), &[("x", text("1"))]).expect_err("refused");
    assert!(unknown.to_string().contains("none, it declares none"), "{unknown}");
}

#[test]
fn values_are_data_wherever_they_stand() {
    let document = json!({
        "name": "On ${p}", "parameters": {"p": {"type": "string"}, "n": 3},
        "tasks": [
            {"id": "a", "method": "echo/echo", "params": {"message": ["${p}", "<${p}>", "$${p}"]}, "timeout": "${n}"},
            {"id": "b", "method": "echo/echo", "for_each": ["${p}"], "when": "${a.x} == ${p}",
             "dependencies": [{"task": "a", "default": "${p}"}], "metadata": {"about": "${p}"}},
        ],
    });
    let value = "${a.response} ' or true";
    let (filled, workflow) = prepare(&document, &[("p", text(value))]).expect("a workflow");
    assert_eq!(workflow.name, format!("On {value}"));
    let escaped = format!("${value}");
    assert_eq!(message_of(&filled), &json!([escaped, format!("<{escaped}>"), "$${p}"]));
    assert_eq!(workflow.tasks[0].inputs, []);
    let b = &workflow.tasks[1];
    assert_eq!(b.for_each, Some(json!([escaped])));
    assert_eq!(b.dependencies[0].on_failure, OnFailure::Default(json!(value)));
    assert_eq!(b.when.as_deref(), Some(r#"${a.x} == "\u0024\u007ba.response\u007d \u0027 or true""#));
    assert_eq!(b.spec.metadata["about"], value);
    assert_eq!(b.inputs, [("a".to_owned(), 0)]);
}

#[test]
fn parameters_do_not_become_code() {
    let document = json!({"parameters": {"p": "1"}, "tasks": [
        {"id": "a", "method": "python/execute", "params": {"code": "print(${p})", "context": {"p": "${p}"}}},
        {"id": "b", "protocol": "python/v1", "method": "validate", "params": ["${p}"]},
    ]});
    let expected = ["tasks[0].params.code: ${p} stands in code", "tasks[1].params[0]: ${p} stands in code"];
    check_refused(document, Code::TaskParameterError, &expected);
}

#[test]
fn parameters_do_not_become_code_in_batches() {
    let python = json!("python/v1");
    for (protocol, template) in [
        (python.clone(), json!({"method": "python/execute", "params": {"code": "print('${p}')"}})),
        (json!("echo/v1"), json!({"protocol": python, "method": "execute", "code": "${p}"})),
        (json!("${py}"), json!({"method": "execute", "code": "${p}"})),
        (json!("echo/v1"), json!({"method": "execute", "protocol": "${py}", "code": "${p}"})),
    ] {
        let document = json!({"parameters": {"p": "1", "py": "python/v1"}, "batch": {"directory": "d"},
            "protocol": protocol, "template": template});
        let refused = Batch::prepare(document, BTreeMap::new(), Strictness::Warn, protocols());
        let refused = refused.expect_err("a parameter in code");
        let paths: Vec<&str> =
            refused.problems.iter().map(|problem| problem.violation.path.as_str()).collect();
        assert!(matches!(paths[..], ["template.code" | "template.params.code"]), "{refused}");
        assert_eq!(refused.code(), Code::TaskParameterError, "{refused}");
    }
}

#[test]
fn parts_of_a_parameter_can_be_named() {
    let document = template(json!({"p": {"default": {"hosts": ["x", "y"]}}}), json!("${p.hosts[1]}"));
    let (filled, _) = prepare(&document, &[]).expect("a workflow");
    assert_eq!(message_of(&filled), "y");
    let wrong = template(json!({"p": {"default": {"hosts": []}}}), json!("${p.host}"));
    check_refused(wrong, Code::TaskParameterError, &["parameter \"p\" has an object with the keys hosts"]);
    let large = template(json!({"p": "x".repeat(1 << 20)}), json!("${p}".repeat(13)));
    check_refused(large, Code::TaskParameterError, &["larger than allowed"]);
}

#[test]
fn a_parameter_in_the_condition_of_a_template_is_a_value_and_no_expression() {
    let document = json!({"parameters": {"word": "x' or true or 'x", "count": 3}, "batch": {"directory": "d"},
        "protocol": "echo/v1", "template": {"method": "echo", "when": "'${word}' == 'y' and ${count} > 2"}});
    let batch = Batch::prepare(document, BTreeMap::new(), Strictness::Warn, protocols());
    let refused = batch.expect_err("a parameter within a text");
    assert_eq!(refused.problems[0].violation.path, "template.when", "{refused}");

    let document = json!({"parameters": {"word": "x' or true or 'x", "count": 3}, "batch": {"directory": "d"},
        "protocol": "echo/v1", "template": {"method": "echo", "when": "${word} == 'y' and ${count} > 2"}});
    let batch = Batch::prepare(document, BTreeMap::new(), Strictness::Warn, protocols()).expect("a batch");
    let workflow = read(batch.workflow(&["d/a".to_owned()]).expect("a file")).expect("a workflow");
    let when = workflow.tasks[0].when.as_deref().expect("a condition");
    assert!(
        !crate::core::condition::Condition::parse(when)
            .expect("a condition")
            .holds(&|_| None)
            .expect("computed"),
        "{when}"
    );
}
