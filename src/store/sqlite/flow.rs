//! A workflow while a step changes it: who is ready because of what has ended, whose turn it is, what else
//! ends, and when the workflow does.
//!
//! A step makes a [`Flow`], tells it of ends ([`Flow::settle`], [`Flow::count`]) and of tasks that are ready,
//! and writes it down ([`Flow::save`] or [`Flow::close`]).
//!
//! *Verdicts.* A dependency that ends takes one off `pending` of each dependent, and raises its `verdict` to
//! the lesser of the worst that the edge can give and the worst that this end means: nothing if it has
//! completed, `SKIP` if it was skipped, else `FAIL`. Who has nothing pending any more is ready, or ends.
//!
//! *Turns.* Where nothing bounds a task it is released when it is ready; many at once in one statement. Else it
//! stands in `turns`, where the first that may go is found by index, so that no queue is ever walked.
//!
//! *Places.* Where a parent bounds its children (it is their *gate*) each has a place from its release to its end,
//! also while it waits for children of its own (`again` has what a retry makes of that).

use rusqlite::{Connection, OptionalExtension, params};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};

use super::ending::{self, Open};
use super::rows::{Cleaning, Workflow};
use crate::core::clock::Timestamp;
use crate::core::id::Id;
use crate::core::state::{TaskState, WorkflowState};
use crate::wire::record;

/// Verdicts, as they are in the file.
pub(super) const RUN: i64 = 0;
pub(super) const SKIP: i64 = 1;
pub(super) const FAIL: i64 = 2;

/// The worst verdict that a dependency which ended so can give.
pub(super) fn worst_of(state: TaskState) -> i64 {
    match state {
        TaskState::Completed => RUN,
        TaskState::Skipped => SKIP,
        TaskState::Failed | TaskState::Cancelled | TaskState::Expired => FAIL,
        // These are no ends.
        TaskState::Accepted
        | TaskState::Waiting
        | TaskState::Queued
        | TaskState::Delayed
        | TaskState::Running => RUN,
    }
}

/// A workflow while a step changes it.
#[derive(Debug)]
pub(super) struct Flow<'a> {
    pub(super) tx: &'a Connection,
    pub(super) id: &'a Id,
    pub(super) now: Timestamp,
    /// Whose step it is: the number of a task, or 0 for the root.
    pub(super) step: i64,
    /// What the step has ended beside its task.
    pub(super) ended: Vec<(Id, TaskState)>,
    row: Workflow,
    /// Bounded parents whose queue or room has changed, and whether anything of that kind has.
    gates: BTreeSet<i64>,
    turns_changed: bool,
}

/// A dependent that waits for nothing any more and was not released at once.
struct Decided {
    n: i64,
    verdict: i64,
    cause: Option<i64>,
}

