//! Conditions: as a file has them, and what they come to.

use crate::graph::Policy;

/// A condition of a task. Tasks are meant by their place in the list.
#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    Plain(bool),
    /// Cannot be decided: a number is neither true nor false.
    Wrong,
    /// The same of another task's answer, or of the null that stands for it.
    WrongAnswer(usize),
    /// Whether the other completed, or did not.
    Completed(usize, bool),
    /// Whether the other's answer is this; null is not.
    Answers(usize, u64),
    /// Whether the other's answer is at least this; with null it cannot be decided.
    AnswersAtLeast(usize, u64),
    /// Of each item: whether its place is at least this.
    From(usize),
    /// Of each item: cannot be decided.
    WrongItem,
}

/// What a condition comes to, where it can be decided.
pub(crate) type Decision = Option<bool>;

impl When {
    /// A condition on these dependencies; `singles` are those with one answer.
    pub(crate) fn draw(
        rng: &mut fastrand::Rng,
        edges: &[(usize, Policy)],
        singles: &[usize],
        has_items: bool,
    ) -> When {
        if has_items && rng.bool() {
            return if rng.u32(0..6) == 0 { When::WrongItem } else { When::From(rng.usize(0..4)) };
        }
        let kind = rng.u32(0..12);
        if kind < 8 && !singles.is_empty() {
            let on = singles[rng.usize(0..singles.len())];
            let number = rng.u64(0..9);
            return match kind {
                0 => When::WrongAnswer(on),
                1..=3 => When::Answers(on, number),
                _ => When::AnswersAtLeast(on, number),
            };
        }
        if kind < 10 && !edges.is_empty() {
            return When::Completed(edges[rng.usize(0..edges.len())].0, rng.bool());
        }
        if kind == 10 { When::Wrong } else { When::Plain(rng.bool()) }
    }

    pub(crate) fn text(&self) -> String {
        match self {
            When::Plain(true) => "2 > 1 and not 1 in [2, 3]".to_owned(),
            When::Plain(false) => "2 < 1 or 'a' == 1".to_owned(),
            When::Wrong => "length(7) > 0".to_owned(),
            When::WrongAnswer(on) => format!("${{t{on}.response}} and true"),
            When::Completed(on, true) => format!("${{t{on}.status}} == 'completed'"),
            When::Completed(on, false) => format!("${{t{on}.status}} != 'completed'"),
            When::Answers(on, number) => format!("${{t{on}.response}} == {number}"),
            When::AnswersAtLeast(on, number) => format!("${{t{on}.response}} >= {number}"),
            When::From(place) => format!("${{index}} >= {place} and ${{item}} == ${{index}}"),
            When::WrongItem => "${item} or true".to_owned(),
        }
    }

    /// Before the list is read. `completed` and `answer` tell of the task at a place.
    pub(crate) fn holds(
        &self,
        completed: impl Fn(usize) -> bool,
        answer: impl Fn(usize) -> Option<u64>,
    ) -> Decision {
        match *self {
            When::Plain(value) => Some(value),
            When::Wrong | When::WrongAnswer(_) => None,
            When::Completed(on, wanted) => Some(completed(on) == wanted),
            When::Answers(on, number) => Some(answer(on) == Some(number)),
            When::AnswersAtLeast(on, number) => answer(on).map(|answer| answer >= number),
            When::From(_) | When::WrongItem => Some(true),
        }
    }

    /// Of the item at this place, once the list has been read.
    pub(crate) fn holds_for(&self, item: usize) -> Decision {
        match *self {
            When::From(place) => Some(item >= place),
            When::WrongItem => None,
            When::Plain(_)
            | When::Wrong
            | When::WrongAnswer(_)
            | When::Completed(..)
            | When::Answers(..)
            | When::AnswersAtLeast(..) => Some(true),
        }
    }
}
