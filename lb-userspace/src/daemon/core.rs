//! What the daemon knows and wants, in one place: the configuration, what the world says of backends, and
//! the data plane that both lead to.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use lb_common::pick::FLOW;
use tokio::sync::{oneshot, watch};

use super::{
    governing::{Governing, Subject, Ward},
    plan::{self, Interfaces},
    recording::Recording,
    shares::Shares,
    telling::Names,
    traces::Traces,
};
use crate::{
    agent::subscriber::Agents,
    api::{AdminState, ModeChange},
    config::{Backend, Config, GovernorMode, Vip},
    dataplane::{
        Dataplane,
        spec::{NextHop, Standing},
        sweep::Pass,
    },
    governor::Explained,
    gpu::{self, Gpus},
    health,
    net::neighbour::{self, Reason, Resolution},
    signals::{Board, Faults, Scrape, Scrapers},
};

/// The daemon's state; one lock around it makes every change whole.
pub struct Core {
    /// The kernel side.
    pub dataplane: Dataplane,
    /// What was last applied.
    pub config: Config,
    /// The interfaces it names.
    pub interfaces: Interfaces,
    /// Backends that an operator drains.
    pub draining: BTreeSet<String>,
    /// What the probes say.
    pub health: health::Report,
    /// How targets are reached.
    pub table: neighbour::Table,
    /// What servers report.
    pub scrapers: Scrapers,
    /// What is known of servers' GPUs.
    pub hardware: Arc<Board>,
    /// Backends whose GPUs must not be used.
    pub faults: Faults,
    /// The GPUs of this host.
    pub gpus: Gpus,
    /// What agents report.
    pub agents: Agents,
    /// Shares of new flows.
    pub shares: Shares,
    /// Traces under way.
    pub traces: Traces,
    /// The sweep's last whole pass.
    pub pass: Pass,
    /// When the daemon started.
    pub started: Instant,
    /// Hops by target that were good before their neighbour was asked again.
    hops: HashMap<IpAddr, NextHop>,
    governing: Governing,
}

impl Core {
    /// Starts from a data plane that steers nothing yet.
    pub fn new(
        dataplane: Dataplane,
        config: Config,
        interfaces: Interfaces,
        scrapers: Scrapers,
        hardware: Arc<Board>,
        traces: Traces,
        governing: Governing,
    ) -> Self {
        let options = gpu::Options { library: config.nvml.library.clone(), interval: config.nvml.interval };
        let mut core = Self {
            gpus: Gpus::new(options, Arc::clone(&hardware)),
            agents: Agents::new(Arc::clone(&hardware)),
            hardware,
            faults: Faults::default(),
            dataplane,
            config,
            interfaces,
            draining: BTreeSet::new(),
            health: Arc::default(),
            table: Arc::default(),
            scrapers,
            traces,
            shares: Shares::default(),
            pass: Pass::default(),
            started: Instant::now(),
            hops: HashMap::new(),
            governing,
        };
        core.draining = core.adopted_drains();
        core.traces.rename(core.names());
        core
    }

    /// Backends that an earlier daemon gave no new flows although nothing but a drain kept it from that.
    fn adopted_drains(&self) -> BTreeSet<String> {
        if !self.dataplane.adopted() {
            return BTreeSet::new();
        }
        let standing = |id| self.dataplane.steering.backends.get(id).map(|known| known.standing);
        self.backends()
            .filter(|(id, backend)| {
                let drained =
                    standing(*id).is_some_and(|standing| standing.hop.is_some() && !standing.active);
                drained && backend.weight > 0
            })
            .map(|(_, backend)| {
                tracing::warn!("backend {} goes on draining, as before the restart", backend.name);
                backend.name.clone()
            })
            .collect()
    }

    /// Makes `config` what is wanted, whole or not at all.
    ///
    /// # Errors
    ///
    /// When the data plane has no room for it; the former configuration goes on then.
    pub fn apply(&mut self, config: Config, interfaces: Interfaces) -> anyhow::Result<()> {
        let pass = self.pass.number;
        if let Err(error) = plan::apply(&mut self.dataplane.steering, &config, &interfaces, pass) {
            plan::apply(&mut self.dataplane.steering, &self.config, &self.interfaces, pass)
                .context("go back to what was before")?;
            return Err(error).context("apply the configuration");
        }
        let before = std::mem::replace(&mut self.config, config);
        self.interfaces = interfaces;
        self.forget_moved(&before);
        let names: BTreeSet<String> = self.backends().map(|(_, backend)| backend.name.clone()).collect();
        self.draining.retain(|name| names.contains(name));
        self.traces.rename(self.names());
        self.settle()
    }

