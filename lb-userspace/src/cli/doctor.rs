//! `guidevane doctor`: what it is given, and its findings as a table or for programs.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::table::{Cell, Colour, cell, cell_or_nothing, table, words};
use super::view::Form;
use crate::config::{Config, DEFAULT_FILE};
use crate::doctor::{Finding, Verdict, examine, gather};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Configuration file (TOML) to look at the host with
    ///
    /// Without it, /etc/guidevane/guidevane.toml where that is there, and else only what holds for every
    /// configuration is looked at.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

/// All findings, for programs.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// The gravest of them.
    verdict: Verdict,
    findings: &'a [Finding],
}

pub(super) fn run(args: &DoctorArgs, colour: bool) -> anyhow::Result<()> {
    let default = Some(Path::new(DEFAULT_FILE)).filter(|file| file.exists());
    let config = args.config.as_deref().or(default).map(Config::load).transpose()?;
    let findings = examine(&gather(config.as_ref())?);
    super::print(&match args.output {
        Form::Table => render(&findings, colour),
        Form::Json => serde_json::to_string_pretty(&report(&findings))? + "\n",
    })?;
    match findings.iter().filter(|finding| finding.verdict == Verdict::Fail).count() {
        0 => Ok(()),
        1 => anyhow::bail!("one thing will not work"),
        count => anyhow::bail!("{count} things will not work"),
    }
}

fn report(findings: &[Finding]) -> Report<'_> {
    let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    Report { verdict, findings }
}

fn render(findings: &[Finding], colour: bool) -> String {
    let columns = [
        words("VERDICT", |finding: &Finding| verdict(finding.verdict)),
        words("SUBJECT", |finding| cell(&finding.subject)),
        words("SEEN", |finding| cell(&finding.seen)),
        words("REMEDY", |finding| cell_or_nothing(finding.remedy.as_ref())),
    ];
    table(&columns, findings.iter(), colour)
}

fn verdict(verdict: Verdict) -> Cell {
    let colour = match verdict {
        Verdict::Ok => Colour::Green,
        Verdict::Warn => Colour::Yellow,
        Verdict::Fail => Colour::Red,
    };
    Cell::coloured(verdict.name(), colour)
}

#[cfg(test)]
mod tests {
    use super::{render, report};
    use crate::doctor::{Finding, Verdict};

    fn findings() -> [Finding; 2] {
        let finding = |subject: &str, verdict, seen: &str, remedy: Option<&str>| Finding {
            subject: subject.to_owned(),
            verdict,
            seen: seen.to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        [
            finding("kernel", Verdict::Ok, "6.12.0", None),
            finding("JIT", Verdict::Warn, "off", Some("sysctl -w net.core.bpf_jit_enable=1")),
        ]
    }

    #[test]
    fn each_finding_is_a_line() {
        let expected = "\
VERDICT  SUBJECT  SEEN    REMEDY
OK       kernel   6.12.0  -
WARN     JIT      off     sysctl -w net.core.bpf_jit_enable=1
";
        assert_eq!(render(&findings(), false), expected);
    }

    #[test]
    fn programs_get_the_gravest_verdict_and_every_finding() {
        let expected = serde_json::json!({
            "verdict": "warn",
            "findings": [
                { "subject": "kernel", "verdict": "ok", "seen": "6.12.0", "remedy": null },
                { "subject": "JIT", "verdict": "warn", "seen": "off", "remedy": "sysctl -w net.core.bpf_jit_enable=1" },
            ],
        });
        assert_eq!(serde_json::to_value(report(&findings())).expect("JSON"), expected);
    }
}
