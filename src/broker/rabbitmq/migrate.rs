//! Giving queues other arguments, which the server allows only by deleting them.
//!
//! ```text
//!            bind the stand-in, unbind Q     Q empty: delete, declare, bind     unbind, move back, delete
//!  exchange ──▶ Q              ──▶ stand-in ◀─ move ─ Q             ──▶ Q', stand-in          ──▶ Q' ◀─ move ─
//! ```
//!
//! At every moment something is bound, so nothing is unroutable; in two short ones both are, and a message is
//! there twice. A moved message travels through a fanout exchange of the stand-in's name, because its routing
//! key must stay: it holds the delay, and tells the inbox what a message was. That exchange is declared first
//! and deleted last, and so says that a migration is unfinished; doing it again goes on from any point.
//!
//! What workers hold cannot be seen over AMQP, and a deleted queue forgets it. The mover takes everything that
//! is ready (`mover`), so workers get nothing new; after the `settle` time they have ended what they held, or a
//! guard stands for it. A worker may bind Q again when it starts; it is unbound as often as Q is looked at.
//!
//! A message that is moved between delay queues waits anew in its level, so it is late by less than its delay
//! was, and never early. Where the message says when it is due (`not_before`), exactly the rest is waited for.

use futures_util::future::try_join_all;
use lapin::message::Delivery;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use super::connection::Link;
use super::declare::{Declarer, Part, PartState};
use super::failure::within;
use super::message::{Frame, moved};
use super::mover::Intake;
use super::publisher::Publisher;
use super::retire::Spare;
use crate::broker::{BrokerError, DELAY_MAX, Finding, Migration, Moved, STAND_IN};
use crate::core::clock::Timestamp;
use crate::topology::plan::{Binding, Exchange, ExchangeKind, INBOX, Plan, QueueDeclaration, route_to};
use crate::topology::{Address, Queue, delay, lane};

/// An exclusive queue: whoever has it is the only one that migrates. Also what permissions are tried on.
const LOCK: &str = "gleitzeit.migrating.lock";
/// What expired just before we came, a quorum queue still has until the next queue has confirmed it, and does not
/// count: at least so long a queue must have given nothing.
const HANDED_ON: Duration = Duration::from_secs(2);
/// The server's reply code for an exclusive queue of somebody else.
const RESOURCE_LOCKED: u16 = 405;

/// One migration.
#[derive(Debug)]
pub(super) struct Migrator<'a> {
    pub(super) asking: &'a Link,
    pub(super) consuming: &'a Link,
    pub(super) publisher: &'a Publisher,
    pub(super) timeout: Duration,
    pub(super) plan: &'a Plan,
    pub(super) spare: &'a Spare,
    pub(super) wish: &'a Migration,
}

/// A queue that is to be moved.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) queue: &'a QueueDeclaration,
    pub(super) bindings: Vec<&'a Binding>,
    /// `None`: the queue is as declared, or missing, and only its stand-in is left.
    pub(super) differs: Option<String>,
    pub(super) stand_in: QueueDeclaration,
    pub(super) through: Exchange,
}

