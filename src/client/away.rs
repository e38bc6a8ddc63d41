//! Waiting through an outage of the store.

use std::time::Duration;
use tokio::time::Instant;

use crate::core::code::Code;
use crate::error::Error;

/// How long whoever waits for an end puts up with a store that does not answer: a restart or a failover is over by then.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// How long until it is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Since when the store does not answer.
#[derive(Debug, Default)]
pub(crate) struct Away {
    since: Option<Instant>,
}

impl Away {
    /// The answer; `None` where the store is away, a moment later: it may be asked again.
    ///
    /// # Errors
    /// What the store says, if it says something; and that it is away, once it has been so for a minute.
    pub(crate) async fn answer<T>(&mut self, answer: Result<T, Error>) -> Result<Option<T>, Error> {
        match answer {
            Ok(answer) => {
                self.since = None;
                Ok(Some(answer))
            }
            Err(error) if is_away(&error) && !self.is_over() => {
                tokio::time::sleep(PAUSE).await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn is_over(&mut self) -> bool {
        self.since.get_or_insert_with(Instant::now).elapsed() > AWAY_MAX
    }
}

/// Whether nobody answered. What was refused may be mended too, but not by waiting.
fn is_away(error: &Error) -> bool {
    matches!(error.code, Code::PersistenceConnectionFailed | Code::PersistenceTransactionFailed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(code: Code) -> Result<(), Error> {
        Err(Error::new(code, "as asked"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_away_is_waited_for_but_not_for_ever() {
        let mut away = Away::default();
        let started = Instant::now();
        while away.answer(fails(Code::PersistenceTransactionFailed)).await.is_ok() {}
        assert!(started.elapsed() > AWAY_MAX && started.elapsed() < AWAY_MAX + 2 * PAUSE);
        // Each outage has its own time.
        assert_eq!(away.answer(Ok(1)).await, Ok(Some(1)));
        assert_eq!(away.answer(fails(Code::PersistenceConnectionFailed)).await, Ok(None));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_store_refuses_is_not_asked_again() {
        let mut away = Away::default();
        for code in
            [Code::PersistenceWriteFailed, Code::AuthenticationFailed, Code::PersistenceIntegrityError]
        {
            assert_eq!(away.answer(fails(code)).await, fails(code).map(Some));
        }
    }
}
