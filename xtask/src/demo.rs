//! `demo`: builds what it takes and becomes the program that runs the comparison.
//!
//! The program (`tests/src/bin/demo`) is built with optimisation, for it plays eight GPU servers and hundreds of
//! clients at once; this tool stays small, because everyone builds it first.

use std::{env, ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    process::{root_runner, run as run_command},
    setup, workspace,
};

/// Arguments of `demo`: the program's own.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Options of the demo; `--help` shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

/// Runs the verb; returns only when it fails.
///
/// # Errors
/// A tool is missing, the build fails or the program cannot be started.
pub fn run(args: &Args) -> Result<()> {
    setup::test_tools()?;
    let packages =
        ["--package", "guidevane", "--package", "guidevane-tests", "--bin", "guidevane", "--bin", "demo"];
    run_command(cargo("build").args(packages))?;
    let mut demo = cargo("run");
    demo.args(["--quiet", "--package", "guidevane-tests", "--bin", "demo", "--"]).args(&args.options);
    if let Some((name, value)) = root_runner("demo")? {
        demo.env(name, value);
    }
    // In place of this process, so that Ctrl-C reaches the one that cleans up and nobody goes before it.
    Err(demo.exec()).context("could not start the demo")
}

fn cargo(verb: &str) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([verb, "--release", "--locked", "--manifest-path"]).arg(workspace::root().join("Cargo.toml"));
    cargo
}
