//! What this worker has counted of its attempts, by protocol and method, until the store has it.
//!
//! Counting is a few additions under a lock that nobody holds for long; nothing is sent for a task. A slot's profiles are
//! noted whole, so what could not be noted is noted with the next ones. What a worker that is killed has counted since
//! it noted last is lost.

use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Shared;
use super::lease::Run;
use super::outcome::Verdict;
use crate::core::clock::Timestamp;
use crate::core::failure::Failure;
use crate::core::profile::{OTHERS, Profile, Sample, Subject, slot_of};
use crate::provider::{Answer, MEMORY_PEAK};
use crate::wire::record::Ending;
use crate::wire::task::Task;

/// Methods with a profile of their own, in a slot.
const METHODS_MAX: usize = 200;
/// The longest name of a method that has one, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Slots that wait for the store: an hour.
const SLOTS_MAX: usize = 12;

/// The member of a task's metadata that asks for what was measured to be in its result too, as the original had it.
const PROFILING: &str = "profiling";

/// What was counted.
#[derive(Debug, Default)]
pub(super) struct Profiles {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By when they began; the last one is counted in.
    slots: VecDeque<Slot>,
    totals: Totals,
}

#[derive(Debug)]
struct Slot {
    start: Timestamp,
    /// By protocol, then by method, with whether the store lacks something of it.
    profiles: HashMap<String, HashMap<String, (Profile, bool)>>,
    methods: usize,
}

/// What the worker has done since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    /// Tasks that ended with a result.
    pub(super) completed: u64,
    /// Tasks that ended without.
    pub(super) failed: u64,
    /// Attempts that somebody was asked to run,
    pub(super) ran: u64,
    /// and how long those took together.
    pub(super) took: Duration,
}

/// What is to be noted of a slot.
pub(super) type Unnoted = (Timestamp, Vec<(Subject, Profile)>);

impl Profiles {
    /// Counts an attempt that ended at `now`.
    fn note(&self, protocol: &str, method: &str, sample: &Sample, now: Timestamp) {
        let mut known = self.lock();
        let start = slot_of(now);
        if known.slots.back().is_none_or(|slot| slot.start < start) {
            if known.slots.len() >= SLOTS_MAX {
                known.slots.pop_front();
            }
            known.slots.push_back(Slot { start, profiles: HashMap::new(), methods: 0 });
        }
        // A clock that was set back counts in the slot that it was in before.
        if let Some(slot) = known.slots.back_mut() {
            let (profile, is_new) = slot.profile(protocol, method);
            profile.note(sample);
            *is_new = true;
        }
        if let Some(took) = sample.duration {
            known.totals.ran += 1;
            known.totals.took += took;
        }
    }

    fn ended(&self, is_completed: bool) {
        let totals = &mut self.lock().totals;
        let count = if is_completed { &mut totals.completed } else { &mut totals.failed };
        *count += 1;
    }

    /// What the store lacks, by slot; it counts as noted until [`Profiles::unnoted`].
    fn take(&self) -> Vec<Unnoted> {
        let mut known = self.lock();
        let mut taken = Vec::new();
        for slot in &mut known.slots {
            let profiles = slot.take();
            if !profiles.is_empty() {
                taken.push((slot.start, profiles));
            }
        }
        taken
    }

    /// Has everything noted that the store lacks. What was not noted is noted with what comes next.
    ///
    /// # Errors
    /// The first one: each might take as long as a store may that does not answer.
    pub(super) async fn noted<E, F>(&self, note: impl Fn(Unnoted) -> F) -> Result<(), E>
    where
        F: Future<Output = Result<(), E>>,
    {
        let mut all = self.take().into_iter();
        while let Some(unnoted) = all.next() {
            if let Err(error) = note(unnoted.clone()).await {
                self.unnoted(unnoted);
                all.for_each(|rest| self.unnoted(rest));
                return Err(error);
            }
        }
        self.forget();
        Ok(())
    }

    /// The store does not have these.
    fn unnoted(&self, (start, profiles): Unnoted) {
        let mut known = self.lock();
        let Some(slot) = known.slots.iter_mut().find(|slot| slot.start == start) else { return };
        for (Subject { protocol, method }, _) in profiles {
            let entry = slot.profiles.get_mut(&protocol).and_then(|methods| methods.get_mut(&method));
            entry.into_iter().for_each(|(_, is_new)| *is_new = true);
        }
    }

