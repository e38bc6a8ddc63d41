//! The error that a command or a library call ends with: a code, a message, and the exit code that follows.

use serde_json::{Map, Value, json};
use std::fmt;

use crate::broker::BrokerError;
use crate::config::ConfigError;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::InvalidId;
use crate::store::StoreError;

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    /// What kind of error.
    pub code: Code,
    /// What was wrong, where, and what to do.
    pub message: String,
    /// Facts for programs: every violation, ids.
    pub details: Map<String, Value>,
}

impl Error {
    /// An error without details.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into(), details: Map::new() }
    }

    /// `{"code", "name", "message", "details"}`, as `--json` prints it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "code": self.code.number(),
            "name": self.code.name(),
            "message": self.message,
            "details": self.details,
        })
    }

    /// The process's exit code: 2 for refused input, 3 for files, 4 for a backend or provider that is not
    /// there, 7 for unknown ids, 1 otherwise.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.code {
            Code::ParseError
            | Code::InvalidRequest
            | Code::MethodNotFound
            | Code::InvalidParams
            | Code::ConfigurationError
            | Code::ProtocolNotFound
            | Code::ProtocolVersionMismatch
            | Code::MethodNotSupported
            | Code::TaskValidationFailed
            | Code::TaskParameterError
            | Code::TaskResultInvalid
            | Code::TaskTooLarge
            | Code::ResultTooLarge
            | Code::WorkflowValidationFailed
            | Code::WorkflowCircularDependency
            | Code::WorkflowUnknownDependency
            | Code::WorkflowTooLarge
            | Code::WorkflowInvalidState => 2,
            Code::FileUnreadable => 3,
            Code::ProviderNotFound
            | Code::ProviderNotAvailable
            | Code::ResourceNotAvailable
            | Code::ProviderInitializationFailed
            | Code::ProviderUnhealthy
            | Code::ProviderTimeout
            | Code::ProviderOverloaded
            | Code::ProviderError
            | Code::QueueNotFound
            | Code::QueueFull
            | Code::TopologyMismatch
            | Code::PersistenceConnectionFailed
            | Code::PersistenceWriteFailed
            | Code::PersistenceReadFailed
            | Code::PersistenceTransactionFailed
            | Code::PersistenceIntegrityError
            | Code::NetworkUnreachable
            | Code::ConnectionRefused
            | Code::ConnectionTimeout
            | Code::ConnectionLost
            | Code::AuthenticationFailed
            | Code::AuthorizationFailed => 4,
            Code::TaskExecutionFailed
            | Code::TaskTimeout
            | Code::TaskCancelled
            | Code::TaskDependencyFailed
            | Code::TaskRetryExhausted
            | Code::TaskExpired
            | Code::WorkerLost
            | Code::WorkflowExecutionFailed
            | Code::WorkflowTimeout
            | Code::WorkflowCancelled => 5,
            Code::TaskNotFound | Code::WorkflowNotFound | Code::ScheduleNotFound => 7,
            Code::InternalError
            | Code::SystemNotInitialized
            | Code::SystemShutdown
            | Code::ResourceExhausted
            | Code::RateLimitExceeded
            | Code::QueueEmpty
            | Code::SchedulingFailed
            | Code::SchedulerNotRunning => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.code, self.message)
    }
}

impl std::error::Error for Error {}

impl From<BrokerError> for Error {
    fn from(error: BrokerError) -> Error {
        Error::new(error.code(), error.to_string())
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        Error::new(error.code(), error.to_string())
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Error {
        Error::new(error.code(), error.to_string())
    }
}

impl From<InvalidId> for Error {
    fn from(error: InvalidId) -> Error {
        Error::new(Code::InvalidRequest, error.to_string())
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error { code: failure.code, message: failure.message, details: failure.details }
    }
}
