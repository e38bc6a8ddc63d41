//! What a worker has, what tasks ask of it, and which of them have it at once.
//!
//! Amounts are whole numbers, so that what was taken and what is given back are the same. [`Floor`] gives and takes:
//! each `take` gives all that is asked for or nothing.
//!
//! Small tasks may overtake a large one that waits, or one that can never begin would keep everybody away; and a large
//! one that is always overtaken would never begin. So of those who have waited for [`AGE`] the one that has waited
//! longest is the *first*, and room is kept for it: what it asks for counts as taken for all that come later, who go on
//! beside it where both fit. Only for one at a time, so that two cannot keep from each other what each lacks. And for a
//! while only: tasks that run for longer than that would otherwise keep everybody away with it. Each while is twice as
//! long as the one before ([`KEPT`] to [`KEPT_MAX`]), each pause three times the while, so that it costs others a
//! quarter of the time:
//!
//! ```text
//! it is the first ──▶ room is kept 30 s ── pause 90 s ──▶ 60 s ── 180 s ──▶ ... 300 s ── 900 s ──▶ 300 s ...
//! ```
//! So the first begins at the latest when those before it take no longer than [`KEPT_MAX`], and after it the next. A task
//! that waits somewhere else meanwhile has no place when it has not come back in time. When it comes after all it has the
//! place again that follows from since when it waits, and its whiles go on: else room would be kept for it without a pause.

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::core::clock::Timestamp;
use crate::core::id::TaskKey;
use crate::core::requirements::ResourceRequirements;

/// How long a task waits before room may be kept for it.
pub const AGE: Duration = Duration::from_secs(2);
/// How long it is kept at first.
pub const KEPT: Duration = Duration::from_secs(30);
/// The longest time that it is kept without a pause.
pub const KEPT_MAX: Duration = Duration::from_secs(300);
/// So many times longer than the while is the pause after it.
const PAUSE: u32 = 3;
/// How many that wait are remembered.
const LINE_MAX: usize = 1000;
/// How many that have been the first and did not come back in time.
const PAST_MAX: usize = 32;

/// What there is to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Processor cores, in thousandths.
    Cpu,
    /// Memory, in MiB.
    Memory,
    /// Memory of the graphics processor, in MiB.
    GpuMemory,
    /// Disk space, in MiB.
    Disk,
    /// Network bandwidth, in Mbit/s.
    Bandwidth,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 5] = [Kind::Cpu, Kind::Memory, Kind::GpuMemory, Kind::Disk, Kind::Bandwidth];

    /// As requirements and the configuration name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Cpu => "cpu_cores",
            Kind::Memory => "memory_mb",
            Kind::GpuMemory => "gpu_memory_mb",
            Kind::Disk => "disk_space_mb",
            Kind::Bandwidth => "network_bandwidth_mbps",
        }
    }

    /// An amount as people write it.
    #[must_use]
    pub fn number(self, amount: u64) -> Value {
        match self {
            Kind::Cpu if !amount.is_multiple_of(1000) => (amount as f64 / 1000.0).into(),
            Kind::Cpu => (amount / 1000).into(),
            Kind::Memory | Kind::GpuMemory | Kind::Disk | Kind::Bandwidth => amount.into(),
        }
    }
}

/// So much of each kind; 0: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts([u64; Kind::ALL.len()]);

/// How much there is of each kind; `None`: as much as anybody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals([Option<u64>; Kind::ALL.len()]);

impl Amounts {
    /// What is asked for, a fraction of a thousandth of a core rounded up.
    #[must_use]
    pub fn of(needs: &ResourceRequirements) -> Amounts {
        let mut amounts = [0; Kind::ALL.len()];
        for (kind, amount) in Kind::ALL.into_iter().zip(&mut amounts) {
            *amount = match kind {
                Kind::Cpu => needs.cpu_cores.map(thousandths),
                Kind::Memory => needs.memory_mb,
                Kind::GpuMemory => needs.gpu_memory_mb,
                Kind::Disk => needs.disk_space_mb,
                Kind::Bandwidth => needs.network_bandwidth_mbps,
            }
            .unwrap_or(0);
        }
        Amounts(amounts)
    }

