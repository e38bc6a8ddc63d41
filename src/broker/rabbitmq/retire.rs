//! Lanes that are not configured any more: found, and on demand emptied into their protocol's queue and deleted.
//!
//! A lane is unbound first, so that nothing comes to it any more: what we publish there goes to the protocol's queue
//! instead (`fairness`), what others publish or a delay has kept comes through the inbox. Then it is emptied as a queue
//! that is moved (`migrate`), with the same exchange in between and the same wait for what workers hold. The highest
//! goes first, because lanes have no gaps. Doing it again goes on from any point.

use std::time::Duration;

use super::connection::Link;
use super::declare::Part;
use super::lanes::lanes_there;
use super::migrate::{Job, Migrator, bound, through};
use crate::broker::{BrokerError, Finding, Moved};
use crate::topology::plan::{QueueDeclaration, lane_bindings};
use crate::topology::{Address, Queue, Topology, lane};

/// The lanes that are there and not configured, the highest of each protocol first.
pub(super) async fn find(
    link: &Link,
    timeout: Duration,
    topology: &Topology,
) -> Result<Vec<(Address, u16)>, BrokerError> {
    let mut found = Vec::new();
    for address in &topology.protocols {
        let count = topology.lanes.get(address).copied().unwrap_or(0);
        let there = lanes_there(link, timeout, address, count).await?;
        let spare = there.into_iter().rev().filter(|number| *number >= count);
        found.extend(spare.map(|number| (address.clone(), number)));
    }
    Ok(found)
}

/// What an operator should know of one.
pub(super) fn finding((address, number): &(Address, u16)) -> Finding {
    let problem = "is a lane that is not configured any more; workers go on to take what is in it; `gleitzeit topology apply --migrate` removes it";
    Finding { what: format!("queue {}", lane::name(address, *number)), problem: problem.to_owned() }
}

impl Migrator<'_> {
    /// Says how a lane would go.
    pub(super) fn foretell_end(&self, (address, number): &(Address, u16)) -> Moved {
        let (name, base) = (lane::name(address, *number), Queue::Tasks(address.clone()));
        (self.wish.tell)(&format!("{name}: unbind it, move its messages to {base}"));
        (self.wish.tell)(&format!("{name}: wait for its workers, delete it"));
        Moved { queue: name, why: WHY.to_owned(), messages: 0 }
    }

    /// Empties these lanes and deletes them, one after the other.
    pub(super) async fn retire(&self, lanes: &[(Address, u16)]) -> Result<Vec<Moved>, BrokerError> {
        let mut retired = Vec::new();
        for (address, number) in lanes {
            let (name, base) = (lane::name(address, *number), Queue::Tasks(address.clone()).name());
            let Some(queue) = self.plan.queues.iter().find(|queue| queue.name == base) else { continue };
            let stand_in = QueueDeclaration { name: name.clone(), arguments: Vec::new() };
            let job = Job { queue, bindings: Vec::new(), differs: None, stand_in, through: through(&name) };
            let mut declarer = self.declarer();
            declarer.ensure(Part::Exchange(&job.through)).await?;
            declarer.tie(&bound(&job.through.name, &base, "")).await?;
            let unbound = lane_bindings(address, *number);
            let messages = self.empty(&mut declarer, &job, &name, &unbound).await?;
            declarer.delete_exchange(&job.through.name).await?;
            declarer.finish().await;
            (self.wish.tell)(&format!("{name}: {messages} messages moved to {base}, deleted"));
            retired.push(Moved { queue: name, why: WHY.to_owned(), messages });
        }
        Ok(retired)
    }
}

const WHY: &str = "is not configured any more";
