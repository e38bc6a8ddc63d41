//! The live view of what is followed: on a terminal a picture that is redrawn in place, elsewhere a line per
//! change. Both on stderr.

use console::Term;
use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::graph::{self, View};
use super::print;
use super::screen;
use crate::core::id::Id;
use crate::core::state::TaskState;
use crate::store::{TaskRecord, WorkflowRecord};

/// A picture that takes longer than this is drawn after a look only.
const COST_MAX: Duration = Duration::from_millis(30);

/// Shows what is followed.
#[derive(Debug)]
pub(crate) struct Live {
    /// The terminal, if there is one.
    term: Option<Term>,
    /// Lines on it that the next picture replaces.
    drawn: usize,
    /// How long the last picture took.
    cost: Duration,
    shown: Option<Seen>,
    /// What is known of each task: its state, and how many attempts have ended.
    told: HashMap<Id, (TaskState, usize)>,
    /// Whether what is there at the first look is known to whoever looks.
    joins: bool,
}

/// What was found at a look.
#[derive(Debug, Clone)]
pub(crate) enum Seen {
    /// A workflow.
    Workflow(WorkflowRecord),
    /// A task, on its own or of a workflow.
    Task(TaskRecord),
}

impl Live {
    /// The view of something that starts now.
    pub(crate) fn new() -> Live {
        let term = std::io::stderr().is_terminal().then(Term::stderr);
        Live { term, drawn: 0, cost: Duration::ZERO, shown: None, told: HashMap::new(), joins: false }
    }

    /// The view of something that may have begun long ago: what has ended by the first look is not told as news.
    pub(crate) fn joining() -> Live {
        Live { joins: true, ..Live::new() }
    }

    /// The same without a picture: something else is shown on the terminal.
    pub(crate) fn without_picture(self) -> Live {
        Live { term: None, ..self }
    }

    /// Whether there is a picture that changes with time.
    pub(crate) fn is_drawn(&self) -> bool {
        self.term.is_some()
    }

    /// Shows what is there now.
    pub(crate) fn update(&mut self, seen: Seen) {
        if self.is_drawn() {
            self.shown = Some(seen);
            return self.draw();
        }
        let view = screen::stderr(None);
        let news = match &seen {
            Seen::Workflow(workflow) => self.news(workflow, &view),
            Seen::Task(task) => self.change(task, &view).into_iter().collect(),
        };
        if self.joins {
            self.joins = false;
            print::note(first_line(&picture(&seen, &view)));
            return;
        }
        news.iter().for_each(|line| print::note(line));
    }

    /// Draws the last look again: times go on. A picture that takes long waits for the next look.
    pub(crate) fn redraw(&mut self) {
        if self.cost < COST_MAX {
            self.draw();
        }
    }

    fn draw(&mut self) {
        let (Some(term), Some(seen)) = (&self.term, &self.shown) else { return };
        let started = Instant::now();
        let picture = picture(seen, &screen::stderr(Some(term)));
        let back = if self.drawn > 0 { format!("\x1b[{}A\x1b[J", self.drawn) } else { String::new() };
        self.drawn = picture.lines().count();
        // A terminal that went away loses its picture, nothing else.
        let _ = term.write_str(&format!("{back}{picture}"));
        self.cost = started.elapsed();
    }

    fn news(&mut self, workflow: &WorkflowRecord, view: &View) -> Vec<String> {
        let all = workflow.tasks.len();
        let mut ended = self.told.values().filter(|(state, _)| state.is_ended()).count();
        let mut lines = Vec::new();
        for task in &workflow.tasks {
            let before = self.told.get(task.head.key.id()).is_some_and(|(state, _)| state.is_ended());
            let Some(line) = self.change(task, view) else { continue };
            ended += usize::from(task.state.is_ended() && !before);
            lines.push(format!("{line}  ({ended}/{all})"));
        }
        lines
    }

    /// The line on a task if it ended, is to be tried again, or runs again since it was told of.
    fn change(&mut self, task: &TaskRecord, view: &View) -> Option<String> {
        let now = (task.state, task.history.len());
        let before = self.told.insert(task.head.key.id().clone(), now);
        if before == Some(now) {
            return None;
        }
        let runs_again = before.is_some_and(|(state, _)| state.is_ended()) && !task.state.is_ended();
        let is_news = task.state.is_ended() || task.state == TaskState::Delayed || runs_again;
        is_news.then(|| format!("  {}", graph::task_line(task, view)))
    }
}

fn picture(seen: &Seen, view: &View) -> String {
    match seen {
        Seen::Workflow(workflow) => graph::draw(workflow, view),
        Seen::Task(task) => {
            let line = format!("{}  {}", task.head.key, graph::task_line(task, view));
            let line = view.width.map_or_else(|| line.clone(), |width| graph::fit(&line, width));
            format!("{line}\n")
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
