//! The whole system by capability; one binary, because each one costs a link.

mod architecture;
mod bench;
mod distributed;
mod docs;
mod embedded;
mod examples;
mod golden;
mod place;
mod producers;
#[path = "../support/rabbitmq.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod rabbitmq;
mod refused;
mod schema;
mod support;
mod topology;
mod wire;
