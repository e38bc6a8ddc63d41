//! Ends that nobody has asked for: kills at any moment, deadlines before anything began, what a process leaves behind.

use std::cell::Cell;

use super::*;

/// Numbers below `of` that look like chance and are the same in each run.
fn chances(of: u64) -> impl FnMut() -> u64 {
    let mut state: u64 = 0x9e37_79b9;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % of
    }
}

#[tokio::test]
async fn processes_that_are_killed_at_any_moment_leave_a_pool_that_works() {
    let policy = Policy { min: 2, max: 4, ..Policy::default() };
    let rpc = Arc::new(rpc(Command { pool: policy, ..command() }));
    let provider = guarded(Arc::clone(&rpc));
    provider.start().await.expect("python3 is there");
    let (good, lost, kills, is_over) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(false));
    // More callers than processes: the killer comes before those who wait.
    let callers = (0..8).map(|number| {
        let (provider, good, lost, is_over) = (&provider, &good, &lost, &is_over);
        async move {
            while !is_over.get() {
                let seconds = if number % 3 == 0 { 0.0 } else { 0.01 };
                match ask(provider, "sleep", json!({"seconds": seconds})).await {
                    Ok(result) => {
                        assert_eq!(result, "slept");
                        good.set(good.get() + 1);
                    }
                    Err(failure) => {
                        assert_eq!(
                            (failure.code, failure.retryable),
                            (Code::ConnectionLost, true),
                            "{failure}"
                        );
                        assert_eq!(failure.details["signal"], 9, "{failure}");
                        lost.set(lost.get() + 1);
                    }
                }
            }
        }
    });
    let killer = async {
        let (mut chance, mut tries) = (chances(30), 0);
        while kills.get() < 10 || lost.get() == 0 {
            tries += 1;
            assert!(tries < 1000, "{} kills, {} lost", kills.get(), lost.get());
            let urgent = CallCx { priority: Priority::URGENT, ..cx(60.0) };
            let pid = match provider.call(&urgent, "pid", json!({})).await {
                Ok(answer) => answer.result.as_u64().expect("a number"),
                // It was given the process that was killed just before.
                Err(failure) => {
                    assert_eq!(failure.details["signal"], 9, "{failure}");
                    lost.set(lost.get() + 1);
                    continue;
                }
            };
            tokio::time::sleep(Duration::from_millis(chance())).await;
            kill(pid);
            kills.set(kills.get() + 1);
        }
        eventually("enough calls to be answered", || good.get() >= 100).await;
        is_over.set(true);
    };
    tokio::join!(futures_util::future::join_all(callers), killer);
    assert!(kills.get() >= 10 && lost.get() > 0 && good.get() >= 100, "{kills:?} {lost:?} {good:?}");

    let Some(Line::Processes(pool, _)) = rpc.line() else { panic!("it is started") };
    eventually("the pool to be whole", || {
        let standing = pool.standing();
        standing.members >= 2 && standing.waiting == 0 && standing.failures.is_none()
    })
    .await;
    let members = pool.members();
    assert!(members.len() <= 4 && members.iter().all(|member| !member.has_ended()), "{members:?}");
    let calls = futures_util::future::join_all((0..20).map(|_| number(&provider))).await;
    assert!(calls.into_iter().all(is_running));
}

#[tokio::test]
async fn a_call_whose_time_is_over_before_it_was_sent_has_taken_too_long() {
    let policy = Policy { min: 1, max: 1, concurrency: 100, ..Policy::default() };
    let provider = started(Command { pool: policy, ..command() }).await;
    number(&provider).await;
    // It reads no more, so that what is written fills the pipe, and then the lines that wait to be written.
    let calls = (0..90).map(|number| {
        let (provider, long) = (&provider, "x".repeat(100_000));
        async move {
            let method = if number == 0 { "stuck" } else { "echo" };
            provider.call(&cx(4.0), method, json!({"text": long})).await.expect_err("too late")
        }
    });
    let failures = futures_util::future::join_all(calls).await;
    for failure in &failures {
        assert_eq!((failure.code, failure.retryable), (Code::TaskTimeout, true), "{failure}");
    }
    assert!(failures.iter().any(|failure| failure.not_begun), "some were never sent");
    assert!(!failures[0].not_begun, "one was");
    number(&provider).await;
}

