//! Adding up: what was accepted, and where it is now.
//!
//! ```text
//! accepted = ended + open                                                roots: workflows, tasks on their own
//! open tasks = ready + not ready + delayed + running + without a worker + waiting
//! ```
//! Each root and each open task is counted once, by what the store says of it, so both lines add up; only ready and
//! not ready are told apart by the broker: as many of a protocol's queued tasks are ready as there are messages
//! ready in its queue. A queued task that is not ready is with a worker that has not begun it (unacknowledged), on
//! its way, or lost. What the broker holds stands beside that: it holds other messages too.

use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::Depths;
use crate::broker::Transit;
use crate::core::state::TaskState;
use crate::topology::Queue;

/// What was accepted, as far as its record is kept, and where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balance {
    /// Roots that have ended, by their state.
    pub ended: BTreeMap<&'static str, u64>,
    /// Open workflows that a worker has taken in.
    pub workflows: u64,
    /// Those that none has taken in.
    pub workflows_accepted: u64,
    /// Open tasks on their own.
    pub tasks_alone: u64,
    /// Open tasks, on their own and of workflows.
    pub tasks: Places,
    /// What the broker holds.
    pub messages: Messages,
    /// Schedules that fire: each has a tick, delayed or in the workflows queue.
    pub schedules: u64,
}

/// Where open tasks are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Queued, and their messages are ready.
    pub ready: u64,
    /// Queued, and not ready: unacknowledged, on the way, or lost.
    pub not_ready: u64,
    /// Until their time, or another attempt.
    pub delayed: u64,
    /// Under a lease whose session lives.
    pub running: u64,
    /// Under a lease whose session is dead: they are taken over within seconds.
    pub without_worker: u64,
    /// For what they depend on, for their children, or for their turn.
    pub waiting: u64,
}

/// What the broker holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Messages {
    /// In the queues of tasks and workflows.
    pub ready: u64,
    /// Delivered and not settled; `None` if the broker tells nobody.
    pub unacknowledged: Option<u64>,
    /// By the delay queue that they are in; embedded by the queue that they come to; `None` if that may not be seen.
    pub delayed: Option<BTreeMap<String, u64>>,
    /// In the dead queues.
    pub dead: u64,
    /// In the dead inbox.
    pub inbox: u64,
}

impl Balance {
    /// Counts an open task. `is_held`: its session lives.
    pub(super) fn count(&mut self, state: TaskState, is_held: bool) {
        let place = match state {
            // Told apart in the end.
            TaskState::Accepted | TaskState::Queued => &mut self.tasks.not_ready,
            TaskState::Delayed => &mut self.tasks.delayed,
            TaskState::Running if is_held => &mut self.tasks.running,
            TaskState::Running => &mut self.tasks.without_worker,
            TaskState::Waiting => &mut self.tasks.waiting,
            TaskState::Completed
            | TaskState::Failed
            | TaskState::Cancelled
            | TaskState::Expired
            | TaskState::Skipped => return,
        };
        *place += 1;
    }

    /// Of so many queued tasks of a protocol, those are ready whose messages are.
    pub(super) fn split(&mut self, queued: u64, ready: u64) {
        let seen = queued.min(ready).min(self.tasks.not_ready);
        self.tasks.not_ready -= seen;
        self.tasks.ready += seen;
    }

    /// Every root whose record is kept.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.ended_in_all() + self.open()
    }

    /// Roots that have ended.
    #[must_use]
    pub fn ended_in_all(&self) -> u64 {
        self.ended.values().sum()
    }

    /// Roots that have not.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.workflows + self.workflows_accepted + self.tasks_alone
    }

    /// What a program wants to know of it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Places { ready, not_ready, delayed, running, without_worker, waiting } = self.tasks;
        json!({
            "accepted": self.accepted(),
            "ended": {"total": self.ended_in_all(), "by_status": self.ended},
            "open": {
                "total": self.open(),
                "workflows": self.workflows,
                "workflows_not_taken_in": self.workflows_accepted,
                "tasks": self.tasks_alone,
            },
            "open_tasks": {
                "total": self.tasks.in_all(),
                "ready": ready,
                "not_ready": not_ready,
                "delayed": delayed,
                "running": running,
                "without_worker": without_worker,
                "waiting": waiting,
            },
            "messages": self.messages.to_json(),
            "schedules": self.schedules,
        })
    }

    /// The same for people, a line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let Places { ready, not_ready, delayed, running, without_worker, waiting } = self.tasks;
        let ended: Vec<String> = self.ended.iter().map(|(state, count)| format!("{count} {state}")).collect();
        let ended = if ended.is_empty() { String::new() } else { format!(" ({})", ended.join(", ")) };
        let held = match self.messages.unacknowledged {
            Some(held) => format!("{held} unacknowledged, "),
            None => String::new(),
        };
        vec![
            format!(
                "accepted {} = ended {}{ended} + open {} ({} workflows, {} not taken in, {} tasks)",
                self.accepted(),
                self.ended_in_all(),
                self.open(),
                self.workflows,
                self.workflows_accepted,
                self.tasks_alone,
            ),
            format!(
                "open tasks {} = ready {ready} + not ready {not_ready} + delayed {delayed} + running {running} + \
                 without a worker {without_worker} + waiting {waiting}",
                self.tasks.in_all(),
            ),
            format!(
                "messages: {} ready, {held}{} delayed, {} in the dead inbox, {} dead letters; {} schedules",
                self.messages.ready,
                self.messages.delayed_in_all().map_or_else(|| "unknown".to_owned(), |all| all.to_string()),
                self.messages.inbox,
                self.messages.dead,
                self.schedules,
            ),
        ]
    }
}

