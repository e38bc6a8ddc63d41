//! Events: told to whoever listens, before or after the fact that matters is recorded; nothing depends on them.

use super::Shared;
use super::execute::Run;
use super::outcome::{Verdict, json_bytes};
use crate::config::EventLevel;
use crate::core::state::{TaskState, WorkflowState};
use crate::wire::event::Event;
use crate::wire::record::Head;

impl Shared {
    /// Sends an event if the configuration wants its kind.
    pub(super) fn tell(&self, event: &Event) {
        let wanted = match self.settings.events {
            EventLevel::All => true,
            EventLevel::Ended => event.is_end(),
            EventLevel::Off => false,
        };
        if wanted {
            self.parts.broker.emit(&event.routing_key(), event.encode(self.parts.clock.now()));
        }
    }

    pub(super) fn tell_started(&self, head: &Head, attempt: u32) {
        self.tell(&Event::TaskStarted {
            key: head.key.clone(),
            protocol: head.protocol.clone(),
            method: head.method.clone(),
            attempt,
        });
    }

    /// What became of an attempt, and of the workflow if this ended it.
    pub(super) fn tell_verdict(
        &self,
        head: &Head,
        run: &Run,
        verdict: &Verdict,
        then: Option<WorkflowState>,
    ) {
        if self.settings.events == EventLevel::Off {
            return;
        }
        let key = head.key.clone();
        match verdict {
            Verdict::Abandoned => {}
            Verdict::Again { wait, failure, max_attempts, .. } => self.tell(&Event::TaskRetried {
                key,
                failure: failure.clone(),
                attempt_count: run.lease.attempt,
                max_attempts: *max_attempts,
                due: self.parts.clock.now().after(*wait),
            }),
            Verdict::Ended { ending, max_attempts, .. } => self.tell(&match (&ending.error, ending.state) {
                (Some(failure), TaskState::Failed) => Event::TaskFailed {
                    key,
                    failure: failure.clone(),
                    attempt_count: run.lease.attempt,
                    max_attempts: *max_attempts,
                },
                (None, TaskState::Completed) => Event::TaskCompleted {
                    key,
                    execution_time: ending.execution_time.unwrap_or_default(),
                    provider_id: ending.provider_id.clone(),
                    result_size: json_bytes(&ending.result),
                },
                (_, state) => Event::TaskEnded { key, state },
            }),
        }
        if let (Some(state), Some(id)) = (then, head.key.workflow())
            && state.is_ended()
        {
            self.tell(&Event::WorkflowEnded { id: id.clone(), state });
        }
    }
}
