//! What a retry resets: the tasks that did not complete, and whatever depends on them.
//!
//! It is looked for level by level. A level is the file, or the children of one parent; edges stay within it.
//! The children of a parent that is reset because of a dependency are lost, since the parent will plan anew;
//! those of one that is reset by itself are a level to look at.

use rusqlite::{Connection, params};
use std::collections::{BTreeMap, HashMap};

use super::flow::{self, RUN};
use super::rows;
use crate::core::clock::Timestamp;
use crate::core::id::Id;
use crate::core::state::TaskState;

/// An ended workflow.
pub(super) struct Graph {
    tasks: BTreeMap<i64, Node>,
    /// The tasks of each level in their order, by the parent.
    levels: HashMap<Option<i64>, Vec<i64>>,
}

struct Node {
    id: Id,
    state: TaskState,
    lacks_result: bool,
    lacks_message: bool,
    /// With the worst verdict that each can give.
    dependencies: Vec<(i64, i64)>,
    dependents: Vec<i64>,
}

/// What is to be done.
#[derive(Default)]
pub(super) struct Reset {
    /// What runs again; in the order of the file, children after their parent.
    pub(super) tasks: Vec<Again>,
    /// How many of these are tasks of the file.
    pub(super) open: i64,
    /// The children that are no more, at any depth.
    pub(super) lost: Vec<i64>,
    /// Completed tasks whose results are needed and not kept any more.
    pub(super) gone: Vec<Id>,
    /// Whether the message of a task that is to run again is not kept any more.
    pub(super) lacks_message: bool,
}

/// A task that runs again.
pub(super) struct Again {
    pub(super) n: i64,
    pending: i64,
    verdict: i64,
    cause: Option<i64>,
    children: Children,
}

/// What becomes of the children of a task that runs again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Children {
    /// It has none, or loses them.
    None,
    /// It keeps them, and so many of them run again.
    Kept { open: i64 },
}

/// Why a task runs again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Because {
    /// It did not complete.
    Itself,
    /// Something that it depends on runs again.
    Dependency,
}

impl Graph {
    pub(super) fn read(tx: &Connection, workflow: &Id, now: Timestamp) -> rusqlite::Result<Graph> {
        let mut graph = Graph { tasks: BTreeMap::new(), levels: HashMap::new() };
        let mut tasks = tx.prepare_cached(
            "SELECT t.n, t.task, t.state, t.parent,
                 r.task IS NULL OR (r.kept = 1 AND w.clean_at <= ?2),
                 NOT EXISTS (SELECT 1 FROM planned WHERE task = t.n)
             FROM tasks t JOIN workflows w ON w.id = t.root LEFT JOIN results r ON r.task = t.n
             WHERE t.root = ?1 AND t.task <> '' ORDER BY t.n",
        )?;
        let mut found = tasks.query(params![workflow.as_str(), now.as_millis()])?;
        while let Some(row) = found.next()? {
            let (n, parent) = (row.get(0)?, row.get(3)?);
            let node = Node {
                id: rows::parsed(row, 1)?,
                state: rows::task_state(row, 2)?,
                lacks_result: row.get(4)?,
                lacks_message: row.get(5)?,
                dependencies: Vec::new(),
                dependents: Vec::new(),
            };
            graph.tasks.insert(n, node);
            graph.levels.entry(parent).or_default().push(n);
        }
        let mut edges = tx.prepare_cached(
            "SELECT e.dependency, e.dependent, e.otherwise FROM tasks t JOIN edges e ON e.dependent = t.n
             WHERE t.root = ?1 ORDER BY e.dependent, e.dependency",
        )?;
        let mut found = edges.query([workflow.as_str()])?;
        while let Some(row) = found.next()? {
            let (dependency, dependent, otherwise) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if let Some(node) = graph.tasks.get_mut(&dependent) {
                node.dependencies.push((dependency, otherwise));
            }
            if let Some(node) = graph.tasks.get_mut(&dependency) {
                node.dependents.push(dependent);
            }
        }
        Ok(graph)
    }

