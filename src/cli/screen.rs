//! What can be shown where: width, height, colours, box drawing.

use std::io::IsTerminal;

use super::graph::{LINES_MAX, View};
use crate::core::clock::Clock;
use crate::runtime::clock::SystemClock;

/// How data is shown on stdout; with `all`, every task.
pub(crate) fn stdout(all: bool) -> View {
    let term = std::io::stdout().is_terminal().then(console::Term::stdout);
    let lines_max = (!all).then_some(LINES_MAX);
    // Data is cut nowhere: a wide line wraps.
    View { lines_max, ..view(term.as_ref()) }
}

/// How progress is shown on stderr: on a terminal within its width and height.
pub(crate) fn stderr(term: Option<&console::Term>) -> View {
    let size = term.map(console::Term::size);
    let lines_max =
        size.map_or(LINES_MAX, |(rows, _)| usize::from(rows).saturating_sub(2).clamp(5, LINES_MAX));
    // The last column stays empty: some terminals begin a new line there.
    let width = size.map(|(_, columns)| usize::from(columns).saturating_sub(1).max(20));
    View { lines_max: Some(lines_max), width, ..view(term) }
}

fn view(term: Option<&console::Term>) -> View {
    View {
        now: SystemClock.now(),
        lines_max: Some(LINES_MAX),
        width: None,
        unicode: is_utf8(),
        colour: term.is_some() && has_colours(),
    }
}

/// Whether the locale of the process says so.
fn is_utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable);
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// <https://no-color.org>
fn has_colours() -> bool {
    variable("NO_COLOR").is_none() && variable("TERM").is_none_or(|term| term != "dumb")
}

#[allow(clippy::disallowed_methods, reason = "these are facts about the terminal and no settings of ours")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
