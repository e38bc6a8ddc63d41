//! The suite of the broker port.

use libtest_mimic::Trial;

/// Every case with every backend.
pub(crate) fn trials() -> Vec<Trial> {
    Vec::new()
}
