//! Calls that wait for a member: the most urgent first, among equals the one that waits longest.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Given, Lease, Maker, Shared, stopped};
use crate::core::failure::Failure;
use crate::core::priority::Priority;

/// A place in the queue; the least one is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn(Reverse<Priority>, u64);

#[derive(Debug)]
pub(super) struct Queue<G> {
    waiting: BTreeMap<Turn, (Duration, oneshot::Sender<Result<G, Failure>>)>,
    next: u64,
}

impl<G> Default for Queue<G> {
    fn default() -> Queue<G> {
        Queue { waiting: BTreeMap::new(), next: 0 }
    }
}

impl<G> Queue<G> {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn join(
        &mut self,
        priority: Priority,
        now: Duration,
    ) -> (Turn, oneshot::Receiver<Result<G, Failure>>) {
        let (sender, receiver) = oneshot::channel();
        let turn = Turn(Reverse(priority), self.next);
        self.next += 1;
        self.waiting.insert(turn, (now, sender));
        (turn, receiver)
    }

    /// Gives to the first; back if that one has gone away, or nobody is there.
    pub(super) fn give(&mut self, given: G) -> Option<G> {
        let Some((_, (_, sender))) = self.waiting.pop_first() else { return Some(given) };
        // What comes back is what was sent.
        sender.send(Ok(given)).err().and_then(Result::ok)
    }

    pub(super) fn refuse_all(&mut self, failure: &Failure) {
        for (_, (_, sender)) in std::mem::take(&mut self.waiting) {
            // Whoever went away needs no answer.
            let _ = sender.send(Err(failure.clone()));
        }
    }

    /// Since when somebody waits.
    pub(super) fn since(&self) -> Option<Duration> {
        self.waiting.values().map(|(since, _)| *since).min()
    }

    fn leave(&mut self, turn: Turn) {
        self.waiting.remove(&turn);
    }
}

/// Somebody who waits. Dropped, the place in the queue is given up, and what was given in this moment goes back.
#[derive(Debug)]
pub(super) struct Waiting<M: Maker> {
    shared: Arc<Shared<M>>,
    turn: Turn,
    given: oneshot::Receiver<Result<Given<M::Member>, Failure>>,
    is_over: bool,
}

impl<M: Maker> Waiting<M> {
    pub(super) fn new(
        shared: Arc<Shared<M>>,
        turn: Turn,
        given: oneshot::Receiver<Result<Given<M::Member>, Failure>>,
    ) -> Waiting<M> {
        Waiting { shared, turn, given, is_over: false }
    }

    pub(super) async fn given(mut self) -> Result<Lease<M>, Failure> {
        let given = (&mut self.given).await;
        self.is_over = true;
        match given {
            Ok(Ok(given)) => Ok(Lease { shared: Arc::clone(&self.shared), given }),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(stopped(&self.shared.name)),
        }
    }
}

impl<M: Maker> Drop for Waiting<M> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        self.shared.lock().queue.leave(self.turn);
        self.given.close();
        if let Ok(Ok(given)) = self.given.try_recv() {
            self.shared.release(given.number);
        }
    }
}
