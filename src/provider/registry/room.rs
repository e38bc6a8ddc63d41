//! How much the providers of a protocol take now: whether its queue is consumed.

use std::num::NonZeroU16;
use std::time::Duration;
use tokio::time::sleep;

use super::instance::{Fit, Why};
use super::{LOOK_EVERY, Providers};
use crate::core::protocol::ProtocolId;

/// How much the providers of a protocol take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Open,
    Probes(NonZeroU16),
    Shut { left: Duration },
}

impl Providers {
    /// Waits until tasks of this protocol may be taken. How many at once; `None`: any number.
    pub async fn opened(&self, protocol: &ProtocolId) -> Option<NonZeroU16> {
        loop {
            let changed = self.changed.notified();
            match self.room(protocol) {
                Room::Open => return None,
                Room::Probes(count) => return Some(count),
                Room::Shut { left } => tokio::select! {
                    () = changed => {}
                    () = sleep(left) => {}
                },
            }
        }
    }

    /// Waits until it is known whether the probes of this protocol have succeeded.
    pub async fn probed(&self, protocol: &ProtocolId) {
        loop {
            let changed = self.changed.notified();
            if !matches!(self.room(protocol), Room::Probes(_)) {
                return;
            }
            tokio::select! {
                () = changed => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Whether nobody of this protocol may be called now.
    #[must_use]
    pub fn is_shut(&self, protocol: &ProtocolId) -> bool {
        matches!(self.room(protocol), Room::Shut { .. })
    }

    fn room(&self, protocol: &ProtocolId) -> Room {
        let Some(lane) = self.lane(protocol) else { return Room::Open };
        let (now, mut probes, mut soonest) = (self.now(), 0_u32, LOOK_EVERY);
        for instance in lane.instances.iter().filter(|one| one.traits().weight > 0) {
            match instance.fit(now) {
                Fit::Open | Fit::Degraded => return Room::Open,
                Fit::Probes(count) => probes = probes.saturating_add(count),
                Fit::Shut { why, .. } if self.is_asked_anyway(&why) => return Room::Open,
                Fit::Shut { left, .. } => soonest = soonest.min(left.unwrap_or(LOOK_EVERY)),
            }
        }
        match NonZeroU16::new(u16::try_from(probes).unwrap_or(u16::MAX)) {
            Some(count) => Room::Probes(count),
            None => Room::Shut { left: soonest },
        }
    }

    /// Whether who is in this state gets the call because waiting helps nobody.
    pub(super) fn is_asked_anyway(&self, why: &Why) -> bool {
        match why {
            Why::Down(_) | Why::NotStarted(_) => self.settings.is_last_resort,
            Why::Busy | Why::Failing | Why::Tried => false,
            // Somebody has said so, and waiting does help.
            Why::Waking | Why::Stopping | Why::Stopped => false,
        }
    }
}
