//! Rows in words: marks, names, states, times, and why.

use serde_json::Value;
use std::time::Duration;

use super::View;
use super::fold::Graph;
use super::lanes::NODE;
use super::rows::{Row, What};
use crate::cli::print::printable;
use crate::core::clock::Timestamp;
use crate::core::state::{TaskState, WorkflowState};
use crate::store::{TaskRecord, WorkflowRecord};

/// The widest column of lines and names, in characters.
const NAME_WIDTH_MAX: usize = 56;
/// The longest name shown, in characters.
const NAME_MAX: usize = 44;
/// How many tasks are named that another one waits for.
const NAMED_MAX: usize = 3;
/// The longest cause of a failure shown, in characters.
const CAUSE_MAX: usize = 120;

/// States in the order in which they are counted.
const COUNTED: [TaskState; 10] = [
    TaskState::Completed,
    TaskState::Failed,
    TaskState::Expired,
    TaskState::Cancelled,
    TaskState::Skipped,
    TaskState::Running,
    TaskState::Delayed,
    TaskState::Queued,
    TaskState::Waiting,
    TaskState::Accepted,
];

/// One line on the whole workflow.
pub(super) fn head(workflow: &WorkflowRecord, view: &View) -> String {
    let ended = workflow.tasks.iter().filter(|task| task.state.is_ended()).count();
    let time = workflow.ended_at.unwrap_or(view.now).since(workflow.created_at);
    let state = paint(workflow.state.name(), workflow_colour(workflow.state), view);
    let name = format!("{:?}", printable(&workflow.name));
    let (ended, all) = (number(ended), number(workflow.tasks.len()));
    format!("{}  {state}  {name}  {ended} of {all} ended  {}", workflow.id, seconds(time))
}

