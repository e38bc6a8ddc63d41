use proptest::prelude::*;
use serde_json::json;
use std::collections::VecDeque;

use super::*;
use crate::core::id::Id;

fn key(name: &str) -> TaskKey {
    TaskKey::alone(Id::parse(name).expect("valid"))
}

fn asks(needs: Value) -> Amounts {
    Amounts::of(&serde_json::from_value(needs).expect("well typed"))
}

fn memory(total: u64) -> Floor {
    Floor::new(Totals::default().with(Kind::Memory, Some(total)))
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(0).after(Duration::from_millis(millis))
}

const HOUR: u64 = 3_600_000;

#[test]
fn amounts_are_whole_and_told_as_they_were_asked() {
    let wants = asks(json!({"cpu_cores": 0.5, "memory_mb": 300, "execution_timeout": 5}));
    assert_eq!((wants.get(Kind::Cpu), wants.get(Kind::Memory), wants.get(Kind::Disk)), (500, 300, 0));
    assert_eq!(wants.to_string(), "cpu_cores 0.5, memory_mb 300");
    assert!(asks(json!({"execution_timeout": 5})).is_nothing());
    assert_eq!(asks(json!({"cpu_cores": 0.0001})).get(Kind::Cpu), 1, "never for nothing");
    let totals = Totals::default().with(Kind::Cpu, Some(1500)).with(Kind::GpuMemory, Some(0));
    assert_eq!(Value::Object(totals.to_json()), json!({"cpu_cores": 1.5, "gpu_memory_mb": 0}));
    assert_eq!(Totals::from_json(&totals.to_json()), totals);
    assert!(totals.to_string().starts_with("cpu_cores 1.5, memory_mb unlimited, gpu_memory_mb 0"));
}

#[test]
fn what_is_not_limited_holds_anything_and_nearness_is_the_least_share() {
    let totals = Totals::default().with(Kind::Cpu, Some(2000)).with(Kind::Memory, Some(100));
    let wants = asks(json!({"cpu_cores": 4, "memory_mb": 400, "disk_space_mb": 1_u64 << 24}));
    assert_eq!(totals.lacking(&wants).collect::<Vec<_>>(), [Kind::Cpu, Kind::Memory]);
    assert_eq!(totals.nearness(&wants), 0.25);
    assert_eq!(totals.nearness(&asks(json!({"disk_space_mb": 5}))), 1.0);
    assert!(Totals::default().can_hold(&wants));
}

#[test]
fn all_is_taken_or_nothing() {
    let totals = Totals::default().with(Kind::Cpu, Some(2000)).with(Kind::Memory, Some(100));
    let mut floor = Floor::new(totals);
    let (one, both) = (asks(json!({"memory_mb": 60})), asks(json!({"cpu_cores": 1, "memory_mb": 60})));
    assert!(floor.take(&key("a"), &one, at(0), at(HOUR), at(0)));
    assert!(!floor.take(&key("b"), &both, at(0), at(HOUR), at(0)));
    assert_eq!(floor.held(), &one, "no core either");
    floor.give_back(&one);
    assert!(floor.take(&key("b"), &both, at(0), at(HOUR), at(0)));
    floor.give_back(&both);
    assert_eq!(floor.held(), &Amounts::default());
}

#[test]
fn small_ones_pass_a_large_one_until_it_has_waited() {
    let (mut floor, small, large) =
        (memory(100), asks(json!({"memory_mb": 40})), asks(json!({"memory_mb": 80})));
    assert!(floor.take(&key("s1"), &small, at(0), at(HOUR), at(0)));
    assert!(!floor.take(&key("large"), &large, at(0), at(HOUR), at(0)));
    assert!(floor.take(&key("s2"), &small, at(1), at(HOUR), at(1)), "it is young");
    let aged = 2_000;
    floor.give_back(&small);
    assert!(!floor.take(&key("s3"), &small, at(aged), at(HOUR), at(aged)), "room is kept");
    assert!(floor.keeps_room(&key("large"), at(aged)));
    assert!(
        floor.take(&key("cpu"), &asks(json!({"cpu_cores": 9})), at(aged), at(HOUR), at(aged)),
        "of another kind"
    );
    let pause = aged + 30_000;
    assert!(!floor.keeps_room(&key("large"), at(pause)), "only for a while");
    assert!(floor.take(&key("s4"), &small, at(pause), at(HOUR), at(pause)));
    let again = pause + 90_000;
    assert!(floor.keeps_room(&key("large"), at(again)));
    floor.give_back(&small);
    floor.give_back(&small);
    assert!(floor.take(&key("large"), &large, at(0), at(HOUR), at(again)));
    assert!(!floor.keeps_room(&key("large"), at(again)));
}

