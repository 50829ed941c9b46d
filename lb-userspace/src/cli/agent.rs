//! `guidevane agent` and `guidevane agent enroll`: their grammar, and what there is to copy where.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use humantime::format_rfc3339_seconds;

use super::print;
use crate::agent::enroll::{Enrolled, Subject, enroll};
use crate::agent::{self, DEFAULT_PORT};
use crate::config::{AgentConfig, MAX_NAME, is_name};

const AFTER_HELP: &str = "\
It serves xds.service.orca.v3.OpenRcaService/StreamCoreMetrics over mutual TLS. A subscriber names the backend it
means in the header `guidevane-backend` (without it, the file's first) and gets a report at the interval it asks
for, 5 ms at least; the answer's header `guidevane-interval-ms` says which interval that is.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct AgentArgs {
    #[command(subcommand)]
    command: Option<AgentCommand>,
    /// Configuration file of the agent (TOML)
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Make certificates: an authority once, one for each agent, and one for the balancers
    Enroll(EnrollArgs),
}

#[derive(Debug, Args)]
struct EnrollArgs {
    /// Directory of the authority and of everything it signs; keep it where nothing else runs
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Name of a backend that the agent speaks for, as in the balancers' configuration (repeatable)
    #[arg(long = "backend", value_name = "NAME", value_parser = backend_name, required_unless_present = "balancer")]
    backends: Vec<String>,
    /// Address or DNS name by which balancers reach the agent (repeatable); the first names the files
    #[arg(long = "host", value_name = "HOST", required_unless_present = "balancer")]
    hosts: Vec<String>,
    /// Make the certificate that balancers show to agents
    #[arg(long, conflicts_with_all = ["backends", "hosts"])]
    balancer: bool,
    /// Days until the certificate ends
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Make a new certificate and key in place of those that are there; the authority always stays
    #[arg(long)]
    force: bool,
}

fn backend_name(text: &str) -> Result<String, String> {
    let rule = || format!("a backend's name has 1 to {MAX_NAME} characters of a-z, 0-9, `-`, `_` and `.`");
    is_name(text).then(|| text.to_owned()).ok_or_else(rule)
}

pub(super) fn run(args: AgentArgs) -> anyhow::Result<()> {
    match (args.command, args.config) {
        (Some(AgentCommand::Enroll(args)), _) => {
            let subject = match args.balancer {
                true => Subject::Balancer,
                false => Subject::Agent { hosts: args.hosts, backends: args.backends },
            };
            let enrolled = enroll(&args.dir, &subject, args.days, args.force)?;
            print(&told(&args.dir, &subject, &enrolled))
        }
        (None, Some(file)) => agent::run(&AgentConfig::load(&file)?),
        (None, None) => anyhow::bail!("there is no configuration; give it with --config FILE"),
    }
}

/// What was made, where it goes, and what refers to it there.
fn told(directory: &Path, subject: &Subject, enrolled: &Enrolled) -> String {
    let Enrolled { ca, ca_key, new_authority, made } = enrolled;
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{words}");
    };
    if *new_authority {
        line(format_args!("new authority {}", ca.display()));
        line(format_args!("  keep {} here: whoever has it can speak for every backend", ca_key.display()));
    }
    let until = format_rfc3339_seconds(made.until);
    let (whom, place, section) = match subject {
        Subject::Agent { hosts, backends } => {
            line(format_args!("new certificate for the agent of {}, until {until}", backends.join(", ")));
            (format!("to {}", hosts.join(", ")), "/etc/guidevane/agent", "[agent]")
        }
        Subject::Balancer => {
            line(format_args!("new certificate for balancers, until {until}"));
            ("to every balancer".to_owned(), "/etc/guidevane/agents", "[agents]")
        }
    };
    line(format_args!("copy {whom}:"));
    for (from, name) in [(ca, "ca.pem"), (&made.cert, "cert.pem"), (&made.key, "key.pem")] {
        line(format_args!("  {} -> {place}/{name}", from.display()));
    }
    line(format_args!("there, in the configuration:"));
    line(format_args!("  {section}"));
    if let Subject::Agent { .. } = subject {
        line(format_args!("  listen = \"0.0.0.0:{DEFAULT_PORT}\""));
    }
    for name in ["ca", "cert", "key"] {
        line(format_args!("  {name} = \"{place}/{name}.pem\""));
    }
    match subject {
        Subject::Agent { hosts, backends } => {
            for backend in backends {
                line(format_args!("  [[backend]]\n  name = \"{backend}\""));
            }
            line(format_args!("and in the balancers', at each of these backends:"));
            line(format_args!("  agent = \"https://{}\"", authority(hosts)));
            if *new_authority {
                let directory = directory.display();
                line(format_args!(
                    "balancers need one too: guidevane agent enroll --dir {directory} --balancer"
                ));
            }
        }
        Subject::Balancer => {}
    }
    text
}

/// The first host as it stands in a URL.
fn authority(hosts: &[String]) -> String {
    let host = hosts.first().map_or("", String::as_str);
    if host.contains(':') { format!("[{host}]:{DEFAULT_PORT}") } else { format!("{host}:{DEFAULT_PORT}") }
}
