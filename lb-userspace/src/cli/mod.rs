//! The command line: its grammar, its exit codes and where output goes. Views only; the daemon does the work and
//! is handed in as a function.

mod agent;
mod decap;
mod doctor;
mod explain;
mod flows;
mod gpu;
mod manual;
mod recording;
mod shares;
mod sim;
mod status;
mod table;
mod trace;
mod view;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::api::{Change, Client};
use crate::config::{Config, ConfigError, DEFAULT_SOCKET};
use view::View;

/// Something failed; the message says what.
const EXIT_FAILURE: u8 = 1;
/// What was given is wrong and stays so when tried again; clap's own code for a wrong command line.
const EXIT_USAGE: u8 = 2;

const AFTER_HELP: &str = "\
Exit codes:
  0  success
  1  failure: the daemon cannot be reached or refused, or the system did
  2  wrong command line or configuration; trying again will not help";

/// A kernel load balancer for AI inference.
#[derive(Debug, Parser)]
#[command(name = "guidevane", version, after_help = AFTER_HELP)]
struct Cli {
    /// Admin socket of the daemon; for `run` it overrides the configuration's
    ///
    /// Without it, `run` takes the configuration's and the others /run/guidevane/guidevane.sock.
    #[arg(long, global = true, value_name = "PATH", env = "GUIDEVANE_SOCKET")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground until SIGTERM
    Run {
        /// Configuration file (TOML)
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Show VIPs and backends with their live load, cost, share of new flows and health
    Status(View),
    /// List VIPs
    Vips(View),
    /// Say which backend a client's next connection would get, and why
    Explain(flows::ExplainArgs),
    /// Show which backends a VIP's Maglev table leads to, and how many slots moved last
    Table(shares::TableArgs),
    /// List the flow table, or say where one flow is
    Flows(flows::FlowsArgs),
    /// Show new flows as they come: the candidates, their loads, the pick and why
    Trace(trace::TraceArgs),
    /// Compare policies on a simulated cluster, in virtual time, or on what a daemon has seen
    Sim(Box<sim::SimArgs>),
    /// On a backend: unpack the packets of `tunnel` mode, where the kernel has no tunnel device
    Decap(decap::DecapArgs),
    /// Show what the driver of this host's GPUs tells
    Gpu(gpu::GpuArgs),
    /// On a GPU host: report on its servers and GPUs to balancers elsewhere (ORCA over gRPC)
    Agent(agent::AgentArgs),
    /// List backends, explain them, take them out of service and put them back
    #[command(args_conflicts_with_subcommands = true)]
    Backends(BackendsArgs),
    /// Say what the governor does for VIPs, and change it
    Governor(explain::GovernorArgs),
    /// Say whether this host can do what a configuration wants, and what to do where it cannot
    Doctor(doctor::DoctorArgs),
    /// Print what a shell needs to complete this command line
    Completions(manual::CompletionsArgs),
    /// Print this manual page, or write those of all commands to a folder
    Man(manual::ManArgs),
    /// Work on a configuration file without a daemon
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Args)]
struct BackendsArgs {
    #[command(subcommand)]
    command: Option<BackendsCommand>,
    #[command(flatten)]
    view: View,
}

