//! From the configuration to what the data plane is asked for.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use lb_common::{
    address::{Address, Endpoint},
    layout::Mode,
    pick::{Policy, Rule},
    table::Limits,
};

use crate::{
    config::{self, Affinity, Announce, Config, ForwardMode, PolicyKind, Protocol, XdpMode},
    dataplane::{
        attach::Port,
        spec::{BackendSpec, VipSpec},
        sweep,
    },
    net::{
        Netlink,
        interface::{self, Interface},
    },
    signals::MetricsUrl,
};

/// How much more a flow counts while it waits for its first progress; see [`Rule::awaiting_weight`].
const AWAITING_WEIGHT: u8 = 4;

/// Seconds for which a half-open flow keeps its backend: SYNs are sent again until 63 s after the first.
const HALF_OPEN_SECONDS: u64 = 64;
/// Seconds for which a closing flow keeps its backend: TIME-WAIT on Linux.
const CLOSING_SECONDS: u64 = 60;
/// Seconds for which a reset flow can be restored.
const LINGER_SECONDS: u64 = 10;

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

/// The metrics URLs of all backends that have one.
///
/// # Errors
///
/// For the first that cannot be scraped, with its place in the file.
pub fn metrics_urls(config: &Config) -> anyhow::Result<Vec<(String, MetricsUrl)>> {
    let backends = config.vips.iter().flat_map(|vip| &vip.backends);
    backends
        .filter_map(|backend| Some((backend, backend.metrics.as_ref()?)))
        .map(|(backend, url)| {
            let url = url.to_string().parse().with_context(|| backend.place.to_string())?;
            Ok((backend.name.clone(), url))
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

/// What the data plane is asked for.
pub fn vips(config: &Config, interfaces: &Interfaces) -> Vec<VipSpec> {
    config.vips.iter().map(|vip| vip_spec(vip, interfaces)).collect()
}

fn vip_spec(vip: &config::Vip, interfaces: &Interfaces) -> VipSpec {
    let answers = match &vip.announce {
        Announce::Arp { interface } => {
            interfaces.get(interface).and_then(|found| Some((found.index, found.mac?.into())))
        }
        Announce::None | Announce::Address { .. } => None,
    };
    let backends = vip.backends.iter().map(|backend| BackendSpec {
        name: backend.name.clone(),
        endpoint: endpoint(backend.endpoint(), vip.protocol),
        weight: u32::from(backend.weight),
        server_id: None,
    });
    VipSpec {
        name: vip.name.clone(),
        endpoint: endpoint(vip.endpoint(), vip.protocol),
        mode: match vip.mode {
            ForwardMode::L2 => Mode::L2,
            ForwardMode::Nat => Mode::Nat,
        },
        gue: false,
        source_nat: false,
        quic: None,
        rule: rule(&vip.policy),
        client_affinity: vip.affinity == Affinity::Client,
        skip_bytes: vip.skip_bytes,
        answers,
        backends: backends.collect(),
    }
}

fn rule(policy: &config::Policy) -> Rule {
    /// The margin is kept in 1,024ths.
    const ONE: f64 = 1024.0;
    let number = match policy.kind() {
        PolicyKind::Least => Policy::Least,
        PolicyKind::Bounded => Policy::Bounded,
        PolicyKind::Hash => Policy::Hash,
        PolicyKind::RoundRobin => Policy::RoundRobin,
        PolicyKind::LeastConnections => Policy::LeastConnections,
    };
    let epsilon = match policy {
        config::Policy::Bounded { epsilon } => (epsilon * ONE).round() as u16,
        _ => 0,
    };
    Rule { policy: number as u8, awaiting_weight: AWAITING_WEIGHT, epsilon }
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
    sweep::Policy { tcp, udp }
}
