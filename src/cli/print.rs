//! What commands print: data on stdout, everything else on stderr.

use serde_json::Value;
use std::io::{IsTerminal, Write};

use crate::error::Error;

/// Prints one line of data. A reader that has gone away (a closed pipe) has read what it wanted: that changes
/// neither the work nor the exit code. Any other reason ends the program: the data would be missing.
pub(crate) fn line(text: &str) {
    bytes(format!("{text}\n").as_bytes());
}

/// As [`line`], for what ends in a line feed already.
pub(crate) fn bytes(data: &[u8]) {
    let mut out = std::io::stdout().lock();
    match out.write_all(data).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            note(&format!("error: cannot write to stdout: {error}"));
            std::process::exit(1);
        }
    }
}

/// Prints a JSON document: indented for people, one line for programs.
pub(crate) fn json(value: &Value) {
    let text = if std::io::stdout().is_terminal() {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    // A value has only text keys, so writing it cannot fail.
    line(&text.unwrap_or_default());
}

/// Prints a JSON document on one line.
pub(crate) fn compact(value: &Value) {
    line(&value.to_string());
}

/// Says something to a person. Ids, names and messages in it may be somebody else's, so nothing of it commands
/// the terminal.
pub(crate) fn note(text: &str) {
    // Nobody may listen on stderr; the work does not depend on it.
    let _ = writeln!(std::io::stderr().lock(), "{}", printable_lines(text));
}

/// Reports an error: for people on stderr; with `--json` also as the one document on stdout.
pub(crate) fn error(error: &Error, as_json: bool) {
    note(&format!("error: {error}"));
    if let Some(Value::Array(violations)) = error.details.get("violations") {
        let file = error.details.get("file").and_then(Value::as_str);
        for violation in violations {
            note(&format!("  {}", violation_line(violation, file)));
        }
    }
    if as_json {
        json(&serde_json::json!({"error": error.to_json()}));
    }
}

/// `w.yaml:12:5: tasks[1].timeout: found 0 (allowed: ...)`, with as much of it as is known. The beginning is what
/// editors and terminals take for a place in a file.
fn violation_line(violation: &Value, file: Option<&str>) -> String {
    let field = |name: &str| violation.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| violation.get(name).and_then(Value::as_u64);
    let mut line = String::new();
    let file = violation.get("file").and_then(Value::as_str).or(file);
    if let (Some(file), Some(row), Some(column)) = (file, number("line"), number("column")) {
        line += &format!("{file}:{row}:{column}: ");
    }
    if !field("path").is_empty() {
        line += &format!("{}: ", field("path"));
    }
    line += field("problem");
    if !field("allowed").is_empty() {
        line += &format!(" (allowed: {})", field("allowed"));
    }
    line
}

/// A value in at most `max` characters, for a line in a table.
pub(crate) fn brief(value: &Value, max: usize) -> String {
    let text = match value {
        Value::String(text) => text.replace('\n', "\\n"),
        other => other.to_string(),
    };
    let text = printable(&text);
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What a terminal would take as an order is shown as a dot.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

/// As [`printable`], for text of several lines.
pub(crate) fn printable_lines(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '·' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_tasks_give_cannot_command_the_terminal() {
        assert_eq!(brief(&json!("a\n\u{1b}[2Jb\u{9b}c\u{7f}"), 20), "a\\n·[2Jb·c·");
        assert_eq!(brief(&json!(["\u{9b}"]), 20), "[\"·\"]");
        assert_eq!(printable_lines("a\n\tb\u{1b}c\r"), "a\n\tb·c·");
    }
}
