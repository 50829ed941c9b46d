//! What the daemon asks of the data plane: VIPs and their backends, resolved, in the kernel's own terms.

use lb_common::{
    address::{Address, Endpoint, Mac},
    flow::mix,
    layout::Mode,
    pick::{Policy, Rule},
};

/// Where packets to backends come from that are not sent as the client's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Of tunnels to IPv4 addresses.
    pub tunnel_v4: Option<TunnelSource>,
    /// Of tunnels to IPv6 addresses.
    pub tunnel_v6: Option<TunnelSource>,
    /// The interface on which neighbours are told of the source addresses of one-armed `nat`, and the MAC address
    /// they are told.
    pub answers: Option<(u32, Mac)>,
}

/// A prefix of tunnel sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelSource {
    /// Its first address.
    pub address: Address,
    /// The bits of the address's last word, as it lies in memory, that vary with the flow.
    pub spread: u32,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipSpec {
    /// Its name, for messages.
    pub name: String,
    /// What clients connect to.
    pub endpoint: Endpoint,
    /// How packets reach the backends.
    pub mode: Mode,
    /// `tunnel`: in UDP (GUE), not in IP alone.
    pub gue: bool,
    /// `nat`: packets come from a source address of our own, and answers go there.
    pub source_nat: bool,
    /// How QUIC connection IDs of this VIP name servers.
    pub quic: Option<ServerIds>,
    /// How to pick.
    pub rule: Rule,
    /// Affinity is the client's address.
    pub client_affinity: bool,
    /// Bytes of an answer that are headers.
    pub skip_bytes: u16,
    /// The interface on which neighbours are answered, and the MAC address they are told.
    pub answers: Option<(u32, Mac)>,
    /// Its backends.
    pub backends: Vec<BackendSpec>,
}

/// The form of QUIC connection IDs that carry a server ID in plain text (draft-ietf-quic-load-balancers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerIds {
    /// The configuration's number in a connection ID's first three bits, 0 to 6.
    pub config: u8,
    /// Bytes of a server ID, 1 to 8.
    pub length: u8,
}

/// A backend of a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Its weight, 100 nominal; 0 takes no new flows.
    pub weight: u32,
    /// What QUIC connection IDs call it.
    pub server_id: Option<u64>,
}

/// How to reach a backend: the frame's addresses and the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The next hop's MAC address.
    pub mac: Mac,
    /// The interface's own.
    pub source_mac: Mac,
    /// The interface.
    pub interface: u32,
    /// The largest IP packet that gets to the backend, in bytes.
    pub mtu: u16,
}

/// What holds for a backend at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Health checks pass.
    pub healthy: bool,
    /// It is not draining.
    pub active: bool,
    /// How to reach it; none takes no flows at all.
    pub hop: Option<NextHop>,
}

impl VipSpec {
    /// Whether the Maglev table is weighted: where cost carries the weight, it is not.
    pub fn weighs_table(&self) -> bool {
        matches!(Policy::from_number(self.rule.policy), Policy::Hash | Policy::Bounded)
    }
}

impl BackendSpec {
    /// What the backend is across restarts and machines, by which tables order it.
    pub fn identity(&self) -> u64 {
        let [high, low] = self.endpoint.address.halves();
        mix(mix(high)
            ^ mix(low ^ 1)
            ^ mix(u64::from(self.endpoint.port()) << 8 | u64::from(self.endpoint.protocol)))
    }
}
