//! Profiles: noted again and again, by many, kept for a day.

use std::time::Duration;

use super::stand::{Stand, id};
use gleitzeit::core::clock::Timestamp;
use gleitzeit::core::code::Code;
use gleitzeit::core::profile::{KEPT, Profile, SLOT, Sample, Subject, slot_of};
use gleitzeit::store::{Note, PROFILES_MAX};

fn subject(method: &str) -> Subject {
    Subject { protocol: "python/v1".to_owned(), method: method.to_owned() }
}

/// Of so many attempts, one of which failed.
fn profile(count: u64) -> Profile {
    let mut profile = Profile::default();
    for number in 0..count {
        profile.note(&Sample {
            failure: (number == 0).then_some(Code::TaskTimeout),
            wait: Some(Duration::from_millis(number)),
            duration: Some(Duration::from_secs(number)),
            memory_bytes: Some(number << 20),
        });
    }
    profile
}

async fn note(stand: &Stand, session: &str, slot: Timestamp, of: &[(&str, u64)]) {
    let profiles = of.iter().map(|(method, count)| (subject(method), profile(*count))).collect();
    let note = Note { session: id(session), slot, profiles };
    stand.store.note_profiles(&note, stand.now()).await.expect("notes");
}

/// Who has noted how many of what, and how many slots before the newest one, as text, sorted.
async fn noted(stand: &Stand, since: Timestamp) -> Vec<String> {
    let noted = stand.store.profiles(since, stand.now()).await.expect("answers");
    let newest = noted.iter().map(|one| one.slot).max().unwrap_or_default();
    let mut told: Vec<String> = Vec::new();
    for one in noted {
        assert_eq!(one.profile, profile(one.profile.count), "all of it comes back");
        let ago = newest.since(one.slot).as_secs() / SLOT.as_secs();
        told.push(format!("{} {} {} {ago}", one.session, one.subject.method, one.profile.count));
    }
    told.sort();
    told
}

pub(crate) async fn what_a_session_notes_again_takes_the_place_of_what_it_had_noted(stand: Stand) {
    let slot = slot_of(stand.now());
    note(&stand, "a", slot, &[("execute", 1), ("validate", 2), ("tool.a b", 3)]).await;
    for _ in 0..2 {
        note(&stand, "a", slot, &[("execute", 5)]).await;
    }
    note(&stand, "b", slot, &[("execute", 7)]).await;
    note(&stand, "b", slot, &[]).await;
    let all = ["a execute 5 0", "a tool.a b 3 0", "a validate 2 0", "b execute 7 0"];
    assert_eq!(noted(&stand, slot).await, all);
}

pub(crate) async fn a_slot_holds_no_more_profiles_than_it_may(stand: Stand) {
    let slot = slot_of(stand.now());
    let methods: Vec<String> = (0..PROFILES_MAX + 5).map(|number| format!("m{number}")).collect();
    let of: Vec<(&str, u64)> = methods.iter().map(|method| (method.as_str(), 1)).collect();
    note(&stand, "a", slot, &of).await;
    note(&stand, "b", slot, &[("late", 1)]).await;
    note(&stand, "a", slot, &[("m0", 2)]).await;
    let kept = noted(&stand, slot).await;
    assert_eq!(kept.len(), PROFILES_MAX);
    assert!(kept.contains(&"a m0 2 0".to_owned()), "what is there is still counted");
    assert!(!kept.iter().any(|one| one.contains("late")));
}

pub(crate) async fn slots_are_told_from_a_time_on_and_no_longer_than_they_are_kept(stand: Stand) {
    let now = slot_of(stand.now());
    let ago = |slots: u64| {
        let millis = i64::try_from(SLOT.as_millis()).expect("minutes") * i64::try_from(slots).expect("few");
        Timestamp::from_millis(now.as_millis() - millis)
    };
    let day = KEPT.as_secs() / SLOT.as_secs();
    for slots in [0, 1, 3, day, day + 1, day + 9] {
        note(&stand, "a", ago(slots), &[("execute", 1)]).await;
    }
    assert_eq!(noted(&stand, now).await, ["a execute 1 0"]);
    let within = Timestamp::from_millis(ago(1).as_millis() + 1_000);
    assert_eq!(
        noted(&stand, within).await,
        ["a execute 1 0", "a execute 1 1"],
        "the slot that it is in counts"
    );
    let all: Vec<String> = [0, 1, day, 3].iter().map(|slots| format!("a execute 1 {slots}")).collect();
    assert_eq!(noted(&stand, Timestamp::from_millis(0)).await, all);
    assert_eq!(noted(&stand, stand.now().after(SLOT)).await, [] as [String; 0]);
}
