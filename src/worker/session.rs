//! The worker's session: alive as long as its heart beats.
//!
//! A lease names the session. When the session is dead, others take its leases over; so the beat is what
//! keeps this worker's tasks its own. A beat that does not reach the store for the whole TTL loses them,
//! and the fence then refuses what this worker still finishes.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::liveness::Pulse;
use crate::core::clock::Clock;
use crate::core::id::Id;
use crate::store::{Store, StoreError};

/// Between two beats.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How long a session lives without a beat. Recovery after a kill takes this long at most, plus a moment.
pub const BEAT_TTL: Duration = Duration::from_secs(5);

/// Beats until `stop` fires, then leaves.
pub(super) async fn run(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    id: Id,
    pulse: Arc<Pulse>,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(BEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        match store.beat(&id, BEAT_TTL, clock.now()).await {
            Ok(()) => {
                silent = false;
                pulse.beat();
            }
            // The store itself tells people when it is away.
            Err(error @ (StoreError::Unreachable { .. } | StoreError::Unanswered { .. })) => {
                tracing::debug!(%error, "the session's heartbeat does not reach the store");
            }
            Err(error) if !silent => {
                silent = true;
                tracing::warn!(%error, "the session's heartbeat does not reach the store");
            }
            Err(_) => {}
        }
    }
    if let Err(error) = store.leave(&id).await {
        tracing::debug!(%error, "could not end the session; it ends by its TTL");
    }
}
