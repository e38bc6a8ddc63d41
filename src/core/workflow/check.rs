//! From drafts to a workflow: names are looked up, edges drawn, references and calls checked.

use std::collections::{HashMap, HashSet};

use super::problem::{Problems, Refused};
use super::read::{TaskDraft, WorkflowDraft};
use super::{Task, UNNAMED, Workflow};
use crate::core::code::Code;
use crate::core::dag::Dag;
use crate::core::id::Id;
use crate::core::near::did_you_mean;
use crate::core::protocol::{Leniency, LookupError, Protocols};
use crate::core::task::Spec;
use crate::core::template::{Reference, references};
use crate::core::violation::Violation;

/// Above so many tasks a message does not look for names that may have been meant.
const HINT_TASKS_MAX: usize = 1000;

/// Most warnings of calls; what is beyond is dropped.
const WARNINGS_MAX: usize = 100;

/// Holds the parts of a workflow against each other and against the protocols.
pub(super) fn workflow(mut draft: WorkflowDraft, protocols: &Protocols) -> Result<Workflow, Refused> {
    let mut problems = std::mem::take(&mut draft.problems);
    let ids = assign_ids(&draft.tasks, &mut problems);
    let names = Names::new(&ids, &draft.tasks);
    let edges = edges(&draft.tasks, &names, &mut problems);
    let graph = match Dag::new(edges) {
        Ok(graph) => Some(graph),
        Err(cycle) => {
            let circle = cycle.named(|task| names.shown(task));
            let problem = format!("Circular dependencies detected: {circle}");
            problems.add(Code::WorkflowCircularDependency, "tasks", problem, "dependencies without a circle");
            None
        }
    };
    let inputs = inputs(&draft.tasks, &names, graph.as_ref(), &mut problems);
    check_calls(&draft.tasks, protocols, &mut draft.warnings, &mut problems);
    drop(names);

    let (Some(graph), true) = (graph, problems.is_empty()) else { return Err(problems.into_refused()) };
    let mut tasks = Vec::with_capacity(ids.len());
    for ((task, id), inputs) in draft.tasks.into_iter().zip(ids).zip(inputs) {
        // Without problems every task has been read; the graph would not fit if one were left out.
        let Some(spec) = task.spec else { return Err(problems.into_refused()) };
        tasks.push(Task { id, spec, inputs, extra: task.extra });
    }
    Ok(Workflow {
        id: draft.id,
        name: draft.name.unwrap_or_else(|| UNNAMED.to_owned()),
        description: draft.description,
        tasks,
        graph,
        timeout: draft.timeout,
        result_ttl: draft.result_ttl,
        idempotency_key: draft.idempotency_key,
        metadata: draft.metadata,
        warnings: draft.warnings,
    })
}

/// Given ids, or `task-N` by position (with a letter more if somebody else has that id).
fn assign_ids(tasks: &[TaskDraft], problems: &mut Problems) -> Vec<Id> {
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
struct Names<'a> {
    ids: &'a [Id],
    tasks: &'a [TaskDraft],
    by_id: HashMap<&'a str, usize>,
    by_name: HashMap<&'a str, Named>,
}

#[derive(Debug, Clone, Copy)]
enum Named {
    One(usize),
    Several,
}

impl<'a> Names<'a> {
    fn new(ids: &'a [Id], tasks: &'a [TaskDraft]) -> Names<'a> {
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
    fn find(&self, text: &str) -> Option<Named> {
        self.by_id.get(text).map(|&index| Named::One(index)).or_else(|| self.by_name.get(text).copied())
    }

    /// What its author calls the task: the id, or the name if no id was given.
    fn shown(&self, index: usize) -> &'a str {
        let task = &self.tasks[index];
        let name = if task.id.is_none() { task.name.as_deref() } else { None };
        name.unwrap_or(self.ids[index].as_str())
    }

    fn hint(&self, wanted: &str, problems: &Problems) -> String {
        if problems.is_full() || self.ids.len() > HINT_TASKS_MAX {
            return String::new();
        }
        did_you_mean(wanted, self.by_id.keys().chain(self.by_name.keys()).copied())
    }
}

/// For each task the positions of those that it depends on.
fn edges(tasks: &[TaskDraft], names: &Names<'_>, problems: &mut Problems) -> Vec<Vec<usize>> {
    let mut edges = Vec::with_capacity(tasks.len());
    for (index, task) in tasks.iter().enumerate() {
        let mut parents = Vec::with_capacity(task.dependencies.len());
        for (position, wanted) in &task.dependencies {
            let path = format!("tasks[{index}].dependencies[{position}]");
            match names.find(wanted) {
                Some(Named::One(parent)) if parent == index => {
                    let problem = format!("task '{}' cannot depend on itself", names.shown(index));
                    problems.add(Code::WorkflowCircularDependency, path, problem, "other tasks");
                }
                Some(Named::One(parent)) => parents.push(parent),
                Some(Named::Several) => {
                    let problem = format!("several tasks are named '{wanted}'");
                    problems.add(Code::WorkflowUnknownDependency, path, problem, "the id of one of them");
                }
                None => {
                    let hint = names.hint(wanted, problems);
                    let problem = format!("unknown dependency '{wanted}'{hint}");
                    let allowed = "ids or names of tasks of this workflow";
                    problems.add(Code::WorkflowUnknownDependency, path, problem, allowed);
                }
            }
        }
        edges.push(parents);
    }
    edges
}

