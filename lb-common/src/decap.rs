//! Taking the outer header off a tunnelled packet: which packets, and what becomes of the inner one.
//!
//! IPv4 in IPv4 is RFC 2003, everything in IPv6 RFC 2473, IPv6 in IPv4 RFC 4213; GUE variant 1 is an IP packet
//! that follows a UDP header directly (draft-ietf-intarea-gue-09 section 4).
//!
//! The inner TTL or hop limit stays as it is: removing a header is no hop (RFC 2003 section 3.1, RFC 2473
//! section 3.3), and the balancer has counted its own. ECN follows RFC 6040, DSCP stays the inner one's.

use core::net::IpAddr;

use crate::address::Address;

/// What the program does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The outer header is taken off; the inner packet goes to the host's stack.
    Deliver,
    /// Left to the host's stack, untouched.
    Pass,
    /// Dropped.
    Drop,
}

/// Why a packet went where it went. Its number is its element of the map `REASONS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The inner packet was delivered.
    Decapsulated,
    /// No tunnel that is known here.
    NoTunnel,
    /// The frame or its outer header is cut short: there is no telling whom it is for.
    Unreadable,
    /// A tunnel packet whose outer destination is no address of this end.
    OtherDestination,
    /// A tunnel packet from an outer source that is not accepted.
    OtherSource,
    /// Part of an outer packet: only the host could put it together.
    OuterFragment,
    /// GUE with a header of its own, which is another variant.
    OtherVariant,
    /// A header, or the packet that it announces, is not all there.
    Truncated,
    /// What follows the outer header is not the IP packet that it announces.
    Malformed,
    /// An inner IPv4 packet with a TTL of zero.
    TtlExpired,
    /// The network marked congestion on the way, on a packet whose sender would not understand it.
    CongestionLost,
    /// The kernel refused to move the head of the packet.
    Internal,
}

/// Elements of `REASONS`; room for reasons to come.
pub const REASONS: usize = 16;
const _: () = assert!(Reason::ALL.len() <= REASONS);

impl Reason {
    /// All reasons by their number.
    pub const ALL: &[Self] = &[
        Self::Decapsulated,
        Self::NoTunnel,
        Self::Unreadable,
        Self::OtherDestination,
        Self::OtherSource,
        Self::OuterFragment,
        Self::OtherVariant,
        Self::Truncated,
        Self::Malformed,
        Self::TtlExpired,
        Self::CongestionLost,
        Self::Internal,
    ];

    /// The name in the CLI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decapsulated => "decapsulated",
            Self::NoTunnel => "no_tunnel",
            Self::Unreadable => "unreadable",
            Self::OtherDestination => "other_destination",
            Self::OtherSource => "other_source",
            Self::OuterFragment => "outer_fragment",
            Self::OtherVariant => "other_gue_variant",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::TtlExpired => "ttl_expired",
            Self::CongestionLost => "congestion_lost",
            Self::Internal => "internal_error",
        }
    }

    /// What was done with the packet.
    pub const fn action(self) -> Action {
        match self {
            Self::Decapsulated => Action::Deliver,
            Self::NoTunnel
            | Self::Unreadable
            | Self::OtherDestination
            | Self::OtherSource
            | Self::OuterFragment
            | Self::OtherVariant => Action::Pass,
            Self::Truncated | Self::Malformed | Self::TtlExpired | Self::CongestionLost | Self::Internal => {
                Action::Drop
            }
        }
    }
}

/// An address with its family before it, so that no IPv6 packet can name an IPv4 host: the key of the maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Host(pub [u32; 5]);

impl Host {
    /// No address: what is counted for hosts that have no entry of their own.
    pub const OTHERS: Self = Self([0; 5]);
    /// Bits before the address.
    const FAMILY_BITS: u32 = 32;

    /// From an IPv4 address's four bytes, read as one word from the packet.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([4, word, 0, 0, 0])
    }

    /// From an IPv6 address's two halves as they lie in the packet.
    #[inline(always)]
    pub const fn v6([high, low]: [u64; 2]) -> Self {
        Self([6, high as u32, (high >> 32) as u32, low as u32, (low >> 32) as u32])
    }

    /// Length of the prefix in the trie of accepted sources that holds a prefix of `bits` bits of addresses.
    pub const fn prefix(bits: u8) -> u32 {
        Self::FAMILY_BITS + bits as u32
    }

    /// Length of the whole key.
    pub const BITS: u32 = Self::FAMILY_BITS + 128;

    /// The address; none for [`Host::OTHERS`].
    pub fn address(&self) -> Option<IpAddr> {
        let [family, words @ ..] = self.0;
        match family {
            4 => Some(IpAddr::from(words[0].to_ne_bytes())),
            6 => Some(IpAddr::from(Address(words).octets())),
            _ => None,
        }
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(u32::from_ne_bytes(v4.octets())),
            IpAddr::V6(v6) => Self::v6(Address::from_v6(v6.octets()).halves()),
        }
    }
}

