//! What is known of a host and of what is wanted of it, as plain data.

use std::net::IpAddr;

use crate::config::XdpMode;

/// A Linux version, as far as features go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

/// What is known. `None` is: cannot be found out here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    /// Whether the kernel tells of its own types (BTF).
    pub kernel_types: bool,
    /// `net.core.bpf_jit_enable`.
    pub jit: Option<u32>,
    /// Effective capabilities, a bit each.
    pub capabilities: u64,
    /// Bytes of a page.
    pub page_size: u64,
    /// CPUs that this process may run on.
    pub cpus: usize,
    /// What loading the program and running it on a packet gave: the build, or why not.
    pub trial: Option<Result<String, String>>,
    /// Where the configuration pins.
    pub pin: Option<Pin>,
    /// What DMI or the device tree call the machine, if it is a DPU.
    pub dpu: Option<String>,
    /// The NVIDIA driver's version, or why it cannot be read.
    pub nvml: Option<Result<String, String>>,
    /// Whether the configuration wants GPUs of this host to be read.
    pub wants_gpus: bool,
    /// Whether VIPs are announced, which takes a packet socket.
    pub announces: bool,
    /// Whether a VIP is rewritten and its answers come back this way.
    pub routes: bool,
    /// The most bytes that an outer header takes; 0 without tunnels.
    pub overhead: u32,
    /// The configured interfaces.
    pub ports: Vec<Port>,
    /// The configured backends.
    pub backends: Vec<Backend>,
}

/// The directory to pin in.
#[derive(Clone, Debug, PartialEq)]
pub struct Pin {
    /// As configured.
    pub path: String,
    /// Whether it is, or would be made, on a BPF file system.
    pub on_bpffs: bool,
    /// Whether this process may write there.
    pub writable: bool,
}

/// A configured interface.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// How the program is to be attached.
    pub mode: XdpMode,
    /// What it is, or why it could not be looked up.
    pub link: Result<Link, String>,
}

/// An interface that is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Link {
    /// Up, with carrier.
    pub running: bool,
    /// Bytes of the largest IP packet.
    pub mtu: u32,
    /// The driver's name; `veth` for one end of a pair.
    pub driver: Option<String>,
    /// Receive queues in use.
    pub queues: Option<u32>,
    /// Offloads that are on, as ethtool names them.
    pub offloads: Option<Vec<String>>,
    /// `rp_filter`, the stricter of the interface's and the host's.
    pub rp_filter: Option<u32>,
    /// The name that the hardware gives the port: `p0`, `pf0hpf`, `pf0vf1`.
    pub port_name: Option<String>,
    /// The other end of a veth, where it is in this network namespace.
    pub peer: Option<Peer>,
}

/// The other end of a veth.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Whether it leaves checksums for others to fill in; `None` where ethtool is missing.
    pub leaves_checksums: Option<bool>,
}

/// A configured backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Whether packets can be sent there, or why not.
    pub hop: Option<Result<(), String>>,
    /// What else it is asked by TCP.
    pub services: Vec<Service>,
}

/// Something of a backend that listens.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// What it is to Guidevane.
    pub role: Role,
    /// Host and port.
    pub authority: String,
    /// Whether a connection could be made, or why not.
    pub answer: Result<(), String>,
}

/// What a service of a backend is to Guidevane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The server itself, as probed.
    Server,
    /// Its metrics.
    Metrics,
    /// A DCGM exporter.
    Exporter,
    /// An agent.
    Agent,
}
