//! The way of a packet through the program: whose it is, which flow, which backend, and out.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use lb_common::{
    address::Endpoint,
    flow::FlowKey,
    layout::{FlowInfo, Hop, Mode, Vip, backend_bits, vip_flags},
    maglev::NOBODY,
    pick::Policy,
    reason::Reason,
    slot::State,
    track::{self, Flags, Segment},
};

use crate::{
    backends,
    flows::{self, Flow},
    forward::{self, End, Identity},
    neighbour,
    packet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMPV6, Network, TCP, UDP},
};

/// What to do with the packet, and why.
pub type Outcome = Result<(u32, Reason), Reason>;

/// Reads a packet as far as it must to know whose it is; `owner` becomes the id of its VIP.
#[inline(always)]
pub fn packet(ctx: &XdpContext, owner: &mut u16) -> Outcome {
    let network = match packet::ether_type(ctx).map_err(unreadable)? {
        ETHERTYPE_IPV4 => packet::ipv4(ctx).map_err(unreadable)?,
        ETHERTYPE_IPV6 => packet::ipv6(ctx).map_err(unreadable)?,
        ETHERTYPE_ARP => return neighbour::arp(ctx),
        _ => return Err(Reason::NotOurs),
    };
    if network.fragment || !matches!(network.protocol, TCP | UDP) {
        return other(ctx, &network);
    }
    let Ok((source, destination)) = network.ports(ctx) else {
        return Err(for_address(&network, Reason::Truncated));
    };
    // One look-up in the flow table serves both directions: what differs is which end is the client. Rows are
    // looked up again below: what is alive across the look-up takes room on the stack.
    let (client, port_be, id, element, server) = match backends::vip_at(&network.to(destination)) {
        Some((element, vip)) => (network.source, source, vip.id, element, NOBODY),
        None => {
            let (server, hop) = backends::backend_at(&network.from(source)).ok_or(Reason::NotOurs)?;
            (network.destination, destination, hop.vip, 0, server)
        }
    };
    let key = FlowKey { client, client_port_be: port_be, vip: id };
    let hash = key.hash(flows::key());
    let flow = flows::find(hash).ok_or(Reason::Internal)?;
    if server != NOBODY {
        if !flow.is_known() {
            return Err(Reason::NotOurs);
        }
        let (_, hop) = backends::backend(server).ok_or(Reason::Internal)?;
        return from_backend(ctx, &network, server, hop, &key, &flow);
    }
    *owner = id;
    let vip = backends::row(element).ok_or(Reason::Internal)?;
    to_vip(ctx, &network, &Service { element, vip }, &key, hash, &flow)
}

/// The VIP a packet is for, and its live row's element.
struct Service {
    element: u32,
    vip: &'static Vip,
}

/// A packet that cannot be read before it is known to be ours is not ours to judge.
#[inline(always)]
fn unreadable(_: Reason) -> Reason {
    Reason::Unreadable
}

/// `reason` if the packet is for the address of a VIP, else it is not ours.
#[inline(always)]
fn for_address(network: &Network, reason: Reason) -> Reason {
    match backends::vip_at(&Endpoint::address_only(network.destination)) {
        Some(_) => reason,
        None => Reason::NotOurs,
    }
}

#[inline(always)]
fn other(ctx: &XdpContext, network: &Network) -> Outcome {
    if network.fragment {
        return Err(for_address(network, Reason::FragmentUnknown));
    }
    if network.v6 && network.protocol == ICMPV6 {
        let outcome = neighbour::solicitation(ctx, network);
        if !matches!(outcome, Err(Reason::NotOurs)) {
            return outcome;
        }
    }
    Err(for_address(network, Reason::OtherProtocol))
}

/// A client's packet.
#[inline(always)]
fn to_vip(
    ctx: &XdpContext,
    network: &Network,
    service: &Service,
    key: &FlowKey,
    hash: u64,
    flow: &Flow,
) -> Outcome {
    let vip = service.vip;
    let segment = match network.protocol {
        TCP => Some(network.segment(ctx)?),
        _ => network.datagram(ctx).map(|()| None)?,
    };
    forward::may_go_on(network)?;
    let opens = segment.is_none_or(|segment| segment.flags.opens());
    let stays = flow.is_known() && !(opens && wants_another(flow, segment.is_none()));
    let (backend, reason) = match stays {
        true => {
            match &segment {
                Some(segment) => flow.on_segment(vip.id, segment, vip.skip_bytes),
                None => flow.on_datagram(vip.id),
            }
            (flow.slot.backend(), Reason::Established)
        }
        _ if opens => open(ctx, service, key, hash, flow, segment.as_ref())?,
        _ if vip.mode == Mode::Nat as u8 => return Err(Reason::UnknownNat),
        _ => {
            let affinity = affinity(vip, key, hash);
            let backend = backends::choose(service.element, Policy::Hash as u8, affinity, hash);
            (backend.ok_or(Reason::NoBackend)?, Reason::Unknown)
        }
    };
    deliver(ctx, network, vip, backend, reason)
}

