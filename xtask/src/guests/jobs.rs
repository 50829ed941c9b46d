//! What guests run: programs and tests of the workspace, built as for this machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{
    process::{find_program, run as run_command},
    workspace,
};

/// One job of a guest.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Its name.
    pub name: &'static str,
    /// The binary of the test package that it starts.
    binary: Binary,
    arguments: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Binary {
    /// A program.
    Program(&'static str),
    /// Integration tests.
    Tests(&'static str),
}

/// Loads every program of the kernel object and attaches it.
pub const LOAD: Job = Job { name: "load", binary: Binary::Program("guest-load"), arguments: "" };

/// Jobs that run when none is named, in order.
const USUAL: [Job; 6] = [
    LOAD,
    // Real connections through the real daemon, over IPv4 and IPv6.
    Job { name: "l2", binary: Binary::Tests("steering"), arguments: "curl_streams_through_l2" },
    Job { name: "nat", binary: Binary::Tests("steering"), arguments: "curl_streams_through_nat" },
    Job { name: "tunnel", binary: Binary::Tests("steering"), arguments: "tunnels::" },
    // The next daemon takes over program and maps, and the kernel steers meanwhile.
    Job { name: "pins", binary: Binary::Tests("steering"), arguments: "pinned_state" },
    // Which build is taken, with pins and without.
    Job { name: "builds", binary: Binary::Tests("steering"), arguments: "builds::" },
];

/// Jobs that run only when they are named: each of their tests loads the object anew, which takes seconds here.
const LONG: [Job; 1] = [
    // Packet by packet, but for what compares figures that old kernels do not tell.
    Job { name: "packets", binary: Binary::Tests("packets"), arguments: "--skip crowd:: --skip program::" },
];

/// The package of all binaries but the daemon.
const PACKAGE: &str = "guidevane-tests";
/// What the test bed and tests call.
const TOOLS: [&str; 3] = ["ip", "ethtool", "curl"];

impl Job {
    /// The command line in the guest.
    pub fn command(&self) -> String {
        let arguments = self.arguments;
        match self.binary {
            Binary::Program(name) => format!("/programs/{name} {arguments}"),
            // Beds of one guest at the same time would only make each other slower.
            Binary::Tests(name) => format!("/programs/{name} --include-ignored --test-threads=1 {arguments}"),
        }
    }
}

/// The jobs of these names, the usual ones for none.
///
/// # Errors
/// There is no job of a name.
pub fn named(names: &[String]) -> Result<Vec<Job>> {
    if names.is_empty() {
        return Ok(USUAL.to_vec());
    }
    let all = || USUAL.into_iter().chain(LONG);
    let find = |name: &String| {
        let known = || all().map(|job| job.name).collect::<Vec<_>>().join(", ");
        all().find(|job| job.name == name).with_context(|| format!("no job {name}; there are {}", known()))
    };
    names.iter().map(find).collect()
}

/// Builds what the jobs need; gives each program's path in a guest and its file here.
///
/// # Errors
/// The build fails or a tool is missing.
pub fn programs(jobs: &[Job]) -> Result<Vec<(String, PathBuf)>> {
    let mut build = cargo("build");
    build.args(["--package", PACKAGE]);
    for binary in jobs.iter().map(|job| job.binary).collect::<BTreeSet<_>>() {
        match binary {
            Binary::Program(name) => build.args(["--bin", name]),
            Binary::Tests(name) => build.args(["--test", name]),
        };
    }
    let mut programs = built(&mut build)?;
    if jobs.iter().any(|job| matches!(job.binary, Binary::Tests(_))) {
        programs.extend(built(cargo("build").args(["--package", "guidevane", "--bin", "guidevane"]))?);
    }
    for tool in TOOLS {
        let path =
            find_program(tool, &[]).with_context(|| format!("{tool} is missing; run `cargo xtask setup`"))?;
        programs.insert(format!("/tools/{tool}"), path);
    }
    Ok(programs.into_iter().collect())
}

fn cargo(verb: &str) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root()).args([verb, "--locked"]);
    cargo
}

/// The part of cargo's messages that is read.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Runs a build and gives what it made.
fn built(build: &mut Command) -> Result<BTreeMap<String, PathBuf>> {
    run_command(build)?;
    // Nothing is left to build, so nothing is said but what lies where.
    let output = build.arg("--message-format=json").output().context("could not start cargo")?;
    if !output.status.success() {
        bail!("cargo failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout).context("cargo's messages are no text")?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let program =
        |message: Message| Some((format!("/programs/{}", message.target?.name), message.executable?));
    Ok(messages.filter_map(program).collect())
}
