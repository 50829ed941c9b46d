//! `backends explain` and `governor`: what the governor does, and why.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};

use super::print;
use crate::{
    api::{Client, Damping, Explanation, GovernorRequest, LimitOrigin, ModeChange, Terms},
    config::GovernorMode,
};

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Name of the backend
    name: String,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Form {
    /// For people
    Table,
    /// Everything, for programs
    Json,
}

#[derive(Debug, Args)]
pub(super) struct GovernorArgs {
    /// What it shall do, until the next restart or reload; without it, say what it does
    #[arg(value_enum)]
    mode: Option<Mode>,
    /// For this VIP alone
    #[arg(long, value_name = "NAME")]
    vip: Option<String>,
    /// Change nothing, only say what would change
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Mode {
    /// Compute costs and show them, while the kernel runs plain least connections
    Observe,
    /// Steer by configured weights and live counts alone
    Static,
    /// Steer by costs
    On,
    /// Leave costs as they are now
    Freeze,
}

impl From<Mode> for GovernorMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Observe => Self::Observe,
            Mode::Static => Self::Static,
            Mode::On => Self::On,
            Mode::Freeze => Self::Freeze,
        }
    }
}

pub(super) fn explain(mut client: Client, args: &ExplainArgs) -> anyhow::Result<()> {
    let explanation = client.explain(&args.name)?;
    match args.output {
        Form::Table => print(&render(&explanation)),
        Form::Json => print(&format!("{}\n", serde_json::to_string_pretty(&explanation)?)),
    }
}

pub(super) fn governor(mut client: Client, args: &GovernorArgs) -> anyhow::Result<()> {
    let wanted = args.mode.map(GovernorMode::from);
    let asked = GovernorRequest { mode: wanted.filter(|_| !args.dry_run), vip: args.vip.clone() };
    let mut text = String::new();
    for ModeChange { vip, before, after } in client.governor(&asked)? {
        let _ = match wanted {
            None => writeln!(text, "{vip}: {before}"),
            Some(wanted) if args.dry_run => writeln!(text, "{vip}: {before} -> {wanted} (not done)"),
            Some(_) => writeln!(text, "{vip}: {before} -> {after}"),
        };
    }
    print(&text)
}

/// One line a term: its value, and where that comes from.
fn render(explanation: &Explanation) -> String {
    let Explanation { slowness, hardware, correction, failed, limit, written, proposed, .. } = explanation;
    let mut text = format!(
        "{} of {}: policy {}, governor {}\n\nTERM         VALUE  WHY\n",
        explanation.backend, explanation.vip, explanation.policy, explanation.governor
    );
    let mut line = |term: &str, value: String, why: &str| {
        let _ = writeln!(text, "{}", format!("{term:<11}{value:>7}  {why}").trim_end());
    };
    let waits = match explanation.waits_for {
        Some(Damping::Deadband) => ", which is too near to move",
        Some(Damping::Slew) => ", on its way",
        None => "",
    };
    line(
        "cost",
        two(written.cost),
        &format!(
            "{} by weight; the factors below: {} of {}{waits}",
            two(explanation.cost_by_weight),
            two(explanation.factor),
            two(explanation.target)
        ),
    );
    line("slowness", two(slowness.factor), &slowness_reason(explanation));
    line(
        "hardware",
        two(hardware.factor),
        &match (hardware.now, hardware.age_seconds) {
            (Some(now), Some(age)) => format!(
                "GPUs say {}, {}; {} when slowness was measured",
                two(now),
                ago(age),
                two(hardware.learned)
            ),
            _ => "nobody reads its GPUs, or too long ago".to_owned(),
        },
    );
    line("saturation", two(explanation.saturation), "KV cache and queue, from its reports");
    line("slow start", two(explanation.slow_start), "above 1 for a while after it comes back");
    line(
        "correction",
        format!("{:+.1}", written.correction),
        &match (correction.reported, correction.age_seconds) {
            (Some(reported), Some(age)) => format!(
                "{reported:+.1} flows beyond ours reported {}; smoothed {:+.1}",
                ago(age),
                correction.smoothed
            ),
            _ => "it does not report its requests".to_owned(),
        },
    );
    if failed.part > 0.0 {
        let others = failed.lifetime_seconds.unwrap_or_default();
        let why = format!("{:.0} % of its flows end at once; others live {others:.2} s", failed.part * 100.0);
        line("failed", format!("{:+.1}", failed.flows), &why);
    }
    line(
        "trust",
        two(explanation.trust.kernel_factor),
        match explanation.trust.bounded {
            false => "by the kernel's signals alone; reports agree, or make it look worse",
            true => {
                "by the kernel's signals alone; reports claim more than twice its share, and are cut to that"
            }
        },
    );
    line(
        "limit",
        limit_of(written),
        match limit.origin {
            LimitOrigin::Unknown => "neither configured nor seen",
            LimitOrigin::Configured => "configured",
            LimitOrigin::Reported => "the server's setting",
            LimitOrigin::Learned => "most that it ran while others waited",
        },
    );
    if let Some(seconds) = explanation.first_progress_seconds {
        line("ttfb", format!("{:.0}", seconds * 1000.0), "ms to first progress, lately");
    }
    if proposed != written {
        let _ = writeln!(
            text,
            "\nIf the governor were on: cost {}, correction {:+.1}, limit {}",
            two(proposed.cost),
            proposed.correction,
            limit_of(proposed)
        );
    }
    text
}

fn slowness_reason(explanation: &Explanation) -> String {
    let slowness = &explanation.slowness;
    match (slowness.measured, slowness.by, slowness.age_seconds) {
        (Some(measured), Some(by), Some(age)) => format!(
            "{} beside the others by {by}, {}; up to {} is noise",
            two(measured),
            ago(age),
            two(slowness.band)
        ),
        _ => "not measured yet".to_owned(),
    }
}

fn two(value: f64) -> String {
    format!("{value:.2}")
}

fn ago(seconds: f64) -> String {
    format!("{seconds:.1} s ago")
}

fn limit_of(terms: &Terms) -> String {
    terms.limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string())
}
