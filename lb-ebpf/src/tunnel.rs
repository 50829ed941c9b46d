//! Wrapping a packet for its backend: IP in IP in any pair of families, or GUE.

use aya_ebpf::{helpers::bpf_xdp_adjust_head, programs::XdpContext};
use lb_common::{
    checksum,
    header::{TCP, UDP},
    layout::{GUE_PORT, Hop},
    reason::Reason,
    tunnel::{self, IPV4_BYTES, IPV4_INSIDE, IPV6_BYTES, IPV6_INSIDE, OUTER_TTL, UDP_BYTES},
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    bytes::Bytes,
    maps::CONTROL,
    packet::{self, ETHERTYPE, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet, Part},
};

/// "Don't fragment" in an IPv4 header: the tunnel's MTU is known, and pieces would not be put together fast.
const DO_NOT_FRAGMENT: u16 = 0x4000u16.to_be();
/// The first word of an IPv6 header without its traffic class and flow label.
const IPV6_START: u32 = 6 << 28;

/// VLAN tags in front of the network header, which stay in front of the outer one.
#[derive(Clone, Copy)]
pub struct Tags(u32, u32);

impl Tags {
    /// Reads the tags of a packet.
    #[inline(always)]
    pub fn read(ctx: &XdpContext, packet: &Packet) -> Result<Self, Reason> {
        const ONE: usize = EthHdr::LEN + 4;
        let network = packet.network();
        if network < ONE {
            return Ok(Self(0, 0));
        }
        let first = Bytes::<4>::at(ctx, ETHERTYPE)?.u32::<0>();
        let second = if network > ONE { Bytes::<4>::at(ctx, ONE - 2)?.u32::<0>() } else { 0 };
        Ok(Self(first, second))
    }

    /// Writes them where the frame now starts, and the EtherType behind them.
    #[inline(always)]
    pub fn write(self, ctx: &XdpContext, packet: &Packet, ether_type: u16) -> Result<(), Reason> {
        const ONE: usize = EthHdr::LEN + 4;
        if self.0 != 0 {
            Bytes::<4>::at(ctx, ETHERTYPE)?.set_u32::<0>(self.0);
            if self.1 != 0 {
                Bytes::<4>::at(ctx, ONE - 2)?.set_u32::<0>(self.1);
            }
        }
        Bytes::<2>::at(ctx, packet.ether_type())?.set_u16::<0>(ether_type);
        Ok(())
    }
}

/// Puts the outer headers around a packet; frame addresses are left for the caller to write.
#[inline(always)]
pub fn wrap(ctx: &XdpContext, packet: &Packet, gue: bool, hop: &Hop) -> Result<(), Reason> {
    let outer_v4 = hop.endpoint.address.is_v4();
    let (class, tags) = (traffic_class(ctx, packet)?, Tags::read(ctx, packet)?);
    let overhead = tunnel::overhead(outer_v4, gue);
    // SAFETY: the context is this program's own; pointers into the packet are made anew below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(overhead as i32)) } != 0 {
        return Err(Reason::Internal);
    }
    let entropy = tunnel::entropy(packet.hash);
    let inside = if packet.v6 { IPV6_INSIDE } else { IPV4_INSIDE };
    let outer =
        Outer { class, next: if gue { UDP } else { inside }, total: packet.total() + overhead, entropy };
    let udp = if outer_v4 {
        tags.write(ctx, packet, ETHERTYPE_IPV4)?;
        outer.write_v4(ctx, packet.network(), hop)?;
        packet.network() + Ipv4Hdr::LEN
    } else {
        tags.write(ctx, packet, ETHERTYPE_IPV6)?;
        outer.write_v6(ctx, packet.network(), hop)?;
        packet.network() + Ipv6Hdr::LEN
    };
    if gue {
        let header = Bytes::<{ UdpHdr::LEN }>::at(ctx, udp)?;
        header.set_u16::<0>(tunnel::source_port(entropy).to_be());
        header.set_u16::<2>(GUE_PORT.to_be());
        header.set_u16::<4>(((packet.total() + UDP_BYTES) as u16).to_be());
        // None: the inner checksums cover what matters (RFC 6935 allows it over IPv6 too).
        header.set_u16::<6>(0);
    }
    Ok(())
}

