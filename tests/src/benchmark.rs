//! How every benchmark ends: what it writes for programs, and what it makes of a bound that is missed.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

/// The exit code of a benchmark; an error is told.
pub fn exit(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the figures to the file that is wanted, if one is.
///
/// # Errors
/// It cannot be written.
pub fn write_json(path: Option<&Path>, report: &impl Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(report)?;
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

/// Tells which bounds are missed, and takes it as it is if that is wanted.
///
/// # Errors
/// One is missed, and that is not wanted.
pub fn judge(failures: &[String], as_it_is: bool) -> Result<()> {
    if failures.is_empty() {
        return Ok(());
    }
    eprintln!("{}", failures.join("\n"));
    if !as_it_is {
        bail!("a bound is missed");
    }
    Ok(())
}
