//! The graph of a workflow file for other programs: Mermaid and DOT.
//!
//! What fails with its dependency is joined by a plain line; `skip`, `continue` and `default` by a dashed one
//! that names the policy. A task that may fail has a dashed border, one with `for_each` a doubled one, and a
//! nested workflow a rounded one.

use std::fmt::Write;

use crate::core::workflow::{OnFailure, Task, Workflow};

/// The longest expression or value in a label, in characters.
const TEXT_MAX: usize = 60;

/// What a task is, as far as the picture shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One call.
    Plain,
    /// One call for each item of a list.
    ForEach,
    /// A workflow of its own.
    Nested,
}

impl Kind {
    fn of(task: &Task) -> Kind {
        match (&task.for_each, task.spec.is_workflow()) {
            (Some(_), _) => Kind::ForEach,
            (None, true) => Kind::Nested,
            (None, false) => Kind::Plain,
        }
    }
}

/// A Mermaid flowchart.
pub(crate) fn mermaid(workflow: &Workflow) -> String {
    // A JSON text is a YAML text too.
    let title = serde_json::Value::String(workflow.name.clone());
    let mut text = format!("---\ntitle: {title}\n---\nflowchart TD\n");
    let mut tolerated = Vec::new();
    let is_tolerated = workflow.tolerated();
    for (index, task) in workflow.tasks.iter().enumerate() {
        let lines: Vec<String> = label(task).iter().map(|line| mermaid_text(line)).collect();
        let label = lines.join("<br/>");
        let (open, close) = match Kind::of(task) {
            Kind::Plain => ("[", "]"),
            Kind::ForEach => ("[[", "]]"),
            Kind::Nested => ("([", "])"),
        };
        line(&mut text, &format!("    n{index}{open}\"{label}\"{close}"));
        if is_tolerated[index] {
            tolerated.push(format!("n{index}"));
        }
    }
    for (index, task) in workflow.tasks.iter().enumerate() {
        for edge in &task.dependencies {
            let arrow = match policy(&edge.on_failure) {
                None => "-->".to_owned(),
                Some(policy) => format!("-. \"{}\" .->", mermaid_text(&policy)),
            };
            line(&mut text, &format!("    n{} {arrow} n{index}", edge.on));
        }
    }
    if !tolerated.is_empty() {
        line(&mut text, "    classDef tolerated stroke-dasharray: 5 3");
        line(&mut text, &format!("    class {} tolerated", tolerated.join(",")));
    }
    text
}

/// A digraph for Graphviz.
pub(crate) fn dot(workflow: &Workflow) -> String {
    let mut text = format!("digraph {} {{\n", quoted(&workflow.name));
    line(&mut text, "    node [shape=box, fontname=\"sans-serif\"];");
    line(&mut text, "    edge [fontname=\"sans-serif\"];");
    let is_tolerated = workflow.tolerated();
    for (index, task) in workflow.tasks.iter().enumerate() {
        let label = quoted(&label(task).join("\n"));
        let mut styles = Vec::new();
        if is_tolerated[index] {
            styles.push("dashed");
        }
        let shape = match Kind::of(task) {
            Kind::Plain => "",
            Kind::ForEach => ", peripheries=2",
            Kind::Nested => {
                styles.push("rounded");
                ""
            }
        };
        let style =
            if styles.is_empty() { String::new() } else { format!(", style=\"{}\"", styles.join(",")) };
        line(&mut text, &format!("    n{index} [label={label}{shape}{style}];"));
    }
    for (index, task) in workflow.tasks.iter().enumerate() {
        for edge in &task.dependencies {
            let how = policy(&edge.on_failure);
            let how =
                how.map_or(String::new(), |policy| format!(" [style=dashed, label={}]", quoted(&policy)));
            line(&mut text, &format!("    n{} -> n{index}{how};", edge.on));
        }
    }
    text.push_str("}\n");
    text
}

/// What stands in a task's box: its id, its name, what it calls, and when.
fn label(task: &Task) -> Vec<String> {
    let mut lines = vec![task.id.to_string()];
    lines.extend(task.spec.name.clone().filter(|name| *name != task.id.as_str()));
    match Kind::of(task) {
        Kind::Nested => lines.push("workflow".to_owned()),
        Kind::Plain | Kind::ForEach => lines.push(format!("{} {}", task.spec.protocol, task.spec.method)),
    }
    if let Some(list) = &task.for_each {
        lines.push(format!("for each of {}", short(&as_text(list))));
    }
    if let Some(condition) = &task.when {
        lines.push(format!("when {}", short(condition)));
    }
    lines
}

/// `None` for the usual one.
fn policy(on_failure: &OnFailure) -> Option<String> {
    match on_failure {
        OnFailure::Fail => None,
        OnFailure::Skip => Some("skip".to_owned()),
        OnFailure::Continue => Some("continue".to_owned()),
        OnFailure::Default(value) => Some(format!("default {}", short(&value.to_string()))),
    }
}

fn as_text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn short(text: &str) -> String {
    let mut chars = text.chars();
    let short: String = chars.by_ref().take(TEXT_MAX).collect();
    if chars.next().is_some() { short + "…" } else { short }
}

/// Text within Mermaid's quotes, where only character references are safe.
fn mermaid_text(text: &str) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        match c {
            c if c.is_control() => safe.push(' '),
            '"' | '#' | '&' | '<' | '>' | '`' | '\\' | ';' => _ = write!(safe, "#{};", u32::from(c)),
            c => safe.push(c),
        }
    }
    safe
}

/// A quoted string of DOT, in which a line feed is `\n`.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '\n' => quoted.push_str("\\n"),
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}
