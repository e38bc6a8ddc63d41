//! Workflows: tasks that hand results to each other.
//!
//! ```text
//! text --load--> document --inline--> document --fill in--> members --read--> drafts --check--> Workflow
//!  (YAML, JSON)   (mapping)  (files of    (parameters)      (each by itself)   (names, edges,
//!                             nested ones)                                      references, protocols)
//! ```
//! A [`Workflow`] exists only if everything about it is right: ids are unique, dependencies known and without
//! cycles, every reference is to a task that is upstream, every call fits its protocol, and so inside nested
//! workflows. Whatever is wrong is said at once, each with its place and its code. What is only odd (an
//! unknown key) is a warning, or refused where that is asked for.
//!
//! `docs/workflows.md` describes the format. In short:
//!
//! ```yaml
//! name: Report
//! parameters: {count: {type: integer, default: 9}}
//! max_parallel: 10
//! tasks:
//!   - id: load                        # default task-N, by position
//!     method: python/execute          # `protocol: python/v1` is taken from the method's name
//!     params: {code: "list(range(n))", context: {n: "${count}"}}      # `parameters` is the same
//!   - id: square
//!     for_each: ${load}               # one task per item
//!     method: python/execute
//!     params: {code: "x * x", context: {x: "${item}"}}
//!     dependencies: [load]            # ids or names; `depends_on` is the same
//!     priority: high                  # low, normal, high, urgent; 1 is high, 2 normal, 3 low
//!     timeout: 30                     # seconds
//!     retry: {max_attempts: 3}
//!   - id: sum
//!     when: length(${square}) > 0
//!     method: python/execute
//!     params: {code: "sum(row['result'] for row in rows)", context: {rows: "${square}"}}
//!     dependencies: [{task: square, on_failure: skip}]
//! ```

mod batch;
mod calls;
mod check;
mod dependencies;
mod fill_in;
mod inline;
mod load;
mod locate;
mod names;
mod nested;
mod parameters;
mod policy;
mod problem;
mod read;
mod references;
mod sample;
mod schema;
mod sources;
mod task;

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use super::code::Code;
use super::dag::Dag;
use super::id::Id;
use super::protocol::Protocols;
use super::task::Spec;
use super::violation::Warning;

pub use batch::Batch;
pub use inline::{Inlined, inline};
use load::mapping;
pub(crate) use load::too_large;
pub use load::{Format, load};
pub use locate::Place;
pub use parameters::Given;
use parameters::Supply;
pub use policy::{Dependency, OnFailure};
use problem::Problems;
pub use problem::{Problem, Refused};
pub use schema::workflow_schema;
pub use sources::Sources;

/// The largest workflow file or message, in bytes.
pub const WORKFLOW_BYTES_MAX: usize = 12 * 1024 * 1024;

/// Most tasks of a workflow.
pub const TASKS_MAX: usize = 100_000;

/// Most items of a `for_each`.
pub const ITEMS_MAX: usize = 100_000;

/// How deep workflows may stand inside each other.
pub const NESTED_MAX: usize = 8;

/// The longest workflow timeout, in seconds: as long as a message can be delayed, 310 days.
pub const TIMEOUT_MAX_SECONDS: f64 = 310.0 * 24.0 * 3600.0;

/// The name of a workflow that has none.
pub const UNNAMED: &str = "Unnamed Workflow";

/// A workflow in which everything fits together.
#[derive(Debug, Clone, PartialEq)]
pub struct Workflow {
    /// Its id, if the document or its idempotency key gives it one.
    pub id: Option<Id>,
    /// For people.
    pub name: String,
    /// For people.
    pub description: String,
    /// At least one, in the order of the file; ids are unique.
    pub tasks: Vec<Task>,
    /// Which task waits for which, by position in `tasks`.
    pub graph: Dag,
    /// How many of its tasks may run at once; `None` for any number.
    pub max_parallel: Option<NonZeroU32>,
    /// How long the whole may take.
    pub timeout: Option<Duration>,
    /// How long results are kept after it has ended.
    pub result_ttl: Option<Duration>,
    /// Workflows with the same key are the same workflow.
    pub idempotency_key: Option<String>,
    /// Anything.
    pub metadata: Map<String, Value>,
    /// What its author should know.
    pub warnings: Vec<Warning>,
}

