//! Holding the letters of dead queues, and giving them back.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use super::letter::{Keep, Letter};
use crate::broker::{Broker, BrokerError, Consumer, Delivery, Settlement};
use crate::topology::{Address, Queue};

/// How many letters are held in one look, at most, of all its queues together.
pub const LETTERS_MAX: usize = 65_536;
/// How many bytes of one queue's letters are kept in one look, at most; the last may go beyond. What is not asked for
/// is kept as [`Keep::Facts`], and counts as little as that.
pub const BYTES_MAX: usize = 128 * 1024 * 1024;
/// How many letters one consumer holds. It keeps what it was given, and so a channel of its own: a full look has 256
/// of them and one more for each queue. One comes after the other, so what is on its way and not yet counted is never
/// more than this many letters: some megabytes as a rule, as a letter has kilobytes; at the worst 15 MiB each.
const WAVE: u16 = 256;
/// How many consumers one queue may take: enough for [`LETTERS_MAX`].
const WAVES_MAX: usize = LETTERS_MAX / WAVE as usize;
/// How long to wait for a letter before the broker is asked whether there still is one.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often it is asked before the rest is left to another look.
const ASKED_MAX: u32 = 20;

/// Letters that are held.
#[derive(Debug, Default)]
pub struct Look {
    /// In order of death, the oldest first.
    pub letters: Vec<Letter>,
    /// Whether there was more than may be held: of a queue only the first ones were looked at, or nothing. What is
    /// held comes first in the next look too, so there is more to see only where something was taken away, or where
    /// fewer queues are asked for.
    pub has_more: bool,
    /// Dead queues that the broker does not have.
    pub missing: Vec<Address>,
}

/// Holds what is ready in the dead queues of these protocols.
///
/// # Errors
/// What the broker says. What was held already is given back.
pub async fn hold(
    broker: &Arc<dyn Broker>,
    addresses: &[Address],
    keep: impl Fn(&Letter) -> Keep,
) -> Result<Look, BrokerError> {
    let mut look = Look::default();
    for address in addresses {
        match look.add(broker, address, &keep).await {
            Ok(()) => {}
            Err(BrokerError::NoQueue { .. }) => look.missing.push(address.clone()),
            Err(error) => return Err(error),
        }
    }
    look.letters.sort_by_key(|letter| (letter.died_at(), letter.place));
    Ok(look)
}

impl Look {
    /// Takes the letters of one queue, wave after wave, until none is ready.
    async fn add(
        &mut self,
        broker: &Arc<dyn Broker>,
        address: &Address,
        keep: &impl Fn(&Letter) -> Keep,
    ) -> Result<(), BrokerError> {
        let queue = Queue::Dead(address.clone());
        let mut bytes = 0;
        for _ in 0..WAVES_MAX {
            let at = self.letters.len();
            let ready = broker.depth(&queue).await?.ready;
            if ready == 0 {
                return Ok(());
            }
            let wanted = u64::from(WAVE).min(ready).min((LETTERS_MAX - at) as u64);
            let Some(wanted) = u16::try_from(wanted).ok().and_then(NonZeroU16::new) else { break };
            let mut consumer = broker.consume(&queue, wanted).await?;
            for _ in 0..wanted.get() {
                // Somebody else may have taken what was counted.
                let Some(delivery) = next(broker, &queue, &mut consumer).await? else { break };
                let letter = Letter::of(delivery, address, self.letters.len());
                let letter = if keep(&letter) == Keep::Facts { letter.slim() } else { letter };
                bytes += letter.bytes;
                self.letters.push(letter);
                if bytes > BYTES_MAX {
                    break;
                }
            }
            // What is held stays held.
            consumer.cancel().await?;
            let taken = self.letters.len() - at;
            if bytes > BYTES_MAX {
                self.has_more |= (taken as u64) < ready;
                return Ok(());
            }
            if taken == 0 {
                return Ok(());
            }
        }
        self.has_more |= broker.depth(&queue).await?.ready > 0;
        Ok(())
    }

    /// Takes out those that `is_chosen`.
    #[must_use]
    pub fn take(&mut self, is_chosen: impl Fn(&Letter) -> bool) -> Vec<Letter> {
        let all = std::mem::take(&mut self.letters);
        let (chosen, others) = all.into_iter().partition(is_chosen);
        self.letters = others;
        chosen
    }

    /// Gives back what is still held, each to its place (a quorum queue may change places among them). What cannot
    /// be given back goes back by itself when the broker is closed.
    pub async fn release(self, chosen: Vec<Letter>) {
        let mut letters: Vec<Letter> = self.letters.into_iter().chain(chosen).collect();
        letters.sort_by_key(|letter| letter.place);
        for letter in letters {
            if let Err(error) = letter.settle(Settlement::Release).await {
                tracing::debug!(%error, "a dead letter was given back by its connection");
            }
        }
    }
}

/// The next letter, while there is one.
async fn next(
    broker: &Arc<dyn Broker>,
    queue: &Queue,
    consumer: &mut Box<dyn Consumer>,
) -> Result<Option<Delivery>, BrokerError> {
    for _ in 0..ASKED_MAX {
        if let Ok(next) = tokio::time::timeout(PATIENCE, consumer.next()).await {
            return next.transpose();
        }
        if broker.depth(queue).await?.ready == 0 {
            return Ok(None);
        }
    }
    Ok(None)
}
