//! Packets back from the backends of `nat` VIPs.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{
    address::Endpoint,
    fragment,
    header::TCP,
    layout::{FlowInfo, Hop, NO_VIP, Vip, vip_flags},
    reason::Reason,
    slot::Slot,
    table::{WAYS, Word as _},
    track::Flags,
};

use crate::{
    backends,
    deliver::{count_returned, identity_at, identity_of, out_of},
    flows::{self, Flow},
    forward::{self, End, Identity},
    fragments,
    maps::flow_word,
    packet::{self, Packet},
    steer::{Outcome, Verdict},
};

/// A packet that is for no VIP: a server's answer, or not ours. A global function: see [`crate::steer`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_server(ctx: *mut xdp_md) -> u64 {
    let Some(packet) = packet::current() else { return Verdict::INTERNAL.0 };
    Verdict::new(from_server(&XdpContext::new(ctx), packet), NO_VIP).0
}

/// Rewritten only if it belongs to a flow in the table with that backend, so that scrapes, probes and direct
/// access to the same port pass.
#[inline(always)]
fn from_server(ctx: &XdpContext, packet: &mut Packet) -> Outcome {
    // First by where it goes: the same server may be behind a two-armed VIP as well.
    let outcome = to_source(ctx, packet);
    if !matches!(outcome, Err(Reason::NotOurs)) {
        return outcome;
    }
    let (id, hop) = backends::backend_at(&packet.from()).ok_or(Reason::NotOurs)?;
    let key = packet.flow_back(hop.vip);
    let vip = backends::vip(hop.vip).ok_or(Reason::NotOurs)?;
    let flow = flows::find(packet, key.hash(flows::key()), vip);
    if !flow.is_known() || flow.slot.backend() != id {
        return Err(Reason::NotOurs);
    }
    let line = line(flow.number).ok_or(Reason::Internal)?;
    if line.client != key.client || line.client_port_be != key.client_port_be {
        return Err(Reason::NotOurs);
    }
    give_back(ctx, packet, vip, id, hop, &flow)
}

/// An answer to one of our own source addresses (one-armed `nat`).
#[inline(always)]
fn to_source(ctx: &XdpContext, packet: &mut Packet) -> Outcome {
    let flow = flow_at(&packet.destination, packet.destination_port_be)?;
    let id = flow.slot.backend();
    let (_, hop) = backends::backend(id).ok_or(Reason::NotOurs)?;
    if !backends::same(&hop.endpoint, &packet.from()) {
        return Err(Reason::NotOurs);
    }
    let vip = backends::vip(hop.vip).ok_or(Reason::NotOurs)?;
    give_back(ctx, packet, vip, id, hop, &flow)
}

/// The flow at a port of a source address.
#[inline(always)]
pub fn flow_at(address: &lb_common::address::Address, port_be: u16) -> Result<Flow, Reason> {
    let (_, source) = backends::vip_at(&Endpoint::address_only(*address)).ok_or(Reason::NotOurs)?;
    if source.flags & vip_flags::SOURCE_ADDRESS == 0 {
        return Err(Reason::NotOurs);
    }
    let number = source.ports * WAYS as u32 + u32::from(u16::from_be(port_be));
    let flow = Flow { slot: Slot(flow_word(number).ok_or(Reason::NotOurs)?.load()), number };
    if flow.is_known() { Ok(flow) } else { Err(Reason::NotOurs) }
}

/// The cold line of the flow with this number.
#[inline(always)]
pub fn line(number: u32) -> Option<&'static FlowInfo> {
    // SAFETY: the pointer is to a whole element of the map, plain numbers.
    flows::info(number).map(|line| unsafe { &*line })
}

#[inline(always)]
fn give_back(ctx: &XdpContext, packet: &Packet, vip: &Vip, id: u16, hop: &Hop, flow: &Flow) -> Outcome {
    forward::may_go_on(packet)?;
    if packet.protocol == TCP {
        let segment = packet.segment(ctx)?;
        if segment.payload > 0 || segment.flags.has(Flags::SYN | Flags::RST) {
            flow.on_answer(vip.id, &segment, vip.skip_bytes.into());
        }
    } else {
        packet.datagram(ctx)?;
        flow.refresh(vip.id);
    }
    if packet.is_first() {
        fragments::guidevane_remember(fragment::Way::Client as u32, flow.number);
    }
    forward::decrement_ttl(ctx, packet)?;
    forward::translate(ctx, packet, End::Source, &identity_at(hop), &identity_of(vip))?;
    let line = line(flow.number).ok_or(Reason::Internal)?;
    if vip.flags & vip_flags::SOURCE_NAT != 0 {
        let old = Identity::new(packet.destination, packet.destination_port_be);
        let new = Identity::new(line.client, line.client_port_be);
        forward::translate(ctx, packet, End::Destination, &old, &new)?;
    }
    send_back(ctx, packet, id, line).map(|action| (action, Reason::Returned))
}

/// A later fragment on its way back to the client.
#[inline(always)]
pub fn return_part(ctx: &XdpContext, packet: &Packet, id: u16, hop: &Hop, number: u32) -> Outcome {
    let vip = backends::vip(hop.vip).ok_or(Reason::Internal)?;
    forward::decrement_ttl(ctx, packet)?;
    forward::readdress(ctx, packet, End::Source, &hop.endpoint.address, &vip.endpoint.address)?;
    let line = line(number).ok_or(Reason::Internal)?;
    if vip.flags & vip_flags::SOURCE_NAT != 0 {
        forward::readdress(ctx, packet, End::Destination, &packet.destination, &line.client)?;
    }
    send_back(ctx, packet, id, line).map(|action| (action, Reason::Fragment))
}

/// Sends a frame the way the client's packets came.
#[inline(always)]
pub fn send_back(ctx: &XdpContext, packet: &Packet, id: u16, line: &FlowInfo) -> Result<u32, Reason> {
    forward::address_frame(ctx, line.client_mac, line.own_mac)?;
    count_returned(packet, id);
    Ok(out_of(ctx, line.interface))
}
