//! Which delay queue a wait takes: a binary cascade, pure.
//!
//! Level `n` is an exchange and a queue of the same name; the queue keeps a message for `100 ms * 2^n` and
//! then dead-letters it to the exchange of level `n - 1`. A delay is written in the routing key, one bit a
//! level from 27 down to 0, then the target:
//!
//! ```text
//!  300 ms = 3 units  "0. ... .0.1.1.tasks.python.v1", enters at level 1
//!
//!  level 01 ──1──▶ queue 01 (200 ms) ──▶ level 00 ──1──▶ queue 00 (100 ms) ──▶ due ──▶ task queue
//!     └────0──────────────────────────────▲  └──0──────────────────────────────▲
//! ```
//!
//! A 1 waits in the level's queue, a 0 goes straight on. Entering at the highest 1 saves the hops above it,
//! which at the top cost seconds under load. The routing key never changes, so no header is needed, and the
//! last exchange, `gleitzeit.delay.due`, routes by what follows the bits. Delays are rounded up to 100 ms:
//! a message is late by less than that, and never early.

use std::time::Duration;

use super::Queue;

/// Levels of the cascade.
pub const LEVELS: u8 = 28;

/// The wait of level 0, and so the resolution.
pub const UNIT: Duration = Duration::from_millis(100);

/// The longest delay: 310 days.
pub const DELAY_MAX: Duration = Duration::from_millis(100 * ((1 << LEVELS) - 1));

/// The exchange that a message reaches when it is due.
pub const DUE_EXCHANGE: &str = "gleitzeit.delay.due";

/// What the names of every delay queue and exchange begin with.
pub const PREFIX: &str = "gleitzeit.delay.";

/// How a delayed message enters the cascade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The exchange to publish to: the level of the highest bit.
    pub exchange: String,
    /// The delay's bits, then the target.
    pub routing_key: String,
}

/// A delay that the cascade cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a delay of {} seconds is longer than 310 days", .0.as_secs())]
pub struct TooLong(Duration);

/// Where to publish what `queue` shall get after `delay`; `None` if the delay is zero.
///
/// # Errors
/// [`TooLong`] above [`DELAY_MAX`].
pub fn entry(delay: Duration, queue: &Queue) -> Result<Option<Entry>, TooLong> {
    entry_to(delay, &queue.name())
}

/// As [`entry`], for the queue of ours that has this name on the broker.
///
/// # Errors
/// [`TooLong`] above [`DELAY_MAX`].
pub fn entry_to(delay: Duration, name: &str) -> Result<Option<Entry>, TooLong> {
    let units = delay.as_nanos().div_ceil(UNIT.as_nanos());
    let units = u32::try_from(units).ok().filter(|units| *units < 1 << LEVELS).ok_or(TooLong(delay))?;
    if units == 0 {
        return Ok(None);
    }
    let highest = u8::try_from(units.ilog2()).expect("a logarithm of 28 bits is below 28");
    let mut routing_key = String::with_capacity(2 * usize::from(LEVELS) + 48);
    for level in (0..LEVELS).rev() {
        routing_key.push(if units >> level & 1 == 1 { '1' } else { '0' });
        routing_key.push('.');
    }
    routing_key.push_str(target(name));
    Ok(Some(Entry { exchange: level_name(highest), routing_key }))
}

/// The name of a level's exchange and queue, with the wait readable: `gleitzeit.delay.05.3.2s`.
#[must_use]
pub fn level_name(level: u8) -> String {
    format!("{PREFIX}{level:02}.{}", readable(level_wait(level)))
}

/// How long a message stays in the queue of `level`.
#[must_use]
pub fn level_wait(level: u8) -> Duration {
    UNIT * (1 << level)
}

/// The exchange that follows `level`: the level below, or the due exchange.
#[must_use]
pub fn next_exchange(level: u8) -> String {
    match level.checked_sub(1) {
        Some(below) => level_name(below),
        None => DUE_EXCHANGE.to_owned(),
    }
}

/// The binding key, at the exchange of `level`, of the messages whose bit is `waits`.
#[must_use]
pub fn level_pattern(level: u8, waits: bool) -> String {
    let above = usize::from(LEVELS - 1 - level);
    format!("{}{}.#", "*.".repeat(above), u8::from(waits))
}

/// The binding key, at the due exchange, of the queue that has this name.
#[must_use]
pub fn due_pattern(name: &str) -> String {
    format!("{}{}", "*.".repeat(usize::from(LEVELS)), target(name))
}

/// The queue that a routing key of the cascade leads to, if it is one and the queue is ours.
#[must_use]
pub fn target_of(routing_key: &str) -> Option<Queue> {
    Queue::from_name(&target_name(routing_key)?)
}

/// The name of the queue that a routing key of the cascade leads to, if it is one.
#[must_use]
pub fn target_name(routing_key: &str) -> Option<String> {
    let (bits, target) = routing_key.split_at_checked(2 * usize::from(LEVELS))?;
    let is_bits = bits.as_bytes().chunks(2).all(|pair| matches!(pair, [b'0' | b'1', b'.']));
    if !is_bits {
        return None;
    }
    Some(format!("{OURS}{target}"))
}

/// What the names of our queues begin with, which no target needs.
const OURS: &str = "gleitzeit.";

/// What follows the bits: the queue's name without `gleitzeit.`.
fn target(name: &str) -> &str {
    name.strip_prefix(OURS).unwrap_or(name)
}

