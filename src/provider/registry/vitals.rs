//! What is known of a provider's calls and of the looks at it, since it was registered.

use std::time::Duration;

use crate::core::breaker::Ending;
use crate::core::failure::Failure;
use crate::core::histogram::Histogram;

/// How a provider has done. Ages are counted from the moment of the question.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Vitals {
    /// Calls that have ended.
    pub calls: u64,
    /// Those of them that failed by the provider's own doing.
    pub failures: u64,
    /// Such failures since a call went well.
    pub consecutive_failures: u32,
    /// How long calls took that went well, in microseconds.
    pub latency: Histogram,
    /// How long a call is expected to take now (peak EWMA); `None` before the first one.
    pub expected: Option<Duration>,
    /// The last such failure, and how long ago it was.
    pub last_failure: Option<(Failure, Duration)>,
    /// How long ago the last look began, and how long it took.
    pub last_check: Option<(Duration, Duration)>,
    /// When the next look is due at the latest.
    pub next_check: Option<Duration>,
}

/// The same with times since the registry was made.
#[derive(Debug, Default)]
pub(super) struct Record {
    calls: u64,
    failures: u64,
    consecutive_failures: u32,
    latency: Histogram,
    last_failure: Option<(Failure, Duration)>,
    last_check: Option<(Duration, Duration)>,
    next_check: Option<Duration>,
}

impl Record {
    /// A call has ended: well, after `took`, or with what it tells of the provider.
    pub(super) fn ended(&mut self, outcome: Result<Duration, &Failure>, ending: Ending, now: Duration) {
        self.calls += 1;
        match (outcome, ending) {
            (Ok(took), _) => {
                self.latency.note(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                self.consecutive_failures = 0;
            }
            (Err(failure), Ending::Bad) => {
                self.failures += 1;
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                // What a failure carries may be large, and is with its task.
                let small = Failure { details: serde_json::Map::new(), ..failure.clone() };
                self.last_failure = Some((small, now));
            }
            (Err(_), Ending::Good) => self.consecutive_failures = 0,
            (Err(_), Ending::Untold) => {}
        }
    }

    /// It was looked at from `began` to `now`.
    pub(super) fn checked(&mut self, began: Duration, now: Duration) {
        self.last_check = Some((began, now.saturating_sub(began)));
    }

    /// It is looked at again by then.
    pub(super) fn next_check(&mut self, at: Duration) {
        self.next_check = Some(at);
    }

    pub(super) fn vitals(&self, expected: Option<Duration>, now: Duration) -> Vitals {
        let ago = |at: Duration| now.saturating_sub(at);
        Vitals {
            calls: self.calls,
            failures: self.failures,
            consecutive_failures: self.consecutive_failures,
            latency: self.latency.clone(),
            expected,
            last_failure: self.last_failure.as_ref().map(|(failure, at)| (failure.clone(), ago(*at))),
            last_check: self.last_check.map(|(began, took)| (ago(began), took)),
            next_check: self.next_check.map(|at| at.saturating_sub(now)),
        }
    }
}
