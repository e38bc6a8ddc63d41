//! What decides: pure types and functions. No async, no I/O, no clock, no chance.

pub mod clock;
pub mod code;
pub mod dag;
pub mod failure;
pub mod id;
pub mod priority;
pub mod state;
pub mod template;
