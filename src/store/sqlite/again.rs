//! How what a retry has reset begins.
//!
//! A level (the file, or the children of one parent) begins when its parent is under way. Of a level, whoever waits
//! for nothing is ready, but for those whose children are to run first. Such a one is under way without a message:
//! at once where nothing bounds it, else when it has a place at its gate, which it gets before all others. Then the
//! level of its children begins.

use rusqlite::{OptionalExtension, params};

use super::flow::Flow;

/// `front` of a task in `turns` that waits for a place, not for a turn.
const KEPT: i64 = 2;

/// A task that was reset and waits for no dependency.
struct Waiting {
    n: i64,
    has_open_children: bool,
}

impl Flow<'_> {
    /// Begins what was reset of the children of `parent`, or of the tasks of the file.
    pub(super) fn begin_again(&mut self, parent: Option<i64>) -> rusqlite::Result<()> {
        let gate = self.gate_of(parent)?;
        for task in self.reset_below(parent)? {
            if !task.has_open_children {
                self.ready(task.n, parent)?;
            } else if gate.is_some() {
                self.tx
                    .prepare_cached(
                        "INSERT INTO turns (task, root, rank, gate, front) VALUES (?1, ?2, 0, ?3, ?4)",
                    )?
                    .execute(params![task.n, self.id.as_str(), gate, KEPT])?;
            } else {
                self.begin_again(Some(task.n))?;
            }
        }
        gate.map_or(Ok(()), |gate| self.let_in(gate))
    }

    /// Those of a level, in the order of the file.
    fn reset_below(&self, parent: Option<i64>) -> rusqlite::Result<Vec<Waiting>> {
        let level = match parent {
            Some(_) => "t.parent = ?2",
            None => "t.root = ?1 AND t.parent IS ?2",
        };
        self.tx
            .prepare_cached(&format!(
                "SELECT t.n, ifnull(p.open, 0) > 0 FROM tasks t LEFT JOIN parents p ON p.task = t.n
                 WHERE {level} AND t.root = ?1 AND t.state = 'waiting' AND t.pending = 0 ORDER BY t.n"
            ))?
            .query_map(params![self.id.as_str(), parent], |row| {
                Ok(Waiting { n: row.get(0)?, has_open_children: row.get(1)? })
            })?
            .collect()
    }

    /// Gives places at a gate to those that wait for no more than that, as far as there is room.
    pub(super) fn let_in(&mut self, gate: i64) -> rusqlite::Result<()> {
        loop {
            let next: Option<i64> = self
                .tx
                .prepare_cached(
                    "DELETE FROM turns WHERE id = (
                         SELECT id FROM turns WHERE gate = ?1 AND front = ?2 ORDER BY rank, id LIMIT 1)
                       AND (SELECT active < max_parallel FROM parents WHERE task = ?1) RETURNING task",
                )?
                .query_row([gate, KEPT], |row| row.get(0))
                .optional()?;
            let Some(n) = next else { return Ok(()) };
            self.tx
                .prepare_cached("UPDATE parents SET active = active + 1 WHERE task = ?1")?
                .execute([gate])?;
            self.begin_again(Some(n))?;
        }
    }
}
