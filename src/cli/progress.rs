//! Live progress of a workflow: on a terminal lines that change, elsewhere one line per ended task.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

use super::print;
use crate::core::id::Id;
use crate::core::state::TaskState;
use crate::store::{TaskRecord, WorkflowRecord};

/// Shows what a followed workflow does.
#[derive(Debug)]
pub(crate) struct Progress {
    bars: Option<(MultiProgress, ProgressBar)>,
    seen: std::collections::HashSet<Id>,
    total: usize,
}

impl Progress {
    /// Progress for `total` tasks.
    pub(crate) fn new(name: &str, total: usize) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        let bars = terminal.then(|| {
            let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            let bar = bars.add(ProgressBar::new(total as u64));
            let style = ProgressStyle::with_template("{spinner} {prefix} [{bar:30}] {pos}/{len} {wide_msg}");
            // The template is a constant; were it wrong, the default style would do.
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            (bars, bar)
        });
        Progress { bars, seen: std::collections::HashSet::new(), total }
    }

    /// Shows the present state.
    pub(crate) fn update(&mut self, workflow: &WorkflowRecord) {
        let running = workflow.tasks.iter().filter(|task| task.state == TaskState::Running);
        let running: Vec<&str> = running.map(|task| task.head.name.as_str()).take(4).collect();
        if let Some((_, bar)) = &self.bars {
            bar.set_message(running.join(", "));
        }
        for task in &workflow.tasks {
            if task.state.is_ended() && self.seen.insert(task.head.key.id().clone()) {
                self.ended(task);
            }
        }
    }

    /// Takes the lines that change off the screen.
    pub(crate) fn finish(&self) {
        if let Some((_, bar)) = &self.bars {
            bar.finish_and_clear();
        }
    }

    fn ended(&self, task: &TaskRecord) {
        let text = format!("  {}", task_line(task));
        match &self.bars {
            Some((bars, bar)) => {
                bar.inc(1);
                // A terminal that went away loses its lines, nothing else.
                let _ = bars.println(text);
            }
            None => print::note(&format!("{text}  ({}/{})", self.seen.len(), self.total)),
        }
    }
}

/// One line on one task: mark, name, method, time, attempts.
pub(crate) fn task_line(task: &TaskRecord) -> String {
    let mark = match task.state {
        TaskState::Completed => "✓",
        TaskState::Failed | TaskState::Expired => "✗",
        TaskState::Cancelled | TaskState::Skipped => "-",
        TaskState::Running => "▶",
        TaskState::Accepted | TaskState::Waiting | TaskState::Queued | TaskState::Delayed => "·",
    };
    let mut line = format!(
        "{mark} {:<24} {:<10} {} {}",
        task.head.name,
        task.state.name(),
        task.head.protocol,
        task.head.method
    );
    if let (Some(start), Some(end)) = (task.started_at, task.ended_at) {
        line.push_str(&format!("  {:.2} s", end.since(start).as_secs_f64()));
    }
    if task.attempts > 1 {
        line.push_str(&format!("  {} attempts", task.attempts));
    }
    line
}
