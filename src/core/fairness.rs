//! Whose turn it is: keys to lanes, and weighted round robin among lanes.
//!
//! A key always means the same lane: the CRC-32 of its UTF-8 bytes, modulo the number of lanes, so that whoever
//! publishes in another language can compute it too. Two keys may share a lane; then they share its turns.
//!
//! [`Turns`] is stride scheduling. Each lane has a *pass*, which grows by `STRIDE / weight` with every turn that it
//! takes, and the lane with the smallest pass among those that have something is next. `now` is the pass of the turn
//! before; a lane that comes back with less starts from there, so that having been empty saves nothing up. Therefore:
//! - while a lane has something, it gets its share of the turns, to within one turn for each other lane;
//! - it waits for at most `weight of the other / own weight`, rounded up, turns of each other lane: nobody starves;
//! - an empty lane costs nothing, and is owed nothing.

/// What a pass grows by with a turn of weight 1; 2^40 turns fit.
const STRIDE: u64 = 1 << 24;

/// The largest weight.
pub const WEIGHT_MAX: u32 = 100;

/// The lane of `key`, from 0; `lanes` must not be 0.
#[must_use]
pub fn lane_of(key: &str, lanes: u16) -> u16 {
    let lane = crc32(key.as_bytes()) % u32::from(lanes.max(1));
    u16::try_from(lane).expect("a remainder of 16 bits")
}

/// CRC-32 as zlib has it.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// Who has had how many turns. All that one process takes of a protocol belongs to the same turns, also through
/// subscriptions that come and go: whose turn it was must not be forgotten after each task.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    weights: Vec<u32>,
    passes: Vec<u64>,
    now: u64,
}

impl Turns {
    /// Nobody has had one. The weight of lane `n` is `weights[n]`, from 1 to [`WEIGHT_MAX`]; of one that is not
    /// there, 1.
    #[must_use]
    pub fn new(weights: Vec<u32>) -> Turns {
        Turns { weights, passes: Vec::new(), now: 0 }
    }

    /// Which of these lanes is next; `None` if there is none.
    #[must_use]
    pub fn next(&self, ready: impl IntoIterator<Item = usize>) -> Option<usize> {
        ready.into_iter().min_by_key(|lane| (self.pass(*lane), *lane))
    }

    /// The lane has had a turn.
    pub fn take(&mut self, lane: usize) {
        let pass = self.pass(lane);
        if self.passes.len() <= lane {
            self.passes.resize(lane + 1, 0);
        }
        let weight = self.weights.get(lane).copied().unwrap_or(1).clamp(1, WEIGHT_MAX);
        self.passes[lane] = pass.saturating_add(STRIDE / u64::from(weight));
        self.now = self.now.max(pass);
    }

    /// Deals `room` turns among lanes that have so many waiting, at most; the lanes in the order of their turns.
    pub fn deal(&mut self, room: usize, waiting: &[(usize, usize)]) -> Vec<usize> {
        let mut left = waiting.to_vec();
        let mut dealt = Vec::new();
        while dealt.len() < room {
            let ready = left.iter().filter(|(_, count)| *count > 0).map(|(lane, _)| *lane);
            let Some(lane) = self.next(ready) else { break };
            self.take(lane);
            for (_, count) in left.iter_mut().filter(|(of, _)| *of == lane) {
                *count -= 1;
            }
            dealt.push(lane);
        }
        dealt
    }

