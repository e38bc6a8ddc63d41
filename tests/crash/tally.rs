//! The calls that a sequence makes, and the one at which a process dies.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::gate::{Fate, Moment};

/// A call of a port: whose, its name, its number among those of that name, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    who: &'static str,
    name: &'static str,
    nth: u32,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {}'s {} no. {}", self.who, self.name, self.nth)
    }
}

impl Call {
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }
}

/// Where a process dies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) call: Call,
    pub(crate) moment: Moment,
}

/// Counts the calls of all processes of one play.
#[derive(Debug)]
pub(crate) struct Tally {
    fault: Option<Fault>,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    calls: Vec<Call>,
    begun: BTreeMap<(&'static str, &'static str), u32>,
    done: BTreeMap<(&'static str, &'static str), u32>,
    fell: bool,
}

impl Tally {
    pub(crate) fn new(fault: Option<Fault>) -> Arc<Tally> {
        Arc::new(Tally { fault, book: Mutex::default() })
    }

    /// The calls so far, in order.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.book().calls.clone()
    }

    /// Whether the process has died that was to.
    pub(crate) fn fell(&self) -> bool {
        self.book().fell
    }

    /// How many calls of this name somebody has lived to see answered.
    pub(crate) fn done(&self, who: &'static str, name: &'static str) -> u32 {
        self.book().done.get(&(who, name)).copied().unwrap_or(0)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panics with it")
    }
}

/// The calls of one process.
#[derive(Debug)]
pub(crate) struct Calls {
    pub(crate) who: &'static str,
    pub(crate) tally: Arc<Tally>,
}

impl Fate for Calls {
    fn begins(&self, name: &'static str) -> u32 {
        let mut book = self.tally.book();
        let nth = book.begun.entry((self.who, name)).or_default();
        *nth += 1;
        let call = Call { who: self.who, name, nth: *nth };
        // How many beats there are is a question of the machine's time.
        if name != "Store::beat" || call.nth <= 2 {
            book.calls.push(call);
        }
        call.nth
    }

    fn falls(&self, name: &'static str, nth: u32, moment: Moment) -> bool {
        let mut book = self.tally.book();
        let call = Call { who: self.who, name, nth };
        if self.tally.fault.is_some_and(|fault| fault.call == call && fault.moment == moment) {
            book.fell = true;
            return true;
        }
        if moment == Moment::After {
            *book.done.entry((self.who, name)).or_default() += 1;
        }
        false
    }
}