impl Migrator<'_> {
    /// Moves every queue that differs, several at once, because most of it is waiting; then these lanes go.
    pub(super) async fn run(&self) -> Result<Vec<Moved>, BrokerError> {
        let jobs = self.jobs().await?;
        if self.wish.dry_run {
            let moved = jobs.iter().map(|job| self.foretell(job));
            return Ok(moved.chain(self.foretell_end()).collect());
        }
        if jobs.is_empty() && self.spare.is_empty() {
            return Ok(Vec::new());
        }
        let lock = self.lock().await?;
        self.try_permissions(&lock.channel, &jobs).await?;
        let mut moved = try_join_all(jobs.iter().map(|job| self.migrate(job))).await;
        if let Ok(all) = &mut moved {
            match self.retire().await {
                Ok(retired) => all.extend(retired),
                Err(error) => moved = Err(error),
            }
        }
        let closed = within(self.timeout, lock.channel.queue_delete(LOCK.into(), Default::default())).await;
        tracing::trace!(?closed, "migration's lock released");
        moved
    }

    async fn jobs(&self) -> Result<Vec<Job<'_>>, BrokerError> {
        let mut declarer = self.declarer();
        let mut jobs = Vec::new();
        for queue in &self.plan.queues {
            let through = through(&queue.name);
            let differs = match declarer.state(Part::Queue(queue)).await? {
                PartState::Differs(why) => Some(why),
                PartState::Missing | PartState::AsDeclared => None,
            };
            let left_over = declarer.exists(Part::Exchange(&through)).await?;
            if differs.is_none() && !left_over {
                continue;
            }
            let is_of = |binding: &&Binding| binding.to_queue && binding.destination == queue.name;
            let bindings = self.plan.bindings.iter().filter(is_of).collect();
            let stand_in = QueueDeclaration { name: through.name.clone(), ..queue.clone() };
            jobs.push(Job { queue, bindings, differs, stand_in, through });
        }
        declarer.finish().await;
        Ok(jobs)
    }

    fn foretell(&self, job: &Job<'_>) -> Moved {
        let (name, stand_in) = (&job.queue.name, &job.stand_in.name);
        if job.differs.is_some() {
            (self.wish.tell)(&format!("{name}: declare {stand_in}, bind it, unbind {name}"));
            (self.wish.tell)(&format!(
                "{name}: move its messages to {stand_in}, wait for its workers, delete it"
            ));
        }
        (self.wish.tell)(&format!("{name}: declare it, bind it, move the messages back, delete {stand_in}"));
        Moved { queue: name.clone(), why: job.why(), messages: 0 }
    }

    async fn lock(&self) -> Result<Lock, BrokerError> {
        let (connection, channel) = self.asking.channel().await?;
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
        let asked = channel.queue_declare(LOCK.into(), options, arguments);
        match within(self.timeout, asked).await {
            Ok(_) => Ok(Lock { channel, _connection: connection }),
            Err(failure) if failure.reply_code() == Some(RESOURCE_LOCKED) => Err(BrokerError::Failed {
                what: "migrating".to_owned(),
                reason: "another migration is under way on this virtual host".to_owned(),
            }),
            Err(failure) => Err(failure.of("migrating", HINT)),
        }
    }

    /// Does once, where it harms nothing, whatever the migration will have to do.
    async fn try_permissions(&self, lock: &Channel, jobs: &[Job<'_>]) -> Result<(), BrokerError> {
        let mut declarer = self.declarer();
        let probe = through(LOCK);
        let to_lock = bound(&probe.name, LOCK, "");
        let tried = async {
            declarer.ensure(Part::Exchange(&probe)).await?;
            declarer.tie(&to_lock).await?;
            let frame = Frame { mandatory: true, ..Frame::transient(&probe.name, bytes::Bytes::new()) };
            self.publisher.publish(vec![frame]).await?;
            let got = lock.basic_get(LOCK.into(), BasicGetOptions { no_ack: true });
            within(self.timeout, got).await.map_err(|failure| failure.of("reading a queue", HINT))?;
            // A stand-in says that the queue was unbound on purpose.
            for job in jobs.iter().filter(|job| job.differs.is_some()) {
                if !declarer.exists(Part::Exchange(&job.through)).await? {
                    for binding in &job.bindings {
                        declarer.tie(binding).await?;
                    }
                }
            }
            Ok(())
        };
        let tried = tried.await;
        if let Err(error) = declarer.delete_exchange(&probe.name).await {
            tracing::debug!(%error, "the exchange that permissions were tried on is left");
        }
        declarer.finish().await;
        tried
    }

    async fn migrate(&self, job: &Job<'_>) -> Result<Moved, BrokerError> {
        let mut declarer = self.declarer();
        let name = &job.queue.name;
        let (to_queue, to_stand_in) =
            (bound(&job.through.name, name, ""), bound(&job.through.name, &job.stand_in.name, ""));
        let mut messages = 0;
        declarer.ensure(Part::Exchange(&job.through)).await?;
        declarer.ensure(Part::Queue(&job.stand_in)).await?;
        if job.differs.is_some() {
            for binding in &job.bindings {
                declarer.tie(&bound(&binding.source, &job.stand_in.name, &binding.routing_key)).await?;
            }
            declarer.tie(&to_stand_in).await?;
            declarer.untie(&to_queue).await?;
            (self.wish.tell)(&format!("{name}: new messages wait in {}", job.stand_in.name));
            let unbound: Vec<Binding> = job.bindings.iter().map(|binding| (*binding).clone()).collect();
            messages += self.empty(&mut declarer, job, name, &unbound).await?;
            (self.wish.tell)(&format!("{name}: {messages} messages moved out, deleted"));
        }
        declarer.create(&[Part::Queue(job.queue)], &Plan::default()).await?;
        for binding in &job.bindings {
            declarer.tie(binding).await?;
        }
        declarer.tie(&to_queue).await?;
        let mut unbound = vec![to_stand_in];
        for binding in &job.bindings {
            unbound.push(bound(&binding.source, &job.stand_in.name, &binding.routing_key));
        }
        let back = self.empty(&mut declarer, job, &job.stand_in.name, &unbound).await?;
        declarer.delete_exchange(&job.through.name).await?;
        declarer.finish().await;
        (self.wish.tell)(&format!("{name}: declared, {back} messages moved back"));
        Ok(Moved { queue: name.clone(), why: job.why(), messages: messages + back })
    }

    /// Moves everything out of `from`, through the job's exchange, and deletes it. `unbound` are the bindings
    /// that it must not have.
    pub(super) async fn empty(
        &self,
        declarer: &mut Declarer<'_>,
        job: &Job<'_>,
        from: &str,
        unbound: &[Binding],
    ) -> Result<u64, BrokerError> {
        let (_, mut others) = declarer.depth(from).await?;
        if is_asked(from, self.plan, &self.spare.lanes) {
            others = others.max(1);
        }
        let mut intake = Intake::open(self.consuming, from, self.timeout).await?;
        let (mut moved, mut last) = (0, Instant::now());
        loop {
            for binding in unbound {
                declarer.untie(binding).await?;
            }
            let batch = intake.batch().await?;
            if !batch.is_empty() {
                moved += self.carry(job, &batch).await?;
                intake.acknowledge(&batch).await?;
                last = Instant::now();
                continue;
            }
            let (ready, consumers) = declarer.depth(from).await?;
            if !intake.is_open() || consumers == 0 {
                let (what, reason) = (format!("moving {from}"), "the subscription was lost".to_owned());
                return Err(BrokerError::Unconfirmed { what, reason });
            }
            others = others.max(consumers - 1);
            let settle = if others == 0 { HANDED_ON } else { self.wish.settle.max(HANDED_ON) };
            if ready == 0 && last.elapsed() >= settle {
                break;
            }
        }
        let lost = declarer.delete_queue(from).await?;
        // What came between the last look and the deletion was sent to us before.
        let late = intake.batch().await.unwrap_or_default();
        moved += self.carry(job, &late).await?;
        intake.close(self.timeout).await;
        if lost > u64::try_from(late.len()).unwrap_or(u64::MAX) {
            let reason = format!("{lost} messages came at the moment of deletion and were deleted with it");
            return Err(BrokerError::Failed { what: format!("moving {from}"), reason });
        }
        Ok(moved)
    }

    /// Publishes a batch and waits for its confirms.
    async fn carry(&self, job: &Job<'_>, batch: &[Delivery]) -> Result<u64, BrokerError> {
        let now = self.wish.clock.now();
        let frames = batch.iter().map(|delivery| frame(self.plan, job, delivery, now)).collect();
        self.publisher.publish(frames).await?;
        Ok(batch.len() as u64)
    }

    pub(super) fn declarer(&self) -> Declarer<'_> {
        Declarer::new(self.asking, self.timeout)
    }
}

