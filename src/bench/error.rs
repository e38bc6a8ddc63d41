//! Why a measurement could not be made.

use crate::core::code::Code;
use crate::error::Error;

/// What stopped a measurement.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BenchError {
    /// It would disturb others, or be disturbed by them.
    #[error("{0}")]
    Refused(String),
    /// The floor's own conversation with RabbitMQ.
    #[error("the floor could not {what}: {reason}")]
    Amqp {
        /// What was tried.
        what: &'static str,
        /// What the client or the server said.
        reason: String,
    },
    /// The bench's own conversation with Redis.
    #[error("the bench could not {what}: {reason}")]
    Redis {
        /// What was tried.
        what: &'static str,
        /// What the client or the server said.
        reason: String,
    },
    /// A measured process could not be started, read or stopped.
    #[error("process {command:?}: {reason}")]
    Process {
        /// How it was started.
        command: String,
        /// What happened, with the end of what it said.
        reason: String,
    },
    /// No result for a long time.
    #[error("{what}: no result for {seconds} s, at least {done} of {tasks} were there")]
    Stalled {
        /// Who was measured.
        what: &'static str,
        /// Results known to be there.
        done: usize,
        /// Results expected.
        tasks: usize,
        /// How long nothing happened.
        seconds: u64,
    },
    /// What was measured was not what should have been: the figures would be worth nothing.
    #[error("{0}; the figures are worth nothing")]
    Invalid(String),
    /// What was measured failed by itself.
    #[error("{}", .0.message)]
    Product(Error),
    /// It was told to stop.
    #[error("stopped before the end; what was published for the measurement is removed")]
    Stopped,
}

impl BenchError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            BenchError::Refused(_) => Code::InvalidRequest,
            BenchError::Amqp { .. } => Code::ConnectionLost,
            BenchError::Redis { .. } => Code::PersistenceConnectionFailed,
            BenchError::Process { .. } | BenchError::Stalled { .. } | BenchError::Invalid(_) => {
                Code::InternalError
            }
            BenchError::Product(error) => error.code,
            BenchError::Stopped => Code::SystemShutdown,
        }
    }

    pub(super) fn product(error: impl Into<Error>) -> BenchError {
        BenchError::Product(error.into())
    }

    pub(super) fn amqp(what: &'static str) -> impl FnOnce(lapin::Error) -> BenchError {
        move |error| BenchError::Amqp { what, reason: error.to_string() }
    }

    pub(super) fn amqp_error(error: lapin::Error) -> BenchError {
        BenchError::amqp("take and settle messages")(error)
    }

    pub(super) fn redis(what: &'static str) -> impl FnOnce(redis::RedisError) -> BenchError {
        move |error| BenchError::Redis { what, reason: error.to_string() }
    }
}

impl From<BenchError> for Error {
    fn from(error: BenchError) -> Error {
        if let BenchError::Product(error) = error {
            return error;
        }
        Error::new(error.code(), error.to_string())
    }
}
