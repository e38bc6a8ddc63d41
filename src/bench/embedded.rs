//! Rounds in embedded mode: each in a process of its own, which submits to a new state file, works it off,
//! and tells its figures. There is no floor: nobody else's work is comparable to a file's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::error::BenchError;
use super::figures::{Figures, per_second};
use super::load;
use super::process::Program;
use super::results::{Measured, Results, follow};
use super::{Progress, Settings};
use crate::client::Client;
use crate::core::id::Id;
use crate::store::Store;
use crate::worker::Worker;

/// Every round, one after the other. A round's process gives its figures as one document on stdout.
pub(super) async fn rounds(
    settings: &Settings,
    program: &Program,
    folder: &Path,
    progress: Progress<'_>,
) -> Result<Vec<Figures>, BenchError> {
    let mut rounds = Vec::new();
    for round in 1..=settings.rounds {
        progress(&format!(
            "round {round}: {} tasks and {} round trips",
            settings.tasks, settings.round_trips
        ));
        let mut program = program.clone();
        let state = folder.join(format!("round-{round}.db")).to_string_lossy().into_owned();
        program.environment.push(("GLEITZEIT_STATE_PATH".to_owned(), state));
        program.environment.push(("GLEITZEIT_WORKER_PROTOCOLS".to_owned(), load::PROTOCOL.to_owned()));
        program
            .environment
            .push(("GLEITZEIT_WORKER_CONCURRENCY".to_owned(), settings.concurrency.to_string()));
        let (tasks, round_trips) = (settings.tasks.to_string(), settings.round_trips.to_string());
        let arguments = ["bench", "embedded-round", "--tasks", &tasks, "--round-trips", &round_trips];
        let output = program.start(&arguments)?.output().await?;
        let figures = serde_json::from_slice(&output)
            .map_err(|error| BenchError::Invalid(format!("the round's figures cannot be read: {error}")))?;
        rounds.push(Figures::from_json(&figures));
    }
    Ok(rounds)
}

/// One round, in this process: submission, drain, then one task after the other.
///
/// # Errors
/// What the client, the worker or the store says.
pub async fn round(
    client: &Client,
    store: Arc<dyn Store>,
    worker: &Worker,
    settings: &Settings,
) -> Result<Figures, BenchError> {
    let ids = load::ids(&settings.run, 1, "t", settings.tasks);
    let submission = load::submit(client.clone(), ids.clone(), CancellationToken::new());
    let submitted = submission.await?;
    let ids = ids.iter().map(|id| Id::parse(id)).collect::<Result<Vec<Id>, _>>();
    let ids = ids.map_err(|error| BenchError::Invalid(error.to_string()))?;
    let mut results = Results::Store { store, ids };

    let drain = CancellationToken::new();
    let running = worker.run(drain.clone());
    tokio::pin!(running);
    let measured = async {
        let drained = follow(&mut results, Measured::Own, "gleitzeit").await?;
        results.must_be_completed().await?;
        let ids = load::ids(&settings.run, 1, "tr", settings.round_trips + load::WARM_UP);
        Ok((drained, load::round_trips(client, &ids).await?))
    };
    let measured = tokio::select! {
        measured = measured => measured,
        ended = &mut running => {
            ended.map_err(BenchError::product)?;
            Err(BenchError::Invalid("the worker stopped by itself".to_owned()))
        }
    };
    drain.cancel();
    let (drained, times) = measured?;
    running.await.map_err(BenchError::product)?;

    let whole: Duration = submitted + drained.start + drained.time;
    let figures = Figures {
        tasks_per_second: Some(per_second(drained.tasks, drained.time)),
        submitted_per_second: Some(per_second(settings.tasks, submitted)),
        whole_per_second: Some(per_second(settings.tasks, whole)),
        cpu_us_per_task: Some(drained.cpu.as_secs_f64() * 1e6 / drained.tasks.max(1) as f64),
        memory_peak_mib: Some(drained.memory_peak_bytes as f64 / (1024.0 * 1024.0)),
        ..Figures::default()
    };
    Ok(figures.with_round_trips(times))
}