    /// Whether it is nothing at all.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.0.iter().all(|amount| *amount == 0)
    }

    /// How much of a kind.
    #[must_use]
    pub fn get(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    fn plus(mut self, other: &Amounts) -> Amounts {
        self.0.iter_mut().zip(other.0).for_each(|(amount, more)| *amount = amount.saturating_add(more));
        self
    }

    fn minus(mut self, other: &Amounts) -> Amounts {
        self.0.iter_mut().zip(other.0).for_each(|(amount, less)| *amount = amount.saturating_sub(less));
        self
    }

    /// The same, without the kinds of which `other` is nothing.
    fn where_also(mut self, other: &Amounts) -> Amounts {
        let kinds = self.0.iter_mut().zip(other.0);
        kinds.filter(|(_, also)| *also == 0).for_each(|(amount, _)| *amount = 0);
        self
    }
}

impl Totals {
    /// So much of this kind.
    #[must_use]
    pub fn with(mut self, kind: Kind, total: Option<u64>) -> Totals {
        self.0[kind as usize] = total;
        self
    }

    /// How much of a kind.
    #[must_use]
    pub fn get(&self, kind: Kind) -> Option<u64> {
        self.0[kind as usize]
    }

    /// Whether there is so much.
    #[must_use]
    pub fn can_hold(&self, wants: &Amounts) -> bool {
        self.lacking(wants).next().is_none()
    }

    /// Of what there is not so much.
    pub fn lacking<'a>(&'a self, wants: &'a Amounts) -> impl Iterator<Item = Kind> + 'a {
        Kind::ALL.into_iter().filter(|kind| self.get(*kind).is_some_and(|total| total < wants.get(*kind)))
    }

    /// How near it comes to what is wanted: the least share of any kind, 1 where it has all.
    #[must_use]
    pub fn nearness(&self, wants: &Amounts) -> f64 {
        let share = |kind: Kind| match (self.get(kind), wants.get(kind)) {
            (Some(total), wanted) if total < wanted => total as f64 / wanted as f64,
            (Some(_) | None, _) => 1.0,
        };
        Kind::ALL.into_iter().map(share).fold(1.0, f64::min)
    }

    /// As documents have it: what is limited, by name.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        let limited = Kind::ALL.into_iter().filter_map(|kind| Some((kind, self.get(kind)?)));
        limited.map(|(kind, total)| (kind.name().to_owned(), kind.number(total))).collect()
    }

    /// Reads what [`Totals::to_json`] wrote; what is not there, or is no number, is not limited.
    #[must_use]
    pub fn from_json(members: &Map<String, Value>) -> Totals {
        let total = |kind: Kind| match (kind, members.get(kind.name())?) {
            (Kind::Cpu, value) => value.as_f64().map(thousandths),
            (Kind::Memory | Kind::GpuMemory | Kind::Disk | Kind::Bandwidth, value) => value.as_u64(),
        };
        Kind::ALL.into_iter().fold(Totals::default(), |totals, kind| totals.with(kind, total(kind)))
    }
}

/// Cores in thousandths, rounded up.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast is bounded by itself")]
pub fn thousandths(cores: f64) -> u64 {
    (cores * 1000.0).ceil().max(0.0) as u64
}

impl fmt::Display for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = Kind::ALL.into_iter().filter(|kind| self.get(*kind) > 0);
        let parts: Vec<String> =
            asked.map(|kind| format!("{} {}", kind.name(), kind.number(self.get(kind)))).collect();
        f.write_str(if parts.is_empty() { "nothing" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = Kind::ALL
            .into_iter()
            .map(|kind| match self.get(kind) {
                Some(total) => format!("{} {}", kind.name(), kind.number(total)),
                None => format!("{} unlimited", kind.name()),
            })
            .collect();
        f.write_str(&parts.join(", "))
    }
}

/// What is held, and who waits.
#[derive(Debug)]
pub struct Floor {
    totals: Totals,
    held: Amounts,
    line: Vec<Waiting>,
    first: Option<First>,
    /// Who has been the first and may come back, the last one last.
    past: Vec<First>,
}

/// Who has waited longest, and since when it is the first.
#[derive(Debug)]
struct First {
    key: TaskKey,
    since: Timestamp,
}

#[derive(Debug)]
struct Waiting {
    key: TaskKey,
    wants: Amounts,
    since: Timestamp,
    /// Then it is forgotten.
    until: Timestamp,
}

