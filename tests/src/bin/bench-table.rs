//! `bench-table`: the flow table under churn and floods, by the real program on traffic made in the kernel.
//!
//! `cargo xtask bench table` builds the kernel object that it needs and starts it. Needs root: it loads XDP programs
//! and makes a network namespace.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use guidevane_tests::benchmark;
use guidevane_tests::storm::{
    bed::{Bed, LOOPBACK},
    churn, flood,
    frames::Flood,
    report::Report,
};

/// Slots of the largest table that is loaded.
const LARGEST: u32 = 1 << 24;

/// Runs the flow table full, and floods it beside streams that must not break
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask bench table")]
struct Args {
    /// Write the figures here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run only these parts
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Slots of the table, a power of two
    #[arg(long, default_value_t = 1 << 21)]
    slots: u32,
    /// Flows of the churn
    #[arg(long, default_value_t = 10_000_000)]
    flows: u64,
    /// Packets of each flood
    #[arg(long, default_value_t = 50_000_000)]
    packets: u64,
    /// Established streams during a flood
    #[arg(long, default_value_t = 10_000)]
    streams: u32,
    /// New connections during a flood, at least
    #[arg(long, default_value_t = 4000)]
    connections: u32,
    /// Tell by how much shares differ during a flood, and take it as it is
    #[arg(long)]
    any_shares: bool,
    /// What all randomness comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A table of 16 M slots is loaded
    Largest,
    /// Flows open, live and end on all CPUs
    Churn,
    /// Floods beside established streams
    Floods,
}

fn main() -> ExitCode {
    benchmark::exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    if !args.slots.is_power_of_two() {
        bail!("{} slots are no power of two", args.slots);
    }
    let mut report = Report::default();
    let mut failures = Vec::new();
    if wanted(Part::Largest) {
        Bed::new(LARGEST, LOOPBACK).with_context(|| format!("a table of {LARGEST} slots"))?;
        println!("largest: a table of {LARGEST} slots is loaded");
        report.largest = Some(LARGEST);
    }
    if wanted(Part::Churn) {
        let plan = churn::Plan { slots: args.slots, flows: args.flows, seed: args.seed };
        let churned = churn::run(&plan).context("churn")?;
        println!("{}", churned.line());
        failures.extend(churned.failures());
        report.churn = Some(churned);
    }
    if wanted(Part::Floods) {
        let plan = flood::Plan {
            slots: args.slots,
            streams: args.streams,
            packets: args.packets,
            connections: args.connections,
            // Some hundreds a second: no flood by themselves, and enough for the governor to go by.
            pause: Duration::from_millis(2),
            seed: args.seed,
        };
        let flooded = flood::run(&plan, &Flood::ALL, |flooded| println!("{}", flooded.line()));
        report.floods = flooded.context("floods")?;
        failures.extend(report.floods.iter().flat_map(flood::Flooded::failures));
        if !args.any_shares {
            failures.extend(report.floods.iter().filter_map(flood::Flooded::unfairness));
        }
    }
    benchmark::write_json(args.json.as_deref(), &report)?;
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}
