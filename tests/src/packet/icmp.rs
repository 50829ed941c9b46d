//! ICMP and ICMPv6: echo, and errors that quote a packet.

use std::net::IpAddr;

use etherparse::{IpDscp, IpEcn, IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};

use super::{
    ETHERNET, Mac,
    checksum::{internet, pseudo_v6},
};

const TTL: u8 = 64;
const IPV6: usize = 40;

/// What a router says of a packet; each means the message of the quoted packet's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Destination unreachable, with a code.
    Unreachable(u8),
    /// Fragmentation needed, or packet too big: the next hop's MTU.
    TooBig(u16),
    /// Time exceeded.
    TimeExceeded,
    /// Parameter problem, at a byte.
    Parameter(u8),
}

impl Problem {
    /// Type, code and the four bytes behind the checksum (RFC 792, RFC 1191 section 4, RFC 4443 section 3).
    const fn header(self, v6: bool) -> (u8, u8, [u8; 4]) {
        match (self, v6) {
            (Self::Unreachable(code), false) => (3, code, [0; 4]),
            (Self::Unreachable(code), true) => (1, code, [0; 4]),
            (Self::TooBig(mtu), false) => {
                let [high, low] = mtu.to_be_bytes();
                (3, 4, [0, 0, high, low])
            }
            (Self::TooBig(mtu), true) => (2, 0, (mtu as u32).to_be_bytes()),
            (Self::TimeExceeded, false) => (11, 0, [0; 4]),
            (Self::TimeExceeded, true) => (3, 0, [0; 4]),
            (Self::Parameter(at), false) => (12, 0, [at, 0, 0, 0]),
            (Self::Parameter(at), true) => (4, 0, [0, 0, 0, at]),
        }
    }
}

/// A message in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// The frame's source.
    pub source_mac: Mac,
    /// The frame's destination.
    pub destination_mac: Mac,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the source's family.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// The whole TOS or traffic class byte.
    pub traffic_class: u8,
    /// IPv4 options, in whole words of four bytes.
    pub options: Vec<u8>,
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The four bytes behind the checksum.
    pub rest: [u8; 4],
    /// What follows.
    pub body: Vec<u8>,
}

impl Icmp {
    /// A message of any kind.
    pub const fn new(source: IpAddr, destination: IpAddr, (kind, code): (u8, u8)) -> Self {
        Self {
            source_mac: [0; 6],
            destination_mac: [0; 6],
            source,
            destination,
            ttl: TTL,
            traffic_class: 0,
            options: Vec::new(),
            kind,
            code,
            rest: [0; 4],
            body: Vec::new(),
        }
    }

    /// An echo request with an identifier and a sequence number.
    pub fn echo(source: IpAddr, destination: IpAddr, [id, sequence]: [u16; 2]) -> Self {
        let kind = if destination.is_ipv4() { 8 } else { 128 };
        let ([a, b], [c, d]) = (id.to_be_bytes(), sequence.to_be_bytes());
        Self { rest: [a, b, c, d], ..Self::new(source, destination, (kind, 0)) }
    }

    /// The reply to an echo request, from the address and MAC address that it went to.
    pub fn reply(&self) -> Self {
        Self {
            source_mac: self.destination_mac,
            destination_mac: self.source_mac,
            source: self.destination,
            destination: self.source,
            ttl: TTL,
            kind: if self.destination.is_ipv4() { 0 } else { 129 },
            ..self.clone()
        }
    }

    /// A router's word on a packet, quoting it.
    pub fn error(router: IpAddr, to: IpAddr, problem: Problem, quote: Vec<u8>) -> Self {
        let (kind, code, rest) = problem.header(to.is_ipv6());
        Self { rest, body: quote, ..Self::new(router, to, (kind, code)) }
    }

    /// With these frame addresses.
    pub const fn macs(mut self, source: Mac, destination: Mac) -> Self {
        (self.source_mac, self.destination_mac) = (source, destination);
        self
    }

    /// With another TTL or hop limit.
    pub const fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// With this behind the header.
    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    /// The frame.
    ///
    /// # Panics
    /// Source and destination are not of one family.
    pub fn build(&self) -> Vec<u8> {
        let mut message = [&[self.kind, self.code, 0, 0], &self.rest[..], &self.body].concat();
        let (headers, pseudo, protocol) = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header =
                    Ipv4Header::new(0, self.ttl, IpNumber::ICMP, source.octets(), destination.octets())
                        .expect("no payload is not too much");
                header.dscp = IpDscp::try_new(self.traffic_class >> 2).expect("six bits");
                header.ecn = IpEcn::try_new(self.traffic_class & 3).expect("two bits");
                header.options =
                    self.options.as_slice().try_into().expect("IPv4 options are up to ten words");
                (IpHeaders::Ipv4(header, Default::default()), Vec::new(), IpNumber::ICMP)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    hop_limit: self.ttl,
                    traffic_class: self.traffic_class,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Default::default()
                };
                let number = IpNumber::IPV6_ICMP;
                let pseudo = pseudo_v6(header.source, header.destination, message.len(), number.0);
                (IpHeaders::Ipv6(header, Default::default()), pseudo, number)
            }
            mixed => panic!("{mixed:?} are of two families"),
        };
        let checksum = internet(&[&pseudo, &message]);
        message[2..4].copy_from_slice(&checksum);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.source_mac, self.destination_mac)
            .ip(headers)
            .write(&mut frame, protocol, &message)
            .unwrap_or_else(|error| panic!("{self:?} cannot be built: {error}"));
        frame
    }
}

/// What a router quotes of a frame without tags: the network header and `limit` bytes behind it, which in old
/// routers are eight.
pub fn quote(frame: &[u8], limit: usize) -> Vec<u8> {
    let packet = &frame[ETHERNET..];
    let header = if packet[0] >> 4 == 6 { IPV6 } else { usize::from(packet[0] & 0x0f) * 4 };
    packet[..packet.len().min(header.saturating_add(limit))].to_vec()
}

#[cfg(test)]
mod tests {
    use super::{Icmp, Problem, quote};
    use crate::packet::{Packet, assert_right};

    #[test]
    fn messages_have_right_checksums() {
        for (one, two) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let (one, two) = (one.parse().expect("an address"), two.parse().expect("an address"));
            let echo = Icmp::echo(one, two, [7, 8]).body(b"odd");
            assert_right(&echo.build(), "a request");
            assert_right(&echo.reply().build(), "a reply");
            let packet = Packet::tcp((two, 80).into(), (one, 1000).into()).payload(b"answer").build();
            for problem in [Problem::Unreachable(1), Problem::TooBig(1280), Problem::TimeExceeded] {
                for limit in [8, usize::MAX] {
                    let error = Icmp::error(one, two, problem, quote(&packet, limit));
                    assert_right(&error.build(), &format!("{error:?}"));
                }
            }
        }
    }
}
