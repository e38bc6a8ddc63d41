use super::*;
use crate::core::code::Code;

#[tokio::test]
async fn every_dialect_gives_its_result() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    write("script.py", "import neighbour\nresult = [__name__, neighbour.N, context['n'], n]\n");
    write("neighbour.py", "N = 7\n");
    write("latin.py", "# -*- coding: latin-1 -*-\n'done'\n");
    write(
        "tools.py",
        "import asyncio\ndef double(n, by=2): return n * by\nclass Box:\n  @staticmethod\n  def open(): return 'open'\n\
         async def slow(n):\n  await asyncio.sleep(0)\n  return n\n",
    );
    let directory = folder.path().to_path_buf();
    let python =
        started(Settings { module_paths: vec![directory.clone()], directory: Some(directory), ..settings() })
            .await;
    for (params, expected) in [
        // Code: the variable `result`, else the last expression, else null.
        (code("6 * 7"), json!(42)),
        (code("x = 6\nx * 7"), json!(42)),
        (code("result = 1\n2"), json!(1)),
        (code("print('Hello')"), json!(null)),
        (code("x = 1"), json!(null)),
        (code("# nothing"), json!(null)),
        (code("result = None\n5"), json!(null)),
        // One dictionary of names for everything.
        (
            code("def f(n):\n  return 1 if n < 2 else n * f(n - 1)\nf(20)"),
            json!(2_432_902_008_176_640_000_u64),
        ),
        (code("k = 3\ndef g(x):\n  return x + k\n[g(i) for i in range(k)]"), json!([3, 4, 5])),
        (
            code("class A:\n  pass\nimport sys\nA.__module__, sys.modules['__main__'].A is A"),
            json!(["__main__", true]),
        ),
        (code("async def main():\n  return 5\nmain()"), json!(5)),
        (code("async def main():\n  return 5\nresult = main()"), json!(5)),
        (code("import sys\nresult = 3\nsys.exit(0)\nresult = 4"), json!(3)),
        (code("import sys\nsys.exit()"), json!(null)),
        (code("import sys\nsys.stdin.read()"), json!("")),
        // Context: a global of its own, and its keys are.
        (json!({"code": "n + context['n']", "context": {"n": 2}}), json!(4)),
        (json!({"code": "context", "context": [1, null]}), json!([1, null])),
        (
            json!({"code": "sorted(context)", "context": {"b c": 1, "__name__": "x", "class": 2}}),
            json!(["__name__", "b c", "class"]),
        ),
        (json!({"code": "result + 1", "context": {"result": 1}}), json!(2)),
        (json!({"code": "print(1)", "context": {"result": 1}}), json!(null)),
        (json!({"code": "result = result * 3", "context": {"result": 2}}), json!(6)),
        // Surroundings.
        (json!({"code": "os.path.sep", "imports": ["os.path"]}), json!("/")),
        (json!({"code": "math.sqrt(16)", "imports": ["math", "json"]}), json!(4.0)),
        (
            json!({"code": "os.environ['A'], os.environ['N']", "imports": ["os"], "environment": {"A": "'; x", "N": 1}}),
            json!(["'; x", "1"]),
        ),
        (json!({"code": "sorted(os.environ)", "imports": ["os"]}), json!(["LANG", "PATH"])),
        // Files, relative to the working directory.
        (json!({"file": "script.py", "context": {"n": 5}}), json!(["__main__", 7, 5, 5])),
        (json!({"file": "latin.py"}), json!("done")),
        // Functions.
        (json!({"function": "math:gcd", "args": [12, 18]}), json!(6)),
        (json!({"function": "math.gcd", "args": [12, 18]}), json!(6)),
        (json!({"function": "os.path.join", "args": ["a", "b"]}), json!("a/b")),
        (json!({"function": "tools:double", "args": [4], "kwargs": {"by": 3}}), json!(12)),
        (json!({"function": "tools:Box.open"}), json!("open")),
        (json!({"function": "tools:slow", "kwargs": {"n": [1]}}), json!([1])),
    ] {
        let shown = params.to_string();
        let answer = execute(&python, params).await.unwrap_or_else(|failure| panic!("{shown}: {failure}"));
        assert_eq!(answer["result"], expected, "{shown}");
    }
}

