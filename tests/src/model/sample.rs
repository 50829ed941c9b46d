//! A configuration with a VIP of every kind, for tests of the model and of the program.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::config::{Backend, Config, Mode, Prefix, Quic, Vip};
use crate::packet::Mac;

/// Where clients' frames come from: their router.
pub const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 0xc];
/// Where clients' frames go.
pub const OWN_MAC: Mac = [2, 0, 0, 0, 0, 0xb];
/// Where frames to backends come from.
pub const INNER_MAC: Mac = [2, 0, 0, 0, 0, 0xa];

/// IP protocol numbers.
pub const TCP: u8 = 6;
/// UDP's.
pub const UDP: u8 = 17;

/// An endpoint from its text.
///
/// # Panics
/// It is none.
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The MAC address of the way to a backend: any that differs between backends.
pub fn mac_of(backend: SocketAddr) -> Mac {
    let port = backend.port().to_be_bytes();
    match backend.ip() {
        IpAddr::V4(ip) => [2, 4, ip.octets()[2], ip.octets()[3], port[0], port[1]],
        IpAddr::V6(ip) => [2, 6, ip.octets()[13], ip.octets()[15], port[0], port[1]],
    }
}

/// One VIP of the table.
pub struct Service {
    /// Address and port, 0 for any.
    pub vip: &'static str,
    /// IP protocol.
    pub protocol: u8,
    /// How backends are reached.
    pub mode: Mode,
    /// Where they listen, and what QUIC connection IDs call them.
    pub backends: &'static [(&'static str, Option<u64>)],
    /// Whether connection IDs name servers.
    pub quic: bool,
    /// Whether a client keeps its backend whatever its port, by hash.
    pub affinity: bool,
    /// Whether neighbours are answered.
    pub announced: bool,
}

/// Short for the mode.
pub const L2: Mode = Mode::L2;
/// Likewise.
pub const NAT: Mode = Mode::Nat;
/// Likewise.
pub const ONE_ARMED: Mode = Mode::OneArmedNat;
/// Likewise.
pub const IPIP: Mode = Mode::Tunnel { gue: false };
/// Likewise.
pub const GUE: Mode = Mode::Tunnel { gue: true };

/// What a path to every backend carries.
pub const MTU: usize = 1500;

/// The number in the first three bits of connection IDs, and how long server IDs are.
pub const QUIC: Quic = Quic { config: 2, length: 4 };

/// Where tunnels come from: their last 16 and 32 bits vary with the flow.
pub const OUTER_V4: [u8; 4] = [172, 16, 0, 0];
/// Likewise over IPv6.
pub const OUTER_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0);
const FREE: [u32; 2] = [16, 32];

const fn on(
    vip: &'static str,
    protocol: u8,
    mode: Mode,
    backends: &'static [(&'static str, Option<u64>)],
) -> Service {
    Service { vip, protocol, mode, backends, quic: false, affinity: false, announced: false }
}

/// A VIP under `l2`, IPv4.
pub const L2_V4: &str = "10.200.1.1:80";
/// A VIP under `l2`, IPv6.
pub const L2_V6: &str = "[fc00:1::1]:80";
/// A VIP under `l2` for datagrams, IPv4.
pub const L2_UDP: &str = "10.200.1.1:53";
/// A VIP under `nat`, IPv4.
pub const NAT_V4: &str = "10.200.1.2:80";
/// A VIP under `nat`, IPv6.
pub const NAT_V6: &str = "[fc00:1::2]:80";
/// A VIP under `nat` for datagrams, IPv4.
pub const NAT_UDP_V4: &str = "10.200.1.2:53";
/// A VIP under `nat` for datagrams, IPv6.
pub const NAT_UDP_V6: &str = "[fc00:1::2]:53";
/// A VIP under `tunnel`, IPv4.
pub const IPIP_V4: &str = "10.200.1.3:80";
/// A VIP under `tunnel` for datagrams, IPv4.
pub const IPIP_UDP: &str = "10.200.1.3:53";
/// A VIP under `tunnel`, IPv4 in IPv6.
pub const IPIP_V4_IN_V6: &str = "10.200.1.4:80";
/// A VIP under `tunnel`, IPv6.
pub const IPIP_V6: &str = "[fc00:1::5]:80";
/// A VIP under `tunnel`, IPv6 in IPv4.
pub const IPIP_V6_IN_V4: &str = "[fc00:1::6]:80";
/// A VIP of any port.
pub const ANY_PORT: &str = "10.200.1.7:0";
/// One port of it that is a VIP of its own.
pub const ONE_PORT: &str = "10.200.1.7:443";
/// A VIP under `tunnel` with GUE, IPv4.
pub const GUE_V4: &str = "10.200.1.9:80";
/// A VIP under `tunnel` with GUE, IPv4 in IPv6.
pub const GUE_V4_IN_V6: &str = "10.200.1.10:80";
/// A VIP under `tunnel` with GUE, IPv6.
pub const GUE_V6: &str = "[fc00:1::9]:80";
/// A VIP under `tunnel` with GUE, IPv6 in IPv4.
pub const GUE_V6_IN_V4: &str = "[fc00:1::a]:80";
/// A VIP under `tunnel` with QUIC server IDs, IPv4.
pub const QUIC_V4: &str = "10.200.1.11:443";
/// A VIP under `tunnel` with QUIC server IDs, IPv6.
pub const QUIC_V6: &str = "[fc00:1::b]:443";
/// A VIP without backends.
pub const EMPTY_V4: &str = "10.200.1.13:80";
/// Likewise.
pub const EMPTY_V6: &str = "[fc00:1::d]:53";
/// A VIP where the client's address alone decides.
pub const BY_CLIENT: &str = "10.200.1.14:80";
/// A VIP under `nat` with one arm, IPv4.
pub const ONE_ARMED_V4: &str = "10.200.1.15:80";
/// A VIP under `nat` with one arm for datagrams, IPv6.
pub const ONE_ARMED_V6: &str = "[fc00:1::f]:53";

