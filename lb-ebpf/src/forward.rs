//! Sending a packet on: new addresses, checksums that follow, and the way out.

use aya_ebpf::{bindings::xdp_action, helpers::bpf_redirect, programs::XdpContext};
use lb_common::{
    address::{Address, Mac},
    checksum,
    layout::Hop,
    reason::Reason,
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    bytes::Bytes,
    maps::TRAFFIC,
    packet::{L3, Network, TCP},
};

/// Offsets in the network headers.
const IPV4_CHECKSUM: usize = 10;
const IPV4_SOURCE: usize = 12;
const IPV4_DESTINATION: usize = 16;
const IPV6_SOURCE: usize = 8;
const IPV6_DESTINATION: usize = 24;
/// Offsets in the transport headers.
const DESTINATION_PORT: usize = 2;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// Which end of a packet is rewritten.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The source, on the way back to the client.
    Source,
    /// The destination, on the way to the backend.
    Destination,
}

/// One end of a packet, before or after: address, port and their folded sum.
#[derive(Clone, Copy)]
pub struct Identity {
    /// Address.
    pub address: Address,
    /// Port, network byte order.
    pub port_be: u16,
    /// `checksum::sum_endpoint` of both.
    pub sum: u16,
}

/// Refuses a packet whose TTL or hop limit has run out: it may not circle for ever. Asked before a flow is
/// entered or moved, since a packet that goes nowhere is no load.
#[inline(always)]
pub fn may_go_on(network: &Network) -> Result<(), Reason> {
    if network.ttl <= 1 { Err(Reason::TtlExpired) } else { Ok(()) }
}

/// Takes one off the TTL or hop limit of a packet that [`may_go_on`].
#[inline(always)]
pub fn decrement_ttl(ctx: &XdpContext, network: &Network) -> Result<(), Reason> {
    const TTL: usize = 8;
    const HOP_LIMIT: usize = 7;
    if network.v6 {
        Bytes::<{ Ipv6Hdr::LEN }>::at(ctx, L3)?.set_u8::<HOP_LIMIT>(network.ttl - 1);
        return Ok(());
    }
    let header = Bytes::<{ Ipv4Hdr::LEN }>::at(ctx, L3)?;
    header.set_u8::<TTL>(network.ttl - 1);
    header.set_u16::<IPV4_CHECKSUM>(checksum::decrement_ttl(header.u16::<IPV4_CHECKSUM>()));
    Ok(())
}

/// Gives one end of the packet another address and port.
#[inline(always)]
pub fn translate(
    ctx: &XdpContext,
    network: &Network,
    end: End,
    old: &Identity,
    new: &Identity,
) -> Result<(), Reason> {
    transport_checksum(ctx, network, old.sum, new.sum)?;
    let port = network.transport + if matches!(end, End::Source) { 0 } else { DESTINATION_PORT };
    Bytes::<2>::at(ctx, port)?.set_u16::<0>(new.port_be);
    if network.v6 {
        let place = L3 + if matches!(end, End::Source) { IPV6_SOURCE } else { IPV6_DESTINATION };
        let address = Bytes::<16>::at(ctx, place)?;
        let [high, low] = new.address.halves();
        address.set_u64::<0>(high);
        address.set_u64::<8>(low);
        return Ok(());
    }
    let header = Bytes::<{ Ipv4Hdr::LEN }>::at(ctx, L3)?;
    let (old, address) = (checksum::sum_address(&old.address), checksum::sum_address(&new.address));
    header.set_u16::<IPV4_CHECKSUM>(checksum::replace(header.u16::<IPV4_CHECKSUM>(), old, address));
    match end {
        End::Source => header.set_u32::<IPV4_SOURCE>(new.address.0[3]),
        End::Destination => header.set_u32::<IPV4_DESTINATION>(new.address.0[3]),
    }
    Ok(())
}

#[inline(always)]
fn transport_checksum(ctx: &XdpContext, network: &Network, old: u16, new: u16) -> Result<(), Reason> {
    if network.protocol == TCP {
        let field = Bytes::<2>::at(ctx, network.transport + TCP_CHECKSUM)?;
        field.set_u16::<0>(checksum::replace(field.u16::<0>(), old, new));
        return Ok(());
    }
    let field = Bytes::<2>::at(ctx, network.transport + UDP_CHECKSUM)?;
    // Zero over IPv4 says that the sender computed none (RFC 768): there is nothing to follow.
    if field.u16::<0>() != 0 {
        field.set_u16::<0>(checksum::udp(checksum::replace(field.u16::<0>(), old, new)));
    }
    Ok(())
}

/// Addresses the frame.
#[inline(always)]
pub fn address_frame(ctx: &XdpContext, to: Mac, from: Mac) -> Result<(), Reason> {
    let header = Bytes::<{ EthHdr::LEN }>::at(ctx, 0)?;
    header.set_u16::<0>(to.0[0]);
    header.set_u16::<2>(to.0[1]);
    header.set_u16::<4>(to.0[2]);
    header.set_u16::<6>(from.0[0]);
    header.set_u16::<8>(from.0[1]);
    header.set_u16::<10>(from.0[2]);
    Ok(())
}

/// The frame's destination and source.
#[inline(always)]
pub fn frame_addresses(ctx: &XdpContext) -> Result<(Mac, Mac), Reason> {
    let header = Bytes::<{ EthHdr::LEN }>::at(ctx, 0)?;
    let to = Mac([header.u16::<0>(), header.u16::<2>(), header.u16::<4>()]);
    let from = Mac([header.u16::<6>(), header.u16::<8>(), header.u16::<10>()]);
    Ok((to, from))
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
pub fn to_backend(ctx: &XdpContext, id: u16, hop: &Hop) -> Result<u32, Reason> {
    address_frame(ctx, hop.mac, hop.source_mac)?;
    if let Some(traffic) = TRAFFIC.get_ptr_mut(u32::from(id)) {
        // SAFETY: this CPU's own element of the map.
        unsafe { (*traffic).packets += 1 };
        // SAFETY: as above.
        unsafe { (*traffic).bytes += frame_length(ctx) };
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
        unsafe { (*traffic).returned_bytes += frame_length(ctx) };
    }
}

#[inline(always)]
fn frame_length(ctx: &XdpContext) -> u64 {
    (ctx.data_end() - ctx.data()) as u64
}
