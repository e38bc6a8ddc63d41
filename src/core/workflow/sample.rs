//! What is wrong with a batch, before a disk is looked at: everything at once, and at the place in the template.
//!
//! ```text
//! batch document --fill in, read--> Batch --a file that stands for all--> workflow --check--> problems
//!                                                              tasks[0].params.x --> template.x
//! ```
//! The tasks of a batch are alike, so what is wrong with the one is wrong with all, and is told once.

use serde_json::Value;
use std::collections::{BTreeMap, HashSet};

use super::batch::Batch;
use super::load::mapping;
use super::locate::{Step, steps};
use super::parameters::{Given, Supply};
use super::problem::{Problem, Problems, Refused};
use super::{Scope, Strictness, check, fill_in, read};
use crate::core::protocol::Protocols;

/// Where a mistake leaves nothing that the tasks could be made of.
const DECISIVE: [&str; 4] = ["template", "template.method", "template.protocol", "protocol"];

impl Batch {
    /// Reads a batch document with values for its parameters, and checks it as far as it does not depend on the
    /// files.
    ///
    /// # Errors
    /// [`Refused`] with everything that is wrong, each thing once however many files there may be.
    pub fn prepare(
        document: Value,
        given: BTreeMap<String, Given>,
        strictness: Strictness,
        protocols: &Protocols,
    ) -> Result<Batch, Refused> {
        let mut members = mapping(document)?;
        let mut problems = Problems::default();
        let supply = Supply { given, all_later: false };
        let parameters = fill_in::fill_in(&mut members, &supply, &mut problems);
        let mut own = Problems::default();
        let mut batch = Batch::of(members, &mut own);
        let own = own.into_refused();
        let can_be_made =
            !own.problems.iter().any(|problem| DECISIVE.contains(&problem.violation.path.as_str()));
        problems.take(own);
        if can_be_made {
            let scope = Scope::outermost(protocols, strictness);
            let sample = batch.made_of(&[batch.sample().to_owned()]);
            let draft = read::members(sample, Problems::default(), scope.manner());
            match check::workflow(draft, &parameters, &scope) {
                Ok(workflow) => {
                    let warnings = workflow.warnings.into_iter();
                    batch.warnings =
                        warnings.map(|one| one.moved(|path| batch.path_in_template(path))).collect();
                }
                Err(refused) => problems.take(batch.in_template(refused)),
            }
        }
        if problems.is_empty() { Ok(batch) } else { Err(problems.into_refused()) }
    }

    /// What is wrong with the tasks that were made, told of the template that they were made from; what is wrong
    /// with several in the same way is told once.
    #[must_use]
    pub fn in_template(&self, refused: Refused) -> Refused {
        let mut seen = HashSet::new();
        let mut problems: Vec<Problem> = Vec::new();
        for mut problem in refused.problems {
            problem.violation.path = self.path_in_template(&problem.violation.path);
            let told = (problem.violation.path.clone(), problem.violation.problem.clone());
            if seen.insert(told) {
                problems.push(problem);
            }
        }
        Refused { problems, beyond: refused.beyond }
    }

    fn path_in_template(&self, path: &str) -> String {
        let Some((_, rest)) = path.strip_prefix("tasks[").and_then(|rest| rest.split_once(']')) else {
            return if path == "tasks" { "batch".to_owned() } else { path.to_owned() };
        };
        if rest == ".protocol" && !self.template().contains_key("protocol") {
            return "protocol".to_owned();
        }
        let Some(param) = rest.strip_prefix(".params").filter(|param| is_below(param)) else {
            return format!("template{rest}");
        };
        let name = match steps(param).into_iter().next() {
            Some(Step::Key(name)) => name,
            Some(Step::Item(_)) | None => return "template".to_owned(),
        };
        let inner = |key: &str| self.template().get(key).is_some_and(|inner| inner.get(&name).is_some());
        let is_inner = !self.template().contains_key(&name) && (inner("params") || inner("parameters"));
        format!("template{}{param}", if is_inner { ".params" } else { "" })
    }
}

fn is_below(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(['.', '['])
}