#[tokio::test]
async fn what_goes_wrong_says_what_and_where() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("broken.py"), "x = 1\ny = (\n").expect("written");
    std::fs::write(folder.path().join("big.py"), vec![b'#'; 1024 * 1024 + 1]).expect("written");
    let python = started(Settings { directory: Some(folder.path().to_path_buf()), ..settings() }).await;
    let digits = "9".repeat(5000);
    let huge: Value = serde_json::from_str(&digits).expect("a number");
    use Code::{FileUnreadable, InvalidParams, TaskExecutionFailed};
    for (params, code, part) in [
        (code("1 / 0"), TaskExecutionFailed, "ZeroDivisionError: division by zero"),
        (code("raise KeyboardInterrupt"), TaskExecutionFailed, "KeyboardInterrupt"),
        (code("raise ValueError('\\ud800')"), TaskExecutionFailed, "ValueError: ?"),
        (
            code("class E(Exception):\n  def __str__(self): 1/0\nraise E"),
            TaskExecutionFailed,
            "E: <its text cannot",
        ),
        (code("raise ValueError('x' * 10**7)"), TaskExecutionFailed, "[9999012 characters cut]"),
        (code("def f(): f()\nf()"), TaskExecutionFailed, "RecursionError"),
        (
            code("import json\njson.loads('{')"),
            TaskExecutionFailed,
            "json.decoder.JSONDecodeError: Expecting",
        ),
        (code("x = 1\nx = = 2"), TaskExecutionFailed, "SyntaxError: invalid syntax in line 2, column 5"),
        (code("a\0b"), TaskExecutionFailed, "null bytes"),
        (json!({"code": "-".repeat(500_000) + "1"}), TaskExecutionFailed, ""),
        (
            json!({"code": "1", "imports": ["os; evil"]}),
            InvalidParams,
            "'os; evil' is not the name of a module",
        ),
        (json!({"code": "1", "imports": ["no_such_module"]}), TaskExecutionFailed, "ModuleNotFoundError"),
        (json!({"code": "1", "context": huge}), InvalidParams, "the parameters cannot be read"),
        (json!({"function": "gcd"}), InvalidParams, "not of the form module:name"),
        (json!({"function": "math:no_such"}), TaskExecutionFailed, "AttributeError"),
        (json!({"function": "math:gcd", "args": ["x"]}), TaskExecutionFailed, "TypeError"),
        (json!({"file": "missing.py"}), FileUnreadable, "'missing.py' cannot be read: No such file"),
        (json!({"file": "big.py"}), FileUnreadable, "larger than 1048576 bytes"),
        (json!({"file": "broken.py"}), TaskExecutionFailed, "SyntaxError: "),
    ] {
        let shown = params.to_string().chars().take(200).collect::<String>();
        let failure = failure(&python, params).await;
        assert_eq!((failure.code, failure.retryable), (code, false), "{shown}: {failure}");
        assert!(failure.message.contains(part), "{shown}: {failure}");
        assert!(failure.message.len() < 2000, "{shown}: {}", failure.message.len());
    }
}

#[tokio::test]
async fn a_failure_has_the_traceback_without_the_runner() {
    let python = started(settings()).await;
    let text = "import sys\nprint('before')\ndef inner():\n    raise ValueError('boom')\ninner()\n";
    let failure = failure(&python, code(text)).await;
    assert_eq!(failure.message, "ValueError: boom");
    assert_eq!(failure.details["exception"], "ValueError");
    assert_eq!(failure.details["exit_code"], 1);
    assert_eq!(failure.details["stdout"], "before\n");
    let traceback = failure.details["traceback"].as_str().expect("text");
    assert_eq!(failure.details["stderr"], traceback);
    assert_eq!(traceback.matches("File ").count(), 2, "{traceback}");
    for part in ["File \"<task>\", line 5, in <module>", "line 4, in inner", "raise ValueError('boom')"] {
        assert!(traceback.contains(part), "{part}: {traceback}");
    }
}

#[tokio::test]
async fn files_outside_of_the_granted_folders_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let granted = folder.path().join("granted");
    std::fs::create_dir(&granted).expect("created");
    std::fs::write(granted.join("in.py"), "'in'").expect("written");
    std::fs::write(folder.path().join("out.py"), "'out'").expect("written");
    std::os::unix::fs::symlink(folder.path().join("out.py"), granted.join("link.py")).expect("linked");
    let python = started(Settings {
        directory: Some(granted.clone()),
        read_paths: vec![folder.path().join("missing"), granted.clone()],
        ..settings()
    })
    .await;
    assert_eq!(execute(&python, json!({"file": "in.py"})).await.expect("granted")["result"], "in");
    for file in ["../out.py", "link.py", "/etc/passwd"] {
        let failure = failure(&python, json!({ "file": file })).await;
        assert_eq!(failure.code, Code::FileUnreadable);
        assert!(failure.message.contains("lies outside"), "{failure}");
    }
}

#[tokio::test]
async fn validate_finds_errors_and_runs_nothing() {
    let python = started(settings()).await;
    for (text, errors) in [
        ("x = 1", json!([])),
        ("", json!([])),
        ("open('/proc/self/status')\nraise SystemExit(1)", json!([])),
        ("x ==", json!(["line 1, column 5: invalid syntax"])),
        (
            "def f():\n  return 1\n return 2",
            json!(["line 3, column 10: unindent does not match any outer indentation level"]),
        ),
        ("x = 1\nreturn x", json!(["line 2, column 1: 'return' outside function"])),
    ] {
        let answer = python.call(&cx(), "validate", code(text)).await.expect(text);
        assert_eq!(answer.result["errors"], errors, "{text}");
        assert_eq!(answer.result["is_valid"], errors == json!([]), "{text}");
        assert_eq!(answer.metadata["sandbox"], json!({"level": "none"}));
    }
    let hostile = "(".repeat(100_000) + &")".repeat(100_000);
    let answer = python.call(&cx(), "validate", code(&hostile)).await.expect("an answer");
    assert_eq!(answer.result["is_valid"], false);
}

#[tokio::test]
async fn who_is_not_started_or_asked_for_more_says_so() {
    let python = Python::new(settings());
    let failure = failure(&python, code("1")).await;
    assert_eq!(failure.code, Code::SystemNotInitialized);
    python.stop().await;
    python.start().await.expect("python3");
    python.start().await.expect("again");
    let failure = python.call(&cx(), "eval", code("1")).await.expect_err("no such method");
    assert_eq!(failure.code, Code::MethodNotSupported);
    python.stop().await;
    python.stop().await;
    assert_eq!(super::failure(&python, code("1")).await.code, Code::SystemNotInitialized);
    python.start().await.expect("after a stop");
    assert_eq!(execute(&python, code("1")).await.expect("an answer")["result"], 1);
}
