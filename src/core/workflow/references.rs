//! The references of every task: to which tasks, and whether it may have them.

use serde_json::Value;

use super::check::Graph;
use super::names::{Named, Names};
use super::parameters::Parameters;
use super::problem::Problems;
use super::task::TaskDraft;
use crate::core::code::Code;
use crate::core::template::{Reference, references};

/// Names that a task with `for_each` has for its items.
const ITEM_NAMES: [&str; 2] = ["item", "index"];

/// First names of what the original's documents promise and nobody has.
const NOT_READ: [&str; 3] = ["env", "config", "workflow"];

/// For each task the tasks that its references mean. Whether they are upstream is not asked where circles leave
/// that open, or everywhere without a `graph`.
pub(super) fn inputs(
    tasks: &[TaskDraft],
    names: &Names<'_>,
    parameters: &Parameters,
    graph: Option<&Graph>,
    problems: &mut Problems,
) -> Vec<Vec<(String, usize)>> {
    let mut all: Vec<Vec<(String, usize)>> = Vec::with_capacity(tasks.len());
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    let mut found: Vec<Reference> = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        let mut inputs: Vec<(String, usize)> = Vec::new();
        for (reference, has_item) in of_task(task) {
            let mut meaning = Meaning { index, task, has_item, names, parameters, problems };
            let Some((name, meant)) = meaning.of(&reference) else { continue };
            inputs.push((name, meant));
            pairs.push((index, meant));
            found.push(reference);
        }
        inputs.sort();
        inputs.dedup();
        all.push(inputs);
    }
    let Some(graph) = graph else { return all };
    let answers = graph.dag.waits_for(&pairs);
    for (((index, meant), reference), is_upstream) in pairs.into_iter().zip(found).zip(answers) {
        if !is_upstream && !graph.is_doubtful[index] {
            let path = format!("tasks[{index}].{}", reference.at);
            let other = names.shown(meant);
            let problem = format!(
                "${{{}}} refers to task '{other}', which this task does not wait for",
                reference.text
            );
            problems.add(Code::TaskParameterError, path, problem, format!("add '{other}' to dependencies"));
        }
    }
    all
}

/// Every reference of a task, and whether it may mean the item.
fn of_task(task: &TaskDraft) -> Vec<(Reference, bool)> {
    let has_items = task.for_each.is_some();
    let mut found: Vec<(Reference, bool)> = Vec::new();
    if let Some(spec) = &task.spec {
        found.extend(spec.references().into_iter().map(|reference| (reference, has_items)));
    }
    if let Some(list) = &task.for_each {
        found.extend(references(list, "for_each").into_iter().map(|reference| (reference, false)));
    }
    if let Some(when) = &task.when {
        let when = Value::from(when.as_str());
        found.extend(references(&when, "when").into_iter().map(|reference| (reference, has_items)));
    }
    found
}

struct Meaning<'a> {
    index: usize,
    task: &'a TaskDraft,
    has_item: bool,
    names: &'a Names<'a>,
    parameters: &'a Parameters,
    problems: &'a mut Problems,
}

impl Meaning<'_> {
    /// The task that a reference means, by the name that it uses; `None` if it means none, which is noted
    /// unless it may.
    fn of(&mut self, reference: &Reference) -> Option<(String, usize)> {
        if let Some(flaw) = reference.flaw {
            return self.refuse(reference, "is no reference", flaw);
        }
        if self.task.spec.as_ref().is_some_and(|spec| spec.is_code(&reference.at)) {
            let allowed = "references in `context`, which code reads as data; $${ for the text ${";
            return self.refuse(reference, "stands in code", allowed);
        }
        let name = reference.task(|name| self.names.find(name).is_some());
        if self.has_item
            && let Some(item) = reference.task(|name| ITEM_NAMES.contains(&name))
        {
            let name = name?;
            let problem = format!("is ambiguous: '{item}' is the list's, and a task is called '{name}'");
            return self.refuse(reference, &problem, "another id or name for that task");
        }
        let Some(name) = name else {
            // A parameter is put in before; where it is left, its value is not known yet or has been refused.
            let is_parameter = reference.task(|name| self.parameters.has(name)).is_some();
            return if is_parameter { None } else { self.unknown(reference) };
        };
        let meant = match self.names.find(name) {
            Some(Named::One(meant)) => meant,
            Some(Named::Several) | None => {
                let problem = format!("is ambiguous, several tasks are named '{name}'");
                return self.refuse(reference, &problem, "the id of one of them");
            }
        };
        if self.names.keeps_no_result(meant) {
            let problem = format!("refers to task '{name}', whose result is not kept");
            return self.refuse(reference, &problem, "that task without `ignore_result`");
        }
        Some((name.to_owned(), meant))
    }

    fn unknown(&mut self, reference: &Reference) -> Option<(String, usize)> {
        let first = reference.first();
        let hint = self.names.hint(first, self.problems);
        let allowed = if ITEM_NAMES.contains(&first) {
            "it in the parameters and `when` of a task with `for_each`"
        } else if NOT_READ.contains(&first) {
            "a parameter, declared under `parameters` and given by --param; $${ for the text ${"
        } else {
            "ids or names of tasks; $${ for the text ${"
        };
        self.refuse(reference, &format!("refers to no task of this workflow{hint}"), allowed)
    }

    fn refuse<T>(&mut self, reference: &Reference, problem: &str, allowed: &str) -> Option<T> {
        let path = format!("tasks[{}].{}", self.index, reference.at);
        let problem = format!("${{{}}} {problem}", reference.text);
        self.problems.add(Code::TaskParameterError, path, problem, allowed);
        None
    }
}
