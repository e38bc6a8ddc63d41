//! Processes that work on one file at the same time, and die.
//!
//! The other process is this test binary again, running one of the ignored tests below; it is told the path
//! of the state on its standard input and tells on its standard output what it has done.

use crate::support::{
    State, complete, echo, head, id, message, next, open, prefetch, soon, store, tasks, text,
};
use gleitzeit::broker::sqlite::SqliteBroker;
use gleitzeit::broker::{Broker, Settlement};
use gleitzeit::core::clock::Clock;
use gleitzeit::core::id::Id;
use gleitzeit::store::sqlite::SqliteStore;
use gleitzeit::store::{Claim, Claimed, Filter, Finished, Store};
use gleitzeit::topology::Topology;
use std::collections::BTreeSet;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::wall_clock::WallClock;

/// Another process that works on the state.
struct Other {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Other {
    /// Runs the ignored test `crash::NAME` of this binary in a process of its own.
    async fn start(name: &str, state: &State) -> Other {
        let binary = std::env::current_exe().expect("this binary has a path");
        let mut child = Command::new(binary)
            .args(["--exact", "--ignored", "--nocapture", &format!("crash::{name}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("this binary runs");
        let path = format!("{}\n", state.path().display());
        child.stdin.as_mut().expect("piped").write_all(path.as_bytes()).await.expect("it reads");
        let said = BufReader::new(child.stdout.take().expect("piped")).lines();
        Other { child, said }
    }

    /// The next thing that it says; the test harness says things as well.
    async fn says(&mut self) -> String {
        loop {
            let line = soon(self.said.next_line()).await.expect("it can be read").expect("it still runs");
            if let Some((_, word)) = line.split_once("::: ") {
                return word.to_owned();
            }
        }
    }

    /// `kill -9`. The process stays a zombie until `Other` is dropped.
    fn kill(&self) {
        let pid = i32::try_from(self.child.id().expect("it runs")).expect("a pid");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .expect("it can be killed");
    }
}

/// Says a word to the process that has started this one.
fn say(word: &str) {
    println!("::: {word}");
    std::io::stdout().flush().expect("somebody reads");
}

/// What this process was started for, if it was.
async fn told() -> Option<(SqliteBroker, SqliteStore)> {
    let mut path = String::new();
    std::io::stdin().read_line(&mut path).expect("standard input can be read");
    if path.trim().is_empty() {
        return None;
    }
    let database = open(path.trim().into()).await;
    Some((crate::support::broker(database.clone()).await, store(database)))
}

async fn claim(store: &SqliteStore, name: &str, session: &Id, over: Option<&Claimed>) -> Claimed {
    let over = over.and_then(|held| match held {
        Claimed::Held { fence, .. } => Some(*fence),
        _ => None,
    });
    let claim = Claim {
        head: head(name),
        attempt: 1,
        session: session.clone(),
        over,
        run: None,
        inputs: Vec::new(),
        inputs_bytes_max: 0,
        digest: None,
    };
    store.claim(&claim, WallClock.now()).await.expect("claims")
}

/// Works as a worker does until `stop` says so, and tells `done` each task that it has ended.
async fn work(
    broker: &SqliteBroker,
    store: &SqliteStore,
    session: &Id,
    mut done: impl FnMut(String),
    stop: impl AsyncFn() -> bool,
) {
    let mut consumer = broker.consume(&tasks(), prefetch(4)).await.expect("consumes");
    while !stop().await {
        // In between it looks whether others have done the rest.
        let step = tokio::time::timeout(Duration::from_millis(50), consumer.next()).await;
        let Ok(delivery) = step else { continue };
        let delivery = delivery.expect("not at its end").expect("no error");
        let name = text(&delivery);
        let mut claimed = claim(store, &name, session, None).await;
        if let Claimed::Held { session: holder, .. } = &claimed
            && !store.alive(holder, WallClock.now()).await.expect("answers")
        {
            claimed = claim(store, &name, session, Some(&claimed)).await;
        }
        let settlement = match claimed {
            Claimed::Run { lease, .. } => {
                assert!(matches!(complete(store, &lease).await, Finished::Done { .. }));
                done(name);
                Settlement::Done
            }
            Claimed::Over { .. } => Settlement::Done,
            Claimed::Held { .. } => Settlement::Release,
            other => panic!("{other:?}"),
        };
        delivery.settle(settlement).await.expect("settles");
    }
}

async fn completed(store: &SqliteStore) -> usize {
    let filter = Filter { state: Some("completed".to_owned()), limit: 10_000 };
    store.list(&filter).await.expect("lists").len()
}

#[tokio::test]
#[ignore = "the other process of the tests below"]
async fn holds_two_messages_and_a_lease() {
    let Some((broker, store)) = told().await else { return };
    let session = id("other");
    store.beat(&session, Duration::from_secs(600), WallClock.now()).await.expect("beats");
    let mut consumer = broker.consume(&tasks(), prefetch(2)).await.expect("consumes");
    let held = [next(&mut consumer).await, next(&mut consumer).await];
    claim(&store, &text(&held[0]), &session, None).await;
    say("holding");
    std::future::pending().await
}

#[tokio::test]
#[ignore = "the other process of the tests below"]
async fn works_until_it_is_killed() {
    let Some((broker, store)) = told().await else { return };
    let session = id("other");
    store.beat(&session, Duration::from_secs(600), WallClock.now()).await.expect("beats");
    work(&broker, &store, &session, |name| say(&name), async || false).await;
}

#[tokio::test]
async fn what_a_killed_process_held_is_free_at_once() {
    let state = State::new();
    let database = state.open().await;
    let (broker, store) = (crate::support::broker(database.clone()).await, store(database));
    broker.publish(["a", "b", "c"].map(message).into()).await.expect("publishes");
    let mut other = Other::start("holds_two_messages_and_a_lease", &state).await;
    assert_eq!(other.says().await, "holding");
    let alive = async || store.alive(&id("other"), WallClock.now()).await.expect("answers");
    assert!(alive().await);
    assert_eq!(broker.depth(&tasks()).await.expect("counts").ready, 1);

    other.kill();
    while alive().await {
        // Until the kernel has delivered the signal.
        tokio::task::yield_now().await;
    }
    let began = std::time::Instant::now();
    let mut consumer = broker.consume(&tasks(), prefetch(3)).await.expect("consumes");
    for (name, redelivered) in [("a", true), ("b", true), ("c", false)] {
        let delivery = next(&mut consumer).await;
        assert_eq!((text(&delivery).as_str(), delivery.redelivered), (name, redelivered));
    }
    // Far less than the other session has to live.
    assert!(began.elapsed() < Duration::from_secs(100), "{:?}", began.elapsed());
    let held = claim(&store, "a", &id("here"), None).await;
    assert!(matches!(&held, Claimed::Held { session, .. } if *session == id("other")), "{held:?}");
    let taken = claim(&store, "a", &id("here"), Some(&held)).await;
    assert!(matches!(taken, Claimed::Run { crashes: 1, .. }), "{taken:?}");
    assert_eq!(broker.depth(&tasks()).await.expect("counts").consumers, 1, "its consumer is gone too");
}

#[tokio::test]
async fn a_waiting_consumer_gets_what_a_killed_process_held() {
    let state = State::new();
    let broker = state.broker().await;
    broker.publish(["a", "b"].map(message).into()).await.expect("publishes");
    let mut other = Other::start("holds_two_messages_and_a_lease", &state).await;
    assert_eq!(other.says().await, "holding");
    let mut consumer = broker.consume(&tasks(), prefetch(2)).await.expect("consumes");
    let waited = tokio::time::timeout(Duration::from_millis(1), consumer.next()).await;
    assert!(waited.is_err(), "they are held");
    other.kill();
    for name in ["a", "b"] {
        assert_eq!(text(&next(&mut consumer).await), name);
    }
}

#[tokio::test]
async fn two_processes_share_the_work_and_none_of_it_is_done_twice() {
    let state = State::new();
    let database = state.open().await;
    let (broker, store) = (crate::support::broker(database.clone()).await, store(database));
    let names: BTreeSet<String> = (0..600).map(|number| format!("t{number}")).collect();
    broker.publish(names.iter().map(|name| message(name)).collect()).await.expect("publishes");
    let mut other = Other::start("works_until_it_is_killed", &state).await;
    let mut there = vec![other.says().await];
    let (session, mut here) = (id("here"), Vec::new());
    let stop = async || completed(&store).await == names.len();
    soon(work(&broker, &store, &session, |name| here.push(name), stop)).await;
    while here.len() + there.len() < names.len() {
        there.push(other.says().await);
    }
    assert!(!here.is_empty(), "this process never had its turn");
    let all: BTreeSet<String> = here.into_iter().chain(there).collect();
    assert_eq!(all, names);
}

#[tokio::test]
async fn a_process_killed_while_it_works_loses_nothing() {
    let state = State::new();
    let database = state.open().await;
    let (broker, store) = (crate::support::broker(database.clone()).await, store(database));
    let names: Vec<String> = (0..300).map(|number| format!("t{number}")).collect();
    broker.publish(names.iter().map(|name| message(name)).collect()).await.expect("publishes");
    for round in 0..3 {
        let mut other = Other::start("works_until_it_is_killed", &state).await;
        for _ in 0..20 + round {
            other.says().await;
        }
        other.kill();
        soon(other.child.wait()).await.expect("it is dead");
    }
    let before = completed(&store).await;
    assert!((63..300).contains(&before), "{before}");
    let stop = async || completed(&store).await == names.len();
    soon(work(&broker, &store, &id("here"), |_| (), stop)).await;
    // What was settled last may still be in the queue: its task has ended, so nothing runs again.
    assert_eq!(completed(&store).await, names.len());
}

#[tokio::test]
async fn processes_that_declare_the_same_at_once_agree() {
    let state = State::new();
    let opens = (0..4).map(|_| state.open());
    let databases = futures_util::future::join_all(opens).await;
    let declares = databases.into_iter().map(|database| async {
        let broker = crate::support::broker(database).await;
        broker.check(&Topology::new([echo()])).await
    });
    for findings in futures_util::future::join_all(declares).await {
        assert_eq!(findings, Ok(vec![]));
    }
}
