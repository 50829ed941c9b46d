//! `setup`: what building and testing need beyond stable Rust.
//!
//! Only what is missing is installed, from the distribution and from the crate registry; nothing is upgraded.

use std::{
    env,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use crate::{
    peers,
    process::{cargo_bin, cargo_home, find_program, outside_cargo, run as run_command},
    toolchain::{probe, usable},
};

/// Programs that the tests and the demo call, and the Debian package of each.
const TEST_TOOLS: [(&str, &str); 3] = [("ip", "iproute2"), ("ethtool", "ethtool"), ("curl", "curl")];

/// Programs that check the units and the package; tests without them say so.
const SERVICE_TOOLS: [(&str, &str); 2] = [("systemd-analyze", "systemd"), ("setpriv", "util-linux")];

/// The compiler with the standard library's sources, and what bpf-linker is built from.
const TOOLCHAIN_PACKAGES: [&str; 8] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "llvm-22-dev",
    "libpolly-22-dev",
    "libzstd-dev",
    "zlib1g-dev",
    "g++",
];
/// Newer linkers want a newer LLVM than Debian has, and a linker's bugs reach the object: pinned.
const LINKER_VERSION: &str = "0.13.0";
const LINKER_LLVM: &str = "llvm-22";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Arguments of `setup`.
#[derive(clap::Args)]
pub struct Args {
    /// Install the real inference servers that tests use if they are there: a download of 70 MB, 400 MB on disk
    #[arg(long)]
    peers: bool,
}

/// Runs the verb.
///
/// # Errors
/// Something is missing and cannot be installed; the message has the command that would.
pub fn run(args: &Args) -> Result<()> {
    test_tools()?;
    apt_install(&missing(&SERVICE_TOOLS))?;
    ebpf_toolchain()?;
    if args.peers {
        peers::install()?;
    }
    println!("everything needed is installed");
    Ok(())
}

/// Installs the programs that tests and the demo call.
///
/// # Errors
/// One is missing and cannot be installed.
pub fn test_tools() -> Result<()> {
    apt_install(&missing(&TEST_TOOLS)).context("the tests need the programs ip, ethtool and curl")
}

/// The packages of those programs that are not there.
fn missing(tools: &[(&str, &'static str)]) -> Vec<&'static str> {
    let missing = tools.iter().filter(|(program, _)| find_program(program, &[]).is_none());
    missing.map(|(_, package)| *package).collect()
}

fn ebpf_toolchain() -> Result<()> {
    if usable(&probe()).is_ok() {
        return Ok(());
    }
    let missing: Vec<&str> =
        TOOLCHAIN_PACKAGES.into_iter().filter(|package| !is_installed(package)).collect();
    apt_install(&missing).context(
        "building the kernel object needs rustc and cargo with rust-src (rustup's nightly, or Debian's \
         rustc-web, cargo-web and rust-web-src) and bpf-linker 0.13 with LLVM 22",
    )?;
    if find_program("bpf-linker", cargo_bin().as_slice()).is_none() {
        install_linker()?;
    }
    usable(&probe())
        .map_err(|reasons| anyhow::anyhow!("still no eBPF tool chain: {}", reasons.join("; ")))?;
    Ok(())
}

fn install_linker() -> Result<()> {
    let mut cargo = outside_cargo(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked"]);
    cargo.args(["--no-default-features", "--features", LINKER_LLVM]);
    if let Some(home) = cargo_home() {
        cargo.arg("--root").arg(home);
    }
    // Without it the linker's build takes the first llvm-config in PATH and looks for libraries beside that.
    run_command(cargo.env("LLVM_PREFIX", LLVM_PREFIX))
}

/// Installs packages; with none it does nothing and needs nothing.
///
/// # Errors
/// They are missing and cannot be installed; the message has the command that would.
pub fn apt_install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if find_program("apt-get", &[]).is_none() {
        bail!("missing: {list} (names of Debian packages); this system has no apt-get, install their equals");
    }
    if !geteuid().is_root() {
        bail!("missing: {list}; install them with `sudo apt-get install {list}`");
    }
    // A machine that has never looked has no package lists, one that looked long ago has stale ones.
    if run_command(&mut install_command(packages)).is_err() {
        run_command(apt_get().arg("update"))?;
        run_command(&mut install_command(packages))
            .with_context(|| format!("apt could not install {list}; does this distribution have them?"))?;
    }
    Ok(())
}

fn install_command(packages: &[&str]) -> Command {
    let mut command = apt_get();
    command.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    command
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet=2").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

fn is_installed(package: &str) -> bool {
    let status = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output();
    status.is_ok_and(|output| output.stdout == b"installed")
}
