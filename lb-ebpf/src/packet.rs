//! A packet as it was read: headers in, plain values out. Nothing here knows what a VIP is.
//!
//! The values lie in a map element of this CPU's own, not on the stack: the parts of the program that follow
//! one another share it, and each is verified for any packet at once.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    address::{Address, Endpoint},
    flow::FlowKey,
    header::{TCP, UDP},
    reason::Reason,
    track::{Flags, Record, Segment},
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{
    bytes::{self, Bytes},
    flows::Place,
    maps::PACKET,
};

/// EtherTypes as they lie in the packet.
pub const ETHERTYPE_IPV4: u16 = 0x0800u16.to_be();
/// IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86ddu16.to_be();
/// ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806u16.to_be();
/// Where the EtherType stands.
pub const ETHERTYPE: usize = 12;

/// The fragment offset and the "more fragments" bit of an IPv4 header (RFC 791).
pub const FRAGMENT: u16 = 0x3fffu16.to_be();

/// The fragment offset alone.
pub const FRAGMENT_OFFSET: u16 = 0x1fffu16.to_be();

/// The first byte of an IPv4 header without options.
const IPV4_PLAIN: u8 = 0x45;
/// The first half byte of an IPv6 header.
pub const IPV6_VERSION: u8 = 6;

/// The first bytes of TLS records: their kind, and the version 3.x (RFC 8446 section 5.1).
const TLS_CHANGE_CIPHER_SPEC: u16 = u16::from_ne_bytes([20, 3]);
const TLS_HANDSHAKE: u16 = u16::from_ne_bytes([22, 3]);
const TLS_DATA: u16 = u16::from_ne_bytes([23, 3]);

/// Headers that are looked at lie below this offset: what the verifier needs to know of an offset.
pub const OFFSET_MASK: u16 = 0x0fff;

/// Which part of a packet this is, if it was cut into fragments.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// All of it.
    Whole = 0,
    /// The first fragment, which has the transport's header.
    First = 1,
    /// A later one.
    Later = 2,
}

/// A packet whose headers have been read.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Packet {
    /// Where it comes from.
    pub source: Address,
    /// Where it goes.
    pub destination: Address,
    /// Source port, network byte order, of TCP and UDP.
    pub source_port_be: u16,
    /// Destination port.
    pub destination_port_be: u16,
    /// Transport protocol.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether the network header is IPv6.
    pub v6: bool,
    /// A [`Part`].
    pub part: u8,
    /// Where the network header starts.
    pub network: u16,
    /// Where the transport header starts.
    pub transport: u16,
    /// Bytes from there to the end of the packet, by the network header: frames may be padded.
    pub length: u32,
    /// The identification of a fragment.
    pub id: u32,
    /// What would have fit, in bytes, when it was too big.
    pub limit: u32,
    /// The flow's number, and its slot as it was found in the table; zero when it is in none.
    pub number: u32,
    /// See `number`.
    pub slot: u64,
    /// The flow's keyed hash.
    pub hash: u64,
    /// The hash by which its VIP picks.
    pub affinity: u64,
    /// Where a new flow goes in the table.
    pub place: Place,
    /// The element of its VIP's row.
    pub element: u32,
}

/// This CPU's packet.
#[inline(always)]
pub fn current() -> Option<&'static mut Packet> {
    // SAFETY: the element is this CPU's own, plain numbers, and one packet is worked on at a time.
    PACKET.get_ptr_mut(0).map(|packet| unsafe { &mut *packet })
}

/// The packet that this CPU's packet, an ICMP error, quotes.
#[inline(always)]
pub fn quoted() -> Option<&'static mut Packet> {
    // SAFETY: as above.
    PACKET.get_ptr_mut(1).map(|packet| unsafe { &mut *packet })
}

/// Reads a packet as most are: untagged, whole, without options or extension headers, TCP or UDP. Any other
/// is for [`crate::headers`].
#[inline(always)]
pub fn read_plain(ctx: &XdpContext, packet: &mut Packet) -> bool {
    const V4: usize = EthHdr::LEN + Ipv4Hdr::LEN;
    const V6: usize = EthHdr::LEN + Ipv6Hdr::LEN;
    /// Source and destination port.
    const PORTS: usize = 4;
    let Ok(frame) = Bytes::<{ V4 + PORTS }>::at(ctx, 0) else { return false };
    let ether_type = frame.u16::<ETHERTYPE>();
    if ether_type == ETHERTYPE_IPV4 {
        let header = frame.part::<{ EthHdr::LEN }, { Ipv4Hdr::LEN }>();
        let total = u32::from(u16::from_be(header.u16::<2>()));
        packet.protocol = header.u8::<9>();
        if header.u8::<0>() != IPV4_PLAIN || header.u16::<6>() & FRAGMENT != 0 || total < Ipv4Hdr::LEN as u32
        {
            return false;
        }
        packet.read_v4(header, total - Ipv4Hdr::LEN as u32);
        packet.read_ports(frame.part::<V4, PORTS>());
        packet.transport = V4 as u16;
    } else {
        let Ok(frame) = Bytes::<{ V6 + PORTS }>::at(ctx, 0) else { return false };
        let header = frame.part::<{ EthHdr::LEN }, { Ipv6Hdr::LEN }>();
        packet.protocol = header.u8::<6>();
        if ether_type != ETHERTYPE_IPV6 || header.u8::<0>() >> 4 != IPV6_VERSION {
            return false;
        }
        packet.read_v6(header);
        packet.read_ports(frame.part::<V6, PORTS>());
        packet.transport = V6 as u16;
    }
    packet.network = EthHdr::LEN as u16;
    packet.part = Part::Whole as u8;
    matches!(packet.protocol, TCP | UDP)
}

