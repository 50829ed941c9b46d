//! The project's own commands: `cargo xtask <verb>`.
//!
//! One module owns one verb; what several need (paths, child processes, the tool chain) has a module of its own.
//! Every verb works on a clean clone: what it needs it sets up itself or names.

mod bench;
mod build_ebpf;
mod demo;
mod guests;
mod manifest;
mod object_file;
mod objects;
mod peers;
mod process;
mod setup;
mod test;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set-up, build and test of Guidevane.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install the packages and tools that building and testing need
    Setup(setup::Args),
    /// Build the kernel objects from source, or check the committed ones
    BuildEbpf(build_ebpf::Args),
    /// Compare Guidevane with round robin and least connections on simulated inference servers
    Demo(demo::Args),
    /// Time the packet path beside a reference, case by case
    Bench(bench::Args),
    /// Load and test on older kernels, under emulation
    Guests(guests::Args),
    /// Run every test, the privileged ones included
    Test(test::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Setup(args) => setup::run(&args),
        Verb::BuildEbpf(args) => build_ebpf::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Guests(args) => guests::run(&args),
        Verb::Test(args) => test::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
