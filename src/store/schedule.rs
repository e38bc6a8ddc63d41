//! Schedules: the part of the port that fires what is to run again and again.
//!
//! # Law, continued
//! 14. A schedule has a generation, which only rises: an `arrange` with one that is not newer changes nothing, and
//!     answers what stands there. One that was removed keeps its generation for a week, so that a late repeat does
//!     not bring it back.
//! 15. An active schedule has one armed slot. `begin` gives it to one asker at a time, until that one's time is
//!     over; `fire` moves it on, once: a slot that is not the armed one, or of another generation, changes nothing.
//! 16. `arrange` of a running schedule keeps its counts and its last run; only a removal forgets them.

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use std::fmt;
use std::time::Duration;

use super::{Accepted, Message, SENT_BYTES_MAX, StoreError};
use crate::core::clock::Timestamp;
use crate::core::id::{Id, TaskKey};
use crate::core::priority::Priority;
use crate::core::workflow::UNNAMED;
use crate::topology::Address;
use crate::wire::record::Head;
use crate::wire::schedule::{Definition, Run, Work};

/// Most schedules that [`Schedules::schedules`] answers at once.
pub const SCHEDULES_MAX: usize = 10_000;

/// How long a removed schedule is known as one: a week.
pub(super) const REMOVED_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// The state of schedules.
#[async_trait]
pub trait Schedules: fmt::Debug + Send + Sync {
    /// Records a schedule, or what became of it, unless its generation is not newer. Answers what stands there.
    async fn arrange(&self, arrangement: &Arrangement, now: Timestamp) -> Result<Schedule, StoreError>;

    /// Asks to fire the armed slot: nobody else shall, until `until`.
    async fn begin(&self, turn: &Turn, until: Timestamp, now: Timestamp) -> Result<Begun, StoreError>;

    /// Records what was fired and arms the next slot. `false`: the slot is not the armed one, nothing changed.
    async fn fire(&self, firing: &Firing, now: Timestamp) -> Result<bool, StoreError>;

    /// What is known of a schedule, also of one removed in the last week.
    async fn schedule(&self, name: &Id) -> Result<Option<Schedule>, StoreError>;

    /// The schedules whose names follow `after`, by name (in the order of bytes), removed ones left out; at most
    /// `limit`, and at most [`SCHEDULES_MAX`].
    async fn schedules(&self, after: Option<&Id>, limit: usize) -> Result<Vec<Schedule>, StoreError>;
}

/// What a schedule is to be from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrangement {
    /// Its name.
    pub name: Id,
    /// From 1.
    pub generation: u32,
    /// Whether it fires.
    pub state: ScheduleState,
    /// What it is (`wire::schedule`); empty if it is removed.
    pub definition: Bytes,
    /// The slot that fires next; `None` if it does not fire.
    pub armed: Option<Timestamp>,
}

/// Whether a schedule fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleState {
    /// It does.
    Active,
    /// Not until it is resumed.
    Paused,
    /// There is none any more.
    Removed,
}

impl ScheduleState {
    /// Every state.
    pub const ALL: [ScheduleState; 3] =
        [ScheduleState::Active, ScheduleState::Paused, ScheduleState::Removed];

    /// The name in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ScheduleState::Active => "active",
            ScheduleState::Paused => "paused",
            ScheduleState::Removed => "removed",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<ScheduleState> {
        ScheduleState::ALL.into_iter().find(|state| state.name() == text)
    }
}

/// Who asks to fire what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The schedule.
    pub name: Id,
    /// Its generation, as the asker knows it.
    pub generation: u32,
    /// The slot that the asker takes for the armed one.
    pub slot: Timestamp,
    /// Names the asker.
    pub by: Id,
}

/// Whether it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It may.
    Yours(Schedule),
    /// Another one is at it.
    Held,
    /// It is not the armed slot of an active schedule of this generation; what is there instead.
    Other(Option<Schedule>),
}

/// What became of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// The schedule.
    pub name: Id,
    /// Its generation.
    pub generation: u32,
    /// The armed slot.
    pub slot: Timestamp,
    /// The slot that fires next; `None` if there is none any more.
    pub next: Option<Timestamp>,
    /// The last slot that was fired, and the id of its run; `None` if none was.
    pub last: Option<(Timestamp, Id)>,
    /// How many were fired.
    pub fired: u64,
    /// How many were missed.
    pub missed: u64,
    /// How many were left out because the run before had not ended.
    pub overlapped: u64,
}

/// A schedule as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Its name.
    pub name: Id,
    /// How often it was changed, from 1.
    pub generation: u32,
    /// Whether it fires.
    pub state: ScheduleState,
    /// What it is; empty if it is removed.
    pub definition: Bytes,
    /// The slot that fires next.
    pub armed: Option<Timestamp>,
    /// The last slot that was fired, and the id of its run.
    pub last: Option<(Timestamp, Id)>,
    /// How many slots were fired.
    pub fired: u64,
    /// How many were missed.
    pub missed: u64,
    /// How many were left out because the run before had not ended.
    pub overlapped: u64,
    /// When it was first recorded.
    pub created_at: Timestamp,
    /// When its present generation was recorded.
    pub changed_at: Timestamp,
}

impl Accepted {
    /// What is noted of a scheduled run once the broker has confirmed it: with its message, if that is small.
    #[must_use]
    pub fn of_run(definition: &Definition, id: &Id, run: &Run) -> Accepted {
        match &definition.work {
            Work::Task(task) => {
                let head = Head {
                    key: TaskKey::alone(id.clone()),
                    name: task.spec.name.clone().unwrap_or_else(|| id.to_string()),
                    protocol: task.spec.protocol.to_string(),
                    method: task.spec.method.clone(),
                };
                let address = Address::parse(&task.spec.protocol.routing()).ok();
                let address = address.filter(|_| run.body.len() <= SENT_BYTES_MAX);
                let priority = run.priority.unwrap_or(Priority::NORMAL.number());
                let message = |address| Message { address, priority, body: run.body.clone() };
                Accepted::Task { head, digest: None, due: None, sent: address.map(message) }
            }
            Work::Workflow(document) => {
                let name = document.get("name").and_then(Value::as_str).unwrap_or(UNNAMED);
                Accepted::Workflow { id: id.clone(), name: name.to_owned(), digest: None, due: None }
            }
        }
    }
}
