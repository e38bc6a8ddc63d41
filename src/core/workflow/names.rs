//! Tasks by their ids and names.

use std::collections::{HashMap, HashSet};

use super::ITEMS_MAX;
use super::problem::Problems;
use super::task::TaskDraft;
use crate::core::code::Code;
use crate::core::id::{ID_BYTES_MAX, Id};
use crate::core::near::did_you_mean;

/// Above so many tasks a message does not look for names that may have been meant.
const HINT_TASKS_MAX: usize = 1000;

/// Given ids, or `task-N` by position (with a letter more if somebody else has that id).
pub(super) fn assign_ids(tasks: &[TaskDraft], problems: &mut Problems) -> Vec<Id> {
    let mut taken: HashSet<&str> = HashSet::with_capacity(tasks.len());
    for (index, task) in tasks.iter().enumerate() {
        if let Some(id) = &task.id
            && !taken.insert(id.as_str())
        {
            let problem = format!("Duplicate task ID: {id}");
            let path = format!("tasks[{index}].id");
            problems.add(Code::WorkflowValidationFailed, path, problem, "an id of its own");
        }
    }
    let mut ids = Vec::with_capacity(tasks.len());
    for (index, task) in tasks.iter().enumerate() {
        let id = task.id.clone().unwrap_or_else(|| {
            let mut text = format!("task-{}", index + 1);
            while taken.contains(text.as_str()) {
                text.push('x');
            }
            Id::parse(&text).expect("letters and digits, and far from the longest")
        });
        ids.push(id);
    }
    ids
}

/// Finds tasks by id or name.
pub(super) struct Names<'a> {
    ids: &'a [Id],
    tasks: &'a [TaskDraft],
    by_id: HashMap<&'a str, usize>,
    by_name: HashMap<&'a str, Named>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Named {
    One(usize),
    Several,
}

impl<'a> Names<'a> {
    pub(super) fn new(ids: &'a [Id], tasks: &'a [TaskDraft]) -> Names<'a> {
        let by_id = ids.iter().enumerate().map(|(index, id)| (id.as_str(), index)).collect();
        let mut by_name: HashMap<&str, Named> = HashMap::new();
        for (index, task) in tasks.iter().enumerate() {
            if let Some(name) = task.name.as_deref() {
                by_name.entry(name).and_modify(|named| *named = Named::Several).or_insert(Named::One(index));
            }
        }
        Names { ids, tasks, by_id, by_name }
    }

    /// An id counts before a name.
    pub(super) fn find(&self, text: &str) -> Option<Named> {
        self.by_id.get(text).map(|&index| Named::One(index)).or_else(|| self.by_name.get(text).copied())
    }

    /// What its author calls the task: the id, or the name if no id was given.
    pub(super) fn shown(&self, index: usize) -> &'a str {
        let task = &self.tasks[index];
        let name = if task.id.is_none() { task.name.as_deref() } else { None };
        name.unwrap_or(self.ids[index].as_str())
    }

    /// Whether nobody can read the task's result.
    pub(super) fn keeps_no_result(&self, index: usize) -> bool {
        self.tasks[index].spec.as_ref().is_some_and(|spec| spec.ignore_result)
    }

    pub(super) fn hint(&self, wanted: &str, problems: &Problems) -> String {
        if problems.is_full() || self.ids.len() > HINT_TASKS_MAX {
            return String::new();
        }
        did_you_mean(wanted, self.by_id.keys().chain(self.by_name.keys()).copied())
    }
}

/// The tasks that a `for_each` or a nested workflow makes are called `X.0`, `X.load` after the task `X` that
/// makes them: nobody else may be called so, and there must be room. `prefix_bytes` is what stands before the
/// ids of the whole workflow because it is nested itself.
pub(super) fn check_child_ids(names: &Names<'_>, prefix_bytes: usize, problems: &mut Problems) {
    for (index, task) in names.tasks.iter().enumerate() {
        let id = &names.ids[index];
        let items = if task.for_each.is_some() { format!(".{}", ITEMS_MAX - 1).len() } else { 0 };
        let path = || format!("tasks[{index}].id");
        if prefix_bytes + id.as_str().len() + items > ID_BYTES_MAX {
            let problem = format!("'{id}' is too long for the ids that are made of it");
            problems.add(Code::WorkflowValidationFailed, path(), problem, "a shorter id");
        }
        for (dot, _) in id.as_str().match_indices('.') {
            let (parent, rest) = (&id.as_str()[..dot], &id.as_str()[dot + 1..]);
            let Some(&parent) = names.by_id.get(parent) else { continue };
            let first = rest.split('.').next().unwrap_or_default();
            let is_number = !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_digit());
            let makes_items = names.tasks[parent].for_each.is_some();
            let is_workflow = names.tasks[parent].spec.as_ref().is_some_and(|spec| spec.is_workflow());
            if (makes_items && is_number) || (is_workflow && !makes_items) {
                let problem = format!("'{id}' is what a task made by '{}' is called", names.shown(parent));
                problems.add(Code::WorkflowValidationFailed, path(), problem, "another id");
            }
        }
    }
}
