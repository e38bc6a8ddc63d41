//! What is promised of Redis beyond the port's law: public names, slots, TTLs, errors, speed.

use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use super::backends::{is_full, keys, server};
use super::stand::{
    Stand, TTL, alone, document, ended, head, id, next, parse, plan, planned, released, within,
};
use crate::proxy::Proxy;
use gleitzeit::core::code::Code;
use gleitzeit::core::profile::{Profile, Subject, slot_of};
use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::redis::{Prefix, RedisStore, Settings};
use gleitzeit::store::{Accepted, Change, End, Finished, Note, Retried, StoreError, Why};
use gleitzeit::topology::delay::DELAY_MAX;
use gleitzeit::worker::BEAT_TTL;

async fn raw(stand: &Stand) -> (MultiplexedConnection, String) {
    let (url, prefix) = stand.place.redis().expect("the case is Redis's own");
    (server(url).await, prefix.to_owned())
}

async fn ask<T: redis::FromRedisValue>(server: &mut MultiplexedConnection, words: &[&str]) -> T {
    redis::cmd(words[0]).arg(&words[1..]).query_async(server).await.expect("the server answers")
}

pub(crate) async fn results_are_plain_and_told_by_key(stand: Stand) {
    let (mut server, prefix) = raw(&stand).await;
    let url = stand.place.redis().expect("Redis").0.to_owned();
    let client = redis::Client::open(url).expect("valid");
    let mut listener = client.get_async_pubsub().await.expect("the server is there");
    listener.subscribe(format!("{prefix}:done:t")).await.expect("subscribed");
    listener.subscribe(format!("{prefix}:done:w")).await.expect("subscribed");
    stand.complete(&alone("t")).await;
    stand.create(&plan("w", &[("a", &[])])).await;
    stand.complete(&within("w", "a")).await;
    let mut messages = listener.into_on_message();
    let expected = [
        format!("{prefix}:{{t}}:result"),
        format!("{prefix}:{{w}}:result:a"),
        format!("{prefix}:{{w}}:result"),
    ];
    for key in expected {
        let message = futures_util::StreamExt::next(&mut messages).await.expect("told");
        assert_eq!(message.get_payload::<String>().expect("text"), key);
        let text: String = ask(&mut server, &["GET", &key]).await;
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["status"], "completed");
    }
}

pub(crate) async fn what_moves_is_told_on_a_channel_of_its_own(stand: Stand) {
    let (url, prefix) = stand.place.redis().expect("the case is Redis's own");
    let client = redis::Client::open(url).expect("valid");
    let mut listener = client.get_async_pubsub().await.expect("the server is there");
    listener.subscribe(format!("{prefix}:live:t")).await.expect("subscribed");
    listener.subscribe(format!("{prefix}:live:w")).await.expect("subscribed");
    let first = stand.lease(&alone("t")).await;
    let again = End::Again { due: stand.now().after(TTL), entry: "{}".to_owned() };
    stand.finish(&first, &again).await;
    stand.create(&plan("w", &[("a", &[])])).await;
    let first = stand.lease(&within("w", "a")).await;
    stand.expand(&first, planned("w", &[("a.0", &[])]), 0).await;
    stand.end_as(&within("w", "a.0"), TaskState::Failed).await;
    let parent = stand.lease(&within("w", "a")).await;
    stand.finish(&parent, &End::Abandoned).await;
    stand.end_as(&within("w", "a"), TaskState::Failed).await;
    stand.retry("w", "r").await;
    let mut messages = listener.into_on_message();
    let mut told = Vec::new();
    while told.last().map(String::as_str) != Some("running w") || told.len() < 10 {
        let message = futures_util::StreamExt::next(&mut messages).await.expect("told");
        told.push(message.get_payload::<String>().expect("text"));
    }
    let expected = [
        "running t",
        "delayed t",
        "running w",
        "running w/a",
        "waiting w/a",
        "running w/a.0",
        "running w/a",
        "queued w/a",
        "running w/a",
        "running w",
    ];
    assert_eq!(told, expected);
}

/// CRC-16/XMODEM over the hash tag, as Redis Cluster reckons slots.
fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let mut crc = 0_u16;
    for byte in tag.filter(|tag| !tag.is_empty()).unwrap_or(key).bytes() {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc % 16384
}

pub(crate) async fn all_of_a_root_is_in_one_slot(stand: Stand) {
    assert_eq!(slot("foo"), 12182);
    let (mut server, prefix) = raw(&stand).await;
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"])])).await;
    stand.complete(&within("w", "a")).await;
    stand.lease(&within("w", "b")).await;
    stand.store.cancel(&id("w"), Why::Request { by: None }, stand.now()).await.expect("answers");
    let keys = keys(&mut server, &prefix).await;
    assert_eq!(keys.len(), 7, "{keys:?}");
    for key in keys {
        assert_eq!(slot(&key), slot("w"), "{key}");
    }
}

