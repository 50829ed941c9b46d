//! `bench-reaction`: from an event to the first new connection that is steered by it, with the real daemon.
//!
//! `cargo xtask bench reaction` builds what it needs and starts it. Needs root: it makes network namespaces.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Parser;
use guidevane_tests::{
    benchmark,
    reaction::{Plan, run},
};

/// Measures how soon new connections are steered by an XID, a throttled clock and a drain
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask bench reaction")]
struct Args {
    /// Write the figures here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Times that each thing happens
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Period of the governor
    #[arg(long, default_value = "5ms", value_parser = humantime::parse_duration)]
    tick: Duration,
    /// Connections a second
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// Tell by how much a bound is missed, and take it as it is
    #[arg(long)]
    any_time: bool,
}

fn main() -> ExitCode {
    benchmark::exit(measure(&Args::parse()))
}

fn measure(args: &Args) -> Result<()> {
    let report = run(&Plan { rounds: args.rounds, tick: args.tick, rate: args.rate })?;
    println!("{report}");
    benchmark::write_json(args.json.as_deref(), &report)?;
    benchmark::judge(&report.failures(), args.any_time)
}
