use std::process::{Command, Stdio};
use std::sync::Arc;

use super::*;
use crate::core::code::Code;

/// Writes its own number, and those of twenty children, into `pids`; all then spin.
const TWENTY_CHILDREN: &str = "import os\n\
    def note():\n  fd = os.open('pids', os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n  os.write(fd, b'%d\\n' % os.getpid())\n\
    print('begun', flush=True)\n\
    for _ in range(20):\n  if os.fork() == 0:\n    note()\n    while True: pass\n\
    note()\nwhile True: pass\n";

async fn in_folder() -> (tempfile::TempDir, Arc<Python>) {
    let folder = tempfile::tempdir().expect("a folder");
    let python = started(Settings { directory: Some(folder.path().to_path_buf()), ..settings() }).await;
    (folder, Arc::new(python))
}

#[tokio::test]
async fn a_timeout_kills_at_once_and_keeps_the_output() {
    let python = started(settings()).await;
    let mut late = Duration::MAX;
    // The machine may be busy for a moment, so that nothing is printed in time; the provider must not be.
    for seconds in [3, 9, 27] {
        let params = json!({"code": "print('half', end='')\nwhile True: pass", "timeout": seconds});
        let begun = tokio::time::Instant::now();
        let failure = failure(&python, params).await;
        late = late.min(begun.elapsed().saturating_sub(Duration::from_secs(seconds)));
        assert_eq!((failure.code, failure.retryable), (Code::TaskTimeout, true));
        assert!(failure.message.contains(&format!("longer than {seconds} s")), "{failure}");
        if failure.details["stdout"] == "half" && (late < Duration::from_millis(100) || !is_full()) {
            return;
        }
    }
    panic!("nothing was kept, or it was killed {late:?} after the deadline");
}

/// Whether speed is asked for too (`scripts/test --full`).
fn is_full() -> bool {
    #[allow(clippy::disallowed_methods, reason = "a word to the tests, not to the program")]
    std::env::var_os("GLEITZEIT_TEST_FULL").is_some()
}

#[tokio::test]
async fn the_call_bounds_the_process_too() {
    let python = started(settings()).await;
    let cx = CallCx { timeout: Duration::from_millis(300), ..cx() };
    let params = json!({"code": "while True: pass", "timeout": 3600});
    let failure = python.call(&cx, "execute", params).await.expect_err("too slow");
    assert_eq!((failure.code, failure.details["timeout"].as_f64()), (Code::TaskTimeout, Some(0.3)));
}

