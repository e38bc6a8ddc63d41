//! What is wrong with some input, and where. Checks report every violation, not only the first.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many violations one check reports; what is beyond is only counted.
pub const VIOLATIONS_MAX: usize = 100;

/// Longest name of a key that is printed in a path, in characters.
const KEY_SHOWN_MAX: usize = 80;

/// One thing that is wrong: where, what was found, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Where, from the root that was checked: `params.messages[0].role`.
    pub path: String,
    /// What was found there, such as `found string "x"` or `is missing`.
    pub problem: String,
    /// What would be right, such as `integer` or `0 to 2`.
    pub allowed: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; allowed: {}", self.path, self.problem, self.allowed)
    }
}

/// Something that is odd, and where. As text it is one sentence with the path in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    before: &'static str,
    /// Where, from the root that was looked at: `tasks[0].retry.delay`.
    pub path: String,
    after: String,
}

impl Warning {
    /// Of what stands at `path`; `after` follows it in the sentence, with its own space or colon.
    #[must_use]
    pub fn at(path: impl Into<String>, after: impl Into<String>) -> Warning {
        Warning { before: "", path: path.into(), after: after.into() }
    }

    /// Of a key that nobody knows.
    #[must_use]
    pub fn unknown_key(path: impl Into<String>, hint: impl Into<String>) -> Warning {
        Warning { before: "unknown key ", path: path.into(), after: hint.into() }
    }

    /// The same of another path.
    #[must_use]
    pub fn moved(self, to: impl FnOnce(&str) -> String) -> Warning {
        Warning { path: to(&self.path), ..self }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.before, self.path, self.after)
    }
}

/// Collects violations up to [`VIOLATIONS_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Violations {
    found: Vec<Violation>,
    beyond: usize,
}

impl Violations {
    pub(crate) fn add(&mut self, path: &Path<'_>, problem: impl Into<String>, allowed: impl Into<String>) {
        if self.found.len() == VIOLATIONS_MAX {
            self.beyond += 1;
            return;
        }
        self.found.push(Violation {
            path: path.to_string(),
            problem: problem.into(),
            allowed: allowed.into(),
        });
    }

    /// All that were found; if there were too many, a last one says how many are not shown.
    pub(crate) fn into_vec(mut self) -> Vec<Violation> {
        if self.beyond > 0 {
            let path = self.found.last().map(|last| last.path.clone()).unwrap_or_default();
            self.found.push(Violation {
                path,
                problem: format!("{} more violations are not shown", self.beyond),
                allowed: "none".to_owned(),
            });
        }
        self.found
    }
}

/// A place inside a value. It borrows, so that walking a large value costs nothing until something is wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Path<'a> {
    Root(&'a str),
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    pub(crate) fn key(&'a self, name: &'a str) -> Path<'a> {
        Path::Key(self, name)
    }

    pub(crate) fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root(name) => f.write_str(name),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Key(parent, name) if is_plain(name) => write!(f, "{parent}.{name}"),
            Path::Key(parent, name) => {
                let shown: String = name.chars().take(KEY_SHOWN_MAX).collect();
                write!(f, "{parent}[{shown:?}]")
            }
        }
    }
}

/// Whether a key can stand in a path as it is. Anything else is quoted, so that `a.b` is not taken for two keys.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= KEY_SHOWN_MAX
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_like_code() {
        let root = Path::Root("params");
        let messages = root.key("messages");
        let first = messages.index(0);
        assert_eq!(first.key("role").to_string(), "params.messages[0].role");
        assert_eq!(root.key("a.b").to_string(), "params[\"a.b\"]");
        assert_eq!(root.key("").to_string(), "params[\"\"]");
        assert!(root.key(&"k".repeat(1000)).to_string().len() < 100);
    }

    #[test]
    fn too_many_violations_are_counted_instead_of_kept() {
        let mut violations = Violations::default();
        for _ in 0..VIOLATIONS_MAX + 7 {
            violations.add(&Path::Root("params"), "is wrong", "right");
        }
        let found = violations.into_vec();
        assert_eq!(found.len(), VIOLATIONS_MAX + 1);
        assert!(found[VIOLATIONS_MAX].problem.starts_with("7 more"));
    }
}
