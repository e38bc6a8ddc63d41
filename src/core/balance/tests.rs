use super::{Candidate, Duration, Strategy, Traits, Wish, choose};
use proptest::prelude::*;

fn traits(weight: u32) -> Traits {
    Traits { weight, ..Traits::default() }
}

fn candidates<'a>(names: &[&'a str], all: &'a [Traits]) -> Vec<Candidate<'a>> {
    let one = |(name, traits): (&&'a str, &'a Traits)| Candidate {
        name,
        traits,
        running: 0,
        latency: None,
        is_degraded: false,
        is_warm: false,
    };
    names.iter().zip(all).map(one).collect()
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn pick(strategy: Strategy, candidates: &[Candidate<'_>], wish: &Wish) -> Option<usize> {
    choose(strategy, candidates, wish, 0, &mut || 0.0)
}

fn keyed(key: &str) -> Wish {
    Wish { key: Some(key.to_owned()), ..Wish::default() }
}

#[test]
fn nobody_able_is_none_and_zero_weight_is_never_chosen() {
    let all = [traits(0), traits(1), traits(0)];
    let candidates = candidates(&NAMES, &all);
    for (name, strategy) in Strategy::NAMES {
        assert_eq!(pick(strategy, &[], &Wish::default()), None, "{name}");
        assert_eq!(pick(strategy, &candidates, &keyed("k")), Some(1), "{name}");
        assert_eq!(pick(strategy, &candidates[..1], &Wish::default()), None, "{name}");
        assert_eq!(name.parse(), Ok(strategy));
    }
}

#[test]
fn the_healthy_come_before_the_degraded_and_both_before_fallbacks() {
    let all = [traits(1), traits(1), Traits { rank: 1, ..traits(9) }];
    let mut candidates = candidates(&NAMES, &all);
    candidates[0].is_degraded = true;
    for (name, strategy) in Strategy::NAMES {
        assert_eq!(pick(strategy, &candidates, &Wish::default()), Some(1), "{name}");
        let without = [candidates[0], candidates[2]];
        assert_eq!(pick(strategy, &without, &Wish::default()), Some(0), "{name}");
        assert_eq!(pick(strategy, &candidates[2..], &Wish::default()), Some(0), "{name}");
    }
}

#[test]
fn only_who_has_what_is_required_is_chosen() {
    let small = Traits { models: vec!["small".into()], ..traits(1) };
    let big = Traits { models: vec!["big".into()], gpu_memory_mb: Some(24_000), ..traits(1) };
    let eye = Traits { labels: vec!["vision".into()], ..traits(1) };
    let all = [small, big, eye];
    let candidates = candidates(&NAMES, &all);
    let model = |name: &str| Wish { model: Some(name.to_owned()), ..Wish::default() };
    let vision = Wish { labels: vec!["vision".into()], ..Wish::default() };
    let gpu = |mb| Wish { gpu_memory_mb: Some(mb), ..Wish::default() };
    for (name, strategy) in Strategy::NAMES {
        assert_ne!(pick(strategy, &candidates, &model("big")), Some(0), "{name}");
        assert_eq!(pick(strategy, &candidates, &vision), Some(2), "{name}");
        assert_eq!(pick(strategy, &candidates, &gpu(8_000)), Some(1), "{name}");
        assert_eq!(pick(strategy, &candidates, &gpu(80_000)), None, "{name}");
    }
    assert_eq!(pick(Strategy::Requirements, &candidates, &Wish::default()), Some(0), "not the big one");
}

#[test]
fn round_robin_takes_turns_and_equal_loads_do_too() {
    let all = [traits(1), traits(1), traits(1)];
    let candidates = candidates(&NAMES, &all);
    for strategy in [Strategy::RoundRobin, Strategy::LeastConnections, Strategy::Locality] {
        let chosen = |turn| choose(strategy, &candidates, &Wish::default(), turn, &mut || 0.0);
        let turns: Vec<_> = (0..4).filter_map(chosen).collect();
        assert_eq!(turns, [0, 1, 2, 0], "{strategy:?}");
    }
}

#[test]
fn fewer_calls_for_the_weight_win() {
    let all = [traits(1), traits(4)];
    let mut candidates = candidates(&NAMES[..2], &all);
    (candidates[0].running, candidates[1].running) = (1, 3);
    assert_eq!(pick(Strategy::LeastConnections, &candidates, &Wish::default()), Some(1));
    candidates[1].running = 5;
    assert_eq!(pick(Strategy::LeastConnections, &candidates, &Wish::default()), Some(0));
}

#[test]
fn a_slow_instance_loses_against_any_other_and_an_unknown_one_is_tried() {
    let all = [traits(1), traits(1), traits(1)];
    let mut candidates = candidates(&NAMES, &all);
    candidates[0].latency = Some(Duration::from_secs(2));
    candidates[1].latency = Some(Duration::from_millis(20));
    let mut chosen = [0; 3];
    for step in 0..300_u32 {
        let mut draws = [f64::from(step % 20) / 20.0, f64::from(step / 20) / 15.0].into_iter();
        let index = choose(Strategy::LeastLatency, &candidates, &Wish::default(), 0, &mut || {
            draws.next().expect("two")
        });
        chosen[index.expect("there are three")] += 1;
    }
    assert_eq!(chosen[0], 0, "two by chance are two different ones");
    assert!(chosen[1] > 90 && chosen[2] > 90, "{chosen:?}");
}

#[test]
fn a_key_stays_where_it_is_when_others_come_and_go() {
    let all = [traits(1), traits(1), traits(1)];
    let candidates = candidates(&NAMES, &all);
    let keys: Vec<Wish> = (0..300).map(|number| keyed(&format!("key {number}"))).collect();
    let homes = |of: &[Candidate<'_>]| -> Vec<&str> {
        keys.iter().filter_map(|key| Some(of[pick(Strategy::Affinity, of, key)?].name)).map(leak).collect()
    };
    let (with, without) = (homes(&candidates), homes(&candidates[..2]));
    for (before, after) in with.iter().zip(&without) {
        assert!(before == after || *before == "c", "{before} moved to {after}");
    }
    for name in NAMES {
        let count = with.iter().filter(|home| **home == name).count();
        assert!((70..130).contains(&count), "{name}: {count} of 300");
    }
}

fn leak(name: &str) -> &'static str {
    NAMES.into_iter().find(|one| *one == name).expect("one of them")
}

#[test]
fn an_overloaded_home_is_left() {
    let all = [traits(1), traits(1), traits(1)];
    let mut candidates = candidates(&NAMES, &all);
    let home = pick(Strategy::Adaptive, &candidates, &keyed("k")).expect("one");
    candidates[home].running = 1;
    assert_eq!(pick(Strategy::Adaptive, &candidates, &keyed("k")), Some(home), "two are no load");
    candidates[home].running = 10;
    assert_ne!(pick(Strategy::Adaptive, &candidates, &keyed("k")), Some(home));
    assert_eq!(pick(Strategy::Affinity, &candidates, &keyed("k")), Some(home), "as it was told");
}

#[test]
fn what_is_nearby_comes_first() {
    let far = Traits { region: Some("us".into()), ..traits(9) };
    let near = Traits { region: Some("eu".into()), ..traits(1) };
    let all = [far, near];
    let mut candidates = candidates(&NAMES[..2], &all);
    candidates[0].latency = Some(Duration::from_millis(1));
    candidates[1].latency = Some(Duration::from_millis(100));
    let wish = Wish { region: Some("eu".into()), ..Wish::default() };
    for strategy in [Strategy::Locality, Strategy::Adaptive] {
        assert_eq!(pick(strategy, &candidates, &wish), Some(1));
    }
    assert_eq!(pick(Strategy::Locality, &candidates, &Wish::default()), Some(0), "the faster one");
}

proptest! {
    /// Over evenly spread chances the weights hold.
    #[test]
    fn weights_hold(weights in prop::collection::vec(0_u32..20, 1..6)) {
        let names: Vec<String> = (0..weights.len()).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let all: Vec<Traits> = weights.iter().map(|weight| traits(*weight)).collect();
        let candidates = candidates(&names, &all);
        let sum: u32 = weights.iter().sum();
        let mut counts = vec![0; weights.len()];
        for step in 0..sum * 10 {
            let chance = (f64::from(step) + 0.5) / f64::from(sum * 10);
            let index = choose(Strategy::Weighted, &candidates, &Wish::default(), 0, &mut || chance);
            counts[index.expect("a weight above zero")] += 1;
        }
        for (count, weight) in counts.iter().zip(&weights) {
            prop_assert_eq!(*count, weight * 10);
        }
    }

    /// Whatever the state: who is chosen is able, of the first rank, and healthy if one of them is.
    #[test]
    fn the_chosen_one_is_always_of_the_best(
        states in prop::collection::vec((0_u32..3, 0_u32..3, 0_u32..50, any::<bool>(), 0_u64..3_000), 0..8),
        strategy in 0_usize..8,
        turn in any::<usize>(),
        chance in 0.0_f64..1.0,
        key in prop::option::of("[a-z]{1,5}"),
    ) {
        let names: Vec<String> = (0..states.len()).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let all: Vec<Traits> =
            states.iter().map(|state| Traits { rank: state.1, ..traits(state.0) }).collect();
        let mut candidates = candidates(&names, &all);
        for (candidate, state) in candidates.iter_mut().zip(&states) {
            (candidate.running, candidate.is_degraded) = (state.2, state.3);
            candidate.latency = (state.4 > 0).then(|| Duration::from_millis(state.4));
        }
        let wish = Wish { key, ..Wish::default() };
        let chosen = choose(Strategy::NAMES[strategy].1, &candidates, &wish, turn, &mut || chance);
        let place = |one: &Candidate<'_>| (one.traits.rank, one.is_degraded);
        let best = candidates.iter().filter(|one| one.traits.weight > 0).map(place).min();
        prop_assert_eq!(chosen.map(|index| place(&candidates[index])), best);
        if let Some(index) = chosen {
            prop_assert!(candidates[index].traits.weight > 0);
        }
    }
}

#[test]
fn who_has_the_model_in_memory_is_preferred_until_it_has_more_than_its_share() {
    let all = [traits(1), traits(1), Traits { region: Some("eu".into()), ..traits(1) }];
    let mut candidates = candidates(&NAMES, &all);
    candidates[1].is_warm = true;
    candidates[1].latency = Some(Duration::from_secs(9));
    let european = Wish { region: Some("eu".to_owned()), ..Wish::default() };
    for strategy in [Strategy::Adaptive, Strategy::LeastLatency] {
        assert_eq!(pick(strategy, &candidates, &Wish::default()), Some(1), "though it is slow");
    }
    assert_eq!(pick(Strategy::Adaptive, &candidates, &european), Some(2), "what was asked for comes first");
    assert_eq!(pick(Strategy::RoundRobin, &candidates, &Wish::default()), Some(0));
    candidates[1].running = 2;
    for strategy in [Strategy::Adaptive, Strategy::LeastLatency] {
        assert_ne!(pick(strategy, &candidates, &Wish::default()), Some(1), "another one loads it too");
    }
}
