//! Buckets that all workers share. Lines 19 to 22 of the law.
//!
//! 19. `admit` takes the costs asked for one after the other, by the store's own clock, until one would not start within
//!     the patience; so much and no more starts as the bucket's pace allows, however many ask at once
//!     (`core::limit` has the arithmetic).
//! 20. The pace of whoever has read its configuration last holds for everybody, until the bucket is forgotten: an hour
//!     after it is full. What a faster pace gives sooner is there sooner; a slower one takes nothing back.
//! 21. A settlement is never refused: what was used beyond what was taken delays who comes next, and what was not used
//!     is there again at once, but for a bucket that was shut: it stays so for its time. Within one `admit` it comes
//!     first.
//! 22. `secret` answers everybody the same: what was offered first.

use async_trait::async_trait;
use std::time::Duration;
use uuid::Uuid;

use super::StoreError;
use crate::core::clock::Timestamp;
use crate::core::id::Id;
use crate::core::limit::Pace;

/// How long a bucket is kept that is full.
pub(super) const BUCKET_TTL: Duration = Duration::from_secs(3600);

/// What is asked of a bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct Demand {
    /// The limit's name.
    pub limit: String,
    /// Which of its buckets; `None`: it has one.
    pub key: Option<String>,
    /// How fast it fills, as the asker was configured.
    pub pace: Pace,
    /// When the asker has read its configuration.
    pub since: Timestamp,
    /// What was used beyond what was taken before; negative: what was not used.
    pub settle: f64,
    /// Nothing may start before this time is over, whatever is given back.
    pub shut: Option<Duration>,
    /// What is to be taken, one after the other.
    pub costs: Vec<f64>,
    /// How long they may wait.
    pub patience: Duration,
}

impl Demand {
    /// What a store calls the bucket of this key: a key is somebody's text, of any length, and nobody needs to read it.
    pub(super) fn key_name(&self) -> Option<Uuid> {
        self.key.as_ref().map(|key| Uuid::new_v5(&Uuid::NAMESPACE_OID, key.as_bytes()))
    }
}

/// What became of a [`Demand`].
#[derive(Debug, Clone, PartialEq)]
pub struct Granted {
    /// After which time each of those that were taken may start, in the order asked.
    pub waits: Vec<Duration>,
    /// When somebody of whom nothing was taken may come again; `None` if all was taken.
    pub refused: Option<Duration>,
    /// The pace that holds.
    pub pace: Pace,
}

/// Limits that all workers share.
#[async_trait]
pub trait Limits: Send + Sync {
    /// Settles, then takes as much as may start in time. `now` is for a store without a clock of its own.
    async fn admit(&self, demand: &Demand, now: Timestamp) -> Result<Granted, StoreError>;

    /// What all who use this store know and nobody else, so that they can prove to each other what they have taken.
    async fn secret(&self, offered: &Id) -> Result<Id, StoreError>;
}
