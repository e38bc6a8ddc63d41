//! Starting, stopping, replacing and scaling providers, all of them or one by its name, while others go on.
//!
//! What is stopped gets no more calls; those that it has go on for the grace, then they are cut and given back,
//! uncounted. Where nobody else serves its protocol, the queue is left alone (`room`) until it is started again.
//! None of it outlives the worker.

use futures_util::future::join_all;
use std::time::Duration;
use tokio::time::timeout;

use super::health::START_MAX;
use super::instance::{Fit, Instance, State, Why};
use super::{Change, Providers, Vitals};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::near::did_you_mean;
use crate::core::pool::MEMBERS_MAX;
use crate::core::protocol::ProtocolId;
use crate::provider::PoolStanding;

/// How long calls that were cut may take to end.
const CUT_MAX: Duration = Duration::from_secs(5);

/// What is to be done with a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordered {
    /// Begin again.
    Start,
    /// Take no more calls, end those that there are, give everything up.
    Stop,
    /// Run in something new: the new first, where the pool allows.
    Restart,
    /// Have so many instances.
    Scale(u32),
}

/// How a provider does.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: ProtocolId,
    /// In a word: `starting`, `failed`, `up`, `degraded`, `down`, `busy`, `open`, `half-open`, `stopping`, `stopped`.
    pub state: &'static str,
    /// What is the matter, if anything.
    pub why: Option<String>,
    /// Calls that it is at.
    pub running: u32,
    /// What it keeps for its calls, if anything.
    pub pool: Option<PoolStanding>,
    /// How it has done.
    pub vitals: Vitals,
}

impl Providers {
    /// Starts every provider that has not started, all at once: it takes as long as the slowest. One that fails does not
    /// keep the others from working, and is tried again while [`Providers::look_after`] runs.
    ///
    /// Returns the names of those that failed, with the reasons.
    pub async fn start(&self) -> Vec<(String, Failure)> {
        let instances = self.instances();
        let starts = instances.iter().map(|instance| async {
            instance.start().await.err().map(|failure| (instance.name().to_owned(), failure))
        });
        join_all(starts).await.into_iter().flatten().collect()
    }

    /// Stops every provider, all at once.
    pub async fn stop(&self) {
        let instances = self.instances();
        join_all(instances.iter().map(|instance| instance.provider.stop())).await;
    }

    /// How all do, by name; or the one that is asked for.
    #[must_use]
    pub fn standings(&self, name: Option<&str>) -> Vec<Standing> {
        let mut instances = self.instances();
        instances.retain(|one| name.is_none_or(|name| one.name() == name));
        instances.sort_by(|a, b| a.name().cmp(b.name()));
        instances.iter().map(|one| self.standing(one)).collect()
    }

    /// Does it, and returns when it is done. A repeat does no harm, and nothing but a restart.
    ///
    /// # Errors
    /// `PROVIDER_NOT_FOUND` with the names that there are; `INVALID_PARAMS`: a number that is out of bounds, or no
    /// pool to scale; why it cannot start.
    pub async fn order(&self, name: &str, what: Ordered, grace: Duration) -> Result<(), Failure> {
        let Some(instance) = self.instance(name) else {
            return Err(self.unknown(name));
        };
        match what {
            Ordered::Start => self.start_one(&instance).await,
            Ordered::Stop => {
                self.stop_one(&instance, grace).await;
                Ok(())
            }
            Ordered::Restart => {
                // A call that hangs must not hold it up: what is left of the old ones is cut then.
                if let Ok(renewed) = timeout(grace, instance.renew()).await
                    && renewed?
                {
                    return Ok(());
                }
                self.stop_one(&instance, grace).await;
                self.start_one(&instance).await
            }
            Ordered::Scale(count) => scale(&instance, count),
        }
    }

