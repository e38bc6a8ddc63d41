//! Taking a task's lease: from the queue's side the first step that is recorded.

use bytes::Bytes;

use super::Shared;
use super::patience::{Stop, insist};
use crate::core::id::Id;
use crate::store::{Claim, Claimed, End, Fence, Inputs, Lease};
use crate::wire::record::Head;
use crate::wire::task::INPUT_BYTES_MAX;

/// Where the task is now, as far as this delivery is concerned.
#[derive(Debug)]
pub(super) enum Taken {
    /// This worker has the lease.
    Run(Run),
    /// A live session has it.
    Held(Fence),
    /// Anything else that [`Claimed`] says; never `Run` and never `Held`.
    Other(Claimed),
}

/// A task that this worker holds the lease of.
#[derive(Debug)]
pub(super) struct Run {
    /// The right to end the attempt.
    pub(super) lease: Lease,
    /// The result documents asked for, or how many bytes they have if that is too many.
    pub(super) inputs: Result<Vec<(Id, Option<Bytes>)>, u64>,
    /// Attempts that ended with the death of their worker.
    pub(super) crashes: u32,
    /// The history so far, one JSON object an attempt.
    pub(super) history: Vec<String>,
    /// Children that this attempt has planned before; all have ended.
    pub(super) children: Vec<Id>,
}

impl Shared {
    /// Asks for the lease: takes it over from a dead session, and gives back one of our own whose answer was
    /// lost. The task must have been entered into `running` before, so that such a lease can be told.
    pub(super) async fn lease(
        &self,
        head: &Head,
        run: u32,
        attempt: u32,
        inputs: Vec<Id>,
        digest: Option<String>,
    ) -> Result<Taken, Stop> {
        let mut claim = Claim {
            head: head.clone(),
            attempt,
            run: Some(run),
            session: self.session.clone(),
            over: None,
            inputs,
            inputs_bytes_max: INPUT_BYTES_MAX,
            digest,
        };
        loop {
            let step = || self.parts.store.claim(&claim, self.parts.clock.now());
            let (session, fence) = match insist(&self.abort, "claim", step).await? {
                Claimed::Run { lease, inputs, crashes, history, children } => {
                    let inputs = match inputs {
                        Inputs::Read(documents) => Ok(claim.inputs.into_iter().zip(documents).collect()),
                        Inputs::TooLarge { bytes } => Err(bytes),
                    };
                    return Ok(Taken::Run(Run { lease, inputs, crashes, history, children }));
                }
                Claimed::Held { session, fence } => (session, fence),
                other @ (Claimed::NotReady { .. }
                | Claimed::Next { .. }
                | Claimed::Superseded
                | Claimed::Over { .. }
                | Claimed::NoWorkflow) => return Ok(Taken::Other(other)),
            };
            if session == self.session {
                let lease = Lease { key: head.key.clone(), fence, attempt, run };
                let now = self.parts.clock.now();
                insist(&self.abort, "finish", || self.parts.store.finish(&lease, &End::Abandoned, now))
                    .await?;
                claim.over = None;
                continue;
            }
            let now = self.parts.clock.now();
            if insist(&self.abort, "alive", || self.parts.store.alive(&session, now)).await? {
                return Ok(Taken::Held(fence));
            }
            tracing::warn!(task = %head.key, %session, "taking over from a dead worker");
            claim.over = Some(fence);
        }
    }
}
