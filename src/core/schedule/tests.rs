use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn rules(cron: &str, zone: &str, catch_up: CatchUp) -> Rules {
    let timetable = Timetable::new(cron, zone).expect("valid");
    Rules { timetable, catch_up, grace: GRACE, overlap: Overlap::Allow }
}

/// The next slots after `from`, as they are in the zone.
fn check(cron: &str, zone: &str, from: &str, expected: &[&str]) {
    let timetable = Timetable::new(cron, zone).expect("valid");
    let after = at(from).after(Duration::from_millis(1));
    let slots: Vec<String> =
        timetable.from(after).take(expected.len()).map(|slot| timetable.local(slot)).collect();
    assert_eq!(slots, expected, "{cron} in {zone}");
}

#[test]
fn slots_are_where_the_zone_says() {
    check("30 9 * * MON-FRI", "UTC", "2026-01-02T09:30:00Z", &["2026-01-05T09:30:00+00:00"]);
    check("0 9 * * *", "Asia/Kolkata", "2026-01-02T00:00:00Z", &["2026-01-02T09:00:00+05:30"]);
    check("@hourly", "America/New_York", "2026-07-01T00:00:01Z", &["2026-06-30T21:00:00-04:00"]);
    check("*/20 * * * * *", "UTC", "2026-01-01T00:00:00.5Z", &["2026-01-01T00:00:20+00:00"]);
    check(
        "0 0 29 2 *",
        "UTC",
        "2026-01-01T00:00:00Z",
        &["2028-02-29T00:00:00+00:00", "2032-02-29T00:00:00+00:00"],
    );
    check("0 12 L * *", "UTC", "2028-02-01T00:00:00Z", &["2028-02-29T12:00:00+00:00"]);
}

#[test]
fn a_fixed_time_that_the_zone_skips_fires_after_the_gap() {
    let from = "2026-03-28T12:00:00Z";
    let days = ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"];
    check("30 2 * * *", "Europe/Berlin", from, &days);
}

#[test]
fn an_interval_has_no_slots_in_a_gap() {
    let slots = ["2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00"];
    check("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", &slots);
}

#[test]
fn a_fixed_time_that_the_zone_repeats_fires_once() {
    let from = "2026-10-24T12:00:00Z";
    check("30 2 * * *", "Europe/Berlin", from, &["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]);
}

#[test]
fn an_interval_fires_in_both_passes_of_a_repeated_hour() {
    let slots = [
        "2026-10-25T02:00:00+02:00",
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:00:00+01:00",
        "2026-10-25T02:30:00+01:00",
        "2026-10-25T03:00:00+01:00",
    ];
    check("*/30 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", &slots);
}

#[test]
fn what_is_no_expression_or_no_zone_is_refused() {
    for bad in
        ["", "* * * *", "61 * * * *", "* * * * * * 2026", "0 0 30 2 *", "@reboot", "a b c d e", "* * * * MOO"]
    {
        assert!(check_cron(bad).is_some(), "{bad}");
    }
    assert!(check_cron(&"*".repeat(CRON_BYTES_MAX + 1)).is_some());
    for good in ["* * * * *", "0 0 * * 7", "*/5 1-3,7 * JAN-MAR MON#2", "@daily", "@YEARLY", "0 0 0 1 1 *"] {
        assert_eq!(check_cron(good), None, "{good}");
    }
    for bad in ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Europe/Berlin\0"] {
        assert!(check_zone(bad).is_some(), "{bad}");
    }
    for good in ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+3"] {
        assert_eq!(check_zone(good), None, "{good}");
    }
}

fn minutes(from: &str, count: i64) -> Vec<Timestamp> {
    (0..count).map(|n| Timestamp::from_millis(at(from).as_millis() + n * 60_000)).collect()
}

