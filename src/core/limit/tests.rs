use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const fn pace(per_second: f64, burst: f64) -> Pace {
    Pace { per_second, burst }
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_full_bucket_gives_its_burst_and_then_one_after_the_other() {
    let (mut bucket, pace) = (Bucket::default(), pace(10.0, 3.0));
    let waits: Vec<_> = (0..5).map(|_| bucket.take(&pace, 1.0, 1e9, HOUR).expect("patient")).collect();
    assert_eq!(waits, [0, 0, 0, 100, 200].map(Duration::from_millis));
    assert_eq!(bucket.take(&pace, 1.0, 1e9, Duration::ZERO), Err(Duration::from_millis(300)));
    assert_eq!(bucket.take(&pace, 1.0, 1e9 + 3e5, Duration::ZERO), Ok(Duration::ZERO), "as it was told");
}

#[test]
fn another_pace_gives_sooner_what_is_to_come_and_takes_nothing_back() {
    let (slow, fast) = (pace(1.0, 2.0), pace(100.0, 2.0));
    let mut bucket = Bucket::default();
    for _ in 0..4 {
        bucket.take(&slow, 1.0, 0.0, HOUR).expect("patient");
    }
    let before = bucket;
    bucket.adopt(&fast, &slow, 0.0);
    assert_eq!(bucket, before);
    bucket.adopt(&slow, &fast, 0.0);
    assert_eq!(bucket.take(&fast, 1.0, 0.0, HOUR), Ok(Duration::from_millis(30)));
    let mut full = Bucket { full_at: 5.0, ..Bucket::default() };
    full.adopt(&slow, &fast, 9.0);
    assert_eq!(full.full_at, 5.0);
}

#[test]
fn what_costs_more_than_the_burst_needs_a_full_bucket_and_leaves_a_debt() {
    let (mut bucket, pace) = (Bucket::default(), pace(10.0, 5.0));
    assert_eq!(bucket.take(&pace, 1.0, 0.0, HOUR), Ok(Duration::ZERO));
    assert_eq!(bucket.take(&pace, 20.0, 0.0, HOUR), Ok(Duration::from_millis(100)));
    assert_eq!(bucket.take(&pace, 1.0, 0.0, HOUR), Ok(Duration::from_millis(1_700)));
}

#[test]
fn a_reserve_is_settled_with_the_real_use() {
    let (mut bucket, pace) = (Bucket::default(), pace(100.0, 100.0));
    bucket.take(&pace, 100.0, 0.0, HOUR).expect("it is full");
    bucket.settle(&pace, -60.0, 0.0);
    assert_eq!(bucket.take(&pace, 60.0, 0.0, HOUR), Ok(Duration::ZERO), "it was not used");
    bucket.settle(&pace, 200.0, 0.0);
    assert_eq!(bucket.take(&pace, 1.0, 0.0, HOUR), Ok(Duration::from_millis(2_010)), "a debt delays");
}

#[test]
fn a_server_that_asks_for_quiet_has_it() {
    let (mut bucket, pace) = (Bucket::default(), pace(100.0, 20.0));
    bucket.shut(&pace, Duration::from_secs(7), 0.0);
    assert_eq!(bucket.take(&pace, 1.0, 0.0, HOUR), Ok(Duration::from_secs(7)));
}

#[test]
fn what_is_given_back_opens_nothing_that_is_shut_and_is_not_lost_either() {
    let (mut bucket, pace) = (Bucket::default(), pace(1.0, 10.0));
    let seconds = Duration::from_secs;
    bucket.take(&pace, 10.0, 0.0, HOUR).expect("it is full");
    bucket.shut(&pace, seconds(7), 0.0);
    bucket.settle(&pace, -10.0, 0.0);
    assert_eq!(bucket.take(&pace, 1.0, 0.0, Duration::ZERO), Err(seconds(7)));
    assert!(!bucket.is_full(8e6) && bucket.is_full(16e6), "it opens with one unit");
    bucket.shut(&pace, seconds(1), 0.0);
    assert_eq!(bucket.take(&pace, 1.0, 0.0, HOUR), Ok(seconds(7)), "a shorter one ends no longer one");
    assert_eq!(bucket.take(&pace, 1.0, 0.0, HOUR), Ok(seconds(8)), "one after the other");

    let mut owing = Bucket::default();
    owing.take(&pace, 110.0, 0.0, HOUR).expect("it is full");
    owing.shut(&pace, seconds(7), 0.0);
    owing.settle(&pace, -100.0, 0.0);
    assert_eq!(
        owing.take(&pace, 1.0, 20e6, Duration::ZERO),
        Ok(Duration::ZERO),
        "what was not used is there again"
    );
}

#[test]
fn no_call_keeps_others_away_for_more_than_a_day() {
    let rule = |per_second, burst| Rule {
        pace: pace(per_second, burst),
        cost: Cost::Param(vec!["size".to_owned()]),
        ..rule("model")
    };
    for (rule, most) in [
        (rule(1.0, 1.0), 86_400.0),
        (rule(1.0 / 86_400.0, 1.0), 1.0),
        (rule(1e-6, 60.0), 60.0),
        (rule(1e6, 1.0), COST_MAX),
    ] {
        assert_eq!(
            rule.of(&json!({"model": "m", "size": 1e300}), true, &|_| None),
            Ok((Some("m".to_owned()), most))
        );
    }
}

fn rule(key: &str) -> Rule {
    Rule {
        name: "l".to_owned(),
        protocol: "llm/v1".parse().expect("valid"),
        method: None,
        provider: None,
        key: Some(Key::Param(vec![key.to_owned()])),
        pace: pace(1.0, 1.0),
        scope: Scope::Global,
        cost: Cost::One,
    }
}

#[test]
fn rates_are_read_and_anything_else_is_named() {
    for (text, per_second) in [("100/s", 100.0), ("6000/min", 100.0), ("3600/h", 1.0), ("0.5/s", 0.5)] {
        assert_eq!(rate(text), Ok(per_second), "{text}");
    }
    for text in ["", "100", "100/", "/s", "0/s", "-1/s", "1e3/s", "inf/s", "100/w", "2000000/s", "1 /s"] {
        assert!(
            rate(text).expect_err(text).to_string().starts_with(&format!("{text:?} is no rate")),
            "{text}"
        );
    }
}

#[test]
fn what_a_task_costs_is_known_as_soon_as_its_parameters_say_it() {
    let tokens = Rule { cost: Cost::Tokens { estimate: 500.0 }, ..rule("model") };
    let none = |_: &str| None;
    let of = |params: Value, is_filled| tokens.of(&params, is_filled, &none);
    assert_eq!(of(json!({"model": "a", "max_tokens": 20}), false), Ok((Some("a".to_owned()), 20.0)));
    assert!(of(json!({"model": "a"}), false).is_err(), "it may have a default");
    assert!(of(json!({"model": "${m}", "max_tokens": 20}), false).is_err());
    assert_eq!(of(json!({"model": "a"}), true), Ok((Some("a".to_owned()), 500.0)));
    assert_eq!(of(json!({}), true), Ok((Some(String::new()), 500.0)), "those without a key share a bucket");
}

proptest! {
    /// Whoever asks, whenever, with whatever patience: what starts in any window is within burst and rate, and what
    /// comes later in line does not start before what costs the same and came earlier.
    #[test]
    fn never_more_starts_than_burst_and_rate_allow(
        asks in prop::collection::vec((0u32..300_000, 1u32..8, 0u64..2_000), 1..150),
        per_second in 1u32..200,
        burst in 8u32..40,
    ) {
        let pace = pace(f64::from(per_second), f64::from(burst));
        let (mut bucket, mut now, mut starts) = (Bucket::default(), 1e9, Vec::new());
        for (gap, cost, patience) in asks {
            now += f64::from(gap);
            let cost = f64::from(cost);
            if let Ok(wait) = bucket.take(&pace, cost, now, Duration::from_millis(patience)) {
                starts.push((now + micros(wait), cost));
            }
        }
        for (from, _) in &starts {
            for (until, _) in starts.iter().filter(|(until, _)| until >= from) {
                let inside = starts.iter().filter(|(at, _)| at >= from && at <= until);
                let used: f64 = inside.map(|(_, cost)| cost).sum();
                // Each wait is rounded up to a microsecond.
                let most = pace.burst + pace.per_second * (until - from + 2.0) / 1e6;
                prop_assert!(used <= most + 1e-6, "{used} in {} us, {most} at the most", until - from);
            }
        }
    }

    /// Among any number of cheap ones a dear one is taken in as soon as a cheap one would be.
    #[test]
    fn nobody_starves(cost in 1u32..1_000, before in 0u32..500, burst in 1u32..50) {
        let pace = pace(50.0, f64::from(burst));
        let mut bucket = Bucket::default();
        for _ in 0..before {
            let _ = bucket.take(&pace, 1.0, 0.0, Duration::from_secs(1));
        }
        let mut other = bucket;
        let cheap = other.take(&pace, 1.0, 0.0, Duration::from_secs(1));
        let dear = bucket.take(&pace, f64::from(cost), 0.0, Duration::from_secs(1));
        prop_assert_eq!(cheap.is_ok(), dear.is_ok());
        if let Err(told) = dear {
            let again = bucket.take(&pace, f64::from(cost), micros(told), Duration::ZERO);
            prop_assert!(again.is_ok(), "it comes when it is told to");
        }
    }

    /// Whatever was reserved and used, all that was used is paid by time, and the next one only waits.
    #[test]
    fn what_is_used_is_what_is_paid(calls in prop::collection::vec((1u32..500, 0u32..1_000), 1..50)) {
        let pace = pace(1_000.0, 100.0);
        let (mut bucket, mut now, mut used, mut last) = (Bucket::default(), 0.0, 0.0, 0.0);
        for (reserve, real) in calls {
            let wait = bucket.take(&pace, f64::from(reserve), now, HOUR).expect("a debt delays and refuses nobody");
            now += micros(wait);
            bucket.settle(&pace, f64::from(real) - f64::from(reserve), now);
            used += f64::from(real);
            last = f64::from(reserve.max(real));
        }
        let most = pace.burst + last + pace.per_second * now / 1e6;
        prop_assert!(used <= most + 1e-3, "{used} used, {most} paid or owed");
    }
}
