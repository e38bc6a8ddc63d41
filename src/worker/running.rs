//! What runs in this worker now: so that a cancel, an abort or a question reaches it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

use crate::core::id::{Id, TaskKey};

/// The tasks that hold a lease of this worker's session.
#[derive(Debug, Default)]
pub(super) struct Running {
    tasks: Mutex<HashMap<TaskKey, CancellationToken>>,
}

impl Running {
    /// Enters a task before its lease is asked for; it leaves when the guard is dropped. `None` if another
    /// delivery of the same task is being dealt with here: so a lease of this session for a task that was not
    /// entered can only be one whose answer was lost.
    pub(super) fn enter(&self, key: &TaskKey, cancel: CancellationToken) -> Option<Entered<'_>> {
        match self.lock().entry(key.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                vacant.insert(cancel);
                Some(Entered { running: self, key: key.clone() })
            }
        }
    }

    /// Cancels every task under `root`; tells how many.
    pub(super) fn cancel(&self, root: &Id) -> usize {
        let tasks = self.lock();
        let hit = tasks.iter().filter(|(key, _)| key.root == *root);
        hit.map(|(_, cancel)| cancel.cancel()).count()
    }

    /// The keys of the running tasks, sorted.
    pub(super) fn keys(&self) -> Vec<TaskKey> {
        let mut keys: Vec<TaskKey> = self.lock().keys().cloned().collect();
        keys.sort();
        keys
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TaskKey, CancellationToken>> {
        // A panic while the map was held cannot have left it half changed: each use is one call.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Running::enter`].
#[derive(Debug)]
pub(super) struct Entered<'a> {
    running: &'a Running,
    key: TaskKey,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}
