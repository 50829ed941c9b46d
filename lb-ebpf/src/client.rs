//! Packets to VIPs: which flow, which backend.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{
    address::Endpoint,
    flow::FlowKey,
    header::TCP,
    layout::{FlowInfo, Mode, Vip, backend_bits, vip_flags},
    pick::Policy,
    reason::Reason,
    slot::State,
    track::{self, Segment, Track},
};

use crate::{
    backends,
    deliver::Way,
    flows::{self, Flow},
    forward,
    packet::{self, Packet},
    quic,
    steer::Verdict,
    trace,
};

/// A client's packet, TCP or UDP. A global function: see [`crate::steer`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_client(ctx: *mut xdp_md) -> u64 {
    let Some(packet) = packet::current() else { return Verdict::INTERNAL.0 };
    let Some((element, vip)) = vip_at(&packet.to()) else { return Verdict::ELSEWHERE.0 };
    let verdict = match to_vip(&XdpContext::new(ctx), packet, element, vip) {
        Ok((backend, way, reason)) => Verdict::deliver(vip.id, backend, way, reason),
        Err(reason) => Verdict::new(Err(reason), vip.id),
    };
    verdict.0
}

/// A backend, how it was found, and why.
pub type Found = Result<(u16, Way, Reason), Reason>;

/// The VIP at an endpoint: that of its very port, or else that of all ports of its address.
#[inline(always)]
pub fn vip_at(endpoint: &Endpoint) -> Option<(u32, &'static Vip)> {
    if let Some(found) = backends::vip_at(endpoint) {
        return Some(found);
    }
    let (_, address) = backends::vip_at(&Endpoint::address_only(endpoint.address))?;
    if address.flags & vip_flags::ANY_PORT == 0 {
        return None;
    }
    backends::vip_at(&Endpoint { port_be: 0, ..*endpoint })
}

#[inline(always)]
fn to_vip(ctx: &XdpContext, packet: &Packet, element: u32, vip: &Vip) -> Found {
    // Never an option: what is in one that is none is undefined, and the verifier refuses to see it copied.
    let segment = if is_datagram(packet) {
        packet.datagram(ctx)?;
        Segment::default()
    } else {
        packet.segment(ctx)?
    };
    forward::may_go_on(packet)?;
    match quic::backend(ctx, packet, vip) {
        Some(backend) => Ok((backend, Way::Table, Reason::ConnectionId)),
        None => find_or_open(ctx, packet, element, vip, &segment),
    }
}

#[inline(always)]
fn is_datagram(packet: &Packet) -> bool {
    packet.protocol != TCP
}

#[inline(always)]
fn find_or_open(ctx: &XdpContext, packet: &Packet, element: u32, vip: &Vip, segment: &Segment) -> Found {
    let key = packet.flow_to(vip.id);
    let hash = key.hash(flows::key());
    let flow = flows::find(hash, vip);
    let datagram = is_datagram(packet);
    let opens = datagram || segment.flags.opens();
    if flow.is_known() && !(opens && wants_another(&flow, datagram)) {
        if datagram {
            flow.on_datagram(vip.id);
        } else {
            flow.on_segment(vip.id, segment, vip.skip_bytes);
        }
        return Ok((flow.slot.backend(), Way::Flow(flow.number), Reason::Established));
    }
    if opens {
        return open(ctx, packet, element, vip, hash, &flow, segment);
    }
    Ok((by_table(element, vip, &key, hash)?, Way::Table, Reason::Unknown))
}

/// Where packets of unknown flows go. In `nat` nothing could translate the answer.
#[inline(always)]
pub fn by_table(element: u32, vip: &Vip, key: &FlowKey, hash: u64) -> Result<u16, Reason> {
    if vip.mode == Mode::Nat as u8 {
        return Err(Reason::UnknownNat);
    }
    let affinity = affinity(vip, key, hash);
    backends::choose(element, Policy::Hash as u8, affinity, hash).ok_or(Reason::NoBackend)
}

/// A new flow, or one that is picked anew; reported if it is sampled.
#[inline(always)]
fn open(
    ctx: &XdpContext,
    packet: &Packet,
    element: u32,
    vip: &Vip,
    hash: u64,
    flow: &Flow,
    segment: &Segment,
) -> Found {
    let found = enter(ctx, packet, element, vip, hash, flow, segment);
    trace::outcome(packet, vip.id, &found);
    found
}

#[inline(always)]
fn enter(
    ctx: &XdpContext,
    packet: &Packet,
    element: u32,
    vip: &Vip,
    hash: u64,
    flow: &Flow,
    segment: &Segment,
) -> Found {
    let affinity = affinity(vip, &packet.flow_to(vip.id), hash);
    let backend = backends::choose_new(element, vip.rule.policy, affinity, hash).ok_or(Reason::NoBackend)?;
    let entered = if flow.is_known() {
        match flow.reopen(vip.id, backend) {
            Ok(number) => Some(number),
            // The same flow, reopened by its twin on another CPU: that one's pick holds.
            Err(slot) if slot.tag() == flow.slot.tag() => {
                return Ok((slot.backend(), Way::Flow(flow.number), Reason::Established));
            }
            Err(_) => None,
        }
    } else {
        flows::open(hash, vip, backend)
    };
    if entered.is_none() && vip.flags & vip_flags::SOURCE_NAT != 0 {
        return Err(Reason::NoPort);
    }
    let Some(number) = entered else { return Ok((backend, Way::Table, Reason::Untracked)) };
    if let Some(line) = flows::info(number) {
        write_line(ctx, packet, vip, segment, line);
    }
    Ok((backend, Way::Flow(number), Reason::NewFlow))
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
fn write_line(ctx: &XdpContext, packet: &Packet, row: &Vip, segment: &Segment, line: *mut FlowInfo) {
    let both_ways = if row.mode == Mode::Nat as u8 { track::BOTH_WAYS } else { 0 };
    let Ok((own_mac, client_mac)) = forward::frame_addresses(ctx) else { return };
    let FlowInfo { client, client_port_be, vip, client_mac: from, own_mac: to, interface, track, opened_at, request_at } =
        // SAFETY: the pointer is to a whole element of the map, plain numbers.
        unsafe { &mut *line };
    // Field by field: a whole line would take a seventh of the stack.
    *client = packet.source;
    *client_port_be = packet.source_port_be;
    *vip = row.id;
    (*from, *to) = (client_mac, own_mac);
    *interface = ctx.ingress_ifindex() as u32;
    *track = if is_datagram(packet) { Track::default() } else { track::opened(segment, both_ways) };
    *opened_at = flows::nanoseconds();
    *request_at = 0;
}