#[test]
fn small_ones_go_on_beside_the_room_that_is_kept() {
    let (mut floor, small, large) =
        (memory(100), asks(json!({"memory_mb": 10})), asks(json!({"memory_mb": 80})));
    assert!(floor.take(&key("s0"), &asks(json!({"memory_mb": 30})), at(0), at(HOUR), at(0)));
    assert!(!floor.take(&key("large"), &large, at(0), at(HOUR), at(0)));
    floor.give_back(&asks(json!({"memory_mb": 20})));
    assert!(floor.take(&key("s1"), &small, at(5_000), at(HOUR), at(5_000)), "80 and 10 and 10");
    assert!(!floor.take(&key("s2"), &small, at(5_000), at(HOUR), at(5_000)));
}

#[test]
fn who_does_not_come_back_is_forgotten_and_what_can_never_be_held_keeps_nothing() {
    let (mut floor, small) = (memory(100), asks(json!({"memory_mb": 60})));
    assert!(floor.take(&key("s"), &small, at(0), at(HOUR), at(0)));
    assert!(!floor.take(&key("gone"), &small, at(0), at(HOUR), at(0)));
    floor.comes_back(&key("gone"), at(10_000));
    assert!(floor.keeps_room(&key("gone"), at(9_999)));
    assert!(!floor.keeps_room(&key("gone"), at(10_000)));
    assert!(!floor.take(&key("never"), &asks(json!({"memory_mb": 101})), at(0), at(HOUR), at(0)));
    assert!(!floor.keeps_room(&key("never"), at(9_999)));
    floor.leave(&key("gone"));
    assert!(!floor.keeps_room(&key("gone"), at(9_999)));
}

#[test]
fn who_comes_back_late_has_its_place_again_and_its_whiles_go_on() {
    let (mut floor, small, large) =
        (memory(100), asks(json!({"memory_mb": 40})), asks(json!({"memory_mb": 80})));
    assert!(floor.take(&key("s"), &small, at(0), at(HOUR), at(0)));
    let comes = |floor: &mut Floor, name: &str, since: u64, now: u64| {
        assert!(!floor.take(&key(name), &large, at(since), at(now + 6_000), at(now)));
    };
    comes(&mut floor, "first", 0, 2_000);
    assert!(floor.keeps_room(&key("first"), at(2_000)));
    comes(&mut floor, "second", 1_000, 20_000);
    assert!(floor.keeps_room(&key("second"), at(20_000)), "the first is late");
    comes(&mut floor, "first", 0, 22_000);
    assert!(floor.keeps_room(&key("first"), at(22_000)), "its place follows from since when it waits");
    assert!(!floor.keeps_room(&key("second"), at(22_000)));
    comes(&mut floor, "first", 0, 40_000);
    assert!(floor.is_first(&key("first"), at(40_000)));
    assert!(!floor.keeps_room(&key("first"), at(40_000)), "its first while is over, late or not");
    comes(&mut floor, "first", 0, 130_000);
    assert!(floor.keeps_room(&key("first"), at(130_000)), "its second one");
    // Once it has had its turn it is new.
    floor.give_back(&small);
    assert!(floor.take(&key("first"), &large, at(0), at(HOUR), at(130_000)));
    comes(&mut floor, "first", 130_000, 200_000);
    assert!(floor.keeps_room(&key("first"), at(200_000)));
}

#[test]
fn room_is_kept_for_a_quarter_of_a_long_time() {
    let kept = (0..100_000_u64).filter(|second| is_keeping(Duration::from_secs(*second))).count();
    assert!((24_000..27_000).contains(&kept), "{kept}");
    for (seconds, keeps) in
        [(0, true), (29, true), (30, false), (119, false), (120, true), (179, true), (180, false)]
    {
        assert_eq!(is_keeping(Duration::from_secs(seconds)), keeps, "{seconds}");
    }
    assert!(is_keeping(Duration::from_secs(120 + 240 + 480 + 960 + 299)));
    let _ends = is_keeping(Duration::MAX);
}

