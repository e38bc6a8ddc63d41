//! What is wrong with a workflow: all of it, each with its place and its code.

use serde_json::{Value, json};
use std::fmt;

use super::locate::Place;
use super::sources::Sources;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::violation::Violation;

/// How many problems are told; what is beyond is only counted.
const PROBLEMS_MAX: usize = 100;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What kind.
    pub code: Code,
    /// Where, what, and what would be right. The path is empty for the whole.
    pub violation: Violation,
    /// Where in the text, once [`Refused::located`] has looked.
    pub place: Option<Place>,
    /// The file of that text, if it is not the outermost one.
    pub file: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { path, problem, allowed } = &self.violation;
        if !path.is_empty() {
            write!(f, "{path}: ")?;
        }
        f.write_str(problem)?;
        if allowed.is_empty() { Ok(()) } else { write!(f, "; allowed: {allowed}") }
    }
}

impl Problem {
    fn to_json(&self) -> Value {
        let Violation { path, problem, allowed } = &self.violation;
        let mut value =
            json!({"path": path, "problem": problem, "allowed": allowed, "name": self.code.name()});
        if let Some(Place { line, column }) = self.place {
            value["line"] = line.into();
            value["column"] = column.into();
        }
        if let Some(file) = &self.file {
            value["file"] = file.as_str().into();
        }
        value
    }
}

/// Why a document is no workflow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// At least one, at most 100.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub beyond: usize,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        if self.beyond > 0 {
            write!(f, "\nand {} more", self.beyond)?;
        }
        Ok(())
    }
}

impl Refused {
    /// Refused for one reason that concerns the whole.
    pub(super) fn whole(code: Code, problem: impl Into<String>, allowed: &str) -> Refused {
        let mut problems = Problems::default();
        problems.add(code, "", problem, allowed);
        problems.into_refused()
    }

    /// The code of all problems, or `WORKFLOW_VALIDATION_FAILED` if they are of several kinds.
    #[must_use]
    pub fn code(&self) -> Code {
        let mut codes = self.problems.iter().map(|problem| problem.code);
        let first = codes.next().unwrap_or(Code::WorkflowValidationFailed);
        if codes.all(|code| code == first) { first } else { Code::WorkflowValidationFailed }
    }

    /// The same with the files, lines and columns of the texts that were read; what is missing there is placed
    /// where the nearest thing around it stands.
    #[must_use]
    pub fn located(mut self, sources: &Sources) -> Refused {
        sources.locate(&mut self.problems);
        self
    }

    /// The same as data: each problem with its path and, if it is located, `line` and `column`, and `file`
    /// where that is another one than the outermost.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let list: Vec<Value> = self.problems.iter().map(Problem::to_json).collect();
        let message = self.to_string().replace('\n', "; ");
        let failure = Failure::new(self.code(), format!("the workflow is not valid: {message}"));
        let failure = failure.with("violations", list);
        if self.beyond > 0 { failure.with("more", self.beyond) } else { failure }
    }
}

/// Collects problems.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<Problem>,
    beyond: usize,
}

impl Problems {
    pub(super) fn add(
        &mut self,
        code: Code,
        path: impl Into<String>,
        problem: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        let violation = Violation { path: path.into(), problem: problem.into(), allowed: allowed.into() };
        self.extend(code, [violation]);
    }

    pub(super) fn extend(&mut self, code: Code, violations: impl IntoIterator<Item = Violation>) {
        for violation in violations {
            if self.is_full() {
                self.beyond += 1;
            } else {
                self.found.push(Problem { code, violation, place: None, file: None });
            }
        }
    }

    /// Takes over what somebody else has found.
    pub(super) fn take(&mut self, refused: Refused) {
        for problem in refused.problems {
            self.extend(problem.code, [problem.violation]);
        }
        self.count_beyond(refused.beyond);
    }

    /// Counts problems that somebody else has found and not kept.
    pub(super) fn count_beyond(&mut self, beyond: usize) {
        self.beyond += beyond;
    }

    /// Whether more would only be counted; then hints are not worth their time.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() >= PROBLEMS_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn into_refused(self) -> Refused {
        Refused { problems: self.found, beyond: self.beyond }
    }
}
