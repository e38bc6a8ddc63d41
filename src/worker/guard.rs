//! How a task runs for longer than the broker lets anybody hold a delivery.
//!
//! A broker takes a delivery back that is held for too long (RabbitMQ's consumer timeout). Long before, a
//! *guard* is published: the same message once more, delayed. Then the delivery is settled and the task goes
//! on. The guard looks after it:
//!
//! ```text
//! guard ──1.6 s──▶ some worker: claim ──▶ held by a live session: wait again
//!    ▲                   │           ├──▶ held by a dead one: take over
//!    └───────────────────┘           └──▶ it has gone on: see below
//! ```
//! So the broker holds a message for every unfinished task at any time, and a kill is noticed as soon as that
//! of any other worker. A look costs two questions to the store and one publish through one delay queue; in
//! the worker that runs the task only the publish. That is less than one message in a second for a task that
//! has run for minutes. A guard overtakes what waits, as a message does that the broker takes back.
//!
//! *It has gone on*: whoever made the guard records the end and publishes what follows from it, so there is
//! nothing to repeat, unless it dies between the two. The guard waits once more until that must have been done
//! or its maker be dead; only then it is dropped, or all is done again.
//!
//! *It is held under a later lease than the guard's*: it may be the very message by which that lease was taken over,
//! and the last one of the task, if its delivery was lost. So it goes only where it is known that the later lease has
//! a message of its own: in the worker that holds it, once a guard of that one stands. Everywhere else it looks
//! again. So long attempts leave no guards behind for long.

use async_trait::async_trait;
use std::fmt;
use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::Notify;

use super::Shared;
use super::execute::settle_by;
use super::patience::Stop;
use super::places::Place;
use super::publish::{again, message_of};
use super::session::{BEAT_TTL, Sign};
use super::turn::away;
use crate::broker::{BrokerError, Delivery, Outgoing, Receipt, Settlement};
use crate::core::id::Id;
use crate::core::priority::Priority;
use crate::store::{Fence, Lease};
use crate::topology::plan::PRIORITY_MAX;
use crate::wire::task::{self, Decoded, Task};

/// Between two looks of a guard. With the session's TTL less than 7 s; and one level of the delay queues.
const LOOK_EVERY: Duration = Duration::from_millis(1_600);
/// The longest wait before a delivery whose task is held by a live session is looked at again.
const HELD_DELAY_MAX: Duration = Duration::from_secs(60);
/// How often it is looked at each second: past the TTL of a session that went silent.
pub(super) const HELD_LOOKS: u32 = 7;
/// How often it is looked at before the waits grow, then every 2 s: for ten minutes. What a lost channel brought
/// again has no guard before its task is a long one, so it must not be late itself.
const HELD_LOOKS_SOON: u32 = 304;

/// Which live lease a message met, and how often: `FENCE:TIMES`.
pub(super) const HEADER_HELD: &str = "gleitzeit-held";
/// Who made this guard, under which lease, and whether it has seen that the task has gone on: `SESSION:FENCE` or
/// `SESSION:FENCE:over`.
pub(super) const HEADER_GUARD: &str = "gleitzeit-guard";
/// How often a suspect has waited in vain for its worker to be free of others.
pub(super) const HEADER_CROWDED: &str = "gleitzeit-crowded";

/// What is held of a delivery while its story goes on.
#[derive(Debug)]
pub(super) struct Hold {
    /// `None` once it is settled.
    receipt: Option<Box<dyn Receipt>>,
    place: Option<Place>,
}

impl Hold {
    /// Takes the receipt out of a delivery, so that it can be settled while the delivery is still read.
    pub(super) fn new(delivery: Delivery, place: Option<Place>) -> (Delivery, Hold) {
        let Delivery { queue, body, properties, redelivered, deaths, receipt } = delivery;
        let delivery =
            Delivery { queue, body, properties, redelivered, deaths, receipt: Box::new(HeldApart) };
        (delivery, Hold { receipt: Some(receipt), place })
    }

    /// Ends the delivery, unless a guard stands for it already.
    pub(super) async fn settle(&mut self, settlement: Settlement) {
        if let Some(receipt) = self.receipt.take() {
            settle_by(receipt, settlement).await;
        }
    }

