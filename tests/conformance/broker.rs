//! The suite of the broker port: cases x [`BACKENDS`], and what only one adapter can show.
//!
//! Each case gets a broker that nobody else uses, with nothing declared. The comment above a case names the
//! lines of the law (`src/broker/mod.rs`) that it proves.

#[path = "broker_cases.rs"]
mod cases;
#[path = "broker_dead.rs"]
mod dead;
#[path = "broker_lanes.rs"]
mod lanes;
#[path = "broker_rabbitmq.rs"]
mod rabbitmq;
#[path = "../support/rabbitmq.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod rabbitmq_server;
#[path = "broker_sqlite.rs"]
mod sqlite;
#[path = "broker_upkeep.rs"]
mod upkeep;

use gleitzeit::broker::Broker;
use gleitzeit::topology::Address;
use libtest_mimic::{Failed, Trial};
use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A case of a backend of its own, or of all.
pub(crate) type Run = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A case: its name, which is the behaviour, and how it is shown.
pub(crate) type Case = (&'static str, fn(Arc<dyn Broker>, Address) -> Run);

/// A fresh broker; the second value is kept until the case is over, then dropped.
pub(crate) type Started = (Arc<dyn Broker>, Box<dyn Any + Send>);

/// An adapter under test.
struct Backend {
    name: &'static str,
    /// Whether it can be had here; else why not.
    is_here: fn() -> Result<(), String>,
    start: fn() -> Pin<Box<dyn Future<Output = Started> + Send>>,
}

/// Every adapter.
const BACKENDS: &[Backend] = &[
    Backend { name: "rabbitmq", is_here: rabbitmq::is_here, start: || Box::pin(rabbitmq::start()) },
    Backend { name: "sqlite", is_here: sqlite::is_here, start: || Box::pin(sqlite::start()) },
];

/// A case that hangs is a case that failed.
const CASE_TIMEOUT: Duration = Duration::from_secs(400);

/// Every case with every backend.
pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for backend in BACKENDS {
        for (name, case) in cases::CASES.iter().chain(upkeep::CASES).chain(dead::CASES) {
            let (start, case) = (backend.start, *case);
            let run = move || {
                in_runtime(async move {
                    let (broker, kept) = start().await;
                    let address = Address::parse("python.v1").expect("valid");
                    case(Arc::clone(&broker), address).await;
                    broker.close().await;
                    drop(kept);
                })
            };
            trials.push(trial(format!("broker::{}::{name}", backend.name), backend.is_here, run));
        }
    }
    for (name, case) in rabbitmq::CASES {
        let run = move || in_runtime(case());
        trials.push(trial(format!("broker::rabbitmq::{name}"), rabbitmq::is_here, run));
    }
    trials.extend(lanes::trials());
    trials
}

/// An absent backend shows as ignored, and fails in CI.
#[allow(clippy::disallowed_methods, reason = "tests learn from the environment whether CI runs them")]
fn trial(
    name: String,
    is_here: fn() -> Result<(), String>,
    run: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let missing = is_here().err();
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    match missing {
        None => Trial::test(name, run),
        Some(why) if is_ci => Trial::test(name, move || Err(Failed::from(why))),
        Some(_) => Trial::test(name, run).with_ignored_flag(true),
    }
}

fn in_runtime(case: impl Future<Output = ()>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failed::from(error.to_string()))?;
    let ended = runtime.block_on(async { tokio::time::timeout(CASE_TIMEOUT, case).await });
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended.map_err(|_| Failed::from(format!("not over after {} s", CASE_TIMEOUT.as_secs())))
}
