//! The one place that speaks rtnetlink: requests out, plain values of this crate back.
//!
//! It keeps no state and takes no decision; `view` does that.

use std::{collections::BTreeSet, io, net::IpAddr};

use futures::{StreamExt as _, TryStreamExt as _, channel::mpsc::UnboundedReceiver};
use nix::libc;
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo},
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia},
    },
    sys::{AsyncSocket as _, SocketAddr},
};

use super::{
    Mac,
    view::{Event, Link, Neighbour, Reachability, Route},
};

/// Room for bursts of events; the kernel caps it at `net.core.rmem_max`. What does not fit is
/// reported as an overrun, upon which everything is read anew.
const EVENT_BUFFER_BYTES: u32 = 1 << 20;

/// What can go wrong between this process and the kernel's network configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The netlink socket could not be opened.
    #[error("open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel refused a request.
    #[error("{action}: {source}")]
    Refused {
        /// What was asked for.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The connection to the kernel ended or spoke out of turn.
    #[error("{action}: {detail}")]
    Broken {
        /// What was asked for.
        action: String,
        /// What happened instead.
        detail: String,
    },
}

impl Error {
    /// The kernel's error number, where the kernel answered with one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Open(source) | Self::Refused { source, .. } => source.raw_os_error(),
            Self::Broken { .. } => None,
        }
    }

    fn from_rtnetlink(action: impl Into<String>, error: rtnetlink::Error) -> Self {
        let action = action.into();
        match error {
            rtnetlink::Error::NetlinkError(message) => Self::Refused { action, source: message.to_io() },
            other => Self::Broken { action, detail: other.to_string() },
        }
    }
}

/// A connection for requests to the kernel's network configuration, in the network namespace of the
/// thread that opened it. Cheap to clone; must be opened within a tokio runtime.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Opens the connection and drives it on the current runtime until the last clone is gone.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], if the kernel gives out no netlink socket.
    pub fn open() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    pub(super) async fn links(&self) -> Result<Vec<LinkMessage>, Error> {
        let links = self.handle.link().get().execute().try_collect().await;
        links.map_err(|e| Error::from_rtnetlink("list the interfaces", e))
    }

    /// Every address of this host.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked.
    pub async fn addresses(&self) -> Result<Vec<IpAddr>, Error> {
        Ok(self.address_messages().await?.iter().filter_map(address).collect())
    }

    /// The addresses of an interface; none when it is not there.
    pub(super) async fn addresses_of(&self, ifindex: u32) -> Result<BTreeSet<IpAddr>, Error> {
        // The kernel filters by index only where strict checking was asked for.
        let all = self.address_messages().await?;
        Ok(all.iter().filter(|message| message.header.index == ifindex).filter_map(address).collect())
    }

    async fn address_messages(&self) -> Result<Vec<AddressMessage>, Error> {
        let messages = self.handle.address().get().execute().try_collect().await;
        messages.map_err(|e| Error::from_rtnetlink("list the addresses", e))
    }

    pub(super) async fn neighbours(&self) -> Result<Vec<Neighbour>, Error> {
        let entries: Vec<NeighbourMessage> = self
            .handle
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|e| Error::from_rtnetlink("list the neighbours", e))?;
        Ok(entries.iter().filter_map(neighbour).collect())
    }

    /// The route that the host itself would take to `target`. A refusal by the routing table is an
    /// answer ([`Route::None`]); an error means that nothing is known.
    pub(super) async fn route_to(&self, target: IpAddr) -> Result<Route, Error> {
        let action = || format!("look up the route to {target}");
        let host_prefix = if target.is_ipv4() { 32 } else { 128 };
        let request = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(target, host_prefix)
            .map_err(|e| Error::Broken { action: action(), detail: e.to_string() })?
            .build();
        let mut answers = std::pin::pin!(self.handle.route().get(request).execute());
        match answers.next().await {
            Some(Ok(message)) => Ok(route(target, &message)),
            Some(Err(rtnetlink::Error::NetlinkError(refusal))) => {
                Ok(Route::None(refusal_text(&refusal.to_io())))
            }
            Some(Err(e)) => Err(Error::from_rtnetlink(action(), e)),
            None => Err(Error::Broken { action: action(), detail: "the kernel sent no answer".into() }),
        }
    }

    /// Has the kernel treat the entry as used: a missing or failed one is solicited, a stale one
    /// probed. `NTF_USE` does so without a packet of ours and without touching a good entry.
    pub(super) async fn solicit(&self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        let request = self
            .handle
            .neighbours()
            .add(ifindex, address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        let answer = request.execute().await;
        answer.map_err(|e| Error::from_rtnetlink(format!("solicit the neighbour {address}"), e))
    }

    /// Adds `vip` as a host address. IPv6 addresses skip duplicate address detection (the VIP is to
    /// answer at once, and may be announced elsewhere on purpose) and are deprecated from the start,
    /// so that the host never picks the VIP as a source of its own connections.
    pub(super) async fn add_host_address(&self, ifindex: u32, vip: IpAddr) -> Result<(), Error> {
        let mut request = self.handle.address().add(ifindex, vip, host_prefix(vip));
        if vip.is_ipv6() {
            let mut lifetime = CacheInfo::default();
            lifetime.ifa_preferred = 0;
            lifetime.ifa_valid = u32::MAX;
            let attributes = &mut request.message_mut().attributes;
            attributes.push(AddressAttribute::CacheInfo(lifetime));
            attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.map_err(|e| Error::from_rtnetlink(format!("add the address {vip}"), e))
    }

    pub(super) async fn remove_host_address(&self, ifindex: u32, vip: IpAddr) -> Result<(), Error> {
        let mut message = AddressMessage::default();
        message.header.family = match vip {
            IpAddr::V4(_) => rtnetlink::packet_route::AddressFamily::Inet,
            IpAddr::V6(_) => rtnetlink::packet_route::AddressFamily::Inet6,
        };
        message.header.index = ifindex;
        message.header.prefix_len = host_prefix(vip);
        message.attributes.push(AddressAttribute::Local(vip));
        let answer = self.handle.address().del(message).execute().await;
        answer.map_err(|e| Error::from_rtnetlink(format!("remove the address {vip}"), e))
    }
}

/// Route types that refuse packets come back as error numbers (`fib_props` in the kernel's
/// `net/ipv4/fib_semantics.c`).
fn refusal_text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EINVAL) => "blackhole route".into(),
        Some(libc::EACCES) => "prohibit route".into(),
        _ => error.kind().to_string(),
    }
}

fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// Joins multicast groups of the kernel's.
fn listen(groups: &[MulticastGroup]) -> Result<Messages, Error> {
    let (mut connection, _, messages) = rtnetlink::new_multicast_connection(groups).map_err(Error::Open)?;
    let socket = connection.socket_mut().socket_mut();
    socket.set_rx_buf_sz(EVENT_BUFFER_BYTES).map_err(Error::Open)?;
    tokio::spawn(connection);
    Ok(messages)
}

/// Word that an address or a link may have changed.
pub(super) struct AddressChanges {
    messages: Messages,
}

impl AddressChanges {
    pub(super) fn open() -> Result<Self, Error> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        Ok(Self { messages: listen(&groups)? })
    }

    /// Waits for the next change. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<(), Error> {
        let action = || "watch the addresses".to_owned();
        let message = self.messages.next().await;
        message.map(drop).ok_or_else(|| Error::Broken { action: action(), detail: "the events ended".into() })
    }
}

/// Changes of links, neighbours and routes, as the kernel multicasts them.
pub(super) struct Events {
    messages: Messages,
}

impl Events {
    pub(super) fn open() -> Result<Self, Error> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        Ok(Self { messages: listen(&groups)? })
    }

    /// The next change that matters; `None` when the connection has ended. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            let (message, _) = self.messages.next().await?;
            if let Some(event) = event(message.payload) {
                return Some(event);
            }
        }
    }
}

fn event(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Event> {
    use RouteNetlinkMessage as Message;
    match payload {
        NetlinkPayload::Overrun(_) => Some(Event::Lost),
        NetlinkPayload::InnerMessage(message) => match message {
            Message::NewLink(m) => Some(Event::Link(m.header.index, link(&m))),
            Message::DelLink(m) => Some(Event::LinkGone(m.header.index)),
            Message::NewNeighbour(m) => neighbour(&m).map(Event::Neighbour),
            Message::DelNeighbour(m) => neighbour(&m).map(|n| Event::NeighbourGone(n.ifindex, n.address)),
            Message::NewRoute(_) | Message::DelRoute(_) | Message::NewRule(_) | Message::DelRule(_) => {
                Some(Event::RoutesChanged)
            }
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        name: String::new(),
        mac: None,
        mtu: 0,
        running: message.header.flags.contains(LinkFlags::Up | LinkFlags::Running),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(bytes) => link.mtu = *bytes,
            LinkAttribute::Address(address) => link.mac = Mac::try_from(address.as_slice()).ok(),
            _ => {}
        }
    }
    link
}

/// The kernel's word for what a virtual interface is (`veth`, `bond`, ...); physical ones have none.
pub(super) fn link_kind(message: &LinkMessage) -> Option<String> {
    let infos = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(InfoKind::Other(kind)) => Some(kind.clone()),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

/// The interface's own address; with a peer, `IFA_ADDRESS` is the peer's, and IPv6 has no `IFA_LOCAL` without one.
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let mut own = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => own = Some(*address),
            AddressAttribute::Address(address) => own = own.or(Some(*address)),
            _ => {}
        }
    }
    own
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    let reachability = match message.header.state {
        NeighbourState::Reachable
        | NeighbourState::Delay
        | NeighbourState::Probe
        | NeighbourState::Noarp
        | NeighbourState::Permanent => Reachability::Usable,
        NeighbourState::Stale => Reachability::Stale,
        NeighbourState::Incomplete => Reachability::Asking,
        NeighbourState::Failed => Reachability::Failed,
        _ => Reachability::Idle,
    };
    Some(Neighbour { ifindex: message.header.ifindex, address: address?, mac, reachability })
}

fn route(target: IpAddr, message: &RouteMessage) -> Route {
    match message.header.kind {
        RouteType::Local => return Route::Local,
        RouteType::Unicast => {}
        RouteType::BlackHole => return Route::None("blackhole route".into()),
        RouteType::Prohibit => return Route::None("prohibit route".into()),
        _ => return Route::None("not a unicast destination".into()),
    }
    let mut ifindex = None;
    let mut next_hop = target;
    let mut mtu = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway))
            | RouteAttribute::Via(RouteVia::Inet(gateway)) => next_hop = IpAddr::V4(*gateway),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway))
            | RouteAttribute::Via(RouteVia::Inet6(gateway)) => next_hop = IpAddr::V6(*gateway),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(bytes) if *bytes > 0 => Some(*bytes),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    match ifindex {
        Some(ifindex) => Route::Via { ifindex, next_hop, mtu },
        None => Route::None("the route names no interface".into()),
    }
}
