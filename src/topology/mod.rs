//! Names: from protocols to exchanges, queues and routing keys.
//!
//! ```text
//! producers ──▶ gleitzeit.tasks  ─┐ (alternate exchange: the dead inbox)
//!     we    ──▶ gleitzeit.submit ─┴─ python.v1 ──▶ gleitzeit.tasks.python.v1 ──▶ workers
//!     we    ──▶ gleitzeit.delay.* ── 28 bits + target ──▶ gleitzeit.delay.due ──▶ gleitzeit.tasks.python.v1
//!     we    ──▶ gleitzeit.workflows ─▶ gleitzeit.workflows (workflows and commands)
//!     we    ──▶ gleitzeit.dead ──────▶ gleitzeit.dead.python.v1
//!  broker   ──▶ gleitzeit.inbox ─────▶ gleitzeit.dead.inbox (what it ends or cannot route by itself)
//! ```
//!
//! This module knows names only; `plan` holds what is declared, `delay` which delay queue a wait takes, `lane` the
//! further queues of a protocol whose producers are to be treated fairly.

pub mod delay;
pub mod lane;
pub mod plan;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The longest address, in bytes; far below AMQP's 255 for routing keys, which also carry 28 delay bits.
pub const ADDRESS_BYTES_MAX: usize = 96;

/// A protocol's name in routing keys and queue names: `python.v1` for `python/v1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(Arc<str>);

/// A text that is not an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address such as python.v1")]
pub struct InvalidAddress(String);

impl Address {
    /// Checks that `text` is `name.version` of lower-case letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// [`InvalidAddress`] if it is not: untrusted text never becomes a queue name unchecked.
    pub fn parse(text: &str) -> Result<Address, InvalidAddress> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        let part = |part: &str| !part.is_empty() && part.bytes().all(allowed);
        match text.split_once('.') {
            Some((name, version)) if part(name) && part(version) && text.len() <= ADDRESS_BYTES_MAX => {
                Ok(Address(text.into()))
            }
            _ => Err(InvalidAddress(text.chars().take(ADDRESS_BYTES_MAX).collect())),
        }
    }

    /// The address as text, which is the routing key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A queue of ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Queue {
    /// Tasks of one protocol: `gleitzeit.tasks.python.v1`, together with its lanes where it has some.
    Tasks(Address),
    /// Workflows and commands: `gleitzeit.workflows`.
    Workflows,
    /// Dead letters of one protocol: `gleitzeit.dead.python.v1`.
    Dead(Address),
    /// What the broker ended or could not route by itself: `gleitzeit.dead.inbox`.
    Inbox,
}

impl Queue {
    /// The queue's name on the broker.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Queue::Tasks(address) => format!("gleitzeit.tasks.{address}"),
            Queue::Workflows => "gleitzeit.workflows".to_owned(),
            Queue::Dead(address) => format!("gleitzeit.dead.{address}"),
            Queue::Inbox => "gleitzeit.dead.inbox".to_owned(),
        }
    }

    /// The queue that has `name`, if it is one of ours; a lane is part of its protocol's.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Queue> {
        if name == "gleitzeit.workflows" {
            return Some(Queue::Workflows);
        }
        if name == "gleitzeit.dead.inbox" {
            return Some(Queue::Inbox);
        }
        if let Some(rest) = name.strip_prefix("gleitzeit.tasks.") {
            let address = Address::parse(rest).ok().or_else(|| Some(lane::from_route(rest)?.0));
            return address.map(Queue::Tasks);
        }
        let rest = name.strip_prefix("gleitzeit.dead.")?;
        Address::parse(rest).ok().map(Queue::Dead)
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// What a broker must carry: one task queue and one dead queue per protocol, and the shared parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    /// The protocols, in order, without repeats.
    pub protocols: Vec<Address>,
    /// How many lanes those have that have some.
    pub lanes: BTreeMap<Address, u16>,
}

impl Topology {
    /// The topology of these protocols.
    #[must_use]
    pub fn new(protocols: impl IntoIterator<Item = Address>) -> Topology {
        let mut protocols: Vec<Address> = protocols.into_iter().collect();
        protocols.sort();
        protocols.dedup();
        Topology { protocols, lanes: BTreeMap::new() }
    }

    /// The same with lanes.
    #[must_use]
    pub fn with_lanes(self, fairness: &lane::Fairness) -> Topology {
        let lanes = fairness.iter().map(|(address, lanes)| (address.clone(), lanes.count)).collect();
        Topology { lanes, ..self }
    }

    /// The names of the queues on the broker that a queue of the topology is made of: its own, then its lanes.
    #[must_use]
    pub fn names(&self, queue: &Queue) -> Vec<String> {
        let mut names = vec![queue.name()];
        if let Queue::Tasks(address) = queue {
            let count = self.lanes.get(address).copied().unwrap_or(0);
            names.extend((0..count).map(|number| lane::name(address, number)));
        }
        names
    }

    /// Every queue of the topology but the delay queues.
    #[must_use]
    pub fn queues(&self) -> Vec<Queue> {
        let mut queues = vec![Queue::Workflows, Queue::Inbox, Queue::Dead(unrouted())];
        for protocol in &self.protocols {
            queues.push(Queue::Tasks(protocol.clone()));
            queues.push(Queue::Dead(protocol.clone()));
        }
        queues
    }
}

/// Where dead letters go whose protocol nobody knows: `gleitzeit.dead.unknown.v0`.
#[must_use]
pub fn unrouted() -> Address {
    Address("unknown.v0".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_found_by_its_name() {
        let python = Address::parse("python.v1").expect("valid");
        for queue in Topology::new([python]).queues() {
            assert_eq!(Queue::from_name(&queue.name()), Some(queue));
        }
        assert_eq!(Queue::from_name("amq.gen-x"), None);
    }

    #[test]
    fn an_address_is_checked() {
        for bad in ["", "python", "python.", ".v1", "py thon.v1", "Python.v1", "a.b.c", "a.#", "a.*"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
