//! The graph of a workflow as text: what `status`, `watch` and `run` show.
//!
//! ```text
//! w1  running  "Report"  4 of 6 ended  2.10 s
//! ✓ collect                completed    0.31 s
//! ├─✓ mean                 completed    0.12 s
//! ├─│─✓ extremes           completed    0.10 s
//! │ │ │
//! ▶ │ │ trend              running      1.20 s
//! ·─┴─╯ compare            waiting               for trend
//! ```
//! One row per task, each below what it waits for. A vertical lane is the result of a task that others still
//! wait for; on the row of such a task, `├` or `┼` takes from a lane that goes on, `╰`, `┴` or `╯` from one
//! that ends here, and a mark below its lane continues it. What a task has planned itself (`for_each`, nested
//! workflows) follows it, indented.
//!
//! ```text
//! WorkflowRecord --fold--> Block --lanes--> cells --rows--> Row --text--> String
//!                  (many alike are one)   (where lines go)  (what is told)
//! ```
//! Many tasks that wait for the same and are waited for by the same are folded into one row. What is still
//! too long or too wide becomes one line per layer (`summary`).

mod export;
mod fold;
mod lanes;
mod rows;
mod summary;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use export::{dot, mermaid};
pub(crate) use text::{fit, task_line};

use crate::core::clock::Timestamp;
use crate::store::WorkflowRecord;
use fold::Graph;

/// How many lines `status` prints before it sums up.
pub(crate) const LINES_MAX: usize = 120;

/// How it is to be shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// The time, for what runs or is due.
    pub(crate) now: Timestamp,
    /// At most so many lines, with what is alike folded; `None` for every task on a line of its own.
    pub(crate) lines_max: Option<usize>,
    /// At most so many columns.
    pub(crate) width: Option<usize>,
    /// Whether box drawing can be shown; otherwise ASCII stands for it.
    pub(crate) unicode: bool,
    /// Whether colours can be shown.
    pub(crate) colour: bool,
}

/// The workflow and its tasks; every line ends with a line feed.
pub(crate) fn draw(workflow: &WorkflowRecord, view: &View) -> String {
    let graph = Graph::new(&workflow.tasks);
    let mut lines = vec![text::head(workflow, view)];
    let body = match rows::rows(&graph, view.lines_max.is_some()) {
        rows if view.lines_max.is_none_or(|max| rows.len() < max) => text::lines(&graph, &rows, view),
        _ => summary::lines(&graph, view),
    };
    lines.extend(body);
    if let Some(max) = view.lines_max.filter(|max| lines.len() > *max) {
        let left = lines.len() + 1 - max;
        lines.truncate(max.saturating_sub(1));
        lines.push(format!("… {left} more lines"));
    }
    let mut text = String::new();
    for line in lines {
        let line = if view.unicode { line } else { text::ascii(&line) };
        text.push_str(&view.width.map_or_else(|| line.clone(), |width| fit(&line, width)));
        text.push('\n');
    }
    text
}
