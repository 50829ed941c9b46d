//! What long-running commands say while they run: to standard error, as `RUST_LOG` wants it.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// Starts to log, once a process.
pub(crate) fn start() {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
