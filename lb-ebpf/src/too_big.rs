//! Telling a client that its packet does not fit the tunnel (RFC 1191, RFC 8201).

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use lb_common::{
    checksum,
    header::{ICMP, ICMPV6},
    reason::Reason,
    tunnel::OUTER_TTL,
};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    bytes::Bytes,
    forward,
    icmp::ICMP_BYTES,
    packet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet},
    steer::{Outcome, Verdict},
    tunnel::Tags,
};

/// ICMP type and code: destination unreachable, fragmentation needed (RFC 792).
const FRAGMENTATION_NEEDED: u16 = u16::from_ne_bytes([3, 4]);
/// ICMPv6 type and code (RFC 4443 section 3.2).
const PACKET_TOO_BIG: u16 = u16::from_ne_bytes([2, 0]);

/// What is quoted of an IPv6 packet: enough for its extension headers and ports.
const QUOTE_V6: usize = 128;
/// What is quoted behind an IPv4 header (RFC 792), and of the longest such packet.
const QUOTE_BEHIND: usize = 8;
const QUOTE_V4: usize = 60 + QUOTE_BEHIND;

/// "Don't fragment" in an IPv4 header.
const DO_NOT_FRAGMENT: u32 = 0x4000;

/// Turns the packet at hand, which has not been changed yet, into the answer, for the VIP with this id. A global function: see [`crate::steer`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_too_big(ctx: *mut xdp_md, vip: u32) -> u64 {
    let Some(packet) = packet::current() else { return Verdict::INTERNAL.0 };
    Verdict::new(answer(&XdpContext::new(ctx), packet), vip as u16).0
}

#[inline(always)]
fn answer(ctx: &XdpContext, packet: &Packet) -> Outcome {
    let (own, client) = forward::frame_addresses(ctx)?;
    let tags = Tags::read(ctx, packet)?;
    let header = if packet.v6 { Ipv6Hdr::LEN } else { Ipv4Hdr::LEN };
    let quote = if packet.v6 { QUOTE_V6 } else { packet.transport() - packet.network() + QUOTE_BEHIND };
    let added = header + ICMP_BYTES;
    // SAFETY: the context is this program's own; pointers into the packet are made anew below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(added as i32)) } != 0 {
        return Err(Reason::Internal);
    }
    let excess = packet::frame_length(ctx) as i32 - (packet.network() + added + quote) as i32;
    // SAFETY: as above.
    if unsafe { bpf_xdp_adjust_tail(ctx.ctx, -excess) } != 0 {
        return Err(Reason::Internal);
    }
    tags.write(ctx, packet, if packet.v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 })?;
    forward::address_frame(ctx, client, own)?;
    if packet.v6 {
        write_v6(ctx, packet)?;
    } else {
        write_v4(ctx, packet, quote)?;
    }
    Ok((xdp_action::XDP_TX, Reason::TooBig))
}

#[inline(always)]
fn write_v4(ctx: &XdpContext, packet: &Packet, quote: usize) -> Result<(), Reason> {
    let header = Bytes::<{ Ipv4Hdr::LEN + ICMP_BYTES }>::at(ctx, packet.network())?;
    let total = (Ipv4Hdr::LEN + ICMP_BYTES + quote) as u16;
    let life = u16::from_ne_bytes([OUTER_TTL, ICMP]);
    let (source, destination) = (packet.destination.0[3], packet.source.0[3]);
    header.set_u32::<0>(u32::from_ne_bytes([0x45, 0, 0, 0]) | u32::from(total.to_be()) << 16);
    header.set_u32::<4>(DO_NOT_FRAGMENT.to_be());
    header.set_u32::<8>(u32::from(life));
    header.set_u32::<12>(source);
    header.set_u32::<16>(destination);
    let sum = words(header.u32::<0>(), header.u32::<4>()) + u32::from(life) + words(source, destination);
    header.set_u16::<10>(!checksum::fold(sum));
    header.set_u32::<20>(u32::from(FRAGMENTATION_NEEDED));
    header.set_u32::<24>(packet.limit.to_be());
    let quoted = packet.network() + Ipv4Hdr::LEN + ICMP_BYTES;
    let start = u32::from(FRAGMENTATION_NEEDED) + words(packet.limit.to_be(), 0);
    let sum = sum_of::<QUOTE_V4>(ctx, quoted, quote, start)?;
    Bytes::<2>::at(ctx, packet.network() + Ipv4Hdr::LEN + 2)?.set_u16::<0>(!checksum::fold(sum));
    Ok(())
}

#[inline(always)]
fn write_v6(ctx: &XdpContext, packet: &Packet) -> Result<(), Reason> {
    const PAYLOAD: u16 = (ICMP_BYTES + QUOTE_V6) as u16;
    let header = Bytes::<{ Ipv6Hdr::LEN + ICMP_BYTES }>::at(ctx, packet.network())?;
    let ([a, b], [c, d]) = (packet.destination.halves(), packet.source.halves());
    header.set_u32::<0>(u32::from_ne_bytes([0x60, 0, 0, 0]));
    header.set_u16::<4>(PAYLOAD.to_be());
    header.set_u8::<6>(ICMPV6);
    header.set_u8::<7>(OUTER_TTL);
    header.set_u64::<8>(a);
    header.set_u64::<16>(b);
    header.set_u64::<24>(c);
    header.set_u64::<32>(d);
    header.set_u32::<40>(u32::from(PACKET_TOO_BIG));
    header.set_u32::<44>(packet.limit.to_be());
    let ends = u32::from(checksum::sum_address(&packet.source))
        + u32::from(checksum::sum_address(&packet.destination));
    let pseudo = ends + u32::from(PAYLOAD.to_be()) + u32::from(u16::from(ICMPV6).to_be());
    let start = pseudo + u32::from(PACKET_TOO_BIG) + words(packet.limit.to_be(), 0);
    let sum = sum_of::<QUOTE_V6>(ctx, packet.network() + Ipv6Hdr::LEN + ICMP_BYTES, QUOTE_V6, start)?;
    Bytes::<2>::at(ctx, packet.network() + Ipv6Hdr::LEN + 2)?.set_u16::<0>(!checksum::fold(sum));
    Ok(())
}

/// The sum of two words' halfwords.
#[inline(always)]
const fn words(a: u32, b: u32) -> u32 {
    (a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16)
}

/// Adds the halfwords of `length` bytes, at most `MOST`, a multiple of four, to `sum`.
#[inline(always)]
fn sum_of<const MOST: usize>(ctx: &XdpContext, place: usize, length: usize, sum: u32) -> Result<u32, Reason> {
    let mut sum = sum;
    for at in (0..MOST).step_by(4) {
        if at >= length {
            break;
        }
        sum += words(Bytes::<4>::at(ctx, place + at)?.u32::<0>(), 0);
    }
    Ok(sum)
}
