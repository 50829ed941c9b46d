//! One question to a backend: does it answer?

use std::{io, net::SocketAddr, time::Duration};

use futures::future::BoxFuture;
use tokio::net::TcpStream;

/// A way to ask. Implementations need no time limit of their own: the caller drops a probe that
/// takes too long.
pub trait Probe: Send + Sync + 'static {
    /// Asks once.
    fn probe(&self) -> BoxFuture<'_, Result<(), ProbeError>>;
}

/// Why a probe failed; its text is the reason shown to operators.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No connection.
    #[error("connect: {}", plain(.0))]
    Connect(#[source] io::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// The operating system's reason without its capital and its error number, where std has a word for it.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::Other => error.to_string(),
        kind => kind.to_string(),
    }
}

/// Succeeds when a TCP connection is established; it is closed at once.
#[derive(Clone, Copy, Debug)]
pub struct TcpProbe {
    /// Where to connect to.
    pub address: SocketAddr,
}

impl Probe for TcpProbe {
    fn probe(&self) -> BoxFuture<'_, Result<(), ProbeError>> {
        Box::pin(async { TcpStream::connect(self.address).await.map(drop).map_err(ProbeError::Connect) })
    }
}