/// Stand-ins that a migration has left: new messages wait in them and nobody consumes them.
pub(super) async fn unfinished(
    declarer: &mut Declarer<'_>,
    plan: &Plan,
) -> Result<Vec<Finding>, BrokerError> {
    let mut findings = Vec::new();
    for queue in &plan.queues {
        let through = through(&queue.name);
        if declarer.exists(Part::Exchange(&through)).await? {
            let problem = "is being moved, or its migration has not ended; then `gleitzeit topology apply --migrate` ends it";
            findings.push(Finding { what: format!("queue {}", queue.name), problem: problem.to_owned() });
        }
    }
    Ok(findings)
}

/// Whether workers ask this queue for one message at a time: who holds some of it need be no consumer. They do where a
/// protocol has lanes, also such as nobody configures any more.
fn is_asked(name: &str, plan: &Plan, spare: &[(Address, u16)]) -> bool {
    let has_lane = |address: &Address| {
        let first = lane::name(address, 0);
        plan.queues.iter().any(|queue| queue.name == first) || spare.iter().any(|(of, _)| of == address)
    };
    match Queue::from_name(name) {
        Some(Queue::Tasks(address)) => lane::from_name(name).is_some() || has_lane(&address),
        Some(Queue::Workflows | Queue::Dead(_) | Queue::Inbox) | None => false,
    }
}

