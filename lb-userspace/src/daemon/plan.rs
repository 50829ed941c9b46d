//! From the configuration to what the data plane is asked for.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use lb_common::{
    address::{Address, Endpoint, Mac},
    layout::Mode,
    pick::{Policy, Rule},
    table::Limits,
};

use crate::{
    agent::subscriber::{self, Terms},
    config::{
        self, Affinity, Announce, Config, Encap, ForwardMode, GovernorMode, Identity, PolicyKind, Prefix,
        Protocol, Source, XdpMode,
    },
    dataplane::{
        Error,
        attach::Port,
        spec::{BackendSpec, ServerIds, Sources, TunnelSource, VipSpec},
        steering::Steering,
        sweep,
    },
    governor, gpu,
    net::{
        Netlink,
        interface::{self, Interface},
    },
    recording,
    signals::{DcgmTarget, Key, Target},
};

/// Seconds for which a half-open flow keeps its backend: SYNs are sent again until 63 s after the first.
const HALF_OPEN_SECONDS: u64 = 64;
/// Seconds for which a closing flow keeps its backend: TIME-WAIT on Linux.
const CLOSING_SECONDS: u64 = 60;
/// Seconds for which a reset flow can be restored.
const LINGER_SECONDS: u64 = 10;
/// Seconds for which a port of one-armed `nat` rests after its flow: two maximum segment lifetimes in a network of
/// today, so that what the server still has of the old connection (Linux keeps TIME-WAIT for 60 s) meets no new one.
const PORT_REST_SECONDS: u64 = 120;

/// Seconds for which a half-open flow holds a port of one-armed `nat`: a forged SYN holds it as long, so that no more
/// than the client's first three retransmits find the same port (1, 3 and 7 s after the SYN, RFC 6298).
const PORT_HALF_OPEN_SECONDS: u64 = 8;

/// An interface of the configuration, found on this host.
pub type Interfaces = HashMap<String, Interface>;

/// Finds the interfaces that the configuration names.
///
/// # Errors
///
/// For the first that is not there, with its place in the file.
pub async fn find_interfaces(config: &Config, netlink: &Netlink) -> anyhow::Result<Interfaces> {
    let mut found = Interfaces::new();
    for interface in &config.interfaces {
        let here =
            interface::lookup(netlink, &interface.name).await.with_context(|| interface.place.to_string())?;
        found.insert(interface.name.clone(), here);
    }
    Ok(found)
}

/// The servers whose metrics are scraped.
pub fn targets(config: &Config) -> impl Iterator<Item = (Key, Target)> {
    let backends = config.vips.iter().flat_map(|vip| &vip.backends);
    backends.filter_map(|backend| Some((backend.name.as_str().into(), backend.metrics.clone()?)))
}

/// The DCGM exporters that are scraped: those of backends whose GPUs are not read here.
pub fn exporters(config: &Config) -> impl Iterator<Item = (Key, DcgmTarget)> {
    let backends = config.vips.iter().flat_map(|vip| &vip.backends);
    backends
        .filter(|backend| !has_gpus_here(config, backend))
        .filter_map(|backend| Some((backend.name.as_str().into(), backend.dcgm.clone()?)))
}

fn has_gpus_here(config: &Config, backend: &config::Backend) -> bool {
    match &backend.gpus {
        Some(gpus) => !gpus.is_empty(),
        None => config.nvml.discover,
    }
}

/// The backends whose GPUs are read on this host.
pub fn gpu_targets(config: &Config) -> Vec<gpu::Target> {
    let backends = config.vips.iter().flat_map(|vip| vip.backends.iter().map(move |backend| (vip, backend)));
    backends
        .filter(|(_, backend)| has_gpus_here(config, backend))
        .map(|(vip, backend)| gpu::Target {
            key: backend.name.as_str().into(),
            addresses: vec![backend.endpoint(), vip.endpoint()],
            gpus: backend.gpus.clone(),
        })
        .collect()
}

/// How agents are asked.
///
/// # Errors
///
/// When the files of `[agents]` are not what they should be.
pub fn terms(config: &Config) -> anyhow::Result<Terms> {
    let identity = config.agents.identity.as_ref();
    let tls = identity.map(Identity::client).transpose().context("prepare TLS for [agents]")?;
    Ok(Terms { tls, interval: config.agents.interval })
}

/// The agents of all backends that have one. They are not heard on GPUs that are read otherwise.
pub fn agents(config: &Config) -> Vec<(Key, subscriber::Target)> {
    let backends = config.vips.iter().flat_map(|vip| &vip.backends);
    backends
        .filter_map(|backend| {
            let url = backend.agent.clone()?;
            let gpus = !has_gpus_here(config, backend) && backend.dcgm.is_none();
            Some((backend.name.as_str().into(), subscriber::Target { url, gpus }))
        })
        .collect()
}

