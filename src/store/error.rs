//! Why the store did not do what it was asked.

use crate::core::code::Code;

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nobody answers at the address. `url` has its password masked.
    #[error("cannot reach the store at {url}: {reason}")]
    Unreachable {
        /// The address, masked.
        url: String,
        /// What the attempt said.
        reason: String,
    },
    /// Wrong user or password.
    #[error("the store at {url} refuses the login: {reason}")]
    LoginRefused {
        /// The address, masked.
        url: String,
        /// What the store said.
        reason: String,
    },
    /// The connection broke or no answer came in time: it is unknown whether the step was done.
    #[error("no answer from the store in {step}: {reason}")]
    Unanswered {
        /// Which step.
        step: &'static str,
        /// What happened.
        reason: String,
    },
    /// The store refused the step (read-only, out of memory, out of disk).
    #[error("the store refuses {step}: {reason}")]
    Refused {
        /// Which step.
        step: &'static str,
        /// What the store said.
        reason: String,
    },
    /// The store holds something that we did not write.
    #[error("the store holds something unexpected in {step}: {reason}")]
    Corrupt {
        /// Which step.
        step: &'static str,
        /// What it is.
        reason: String,
    },
    /// The file of the embedded state cannot be used.
    #[error("the state file {path} cannot be used: {reason}")]
    File {
        /// Its path.
        path: String,
        /// What the system said.
        reason: String,
    },
}

impl StoreError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            StoreError::Unreachable { .. } => Code::PersistenceConnectionFailed,
            StoreError::LoginRefused { .. } => Code::AuthenticationFailed,
            StoreError::Unanswered { .. } => Code::PersistenceTransactionFailed,
            StoreError::Refused { .. } => Code::PersistenceWriteFailed,
            StoreError::Corrupt { .. } => Code::PersistenceIntegrityError,
            StoreError::File { .. } => Code::FileUnreadable,
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            StoreError::Unreachable { .. } | StoreError::Unanswered { .. } | StoreError::Refused { .. } => {
                true
            }
            StoreError::LoginRefused { .. } | StoreError::Corrupt { .. } | StoreError::File { .. } => false,
        }
    }
}
