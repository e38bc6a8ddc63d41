//! Time and chance, the only source of both for whatever decides.

use jiff::{RoundMode, Timestamp as Instant, TimestampRound, Unit};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

use super::id::Id;

/// Where time, chance and new ids come from.
///
/// # Law
/// 1. `now` is UTC with millisecond resolution; it may stand still, and it follows the machine's clock.
/// 2. `chance` is in `[0, 1)`.
/// 3. `new_id` never gives the same id twice.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The present time.
    fn now(&self) -> Timestamp;
    /// A number in `[0, 1)`.
    fn chance(&self) -> f64;
    /// A new id, sorted by time (UUIDv7).
    fn new_id(&self) -> Id;
}

/// A point in time in UTC, in milliseconds. As text RFC 3339 with milliseconds: `2026-01-02T03:04:05.678Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(i64);

/// A text that is not a point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time in RFC 3339, such as 2026-01-02T03:04:05Z")]
pub struct InvalidTimestamp(String);

impl Timestamp {
    /// From milliseconds since 1970-01-01T00:00:00Z, clamped to the years -9999 to 9999.
    #[must_use]
    pub fn from_millis(millis: i64) -> Timestamp {
        Timestamp(millis.clamp(Instant::MIN.as_millisecond(), Instant::MAX.as_millisecond()))
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// The time `duration` later, rounded up to a millisecond so that nothing is ever early.
    #[must_use]
    pub fn after(self, duration: Duration) -> Timestamp {
        let millis = i64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX);
        Timestamp::from_millis(self.0.saturating_add(millis))
    }

    /// How long from `earlier` to this time; zero if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instant = Instant::from_millisecond(self.0).unwrap_or(Instant::UNIX_EPOCH);
        write!(f, "{instant:.3}")
    }
}

impl std::str::FromStr for Timestamp {
    type Err = InvalidTimestamp;
    fn from_str(text: &str) -> Result<Timestamp, InvalidTimestamp> {
        let wrong = || InvalidTimestamp(text.chars().take(64).collect());
        let instant: Instant = text.parse().map_err(|_| wrong())?;
        // Rounded up: what is due must never be early.
        let up = TimestampRound::new().smallest(Unit::Millisecond).mode(RoundMode::Ceil);
        Ok(Timestamp(instant.round(up).map_err(|_| wrong())?.as_millisecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_back_what_it_wrote() {
        let time = Timestamp::from_millis(1_767_323_045_678);
        assert_eq!(time.to_string(), "2026-01-02T03:04:05.678Z");
        assert_eq!(time.to_string().parse(), Ok(time));
        assert_eq!("2026-01-02T04:04:05.678+01:00".parse(), Ok(time));
    }

    #[test]
    fn durations_round_up() {
        let time = Timestamp::from_millis(0).after(Duration::from_nanos(1));
        assert_eq!(time.as_millis(), 1);
    }
}
