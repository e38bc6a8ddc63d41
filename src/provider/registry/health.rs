//! Looking after providers: each by itself, often while there is doubt, seldom while all is well.

use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Providers;
use super::instance::Instance;
use crate::provider::Health;

/// A start that takes longer is given up. Each kind of provider has a shorter bound of its own, which may be configured.
const START_MAX: Duration = Duration::from_secs(600);

/// When providers are looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Between two looks while there is doubt.
    pub doubtful: Duration,
    /// Between two looks at the most: the time doubles while all is well.
    pub steady: Duration,
    /// How long an answer may take. None in that time means down.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            doubtful: Duration::from_secs(1),
            steady: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
        }
    }
}

impl Providers {
    /// Looks after every provider until `stop` fires: asks for its health, and starts what could not start.
    pub async fn look_after(&self, stop: CancellationToken) {
        let each = self.instances().map(|instance| self.look_after_one(instance));
        stop.run_until_cancelled(futures_util::future::join_all(each)).await;
    }

    async fn look_after_one(&self, instance: &Instance) {
        let settings = &self.settings.health;
        let mut pause = settings.doubtful;
        loop {
            let changed = self.changed.notified();
            self.look(instance).await;
            // What cannot start is no more likely to the next moment.
            pause = match instance.is_doubtful(self.now()) && instance.is_started() {
                true => settings.doubtful,
                false => pause.saturating_mul(2).min(settings.steady),
            };
            tokio::select! {
                () = sleep(pause) => {}
                // It may be this one that has got into doubt; if so, not at once: it was called just now.
                () = changed => sleep(settings.doubtful).await,
            }
        }
    }

    /// Asks one for its health now, or starts it.
    pub(super) async fn look(&self, instance: &Instance) {
        if !instance.is_started() {
            let started = timeout(START_MAX, instance.start()).await;
            if started.is_ok_and(|started| started.is_ok()) {
                self.tell_change(instance);
            }
            return;
        }
        let limit = self.settings.health.timeout;
        let health = timeout(limit, instance.provider.health()).await;
        let health = health.unwrap_or_else(|_| Health::Down(format!("no answer within {limit:?}")));
        if instance.checked(health) {
            self.tell_change(instance);
        }
    }
}
