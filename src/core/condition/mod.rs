//! Conditions on results: `when: ${load.count} > 3 and ${check.status} == 'completed'`.
//!
//! ```text
//! text --token--> words and signs --translate--> a checked expression --minijinja--> true or false
//!                 (references numbered)          (every operand guarded)  (r0, r1 ... are the values)
//! ```
//! A reference stands for a value with its type. It becomes a variable of a generated name, so what a task
//! gave is data and never a part of the expression. The language is closed: what is not in the list below is
//! refused when the condition is read, and the environment that it runs in has nothing else in it. There are
//! no loops, and no operation makes a value that is larger than what it was given, so the work is bounded by
//! the length of the condition and by [`VALUES_BYTES_MAX`]; fuel bounds it once more.
//!
//! ```text
//! or, and, not                     of true and false only
//! == != < <= > >=  in, not in      two values at a time; order of numbers or of texts, never of both
//! + - * / // %                     of numbers
//! length(x) lower(x) upper(x)      or x | length
//! true false none, 3, 2.5, 'text', "text", [1, 2], ( )
//! ```

mod compute;
mod token;
mod translate;

use minijinja::value::{Value as Computed, ValueKind};
use minijinja::{Environment, Error};
use serde_json::Value;

/// The longest condition, in bytes.
pub const CONDITION_BYTES_MAX: usize = 2000;

/// About how many bytes of values one condition may look at, each as often as it is referred to.
pub const VALUES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A condition that is well formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// In the library's syntax, with `r0`, `r1` ... for the references.
    expression: String,
    references: Vec<String>,
    /// How often each of them stands in the condition.
    occurrences: Vec<usize>,
}

impl Condition {
    /// Reads a condition.
    ///
    /// # Errors
    /// What is wrong, and at which character.
    pub fn parse(text: &str) -> Result<Condition, String> {
        if text.len() > CONDITION_BYTES_MAX {
            return Err(format!("has {} bytes; allowed are {CONDITION_BYTES_MAX}", text.len()));
        }
        let tokens = token::read(text)?;
        let condition = Condition {
            expression: translate::expression(&tokens)?,
            references: tokens.references,
            occurrences: tokens.occurrences,
        };
        let environment = compute::environment();
        match environment.compile_expression(&condition.expression) {
            Ok(_) => Ok(condition),
            Err(error) => Err(said(&error)),
        }
    }

    /// What stands between the braces of its references, trimmed; each once, in the order of the text.
    #[must_use]
    pub fn references(&self) -> &[String] {
        &self.references
    }

    /// Whether it holds. `value` gives the value of a reference, `None` if it has none.
    ///
    /// # Errors
    /// A reference without a value, a value of a kind that an operation does not take, more values than
    /// [`VALUES_BYTES_MAX`], a number that no computer number can be, or a result that is neither true nor false.
    pub fn holds(&self, value: &dyn Fn(&str) -> Option<Value>) -> Result<bool, String> {
        let mut variables: Vec<(String, Computed)> = Vec::with_capacity(self.references.len());
        let mut bytes_left = VALUES_BYTES_MAX;
        for (index, (reference, times)) in self.references.iter().zip(&self.occurrences).enumerate() {
            let given = value(reference).ok_or_else(|| format!("${{{reference}}} has no value"))?;
            let taken = compute::taken(given, *times, &mut bytes_left)
                .map_err(|problem| format!("${{{reference}}} {problem}"))?;
            variables.push((translate::variable(index), taken));
        }
        let environment = compute::environment();
        let result = self.run(&environment, variables).map_err(|error| said(&error))?;
        if result.kind() != ValueKind::Bool {
            return Err(format!("gives {}, which is neither true nor false", compute::shown(&result)));
        }
        Ok(result.is_true())
    }

    fn run(
        &self,
        environment: &Environment<'_>,
        variables: Vec<(String, Computed)>,
    ) -> Result<Computed, Error> {
        environment.compile_expression_owned(self.expression.clone())?.eval(Computed::from_pairs(variables))
    }
}

/// What the library says, without its own place: that would be in the translation.
fn said(error: &Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests;
