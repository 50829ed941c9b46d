//! TCP and UDP over IPv4 and IPv6, with everything that a test wants to set.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, IpDscp, IpEcn, IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder,
    TcpHeader,
};

use super::Mac;

/// The shortest frame that a network card hands on, without its check sequence (IEEE 802.3).
pub const FRAME_MINIMUM: usize = 60;

const ETHERNET: usize = 14;
const TTL: u8 = 64;
const WINDOW: u16 = 64240;

/// TCP flags, as they stand in the header.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Transport {
    Tcp { flags: u8, sequence: u32, acknowledged: u32, options: Vec<u8> },
    Udp { checksum: bool },
}

/// A packet in the making. What a balancer ought to make of it is the same packet with other fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The frame's source.
    pub source_mac: Mac,
    /// The frame's destination.
    pub destination_mac: Mac,
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port, of the source's family.
    pub destination: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// The whole TOS or traffic class byte.
    pub traffic_class: u8,
    transport: Transport,
    ip_options: Vec<u8>,
    fragment: Option<(u16, bool)>,
    payload: Vec<u8>,
    minimum: usize,
}

impl Packet {
    /// A TCP segment with ACK alone, no payload and all numbers zero.
    pub fn tcp(source: SocketAddr, destination: SocketAddr) -> Self {
        let transport =
            Transport::Tcp { flags: flags::ACK, sequence: 0, acknowledged: 0, options: Vec::new() };
        Self::new(source, destination, transport)
    }

    /// A UDP datagram without payload.
    pub fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::new(source, destination, Transport::Udp { checksum: true })
    }

    fn new(source: SocketAddr, destination: SocketAddr, transport: Transport) -> Self {
        Self {
            source_mac: [0; 6],
            destination_mac: [0; 6],
            source,
            destination,
            ttl: TTL,
            traffic_class: 0,
            transport,
            ip_options: Vec::new(),
            fragment: None,
            payload: Vec::new(),
            minimum: 0,
        }
    }

    /// With these frame addresses.
    pub const fn macs(mut self, source: Mac, destination: Mac) -> Self {
        (self.source_mac, self.destination_mac) = (source, destination);
        self
    }

    /// With another source address and port.
    pub const fn from(mut self, source: SocketAddr) -> Self {
        self.source = source;
        self
    }

    /// With another destination address and port.
    pub const fn to(mut self, destination: SocketAddr) -> Self {
        self.destination = destination;
        self
    }

    /// With another TTL or hop limit.
    pub const fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// With another TOS or traffic class byte.
    pub const fn traffic_class(mut self, byte: u8) -> Self {
        self.traffic_class = byte;
        self
    }

    /// With this payload.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// With these TCP flags and numbers.
    ///
    /// # Panics
    /// The packet is UDP.
    pub fn segment(mut self, bits: u8, seq: u32, ack: u32) -> Self {
        let Transport::Tcp { flags, sequence, acknowledged, .. } = &mut self.transport else {
            panic!("a datagram has no flags")
        };
        (*flags, *sequence, *acknowledged) = (bits, seq, ack);
        self
    }

    /// With TCP options, in whole words of four bytes.
    ///
    /// # Panics
    /// The packet is UDP.
    pub fn tcp_options(mut self, bytes: &[u8]) -> Self {
        let Transport::Tcp { options, .. } = &mut self.transport else { panic!("a datagram has no options") };
        *options = bytes.to_vec();
        self
    }

    /// With IPv4 options, in whole words of four bytes.
    pub fn ip_options(mut self, bytes: &[u8]) -> Self {
        self.ip_options = bytes.to_vec();
        self
    }

    /// As an IPv4 fragment: its offset in units of eight bytes, and whether more follow.
    pub const fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = Some((offset, more));
        self
    }

    /// As a sender that computes no UDP checksum.
    pub fn without_checksum(mut self) -> Self {
        self.transport = Transport::Udp { checksum: false };
        self
    }

    /// Padded with zeros to the least length of a frame, as network cards do.
    pub const fn padded(mut self) -> Self {
        self.minimum = FRAME_MINIMUM;
        self
    }

    /// The frame.
    ///
    /// # Panics
    /// Source and destination are not of one family, or a field is too long for its header.
    pub fn build(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(self.source_mac, self.destination_mac);
        let ip = ethernet.ip(self.ip_headers());
        let mut frame = Vec::new();
        let written = match &self.transport {
            Transport::Tcp { .. } => ip.tcp_header(self.tcp_header()).write(&mut frame, &self.payload),
            Transport::Udp { .. } => {
                ip.udp(self.source.port(), self.destination.port()).write(&mut frame, &self.payload)
            }
        };
        written.unwrap_or_else(|error| panic!("{self:?} cannot be built: {error}"));
        if self.transport == (Transport::Udp { checksum: false }) {
            let place = checksum_place(&frame);
            frame[place..place + 2].fill(0);
        }
        frame.resize(frame.len().max(self.minimum), 0);
        frame
    }

    fn ip_headers(&self) -> IpHeaders {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header =
                    Ipv4Header::new(0, self.ttl, IpNumber::TCP, source.octets(), destination.octets())
                        .expect("no payload is not too much");
                header.dscp = IpDscp::try_new(self.traffic_class >> 2).expect("six bits");
                header.ecn = IpEcn::try_new(self.traffic_class & 3).expect("two bits");
                header.options =
                    self.ip_options.as_slice().try_into().expect("IPv4 options are up to ten words");
                if let Some((offset, more)) = self.fragment {
                    header.dont_fragment = false;
                    header.more_fragments = more;
                    header.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits of offset");
                }
                IpHeaders::Ipv4(header, Default::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    hop_limit: self.ttl,
                    traffic_class: self.traffic_class,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Default::default()
                };
                IpHeaders::Ipv6(header, Default::default())
            }
            mixed => panic!("{mixed:?} are of two families"),
        }
    }

    fn tcp_header(&self) -> TcpHeader {
        let Transport::Tcp { flags, sequence, acknowledged, options } = &self.transport else {
            panic!("a datagram has no TCP header")
        };
        let has = |bit: u8| flags & bit != 0;
        let mut header = TcpHeader::new(self.source.port(), self.destination.port(), *sequence, WINDOW);
        header.set_options_raw(options).expect("TCP options are up to ten words");
        header.acknowledgment_number = *acknowledged;
        header.fin = has(flags::FIN);
        header.syn = has(flags::SYN);
        header.rst = has(flags::RST);
        header.psh = has(flags::PSH);
        header.ack = has(flags::ACK);
        header
    }
}

