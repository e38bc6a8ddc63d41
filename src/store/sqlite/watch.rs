//! Being told of ends: every step of this process that may end something touches its root's topic, other
//! processes' commits are polled for; either way the watcher then looks what has ended since.

use futures_util::stream::{self, BoxStream, StreamExt};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::VecDeque;
use std::time::Duration;

use super::rows;
use crate::core::id::Id;
use crate::sqlite::{Database, Error, Foreign, Topic};
use crate::store::Change;

/// How long to wait after the file could not be read.
const PAUSE: Duration = Duration::from_secs(1);

/// What has ended of a root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    /// How many ends of tasks; each task has the number of its last one.
    tasks: i64,
    /// How many ends of the root itself: one per run.
    root: i64,
}

struct Watcher {
    database: Database,
    root: Id,
    topic: Topic,
    foreign: Foreign,
    seen: Seen,
    found: VecDeque<Change>,
}

/// The topic that steps touch when they may have ended something of `root`.
pub(super) fn topic(root: &Id) -> String {
    format!("root:{root}")
}

pub(super) async fn watch(database: &Database, root: &Id) -> Result<BoxStream<'static, Change>, Error> {
    // Before the state is read, so that nothing is missed.
    let (topic, foreign) = (database.follow(&topic(root)), database.foreign());
    let of = root.clone();
    let seen = database.read("watch", move |tx| look(tx, &of)).await?;
    let database = database.clone();
    let watcher = Watcher { database, root: root.clone(), topic, foreign, seen, found: VecDeque::new() };
    let changes = stream::unfold(watcher, async |mut watcher| {
        let change = watcher.next().await;
        Some((change, watcher))
    });
    Ok(changes.boxed())
}

impl Watcher {
    async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.found.pop_front() {
                return change;
            }
            tokio::select! {
                () = self.topic.changed() => {}
                () = self.foreign.changed() => {}
            }
            let (root, seen) = (self.root.clone(), self.seen);
            match self.database.read("watch", move |tx| since(tx, &root, seen)).await {
                Ok((now, found)) => {
                    self.seen = now;
                    self.found.extend(found);
                }
                // It tells nothing any more, and the reader of a closed store asks no more.
                Err(Error::Closed) => std::future::pending().await,
                Err(error) => {
                    tracing::warn!(%error, root = %self.root, "cannot look what has ended, trying again");
                    tokio::time::sleep(PAUSE).await;
                    return Change::Resync;
                }
            }
        }
    }
}

fn look(tx: &Connection, root: &Id) -> rusqlite::Result<Seen> {
    let seen = tx
        .prepare_cached(
            "SELECT ends, run - (ended_at IS NULL) FROM workflows WHERE id = ?1
             UNION ALL SELECT 0, run - (ended_at IS NULL) FROM tasks WHERE root = ?1 AND task = '' LIMIT 1",
        )?
        .query_row([root.as_str()], |row| Ok(Seen { tasks: row.get(0)?, root: row.get(1)? }))
        .optional()?;
    Ok(seen.unwrap_or_default())
}

fn since(tx: &Connection, root: &Id, seen: Seen) -> rusqlite::Result<(Seen, Vec<Change>)> {
    let now = look(tx, root)?;
    let mut changes = Vec::new();
    if now.tasks > seen.tasks {
        let mut ended = tx
            .prepare_cached("SELECT task FROM tasks WHERE root = ?1 AND ended_seq > ?2 ORDER BY ended_seq")?;
        let mut rows = ended.query(params![root.as_str(), seen.tasks])?;
        while let Some(row) = rows.next()? {
            changes.push(Change::Task(rows::parsed(row, 0)?));
        }
    }
    if now.root > seen.root {
        changes.push(Change::Root);
    }
    Ok((now, changes))
}
