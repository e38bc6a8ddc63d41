//! Real processes: the misbehaving provider of `tests/support/provider.py`.

mod ends;

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::priority::Priority;
use crate::core::protocol::{Protocols, Source};
use crate::provider::guard::{self, Guard};

#[derive(Debug)]
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_767_323_045_060)
    }
    fn chance(&self) -> f64 {
        0.0
    }
    fn new_id(&self) -> Id {
        Id::parse("new").expect("an id")
    }
}

fn support() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support")
}

fn command() -> Command {
    Command {
        line: vec!["python3".to_owned(), "-S".to_owned(), "provider.py".to_owned()],
        directory: Some(support()),
        environment: BTreeMap::new(),
        secrets: Vec::new(),
        limits: Limits::default(),
        pool: Policy { min: 1, max: 1, ..Policy::default() },
        start_timeout: Duration::from_secs(30),
    }
}

/// The provider in its guard.
fn provider(command: Command) -> Guard {
    guarded(Arc::new(rpc(command)))
}

fn guarded(rpc: Arc<Rpc>) -> Guard {
    // No machine is so busy that what obeys is taken for what does not.
    Guard::new(rpc, &guard::Settings { grace: Duration::from_secs(60), ..guard::Settings::default() })
}

fn rpc(command: Command) -> Rpc {
    let text = std::fs::read_to_string(support().join("words.yaml")).expect("it is there");
    let protocols =
        Protocols::from_sources(&[Source { name: "words.yaml".to_owned(), text }]).expect("it loads");
    let protocol = protocols.iter().next().expect("one").clone();
    let settings = Settings {
        name: "words".to_owned(),
        road: Road::Processes(Box::new(command)),
        result_bytes_max: 1 << 20,
    };
    Rpc::new(settings, protocol, Arc::new(Stopped))
}

async fn started(command: Command) -> Guard {
    let provider = provider(command);
    provider.start().await.expect("python3 is there");
    provider
}

fn cx(seconds: f64) -> CallCx {
    CallCx {
        key: TaskKey::alone(Id::parse("t").expect("an id")),
        attempt: 1,
        timeout: Duration::from_secs_f64(seconds),
        cancel: CancellationToken::new(),
        traceparent: None,
        priority: Priority::NORMAL,
        output: Default::default(),
    }
}

async fn ask(provider: &Guard, method: &str, params: Value) -> Result<Value, Failure> {
    provider.call(&cx(60.0), method, params).await.map(|answer| answer.result)
}

async fn number(provider: &Guard) -> u64 {
    ask(provider, "pid", json!({})).await.expect("it lives").as_u64().expect("a number")
}

/// Waits for what another process does; the bound is only for the case that it never happens.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether any of its threads is left: the first may be gone while another still holds the pipes.
fn is_running(pid: u64) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
        !matches!(state, None | Some("Z" | "X"))
    })
}

fn kill(pid: u64) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a number"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it is ours");
}

#[tokio::test]
async fn values_go_through_as_they_are() {
    let provider = started(command()).await;
    for value in [
        json!({}),
        json!({"text": "\u{e4}\n\u{1f600}\u{2028}\"\\", "list": [1, 2.5, null, true], "big": 12345678901234567890_u64}),
        json!({"long": "x".repeat(900_000)}),
    ] {
        assert_eq!(ask(&provider, "echo", value.clone()).await, Ok(value));
    }
    assert_eq!(provider.health().await, Health::Up);
    assert!(provider.serves("echo") && !provider.serves("missing") && !provider.serves("other"));
    provider.stop().await;
    provider.stop().await;
    assert_eq!(
        ask(&provider, "echo", json!({})).await.expect_err("stopped").code,
        Code::ProviderNotAvailable
    );
    provider.start().await.expect("again");
    number(&provider).await;
}