#[tokio::test]
async fn a_call_that_is_cancelled_before_it_was_sent_leaves_its_process_alone() {
    let policy = Policy { min: 1, max: 1, concurrency: 100, ..Policy::default() };
    let provider = started(Command { pool: policy, ..command() }).await;
    let pid = number(&provider).await;
    let cancelled = cx(60.0);
    cancelled.cancel.cancel();
    let failure = provider.call(&cancelled, "sleep", json!({})).await.expect_err("cancelled");
    assert_eq!(failure.code, Code::TaskCancelled);
    assert_eq!(number(&provider).await, pid);
}

#[tokio::test]
async fn what_left_the_group_and_holds_the_pipes_does_not_hold_up_the_end() {
    let provider = started(command()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let note = folder.path().join("orphan");
    // Nothing but the end of the process can end it: its time is not over for an hour.
    let cx = cx(3600.0);
    let call = provider.call(&cx, "orphan", json!({"note": note}));
    let ended = tokio::time::timeout(Duration::from_secs(120), call).await;
    kill(std::fs::read_to_string(&note).expect("it began").trim().parse().expect("a number"));
    let failure = ended.expect("it ended with its process").expect_err("it died");
    assert_eq!((failure.code, &failure.details["exit_code"]), (Code::ConnectionLost, &json!(7)), "{failure}");
    assert_eq!(failure.details["stderr"], "about to die\n", "{failure}");
    number(&provider).await;
}

#[tokio::test]
async fn a_provider_that_fails_its_introduction_is_not_left_running_by_the_suite() {
    let starts = tempfile::NamedTempFile::new().expect("a file");
    let environment = BTreeMap::from([
        ("START".to_owned(), "nameless".to_owned()),
        ("STARTS".to_owned(), starts.path().display().to_string()),
    ]);
    let settings = Settings {
        name: "words".to_owned(),
        road: Road::Processes(Box::new(Command { environment, ..command() })),
        result_bytes_max: 1 << 20,
    };
    let mut verdicts = Vec::new();
    conformance::run(settings, None, Arc::new(Stopped), &mut |check| verdicts.push(check.verdict)).await;
    assert_eq!(verdicts, [conformance::Verdict::Failed]);
    let pid = std::fs::read_to_string(starts.path()).expect("it began").trim().parse().expect("a number");
    assert!(!is_running(pid), "it ends before the suite does");
}

#[tokio::test]
async fn a_progress_that_is_much_is_not_put_into_a_failure() {
    let provider = started(command()).await;
    for (bytes, is_told) in [(100, true), (100_000, false)] {
        let params = json!({"signal": 9, "progress": "x".repeat(bytes)});
        let failure = ask(&provider, "die", params).await.expect_err("it dies");
        assert_eq!(failure.details.contains_key("progress"), is_told, "{bytes}");
    }
}

#[test]
fn what_is_secret_is_not_shown() {
    let secret = BTreeMap::from([("API_KEY".to_owned(), "s3cret".to_owned())]);
    let command = Command { environment: secret, ..command() };
    let program = command.program().expect("python3 is there");
    let url = "http://me:s3cret@host/rpc?key=s3cret".into();
    let road = Road::Http { url, start_timeout: Duration::from_secs(1) };
    let remote = Remote::open("words", &"http://me:s3cret@host/rpc".into(), 100).expect("an address");
    let shown = format!("{command:?} {program:?} {road:?} {remote:?} {:?}", rpc(command.clone()));
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(shown.contains("API_KEY") && shown.contains("me:***@host"), "{shown}");
}
