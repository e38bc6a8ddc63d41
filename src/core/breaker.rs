//! A breaker: keeps calls from what fails, and lets a few through to see whether it has recovered.
//!
//! ```text
//!          failures in a row, or their share of the window
//! closed ───────────────────────────────────────────────▶ open ◀── a probe failed: twice as long ──┐
//!    ▲                                                     │ its time is over                       │
//!    └──────────────── every probe succeeded ───────── half-open ──────────────────────────────────┘
//! ```
//! Times are durations since a moment of the caller's choice that never changes. A call's end counts for the
//! phase in which it was admitted only: what began before the breaker opened says nothing about a recovery.

use std::time::Duration;

/// How many parts the window has; the oldest is forgotten at once.
const PARTS: usize = 10;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Failures in a row that open it; at least 1.
    pub failures: u32,
    /// The share of failures in the window that opens it, in `(0, 1]`.
    pub share: f64,
    /// Calls in the window before their share counts.
    pub calls: u32,
    /// How far back the share looks.
    pub window: Duration,
    /// How long it is open at first.
    pub open: Duration,
    /// The longest that it is open: each probe that fails doubles the time.
    pub open_max: Duration,
    /// Calls at once, and successes in all, while it is half-open; at least 1.
    pub probes: u32,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            failures: 5,
            share: 0.5,
            calls: 20,
            window: Duration::from_secs(30),
            open: Duration::from_secs(1),
            open_max: Duration::from_secs(60),
            probes: 1,
        }
    }
}

/// What a breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Everything.
    Closed,
    /// Nothing, for this long.
    Open {
        /// Until it is half-open.
        left: Duration,
    },
    /// A few probes; so many more now.
    HalfOpen {
        /// Zero while enough are under way.
        free: u32,
    },
}

/// How a call ended, as far as it tells of whom was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It did its work, or refused what was wrong with the call.
    Good,
    /// It failed.
    Bad,
    /// Nothing can be told: the call was given up.
    Untold,
}

/// The right to make one call; tells [`Breaker::end`] what its end counts for.
#[derive(Debug, PartialEq, Eq)]
pub struct Pass {
    phase: u64,
}

/// The breaker of one instance.
#[derive(Debug, Clone)]
pub struct Breaker {
    policy: Policy,
    phase: Phase,
    /// How many phases there were.
    phases: u64,
    in_a_row: u32,
    window: Window,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    Open { until: Duration, length: Duration },
    HalfOpen { length: Duration, running: u32, good: u32, since: Duration },
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(policy: Policy) -> Breaker {
        let window = Window::new(policy.window);
        Breaker { policy, phase: Phase::Closed, phases: 0, in_a_row: 0, window }
    }

    /// Goes by other thresholds from now on. What it has seen stays known, but for a window of another length; one that
    /// is open stays so for the time that it was given.
    pub fn adopt(&mut self, policy: Policy) {
        if policy.window != self.policy.window {
            self.window = Window::new(policy.window);
        }
        self.policy = policy;
    }

