//! `demo`: the same traffic through Guidevane, round robin and least connections, on simulated GPUs and real packets.
//!
//! `cargo xtask demo` builds and starts it. Needs root: it makes network namespaces and loads XDP programs.

mod chart;
mod contest;
mod interrupt;
mod report;
mod scenario;
mod view;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Parser;
use guidevane_tests::bed::Topology;

use crate::{
    contest::{Contest, Contestant},
    interrupt::{Interrupt, Interrupted},
    report::Comparison,
    scenario::{Preload, Scenario},
};

/// Sends the same traffic to simulated inference servers through Guidevane, round robin and least connections
///
/// Servers are of unequal speed and half of them are loaded from outside. GPUs are simulated; connections, packets,
/// the XDP program and the daemon are real.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask demo")]
pub struct Args {
    /// Seconds to measure in each run; with a trace, seconds that its requests are spread over
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Seconds before that, in which queues fill
    #[arg(long, default_value_t = 8)]
    warm_up: u32,
    /// Simulated servers
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=64))]
    servers: u32,
    /// What loads half of the servers from outside
    #[arg(long, value_enum, default_value_t = Preload::Rate)]
    preload: Preload,
    /// Replay a trace (Azure's CSV or Mooncake's JSON lines) in an open loop instead of a closed one
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Seed of the traffic
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write the figures here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the chart here instead of to `target/demo.svg`
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// What shells give a command that Ctrl-C ended.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("{error}: network, servers and daemon are gone");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let scenario = Scenario::new(args)?;
    let interrupt = Interrupt::listen()?;
    println!("{scenario}");
    let bed = Topology::one_arm(scenario.servers()).context("could not make the network")?;
    let contest = Contest { bed: &bed, scenario: &scenario, interrupt: &interrupt };
    let mut runs = Vec::new();
    for contestant in Contestant::ALL {
        interrupt.check()?;
        let outcome = contest.run(contestant);
        // Ctrl-C reaches the daemon too; that it has ended is then no failure.
        interrupt.check()?;
        runs.push(outcome.with_context(|| format!("the run of {contestant} failed"))?);
    }
    drop(bed);
    let comparison = Comparison { runs };
    println!("{comparison}\n{}", scenario.fine_print());
    let chart = args.svg.clone().map_or_else(default_chart, Ok)?;
    write(&chart, &chart::svg(&comparison))?;
    println!("chart: {}", chart.display());
    if let Some(path) = &args.json {
        write(path, &(serde_json::to_string_pretty(&comparison)? + "\n"))?;
    }
    match comparison.failed() {
        0 => Ok(()),
        failed => bail!("{failed} requests failed"),
    }
}

/// `demo.svg` in cargo's target folder, which this program lies two levels below.
fn default_chart() -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("could not find this program")?;
    Ok(own.ancestors().nth(2).unwrap_or(Path::new(".")).join("demo.svg"))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
