//! Real processes: the misbehaving server of `tests/support/mcp/mischief.py`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::core::id::{Id, TaskKey};
use crate::core::priority::Priority;
use crate::provider::guard::{self, Guard};
use crate::provider::process::Limits;

/// A server, what it writes down, and the guard around it.
struct Set {
    server: Arc<Server>,
    guard: Guard,
    folder: tempfile::TempDir,
}

fn command(environment: BTreeMap<String, String>) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/mcp/mischief.py");
    Command {
        line: vec!["python3".to_owned(), "-S".to_owned(), script.display().to_string()],
        directory: None,
        environment,
        secrets: Vec::new(),
        limits: Limits::default(),
        pool: Policy { min: 1, max: 1, concurrency: 64, ..Policy::default() },
        start_timeout: Duration::from_secs(60),
    }
}

async fn started(more: &[(&str, &str)]) -> Set {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut environment: BTreeMap<String, String> =
        ["CALLS", "ORPHANS"].into_iter().map(|name| (name.to_owned(), path(name))).collect();
    environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let settings = Settings {
        name: "odd".to_owned(),
        road: Road::Processes(Box::new(command(environment))),
        is_ranked: false,
        result_bytes_max: 1 << 20,
    };
    let server = Arc::new(Server::new(settings, Arc::default()));
    let settings = guard::Settings { grace: Duration::from_secs(60), ..guard::Settings::default() };
    let guard = Guard::new(Arc::clone(&server) as Arc<dyn Provider>, &settings);
    guard.start().await.expect("python3 is there");
    Set { server, guard, folder }
}

impl Set {
    async fn ask(&self, tool: &str, params: Value) -> Result<Value, Failure> {
        let (cx, method) = (cx(Duration::from_secs(3600)), format!("tool.{tool}"));
        let answer = self.guard.call(&cx, &method, params);
        // For the case that it never ends.
        let answer = tokio::time::timeout(Duration::from_secs(120), answer).await.expect("it ends");
        answer.map(|answer| answer.result)
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn who_was_stopped_has_surely_begun_nothing() {
    let set = started(&[]).await;
    set.guard.stop().await;
    for method in ["tool.echo", "resource.test://a"] {
        let failure =
            set.guard.call(&cx(Duration::from_secs(60)), method, json!({})).await.expect_err("it is stopped");
        assert_eq!((failure.code, failure.not_begun), (Code::ProviderNotAvailable, true), "{failure}");
    }
    set.guard.start().await.expect("it starts again");
}

fn cx(timeout: Duration) -> CallCx {
    CallCx {
        key: TaskKey::alone(Id::parse("t").expect("an id")),
        attempt: 1,
        timeout,
        cancel: CancellationToken::new(),
        traceparent: None,
        priority: Priority::NORMAL,
        output: Default::default(),
    }
}

/// Waits for what another process does; the bound is only for the case that it never happens.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_left_the_group_and_holds_the_pipes_does_not_hold_up_the_end() {
    let set = started(&[]).await;
    let cx = cx(Duration::from_secs(3600));
    let call = set.guard.call(&cx, "tool.orphan", json!({}));
    let ended = tokio::time::timeout(Duration::from_secs(60), call).await;
    for pid in set.lines("ORPHANS") {
        let pid = nix::unistd::Pid::from_raw(pid.parse().expect("a number"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it is ours");
    }
    let failure = ended.expect("it ended with its process").expect_err("it died");
    assert_eq!((failure.code, &failure.details["exit_code"]), (Code::ConnectionLost, &json!(7)), "{failure}");
    let printed = failure.details["stderr"].as_str().expect("text");
    assert!(printed.contains("out of cheese"), "{printed}");
    set.ask("pid", json!({})).await.expect("another process");
}

#[tokio::test]
async fn what_earlier_calls_have_printed_is_not_told_of_a_later_one() {
    let set = started(&[]).await;
    set.ask("mutter", json!({"text": "about the first"})).await.expect("an answer");
    let line = set.server.line().clone().expect("it is started");
    let process = line.pool.members()[0].process.clone().expect("it is one");
    eventually("it to be read", || process.life.printed(0).contains("about the first")).await;
    let failure = set.ask("die", json!({})).await.expect_err("it dies");
    assert_eq!(failure.details["stderr"], "out of cheese\n", "{failure}");
}

#[tokio::test]
async fn what_a_failure_keeps_of_a_server_is_bounded() {
    let set = started(&[]).await;
    for (tool, details) in [("fat_content", &["content", "structured_content"][..]), ("fat_error", &["data"])]
    {
        for (bytes, is_told) in [(100, true), (100_000, false)] {
            let failure = set.ask(tool, json!({"bytes": bytes})).await.expect_err("it fails");
            for detail in details {
                assert_eq!(failure.details.contains_key(*detail), is_told, "{tool} {bytes}: {failure}");
            }
            assert!(failure.message.len() <= 1000, "{failure}");
        }
    }
}

#[tokio::test]
async fn a_list_that_changes_all_the_time_is_asked_for_once_in_a_second() {
    let set = started(&[("CHATTER", "1")]).await;
    let lists = || set.lines("CALLS").iter().filter(|line| *line == "tools/list").count();
    // It answers in three pages, and says at once that they are old.
    assert!(lists() >= 3);
    let began = Instant::now();
    eventually("three more lists", || lists() >= 12).await;
    // One may have been asked for at once.
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_last_change_of_a_list_is_never_missed() {
    let set = started(&[]).await;
    for name in ["one", "two", "three"] {
        set.ask("grow", json!({"name": name})).await.expect("an answer");
    }
    for name in ["one", "two", "three"] {
        eventually("it to be known", || set.guard.serves(&format!("tool.{name}"))).await;
    }
}

#[test]
fn what_is_secret_is_not_shown() {
    let url = "http://me:s3cret@host/mcp?key=s3cret";
    let way = Way::to(&url.into(), None, None).expect("an address");
    let address = Address {
        url: url.into(),
        token_file: None,
        headers_file: None,
        pool: Policy::default(),
        start_timeout: Duration::from_secs(1),
    };
    let road = Road::Http(Box::new(address));
    let program = command(BTreeMap::from([("API_KEY".to_owned(), "s3cret".to_owned())]));
    let shown = format!("{way:?} {road:?} {program:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(shown.contains("API_KEY") && shown.contains("me:***@host"), "{shown}");
}
