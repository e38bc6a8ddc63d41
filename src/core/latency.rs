//! How long calls take now, by those that have ended.

use std::time::Duration;

/// How fast a latency is forgotten: after this time a peak counts for a third.
const DECAY: Duration = Duration::from_secs(10);

/// How long calls take: rises to each peak at once, and falls as time passes (peak EWMA).
#[derive(Debug, Clone, Copy, Default)]
pub struct Latency {
    seen: Option<(f64, Duration)>,
}

impl Latency {
    /// A call that ended at `now` took `took`.
    pub fn observe(&mut self, took: Duration, now: Duration) {
        let took = took.as_secs_f64();
        let value = match self.seen {
            Some((value, at)) if took < value => {
                let kept = decayed(at, now);
                value * kept + took * (1.0 - kept)
            }
            Some(_) | None => took,
        };
        self.seen = Some((value, now));
    }

    /// How long a call is expected to take at `now`; `None` if none was made.
    #[must_use]
    pub fn at(&self, now: Duration) -> Option<Duration> {
        let (value, at) = self.seen?;
        Some(Duration::from_secs_f64(value * decayed(at, now)))
    }
}

/// What is left of a value of `at`, as a share.
fn decayed(at: Duration, now: Duration) -> f64 {
    (-(now.saturating_sub(at).as_secs_f64()) / DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_rises_at_once_and_falls_with_time() {
        let mut latency = Latency::default();
        let seconds = Duration::from_secs;
        assert_eq!(latency.at(seconds(0)), None);
        latency.observe(seconds(1), seconds(0));
        latency.observe(seconds(4), seconds(1));
        assert_eq!(latency.at(seconds(1)), Some(seconds(4)));
        latency.observe(seconds(1), seconds(11));
        let now = latency.at(seconds(11)).expect("observed").as_secs_f64();
        assert!((2.0..2.2).contains(&now), "{now}");
        assert!(latency.at(seconds(120)).expect("observed") < Duration::from_millis(1));
    }
}
