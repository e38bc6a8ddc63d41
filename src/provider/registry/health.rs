//! Looking after providers: each by itself, often while there is doubt, seldom while all is well.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Providers;
use super::instance::{Instance, State};
use crate::provider::Health;

/// A start that takes longer is given up. Each kind of provider has a shorter bound of its own, which may be configured.
pub(super) const START_MAX: Duration = Duration::from_secs(600);

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
        let looking = async {
            let (mut looks, mut looked_after) = (FuturesUnordered::new(), Vec::<Arc<Instance>>::new());
            loop {
                let other = self.members_changed.notified();
                for instance in self.instances() {
                    if !looked_after.iter().any(|known| known.is_same(&instance)) {
                        looked_after.push(Arc::clone(&instance));
                        looks.push(self.look_after_one(instance));
                    }
                }
                tokio::select! {
                    () = other => {}
                    Some(gone) = looks.next() => looked_after.retain(|known| !known.is_same(&gone)),
                }
            }
        };
        stop.run_until_cancelled(looking).await;
    }

    /// Until it is configured no more.
    async fn look_after_one(&self, instance: Arc<Instance>) -> Arc<Instance> {
        let settings = &self.settings.health;
        let mut pause = settings.doubtful;
        loop {
            let changed = self.changed.notified();
            if matches!(instance.state(), State::Gone) {
                return instance;
            }
            self.look(&instance).await;
            // What cannot start is no more likely to the next moment.
            pause = match instance.is_doubtful(self.now()) && instance.is_started() {
                true => settings.doubtful,
                false => pause.saturating_mul(2).min(settings.steady),
            };
            instance.next_look(self.now() + pause);
            tokio::select! {
                () = sleep(pause) => {}
                // It may be this one that has got into doubt; if so, not at once: it was called just now.
                () = changed => {
                    instance.next_look(self.now() + settings.doubtful);
                    sleep(settings.doubtful).await;
                }
            }
        }
    }

    /// Asks one for its health now, or starts it.
    pub(super) async fn look(&self, instance: &Instance) {
        if instance.is_halted() {
            return;
        }
        let began = self.now();
        if !instance.is_started() {
            let started = timeout(START_MAX, instance.start()).await;
            instance.looked_at(began, self.now());
            if started.is_ok_and(|started| started.is_ok()) {
                self.tell_change(instance);
            }
            return;
        }
        let limit = self.settings.health.timeout;
        let health = timeout(limit, instance.provider.health()).await;
        let health = health.unwrap_or_else(|_| Health::Down(format!("no answer within {limit:?}")));
        instance.looked_at(began, self.now());
        if instance.checked(health) {
            self.tell_change(instance);
        }
    }
}
