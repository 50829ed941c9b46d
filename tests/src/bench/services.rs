//! The VIPs and backends that both balancers steer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use guidevane::dataplane::spec::{BackendSpec, NextHop, Standing, VipSpec};
use lb_common::{
    address::Endpoint,
    layout::Mode,
    pick::{Policy, Rule},
};

use crate::packet::Mac;

/// Backends of a VIP, as in the published runs of Katran.
pub const BACKENDS: usize = 100;

/// The frame's addresses: the client's router, this machine towards it, this machine towards backends.
pub const ROUTER_MAC: Mac = [2, 0, 0, 0, 0, 0xc];
/// See [`ROUTER_MAC`].
pub const OWN_MAC: Mac = [2, 0, 0, 0, 0, 0xb];
/// See [`ROUTER_MAC`].
pub const INNER_MAC: Mac = [2, 0, 0, 0, 0, 0xa];

/// Test runs come in on the loopback interface, whose index this is in every network namespace.
const HERE: u32 = 1;
const ETHERNET_MTU: u16 = 1500;
/// Bytes of a UDP header.
const UDP: u32 = 8;
const VIP_PORT: u16 = 443;
const BACKEND_PORT: u16 = 8000;

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// IANA's number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// How it is called in the names of cases.
    pub name: &'static str,
    /// Its family.
    pub family: Family,
    /// Its backends' family.
    pub backend_family: Family,
    /// Its protocol.
    pub protocol: Protocol,
    /// How packets reach the backends.
    pub mode: Mode,
    /// The tunnel is GUE.
    pub gue: bool,
    /// How many backends it has.
    pub backends: usize,
    number: u8,
}

/// All VIPs: each mode in both families and protocols, and those of one backend whose answers are measured.
pub fn all() -> Vec<Service> {
    use {Family::*, Protocol::*};
    let mut services = Vec::new();
    let mut add = |name, family, backend_family, protocol, mode, gue, backends| {
        let number = services.len() as u8 + 1;
        services.push(Service { name, family, backend_family, protocol, mode, gue, backends, number });
    };
    for (mode, name) in [(Mode::L2, "l2"), (Mode::Tunnel, "tunnel"), (Mode::Nat, "nat")] {
        for family in [V4, V6] {
            add(name, family, family, Tcp, mode, false, BACKENDS);
            add(name, family, family, Udp, mode, false, BACKENDS);
        }
    }
    add("tunnel4in6", V4, V6, Tcp, Mode::Tunnel, false, BACKENDS);
    add("gue", V4, V4, Tcp, Mode::Tunnel, true, BACKENDS);
    for family in [V4, V6] {
        // A packet of any flow can be answered by one backend alone when there is no other.
        add("nat-return", family, family, Tcp, Mode::Nat, false, 1);
        add("nat-return", family, family, Udp, Mode::Nat, false, 1);
    }
    services
}

impl Service {
    /// What clients connect to.
    pub fn vip(&self) -> SocketAddr {
        let ip: IpAddr = match self.family {
            Family::V4 => Ipv4Addr::new(198, 51, 100, self.number).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, self.number.into()).into(),
        };
        SocketAddr::new(ip, VIP_PORT)
    }

    /// Where a backend listens.
    pub fn backend(&self, place: usize) -> SocketAddr {
        let place = place as u8 + 1;
        let ip: IpAddr = match self.backend_family {
            Family::V4 => Ipv4Addr::new(10, 100, self.number, place).into(),
            Family::V6 => {
                Ipv6Addr::new(0x2001, 0xdb8, 0xbe, self.number.into(), 0, 0, 0, place.into()).into()
            }
        };
        SocketAddr::new(ip, BACKEND_PORT)
    }

    /// The MAC address of a backend.
    pub const fn mac(&self, place: usize) -> Mac {
        [2, 1, 0, 0, self.number, place as u8]
    }

    /// Bytes that the outer header takes.
    pub const fn push(&self) -> u32 {
        let outer = match self.backend_family {
            Family::V4 => 20,
            Family::V6 => 40,
        };
        match self.mode {
            Mode::Tunnel if self.gue => outer + UDP,
            Mode::Tunnel => outer,
            _ => 0,
        }
    }

    /// Likewise by the reference, whose tunnels are all plain IP in IP.
    pub const fn reference_push(&self) -> u32 {
        if self.gue { self.push() - UDP } else { self.push() }
    }

    /// An endpoint of this VIP's protocol.
    pub fn endpoint(&self, at: SocketAddr) -> Endpoint {
        Endpoint::new(at.ip().into(), at.port(), self.protocol.number())
    }

    /// What the data plane is told.
    pub fn spec(&self) -> VipSpec {
        let backend = |place| BackendSpec {
            name: format!("{}-{place}", self.number),
            endpoint: self.endpoint(self.backend(place)),
            weight: 100,
            server_id: None,
        };
        VipSpec {
            name: format!("{}-{}", self.name, self.number),
            endpoint: self.endpoint(self.vip()),
            mode: self.mode,
            gue: self.gue,
            source_nat: false,
            quic: None,
            rule: Rule { policy: Policy::Least as u8, awaiting_weight: 4, epsilon: 256 },
            client_affinity: false,
            skip_bytes: 0,
            answers: None,
            backends: (0..self.backends).map(backend).collect(),
        }
    }

    /// Up, active and reached over the interface on which packets come in.
    pub fn standing(&self, place: usize) -> Standing {
        let hop = NextHop {
            mac: self.mac(place).into(),
            source_mac: INNER_MAC.into(),
            interface: HERE,
            mtu: ETHERNET_MTU,
        };
        Standing { healthy: true, active: true, hop: Some(hop) }
    }
}
