//! Simulated servers, each on the addresses of one server of the bed.

use std::net::{Ipv6Addr, TcpListener};

use tokio::runtime::{Builder, Runtime};

use super::{FleetError, backend_name};
use crate::{
    bed::Topology,
    sim::{
        metrics::Stats,
        server::{ServerOptions, SimServer},
    },
};

/// Running servers. Dropped, they stop as killed processes would.
#[derive(Debug)]
pub struct Servers {
    servers: Vec<SimServer>,
    /// After the servers, so that they are dropped first.
    _runtime: Runtime,
}

impl Servers {
    /// Starts a server for each of `options`, in the order of the bed's servers, on all its addresses and `port`.
    ///
    /// They share one thread: a simulated GPU waits most of the time.
    ///
    /// # Errors
    /// [`FleetError::Listen`], [`FleetError::Server`], or the system gives no thread.
    ///
    /// # Panics
    /// The bed has fewer servers.
    pub fn start(bed: &Topology, port: u16, options: Vec<ServerOptions>) -> Result<Self, FleetError> {
        assert!(options.len() <= bed.servers.len(), "the bed has {} servers", bed.servers.len());
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("servers")
            .enable_all()
            .build()
            .map_err(FleetError::Runtime)?;
        let inside = runtime.enter();
        let start = |(index, options): (usize, ServerOptions)| {
            let server = || backend_name(index);
            // A socket stays in the namespace that it was made in, whichever thread uses it.
            let listener = bed.servers[index]
                .namespace
                .run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))
                .map_err(|source| FleetError::Listen { server: server(), port, source })?;
            SimServer::spawn(listener, options)
                .map_err(|source| FleetError::Server { server: server(), source })
        };
        let servers = options.into_iter().enumerate().map(start).collect::<Result<_, _>>()?;
        drop(inside);
        Ok(Self { servers, _runtime: runtime })
    }

    /// The servers, in the bed's order.
    pub fn all(&self) -> &[SimServer] {
        &self.servers
    }

    /// The state of each.
    pub fn stats(&self) -> impl Iterator<Item = Stats> {
        self.servers.iter().map(SimServer::stats)
    }
}
