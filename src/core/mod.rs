//! What decides: pure types and functions. No async, no I/O, no clock, no chance; time and luck are passed in.

pub mod balance;
pub mod breaker;
pub mod clock;
pub mod code;
pub mod condition;
pub mod dag;
pub mod duration;
pub mod failure;
pub mod id;
pub mod latency;
pub mod limit;
pub mod near;
pub mod pattern;
pub mod pool;
pub mod priority;
pub mod protocol;
pub(crate) mod reading;
pub mod requirements;
pub mod retry;
pub mod schedule;
pub mod state;
pub mod task;
pub mod template;
pub mod url;
pub mod violation;
pub mod workflow;
