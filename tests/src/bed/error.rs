//! Why a test bed cannot be made.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why a test bed cannot be made.
#[derive(Debug, Error)]
pub enum BedError {
    /// Namespaces and mounts are root's.
    #[error("a test bed needs root; run `cargo xtask test` or the command under sudo")]
    NotRoot,
    /// A command of the distribution is missing.
    #[error("`{tool}` is not installed; install it with `apt-get install {package}`")]
    MissingTool {
        /// The command.
        tool: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A command failed.
    #[error("`{command}` failed: {message}")]
    Command {
        /// The command with its arguments.
        command: String,
        /// What it printed on standard error.
        message: String,
    },
    /// A file, a setting under `/proc/sys` or a mount is out of reach.
    #[error("could not {action} {}", path.display())]
    Path {
        /// What was tried.
        action: &'static str,
        /// The object.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel refused an XDP program or its attachment.
    #[error("could not {action} an xdp program")]
    Xdp {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// More servers than the address plan has room for.
    #[error("{servers} servers asked for, the address plan has room for {limit}")]
    TooManyServers {
        /// The number asked for.
        servers: usize,
        /// The largest number.
        limit: usize,
    },
}