    /// Whether the workflow has no task.
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// What a retry resets.
    pub(super) fn reset(&self) -> Reset {
        let (mut reset, mut because) = (Reset::default(), HashMap::new());
        reset.open = self.look_at(None, &mut because);
        let mut ahead: Vec<i64> = self.level(None).rev().collect();
        while let Some(n) = ahead.pop() {
            let Some(node) = self.tasks.get(&n) else { continue };
            let Some(why) = because.get(&n).copied() else {
                if node.state == TaskState::Completed && node.lacks_result {
                    reset.gone.push(node.id.clone());
                }
                continue;
            };
            reset.lacks_message |= node.lacks_message;
            let mut children = Children::None;
            if self.levels.contains_key(&Some(n)) {
                match why {
                    Because::Dependency => self.lose_children(n, &mut reset.lost),
                    Because::Itself => {
                        children = Children::Kept { open: self.look_at(Some(n), &mut because) };
                        ahead.extend(self.level(Some(n)).rev());
                    }
                }
            }
            reset.tasks.push(self.again(n, node, children, &because));
        }
        reset
    }

    fn level(&self, parent: Option<i64>) -> impl DoubleEndedIterator<Item = i64> {
        self.levels.get(&parent).into_iter().flatten().copied()
    }

    /// Finds what runs again in a level. Gives how many.
    fn look_at(&self, parent: Option<i64>, because: &mut HashMap<i64, Because>) -> i64 {
        let did_not_complete =
            |n: &i64| self.tasks.get(n).is_some_and(|node| flow::worst_of(node.state) == flow::FAIL);
        let mut ahead: Vec<i64> = self.level(parent).filter(did_not_complete).collect();
        because.extend(ahead.iter().map(|n| (*n, Because::Itself)));
        while let Some(n) = ahead.pop() {
            for dependent in self.tasks.get(&n).iter().flat_map(|node| &node.dependents) {
                if because.insert(*dependent, Because::Dependency).is_none() {
                    ahead.push(*dependent);
                }
            }
        }
        let count = self.level(parent).filter(|n| because.contains_key(n)).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    }

    fn lose_children(&self, parent: i64, lost: &mut Vec<i64>) {
        let mut at = lost.len();
        lost.extend(self.level(Some(parent)));
        while let Some(n) = lost.get(at).copied() {
            lost.extend(self.level(Some(n)));
            at += 1;
        }
    }

    fn again(&self, n: i64, node: &Node, children: Children, because: &HashMap<i64, Because>) -> Again {
        let mut again = Again { n, pending: 0, verdict: RUN, cause: None, children };
        for (dependency, otherwise) in &node.dependencies {
            if because.contains_key(dependency) {
                again.pending += 1;
                continue;
            }
            let worst = self.tasks.get(dependency).map_or(RUN, |node| flow::worst_of(node.state));
            if worst.min(*otherwise) > again.verdict {
                again.verdict = worst.min(*otherwise);
                again.cause = Some(*dependency);
            }
        }
        again
    }
}

/// Removes every trace of these tasks. Gives the highest of their fences, 0 only if there are none.
pub(super) fn forget(tx: &Connection, tasks: &[i64]) -> rusqlite::Result<i64> {
    let mut floor = i64::from(!tasks.is_empty());
    for n in tasks {
        for sql in [
            "DELETE FROM planned WHERE task = ?1",
            "DELETE FROM results WHERE task = ?1",
            "DELETE FROM history WHERE task = ?1",
            "DELETE FROM edges WHERE dependency = ?1",
            "DELETE FROM parents WHERE task = ?1",
        ] {
            tx.prepare_cached(sql)?.execute([n])?;
        }
        let fence: i64 = tx
            .prepare_cached("DELETE FROM tasks WHERE n = ?1 RETURNING fence")?
            .query_row([n], |row| row.get(0))?;
        floor = floor.max(fence);
    }
    Ok(floor)
}

/// Makes a task as it was after `create`, with a higher fence and its history.
pub(super) fn write(tx: &Connection, task: &Again) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM results WHERE task = ?1")?.execute([task.n])?;
    tx.prepare_cached(
        "UPDATE tasks SET state = 'waiting', pending = ?2, verdict = ?3, cause = ?4, attempts = 0, resumes = 0,
             crashes = 0, fence = fence + 1, session = NULL, due = NULL, started_at = NULL, ended_at = NULL,
             ended_seq = NULL, released_by = NULL, turn = NULL WHERE n = ?1",
    )?
    .execute(params![task.n, task.pending, task.verdict, task.cause])?;
    match task.children {
        Children::None => tx.prepare_cached("DELETE FROM parents WHERE task = ?1")?.execute([task.n])?,
        Children::Kept { open } => tx
            .prepare_cached("UPDATE parents SET open = ?2, active = 0 WHERE task = ?1")?
            .execute([task.n, open])?,
    };
    Ok(())
}