    fn pass(&self, lane: usize) -> u64 {
        self.passes.get(lane).copied().unwrap_or(0).max(self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_has_the_lane_that_other_languages_compute() {
        // python3 -c 'import zlib; print(zlib.crc32(b"tenant-a"))'
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
        for key in ["tenant-a", "tenant-b", "grün"] {
            assert_eq!(u32::from(lane_of(key, 8)), crc32(key.as_bytes()) % 8);
            assert_eq!(lane_of(key, 1), 0);
        }
    }

    #[test]
    fn one_turn_each_and_two_for_who_weighs_two() {
        let mut turns = Turns::new(vec![1, 2]);
        let dealt = turns.deal(9, &[(0, 9), (1, 9), (2, 9)]);
        let count = |lane| dealt.iter().filter(|of| **of == lane).count();
        // Equal passes go in order of the lanes, so shares are exact only to within a turn of each.
        assert!((2..=3).contains(&count(0)) && (4..=5).contains(&count(1)), "{dealt:?}");
        let mut turns = Turns::default();
        assert_eq!(turns.deal(6, &[(0, 9), (5, 9), (2, 1)]), [0, 2, 5, 0, 5, 0]);
        assert_eq!(turns.deal(6, &[]), [0; 0]);
    }

    #[test]
    fn having_been_empty_saves_nothing_up() {
        let mut turns = Turns::default();
        assert_eq!(turns.deal(100, &[(0, 100)]).len(), 100);
        let dealt = turns.deal(10, &[(0, 10), (1, 10)]);
        let late = dealt.iter().filter(|lane| **lane == 1).count();
        assert!((5..=6).contains(&late), "{dealt:?}");
    }

    prop_compose! {
        /// Weights, and for each of many turns which lanes have something.
        fn history()(lanes in 1..8_usize)(
            weights in prop::collection::vec(1..=8_u32, lanes),
            steps in prop::collection::vec((prop::collection::vec(any::<bool>(), lanes), 1..60_usize), 1..20),
        ) -> (Vec<u32>, Vec<(Vec<bool>, usize)>) {
            (weights, steps)
        }
    }

    proptest! {
        #[test]
        fn shares_hold_while_the_same_lanes_have_something((weights, steps) in history()) {
            let mut turns = Turns::new(weights.clone());
            for (ready, count) in steps {
                let lanes: Vec<usize> = (0..ready.len()).filter(|lane| ready[*lane]).collect();
                let mut got = vec![0_u32; weights.len()];
                for _ in 0..count {
                    let next = turns.next(lanes.iter().copied());
                    prop_assert_eq!(next.is_some(), !lanes.is_empty());
                    let Some(lane) = next else { break };
                    prop_assert!(ready[lane], "an empty lane gets no turn");
                    turns.take(lane);
                    got[lane] += 1;
                }
                for (one, other) in lanes.iter().flat_map(|one| lanes.iter().map(move |other| (*one, *other))) {
                    // In turns of weight 1, nobody is ahead by more than a turn of each of both.
                    let share = |lane: usize| f64::from(got[lane]) / f64::from(weights[lane]);
                    let bound = 1.0 / f64::from(weights[one]) + 1.0 / f64::from(weights[other]);
                    let ahead = share(one) - share(other);
                    prop_assert!(ahead <= bound + 1e-3, "{one} {other} {got:?} {weights:?}");
                }
            }
        }

        #[test]
        fn nobody_waits_longer_than_the_weights_of_the_others((weights, steps) in history(), who in 0..8_usize) {
            let who = who % weights.len();
            let mut turns = Turns::new(weights.clone());
            let others = (0..weights.len()).filter(|lane| *lane != who);
            let bound: u32 = others.map(|lane| weights[lane].div_ceil(weights[who]) + 1).sum();
            let mut waited = 0;
            // Whatever comes and goes elsewhere, this lane always has something.
            for (ready, count) in steps {
                for _ in 0..count {
                    let lanes = (0..ready.len()).filter(|lane| *lane == who || ready[*lane]);
                    let lane = turns.next(lanes).expect("one is always there");
                    turns.take(lane);
                    waited = if lane == who { 0 } else { waited + 1 };
                    prop_assert!(waited <= bound, "{waited} > {bound}: {weights:?}");
                }
            }
        }

        #[test]
        fn what_is_dealt_is_there((weights, _) in history(), room in 0..40_usize, counts in prop::collection::vec(0..20_usize, 8)) {
            let waiting: Vec<(usize, usize)> = counts.iter().copied().enumerate().collect();
            let dealt = Turns::new(weights).deal(room, &waiting);
            prop_assert_eq!(dealt.len(), room.min(counts.iter().sum()));
            for (lane, count) in waiting {
                prop_assert!(dealt.iter().filter(|of| **of == lane).count() <= count);
            }
        }
    }
}
