//! When a schedule fires: slots from a cron expression in a time zone, and what becomes of slots that were missed.
//!
//! A *slot* is a point in time at which a schedule is to fire. Slots are counted in UTC; the zone only says where
//! they are. Where a zone skips an hour, an expression with a fixed hour and minute fires once, at the first moment
//! after the gap, and one with a wildcard or a step has no slots in it. Where a zone repeats an hour, a fixed time
//! fires once, in the first pass, and a wildcard or step fires in both. These are the rules of Vixie cron, and of
//! the library that finds the next match (croner).
//!
//! Everything here follows from one function, [`Timetable::after`], which only looks forward: what was missed is
//! found by asking it from earlier times, so both directions cannot disagree.

mod timetable;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::core::clock::Timestamp;

pub use timetable::{CRON_BYTES_MAX, Timetable, check_cron, check_zone};

/// Most slots that are made up for in one go; of more that were missed, the newest so many are.
pub const RUNS_MAX: usize = 1000;

/// How many missed slots are counted in one go; of more, only so many are.
const MISSED_MAX: u64 = 10_000;

/// The grace when nothing else is said.
pub const GRACE: Duration = Duration::from_secs(60);

/// The shortest grace; a shorter one counts as this. No slot fires on the dot: a message waits in steps of 100 ms,
/// and a worker takes its time. With less, an idle machine would call each slot missed.
pub const GRACE_MIN: Duration = Duration::from_secs(1);

/// What becomes of slots that nobody was there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// The newest one fires, those before it are missed.
    #[default]
    Latest,
    /// Each one fires, in order; of more than [`RUNS_MAX`] the newest.
    All,
    /// Those that are late by more than the grace are missed.
    None,
}

impl CatchUp {
    /// Every policy, in the order of the documents.
    pub const ALL: [CatchUp; 3] = [CatchUp::Latest, CatchUp::All, CatchUp::None];

    /// The name in messages and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            CatchUp::Latest => "latest",
            CatchUp::All => "all",
            CatchUp::None => "none",
        }
    }

    /// The policy of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<CatchUp> {
        CatchUp::ALL.into_iter().find(|policy| policy.name() == text)
    }
}

/// What becomes of a slot while the run before it has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// It fires.
    #[default]
    Allow,
    /// It is left out, and counted.
    Skip,
}

impl Overlap {
    /// Every policy, in the order of the documents.
    pub const ALL: [Overlap; 2] = [Overlap::Allow, Overlap::Skip];

    /// The name in messages and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Overlap::Allow => "allow",
            Overlap::Skip => "skip",
        }
    }

    /// The policy of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Overlap> {
        Overlap::ALL.into_iter().find(|policy| policy.name() == text)
    }
}

/// When a schedule fires.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Its slots.
    pub timetable: Timetable,
    /// What becomes of slots that nobody was there for.
    pub catch_up: CatchUp,
    /// How late a slot may fire under [`CatchUp::None`]; at least [`GRACE_MIN`].
    pub grace: Duration,
    /// What becomes of a slot while the run before it has not ended.
    pub overlap: Overlap,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The slots that fire, in order.
    pub runs: Vec<Timestamp>,
    /// How many slots before them were missed; of more than 10,000 so many.
    pub missed: u64,
    /// The first slot that is still to come; `None` if there is none any more.
    pub next: Option<Timestamp>,
}

impl Rules {
    /// What is to be done at `now` with the slots from `armed` on, which is one itself and is due. All slots until
    /// `now` are in it: fired or missed.
    #[must_use]
    pub fn due(&self, armed: Timestamp, now: Timestamp) -> Due {
        self.due_since(armed, now, now)
    }

    /// As [`Rules::due`], where somebody was there from `since` on and could not fire: what was due is judged as of
    /// then, and each slot after it fires. Of more than [`RUNS_MAX`] the newest.
    #[must_use]
    pub fn due_since(&self, armed: Timestamp, since: Timestamp, now: Timestamp) -> Due {
        let since = since.max(armed).min(now);
        let (from, most) = match self.catch_up {
            CatchUp::Latest => (armed, 1),
            CatchUp::All => (armed, RUNS_MAX),
            CatchUp::None => (armed.max(before(since, self.grace.max(GRACE_MIN))), RUNS_MAX),
        };
        let millisecond = Duration::from_millis(1);
        let first = self.timetable.newest(from, since, most).first().copied();
        let runs = self.timetable.newest(first.unwrap_or(since.after(millisecond)), now, RUNS_MAX);
        let until = runs.first().copied().unwrap_or_else(|| now.after(millisecond));
        let missed = self.timetable.from(armed).take_while(|slot| *slot < until);
        let missed = missed.take(MISSED_MAX as usize).count() as u64;
        Due { runs, missed, next: self.timetable.after(now) }
    }
}

fn before(time: Timestamp, duration: Duration) -> Timestamp {
    let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(time.as_millis().saturating_sub(millis))
}
