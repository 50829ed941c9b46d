//! The two networks that a balancer is tested in, each with IPv4 and IPv6.
//!
//! ```text
//! one arm:   client ─┐            two arms:   client ── balancer ─┐
//!          balancer ─┤ bridge                                     │ bridge
//!           servers ─┘                                   servers ─┘
//! ```
//!
//! With one arm everything shares a segment and servers hold the VIPs on their loopback, so they answer clients
//! directly. With two arms the balancer is everyone's router, so what it does not translate is plainly routed.

use nix::net::if_::if_nametoindex;

use super::{
    Address, BedError, Bpffs, Namespace, Prefix,
    address::{CLIENTS, MAX_SERVERS, SERVERS, Segment},
    tools,
    xdp::{self, Attachment, Instruction, XDP_PASS},
};

/// The interface of every host with a single one.
const UPLINK: &str = "eth0";
const BRIDGE: &str = "bridge";
/// The bridge's port towards the balancer.
const BALANCER_PORT: &str = "balancer";

/// One end of a link.
#[derive(Clone, Copy, Debug)]
pub struct Interface {
    /// Name inside its namespace.
    pub name: &'static str,
    /// Index inside its namespace.
    pub index: u32,
    /// Fixed MAC address.
    pub mac: [u8; 6],
    /// Addresses on it.
    pub address: Address,
}

/// A namespace with its links.
#[derive(Debug)]
pub struct Host {
    /// Where its programs run.
    pub namespace: Namespace,
    /// All links but loopback.
    pub interfaces: Vec<Interface>,
}

impl Host {
    /// The addresses of the first link.
    pub fn address(&self) -> Address {
        self.interfaces[0].address
    }
}

/// A network with a client, a balancer and servers; removed when dropped.
#[derive(Debug)]
pub struct Topology {
    /// Pins of this bed.
    pub bpffs: Bpffs,
    /// One client.
    pub client: Host,
    /// Where Guidevane runs. It has no program, and with one arm drops what is for a VIP.
    pub balancer: Host,
    /// The servers, in the order of their addresses.
    pub servers: Vec<Host>,
    /// The client has a route to it by way of the balancer.
    pub vip: Address,
    /// An address of the client's segment that nobody answers for: the balancer may announce it.
    pub announced: Address,
    /// Programs at the far ends of the balancer's links, without which veth drops what it sends from XDP.
    far_ends: Vec<Attachment>,
    switch: Namespace,
}

impl Topology {
    /// Everything in one segment; servers hold the VIPs and answer directly.
    ///
    /// # Errors
    /// The process is not root's, a tool is missing, or there are more than 250 servers.
    pub fn one_arm(servers: usize) -> Result<Self, BedError> {
        let mut bed = Self::hosts(servers, SERVERS)?;
        bed.plug(BALANCER_PORT, &bed.balancer.namespace, UPLINK, SERVERS.balancer())?;
        bed.plug("client", &bed.client.namespace, UPLINK, SERVERS.client())?;
        bed.plug_servers()?;
        bed.balancer.interfaces = vec![bed.balancer.interface(UPLINK, SERVERS.balancer())?];
        bed.client.interfaces = vec![bed.client.interface(UPLINK, SERVERS.client())?];
        bed.hold_vips_on_servers()?;
        bed.route_vip(SERVERS.balancer())?;
        bed.far_ends = vec![pass_all(&bed.switch, BALANCER_PORT)?];
        Ok(bed)
    }

    /// The balancer routes between the client and the servers; servers do not hold the VIPs.
    ///
    /// # Errors
    /// The process is not root's, a tool is missing, or there are more than 250 servers.
    pub fn two_arm(servers: usize) -> Result<Self, BedError> {
        const FRONT: &str = "front";
        const BACK: &str = "back";
        let mut bed = Self::hosts(servers, CLIENTS)?;
        let router = &bed.balancer.namespace;
        tools::sysctls(router, &ROUTER)?;
        let client = End::new(&bed.client.namespace, UPLINK, Some(CLIENTS.client()));
        join(&client, &End::new(router, FRONT, Some(CLIENTS.balancer())))?;
        bed.plug(BALANCER_PORT, router, BACK, SERVERS.balancer())?;
        bed.plug_servers()?;
        bed.balancer.interfaces = vec![
            bed.balancer.interface(FRONT, CLIENTS.balancer())?,
            bed.balancer.interface(BACK, SERVERS.balancer())?,
        ];
        bed.client.interfaces = vec![bed.client.interface(UPLINK, CLIENTS.client())?];
        bed.route_vip(CLIENTS.balancer())?;
        default_route(&bed.client.namespace, CLIENTS.balancer())?;
        for server in &bed.servers {
            default_route(&server.namespace, SERVERS.balancer())?;
        }
        bed.far_ends = vec![pass_all(&bed.switch, BALANCER_PORT)?, pass_all(&bed.client.namespace, UPLINK)?];
        Ok(bed)
    }

    /// The balancer's link towards clients.
    pub fn front(&self) -> Interface {
        self.balancer.interfaces[0]
    }

    /// The balancer's link towards servers; with one arm the same as [`Topology::front`].
    pub fn back(&self) -> Interface {
        self.balancer.interfaces[self.balancer.interfaces.len() - 1]
    }

    /// Puts both VIPs on the loopback of every server, where no ARP or neighbour discovery answers for them.
    ///
    /// # Errors
    /// They are there already, as with one arm.
    pub fn hold_vips_on_servers(&self) -> Result<(), BedError> {
        let add = |vip: Address| {
            [format!("addr add {}/32 dev lo", vip.v4), format!("addr add {}/128 dev lo nodad", vip.v6)]
        };
        let lines: Vec<String> = [self.vip, self.announced].into_iter().flat_map(add).collect();
        self.servers.iter().try_for_each(|server| tools::ip_batch(&server.namespace, &lines))
    }

