//! What sessions say of themselves. Lines 28 and 29 of the law.
//!
//! 28. What a session has said of itself with `introduce` is answered by `introduced` while the session is alive, and
//!     no longer; what it says later replaces it.
//! 29. `introduced` costs time by the number of workers, not of tasks: it may be asked again and again.

use async_trait::async_trait;

use super::StoreError;
use crate::core::clock::Timestamp;
use crate::core::id::Id;

/// What workers say of themselves.
#[async_trait]
pub trait Introductions: Send + Sync {
    /// Says this of a session that has beaten. To be said again now and then: a store may lose its last writes.
    async fn introduce(&self, session: &Id, about: &str) -> Result<(), StoreError>;

    /// What the sessions that are alive have said, in the order of their ids.
    async fn introduced(&self, now: Timestamp) -> Result<Vec<(Id, String)>, StoreError>;
}
