//! Sending a packet to a backend, in its VIP's mode.

use aya_ebpf::{bindings::xdp_action, helpers::bpf_redirect, programs::XdpContext};
use lb_common::{
    layout::{Hop, Mode, Vip, backend_bits, vip_flags},
    reason::Reason,
};

use crate::{
    backends,
    forward::{self, End, Identity},
    fragments,
    maps::TRAFFIC,
    packet::{Packet, Part},
    ports,
    steer::Verdict,
    tunnel,
};

/// How a packet's backend was found.
#[derive(Clone, Copy)]
pub enum Way {
    /// By the flow with this number.
    Flow(u32),
    /// Without a flow in the table.
    Table,
}

/// Sends a packet to the backend of a [`Verdict`].
#[inline(always)]
pub fn deliver(ctx: &XdpContext, packet: &mut Packet, verdict: Verdict) -> Verdict {
    match to_backend(ctx, packet, verdict) {
        Ok(action) => verdict.done(action),
        Err(reason) => Verdict::new(Err(reason), verdict.owner()),
    }
}

#[inline(always)]
fn to_backend(ctx: &XdpContext, packet: &mut Packet, verdict: Verdict) -> Result<u32, Reason> {
    const USABLE: u32 = backend_bits::PRESENT | backend_bits::REACHABLE;
    let id = verdict.backend();
    let vip = backends::vip(verdict.owner()).ok_or(Reason::Internal)?;
    let (control, hop) = backends::backend(id).ok_or(Reason::Internal)?;
    if control & USABLE != USABLE {
        return Err(Reason::NoNextHop);
    }
    let gue = vip.flags & vip_flags::GUE != 0;
    if vip.mode == TUNNEL {
        tunnel::fits(packet, gue, hop)?;
    }
    if packet.is_first() {
        fragments::remember_to(id, verdict.way());
    }
    forward::decrement_ttl(ctx, packet)?;
    match vip.mode {
        TUNNEL => tunnel::wrap(ctx, packet, gue, hop)?,
        NAT => translate(ctx, packet, vip, hop, verdict.way())?,
        _ => {}
    }
    send(ctx, packet, id, hop)
}

const TUNNEL: u8 = Mode::Tunnel as u8;
const NAT: u8 = Mode::Nat as u8;

/// Gives a packet its backend's address and, in one-armed `nat`, one of our own as its source.
#[inline(always)]
fn translate(ctx: &XdpContext, packet: &Packet, vip: &Vip, hop: &Hop, way: Way) -> Result<(), Reason> {
    let (old, new) = (identity_of(vip), identity_at(hop));
    if packet.part == Part::Later as u8 {
        forward::readdress(ctx, packet, End::Destination, &old.address, &new.address)?;
    } else {
        forward::translate(ctx, packet, End::Destination, &old, &new)?;
    }
    if vip.flags & vip_flags::SOURCE_NAT == 0 {
        return Ok(());
    }
    let Way::Flow(number) = way else { return Err(Reason::Internal) };
    ports::translate_source(ctx, packet, number)
}

/// A VIP's end of a packet.
#[inline(always)]
pub fn identity_of(vip: &Vip) -> Identity {
    Identity { address: vip.endpoint.address, port_be: vip.endpoint.port_be, sum: vip.checksum }
}

/// A backend's end of a packet.
#[inline(always)]
pub fn identity_at(hop: &Hop) -> Identity {
    Identity { address: hop.endpoint.address, port_be: hop.endpoint.port_be, sum: hop.checksum }
}

/// The verdict that sends the frame out of `interface`.
#[inline(always)]
pub fn out_of(ctx: &XdpContext, interface: u32) -> u32 {
    if interface == ctx.ingress_ifindex() as u32 {
        return xdp_action::XDP_TX;
    }
    // SAFETY: the helper takes any index; one that is gone drops the frame and is counted by the kernel.
    unsafe { bpf_redirect(interface, 0) as u32 }
}

/// Sends the frame to a backend's next hop and counts the packet in it, without what a tunnel adds.
#[inline(always)]
pub fn send(ctx: &XdpContext, packet: &Packet, id: u16, hop: &Hop) -> Result<u32, Reason> {
    forward::address_frame(ctx, hop.mac, hop.source_mac)?;
    if let Some(traffic) = TRAFFIC.get_ptr_mut(u32::from(id)) {
        // SAFETY: this CPU's own element of the map.
        unsafe { (*traffic).packets += 1 };
        // SAFETY: as above.
        unsafe { (*traffic).bytes += u64::from(packet.bytes()) };
    }
    Ok(out_of(ctx, hop.interface))
}

/// Counts a frame that came back from a backend.
#[inline(always)]
pub fn count_returned(packet: &Packet, id: u16) {
    if let Some(traffic) = TRAFFIC.get_ptr_mut(u32::from(id)) {
        // SAFETY: this CPU's own element of the map.
        unsafe { (*traffic).returned_packets += 1 };
        // SAFETY: as above.
        unsafe { (*traffic).returned_bytes += u64::from(packet.bytes()) };
    }
}
