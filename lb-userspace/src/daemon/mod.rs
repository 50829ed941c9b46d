//! The daemon: `guidevane run`.
//!
//! | module | owns |
//! |---|---|
//! | [`plan`] | configuration into what the data plane is asked for |
//! | [`commands`] | what the admin socket may ask |
//! | [`core`] | what is known and wanted, and bringing the data plane in line with it |
//! | [`governing`] | the governor's thread; [`explaining`] puts its reasons in words |
//! | [`sweeping`] | the sweep's thread |
//! | [`recording`] | who gets what the governor saw and wrote |
//! | [`reload`] | taking over a changed file |
//! | [`snapshot`], [`shares`], [`ages`] | what `status` shows |
//! | [`traces`] | who gets which events of single flows; [`telling`] puts them in words |
//!
//! Data flows one way: signals and probes to the core, the core to the data plane. The admin socket reads
//! snapshots and sends commands.

mod ages;
mod commands;
mod core;
mod explaining;
mod flows;
pub mod governing;
mod plan;
mod recording;
mod reload;
mod shares;
mod snapshot;
mod sources;
pub mod sweeping;
mod telling;
mod traces;

pub use plan::timeouts;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use self::{
    commands::Commands, core::Core, governing::Governing, plan::Interfaces, sweeping::Sweeping,
    traces::Traces,
};
use crate::{
    agent::subscriber::Terms,
    api::Server,
    config::{Announce, Config},
    dataplane::{Dataplane, loader::Options, sweep::Sweep},
    governor,
    health::{Health, HealthOptions, Silence, TcpProbe},
    net::{
        Netlink,
        announce::{PacketSocket, VipAddresses, announce},
        neighbour::Neighbours,
    },
    service::{self, Status, Watchdog},
    signals::{Board, Key, Scrapers},
};

/// Shortest time in which a backend must make some progress, or be silent: the kernel notes progress about once a
/// second for each flow.
const SILENCE: Duration = Duration::from_secs(2);

/// Runs the daemon until SIGTERM or SIGINT; `file` is read again at SIGHUP.
///
/// # Errors
///
/// When it cannot start; what ran before then runs on untouched.
pub fn run(config: Config, file: &Path) -> anyhow::Result<()> {
    crate::log::start();
    if let Err(error) = raise_file_limit() {
        tracing::warn!("the limit of open files stays: {error}");
    }
    /// Netlink, probes and scrapes are all waiting; the threads that work are the governor's and the sweep's.
    const WORKERS: usize = 2;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(Daemon::start(config, file))
}

/// The parts of the world that the daemon watches, and its core.
struct Daemon {
    core: Arc<Mutex<Core>>,
    file: PathBuf,
    netlink: Netlink,
    neighbours: Neighbours,
    health: Health,
    silence: Silence,
    sweeping: Sweeping,
    addresses: VipAddresses,
    /// How agents are asked.
    terms: Terms,
}

impl Daemon {
    async fn start(config: Config, file: &Path) -> anyhow::Result<()> {
        let netlink = Netlink::open().context("open netlink")?;
        let interfaces = plan::find_interfaces(&config, &netlink).await?;
        let terms = plan::terms(&config)?;
        let server = Server::bind(&config.daemon.socket)?;
        plan::check_sources(&config, &netlink).await?;
        let mut dataplane = Dataplane::open(&Options {
            pin: config.daemon.pin.clone(),
            flow_slots: config.daemon.flows,
            nat_sources: plan::nat_sources(&config),
        })?;
        let started = Self::assemble(&mut dataplane, &config, &interfaces);
        let (traces, governing, sweeping) = match started {
            Ok(threads) => threads,
            Err(error) => {
                leave_nothing(&mut dataplane);
                return Err(error);
            }
        };
        let board = Arc::new(Board::default());
        let core = Core::new(
            dataplane,
            config.clone(),
            interfaces,
            Scrapers::new(Arc::clone(&board)),
            board,
            traces,
            governing,
        );
        let health = Health::new(HealthOptions {
            interval: config.health.interval,
            timeout: config.health.timeout,
            rise: config.health.rise,
            fall: config.health.fall,
        });
        let mut daemon = Self {
            core: Arc::new(Mutex::new(core)),
            file: file.to_owned(),
            neighbours: Neighbours::start([]).context("watch neighbours")?,
            health,
            silence: Silence::default(),
            sweeping,
            addresses: VipAddresses::new(netlink.clone()),
            netlink,
            terms,
        };
        let outcome = daemon.serve(&config, server).await;
        let pinned = daemon.lock().dataplane.is_pinned();
        // Where the kernel goes on steering, the neighbours must go on finding the VIPs.
        if outcome.is_err() || !pinned {
            daemon.addresses.remove_all().await.context("take VIP addresses off their interfaces")?;
        }
        outcome
    }

