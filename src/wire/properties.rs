//! What comes beside a message's body, whatever the broker.

use std::collections::BTreeMap;

/// The properties of a message. They fill in what the body lacks; AMQP has them under the same names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Properties {
    /// The task's or workflow's id, if the body has none.
    pub message_id: Option<String>,
    /// 0 to 9, if the body has no priority.
    pub priority: Option<u8>,
    /// What the requester wants to find in the reply.
    pub correlation_id: Option<String>,
    /// Where the requester wants the reply.
    pub reply_to: Option<String>,
    /// Text headers; `traceparent` counts.
    pub headers: BTreeMap<String, String>,
}
