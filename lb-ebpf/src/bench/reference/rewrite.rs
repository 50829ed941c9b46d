//! How the reference sends a packet on: the least that each mode takes.

use aya_ebpf::{helpers::bpf_xdp_adjust_head, programs::XdpContext};
use lb_common::{
    address::{Endpoint, Mac},
    checksum,
};

use super::{Headers, L3};
use crate::{
    bench::layout::ReferenceBackend,
    bytes::Bytes,
    packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6},
};
use lb_common::header::TCP;

const TTL: u8 = 64;
/// Protocol numbers of IP in IP (IANA).
const IPIP: u8 = 4;
const IPV6: u8 = 41;

/// Takes one off the TTL or hop limit.
#[inline(always)]
pub fn decrement_ttl(ctx: &XdpContext, v6: bool) -> Option<()> {
    if v6 {
        let ip = Bytes::<40>::at(ctx, L3).ok()?;
        ip.set_u8::<7>(ip.u8::<7>().wrapping_sub(1));
        return Some(());
    }
    let ip = Bytes::<20>::at(ctx, L3).ok()?;
    ip.set_u8::<8>(ip.u8::<8>().wrapping_sub(1));
    ip.set_u16::<10>(checksum::decrement_ttl(ip.u16::<10>()));
    Some(())
}

/// Addresses the frame.
#[inline(always)]
pub fn address_frame(ctx: &XdpContext, to: Mac, from: Mac) -> Option<()> {
    let frame = Bytes::<14>::at(ctx, 0).ok()?;
    frame.set_u16::<0>(to.0[0]);
    frame.set_u16::<2>(to.0[1]);
    frame.set_u16::<4>(to.0[2]);
    frame.set_u16::<6>(from.0[0]);
    frame.set_u16::<8>(from.0[1]);
    frame.set_u16::<10>(from.0[2]);
    Some(())
}

/// Gives the source, or else the destination, another address and port; `sums` are theirs, before and after.
#[inline(always)]
pub fn translate(
    ctx: &XdpContext,
    headers: &Headers,
    source: bool,
    to: &Endpoint,
    (old, new): (u16, u16),
) -> Option<()> {
    let port = headers.transport + if source { 0 } else { 2 };
    Bytes::<2>::at(ctx, port).ok()?.set_u16::<0>(to.port_be);
    let sum = headers.transport + if headers.protocol == TCP { 16 } else { 6 };
    let sum = Bytes::<2>::at(ctx, sum).ok()?;
    if sum.u16::<0>() != 0 || headers.protocol == TCP {
        sum.set_u16::<0>(checksum::replace(sum.u16::<0>(), old, new));
    }
    if headers.v6 {
        let address = Bytes::<16>::at(ctx, L3 + if source { 8 } else { 24 }).ok()?;
        let [high, low] = to.address.halves();
        address.set_u64::<0>(high);
        address.set_u64::<8>(low);
        return Some(());
    }
    let ip = Bytes::<20>::at(ctx, L3).ok()?;
    let before = if source { headers.source } else { headers.destination };
    let (old, new) = (checksum::sum_address(&before), checksum::sum_address(&to.address));
    ip.set_u16::<10>(checksum::replace(ip.u16::<10>(), old, new));
    if source {
        ip.set_u32::<12>(to.address.0[3])
    } else {
        ip.set_u32::<16>(to.address.0[3])
    }
    Some(())
}

/// Puts an IP header of the backend's family around the packet. Its source varies with the flow.
#[inline(always)]
pub fn encapsulate(ctx: &XdpContext, headers: &Headers, backend: &ReferenceBackend) -> Option<()> {
    let spread = u32::from(headers.ports[0]) ^ headers.source.0[3];
    let inner = if headers.v6 { IPV6 } else { IPIP };
    let length = (ctx.data_end() - ctx.data() - L3) as u16;
    if backend.endpoint.address.is_v4() {
        let class = Bytes::<2>::at(ctx, L3).ok()?.u8::<1>();
        grow(ctx, 20)?;
        address_frame(ctx, backend.mac, backend.source_mac)?;
        Bytes::<14>::at(ctx, 0).ok()?.set_u16::<12>(ETHERTYPE_IPV4);
        return outer_v4(ctx, class, length, inner, spread, backend.endpoint.address.0[3]);
    }
    grow(ctx, 40)?;
    address_frame(ctx, backend.mac, backend.source_mac)?;
    Bytes::<14>::at(ctx, 0).ok()?.set_u16::<12>(ETHERTYPE_IPV6);
    outer_v6(ctx, length, inner, spread, backend.endpoint.address.halves())
}

#[inline(always)]
fn grow(ctx: &XdpContext, by: i32) -> Option<()> {
    // SAFETY: the context is the program's own; the helper checks the distance.
    let error = unsafe { bpf_xdp_adjust_head(ctx.ctx, -by) };
    (error == 0).then_some(())
}

#[inline(always)]
fn outer_v4(ctx: &XdpContext, class: u8, inner: u16, protocol: u8, spread: u32, to: u32) -> Option<()> {
    /// 172.16.0.0/16, as in Katran.
    const SOURCES: u32 = u32::from_ne_bytes([172, 16, 0, 0]);
    let from = SOURCES | (spread & 0xffff_0000);
    let start = u16::from_ne_bytes([0x45, class]);
    let total = (inner + 20).to_be();
    let lived = u16::from_ne_bytes([TTL, protocol]);
    let halves = |word: u32| (word & 0xffff) + (word >> 16);
    let sum = u32::from(start) + u32::from(total) + u32::from(lived) + halves(from) + halves(to);
    let ip = Bytes::<20>::at(ctx, L3).ok()?;
    ip.set_u16::<0>(start);
    ip.set_u16::<2>(total);
    ip.set_u32::<4>(0);
    ip.set_u16::<8>(lived);
    ip.set_u16::<10>(!checksum::fold(sum));
    ip.set_u32::<12>(from);
    ip.set_u32::<16>(to);
    Some(())
}

#[inline(always)]
fn outer_v6(ctx: &XdpContext, inner: u16, protocol: u8, spread: u32, to: [u64; 2]) -> Option<()> {
    /// 100::/64, as in Katran.
    const SOURCES: u64 = u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 0, 0]);
    let ip = Bytes::<40>::at(ctx, L3).ok()?;
    ip.set_u32::<0>(u32::from_ne_bytes([0x60, 0, 0, 0]));
    ip.set_u16::<4>(inner.to_be());
    ip.set_u16::<6>(u16::from_ne_bytes([protocol, TTL]));
    ip.set_u64::<8>(SOURCES);
    ip.set_u64::<16>(u64::from(spread) << 32);
    ip.set_u64::<24>(to[0]);
    ip.set_u64::<32>(to[1]);
    Some(())
}
