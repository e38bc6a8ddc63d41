//! What runs in this worker now: so that a cancel, an abort or a question reaches it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

use super::guard::Held;
use crate::core::id::{Id, TaskKey};
use crate::store::Fence;

/// The tasks that are being dealt with here, with or without a lease of this worker's session.
#[derive(Debug, Default)]
pub(super) struct Running {
    tasks: Mutex<HashMap<TaskKey, Present>>,
}

#[derive(Debug)]
struct Present {
    cancel: CancellationToken,
    /// The lease that it runs under, once there is one.
    lease: Option<Fence>,
    /// Whether a guard stands for it: the task has a message beside the delivery.
    is_guarded: bool,
    /// Somebody wanted to look at its lease before there was one.
    is_doubted: bool,
}

impl Running {
    /// Enters a task before its lease is asked for; it leaves when the guard is dropped. `None` if another
    /// delivery of the same task is being dealt with here: so a lease of this session for a task that was not
    /// entered can only be one whose answer was lost.
    pub(super) fn enter(&self, key: &TaskKey, cancel: CancellationToken) -> Option<Entered<'_>> {
        match self.lock().entry(key.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                vacant.insert(Present { cancel, lease: None, is_guarded: false, is_doubted: false });
                Some(Entered { running: self, key: key.clone() })
            }
        }
    }

    /// The tasks under `root` (under any, if `None`) whose leases may be void, with what stops them. One that
    /// has no lease yet is remembered: see [`Entered::took_lease`].
    pub(super) fn doubt(&self, root: Option<&Id>) -> Vec<(TaskKey, CancellationToken)> {
        let mut doubted = Vec::new();
        for (key, present) in self.lock().iter_mut() {
            if root.is_some_and(|root| key.root != *root) {
                continue;
            }
            if present.lease.is_some() {
                doubted.push((key.clone(), present.cancel.clone()));
            } else {
                present.is_doubted = true;
            }
        }
        doubted
    }

    /// The lease that a task runs under here, if it does.
    pub(super) fn held(&self, key: &TaskKey) -> Held {
        let tasks = self.lock();
        match tasks.get(key) {
            Some(Present { lease: Some(lease), is_guarded, .. }) => {
                Held::Here { lease: *lease, is_guarded: *is_guarded }
            }
            Some(Present { lease: None, .. }) | None => Held::Unknown,
        }
    }

    /// Notes that a guard stands for this lease.
    pub(super) fn guarded(&self, key: &TaskKey, lease: Fence) {
        if let Some(present) = self.lock().get_mut(key)
            && present.lease == Some(lease)
        {
            present.is_guarded = true;
        }
    }

    /// The keys of the running tasks, sorted.
    pub(super) fn keys(&self) -> Vec<TaskKey> {
        let mut keys: Vec<TaskKey> = self.lock().keys().cloned().collect();
        keys.sort();
        keys
    }

    /// How many run.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TaskKey, Present>> {
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

impl Entered<'_> {
    /// The task.
    pub(super) fn key(&self) -> &TaskKey {
        &self.key
    }

    /// Notes that the lease is there. Whether it was in doubt while it was asked for: it may be void already.
    pub(super) fn took_lease(&self, lease: Fence) -> bool {
        let mut tasks = self.running.lock();
        let Some(present) = tasks.get_mut(&self.key) else { return false };
        present.lease = Some(lease);
        present.is_doubted
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}
