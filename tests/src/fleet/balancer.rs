//! The real `guidevane` daemon in front of all servers of a one-armed bed.

use std::{fmt::Write as _, process::ExitStatus};

use guidevane::{
    api::{AdminState, Backend, HealthState, Snapshot},
    config::PolicyKind,
};

use super::FleetError;
use crate::{bed::Topology, daemon::Daemon};

/// Lines of the daemon's log that an error shows.
const LOG_LINES: usize = 20;

/// What the daemon is to do.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Port of the VIP and of every server.
    pub port: u16,
    /// How a new flow's backend is picked.
    pub policy: PolicyKind,
}

impl Service {
    /// The configuration for a one-armed bed: its announced IPv4 address as VIP, all its servers as backends with
    /// their metrics and no limit. The daemon learns the rest.
    fn configuration(&self, bed: &Topology) -> String {
        let Self { port, policy } = self;
        let (interface, vip) = (bed.front().name, bed.announced.v4);
        let mut text = format!(
            "[daemon]\nflows = 131072\n\n[health]\ninterval = \"500ms\"\n\n[[interface]]\nname = \"{interface}\"\n\n\
             [[vip]]\nname = \"inference\"\naddress = \"{vip}\"\nport = {port}\nmode = \"l2\"\n\
             policy = \"{policy}\"\nannounce = \"arp\"\n"
        );
        for (index, server) in bed.servers.iter().enumerate() {
            let (name, address) = (backend_name(index), server.address().v4);
            let _ = write!(
                text,
                "\n[[vip.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n\
                 metrics = \"http://{address}:{port}/metrics\"\n"
            );
        }
        text
    }
}

/// The name of a server by its place in the bed.
pub fn backend_name(index: usize) -> String {
    format!("server-{}", index + 1)
}

/// A running daemon. Dropped, it is killed; [`Balancer::stop`] ends it as an operator would.
#[derive(Debug)]
pub struct Balancer<'bed> {
    daemon: Daemon,
    bed: &'bed Topology,
}

impl<'bed> Balancer<'bed> {
    /// Starts the daemon in the balancer's namespace; it is not [ready](Balancer::is_ready) yet.
    ///
    /// # Panics
    /// As [`Daemon::start`].
    pub fn start(bed: &'bed Topology, service: Service) -> Self {
        Self { daemon: Daemon::start(&bed.balancer.namespace, &service.configuration(bed)), bed }
    }

    /// Whether every backend is up and reachable, so that new flows may go to any of them.
    ///
    /// # Errors
    /// The daemon has ended.
    pub fn is_ready(&mut self) -> Result<bool, FleetError> {
        let eligible = |backend: &Backend| {
            backend.health.state == HealthState::Up
                && backend.admin == AdminState::Active
                && backend.next_hop.is_some()
        };
        let all = |state: Snapshot| state.vips.iter().flat_map(|vip| &vip.backends).all(eligible);
        Ok(self.status()?.is_some_and(all))
    }

    /// The daemon's state; none while it does not answer yet.
    ///
    /// # Errors
    /// The daemon has ended.
    pub fn status(&mut self) -> Result<Option<Snapshot>, FleetError> {
        match self.daemon.ended() {
            None => Ok(self.daemon.status()),
            Some(status) => Err(self.failure(status)),
        }
    }

    /// The last lines that the daemon logged.
    pub fn log(&self) -> String {
        let text = self.daemon.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Ends the daemon with SIGTERM and looks whether it left its program attached.
    ///
    /// # Errors
    /// It ends with a failure or leaves something behind.
    ///
    /// # Panics
    /// As [`Daemon::terminate`].
    pub fn stop(mut self) -> Result<(), FleetError> {
        let status = self.daemon.terminate();
        if !status.success() {
            return Err(self.failure(status));
        }
        let mut list = self.bed.balancer.namespace.command("ip");
        let output = list.args(["-details", "link", "show"]).output().map_err(FleetError::Interfaces)?;
        let text = String::from_utf8_lossy(&output.stdout);
        match text.lines().find(|line| line.contains("prog/xdp")) {
            None => Ok(()),
            Some(line) => Err(FleetError::LeftBehind { what: line.trim().to_owned() }),
        }
    }

    fn failure(&self, status: ExitStatus) -> FleetError {
        FleetError::Ended { status, log: self.log() }
    }
}