/// A new flow, or one that is picked anew.
#[inline(always)]
fn open(
    ctx: &XdpContext,
    service: &Service,
    key: &FlowKey,
    hash: u64,
    flow: &Flow,
    segment: Option<&Segment>,
) -> Result<(u16, Reason), Reason> {
    let vip = service.vip;
    let affinity = affinity(vip, key, hash);
    let backend =
        backends::choose(service.element, vip.rule.policy, affinity, hash).ok_or(Reason::NoBackend)?;
    let entered = if flow.is_known() {
        match flows::reopen(flow, vip.id, backend) {
            Ok(number) => Some(number),
            // The same flow, reopened by its twin on another CPU: that one's pick holds.
            Err(slot) if slot.tag() == flow.slot.tag() => return Ok((slot.backend(), Reason::Established)),
            Err(_) => None,
        }
    } else {
        flows::open(hash, vip.id, backend)
    };
    let Some(number) = entered else { return Ok((backend, Reason::Untracked)) };
    if let Some(line) = flows::info(number) {
        write_line(ctx, key, segment, line);
    }
    Ok((backend, Reason::NewFlow))
}

/// The hash by which a VIP picks.
#[inline(always)]
fn affinity(vip: &Vip, key: &FlowKey, hash: u64) -> u64 {
    if vip.flags & vip_flags::CLIENT_AFFINITY == 0 {
        return hash;
    }
    let [high, low] = key.client.halves();
    flows::guidevane_client_hash(high, low, key.vip.into())
}

/// Whether a flow in the table is picked anew: it was closed, or its backend is down. `datagram` flows
/// have no connection to lose, so any of their packets may move them.
#[inline(always)]
fn wants_another(flow: &Flow, datagram: bool) -> bool {
    if flow.slot.state() as u8 == State::Closed as u8 && !datagram {
        return true;
    }
    const ALIVE: u32 = backend_bits::PRESENT | backend_bits::HEALTHY;
    // What follows a FIN is a new connection: it may not go where new ones are not welcome.
    let closing = flow.slot.state() as u8 == State::Closing as u8;
    let wanted = if closing { backend_bits::ELIGIBLE } else { ALIVE };
    backends::backend(flow.slot.backend()).is_none_or(|(control, _)| control & wanted != wanted)
}

/// Writes a new flow's cold line.
#[inline(always)]
fn write_line(ctx: &XdpContext, key: &FlowKey, segment: Option<&Segment>, line: *mut FlowInfo) {
    let Ok((own_mac, client_mac)) = forward::frame_addresses(ctx) else { return };
    let FlowInfo { client, client_port_be, vip, client_mac: from, own_mac: to, interface, track, opened_at, request_at } =
        // SAFETY: the pointer is to a whole element of the map, plain numbers.
        unsafe { &mut *line };
    // Field by field: a whole line would take a seventh of the stack.
    *client = key.client;
    *client_port_be = key.client_port_be;
    *vip = key.vip;
    (*from, *to) = (client_mac, own_mac);
    *interface = ctx.ingress_ifindex() as u32;
    *track = segment.map(track::opened).unwrap_or_default();
    *opened_at = flows::nanoseconds();
    *request_at = 0;
}

#[inline(always)]
fn deliver(ctx: &XdpContext, network: &Network, vip: &Vip, id: u16, reason: Reason) -> Outcome {
    const USABLE: u32 = backend_bits::PRESENT | backend_bits::REACHABLE;
    let (control, hop) = backends::backend(id).ok_or(Reason::Internal)?;
    if control & USABLE != USABLE {
        return Err(Reason::NoNextHop);
    }
    forward::decrement_ttl(ctx, network)?;
    if vip.mode == Mode::Nat as u8 {
        forward::translate(ctx, network, End::Destination, &identity_of(vip), &identity_at(hop))?;
    }
    Ok((forward::to_backend(ctx, id, hop)?, reason))
}

#[inline(always)]
fn identity_of(vip: &Vip) -> Identity {
    Identity { address: vip.endpoint.address, port_be: vip.endpoint.port_be, sum: vip.checksum }
}

#[inline(always)]
fn identity_at(hop: &Hop) -> Identity {
    Identity { address: hop.endpoint.address, port_be: hop.endpoint.port_be, sum: hop.checksum }
}

/// A packet from a backend of a `nat` VIP: rewritten only if it belongs to a flow in the table with that
/// backend, so that scrapes, probes and direct access to the same port pass.
#[inline(always)]
fn from_backend(
    ctx: &XdpContext,
    network: &Network,
    id: u16,
    hop: &Hop,
    key: &FlowKey,
    flow: &Flow,
) -> Outcome {
    let vip = backends::vip(hop.vip).ok_or(Reason::Internal)?;
    let line = flows::info(flow.number).ok_or(Reason::Internal)?;
    // SAFETY: the pointer is to a whole element of the map, plain numbers.
    let info = unsafe { &*line };
    if flow.slot.backend() != id || info.client != key.client || info.client_port_be != key.client_port_be {
        return Err(Reason::NotOurs);
    }
    forward::may_go_on(network)?;
    if network.protocol == TCP {
        let segment = network.segment(ctx)?;
        if segment.payload > 0 || segment.flags.has(Flags::SYN | Flags::RST) {
            flow.on_answer(vip.id, &segment, vip.skip_bytes.into());
        }
    } else {
        network.datagram(ctx)?;
    }
    forward::decrement_ttl(ctx, network)?;
    forward::translate(ctx, network, End::Source, &identity_at(hop), &identity_of(vip))?;
    forward::address_frame(ctx, info.client_mac, info.own_mac)?;
    forward::count_returned(ctx, id);
    Ok((forward::out_of(ctx, info.interface), Reason::Returned))
}

/// The XDP action of a packet that is not forwarded.
#[inline(always)]
pub fn action_of(reason: Reason) -> u32 {
    match reason {
        Reason::NotOurs | Reason::OtherProtocol | Reason::Unreadable => xdp_action::XDP_PASS,
        _ => xdp_action::XDP_DROP,
    }
}
