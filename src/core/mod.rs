//! What decides: pure types and functions. No async, no I/O, no clock, no chance.

pub mod clock;
pub mod code;
pub mod failure;
pub mod id;
pub mod near;
pub mod protocol;
pub mod requirements;
pub mod retry;
pub mod state;
pub mod violation;
