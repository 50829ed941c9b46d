//! Outer headers, put around an inner packet by `etherparse`; and the frame that is to be left of it.

use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2Header, IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader,
    Ipv6Header, UdpHeader,
};

use super::Mac;

/// UDP port of GUE.
pub const GUE_PORT: u16 = 6080;
/// Some port of GUE's sender.
const GUE_SOURCE: u16 = 0xc123;
const TTL: u8 = 64;

/// A frame's headers below IP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Source address.
    pub source: Mac,
    /// Destination address.
    pub destination: Mac,
    /// VLAN tags from the outermost: the EtherType that announces it, and priority with VLAN number.
    pub tags: Vec<(u16, u16)>,
}

impl Link {
    /// A frame with this IP packet in it.
    ///
    /// # Panics
    /// The packet is neither IPv4 nor IPv6.
    pub fn frame(&self, packet: &[u8]) -> Vec<u8> {
        let inside = match packet[0] >> 4 {
            4 => EtherType::IPV4,
            6 => EtherType::IPV6,
            version => panic!("no packet has version {version}"),
        };
        self.frame_of(inside, packet)
    }

    fn frame_of(&self, inside: EtherType, packet: &[u8]) -> Vec<u8> {
        let types: Vec<u16> = self.tags.iter().map(|tag| tag.0).chain([inside.0]).collect();
        let header = Ethernet2Header {
            source: self.source,
            destination: self.destination,
            ether_type: EtherType(types[0]),
        };
        let mut frame = header.to_bytes().to_vec();
        for (tag, next) in self.tags.iter().zip(&types[1..]) {
            frame.extend(tag.1.to_be_bytes());
            frame.extend(next.to_be_bytes());
        }
        frame.extend(packet);
        frame
    }
}

/// The IP packet in an untagged frame.
pub fn network(frame: &[u8]) -> &[u8] {
    &frame[Ethernet2Header::LEN..]
}

/// An outer header in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Where the tunnel begins.
    pub source: IpAddr,
    /// Where it ends, of the same family.
    pub destination: IpAddr,
    /// TOS or traffic class.
    pub class: u8,
    /// Destination port of GUE; the inner packet follows the IP header directly without.
    pub port: Option<u16>,
    /// IPv4 options, in whole words of four bytes.
    pub options: Vec<u8>,
    /// Fragment offset in units of eight bytes, and whether more follow.
    pub fragment: Option<(u16, bool)>,
}

impl Outer {
    /// A tunnel of plain IP in IP.
    pub fn ip(source: IpAddr, destination: IpAddr) -> Self {
        Self { source, destination, class: 0, port: None, options: Vec::new(), fragment: None }
    }

    /// A tunnel of GUE variant 1.
    pub fn gue(source: IpAddr, destination: IpAddr) -> Self {
        Self { port: Some(GUE_PORT), ..Self::ip(source, destination) }
    }

    /// The packet that carries `inner`, whose first four bits tell its version.
    ///
    /// # Panics
    /// Source and destination are not of one family, or a field is too long for its header.
    pub fn around(&self, inner: &[u8]) -> Vec<u8> {
        let inside = match (self.port, inner.first().map(|byte| byte >> 4)) {
            (Some(_), _) => IpNumber::UDP,
            (None, Some(6)) => IpNumber::IPV6,
            _ => IpNumber::IPV4,
        };
        self.around_as(inside, inner)
    }

    /// The same, announced as `inside` whatever it is.
    ///
    /// # Panics
    /// As [`Outer::around`].
    pub fn around_as(&self, inside: IpNumber, inner: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        if let Some(port) = self.port {
            let length = u16::try_from(UdpHeader::LEN + inner.len()).expect("a datagram of up to 64 KiB");
            let header = UdpHeader { source_port: GUE_SOURCE, destination_port: port, length, checksum: 0 };
            payload.extend(header.to_bytes());
        }
        payload.extend(inner);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let length = u16::try_from(payload.len()).expect("a packet of up to 64 KiB");
                let mut header = Ipv4Header::new(length, TTL, inside, source.octets(), destination.octets())
                    .expect("there is room for the payload");
                header.dscp = IpDscp::try_new(self.class >> 2).expect("six bits");
                header.ecn = IpEcn::try_new(self.class & 0b11).expect("two bits");
                header.options = self.options.as_slice().try_into().expect("options are up to ten words");
                if let Some((offset, more)) = self.fragment {
                    header.dont_fragment = false;
                    header.more_fragments = more;
                    header.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits of offset");
                }
                header.total_len = u16::try_from(header.header_len()).expect("60 at most") + length;
                header.header_checksum = header.calc_header_checksum();
                [header.to_bytes().to_vec(), payload].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut next_header = inside;
                if let Some((offset, more)) = self.fragment {
                    let offset = IpFragOffset::try_new(offset).expect("13 bits of offset");
                    let header = Ipv6FragmentHeader::new(inside, offset, more, 7);
                    payload.splice(0..0, header.to_bytes());
                    next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
                }
                let header = Ipv6Header {
                    traffic_class: self.class,
                    payload_length: u16::try_from(payload.len()).expect("a packet of up to 64 KiB"),
                    next_header,
                    hop_limit: TTL,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Default::default()
                };
                [header.to_bytes().to_vec(), payload].concat()
            }
            mixed => panic!("{mixed:?} are of two families"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Link, Outer};

    #[test]
    fn a_known_tunnel_packet_is_built_byte_for_byte() {
        let outer = Outer::gue("192.0.2.1".parse().expect("an address"), "192.0.2.2".parse().expect("one"));
        let link =
            Link { source: [1; 6], destination: [2; 6], tags: vec![(0x88a8, 0x0005), (0x8100, 0x6007)] };
        let frame = link.frame(&outer.around(&[0x45]));
        assert_eq!(frame[..12], [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]);
        assert_eq!(frame[12..22], [0x88, 0xa8, 0, 5, 0x81, 0, 0x60, 7, 8, 0]);
        assert_eq!(frame[22..26], [0x45, 0, 0, 29]);
        assert_eq!(frame[31..32], [17]);
        assert_eq!(frame[42..], [0xc1, 0x23, 0x17, 0xc0, 0, 9, 0, 0, 0x45]);
    }
}
