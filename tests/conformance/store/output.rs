//! What running tasks give, for whoever follows them.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::time::Duration;

use super::stand::{Stand, TTL, alone, claim, id, lease, plan, within};
use gleitzeit::core::clock::Timestamp;
use gleitzeit::core::id::TaskKey;
use gleitzeit::core::output::{OUTPUT_BYTES_MAX, PIECE_BYTES_MAX, Piece, Stream};
use gleitzeit::core::state::TaskState;
use gleitzeit::store::{Appended, End, Given, Lease, OUTPUT_TTL, OutputEntry, Position, ROOT_BYTES_MAX, Why};

fn piece(offset: u64, text: &str) -> Piece {
    Piece { stream: Stream::Text, offset, text: text.to_owned() }
}

async fn append(stand: &Stand, lease: &Lease, pieces: &[Piece]) -> Appended {
    stand.store.append(lease, pieces, stand.now()).await.expect("answers")
}

async fn read(stand: &Stand, root: &str, after: Position, limit: usize) -> Vec<OutputEntry> {
    stand.store.output(&id(root), after, limit).await.expect("answers")
}

/// All entries of a root in words: `task/attempt text@offset`.
async fn told(stand: &Stand, root: &str) -> Vec<String> {
    read(stand, root, Position::START, 10_000).await.iter().map(in_words).collect()
}

fn in_words(entry: &OutputEntry) -> String {
    let what = match &entry.what {
        Given::Piece(piece) => format!("{}:{}@{}", piece.stream.name(), piece.text, piece.offset),
        Given::Truncated => "truncated".to_owned(),
        Given::Ended(state) => format!("ended:{state}"),
    };
    format!("{}/{} {what}", entry.key, entry.attempt)
}

async fn news(news: &mut BoxStream<'static, ()>) {
    tokio::time::timeout(Duration::from_secs(60), news.next()).await.expect("news in time").expect("no end")
}

pub(crate) async fn pieces_are_read_in_the_order_in_which_they_were_written(stand: Stand) {
    assert!(told(&stand, "w").await.is_empty(), "nobody has seen it");
    stand.create(&plan("w", &[("a", &[]), ("b", &[])])).await;
    let (a, b) = (stand.lease(&within("w", "a")).await, stand.lease(&within("w", "b")).await);
    let printed = Piece { stream: Stream::Stderr, offset: 5, text: "\u{0} ä\r\n".to_owned() };
    assert_eq!(append(&stand, &a, &[piece(0, "eins "), printed]).await, Appended::Written);
    assert_eq!(append(&stand, &b, &[piece(0, "two")]).await, Appended::Written);
    assert_eq!(append(&stand, &a, &[piece(100, "drei")]).await, Appended::Written);
    let expected =
        ["w/a/1 text:eins @0", "w/a/1 stderr:\u{0} ä\r\n@5", "w/b/1 text:two@0", "w/a/1 text:drei@100"];
    assert_eq!(told(&stand, "w").await, expected);
    assert_eq!(told(&stand.other().await, "w").await, expected, "the same for everybody");
    let alone = stand.lease(&alone("t")).await;
    append(&stand, &alone, &[piece(0, "x")]).await;
    assert_eq!(told(&stand, "t").await, ["t/1 text:x@0"]);
    assert_eq!(told(&stand, "w").await.len(), 4);
}

pub(crate) async fn a_repeat_writes_nothing_again(stand: Stand) {
    let lease = stand.lease(&alone("t")).await;
    for _ in 0..2 {
        assert_eq!(append(&stand, &lease, &[piece(0, "one"), piece(3, "two")]).await, Appended::Written);
    }
    // What was added to a batch whose answer was lost.
    assert_eq!(append(&stand, &lease, &[piece(3, "two"), piece(6, "three")]).await, Appended::Written);
    assert_eq!(told(&stand, "t").await, ["t/1 text:one@0", "t/1 text:two@3", "t/1 text:three@6"]);
}

