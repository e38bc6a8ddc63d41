//! Results as files: JSON, CSV and Markdown, chosen by the file's suffix.

use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

use super::print;
use crate::core::code::Code;
use crate::core::id::{Id, TaskKey};
use crate::error::Error;
use crate::store::Store;

/// How a file of results is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The document.
    Json,
    /// A row for each task or file.
    Csv,
    /// A table, then every result in full.
    Markdown,
}

/// What came of one task or one file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// The task's id or the file's path.
    pub(crate) name: String,
    /// The task's state.
    pub(crate) status: String,
    /// What it gave, unless it failed.
    pub(crate) content: Value,
    /// Why it did not complete.
    pub(crate) error: Option<String>,
    /// How long it ran, in seconds.
    pub(crate) time: Option<f64>,
}

impl Shape {
    /// The shape that the suffix names.
    ///
    /// # Errors
    /// Another suffix, so that nobody finds out after hours of work.
    pub(crate) fn of(path: &Path) -> Result<Shape, Error> {
        let suffix = path.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
        match suffix.to_ascii_lowercase().as_str() {
            "json" => Ok(Shape::Json),
            "csv" => Ok(Shape::Csv),
            "md" | "markdown" => Ok(Shape::Markdown),
            _ => {
                let text = format!("--output {}: the name must end in .json, .csv or .md", path.display());
                Err(Error::new(Code::InvalidRequest, text))
            }
        }
    }

    /// As [`Shape::of`], and makes sure that the file can be written before any work is done.
    ///
    /// # Errors
    /// As there; the folder is not there.
    pub(crate) fn of_new(path: &Path) -> Result<Shape, Error> {
        let shape = Shape::of(path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if path.is_dir() || folder.is_some_and(|folder| !folder.is_dir()) {
            let text = format!("cannot write {}: its folder is not there, or it is one", path.display());
            return Err(Error::new(Code::FileUnreadable, text));
        }
        Ok(shape)
    }

    /// The text of the file.
    pub(crate) fn text(
        self,
        title: &str,
        facts: &[(&str, String)],
        rows: &[Row],
        document: &Value,
    ) -> String {
        match self {
            // A value has only text keys, so writing it cannot fail.
            Shape::Json => serde_json::to_string_pretty(document).unwrap_or_default() + "\n",
            Shape::Csv => csv(rows),
            Shape::Markdown => markdown(title, facts, rows),
        }
    }
}

/// Writes the file.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(|error| {
        Error::new(Code::FileUnreadable, format!("cannot write {}: {error}", path.display()))
    })?;
    print::note(&format!("written to {}", path.display()));
    Ok(())
}

/// A workflow's document with the results that it leaves out, as long as they are kept.
///
/// # Errors
/// The store cannot be read.
pub(crate) async fn complete(store: &Arc<dyn Store>, id: &Id, document: &Value) -> Result<Value, Error> {
    let mut document = document.clone();
    for task in document.get_mut("tasks").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(whole) = whole(store, id, task).await? {
            *task = whole;
        }
    }
    Ok(document)
}

/// The tasks of a workflow's document.
pub(crate) fn rows(document: &Value) -> Vec<Row> {
    let tasks = document.get("tasks").and_then(Value::as_array);
    tasks.into_iter().flatten().map(|task| row(task, &text(task, "id"))).collect()
}

/// Whether the workflow's document leaves this task's result out, because it would be too long with it.
pub(crate) fn is_omitted(task: &Value) -> bool {
    task.get("result_omitted") == Some(&Value::Bool(true))
}

/// The task's own document where the workflow's leaves its result out.
///
/// # Errors
/// The store cannot be read.
pub(crate) async fn whole(store: &Arc<dyn Store>, id: &Id, task: &Value) -> Result<Option<Value>, Error> {
    if !is_omitted(task) {
        return Ok(None);
    }
    let Some(Ok(task)) = task.get("id").and_then(Value::as_str).map(Id::parse) else { return Ok(None) };
    let document = store.result(&TaskKey::within(id.clone(), task)).await?;
    Ok(document.and_then(|document| serde_json::from_slice(&document).ok()))
}

/// What came of a task, by its document.
pub(crate) fn row(task: &Value, name: &str) -> Row {
    let error = task.get("error").filter(|error| !error.is_null());
    Row {
        name: name.to_owned(),
        status: text(task, "status"),
        content: main_value(task.get("result").unwrap_or(&Value::Null)).clone(),
        error: error.map(|error| format!("[{}] {}", text(error, "name"), text(error, "message"))),
        time: task.get("execution_time").and_then(Value::as_f64),
    }
}