impl<'a> Flow<'a> {
    pub(super) fn of(tx: &'a Connection, id: &'a Id, row: Workflow, step: i64, now: Timestamp) -> Flow<'a> {
        let (ended, gates) = (Vec::new(), BTreeSet::new());
        Flow { tx, id, now, step, ended, row, gates, turns_changed: false }
    }

    /// A fence that no lease of an earlier task with the same id had.
    pub(super) fn floor(&self) -> i64 {
        self.row.floor
    }

    /// The place of a task that ends now in the order of ends.
    pub(super) fn next_end(&mut self) -> i64 {
        self.row.ends += 1;
        self.row.ends
    }

    /// Whether tasks of `parent` are released as soon as they are ready.
    pub(super) fn is_free(&self, parent: Option<i64>) -> rusqlite::Result<bool> {
        Ok(self.row.max_parallel.is_none() && self.gate_of(parent)?.is_none())
    }

    /// The parent, if it bounds its children.
    pub(super) fn gate_of(&self, parent: Option<i64>) -> rusqlite::Result<Option<i64>> {
        let Some(parent) = parent else { return Ok(None) };
        let is_bounded = self
            .tx
            .prepare_cached("SELECT 1 FROM parents WHERE task = ?1 AND max_parallel IS NOT NULL")?
            .exists([parent])?;
        Ok(is_bounded.then_some(parent))
    }

    /// Task `n`, which waits, waits for nothing any more but its place, where its parent bounds its children,
    /// and its turn.
    pub(super) fn ready(&mut self, n: i64, parent: Option<i64>) -> rusqlite::Result<()> {
        let gate = self.gate_of(parent)?;
        self.ready_at(n, gate)
    }

    /// As [`Flow::ready`]; without a gate it needs no place, or has it already.
    fn ready_at(&mut self, n: i64, gate: Option<i64>) -> rusqlite::Result<()> {
        if self.row.max_parallel.is_none() && gate.is_none() {
            return self.release(n, None);
        }
        self.tx
            .prepare_cached(
                "INSERT INTO turns (task, root, rank, gate, front)
                 SELECT task, ?2, -priority, ?3, ?3 IS NULL FROM planned WHERE task = ?1",
            )?
            .execute(params![n, self.id.as_str(), gate])?;
        self.gates.extend(gate);
        self.turns_changed = true;
        Ok(())
    }

    fn release(&self, n: i64, turn: Option<i64>) -> rusqlite::Result<()> {
        self.tx
            .prepare_cached("UPDATE tasks SET state = 'queued', released_by = ?2, turn = ?3 WHERE n = ?1")?
            .execute(params![n, self.step, turn])?;
        Ok(())
    }

    /// A task that was released has ended, or waits for children that it has planned.
    pub(super) fn give_up_turn(&mut self) {
        if self.row.max_parallel.is_some() {
            self.row.active -= 1;
            self.turns_changed = true;
        }
    }

    /// A child that was released has ended.
    pub(super) fn give_up_place(&mut self, parent: Option<i64>) -> rusqlite::Result<()> {
        let Some(gate) = self.gate_of(parent)? else { return Ok(()) };
        self.tx.prepare_cached("UPDATE parents SET active = active - 1 WHERE task = ?1")?.execute([gate])?;
        self.gates.insert(gate);
        self.turns_changed = true;
        self.let_in(gate)
    }

    /// Task `n` has ended: its dependents learn it, and those that end because of that too, and so on; nearest
    /// first.
    pub(super) fn settle(&mut self, n: i64, state: TaskState, parent: Option<i64>) -> rusqlite::Result<()> {
        let is_free = self.is_free(parent)?;
        let mut endings = HashMap::new();
        let mut ends = VecDeque::from([(n, state)]);
        while let Some((n, state)) = ends.pop_front() {
            for decided in self.tell_dependents(n, state, is_free)? {
                if decided.verdict == RUN {
                    self.ready(decided.n, parent)?;
                    continue;
                }
                let state = self.end_by_verdict(&decided, parent, &mut endings)?;
                ends.push_back((decided.n, state));
            }
        }
        Ok(())
    }

    /// Counts an end for those who depend on it. Those that are to run are released at once if nothing bounds
    /// them; the others that wait for nothing any more are given, in the order of the file.
    fn tell_dependents(&self, n: i64, state: TaskState, is_free: bool) -> rusqlite::Result<Vec<Decided>> {
        let mut tell = self.tx.prepare_cached(
            "UPDATE tasks SET pending = pending - 1,
                 cause = CASE WHEN min(otherwise, ?2) > verdict THEN ?1 ELSE cause END,
                 verdict = max(verdict, min(otherwise, ?2)),
                 state = CASE WHEN ?3 AND pending = 1 AND max(verdict, min(otherwise, ?2)) = 0
                              THEN 'queued' ELSE state END,
                 released_by = CASE WHEN ?3 AND pending = 1 AND max(verdict, min(otherwise, ?2)) = 0
                                    THEN ?4 ELSE released_by END
             FROM (SELECT dependent, otherwise FROM edges WHERE dependency = ?1)
             WHERE n = dependent AND state = 'waiting'
             RETURNING n, pending = 0 AND state = 'waiting', verdict, cause",
        )?;
        let mut told = tell.query(params![n, worst_of(state), is_free, self.step])?;
        let mut decided = Vec::new();
        while let Some(row) = told.next()? {
            if row.get(1)? {
                decided.push(Decided { n: row.get(0)?, verdict: row.get(2)?, cause: row.get(3)? });
            }
        }
        decided.sort_by_key(|task| task.n);
        Ok(decided)
    }

    /// Ends a task that does not run because of how its dependencies ended. `endings` has those written before
    /// in this step, by verdict and cause.
    fn end_by_verdict(
        &mut self,
        decided: &Decided,
        parent: Option<i64>,
        endings: &mut HashMap<(i64, Option<i64>), String>,
    ) -> rusqlite::Result<TaskState> {
        let state = if decided.verdict == SKIP { TaskState::Skipped } else { TaskState::Failed };
        let task = ending::open_task(self.tx, self.id, decided.n)?;
        match endings.entry((decided.verdict, decided.cause)) {
            Entry::Occupied(known) => self.end_unrun(&task, state, known.get())?,
            Entry::Vacant(place) => {
                let ending = place.insert(self.ending_of(decided)?);
                self.end_unrun(&task, state, ending)?;
            }
        }
        self.count(parent, task.tolerated, state)?;
        self.ended.push((task.head.key.id().clone(), state));
        Ok(state)
    }

    fn ending_of(&self, decided: &Decided) -> rusqlite::Result<String> {
        let ending = match decided.verdict {
            SKIP => record::skipped(self.now),
            _ => record::dependency_failed(self.now),
        };
        let cause: String = self
            .tx
            .prepare_cached("SELECT task FROM tasks WHERE n = ?1")?
            .query_row([decided.cause], |row| row.get(0))?;
        Ok(ending.replace(record::DEPENDENCY_MARK, &cause))
    }

    /// Ends a task that has no attempt to report: its document is its head and `ending`.
    pub(super) fn end_unrun(&mut self, task: &Open, state: TaskState, ending: &str) -> rusqlite::Result<()> {
        let ended_seq = self.next_end();
        self.tx
            .prepare_cached(
                "UPDATE tasks SET state = ?2, ended_at = ?3, ended_seq = ?4, session = NULL, due = NULL,
                     fence = fence + 1 WHERE n = ?1",
            )?
            .execute(params![task.n, state.name(), self.now.as_millis(), ended_seq])?;
        ending::keep_document(self.tx, task.n, true, (task.head.open() + ending).as_bytes())
    }

    /// Counts the end of a task: that of a child for its parent, which is ready after the last one, any other
    /// for the workflow.
    pub(super) fn count(
        &mut self,
        parent: Option<i64>,
        tolerated: bool,
        state: TaskState,
    ) -> rusqlite::Result<()> {
        let Some(parent) = parent else {
            self.row.open -= 1;
            if worst_of(state) == FAIL && !tolerated {
                self.row.broken += 1;
            }
            return Ok(());
        };
        let open: i64 = self
            .tx
            .prepare_cached("UPDATE parents SET open = open - 1 WHERE task = ?1 RETURNING open")?
            .query_row([parent], |row| row.get(0))?;
        if open > 0 {
            return Ok(());
        }
        // It has its place among its own siblings already.
        self.ready_at(parent, None)
    }

    /// Gives turns, and writes down what was counted.
    pub(super) fn save(&mut self) -> rusqlite::Result<()> {
        if self.turns_changed {
            self.take_turns()?;
        }
        self.tx
            .prepare_cached(
                "UPDATE workflows SET open = ?2, broken = ?3, ends = ?4, active = ?5 WHERE id = ?1",
            )?
            .execute(params![
                self.id.as_str(),
                self.row.open,
                self.row.broken,
                self.row.ends,
                self.row.active
            ])?;
        Ok(())
    }

    /// As [`Flow::save`], and ends the workflow if no task is open any more. Gives its state.
    pub(super) fn close(&mut self) -> rusqlite::Result<WorkflowState> {
        if self.row.open > 0 {
            self.save()?;
            return Ok(WorkflowState::Running);
        }
        let state = if self.row.broken > 0 { WorkflowState::Failed } else { WorkflowState::Completed };
        self.end(state, None)?;
        Ok(state)
    }

    /// Ends a workflow all of whose open tasks this step has ended. `error` is JSON, where the state does not
    /// say enough.
    pub(super) fn end_as(&mut self, state: WorkflowState, error: Option<&str>) -> rusqlite::Result<()> {
        self.row.open = 0;
        self.end(state, error)
    }

    fn end(&self, state: WorkflowState, error: Option<&str>) -> rusqlite::Result<()> {
        let cleaning = Cleaning::after(self.now, self.row.result_ttl);
        self.tx
            .prepare_cached(
                "UPDATE workflows SET open = ?2, broken = ?3, ends = ?4, active = 0, state = ?5, ended_at = ?6,
                     clean_at = ?7, forget_at = ?8, error = ?9 WHERE id = ?1",
            )?
            .execute(params![
                self.id.as_str(),
                self.row.open,
                self.row.broken,
                self.row.ends,
                state.name(),
                self.now.as_millis(),
                cleaning.results_at,
                cleaning.forget_at,
                error
            ])?;
        Ok(())
    }

    /// Releases whoever's turn it is.
    fn take_turns(&mut self) -> rusqlite::Result<()> {
        for gate in std::mem::take(&mut self.gates) {
            self.look_at_gate(gate)?;
        }
        while self.row.max_parallel.is_none_or(|max| self.row.active < max) {
            let next: Option<(i64, i64, Option<i64>)> = self
                .tx
                .prepare_cached(
                    "SELECT id, task, gate FROM turns WHERE root = ?1 AND front = 1 ORDER BY rank, id LIMIT 1",
                )?
                .query_row([self.id.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            let Some((turn, n, gate)) = next else { break };
            self.tx.prepare_cached("DELETE FROM turns WHERE id = ?1")?.execute([turn])?;
            self.release(n, Some(turn))?;
            if self.row.max_parallel.is_some() {
                self.row.active += 1;
            }
            if let Some(gate) = gate {
                self.tx
                    .prepare_cached("UPDATE parents SET active = active + 1 WHERE task = ?1")?
                    .execute([gate])?;
                self.look_at_gate(gate)?;
            }
        }
        Ok(())
    }

    /// Puts the first of those who wait at a gate in front if there is room, and nobody else.
    fn look_at_gate(&self, gate: i64) -> rusqlite::Result<()> {
        self.tx
            .prepare_cached("UPDATE turns SET front = 0 WHERE gate = ?1 AND front = 1")?
            .execute([gate])?;
        self.tx
            .prepare_cached(
                "UPDATE turns SET front = 1 WHERE id = (
                     SELECT id FROM turns WHERE gate = ?1 AND front = 0 ORDER BY rank, id LIMIT 1)
                   AND (SELECT active < max_parallel FROM parents WHERE task = ?1)",
            )?
            .execute([gate])?;
        Ok(())
    }
}
