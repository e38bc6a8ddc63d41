//! Error codes: the numbers and names that outside programs rely on.
//!
//! Numbers up to the original project's are kept as they were; ours are added at the end of each
//! range and never renumbered. `docs/errors.md` has a section per code, and a test compares both.

use std::fmt;

macro_rules! codes {
    ($($(#[$meta:meta])* $variant:ident = $number:literal, $name:literal, $retryable:literal;)*) => {
        /// A stable error code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[$meta])* $variant,)* }

        impl Code {
            /// Every code, in declaration order.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> i32 { match self { $(Code::$variant => $number,)* } }

            /// The name on the wire, in capitals.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(Code::$variant => $name,)* } }

            /// Whether trying again may help when nothing more is known.
            #[must_use]
            pub const fn is_retryable(self) -> bool { match self { $(Code::$variant => $retryable,)* } }
        }
    };
}

codes! {
    /// The text is not JSON, not YAML, or not in the expected shape.
    ParseError = -32700, "PARSE_ERROR", false;
    /// A request that is well formed but makes no sense.
    InvalidRequest = -32600, "INVALID_REQUEST", false;
    /// The protocol has no such method.
    MethodNotFound = -32601, "METHOD_NOT_FOUND", false;
    /// Parameters that do not fit the method's schema.
    InvalidParams = -32602, "INVALID_PARAMS", false;
    /// A bug in Gleitzeit.
    InternalError = -32603, "INTERNAL_ERROR", false;
    /// Used before it was started.
    SystemNotInitialized = -31001, "SYSTEM_NOT_INITIALIZED", false;
    /// Stopped while it was being used.
    SystemShutdown = -31002, "SYSTEM_SHUTDOWN", true;
    /// The configuration is wrong.
    ConfigurationError = -31003, "CONFIGURATION_ERROR", false;
    /// Memory, disk, descriptors or another resource is used up.
    ResourceExhausted = -31004, "RESOURCE_EXHAUSTED", true;
    /// A rate limit is reached.
    RateLimitExceeded = -31005, "RATE_LIMIT_EXCEEDED", true;
    /// A file is missing or unreadable.
    FileUnreadable = -31006, "FILE_UNREADABLE", false;
    /// No worker that lives has what the task asks for.
    ResourceNotAvailable = -31007, "RESOURCE_NOT_AVAILABLE", false;
    /// No such protocol.
    ProtocolNotFound = -30001, "PROTOCOL_NOT_FOUND", false;
    /// No such provider.
    ProviderNotFound = -30002, "PROVIDER_NOT_FOUND", false;
    /// No provider serves this method now.
    ProviderNotAvailable = -30003, "PROVIDER_NOT_AVAILABLE", true;
    /// The provider could not start.
    ProviderInitializationFailed = -30004, "PROVIDER_INITIALIZATION_FAILED", true;
    /// The provider reports itself unhealthy.
    ProviderUnhealthy = -30005, "PROVIDER_UNHEALTHY", true;
    /// The provider did not answer in time.
    ProviderTimeout = -30006, "PROVIDER_TIMEOUT", true;
    /// The provider has no room.
    ProviderOverloaded = -30007, "PROVIDER_OVERLOADED", true;
    /// The provider does not serve this method.
    MethodNotSupported = -30008, "METHOD_NOT_SUPPORTED", false;
    /// The message is of a version that this worker does not know.
    ProtocolVersionMismatch = -30009, "PROTOCOL_VERSION_MISMATCH", false;
    /// The provider failed in a way of its own.
    ProviderError = -30010, "PROVIDER_ERROR", true;
    /// The task is not well formed.
    TaskValidationFailed = -29001, "TASK_VALIDATION_FAILED", false;
    /// The task's own code failed.
    TaskExecutionFailed = -29002, "TASK_EXECUTION_FAILED", false;
    /// The task took longer than its timeout.
    TaskTimeout = -29003, "TASK_TIMEOUT", true;
    /// The task was cancelled.
    TaskCancelled = -29004, "TASK_CANCELLED", false;
    /// A task that this one depends on did not complete.
    TaskDependencyFailed = -29005, "TASK_DEPENDENCY_FAILED", false;
    /// A `${...}` reference could not be resolved.
    TaskParameterError = -29006, "TASK_PARAMETER_ERROR", false;
    /// The result does not fit the method's schema.
    TaskResultInvalid = -29007, "TASK_RESULT_INVALID", false;
    /// Every attempt failed.
    TaskRetryExhausted = -29008, "TASK_RETRY_EXHAUSTED", false;
    /// No such task.
    TaskNotFound = -29009, "TASK_NOT_FOUND", false;
    /// The task message is larger than allowed.
    TaskTooLarge = -29010, "TASK_TOO_LARGE", false;
    /// The result is larger than allowed.
    ResultTooLarge = -29011, "RESULT_TOO_LARGE", false;
    /// The task was not started by `expires_at`.
    TaskExpired = -29012, "TASK_EXPIRED", false;
    /// The worker died while it ran the task.
    WorkerLost = -29013, "WORKER_LOST", true;
    /// The workflow file is not well formed.
    WorkflowValidationFailed = -28001, "WORKFLOW_VALIDATION_FAILED", false;
    /// No such workflow.
    WorkflowNotFound = -28002, "WORKFLOW_NOT_FOUND", false;
    /// A task of the workflow failed.
    WorkflowExecutionFailed = -28003, "WORKFLOW_EXECUTION_FAILED", false;
    /// The workflow took longer than its timeout.
    WorkflowTimeout = -28004, "WORKFLOW_TIMEOUT", false;
    /// The workflow was cancelled.
    WorkflowCancelled = -28005, "WORKFLOW_CANCELLED", false;
    /// The tasks depend on each other in a circle.
    WorkflowCircularDependency = -28006, "WORKFLOW_CIRCULAR_DEPENDENCY", false;
    /// The workflow is not in a state that allows this.
    WorkflowInvalidState = -28007, "WORKFLOW_INVALID_STATE", false;
    /// A task depends on a task that the workflow does not have.
    WorkflowUnknownDependency = -28008, "WORKFLOW_UNKNOWN_DEPENDENCY", false;
    /// The workflow message is larger than allowed.
    WorkflowTooLarge = -28009, "WORKFLOW_TOO_LARGE", false;
    /// No such schedule.
    ScheduleNotFound = -28010, "SCHEDULE_NOT_FOUND", false;
    /// No such queue: the message cannot be routed.
    QueueNotFound = -27001, "QUEUE_NOT_FOUND", false;
    /// The queue is at its limit.
    QueueFull = -27002, "QUEUE_FULL", true;
    /// The queue is empty.
    QueueEmpty = -27003, "QUEUE_EMPTY", false;
    /// A schedule could not be kept.
    SchedulingFailed = -27004, "SCHEDULING_FAILED", true;
    /// Nothing fires schedules.
    SchedulerNotRunning = -27005, "SCHEDULER_NOT_RUNNING", true;
    /// The broker has other queues or exchanges than declared.
    TopologyMismatch = -27006, "TOPOLOGY_MISMATCH", false;
    /// The store cannot be reached.
    PersistenceConnectionFailed = -26001, "PERSISTENCE_CONNECTION_FAILED", true;
    /// The store refused a write.
    PersistenceWriteFailed = -26002, "PERSISTENCE_WRITE_FAILED", true;
    /// The store refused a read.
    PersistenceReadFailed = -26003, "PERSISTENCE_READ_FAILED", true;
    /// A step could not be done as one.
    PersistenceTransactionFailed = -26004, "PERSISTENCE_TRANSACTION_FAILED", true;
    /// The store holds something that cannot be.
    PersistenceIntegrityError = -26005, "PERSISTENCE_INTEGRITY_ERROR", false;
    /// The host cannot be reached.
    NetworkUnreachable = -25001, "NETWORK_UNREACHABLE", true;
    /// Nobody listens there.
    ConnectionRefused = -25002, "CONNECTION_REFUSED", true;
    /// No answer in time.
    ConnectionTimeout = -25003, "CONNECTION_TIMEOUT", true;
    /// The connection broke.
    ConnectionLost = -25004, "CONNECTION_LOST", true;
    /// Wrong user or password.
    AuthenticationFailed = -25005, "AUTHENTICATION_FAILED", false;
    /// The user may not do this.
    AuthorizationFailed = -25006, "AUTHORIZATION_FAILED", false;
}

impl Code {
    /// Finds a code by its name (any case) or by its number as text.
    #[must_use]
    pub fn find(text: &str) -> Option<Code> {
        let number: Option<i32> = text.parse().ok();
        Code::ALL.iter().copied().find(|code| match number {
            Some(number) => code.number() == number,
            None => code.name().eq_ignore_ascii_case(text),
        })
    }

    /// Finds a code by its number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.number() == number)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_and_names_are_unique() {
        let numbers: HashSet<i32> = Code::ALL.iter().map(|code| code.number()).collect();
        let names: HashSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!((numbers.len(), names.len()), (Code::ALL.len(), Code::ALL.len()));
    }

    #[test]
    fn a_code_is_found_by_name_and_by_number() {
        assert_eq!(Code::find("task_timeout"), Some(Code::TaskTimeout));
        assert_eq!(Code::find("-29003"), Some(Code::TaskTimeout));
        assert_eq!(Code::find("NO_SUCH"), None);
    }
}
