//! From a frame to its inner packet, step by step.

use aya_ebpf::{helpers::generated::bpf_xdp_adjust_head, programs::XdpContext};
use lb_common::{
    checksum,
    decap::{self, Carries, ECN, GUE_PORT, Host, Reason},
};
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    link::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Link, bytes},
    maps,
    outer::Outer,
};

/// An inner packet, with its ECN field as it will be.
struct Inner {
    destination: Host,
    ether_type: u16,
    bytes: u32,
}

/// Takes the outer header off, if the tunnel ends here.
#[inline(always)]
pub fn packet(ctx: &XdpContext, frame_length: u32) -> Result<(), Reason> {
    let link = Link::read(ctx)?;
    let outer = Outer::read(ctx, &link)?;
    let carries = tunnel(ctx, &outer)?;
    admit(&outer)?;
    let there = frame_length.saturating_sub(outer.start as u32);
    let mut room = decap::payload(outer.length, there)?;
    let mut start = outer.start;
    if carries == Carries::Udp {
        let header = bytes::<{ UdpHdr::LEN }>(ctx, start, Reason::Truncated)?;
        room = decap::datagram(u16::from_be(header.u16::<4>()), room)?;
        start += UdpHdr::LEN;
    }
    if room == 0 {
        return Err(Reason::Truncated);
    }
    let first = bytes::<1>(ctx, start, Reason::Truncated)?.u8::<0>();
    let inner = match decap::is_v6(carries, first)? {
        false => inner_v4(ctx, start, outer.traffic_class, room)?,
        true => inner_v6(ctx, start, outer.traffic_class, room)?,
    };
    move_head(ctx, start - link.length)?;
    link.write(ctx, inner.ether_type)?;
    maps::count_inner(&inner.destination, inner.bytes);
    Ok(())
}

/// Which tunnel the outer packet belongs to.
#[inline(always)]
fn tunnel(ctx: &XdpContext, outer: &Outer) -> Result<Carries, Reason> {
    let carries = decap::carries(outer.protocol);
    match carries {
        Carries::V4 | Carries::V6 => Ok(carries),
        // A later fragment does not say whether it is GUE's.
        Carries::Udp if outer.first => {
            let ports = bytes::<4>(ctx, outer.start, Reason::Unreadable)?;
            if ports.u16::<2>() == GUE_PORT.to_be() { Ok(carries) } else { Err(Reason::NoTunnel) }
        }
        _ => Err(Reason::NoTunnel),
    }
}

/// Refuses what does not end here, comes from elsewhere or is only a part.
#[inline(always)]
fn admit(outer: &Outer) -> Result<(), Reason> {
    if !maps::is_local(&outer.destination) {
        return Err(Reason::OtherDestination);
    }
    if !maps::is_accepted(&outer.source) {
        return Err(Reason::OtherSource);
    }
    if outer.fragment {
        return Err(Reason::OuterFragment);
    }
    Ok(())
}

#[inline(always)]
fn inner_v4(ctx: &XdpContext, start: usize, outer_class: u8, room: u32) -> Result<Inner, Reason> {
    let header = bytes::<{ Ipv4Hdr::LEN }>(ctx, start, Reason::Truncated)?;
    let total = u16::from_be(header.u16::<2>());
    let bytes = decap::inner_v4(header.u8::<0>(), total, header.u8::<8>(), room)?;
    let [first, tos] = header.u16::<0>().to_ne_bytes();
    let ecn = decap::ecn(outer_class, tos)?;
    if ecn != tos & ECN {
        let marked = u16::from_ne_bytes([first, tos & !ECN | ecn]);
        header.set_u16::<10>(checksum::replace(header.u16::<10>(), header.u16::<0>(), marked));
        header.set_u16::<0>(marked);
    }
    Ok(Inner { destination: Host::v4(header.u32::<16>()), ether_type: ETHERTYPE_IPV4, bytes })
}

#[inline(always)]
fn inner_v6(ctx: &XdpContext, start: usize, outer_class: u8, room: u32) -> Result<Inner, Reason> {
    /// The traffic class lies across the first two bytes, four bits from the right.
    const SHIFT: u16 = 4;
    let header = bytes::<{ Ipv6Hdr::LEN }>(ctx, start, Reason::Truncated)?;
    let bytes = decap::inner_v6(u16::from_be(header.u16::<4>()), room)?;
    let word = u16::from_be(header.u16::<0>());
    let ecn = decap::ecn(outer_class, (word >> SHIFT) as u8)?;
    let marked = word & !(u16::from(ECN) << SHIFT) | u16::from(ecn) << SHIFT;
    if marked != word {
        header.set_u16::<0>(marked.to_be());
    }
    let destination = Host::v6([header.u64::<24>(), header.u64::<32>()]);
    Ok(Inner { destination, ether_type: ETHERTYPE_IPV6, bytes })
}

/// Takes `length` bytes off the head; what was read of the packet before is void.
#[inline(always)]
fn move_head(ctx: &XdpContext, length: usize) -> Result<(), Reason> {
    // SAFETY: the context is the one that this program was called with.
    match unsafe { bpf_xdp_adjust_head(ctx.ctx, length as i32) } {
        0 => Ok(()),
        _ => Err(Reason::Internal),
    }
}
