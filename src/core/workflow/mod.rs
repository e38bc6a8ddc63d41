//! Workflows: tasks that hand results to each other.
//!
//! ```text
//! text --load--> document --read--> drafts --check--> Workflow
//!    (YAML, JSON)  (mapping)   (members)      (names, edges, references, protocols)
//! ```
//! A [`Workflow`] exists only if everything about it is right: ids are unique, dependencies known and without
//! cycles, every reference is to a task that is upstream, every call fits its protocol. Whatever is wrong is
//! said at once, each with its place and its code. What is only odd (an unknown key) is a warning.
//!
//! ```yaml
//! name: Report
//! tasks:
//!   - id: load                        # default task-N, by position
//!     method: python/execute          # `protocol: python/v1` is taken from the method's name
//!     params: {code: "list(range(9))"}      # `parameters` is the same
//!   - id: sum
//!     method: python/execute
//!     params: {code: "sum(context)", context: "${load}"}
//!     dependencies: [load]            # ids or names; `depends_on` is the same
//!     priority: high                  # low, normal, high, urgent; 1 is high, 2 normal, 3 low
//!     timeout: 30                     # seconds
//!     retry: {max_attempts: 3}
//! ```

mod check;
mod load;
mod locate;
mod problem;
mod read;
mod schema;

use serde_json::{Map, Value};
use std::time::Duration;

use super::dag::Dag;
use super::id::Id;
use super::protocol::Protocols;
use super::task::Spec;

pub(crate) use load::too_large;
pub use load::{Format, load};
pub use locate::{Place, places};
pub use problem::{Problem, Refused};
pub use schema::workflow_schema;

/// The largest workflow file or message, in bytes.
pub const WORKFLOW_BYTES_MAX: usize = 12 * 1024 * 1024;

/// Most tasks of a workflow.
pub const TASKS_MAX: usize = 100_000;

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
    /// How long the whole may take.
    pub timeout: Option<Duration>,
    /// How long results are kept after it has ended.
    pub result_ttl: Option<Duration>,
    /// Workflows with the same key are the same workflow.
    pub idempotency_key: Option<String>,
    /// Anything.
    pub metadata: Map<String, Value>,
    /// What its author should know.
    pub warnings: Vec<String>,
}

/// A task of a workflow.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id within the workflow.
    pub id: Id,
    /// What is to be run, and how.
    pub spec: Spec,
    /// From the names that its references use to the positions of the tasks meant, each name once.
    pub inputs: Vec<(String, usize)>,
    /// Keys that this version does not know, untouched.
    pub extra: Map<String, Value>,
}

impl Workflow {
    /// Reads a document, which [`load`] or a message gave.
    ///
    /// # Errors
    /// [`Refused`] with everything that is wrong.
    pub fn read(document: Value, protocols: &Protocols) -> Result<Workflow, Refused> {
        let draft = read::document(document)?;
        check::workflow(draft, protocols)
    }
}

#[cfg(test)]
mod tests;
