//! Schedules: recorded by generation, fired by slot, listed by name.

use bytes::Bytes;
use std::time::Duration;

use super::stand::{Stand, id};
use gleitzeit::core::clock::Timestamp;
use gleitzeit::core::id::Id;
use gleitzeit::store::{Arrangement, Begun, Firing, Schedule, ScheduleState, Turn};

fn slot(minute: i64) -> Timestamp {
    Timestamp::from_millis(1_767_225_600_000 + minute * 60_000)
}

fn active(name: &str, generation: u32) -> Arrangement {
    Arrangement {
        name: id(name),
        generation,
        state: ScheduleState::Active,
        definition: Bytes::from(format!("{{\"generation\":{generation},\"text\":\"ä\"}}")),
        armed: Some(slot(1)),
    }
}

fn removed(name: &str, generation: u32) -> Arrangement {
    let state = ScheduleState::Removed;
    Arrangement { state, definition: Bytes::new(), armed: None, ..active(name, generation) }
}

fn turn(name: &str, generation: u32, at: i64, by: &str) -> Turn {
    Turn { name: id(name), generation, slot: slot(at), by: id(by) }
}

fn firing(name: &str, generation: u32, at: i64) -> Firing {
    Firing {
        name: id(name),
        generation,
        slot: slot(at),
        next: Some(slot(at + 1)),
        last: Some((slot(at), id("run"))),
        fired: 1,
        missed: 2,
        overlapped: 0,
    }
}

async fn arrange(stand: &Stand, arrangement: &Arrangement) -> Schedule {
    stand.store.arrange(arrangement, stand.now()).await.expect("answers")
}

async fn begin(stand: &Stand, turn: &Turn) -> Begun {
    let now = stand.now();
    stand.store.begin(turn, now.after(Duration::from_secs(5)), now).await.expect("answers")
}

async fn fire(stand: &Stand, firing: &Firing) -> bool {
    stand.store.fire(firing, stand.now()).await.expect("answers")
}

async fn there(stand: &Stand, name: &str) -> Option<Schedule> {
    stand.store.schedule(&id(name)).await.expect("answers")
}

pub(crate) async fn a_schedule_is_recorded_once_a_generation(stand: Stand) {
    assert_eq!(there(&stand, "s").await, None);
    let first = arrange(&stand, &active("s", 1)).await;
    assert_eq!((first.generation, first.state, first.armed), (1, ScheduleState::Active, Some(slot(1))));
    assert_eq!((&first.definition, &first.last, first.fired), (&active("s", 1).definition, &None, 0));
    let other = Arrangement { definition: Bytes::from("{}"), armed: Some(slot(9)), ..active("s", 1) };
    assert_eq!(arrange(&stand, &other).await, first, "the same generation again changes nothing");
    let third = arrange(&stand, &active("s", 3)).await;
    assert_eq!((third.generation, third.created_at), (3, first.created_at));
    assert_eq!(arrange(&stand, &active("s", 2)).await, third, "an older one changes nothing");
    assert_eq!(there(&stand, "s").await, Some(third));
    let paused = Arrangement { state: ScheduleState::Paused, armed: None, ..active("s", 4) };
    let paused = arrange(&stand, &paused).await;
    assert_eq!((paused.state, paused.armed), (ScheduleState::Paused, None));
}

pub(crate) async fn a_removed_schedule_does_not_come_back_by_a_repeat(stand: Stand) {
    arrange(&stand, &active("s", 1)).await;
    assert!(fire(&stand, &firing("s", 1, 1)).await);
    let gone = arrange(&stand, &removed("s", 2)).await;
    assert_eq!((gone.state, gone.fired, gone.last.clone()), (ScheduleState::Removed, 0, None));
    assert_eq!(arrange(&stand, &active("s", 1)).await, gone);
    assert_eq!(arrange(&stand, &active("s", 2)).await, gone);
    assert!(!fire(&stand, &firing("s", 1, 2)).await);
    let again = arrange(&stand, &active("s", 3)).await;
    assert_eq!((again.state, again.fired, again.missed, again.last), (ScheduleState::Active, 0, 0, None));
}

