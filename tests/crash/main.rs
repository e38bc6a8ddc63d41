//! Every sequence of steps under a death at every call: without luck, and without waiting.
//!
//! A sequence is played once to number the calls that processes make to the ports, settlements included. Then it is
//! played again for each of them, twice: the process that makes the call dies before its effect, and after it. Its
//! ports answer nothing any more, its deliveries go back, its session ends; another process goes on. In the end
//! everything must be as without a death: documents, states, dead letters, replies, empty queues.
//!
//! Time is moved on by the play, so delays cost nothing. A failure names the sequence, the call and the moment;
//! `GLEITZEIT_CRASH='NUMBER before'` (or `after`) with the test's name as the filter plays that one alone. Over Redis
//! they are played where `GLEITZEIT_TEST_FULL` asks for it.

mod actor;
mod end;
#[allow(dead_code, reason = "shared: not every program uses all of it")]
#[path = "../support/gate.rs"]
mod gate;
#[allow(dead_code, reason = "shared: not every program uses all of it")]
#[path = "../support/ledger.rs"]
mod ledger;
#[allow(dead_code, reason = "shared: not every program uses all of it")]
#[path = "../support/mischief.rs"]
mod mischief;
mod play;
mod process;
mod sequences;
#[path = "../support/set_clock.rs"]
mod set_clock;
#[allow(dead_code, reason = "shared: not every program uses all of it")]
#[path = "../support/stores.rs"]
mod stores;
mod tally;

use libtest_mimic::{Arguments, Failed, Trial};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use uuid::Uuid;

use end::End;
use gate::Moment;
use gleitzeit::core::protocol::Protocols;
use play::Play;
use sequences::{SEQUENCES, Sequence};
use stores::Place;
use tally::{Call, Fault, Tally};

/// Which fault is to be played alone.
const ONLY: &str = "GLEITZEIT_CRASH";
/// How many sequences are played at once.
const THREADS: usize = 4;
/// In these a worker runs as a process does. Its loops race, so how often it looks something up is not the same each
/// time: a call that nobody makes when it is played again is told, and is no failure.
const RACING: [&str; 2] = ["a_drain", "a_cancel_of_what_runs"];
/// Most failures that are told of one sequence.
const TOLD_MAX: usize = 3;

fn main() {
    let mut arguments = Arguments::from_args();
    // Half of a play is waiting for another thread.
    arguments.test_threads = arguments.test_threads.or(Some(THREADS));
    let protocols = Arc::new(Protocols::builtin().expect("built in"));
    let redis = environment("GLEITZEIT_REDIS_URL");
    let mut trials = Vec::new();
    for sequence in SEQUENCES {
        let (name, own) = (format!("embedded::{}", sequence.name), Arc::clone(&protocols));
        let called = name.clone();
        let embedded = move || suite(&called, sequence, &own, Place::memory);
        trials.push(Trial::test(name, embedded));
        let (name, own) = (format!("redis::{}", sequence.name), Arc::clone(&protocols));
        let called = name.clone();
        trials.push(match (redis.clone(), environment("GLEITZEIT_TEST_FULL")) {
            (Some(url), Some(_)) => Trial::test(name, move || over_redis(&called, sequence, &own, &url)),
            (None, Some(_)) => Trial::test(name, || Err("GLEITZEIT_REDIS_URL names no server".into())),
            (_, None) => Trial::test(name, || Ok(())).with_ignored_flag(true),
        });
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// A variable that is set and not empty.
#[allow(clippy::disallowed_methods, reason = "a suite has no configuration but its environment")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The store in Redis, each play under a prefix of its own.
fn over_redis(name: &str, sequence: &Sequence, protocols: &Arc<Protocols>, url: &str) -> Result<(), Failed> {
    let (own, plays) = (format!("crash-{}", Uuid::now_v7()), AtomicU32::new(0));
    let place = || {
        let play = plays.fetch_add(1, Ordering::Relaxed);
        Place::memory().and_redis(url, format!("{own}:{play}"))
    };
    let outcome = suite(name, sequence, protocols, place);
    process::runtime().block_on(Place::memory().and_redis(url, own).remove());
    outcome
}

/// A sequence without a death, and with one at every call.
fn suite(
    name: &str,
    sequence: &Sequence,
    protocols: &Arc<Protocols>,
    place: impl Fn() -> Place,
) -> Result<(), Failed> {
    let counted = Tally::new(None);
    let expected = play(sequence, protocols, &place(), &counted);
    let expected = expected.map_err(|wrong| format!("without a death: {wrong}"))?;
    if !expected.wrongs().is_empty() {
        return Err(format!("without a death: {}", expected.wrongs().join("; ")).into());
    }
    let calls = counted.calls();
    let only = environment(ONLY);
    let (mut failures, mut played) = (Vec::new(), 0);
    for (at, call) in calls.iter().enumerate() {
        for (moment, word) in [(Moment::Before, "before"), (Moment::After, "after")] {
            let number = format!("{} {word}", at + 1);
            let is_meant = only.as_ref().is_none_or(|only| *only == number);
            if !is_meant || !call.has(moment) {
                continue;
            }
            played += 1;
            if let Err(wrong) =
                with_fault(sequence, protocols, &place(), Fault { call: *call, moment }, &expected)
            {
                failures.push(format!(
                    "{name}, call {} of {} ({call}), a death {word} it: {wrong}\n    alone: {ONLY}='{number}' cargo test --test crash -- --exact {name}",
                    at + 1,
                    calls.len()
                ));
            }
        }
    }
    if failures.is_empty() {
        eprintln!("{name}: {} calls, {played} deaths", calls.len());
        return Ok(());
    }
    let count = failures.len();
    failures.truncate(TOLD_MAX);
    Err(format!("{count} of {played} deaths:\n{}", failures.join("\n")).into())
}

fn with_fault(
    sequence: &Sequence,
    protocols: &Arc<Protocols>,
    place: &Place,
    fault: Fault,
    expected: &End,
) -> Result<(), String> {
    let tally = Tally::new(Some(fault));
    let end = play(sequence, protocols, place, &tally)?;
    if !tally.fell() && RACING.contains(&sequence.name) {
        eprintln!("{}: nobody came to {} this time", sequence.name, fault.call);
    } else if !tally.fell() {
        return Err("nobody made this call when the sequence was played again".to_owned());
    }
    let differences = end.differences(expected);
    if differences.is_empty() { Ok(()) } else { Err(differences.join("; ")) }
}

/// Plays a sequence to its end.
fn play(
    sequence: &Sequence,
    protocols: &Arc<Protocols>,
    place: &Place,
    tally: &Arc<Tally>,
) -> Result<End, String> {
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut play = Play::new(place, tally, protocols);
        (sequence.play)(&mut play);
        play.end()
    }));
    played.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_else(|| "it panicked".to_owned())
    })
}

impl Call {
    /// Whether a death can come at this moment: a delivery comes by itself, so nothing is before it.
    fn has(&self, moment: Moment) -> bool {
        moment == Moment::After || self.name() != "Consumer::next"
    }
}
