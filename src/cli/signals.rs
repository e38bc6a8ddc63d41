//! SIGINT and SIGTERM: the first one asks, the second one ends the process at once. SIGHUP: read the configuration again.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Listens from its creation on; what was heard stays known.
#[derive(Debug)]
pub(crate) struct Signals {
    first: watch::Receiver<Option<u8>>,
    /// Owns the listening; ends it when dropped.
    _listening: JoinSet<()>,
}

impl Signals {
    /// Starts to listen. From now on a signal does not end the process by itself.
    pub(crate) fn listen() -> Signals {
        let (heard, first) = watch::channel(None);
        let mut listening = JoinSet::new();
        let streams =
            signal(SignalKind::interrupt()).and_then(|one| Ok((one, signal(SignalKind::terminate())?)));
        match streams {
            Err(error) => tracing::warn!(%error, "signals cannot be heard; they end the process at once"),
            Ok((mut interrupt, mut terminate)) => {
                listening.spawn(async move {
                    loop {
                        let number = tokio::select! {
                            _ = interrupt.recv() => 2,
                            _ = terminate.recv() => 15,
                        };
                        if heard.borrow().is_some() {
                            // At-least-once makes this safe: what is not settled is delivered again.
                            std::process::exit(128 + i32::from(number));
                        }
                        heard.send_replace(Some(number));
                    }
                });
            }
        }
        Signals { first, _listening: listening }
    }

    /// The number of the first signal: 2 or 15; at once if it came already. The exit code is 128 more.
    pub(crate) async fn first(&self) -> u8 {
        let mut first = self.first.clone();
        let heard = first.wait_for(Option::is_some).await.ok().and_then(|number| *number);
        match heard {
            Some(number) => number,
            // Nobody listens, so nothing will be heard.
            None => std::future::pending().await,
        }
    }
}

/// SIGHUP, from its creation on.
#[derive(Debug)]
pub(crate) struct Hangups(Option<Signal>);

impl Hangups {
    /// Starts to listen. From now on SIGHUP does not end the process.
    pub(crate) fn listen() -> Hangups {
        let hangups = signal(SignalKind::hangup());
        Hangups(
            hangups
                .inspect_err(|error| tracing::warn!(%error, "SIGHUP cannot be heard; it ends the process"))
                .ok(),
        )
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        let heard = match &mut self.0 {
            Some(hangups) => hangups.recv().await,
            None => None,
        };
        if heard.is_none() {
            // Nothing will be heard.
            std::future::pending::<()>().await;
        }
    }
}
