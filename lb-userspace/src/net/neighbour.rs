//! Next hops towards backends, resolved by the kernel's own routing and neighbour tables and watched.
//!
//! It owns the watching task and publishes a table; it decides nothing about backends, and it never
//! writes a neighbour entry, it only has the kernel ask.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, MissedTickBehavior, interval, interval_at, sleep, sleep_until},
};

use super::{
    Mac,
    rtnl::{self, Error, Events, Netlink},
    view::{Outdated, View},
};

/// The same neighbour is solicited no more often than this: the kernel itself takes three seconds
/// to give up on one, and answers arrive as events.
const SOLICIT_EVERY: Duration = Duration::from_secs(1);
/// Route changes are gathered this long before routes are looked up anew, so that a routing daemon
/// that loads a table costs a few rounds of look-ups and not one an entry.
const ROUTES_SETTLE: Duration = Duration::from_millis(50);
/// Everything is read anew this often, for what no event tells (a changed next-hop object).
const READ_ANEW_EVERY: Duration = Duration::from_secs(30);
/// Pause before a broken netlink connection is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// What the data path needs to put a packet on the wire towards a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// Index of the outgoing interface.
    pub ifindex: u32,
    /// That interface's own address.
    pub source_mac: Mac,
    /// The neighbour's address: the target's own, or its gateway's.
    pub mac: Mac,
    /// The largest IP packet that this way takes, in bytes: the interface's limit, or the route's.
    pub mtu: u16,
}

/// Why a target cannot be reached for now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The target is new.
    #[error("the route has not been looked up yet")]
    NotLookedUp,
    /// The routing table has no usable entry.
    #[error("no route ({detail})")]
    NoRoute {
        /// The kernel's word for it.
        detail: String,
    },
    /// Packets to it would never leave the host.
    #[error("it is an address of this host")]
    OwnAddress,
    /// The route leads through an interface that was just removed.
    #[error("interface {ifindex} of its route is gone")]
    LinkGone {
        /// Index of the interface.
        ifindex: u32,
    },
    /// The interface is down or has no carrier.
    #[error("interface {interface} is down")]
    LinkDown {
        /// Name of the interface.
        interface: String,
    },
    /// The interface is a tunnel or the like.
    #[error("interface {interface} does not carry ethernet addresses")]
    NotEthernet {
        /// Name of the interface.
        interface: String,
    },
    /// The neighbour is being asked.
    #[error("neighbour {neighbour} on {interface} has not answered yet")]
    Asking {
        /// The target, or its gateway.
        neighbour: IpAddr,
        /// Name of the interface.
        interface: String,
    },
    /// The neighbour was asked in vain; it is asked again every second.
    #[error("neighbour {neighbour} on {interface} does not answer")]
    NoAnswer {
        /// The target, or its gateway.
        neighbour: IpAddr,
        /// Name of the interface.
        interface: String,
    },
}

/// What is known about the way to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Packets can be sent.
    Resolved(NextHop),
    /// Packets cannot be sent, for this reason.
    Unresolved(Reason),
}

/// The resolution of every target that is set.
pub type Table = Arc<HashMap<IpAddr, Resolution>>;

/// Watches the way to a changing set of targets. Dropping it stops the watching.
#[derive(Debug)]
pub struct Neighbours {
    targets: watch::Sender<BTreeSet<IpAddr>>,
    table: watch::Receiver<Table>,
    task: AbortHandle,
}

impl Neighbours {
    /// Starts watching on the current tokio runtime, in the network namespace of its threads. Asking
    /// the kernel to solicit neighbours takes `CAP_NET_ADMIN`; without it, only what the host already
    /// knows is resolved.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], if the kernel gives out no netlink socket.
    pub fn start(targets: impl IntoIterator<Item = IpAddr>) -> Result<Self, Error> {
        let connections = Connections::open()?;
        let (targets, wanted) = watch::channel(targets.into_iter().collect());
        let (publish, table) = watch::channel(Table::default());
        let task = tokio::spawn(watch_forever(connections, wanted, publish)).abort_handle();
        Ok(Self { targets, table, task })
    }

    /// Replaces the set of targets. Those that stay keep their resolution throughout.
    pub fn set_targets(&self, targets: impl IntoIterator<Item = IpAddr>) {
        let wanted: BTreeSet<IpAddr> = targets.into_iter().collect();
        self.targets.send_if_modified(|current| {
            let changed = *current != wanted;
            *current = wanted;
            changed
        });
    }

