//! The whole engine under crashes: real workers over ports that stop answering at any call, with messages that
//! come twice and out of order. Whatever happens, every run ends, nothing ends twice, each task is released by
//! one step, no bound is ever exceeded, and the final states are those of a simple model.
//!
//! A case is drawn from a seed. `GLEITZEIT_PROPERTY_CASES` asks for more cases, `GLEITZEIT_PROPERTY_SEED` for
//! other ones; a failure names the seed that shows it again.

mod end;
#[path = "../support/gate.rs"]
mod gate;
mod graph;
#[path = "../support/ledger.rs"]
mod ledger;
mod life;
#[allow(dead_code, reason = "shared: not every program uses all of it")]
#[path = "../support/mischief.rs"]
mod mischief;
mod repair;
mod schedule;
#[path = "../support/set_clock.rs"]
mod set_clock;
#[allow(dead_code, reason = "shared: not every program uses all of it")]
#[path = "../support/stores.rs"]
mod stores;
#[path = "../support/wall_clock.rs"]
mod wall_clock;
mod when;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gleitzeit::core::protocol::Protocols;
use stores::Place;

/// How many cases run at once: most of a case is waiting.
const THREADS: usize = 8;

#[test]
fn every_run_ends_as_the_model_says_over_sqlite() {
    run(300, Place::sqlite);
}

#[test]
fn every_run_ends_as_the_model_says_over_redis() {
    let Some(url) = environment("GLEITZEIT_REDIS_URL") else {
        assert!(environment("CI").is_none(), "GLEITZEIT_REDIS_URL names no server");
        eprintln!("not run: GLEITZEIT_REDIS_URL names no server");
        return;
    };
    run(100, || Place::redis(&url));
}

/// A variable that is set and not empty.
#[allow(clippy::disallowed_methods, reason = "a suite has no configuration but its environment")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number(name: &str) -> Option<u64> {
    environment(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")))
}

fn run(cases: u64, place: impl Fn() -> Place + Sync) {
    let cases = number("GLEITZEIT_PROPERTY_CASES").unwrap_or(cases);
    let first = number("GLEITZEIT_PROPERTY_SEED").unwrap_or(1);
    let (next, failures, crashes) = (AtomicU64::new(0), Mutex::new(Vec::new()), AtomicU64::new(0));
    let protocols = Arc::new(Protocols::builtin().expect("built in"));
    std::thread::scope(|threads| {
        for _ in 0..THREADS {
            threads.spawn(|| {
                loop {
                    let seed = first + next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + cases {
                        return;
                    }
                    match life::live(seed, &place(), &protocols) {
                        Ok(died) => drop(crashes.fetch_add(died, Ordering::Relaxed)),
                        Err(failure) => {
                            let failure = format!("GLEITZEIT_PROPERTY_SEED={seed}: {failure}");
                            failures.lock().expect("nobody panics with it").push(failure);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("nobody panics with it");
    assert!(failures.is_empty(), "{} of {cases} cases:\n{}", failures.len(), failures.join("\n"));
    eprintln!("{cases} cases, {} crashes", crashes.into_inner());
}
