//! What a store answers, without what adapters may choose, so that it can be compared with the model.

use gleitzeit::core::state::{TaskState, WorkflowState};
use gleitzeit::store::{Claimed, Finished};

use super::model::Model;
use super::stand::owned;

/// An answer to `claim` without what adapters may choose: fences, documents, times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Run { attempt: u32, crashes: u32, children: Vec<String> },
    Held { session: String },
    NotReady { released: Vec<String> },
    Next { attempt: u32 },
    Superseded,
    LostRun { present: u32 },
    Over { state: TaskState, released: Vec<String> },
    NoWorkflow,
}

/// An answer to `finish` without what adapters may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    Done { released: Vec<String>, ended: Vec<(String, TaskState)>, workflow: WorkflowState },
    Lost,
}

/// An answer to `retry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Again {
    Running { released: Vec<String>, run: u32 },
    NotEnded,
    Nothing,
}

impl Answer {
    pub(crate) fn of(claimed: &Claimed, model: &Model) -> Answer {
        let sort = |released| model.without_abandoned(owned(released));
        match claimed {
            Claimed::Run { lease, crashes, children, .. } => {
                let children = children.iter().map(|id| id.to_string()).collect();
                Answer::Run { attempt: lease.attempt, crashes: *crashes, children }
            }
            Claimed::Held { session, .. } => Answer::Held { session: session.to_string() },
            Claimed::NotReady { released } => Answer::NotReady { released: sort(released) },
            Claimed::Next { attempt, .. } => Answer::Next { attempt: *attempt },
            Claimed::Superseded => Answer::Superseded,
            Claimed::LostRun { present } => Answer::LostRun { present: *present },
            Claimed::Over { state, released, .. } => Answer::Over { state: *state, released: sort(released) },
            Claimed::NoWorkflow => Answer::NoWorkflow,
        }
    }
}

impl Ended {
    pub(crate) fn of(finished: &Finished, model: &Model) -> Ended {
        match finished {
            Finished::Done { released, ended, workflow } => {
                let mut ended: Vec<(String, TaskState)> =
                    ended.iter().map(|(id, state)| (id.to_string(), *state)).collect();
                ended.sort();
                Ended::Done {
                    released: model.without_abandoned(owned(released)),
                    ended,
                    workflow: workflow.expect("the task belongs to a workflow"),
                }
            }
            Finished::Lost => Ended::Lost,
        }
    }
}