/// A configured endpoint in the kernel's terms.
pub fn endpoint(address: SocketAddr, protocol: Protocol) -> Endpoint {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let number = match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    Endpoint::new(Address::from(address.ip()), address.port(), number)
}

/// Refuses source addresses that the host has itself: it would send from their ports too.
///
/// # Errors
///
/// For the first of them, with its place in the file.
pub async fn check_sources(config: &Config, netlink: &Netlink) -> anyhow::Result<()> {
    if config.nat.sources.is_empty() {
        return Ok(());
    }
    let own = netlink.addresses().await?;
    for Source { address, place } in &config.nat.sources {
        anyhow::ensure!(
            !own.contains(address),
            "{place}: source {address} is an address of this host, which sends from it too; give one that is used \
             for nothing else"
        );
    }
    Ok(())
}

/// Asks the data plane for what a configuration says; `pass` is the sweep's current one.
///
/// # Errors
///
/// When ids or room run out; VIPs and backends have not changed then.
pub fn apply(
    steering: &mut Steering,
    config: &Config,
    interfaces: &Interfaces,
    pass: u64,
) -> Result<(), Error> {
    // Tunnels come from where they should before the first VIP uses them.
    steering.set_sources(&sources(config, interfaces));
    let vips: Vec<VipSpec> = config.vips.iter().map(|vip| vip_spec(vip, interfaces)).collect();
    steering.apply(&vips, pass)
}

fn sources(config: &Config, interfaces: &Interfaces) -> Sources {
    Sources {
        tunnel_v4: config.tunnel.source_v4.map(tunnel_source),
        tunnel_v6: config.tunnel.source_v6.map(tunnel_source),
        answers: answers(&config.nat.announce, interfaces),
    }
}

/// The source addresses of one-armed `nat`.
pub fn nat_sources(config: &Config) -> Vec<Address> {
    config.nat.sources.iter().map(|source| source.address.into()).collect()
}

fn tunnel_source(prefix: Prefix) -> TunnelSource {
    let address = Address::from(prefix.address);
    let bits = if address.is_v4() { 32 } else { 128 };
    // The bits that vary lie in the address's last word, the low ones of it as read from the network.
    let spread = u32::MAX.checked_shl(bits - u32::from(prefix.length)).map_or(u32::MAX, |fixed| !fixed);
    TunnelSource { address, spread: spread.to_be() }
}

/// The interface on which neighbours are answered, and the MAC address they are told.
fn answers(announce: &Announce, interfaces: &Interfaces) -> Option<(u32, Mac)> {
    match announce {
        Announce::Arp { interface } => {
            interfaces.get(interface).and_then(|found| Some((found.index, found.mac?.into())))
        }
        Announce::None | Announce::Address { .. } => None,
    }
}

fn vip_spec(vip: &config::Vip, interfaces: &Interfaces) -> VipSpec {
    let answers = answers(&vip.announce, interfaces);
    let backends = vip.backends.iter().map(|backend| BackendSpec {
        name: backend.name.clone(),
        endpoint: endpoint(backend.endpoint(), vip.protocol),
        weight: u32::from(backend.weight),
        server_id: backend.server_id,
    });
    VipSpec {
        name: vip.name.clone(),
        endpoint: endpoint(vip.endpoint(), vip.protocol),
        mode: match vip.mode {
            ForwardMode::L2 => Mode::L2,
            ForwardMode::Nat { .. } => Mode::Nat,
            ForwardMode::Tunnel { .. } => Mode::Tunnel,
        },
        gue: vip.mode == ForwardMode::Tunnel { encap: Encap::Gue },
        source_nat: vip.mode.translates_source(),
        quic: vip.quic.map(|quic| ServerIds { config: quic.config_id, length: quic.server_id_length }),
        rule: rule(vip),
        client_affinity: vip.affinity == Affinity::Client,
        skip_bytes: vip.skip_bytes,
        answers,
        backends: backends.collect(),
    }
}

/// How the kernel picks for a VIP: not as it is configured while the governor observes, for it is to be seen beside
/// what it is compared with.
fn picked_by(vip: &config::Vip) -> PolicyKind {
    match vip.policy.kind() {
        PolicyKind::Least | PolicyKind::Bounded if vip.governor == GovernorMode::Observe => {
            PolicyKind::LeastConnections
        }
        kind => kind,
    }
}

