//! How tasks of a method do: how many, how they failed, how long they waited and took, what they held.
//!
//! Counted are attempts: one that is tried again counts each time. A profile is of a slot of five minutes, so that what is
//! told of the last hour does not carry all that ever was; profiles of slots and of workers add up.

use std::collections::BTreeMap;
use std::time::Duration;

use super::clock::Timestamp;
use super::code::Code;
use super::histogram::Histogram;

/// How long a slot is.
pub const SLOT: Duration = Duration::from_secs(300);
/// How long profiles are kept.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);

/// What a profile is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// `python/v1`.
    pub protocol: String,
    /// `execute`; [`OTHERS`] for those that have no profile of their own.
    pub method: String,
}

/// Methods of a protocol that nobody knows, or that are too many.
pub const OTHERS: &str = "*";

/// How one attempt has ended. What is not known is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    /// Why it failed, if it did.
    pub failure: Option<Code>,
    /// How long it was ready before it began.
    pub wait: Option<Duration>,
    /// How long it ran; `None` if nobody was asked to run it.
    pub duration: Option<Duration>,
    /// The most memory that its own process held, in bytes.
    pub memory_bytes: Option<u64>,
}

/// How attempts have ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// How many.
    pub count: u64,
    /// How many failed, by the numbers of their codes.
    pub failures: BTreeMap<i32, u64>,
    /// How long they waited, in microseconds.
    pub wait: Histogram,
    /// How long they ran, in microseconds.
    pub duration: Histogram,
    /// What they held at most, in bytes.
    pub memory: Histogram,
}

impl Profile {
    /// Counts one.
    pub fn note(&mut self, sample: &Sample) {
        self.count += 1;
        if let Some(code) = sample.failure {
            *self.failures.entry(code.number()).or_default() += 1;
        }
        sample.wait.into_iter().for_each(|wait| self.wait.note(micros(wait)));
        sample.duration.into_iter().for_each(|took| self.duration.note(micros(took)));
        sample.memory_bytes.into_iter().for_each(|bytes| self.memory.note(bytes));
    }

    /// Adds what another one has counted.
    pub fn merge(&mut self, other: &Profile) {
        self.count = self.count.saturating_add(other.count);
        for (code, count) in &other.failures {
            let own = self.failures.entry(*code).or_default();
            *own = own.saturating_add(*count);
        }
        self.wait.merge(&other.wait);
        self.duration.merge(&other.duration);
        self.memory.merge(&other.memory);
    }

    /// How many failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// When the slot begins that this time is in.
#[must_use]
pub fn slot_of(time: Timestamp) -> Timestamp {
    let slot = i64::try_from(SLOT.as_millis()).expect("minutes in milliseconds");
    Timestamp::from_millis(time.as_millis().div_euclid(slot) * slot)
}

/// The slots that were kept from `since` until `now`, oldest first.
#[must_use]
pub fn slots(since: Timestamp, now: Timestamp) -> Vec<Timestamp> {
    let kept = i64::try_from(KEPT.as_millis()).expect("hours in milliseconds");
    let mut slot = slot_of(since.max(Timestamp::from_millis(now.as_millis() - kept)));
    let mut slots = Vec::new();
    while slot <= now {
        slots.push(slot);
        slot = slot.after(SLOT);
    }
    slots
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn only_what_is_known_of_an_attempt_is_counted_and_parts_add_up() {
        let whole = Sample {
            failure: None,
            wait: Some(Duration::from_millis(3)),
            duration: Some(Duration::from_secs(1)),
            memory_bytes: Some(1 << 20),
        };
        let refused = Sample { failure: Some(Code::InvalidParams), ..Sample::default() };
        let (mut one, mut two) = (Profile::default(), Profile::default());
        one.note(&whole);
        one.note(&refused);
        two.note(&refused);
        one.merge(&two);
        assert_eq!((one.count, one.failed()), (3, 2));
        assert_eq!(one.failures, [(Code::InvalidParams.number(), 2)].into());
        let known =
            [&one.wait, &one.duration, &one.memory].map(|histogram| (histogram.count(), histogram.max()));
        assert_eq!(known, [(1, Some(3_000)), (1, Some(1_000_000)), (1, Some(1 << 20))]);
    }

    #[test]
    fn slots_are_of_five_minutes_and_no_older_than_what_is_kept() {
        assert_eq!(slot_of(at(299)), at(0));
        assert_eq!(slot_of(at(300)), at(300));
        assert_eq!(slot_of(at(-1)), at(-300));
        assert_eq!(slots(at(299), at(600)), [at(0), at(300), at(600)]);
        assert_eq!(slots(at(601), at(600)), [at(600)]);
        assert_eq!(slots(at(901), at(600)), [] as [Timestamp; 0]);
        let all = slots(at(0), at(1_000_000));
        assert_eq!((all.len(), all[0]), (289, slot_of(at(1_000_000 - 86_400))));
    }
}
