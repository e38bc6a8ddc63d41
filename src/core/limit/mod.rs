//! How often something may be done: a bucket that fills at a steady rate (the generic cell rate algorithm).
//!
//! A bucket is one number: when it will be full again. Taking `cost` moves that later by `cost / rate`; what is taken
//! may start as soon as the bucket holds it, at once or in a while. So whoever is told to start later holds a place in
//! line, and nobody asks twice. Who would start later than its patience is refused and told when to come again.
//!
//! ```text
//! now ─────────────── full_at ───▶ time      (full_at - now) x rate: what is missing in the bucket;
//!                                            more than `burst` is missing: a debt, and the next one waits
//! ```
//! *Nobody starves.* Whether somebody is taken in does not depend on what it costs: it is when one unit would start
//! within its patience. What costs more then waits for the rest of its cost, ahead of all who come later.
//!
//! *Costs that are known only afterwards* are reserved first and settled with the real use: the difference is given back
//! or taken. What was used beyond the reserve is a debt, which delays others and is never refused; for a day at the
//! most, whatever a call says that it costs ([`Rule::cost_max`]).

mod rule;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use rule::{COST_MAX, Cost, InvalidRate, Key, Rule, Scope, rate};

/// Microseconds of a second.
const SECOND: f64 = 1e6;

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Units a second, above 0.
    pub per_second: f64,
    /// What may be done at once when nothing was done for a while, at least 1. What costs more than this needs a full
    /// bucket and leaves a debt.
    pub burst: f64,
}

/// What is left, in terms of time: microseconds since some origin, the same in all calls.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bucket {
    /// When it will be full by what was taken and given back; any time before now means that it is.
    pub full_at: f64,
    /// When it can be full at the soonest, whatever is given back: somebody has asked for quiet.
    pub full_not_before: f64,
}

impl Pace {
    /// The time in which one unit comes, in microseconds.
    #[must_use]
    pub fn step(&self) -> f64 {
        SECOND / self.per_second
    }

    /// How many of `cost` each are taken in at once by a full bucket, with this patience; at least 1.
    #[must_use]
    pub fn within(&self, patience: Duration, cost: f64) -> u16 {
        let units = self.per_second * patience.as_secs_f64() + self.burst;
        // A cast from a float saturates.
        (units / cost.max(f64::MIN_POSITIVE)).ceil().max(1.0) as u16
    }
}

impl Bucket {
    /// Takes `cost` at `now` for what may start within `patience`. Answers after which time it may.
    ///
    /// # Errors
    /// Nothing is taken; the time after which one unit could start at once.
    pub fn take(
        &mut self,
        pace: &Pace,
        cost: f64,
        now: f64,
        patience: Duration,
    ) -> Result<Duration, Duration> {
        let (step, from) = (pace.step(), self.full_at.max(self.full_not_before).max(now));
        let start = |cost: f64| (from + (cost.min(pace.burst) - pace.burst) * step - now).max(0.0);
        let first = start(cost.min(1.0));
        if first > micros(patience) {
            return Err(duration(first));
        }
        self.full_at = from + cost * step;
        Ok(duration(start(cost)))
    }

    /// Goes by another pace from now on. What a faster one gives sooner is there sooner; a slower one takes nothing back.
    /// For how long somebody has asked for quiet is no matter of pace.
    pub fn adopt(&mut self, before: &Pace, after: &Pace, now: f64) {
        if self.full_at > now && after.per_second > before.per_second {
            self.full_at = now + (self.full_at - now) * (before.per_second / after.per_second);
        }
    }

    /// `more` was used than was taken; less, if it is negative.
    pub fn settle(&mut self, pace: &Pace, more: f64, now: f64) {
        self.full_at = self.full_at.max(now) + more * pace.step();
    }

    /// Nothing may start before `wait` is over; then one unit, and the others at the bucket's pace. What is given back
    /// in the meantime does not end it.
    pub fn shut(&mut self, pace: &Pace, wait: Duration, now: f64) {
        let full_at = now + micros(wait) + (pace.burst - 1.0) * pace.step();
        self.full_not_before = self.full_not_before.max(full_at);
    }

    /// Whether it is full, so that nothing is lost with it.
    #[must_use]
    pub fn is_full(&self, now: f64) -> bool {
        self.full_at.max(self.full_not_before) <= now
    }
}

/// In microseconds.
#[must_use]
pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * SECOND
}

/// From microseconds; rounded up, so that nobody comes too soon.
#[must_use]
pub fn duration(micros: f64) -> Duration {
    // A cast from a float saturates.
    Duration::from_micros(micros.ceil() as u64)
}
