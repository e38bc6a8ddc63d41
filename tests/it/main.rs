//! The whole system by capability; one binary, because each one costs a link.

mod architecture;
mod distributed;
mod embedded;
mod refused;
mod support;

#[path = "../support/rabbitmq.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod rabbitmq;
