//! Reconciling what the store knows with what the broker holds, and sending again what is lost.
//!
//! By the law the broker holds a message for everything that has not ended. What breaks that is done from
//! outside: a queue is purged or deleted, a failover of Redis lacks the last writes, a disk is restored. Nobody
//! can ask a broker whether it holds a certain message. But nobody needs to know: a second message for the same
//! task is harmless, because `claim` answers what the task is at. So an audit accuses where a message should have
//! been seen and was not, and repairing is publishing the message once more, confirmed. It changes no state, may
//! be killed anywhere, may run beside workers and beside another repair.
//!
//! *Evidence* (`judge`): a task that waits for a worker must be in its queue. It is accused if nothing of it has
//! changed for a while, its queue is empty, and both are still so at a second look, later than anything takes
//! that is on its way. Where the queue is not empty the task is counted and not accused: its message is probably
//! among those. When the queue is worked off and the task is still there, the next audit names it.
//!
//! ```text
//! depths ─▶ every open root, page by page ─▶ suspects ─▶ (pause) ─▶ depths, suspects again ─▶ findings ─▶ repair
//! ```
//! *Adding up* (`balance`): the first look counts every root and every open task once, ended ones too, and says where
//! they are. What moves meanwhile may be counted where it was or where it is; in peace the sums are exact.
//!
//! *Bounded*: pages of 500 roots, at most [`FINDINGS_MAX`] suspects; what is beyond is counted, and named by
//! the next audit. One workflow's record is held at a time, and eight bytes of each root, so that none counts twice.
//!
//! *What it does not cover* is told with each report ([`NOT_COVERED`]).

mod balance;
mod judge;
mod look;
mod repair;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::{Broker, Depth};
use crate::core::clock::{Clock, Timestamp};
use crate::core::id::Id;
use crate::error::Error;
use crate::store::Store;
use crate::topology::Queue;

pub use balance::{Balance, Messages, Places};
pub use judge::Why;
pub use look::Subject;
pub use repair::repair;

/// How many roots are looked at in one step.
const PAGE: usize = 500;
/// How many suspects are held at most.
pub const FINDINGS_MAX: usize = 10_000;
/// Between the two looks: longer than a message is on its way, or held by a worker that has not begun it.
const PAUSE: Duration = Duration::from_secs(6);
/// The same where a worker has died: its tasks are taken over within 7 s.
const PAUSE_AFTER_DEATH: Duration = Duration::from_secs(16);

/// What no audit can find or bring back.
pub const NOT_COVERED: [&str; 7] = [
    "what ended longer ago than its record is kept (seven times its result's time to live, at least a week) does not count as accepted",
    "which messages are unacknowledged: RabbitMQ tells nobody over AMQP; a queued task that is not ready is with a worker, on its way, or lost",
    "tasks of other producers that no worker has claimed: nothing but their message knows them",
    "bringing back tasks on their own whose message is larger than 16 KiB, or came from another producer",
    "bringing back workflows that no worker has taken in: their document is in their message only",
    "commands (cancel, retry), timeouts of workflows, changes of schedules, dead letters and replies that were purged",
    "single messages lost from a queue that is not empty: they are named once it is",
];

/// What an audit works on.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Messages.
    pub broker: Arc<dyn Broker>,
    /// State.
    pub store: Arc<dyn Store>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The queues to look at.
    pub queues: Vec<Queue>,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// How long nothing of it must have changed.
    pub older_than: Duration,
    /// Only this workflow or task on its own.
    pub root: Option<Id>,
}

/// How deep each queue is; `None` for one that does not exist.
pub type Depths = BTreeMap<Queue, Option<Depth>>;

/// Something that is lost or stuck.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What.
    pub subject: Subject,
    /// Its state by name.
    pub state: &'static str,
    /// Nothing of it has changed since then.
    pub since: Timestamp,
    /// Why it is accused.
    pub why: Why,
    /// Whether it was sent again.
    pub is_repaired: bool,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How many open tasks there are, by protocol and state; workflows that are not taken in are of protocol
    /// `workflows`.
    pub counts: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// What was accepted and where it is, at the first look.
    pub balance: Balance,
    /// At the end of the audit.
    pub depths: Depths,
    /// What is lost or stuck.
    pub findings: Vec<Finding>,
    /// Whether there were more suspects than are held.
    pub has_more: bool,
}

/// Looks twice. Changes nothing.
///
/// # Errors
/// What the broker or the store says.
pub async fn audit(parts: &Parts, asked: &Asked) -> Result<Report, Error> {
    let mut report = Report { depths: look::depths(parts).await?, ..Report::default() };
    report.balance.messages = Messages::of(&report.depths, parts.broker.transit().await?);
    let suspects = look::suspects(parts, asked, &mut report).await?;
    if suspects.is_empty() {
        return Ok(report);
    }
    let has_death = suspects.iter().any(|suspect| suspect.why == Why::WorkerDied);
    tokio::time::sleep(if has_death { PAUSE_AFTER_DEATH } else { PAUSE }).await;
    // A message that is there was ready before or after the records are read, unless it was on its way both times.
    let before = look::depths(parts).await?;
    let still = look::still(parts, suspects).await?;
    report.depths = look::depths(parts).await?;
    report.findings = look::convicted(parts, asked, [&before, &report.depths], still).await?;
    Ok(report)
}

impl Finding {
    /// What a program wants to know of it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "id": self.subject.to_string(),
            "kind": self.subject.kind(),
            "status": self.state,
            "since": self.since,
            "why": self.why.name(),
            "message": self.why.to_string(),
            "repaired": self.is_repaired,
        })
    }
}
