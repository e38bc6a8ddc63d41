//! Lanes: more task queues of one protocol, among which its workers go round.
//!
//! ```text
//!  we, a task with a key ──▶ gleitzeit.submit ── python.v1.lane.3 ──▶ gleitzeit.tasks.python.v1.lane.3 ─┐ in
//!  we, a task without    ──▶ gleitzeit.submit ── python.v1 ─────────▶ gleitzeit.tasks.python.v1 ────────┼─ turn ─▶ workers
//!  other producers       ──▶ gleitzeit.tasks ─── python.v1 ─────────▲                                   │
//!                                            └── python.v1.lane.3 ──▶ (who computes the lane himself) ──┘
//! ```
//!
//! A lane is a queue like the protocol's own, which counts as one more lane and takes whatever names none. So no
//! message is moved from one queue to another to be sorted, and nothing can be lost by that: who publishes knows the
//! lane, from the `fairness_key` of the task (`core::fairness`), and gives it in the routing key, where it also survives
//! a delay. Whatever publishes a task again (a retry, a wait for a limit) thus brings it back into its lane.
//!
//! For everything but the adapters of the broker lanes are not there: a [`Queue::Tasks`] is all queues of its
//! protocol together, to be published to, consumed, counted, emptied.
//!
//! Lanes are numbered from 0 without gaps, so that whoever wants to know how many there are asks for one after the
//! other until one is missing. Where a lane is missing that should be there, its tasks go to the protocol's queue.

use std::collections::BTreeMap;

use super::{Address, Queue};
use crate::core::fairness::lane_of;

/// The most lanes that a protocol may have.
pub const LANES_MAX: u16 = 64;

/// What stands between a protocol and the number of a lane.
const MARK: &str = ".lane.";

/// The protocols that have lanes, or had some and are to be looked after.
pub type Fairness = BTreeMap<Address, Lanes>;

/// The lanes of one protocol.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lanes {
    /// How many; 0 where there are to be none any more.
    pub count: u16,
    /// The weights of keys that have another than 1.
    pub weights: BTreeMap<String, u32>,
}

impl Lanes {
    /// Which lane a task with this key belongs to; `None` for the protocol's queue.
    #[must_use]
    pub fn of(&self, key: &str) -> Option<u16> {
        (self.count > 0).then(|| lane_of(key, self.count))
    }

    /// The weights by turn: the protocol's queue, then each lane. Where several keys of a weight share a lane, the
    /// heaviest counts.
    #[must_use]
    pub fn turn_weights(&self) -> Vec<u32> {
        let mut weights = vec![1; usize::from(self.count) + 1];
        for (key, weight) in &self.weights {
            if let Some(lane) = self.of(key) {
                let own = &mut weights[turn_of(Some(lane))];
                *own = (*own).max(*weight);
            }
        }
        weights
    }
}

/// The place of a lane among the turns; the protocol's queue has the first.
#[must_use]
pub fn turn_of(lane: Option<u16>) -> usize {
    lane.map_or(0, |lane| usize::from(lane) + 1)
}

/// The name of a lane's queue: `gleitzeit.tasks.python.v1.lane.3`.
#[must_use]
pub fn name(address: &Address, lane: u16) -> String {
    format!("{}{MARK}{lane}", Queue::Tasks(address.clone()).name())
}

/// A lane's routing key: `python.v1.lane.3`.
#[must_use]
pub fn route(address: &Address, lane: u16) -> String {
    format!("{address}{MARK}{lane}")
}

/// Reads what [`route`] has written.
#[must_use]
pub fn from_route(routing_key: &str) -> Option<(Address, u16)> {
    let (address, number) = routing_key.split_once(MARK)?;
    let lane = number.parse().ok().filter(|lane| *lane < LANES_MAX)?;
    let address = Address::parse(address).ok()?;
    (route(&address, lane) == routing_key).then_some((address, lane))
}

/// Reads what [`name`] has written.
#[must_use]
pub fn from_name(name: &str) -> Option<(Address, u16)> {
    from_route(name.strip_prefix("gleitzeit.tasks.")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python() -> Address {
        Address::parse("python.v1").expect("valid")
    }

    #[test]
    fn a_lane_is_found_by_its_name_and_by_its_routing_key() {
        for lane in [0, 9, LANES_MAX - 1] {
            assert_eq!(from_name(&name(&python(), lane)), Some((python(), lane)));
            assert_eq!(from_route(&route(&python(), lane)), Some((python(), lane)));
        }
        let none =
            ["python.v1", "python.v1.lane.", "python.v1.lane.64", "python.v1.lane.01", "python.lane.1"];
        for key in none {
            assert_eq!(from_route(key), None, "{key}");
        }
        assert_eq!(from_name("gleitzeit.tasks.python.v1"), None);
        assert_eq!(Queue::from_name(&name(&python(), 3)), Some(Queue::Tasks(python())));
    }

    #[test]
    fn the_heaviest_key_gives_its_lane_its_weight() {
        let weights = BTreeMap::from([("a".to_owned(), 3), ("b".to_owned(), 2)]);
        let one = Lanes { count: 1, weights: weights.clone() };
        assert_eq!(one.turn_weights(), [1, 3]);
        let none = Lanes { count: 0, weights };
        assert_eq!((none.turn_weights(), none.of("a")), (vec![1], None));
    }
}
