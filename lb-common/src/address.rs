//! Addresses and endpoints as the maps and the packet path hold them.

/// An IPv6 address, or an IPv4 address in its v4-mapped form (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
///
/// The words hold the address's bytes in network order as they lie in memory, so a packet's words can be
/// compared without swapping a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Address(pub [u32; 4]);

/// The third word of a v4-mapped address: bytes `00 00 ff ff`.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Address {
    /// From the four bytes of an IPv4 address, read as one word from the packet.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// From an IPv4 address's bytes in network order.
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(octets))
    }

    /// From an IPv6 address's bytes in network order.
    pub const fn from_v6(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }

    /// Whether this is a v4-mapped address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        (self.0[0] | self.0[1] | (self.0[2] ^ MAPPED)) == 0
    }

    /// The address's 16 bytes in network order (v4-mapped for IPv4).
    pub const fn octets(&self) -> [u8; 16] {
        let [a, b, c, d] = self.0;
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.to_ne_bytes(), b.to_ne_bytes());
        let ([c0, c1, c2, c3], [d0, d1, d2, d3]) = (c.to_ne_bytes(), d.to_ne_bytes());
        [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3]
    }

    /// From the two 64-bit halves as they lie in the packet.
    #[inline(always)]
    pub const fn from_halves([high, low]: [u64; 2]) -> Self {
        Self([high as u32, (high >> 32) as u32, low as u32, (low >> 32) as u32])
    }

    /// The two 64-bit halves, first word in the low bits.
    #[inline(always)]
    pub const fn halves(&self) -> [u64; 2] {
        [self.0[0] as u64 | (self.0[1] as u64) << 32, self.0[2] as u64 | (self.0[3] as u64) << 32]
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self::from_v6(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        core::net::Ipv6Addr::from(address.octets()).to_canonical()
    }
}

/// An Ethernet address, as the three halfwords it lies in: headers are even in length, so these are aligned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Mac(pub [u16; 3]);

impl From<[u8; 6]> for Mac {
    fn from([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self([u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])])
    }
}

impl From<Mac> for [u8; 6] {
    fn from(mac: Mac) -> Self {
        let [[a, b], [c, d], [e, f]] = mac.0.map(u16::to_ne_bytes);
        [a, b, c, d, e, f]
    }
}

/// A transport endpoint: the address, port and protocol of a VIP or a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Endpoint {
    /// Address.
    pub address: Address,
    /// Port as it stands in the packet (network byte order).
    pub port_be: u16,
    /// IP protocol number: 6 (TCP) or 17 (UDP); 0 for an address alone.
    pub protocol: u8,
    /// Always 0.
    pub reserved: u8,
}

impl Endpoint {
    /// An endpoint; `port` is in host byte order.
    pub const fn new(address: Address, port: u16, protocol: u8) -> Self {
        Self { address, port_be: port.to_be(), protocol, reserved: 0 }
    }

    /// The key under which an address alone is indexed (ARP, neighbour discovery, echo).
    pub const fn address_only(address: Address) -> Self {
        Self { address, port_be: 0, protocol: 0, reserved: 0 }
    }

    /// The port in host byte order.
    pub const fn port(&self) -> u16 {
        u16::from_be(self.port_be)
    }
}