pub(crate) async fn who_has_lost_the_lease_writes_nothing(stand: Stand) {
    let key = alone("t");
    let first = stand.lease(&key).await;
    append(&stand, &first, &[piece(0, "first")]).await;
    let second = lease(stand.take_over(&key, "s2", first.fence).await);
    assert_eq!(append(&stand, &first, &[piece(5, "late")]).await, Appended::Lost);
    append(&stand, &second, &[piece(0, "second")]).await;
    stand.end(&second, TaskState::Completed).await;
    assert_eq!(append(&stand, &second, &[piece(6, "later")]).await, Appended::Lost);
    let cancelled = stand.lease(&alone("u")).await;
    stand.cancel("u", Why::Request { by: None }).await;
    assert_eq!(append(&stand, &cancelled, &[piece(0, "x")]).await, Appended::Lost);
    let texts = told(&stand, "t").await;
    assert_eq!(texts, ["t/1 text:first@0", "t/2 text:second@0", "t/2 ended:completed"]);
    assert!(told(&stand, "u").await.is_empty());
}

pub(crate) async fn an_attempt_gives_so_much_and_no_more(stand: Stand) {
    let lease = stand.lease(&alone("t")).await;
    let text = "x".repeat(PIECE_BYTES_MAX);
    let mut offset = 0;
    while offset < OUTPUT_BYTES_MAX {
        assert_eq!(append(&stand, &lease, &[piece(offset, &text)]).await, Appended::Written);
        offset += PIECE_BYTES_MAX as u64;
    }
    for _ in 0..3 {
        assert_eq!(append(&stand, &lease, &[piece(offset, "more")]).await, Appended::Full);
        offset += 4;
    }
    let all = read(&stand, "t", Position::START, 10_000).await;
    assert_eq!(all.len() as u64, OUTPUT_BYTES_MAX / PIECE_BYTES_MAX as u64 + 1);
    assert_eq!(all.last().map(|entry| &entry.what), Some(&Given::Truncated));
}

pub(crate) async fn a_root_keeps_what_was_given_last(stand: Stand) {
    const TASKS: usize = 40;
    let names: Vec<String> = (0..TASKS).map(|n| format!("t{n}")).collect();
    let tasks: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), &[][..])).collect();
    stand.create(&plan("w", &tasks)).await;
    let text = "x".repeat(PIECE_BYTES_MAX);
    let pieces: Vec<Piece> = (0..16).map(|n| piece(n * PIECE_BYTES_MAX as u64, &text)).collect();
    for name in &names {
        let lease = stand.lease(&within("w", name)).await;
        assert_eq!(append(&stand, &lease, &pieces).await, Appended::Written);
        stand.end(&lease, TaskState::Completed).await;
    }
    let all = read(&stand, "w", Position::START, 100_000).await;
    let bytes: usize = all
        .iter()
        .map(|entry| if let Given::Piece(piece) = &entry.what { piece.text.len() } else { 0 })
        .sum();
    let max = usize::try_from(ROOT_BYTES_MAX).expect("small");
    // The end of a task has no text, and its entry may come after the last look at the sum.
    assert!(bytes <= max && bytes > max / 10 * 9, "{bytes}");
    let last = all.last().expect("some");
    assert_eq!(in_words(last), format!("w/t{}/1 ended:completed", TASKS - 1));
    assert!(!all.iter().any(|entry| entry.key == within("w", "t0")), "the oldest are gone");
}

pub(crate) async fn who_goes_on_from_a_position_misses_nothing(stand: Stand) {
    let lease = stand.lease(&alone("t")).await;
    let (mut position, mut seen, mut offset) = (Position::START, String::new(), 0);
    for round in 0..50 {
        // Several at once, so that several may have the same time.
        let pieces: Vec<Piece> = (0..round % 4).map(|n| piece(offset + n, "x")).collect();
        if !pieces.is_empty() {
            append(&stand, &lease, &pieces).await;
        }
        offset += pieces.len() as u64;
        let reader = if round % 2 == 0 { stand.clone() } else { stand.other().await };
        for entry in read(&reader, "t", position, 2).await {
            let Given::Piece(piece) = &entry.what else { panic!("{entry:?}") };
            assert_eq!(piece.offset, seen.len() as u64);
            seen.push_str(&piece.text);
            position = entry.position.to_string().parse().expect("a position can be written down");
        }
    }
    while let Some(entry) = read(&stand, "t", position, 1).await.pop() {
        seen.push('x');
        position = entry.position;
    }
    assert_eq!(seen.len() as u64, offset);
    assert!("x".parse::<Position>().is_err());
}

