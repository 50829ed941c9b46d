//! `bench`: builds what it takes and becomes the program that measures.
//!
//! The object is built anew with the feature `bench`, so what is timed is the source as it is, not what is committed.
//! The programs themselves are not optimised, since all that they measure runs in the kernel; but the flow table is
//! swept by the daemon's code, which has to keep up.

use std::{env, ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};

use crate::{build_ebpf, objects::BENCH, process::root_runner, workspace};

/// Arguments of `bench`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(clap::Subcommand)]
enum Subject {
    /// Nanoseconds a packet, net of the harness, by the kernel's own test run
    Packet(ProgramArgs),
    /// The flow table: churn at its rated fill, floods beside established streams
    Table(ProgramArgs),
    /// Build the kernel object with the benchmark's programs alone, and say where it lies
    Object,
}

/// Arguments of a benchmark: its program's own.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
struct ProgramArgs {
    /// Options of the benchmark; `--help` shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

/// Runs the verb; a benchmark takes this program's place.
///
/// # Errors
/// There is no eBPF tool chain, a build fails or the program cannot be started.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace::root();
    let object = build_ebpf::build_object(&root, &BENCH)?;
    let (subject, options) = match &args.subject {
        Subject::Packet(ProgramArgs { options }) => ("packet", options),
        Subject::Table(ProgramArgs { options }) => ("table", options),
        Subject::Object => {
            println!("{}", object.display());
            return Ok(());
        }
    };
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--locked", "--quiet", "--manifest-path"]).arg(root.join("Cargo.toml"));
    if subject == "table" {
        for package in ["guidevane", "lb-common"] {
            cargo.arg("--config").arg(format!("profile.dev.package.{package}.opt-level=2"));
        }
    }
    cargo.args(["--package", "guidevane-tests", "--bin", &format!("bench-{subject}"), "--"]).args(options);
    cargo.env(BENCH.variable, object);
    if let Some((name, value)) = root_runner(&format!("bench {subject}"))? {
        cargo.env(name, value);
    }
    Err(cargo.exec()).context("could not start the benchmark")
}
