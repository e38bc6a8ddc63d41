//! Who executes beside whom.
//!
//! A worker that dies is held against every task that it has a lease of. So nothing has a lease without a
//! turn, and nobody waits for a turn with a lease: what waits is not blamed. A task with a crash in its record
//! is a suspect: it executes alone, so that the next crash tells whether it was the cause.
//!
//! The lock is fair: while a suspect waits, whoever comes later waits behind it. Neither waits for long: a
//! delivery that could not start is given back, uncounted, for a worker that is less busy.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio_util::sync::CancellationToken;

use super::patience::Stop;

/// How long a task waits for a suspect before it goes to another worker.
const BESIDE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a suspect waits for the others at first; each time that it was in vain, twice as long.
const ALONE_PATIENCE: Duration = Duration::from_secs(5);

/// The turns of one worker.
#[derive(Debug, Default)]
pub(super) struct Turns {
    floor: Arc<RwLock<()>>,
}

/// The right to hold leases, until it is dropped.
#[derive(Debug)]
pub(super) enum Turn {
    /// While others do.
    Beside { _floor: OwnedRwLockReadGuard<()> },
    /// While nobody else does.
    Alone { _floor: OwnedRwLockWriteGuard<()> },
}

impl Turn {
    pub(super) fn is_alone(&self) -> bool {
        match self {
            Turn::Beside { .. } => false,
            Turn::Alone { .. } => true,
        }
    }
}

impl Turns {
    /// A turn beside others. [`Stop::Crowded`] if a suspect is in the way for too long.
    pub(super) async fn beside(&self, abort: &CancellationToken) -> Result<Turn, Stop> {
        if let Ok(floor) = Arc::clone(&self.floor).try_read_owned() {
            return Ok(Turn::Beside { _floor: floor });
        }
        tokio::select! {
            floor = Arc::clone(&self.floor).read_owned() => Ok(Turn::Beside { _floor: floor }),
            () = abort.cancelled() => Err(Stop::Aborted),
            () = tokio::time::sleep(BESIDE_PATIENCE) => Err(Stop::Crowded),
        }
    }

    /// A turn alone. [`Stop::Crowded`] if others take longer than `patience`; `None` waits as long as they may.
    pub(super) async fn alone(
        &self,
        abort: &CancellationToken,
        patience: Option<Duration>,
    ) -> Result<Turn, Stop> {
        let give_up = async {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            floor = Arc::clone(&self.floor).write_owned() => Ok(Turn::Alone { _floor: floor }),
            () = abort.cancelled() => Err(Stop::Aborted),
            () = give_up => Err(Stop::Crowded),
        }
    }

    /// Waits until no suspect waits or executes.
    pub(super) async fn no_suspect(&self) {
        drop(self.floor.read().await);
    }
}

/// How long a suspect waits that has waited `times` in vain; `None` for as long as it takes: then a guard
/// stands for its delivery, and the time limits of what runs bound the wait.
pub(super) fn patience(times: u32, guard_after: Duration) -> Option<Duration> {
    let patience = ALONE_PATIENCE * (1 << times.min(16));
    (patience < guard_after / 2).then_some(patience)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_suspect_waits_for_the_others_and_those_that_come_later_wait_for_it() {
        let (turns, abort) = (Turns::default(), CancellationToken::new());
        let first = turns.beside(&abort).await.expect("nobody is in the way");
        let suspect = turns.alone(&abort, None);
        tokio::pin!(suspect);
        assert!(futures_util::poll!(&mut suspect).is_pending());
        let later = turns.beside(&abort);
        tokio::pin!(later);
        assert!(futures_util::poll!(&mut later).is_pending(), "the suspect was first");
        drop(first);
        let alone = suspect.await.expect("nobody is left");
        assert!(alone.is_alone());
        assert!(futures_util::poll!(&mut later).is_pending());
        drop(alone);
        assert!(!later.await.expect("the suspect is done").is_alone());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_and_an_abort_ends_every_wait() {
        let (turns, abort) = (Turns::default(), CancellationToken::new());
        let first = turns.beside(&abort).await.expect("nobody is in the way");
        let patience = Some(Duration::from_secs(1));
        assert_eq!(turns.alone(&abort, patience).await.expect_err("in vain"), Stop::Crowded);
        turns.no_suspect().await;
        drop(first);
        let alone = turns.alone(&abort, patience).await.expect("nobody is left");
        assert_eq!(turns.beside(&abort).await.expect_err("in vain"), Stop::Crowded);
        abort.cancel();
        assert_eq!(turns.beside(&abort).await.expect_err("aborted"), Stop::Aborted);
        assert_eq!(turns.alone(&abort, None).await.expect_err("aborted"), Stop::Aborted);
        drop(alone);
    }

    #[test]
    fn patience_doubles_until_a_guard_stands_for_the_delivery() {
        let waits: Vec<Option<u64>> = [0, 1, 2, 5, 6, 1_000]
            .map(|times| patience(times, Duration::from_secs(450)).map(|wait| wait.as_secs()))
            .into();
        assert_eq!(waits, [Some(5), Some(10), Some(20), Some(160), None, None]);
        assert_eq!(patience(0, Duration::from_secs(1)), None);
    }
}