/// Server IDs of the QUIC VIPs' backends; the third has none.
pub const SERVER_IDS: [u64; 2] = [1024, 0x0a0b_0c0d];

/// Addresses of our own for one-armed translation.
pub const SOURCES: [&str; 2] = ["10.0.9.9", "fc00:9::9"];

/// All of them.
pub fn services() -> Vec<Service> {
    let mut all = vec![
        on(L2_V4, TCP, L2, &[("10.0.0.1:80", None)]),
        on(L2_V6, TCP, L2, &[("[fc00::1]:80", None)]),
        on(L2_UDP, UDP, L2, &[("10.0.0.1:53", None)]),
        on(NAT_V4, TCP, NAT, &[("10.0.0.2:8080", None)]),
        on(NAT_V6, TCP, NAT, &[("[fc00::2]:8080", None)]),
        on(NAT_UDP_V4, UDP, NAT, &[("10.0.0.2:5353", None)]),
        on(NAT_UDP_V6, UDP, NAT, &[("[fc00::2]:5353", None)]),
        on(IPIP_V4, TCP, IPIP, &[("10.0.0.3:80", None)]),
        on(IPIP_UDP, UDP, IPIP, &[("10.0.0.3:53", None)]),
        on(IPIP_V4_IN_V6, TCP, IPIP, &[("[fc00::4]:80", None)]),
        on(IPIP_V6, TCP, IPIP, &[("[fc00::5]:80", None)]),
        on(IPIP_V6_IN_V4, TCP, IPIP, &[("10.0.0.6:80", None)]),
        on(ANY_PORT, TCP, IPIP, &[("10.0.0.7:0", None)]),
        on(ONE_PORT, TCP, IPIP, &[("10.0.0.8:443", None)]),
        on(GUE_V4, TCP, GUE, &[("10.0.0.9:80", None)]),
        on(GUE_V4_IN_V6, TCP, GUE, &[("[fc00::a]:80", None)]),
        on(GUE_V6, TCP, GUE, &[("[fc00::9]:80", None)]),
        on(GUE_V6_IN_V4, TCP, GUE, &[("10.0.0.10:80", None)]),
        on(EMPTY_V4, TCP, IPIP, &[]),
        on(EMPTY_V6, UDP, GUE, &[]),
        on(ONE_ARMED_V4, TCP, ONE_ARMED, &[("10.0.0.15:8080", None)]),
        on(ONE_ARMED_V6, UDP, ONE_ARMED, &[("[fc00::f]:5353", None)]),
    ];
    const QUIC_V4_SERVERS: &[(&str, Option<u64>)] = &[
        ("10.0.0.11:443", Some(SERVER_IDS[0])),
        ("10.0.0.12:443", Some(SERVER_IDS[1])),
        ("10.0.0.13:443", None),
    ];
    const QUIC_V6_SERVERS: &[(&str, Option<u64>)] =
        &[("[fc00::b]:443", Some(SERVER_IDS[0])), ("[fc00::c]:443", Some(SERVER_IDS[1]))];
    for (vip, servers) in [(QUIC_V4, QUIC_V4_SERVERS), (QUIC_V6, QUIC_V6_SERVERS)] {
        all.push(Service { quic: true, ..on(vip, UDP, IPIP, servers) });
    }
    let three = &[("10.0.0.21:80", None), ("10.0.0.22:80", None), ("10.0.0.23:80", None)];
    all.push(Service { affinity: true, ..on(BY_CLIENT, TCP, L2, three) });
    all[0].announced = true;
    all[1].announced = true;
    all
}

/// The same as a configuration.
///
/// # Panics
/// Never.
pub fn config() -> Config {
    let backend = |(text, server_id): &(&str, Option<u64>)| {
        let at = at(text);
        Backend {
            address: at.ip(),
            port: at.port(),
            mac: mac_of(at),
            own_mac: INNER_MAC,
            mtu: MTU,
            eligible: true,
            server_id: *server_id,
        }
    };
    let vip = |one: &Service| {
        let vip = at(one.vip);
        Vip {
            address: vip.ip(),
            port: vip.port(),
            protocol: one.protocol,
            mode: one.mode,
            quic: one.quic.then_some(QUIC),
            answers: one.announced.then_some(OWN_MAC),
            backends: one.backends.iter().map(backend).collect(),
        }
    };
    let [v4, v6] = FREE;
    Config {
        vips: services().iter().map(vip).collect(),
        sources: sources(),
        outer: [Prefix { base: OUTER_V4.into(), free: v4 }, Prefix { base: OUTER_V6.into(), free: v6 }],
    }
}

/// The same as addresses.
///
/// # Panics
/// Never.
pub fn sources() -> Vec<IpAddr> {
    SOURCES.iter().map(|text| text.parse().expect("an address")).collect()
}
