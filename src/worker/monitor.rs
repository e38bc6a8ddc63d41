//! What a worker tells of itself: profiles to the store, metrics and the health of its providers as events.
//!
//! ```text
//! every 5 s              what was counted of attempts ─▶ store (one round trip, if there is anything)
//! every `metrics_every`  metrics:collected
//! on a change            provider:health, at most once in a second for all that has changed
//! ```
//! Best effort, beside the work: nothing waits for it. What could not be noted is noted with what comes next.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::profiles::Totals;
use crate::config::EventLevel;
use crate::provider::registry::Standing;
use crate::store::Note;
use crate::wire::event::{Event, Metrics};

/// Between two looks at what is to be noted: what a worker that is killed may lose.
pub const NOTE_EVERY: Duration = Duration::from_secs(5);
/// How long the store may take when the worker ends.
const LAST_NOTE_MAX: Duration = Duration::from_secs(2);
/// Between two looks at providers of which something has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What was told last.
#[derive(Debug)]
struct Told {
    /// How each provider does.
    health: HashMap<String, &'static str>,
    /// When it was looked last.
    looked_at: Instant,
    /// What had been done when metrics were told last, and when that was.
    totals: Totals,
    totals_at: Instant,
}

impl Shared {
    /// Tells until `stop` fires, then notes what is left.
    pub(super) async fn monitor(self: Arc<Shared>, stop: CancellationToken) {
        let mut note = interval(NOTE_EVERY);
        note.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let every = self.settings.metrics_every;
        let mut metrics = interval_at(Instant::now() + every, every);
        metrics.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = Instant::now();
        let mut told =
            Told { health: HashMap::new(), looked_at: now, totals: self.profiles.totals(), totals_at: now };
        // Where somebody listens from the start, how they do then is told with the first metrics.
        for standing in self.parts.providers.standings(None) {
            told.health.insert(standing.name.clone(), health_of(&standing));
        }
        loop {
            let is_rested = told.looked_at.elapsed() >= LOOK_EVERY;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = metrics.tick() => self.tell_metrics(&mut told).await,
                _ = note.tick() => {
                    self.note_profiles().await;
                    // What has changed unseen, or too soon after what had changed before.
                    self.tell_health(&mut told);
                }
                () = self.parts.providers.changed(), if is_rested => self.tell_health(&mut told),
            }
        }
        if timeout(LAST_NOTE_MAX, self.note_profiles()).await.is_err() {
            tracing::debug!("the last profiles did not reach the store in time");
        }
    }

    /// Notes what the store lacks.
    async fn note_profiles(&self) {
        let noted = self.profiles.noted(|(slot, profiles)| async move {
            let note = Note { session: self.session.clone(), slot, profiles };
            self.parts.store.note_profiles(&note, self.parts.clock.now()).await
        });
        if let Err(error) = noted.await {
            tracing::debug!(%error, "profiles did not reach the store; they are noted with the next ones");
        }
    }

    async fn tell_metrics(&self, told: &mut Told) {
        if self.settings.events == EventLevel::Off {
            return;
        }
        let (totals, now) = (self.profiles.totals(), Instant::now());
        let ended = |totals: &Totals| totals.completed + totals.failed;
        let minutes = now.duration_since(told.totals_at).as_secs_f64() / 60.0;
        let throughput = (ended(&totals) - ended(&told.totals)) as f64 / minutes.max(f64::MIN_POSITIVE);
        (told.totals, told.totals_at) = (totals, now);
        let standings = self.parts.providers.standings(None);
        let health = |one: &Standing| (one.name.clone(), health_of(one));
        let metrics = Metrics {
            active_tasks: self.running.count(),
            completed_tasks: totals.completed,
            failed_tasks: totals.failed,
            average_execution_time: (totals.ran > 0).then(|| totals.took.div_f64(totals.ran as f64)),
            throughput_per_minute: throughput,
            memory_usage_bytes: own_memory().await,
            provider_health: standings.iter().map(health).collect(),
        };
        self.tell(&Event::MetricsCollected { worker: self.session.clone(), metrics });
    }

    /// Tells which providers do otherwise than they did.
    fn tell_health(&self, told: &mut Told) {
        told.looked_at = Instant::now();
        let standings = self.parts.providers.standings(None);
        told.health.retain(|name, _| standings.iter().any(|standing| standing.name == *name));
        for standing in standings {
            let health = health_of(&standing);
            if told.health.insert(standing.name.clone(), health) == Some(health) {
                continue;
            }
            self.tell(&Event::ProviderHealth {
                worker: self.session.clone(),
                provider: standing.name,
                protocol: standing.protocol.to_string(),
                health,
                state: standing.state,
                why: standing.why,
            });
        }
    }
}

/// In the words of the original.
fn health_of(standing: &Standing) -> &'static str {
    match standing.state {
        // Left alone because it has asked for that, or its limit is reached: that is no illness.
        "up" | "busy" => "healthy",
        "degraded" | "half-open" => "degraded",
        "starting" => "unknown",
        _ => "unhealthy",
    }
}

/// The resident memory of this process, in bytes.
async fn own_memory() -> Option<u64> {
    let status = tokio::fs::read_to_string("/proc/self/status").await.ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
