//! Reading a packet: headers in, plain values out. Nothing here knows what a VIP is.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    address::{Address, Endpoint},
    branchless::Hide as _,
    reason::Reason,
    track::{Flags, Record, Segment},
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{bytes::Bytes, word::Opaque};

/// EtherTypes as they lie in the packet.
pub const ETHERTYPE_IPV4: u16 = 0x0800u16.to_be();
/// IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86ddu16.to_be();
/// ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806u16.to_be();

/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;
/// ICMPv6's protocol number.
pub const ICMPV6: u8 = 58;

/// Where the network header starts.
pub const L3: usize = EthHdr::LEN;

/// The fragment offset and the "more fragments" bit of an IPv4 header (RFC 791).
const FRAGMENT: u16 = 0x3fffu16.to_be();

/// The first byte of an IPv4 header: version 4 and 5 to 15 words.
const IPV4_START: core::ops::RangeInclusive<u8> = 0x45..=0x4f;

/// The first bytes of TLS records: their kind, and the version 3.x (RFC 8446 section 5.1).
const TLS_CHANGE_CIPHER_SPEC: u16 = u16::from_ne_bytes([20, 3]);
const TLS_HANDSHAKE: u16 = u16::from_ne_bytes([22, 3]);
const TLS_DATA: u16 = u16::from_ne_bytes([23, 3]);

/// A packet whose network header has been read.
#[derive(Clone, Copy)]
pub struct Network {
    /// Where it comes from.
    pub source: Address,
    /// Where it goes.
    pub destination: Address,
    /// Transport protocol.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether it is part of a larger packet.
    pub fragment: bool,
    /// Whether the network header is IPv6: hidden, or the compiler writes the rest of the program twice.
    pub v6: bool,
    /// Where the transport header starts.
    pub transport: usize,
    /// Bytes from there to the end of the packet, by the network header: frames may be padded.
    pub length: u32,
}

/// The frame's EtherType.
#[inline(always)]
pub fn ether_type(ctx: &XdpContext) -> Result<u16, Reason> {
    const ETHER_TYPE: usize = 12;
    Ok(Bytes::<{ EthHdr::LEN }>::at(ctx, 0)?.u16::<ETHER_TYPE>())
}

/// Reads the IPv4 header.
#[inline(always)]
pub fn ipv4(ctx: &XdpContext) -> Result<Network, Reason> {
    let header = Bytes::<{ Ipv4Hdr::LEN }>::at(ctx, L3)?;
    let start = header.u8::<0>();
    let header_length = u32::from(start & 0x0f) * 4;
    let total = u32::from(u16::from_be(header.u16::<2>()));
    if !IPV4_START.contains(&start) || total < header_length {
        return Err(Reason::Truncated);
    }
    Ok(Network {
        source: Address::from_v4_word(header.u32::<12>()),
        destination: Address::from_v4_word(header.u32::<16>()),
        protocol: header.u8::<9>(),
        ttl: header.u8::<8>(),
        fragment: header.u16::<6>() & FRAGMENT != 0,
        v6: Opaque::hide(0) != 0,
        transport: L3 + header_length as usize,
        length: total - header_length,
    })
}

/// Reads the IPv6 header.
#[inline(always)]
pub fn ipv6(ctx: &XdpContext) -> Result<Network, Reason> {
    const FRAGMENT_HEADER: u8 = 44;
    let header = Bytes::<{ Ipv6Hdr::LEN }>::at(ctx, L3)?;
    let protocol = header.u8::<6>();
    if header.u8::<0>() >> 4 != 6 {
        return Err(Reason::Truncated);
    }
    Ok(Network {
        source: Address::from_halves([header.u64::<8>(), header.u64::<16>()]),
        destination: Address::from_halves([header.u64::<24>(), header.u64::<32>()]),
        protocol,
        ttl: header.u8::<7>(),
        fragment: protocol == FRAGMENT_HEADER,
        v6: Opaque::hide(1) != 0,
        transport: L3 + Ipv6Hdr::LEN,
        length: u32::from(u16::from_be(header.u16::<4>())),
    })
}

impl Network {
    /// Source and destination ports, network byte order: they come first in TCP and UDP alike.
    #[inline(always)]
    pub fn ports(&self, ctx: &XdpContext) -> Result<(u16, u16), Reason> {
        let ports = Bytes::<4>::at(ctx, self.transport)?;
        Ok((ports.u16::<0>(), ports.u16::<2>()))
    }

    /// The endpoint the packet goes to, given its destination port.
    #[inline(always)]
    pub fn to(&self, port_be: u16) -> Endpoint {
        Endpoint { address: self.destination, port_be, protocol: self.protocol, reserved: 0 }
    }

    /// The endpoint the packet comes from, given its source port.
    #[inline(always)]
    pub fn from(&self, port_be: u16) -> Endpoint {
        Endpoint { address: self.source, port_be, protocol: self.protocol, reserved: 0 }
    }

    /// Reads the TCP header.
    #[inline(always)]
    pub fn segment(&self, ctx: &XdpContext) -> Result<Segment, Reason> {
        let header = Bytes::<{ TcpHdr::LEN }>::at(ctx, self.transport)?;
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
            && let Ok(record) = Bytes::<2>::at(ctx, self.transport + header_length as usize)
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
    fn whole(&self, ctx: &XdpContext) -> Result<(), Reason> {
        if self.transport + self.length as usize > ctx.data_end() - ctx.data() {
            return Err(Reason::Truncated);
        }
        Ok(())
    }
}
