//! How many members a pool has: what to start, what to let go. Times are passed in.
//!
//! ```text
//! start   up to `min`, and after a failed start at least one: who is not tried cannot show that it works
//!         when calls wait and nobody is there, at once
//!         when calls have waited for `wait`, or the members are busy for `busy` of their time: as many as the calls
//!         need, at most as many as there are already, then not again for `cooldown`
//! let go  who is worn out (uses, age, memory), when its calls have ended; who was idle for `idle`, beyond `min`;
//!         who is beyond `max`, as after it was lowered: the least busy first
//! never   more than `max` at once, those that are leaving included; a start before the pause after a failed one
//!         is over (`restart`, doubled by each failure up to `restart_max`), and then one at a time
//! ```
//! A member is let go by giving it no more calls. Calls go to the member that was used last, so that those that
//! are not needed become idle.

use std::cmp::Reverse;
use std::time::Duration;

/// After so many failures in a row nobody waits for a start any more: who asks is told.
pub const PATIENCE: u32 = 3;
/// How fast use is forgotten: after this time what was counts for a third.
const MEMORY: Duration = Duration::from_secs(5);
/// The most members that any pool may have.
pub const MEMBERS_MAX: u32 = 1000;

/// The bounds of a pool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Members that are always there.
    pub min: u32,
    /// The most members at once; at least 1, at least `min`, at most [`MEMBERS_MAX`].
    pub max: u32,
    /// Calls that a member takes at once; at least 1.
    pub concurrency: u32,
    /// A member beyond `min` that had no call for so long is let go.
    pub idle: Duration,
    /// Calls that a member takes in all.
    pub uses_max: Option<u64>,
    /// How old a member may be.
    pub age_max: Option<Duration>,
    /// What a member may hold, in bytes.
    pub memory_bytes_max: Option<u64>,
    /// Calls that may wait for a member; one more is refused.
    pub queue_max: usize,
    /// How long calls wait before more members are started for them.
    pub wait: Duration,
    /// From which share of use on more members are started for those who wait.
    pub busy: f64,
    /// Between two steps of growth.
    pub cooldown: Duration,
    /// The pause after a failed start.
    pub restart: Duration,
    /// The longest pause after failed starts.
    pub restart_max: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            min: 1,
            max: 4,
            concurrency: 1,
            idle: Duration::from_secs(60),
            uses_max: None,
            age_max: None,
            memory_bytes_max: None,
            queue_max: 1000,
            wait: Duration::from_millis(50),
            busy: 0.8,
            cooldown: Duration::from_millis(500),
            restart: Duration::from_millis(200),
            restart_max: Duration::from_secs(30),
        }
    }
}

/// A member, as the policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Member {
    /// How long it has been there.
    pub age: Duration,
    /// Calls that it is at.
    pub running: u32,
    /// How long it has had no call; zero while it has one.
    pub idle: Duration,
    /// Calls that it was given.
    pub uses: u64,
    /// What it holds, in bytes, if that is known.
    pub memory_bytes: Option<u64>,
    /// It gets no more calls.
    pub is_leaving: bool,
}

/// What a pool is like at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Need<'a> {
    /// Everybody who is there.
    pub members: &'a [Member],
    /// Members that are being started.
    pub starting: u32,
    /// Calls that wait.
    pub waiting: usize,
    /// For how long the first of them has.
    pub waited: Duration,
    /// The share of their time that members were busy.
    pub used: f64,
    /// Since the last step of growth; `None`: there was none.
    pub since_growth: Option<Duration>,
    /// Failed starts in a row.
    pub failures: u32,
    /// Since the last of them.
    pub since_failure: Duration,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// So many members more.
    pub start: u32,
    /// Whether that is a step of growth.
    pub is_growth: bool,
    /// Members that get no more calls, by their place in the list.
    pub leave: Vec<(usize, Why)>,
    /// When this is to be decided again although nothing happens.
    pub again: Option<Duration>,
    /// Who waits is told that there is nobody.
    pub give_up: bool,
}

/// Why a member is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It has had all its calls.
    Uses,
    /// It is too old.
    Age,
    /// It holds too much.
    Memory,
    /// It is not needed.
    Idle,
    /// There are more than there may be.
    Surplus,
}

impl Policy {
    /// What is to be done now.
    #[must_use]
    pub fn decide(&self, need: &Need<'_>) -> Plan {
        let mut plan = Plan::default();
        // After a failure somebody must be there to show that it is over, asked for or not.
        let floor = if need.failures > 0 { self.min.max(1) } else { self.min };
        let fit = self.let_go(need, floor, &mut plan);
        let present = fit.saturating_add(need.starting);
        let everybody = count(need.members.len()).saturating_add(need.starting);
        let paused = self.pause(need.failures).saturating_sub(need.since_failure);
        if need.failures > 0 && !paused.is_zero() {
            plan.give_up = need.failures >= PATIENCE && present == 0 && need.waiting > 0;
            sooner(&mut plan.again, paused);
            return plan;
        }
        let missing = floor.saturating_sub(present);
        let growth = self.growth(need, present, &mut plan);
        let mut start = missing.max(growth).min(self.max.saturating_sub(everybody));
        if need.failures > 0 {
            start = start.min(1_u32.saturating_sub(need.starting));
        }
        plan.start = start;
        plan.is_growth = start > missing;
        plan
    }