impl Packet {
    /// Takes what an IPv4 header says besides its protocol; `length` is what follows it.
    #[inline(always)]
    pub fn read_v4(&mut self, header: Bytes<{ Ipv4Hdr::LEN }>, length: u32) {
        self.source = Address::from_v4_word(header.u32::<12>());
        self.destination = Address::from_v4_word(header.u32::<16>());
        self.ttl = header.u8::<8>();
        self.v6 = false;
        self.length = length;
    }

    /// Takes what an IPv6 header says besides its protocol.
    #[inline(always)]
    pub fn read_v6(&mut self, header: Bytes<{ Ipv6Hdr::LEN }>) {
        self.source = Address::from_halves([header.u64::<8>(), header.u64::<16>()]);
        self.destination = Address::from_halves([header.u64::<24>(), header.u64::<32>()]);
        self.ttl = header.u8::<7>();
        self.v6 = true;
        self.length = u32::from(u16::from_be(header.u16::<4>()));
    }

    /// Takes the ports, which come first in TCP and UDP alike.
    #[inline(always)]
    pub fn read_ports(&mut self, ports: Bytes<4>) {
        self.source_port_be = ports.u16::<0>();
        self.destination_port_be = ports.u16::<2>();
    }

    /// Where the network header starts.
    #[inline(always)]
    pub fn network(&self) -> usize {
        usize::from(self.network & OFFSET_MASK)
    }

    /// Where the EtherType in front of it stands.
    #[inline(always)]
    pub fn ether_type(&self) -> usize {
        usize::from(self.network.wrapping_sub(2) & OFFSET_MASK)
    }

    /// Where the transport header starts.
    #[inline(always)]
    pub fn transport(&self) -> usize {
        usize::from(self.transport & OFFSET_MASK)
    }

    /// Bytes of the whole packet, network header included.
    #[inline(always)]
    pub fn total(&self) -> u32 {
        self.length + u32::from(self.transport) - u32::from(self.network)
    }

    /// Bytes of its frame without padding.
    #[inline(always)]
    pub fn bytes(&self) -> u32 {
        self.length + u32::from(self.transport)
    }

    /// Whether this is the first of several fragments.
    #[inline(always)]
    pub fn is_first(&self) -> bool {
        self.part == Part::First as u8
    }

    /// The endpoint the packet goes to.
    #[inline(always)]
    pub fn to(&self) -> Endpoint {
        Endpoint {
            address: self.destination,
            port_be: self.destination_port_be,
            protocol: self.protocol,
            reserved: 0,
        }
    }

    /// The endpoint the packet comes from.
    #[inline(always)]
    pub fn from(&self) -> Endpoint {
        Endpoint { address: self.source, port_be: self.source_port_be, protocol: self.protocol, reserved: 0 }
    }

    /// The flow of a packet from a client of a VIP.
    #[inline(always)]
    pub fn flow_to(&self, vip: u16) -> FlowKey {
        FlowKey { client: self.source, client_port_be: self.source_port_be, vip }
    }

    /// The flow of a packet to a client of a VIP.
    #[inline(always)]
    pub fn flow_back(&self, vip: u16) -> FlowKey {
        FlowKey { client: self.destination, client_port_be: self.destination_port_be, vip }
    }

    /// Reads the TCP header.
    #[inline(always)]
    pub fn segment(&self, ctx: &XdpContext) -> Result<Segment, Reason> {
        let header = Bytes::<{ TcpHdr::LEN }>::at(ctx, self.transport())?;
        let header_length = u32::from(header.u8::<12>() >> 4) * 4;
        if header_length < TcpHdr::LEN as u32 || header_length > self.length {
            return Err(Reason::Truncated);
        }
        self.whole(ctx)?;
        let payload = self.length - header_length;
        let mut segment = Segment {
            flags: Flags(header.u8::<13>()),
            sequence: u32::from_be(header.u32::<4>()),
            acknowledged: u32::from_be(header.u32::<8>()),
            payload,
            record: Record::Other,
        };
        if payload > 0
            && let Ok(record) = Bytes::<2>::at(ctx, self.transport() + header_length as usize)
        {
            segment.record = match record.u16::<0>() {
                TLS_HANDSHAKE | TLS_CHANGE_CIPHER_SPEC => Record::Handshake,
                TLS_DATA => Record::Data,
                _ => Record::Other,
            };
        }
        Ok(segment)
    }

    /// Checks that the UDP header is whole.
    #[inline(always)]
    pub fn datagram(&self, ctx: &XdpContext) -> Result<(), Reason> {
        if self.length < UdpHdr::LEN as u32 {
            return Err(Reason::Truncated);
        }
        self.whole(ctx)
    }

    /// Checks that the frame holds all that the network header claims: payload that is not there would count
    /// as a request, and the checksum of a header that is not part of the packet would be rewritten.
    #[inline(always)]
    pub fn whole(&self, ctx: &XdpContext) -> Result<(), Reason> {
        let end = self.transport() + self.length as usize;
        if end > bytes::readable(ctx) && end > frame_length(ctx) {
            return Err(Reason::Truncated);
        }
        Ok(())
    }
}

/// Bytes of the frame, those of its further buffers included.
#[cfg(not(feature = "legacy"))]
#[inline(always)]
pub fn frame_length(ctx: &XdpContext) -> usize {
    // SAFETY: the helper reads the context, which is this program's own.
    unsafe { aya_ebpf::helpers::generated::bpf_xdp_get_buff_len(ctx.ctx) as usize }
}

/// Bytes of the frame, which is in one buffer before Linux 5.18.
#[cfg(feature = "legacy")]
#[inline(always)]
pub fn frame_length(ctx: &XdpContext) -> usize {
    bytes::readable(ctx)
}
