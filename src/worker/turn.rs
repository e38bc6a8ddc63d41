//! Who executes beside whom.
//!
//! A worker that dies is held against every task that it has a lease of. So nothing has a lease without a
//! turn, and nobody waits for a turn with a lease: what waits is not blamed. A task that may crash only once more
//! is a suspect: it executes alone, so that this crash tells whether it was the cause.
//!
//! The lock is fair: while a suspect waits, whoever comes later waits behind it. Neither waits for long: a
//! delivery that could not start is given back, uncounted, for a worker that is less busy. A suspect that waited
//! in vain stays away for four times as long, so that it keeps workers from others for a fifth of the time at most.
//! Among tasks that always run for longer than it waits it must find a worker that has nothing to do.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio_util::sync::CancellationToken;

use super::patience::Stop;

/// How long a task waits for a suspect before it goes to another worker.
const BESIDE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a suspect waits for the others at first; each time that it was in vain, twice as long.
const ALONE_PATIENCE: Duration = Duration::from_secs(5);
/// The longest that it waits.
const ALONE_PATIENCE_MAX: Duration = Duration::from_secs(30);
/// How long a suspect stays away after the first wait: another worker may be idle.
const AWAY_FIRST: Duration = Duration::from_millis(1_600);
/// The longest that it stays away.
const AWAY_MAX: Duration = Duration::from_secs(120);

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

    /// A turn alone. [`Stop::Crowded`] if others take longer than `patience`.
    pub(super) async fn alone(&self, abort: &CancellationToken, patience: Duration) -> Result<Turn, Stop> {
        tokio::select! {
            floor = Arc::clone(&self.floor).write_owned() => Ok(Turn::Alone { _floor: floor }),
            () = abort.cancelled() => Err(Stop::Aborted),
            () = tokio::time::sleep(patience) => Err(Stop::Crowded),
        }
    }

    /// Waits until no suspect waits or executes.
    pub(super) async fn no_suspect(&self) {
        drop(self.floor.read().await);
    }
}

/// How long a suspect waits that has waited `times` in vain. No guard stands for its delivery meanwhile, so not
/// for longer than `guard_after` either, beyond the first wait.
pub(super) fn patience(times: u32, guard_after: Duration) -> Duration {
    let longest = ALONE_PATIENCE_MAX.min(guard_after).max(ALONE_PATIENCE);
    longest.min(ALONE_PATIENCE * (1 << times.min(16)))
}

/// How long a suspect then stays away when that was in vain too.
pub(super) fn away(times: u32, guard_after: Duration) -> Duration {
    if times == 0 { AWAY_FIRST } else { AWAY_MAX.min(4 * patience(times, guard_after)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_suspect_waits_for_the_others_and_those_that_come_later_wait_for_it() {
        let (turns, abort) = (Turns::default(), CancellationToken::new());
        let first = turns.beside(&abort).await.expect("nobody is in the way");
        let suspect = turns.alone(&abort, Duration::from_secs(1));
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
        let patience = Duration::from_secs(1);
        assert_eq!(turns.alone(&abort, patience).await.expect_err("in vain"), Stop::Crowded);
        turns.no_suspect().await;
        drop(first);
        let alone = turns.alone(&abort, patience).await.expect("nobody is left");
        assert_eq!(turns.beside(&abort).await.expect_err("in vain"), Stop::Crowded);
        abort.cancel();
        assert_eq!(turns.beside(&abort).await.expect_err("aborted"), Stop::Aborted);
        assert_eq!(turns.alone(&abort, patience).await.expect_err("aborted"), Stop::Aborted);
        drop(alone);
    }

    #[test]
    fn a_suspect_keeps_a_worker_from_others_for_a_fifth_of_the_time_at_most() {
        let waits = [0, 1, 2, 3, 6, 1_000].map(|times| {
            let guard_after = Duration::from_secs(450);
            (patience(times, guard_after).as_secs(), away(times, guard_after).as_secs())
        });
        assert_eq!(waits, [(5, 1), (10, 40), (20, 80), (30, 120), (30, 120), (30, 120)]);
        let short = [(1, 5), (12, 12), (60, 30)];
        for (guard_after, longest) in short {
            assert_eq!(patience(9, Duration::from_secs(guard_after)).as_secs(), longest);
        }
    }
}