/// Inner packets of a VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Their bytes, from the inner IP header on.
    pub bytes: u64,
}

/// VIPs that are counted each for itself; later ones are counted together.
pub const MAX_VIPS: usize = 1024;

/// UDP port of GUE (IANA).
pub const GUE_PORT: u16 = 6080;

/// Bytes of a UDP header.
const UDP_HEADER: u32 = 8;
/// Bytes of an IPv6 header.
const V6_HEADER: u32 = 40;

/// What an outer header's protocol number announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Carries {
    /// An IPv4 packet.
    V4,
    /// An IPv6 packet.
    V6,
    /// UDP, which is a tunnel if it goes to [`GUE_PORT`].
    Udp,
    /// No tunnel.
    Other,
}

/// What a protocol number announces.
#[inline(always)]
pub const fn carries(protocol: u8) -> Carries {
    match protocol {
        4 => Carries::V4,
        41 => Carries::V6,
        17 => Carries::Udp,
        _ => Carries::Other,
    }
}

/// Bytes that follow the outer IP header, by its word `claimed`, when the frame holds `there`.
///
/// # Errors
/// [`Reason::Truncated`]: the frame holds less.
#[inline(always)]
pub const fn payload(claimed: u32, there: u32) -> Result<u32, Reason> {
    if claimed > there { Err(Reason::Truncated) } else { Ok(claimed) }
}

/// Bytes that follow a UDP header whose length field says `length`, in an IP payload of `payload` bytes.
///
/// # Errors
/// [`Reason::Truncated`]: the length is less than the header's or more than there is.
#[inline(always)]
pub const fn datagram(length: u16, payload: u32) -> Result<u32, Reason> {
    let length = length as u32;
    if length < UDP_HEADER || length > payload { Err(Reason::Truncated) } else { Ok(length - UDP_HEADER) }
}

/// Whether the inner packet is IPv6, from its first byte.
///
/// # Errors
/// [`Reason::OtherVariant`]: a GUE header follows. [`Reason::Malformed`]: it is not the announced version.
#[inline(always)]
pub const fn is_v6(carries: Carries, first: u8) -> Result<bool, Reason> {
    /// The two top bits of GUE variant 1, which the versions 4 and 6 share.
    const VARIANT: u8 = 0b11;
    match (carries, first >> 4) {
        (Carries::V4 | Carries::Udp, 4) => Ok(false),
        (Carries::V6 | Carries::Udp, 6) => Ok(true),
        (Carries::Udp, version) if version >> 2 & VARIANT != 1 => Err(Reason::OtherVariant),
        _ => Err(Reason::Malformed),
    }
}

/// Length of an inner IPv4 packet, from its first byte, total length and TTL, where there is `room` for it.
///
/// A TTL of zero ends here (RFC 2003 section 3.1).
///
/// # Errors
/// The packet is inconsistent, cut short or at its end.
#[inline(always)]
pub const fn inner_v4(first: u8, total: u16, ttl: u8, room: u32) -> Result<u32, Reason> {
    const SHORTEST: u32 = 20;
    let (header, total) = ((first & 0x0f) as u32 * 4, total as u32);
    if room < SHORTEST {
        // What was read was not all the packet's.
        Err(Reason::Truncated)
    } else if header < SHORTEST || total < header {
        Err(Reason::Malformed)
    } else if total > room {
        Err(Reason::Truncated)
    } else if ttl == 0 {
        Err(Reason::TtlExpired)
    } else {
        Ok(total)
    }
}

/// Length of an inner IPv6 packet, from its payload length, where there is `room` for it.
///
/// A hop limit of zero does not matter to the destination (RFC 8200 section 3), which this host is.
///
/// # Errors
/// [`Reason::Truncated`]: there is less room.
#[inline(always)]
pub const fn inner_v6(payload: u16, room: u32) -> Result<u32, Reason> {
    let total = V6_HEADER + payload as u32;
    if total > room { Err(Reason::Truncated) } else { Ok(total) }
}

/// The bits of a TOS byte or traffic class that are ECN's (RFC 3168 section 5).
pub const ECN: u8 = 0b11;

/// The inner packet's ECN field after decapsulation (RFC 6040 section 4.2, figure 4), from the outer and the
/// inner one; both in the two low bits, the others are not looked at.
///
/// # Errors
/// [`Reason::CongestionLost`]: congestion was experienced, and the inner packet has no room to say so.
#[inline(always)]
pub const fn ecn(outer: u8, inner: u8) -> Result<u8, Reason> {
    const NOT_ECT: u8 = 0b00;
    const ECT_1: u8 = 0b01;
    const CE: u8 = 0b11;
    let (outer, inner) = (outer & ECN, inner & ECN);
    match (inner, outer) {
        (NOT_ECT, CE) => Err(Reason::CongestionLost),
        (NOT_ECT | CE, _) => Ok(inner),
        (_, CE | ECT_1) => Ok(outer),
        _ => Ok(inner),
    }
}