impl Places {
    /// All of them.
    #[must_use]
    pub fn in_all(&self) -> u64 {
        let Places { ready, not_ready, delayed, running, without_worker, waiting } = self;
        ready + not_ready + delayed + running + without_worker + waiting
    }
}

impl Messages {
    /// By the depths of the queues and what they do not show.
    pub(super) fn of(depths: &Depths, transit: Transit) -> Messages {
        let Transit { delayed, unacknowledged } = transit;
        let mut messages = Messages { unacknowledged, delayed, ..Messages::default() };
        for (queue, depth) in depths {
            let ready = depth.map_or(0, |depth| depth.ready);
            match queue {
                Queue::Tasks(_) | Queue::Workflows => messages.ready += ready,
                Queue::Dead(_) => messages.dead += ready,
                Queue::Inbox => messages.inbox += ready,
            }
        }
        messages
    }

    /// Wherever they wait for their time; `None` if that is not known.
    #[must_use]
    pub fn delayed_in_all(&self) -> Option<u64> {
        self.delayed.as_ref().map(|delayed| delayed.values().sum())
    }

    fn to_json(&self) -> Value {
        let queues = self.delayed.as_ref().map(|delayed| -> BTreeMap<&String, &u64> {
            delayed.iter().filter(|(_, waiting)| **waiting > 0).collect()
        });
        json!({
            "ready": self.ready,
            "unacknowledged": self.unacknowledged,
            "delayed": {"total": self.delayed_in_all(), "queues": queues},
            "dead_inbox": self.inbox,
            "dead": self.dead,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_counted_is_unknown_and_not_none() {
        let mut balance = Balance::default();
        let transit = |delayed| Transit { delayed, unacknowledged: None };
        balance.messages = Messages::of(&Depths::default(), transit(None));
        assert_eq!(balance.to_json()["messages"]["delayed"], json!({"total": null, "queues": null}));
        assert!(balance.lines()[2].contains(" unknown delayed,"), "{:?}", balance.lines());
        balance.messages = Messages::of(&Depths::default(), transit(Some(BTreeMap::new())));
        assert_eq!(balance.to_json()["messages"]["delayed"], json!({"total": 0, "queues": {}}));
        assert!(balance.lines()[2].contains(" 0 delayed,"), "{:?}", balance.lines());
    }

    #[test]
    fn each_open_task_is_at_one_place() {
        let mut balance = Balance::default();
        for state in TaskState::ALL {
            balance.count(state, true);
            balance.count(state, false);
        }
        let open = TaskState::ALL.iter().filter(|state| !state.is_ended()).count() as u64;
        assert_eq!(balance.tasks.in_all(), 2 * open);
        assert_eq!((balance.tasks.running, balance.tasks.without_worker), (1, 1));
        // Other producers' tasks are ready too: more messages than tasks that are known.
        for (queued, ready, expected) in [(4, 1, (1, 3)), (3, 9, (4, 0)), (5, 5, (4, 0))] {
            balance.split(queued, ready);
            assert_eq!((balance.tasks.ready, balance.tasks.not_ready), expected);
            assert_eq!(balance.tasks.in_all(), 2 * open);
        }
    }

    #[test]
    fn what_was_accepted_has_ended_or_is_open() {
        let ended = BTreeMap::from([("completed", 5), ("failed", 1)]);
        let balance =
            Balance { ended, workflows: 2, workflows_accepted: 1, tasks_alone: 3, ..Balance::default() };
        assert_eq!((balance.accepted(), balance.ended_in_all(), balance.open()), (12, 6, 6));
        let line =
            "accepted 12 = ended 6 (5 completed, 1 failed) + open 6 (2 workflows, 1 not taken in, 3 tasks)";
        assert_eq!(balance.lines()[0], line);
    }
}
