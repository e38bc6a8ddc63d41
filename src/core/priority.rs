//! How urgent a task is: 0 to 9, as the broker orders its queues.
//!
//! There are two worlds of numbers. In workflow files, as they always were: 1 is high, 2 normal, 3 low. In
//! task messages the broker's own: 0 to 9, higher first. Words mean the same everywhere.

use std::fmt;

/// The highest priority of a queue.
const PRIORITY_MAX: u8 = 9;

/// A priority from 0 to 9; a higher one goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    /// `low`
    pub const LOW: Priority = Priority(1);
    /// `normal`
    pub const NORMAL: Priority = Priority(4);
    /// `high`
    pub const HIGH: Priority = Priority(7);
    /// `urgent`
    pub const URGENT: Priority = Priority(9);

    /// The words, for messages that list what is allowed.
    pub const WORDS: &'static str = "low, normal, high or urgent";

    /// From a word, in upper or lower case.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Priority> {
        let known = [
            ("low", Priority::LOW),
            ("normal", Priority::NORMAL),
            ("high", Priority::HIGH),
            ("urgent", Priority::URGENT),
        ];
        known.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, priority)| priority)
    }

    /// From a number in a workflow file: 1 is high, 2 normal, 3 low; no other has a meaning.
    #[must_use]
    pub fn from_file_number(number: i64) -> Option<Priority> {
        match number {
            1 => Some(Priority::HIGH),
            2 => Some(Priority::NORMAL),
            3 => Some(Priority::LOW),
            _ => None,
        }
    }

    /// From a number in a message, clamped to 0 to 9.
    #[must_use]
    pub fn from_message_number(number: i64) -> Priority {
        Priority(u8::try_from(number.clamp(0, i64::from(PRIORITY_MAX))).unwrap_or(PRIORITY_MAX))
    }

    /// The number in messages and in the broker's queues.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Priority {
        Priority::NORMAL
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_both_worlds_of_numbers_are_read() {
        let number = |priority: Option<Priority>| priority.map(Priority::number);
        for (word, expected) in [("low", 1), ("Normal", 4), ("HIGH", 7), ("urgent", 9)] {
            assert_eq!(number(Priority::from_word(word)), Some(expected), "{word}");
        }
        assert_eq!(number(Priority::from_word("bulk")), None);
        for (file, expected) in [(1, Some(7)), (2, Some(4)), (3, Some(1)), (4, None), (0, None), (-1, None)] {
            assert_eq!(number(Priority::from_file_number(file)), expected, "{file}");
        }
        for (message, expected) in [(i64::MIN, 0), (-1, 0), (0, 0), (5, 5), (9, 9), (10, 9), (i64::MAX, 9)] {
            assert_eq!(Priority::from_message_number(message).number(), expected, "{message}");
        }
    }
}