    /// Takes up the work and does it until told to stop.
    async fn serve(&mut self, config: &Config, server: Server) -> anyhow::Result<()> {
        if let Err(error) = self.take_up(config).await {
            leave_nothing(&mut self.lock().dataplane);
            return Err(error);
        }
        let serving = tokio::spawn(server.serve(Arc::new(Commands(Arc::clone(&self.core)))));
        tracing::info!("steering {} VIPs", config.vips.len());
        let outcome = self.run().await;
        service::stopping();
        serving.abort();
        outcome
    }

    async fn take_up(&mut self, config: &Config) -> anyhow::Result<()> {
        self.watch(config, None)?;
        self.lock().settle()?;
        self.announce(config).await
    }

    /// What needs the kernel: the configuration in its maps, the program on its interfaces, the threads.
    fn assemble(
        dataplane: &mut Dataplane,
        config: &Config,
        interfaces: &Interfaces,
    ) -> anyhow::Result<(Traces, Governing, Sweeping)> {
        plan::apply(&mut dataplane.steering, config, interfaces, 0)?;
        let (maps, clock) = (dataplane.maps(), dataplane.clock());
        let meta = maps.meta.read(0);
        let policy = timeouts(&config.daemon, age_tick(&meta));
        let sweep = Sweep::new(Arc::clone(&maps), policy);
        let sweeping = Sweeping::start(sweep, policy, Arc::clone(&clock), meta.age_shift)?;
        let governing =
            Governing::start(Arc::clone(&maps), clock, config.daemon.tick, governor::Options::default())?;
        let (events, losses) = dataplane.take_events()?;
        let traces = Traces::start(maps, events, losses).context("wait for events")?;
        dataplane.attach(&plan::ports(config, interfaces))?;
        Ok((traces, governing, sweeping))
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    /// Watches what `config` names, and no longer what only `before` named.
    fn watch(&mut self, config: &Config, before: Option<&Config>) -> anyhow::Result<()> {
        let probed = |config: &Config| -> HashMap<String, TcpProbe> {
            let backends =
                config.vips.iter().flat_map(|vip| vip.backends.iter().map(move |backend| (vip, backend)));
            backends
                .filter_map(|(vip, backend)| {
                    Some((backend.name.clone(), TcpProbe { address: vip.probe_address(backend)? }))
                })
                .collect()
        };
        let (old, new) = (before.map(probed).unwrap_or_default(), probed(config));
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            self.health.remove(name);
        }
        for (name, probe) in new {
            if old.get(&name).map(|old| old.address) != Some(probe.address) {
                self.health.add(name.into(), probe);
            }
        }
        self.neighbours
            .set_targets(config.vips.iter().flat_map(|vip| &vip.backends).map(|backend| backend.address));
        let mut core = self.lock();
        core.scrapers.set_targets(plan::targets(config));
        let (gpus, exporters) = (plan::gpu_targets(config), plan::exporters(config));
        let agents = plan::agents(config);
        let read = gpus.iter().map(|target| Arc::clone(&target.key));
        let heard_of = agents.iter().filter(|(_, target)| target.gpus).map(|(key, _)| Arc::clone(key));
        let keys: HashSet<Key> = read.chain(exporters.map(|(key, _)| key)).chain(heard_of).collect();
        core.hardware.retain(&keys);
        keys.iter().for_each(|key| core.hardware.enter(key));
        core.scrapers.set_exporters(plan::exporters(config));
        core.agents.set_targets(self.terms.clone(), agents);
        core.gpus.set_targets(gpus).context("start to read GPUs")
    }

    /// Tells the neighbours where the VIPs and source addresses are.
    async fn announce(&mut self, config: &Config) -> anyhow::Result<()> {
        let interfaces = self.lock().interfaces.clone();
        let socket = PacketSocket::open().context("open a packet socket for announcements")?;
        let sources = config.nat.sources.iter().map(|source| (source.address, &config.nat.announce));
        let vips = config.vips.iter().map(|vip| (vip.address, &vip.announce));
        for (address, manner) in vips.chain(sources) {
            let name = match manner {
                Announce::None => continue,
                Announce::Address { interface } | Announce::Arp { interface } => interface,
            };
            let interface = interfaces.get(name).with_context(|| format!("interface {name} is gone"))?;
            if matches!(manner, Announce::Address { .. }) {
                self.addresses
                    .add(interface, address)
                    .await
                    .with_context(|| format!("put {address} on {name}"))?;
            }
            announce(&socket, interface, address).with_context(|| format!("announce {address} on {name}"))?;
        }
        Ok(())
    }