    /// Whether a member may be given one more call.
    #[must_use]
    pub fn has_room(&self, member: &Member) -> bool {
        !member.is_leaving
            && member.running < self.concurrency
            && self.uses_max.is_none_or(|max| member.uses < max)
    }

    /// How long nothing is started after so many failures in a row.
    #[must_use]
    pub fn pause(&self, failures: u32) -> Duration {
        let doubled =
            self.restart.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        if failures == 0 { Duration::ZERO } else { doubled.min(self.restart_max) }
    }

    /// Names those who leave, and counts those who stay.
    fn let_go(&self, need: &Need<'_>, floor: u32, plan: &mut Plan) -> u32 {
        let (mut fit, mut idle, mut staying) = (0, Vec::new(), Vec::new());
        for (place, member) in need.members.iter().enumerate().filter(|(_, member)| !member.is_leaving) {
            if let Some(why) = self.worn(member) {
                plan.leave.push((place, why));
                continue;
            }
            fit += 1;
            staying.push((member.running, Reverse(member.idle), place));
            if let Some(max) = self.age_max {
                sooner(&mut plan.again, max.saturating_sub(member.age));
            }
            if member.running == 0 {
                idle.push((member.idle, place));
            }
        }
        if fit > self.max {
            staying.sort();
            let surplus = usize::try_from(fit - self.max).unwrap_or(usize::MAX);
            plan.leave.extend(staying.iter().take(surplus).map(|(_, _, place)| (*place, Why::Surplus)));
            // Who is idle beyond that is looked at when these have gone.
            return self.max;
        }
        if need.waiting > 0 {
            return fit;
        }
        // Who was idle for longest goes first.
        idle.sort_by(|a, b| b.cmp(a));
        for (time, place) in idle {
            if fit <= floor {
                break;
            }
            if time < self.idle {
                sooner(&mut plan.again, self.idle - time);
                break;
            }
            plan.leave.push((place, Why::Idle));
            fit -= 1;
        }
        fit
    }

    fn worn(&self, member: &Member) -> Option<Why> {
        if self.uses_max.is_some_and(|max| member.uses >= max) {
            return Some(Why::Uses);
        }
        if self.age_max.is_some_and(|max| member.age >= max) {
            return Some(Why::Age);
        }
        let memory_bytes = member.memory_bytes.unwrap_or(0);
        self.memory_bytes_max.is_some_and(|max| memory_bytes > max).then_some(Why::Memory)
    }

    /// How many more the calls that wait need.
    fn growth(&self, need: &Need<'_>, present: u32, plan: &mut Plan) -> u32 {
        let coming = usize::try_from(need.starting.saturating_mul(self.concurrency)).unwrap_or(usize::MAX);
        let lacking = count(need.waiting.saturating_sub(coming)).div_ceil(self.concurrency);
        if lacking == 0 {
            return 0;
        }
        if present == 0 {
            return 1;
        }
        let patience = if need.used >= self.busy { Duration::ZERO } else { self.wait };
        let cooling = need.since_growth.map_or(Duration::ZERO, |since| self.cooldown.saturating_sub(since));
        let left = patience.saturating_sub(need.waited).max(cooling);
        if !left.is_zero() {
            if present < self.max {
                sooner(&mut plan.again, left);
            }
            return 0;
        }
        lacking.min(present)
    }
}

fn count(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

fn sooner(again: &mut Option<Duration>, wait: Duration) {
    *again = Some(again.map_or(wait, |known| known.min(wait)));
}

/// The share of their time that members are busy, with what was longer ago counting less.
#[derive(Debug, Clone, Copy, Default)]
pub struct Use {
    value: f64,
    at: Duration,
    /// The share since then.
    share: f64,
}

impl Use {
    /// From `now` on, `busy` of `all` places are taken.
    pub fn observe(&mut self, busy: u32, all: u32, now: Duration) {
        self.value = self.at(now);
        self.at = now;
        self.share = if all == 0 { 0.0 } else { f64::from(busy) / f64::from(all) };
    }

    /// The share at `now`.
    #[must_use]
    pub fn at(&self, now: Duration) -> f64 {
        let kept = (-(now.saturating_sub(self.at).as_secs_f64()) / MEMORY.as_secs_f64()).exp();
        self.value * kept + self.share * (1.0 - kept)
    }
}

#[cfg(test)]
mod tests;