/// Where the transport checksum of a whole TCP or UDP frame lies.
///
/// # Panics
/// The frame is neither.
pub fn checksum_place(frame: &[u8]) -> usize {
    const TCP: usize = 16;
    const UDP: usize = 6;
    let (protocol, transport) = match EtherType(u16::from_be_bytes([frame[12], frame[13]])) {
        EtherType::IPV4 => (frame[ETHERNET + 9], ETHERNET + usize::from(frame[ETHERNET] & 0x0f) * 4),
        EtherType::IPV6 => (frame[ETHERNET + 6], ETHERNET + 40),
        other => panic!("a frame of type {other:?} has no transport"),
    };
    match IpNumber(protocol) {
        IpNumber::TCP => transport + TCP,
        IpNumber::UDP => transport + UDP,
        IpNumber(other) => panic!("protocol {other} is neither TCP nor UDP"),
    }
}

#[cfg(test)]
mod tests {
    use super::{FRAME_MINIMUM, Packet, checksum_place, flags};

    fn at(text: &str) -> std::net::SocketAddr {
        text.parse().expect("an address and a port")
    }

    #[test]
    fn a_known_segment_is_built_byte_for_byte() {
        let built = Packet::tcp(at("192.0.2.1:1000"), at("192.0.2.2:80"))
            .macs([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .segment(flags::SYN, 1, 0)
            .padded()
            .build();
        assert_eq!(built.len(), FRAME_MINIMUM);
        assert_eq!(built[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
        assert_eq!(built[26..38], [192, 0, 2, 1, 192, 0, 2, 2, 0x03, 0xe8, 0, 80]);
        assert_eq!(built[47], flags::SYN);
        assert_eq!(built[54..], [0; 6]);
    }

    #[test]
    fn the_checksum_is_where_the_headers_say() {
        let v4 = Packet::udp(at("192.0.2.1:1"), at("192.0.2.2:2")).ip_options(&[1; 4]);
        assert_eq!(checksum_place(&v4.build()), 14 + 24 + 6);
        let place = checksum_place(&v4.clone().without_checksum().build());
        assert_eq!(v4.without_checksum().build()[place..place + 2], [0, 0]);
        let v6 = Packet::tcp(at("[2001:db8::1]:1"), at("[2001:db8::2]:2"));
        assert_eq!(checksum_place(&v6.build()), 14 + 40 + 16);
    }
}
