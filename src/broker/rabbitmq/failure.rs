//! What lapin says, in the words of the port.

use lapin::ErrorKind;
use std::future::Future;
use std::time::Duration;

use crate::broker::BrokerError;

/// AMQP reply codes that mean something to us. This one: an operator, or a server that stops, closes connections.
const CONNECTION_FORCED: u16 = 320;
pub(super) const ACCESS_REFUSED: u16 = 403;
pub(super) const NOT_FOUND: u16 = 404;
pub(super) const PRECONDITION_FAILED: u16 = 406;
/// The virtual host does not exist, or is not for this user.
pub(super) const NOT_ALLOWED: u16 = 530;

/// The server's reply code, if it was the server that spoke.
pub(super) fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => Some(amqp.get_id()),
        _ => None,
    }
}

/// What happened, without lapin's frame around it.
pub(super) fn words(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => amqp.get_message().to_string(),
        ErrorKind::IOError(io) => io.to_string(),
        _ => error.to_string(),
    }
}

/// Why something that was asked of the server was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server or the connection said no.
    Said(lapin::Error),
    /// No answer in time.
    Silence(Duration),
}

impl Failure {
    /// The server's reply code, if it spoke.
    pub(super) fn reply_code(&self) -> Option<u16> {
        match self {
            Failure::Said(error) => reply_code(error),
            Failure::Silence(_) => None,
        }
    }

    /// What happened.
    pub(super) fn words(&self) -> String {
        match self {
            Failure::Said(error) => words(error),
            Failure::Silence(waited) => format!("no answer within {} s", waited.as_secs_f32()),
        }
    }

    /// The port's error for `what`. `hint` is what an operator can do about a missing permission.
    pub(super) fn of(self, what: &str, hint: &str) -> BrokerError {
        let (what, reason) = (what.to_owned(), self.words());
        match self.reply_code() {
            Some(ACCESS_REFUSED) => BrokerError::AccessRefused { what, reason: format!("{reason}; {hint}") },
            Some(PRECONDITION_FAILED) => BrokerError::Mismatch { what, reason },
            // It can be tried again, on the next connection.
            Some(CONNECTION_FORCED) => BrokerError::Unconfirmed { what, reason },
            Some(_) => BrokerError::Failed { what, reason },
            None => BrokerError::Unconfirmed { what, reason },
        }
    }
}

/// Waits for the server's answer, but not for ever: a queue without a leader never answers.
pub(super) async fn within<T>(
    timeout: Duration,
    asked: impl Future<Output = lapin::Result<T>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Failure::Said(error)),
        Err(_) => Err(Failure::Silence(timeout)),
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError};

    use super::*;

    #[test]
    fn a_connection_that_the_server_closes_is_a_lost_one() {
        let kind = AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED);
        let closed = AMQPError::new(kind, "CONNECTION_FORCED - maintenance".into());
        let error = Failure::Said(ErrorKind::ProtocolError(closed).into()).of("looking", "");
        assert!(error.is_transient(), "{error:?}");
    }
}