pub(crate) async fn what_ends_has_a_ttl(stand: Stand) {
    let (mut server, prefix) = raw(&stand).await;
    let week = Duration::from_secs(7 * 24 * 3600);
    stand.create(&plan("w", &[("a", &[]), ("b", &["a"])])).await;
    stand.complete(&within("w", "a")).await;
    let running = keys(&mut server, &prefix).await;
    for key in &running {
        assert_eq!(ask::<i64>(&mut server, &["PTTL", key]).await, -1, "{key}");
    }
    stand.complete(&within("w", "b")).await;
    stand.complete(&alone("t")).await;
    stand.lease(&alone("cancelled")).await;
    let due = Some(stand.now().after(Duration::from_secs(60)));
    let delayed = Accepted::Task { head: head(&alone("kept-back")), digest: None, due, sent: None };
    let flow = Accepted::Workflow { id: id("kept-back-flow"), name: "W".to_owned(), digest: None, due: None };
    stand.store.accept(&[delayed, flow], stand.now()).await.expect("answers");
    for root in ["cancelled", "marked", "marked-too", "kept-back", "kept-back-flow"] {
        stand.store.cancel(&id(root), Why::Request { by: None }, stand.now()).await.expect("answers");
    }
    stand.claim(&alone("marked-too"), 1, "worker").await;
    let ended = keys(&mut server, &prefix).await;
    assert_eq!(ended.len(), 7 + 2 + 2 + 1 + 2 + 2 + 2, "{ended:?}");
    for key in ended {
        let millis: i64 = ask(&mut server, &["PTTL", &key]).await;
        let left = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
        let is_kept_back = key.contains("kept-back") || key.contains("marked}");
        let of_default = is_kept_back || key.contains("cancelled") || key.contains("marked");
        let expected = match (key.contains(":result"), of_default) {
            (true, false) => TTL,
            (true, true) => Duration::from_secs(24 * 3600),
            // Its message may be as far away as the broker can keep it.
            (false, _) if is_kept_back => week + DELAY_MAX,
            (false, _) => week,
        };
        assert!(left <= expected && left > expected - Duration::from_secs(60), "{key}: {left:?}");
    }
}

pub(crate) async fn a_document_too_large_omits_results(stand: Stand) {
    let (url, prefix) = stand.place.redis().expect("Redis");
    let prefix = Prefix::parse(prefix).expect("valid");
    let large = "x".repeat(3000);
    for (bytes_max, omitted, least) in [(100_000, false, false), (5_000, true, false), (100, true, true)] {
        let settings =
            Settings { prefix: prefix.clone(), document_bytes_max: bytes_max, ..Settings::new(url) };
        let stand = stand.over(RedisStore::connect(settings).await.expect("there"));
        let name = format!("w{bytes_max}");
        stand.create(&plan(&name, &[("a", &[]), ("b", &[]), ("c", &["b"])])).await;
        let (a, b) = (within(&name, "a"), within(&name, "b"));
        let lease = stand.lease(&a).await;
        stand.finish(&lease, &ended(&a, TaskState::Completed, json!(large))).await;
        let lease = stand.lease(&b).await;
        stand.finish(&lease, &ended(&b, TaskState::Failed, json!(large))).await;
        let outcome = parse(stand.outcome(&name).await);
        assert_eq!(outcome["status"], "failed");
        let tasks = &outcome["tasks"];
        let states: Vec<&Value> = (0..3).map(|at| &tasks[at]["status"]).collect();
        assert_eq!(states, ["completed", "failed", "failed"]);
        assert_eq!(tasks[0]["name"], "the \"a\"");
        assert_eq!(tasks[0]["result_omitted"], if omitted { json!(true) } else { Value::Null });
        assert_eq!(tasks[0]["result"], if omitted { Value::Null } else { json!(large) });
        assert_eq!(tasks[1]["error"].is_null(), least);
        let own = document(&a, TaskState::Completed, json!(large));
        assert_eq!(stand.result(&a).await, Some(own));
    }
}

/// `SCRIPT FLUSH` is harmless to other cases: their scripts are sent again as well.
pub(crate) async fn a_script_that_the_server_forgot_is_sent_again(stand: Stand) {
    let (mut server, _) = raw(&stand).await;
    let lease = stand.lease(&alone("t")).await;
    let _: String = ask(&mut server, &["SCRIPT", "FLUSH"]).await;
    assert_ne!(stand.end(&lease, TaskState::Completed).await, Finished::Lost);
    let _: String = ask(&mut server, &["SCRIPT", "FLUSH"]).await;
    let accepted: Vec<_> =
        (0..3).map(|number| super::stand::accepted(&alone(&format!("a{number}")))).collect();
    stand.store.accept(&accepted, stand.now()).await.expect("answers");
    assert_eq!(stand.state(&alone("a2")).await, Some(TaskState::Accepted));
}