#[test]
fn latest_makes_up_for_the_newest_missed_slot_only() {
    let due = rules("* * * * *", "UTC", CatchUp::Latest)
        .due(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:10:30Z"));
    let next = Some(at("2026-01-01T00:11:00Z"));
    assert_eq!(due, Due { runs: minutes("2026-01-01T00:10:00Z", 1), missed: 10, next });
}

#[test]
fn all_makes_up_for_each_missed_slot_in_order() {
    let due =
        rules("* * * * *", "UTC", CatchUp::All).due(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:10:00Z"));
    let next = Some(at("2026-01-01T00:11:00Z"));
    assert_eq!(due, Due { runs: minutes("2026-01-01T00:00:00Z", 11), missed: 0, next });
}

#[test]
fn all_is_bounded_by_the_newest_thousand() {
    let due =
        rules("* * * * *", "UTC", CatchUp::All).due(at("2026-01-01T00:00:00Z"), at("2026-01-02T00:00:00Z"));
    assert_eq!((due.runs.len(), due.missed), (RUNS_MAX, 1441 - 1000));
    assert_eq!(due.runs.last(), Some(&at("2026-01-02T00:00:00Z")));
}

#[test]
fn a_slot_that_fires_as_soon_as_any_can_is_never_missed_for_its_grace() {
    for grace in [0, 1, 300, 999] {
        let none = rules("* * * * *", "UTC", CatchUp::None);
        let none = Rules { grace: Duration::from_millis(grace), ..none };
        let due = none.due(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:00.9Z"));
        assert_eq!((due.runs.len(), due.missed), (1, 0), "{grace} ms");
        let late = none.due(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:01.1Z"));
        assert_eq!((late.runs.len(), late.missed), (0, 1), "{grace} ms");
    }
}

#[test]
fn none_leaves_out_what_is_later_than_the_grace() {
    let none = rules("* * * * *", "UTC", CatchUp::None);
    let due = none.due(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:10:30Z"));
    assert_eq!((due.runs, due.missed), (minutes("2026-01-01T00:10:00Z", 1), 10));
    let due = none.due(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:01:00Z"));
    assert_eq!((due.runs, due.missed), (minutes("2026-01-01T00:00:00Z", 2), 0), "exactly the grace");
    let daily = rules("@daily", "UTC", CatchUp::None);
    let due = daily.due(at("2026-01-01T00:00:00Z"), at("2026-01-03T00:30:00Z"));
    assert_eq!(due, Due { runs: vec![], missed: 3, next: Some(at("2026-01-04T00:00:00Z")) });
}

#[test]
fn what_comes_due_while_somebody_is_there_fires_under_every_policy() {
    let (armed, since) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:02:10Z"));
    let now = at("2026-01-01T00:04:30Z");
    let next = Some(at("2026-01-01T00:05:00Z"));
    for (catch_up, first, count, missed) in [
        (CatchUp::Latest, "2026-01-01T00:02:00Z", 3, 2),
        (CatchUp::All, "2026-01-01T00:00:00Z", 5, 0),
        (CatchUp::None, "2026-01-01T00:02:00Z", 3, 2),
    ] {
        let due = rules("* * * * *", "UTC", catch_up).due_since(armed, since, now);
        assert_eq!(due, Due { runs: minutes(first, count), missed, next }, "{catch_up:?}");
    }
    // Nobody can have been there before the slot, or later than now.
    let all = rules("* * * * *", "UTC", CatchUp::All);
    for since in ["2025-01-01T00:00:00Z", "2027-01-01T00:00:00Z"] {
        assert_eq!(all.due_since(armed, at(since), now), all.due(armed, now));
    }
    let seconds = rules("* * * * * *", "UTC", CatchUp::Latest);
    let due = seconds.due_since(armed, armed, at("2026-01-01T01:00:00Z"));
    assert_eq!((due.runs.len(), due.missed), (RUNS_MAX, 3601 - 1000));
}

#[test]
fn a_year_of_missed_seconds_is_bounded() {
    for catch_up in CatchUp::ALL {
        let due = rules("* * * * * *", "UTC", catch_up)
            .due(at("2026-01-01T00:00:00Z"), at("2027-01-01T00:00:00.5Z"));
        assert!(due.runs.len() <= RUNS_MAX && due.missed == MISSED_MAX);
        assert_eq!(due.runs.last(), Some(&at("2027-01-01T00:00:00Z")));
    }
}

const CRONS: [&str; 14] = [
    "* * * * *",
    "*/7 * * * *",
    "30 2 * * *",
    "0 */2 * * *",
    "15,45 1-3 * * *",
    "0 0 * * 0",
    "0 0 1 * *",
    "30 1 31 * *",
    "0 0 29 2 *",
    "@hourly",
    "*/20 59 * * * *",
    "0 3 L * *",
    "59 23 * * 5#2",
    "30 0-4 * MAR,OCT *",
];
const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Africa/Casablanca",
    "Pacific/Apia",
    "Asia/Kathmandu",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn slots_rise_and_every_search_agrees(
        (cron, zone) in (0..CRONS.len(), 0..ZONES.len()),
        // 2000 to 2060
        from in 946_684_800_000..2_840_000_000_000_i64,
        ahead in 0..400_000_000_i64,
    ) {
        let timetable = Timetable::new(CRONS[cron], ZONES[zone]).expect("valid");
        let from = Timestamp::from_millis(from);
        let slots: Vec<Timestamp> = timetable.from(from).take(20).collect();
        prop_assert_eq!(slots.len(), 20);
        prop_assert!(slots.windows(2).all(|pair| pair[0] < pair[1]) && slots[0] >= from);
        // From wherever one looks, the next slot is the same.
        let last = slots[19];
        let somewhere = Timestamp::from_millis((from.as_millis() + ahead).min(last.as_millis() - 1));
        let expected = slots.iter().find(|slot| **slot > somewhere).copied();
        prop_assert_eq!(timetable.after(somewhere), expected);
    }

    #[test]
    fn every_slot_until_now_is_fired_or_missed(
        (cron, zone, policy) in (0..CRONS.len(), 0..ZONES.len(), 0..3_usize),
        from in 946_684_800_000..2_840_000_000_000_i64,
        late in 0..200_000_000_i64,
    ) {
        let rules = rules(CRONS[cron], ZONES[zone], CatchUp::ALL[policy]);
        let armed = rules.timetable.after(Timestamp::from_millis(from)).expect("there is one");
        let now = Timestamp::from_millis(armed.as_millis() + late);
        let all: Vec<Timestamp> = rules.timetable.from(armed).take_while(|slot| *slot <= now).collect();
        let due = rules.due(armed, now);
        prop_assert_eq!(due.missed as usize + due.runs.len(), all.len());
        prop_assert_eq!(&all[due.missed as usize..], &due.runs[..], "the newest fire, none between is left out");
        prop_assert!(due.next.is_some_and(|next| next > now));
        match rules.catch_up {
            CatchUp::All => prop_assert_eq!(due.runs.len(), all.len().min(RUNS_MAX)),
            CatchUp::Latest => prop_assert_eq!(due.runs.len(), 1),
            CatchUp::None => {
                let in_time = all.iter().filter(|slot| now.since(**slot) <= rules.grace).count();
                prop_assert_eq!(due.runs.len(), in_time);
            }
        }
    }
}
