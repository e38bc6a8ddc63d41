//! Holding the letters of dead queues, and giving them back.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use super::letter::{Keep, Letter};
use crate::broker::{Broker, BrokerError, Consumer, Delivery, Settlement};
use crate::topology::{Address, Queue};

/// How many letters of one queue are held in one look, at most; fewer where they are large.
pub const LETTERS_MAX: usize = 65_535;
/// How many bytes of letters are kept in one look, at most; the last may go beyond.
const BYTES_MAX: usize = 256 * 1024 * 1024;
/// How many letters the first consumer of a queue holds. They come in waves, so that what is on its way is bounded
/// too: each wave has a consumer of its own, which keeps what it was given, and so a channel of its own. Where the
/// letters are small each wave is twice the one before, so that a look takes few channels.
const FIRST_WAVE: u16 = 32;
/// How many bytes of letters a wave after the first may have, by the largest letter seen; the first is a guess.
const WAVE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How many consumers hold the letters of one queue: enough for [`LETTERS_MAX`] that are small.
const WAVES_MAX: u32 = 12;
/// How long to wait for a letter before the broker is asked whether there still is one.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often it is asked before the rest is left to another look.
const ASKED_MAX: u32 = 20;

/// Letters that are held.
#[derive(Debug, Default)]
pub struct Look {
    /// In order of death, the oldest first.
    pub letters: Vec<Letter>,
    /// Whether a queue had more than may be held: only the first ones were looked at.
    pub has_more: bool,
    /// Dead queues that the broker does not have.
    pub missing: Vec<Address>,
    bytes: usize,
    /// Of the largest letter that came, as it came.
    largest: usize,
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
        let before = self.letters.len();
        let mut wave = FIRST_WAVE;
        for number in 0.. {
            let at = self.letters.len();
            let ready = broker.depth(&queue).await?.ready;
            if ready == 0 {
                break;
            }
            let room = if number < WAVES_MAX { LETTERS_MAX - (at - before) } else { 0 };
            let wanted = u64::from(wave).min(ready).min(room as u64);
            let Some(wanted) = u16::try_from(wanted).ok().and_then(NonZeroU16::new) else {
                self.has_more = true;
                return Ok(());
            };
            let mut consumer = broker.consume(&queue, wanted).await?;
            for _ in 0..wanted.get() {
                // Somebody else may have taken what was counted.
                let Some(delivery) = next(broker, &queue, &mut consumer).await? else { break };
                self.largest = self.largest.max(delivery.body.len());
                let letter = Letter::of(delivery, address, self.letters.len());
                let letter = if keep(&letter) == Keep::Facts { letter.slim() } else { letter };
                self.bytes += letter.bytes;
                self.letters.push(letter);
                if self.bytes > BYTES_MAX {
                    self.has_more = true;
                    return consumer.cancel().await;
                }
            }
            // What is held stays held.
            consumer.cancel().await?;
            if self.letters.len() == at {
                break;
            }
            wave = next_wave(wave, self.largest);
        }
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

/// How many letters the next wave may have.
fn next_wave(wave: u16, largest: usize) -> u16 {
    let fit = u16::try_from(WAVE_BYTES_MAX / largest.max(1)).unwrap_or(u16::MAX);
    wave.saturating_mul(2).min(fit).max(FIRST_WAVE)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(largest: usize) -> Vec<usize> {
        let waves = std::iter::successors(Some(FIRST_WAVE), |wave| Some(next_wave(*wave, largest)));
        waves.take(WAVES_MAX as usize).map(usize::from).collect()
    }

    #[test]
    fn few_consumers_hold_many_letters_that_are_small() {
        assert!(waves(1_000).iter().sum::<usize>() >= LETTERS_MAX, "{:?}", waves(1_000));
        assert_eq!(&waves(1_000)[..4], [32, 64, 128, 256]);
    }

    #[test]
    fn what_is_on_its_way_is_bounded_where_letters_are_large() {
        assert!(waves(128 * 1024).iter().all(|wave| wave * 128 * 1024 <= WAVE_BYTES_MAX));
        assert!(waves(15 << 20).iter().all(|wave| *wave == usize::from(FIRST_WAVE)));
    }
}