    /// Nothing more comes the way this delivery came.
    pub(super) async fn close(&self) {
        if let Some(place) = &self.place {
            place.close().await;
        }
    }
}

/// Tells when a task has begun, and under which lease.
#[derive(Debug, Default)]
pub(super) struct Begun {
    lease: OnceLock<Lease>,
    told: Notify,
}

impl Begun {
    /// It has.
    pub(super) fn under(&self, lease: &Lease) {
        // A delivery begins one attempt.
        self.lease.get_or_init(|| lease.clone());
        self.told.notify_one();
    }

    async fn lease(&self) -> &Lease {
        loop {
            if let Some(lease) = self.lease.get() {
                return lease;
            }
            self.told.notified().await;
        }
    }
}

/// In place of a receipt that a [`Hold`] has, or of a message that was never delivered.
#[derive(Debug)]
pub(super) struct HeldApart;

#[async_trait]
impl Receipt for HeldApart {
    async fn settle(self: Box<Self>, _: Settlement) -> Result<(), BrokerError> {
        Err(BrokerError::DeliveryLost)
    }
}

impl Shared {
    /// Brings the story of a delivery to its end. If that takes long once it has `begun`, a guard stands for the
    /// delivery; before, it may still end as a message that waits, and one of them is enough.
    pub(super) async fn guarding(
        &self,
        delivery: &Delivery,
        hold: &mut Hold,
        begun: &Begun,
        story: impl Future<Output = Result<(), Stop>>,
    ) -> Result<(), Stop> {
        tokio::pin!(story);
        tokio::select! {
            biased;
            ended = &mut story => return ended,
            () = tokio::time::sleep(self.settings.guard_after) => {}
        }
        let guard = async {
            let lease = begun.lease().await;
            self.guard(delivery, hold, lease).await;
        };
        tokio::select! {
            biased;
            ended = &mut story => return ended,
            () = guard => {}
        }
        story.await
    }

    /// Publishes a guard, for as long as that takes, and only then settles the delivery.
    async fn guard(&self, delivery: &Delivery, hold: &mut Hold, lease: &Lease) {
        match self.publish(vec![self.guard_of(delivery, lease.fence)]).await {
            Ok(()) => {}
            Err(Stop::Aborted | Stop::Crowded) => return,
            Err(Stop::Broken { message, .. }) => {
                tracing::error!(queue = %delivery.queue, %message, "no guard can be published; the delivery is held on");
                return;
            }
        }
        self.running.guarded(&lease.key, lease.fence);
        hold.close().await;
        hold.settle(Settlement::Done).await;
        tracing::debug!(queue = %delivery.queue, "a guard stands for a long task");
    }

    fn guard_of(&self, delivery: &Delivery, lease: Fence) -> Outgoing {
        let decoded =
            task::decode(&delivery.body, &delivery.properties, &super::execute::protocol_of(&delivery.queue));
        let mut message = match decoded {
            Ok(Decoded::Task(task)) => first_in_line(delivery, *task, LOOK_EVERY),
            Ok(Decoded::Newer { .. }) | Err(_) => again(delivery, Some(LOOK_EVERY)),
        };
        let made = Made { maker: self.session.clone(), lease, is_over: false };
        message.properties.headers.insert(HEADER_GUARD.to_owned(), made.to_string());
        message
    }

    /// Whether this message is a guard of a task that has gone on, and there is nothing to do for it any more.
    pub(super) async fn is_needless(&self, delivery: &Delivery) -> Result<bool, Stop> {
        let Some(made) = Made::of(delivery) else { return Ok(false) };
        // Nothing of this task goes on in this worker: what it has recorded it has also published.
        if made.maker == self.session {
            return Ok(true);
        }
        let sign = self.sign_of(&made.maker).await?;
        if sign == Sign::Dead {
            return Ok(false);
        }
        if !made.is_over || sign == Sign::Doubtful {
            let mut message = again(delivery, Some(2 * BEAT_TTL));
            let over = Made { is_over: true, ..made };
            message.properties.headers.insert(HEADER_GUARD.to_owned(), over.to_string());
            self.publish(vec![message]).await?;
        }
        Ok(true)
    }

