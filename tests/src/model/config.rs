//! What the model steers by.

use std::net::IpAddr;

use crate::packet::Mac;

/// How packets reach a VIP's backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By MAC address.
    L2,
    /// Destination rewritten.
    Nat,
    /// Destination and source rewritten.
    OneArmedNat,
    /// An outer header.
    Tunnel {
        /// With a UDP header in it.
        gue: bool,
    },
}

/// The form of QUIC connection IDs with server IDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quic {
    /// The first three bits of a connection ID.
    pub config: u8,
    /// Bytes of a server ID.
    pub length: usize,
}

/// A VIP.
#[derive(Clone, Debug)]
pub struct Vip {
    /// Its address.
    pub address: IpAddr,
    /// Its port, 0 for any.
    pub port: u16,
    /// Its IP protocol.
    pub protocol: u8,
    /// How backends are reached.
    pub mode: Mode,
    /// Whether connection IDs name servers.
    pub quic: Option<Quic>,
    /// The MAC address that neighbours are told.
    pub answers: Option<Mac>,
    /// Where packets may go.
    pub backends: Vec<Backend>,
}

/// A backend.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The next hop's MAC address, unlike any other backend's.
    pub mac: Mac,
    /// The MAC address that frames to it come from.
    pub own_mac: Mac,
    /// The largest packet on the way to it, in bytes.
    pub mtu: usize,
    /// Whether it may get new flows.
    pub eligible: bool,
    /// What QUIC connection IDs call it.
    pub server_id: Option<u64>,
}

/// Addresses of which the low bits are free.
#[derive(Clone, Copy, Debug)]
pub struct Prefix {
    /// The address with those bits zero.
    pub base: IpAddr,
    /// How many bits are free, at most 32.
    pub free: u32,
}

impl Prefix {
    /// Whether an address is one of these.
    pub fn holds(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6),
        };
        self.base.is_ipv4() == address.is_ipv4() && bits(self.base) >> self.free == bits(address) >> self.free
    }
}

/// Everything there is to steer by.
#[derive(Clone, Debug)]
pub struct Config {
    /// All VIPs.
    pub vips: Vec<Vip>,
    /// Addresses of our own that one-armed translation may take.
    pub sources: Vec<IpAddr>,
    /// Where tunnels come from, over IPv4 and IPv6.
    pub outer: [Prefix; 2],
}

impl Config {
    /// The VIP of an endpoint: that of the port if there is one, else that of any port.
    pub fn vip_at(&self, address: IpAddr, port: u16, protocol: u8) -> Option<usize> {
        let of = |wanted: u16| {
            self.vips
                .iter()
                .position(|vip| (vip.address, vip.port, vip.protocol) == (address, wanted, protocol))
        };
        of(port).or_else(|| of(0))
    }

    /// Whether any VIP has this address.
    pub fn is_ours(&self, address: IpAddr) -> bool {
        self.vips.iter().any(|vip| vip.address == address)
    }

    /// The VIP under a mode, and its backend, that listens at an endpoint.
    pub fn backend_at(&self, mode: Mode, address: IpAddr, port: u16, protocol: u8) -> Option<(usize, usize)> {
        let vips = self.vips.iter().enumerate();
        vips.filter(|(_, vip)| vip.mode == mode && vip.protocol == protocol).find_map(|(number, vip)| {
            let at = vip.backends.iter().position(|one| (one.address, one.port) == (address, port))?;
            Some((number, at))
        })
    }
}