    async fn run(&mut self) -> anyhow::Result<()> {
        let (mut table, mut report) = (self.neighbours.subscribe(), self.health.subscribe());
        // What was learned before this subscription counts as well.
        table.mark_changed();
        report.mark_changed();
        let mut faults = self.lock().hardware.faults();
        faults.mark_changed();
        let mut passes = self.sweeping.passes();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut listen = interval(self.lock().config.health.interval.max(SILENCE));
        listen.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut watchdog, mut status) = (Watchdog::new(), Status::default());
        service::ready(&self.lock().summary());
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = hang_up.recv() => {
                    service::reloading();
                    self.reload().await;
                    service::ready(&self.lock().summary());
                }
                changed = table.changed() => {
                    changed.context("the neighbour watch has ended")?;
                    let table = Arc::clone(&table.borrow_and_update());
                    self.update(|core| core.table = table);
                }
                changed = report.changed() => {
                    changed.context("the health checks have ended")?;
                    let report = Arc::clone(&report.borrow_and_update());
                    self.update(|core| core.health = report);
                }
                changed = faults.changed() => {
                    changed.context("nobody keeps the faults of GPUs any more")?;
                    let faults = Arc::clone(&faults.borrow_and_update());
                    self.update(|core| core.faults = faults);
                }
                changed = passes.changed() => {
                    changed.context("the sweep has ended")?;
                    self.swept(&mut passes);
                }
                _ = second.tick() => {
                    self.note_shares();
                    status.set(self.lock().summary());
                }
                () = watchdog.due() => watchdog.feed_if_moved(self.lock().ticked()),
                _ = listen.tick() => self.doubt_the_silent(),
            }
        }
    }

    /// Changes what is known, and lets the data plane follow.
    fn update(&self, change: impl FnOnce(&mut Core)) {
        let mut core = self.lock();
        change(&mut core);
        // Grace periods block for some milliseconds.
        if let Err(error) = tokio::task::block_in_place(|| core.settle()) {
            tracing::error!("{error:#}");
        }
    }

    fn swept(&self, passes: &mut watch::Receiver<crate::dataplane::sweep::Pass>) {
        let pass = passes.borrow_and_update().clone();
        if pass.corrected > 0 {
            tracing::warn!("sweep {} corrected {} gauges", pass.number, pass.corrected);
        }
        if let Err(error) = tokio::task::block_in_place(|| self.lock().swept(pass)) {
            tracing::error!("{error:#}");
        }
    }

    /// Has backends probed that answer none of their clients.
    fn doubt_the_silent(&mut self) {
        let core = lock(&self.core);
        let seen = match core.seen() {
            Ok(seen) => seen,
            Err(error) => return tracing::error!("{error:#}"),
        };
        let silent = self.silence.note(seen);
        for (_, backend) in core.backends().filter(|(id, _)| silent.contains(id)) {
            tracing::info!(
                "backend {} leaves its clients' SYNs unanswered; it is probed at once",
                backend.name
            );
            self.health.doubt(&backend.name);
        }
    }

    fn note_shares(&self) {
        let mut core = self.lock();
        let maps = core.dataplane.maps();
        let opened = core.backends().map(|(id, _)| (id, maps.loads.read(usize::from(id)).opened)).collect();
        core.shares.note(opened);
    }
}

/// Has this process open as many files as it may: every backend takes two for its probes and scrapes, and the usual
/// limit is 1,024.
///
/// # Errors
///
/// The system's.
pub fn raise_file_limit() -> std::io::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// How long one tick of the age clock lasts.
pub fn age_tick(meta: &lb_common::layout::Meta) -> Duration {
    Duration::from_secs_f64(f64::from(1u32 << meta.age_shift) / f64::from(meta.hz))
}

fn lock(core: &Mutex<Core>) -> MutexGuard<'_, Core> {
    core.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leaves nothing behind of a start that failed; what was there before it stays.
fn leave_nothing(dataplane: &mut Dataplane) {
    if dataplane.adopted() {
        return;
    }
    if let Err(error) = dataplane.unpin() {
        tracing::error!("{error}");
    }
}
