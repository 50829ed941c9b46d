//! Why a fleet cannot run.

use std::{io, process::ExitStatus};

use thiserror::Error;

use crate::sim::server::ServerError;

/// Why a fleet cannot run.
#[derive(Debug, Error)]
pub enum FleetError {
    /// There is no thread to run the servers on.
    #[error("could not start a runtime for the servers")]
    Runtime(#[source] io::Error),
    /// A server has no socket.
    #[error("{server} cannot listen on port {port}")]
    Listen {
        /// Its name.
        server: String,
        /// The port.
        port: u16,
        /// The system's answer.
        source: io::Error,
    },
    /// A server does not start.
    #[error("{server} does not start")]
    Server {
        /// Its name.
        server: String,
        /// Why not.
        source: ServerError,
    },
    /// The daemon has ended by itself, or with a failure.
    #[error("guidevane ended with {status}; the end of its log:\n{log}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// Nobody says what is attached to the balancer's interfaces.
    #[error("could not list the balancer's interfaces with `ip link`")]
    Interfaces(#[source] io::Error),
    /// The daemon has ended and its program is still attached.
    #[error("guidevane has ended and left its program attached: {what}")]
    LeftBehind {
        /// The line that `ip link` shows.
        what: String,
    },
}
