use super::*;
use crate::core::code::Code;

#[tokio::test]
async fn a_result_has_the_keys_of_every_dialect() {
    let python = started(settings()).await;
    let text = "import sys\nprint('Hello, World!')\nprint('oops', file=sys.stderr)\n0";
    let answer = python.call(&cx(), "execute", code(text)).await.expect("an answer");
    let mut result = answer.result;
    let seconds = result["execution_time"].take().as_f64().expect("seconds");
    assert!((0.0..30.0).contains(&seconds), "{seconds}");
    let expected = json!({
        "result": 0, "output": "Hello, World!\n", "stdout": "Hello, World!\n", "stderr": "oops\n",
        "success": true, "execution_time": null, "exit_code": 0,
    });
    assert_eq!(result, expected);
    assert_eq!(answer.metadata["sandbox"], json!({"level": "none"}));
    let held = answer.metadata["memory_peak_bytes"].as_u64().expect("of its own process");
    assert!((1 << 20..200 << 20).contains(&held), "{held}");
}

#[tokio::test]
async fn values_keep_their_type() {
    let python = started(settings()).await;
    for (text, expected) in [
        ("0", "0"),
        ("''", "\"\""),
        ("[]", "[]"),
        ("False", "false"),
        ("{}", "{}"),
        ("'42'", "\"42\""),
        ("2 ** 200", "1606938044258990275541962092341162602522202993782792835301376"),
        ("len(str(10 ** 4299))", "4300"),
        ("-0.0, 1.0, 1e300, 0.1", "[-0.0,1.0,1e+300,0.1]"),
        ("(1, (2,), [])", "[1,[2],[]]"),
        ("{'b': 1, 'a': {'c': None}}", r#"{"b":1,"a":{"c":null}}"#),
        ("'\\u00e4\\U0001f600\\x00\\n'", "\"ä😀\\u0000\\n\""),
        (
            "from dataclasses import dataclass\n@dataclass\nclass P:\n  x: int\n  y: tuple\nP(1, (2,))",
            r#"{"x":1,"y":[2]}"#,
        ),
        (
            "from collections import OrderedDict, namedtuple\nOrderedDict(a=namedtuple('N', 'x y')(1, 2))",
            r#"{"a":[1,2]}"#,
        ),
        ("import enum\nclass C(enum.IntEnum):\n  A = 3\nC.A", "3"),
        ("a = [1]\n[a, a]", "[[1],[1]]"),
        ("x = 1\nfor _ in range(99): x = [x]\nlen(str(x))", "199"),
    ] {
        let answer = execute(&python, code(text)).await.unwrap_or_else(|failure| panic!("{text}: {failure}"));
        assert_eq!(answer["result"].to_string(), expected, "{text}");
    }
}

#[tokio::test]
async fn what_json_does_not_have_is_refused_with_what_to_do() {
    let python = started(settings()).await;
    for (text, part) in [
        ("float('nan')", "the result is nan, a number that JSON does not have: return None"),
        ("{'a': [1, float('-inf')]}", "the result at $.a[1] is -inf"),
        ("a = []\na.append(a)\na", "the result at $[0] is a value that contains itself"),
        ("{1, 2}", "of type set, which JSON does not have: return sorted(...) or list(...)"),
        ("b'x'", "of type bytes, which JSON does not have: return text"),
        ("10 ** 4300", "an integer of more than 4300 digits"),
        ("{1: 2}", "an object with the key 1 of type int: make the keys text"),
        ("{('a', 'b'): 2}", "key ('a', 'b') of type tuple"),
        ("'\\ud800'", "half a surrogate pair"),
        ("{'\\ud800': 1}", "half a surrogate pair"),
        (
            "import datetime\ndatetime.date(2020, 1, 1)",
            "of type date, which JSON does not have: return .isoformat()",
        ),
        ("(i for i in range(3))", "of type generator, which JSON does not have: return list(...)"),
        ("len", "return what it gives when called"),
        ("object()", "of type object"),
        ("1j", "of type complex"),
        ("x = 1\nfor _ in range(101): x = [x]\nx", "nested deeper than 100"),
    ] {
        let failure = failure(&python, code(text)).await;
        assert_eq!((failure.code, failure.retryable), (Code::TaskResultInvalid, false), "{text}: {failure}");
        assert!(failure.message.contains(part), "{text}: {failure}");
    }
}

#[tokio::test]
async fn a_result_may_be_large_but_not_too_large() {
    let python = started(settings()).await;
    let answer = execute(&python, code("'x' * (4 * 1024 * 1024 - 1000)")).await.expect("it fits");
    assert_eq!(answer["result"].as_str().expect("text").len(), 4 * 1024 * 1024 - 1000);
    for text in ["'x' * (4 * 1024 * 1024)", "'x' * (64 * 1024 * 1024)"] {
        let failure = failure(&python, code(text)).await;
        assert_eq!((failure.code, failure.retryable), (Code::ResultTooLarge, false), "{failure}");
        assert!(failure.message.contains("4194304 are allowed"), "{failure}");
    }
}

#[tokio::test]
async fn long_output_is_cut_in_the_middle_and_says_so() {
    let python = started(settings()).await;
    let text = "print('begin' + 'x' * (3 * 1024 * 1024) + 'end')\n1";
    let answer = execute(&python, code(text)).await.expect("an answer");
    let stdout = answer["stdout"].as_str().expect("text");
    assert_eq!(answer["truncated"], json!(["stdout"]));
    assert!(stdout.starts_with("begin") && stdout.ends_with("end\n") && stdout.contains("bytes cut"));
    assert!((1_048_576..1_048_700).contains(&stdout.len()), "{}", stdout.len());

    // Output gives way to a large result.
    let text = "import sys\nprint('x' * 10**6)\n'y' * (3 * 1024 * 1024)";
    let answer = execute(&python, code(text)).await.expect("an answer");
    assert_eq!(answer["result"].as_str().map(str::len), Some(3 * 1024 * 1024));
    assert_eq!(answer["truncated"], json!(["stdout"]));
    assert!(answer.to_string().len() <= 4 * 1024 * 1024);
}

#[tokio::test]
async fn output_that_is_no_text_is_no_failure() {
    let python = started(settings()).await;
    let text = "import os\nprint('\\ud800\\u00e4')\nos.write(1, b'\\xff\\n')\nos.system('echo from a shell')";
    let answer = execute(&python, code(text)).await.expect("an answer");
    assert_eq!(answer["stdout"], "\\ud800ä\n\u{fffd}\nfrom a shell\n");
}

#[tokio::test]
async fn the_largest_code_runs() {
    let python = started(settings()).await;
    let text = format!("# {}\n7", "x".repeat(1024 * 1024 - 4));
    assert_eq!(text.len(), 1024 * 1024);
    assert_eq!(execute(&python, code(&text)).await.expect("an answer")["result"], 7);
}

#[tokio::test]
async fn installed_packages_can_be_had() {
    let python = started(Settings { site: true, ..settings() }).await;
    let answer = execute(&python, code("import sys\n'site' in sys.modules")).await.expect("an answer");
    assert_eq!(answer["result"], true);
}
