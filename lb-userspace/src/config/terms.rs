//! The words of the configuration that the status speaks too.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the XDP program is attached to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the kernel's network stack: any interface, at several times the cost a packet.
    Generic,
}

/// Transport protocol of a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How packets reach the backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub enum ForwardMode {
    /// The destination MAC is rewritten; backends hold the VIP and answer the client directly (DSR).
    L2,
    /// The destination address and port are rewritten; answers come back through Guidevane.
    Nat {
        /// The source is rewritten too, to an address of `[nat]` (one-armed): answers come back from anywhere.
        source_nat: bool,
    },
    /// An outer header is put around the packet; backends take it off, hold the VIP and answer the client directly.
    Tunnel {
        /// What the outer header is.
        encap: Encap,
    },
}

impl ForwardMode {
    /// Whether answers come back to the source addresses of `[nat]`.
    pub fn translates_source(self) -> bool {
        self == Self::Nat { source_nat: true }
    }
}

/// The outer header of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encap {
    /// IP in IP, of either family.
    Ip,
    /// UDP around the bare IP packet (GUE, variant 1).
    Gue,
}

/// How a new flow's backend is picked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Policy {
    /// The smallest live count times cost among the flow's candidates.
    Least,
    /// The first candidate whose load stays within `1 + epsilon` of its fair share.
    Bounded {
        /// Slack over the fair share, 0.01 to 10.
        epsilon: f64,
    },
    /// The first candidate of the weighted Maglev table, whatever its load.
    Hash,
    /// Each backend in turn: a baseline.
    RoundRobin,
    /// The fewest live connections: a baseline.
    LeastConnections,
}

impl Policy {
    /// Slack of `bounded` where the file gives none.
    pub const DEFAULT_EPSILON: f64 = 0.25;

    /// The policy without its parameters.
    pub fn kind(self) -> PolicyKind {
        match self {
            Self::Least => PolicyKind::Least,
            Self::Bounded { .. } => PolicyKind::Bounded,
            Self::Hash => PolicyKind::Hash,
            Self::RoundRobin => PolicyKind::RoundRobin,
            Self::LeastConnections => PolicyKind::LeastConnections,
        }
    }
}

/// A [`Policy`]'s name, as configuration and status write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyKind {
    /// See [`Policy::Least`].
    Least,
    /// See [`Policy::Bounded`].
    Bounded,
    /// See [`Policy::Hash`].
    Hash,
    /// See [`Policy::RoundRobin`].
    RoundRobin,
    /// See [`Policy::LeastConnections`].
    LeastConnections,
}

/// What the governor does for a VIP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GovernorMode {
    /// Costs are computed and shown; the kernel runs plain least connections.
    Observe,
    /// Costs are those of the configured weights.
    Static,
    /// Costs steer.
    #[default]
    On,
    /// Costs stay as they are.
    Freeze,
}

/// What a client's flows are hashed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Affinity {
    /// The five-tuple: each connection on its own.
    Flow,
    /// The client's address: its connections keep together, for the servers' prefix caches.
    Client,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for ForwardMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::L2 => "l2",
            Self::Nat { source_nat: false } => "nat",
            Self::Nat { source_nat: true } => "nat (one-armed)",
            Self::Tunnel { encap: Encap::Ip } => "tunnel (ip)",
            Self::Tunnel { encap: Encap::Gue } => "tunnel (gue)",
        })
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Least => "least",
            Self::Bounded => "bounded",
            Self::Hash => "hash",
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
        })
    }
}

impl fmt::Display for GovernorMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Observe => "observe",
            Self::Static => "static",
            Self::On => "on",
            Self::Freeze => "freeze",
        })
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}
