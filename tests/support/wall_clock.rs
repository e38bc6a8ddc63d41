//! The machine's clock.

use gleitzeit::core::clock::{Clock, Timestamp};
use gleitzeit::core::id::Id;

/// The machine's clock.
#[derive(Debug)]
pub(crate) struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
    }
    fn chance(&self) -> f64 {
        0.5
    }
    fn new_id(&self) -> Id {
        Id::from_uuid(uuid::Uuid::now_v7())
    }
}
