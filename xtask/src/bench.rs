//! `bench`: builds what it takes and becomes the program that measures.
//!
//! The object is built anew with the feature `bench`, so what is timed is the source as it is, not what is committed.
//! The program itself is not optimised: all that it measures runs in the kernel.

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
    Packet(PacketArgs),
    /// Build the kernel object with the benchmark's programs alone, and say where it lies
    Object,
}

/// Arguments of `bench packet`: the program's own.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
struct PacketArgs {
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
    let Subject::Packet(PacketArgs { options }) = &args.subject else {
        println!("{}", object.display());
        return Ok(());
    };
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--locked", "--quiet", "--manifest-path"]).arg(root.join("Cargo.toml"));
    cargo.args(["--package", "guidevane-tests", "--bin", "bench-packet", "--"]).args(options);
    cargo.env(BENCH.variable, object);
    if let Some((name, value)) = root_runner("bench packet")? {
        cargo.env(name, value);
    }
    Err(cargo.exec()).context("could not start the benchmark")
}
