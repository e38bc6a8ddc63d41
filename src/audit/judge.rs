//! Who is accused, and of what: pure.

use std::fmt;
use std::time::Duration;

use crate::core::clock::Timestamp;
use crate::core::state::TaskState;

/// Why something is lost or stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It waits for a worker, and its queue is empty.
    NotInQueue,
    /// Its worker has died, nobody takes over, and its queue is empty.
    WorkerDied,
    /// Its time has come, and it is not in its queue.
    Overdue,
    /// It was never taken in, and the workflows queue is empty.
    NotTakenIn,
    /// None of its tasks can go on: a write of the store is lost.
    NothingMoves,
    /// Its slot has passed, and the workflows queue is empty.
    NoTick,
}

impl Why {
    /// As programs call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Why::NotInQueue => "not_in_queue",
            Why::WorkerDied => "worker_died",
            Why::Overdue => "overdue",
            Why::NotTakenIn => "not_taken_in",
            Why::NothingMoves => "nothing_moves",
            Why::NoTick => "no_tick",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::NotInQueue => "it waits for a worker, but its queue is empty: its message is lost",
            Why::WorkerDied => "its worker died and nobody takes over: its message is lost",
            Why::Overdue => "its time has come, but its queue is empty: its message is lost",
            Why::NotTakenIn => {
                "no worker has taken it in, but the workflows queue is empty: its message is lost"
            }
            Why::NothingMoves => "no task of it is queued, delayed or running: a write of the store is lost",
            Why::NoTick => "its slot has passed, but the workflows queue is empty: its tick is lost",
        })
    }
}

/// What is known of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) state: TaskState,
    /// Nothing that concerns it is known to have happened since.
    pub(super) since: Timestamp,
    pub(super) due: Option<Timestamp>,
    /// Whether its worker lives, while it runs.
    pub(super) is_held: bool,
    /// How many messages are ready in its queue.
    pub(super) ready: u64,
}

/// Whether that was so long ago. What is to come is not old, however short that is.
pub(super) fn is_old(since: Timestamp, now: Timestamp, older_than: Duration) -> bool {
    since <= now && now.since(since) >= older_than
}

/// The sentence at one look.
pub(super) fn judge(facts: &Facts, now: Timestamp, older_than: Duration) -> Option<Why> {
    if facts.ready > 0 {
        return None;
    }
    let is_old = |since: Timestamp| is_old(since, now, older_than);
    match facts.state {
        TaskState::Accepted | TaskState::Queued => is_old(facts.since).then_some(Why::NotInQueue),
        TaskState::Delayed => {
            let due = facts.due.unwrap_or(facts.since);
            (is_old(due) && is_old(facts.since)).then_some(Why::Overdue)
        }
        TaskState::Running => (!facts.is_held).then_some(Why::WorkerDied),
        // For what it waits, others are accused; or its workflow, if nothing of it moves.
        TaskState::Waiting
        | TaskState::Completed
        | TaskState::Failed
        | TaskState::Cancelled
        | TaskState::Expired
        | TaskState::Skipped => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Duration = Duration::from_secs(60);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn facts(state: TaskState) -> Facts {
        Facts { state, since: at(0), due: None, is_held: false, ready: 0 }
    }

    #[test]
    fn what_waits_for_a_worker_is_accused_when_it_is_old_and_its_queue_is_empty() {
        for state in [TaskState::Accepted, TaskState::Queued] {
            assert_eq!(judge(&facts(state), at(60), OLD), Some(Why::NotInQueue));
            assert_eq!(judge(&facts(state), at(59), OLD), None);
            assert_eq!(judge(&Facts { ready: 1, ..facts(state) }, at(600), OLD), None);
        }
    }

    #[test]
    fn what_is_delayed_is_accused_when_its_time_is_over_by_long() {
        let delayed = Facts { due: Some(at(100)), ..facts(TaskState::Delayed) };
        assert_eq!(judge(&delayed, at(99), Duration::ZERO), None);
        assert_eq!(judge(&delayed, at(159), OLD), None);
        assert_eq!(judge(&delayed, at(160), OLD), Some(Why::Overdue));
        assert_eq!(judge(&Facts { ready: 3, ..delayed }, at(160), OLD), None);
    }

    #[test]
    fn what_runs_is_accused_only_without_a_worker() {
        assert_eq!(judge(&facts(TaskState::Running), at(1), OLD), Some(Why::WorkerDied));
        assert_eq!(judge(&Facts { is_held: true, ..facts(TaskState::Running) }, at(9_999), OLD), None);
        // The message is back in the queue.
        assert_eq!(judge(&Facts { ready: 1, ..facts(TaskState::Running) }, at(1), OLD), None);
    }

    #[test]
    fn nobody_is_accused_for_waiting_or_for_having_ended() {
        for state in TaskState::ALL {
            let is_moving = matches!(
                state,
                TaskState::Accepted | TaskState::Queued | TaskState::Delayed | TaskState::Running
            );
            assert_eq!(judge(&facts(state), at(9_999), OLD).is_some(), is_moving, "{state}");
        }
    }
}
