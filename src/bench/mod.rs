//! How fast it is, measured so that the figure means something.
//!
//! ```text
//! bench ── round 1 ── floor: publish N ▸ floor-consumer process drains ▸ round trips ▸ stopped
//!       │          └─ ours:  submit  N ▸ `gleitzeit worker` process drains ▸ round trips ▸ stopped
//!       └─ round 2 ── ...                                    (embedded: a process per round, no floor)
//! ```
//! - **Floor**: the least work possible on the same servers with the same promise (confirmed, persistent,
//!   result before ack): [`consumer`]. What a machine can do varies from minute to minute, so both sides take
//!   turns, and the figure is the median of the rounds' ratios.
//! - **The same end for both**: a drain lasts from the first to the last result in Redis (`results`), seen by
//!   this process, which costs the measured one nothing.
//! - **Processes of their own**, so that processor time and memory are the worker's alone. The processor time
//!   is that between first and last result; starting and stopping are not in it.
//! - **Nothing is left behind**: queue, tasks and keys are removed, also after an error and when it is stopped.
//!   It refuses to start where somebody else uses the queue.

pub mod consumer;
mod embedded;
mod error;
pub mod figures;
mod floor;
mod load;
mod process;
mod report;
mod results;
mod servers;
mod workflows;

use std::path::Path;
use tokio_util::sync::CancellationToken;

pub use embedded::round as embedded_round;
pub use error::BenchError;
pub use process::Program;
pub use report::{Machine, Report};
pub use servers::Servers;
pub use workflows::{Sizes, WorkflowReport};

use figures::Figures;
use servers::Rounds;

/// Tells a person how far it is.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// What is measured, and how long.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What every id of this run has in it: letters and digits, new for each run.
    pub run: String,
    /// Tasks per round.
    pub tasks: usize,
    /// Round trips per round.
    pub round_trips: usize,
    /// Rounds of each side.
    pub rounds: usize,
    /// Tasks at once in the worker. The floor always has [`consumer::PREFETCH`].
    pub concurrency: u16,
    /// Measure the floor alone.
    pub only_floor: bool,
}

/// Measures on servers.
///
/// # Errors
/// What [`BenchError`] lists; whatever was published is removed first.
pub async fn distributed(
    servers: &Servers,
    settings: &Settings,
    program: &Program,
    progress: Progress<'_>,
    stop: &CancellationToken,
) -> Result<Report, BenchError> {
    let rounds = Rounds::new(servers, settings, program, stop).await?;
    let measured = stop.run_until_cancelled(take_turns(&rounds, settings, progress)).await;
    let measured = measured.unwrap_or(Err(BenchError::Stopped));
    if measured.is_err() {
        progress("removing what was published");
        if let Err(error) = rounds.clean_up().await {
            progress(&format!("something may be left: {error}"));
        }
    }
    let (floor, ours) = measured?;
    let broker = servers.broker.version().await.map_err(BenchError::product)?;
    let store = servers.store.version().await.map_err(BenchError::product)?;
    let versions = vec![("broker", broker), ("queue", rounds.queue_arguments()), ("store", store)];
    Ok(report("distributed", settings, versions, floor, ours))
}

/// Measures workflows on servers.
///
/// # Errors
/// What [`BenchError`] lists; whatever was published is removed first.
pub async fn workflows(
    servers: &Servers,
    settings: &Settings,
    sizes: Sizes,
    program: &Program,
    progress: Progress<'_>,
    stop: &CancellationToken,
) -> Result<WorkflowReport, BenchError> {
    let rounds = Rounds::new(servers, settings, program, stop).await?;
    let broker = servers.broker.version().await.map_err(BenchError::product)?;
    let store = servers.store.version().await.map_err(BenchError::product)?;
    let versions = vec![("broker", broker), ("queue", rounds.queue_arguments()), ("store", store)];
    let measured = stop.run_until_cancelled(rounds.workflows(sizes, versions, progress)).await;
    let measured = measured.unwrap_or(Err(BenchError::Stopped));
    if measured.is_err() {
        progress("removing what was published");
        if let Err(error) = rounds.clean_up().await {
            progress(&format!("something may be left: {error}"));
        }
    }
    measured
}

/// Measures with a state file in `folder`, which must be empty and is the caller's to remove.
///
/// # Errors
/// What [`BenchError`] lists.
pub async fn embedded(
    settings: &Settings,
    program: &Program,
    folder: &Path,
    progress: Progress<'_>,
    stop: &CancellationToken,
) -> Result<Report, BenchError> {
    let measured = stop.run_until_cancelled(embedded::rounds(settings, program, folder, progress)).await;
    let ours = measured.unwrap_or(Err(BenchError::Stopped))?;
    Ok(report("embedded", settings, Vec::new(), Vec::new(), ours))
}

async fn take_turns(
    rounds: &Rounds<'_>,
    settings: &Settings,
    progress: Progress<'_>,
) -> Result<(Vec<Figures>, Vec<Figures>), BenchError> {
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for round in 1..=settings.rounds {
        floor.push(rounds.floor(round, progress).await?);
        if !settings.only_floor {
            ours.push(rounds.ours(round, progress).await?);
        }
    }
    Ok((floor, ours))
}

fn report(
    mode: &'static str,
    settings: &Settings,
    servers: Vec<(&'static str, String)>,
    floor: Vec<Figures>,
    ours: Vec<Figures>,
) -> Report {
    let &Settings { tasks, round_trips, concurrency, .. } = settings;
    Report { mode, tasks, round_trips, concurrency, machine: Machine::here(), servers, floor, ours }
}
