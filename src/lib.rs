//! Gleitzeit runs tasks and workflows over RabbitMQ and Redis, or over one embedded file.
//!
//! `ARCHITECTURE.md` tells the whole story; each module's documentation is its design.

pub mod audit;
pub mod bench;
pub mod broker;
pub mod cli;
pub mod client;
pub mod config;
pub mod core;
pub mod dead;
pub mod error;
pub mod provider;
pub mod runtime;
pub mod sqlite;
pub mod store;
pub mod telemetry;
pub mod topology;
pub mod wire;
pub mod worker;
