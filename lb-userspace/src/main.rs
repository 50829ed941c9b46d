//! The `guidevane` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    guidevane::cli::main(|_config| anyhow::bail!("this build holds no data plane to run"))
}