/// For each task the tasks that its references mean. `graph` is `None` if it has a cycle; then it is not
/// asked whether they are upstream.
fn inputs(
    tasks: &[TaskDraft],
    names: &Names<'_>,
    graph: Option<&Dag>,
    problems: &mut Problems,
) -> Vec<Vec<(String, usize)>> {
    let mut all: Vec<Vec<(String, usize)>> = Vec::with_capacity(tasks.len());
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    let mut found: Vec<(usize, Reference)> = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        let mut inputs: Vec<(String, usize)> = Vec::new();
        let references =
            task.spec.as_ref().map(|spec| references(&spec.params, "params")).unwrap_or_default();
        for reference in references {
            let Some((name, meant)) = meant(&reference, index, task, names, problems) else { continue };
            inputs.push((name, meant));
            pairs.push((index, meant));
            found.push((index, reference));
        }
        inputs.sort();
        inputs.dedup();
        all.push(inputs);
    }
    let Some(graph) = graph else { return all };
    let answers = graph.waits_for(&pairs);
    for (((index, meant), (_, reference)), is_upstream) in pairs.into_iter().zip(found).zip(answers) {
        if !is_upstream {
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

/// The task that a reference means, by the name that it uses.
fn meant(
    reference: &Reference,
    index: usize,
    task: &TaskDraft,
    names: &Names<'_>,
    problems: &mut Problems,
) -> Option<(String, usize)> {
    let (problem, allowed) = match reference.task(|name| names.find(name).is_some()) {
        _ if reference.flaw.is_some() => {
            (String::from("is no reference"), reference.flaw.unwrap_or_default())
        }
        _ if task.spec.as_ref().is_some_and(|spec| spec.is_code(&reference.at)) => (
            String::from("stands in code"),
            "references in `context`, which code reads as data; $${ for the text ${",
        ),
        None => {
            let hint = names.hint(reference.first(), problems);
            (
                format!("refers to no task of this workflow{hint}"),
                "ids or names of tasks; $${ for the text ${",
            )
        }
        Some(name) => match names.find(name) {
            Some(Named::One(meant)) => return Some((name.to_owned(), meant)),
            Some(Named::Several) | None => {
                (format!("is ambiguous, several tasks are named '{name}'"), "the id of one of them")
            }
        },
    };
    let path = format!("tasks[{index}].{}", reference.at);
    problems.add(Code::TaskParameterError, path, format!("${{{}}} {problem}", reference.text), allowed);
    None
}

/// Holds every call against its protocol.
fn check_calls(
    tasks: &[TaskDraft],
    protocols: &Protocols,
    warnings: &mut Vec<String>,
    problems: &mut Problems,
) {
    for (index, task) in tasks.iter().enumerate() {
        let Some(spec) = &task.spec else { continue };
        check_call(index, spec, protocols, warnings, problems);
    }
}

fn check_call(
    index: usize,
    spec: &Spec,
    protocols: &Protocols,
    warnings: &mut Vec<String>,
    problems: &mut Problems,
) {
    let method = match protocols.method(&spec.protocol, &spec.method) {
        Ok(method) => method,
        Err(error) => {
            let (code, key, problem, known) = match &error {
                LookupError::UnknownProtocol { id, known, .. } => {
                    (Code::ProtocolNotFound, "protocol", format!("unknown protocol {id}"), known)
                }
                LookupError::UnknownMethod { id, method, known, .. } => {
                    (Code::MethodNotFound, "method", format!("unknown method {method:?} of {id}"), known)
                }
            };
            let near = match &error {
                LookupError::UnknownProtocol { near, .. } | LookupError::UnknownMethod { near, .. } => near,
            };
            let hint =
                if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) };
            let path = format!("tasks[{index}].{key}");
            return problems.add(code, path, problem + &hint, format!("one of {}", known.join(", ")));
        }
    };
    for warning in method.warnings() {
        if warnings.len() < WARNINGS_MAX {
            warnings.push(format!("tasks[{index}]: {warning}"));
        }
    }
    if let Err(violations) = method.validate(spec.params.clone(), Leniency::References) {
        let below = |violation: Violation| Violation {
            path: format!("tasks[{index}].{}", violation.path),
            ..violation
        };
        problems.extend(Code::InvalidParams, violations.into_iter().map(below));
    }
}