/// Refuses what does not fit, and notes what would have.
#[inline(always)]
pub fn fits(packet: &mut Packet, gue: bool, hop: &Hop) -> Result<(), Reason> {
    let overhead = tunnel::overhead(hop.endpoint.address.is_v4(), gue);
    packet.limit = u32::from(hop.mtu).saturating_sub(overhead);
    if packet.total() <= packet.limit {
        return Ok(());
    }
    let answered = packet.part != Part::Later as u8 && matches!(packet.protocol, TCP | UDP);
    Err(if answered { Reason::TooBig } else { Reason::TooBigUnanswered })
}

/// The packet's TOS or traffic class.
#[inline(always)]
fn traffic_class(ctx: &XdpContext, packet: &Packet) -> Result<u8, Reason> {
    let start = Bytes::<2>::at(ctx, packet.network())?;
    Ok(if packet.v6 { (u16::from_be(start.u16::<0>()) >> 4) as u8 } else { start.u8::<1>() })
}

/// What the outer header says.
struct Outer {
    class: u8,
    next: u8,
    /// Bytes of the whole outer packet.
    total: u32,
    entropy: u32,
}

impl Outer {
    #[inline(always)]
    fn write_v4(&self, ctx: &XdpContext, network: usize, hop: &Hop) -> Result<(), Reason> {
        let header = Bytes::<{ Ipv4Hdr::LEN }>::at(ctx, network)?;
        let control = CONTROL.get(0).ok_or(Reason::Internal)?;
        let start = u16::from_ne_bytes([0x45, self.class]);
        let total = (self.total as u16).to_be();
        let life = u16::from_ne_bytes([OUTER_TTL, self.next]);
        let source = tunnel::outer_source(control.source_v4, control.spread_v4, self.entropy);
        let destination = hop.endpoint.address.0[3];
        let sum = u32::from(start) + u32::from(total) + u32::from(DO_NOT_FRAGMENT) + u32::from(life);
        let sum = sum + (source & 0xffff) + (source >> 16) + (destination & 0xffff) + (destination >> 16);
        header.set_u16::<0>(start);
        header.set_u16::<2>(total);
        header.set_u32::<4>(u32::from(DO_NOT_FRAGMENT) << 16);
        header.set_u16::<8>(life);
        header.set_u16::<10>(!checksum::fold(sum));
        header.set_u32::<12>(source);
        header.set_u32::<16>(destination);
        Ok(())
    }

    #[inline(always)]
    fn write_v6(&self, ctx: &XdpContext, network: usize, hop: &Hop) -> Result<(), Reason> {
        let header = Bytes::<{ Ipv6Hdr::LEN }>::at(ctx, network)?;
        let control = CONTROL.get(0).ok_or(Reason::Internal)?;
        let ([a, b], [c, d]) = (control.source_v6.halves(), hop.endpoint.address.halves());
        let low = tunnel::outer_source((b >> 32) as u32, control.spread_v6, self.entropy);
        header.set_u32::<0>((IPV6_START | u32::from(self.class) << 20).to_be());
        header.set_u16::<4>(((self.total - IPV6_BYTES) as u16).to_be());
        header.set_u8::<6>(self.next);
        header.set_u8::<7>(OUTER_TTL);
        header.set_u64::<8>(a);
        header.set_u64::<16>(b & 0xffff_ffff | u64::from(low) << 32);
        header.set_u64::<24>(c);
        header.set_u64::<32>(d);
        Ok(())
    }
}

const _: () = assert!(IPV4_BYTES as usize == Ipv4Hdr::LEN && packet::ETHERTYPE == 12);