pub(crate) async fn a_watcher_hears_of_a_lost_connection(stand: Stand) {
    let (url, prefix) = stand.place.redis().expect("Redis");
    let proxy = Proxy::start(url).await;
    let prefix = Prefix::parse(prefix).expect("valid");
    let store = RedisStore::connect(Settings { prefix, ..Settings::new(proxy.url.clone()) }).await;
    let cut = stand.over(store.expect("there"));
    let mut changes = cut.watch("t").await;
    let mut elsewhere = cut.watch("u").await;
    for round in 0..3 {
        proxy.cut();
        // What ends now is not told, but that something may have been missed is.
        stand.complete(&alone(&format!("t{round}"))).await;
        assert_eq!(next(&mut changes).await, Change::Resync);
        assert_eq!(next(&mut elsewhere).await, Change::Resync);
    }
    // A follower hears it of both channels.
    let mut follower = cut.follow("f").await;
    proxy.cut();
    stand.lease(&alone("f")).await;
    let mut heard = 0;
    while heard < 2 {
        heard += usize::from(next(&mut follower).await == Change::Resync);
    }
    stand.complete(&alone("t")).await;
    while next(&mut changes).await != Change::Root {}
}

/// Calls fail or wait, and go on by themselves as soon as the server is back.
pub(crate) async fn a_broken_connection_heals(stand: Stand) {
    let (url, prefix) = stand.place.redis().expect("Redis");
    let proxy = Proxy::start(url).await;
    let prefix = Prefix::parse(prefix).expect("valid");
    let store = RedisStore::connect(Settings { prefix, ..Settings::new(proxy.url.clone()) }).await;
    let cut = stand.over(store.expect("there"));
    proxy.refuse(true);
    proxy.cut();
    let started = Instant::now();
    let error = cut.store.claim(&super::stand::claim(&alone("t"), 1, "s"), cut.now()).await;
    let error = error.expect_err("the connection is cut");
    assert!(matches!(error, StoreError::Unanswered { step: "claim", .. }), "{error}");
    assert!(error.is_transient());
    let error = cut.store.ping().await.expect_err("nobody answers");
    assert!(error.is_transient(), "{error}");
    // Without a bound they would wait for ever.
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    proxy.refuse(false);
    let started = Instant::now();
    while cut.store.ping().await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(100), "it does not come back");
    }
    cut.complete(&alone("t")).await;
    assert_eq!(stand.state(&alone("t")).await, Some(TaskState::Completed));
}

/// A connection that is cut without a word: the session notices while it still lives.
pub(crate) async fn a_half_open_connection_costs_no_session(stand: Stand) {
    let (url, prefix) = stand.place.redis().expect("Redis");
    let proxy = Proxy::start(url).await;
    let prefix = Prefix::parse(prefix).expect("valid");
    let store = RedisStore::connect(Settings { prefix, ..Settings::new(proxy.url.clone()) }).await;
    let cut = stand.over(store.expect("there"));
    let mut changes = cut.watch("t").await;
    cut.store.beat(&id("s"), BEAT_TTL, cut.now()).await.expect("it beats");
    proxy.freeze();
    let started = Instant::now();
    let error = cut.store.beat(&id("s"), BEAT_TTL, cut.now()).await.expect_err("nobody answers");
    assert!(matches!(error, StoreError::Unanswered { step: "beat", .. }), "{error}");
    cut.store.beat(&id("s"), BEAT_TTL, cut.now()).await.expect("it beats on another connection");
    // On a machine that is busy with other tests everything takes longer.
    assert!(!is_full() || started.elapsed() < BEAT_TTL, "{:?}", started.elapsed());
    // Who watches is told as well that something may have been missed.
    assert_eq!(next(&mut changes).await, Change::Resync);
    stand.complete(&alone("t")).await;
    while next(&mut changes).await != Change::Root {}
}

pub(crate) async fn a_connection_refused_says_why(stand: Stand) {
    assert!(stand.store.version().await.expect("answers").contains(' '));
    let started = Instant::now();
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let refused = |url: String| async move {
        RedisStore::connect(Settings::new(url)).await.expect_err("nobody lets us in")
    };
    let error = refused(format!("redis://:hunter2@{free}")).await;
    assert_eq!(error.code(), Code::PersistenceConnectionFailed, "{error}");
    assert!(error.is_transient());
    let url = stand.place.redis().expect("Redis").0;
    let host = url.rsplit_once('@').map_or_else(|| url.trim_start_matches("redis://"), |(_, host)| host);
    let login = refused(format!("redis://nobody:hunter2@{host}")).await;
    assert!(matches!(login, StoreError::LoginRefused { .. }), "{login}");
    for error in [error, login] {
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(60));
    assert!(!format!("{:?} {:?}", stand.store, Settings::new("redis://:hunter2@h")).contains("hunter2"));
}