    /// Waits with a held task: published again, uncounted, later each time that it meets the same lease. It overtakes
    /// what waits: behind a long queue a death would be noticed when the queue is empty.
    pub(super) async fn publish_held(
        &self,
        delivery: &Delivery,
        task: &Task,
        held: Held,
    ) -> Result<(), Stop> {
        match Made::of(delivery).map(|made| made.fate(held, delivery.redelivered)) {
            Some(Fate::Waits) => return self.publish(vec![again(delivery, Some(LOOK_EVERY))]).await,
            Some(Fate::Goes) => return Ok(()),
            Some(Fate::StandsForAnother) | None => {}
        }
        let fence = held.fence().map_or(0, |Fence(number)| number);
        let seen = header(delivery, HEADER_HELD).and_then(|text| text.split_once(':'));
        let times: u32 = match seen {
            Some((lease, times)) if lease == fence.to_string() => times.parse().unwrap_or(0),
            Some(_) | None => 0,
        };
        let mut message = first_in_line(delivery, task.clone(), held_wait(times));
        let count = format!("{fence}:{}", times.saturating_add(1));
        message.properties.headers.insert(HEADER_HELD.to_owned(), count);
        self.publish(vec![message]).await
    }

    /// Lets a suspect look for a worker that has nothing else to do: published again, uncounted.
    pub(super) async fn publish_crowded(
        &self,
        delivery: &Delivery,
        task: &Task,
        attempt: u32,
    ) -> Result<(), Stop> {
        let times = crowded(delivery);
        let away = away(times, self.settings.guard_after);
        let mut message = message_of(delivery, &Task { attempt, ..task.clone() }, Some(away));
        let count = times.saturating_add(1).to_string();
        message.properties.headers.insert(HEADER_CROWDED.to_owned(), count);
        self.publish(vec![message]).await
    }
}

/// The task's message, before all that waits when the wait is over. The body keeps the task's own priority, for its
/// next attempts.
pub(super) fn first_in_line(delivery: &Delivery, mut task: Task, wait: Duration) -> Outgoing {
    task.spec.priority.get_or_insert(Priority::NORMAL);
    let mut message = message_of(delivery, &task, Some(wait));
    message.properties.priority = Some(PRIORITY_MAX);
    message
}

/// How long a message waits that has met the same lease so many times.
fn held_wait(times: u32) -> Duration {
    if times < HELD_LOOKS {
        return Duration::from_secs(1);
    }
    Duration::from_secs(2 << times.saturating_sub(HELD_LOOKS_SOON).min(5)).min(HELD_DELAY_MAX)
}

/// Whether this is the message of a task on its own as somebody has sent it, and none that a run of it has made.
pub(super) fn is_submission(delivery: &Delivery, task: &Task) -> bool {
    task.workflow.is_none() && task.attempt == 1 && header(delivery, HEADER_GUARD).is_none()
}

/// How often this suspect has waited in vain.
pub(super) fn crowded(delivery: &Delivery) -> u32 {
    header(delivery, HEADER_CROWDED).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether an earlier delivery of this message may have been cut short.
pub(super) fn may_have_been_cut(delivery: &Delivery) -> bool {
    let copies = [HEADER_GUARD, HEADER_HELD, HEADER_CROWDED];
    delivery.redelivered || copies.iter().any(|name| header(delivery, name).is_some())
}

/// What a guard says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Made {
    /// The session that made it.
    maker: Id,
    /// The lease that it stands for.
    lease: Fence,
    /// Whether it has seen that the task has gone on.
    is_over: bool,
}

/// By whom a task is held that a message met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// Not known, or by nobody yet.
    Unknown,
    /// By another worker.
    Elsewhere(Fence),
    /// By this one.
    Here {
        /// Under this lease.
        lease: Fence,
        /// Whether a guard stands for it.
        is_guarded: bool,
    },
}

impl Held {
    fn fence(self) -> Option<Fence> {
        match self {
            Held::Unknown => None,
            Held::Elsewhere(lease) | Held::Here { lease, .. } => Some(lease),
        }
    }
}

