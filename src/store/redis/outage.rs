//! Says once that the server is away and once that it is back, however many connections and steps meet it.
//!
//! Both lines are warnings: whoever reads that something was lost looks for the line that it is back. What needs
//! a person (the login is refused) is an error, said once more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is known of the server at an address, by all who have a connection to it.
#[derive(Debug)]
pub(super) struct Outage {
    url_masked: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Connections that are lost.
    lost: usize,
    /// The login was refused since the last line that all is well.
    is_refused: bool,
}

impl Outage {
    pub(super) fn new(url_masked: String) -> Arc<Outage> {
        Arc::new(Outage { url_masked, state: Mutex::default() })
    }

    /// One connection's view, not lost.
    pub(super) fn part(self: &Arc<Self>) -> Part {
        Part { outage: Arc::clone(self), is_lost: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's share in an [`Outage`].
#[derive(Debug, Clone)]
pub(super) struct Part {
    outage: Arc<Outage>,
    is_lost: Arc<AtomicBool>,
}

impl Part {
    /// The connection is lost, or cannot be had.
    pub(super) fn lost(&self, reason: &str) {
        if self.is_lost.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut state = self.outage.state();
        state.lost += 1;
        if state.lost == 1 {
            tracing::warn!(
                store = self.outage.url_masked,
                reason,
                "connection to the store lost; connecting again"
            );
        }
    }

    /// The server is there and does not let us in: somebody must mend that.
    pub(super) fn refused(&self, reason: &str) {
        self.lost(reason);
        let mut state = self.outage.state();
        if !std::mem::replace(&mut state.is_refused, true) {
            tracing::error!(
                store = self.outage.url_masked,
                reason,
                "the store refuses the login; trying again"
            );
        }
    }

    /// The connection stands.
    pub(super) fn back(&self) {
        if self.leave() {
            tracing::warn!(store = self.outage.url_masked, "connected to the store again");
        }
    }

    /// The connection is not wanted any more.
    pub(super) fn forget(&self) {
        self.leave();
    }

    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// Whether it was the last that was lost.
    fn leave(&self) -> bool {
        // Every step comes by here: the common case is a look.
        if !self.is_lost() || !self.is_lost.swap(false, Ordering::Relaxed) {
            return false;
        }
        let mut state = self.outage.state();
        state.lost = state.lost.saturating_sub(1);
        if state.lost == 0 {
            state.is_refused = false;
        }
        state.lost == 0
    }
}
