//! `bench`: builds what it takes and becomes the program that measures.
//!
//! Of the packet path the object is built anew with the feature `bench`, so what is timed is the source as it is, not
//! what is committed. The programs themselves are not optimised, since all that they measure runs in the kernel; but
//! the flow table is swept by the daemon's code, which has to keep up. Of the daemon what is timed is its release
//! build, in a process of its own, with the committed object.

use std::{env, ffi::OsString, os::unix::process::CommandExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    build_ebpf,
    objects::BENCH,
    process::{root_runner, run as run_command},
    workspace,
};

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
    /// From an XID, a throttled clock or a drain to the first new connection steered by it
    Reaction(ProgramArgs),
    /// CPU time of the governor's tick, and of the daemon while it scrapes 64 servers
    Tick(ProgramArgs),
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
    match &args.subject {
        Subject::Packet(args) => kernel(&root, "packet", args, &[]),
        Subject::Table(args) => kernel(&root, "table", args, &["guidevane", "lb-common"]),
        Subject::Reaction(args) => daemon(&root, "reaction", args),
        Subject::Tick(args) => daemon(&root, "tick", args),
        Subject::Object => {
            println!("{}", build_ebpf::build_object(&root, &BENCH)?.display());
            Ok(())
        }
    }
}

/// A benchmark of the kernel's side; the packages in `optimised` are.
fn kernel(root: &Path, subject: &str, args: &ProgramArgs, optimised: &[&str]) -> Result<()> {
    let object = build_ebpf::build_object(root, &BENCH)?;
    let mut cargo = cargo(root, "run");
    for package in optimised {
        cargo.arg("--config").arg(format!("profile.dev.package.{package}.opt-level=2"));
    }
    become_benchmark(cargo.env(BENCH.variable, object), subject, args)
}

/// A benchmark of the daemon, beside the stand-in for the driver of GPUs.
fn daemon(root: &Path, subject: &str, args: &ProgramArgs) -> Result<()> {
    /// Names the daemon to the test bed.
    const BINARY: &str = "GUIDEVANE_BIN";
    run_command(cargo(root, "build").args(["--release", "--package", "guidevane", "--bin", "guidevane"]))?;
    run_command(cargo(root, "build").args(["--package", "guidevane-nvml-standin"]))?;
    let binary = root.join("target/release/guidevane");
    become_benchmark(cargo(root, "run").env(BINARY, binary), subject, args)
}

fn cargo(root: &Path, verb: &str) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([verb, "--locked", "--quiet", "--manifest-path"]).arg(root.join("Cargo.toml"));
    cargo
}

fn become_benchmark(cargo: &mut Command, subject: &str, args: &ProgramArgs) -> Result<()> {
    cargo
        .args(["--package", "guidevane-tests", "--bin", &format!("bench-{subject}"), "--"])
        .args(&args.options);
    if let Some((name, value)) = root_runner(&format!("bench {subject}"))? {
        cargo.env(name, value);
    }
    Err(cargo.exec()).context("could not start the benchmark")
}
