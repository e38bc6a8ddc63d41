//! Moving queues whose type or arguments differ from what is declared: what is wished and what came of it.

use std::sync::Arc;
use std::time::Duration;

use crate::core::clock::Clock;

/// What the name of whatever stands in for a queue while it is moved ends with.
pub const STAND_IN: &str = ".migrating";

/// How queues are to be moved.
#[derive(Debug, Clone)]
pub struct Migration {
    /// How long consumers get to end what they hold of a queue before it is deleted, counted from its last
    /// message. Longer than a worker holds a delivery: a quarter of the consumer timeout.
    pub settle: Duration,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// What remains of a delay is computed with it.
    pub clock: Arc<dyn Clock>,
    /// Told of every step.
    pub tell: fn(&str),
}

/// A queue that was moved, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Its name.
    pub queue: String,
    /// What differed, or that an earlier migration had not ended.
    pub why: String,
    /// Messages taken out of it and put back; a message may be counted in both directions.
    pub messages: u64,
}
