//! Reading the packets that are not plain: VLAN tags, IPv4 options, IPv6 extension headers, fragments, and
//! protocols other than TCP and UDP.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::header::{self, EXTENSIONS, Header, ICMP, ICMPV6, TCP, UDP};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    bytes::Bytes,
    packet::{
        self, ETHERTYPE, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAGMENT, FRAGMENT_OFFSET,
        IPV6_VERSION, Packet, Part,
    },
};

/// EtherTypes of VLAN tags: IEEE 802.1Q, and 802.1ad around it.
const VLAN: u16 = 0x8100u16.to_be();
const SERVICE_VLAN: u16 = 0x88a8u16.to_be();
/// Bytes of a tag.
const TAG: usize = 4;

/// The first byte of an IPv4 header: version 4 and 5 to 15 words.
const IPV4_START: core::ops::RangeInclusive<u8> = 0x45..=0x4f;

/// The fragment offset in an IPv6 fragment header, and its "more fragments" bit.
const V6_FRAGMENT_OFFSET: u16 = 0xfff8u16.to_be();
const V6_FRAGMENT: u16 = 0xfff9u16.to_be();

/// Headers further into the packet than this are not looked for.
const FARTHEST: u32 = 2048;

/// What a packet is, for those who go on with it. The numbers are what [`guidevane_headers`] gives.
pub mod kind {
    use lb_common::reason::Reason;

    /// TCP or UDP with its ports: whole, or a first fragment.
    pub const FLOW: u32 = 0;
    /// ICMP or ICMPv6, whole.
    pub const ICMP: u32 = 1;
    /// A later fragment.
    pub const LATER: u32 = 2;
    /// ARP.
    pub const ARP: u32 = 3;
    /// Any other protocol.
    pub const OTHER: u32 = 4;
    /// The address it is for is known, but the rest is cut short.
    pub const TRUNCATED: u32 = 5;
    /// Nobody can say whose it is.
    pub const UNREADABLE: u32 = 6;
    /// Neither IPv4, IPv6 nor ARP.
    pub const FOREIGN: u32 = 7;

    /// What becomes of a packet for the address of a VIP.
    pub const fn reason(kind: u32) -> Reason {
        match kind {
            TRUNCATED => Reason::Truncated,
            UNREADABLE => Reason::Unreadable,
            OTHER => Reason::OtherProtocol,
            _ => Reason::NotOurs,
        }
    }
}

/// Reads any packet into this CPU's; gives its [`kind`]. A global function: see
/// [`crate::backends::guidevane_choose`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_headers(ctx: *mut xdp_md) -> u32 {
    let Some(packet) = packet::current() else { return kind::UNREADABLE };
    match read(&XdpContext::new(ctx), packet) {
        Ok(kind) | Err(kind) => kind,
    }
}

#[inline(always)]
fn read(ctx: &XdpContext, packet: &mut Packet) -> Result<u32, u32> {
    let (ether_type, network) = network(ctx)?;
    packet.network = network as u16;
    packet.part = Part::Whole as u8;
    (packet.source_port_be, packet.destination_port_be) = (0, 0);
    let (number, transport) = match ether_type {
        ETHERTYPE_IPV4 => ipv4(ctx, packet, network)?,
        ETHERTYPE_IPV6 => ipv6(ctx, packet, network)?,
        ETHERTYPE_ARP => return Ok(kind::ARP),
        _ => return Err(kind::FOREIGN),
    };
    packet.protocol = number;
    packet.transport = transport as u16;
    if packet.part == Part::Later as u8 {
        return Ok(kind::LATER);
    }
    match number {
        TCP | UDP => {
            packet.read_ports(Bytes::<4>::at(ctx, packet.transport()).map_err(|_| kind::TRUNCATED)?);
            Ok(kind::FLOW)
        }
        ICMP | ICMPV6 if !packet.is_first() && (number == ICMPV6) == packet.v6 => Ok(kind::ICMP),
        _ => Ok(kind::OTHER),
    }
}