/// What an operator must do when we may not.
const HINT: &str = "migrating needs configure, write and read permission on ^gleitzeit\\.";

/// The exclusive queue, and the connection that it lives with.
struct Lock {
    channel: Channel,
    _connection: Arc<Connection>,
}

impl Job<'_> {
    fn why(&self) -> String {
        self.differs.clone().unwrap_or_else(|| "an earlier migration has not ended".to_owned())
    }
}

pub(super) fn through(queue: &str) -> Exchange {
    Exchange { name: format!("{queue}{STAND_IN}"), kind: ExchangeKind::Fanout, alternate: None }
}

pub(super) fn bound(source: &str, queue: &str, routing_key: &str) -> Binding {
    let (source, routing_key) = (source.to_owned(), routing_key.to_owned());
    Binding { source, destination: queue.to_owned(), to_queue: true, routing_key }
}

/// What a delayed message says of its time.
#[derive(Deserialize)]
struct Due {
    not_before: Timestamp,
}

/// The message once more, so that it arrives as if it had never moved.
fn frame(plan: &Plan, job: &Job<'_>, delivery: &Delivery, now: Timestamp) -> Frame {
    let is_inbox = job.queue.name == Queue::Inbox.name();
    let mut frame = Frame {
        exchange: job.through.name.as_str().into(),
        routing_key: delivery.routing_key.clone(),
        mandatory: true,
        body: bytes::Bytes::from(delivery.data.clone()),
        properties: moved(&delivery.properties, is_inbox),
    };
    if is_inbox {
        // The exchange and the headers say why it is there.
        let is_known = plan.exchanges.iter().any(|exchange| exchange.name == delivery.exchange.as_str());
        frame.exchange = if is_known { delivery.exchange.clone() } else { INBOX.into() };
    }
    if !job.queue.name.starts_with(delay::PREFIX) {
        return frame;
    }
    let Some(target) = delay::target_name(delivery.routing_key.as_str()) else { return frame };
    let Ok(Due { not_before }) = serde_json::from_slice(&delivery.data) else { return frame };
    let place = match delay::entry_to(not_before.since(now).min(DELAY_MAX), &target) {
        Ok(Some(entry)) => Some((entry.exchange, entry.routing_key)),
        Ok(None) | Err(_) => route_to(&target).map(|(exchange, key)| (exchange.to_owned(), key)),
    };
    if let Some((exchange, routing_key)) = place {
        frame.exchange = exchange.as_str().into();
        frame.routing_key = routing_key.as_str().into();
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_are_lanes_who_holds_a_message_need_be_no_consumer() {
        let queue =
            |name: &str| QueueDeclaration { name: format!("gleitzeit.tasks.{name}"), arguments: Vec::new() };
        let queues = ["a.v1", "b.v1", "b.v1.lane.0", "c.v1"].map(queue).into();
        let plan = Plan { queues, ..Plan::default() };
        let spare = [(Address::parse("c.v1").expect("valid"), 3)];
        for (name, expected) in
            [("a.v1", false), ("b.v1", true), ("b.v1.lane.0", true), ("c.v1", true), ("c.v1.lane.3", true)]
        {
            assert_eq!(is_asked(&format!("gleitzeit.tasks.{name}"), &plan, &spare), expected, "{name}");
        }
        assert!(!is_asked("gleitzeit.workflows", &plan, &spare));
    }
}