/// A task of a workflow.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id within the workflow.
    pub id: Id,
    /// What is to be run, and how.
    pub spec: Spec,
    /// What it waits for, in the order of positions, each task once.
    pub dependencies: Vec<Dependency>,
    /// Whether the workflow fails when this task does.
    pub critical: bool,
    /// An expression on results; the task is skipped where it does not hold.
    pub when: Option<String>,
    /// A list, or a reference to one: the task is run once for each of its items.
    pub for_each: Option<Value>,
    /// How many of its items may run at once; only together with `for_each`.
    pub max_parallel: Option<NonZeroU32>,
    /// From the names that its references use to the positions of the tasks meant, each name once.
    pub inputs: Vec<(String, usize)>,
    /// Keys that this version does not know, untouched.
    pub extra: Map<String, Value>,
}

/// What becomes of a key that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strictness {
    /// A warning.
    #[default]
    Warn,
    /// It is refused.
    Refuse,
}

/// What a document is read against.
#[derive(Debug, Clone, Copy)]
struct Scope<'a> {
    protocols: &'a Protocols,
    strictness: Strictness,
    /// How many workflows are around it.
    depth: usize,
    /// How many bytes stand before the ids of its tasks because of these.
    prefix_bytes: usize,
}

impl Workflow {
    /// Reads a document, which [`load`] or a message gave. Its parameters have their defaults.
    ///
    /// # Errors
    /// [`Refused`] with everything that is wrong.
    pub fn read(document: Value, protocols: &Protocols) -> Result<Workflow, Refused> {
        read_in(mapping(document)?, &Supply::default(), &Scope::outermost(protocols, Strictness::Warn))
    }

    /// Reads a document with values for its parameters, and gives it back with these put in: what is to be
    /// submitted.
    ///
    /// # Errors
    /// [`Refused`] with everything that is wrong with the document or the values.
    pub fn prepare(
        document: Value,
        given: BTreeMap<String, Given>,
        strictness: Strictness,
        protocols: &Protocols,
    ) -> Result<(Value, Workflow), Refused> {
        let mut members = mapping(document)?;
        let supply = Supply { given, all_later: false };
        let mut problems = Problems::default();
        let parameters = fill_in::fill_in(&mut members, &supply, &mut problems);
        let scope = Scope::outermost(protocols, strictness);
        let draft = read::members(members.clone(), problems, scope.manner());
        check::workflow(draft, &parameters, &scope).map(|workflow| (Value::Object(members), workflow))
    }

    /// Reads the workflow that a task of protocol `workflow/v1` is to run, from the task's filled parameters.
    ///
    /// # Errors
    /// [`Refused`] with everything that is wrong.
    pub fn nested(params: Value, protocols: &Protocols) -> Result<Workflow, Refused> {
        let Some((document, supply)) = nested::parts(params) else {
            let problem = "the parameters of a nested workflow are not `workflow` and `params`";
            return Err(Refused::whole(Code::InvalidParams, problem, "two mappings"));
        };
        read_in(document, &supply, &Scope { depth: 1, ..Scope::outermost(protocols, Strictness::Warn) })
    }

    /// For each task whether the workflow may complete although it does not: it is not critical, or tasks
    /// wait for it and none of them fails with it.
    #[must_use]
    pub fn tolerated(&self) -> Vec<bool> {
        let (mut awaited, mut fails) = (vec![false; self.tasks.len()], vec![false; self.tasks.len()]);
        for Dependency { on, on_failure } in self.tasks.iter().flat_map(|task| &task.dependencies) {
            awaited[*on] = true;
            fails[*on] |= *on_failure == OnFailure::Fail;
        }
        let is_tolerated =
            |(index, task): (usize, &Task)| !task.critical || (awaited[index] && !fails[index]);
        self.tasks.iter().enumerate().map(is_tolerated).collect()
    }
}

impl<'a> Scope<'a> {
    fn outermost(protocols: &'a Protocols, strictness: Strictness) -> Scope<'a> {
        Scope { protocols, strictness, depth: 0, prefix_bytes: 0 }
    }

    fn manner(&self) -> read::Manner {
        read::Manner { refuses_unknown: self.strictness == Strictness::Refuse, is_nested: self.depth > 0 }
    }
}

/// Reads the members of a document that stands in `scope`.
fn read_in(mut members: Map<String, Value>, supply: &Supply, scope: &Scope<'_>) -> Result<Workflow, Refused> {
    let mut problems = Problems::default();
    let parameters = fill_in::fill_in(&mut members, supply, &mut problems);
    let draft = read::members(members, problems, scope.manner());
    check::workflow(draft, &parameters, scope)
}

#[cfg(test)]
mod tests;