impl Floor {
    /// Nothing is held.
    #[must_use]
    pub fn new(totals: Totals) -> Floor {
        Floor { totals, held: Amounts::default(), line: Vec::new(), first: None, past: Vec::new() }
    }

    /// How much there is.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// What is held.
    #[must_use]
    pub fn held(&self) -> &Amounts {
        &self.held
    }

    /// Takes all of it or nothing; whoever gets nothing, and has waited `since` then, is in the line until `until`.
    pub fn take(
        &mut self,
        key: &TaskKey,
        wants: &Amounts,
        since: Timestamp,
        until: Timestamp,
        now: Timestamp,
    ) -> bool {
        let kept = match self.keeper(now) {
            // Where it asks for nothing of a kind nothing is kept of it.
            Some(keeper) if keeper.key != *key => keeper.wants.where_also(wants),
            Some(_) | None => Amounts::default(),
        };
        let is_free = self.totals.can_hold(&self.held.plus(wants).plus(&kept).where_also(wants));
        if is_free {
            self.leave(key);
            self.held = self.held.plus(wants);
            return true;
        }
        self.line.retain(|waiting| waiting.key != *key);
        // Room is not kept for what can never be held.
        if self.totals.can_hold(wants) && self.line.len() < LINE_MAX {
            self.line.push(Waiting { key: key.clone(), wants: *wants, since, until });
        }
        false
    }

    /// Whether it is the first of those who wait.
    pub fn is_first(&mut self, key: &TaskKey, now: Timestamp) -> bool {
        self.look(now);
        self.first.as_ref().is_some_and(|first| first.key == *key)
    }

    /// Whether room is kept for it now.
    pub fn keeps_room(&mut self, key: &TaskKey, now: Timestamp) -> bool {
        self.keeper(now).is_some_and(|keeper| keeper.key == *key)
    }

    /// It comes back, by `until` at the latest.
    pub fn comes_back(&mut self, key: &TaskKey, until: Timestamp) {
        if let Some(waiting) = self.line.iter_mut().find(|waiting| waiting.key == *key) {
            waiting.until = until;
        }
    }

    /// It waits no more.
    pub fn leave(&mut self, key: &TaskKey) {
        self.line.retain(|waiting| waiting.key != *key);
        self.first.take_if(|first| first.key == *key);
        self.past.retain(|first| first.key != *key);
    }

    /// Gives back what was taken.
    pub fn give_back(&mut self, taken: &Amounts) {
        debug_assert!(Kind::ALL.iter().all(|kind| taken.get(*kind) <= self.held.get(*kind)), "it was taken");
        self.held = self.held.minus(taken);
    }

    /// For whom room is kept now.
    fn keeper(&mut self, now: Timestamp) -> Option<&Waiting> {
        self.look(now);
        let first = self.first.as_ref().filter(|first| is_keeping(now.since(first.since)))?;
        self.line.iter().find(|waiting| waiting.key == first.key)
    }

    /// Forgets who has not come back, and finds out who is the first now.
    fn look(&mut self, now: Timestamp) {
        self.line.retain(|waiting| waiting.until > now);
        let aged = self.line.iter().filter(|waiting| now.since(waiting.since) >= AGE);
        let first = aged.min_by_key(|waiting| (waiting.since, &waiting.key)).map(|waiting| &waiting.key);
        if first == self.first.as_ref().map(|first| &first.key) {
            return;
        }
        let first = first.map(|key| {
            let known = self.past.iter().position(|past| past.key == *key);
            known.map_or_else(|| First { key: key.clone(), since: now }, |at| self.past.remove(at))
        });
        if let Some(before) = std::mem::replace(&mut self.first, first) {
            if self.past.len() >= PAST_MAX {
                self.past.remove(0);
            }
            self.past.push(before);
        }
    }
}

/// Whether room is kept for who has been the first for so long.
#[must_use]
pub fn is_keeping(mut first_for: Duration) -> bool {
    let mut kept = KEPT;
    while kept < KEPT_MAX {
        if first_for < kept * (1 + PAUSE) {
            return first_for < kept;
        }
        first_for -= kept * (1 + PAUSE);
        kept = (kept * 2).min(KEPT_MAX);
    }
    let round = (KEPT_MAX * (1 + PAUSE)).as_millis();
    first_for.as_millis() % round < KEPT_MAX.as_millis()
}