    /// Makes a change of the configuration: who goes is stopped, who comes is started. Those that could not start,
    /// with the reasons; they are tried again.
    pub async fn change(&self, change: Change, grace: Duration) -> Vec<(String, Failure)> {
        let gone = self.swap(&change, Instance::awaited);
        let stops = gone.iter().map(|one| async {
            self.stop_one(one, grace).await;
            one.forget();
            self.changed.notify_waiters();
        });
        let added = change.added.iter().filter_map(|(provider, _)| self.instance(provider.name()));
        let starts = added.map(|one| async move {
            let failure = self.start_one(&one).await.err()?;
            Some((one.name().to_owned(), failure))
        });
        let (_, failed) = tokio::join!(join_all(stops), join_all(starts));
        failed.into_iter().flatten().collect()
    }

    /// Keeps so many instances of a provider from now on, if it has a pool.
    pub fn bound(&self, name: &str, min: u32, max: u32) {
        if let Some(instance) = self.instance(name) {
            instance.provider.scale(min, max);
        }
    }

    async fn start_one(&self, instance: &Instance) -> Result<(), Failure> {
        instance.wake().await?;
        let started = timeout(START_MAX, instance.start()).await;
        self.tell_change(instance);
        started.unwrap_or_else(|_| {
            let message = format!("provider {} did not start within {START_MAX:?}", instance.name());
            Err(Failure::new(Code::ProviderInitializationFailed, message))
        })
    }

    async fn stop_one(&self, instance: &Instance, grace: Duration) {
        if instance.halt() {
            self.tell_change(instance);
        }
        instance.end(grace, CUT_MAX).await;
        self.tell_change(instance);
    }

    fn standing(&self, instance: &Instance) -> Standing {
        let fit = instance.fit(self.now());
        let state = match (&fit, instance.state()) {
            (_, State::Stopping) => "stopping",
            (_, State::Stopped | State::Gone) => "stopped",
            (_, State::New | State::Waking) => "starting",
            (_, State::Failed(_)) => "failed",
            (Fit::Open, State::Started) => "up",
            (Fit::Degraded, State::Started) => "degraded",
            (Fit::Probes(_), State::Started) => "half-open",
            (Fit::Shut { why, .. }, State::Started) => match why {
                Why::Down(_) => "down",
                Why::Busy => "busy",
                Why::Failing => "open",
                Why::Tried => "half-open",
                Why::NotStarted(_) | Why::Waking => "starting",
                Why::Stopping => "stopping",
                Why::Stopped => "stopped",
            },
        };
        let why = match &fit {
            Fit::Open | Fit::Degraded | Fit::Probes(_) => None,
            Fit::Shut { why: Why::NotStarted(None) | Why::Waking | Why::Stopping | Why::Stopped, .. } => None,
            Fit::Shut { why, .. } => Some(instance.told(why)),
        };
        Standing {
            name: instance.name().to_owned(),
            protocol: instance.provider.protocol().clone(),
            state,
            why,
            running: instance.running(),
            pool: instance.provider.pool(),
            vitals: instance.vitals(self.now()),
        }
    }

    fn unknown(&self, name: &str) -> Failure {
        let instances = self.instances();
        let mut names: Vec<&str> = instances.iter().map(|one| one.name()).collect();
        names.sort_unstable();
        let hint = did_you_mean(name, names.iter().copied());
        let message = format!("no provider {name:?} in this worker{hint}; it has {}", names.join(", "));
        Failure::new(Code::ProviderNotFound, message).with("known", names)
    }
}

fn scale(instance: &Instance, count: u32) -> Result<(), Failure> {
    if !(1..=MEMBERS_MAX).contains(&count) {
        let message =
            format!("the number of instances must be 1 to {MEMBERS_MAX}, not {count}; `stop` is for none");
        return Err(Failure::new(Code::InvalidParams, message));
    }
    if !instance.provider.scale(count, count) {
        let message = format!("provider {} has no pool: there is nothing to scale", instance.name());
        return Err(Failure::new(Code::InvalidParams, message));
    }
    Ok(())
}
