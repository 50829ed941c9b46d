//! Packets to VIPs that open a flow, or that are of none: where they go, and what is entered of them.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{
    flow::FlowKey,
    header::TCP,
    layout::{FlowInfo, Mode, Vip, vip_flags},
    maglev::NOBODY,
    pick::Policy,
    reason::Reason,
    slot::Slot,
    table,
    track::{self, Track},
};

use crate::{
    backends, client,
    deliver::Way,
    flows::{self, Flow},
    forward,
    maps::VIPS,
    packet::{self, Packet},
    steer::Verdict,
    trace,
};

/// The packet at hand, whose flow was looked up, opens it or is of none: what is to be done about it. A global
/// function: see [`crate::steer`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_prepare(ctx: *mut xdp_md) -> u64 {
    let Some(packet) = packet::current() else { return Verdict::INTERNAL.0 };
    let Some(vip) = VIPS.get(packet.element) else { return Verdict::INTERNAL.0 };
    match prepare(&XdpContext::new(ctx), packet, vip) {
        Ok(verdict) => verdict.0,
        Err(reason) => Verdict::new(Err(reason), vip.id).0,
    }
}

#[inline(always)]
fn prepare(ctx: &XdpContext, packet: &mut Packet, vip: &Vip) -> Result<Verdict, Reason> {
    let segment = client::read(ctx, packet)?;
    let flow = Flow { slot: Slot(packet.slot), number: packet.number };
    let datagram = packet.protocol != TCP;
    if !datagram && !segment.flags.opens() {
        // In `nat` nothing could translate the answer.
        if vip.mode == Mode::Nat as u8 {
            return Err(Reason::UnknownNat);
        }
        packet.affinity = affinity(vip, &packet.flow_to(vip.id), packet.hash);
        return Ok(Verdict::guess(vip.id, Reason::Unknown));
    }
    if flow.is_known() && !wants_another(&flow, datagram) {
        client::note(packet, vip, &segment, &flow);
        let way = Way::Flow(flow.number);
        return Ok(Verdict::deliver(vip.id, flow.slot.backend(), way, Reason::Established));
    }
    if !flow.is_known() {
        packet.place = flows::place(packet.hash, vip).ok_or(Reason::NoPort)?;
    }
    packet.affinity = affinity(vip, &packet.flow_to(vip.id), packet.hash);
    Ok(Verdict::pick(vip.id))
}

/// Sends a packet of no known flow where its VIP's table sends it.
#[inline(always)]
pub fn guess(packet: &Packet, verdict: Verdict) -> Verdict {
    match backends::choose(packet.element, Policy::Hash as u8, packet.affinity, packet.hash) {
        Some(backend) => verdict.to(backend),
        None => Verdict::new(Err(Reason::NoBackend), verdict.owner()),
    }
}

/// Picks a new flow's backend and enters the flow.
#[inline(always)]
pub fn pick(ctx: &XdpContext, packet: &Packet, verdict: Verdict) -> Verdict {
    let Some(vip) = VIPS.get(packet.element) else { return Verdict::INTERNAL };
    let choice = backends::choose_new(packet.element, vip.rule.policy, packet.affinity, packet.hash);
    match choice {
        Some(backend) => Verdict(guidevane_enter(ctx.ctx, backend.into())),
        None => {
            trace::outcome(packet, vip.id, NOBODY, Reason::NoBackend);
            Verdict::new(Err(Reason::NoBackend), verdict.owner())
        }
    }
}

/// Enters the flow of the packet at hand, which goes to `backend`. A global function: see [`crate::steer`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_enter(ctx: *mut xdp_md, backend: u32) -> u64 {
    let Some(packet) = packet::current() else { return Verdict::INTERNAL.0 };
    let Some(vip) = VIPS.get(packet.element) else { return Verdict::INTERNAL.0 };
    let (backend, way, reason) = enter(&XdpContext::new(ctx), packet, vip, backend as u16);
    trace::outcome(packet, vip.id, backend, reason);
    if matches!(reason, Reason::NoPort) {
        return Verdict::new(Err(reason), vip.id).0;
    }
    Verdict::deliver(vip.id, backend, way, reason).0
}

#[inline(always)]
fn enter(ctx: &XdpContext, packet: &Packet, vip: &Vip, backend: u16) -> (u16, Way, Reason) {
    let flow = Flow { slot: Slot(packet.slot), number: packet.number };
    let entered = if flow.is_known() {
        match flow.reopen(vip.id, backend) {
            Ok(number) => Some(number),
            // The same flow, reopened by its twin on another CPU: that one's pick holds.
            Err(slot) if slot.tag() == flow.slot.tag() => {
                return (slot.backend(), Way::Flow(flow.number), Reason::Established);
            }
            Err(_) => None,
        }
    } else {
        flows::open(packet.hash, vip, backend, packet.place)
    };
    let Some(number) = entered else {
        // In one-armed `nat` a flow without a port cannot go anywhere.
        let ported = vip.flags & vip_flags::SOURCE_NAT != 0;
        return (backend, Way::Table, if ported { Reason::NoPort } else { Reason::Untracked });
    };
    // Where servers answer directly the line can wait for more than a SYN.
    let needed = vip.mode == Mode::Nat as u8 || flow.is_known();
    if needed && let Some(line) = flows::info(number) {
        write_line(ctx, packet, vip, line);
    }
    (backend, Way::Flow(number), Reason::NewFlow)
}

/// The hash by which a VIP picks.
#[inline(always)]
pub fn affinity(vip: &Vip, key: &FlowKey, hash: u64) -> u64 {
    if vip.flags & vip_flags::CLIENT_AFFINITY == 0 {
        return hash;
    }
    let [high, low] = key.client.halves();
    flows::guidevane_client_hash(high, low, key.vip.into())
}

/// See [`table::wants_another`].
#[inline(always)]
pub fn wants_another(flow: &Flow, datagram: bool) -> bool {
    let backend = backends::backend(flow.slot.backend());
    backend.is_none_or(|(control, _)| table::wants_another(flow.slot, control, datagram))
}

/// Writes the cold line of a new flow.
#[inline(always)]
fn write_line(ctx: &XdpContext, packet: &Packet, vip: &Vip, line: *mut FlowInfo) {
    let Ok((to, from)) = forward::frame_addresses(ctx) else { return };
    let Ok(segment) = client::read(ctx, packet) else { return };
    let both_ways = if vip.mode == Mode::Nat as u8 { track::BOTH_WAYS } else { 0 };
    flows::begin_line(packet, vip.id, line);
    let FlowInfo { client_mac, own_mac, interface, track, .. } =
        // SAFETY: the pointer is to a whole element of the map, plain numbers.
        unsafe { &mut *line };
    // Field by field: a whole line would take a seventh of the stack.
    (*client_mac, *own_mac) = (from, to);
    *interface = ctx.ingress_ifindex() as u32;
    *track = if packet.protocol == TCP { track::opened(&segment, both_ways) } else { Track::default() };
}