/// What a person wants to see of a result: the value of Python code or of a tool, the answer of a model, not
/// the keys around it.
pub(crate) fn main_value(result: &Value) -> &Value {
    result.get("result").or_else(|| result.get("response")).unwrap_or(result)
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// RFC 4180; numbers and the like as JSON.
fn csv(rows: &[Row]) -> String {
    let mut text = String::from("name,status,content,error,execution_time\r\n");
    for row in rows {
        let content = if row.error.is_some() { String::new() } else { plain(&row.content) };
        let time = row.time.map(|time| time.to_string()).unwrap_or_default();
        let cells = [&row.name, &row.status, &content, row.error.as_deref().unwrap_or_default(), &time];
        let cells: Vec<String> = cells.iter().map(|cell| csv_cell(cell)).collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

fn csv_cell(text: &str) -> String {
    // Spreadsheets execute text that begins like a formula.
    let is_number = text.parse().is_ok_and(f64::is_finite);
    let guarded = format!("'{text}");
    let text = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) && !is_number {
        guarded.as_str()
    } else {
        text
    };
    if text.contains(['"', ',', '\r', '\n']) || text != text.trim() {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text.to_owned()
}

fn markdown(title: &str, facts: &[(&str, String)], rows: &[Row]) -> String {
    let mut text = format!("# {}\n\n", one_line(title));
    for (name, value) in facts {
        text.push_str(&format!("- **{name}**: {}\n", one_line(value)));
    }
    text.push_str("\n| name | status | time |\n| --- | --- | --- |\n");
    for row in rows {
        let time = row.time.map(|time| format!("{time:.2} s")).unwrap_or_default();
        text.push_str(&format!("| {} | {} | {time} |\n", one_line(&row.name), row.status));
    }
    for row in rows {
        text.push_str(&format!("\n## {}\n\n", one_line(&row.name)));
        match (&row.error, &row.content) {
            (Some(error), _) => text.push_str(&format!("**{}**: {}\n", row.status, one_line(error))),
            (None, Value::String(content)) => text.push_str(&format!("{}\n", content.trim_end())),
            (None, Value::Null) => text.push_str(&format!("{}, without a result\n", row.status)),
            (None, value) => {
                let content = serde_json::to_string_pretty(value).unwrap_or_default();
                text.push_str(&format!("```json\n{content}\n```\n"));
            }
        }
    }
    text
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Text that stays on its line and within its cell.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({"workflow_id": "w", "tasks": [
            {"id": "a", "status": "completed", "error": null, "execution_time": 0.5, "result": {"response": "say \"hi\",\nyou"}},
            {"id": "b", "status": "failed", "error": {"name": "TASK_TIMEOUT", "message": "too | slow"}, "result": null},
            {"id": "c", "status": "completed", "error": null, "result": {"result": [1, 2]}},
        ]})
    }

    fn rows(document: &Value) -> Vec<Row> {
        let tasks = document["tasks"].as_array().into_iter().flatten();
        tasks.map(|task| row(task, &text(task, "id"))).collect()
    }

    #[test]
    fn csv_has_no_formulas() {
        for (text, cell) in [
            ("=1+2", "'=1+2"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("-cmd", "'-cmd"),
            ("+1+2", "'+1+2"),
            ("=\"a\"", "\"'=\"\"a\"\"\""),
            ("-1.5", "-1.5"),
            ("+3e2", "+3e2"),
            ("a=b", "a=b"),
        ] {
            assert_eq!(csv_cell(text), cell);
        }
    }

    #[test]
    fn csv_quotes_what_would_break_a_row() {
        assert_eq!(
            csv(&rows(&document())),
            "name,status,content,error,execution_time\r\n\
             a,completed,\"say \"\"hi\"\",\nyou\",,0.5\r\n\
             b,failed,,[TASK_TIMEOUT] too | slow,\r\n\
             c,completed,\"[1,2]\",,\r\n"
        );
    }

    #[test]
    fn markdown_has_a_table_and_every_result_in_full() {
        let text = markdown("Batch", &[("total", "3".to_owned())], &rows(&document()));
        assert!(text.starts_with("# Batch\n\n- **total**: 3\n\n| name | status | time |\n"), "{text}");
        assert!(text.contains("\n| a | completed | 0.50 s |\n"), "{text}");
        assert!(text.contains("\n## a\n\nsay \"hi\",\nyou\n"), "{text}");
        assert!(text.contains("\n**failed**: [TASK_TIMEOUT] too \\| slow\n"), "{text}");
        assert!(text.contains("```json\n[\n  1,\n  2\n]\n```"), "{text}");
    }

    #[test]
    fn an_unknown_suffix_is_refused_before_the_work() {
        assert_eq!(Shape::of(Path::new("a/b.MD")), Ok(Shape::Markdown));
        for name in ["x", "x.txt", "json"] {
            assert!(Shape::of(Path::new(name)).is_err(), "{name}");
        }
    }
}
