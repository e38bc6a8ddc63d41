//! The `gleitzeit` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    gleitzeit::cli::main()
}