/// The lines of all rows, names and states below each other.
pub(super) fn lines(graph: &Graph<'_>, rows: &[Row], view: &View) -> Vec<String> {
    let name = |row: &Row| match &row.what {
        What::Line => String::new(),
        What::Task { task, .. } => name(&graph.tasks[*task]),
        What::Alike(tasks) => alike_name(graph, tasks),
    };
    let widths = rows.iter().map(|row| width(&row.cells) + width(&name(row)));
    let column = widths.max().unwrap_or(0).clamp(20, NAME_WIDTH_MAX);
    let line = |row: &Row| {
        let (mark, facts) = match &row.what {
            What::Line => return row.cells.trim_end().to_owned(),
            What::Task { task, named } => {
                let record = &graph.tasks[*task];
                (mark(record.state, view), facts(graph, *task, *named, view))
            }
            What::Alike(tasks) => {
                let text = format!("{} tasks: {}", number(tasks.len()), counted(graph, tasks));
                (mark_of_many(graph, tasks, view), text)
            }
        };
        let name = name(row);
        let gap = column.saturating_sub(width(&row.cells) + width(&name));
        let cells = row.cells.replace(NODE, &mark);
        format!("{cells}{name}{:gap$}  {facts}", "").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A task on a line, without lines to others.
pub(super) fn task(graph: &Graph<'_>, task: usize, named: bool, view: &View) -> String {
    let record = &graph.tasks[task];
    let text =
        format!("{} {:<24}  {}", mark(record.state, view), name(record), facts(graph, task, named, view));
    text.trim_end().to_owned()
}

/// A task on a line, by itself.
pub(crate) fn task_line(record: &TaskRecord, view: &View) -> String {
    let graph = Graph::new(std::slice::from_ref(record));
    let line = task(&graph, 0, false, view);
    if view.unicode { line } else { ascii(&line) }
}

/// The mark of the state that matters most among these.
pub(super) fn mark_of_many(graph: &Graph<'_>, tasks: &[usize], view: &View) -> String {
    let states = || tasks.iter().map(|&task| graph.tasks[task].state);
    let weight = |state: &TaskState| match state {
        TaskState::Failed | TaskState::Expired => 5,
        TaskState::Running => 4,
        TaskState::Delayed => 3,
        TaskState::Accepted | TaskState::Waiting | TaskState::Queued => 2,
        TaskState::Cancelled | TaskState::Skipped => 1,
        TaskState::Completed => 0,
    };
    mark(states().max_by_key(weight).unwrap_or(TaskState::Waiting), view)
}

/// `9,980 completed, 20 queued`
pub(super) fn counted(graph: &Graph<'_>, tasks: &[usize]) -> String {
    let count = |state| tasks.iter().filter(|&&task| graph.tasks[task].state == state).count();
    let counts = COUNTED.map(|state| (count(state), state)).into_iter().filter(|(count, _)| *count > 0);
    counts.map(|(count, state)| format!("{} {state}", number(count))).collect::<Vec<String>>().join(", ")
}

/// `10,000`
pub(super) fn number(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// State, time, attempts, and what there is to say.
fn facts(graph: &Graph<'_>, task: usize, named: bool, view: &View) -> String {
    let record = &graph.tasks[task];
    let state = record.state.name();
    let time = took(record, view.now).map(seconds).unwrap_or_default();
    let mut notes = Vec::new();
    if record.attempts > 1 {
        notes.push(format!("{} attempts", record.attempts));
    }
    notes.extend(note(graph, task, view.now));
    if named && record.state != TaskState::Waiting && !graph.parents[task].is_empty() {
        notes.push(format!("after {}", names(graph, &graph.parents[task])));
    }
    let padding = 9_usize.saturating_sub(state.len());
    format!("{}{:padding$}  {time:>9}  {}", paint(state, colour(record.state), view), "", notes.join(", "))
}

fn took(record: &TaskRecord, now: Timestamp) -> Option<Duration> {
    let end = match record.state {
        TaskState::Running => now,
        TaskState::Completed
        | TaskState::Failed
        | TaskState::Cancelled
        | TaskState::Expired
        | TaskState::Skipped => record.ended_at?,
        TaskState::Accepted | TaskState::Waiting | TaskState::Queued | TaskState::Delayed => return None,
    };
    Some(end.since(record.started_at?))
}

/// Why it is where it is.
fn note(graph: &Graph<'_>, task: usize, now: Timestamp) -> Option<String> {
    let record = &graph.tasks[task];
    match record.state {
        TaskState::Waiting => Some(waits_for(graph, task)),
        TaskState::Delayed => {
            if let (0, None, Some(due)) = (record.attempts, last_cause(record), record.due) {
                return Some(format!("starts in {}, at {due}", seconds(due.since(now))));
            }
            let due = record.due.map(|due| seconds(due.since(now)));
            let cause = last_cause(record).map(|cause| format!(" after {cause}")).unwrap_or_default();
            Some(format!("again in {}{cause}", due.unwrap_or_else(|| "a while".to_owned())))
        }
        TaskState::Failed | TaskState::Expired => {
            let cause = last_cause(record).or_else(|| dependency_cause(graph, task));
            let tolerated = record.tolerated.then(|| "tolerated".to_owned());
            let notes: Vec<String> = tolerated.into_iter().chain(cause).collect();
            (!notes.is_empty()).then(|| notes.join(", "))
        }
        TaskState::Skipped => dependency_cause(graph, task),
        TaskState::Accepted
        | TaskState::Queued
        | TaskState::Running
        | TaskState::Completed
        | TaskState::Cancelled => None,
    }
}

fn waits_for(graph: &Graph<'_>, task: usize) -> String {
    let is_open = |other: &&usize| !graph.tasks[**other].state.is_ended();
    let open: Vec<usize> = graph.parents[task].iter().filter(is_open).copied().collect();
    if !open.is_empty() {
        return format!("for {}", names(graph, &open));
    }
    let children = graph.children[task].iter().filter(is_open).count();
    match children {
        0 => "for its turn".to_owned(),
        1 => "for a task of its own".to_owned(),
        more => format!("for {} tasks of its own", number(more)),
    }
}

/// `a, b, c and 7 more`
fn names(graph: &Graph<'_>, tasks: &[usize]) -> String {
    let id = |task: &usize| graph.tasks[*task].head.key.id().as_str();
    let shown: Vec<&str> = tasks.iter().take(NAMED_MAX).map(id).collect();
    let more = tasks.len().saturating_sub(NAMED_MAX);
    let text = shown.join(", ");
    if more == 0 { text } else { format!("{text} and {} more", number(more)) }
}

/// Why the last attempt failed: `[TASK_TIMEOUT] it took longer ...`
fn last_cause(record: &TaskRecord) -> Option<String> {
    let entry: Value = serde_json::from_str(record.history.last()?).ok()?;
    let error = entry.get("error").filter(|error| !error.is_null())?;
    let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
    let message = text("message").lines().next().unwrap_or_default();
    Some(format!("[{}] {}", text("name"), shortened(&printable(message), CAUSE_MAX)))
}

fn dependency_cause(graph: &Graph<'_>, task: usize) -> Option<String> {
    let failed = |other: &&usize| {
        let state = graph.tasks[**other].state;
        state.is_ended() && state != TaskState::Completed
    };
    let failed: Vec<usize> = graph.parents[task].iter().filter(failed).copied().collect();
    (!failed.is_empty()).then(|| format!("because of {}", names(graph, &failed)))
}

/// The id, with the name where there is one.
fn name(record: &TaskRecord) -> String {
    let id = record.head.key.id().as_str();
    let text = match record.head.name.as_str() {
        name if name == id => id.to_owned(),
        name => format!("{id} ({})", printable(name)),
    };
    shortened(&text, NAME_MAX)
}

fn alike_name(graph: &Graph<'_>, tasks: &[usize]) -> String {
    let id = |task: &usize| graph.tasks[*task].head.key.id().as_str();
    match (tasks.first(), tasks.last()) {
        (Some(first), Some(last)) => shortened(&format!("{} … {}", id(first), id(last)), NAME_MAX),
        _ => String::new(),
    }
}

fn shortened(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

fn seconds(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.2} s", time.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {:02} h", seconds / 86400, seconds / 3600 % 24),
    }
}

fn mark(state: TaskState, view: &View) -> String {
    let mark = match state {
        TaskState::Completed => "✓",
        TaskState::Failed | TaskState::Expired => "✗",
        TaskState::Cancelled | TaskState::Skipped => "⊘",
        TaskState::Running => "▶",
        TaskState::Delayed => "↻",
        TaskState::Accepted | TaskState::Waiting | TaskState::Queued => "·",
    };
    paint(mark, colour(state), view)
}

/// The number of an ANSI colour.
fn colour(state: TaskState) -> u8 {
    match state {
        TaskState::Completed => 32,
        TaskState::Failed | TaskState::Expired => 31,
        TaskState::Running => 36,
        TaskState::Delayed | TaskState::Cancelled => 33,
        TaskState::Skipped | TaskState::Accepted | TaskState::Waiting | TaskState::Queued => 90,
    }
}

fn workflow_colour(state: WorkflowState) -> u8 {
    match state {
        WorkflowState::Completed => 32,
        WorkflowState::Failed | WorkflowState::Expired => 31,
        WorkflowState::Running => 36,
        WorkflowState::Cancelled => 33,
        WorkflowState::Accepted => 90,
    }
}

fn paint(text: &str, colour: u8, view: &View) -> String {
    if view.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
}

/// The same picture where only ASCII can be shown; names stay as they are.
pub(super) fn ascii(line: &str) -> String {
    let plain = |c: char| match c {
        '│' | '├' | '┤' => '|',
        '─' => '-',
        '╰' => '`',
        '╯' => '\'',
        '┴' | '┼' => '+',
        '✓' => 'v',
        '✗' => 'x',
        '⊘' => 'o',
        '▶' => '>',
        '↻' => '~',
        '·' => '.',
        other => other,
    };
    line.chars().map(plain).collect::<String>().replace('…', "...")
}

fn width(text: &str) -> usize {
    console::measure_text_width(text)
}

/// The line in at most `width` columns. Colours take none, and none is left on.
pub(crate) fn fit(line: &str, width: usize) -> String {
    let (mut text, mut left, mut escape, mut coloured) = (String::new(), width, false, false);
    for c in line.chars() {
        if c == '\x1b' {
            (escape, coloured) = (true, true);
        }
        if escape {
            text.push(c);
            escape = c != 'm';
            continue;
        }
        let needed = self::width(c.encode_utf8(&mut [0; 4]));
        if needed > left {
            if coloured {
                text.push_str("\x1b[0m");
            }
            return text;
        }
        left -= needed;
        text.push(c);
    }
    text
}
