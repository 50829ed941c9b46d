//! `bench-packet`: nanoseconds a packet, ours beside a reference, case by case.
//!
//! `cargo xtask bench packet` builds the kernel object that it needs and starts it. Needs root: it loads XDP programs.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use guidevane_tests::bench::{
    bed::{Bed, HARNESS, NOP},
    cases,
    measure::{Effort, alone, measure},
    report::{self, Line, Report},
};
use guidevane_tests::benchmark;

/// Times the packet path in the kernel's own test run, net of the harness, beside a reference in the same run
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask bench packet")]
struct Args {
    /// Write the figures here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run only cases whose name contains one of these
    #[arg(long, value_name = "SUBSTRING")]
    only: Vec<String>,
    /// Leave out cases whose name contains one of these
    #[arg(long, value_name = "SUBSTRING")]
    skip: Vec<String>,
    /// Rounds; figures are medians of these
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Packets of a run; of cases in which each flow is met once, no more than there are flows
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// CPU to stay on instead of the last one
    #[arg(long)]
    cpu: Option<u32>,
    /// Name the cases instead of running them
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    benchmark::exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let has = |name: &str, parts: &[String]| parts.iter().any(|part| name.contains(part.as_str()));
    let wanted = |name: &str| args.only.is_empty() || has(name, &args.only);
    let mut cases = cases::all(&guidevane_tests::bench::services::all());
    cases.retain(|case| wanted(&case.name) || case.kernel_name.is_some_and(wanted));
    cases.retain(|case| !has(&case.name, &args.skip));
    if cases.is_empty() {
        bail!("no case is left; without `--only` and `--skip`, `--list` names them all");
    }
    if args.list {
        for case in &cases {
            println!("{}", case.name);
        }
        return Ok(());
    }
    let mut bed = Bed::new(args.cpu)?;
    let effort = Effort { rounds: args.rounds, repeat: args.repeat };
    let (nop, harness) = (alone(&mut bed, NOP, effort)?, alone(&mut bed, HARNESS, effort)?);
    println!("{}", report::heading(&bed.programs, nop, harness));
    let mut report = Report { harness_ns: harness.median, cases: Vec::new() };
    for case in &cases {
        let measured = measure(&mut bed, case, effort).with_context(|| format!("case {}", case.name))?;
        println!("{}", report::line(case, &measured));
        report.cases.push(Line::new(case, &measured));
    }
    benchmark::write_json(args.json.as_deref(), &report)?;
    let wrong = report.cases.iter().filter(|case| !case.wrong.is_empty()).count();
    if wrong > 0 {
        bail!("{wrong} cases are not what their names say: their figures mean nothing");
    }
    Ok(())
}