#[tokio::test]
async fn a_cancelled_call_kills_the_whole_group() {
    let (folder, python) = in_folder().await;
    let file = folder.path().join("pids");
    let cx = cx();
    let cancel = cx.cancel.clone();
    let (ended, ()) = tokio::join!(python.call(&cx, "execute", code(TWENTY_CHILDREN)), async {
        eventually("21 processes run", || pids(&file).len() == 21).await;
        cancel.cancel();
    });
    let failure = ended.expect_err("cancelled");
    assert_eq!(failure.code, Code::TaskCancelled);
    assert_eq!(failure.details["stdout"], "begun\n");
    eventually("all are gone", || !pids(&file).into_iter().any(is_running)).await;
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_nothing_running() {
    let (folder, python) = in_folder().await;
    let file = folder.path().join("pids");
    let cx = cx();
    tokio::select! {
        _ = python.call(&cx, "execute", code(TWENTY_CHILDREN)) => panic!("it spins for ever"),
        () = eventually("21 processes run", || pids(&file).len() == 21) => {}
    }
    eventually("all are gone", || !pids(&file).into_iter().any(is_running)).await;
    python.stop().await;
}

#[tokio::test]
async fn a_stopped_provider_leaves_nothing_running() {
    let (folder, python) = in_folder().await;
    let file = folder.path().join("pids");
    let cx = cx();
    let (ended, ()) = tokio::join!(python.call(&cx, "execute", code(TWENTY_CHILDREN)), async {
        eventually("21 processes run", || pids(&file).len() == 21).await;
        python.stop().await;
        eventually("all are gone", || !pids(&file).into_iter().any(is_running)).await;
    });
    assert_eq!(ended.expect_err("stopped").code, Code::SystemShutdown);
}

#[tokio::test]
async fn what_a_task_leaves_behind_is_killed() {
    let (folder, python) = in_folder().await;
    let text = "import os\npid = os.fork()\nif pid == 0:\n  while True: pass\npid";
    let answer = execute(&python, code(text)).await.expect("an answer");
    let child = u32::try_from(answer["result"].as_u64().expect("a number")).expect("a process number");
    eventually("the child is gone", || !is_running(child)).await;
    drop(folder);
}

#[tokio::test]
async fn a_forked_child_that_falls_through_leaves_the_report_to_its_parent() {
    let python = started(settings()).await;
    for (end, status) in [("pass", 0), ("raise SystemExit(4)", 4), ("1 / 0", 1)] {
        let text = format!(
            "import os\npid = os.fork()\nif pid == 0:\n  {end}\nelse:\n  _, status = os.waitpid(pid, 0)\n\
             \x20 result = ['parent', os.WEXITSTATUS(status)]"
        );
        let answer = execute(&python, code(&text)).await.unwrap_or_else(|failure| panic!("{end}: {failure}"));
        assert_eq!(answer["result"], json!(["parent", status]), "{end}");
    }
}

/// The kernel does it, whatever the task is doing: here it holds the interpreter's lock.
#[tokio::test]
async fn a_killed_worker_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pids");
    let mut worker = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "provider::python::tests::ends::worker_to_be_killed", "--ignored"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    eventually("both processes run", || pids(&file).len() == 2).await;
    assert!(pids(&file).into_iter().all(is_running));
    worker.kill().expect("SIGKILL");
    worker.wait().expect("its end");
    eventually("both are gone", || !pids(&file).into_iter().any(is_running)).await;
}

#[tokio::test]
#[ignore = "started, and killed, by another test"]
async fn worker_to_be_killed() {
    let python = started(settings()).await;
    let text = "import os\nos.fork()\nfd = os.open('pids', os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n\
                os.write(fd, b'%d\\n' % os.getpid())\n10 ** 10 ** 8";
    let _ = execute(&python, json!({"code": text, "timeout": 60})).await;
}

#[tokio::test]
async fn a_process_that_leaves_the_group_does_not_hold_up_the_answer() {
    let (folder, python) = in_folder().await;
    let text = "import os, time\nread, write = os.pipe()\nchild = os.fork()\nif child == 0:\n  os.setsid()\n  os.write(write, b'x')\n\
                \x20 time.sleep(600)\n  os._exit(0)\nos.read(read, 1)\nprint('done')\n5";
    let text = format!("{text}\nopen('pids', 'w').write(f'{{child}}\\n')\n5");
    let answer = tokio::time::timeout(Duration::from_secs(120), execute(&python, code(&text))).await;
    for pid in pids(&folder.path().join("pids")) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a number"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it is ours");
    }
    let answer = answer.expect("it is not waited for").expect("an answer");
    assert_eq!((&answer["result"], &answer["stdout"]), (&json!(5), &json!("done\n")));
}

#[tokio::test]
async fn a_flood_is_stopped() {
    let python = started(settings()).await;
    let text = "while True: print('x' * 100_000)";
    let failure = failure(&python, code(text)).await;
    assert_eq!((failure.code, failure.retryable), (Code::ResourceExhausted, false));
    assert!(failure.message.contains("printed more than 16777216 bytes"), "{failure}");
    assert!(failure.details["stdout"].as_str().is_some_and(|text| text.len() < 300_000));
    assert_eq!(failure.details["truncated"], json!(["stdout"]));
}

