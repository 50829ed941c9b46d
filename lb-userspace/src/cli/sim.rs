//! `guidevane sim`: policies compared in virtual time, on a simulated cluster or on a recording.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::{
    recording::{self, RecordingArgs},
    view::Form,
};
use crate::{
    api::{Client, ClientError},
    sim::{Cluster, Policy, PreLoad, Reports, Study, trace},
};

/// GPUs that one replay of the trace is for; more get more replays at once, up to the other number.
const GPUS_A_COPY: usize = 8;
const MOST_COPIES: usize = 8;

const AFTER_HELP: &str = "\
Policies:
  round-robin, random, hash, least-connections (over all), least-connections-d (over the candidates drawn),
  power-of-two, power-of-two-5s (known from a poll every 5 s), weights (inverse load, each tick),
  epp (queue and KV scorer, scraped every 50 ms), prequal, live-counts (static costs), guidevane,
  and oracles: oracle-speeds, oracle-awaiting, oracle-ttft, oracle-latency

Clusters:
  equal      H100s
  straggler  the same, a quarter of them at 0.4 for 20 s of every minute
  mixed      H100s at 1, 0.6 and 0.35 of their speed, 3, 3 and 2 of eight
  profiles   4 H100, 2 A100 and 2 L40S of eight
  FILE       TOML, tables of [[gpu]]: profile, count, rate, slots, foreign, changes = [[seconds, rate], ..]

Figures are medians over the seeds. A seed draws where in the trace a replay begins, hashes of flows, phases of
scrapes and ticks, lost reports and when stragglers are slow; every policy gets the same seeds.

Recordings:
  --record asks a running daemon for all that its governor sees and writes; --replay asks what as-written (a check),
  round-robin, hash, least-connections (governor observe), live-counts (static) and guidevane (on) would have made
  of it. It is one step at a time: each new flow meets the live flows that were really there, and where a policy
  would have led in the long run, or to which times to first token, is not known.";

/// What to simulate.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct SimArgs {
    /// Requests to replay: Azure's CSV or Mooncake's JSON lines
    #[arg(long, value_name = "FILE", required_unless_present_any = ["record", "replay"])]
    trace: Option<PathBuf>,
    #[command(flatten)]
    recording: RecordingArgs,
    /// equal, straggler, mixed, profiles or a file
    #[arg(long, default_value = "equal", value_name = "NAME|FILE")]
    cluster: String,
    /// Number of GPUs; 8, or the file's own, without
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    gpus: Option<u16>,
    /// Request rate as a part of the rate that saturates the servers, which is measured first
    #[arg(long, default_value_t = 0.85, value_parser = load)]
    load: f64,
    /// Runs of each policy
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Policies by name, or all
    #[arg(long, default_value = "all", value_delimiter = ',', value_name = "NAME")]
    policy: Vec<String>,
    /// Replays of the trace at once; one for each 8 GPUs, 8 at most, without
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    copies: Option<u16>,
    /// Balancers that share the GPUs and do not talk to each other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    balancers: u32,
    /// Load from elsewhere on every second GPU: foreign:REQUESTS (queues show it) or slow:RATE (nothing does)
    #[arg(long)]
    preload: Option<PreLoad>,
    /// Time between two scrapes of a server
    #[arg(long, default_value = "250ms", value_parser = period, value_name = "TIME")]
    report_interval: Duration,
    /// How much later a report is heard
    #[arg(long, default_value = "0ms", value_parser = humantime::parse_duration, value_name = "TIME")]
    report_delay: Duration,
    /// Part of the reports that is lost, 0 to 1
    #[arg(long, default_value_t = 0.0, value_parser = part)]
    report_loss: f64,
    /// Requests on a connection, as a mean; more than 1 keeps connections open for 5 s
    #[arg(long, default_value_t = 1.0, value_parser = requests)]
    requests_per_connection: f64,
    /// Part of the time, at the start, that is not measured
    #[arg(long, default_value_t = 0.1, value_parser = part)]
    warm_up: f64,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the figures
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn number(text: &str, from: f64, to: f64) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (from..=to).contains(number));
    number.ok_or_else(|| format!("not a number from {from} to {to}"))
}

fn load(text: &str) -> Result<f64, String> {
    number(text, 0.01, 10.0)
}

fn part(text: &str) -> Result<f64, String> {
    number(text, 0.0, 0.99)
}

fn requests(text: &str) -> Result<f64, String> {
    number(text, 1.0, 1e6)
}

pub(super) fn period(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time.is_zero() { Err("must be above zero".to_owned()) } else { Ok(time) }
}

pub(super) fn run(
    args: &SimArgs,
    connect: impl FnOnce() -> Result<Client, ClientError>,
) -> anyhow::Result<()> {
    if let Some(file) = &args.recording.record {
        return recording::record(connect()?, file, &args.recording);
    }
    if let Some(file) = &args.recording.replay {
        let replay = recording::replay(file, &args.policy)?;
        return show(args, || replay.table(), &replay);
    }
    let Some(trace) = &args.trace else { unreachable!("the grammar asks for one of the three") };
    simulate(args, trace)
}

fn simulate(args: &SimArgs, trace: &Path) -> anyhow::Result<()> {
    let study = study(args, trace)?;
    let watched = io::stderr().is_terminal();
    let report = study.run(|done, all| {
        if watched {
            // A progress line that cannot be shown is not missed.
            let _ = write!(io::stderr(), "\r{done} of {all} runs{}", if done == all { "\n" } else { "" });
        }
    })?;
    if let Some(file) = &args.svg {
        let title = format!("{}, load {}, {} GPUs", args.cluster, args.load, args.gpus.unwrap_or(8));
        fs::write(file, report.svg(&title)).with_context(|| format!("write {}", file.display()))?;
    }
    show(args, || report.table(), &report)
}

/// Prints figures, and writes them where they are wanted.
fn show(args: &SimArgs, table: impl FnOnce() -> String, figures: &impl Serialize) -> anyhow::Result<()> {
    let json = || serde_json::to_string_pretty(figures).map(|text| text + "\n");
    if let Some(file) = &args.json {
        fs::write(file, json()?).with_context(|| format!("write {}", file.display()))?;
    }
    super::print(&match args.output {
        Form::Table => table(),
        Form::Json => json()?,
    })
}

fn study(args: &SimArgs, trace: &Path) -> anyhow::Result<Study> {
    let gpus = args.gpus.map(usize::from);
    let copies = args
        .copies
        .map_or_else(|| gpus.map_or(1, |gpus| (gpus / GPUS_A_COPY).clamp(1, MOST_COPIES)), usize::from);
    Ok(Study {
        trace: trace::read(trace, 1.0)?,
        copies,
        cluster: Cluster::load(&args.cluster)?,
        gpus,
        pre_load: args.preload,
        load: args.load,
        seeds: args.seeds,
        policies: chosen(&args.policy, &Policy::ALL)?,
        balancers: args.balancers,
        reports: Reports {
            interval: args.report_interval,
            delay: args.report_delay,
            loss: args.report_loss,
            end: None,
        },
        requests_per_connection: args.requests_per_connection,
        warm_up: args.warm_up,
    })
}

/// What names mean, each once; `all` means all.
pub(super) fn chosen<T>(names: &[String], all: &[T]) -> Result<Vec<T>, T::Err>
where
    T: Copy + PartialEq + FromStr,
{
    let mut chosen = Vec::new();
    for name in names {
        let more = if name == "all" { all.to_vec() } else { vec![name.parse()?] };
        for one in more {
            if !chosen.contains(&one) {
                chosen.push(one);
            }
        }
    }
    Ok(chosen)
}
