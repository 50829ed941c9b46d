//! Packets to VIPs: which flow, which backend. What opens a flow, or is of none, goes on to [`crate::opening`].

use aya_ebpf::programs::XdpContext;
use lb_common::{
    address::Endpoint,
    header::TCP,
    layout::{Vip, vip_flags},
    reason::Reason,
    track::Segment,
};

use crate::{
    backends,
    deliver::Way,
    flows::{self, Flow},
    forward,
    maps::VIPS,
    opening::{self, guidevane_prepare},
    packet::{self, Packet},
    quic,
    steer::Verdict,
};

/// What [`guidevane_any_port`] gives when there is no such VIP.
const NOTHING: u32 = u32::MAX;

/// The VIP that the packet at hand is for.
#[inline(always)]
pub fn vip_of(packet: &Packet) -> Option<(u32, &'static Vip)> {
    if let Some(found) = backends::vip_at(&packet.to()) {
        return Some(found);
    }
    match guidevane_any_port() {
        NOTHING => None,
        element => VIPS.get(element).map(|vip| (element, vip)),
    }
}

/// The element of the VIP of all ports that the packet at hand is for. A global function: see
/// [`crate::steer`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_any_port() -> u32 {
    packet::current().and_then(|packet| any_port(&packet.to())).map_or(NOTHING, |(element, _)| element)
}

/// The VIP at an endpoint: that of its very port, or else that of all ports of its address.
#[inline(always)]
pub fn vip_at(endpoint: &Endpoint) -> Option<(u32, &'static Vip)> {
    backends::vip_at(endpoint).or_else(|| any_port(endpoint))
}

#[inline(always)]
fn any_port(endpoint: &Endpoint) -> Option<(u32, &'static Vip)> {
    let (_, address) = backends::vip_at(&Endpoint::address_only(endpoint.address))?;
    if address.flags & vip_flags::ANY_PORT == 0 {
        return None;
    }
    backends::vip_at(&Endpoint { port_be: 0, ..*endpoint })
}

/// A client's packet, TCP or UDP.
#[inline(always)]
pub fn to_vip(ctx: &XdpContext, packet: &mut Packet, element: u32, vip: &Vip) -> Verdict {
    let checked = read(ctx, packet).and_then(|segment| forward::may_go_on(packet).map(|()| segment));
    let segment = match checked {
        Ok(segment) => segment,
        Err(reason) => return Verdict::new(Err(reason), vip.id),
    };
    packet.element = element;
    packet.hash = packet.flow_to(vip.id).hash(flows::key());
    if vip.quic != 0
        && let Some(backend) = quic::backend(ctx, packet, vip)
    {
        return Verdict::deliver(vip.id, backend, Way::Table, Reason::ConnectionId);
    }
    let flow = flows::find(packet, packet.hash, vip);
    if flow.is_known() && goes_on(packet, &segment, &flow) {
        note(packet, vip, &segment, &flow);
        return Verdict::deliver(vip.id, flow.slot.backend(), Way::Flow(flow.number), Reason::Established);
    }
    Verdict(guidevane_prepare(ctx.ctx))
}

/// The packet's TCP header; no flag set for a datagram. Never an option: what is in one that is none is
/// undefined, and the verifier refuses to see it copied.
#[inline(always)]
pub fn read(ctx: &XdpContext, packet: &Packet) -> Result<Segment, Reason> {
    if packet.protocol == TCP {
        return packet.segment(ctx);
    }
    packet.datagram(ctx)?;
    Ok(Segment::default())
}

/// Whether a packet of a known flow does nothing but go on with it.
#[inline(always)]
fn goes_on(packet: &Packet, segment: &Segment, flow: &Flow) -> bool {
    if packet.protocol == TCP {
        return !segment.flags.opens();
    }
    !opening::wants_another(flow, true)
}

/// Notes what a packet does to its flow.
#[inline(always)]
pub fn note(packet: &Packet, vip: &Vip, segment: &Segment, flow: &Flow) {
    if packet.protocol == TCP {
        flow.on_segment(vip.id, segment, vip.skip_bytes);
    } else {
        flow.on_datagram(vip.id);
    }
}