#[derive(Debug, Subcommand)]
enum BackendsCommand {
    /// Say why a backend costs what it costs
    Explain(explain::ExplainArgs),
    /// Send a backend no new flows; those it has stay
    Drain {
        /// Name of the backend
        name: String,
    },
    /// Send a drained backend new flows again
    Resume {
        /// Name of the backend
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether a file is right, and if not what and where
    Check {
        /// Configuration file (TOML)
        file: PathBuf,
    },
}

/// The reader of standard output has gone away (`guidevane status | head`), which is no failure.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
struct OutputClosed;

/// Runs the command line; `run` is the daemon, called with a good configuration and its file, and returns when it has stopped.
pub fn main(run: impl FnOnce(Config, &Path) -> anyhow::Result<()>) -> ExitCode {
    let Err(error) = dispatch(Cli::parse(), run) else { return ExitCode::SUCCESS };
    if error.is::<OutputClosed>() {
        return ExitCode::SUCCESS;
    }
    // With standard error gone too there is nowhere left to report to.
    let _ = writeln!(io::stderr(), "error: {error:#}");
    ExitCode::from(if error.is::<ConfigError>() { EXIT_USAGE } else { EXIT_FAILURE })
}

fn dispatch(cli: Cli, run: impl FnOnce(Config, &Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let socket = cli.socket.as_deref();
    let connect = || Client::connect(socket.unwrap_or(Path::new(DEFAULT_SOCKET)));
    match cli.command {
        Command::Run { config: file } => {
            let mut config = Config::load(&file)?;
            if let Some(socket) = socket {
                config.daemon.socket = socket.to_owned();
            }
            run(config, &file)
        }
        Command::Status(view) => {
            let mut client = connect()?;
            view.show(|| Ok(client.status()?), status::render)
        }
        Command::Vips(view) => {
            let mut client = connect()?;
            view.show(|| Ok(client.status()?.vips), |vips, _, colour| status::render_vips(vips, colour))
        }
        Command::Explain(args) => flows::explain(connect()?, &args),
        Command::Table(args) => shares::run(connect()?, &args),
        Command::Flows(args) => flows::flows(connect()?, &args),
        Command::Trace(args) => trace::run(connect()?, &args),
        Command::Gpu(args) => gpu::run(&args, io::stdout().is_terminal() && colour_wanted()),
        Command::Doctor(args) => doctor::run(&args, io::stdout().is_terminal() && colour_wanted()),
        Command::Completions(args) => manual::completions(Cli::command(), &args),
        Command::Man(args) => manual::man(Cli::command(), &args),
        Command::Sim(args) => sim::run(&args, connect),
        Command::Decap(args) => decap::run(&args),
        Command::Governor(args) => explain::governor(connect()?, &args),
        Command::Backends(args) => backends(connect()?, &args),
        Command::Agent(args) => agent::run(args),
        Command::Config(ConfigCommand::Check { file }) => check(&file),
    }
}

fn backends(mut client: Client, args: &BackendsArgs) -> anyhow::Result<()> {
    match &args.command {
        None => args.view.show(
            || Ok(status::backends_of(client.status()?)),
            |it, wide, colour| status::render_backends(it, wide, colour),
        ),
        Some(BackendsCommand::Explain(args)) => explain::explain(client, args),
        Some(BackendsCommand::Drain { name }) => print_change(&client.drain(name)?),
        Some(BackendsCommand::Resume { name }) => print_change(&client.resume(name)?),
    }
}

fn print_change(change: &Change) -> anyhow::Result<()> {
    let Change { backend, before, after } = change;
    print(&format!("{backend}: {before} -> {after}\n"))
}

fn check(file: &Path) -> anyhow::Result<()> {
    let config = Config::load(file)?;
    let count = |number: usize, one: &str| format!("{number} {one}{}", if number == 1 { "" } else { "s" });
    let interfaces = count(config.interfaces.len(), "interface");
    let vips = count(config.vips.len(), "VIP");
    let backends = count(config.vips.iter().map(|vip| vip.backends.len()).sum(), "backend");
    print(&format!("{}: good: {interfaces}, {vips}, {backends}\n", file.display()))
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        result => Ok(result?),
    }
}

/// The conventions of <https://no-color.org> and of terminals that can do nothing.
fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;

    use clap::{CommandFactory as _, Parser as _};

    use super::{Cli, DEFAULT_SOCKET, dispatch};

    const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/guidevane.toml");

    fn run(arguments: &[&str], hook: impl FnOnce(super::Config)) -> anyhow::Result<()> {
        let cli = Cli::try_parse_from(["guidevane"].iter().chain(arguments))?;
        dispatch(cli, |config, _| {
            hook(config);
            anyhow::bail!("the daemon's own error")
        })
    }

    #[test]
    fn run_hands_the_config_over_with_the_socket_of_the_command_line() {
        let called = Cell::new(false);
        let result = run(&["run", "--config", EXAMPLE, "--socket", "x.sock"], |config| {
            assert_eq!(config.daemon.socket, Path::new("x.sock"));
            assert_eq!(config.vips.len(), 3);
            called.set(true);
        });
        assert!(called.get(), "the daemon was not started");
        assert_eq!(result.unwrap_err().to_string(), "the daemon's own error");
    }

    #[test]
    fn run_starts_nothing_on_a_bad_config() {
        let result = run(&["run", "--config", "/dev/null"], |_| panic!("started"));
        assert_eq!(
            result.unwrap_err().to_string().split(';').next(),
            Some("/dev/null:1:1: no interface is configured")
        );
    }

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_the_real_default_socket() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains(DEFAULT_SOCKET), "{help}");
    }
}