/// A task of the model: what it wants, and for how many seconds.
#[derive(Debug, Clone)]
struct Task {
    key: TaskKey,
    wants: Amounts,
    takes: u64,
    since: Option<u64>,
}

fn tasks() -> impl Strategy<Value = Vec<(u64, u64, u64, u64)>> {
    // When it comes, how much of two kinds it wants, how long it takes.
    prop::collection::vec((0_u64..40, 0_u64..=4, 0_u64..=8, 1_u64..25), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever comes: never more than there is, everybody in the end, and nothing is left. Those who wait come in any
    /// order, some of them only now and then, as from the broker.
    #[test]
    fn never_too_much_and_everybody_in_the_end(mut coming in tasks(), order in any::<u64>()) {
        let totals = Totals::default().with(Kind::Cpu, Some(4)).with(Kind::Memory, Some(8));
        let mut floor = Floor::new(totals);
        coming.sort_by_key(|task| task.0);
        let mut coming: VecDeque<_> = coming.into_iter().enumerate().collect();
        let (mut waiting, mut running) = (Vec::<Task>::new(), Vec::<(u64, Amounts)>::new());
        let mut luck = order;
        let mut draw = |bound: usize| {
            luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(luck >> 33).unwrap_or(0) % bound.max(1)
        };
        let mut second = 0;
        while !(coming.is_empty() && waiting.is_empty() && running.is_empty()) {
            let now = at(second * 1_000);
            running.retain(|(end, taken)| {
                if *end <= second { floor.give_back(taken); }
                *end > second
            });
            while coming.front().is_some_and(|(_, (when, ..))| *when <= second) {
                let Some((number, (_, cpu, memory, takes))) = coming.pop_front() else { break };
                let wants = Amounts([cpu, memory, 0, 0, 0]);
                waiting.push(Task { key: key(&format!("t{number}")), wants, takes, since: None });
            }
            let mut left = Vec::new();
            while !waiting.is_empty() {
                let mut task = waiting.swap_remove(draw(waiting.len()));
                // Now and then one is still on its way.
                if task.since.is_some() && draw(3) == 0 {
                    left.push(task);
                    continue;
                }
                let since = *task.since.get_or_insert(second);
                if floor.take(&task.key, &task.wants, at(since * 1_000), at((second + 6) * 1_000), now) {
                    running.push((second + task.takes, task.wants));
                } else {
                    left.push(task);
                }
                let sum = running.iter().fold(Amounts::default(), |sum, (_, taken)| sum.plus(taken));
                prop_assert_eq!(floor.held(), &sum);
                prop_assert!(totals.can_hold(&sum));
            }
            waiting = left;
            second += 1;
            prop_assert!(second < 10_000, "somebody waits for ever: {:?}", waiting);
        }
        prop_assert_eq!(floor.held(), &Amounts::default());
    }

    /// A stream of small tasks that never ends, and one that wants all there is.
    #[test]
    fn a_large_one_has_its_turn_within_a_stream_of_small_ones(takes in 1_u64..25, small in 1_u64..=4, every in 1_u64..3) {
        let mut floor = memory(4);
        let (large, wants) = (Amounts([0, 4, 0, 0, 0]), Amounts([0, small, 0, 0, 0]));
        let (mut running, mut waiting) = (Vec::<u64>::new(), VecDeque::<(TaskKey, u64)>::new());
        for second in 0..200 {
            let now = at(second * 1_000);
            running.retain(|end| {
                if *end <= second { floor.give_back(&wants); }
                *end > second
            });
            for number in 0..every {
                waiting.push_back((key(&format!("s{second}-{number}")), second));
            }
            waiting.retain(|(key, since)| {
                let goes = floor.take(key, &wants, at(since * 1_000), at((second + 6) * 1_000), now);
                if goes { running.push(second + takes); }
                !goes
            });
            let begun = second > 0 && floor.take(&key("large"), &large, at(1_000), at((second + 6) * 1_000), now);
            if begun {
                prop_assert!(running.is_empty());
                return Ok(());
            }
        }
        prop_assert!(false, "it waits for ever");
    }
}