#[tokio::test]
async fn a_process_has_its_own_environment_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("key");
    std::fs::write(&secret, "s3cret\n").expect("written");
    let environment = BTreeMap::from([("REGION".to_owned(), "eu".to_owned())]);
    let secrets = vec![("API_KEY".to_owned(), secret)];
    let provider = started(Command { environment, secrets, ..command() }).await;
    let env = ask(&provider, "env", json!({})).await.expect("variables");
    let expected = json!({"PATH": SEARCH_PATH, "LANG": "C.UTF-8", "REGION": "eu", "API_KEY": "s3cret"});
    assert_eq!(env.as_object(), expected.as_object());
}

#[tokio::test]
async fn errors_are_told_with_what_was_printed_in_this_call_only() {
    let provider = started(command()).await;
    let first = ask(&provider, "complain", json!({"text": "one"})).await.expect_err("it complains");
    assert_eq!((first.code, &first.details["stderr"]), (Code::TaskExecutionFailed, &json!("one\n")));
    let second = ask(&provider, "complain", json!({"text": "two"})).await.expect_err("it complains");
    assert_eq!(second.details["stderr"], "two\n");
    let bug = ask(&provider, "error", json!({})).await.expect_err("a bug");
    assert_eq!((bug.code, bug.retryable), (Code::ProviderError, true));
    assert!(bug.message.contains("a bug"), "{bug}");
}

#[tokio::test]
async fn a_process_that_dies_in_a_call_fails_it_and_is_replaced() {
    let provider = started(command()).await;
    for (params, name, value) in [
        (json!({"signal": 9}), "signal", json!(9)),
        (json!({"signal": 11}), "signal", json!(11)),
        (json!({"code": 7}), "exit_code", json!(7)),
        (json!({"code": 0, "partial": true}), "exit_code", json!(0)),
    ] {
        let before = number(&provider).await;
        let failure = ask(&provider, "die", params.clone()).await.expect_err("it dies");
        assert_eq!((failure.code, failure.retryable), (Code::ConnectionLost, true), "{params}: {failure}");
        assert!(!failure.not_begun, "{params}");
        assert_eq!(failure.details[name], value, "{params}: {failure}");
        assert!(
            failure.details["stderr"].as_str().is_some_and(|text| text.contains("about to die")),
            "{params}"
        );
        assert_ne!(number(&provider).await, before);
    }
}

#[tokio::test]
async fn a_process_that_is_killed_idle_is_replaced_and_no_call_notices() {
    let provider = started(command()).await;
    for _ in 0..10 {
        let pid = number(&provider).await;
        kill(pid);
        eventually("the process to end", || !is_running(pid)).await;
        assert_ne!(number(&provider).await, pid);
    }
    assert_eq!(provider.health().await, Health::Up);
}

