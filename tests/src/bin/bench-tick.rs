//! `bench-tick`: CPU time of the governor's tick, of the whole daemon, and of a real server that it scrapes.
//!
//! `cargo xtask bench tick` builds what it needs and starts it. Needs root: it makes network namespaces.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser;
use guidevane_tests::{
    benchmark,
    upkeep::{self, Plan, report::Report, scraped},
};

/// Measures what the daemon costs by itself, and what it costs a server
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask bench tick")]
struct Args {
    /// Write the figures here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How many backends; may be given several times
    #[arg(long, value_name = "NUMBER", default_values_t = [64, 1000])]
    backends: Vec<usize>,
    /// Period of the governor
    #[arg(long, default_value = "5ms", value_parser = humantime::parse_duration)]
    tick: Duration,
    /// How long usage is counted
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Tell by how much a bound is missed, and take it as it is
    #[arg(long)]
    any_cost: bool,
}

fn main() -> ExitCode {
    benchmark::exit(measure(&Args::parse()))
}

fn measure(args: &Args) -> Result<()> {
    guidevane::daemon::raise_file_limit().context("raise the limit of open files")?;
    let mut report = Report::default();
    for &backends in &args.backends {
        let upkeep = upkeep::run(&Plan { backends, tick: args.tick, time: args.time })
            .with_context(|| format!("{backends} backends"))?;
        println!("{upkeep}");
        report.daemon.push(upkeep);
    }
    report.server = scraped::run(args.tick, args.time).context("a real server")?;
    match &report.server {
        Some(server) => println!("{server}"),
        None => println!("no real server is installed; `cargo xtask setup --peers` does that"),
    }
    benchmark::write_json(args.json.as_deref(), &report)?;
    benchmark::judge(&report.failures(), args.any_cost)
}
