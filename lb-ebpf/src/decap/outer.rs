//! Reading the outer header: plain values out of it.

use aya_ebpf::programs::XdpContext;
use lb_common::decap::{Host, Reason};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::link::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Link, bytes};

/// The fragment offset of an IPv4 header (RFC 791).
const V4_OFFSET: u16 = 0x1fffu16.to_be();
/// The same with the "more fragments" bit.
const V4_FRAGMENT: u16 = 0x3fffu16.to_be();
/// The fragment offset of a fragment header (RFC 8200 section 4.5).
const V6_OFFSET: u16 = 0xfff8u16.to_be();
/// The next header value of a fragment header.
const V6_FRAGMENT: u8 = 44;
/// Length of a fragment header.
const V6_FRAGMENT_LENGTH: usize = 8;

/// The first byte of an IPv4 header: version 4 and 5 to 15 words.
const V4_START: core::ops::RangeInclusive<u8> = 0x45..=0x4f;

/// An outer header.
#[derive(Clone, Copy)]
pub struct Outer {
    /// Where the packet was put into the tunnel.
    pub source: Host,
    /// Where the tunnel ends.
    pub destination: Host,
    /// What follows, behind a fragment header too.
    pub protocol: u8,
    /// TOS or traffic class, of which the two low bits are ECN's.
    pub traffic_class: u8,
    /// Whether it is part of a larger packet.
    pub fragment: bool,
    /// Whether the payload starts here: in whole packets and first fragments.
    pub first: bool,
    /// Where the payload starts.
    pub start: usize,
    /// Bytes of the payload, by the header's word.
    pub length: u32,
}

impl Outer {
    /// Reads the header behind the link layer's.
    #[inline(always)]
    pub fn read(ctx: &XdpContext, link: &Link) -> Result<Self, Reason> {
        match link.ether_type {
            ETHERTYPE_IPV4 => Self::v4(ctx, link.length),
            ETHERTYPE_IPV6 => Self::v6(ctx, link.length),
            _ => Err(Reason::NoTunnel),
        }
    }

    #[inline(always)]
    fn v4(ctx: &XdpContext, at: usize) -> Result<Self, Reason> {
        let header = bytes::<{ Ipv4Hdr::LEN }>(ctx, at, Reason::Unreadable)?;
        let start = header.u8::<0>();
        let length = u32::from(start & 0x0f) * 4;
        let total = u32::from(u16::from_be(header.u16::<2>()));
        if !V4_START.contains(&start) || total < length {
            return Err(Reason::Unreadable);
        }
        let fragment = header.u16::<6>();
        Ok(Self {
            source: Host::v4(header.u32::<12>()),
            destination: Host::v4(header.u32::<16>()),
            protocol: header.u8::<9>(),
            traffic_class: header.u8::<1>(),
            fragment: fragment & V4_FRAGMENT != 0,
            first: fragment & V4_OFFSET == 0,
            start: at + length as usize,
            length: total - length,
        })
    }

    #[inline(always)]
    fn v6(ctx: &XdpContext, at: usize) -> Result<Self, Reason> {
        let header = bytes::<{ Ipv6Hdr::LEN }>(ctx, at, Reason::Unreadable)?;
        let start = u16::from_be(header.u16::<0>());
        if start >> 12 != 6 {
            return Err(Reason::Unreadable);
        }
        let mut outer = Self {
            source: Host::v6([header.u64::<8>(), header.u64::<16>()]),
            destination: Host::v6([header.u64::<24>(), header.u64::<32>()]),
            protocol: header.u8::<6>(),
            traffic_class: (start >> 4) as u8,
            fragment: false,
            first: true,
            start: at + Ipv6Hdr::LEN,
            length: u32::from(u16::from_be(header.u16::<4>())),
        };
        if outer.protocol == V6_FRAGMENT {
            let header = bytes::<V6_FRAGMENT_LENGTH>(ctx, outer.start, Reason::Unreadable)?;
            outer.protocol = header.u8::<0>();
            outer.fragment = true;
            outer.first = header.u16::<2>() & V6_OFFSET == 0;
            outer.start += V6_FRAGMENT_LENGTH;
        }
        Ok(outer)
    }
}
