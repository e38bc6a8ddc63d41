//! What has not ended: the part of the port that an audit reads.
//!
//! # Law, continued
//! 17. `open` gives every root that has not ended from before its first page to after its last, at least once, and
//!     tells of every root that had ended before. A root that begins or ends meanwhile may be missing.
//! 18. `messages` changes nothing. It gives the message of a task that has not ended and is not waiting, as it was
//!     first published: whoever publishes it again causes nothing that is not due, because `claim` answers what the
//!     task is at.

use async_trait::async_trait;
use std::fmt;

use super::{Released, StoreError, TaskRecord};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};

/// The largest message of a task on its own that is kept while the task is open, in bytes.
pub const SENT_BYTES_MAX: usize = 16 * 1024;

/// What has not ended.
#[async_trait]
pub trait OpenWork: fmt::Debug + Send + Sync {
    /// A page of roots, in no order: about `limit` are looked at. `after` is
    /// [`OpenPage::next`] of the page before; `None` for the first.
    async fn open(&self, after: Option<&str>, limit: usize) -> Result<OpenPage, StoreError>;

    /// The messages of these tasks; `None` for what has ended, waits, or has no message that is kept.
    async fn messages(&self, keys: &[TaskKey]) -> Result<Vec<Option<Released>>, StoreError>;
}

/// Some of what has not ended, and what had.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OpenPage {
    /// The roots that have not ended.
    pub roots: Vec<OpenRoot>,
    /// The others whose record is kept, and how each has ended, by name.
    pub ended: Vec<(Id, &'static str)>,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<String>,
}

/// A root that has not ended.
#[derive(Debug, Clone, PartialEq)]
pub enum OpenRoot {
    /// A task on its own.
    Task {
        /// What is known of it.
        record: Box<TaskRecord>,
        /// When the store first knew of it.
        created_at: Timestamp,
    },
    /// A workflow that no worker has taken in.
    Accepted {
        /// Its id.
        id: Id,
        /// When the store first knew of it.
        created_at: Timestamp,
        /// The broker keeps it until then.
        due: Option<Timestamp>,
    },
    /// A workflow that runs.
    Running(Id),
}
