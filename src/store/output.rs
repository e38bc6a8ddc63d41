//! What running tasks give, piece by piece, for whoever follows them. Lines 23 to 27 of the law.
//!
//! 23. `append` writes the pieces of the attempt that holds the lease, in their order, behind everything that its root has;
//!     nothing of them if the lease is not current or its attempt has ended. A repeat writes no piece again: what begins
//!     before the attempt's last piece ended is there already.
//! 24. Of an attempt's pieces those are kept that begin within [`OUTPUT_BYTES_MAX`] bytes. In the place of the first that
//!     does not there is a mark, and nothing after it. All entries of a root have at most [`ROOT_BYTES_MAX`] bytes together,
//!     each counted with [`ENTRY_BYTES`] more than its text: beyond that the oldest go.
//! 25. `output` gives the entries behind a position in the order in which they were written, which is the same for
//!     everybody and does not change. So who goes on from the last position that it has seen neither misses an entry nor
//!     sees one twice, whatever happened in between, but for those that are gone by line 24 or 26.
//! 26. An entry can be read for [`OUTPUT_TTL`] after it was written, and not longer than so after the last one of its root.
//! 27. Each entry says of which lease it is: another attempt begins anew, at offset 0. The step by which the holder of the
//!     lease ends an attempt that has given something writes an entry of that; no piece of the attempt comes after it.
//!     Who follows (`watch_output`) is told after each `append`.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Fence, Lease, StoreError};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::output::Piece;

/// How long an entry can be read.
pub const OUTPUT_TTL: Duration = Duration::from_secs(3600);
/// The most that all entries of a root have together, in bytes.
pub const ROOT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What an entry counts beside its text, in bytes.
pub const ENTRY_BYTES: u64 = 100;

/// The place of an entry among those of its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    pub(super) high: u64,
    pub(super) low: u64,
}

impl Position {
    /// Before every entry.
    pub const START: Position = Position { high: 0, low: 0 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.high, self.low)
    }
}

/// A text that is not a [`Position`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no position in an output; one is like 1700000000000-0")]
pub struct InvalidPosition(String);

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Position, InvalidPosition> {
        let read =
            |(high, low): (&str, &str)| Some(Position { high: high.parse().ok()?, low: low.parse().ok()? });
        text.split_once('-').and_then(read).ok_or_else(|| InvalidPosition(text.chars().take(64).collect()))
    }
}

/// Something that an attempt has given, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputEntry {
    /// Where it stands.
    pub position: Position,
    /// Of which task.
    pub key: TaskKey,
    /// Of which attempt, from 1.
    pub attempt: u32,
    /// Of which lease: it tells attempts apart that have the same number.
    pub fence: Fence,
    /// What it is.
    pub what: Given,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// A piece.
    Piece(Piece),
    /// The attempt gives more than is kept; nothing of it comes any more.
    Truncated,
    /// The attempt has ended: the state that its task is in since.
    Ended(String),
}

/// What became of [`Outputs::append`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// They can be read.
    Written,
    /// The attempt has given all that is kept of one: save yourself the next.
    Full,
    /// The lease is not current, or its attempt has ended.
    Lost,
}

/// What running tasks give.
#[async_trait]
pub trait Outputs: Send + Sync {
    /// Writes pieces of the attempt that `lease` is for; at least one.
    async fn append(&self, lease: &Lease, pieces: &[Piece], now: Timestamp) -> Result<Appended, StoreError>;

    /// The first entries of a root behind a position, at most `limit`; none if there are none yet, or none of an id that
    /// nobody has seen.
    async fn output(&self, root: &Id, after: Position, limit: usize) -> Result<Vec<OutputEntry>, StoreError>;

    /// Tells whenever there may be more to read under `root`, from now on. The stream is endless; drop it to stop.
    async fn watch_output(&self, root: &Id) -> Result<BoxStream<'static, ()>, StoreError>;
}
