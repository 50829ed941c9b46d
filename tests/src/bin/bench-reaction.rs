//! `bench-reaction`: from an event to the first new connection that is steered by it, with the real daemon.
//!
//! `cargo xtask bench reaction` builds what it needs and starts it. Needs root: it makes network namespaces.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use guidevane_tests::reaction::{Plan, run};

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
    match measure(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<()> {
    let report = run(&Plan { rounds: args.rounds, tick: args.tick, rate: args.rate })?;
    println!("{report}");
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(path, text).with_context(|| format!("could not write {}", path.display()))?;
    }
    let failures = report.failures();
    if !failures.is_empty() {
        eprintln!("{}", failures.join("\n"));
        if !args.any_time {
            bail!("a bound is missed");
        }
    }
    Ok(())
}