    /// Forgets the slots that are over and that the store has.
    fn forget(&self) {
        let mut known = self.lock();
        while known.slots.len() > 1 && known.slots.front().is_some_and(Slot::is_noted) {
            known.slots.pop_front();
        }
    }

    pub(super) fn totals(&self) -> Totals {
        self.lock().totals
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing that panics is done while it is held.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn profile(&mut self, protocol: &str, method: &str) -> &mut (Profile, bool) {
        let is_known = self.profiles.get(protocol).is_some_and(|methods| methods.contains_key(method));
        let method = match is_known || (self.methods < METHODS_MAX && method.len() <= NAME_BYTES_MAX) {
            true => method,
            false => OTHERS,
        };
        let methods = self.profiles.entry(protocol.to_owned()).or_default();
        if !methods.contains_key(method) {
            self.methods += 1;
        }
        methods.entry(method.to_owned()).or_default()
    }

    fn take(&mut self) -> Vec<(Subject, Profile)> {
        let mut taken = Vec::new();
        for (protocol, methods) in &mut self.profiles {
            for (method, (profile, is_new)) in methods.iter_mut().filter(|(_, (_, is_new))| *is_new) {
                *is_new = false;
                let subject = Subject { protocol: protocol.clone(), method: method.clone() };
                taken.push((subject, profile.clone()));
            }
        }
        taken
    }

    fn is_noted(&self) -> bool {
        !self.profiles.values().flat_map(HashMap::values).any(|(_, is_new)| *is_new)
    }
}

impl Shared {
    /// Counts what became of an attempt.
    pub(super) fn count(&self, task: &Task, verdict: &Verdict) {
        let (sample, ended) = match verdict {
            Verdict::Ended { sample, ending, .. } => (sample, Some(ending.error.is_none())),
            Verdict::Again { sample, .. } => (sample, None),
            Verdict::Expanded(_)
            | Verdict::NotNow { .. }
            | Verdict::Elsewhere { .. }
            | Verdict::NoRoom { .. }
            | Verdict::Abandoned => return,
        };
        let Some(sample) = sample else { return };
        let spec = &task.spec;
        // Names that nobody knows are what anybody may have written.
        let method = self.parts.protocols.method(&spec.protocol, &spec.method);
        let method = method.map_or(OTHERS, |method| method.name);
        self.profiles.note(&spec.protocol.to_string(), method, sample, self.parts.clock.now());
        ended.into_iter().for_each(|is_completed| self.profiles.ended(is_completed));
    }
}

/// What is known of an attempt that ran so long.
pub(super) fn sample(
    run: &Run,
    outcome: &mut Result<Answer, Failure>,
    ending: &Ending,
    took: Duration,
) -> Sample {
    let memory = match outcome {
        // In its place in the document it does not look like something that the provider says.
        Ok(answer) => answer.metadata.shift_remove(MEMORY_PEAK),
        Err(failure) => failure.details.get(MEMORY_PEAK).cloned(),
    };
    // An attempt before it may have begun and died with its worker; one that goes on has waited before its children.
    let has_waited = run.crashes == 0 && run.children.is_empty();
    let ready = run.ready_at.filter(|_| has_waited).zip(ending.started_at);
    Sample {
        failure: outcome.as_ref().err().map(|failure| failure.code),
        wait: ready.map(|(ready, started)| started.since(ready)),
        duration: ending.provider_id.as_ref().map(|_| took),
        memory_bytes: memory.as_ref().and_then(Value::as_u64),
    }
}

/// Writes down what was measured: in the document's metadata, and in the result where the task asks for that.
pub(super) fn record(sample: &Sample, task: &Task, ending: &mut Ending) {
    let seconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e6;
    let mut profile = serde_json::Map::new();
    if let Some(wait) = sample.wait {
        profile.insert("queue_wait".to_owned(), json!(seconds(wait)));
    }
    if let Some(bytes) = sample.memory_bytes {
        profile.insert(MEMORY_PEAK.to_owned(), bytes.into());
    }
    if !profile.is_empty() {
        ending.metadata.insert("profile".to_owned(), profile.into());
    }
    let is_asked = task.spec.metadata.get(PROFILING) == Some(&Value::Bool(true));
    if let (true, Value::Object(result)) = (is_asked, &mut ending.result) {
        let mut told = json!({"execution_time": ending.execution_time.map(seconds)});
        if let Some(bytes) = sample.memory_bytes {
            told["peak_memory_bytes"] = bytes.into();
        }
        result.insert("_profiling".to_owned(), told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::code::Code;
    use crate::core::profile::SLOT;

    fn zero() -> Timestamp {
        Timestamp::from_millis(0)
    }

    fn noted(profiles: &Profiles, method: &str, now: Timestamp) {
        let sample = Sample { duration: Some(Duration::from_secs(2)), ..Sample::default() };
        profiles.note("a/v1", method, &sample, now);
    }

    fn taken(profiles: &Profiles) -> Vec<(Timestamp, usize, u64)> {
        let of = |(start, profiles): Unnoted| {
            (start, profiles.len(), profiles.iter().map(|(_, profile)| profile.count).sum())
        };
        profiles.take().into_iter().map(of).collect()
    }

    #[test]
    fn only_what_is_new_is_taken_and_what_could_not_be_noted_is_taken_again() {
        let profiles = Profiles::default();
        noted(&profiles, "x", zero());
        noted(&profiles, "y", zero());
        assert_eq!(taken(&profiles), [(zero(), 2, 2)]);
        assert!(taken(&profiles).is_empty());
        noted(&profiles, "x", zero());
        let lost = profiles.take();
        lost.into_iter().for_each(|lost| profiles.unnoted(lost));
        let later = zero().after(SLOT);
        noted(&profiles, "x", later);
        profiles.forget();
        assert_eq!(taken(&profiles), [(zero(), 1, 2), (later, 1, 1)], "as much as was counted in the slot");
        profiles.forget();
        assert_eq!(profiles.lock().slots.len(), 1);
    }

    #[tokio::test]
    async fn after_the_first_error_nothing_more_is_noted_and_nothing_is_lost() {
        let profiles = Profiles::default();
        for slot in 0..3 {
            noted(&profiles, "x", zero().after(SLOT * slot));
        }
        let asked = Mutex::new(Vec::new());
        let note = async |fails: bool| {
            let note = |(start, _): Unnoted| {
                asked.lock().expect("no panic").push(start);
                std::future::ready(if fails { Err("away") } else { Ok(()) })
            };
            profiles.noted(note).await
        };
        assert_eq!(note(true).await, Err("away"));
        assert_eq!(*asked.lock().expect("no panic"), [zero()]);
        assert_eq!(note(false).await, Ok(()));
        assert_eq!(asked.lock().expect("no panic").len(), 4, "all of it");
        assert_eq!(profiles.lock().slots.len(), 1, "what is noted is forgotten");
    }

    /// What is counted with others takes the place of one method, however often.
    #[test]
    fn whatever_was_counted_with_others_methods_have_profiles_of_their_own_up_to_the_bound() {
        let profiles = Profiles::default();
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        (0..METHODS_MAX * 2).for_each(|_| noted(&profiles, &long, zero()));
        (1..METHODS_MAX * 2).for_each(|number| noted(&profiles, &format!("m{number}"), zero()));
        let [(_, methods, _)] = taken(&profiles)[..] else { panic!("one slot") };
        assert_eq!(methods, METHODS_MAX);
    }

    #[test]
    fn what_is_held_is_bounded_and_nothing_is_left_uncounted() {
        let profiles = Profiles::default();
        for number in 0..METHODS_MAX * 2 {
            noted(&profiles, &format!("m{number}"), zero());
        }
        noted(&profiles, &"x".repeat(NAME_BYTES_MAX + 1), zero());
        let [(_, methods, count)] = taken(&profiles)[..] else { panic!("one slot") };
        assert_eq!((methods, count), (METHODS_MAX + 1, METHODS_MAX as u64 * 2 + 1));
        let mut now = zero();
        for _ in 0..SLOTS_MAX * 2 {
            now = now.after(SLOT);
            noted(&profiles, "x", now);
        }
        assert_eq!(taken(&profiles).len(), SLOTS_MAX, "the oldest are given up");
    }

    #[test]
    fn ends_and_runs_are_counted_apart() {
        let profiles = Profiles::default();
        noted(&profiles, "x", zero());
        let refused = Sample { failure: Some(Code::InvalidParams), ..Sample::default() };
        profiles.note("a/v1", "x", &refused, zero());
        profiles.ended(true);
        profiles.ended(false);
        let totals = Totals { completed: 1, failed: 1, ran: 1, took: Duration::from_secs(2) };
        assert_eq!(profiles.totals(), totals);
    }
}