    /// What is known of a backend is known of its address: under another one it is another server.
    fn forget_moved(&mut self, before: &Config) {
        let at = |config: &Config| -> HashMap<String, _> {
            let backends = config.vips.iter().flat_map(|vip| &vip.backends);
            backends.map(|backend| (backend.name.clone(), backend.endpoint())).collect()
        };
        let (old, new) = (at(before), at(&self.config));
        let health = Arc::make_mut(&mut self.health);
        health.retain(|name, _| old.get(&**name) == new.get(&**name));
        let targets: BTreeSet<IpAddr> = new.values().map(SocketAddr::ip).collect();
        self.hops.retain(|target, _| targets.contains(target));
    }

    /// Brings the data plane in line with what is known of backends now.
    ///
    /// # Errors
    ///
    /// When the data plane cannot follow.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let mut standings = Vec::new();
        for (service, vip) in self.dataplane.steering.services().iter().zip(&self.config.vips) {
            for (&id, backend) in service.backends.iter().zip(&vip.backends) {
                let before = self.dataplane.steering.backends.get(id).map(|known| known.standing);
                let before = before.unwrap_or_default();
                let standing = Standing {
                    healthy: is_healthy(&self.health, vip, backend, before)
                        && !self.faults.contains_key(backend.name.as_str()),
                    active: !self.draining.contains(&backend.name),
                    hop: hop(&self.table, &mut self.hops, backend, before),
                };
                if standing != before {
                    standings.push((id, standing));
                }
            }
        }
        self.dataplane.steering.stand(standings).context("bring backends up to date")?;
        self.governing.set_plan(self.wards());
        Ok(())
    }

    /// Drains or resumes a backend; gives its state before, or none if there is no such backend.
    ///
    /// # Errors
    ///
    /// When the data plane cannot follow.
    pub fn set_admin(&mut self, name: &str, state: AdminState) -> anyhow::Result<Option<AdminState>> {
        if !self.backends().any(|(_, backend)| backend.name == name) {
            return Ok(None);
        }
        let before = self.admin(name);
        match state {
            AdminState::Draining => self.draining.insert(name.to_owned()),
            AdminState::Active => {
                self.gpus.forgive(name);
                self.faults = Arc::clone(&self.hardware.faults().borrow());
                self.draining.remove(name)
            }
        };
        self.settle()?;
        Ok(Some(before))
    }

    /// What the operator says of a backend.
    pub fn admin(&self, name: &str) -> AdminState {
        if self.draining.contains(name) { AdminState::Draining } else { AdminState::Active }
    }

    /// Notes a whole pass of the sweep, and frees what it shows to be free.
    ///
    /// # Errors
    ///
    /// When a grace period cannot be had.
    pub fn swept(&mut self, pass: Pass) -> anyhow::Result<()> {
        self.dataplane.anchor_clock()?;
        self.dataplane.steering.backends.release(pass.number, &pass.held)?;
        self.pass = pass;
        Ok(())
    }

    /// Every configured backend with its id.
    pub fn backends(&self) -> impl Iterator<Item = (u16, &Backend)> {
        let ids =
            self.dataplane.steering.services().iter().flat_map(|service| service.backends.iter().copied());
        ids.zip(self.config.vips.iter().flat_map(|vip| &vip.backends))
    }

    /// What backends have been asked and have done, by id.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn seen(&self) -> anyhow::Result<HashMap<u16, health::Seen>> {
        let maps = self.dataplane.maps();
        let seen = |id: u16| {
            let load = maps.loads.read(usize::from(id));
            let unanswered = self.dataplane.traffic(id)?.unanswered;
            Ok((id, health::Seen { unanswered, requests: load.requests, progressed: load.progressed }))
        };
        self.backends().map(|(id, _)| seen(id)).collect()
    }

    /// Changes what the governor does for the VIPs named, or for all: what it did and does for each.
    ///
    /// # Errors
    ///
    /// When the data plane refuses; nothing is changed then.
    pub fn set_mode(
        &mut self,
        vip: Option<&str>,
        mode: Option<GovernorMode>,
    ) -> anyhow::Result<Vec<ModeChange>> {
        let mut config = self.config.clone();
        let mut changes = Vec::new();
        for known in config.vips.iter_mut().filter(|known| vip.is_none_or(|name| known.name == name)) {
            let before = known.governor;
            known.governor = mode.unwrap_or(before);
            changes.push(ModeChange { vip: known.name.clone(), before, after: known.governor });
        }
        if config != self.config {
            self.apply(config, self.interfaces.clone())?;
        }
        Ok(changes)
    }

    /// A backend by its name: its VIP, and how the governor's next output for it comes about.
    pub fn explain(&self, name: &str) -> Option<(Vip, oneshot::Receiver<Explained>)> {
        let services = self.dataplane.steering.services().iter().zip(&self.config.vips);
        services
            .flat_map(|(service, vip)| {
                let backends = service.backends.iter().zip(&vip.backends);
                backends.map(move |(id, backend)| (service.id, *id, vip, backend))
            })
            .find(|(.., backend)| backend.name == name)
            .map(|(service, id, vip, _)| (vip.clone(), self.governing.explain(service, id)))
    }

    /// What a backend's server reports. One that is scraped from here is not heard by way of its agent: the same
    /// counters, dated twice, would look like two servers.
    pub fn reports(&self, name: &str) -> Option<watch::Receiver<Scrape>> {
        self.scrapers.subscribe(name).or_else(|| self.agents.subscribe(name))
    }

    /// When the governor last read the kernel's gauges.
    pub fn ticked(&self) -> Option<Instant> {
        self.governing.ticked()
    }

    /// What the daemon does, in one line.
    pub fn summary(&self) -> String {
        let eligible = |(id, _): &(u16, &Backend)| self.dataplane.steering.backends.is_eligible(*id);
        let (usable, all) = (self.backends().filter(eligible).count(), self.backends().count());
        let vips = self.config.vips.len();
        format!("steering {vips} VIP{}, {usable} of {all} backends usable", if vips == 1 { "" } else { "s" })
    }

    /// Begins a recording of what the governor sees and writes.
    pub fn record(&self, every: Duration) -> Recording {
        self.governing.record(every)
    }

    /// What ids are called in events.
    pub fn names(&self) -> Names {
        let services = self.dataplane.steering.services().iter();
        Names {
            vips: services.map(|service| (service.id, service.spec.name.clone())).collect(),
            backends: self.backends().map(|(id, backend)| (id, backend.name.clone())).collect(),
        }
    }

    fn wards(&self) -> Vec<Ward> {
        let services = self.dataplane.steering.services().iter().zip(&self.config.vips);
        services
            .map(|(service, vip)| Ward {
                vip: service.id,
                mode: plan::mode(vip.governor),
                described: plan::described(vip),
                duty: vip.duty.map(|duty| (duty * f64::from(FLOW)).round() as u32),
                backends: service
                    .backends
                    .iter()
                    .zip(&vip.backends)
                    .map(|(&id, backend)| Subject {
                        id,
                        weight: u32::from(backend.weight),
                        limit: backend.limit,
                        usable: self.dataplane.steering.backends.is_eligible(id),
                        scrape: self.reports(&backend.name),
                        hardware: self.hardware.subscribe(&backend.name),
                    })
                    .collect(),
            })
            .collect()
    }
}