pub(crate) async fn what_was_given_is_kept_for_its_time(stand: Stand) {
    let lease = stand.lease(&alone("t")).await;
    append(&stand, &lease, &[piece(0, "x")]).await;
    stand.end(&lease, TaskState::Failed).await;
    assert_eq!(told(&stand, "t").await, ["t/1 text:x@0", "t/1 ended:failed"]);
    if let Some((url, prefix)) = stand.place.redis() {
        let mut server = super::backends::server(url).await;
        let ttl: i64 = redis::cmd("PTTL")
            .arg(format!("{prefix}:{{t}}:output"))
            .query_async(&mut server)
            .await
            .expect("PTTL");
        let longest = i64::try_from(OUTPUT_TTL.as_millis()).expect("small");
        assert!(ttl > 0 && ttl <= longest, "{ttl}");
    }
    if !stand.place.is_embedded() {
        return;
    }
    // Written long ago by this store's clock, which is the machine's.
    let old = stand.lease(&alone("old")).await;
    let age = i64::try_from((OUTPUT_TTL + Duration::from_secs(60)).as_millis()).expect("small");
    let then = Timestamp::from_millis(stand.now().as_millis() - age);
    stand.store.append(&old, &[piece(0, "x")], then).await.expect("answers");
    assert!(told(&stand, "old").await.is_empty());
    stand.store.beat(&id("s"), TTL, stand.now()).await.expect("beats");
    assert_eq!(told(&stand, "t").await.len(), 2);
}

pub(crate) async fn another_attempt_begins_anew_and_the_end_is_told(stand: Stand) {
    let key = alone("t");
    let first = stand.lease(&key).await;
    append(&stand, &first, &[piece(0, "first")]).await;
    stand.finish(&first, &End::Again { due: stand.now(), entry: "{}".to_owned() }).await;
    let second = lease(stand.ask(&claim(&key, 2, "s")).await);
    append(&stand, &second, &[piece(0, "second")]).await;
    stand.finish(&second, &End::Abandoned).await;
    let third = lease(stand.ask(&claim(&key, 2, "s")).await);
    append(&stand, &third, &[piece(0, "third")]).await;
    for _ in 0..2 {
        stand.end(&third, TaskState::Completed).await;
    }
    let expected = [
        "t/1 text:first@0",
        "t/1 ended:queued",
        "t/2 text:second@0",
        "t/2 ended:queued",
        "t/2 text:third@0",
        "t/2 ended:completed",
    ];
    assert_eq!(told(&stand, "t").await, expected);
    let fences: Vec<_> =
        read(&stand, "t", Position::START, 10).await.iter().map(|entry| entry.fence).collect();
    assert_eq!(fences, [first.fence, first.fence, second.fence, second.fence, third.fence, third.fence]);

    stand.create(&plan("w", &[("a", &[]), ("b", &["a"])])).await;
    let a = stand.lease(&within("w", "a")).await;
    append(&stand, &a, &[piece(0, "x")]).await;
    stand.end(&a, TaskState::Failed).await;
    assert_eq!(told(&stand, "w").await, ["w/a/1 text:x@0", "w/a/1 ended:failed"]);
}

pub(crate) async fn a_task_that_has_given_nothing_has_no_end_to_tell(stand: Stand) {
    stand.complete(&alone("t")).await;
    stand.create(&plan("w", &[("a", &[])])).await;
    stand.complete(&within("w", "a")).await;
    for root in ["t", "w"] {
        assert!(told(&stand, root).await.is_empty());
    }
    // One whose attempt before has given something.
    let key: TaskKey = alone("u");
    let first = stand.lease(&key).await;
    append(&stand, &first, &[piece(0, "x")]).await;
    let second = lease(stand.take_over(&key, "s2", first.fence).await);
    stand.end(&second, TaskState::Completed).await;
    assert_eq!(told(&stand, "u").await, ["u/1 text:x@0"]);
}

pub(crate) async fn who_follows_is_told_also_from_elsewhere(stand: Stand) {
    let other = stand.other().await;
    let lease = stand.lease(&alone("t")).await;
    let mut here = stand.store.watch_output(&id("t")).await.expect("a stream");
    let mut there = other.store.watch_output(&id("t")).await.expect("a stream");
    for round in 0..5_u64 {
        append(&stand, &lease, &[piece(round, "x")]).await;
        let seen = usize::try_from(round).expect("small") + 1;
        for (stand, told) in [(&stand, &mut here), (&other, &mut there)] {
            while read(stand, "t", Position::START, 100).await.len() < seen {
                news(told).await;
            }
        }
    }
    append(&stand, &lease, &[piece(5, "x")]).await;
    news(&mut here).await;
    news(&mut there).await;
}
