//! Taking a task's lease: from the queue's side the first step that is recorded.

use bytes::Bytes;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::patience::{Stop, insist};
use super::session::{BEAT_TTL, Sign};
use super::turn::{Turn, patience};
use crate::core::clock::Timestamp;
use crate::core::id::Id;
use crate::store::{Claim, Claimed, End, Fence, Finished, Inputs, Lease};
use crate::wire::record::Head;
use crate::wire::task::INPUT_BYTES_MAX;

/// What a lease is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To execute the task; as a suspect it has waited so often in vain to be alone.
    Execute { crowded: u32 },
    /// To record its end.
    End,
}

/// Where the task is now, as far as this delivery is concerned.
#[derive(Debug)]
pub(super) enum Taken {
    /// This worker has the lease.
    Run(Run),
    /// A session has it that is alive, or may be.
    Held(Fence),
    /// Workers have died with it, and this one does too much else to try it alone. Its attempt.
    Crowded { attempt: u32 },
    /// Anything else that [`Claimed`] says; never `Run` or `Held`.
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
    /// When its message was ready to be taken, as far as that is known.
    pub(super) ready_at: Option<Timestamp>,
    /// The turn that the lease is held with.
    _turn: Turn,
}

impl Run {
    /// Of a message that was ready then.
    pub(super) fn of(self, ready_at: Option<Timestamp>) -> Run {
        Run { ready_at, ..self }
    }

    /// Whether the task was started before `at`, which is over: by an earlier attempt, an earlier run, or for its
    /// children. Then it can no longer expire. A worker that died with a lease taken later has started nothing.
    pub(super) fn was_started_before(&self, at: Timestamp) -> bool {
        let Lease { run, attempt, .. } = self.lease;
        if run > 1 || !self.children.is_empty() {
            return true;
        }
        // Without a history the store has lost its last writes.
        attempt > 1 && (self.history.is_empty() || !self.history.iter().all(|entry| started_from(entry, at)))
    }
}

/// Whether the history tells of this attempt that it started at `at` or later.
fn started_from(entry: &str, at: Timestamp) -> bool {
    let entry: Option<Value> = serde_json::from_str(entry).ok();
    let started = entry.as_ref().and_then(|entry| entry.get("started_at")?.as_str()?.parse().ok());
    started.is_some_and(|started: Timestamp| started >= at)
}

impl Shared {
    /// Asks for the lease: takes it over from a dead session, and gives back one of our own whose answer was
    /// lost. The task must have been entered into `running` before, so that such a lease can be told.
    ///
    /// A suspect is executed alone. What is known to be one, because it has waited before, gets its lease only
    /// then; one that shows in the answer is given back first, uncounted.
    pub(super) async fn lease(
        &self,
        head: &Head,
        run: u32,
        attempt: u32,
        inputs: Vec<Id>,
        digest: Option<String>,
        purpose: Purpose,
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
        let mut turn = match purpose {
            Purpose::Execute { crowded: 1.. } => None,
            Purpose::Execute { crowded: 0 } | Purpose::End => Some(self.turns.beside(&self.abort).await?),
        };
        loop {
            let held = match turn.take() {
                Some(turn) => turn,
                None => match self.turn_alone(purpose).await? {
                    Some(turn) => turn,
                    None => return Ok(Taken::Crowded { attempt: claim.attempt }),
                },
            };
            let may_be_suspect = held.is_alone() || purpose == Purpose::End;
            let step = || self.parts.store.claim(&claim, self.parts.clock.now());
            let (session, fence) = match insist(&self.abort, "claim", step).await? {
                Claimed::Run { lease, crashes, .. } if self.is_suspect(crashes) && !may_be_suspect => {
                    self.give_back(&lease).await?;
                    (claim.attempt, claim.over) = (lease.attempt, None);
                    continue;
                }
                Claimed::Run { lease, inputs, crashes, history, children } => {
                    let inputs = match inputs {
                        Inputs::Read(documents) => Ok(claim.inputs.into_iter().zip(documents).collect()),
                        Inputs::TooLarge { bytes } => Err(bytes),
                    };
                    let ready_at = None;
                    let run = Run { lease, inputs, crashes, history, children, ready_at, _turn: held };
                    return Ok(Taken::Run(run));
                }
                Claimed::Held { session, fence } => (session, fence),
                other @ (Claimed::NotReady { .. }
                | Claimed::Next { .. }
                | Claimed::Superseded
                | Claimed::LostRun { .. }
                | Claimed::Over { .. }
                | Claimed::NoWorkflow) => return Ok(Taken::Other(other)),
            };
            if session == self.session {
                self.give_back(&Lease { key: head.key.clone(), fence, attempt, run }).await?;
                (claim.over, turn) = (None, Some(held));
                continue;
            }
            match self.sign_of(&session).await? {
                Sign::Alive | Sign::Doubtful => return Ok(Taken::Held(fence)),
                Sign::Dead => {}
            }
            if claim.over != Some(fence) {
                tracing::warn!(task = %head.key, %session, "taking over from a dead worker");
            }
            claim.over = Some(fence);
            turn = Some(held);
        }
    }

    /// Whether one more crash is the last one that this task may have. Earlier ones are tried beside others: a
    /// worker that is killed with much in hand would else have all of it done one by one.
    fn is_suspect(&self, crashes: u32) -> bool {
        crashes > 0 && crashes.saturating_add(1) >= self.settings.crash_limit
    }

    /// Ends an attempt as if it had not been made. An abort does not cut that short, for it is the answer to
    /// one; but after the session's TTL the lease is void anyway.
    pub(super) async fn give_back(&self, lease: &Lease) -> Result<Finished, Stop> {
        let unaborted = CancellationToken::new();
        let step = || self.parts.store.finish(lease, &End::Abandoned, self.parts.clock.now());
        let giving_back = insist(&unaborted, "finish", step);
        tokio::time::timeout(BEAT_TTL, giving_back).await.unwrap_or(Err(Stop::Aborted))
    }

    /// A turn alone; `None` if others take too long.
    async fn turn_alone(&self, purpose: Purpose) -> Result<Option<Turn>, Stop> {
        let times = match purpose {
            Purpose::Execute { crowded } => crowded,
            Purpose::End => 0,
        };
        match self.turns.alone(&self.abort, patience(times, self.settings.guard_after)).await {
            Ok(turn) => Ok(Some(turn)),
            Err(Stop::Crowded) => Ok(None),
            Err(stop) => Err(stop),
        }
    }
}
