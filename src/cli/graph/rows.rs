//! The rows of a drawing: what is told in which order, with the lines before it.

use super::fold::Graph;
use super::lanes;
use crate::core::state::TaskState;

/// How many tasks of a folded node are shown by themselves: those that somebody will ask for.
const SHOWN_MAX: usize = 5;

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// The lines, with [`lanes::NODE`] where the mark belongs.
    pub(super) cells: String,
    pub(super) what: What,
}

/// What a row tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// Nothing: a line goes on.
    Line,
    /// This task. `named` if its lines do not show what it waits for.
    Task { task: usize, named: bool },
    /// These tasks, which are alike.
    Alike(Vec<usize>),
}

/// Every row of the workflow.
pub(super) fn rows(graph: &Graph<'_>, fold: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    block(graph, &graph.top, fold, "", &mut rows);
    rows
}

fn block(graph: &Graph<'_>, members: &[usize], fold: bool, before: &str, rows: &mut Vec<Row>) {
    let block = graph.block(members, fold);
    let drawn = lanes::rows(&block.parents);
    let named = drawn.is_none();
    for lane in drawn.unwrap_or_else(|| list(block.nodes.len())) {
        let cells = format!("{before}{}", lane.cells);
        let Some(node) = lane.node else {
            rows.push(Row { cells, what: What::Line });
            continue;
        };
        let inner = format!("{before}{}  ", lane.below);
        match block.nodes[node].as_slice() {
            [task] => {
                rows.push(Row { cells, what: What::Task { task: *task, named } });
                self::block(graph, &graph.children[*task], fold, &inner, rows);
            }
            tasks => {
                rows.push(Row { cells, what: What::Alike(tasks.to_vec()) });
                for task in asked_for(graph, tasks) {
                    let cells = format!("{inner}{} ", lanes::NODE);
                    rows.push(Row { cells, what: What::Task { task, named: false } });
                }
            }
        }
    }
}

/// One below the other, without lines: the tasks' names tell what waits for what.
fn list(nodes: usize) -> Vec<lanes::Row> {
    let row =
        |node| lanes::Row { node: Some(node), cells: format!("{} ", lanes::NODE), below: String::new() };
    (0..nodes).map(row).collect()
}

/// Of many that are alike, those that failed, run, or are tried again.
fn asked_for(graph: &Graph<'_>, tasks: &[usize]) -> Vec<usize> {
    let rank = |task: &usize| match graph.tasks[*task].state {
        TaskState::Failed | TaskState::Expired => Some(0),
        TaskState::Running => Some(1),
        TaskState::Delayed => Some(2),
        TaskState::Completed
        | TaskState::Cancelled
        | TaskState::Skipped
        | TaskState::Accepted
        | TaskState::Waiting
        | TaskState::Queued => None,
    };
    let mut asked: Vec<usize> = tasks.iter().copied().filter(|task| rank(task).is_some()).collect();
    asked.sort_by_key(rank);
    asked.truncate(SHOWN_MAX);
    asked.sort_unstable();
    asked
}
