//! The machine's clock and chance.

use uuid::Uuid;

use crate::core::clock::{Clock, Timestamp};
use crate::core::id::Id;

/// The only implementation of [`Clock`] outside tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
    }

    fn chance(&self) -> f64 {
        fastrand::f64()
    }

    fn new_id(&self) -> Id {
        Id::from_uuid(Uuid::now_v7())
    }
}
