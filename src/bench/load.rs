//! The work that is measured: no-op tasks, submitted through our client.

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::error::BenchError;
use crate::client::Client;
use crate::core::id::Id;
use crate::core::protocol::ProtocolId;
use crate::core::task::Spec;
use crate::wire::task::{self, Task};

/// What is called.
pub(super) const PROTOCOL: &str = "echo/v1";
const METHOD: &str = "ping";

/// Makes a message of about 200 bytes.
const PADDING: &str =
    "a task of ordinary size, which says a few words and wants to hear them again, and nothing else at all";

/// How many submissions are under way at once.
const SUBMIT_WINDOW: usize = 256;

/// Round trips before those that count: connections, caches and branch predictors are warm then.
pub(super) const WARM_UP: usize = 20;

/// How long one round trip may take.
const ROUND_TRIP_TIMEOUT: Duration = Duration::from_secs(10);

/// The ids of one phase of one round. Every id begins with `bench-RUN-`, by which it is found again.
pub(super) fn ids(run: &str, round: usize, phase: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("bench-{run}-{round}-{phase}-{number:06}")).collect()
}

/// The bytes of one task's message, for the floor to carry.
pub(super) fn body(id: &str) -> Result<Vec<u8>, BenchError> {
    Ok(task::encode(&noop(id)?).to_vec())
}

/// Submits these tasks, pipelined, and returns once each is confirmed. Told to stop, it begins no more and waits for
/// the confirms of those that are on their way.
pub(super) async fn submit(
    client: Client,
    ids: Vec<String>,
    stop: CancellationToken,
) -> Result<Duration, BenchError> {
    let tasks = ids.iter().map(|id| noop(id)).collect::<Result<Vec<Task>, _>>()?;
    let started = Instant::now();
    let begun = stream::iter(tasks).take_until(stop.cancelled_owned());
    let submitting = begun.map(|task| client.submit(task)).buffer_unordered(SUBMIT_WINDOW);
    submitting.try_for_each(|_| async { Ok(()) }).await.map_err(BenchError::product)?;
    Ok(started.elapsed())
}

/// One task after the other, each from submission to its result here. The first [`WARM_UP`] do not count.
pub(super) async fn round_trips(client: &Client, ids: &[String]) -> Result<Vec<Duration>, BenchError> {
    let mut times = Vec::with_capacity(ids.len());
    for id in ids {
        let task = noop(id)?;
        let started = Instant::now();
        let (id, ended) = client.call(task, Some(ROUND_TRIP_TIMEOUT)).await.map_err(BenchError::product)?;
        times.push(started.elapsed());
        let state = ended.map(|ended| ended.state);
        if state.as_deref() != Some("completed") {
            return Err(BenchError::Invalid(format!("task {id} ended as {state:?}")));
        }
    }
    Ok(times.split_off(WARM_UP.min(times.len())))
}

fn noop(id: &str) -> Result<Task, BenchError> {
    let id = Id::parse(id).map_err(|error| BenchError::Invalid(error.to_string()))?;
    let protocol: ProtocolId = PROTOCOL.parse().map_err(|error| BenchError::Invalid(format!("{error}")))?;
    Ok(Task::new(Some(id), Spec::new(protocol, METHOD, json!({"message": PADDING}))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_about_200_bytes() {
        let ids = ids("0123456789ab", 1, "d", 2);
        let body = body(&ids[1]).expect("a valid id");
        assert!((190..=210).contains(&body.len()), "{} bytes", body.len());
    }
}
