//! Following what tasks give while they run.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;

use crate::core::id::Id;
use crate::error::Error;
use crate::store::{OutputEntry, Position, Store, StoreError};

/// How many entries are read at once.
const READ_MAX: usize = 200;
/// How often it is looked although nothing was told.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long to wait for a store that is away.
const PAUSE: Duration = Duration::from_millis(500);

/// Reads what the tasks of a root give, in its order, each entry once. It goes on from where it was after a broken
/// connection, and another one may, from [`OutputReader::position`].
pub struct OutputReader {
    store: Arc<dyn Store>,
    root: Id,
    position: Position,
    news: Option<BoxStream<'static, ()>>,
}

impl std::fmt::Debug for OutputReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutputReader").field("root", &self.root).field("position", &self.position).finish()
    }
}

impl OutputReader {
    /// Reads what is behind `after`: [`Position::START`] for all that is still there.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, root: Id, after: Position) -> OutputReader {
        OutputReader { store, root, position: after, news: None }
    }

    /// The last entry that was read.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next entries, at least one, however long that takes: a store that is away is waited for. Cancel-safe.
    ///
    /// # Errors
    /// What the store says if waiting cannot help.
    pub async fn next(&mut self) -> Result<Vec<OutputEntry>, Error> {
        loop {
            match self.look().await {
                Ok(entries) if !entries.is_empty() => return Ok(entries),
                Ok(_) => {}
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let Some(news) = &mut self.news else { continue };
            tokio::select! {
                news = news.next() => if news.is_none() {
                    self.news = None;
                    tokio::time::sleep(PAUSE).await;
                },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// The next entries that are there already; none if there are none. Once a task has ended, it gives no more.
    ///
    /// # Errors
    /// What the store says.
    pub async fn rest(&mut self) -> Result<Vec<OutputEntry>, Error> {
        Ok(self.read().await?)
    }

    /// Reads, and is told from before that on of what comes later.
    async fn look(&mut self) -> Result<Vec<OutputEntry>, StoreError> {
        if self.news.is_none() {
            self.news = Some(self.store.watch_output(&self.root).await?);
        }
        self.read().await
    }

    async fn read(&mut self) -> Result<Vec<OutputEntry>, StoreError> {
        let entries = self.store.output(&self.root, self.position, READ_MAX).await?;
        if let Some(last) = entries.last() {
            self.position = last.position;
        }
        Ok(entries)
    }
}
