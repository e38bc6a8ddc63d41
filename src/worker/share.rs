//! How many tasks each queue may give a worker at once.
//!
//! A cap on the whole process is kept by asking for less, never by holding deliveries back: what a worker has
//! taken, nobody else can run. So the cap is divided among the queues, once, at the start.

use std::num::NonZeroU16;

/// The prefetch of each of `queues` queues: `concurrency`, or as evenly as it goes less, so that the sum is at
/// most `max_running`. Each has at least one, so that no queue is left without a worker.
pub(super) fn prefetches(
    queues: usize,
    concurrency: NonZeroU16,
    max_running: Option<NonZeroU16>,
) -> Vec<NonZeroU16> {
    let cap = max_running.map_or(usize::MAX, |cap| usize::from(cap.get()));
    let (each, more) = match queues {
        0 => return Vec::new(),
        _ => (cap / queues, cap % queues),
    };
    let prefetch = |queue: usize| {
        let share = u16::try_from(each + usize::from(queue < more)).unwrap_or(u16::MAX);
        NonZeroU16::new(share).unwrap_or(NonZeroU16::MIN).min(concurrency)
    };
    (0..queues).map(prefetch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(queues: usize, concurrency: u16, max_running: Option<u16>) -> Vec<u16> {
        let some = |number| NonZeroU16::new(number).expect("not zero");
        let prefetches = prefetches(queues, some(concurrency), max_running.map(some));
        prefetches.into_iter().map(NonZeroU16::get).collect()
    }

    #[test]
    fn without_a_cap_every_queue_has_the_whole_concurrency() {
        assert_eq!(shares(3, 8, None), [8, 8, 8]);
        assert_eq!(shares(3, 8, Some(24)), [8, 8, 8]);
        assert_eq!(shares(3, 8, Some(10_000)), [8, 8, 8]);
    }

    #[test]
    fn a_cap_is_divided_evenly_and_used_up() {
        assert_eq!(shares(3, 8, Some(23)), [8, 8, 7]);
        assert_eq!(shares(3, 8, Some(10)), [4, 3, 3]);
        assert_eq!(shares(3, 8, Some(3)), [1, 1, 1]);
        assert_eq!(shares(1, 8, Some(3)), [3]);
        assert_eq!(shares(0, 8, Some(3)), [0_u16; 0]);
    }
}