#[tokio::test]
async fn every_other_end_is_a_failure_with_its_kind() {
    let python = started(settings()).await;
    for (text, detail, value, part) in [
        ("import sys\nsys.exit(3)", "exit_code", json!(3), "ended itself with exit code 3"),
        ("import sys\nsys.exit('why')", "stderr", json!("why\n"), "exit code 1"),
        ("import os\nos._exit(0)", "exit_code", json!(0), "exit code 0 before it could report"),
        ("import os\nos._exit(9)", "exit_code", json!(9), "exit code 9 before it could report"),
        (
            "import os\nos.kill(os.getpid(), 9)",
            "signal_name",
            json!("SIGKILL"),
            "killed by signal 9 (SIGKILL)",
        ),
        ("import os\nos.kill(os.getpid(), 40)", "signal", json!(40), "killed by signal 40"),
        ("import os\nos.abort()", "signal", json!(6), "killed by signal 6 (SIGABRT)"),
        ("import os\nos.closerange(0, 100)", "exit_code", json!(1), "before it could report"),
    ] {
        let failure = failure(&python, code(&format!("print('half')\n{text}"))).await;
        assert_eq!(
            (failure.code, failure.retryable),
            (Code::TaskExecutionFailed, false),
            "{text}: {failure}"
        );
        assert_eq!(failure.details[detail], value, "{text}: {failure}");
        assert!(failure.message.contains(part), "{text}: {failure}");
        assert_eq!(failure.details["stdout"], "half\n", "{text}");
    }
}

#[tokio::test]
async fn a_thread_that_is_left_does_not_keep_the_process_alive() {
    let python = started(settings()).await;
    let text = "import threading, time\nthreading.Thread(target=time.sleep, args=(50,)).start()\n1";
    assert_eq!(execute(&python, json!({"code": text, "timeout": 20})).await.expect("an answer")["result"], 1);
}

#[tokio::test]
async fn what_was_left_for_the_end_is_done() {
    let python = started(settings()).await;
    let text = "import atexit\natexit.register(print, 'bye')\nprint('hello')";
    assert_eq!(execute(&python, code(text)).await.expect("an answer")["stdout"], "hello\nbye\n");
}

#[tokio::test]
async fn limits_are_kept() {
    let limits =
        super::super::Limits { memory_bytes: Some(256 << 20), open_files: Some(32), ..Default::default() };
    let python = started(Settings { limits, ..settings() }).await;
    let memory = failure(&python, code("x = bytearray(512 << 20)")).await;
    assert_eq!(memory.details["exception"], "MemoryError");
    let files = failure(&python, code("x = [open('/dev/null') for _ in range(40)]")).await;
    assert!(files.message.contains("Too many open files"), "{files}");
    assert_eq!(
        execute(&python, code("len(bytearray(64 << 20))")).await.expect("it fits")["result"],
        64 << 20
    );
}

#[tokio::test]
async fn a_task_without_a_network_reaches_nobody() {
    let limits = super::super::Limits { is_offline: true, ..Default::default() };
    let python = Python::new(Settings { limits, ..settings() });
    if let Err(failure) = python.start().await {
        assert!(failure.message.contains("network namespace"), "{failure}");
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("an address");
    let port = listener.local_addr().expect("an address").port();
    let text = format!("import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)");
    let failure = failure(&python, code(&text)).await;
    assert!(failure.message.contains("unreachable"), "{failure}");
    assert_eq!(execute(&python, code("6 * 7")).await.expect("an answer")["result"], 42);
}

#[tokio::test]
async fn many_at_once_do_not_mix() {
    let python = started(settings()).await;
    let calls = (0..12).map(|n| {
        let params = json!({"code": "print(n)\nn * n", "context": {"n": n}});
        let python = &python;
        async move { (n, execute(python, params).await.expect("an answer")) }
    });
    for (n, answer) in futures_util::future::join_all(calls).await {
        assert_eq!((&answer["result"], &answer["stdout"]), (&json!(n * n), &json!(format!("{n}\n"))));
    }
}

#[tokio::test]
async fn no_process_is_left_unreaped() {
    let python = started(settings()).await;
    let pid = execute(&python, code("import os\nos.getpid()")).await.expect("an answer")["result"].clone();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn an_interpreter_that_vanished_is_no_fault_of_the_task() {
    let folder = tempfile::tempdir().expect("a folder");
    let gone = folder.path().join("gone");
    std::fs::create_dir(&gone).expect("created");
    let python = started(Settings { directory: Some(gone.clone()), ..settings() }).await;
    std::fs::remove_dir(&gone).expect("removed");
    let failure = failure(&python, code("1")).await;
    assert_eq!((failure.code, failure.retryable), (Code::ProviderNotAvailable, true));
}
