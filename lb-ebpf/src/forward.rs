//! Rewriting: new addresses, and checksums that follow.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    address::{Address, Mac},
    checksum,
    header::TCP,
    reason::Reason,
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{bytes::Bytes, packet::Packet};

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

impl Identity {
    /// An address and port whose sum is not known yet.
    #[inline(always)]
    pub const fn new(address: Address, port_be: u16) -> Self {
        Self { address, port_be, sum: checksum::sum_endpoint(&address, port_be) }
    }
}

/// Refuses a packet whose TTL or hop limit has run out: it may not circle for ever. Asked before a flow is
/// entered or moved, since a packet that goes nowhere is no load.
#[inline(always)]
pub fn may_go_on(packet: &Packet) -> Result<(), Reason> {
    if packet.ttl <= 1 { Err(Reason::TtlExpired) } else { Ok(()) }
}

/// Takes one off the TTL or hop limit of a packet that [`may_go_on`].
#[inline(always)]
pub fn decrement_ttl(ctx: &XdpContext, packet: &Packet) -> Result<(), Reason> {
    const TTL: usize = 8;
    const HOP_LIMIT: usize = 7;
    if packet.v6 {
        Bytes::<{ Ipv6Hdr::LEN }>::at(ctx, packet.network())?.set_u8::<HOP_LIMIT>(packet.ttl - 1);
        return Ok(());
    }
    let header = Bytes::<{ Ipv4Hdr::LEN }>::at(ctx, packet.network())?;
    header.set_u8::<TTL>(packet.ttl - 1);
    header.set_u16::<IPV4_CHECKSUM>(checksum::decrement_ttl(header.u16::<IPV4_CHECKSUM>()));
    Ok(())
}

/// Gives one end of the packet another address and port.
#[inline(always)]
pub fn translate(
    ctx: &XdpContext,
    packet: &Packet,
    end: End,
    old: &Identity,
    new: &Identity,
) -> Result<(), Reason> {
    transport_checksum(ctx, packet, old.sum, new.sum)?;
    set_port(ctx, packet, end, new.port_be)?;
    readdress(ctx, packet, end, &old.address, &new.address)
}

/// Gives one end of the packet another port, and leaves checksums alone.
#[inline(always)]
pub fn set_port(ctx: &XdpContext, packet: &Packet, end: End, port_be: u16) -> Result<(), Reason> {
    let place = packet.transport() + if matches!(end, End::Source) { 0 } else { DESTINATION_PORT };
    Bytes::<2>::at(ctx, place)?.set_u16::<0>(port_be);
    Ok(())
}

/// Gives one end of the packet another address, and leaves its transport alone.
#[inline(always)]
pub fn readdress(
    ctx: &XdpContext,
    packet: &Packet,
    end: End,
    old: &Address,
    new: &Address,
) -> Result<(), Reason> {
    if packet.v6 {
        let place =
            packet.network() + if matches!(end, End::Source) { IPV6_SOURCE } else { IPV6_DESTINATION };
        let address = Bytes::<16>::at(ctx, place)?;
        let [high, low] = new.halves();
        address.set_u64::<0>(high);
        address.set_u64::<8>(low);
        return Ok(());
    }
    let header = Bytes::<{ Ipv4Hdr::LEN }>::at(ctx, packet.network())?;
    let (gone, come) = (checksum::sum_address(old), checksum::sum_address(new));
    header.set_u16::<IPV4_CHECKSUM>(checksum::replace(header.u16::<IPV4_CHECKSUM>(), gone, come));
    match end {
        End::Source => header.set_u32::<IPV4_SOURCE>(new.0[3]),
        End::Destination => header.set_u32::<IPV4_DESTINATION>(new.0[3]),
    }
    Ok(())
}

#[inline(always)]
fn transport_checksum(ctx: &XdpContext, packet: &Packet, old: u16, new: u16) -> Result<(), Reason> {
    if packet.protocol == TCP {
        let field = Bytes::<2>::at(ctx, packet.transport() + TCP_CHECKSUM)?;
        field.set_u16::<0>(checksum::replace(field.u16::<0>(), old, new));
        return Ok(());
    }
    let field = Bytes::<2>::at(ctx, packet.transport() + UDP_CHECKSUM)?;
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
