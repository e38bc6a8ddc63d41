//! Lanes that are not configured any more: found, and on demand emptied into their protocol's queue and deleted.
//!
//! A lane is unbound first, so that nothing comes to it any more: what we publish there goes to the protocol's queue
//! instead (`fairness`), what others publish or a delay has kept comes through the inbox. Then it is emptied as a queue
//! that is moved (`migrate`), with the same exchange in between and the same wait for what workers hold. The highest
//! goes first, because lanes have no gaps. Doing it again goes on from any point.

use super::declare::{Declarer, Part};
use super::lanes::lanes_there;
use super::migrate::{Job, Migrator, bound, through};
use crate::broker::{BrokerError, Finding, Moved};
use crate::topology::plan::{QueueDeclaration, lane_bindings};
use crate::topology::{Address, Queue, Topology, lane};

/// What is left of lanes that are not configured any more.
#[derive(Debug, Default)]
pub(super) struct Spare {
    /// Those that are there, the highest of each protocol first.
    pub(super) lanes: Vec<(Address, u16)>,
    /// What an interrupted end of a lane has left: the lane is gone, its exchange is not.
    exchanges: Vec<String>,
}

/// Looks for it.
pub(super) async fn find(declarer: &mut Declarer<'_>, topology: &Topology) -> Result<Spare, BrokerError> {
    let mut found = Spare::default();
    for address in &topology.protocols {
        let count = topology.lanes.get(address).copied().unwrap_or(0);
        let there = lanes_there(declarer, address, count).await?;
        let spare: Vec<u16> = there.into_iter().filter(|number| *number >= count).rev().collect();
        // The highest goes first: only the lane above those that are left can have been interrupted.
        let ended = spare.first().map_or(count, |highest| highest + 1);
        let exchange = through(&lane::name(address, ended));
        if declarer.exists(Part::Exchange(&exchange)).await? {
            found.exchanges.push(exchange.name);
        }
        found.lanes.extend(spare.into_iter().map(|number| (address.clone(), number)));
    }
    Ok(found)
}

impl Spare {
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.exchanges.is_empty()
    }

    /// What an operator should know of it.
    pub(super) fn findings(&self) -> impl Iterator<Item = Finding> {
        let lane = |(address, number): &(Address, u16)| {
            let problem = "is a lane that is not configured any more; workers go on to take what is in it; `gleitzeit topology apply --migrate` removes it";
            Finding { what: format!("queue {}", lane::name(address, *number)), problem: problem.to_owned() }
        };
        let exchange = |name: &String| {
            let problem = "is left of a lane whose removal was interrupted; `gleitzeit topology apply --migrate` removes it";
            Finding { what: format!("exchange {name}"), problem: problem.to_owned() }
        };
        self.lanes.iter().map(lane).chain(self.exchanges.iter().map(exchange))
    }
}

impl Migrator<'_> {
    /// Says how what is spare would go.
    pub(super) fn foretell_end(&self) -> Vec<Moved> {
        for exchange in &self.spare.exchanges {
            (self.wish.tell)(&format!("exchange {exchange}: delete it"));
        }
        let lane = |(address, number): &(Address, u16)| {
            let (name, base) = (lane::name(address, *number), Queue::Tasks(address.clone()));
            (self.wish.tell)(&format!("{name}: unbind it, move its messages to {base}"));
            (self.wish.tell)(&format!("{name}: wait for its workers, delete it"));
            Moved { queue: name, why: WHY.to_owned(), messages: 0 }
        };
        self.spare.lanes.iter().map(lane).collect()
    }

    /// Empties the lanes that are spare and deletes them, one after the other, and what is left of others.
    pub(super) async fn retire(&self) -> Result<Vec<Moved>, BrokerError> {
        let mut retired = Vec::new();
        let mut declarer = self.declarer();
        for exchange in &self.spare.exchanges {
            declarer.delete_exchange(exchange).await?;
            (self.wish.tell)(&format!("exchange {exchange}: deleted"));
        }
        declarer.finish().await;
        for (address, number) in &self.spare.lanes {
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