pub(crate) async fn the_armed_slot_is_given_to_one_at_a_time(stand: Stand) {
    assert_eq!(begin(&stand, &turn("s", 1, 1, "a")).await, Begun::Other(None));
    let recorded = arrange(&stand, &active("s", 1)).await;
    assert_eq!(begin(&stand, &turn("s", 1, 1, "a")).await, Begun::Yours(recorded.clone()));
    assert_eq!(begin(&stand, &turn("s", 1, 1, "a")).await, Begun::Yours(recorded.clone()), "a repeat");
    assert_eq!(begin(&stand, &turn("s", 1, 1, "b")).await, Begun::Held);
    for other in [turn("s", 1, 2, "b"), turn("s", 1, 0, "b"), turn("s", 2, 1, "b")] {
        assert_eq!(begin(&stand, &other).await, Begun::Other(Some(recorded.clone())), "{other:?}");
    }
    // Its time is over: another one may.
    let later = stand.now().after(Duration::from_secs(3600));
    let begun = stand.store.begin(&turn("s", 1, 1, "b"), later, later).await.expect("answers");
    assert_eq!(begun, Begun::Yours(recorded));
    assert!(fire(&stand, &firing("s", 1, 1)).await);
    assert!(matches!(begin(&stand, &turn("s", 1, 2, "c")).await, Begun::Yours(_)), "nobody is at the next");
    let paused = Arrangement { state: ScheduleState::Paused, armed: None, ..active("s", 2) };
    let paused = arrange(&stand, &paused).await;
    assert_eq!(begin(&stand, &turn("s", 2, 1, "c")).await, Begun::Other(Some(paused)));
}

pub(crate) async fn a_slot_is_fired_once(stand: Stand) {
    assert!(!fire(&stand, &firing("s", 1, 1)).await, "nobody knows it");
    arrange(&stand, &active("s", 1)).await;
    for wrong in [firing("s", 1, 2), firing("s", 2, 1)] {
        assert!(!fire(&stand, &wrong).await, "{wrong:?}");
    }
    assert!(fire(&stand, &firing("s", 1, 1)).await);
    assert!(!fire(&stand, &firing("s", 1, 1)).await, "a repeat");
    let fired = there(&stand, "s").await.expect("it is there");
    assert_eq!((fired.armed, fired.last.clone()), (Some(slot(2)), Some((slot(1), id("run")))));
    assert_eq!((fired.fired, fired.missed, fired.overlapped), (1, 2, 0));
    let skipped = Firing { last: None, fired: 0, missed: 0, overlapped: 3, next: None, ..firing("s", 1, 2) };
    assert!(fire(&stand, &skipped).await);
    let fired = there(&stand, "s").await.expect("it is there");
    assert_eq!((fired.armed, fired.last), (None, Some((slot(1), id("run")))));
    assert_eq!((fired.fired, fired.missed, fired.overlapped), (1, 2, 3));
}

pub(crate) async fn a_change_keeps_the_counts(stand: Stand) {
    arrange(&stand, &active("s", 1)).await;
    assert!(fire(&stand, &firing("s", 1, 1)).await);
    let changed = arrange(&stand, &active("s", 2)).await;
    assert_eq!((changed.fired, changed.missed, changed.last), (1, 2, Some((slot(1), id("run")))));
}

pub(crate) async fn schedules_are_listed_by_name_in_pages(stand: Stand) {
    let mut names: Vec<String> = (0..450).map(|number| format!("s{number}")).collect();
    names.extend(["A", "Z", "_", "a.b", "root", "result"].map(str::to_owned));
    for name in &names {
        arrange(&stand, &active(name, 1)).await;
    }
    arrange(&stand, &removed("Z", 2)).await;
    names.retain(|name| name != "Z");
    names.sort();
    let mut found: Vec<String> = Vec::new();
    loop {
        let after = found.last().map(|name| id(name));
        let page = stand.store.schedules(after.as_ref(), 300).await.expect("lists");
        assert!(page.len() <= 300);
        if page.is_empty() {
            break;
        }
        found.extend(page.iter().map(|schedule| schedule.name.to_string()));
    }
    assert_eq!(found, names);
}

pub(crate) async fn of_twenty_that_begin_and_fire_one_does(stand: Stand) {
    arrange(&stand, &active("s", 1)).await;
    let ask = |number: usize| {
        let stand = stand.clone();
        async move {
            let by: Id = id(&format!("w{number}"));
            let turn = Turn { by, ..turn("s", 1, 1, "x") };
            let is_begun = matches!(begin(&stand, &turn).await, Begun::Yours(_));
            (is_begun, is_begun && fire(&stand, &firing("s", 1, 1)).await)
        }
    };
    let answers = futures_util::future::join_all((0..20).map(ask)).await;
    assert_eq!(answers.iter().filter(|(_, fired)| *fired).count(), 1, "{answers:?}");
    assert_eq!(there(&stand, "s").await.map(|schedule| schedule.fired), Some(1));
}
