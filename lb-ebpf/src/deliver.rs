//! Sending a packet to a backend, in its VIP's mode.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::bpf_redirect,
    programs::XdpContext,
};
use lb_common::{
    layout::{Hop, Mode, Vip, backend_bits, vip_flags},
    reason::Reason,
};

use crate::{
    backends,
    forward::{self, End, Identity},
    fragments,
    maps::TRAFFIC,
    packet::{self, Packet, Part},
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

/// Sends the packet at hand to the backend of a [`Verdict`]. A global function: see [`crate::steer`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_deliver(ctx: *mut xdp_md, verdict: u64) -> u64 {
    let Some(packet) = packet::current() else { return Verdict::INTERNAL.0 };
    let verdict = Verdict(verdict);
    match to_backend(&XdpContext::new(ctx), packet, verdict) {
        Ok(action) => verdict.done(action).0,
        Err(reason) => Verdict::new(Err(reason), verdict.owner()).0,
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
    send(ctx, id, hop)
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

/// Sends the frame to a backend's next hop and counts it.
#[inline(always)]
pub fn send(ctx: &XdpContext, id: u16, hop: &Hop) -> Result<u32, Reason> {
    forward::address_frame(ctx, hop.mac, hop.source_mac)?;
    if let Some(traffic) = TRAFFIC.get_ptr_mut(u32::from(id)) {
        // SAFETY: this CPU's own element of the map.
        unsafe { (*traffic).packets += 1 };
        // SAFETY: as above.
        unsafe { (*traffic).bytes += packet::frame_length(ctx) as u64 };
    }
    Ok(out_of(ctx, hop.interface))
}

/// Counts a frame that came back from a backend.
#[inline(always)]
pub fn count_returned(ctx: &XdpContext, id: u16) {
    if let Some(traffic) = TRAFFIC.get_ptr_mut(u32::from(id)) {
        // SAFETY: this CPU's own element of the map.
        unsafe { (*traffic).returned_packets += 1 };
        // SAFETY: as above.
        unsafe { (*traffic).returned_bytes += packet::frame_length(ctx) as u64 };
    }
}