/// What nothing says how to probe counts as healthy: datagram services, and VIPs for every port.
fn is_healthy(health: &health::Report, vip: &Vip, backend: &Backend, before: Standing) -> bool {
    if vip.probe_address(backend).is_none() {
        return true;
    }
    match health.get(backend.name.as_str()).map(|status| status.state) {
        Some(health::State::Up) => true,
        Some(health::State::Down) => false,
        // What an earlier daemon knew holds until the first probe of this one.
        Some(health::State::Unknown) | None => before.healthy,
    }
}

/// How a backend is reached: while its neighbour is only being asked again, as before.
fn hop(
    table: &neighbour::Table,
    hops: &mut HashMap<IpAddr, NextHop>,
    backend: &Backend,
    before: Standing,
) -> Option<NextHop> {
    match table.get(&backend.address) {
        Some(Resolution::Resolved(found)) => {
            let hop = NextHop {
                mac: found.mac.into(),
                source_mac: found.source_mac.into(),
                interface: found.ifindex,
                mtu: found.mtu,
            };
            hops.insert(backend.address, hop);
            Some(hop)
        }
        None | Some(Resolution::Unresolved(Reason::NotLookedUp | Reason::Asking { .. })) => {
            hops.get(&backend.address).copied().or(before.hop)
        }
        Some(Resolution::Unresolved(_)) => {
            hops.remove(&backend.address);
            None
        }
    }
}
