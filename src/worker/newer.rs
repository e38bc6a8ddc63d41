//! What only a newer worker understands: it is published again, for a worker that may know more.
//!
//! While workers of two versions run side by side, what the newer ones write comes to the older ones too. Such a
//! message waits a minute in the broker, uncounted and as it is, again and again, and finds a worker that knows it by
//! chance. After a day there is none. One about a schedule has slots that depend on it: its waits begin with the
//! shortest, and grow with the time that it has waited in all.

use std::time::Duration;

use super::Shared;
use super::execute::protocol_of;
use super::guard::header;
use super::patience::Stop;
use super::publish::{About, Past, again};
use crate::broker::Delivery;
use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::topology::Queue;
use crate::wire::inbox;
use crate::wire::record::Head;
use crate::wire::task::Refused;

/// How long it waits for a newer worker, each time.
const NEWER_DELAY: Duration = Duration::from_secs(60);
/// How long a message about a schedule waits at first, each time; later an eighth of what it has waited in all.
const UNREAD_DELAY_MIN: Duration = Duration::from_millis(100);
/// How long it may wait in all.
const NEWER_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// When it was first seen.
const HEADER_NEWER: &str = "gleitzeit-newer-since";

impl Shared {
    /// A message that only a newer worker understands waits for one.
    pub(super) async fn park_newer(&self, delivery: &Delivery, v: u64, id: Option<Id>) -> Result<(), Stop> {
        if self.wait_for_newer(delivery, |_| NEWER_DELAY).await? {
            return Ok(());
        }
        let text = format!("the message is of version {v}, which no worker understood for 24 hours");
        let failure = Failure::new(Code::ProtocolVersionMismatch, text);
        match (&delivery.queue, id) {
            (Queue::Workflows, id) => self.refuse_workflow(delivery, refused_workflow(id, failure)).await,
            (_, id) => self.refuse(delivery, refused_task(delivery, id, failure)).await,
        }
    }

    /// A message about a schedule whose recorded definition cannot be read here waits too: a newer worker has
    /// recorded it, or one that has its time zone. The schedule stands still meanwhile and stays as it is.
    pub(super) async fn park_unread(
        &self,
        delivery: &Delivery,
        schedule: &Id,
        unread: &Failure,
    ) -> Result<(), Stop> {
        if newer_since(delivery).is_none() {
            tracing::warn!(
                %schedule, failure = %unread,
                "this worker cannot read the schedule; its message waits for one that can, a day at most"
            );
        }
        if self.wait_for_newer(delivery, unread_delay).await? {
            return Ok(());
        }
        tracing::error!(%schedule, failure = %unread, "no worker could read the schedule for 24 hours; it stops here");
        let text = format!("no worker could read the schedule for 24 hours: {}", unread.message);
        let failure = Failure { message: text, ..unread.clone() };
        self.bury(delivery, About::default(), &failure, Past::default()).await
    }

    /// Publishes the message again, to come after a delay that depends on its age; `false` once it has waited for a
    /// day.
    async fn wait_for_newer(
        &self,
        delivery: &Delivery,
        delay: impl FnOnce(Duration) -> Duration,
    ) -> Result<bool, Stop> {
        let now = self.parts.clock.now();
        let since = newer_since(delivery).unwrap_or(now);
        let age = now.since(since);
        if age >= NEWER_AGE_MAX {
            return Ok(false);
        }
        let mut message = again(delivery, Some(delay(age)));
        message.properties.headers.insert(HEADER_NEWER.to_owned(), since.to_string());
        self.publish(vec![message]).await?;
        Ok(true)
    }
}

/// Since when the message waits for a newer worker; `None` if it does not.
pub(super) fn newer_since(delivery: &Delivery) -> Option<Timestamp> {
    header(delivery, HEADER_NEWER)?.parse().ok()
}

/// With half of the workers able to read it, it costs tenths of a second; with one of ten, seconds.
fn unread_delay(age: Duration) -> Duration {
    (age / 8).clamp(UNREAD_DELAY_MIN, NEWER_DELAY)
}

fn refused_task(delivery: &Delivery, id: Option<Id>, failure: Failure) -> Refused {
    let head = id.map(|id| Head {
        name: id.to_string(),
        key: TaskKey::alone(id),
        protocol: protocol_of(&delivery.queue).to_string(),
        method: String::new(),
    });
    Refused { head, reply: None, failure }
}

fn refused_workflow(id: Option<Id>, failure: Failure) -> inbox::Refused {
    let name = id.as_ref().map(Id::to_string).unwrap_or_default();
    inbox::Refused { id, name, reply: None, failure }
}
