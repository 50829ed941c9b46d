//! What the daemon asks of the data plane: VIPs and their backends, resolved, in the kernel's own terms.

use lb_common::{
    address::{Endpoint, Mac},
    flow::mix,
    layout::Mode,
    pick::{Policy, Rule},
};

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipSpec {
    /// Its name, for messages.
    pub name: String,
    /// What clients connect to.
    pub endpoint: Endpoint,
    /// How packets reach the backends.
    pub mode: Mode,
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

/// A backend of a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Its weight, 100 nominal; 0 takes no new flows.
    pub weight: u32,
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