    /// The table, now and whenever it changes.
    pub fn subscribe(&self) -> watch::Receiver<Table> {
        self.table.clone()
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Events have a socket of their own: a flood of them cannot push answers to requests out.
struct Connections {
    requests: Netlink,
    events: Events,
}

impl Connections {
    fn open() -> Result<Self, Error> {
        // Events first: what changes while the first state is read is then not missed.
        let events = Events::open()?;
        Ok(Self { requests: Netlink::open()?, events })
    }
}

async fn watch_forever(
    mut connections: Connections,
    wanted: watch::Receiver<BTreeSet<IpAddr>>,
    publish: watch::Sender<Table>,
) {
    loop {
        let mut watcher = Watcher::new(connections.requests, wanted.clone(), publish.clone());
        let error = watcher.run(connections.events).await;
        tracing::warn!("watching of next hops was interrupted: {error}");
        connections = loop {
            sleep(REOPEN_AFTER).await;
            match Connections::open() {
                Ok(connections) => break connections,
                Err(error) => tracing::warn!("watching of next hops cannot resume: {error}"),
            }
        };
    }
}

struct Watcher {
    netlink: Netlink,
    wanted: watch::Receiver<BTreeSet<IpAddr>>,
    publish: watch::Sender<Table>,
    view: View,
    targets: BTreeSet<IpAddr>,
    outdated: Outdated,
    solicited: HashMap<(u32, IpAddr), Instant>,
}

impl Watcher {
    fn new(
        netlink: Netlink,
        mut wanted: watch::Receiver<BTreeSet<IpAddr>>,
        publish: watch::Sender<Table>,
    ) -> Self {
        let targets = wanted.borrow_and_update().clone();
        Self {
            netlink,
            wanted,
            publish,
            view: View::default(),
            targets,
            outdated: Outdated::Everything,
            solicited: HashMap::new(),
        }
    }

    /// Runs until the kernel connection breaks.
    async fn run(&mut self, mut events: Events) -> Error {
        let mut tick = interval(SOLICIT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut read_anew = interval_at(Instant::now() + READ_ANEW_EVERY, READ_ANEW_EVERY);
        read_anew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut settled = Instant::now();
        loop {
            if settled <= Instant::now()
                && let Err(error) = self.bring_up_to_date().await
            {
                return error;
            }
            self.publish_table();
            self.solicit().await;

            let pending = self.outdated != Outdated::Nothing;
            tokio::select! {
                event = events.next() => {
                    let Some(event) = event else {
                        return Error::Broken {
                            action: "watch network events".into(),
                            detail: "the netlink connection ended".into(),
                        };
                    };
                    let mut outdated = self.view.absorb(event);
                    while let Some(Some(event)) = events.next().now_or_never() {
                        outdated = outdated.max(self.view.absorb(event));
                    }
                    if !pending && outdated != Outdated::Nothing {
                        settled = Instant::now() + ROUTES_SETTLE;
                    }
                    self.outdated = self.outdated.max(outdated);
                }
                Ok(()) = self.wanted.changed() => {
                    self.targets = self.wanted.borrow_and_update().clone();
                    self.view.routes.retain(|target, _| self.targets.contains(target));
                    self.outdated = self.outdated.max(Outdated::Routes);
                    settled = Instant::now();
                }
                () = sleep_until(settled), if pending => {}
                _ = read_anew.tick() => self.outdated = Outdated::Everything,
                _ = tick.tick() => {}
            }
        }
    }

    async fn bring_up_to_date(&mut self) -> Result<(), Error> {
        if self.outdated == Outdated::Everything {
            let links = self.netlink.links().await?;
            self.view.links = links.iter().map(|m| (m.header.index, rtnl::link(m))).collect();
            let neighbours = self.netlink.neighbours().await?;
            self.view.neighbours = neighbours.into_iter().map(|n| ((n.ifindex, n.address), n)).collect();
        }
        if self.outdated >= Outdated::Routes {
            for target in &self.targets {
                let route = self.netlink.route_to(*target).await?;
                self.view.routes.insert(*target, route);
            }
        }
        self.outdated = Outdated::Nothing;
        Ok(())
    }

    fn publish_table(&self) {
        let table: HashMap<IpAddr, Resolution> =
            self.targets.iter().map(|target| (*target, self.view.resolve(*target))).collect();
        self.publish.send_if_modified(|current| {
            let changed = **current != table;
            if changed {
                *current = Arc::new(table);
            }
            changed
        });
    }

    async fn solicit(&mut self) {
        let now = Instant::now();
        self.solicited.retain(|_, at| now.duration_since(*at) < SOLICIT_EVERY);
        let asked: BTreeSet<(u32, IpAddr)> =
            self.targets.iter().filter_map(|target| self.view.wants_solicitation(*target)).collect();
        for (ifindex, address) in asked {
            if self.solicited.contains_key(&(ifindex, address)) {
                continue;
            }
            self.solicited.insert((ifindex, address), now);
            if let Err(error) = self.netlink.solicit(ifindex, address).await {
                tracing::debug!("{error}");
            }
        }
    }
}

#[cfg(test)]
#[path = "neighbour_tests.rs"]
mod tests;