    /// All namespaces with their settings and the bridge, still without links.
    fn hosts(servers: usize, client_segment: Segment) -> Result<Self, BedError> {
        if servers > MAX_SERVERS {
            return Err(BedError::TooManyServers { servers, limit: MAX_SERVERS });
        }
        let prefix = Prefix::new();
        let host = |role: &str, settings: &[&[(&str, &str)]]| {
            let namespace = Namespace::in_bed(&prefix, role)?;
            settings.iter().try_for_each(|list| tools::sysctls(&namespace, list))?;
            Ok(Host { namespace, interfaces: Vec::new() })
        };
        let switch = host("switch", &[&SWITCH])?.namespace;
        let options = "stp_state 0 forward_delay 0 mcast_snooping 0";
        let bridge = [format!("link add {BRIDGE} type bridge {options}"), format!("link set {BRIDGE} up")];
        tools::ip_batch(&switch, &bridge)?;
        let numbered = |number| host(&format!("server-{number}"), &[&HOST, &SERVER]);
        Ok(Self {
            bpffs: Bpffs::in_bed(&prefix)?,
            client: host("client", &[&HOST])?,
            balancer: host("balancer", &[&HOST])?,
            servers: (1..=servers).map(numbered).collect::<Result<_, BedError>>()?,
            vip: client_segment.address(255, 1),
            announced: client_segment.address(255, 2),
            far_ends: Vec::new(),
            switch,
        })
    }

    /// Links a host to a port of the bridge.
    fn plug(&self, port: &str, host: &Namespace, name: &str, address: Address) -> Result<(), BedError> {
        join(&End::new(&self.switch, port, None), &End::new(host, name, Some(address)))?;
        tools::ip_batch(&self.switch, &[format!("link set {port} master {BRIDGE}")])
    }

    fn plug_servers(&mut self) -> Result<(), BedError> {
        for number in 1..=self.servers.len() {
            let host = u8::try_from(number).expect("the number of servers is bounded");
            let address = SERVERS.address(1, host);
            let server = &self.servers[number - 1];
            self.plug(&format!("server-{number}"), &server.namespace, UPLINK, address)?;
            self.servers[number - 1].interfaces = vec![server.interface(UPLINK, address)?];
        }
        Ok(())
    }

    fn route_vip(&self, via: Address) -> Result<(), BedError> {
        let routes = [
            format!("route add {}/32 via {}", self.vip.v4, via.v4),
            format!("route add {}/128 via {}", self.vip.v6, via.v6),
        ];
        tools::ip_batch(&self.client.namespace, &routes)
    }
}

impl Host {
    fn interface(&self, name: &'static str, address: Address) -> Result<Interface, BedError> {
        let index = index_of(&self.namespace, name)?;
        Ok(Interface { name, index, mac: address.mac(), address })
    }
}

/// No duplicate address detection, which delays an address by a second; no reverse path check, which drops what
/// a server is sent for a VIP.
const HOST: [(&str, &str); 8] = [
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
];
/// ARP only for an address of the interface asked, never for a VIP on loopback.
const SERVER: [(&str, &str); 2] = [("ipv4/conf/all/arp_ignore", "1"), ("ipv4/conf/all/arp_announce", "2")];
const ROUTER: [(&str, &str); 4] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
];
/// Bridge ports take no part in IPv6 themselves.
const SWITCH: [(&str, &str); 2] =
    [("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")];

/// One end of a link to be made; a port of the bridge has no address.
struct End<'a> {
    namespace: &'a Namespace,
    name: &'a str,
    address: Option<Address>,
}

impl<'a> End<'a> {
    fn new(namespace: &'a Namespace, name: &'a str, address: Option<Address>) -> Self {
        Self { namespace, name, address }
    }

    /// Gives it its addresses and brings it up.
    fn start(&self) -> Result<(), BedError> {
        let Self { namespace, name, address } = self;
        let mut lines = Vec::new();
        if let Some(address) = address {
            let mac = address.mac().map(|byte| format!("{byte:02x}")).join(":");
            lines.push(format!("link set {name} address {mac}"));
            lines.push(format!("addr add {}/16 dev {name}", address.v4));
            lines.push(format!("addr add {}/64 dev {name} nodad", address.v6));
        }
        lines.push(format!("link set {name} up"));
        tools::ip_batch(namespace, &lines)?;
        tools::disable_offloads(namespace, name)
    }
}

fn join(near: &End<'_>, far: &End<'_>) -> Result<(), BedError> {
    let link =
        format!("link add {} type veth peer name {} netns {}", near.name, far.name, far.namespace.name());
    tools::ip_batch(near.namespace, &[link])?;
    near.start()?;
    far.start()
}

fn default_route(namespace: &Namespace, via: Address) -> Result<(), BedError> {
    let routes = [format!("route add default via {}", via.v4), format!("route add default via {}", via.v6)];
    tools::ip_batch(namespace, &routes)
}

/// Attaches a program that passes everything, which also turns GRO on; the bed has it off.
fn pass_all(namespace: &Namespace, name: &str) -> Result<Attachment, BedError> {
    let index = index_of(namespace, name)?;
    let attachment = xdp::attach(namespace, index, &Instruction::verdict(XDP_PASS))?;
    tools::disable_offloads(namespace, name)?;
    Ok(attachment)
}

fn index_of(namespace: &Namespace, name: &str) -> Result<u32, BedError> {
    namespace.run(|| if_nametoindex(name)).map_err(|errno| BedError::Command {
        command: format!("if_nametoindex({name}) in {}", namespace.name()),
        message: errno.to_string(),
    })
}
