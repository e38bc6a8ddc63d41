//! Which letters are meant.

use super::letter::Letter;
use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::id::Id;

/// Everything that is said must hold; an empty one means every letter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// What it died of.
    pub code: Option<Code>,
    /// It died at this time or before.
    pub died_until: Option<Timestamp>,
    /// It died at this time or after.
    pub died_from: Option<Timestamp>,
    /// The workflow that it belongs to, or is.
    pub workflow: Option<Id>,
    /// Any of these: an id, `WORKFLOW/TASK`, or a letter's own name.
    pub ids: Vec<String>,
}

impl Filter {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }

    /// Whether `letter` is meant.
    #[must_use]
    pub fn takes(&self, letter: &Letter) -> bool {
        let envelope = letter.envelope.as_ref();
        let code = envelope.map(|envelope| envelope.failure.code);
        let died_at = letter.died_at();
        self.code.is_none_or(|wanted| code == Some(wanted))
            && self.died_until.is_none_or(|until| died_at <= until)
            && self.died_from.is_none_or(|from| died_at >= from)
            && self.workflow.as_ref().is_none_or(|wanted| letter.root() == Some(wanted))
            && (self.ids.is_empty() || self.ids.iter().any(|wanted| is_called(letter, wanted)))
    }
}

/// Whether a letter goes by this id or name.
#[must_use]
pub fn is_called(letter: &Letter, wanted: &str) -> bool {
    letter.name == wanted || letter.key().is_some_and(|key| key.to_string() == wanted)
}
