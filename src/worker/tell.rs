//! Events: told to whoever listens, after the settlement of what they tell of; nothing depends on them.

use super::Shared;
use super::lease::Run;
use super::outcome::{Verdict, json_bytes};
use crate::config::EventLevel;
use crate::core::id::{Id, TaskKey};
use crate::core::state::{TaskState, WorkflowState};
use crate::wire::event::Event;
use crate::wire::record::Head;

impl Shared {
    /// Sends an event if the configuration wants its kind.
    pub(super) fn tell(&self, event: &Event) {
        let wanted = match self.settings.events {
            EventLevel::All => true,
            EventLevel::Ended => event.is_end() || event.is_of_worker(),
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

    /// What became of an attempt, of the dependents that it ended, and of the workflow if it ended that.
    pub(super) fn events_of(
        &self,
        head: &Head,
        run: &Run,
        verdict: &Verdict,
        ended: &[(Id, TaskState)],
        then: Option<WorkflowState>,
    ) -> Vec<Event> {
        let key = head.key.clone();
        let mut events = Vec::new();
        match verdict {
            Verdict::NotNow { .. }
            | Verdict::Elsewhere { .. }
            | Verdict::NoRoom { .. }
            | Verdict::Abandoned
            | Verdict::Expanded(_) => {}
            Verdict::Again { wait, failure, max_attempts, .. } => events.push(Event::TaskRetried {
                key,
                failure: failure.clone(),
                attempt_count: run.lease.attempt,
                max_attempts: *max_attempts,
                due: self.parts.clock.now().after(*wait),
            }),
            Verdict::Ended { ending, max_attempts, .. } => events.push(match (&ending.error, ending.state) {
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
        events.extend(what_followed(head, ended, then));
        events
    }

    /// What became of a task that ended without an attempt, and what followed from that.
    pub(super) fn events_of_end(
        &self,
        head: &Head,
        state: TaskState,
        ended: &[(Id, TaskState)],
        then: Option<WorkflowState>,
    ) -> Vec<Event> {
        let mut events = vec![Event::TaskEnded { key: head.key.clone(), state }];
        events.extend(what_followed(head, ended, then));
        events
    }
}

/// The dependents that a step has ended, and the workflow if it ended that.
fn what_followed(head: &Head, ended: &[(Id, TaskState)], then: Option<WorkflowState>) -> Vec<Event> {
    let mut events = Vec::with_capacity(ended.len() + 1);
    for (id, state) in ended {
        let key = TaskKey::within(head.key.root.clone(), id.clone());
        events.push(Event::TaskEnded { key, state: *state });
    }
    if let (Some(state), Some(id)) = (then.filter(|state| state.is_ended()), head.key.workflow()) {
        events.push(Event::WorkflowEnded { id: id.clone(), state });
    }
    events
}