#[tokio::test]
async fn a_call_that_is_cancelled_obeys_or_its_process_is_killed() {
    let provider = started(command()).await;
    // A busy machine may take longer than the grace for it: one of ten obeys in time.
    for (obey, tries) in [(true, 10), (false, 1)] {
        let mut has_survived = false;
        for _ in 0..tries {
            let pid = number(&provider).await;
            let late = provider.call(&cx(0.3), "sleep", json!({"obey": obey})).await.expect_err("too late");
            assert_eq!(late.code, Code::TaskTimeout, "{late}");
            assert!(!late.details.contains_key("abandoned"), "{late}");
            has_survived = number(&provider).await == pid;
            assert!(has_survived || !is_running(pid));
            if has_survived {
                break;
            }
        }
        assert_eq!(has_survived, obey);
    }
    let cx = cx(60.0);
    let cancel = cx.cancel.clone();
    let folder = tempfile::tempdir().expect("a folder");
    let begun = folder.path().join("begun");
    let call = provider.call(&cx, "sleep", json!({"obey": true, "note": begun}));
    let (ended, ()) = tokio::join!(call, async {
        eventually("the call to begin", || begun.exists()).await;
        cancel.cancel();
    });
    assert_eq!(ended.expect_err("cancelled").code, Code::TaskCancelled);
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_ends_with_its_process() {
    let provider = started(command()).await;
    let pid = number(&provider).await;
    let folder = tempfile::tempdir().expect("a folder");
    let begun = folder.path().join("begun");
    {
        let surroundings = cx(60.0);
        let call = provider.call(&surroundings, "sleep", json!({"note": begun}));
        tokio::pin!(call);
        tokio::select! {
            ended = &mut call => panic!("{ended:?}"),
            () = eventually("the call to begin", || begun.exists()) => {}
        }
    }
    eventually("the process to be killed", || !is_running(pid)).await;
    number(&provider).await;
}

#[tokio::test]
async fn what_is_no_answer_does_no_harm_up_to_a_bound() {
    let provider = started(command()).await;
    let pid = number(&provider).await;
    assert_eq!(ask(&provider, "garbage", json!({"lines": 100})).await, Ok(json!("said")));
    assert_eq!(number(&provider).await, pid);
    let noisy = ask(&provider, "garbage", json!({"lines": 20_000})).await.expect_err("too much");
    assert_eq!((noisy.code, noisy.retryable), (Code::ConnectionLost, true), "{noisy}");
    assert!(noisy.message.contains("no JSON-RPC"), "{noisy}");
    for (method, params) in [("huge", json!({"bytes": 3_000_000})), ("flood", json!({}))] {
        let huge = ask(&provider, method, params).await.expect_err("too long");
        assert_eq!((huge.code, huge.retryable), (Code::ResultTooLarge, false), "{huge}");
    }
    let deaf = ask(&provider, "deaf", json!({})).await.expect_err("no answer can come");
    assert_eq!(deaf.code, Code::ConnectionLost, "{deaf}");
    number(&provider).await;
}

#[tokio::test]
async fn what_a_process_started_ends_with_it() {
    let provider = started(command()).await;
    let child = ask(&provider, "spawn", json!({})).await.expect("a number").as_u64().expect("one");
    assert!(is_running(child));
    kill(number(&provider).await);
    eventually("the grandchild to be killed", || !is_running(child)).await;
    let child = ask(&provider, "spawn", json!({})).await.expect("a number").as_u64().expect("one");
    provider.stop().await;
    eventually("the grandchild to be killed", || !is_running(child)).await;
}

#[tokio::test]
async fn processes_are_replaced_after_their_uses_and_when_they_hold_too_much() {
    let pool = Policy { uses_max: Some(3), ..command().pool };
    let provider = started(Command { pool, ..command() }).await;
    let mut numbers = Vec::new();
    for _ in 0..9 {
        numbers.push(number(&provider).await);
    }
    numbers.dedup();
    assert_eq!(numbers.len(), 3);

    let pool = Policy { memory_bytes_max: Some(64 << 20), ..command().pool };
    let provider = started(Command { pool, ..command() }).await;
    let pid =
        ask(&provider, "allocate", json!({"megabytes": 100})).await.expect("it may").as_u64().expect("one");
    eventually("the process to be replaced", || !is_running(pid)).await;
    number(&provider).await;
}

#[tokio::test]
async fn the_memory_of_a_call_is_what_its_process_held_meanwhile_if_it_was_alone_there() {
    let measured = async |provider: &Guard, megabytes: u64| {
        let answer = provider.call(&cx(60.0), "allocate", json!({"megabytes": megabytes})).await;
        answer.expect("it may").metadata.get(MEMORY_PEAK).and_then(Value::as_u64)
    };
    let provider = started(command()).await;
    let little = measured(&provider, 1).await.expect("it is measured");
    let much = measured(&provider, 64).await.expect("it is measured");
    assert!((1 << 20..64 << 20).contains(&little), "{little}");
    assert!(much >= little + (60 << 20), "{little} {much}");
    // Also of a call that fails.
    let failure = ask(&provider, "complain", json!({"text": "no"})).await.expect_err("it complains");
    let held = failure.details.get(MEMORY_PEAK).and_then(Value::as_u64);
    assert!(held.is_some_and(|held| held >= 64 << 20), "it still holds it: {failure}");
    let pool = Policy { concurrency: 2, ..command().pool };
    let shared = started(Command { pool, ..command() }).await;
    assert_eq!(measured(&shared, 1).await, None, "what several hold together is nobody's own");
}

#[tokio::test]
async fn limits_hold_for_each_process() {
    let limits = Limits { memory_bytes: Some(200 << 20), open_files: Some(64), ..Limits::default() };
    let provider = started(Command { limits, ..command() }).await;
    let failure = ask(&provider, "allocate", json!({"megabytes": 400})).await.expect_err("too much");
    assert_eq!(
        (failure.code, &failure.details["exit_code"]),
        (Code::ConnectionLost, &json!(77)),
        "{failure}"
    );
    ask(&provider, "allocate", json!({"megabytes": 20})).await.expect("a little");
}

#[tokio::test]
async fn what_does_not_start_says_why() {
    let of = |start: &str| BTreeMap::from([("START".to_owned(), start.to_owned())]);
    let start_timeout = Duration::from_millis(300);
    let cases = [
        (Command { environment: of("die"), ..command() }, "exit code 3", "no licence"),
        (Command { environment: of("mute"), start_timeout, ..command() }, "did not answer", ""),
        (Command { line: vec!["no-such-program".to_owned()], ..command() }, "is not there", ""),
        (Command { line: vec!["true".to_owned()], ..command() }, "exit code 0", ""),
    ];
    for (command, part, printed) in cases {
        let failure = provider(command).start().await.expect_err(part);
        assert_eq!(failure.code, Code::ProviderInitializationFailed, "{failure}");
        assert!(failure.message.contains(part), "{failure}");
        let stderr = failure.details.get("stderr").and_then(Value::as_str).unwrap_or_default();
        assert!(stderr.contains(printed), "{stderr}");
    }
    let missing = vec![("KEY".to_owned(), PathBuf::from("/nonexistent"))];
    let failure =
        provider(Command { secrets: missing, ..command() }).start().await.expect_err("no such file");
    assert_eq!(failure.code, Code::FileUnreadable);
}

#[tokio::test]
async fn a_provider_says_how_it_does() {
    let of = |ping: &str| BTreeMap::from([("PING".to_owned(), ping.to_owned())]);
    for (ping, health) in [
        (r#"{"status": "ok"}"#, Health::Up),
        (r#"{"status": "degraded", "reason": "slow"}"#, Health::Degraded("slow".to_owned())),
        (r#"{"status": "down", "reason": "no disk"}"#, Health::Down("no disk".to_owned())),
        ("7", Health::Up),
    ] {
        assert_eq!(started(Command { environment: of(ping), ..command() }).await.health().await, health);
    }
}

#[tokio::test]
async fn a_process_may_take_several_calls_at_once() {
    let pool = Policy { concurrency: 4, ..command().pool };
    let provider = started(Command { pool, ..command() }).await;
    let folder = tempfile::tempdir().expect("a folder");
    let notes: Vec<PathBuf> = (0..4).map(|number| folder.path().join(number.to_string())).collect();
    let surroundings = cx(60.0);
    let cancel = surroundings.cancel.clone();
    let calls =
        notes.iter().map(|note| provider.call(&surroundings, "sleep", json!({"obey": true, "note": note})));
    let all = eventually("all of them to run", || notes.iter().all(|note| note.exists()));
    let (ended, ()) = tokio::join!(futures_util::future::join_all(calls), async {
        all.await;
        cancel.cancel();
    });
    assert!(ended.iter().all(|one| one.as_ref().is_err_and(|failure| failure.code == Code::TaskCancelled)));
    let mut pids: Vec<String> =
        notes.iter().map(|note| std::fs::read_to_string(note).expect("a note")).collect();
    pids.dedup();
    assert_eq!(pids.len(), 1);
}