pub(crate) async fn an_id_is_a_task_or_a_workflow(stand: Stand) {
    stand.lease(&alone("t")).await;
    let error = stand.store.create(&plan("t", &[("a", &[])]), stand.now()).await;
    assert!(
        matches!(&error, Err(StoreError::Corrupt { reason, .. }) if reason.contains("on its own")),
        "{error:?}"
    );
    stand.create(&plan("w", &[("a", &[])])).await;
    let error = stand.store.claim(&super::stand::claim(&alone("w"), 1, "s"), stand.now()).await;
    assert!(
        matches!(&error, Err(StoreError::Corrupt { reason, .. }) if reason.contains("a workflow")),
        "{error:?}"
    );
    assert_eq!(stand.store.workflow(&id("t")).await, Ok(None));
    assert_eq!(stand.store.task(&alone("w")).await, Ok(None));
}

pub(crate) async fn what_is_no_profile_is_left_out(stand: Stand) {
    let (mut server, prefix) = raw(&stand).await;
    let slot = slot_of(stand.now());
    let subject = Subject { protocol: "python/v1".to_owned(), method: "execute".to_owned() };
    let note = Note { session: id("a"), slot, profiles: vec![(subject, Profile::default())] };
    stand.store.note_profiles(&note, stand.now()).await.expect("notes");
    let key = format!("{prefix}:{{profiles/}}:{}", slot.as_millis());
    for (field, text) in [("a", "{}"), ("a python/v1 validate", "torn"), ("a b c", "{\"n\": -1}")] {
        let _: i64 = ask(&mut server, &["HSET", &key, field, text]).await;
    }
    let noted = stand.store.profiles(slot, stand.now()).await.expect("the others are told");
    assert_eq!(noted.iter().map(|one| one.subject.method.as_str()).collect::<Vec<_>>(), ["execute"]);
}

/// Milliseconds of CPU that the server has used.
async fn cpu(server: &mut MultiplexedConnection) -> f64 {
    let info: String = ask(server, &["INFO", "cpu"]).await;
    let used = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)).expect("INFO has it");
        line.trim().parse::<f64>().expect("a number")
    };
    (used("used_cpu_user:") + used("used_cpu_sys:")) * 1000.0
}

pub(crate) async fn ten_thousand_dependents_in_one_step(stand: Stand) {
    let children: Vec<String> = (0..10_000).map(|number| format!("c{number}")).collect();
    let children: Vec<&str> = children.iter().map(String::as_str).collect();
    let mut tasks: Vec<(&str, &[&str])> = vec![("root", &[])];
    tasks.extend(children.iter().map(|name| (*name, &["root"] as &[&str])));
    tasks.push(("join", &children));
    let (mut server, _) = raw(&stand).await;
    let mut measured = Vec::new();
    for (name, state) in [("good", TaskState::Completed), ("bad", TaskState::Failed)] {
        let plan = plan(name, &tasks);
        let started = cpu(&mut server).await;
        assert_eq!(stand.create(&plan).await.state, WorkflowState::Running);
        measured.push(format!("create {:.0} ms", cpu(&mut server).await - started));
        let lease = stand.lease(&within(name, "root")).await;
        let started = cpu(&mut server).await;
        let finished = stand.end(&lease, state).await;
        measured.push(format!("finish {:.0} ms", cpu(&mut server).await - started));
        match state {
            TaskState::Completed => assert_eq!(released(finished).len(), 10_000),
            _ => {
                let Finished::Done { ended, .. } = finished else { panic!("{finished:?}") };
                assert_eq!(ended.len(), 10_001);
            }
        }
    }
    let started = cpu(&mut server).await;
    stand.store.cancel(&id("good"), Why::Request { by: None }, stand.now()).await.expect("answers");
    measured.push(format!("cancel {:.0} ms", cpu(&mut server).await - started));
    let started = cpu(&mut server).await;
    let Retried::Running { released, .. } = stand.retry("good", "r").await else { panic!("it has ended") };
    assert_eq!(released.len(), 10_000);
    measured.push(format!("retry {:.0} ms", cpu(&mut server).await - started));
    let started = cpu(&mut server).await;
    let flow = stand.store.workflow(&id("good")).await.expect("answers").expect("known");
    assert_eq!(flow.tasks.len(), 10_002);
    measured.push(format!("read {:.0} ms", cpu(&mut server).await - started));
    eprintln!("10,000 dependents, of the server's CPU: {}", measured.join(", "));
}
