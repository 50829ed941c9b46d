//! The `guidevane` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    guidevane::cli::main(guidevane::daemon::run)
}