/// What becomes of a guard whose task is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It looks again.
    Waits,
    /// What holds the task surely has a message of its own.
    Goes,
    /// It may be the message of what holds the task, and waits as any message of a held task does.
    StandsForAnother,
}

impl Made {
    /// `None` for any message that is no guard.
    fn of(delivery: &Delivery) -> Option<Made> {
        Made::parse(header(delivery, HEADER_GUARD)?)
    }

    fn parse(text: &str) -> Option<Made> {
        let (text, is_over) = match text.strip_suffix(":over") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (maker, fence) = text.rsplit_once(':')?;
        Some(Made { maker: Id::parse(maker).ok()?, lease: Fence(fence.parse().ok()?), is_over })
    }

    /// By what the task is held. Who took over by this very message has a later lease than it says; then it was
    /// delivered before. That is told by a flag, which gets lost when it is published again: so without the flag it
    /// may be such a message too.
    fn fate(&self, held: Held, is_redelivered: bool) -> Fate {
        let is_past = held.fence().is_some_and(|fence| self.lease < fence);
        match held {
            Held::Here { is_guarded: true, .. } if is_past => Fate::Goes,
            Held::Elsewhere(_) | Held::Here { .. } if (is_past || self.is_over) && is_redelivered => {
                Fate::StandsForAnother
            }
            Held::Unknown | Held::Elsewhere(_) | Held::Here { .. } => Fate::Waits,
        }
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fence(number) = self.lease;
        write!(f, "{}:{number}", self.maker)?;
        if self.is_over { f.write_str(":over") } else { Ok(()) }
    }
}

pub(super) fn header<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a str> {
    delivery.properties.headers.get(name).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_says_who_made_it_and_under_which_lease() {
        let maker = Id::parse("0197-a").expect("valid");
        for (text, is_over) in [("0197-a:7", false), ("0197-a:7:over", true)] {
            let made = Made { maker: maker.clone(), lease: Fence(7), is_over };
            assert_eq!((Made::parse(text).as_ref(), made.to_string().as_str()), (Some(&made), text));
        }
        for text in ["0197-a", "0197-a:over", "0197-a:x", ":7"] {
            assert_eq!(Made::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_guard_of_an_earlier_lease_goes_only_where_the_later_one_surely_has_a_message() {
        let fate = |text: &str, held: Held, is_redelivered| {
            Made::parse(text).expect("a guard").fate(held, is_redelivered)
        };
        let elsewhere = |lease| Held::Elsewhere(Fence(lease));
        let here = |lease, is_guarded| Held::Here { lease: Fence(lease), is_guarded };
        for text in ["s:7", "s:7:over"] {
            assert_eq!(fate(text, here(8, true), false), Fate::Goes);
            assert_eq!(fate(text, here(8, true), true), Fate::Goes);
            // It may be the message that the later lease was taken over by, published again.
            assert_eq!(fate(text, here(8, false), false), Fate::Waits);
            assert_eq!(fate(text, elsewhere(8), false), Fate::Waits);
            assert_eq!(fate(text, elsewhere(8), true), Fate::StandsForAnother);
            assert_eq!(fate(text, here(8, false), true), Fate::StandsForAnother);
            // It is not known what holds the task.
            assert_eq!(fate(text, Held::Unknown, false), Fate::Waits);
            assert_eq!(fate(text, Held::Unknown, true), Fate::Waits);
        }
        assert_eq!(fate("s:7", here(7, true), false), Fate::Waits);
        assert_eq!(fate("s:7", elsewhere(7), true), Fate::Waits);
        // The store has lost its last writes.
        assert_eq!(fate("s:7", here(6, true), false), Fate::Waits);
    }

    #[test]
    fn a_held_message_is_looked_at_often_for_ten_minutes() {
        let waits = [0, 6, 7, 304, 305, 308, 309, u32::MAX].map(|times| held_wait(times).as_secs());
        assert_eq!(waits, [1, 1, 2, 2, 4, 32, 60, 60]);
        let minutes = (0..=HELD_LOOKS_SOON).map(held_wait).sum::<Duration>().as_secs() / 60;
        assert_eq!(minutes, 10);
    }
}