/// A VIP in the terms of recordings.
pub fn described(vip: &config::Vip) -> recording::Vip {
    recording::Vip {
        name: vip.name.clone(),
        policy: picked_by(vip),
        awaiting_weight: governor::AWAITING_WEIGHT,
        epsilon: match vip.policy {
            config::Policy::Bounded { epsilon } => epsilon,
            _ => 0.0,
        },
        governor: vip.governor,
        backends: vip.backends.iter().map(|backend| backend.name.clone()).collect(),
    }
}

fn rule(vip: &config::Vip) -> Rule {
    /// The margin is kept in 1,024ths.
    const ONE: f64 = 1024.0;
    let number = match picked_by(vip) {
        PolicyKind::Least => Policy::Least,
        PolicyKind::Bounded => Policy::Bounded,
        PolicyKind::Hash => Policy::Hash,
        PolicyKind::RoundRobin => Policy::RoundRobin,
        PolicyKind::LeastConnections => Policy::LeastConnections,
    };
    let epsilon = match vip.policy {
        config::Policy::Bounded { epsilon } => (epsilon * ONE).round() as u16,
        _ => 0,
    };
    Rule { policy: number as u8, awaiting_weight: governor::AWAITING_WEIGHT, epsilon }
}

/// What the governor does, in its own terms.
pub fn mode(mode: GovernorMode) -> governor::Mode {
    match mode {
        GovernorMode::Observe => governor::Mode::Observe,
        GovernorMode::Static => governor::Mode::Static,
        GovernorMode::On => governor::Mode::On,
        GovernorMode::Freeze => governor::Mode::Freeze,
    }
}

/// Where the program is attached.
pub fn ports(config: &Config, interfaces: &Interfaces) -> Vec<Port> {
    config
        .interfaces
        .iter()
        .filter_map(|interface| {
            let index = interfaces.get(&interface.name)?.index;
            Some(Port { name: interface.name.clone(), index, generic: interface.mode == XdpMode::Generic })
        })
        .collect()
}

/// Time-outs in ticks of the age clock, of which one lasts `tick`.
pub fn timeouts(daemon: &config::Daemon, tick: Duration) -> sweep::Policy {
    let ticks = |time: Duration| Limits::ticks((time.as_secs_f64() / tick.as_secs_f64()).ceil() as u32);
    let seconds = |seconds| ticks(Duration::from_secs(seconds));
    let tcp = Limits {
        idle_after: ticks(daemon.idle_after),
        idle_timeout: ticks(daemon.idle_timeout),
        half_open: seconds(HALF_OPEN_SECONDS),
        closing: seconds(CLOSING_SECONDS),
        linger: seconds(LINGER_SECONDS),
    };
    let udp = Limits { idle_timeout: ticks(daemon.udp_timeout), half_open: ticks(daemon.udp_timeout), ..tcp };
    let ports = Limits {
        half_open: seconds(PORT_HALF_OPEN_SECONDS),
        closing: seconds(PORT_REST_SECONDS),
        linger: seconds(PORT_REST_SECONDS),
        ..tcp
    };
    sweep::Policy { tcp, udp, ports }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use super::{PORT_REST_SECONDS, timeouts, tunnel_source};
    use crate::config::{Daemon, Prefix};

    #[test]
    fn the_bits_that_a_prefix_leaves_are_the_last_ones_on_the_wire() {
        for (address, length, varying) in [
            ("172.16.0.0", 16, [0, 0, 255, 255]),
            ("172.16.0.0", 28, [0, 0, 0, 15]),
            ("172.16.0.9", 32, [0, 0, 0, 0]),
            ("fd00::", 64, [255, 255, 255, 255]),
            ("fd00::", 96, [255, 255, 255, 255]),
            ("fd00::", 112, [0, 0, 255, 255]),
            ("fd00::9", 128, [0, 0, 0, 0]),
        ] {
            let address: IpAddr = address.parse().unwrap_or_else(|e| panic!("{address}: {e}"));
            let source = tunnel_source(Prefix { address, length });
            assert_eq!(source.spread.to_ne_bytes(), varying, "{address}/{length}");
            assert_eq!(source.address, address.into());
            assert_eq!(source.address.0[3] & source.spread, 0, "{address}/{length}: its free bits are zero");
        }
    }

    #[test]
    fn ports_rest_for_their_time_whatever_the_tick() {
        for tick in [0.85, 1.024, 1.28].map(Duration::from_secs_f64) {
            let policy = timeouts(&Daemon::default(), tick);
            for limit in [policy.ports.linger, policy.ports.closing] {
                let rest = tick * limit;
                assert!(rest >= Duration::from_secs(PORT_REST_SECONDS), "{rest:?} in ticks of {tick:?}");
            }
            assert!(policy.tcp.linger < policy.ports.linger, "a slot of the table is free again earlier");
        }
    }
}
