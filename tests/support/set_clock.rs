//! A clock that goes on when it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use gleitzeit::core::clock::{Clock, Timestamp};
use gleitzeit::core::id::Id;

/// Stands still in between; its chance is one half, and its ids are numbered.
#[derive(Debug)]
pub(crate) struct SetClock {
    now: AtomicI64,
    ids: AtomicU32,
}

impl SetClock {
    pub(crate) fn at(time: Timestamp) -> Arc<SetClock> {
        Arc::new(SetClock { now: AtomicI64::new(time.as_millis()), ids: AtomicU32::new(0) })
    }

    /// From now on it is `time`.
    pub(crate) fn set(&self, time: Timestamp) {
        self.now.store(time.as_millis(), Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now.load(Ordering::SeqCst))
    }
    fn chance(&self) -> f64 {
        0.5
    }
    fn new_id(&self) -> Id {
        let number = self.ids.fetch_add(1, Ordering::SeqCst);
        Id::parse(&format!("id-{number}")).expect("valid")
    }
}