/// The EtherType behind up to two tags, and where the header after it starts.
#[inline(always)]
fn network(ctx: &XdpContext) -> Result<(u16, usize), u32> {
    let at = |place| match Bytes::<2>::at(ctx, place) {
        Ok(halfword) => Ok(halfword.u16::<0>()),
        Err(_) => Err(kind::UNREADABLE),
    };
    let (mut ether_type, mut place) = (at(ETHERTYPE)?, ETHERTYPE);
    if matches!(ether_type, VLAN | SERVICE_VLAN) {
        place += TAG;
        ether_type = at(place)?;
        if matches!(ether_type, VLAN | SERVICE_VLAN) {
            place += TAG;
            ether_type = at(place)?;
        }
    }
    Ok((ether_type, place + 2))
}

/// The protocol behind an IPv4 header, and where it starts.
#[inline(always)]
fn ipv4(ctx: &XdpContext, packet: &mut Packet, network: usize) -> Result<(u8, usize), u32> {
    let header = Bytes::<{ Ipv4Hdr::LEN }>::at(ctx, network).map_err(|_| kind::UNREADABLE)?;
    let start = header.u8::<0>();
    let header_length = u32::from(start & 0x0f) * 4;
    let total = u32::from(u16::from_be(header.u16::<2>()));
    if !IPV4_START.contains(&start) || total < header_length {
        return Err(kind::UNREADABLE);
    }
    packet.read_v4(header, total - header_length);
    let cut = header.u16::<6>();
    packet.id = u32::from(header.u16::<4>());
    packet.part = part(cut & FRAGMENT_OFFSET != 0, cut & FRAGMENT != 0);
    Ok((header.u8::<9>(), network + header_length as usize))
}

/// The protocol behind an IPv6 header and its extension headers, and where it starts.
#[inline(always)]
fn ipv6(ctx: &XdpContext, packet: &mut Packet, network: usize) -> Result<(u8, usize), u32> {
    let header = Bytes::<{ Ipv6Hdr::LEN }>::at(ctx, network).map_err(|_| kind::UNREADABLE)?;
    if header.u8::<0>() >> 4 != IPV6_VERSION {
        return Err(kind::UNREADABLE);
    }
    packet.read_v6(header);
    packet.protocol = header.u8::<6>();
    packet.transport = (network + Ipv6Hdr::LEN) as u16;
    for _ in 0..EXTENSIONS {
        if !step_over(ctx, packet)? {
            break;
        }
    }
    Ok((packet.protocol, packet.transport()))
}

/// Steps over one extension header, if there is one.
#[inline(always)]
fn step_over(ctx: &XdpContext, packet: &mut Packet) -> Result<bool, u32> {
    // Read anew from the map's memory: to the verifier all rounds start from one state then, whatever headers
    // came before.
    let packet = &raw mut *packet;
    // SAFETY: the pointer is to the whole packet.
    let Packet { protocol, transport, length, part: was, .. } = unsafe { packet.read_volatile() };
    // SAFETY: as above; nobody else has it now.
    let packet = unsafe { &mut *packet };
    let kind = header::header(protocol);
    // What follows the header of a later fragment is the middle of something.
    if matches!(kind, Header::Transport) || was == Part::Later as u8 {
        return Ok(false);
    }
    let place = usize::from(transport & packet::OFFSET_MASK);
    let extension = Bytes::<8>::at(ctx, place).map_err(|_| kind::TRUNCATED)?;
    let bytes = kind.bytes(extension.u8::<1>());
    if matches!(kind, Header::Fragment) {
        let cut = extension.u16::<2>();
        packet.id = extension.u32::<4>();
        packet.part = part(cut & V6_FRAGMENT_OFFSET != 0, cut & V6_FRAGMENT != 0);
    }
    let next = place as u32 + bytes;
    if bytes > length || next > FARTHEST {
        return Err(kind::TRUNCATED);
    }
    packet.length = length - bytes;
    packet.protocol = extension.u8::<0>();
    packet.transport = next as u16;
    Ok(true)
}

#[inline(always)]
const fn part(offset: bool, cut: bool) -> u8 {
    if offset {
        Part::Later as u8
    } else if cut {
        Part::First as u8
    } else {
        Part::Whole as u8
    }
}
