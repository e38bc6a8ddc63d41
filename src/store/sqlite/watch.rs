//! Being told of ends, and of what moves: every step of this process touches the topic of what it does to a root,
//! other processes' commits are polled for; either way the watcher then looks what is new since.
//!
//! Ends are counted in the file, so a look for them costs the same for any root. What moves is not counted: that
//! would be one more write for each claim. Within this process the topic says it all; after a commit of another
//! one a follower, and nobody else, looks at all tasks of the root, and not again before nine times as long has
//! passed as that took.

use futures_util::stream::{self, BoxStream, StreamExt};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

use super::rows;
use crate::core::id::Id;
use crate::sqlite::{Database, Error, Foreign, Topic};
use crate::store::Change;

/// How long to wait after the file could not be read.
const PAUSE: Duration = Duration::from_secs(1);

/// How many times longer than a look at all tasks takes the pause after it is.
const PAUSE_FACTOR: u32 = 9;

/// What a step may do to a root that somebody is to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Something may have ended.
    Ends,
    /// Something has moved and not ended.
    Moves,
}

impl News {
    /// The topic that steps touch which do this to `root`.
    pub(super) fn topic(self, root: &Id) -> String {
        match self {
            News::Ends => format!("root:{root}"),
            News::Moves => format!("live:{root}"),
        }
    }
}

/// What has ended of a root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ends {
    /// How many ends of tasks; each task has the number of its last one.
    tasks: i64,
    /// How many ends of the root itself: one per run.
    root: i64,
}

/// Where the tasks of a root are, as far as it shows that one has moved: each lease has a higher fence, each
/// retry is a run, and what is put back runs no more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Standing {
    tasks: i64,
    fences: i64,
    runs: i64,
    running: i64,
}

struct Watcher {
    database: Database,
    root: Id,
    topic: Topic,
    foreign: Foreign,
    ended: Ends,
    found: VecDeque<Change>,
    moves: Option<Moves>,
}

/// What a follower has beside.
struct Moves {
    topic: Topic,
    standing: Standing,
    /// When to look at the tasks again, if another process has committed something since.
    due: Option<Instant>,
    /// Not before.
    rested: Instant,
}

pub(super) async fn ends(database: &Database, root: &Id) -> Result<BoxStream<'static, Change>, Error> {
    Ok(stream_of(watcher(database, root).await?))
}

pub(super) async fn ends_and_moves(
    database: &Database,
    root: &Id,
) -> Result<BoxStream<'static, Change>, Error> {
    let topic = database.follow(&News::Moves.topic(root));
    let watcher = watcher(database, root).await?;
    let of = root.clone();
    let standing = database.read("follow", move |tx| standing(tx, &of)).await?;
    let moves = Moves { topic, standing, due: None, rested: Instant::now() };
    Ok(stream_of(Watcher { moves: Some(moves), ..watcher }))
}

async fn watcher(database: &Database, root: &Id) -> Result<Watcher, Error> {
    // Before the state is read, so that nothing is missed.
    let (topic, foreign) = (database.follow(&News::Ends.topic(root)), database.foreign());
    let of = root.clone();
    let ended = database.read("watch", move |tx| ended(tx, &of)).await?;
    let (database, root, found) = (database.clone(), root.clone(), VecDeque::new());
    Ok(Watcher { database, root, topic, foreign, ended, found, moves: None })
}

fn stream_of(watcher: Watcher) -> BoxStream<'static, Change> {
    let changes = stream::unfold(watcher, async |mut watcher| {
        let change = watcher.next().await;
        Some((change, watcher))
    });
    changes.boxed()
}

/// What a watcher wakes for.
enum Woken {
    Ended,
    Foreign,
    Moved,
    Due,
}

impl Watcher {
    async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.found.pop_front() {
                return change;
            }
            let looked = match self.woken().await {
                Woken::Moved => return Change::Moved,
                Woken::Ended => self.look_for_ends().await,
                Woken::Foreign => {
                    if let Some(moves) = &mut self.moves {
                        moves.due.get_or_insert(moves.rested);
                    }
                    self.look_for_ends().await
                }
                Woken::Due => self.look_for_moves().await,
            };
            match looked {
                Ok(()) => {}
                // It tells nothing any more, and the reader of a closed store asks no more.
                Err(Error::Closed) => std::future::pending().await,
                Err(error) => {
                    tracing::warn!(%error, root = %self.root, "cannot look what is new, trying again");
                    tokio::time::sleep(PAUSE).await;
                    return Change::Resync;
                }
            }
        }
    }

    async fn woken(&mut self) -> Woken {
        let Watcher { topic, foreign, moves, .. } = self;
        let due = moves.as_ref().and_then(|moves| moves.due);
        let moved = async {
            match moves {
                Some(moves) => moves.topic.changed().await,
                None => std::future::pending().await,
            }
        };
        let due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = topic.changed() => Woken::Ended,
            () = foreign.changed() => Woken::Foreign,
            () = moved => Woken::Moved,
            () = due => Woken::Due,
        }
    }

    async fn look_for_ends(&mut self) -> Result<(), Error> {
        let (root, seen) = (self.root.clone(), self.ended);
        let (now, found) = self.database.read("watch", move |tx| since(tx, &root, seen)).await?;
        self.ended = now;
        self.found.extend(found);
        Ok(())
    }

    async fn look_for_moves(&mut self) -> Result<(), Error> {
        let Some(moves) = &mut self.moves else { return Ok(()) };
        let (root, started) = (self.root.clone(), Instant::now());
        moves.due = None;
        let now = self.database.read("follow", move |tx| standing(tx, &root)).await?;
        moves.rested = Instant::now() + started.elapsed() * PAUSE_FACTOR;
        if now != moves.standing {
            moves.standing = now;
            self.found.push_back(Change::Moved);
        }
        Ok(())
    }
}

fn ended(tx: &Connection, root: &Id) -> rusqlite::Result<Ends> {
    let seen = tx
        .prepare_cached(
            "SELECT ends, run - (ended_at IS NULL) FROM workflows WHERE id = ?1
             UNION ALL SELECT 0, run - (ended_at IS NULL) FROM tasks WHERE root = ?1 AND task = '' LIMIT 1",
        )?
        .query_row([root.as_str()], |row| Ok(Ends { tasks: row.get(0)?, root: row.get(1)? }))
        .optional()?;
    Ok(seen.unwrap_or_default())
}

fn since(tx: &Connection, root: &Id, seen: Ends) -> rusqlite::Result<(Ends, Vec<Change>)> {
    let now = ended(tx, root)?;
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

fn standing(tx: &Connection, root: &Id) -> rusqlite::Result<Standing> {
    tx.prepare_cached(
        "SELECT count(*), ifnull(sum(fence), 0), ifnull(sum(state = 'running'), 0),
             ifnull(sum(run), 0) + ifnull((SELECT run FROM workflows WHERE id = ?1), 0)
         FROM tasks WHERE root = ?1",
    )?
    .query_row([root.as_str()], |row| {
        Ok(Standing { tasks: row.get(0)?, fences: row.get(1)?, running: row.get(2)?, runs: row.get(3)? })
    })
}
