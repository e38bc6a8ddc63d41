//! Handing on what a call gives before its end.
//!
//! ```text
//! call ─▶ pieces ─▶ gathered for a while ─▶ Store::append
//! ```
//! Beside the call, and never in its way: where the store cannot keep up, pieces are left out. Nothing is written for a
//! call that gives nothing, and nothing twice for one that ends at once and has all of it in its answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Shared;
use crate::core::clock::Clock;
use crate::core::output::Piece;
use crate::provider::Pieces;
use crate::store::{Appended, Lease, Store};

/// How long pieces are gathered, unless they become many.
const GATHER_TIME: Duration = Duration::from_millis(100);
/// How long the store may take.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last pieces may hold up the end of a call.
const REST_TIMEOUT: Duration = Duration::from_secs(1);
/// After an error of the store.
const PAUSE: Duration = Duration::from_millis(500);

impl Shared {
    /// Waits for a call, and hands on what it gives until then.
    pub(super) async fn handing_on<T>(
        &self,
        lease: &Lease,
        pieces: Pieces,
        call: impl Future<Output = T>,
    ) -> T {
        let (store, clock) = (Arc::clone(&self.parts.store), Arc::clone(&self.parts.clock));
        let mut hands =
            Hands { store, clock, lease, pieces, held: Vec::new(), last: Instant::now(), has_written: false };
        let answer = {
            tokio::pin!(call);
            tokio::select! {
                biased;
                answer = &mut call => answer,
                never = hands.on() => match never {},
            }
        };
        hands.rest().await;
        answer
    }
}

struct Hands<'a> {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    lease: &'a Lease,
    pieces: Pieces,
    /// Taken, and not surely written. To write them again does no harm.
    held: Vec<Piece>,
    last: Instant,
    has_written: bool,
}

impl Hands<'_> {
    async fn on(&mut self) -> Infallible {
        loop {
            if self.held.is_empty() {
                self.pieces.some().await;
                tokio::select! {
                    () = sleep_until(self.last + GATHER_TIME) => {}
                    () = self.pieces.much() => {}
                }
                self.held = self.pieces.take();
            }
            if !self.write(APPEND_TIMEOUT).await {
                sleep(PAUSE).await;
            }
            self.last = Instant::now();
        }
    }

    /// Hands on what is left once the call has ended.
    async fn rest(&mut self) {
        let deadline = Instant::now() + REST_TIMEOUT;
        if !self.held.is_empty() && !self.write(REST_TIMEOUT).await {
            return;
        }
        if !self.has_written && self.pieces.are_copies() {
            return;
        }
        self.held = self.pieces.take();
        if !self.held.is_empty() {
            self.write(deadline.saturating_duration_since(Instant::now())).await;
        }
    }

    /// Writes what is held. Whether the store has answered.
    async fn write(&mut self, limit: Duration) -> bool {
        let appending = self.store.append(self.lease, &self.held, self.clock.now());
        let appended = match timeout(limit, appending).await {
            Ok(Ok(appended)) => appended,
            Ok(Err(error)) => {
                tracing::debug!(task = %self.lease.key, %error, "cannot hand on what the task gives");
                return false;
            }
            Err(_) => {
                tracing::debug!(task = %self.lease.key, "the store takes too long to take what the task gives");
                return false;
            }
        };
        self.held.clear();
        self.has_written = true;
        match appended {
            Appended::Written => {}
            Appended::Full | Appended::Lost => self.pieces.close(),
        }
        true
    }
}
