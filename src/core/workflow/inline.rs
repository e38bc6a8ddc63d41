//! Files in the place of their paths: `workflow: report.yaml`.

use serde_json::Value;
use std::collections::{BTreeMap, HashSet};

use super::load::load;
use super::parameters::Given;
use super::problem::{Problems, Refused};
use super::sources::Sources;
use super::{Format, NESTED_MAX, Strictness, WORKFLOW_BYTES_MAX, Workflow};
use crate::core::code::Code;
use crate::core::protocol::Protocols;
use crate::core::task::WORKFLOW;

/// A document with files in it. A path stays where its file could not be put in.
#[derive(Debug)]
pub struct Inlined {
    document: Value,
    problems: Problems,
}

impl Inlined {
    /// As [`Workflow::prepare`].
    ///
    /// # Errors
    /// [`Refused`] with what is wrong with the files and everything that is wrong with the document or the values.
    pub fn prepare(
        self,
        given: BTreeMap<String, Given>,
        strictness: Strictness,
        protocols: &Protocols,
    ) -> Result<(Value, Workflow), Refused> {
        let prepared = Workflow::prepare(self.document, given, strictness, protocols);
        if self.problems.is_empty() {
            return prepared;
        }
        let files = self.problems.into_refused();
        let mut problems = Problems::default();
        // A path that stands there still is wrong for what has been told of its file.
        let told: HashSet<String> =
            files.problems.iter().map(|problem| problem.violation.path.clone()).collect();
        problems.take(files);
        if let Err(mut others) = prepared {
            others.problems.retain(|problem| !told.contains(&problem.violation.path));
            problems.take(others);
        }
        Err(problems.into_refused())
    }

    /// The document and what is wrong with the files, for what comes after.
    #[cfg(test)]
    pub(super) fn parts(self) -> (Value, Refused) {
        (self.document, self.problems.into_refused())
    }
}

/// Puts the documents of files in the place of their paths, at any depth, and their texts into `sources`. `read`
/// gives the text of a file, or says which one it cannot read and why.
/// What is wrong is told by [`Inlined::prepare`], together with all the rest: every file that cannot be read or is no
/// workflow, that includes itself, or is nested too deep; and if all files together are larger than one workflow
/// may be.
pub fn inline(
    mut document: Value,
    sources: &mut Sources,
    read: &dyn Fn(&str) -> Result<String, String>,
) -> Inlined {
    let mut inlining = Inlining {
        read,
        sources,
        open: Vec::new(),
        bytes_left: WORKFLOW_BYTES_MAX,
        problems: Problems::default(),
    };
    inlining.document(&mut document, "");
    let problems = inlining.problems;
    Inlined { document, problems }
}

struct Inlining<'r> {
    read: &'r dyn Fn(&str) -> Result<String, String>,
    sources: &'r mut Sources,
    /// The files that the place now looked at stands in, outermost first.
    open: Vec<String>,
    bytes_left: usize,
    problems: Problems,
}

impl Inlining<'_> {
    fn document(&mut self, document: &mut Value, at: &str) {
        let Some(Value::Array(tasks)) = document.get_mut("tasks") else { return };
        for (index, task) in tasks.iter_mut().enumerate() {
            let Some(nested) = task.get_mut(WORKFLOW) else { continue };
            let at = format!("{at}tasks[{index}].{WORKFLOW}");
            match nested {
                Value::String(path) => {
                    if let Some(mut loaded) = self.load(path, &at) {
                        self.open.push(path.clone());
                        self.document(&mut loaded, &format!("{at}."));
                        self.open.pop();
                        *nested = loaded;
                    }
                }
                nested => self.document(nested, &format!("{at}.")),
            }
        }
    }

    fn load(&mut self, path: &str, at: &str) -> Option<Value> {
        if self.open.iter().any(|open| open == path) {
            let circle = format!("{} -> {path}", self.open.join(" -> "));
            self.refuse(Code::WorkflowCircularDependency, at, format!("includes itself: {circle}"));
            return None;
        }
        if self.open.len() == NESTED_MAX {
            let problem = format!("is nested more than {NESTED_MAX} times");
            self.refuse(Code::WorkflowTooLarge, at, problem);
            return None;
        }
        let Some(format) = Format::of_file(path) else {
            let problem = format!("{path}: a workflow file ends in .yaml, .yml or .json");
            self.refuse(Code::WorkflowValidationFailed, at, problem);
            return None;
        };
        let text = match (self.read)(path) {
            Ok(text) => text,
            Err(reason) => {
                self.refuse(Code::FileUnreadable, at, reason);
                return None;
            }
        };
        let Some(bytes_left) = self.bytes_left.checked_sub(text.len()) else {
            let problem = format!("{path}: all files together have more than {WORKFLOW_BYTES_MAX} bytes");
            self.refuse(Code::WorkflowTooLarge, at, problem);
            return None;
        };
        self.bytes_left = bytes_left;
        match load(&text, format) {
            Ok(document) => {
                self.sources.add(at, path, text, format);
                Some(document)
            }
            Err(refused) => {
                for problem in refused.problems {
                    self.refuse(problem.code, at, format!("{path}: {}", problem.violation.problem));
                }
                None
            }
        }
    }

    fn refuse(&mut self, code: Code, at: &str, problem: String) {
        self.problems.add(code, at, problem, "the path of a workflow file, from where gleitzeit runs");
    }
}
