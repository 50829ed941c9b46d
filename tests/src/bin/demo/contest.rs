//! One run: fresh servers, a fresh daemon with one policy, the traffic, and an orderly end.

use std::{
    fmt,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use guidevane::config::PolicyKind;
use guidevane_tests::{
    bed::Topology,
    fleet::{Balancer, Servers, Service},
    load::{self, Direct, Live, Report},
};

use crate::{
    interrupt::Interrupt,
    scenario::Scenario,
    view::{Picture, View},
};

/// Port of the VIP and the servers.
const PORT: u16 = 8000;
/// Longest wait for the daemon to see all servers.
const READY: Duration = Duration::from_secs(30);
/// Time between two looks while something starts.
const PAUSE: Duration = Duration::from_millis(50);
/// Time between two pictures of a run.
const REFRESH: Duration = Duration::from_millis(500);
/// A server this far behind its model, in parts of the run, has spoilt the figures.
const MUCH_LAG: f64 = 0.03;

/// Who distributes the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contestant {
    /// Guidevane's own policy.
    Guidevane,
    /// Each server in turn.
    RoundRobin,
    /// The server with the fewest connections.
    LeastConnections,
}

impl Contestant {
    /// In the order of the table.
    pub const ALL: [Self; 3] = [Self::Guidevane, Self::RoundRobin, Self::LeastConnections];

    fn policy(self) -> PolicyKind {
        match self {
            Self::Guidevane => PolicyKind::Least,
            Self::RoundRobin => PolicyKind::RoundRobin,
            Self::LeastConnections => PolicyKind::LeastConnections,
        }
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Guidevane => "guidevane",
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
        })
    }
}

/// What one run gave.
#[derive(Debug)]
pub struct Run {
    /// Who distributed.
    pub balancer: Contestant,
    /// What the clients saw.
    pub report: Report,
    /// Seconds by which the slowest of the servers fell behind its model.
    pub lag_seconds: f64,
}

/// What all runs share.
#[derive(Debug)]
pub struct Contest<'a> {
    /// The network.
    pub bed: &'a Topology,
    /// Servers and traffic.
    pub scenario: &'a Scenario,
    /// Asked between any two steps.
    pub interrupt: &'a Interrupt,
}

impl Contest<'_> {
    /// Runs the traffic through one balancer.
    ///
    /// # Errors
    /// Something does not start, the daemon ends or leaves something behind, or the user interrupts.
    pub fn run(&self, contestant: Contestant) -> anyhow::Result<Run> {
        let mut view = View::new(contestant);
        let servers = Servers::start(self.bed, PORT, self.scenario.options())?;
        self.scenario.load(servers.all());
        let mut balancer = Balancer::start(self.bed, Service { port: PORT, policy: contestant.policy() });
        self.await_ready(&mut balancer)?;
        let report = self.drive(&mut balancer, &mut view)?;
        let lag_seconds = servers.stats().map(|stats| stats.lag_seconds).fold(0.0, f64::max);
        balancer.stop()?;
        if lag_seconds > MUCH_LAG * report.seconds {
            eprintln!("warning: this machine is too busy; a server fell {lag_seconds:.1} s behind its model");
        }
        Ok(Run { balancer: contestant, report, lag_seconds })
    }

    fn await_ready(&self, balancer: &mut Balancer<'_>) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY;
        while !balancer.is_ready()? {
            self.interrupt.check()?;
            if Instant::now() > deadline {
                bail!("guidevane does not see all servers up within {READY:?}; its log:\n{}", balancer.log());
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Sends the traffic and shows what happens meanwhile.
    fn drive(&self, balancer: &mut Balancer<'_>, view: &mut View) -> anyhow::Result<Report> {
        let options = self.scenario.traffic(format!("http://{}:{PORT}", self.bed.announced.v4));
        let live = Live::default();
        let (sender, report) = mpsc::channel();
        let watched = live.clone();
        let _running = self.bed.client.namespace.spawn_runtime(move || async move {
            // Nobody listens any more when the run was given up.
            let _ = sender.send(load::run(options, Direct::default(), watched).await);
        });
        let begun = Instant::now();
        let mut before = live.snapshot();
        loop {
            match report.recv_timeout(REFRESH) {
                Err(RecvTimeoutError::Timeout) => {}
                ended => {
                    view.finish();
                    return Ok(ended.context("the load generator ended without a report")??);
                }
            }
            self.interrupt.check()?;
            let now = live.snapshot();
            let Some(state) = balancer.status()? else { continue };
            let backends = state.vips.into_iter().flat_map(|vip| vip.backends).collect();
            let loaded = |server| self.scenario.is_loaded(server);
            view.show(&Picture { elapsed: begun.elapsed(), before, now, backends, loaded: &loaded });
            before = now;
        }
    }
}
