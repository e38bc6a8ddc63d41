//! What only the embedded mode has: one file, several processes, and their deaths.

mod broker;
mod crash;
mod file;
mod graphs;
mod speed;
mod store;
mod support;
#[path = "../support/wall_clock.rs"]
mod wall_clock;