    /// What it lets through at `now`.
    #[must_use]
    pub fn state(&self, now: Duration) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { until, .. } if now < until => State::Open { left: until - now },
            Phase::Open { .. } => State::HalfOpen { free: self.probes() },
            // A probe that does not end tells as little as one that was given up.
            Phase::HalfOpen { good, since, .. } if now >= since.saturating_add(self.policy.open_max) => {
                State::HalfOpen { free: self.probes().saturating_sub(good) }
            }
            Phase::HalfOpen { running, good, .. } => {
                State::HalfOpen { free: self.probes().saturating_sub(running + good) }
            }
        }
    }

    /// The right to one call at `now`, which must be given to [`Breaker::end`]. `None`: not now.
    pub fn admit(&mut self, now: Duration) -> Option<Pass> {
        match (self.state(now), self.phase) {
            (State::Closed, _) => {}
            (State::Open { .. } | State::HalfOpen { free: 0 }, _) => return None,
            (State::HalfOpen { .. }, Phase::HalfOpen { length, running, good, .. }) => {
                self.phase = Phase::HalfOpen { length, running: running + 1, good, since: now };
            }
            (State::HalfOpen { .. }, Phase::Open { length, .. }) => {
                self.enter(Phase::HalfOpen { length, running: 1, good: 0, since: now });
            }
            (State::HalfOpen { .. }, Phase::Closed) => {}
        }
        Some(Pass { phase: self.phases })
    }

    /// A call has ended at `now`.
    pub fn end(&mut self, pass: Pass, ending: Ending, now: Duration) {
        if pass.phase != self.phases {
            return;
        }
        match (self.phase, ending) {
            (Phase::Closed, Ending::Good) => {
                self.in_a_row = 0;
                self.window.add(now, false);
            }
            (Phase::Closed, Ending::Bad) => {
                self.in_a_row += 1;
                self.window.add(now, true);
                if self.in_a_row >= self.policy.failures || self.fails_too_often(now) {
                    self.open(self.policy.open, now);
                }
            }
            (Phase::Closed, Ending::Untold) | (Phase::Open { .. }, _) => {}
            (Phase::HalfOpen { good, .. }, Ending::Good) if good + 1 >= self.probes() => {
                self.enter(Phase::Closed);
                (self.in_a_row, self.window) = (0, Window::new(self.policy.window));
            }
            (Phase::HalfOpen { length, running, good, since }, Ending::Good) => {
                let running = running.saturating_sub(1);
                self.phase = Phase::HalfOpen { length, running, good: good + 1, since };
            }
            (Phase::HalfOpen { length, running, good, since }, Ending::Untold) => {
                self.phase = Phase::HalfOpen { length, running: running.saturating_sub(1), good, since };
            }
            (Phase::HalfOpen { length, .. }, Ending::Bad) => {
                self.open(length.saturating_mul(2).min(self.policy.open_max), now);
            }
        }
    }

    fn fails_too_often(&mut self, now: Duration) -> bool {
        let (failures, calls) = self.window.count(now);
        calls >= self.policy.calls && f64::from(failures) >= self.policy.share * f64::from(calls)
    }

    fn open(&mut self, length: Duration, now: Duration) {
        self.enter(Phase::Open { until: now.saturating_add(length), length });
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.phases += 1;
    }

    fn probes(&self) -> u32 {
        self.policy.probes.max(1)
    }
}

/// Calls and failures of the last while, in parts.
#[derive(Debug, Clone)]
struct Window {
    part: Duration,
    /// Number of the part (time divided by its length), failures, calls.
    parts: [(u128, u32, u32); PARTS],
}

impl Window {
    fn new(length: Duration) -> Window {
        let part = (length / u32::try_from(PARTS).unwrap_or(u32::MAX)).max(Duration::from_millis(1));
        Window { part, parts: [(0, 0, 0); PARTS] }
    }

    fn add(&mut self, now: Duration, failed: bool) {
        let number = self.number(now);
        let place = usize::try_from(number % PARTS as u128).unwrap_or(0);
        let part = &mut self.parts[place];
        if part.0 != number {
            *part = (number, 0, 0);
        }
        part.1 += u32::from(failed);
        part.2 += 1;
    }

    /// Failures and calls.
    fn count(&self, now: Duration) -> (u32, u32) {
        let number = self.number(now);
        let recent = self.parts.iter().filter(|part| part.0 + PARTS as u128 > number);
        recent.fold((0, 0), |sum, part| (sum.0 + part.1, sum.1 + part.2))
    }