/// A wait in at most two units, cut and not rounded: the names must not overlap.
fn readable(wait: Duration) -> String {
    let seconds = wait.as_secs();
    match seconds {
        0 => format!("{}ms", wait.as_millis()),
        1..60 => format!("{seconds}.{}s", wait.subsec_millis() / 100),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Address;
    use proptest::prelude::*;

    fn python() -> Queue {
        Queue::Tasks(Address::parse("python.v1").expect("valid"))
    }

    /// Walks the exchanges as the broker would, by patterns and not by arithmetic: how long, and to where.
    fn walk(entry: &Entry, queues: &[Queue]) -> (Duration, Vec<Queue>) {
        let mut waited = Duration::ZERO;
        let mut exchange = entry.exchange.clone();
        for _ in 0..=LEVELS {
            let Some(level) = (0..LEVELS).find(|level| level_name(*level) == exchange) else { break };
            let waits = matches_topic(&level_pattern(level, true), &entry.routing_key);
            let passes = matches_topic(&level_pattern(level, false), &entry.routing_key);
            assert!(waits != passes, "exactly one binding of {exchange} takes {}", entry.routing_key);
            if waits {
                waited += level_wait(level);
            }
            exchange = next_exchange(level);
        }
        assert_eq!(exchange, DUE_EXCHANGE);
        let due = |queue: &&Queue| matches_topic(&due_pattern(&queue.name()), &entry.routing_key);
        (waited, queues.iter().filter(due).cloned().collect())
    }

    /// A topic exchange's matching: `*` is one word, a final `#` any number.
    fn matches_topic(pattern: &str, key: &str) -> bool {
        let (mut pattern, mut key) = (pattern.split('.'), key.split('.'));
        loop {
            match (pattern.next(), key.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(wanted), Some(word)) if wanted == word => {}
                _ => return false,
            }
        }
    }

    #[test]
    fn a_delay_enters_at_its_highest_bit() {
        let cases = [
            (1, "gleitzeit.delay.00.100ms", 100),
            (100, "gleitzeit.delay.00.100ms", 100),
            (101, "gleitzeit.delay.01.200ms", 200),
            (250, "gleitzeit.delay.01.200ms", 300),
            (1_500, "gleitzeit.delay.03.800ms", 1_500),
            (3_200, "gleitzeit.delay.05.3.2s", 3_200),
            (60_000, "gleitzeit.delay.09.51.2s", 60_000),
            (86_400_000, "gleitzeit.delay.19.14h33m", 86_400_000),
            (26_843_545_500, "gleitzeit.delay.27.155d08h", 26_843_545_500),
        ];
        for (millis, exchange, waited) in cases {
            let entry = entry(Duration::from_millis(millis), &python()).expect("fits").expect("waits");
            assert_eq!(entry.exchange, exchange, "{millis} ms");
            assert_eq!(walk(&entry, &[python()]), (Duration::from_millis(waited), vec![python()]));
        }
    }

    #[test]
    fn the_bounds_are_kept() {
        assert_eq!(entry(Duration::ZERO, &python()), Ok(None));
        assert!(matches!(entry(DELAY_MAX, &python()), Ok(Some(_))));
        assert!(entry(DELAY_MAX + Duration::from_nanos(1), &python()).is_err());
        assert!(entry(Duration::MAX, &python()).is_err());
        assert_eq!(DELAY_MAX.as_secs() / 86_400, 310);
    }

    #[test]
    fn the_key_is_the_bits_and_the_target() {
        let entry = entry(Duration::from_millis(300), &python()).expect("fits").expect("waits");
        assert_eq!(entry.routing_key, format!("{}1.1.tasks.python.v1", "0.".repeat(26)));
        assert_eq!(entry.exchange, "gleitzeit.delay.01.200ms");
        assert_eq!(target_of(&entry.routing_key), Some(python()));
        for foreign in ["python.v1", "0.1.tasks.python.v1", &format!("{}2.tasks.python.v1", "0.".repeat(27))]
        {
            assert_eq!(target_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn every_name_is_its_own_and_fits() {
        let mut names: Vec<String> = (0..LEVELS).map(level_name).collect();
        assert_eq!(names[4], "gleitzeit.delay.04.1.6s");
        assert_eq!(names[10], "gleitzeit.delay.10.1m42s");
        assert_eq!(names[27], "gleitzeit.delay.27.155d08h");
        names.dedup();
        assert_eq!(names.len(), usize::from(LEVELS));
        let longest = Address::parse(&format!("{}.v1", "a".repeat(93))).expect("the longest address");
        let entry = entry(DELAY_MAX, &Queue::Tasks(longest)).expect("fits").expect("waits");
        assert!(entry.routing_key.len() <= 255 && level_name(27).len() <= 255);
    }

    proptest! {
        #[test]
        fn the_cascade_waits_at_least_the_delay_and_ends_in_the_target(millis in 1u64..=26_843_545_500, which in 0usize..5) {
            let other = Address::parse("llm.v1").expect("valid");
            let inbox_like = Address::parse("dead.inbox").expect("valid");
            let queues = [python(), Queue::Workflows, Queue::Inbox, Queue::Dead(other), Queue::Tasks(inbox_like)];
            let delay = Duration::from_millis(millis);
            let entry = entry(delay, &queues[which]).expect("fits").expect("waits");
            let (waited, reached) = walk(&entry, &queues);
            prop_assert!(waited >= delay && waited - delay < UNIT);
            prop_assert_eq!(reached, vec![queues[which].clone()]);
            prop_assert_eq!(target_of(&entry.routing_key), Some(queues[which].clone()));
        }
    }
}
