//! From drafts to a workflow: names are looked up, edges drawn, references and calls checked.

use super::calls::{check_calls, check_conditions};
use super::names::{Named, Names, assign_ids, check_child_ids};
use super::parameters::Parameters;
use super::problem::{Problems, Refused};
use super::read::WorkflowDraft;
use super::task::TaskDraft;
use super::{Dependency, Scope, Task, UNNAMED, Workflow, nested, references};
use crate::core::code::Code;
use crate::core::dag::Dag;

/// How many circles of one workflow are looked for.
const CIRCLES_MAX: usize = 10;

/// Holds the parts of a workflow against each other and against the protocols.
pub(super) fn workflow(
    mut draft: WorkflowDraft,
    parameters: &Parameters,
    scope: &Scope<'_>,
) -> Result<Workflow, Refused> {
    let mut problems = std::mem::take(&mut draft.problems);
    let ids = assign_ids(&draft.tasks, &mut problems);
    let names = Names::new(&ids, &draft.tasks);
    check_child_ids(&names, scope.prefix_bytes, &mut problems);
    check_parameters(parameters, &names, &mut problems);
    let edges = edges(&draft.tasks, &names, &mut problems);
    let graph = graph(&edges, &names, &mut problems);
    let inputs = references::inputs(&draft.tasks, &names, parameters, graph.as_ref(), &mut problems);
    check_calls(&draft.tasks, scope.protocols, &mut draft.warnings, &mut problems);
    check_conditions(&draft.tasks, &mut problems);
    nested::check(&draft.tasks, &ids, scope, &mut draft.warnings, &mut problems);
    drop(names);

    let (Some(Graph { dag: graph, .. }), true) = (graph, problems.is_empty()) else {
        return Err(problems.into_refused());
    };
    let mut tasks = Vec::with_capacity(ids.len());
    for (((task, id), inputs), dependencies) in draft.tasks.into_iter().zip(ids).zip(inputs).zip(edges) {
        // Without problems every task has been read; the graph would not fit if one were left out.
        let Some(spec) = task.spec else { return Err(problems.into_refused()) };
        tasks.push(Task {
            id,
            spec,
            dependencies,
            critical: task.critical,
            when: task.when,
            for_each: task.for_each,
            max_parallel: task.max_parallel,
            inputs,
            extra: task.extra,
        });
    }
    Ok(Workflow {
        id: draft.id,
        name: draft.name.unwrap_or_else(|| UNNAMED.to_owned()),
        description: draft.description,
        tasks,
        graph,
        max_parallel: draft.max_parallel,
        timeout: draft.timeout,
        result_ttl: draft.result_ttl,
        idempotency_key: draft.idempotency_key,
        metadata: draft.metadata,
        warnings: draft.warnings,
    })
}

/// The graph as far as it can be told.
pub(super) struct Graph {
    /// Each circle is open at one place.
    pub(super) dag: Dag,
    /// The tasks in a circle, and those that wait for them: for what they wait is not known.
    pub(super) is_doubtful: Vec<bool>,
}

/// Draws the graph. Circles are told and opened, so that the rest can be looked at; `None` if there are too many.
fn graph(edges: &[Vec<Dependency>], names: &Names<'_>, problems: &mut Problems) -> Option<Graph> {
    let mut parents: Vec<Vec<usize>> =
        edges.iter().map(|edges| edges.iter().map(|edge| edge.on).collect()).collect();
    let mut is_doubtful = vec![false; parents.len()];
    for told in 0..=CIRCLES_MAX {
        let cycle = match Dag::new(parents.clone()) {
            Ok(dag) => {
                for &task in dag.order() {
                    is_doubtful[task] |= dag.parents(task).iter().any(|&parent| is_doubtful[parent]);
                }
                return Some(Graph { dag, is_doubtful });
            }
            Err(_) if told == CIRCLES_MAX => break,
            Err(cycle) => cycle,
        };
        let problem = format!("Circular dependencies detected: {}", cycle.named(|task| names.shown(task)));
        problems.add(Code::WorkflowCircularDependency, "tasks", problem, "dependencies without a circle");
        for &task in &cycle.0 {
            is_doubtful[task] = true;
        }
        let [.., last, first] = cycle.0[..] else { return None };
        parents[last].retain(|&parent| parent != first);
    }
    None
}

/// A name in a reference is a parameter's or a task's, never both.
fn check_parameters(parameters: &Parameters, names: &Names<'_>, problems: &mut Problems) {
    for name in parameters.names().filter(|name| names.find(name).is_some()) {
        let problem = "has the name of a task: a reference could mean either";
        problems.add(Code::WorkflowValidationFailed, format!("parameters.{name}"), problem, "another name");
    }
}

/// For each task what it depends on, in the order of positions.
fn edges(tasks: &[TaskDraft], names: &Names<'_>, problems: &mut Problems) -> Vec<Vec<Dependency>> {
    let mut all = Vec::with_capacity(tasks.len());
    for (index, task) in tasks.iter().enumerate() {
        let mut edges: Vec<(Dependency, usize)> = Vec::with_capacity(task.dependencies.len());
        for wanted in &task.dependencies {
            let path = format!("tasks[{index}].dependencies[{}]", wanted.index);
            let Some(on) = dependency(index, &wanted.name, path, names, problems) else { continue };
            let on_failure = wanted.on_failure.clone().unwrap_or_else(|| task.on_failure.clone());
            edges.push((Dependency { on, on_failure }, wanted.index));
        }
        edges.sort_by_key(|(edge, position)| (edge.on, *position));
        edges.dedup_by(|(edge, position), (first, _)| {
            let is_same = edge.on == first.on;
            if is_same && edge.on_failure != first.on_failure {
                let path = format!("tasks[{index}].dependencies[{position}]");
                let problem = format!("names '{}' again, with another policy", names.shown(edge.on));
                problems.add(Code::WorkflowValidationFailed, path, problem, "each task once");
            }
            is_same
        });
        all.push(edges.into_iter().map(|(edge, _)| edge).collect());
    }
    all
}

/// The position of the task that a dependency of the task at `index` names.
fn dependency(
    index: usize,
    wanted: &str,
    path: String,
    names: &Names<'_>,
    problems: &mut Problems,
) -> Option<usize> {
    match names.find(wanted) {
        Some(Named::One(parent)) if parent == index => {
            let problem = format!("task '{}' cannot depend on itself", names.shown(index));
            problems.add(Code::WorkflowCircularDependency, path, problem, "other tasks");
            None
        }
        Some(Named::One(parent)) => Some(parent),
        Some(Named::Several) => {
            let problem = format!("several tasks are named '{wanted}'");
            problems.add(Code::WorkflowUnknownDependency, path, problem, "the id of one of them");
            None
        }
        None => {
            let hint = names.hint(wanted, problems);
            let problem = format!("unknown dependency '{wanted}'{hint}");
            let allowed = "ids or names of tasks of this workflow";
            problems.add(Code::WorkflowUnknownDependency, path, problem, allowed);
            None
        }
    }
}