    fn number(&self, now: Duration) -> u128 {
        now.as_nanos() / self.part.as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn call(breaker: &mut Breaker, now: u64, ending: Ending) {
        let pass = breaker.admit(at(now)).expect("admitted");
        breaker.end(pass, ending, at(now));
    }

    fn opened(policy: Policy) -> Breaker {
        let mut breaker = Breaker::new(policy);
        (0..policy.failures).for_each(|_| call(&mut breaker, 0, Ending::Bad));
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_does_not() {
        let mut breaker = Breaker::new(Policy { failures: 3, ..Policy::default() });
        for ending in [Ending::Bad, Ending::Bad, Ending::Good, Ending::Bad, Ending::Untold, Ending::Bad] {
            call(&mut breaker, 0, ending);
            assert_eq!(breaker.state(at(0)), State::Closed);
        }
        call(&mut breaker, 0, Ending::Bad);
        assert_eq!(breaker.state(at(0)), State::Open { left: at(1) });
        assert_eq!(breaker.admit(at(0)), None);
    }

    #[test]
    fn a_share_of_the_window_opens_it_and_old_failures_are_forgotten() {
        let policy = Policy { failures: 100, calls: 10, share: 0.4, ..Policy::default() };
        let mut breaker = Breaker::new(policy);
        (0..3).for_each(|_| call(&mut breaker, 0, Ending::Bad));
        (0..6).for_each(|_| call(&mut breaker, 29, Ending::Good));
        let mut later = breaker.clone();
        call(&mut breaker, 29, Ending::Bad);
        assert_eq!(breaker.state(at(29)), State::Open { left: at(1) }, "4 of 10");
        (0..4).for_each(|_| call(&mut later, 31, Ending::Bad));
        assert_eq!(later.state(at(31)), State::Open { left: at(1) }, "4 of 10 without the first three");
    }

    #[test]
    fn half_open_lets_one_through_and_its_end_decides() {
        let mut breaker = opened(Policy::default());
        assert_eq!(breaker.state(at(1)), State::HalfOpen { free: 1 });
        let probe = breaker.admit(at(1)).expect("one");
        assert_eq!((breaker.admit(at(1)), breaker.state(at(1))), (None, State::HalfOpen { free: 0 }));
        breaker.end(probe, Ending::Bad, at(2));
        assert_eq!(breaker.state(at(2)), State::Open { left: at(2) }, "twice as long");
        call(&mut breaker, 4, Ending::Untold);
        assert_eq!(breaker.state(at(4)), State::HalfOpen { free: 1 }, "it told nothing");
        call(&mut breaker, 4, Ending::Good);
        assert_eq!(breaker.state(at(4)), State::Closed);
        let again = opened(Policy::default());
        assert_eq!(again.state(at(0)), State::Open { left: at(1) }, "as short as at first");
    }

    #[test]
    fn what_began_before_it_opened_says_nothing_of_a_recovery() {
        let mut breaker = Breaker::new(Policy::default());
        let early = breaker.admit(at(0)).expect("closed");
        (0..5).for_each(|_| call(&mut breaker, 0, Ending::Bad));
        let _probe = breaker.admit(at(1)).expect("half-open");
        breaker.end(early, Ending::Good, at(1));
        assert_eq!(breaker.state(at(1)), State::HalfOpen { free: 0 });
    }

    #[test]
    fn a_probe_that_hangs_keeps_others_out_for_a_while_only() {
        let mut breaker = opened(Policy::default());
        let hangs = breaker.admit(at(1)).expect("half-open");
        assert_eq!(breaker.admit(at(60)), None);
        call(&mut breaker, 61, Ending::Good);
        assert_eq!(breaker.state(at(61)), State::Closed);
        breaker.end(hangs, Ending::Bad, at(300));
        assert_eq!(breaker.state(at(300)), State::Closed, "it belongs to the past");
    }

    #[test]
    fn the_time_open_grows_to_its_bound() {
        let mut breaker = opened(Policy { open_max: at(3), ..Policy::default() });
        let mut now = 1;
        for length in [2, 3, 3] {
            call(&mut breaker, now, Ending::Bad);
            assert_eq!(breaker.state(at(now)), State::Open { left: at(length) });
            now += length;
        }
    }

    proptest! {
        /// Whatever happens: no more probes at once than allowed, and a breaker that gets good answers closes.
        #[test]
        fn probes_are_bounded_and_it_always_recovers(
            steps in prop::collection::vec((0u64..40, 0u8..5), 0..200),
            probes in 1u32..4,
        ) {
            let mut breaker = Breaker::new(Policy { probes, failures: 3, ..Policy::default() });
            let (mut now, mut began, mut passes) = (0, 0, Vec::new());
            for (wait, what) in steps {
                now += wait;
                match what {
                    0 | 1 => if let Some(pass) = breaker.admit(at(now)) {
                        // Long ago, so that none of them counts as hung.
                        if passes.is_empty() { began = now; }
                        passes.push(pass);
                    },
                    _ => if let Some(pass) = passes.pop() {
                        let ending = [Ending::Good, Ending::Bad, Ending::Untold][usize::from(what) - 2];
                        breaker.end(pass, ending, at(now));
                    }
                }
                let probing = passes.iter().filter(|pass| pass.phase == breaker.phases).count();
                if matches!(breaker.state(at(now)), State::HalfOpen { .. }) && began + 60 > now {
                    prop_assert!(probing <= probes as usize);
                }
            }
            passes.drain(..).for_each(|pass| breaker.end(pass, Ending::Untold, at(now)));
            now += 60;
            for _ in 0..probes {
                call(&mut breaker, now, Ending::Good);
            }
            prop_assert_eq!(breaker.state(at(now)), State::Closed);
        }
    }
}
