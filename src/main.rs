//! The `gleitzeit` command.
fn main() {}
