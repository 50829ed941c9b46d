//! Child processes whose failure names the command.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

/// Prints the command, runs it with inherited output and fails unless it ends with success.
///
/// # Errors
/// The command cannot be started or ends with another status than zero.
pub fn run(command: &mut Command) -> Result<()> {
    let line = display(command);
    eprintln!("+ {line}");
    let status = command.status().with_context(|| format!("could not start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// Runs the command and fails, with what it said, unless it ends with success.
///
/// # Errors
/// The command cannot be started or ends with another status than zero.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    let line = display(command);
    let output = command.output().with_context(|| format!("could not start `{line}`"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("`{line}` ended with {}: {}", output.status, String::from_utf8_lossy(&said).trim());
    }
    Ok(())
}

/// The trimmed standard output of a command, `None` when it cannot be started or fails.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The first executable of this name in `PATH` or in one of the `extra` folders.
pub fn find_program(name: &str, extra: &[PathBuf]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(extra.iter().cloned()).map(|folder| folder.join(name)).find(|p| p.is_file())
}

/// The folder that `cargo install` writes to, which `PATH` may lack.
pub fn cargo_bin() -> Option<PathBuf> {
    cargo_home().map(|home| home.join("bin"))
}

/// Cargo's home folder.
pub fn cargo_home() -> Option<PathBuf> {
    let home = || env::home_dir().map(|home| home.join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}

/// A command free of the tool chain and flags that started this program, so that it chooses its own.
pub fn outside_cargo(program: impl AsRef<Path>) -> Command {
    const INHERITED: [&str; 6] =
        ["CARGO", "CARGO_ENCODED_RUSTFLAGS", "LD_LIBRARY_PATH", "RUSTC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"];
    let mut command = Command::new(program.as_ref());
    for name in INHERITED {
        command.env_remove(name);
    }
    command
}

/// The variable that has cargo start what it built as root, for a `verb` that makes network namespaces and loads XDP
/// programs; `None` when cargo is root's already.
///
/// So cargo builds as the user, who keeps owning `target`, and sudo starts only what needs it.
///
/// # Errors
/// There is no sudo, or it refuses.
pub fn root_runner(verb: &str) -> Result<Option<(String, &'static str)>> {
    if geteuid().is_root() {
        return Ok(None);
    }
    if find_program("sudo", &[]).is_none() {
        bail!("this makes network namespaces and loads XDP programs; run `cargo xtask {verb}` as root");
    }
    run(Command::new("sudo").arg("--validate"))?;
    let host = output(Command::new("rustc").args(["--print", "host-tuple"]))
        .context("could not ask rustc for the host's target")?;
    let name = format!("CARGO_TARGET_{}_RUNNER", host.replace('-', "_").to_uppercase());
    Ok(Some((name, "sudo --preserve-env")))
}

fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
