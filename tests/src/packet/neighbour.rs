//! ARP and neighbour discovery.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, IpNumber, Ipv6Header, PacketBuilder,
};

use super::Mac;

/// RFC 4861: what has passed a router has a lower one.
const HOP_LIMIT: u8 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// A question for an IPv4 address's MAC address.
#[derive(Clone, Copy, Debug)]
pub struct ArpRequest {
    /// Who asks.
    pub mac: Mac,
    /// From which address.
    pub sender: Ipv4Addr,
    /// For which.
    pub target: Ipv4Addr,
}

impl ArpRequest {
    /// The frame, sent to everyone.
    pub fn build(&self) -> Vec<u8> {
        let ends = ((self.mac, self.sender), ([0; 6], self.target));
        arp(ArpOperation::REQUEST, self.mac, [0xff; 6], ends)
    }
}

/// The answer to a request: `own` is the target's MAC address.
pub fn arp_reply(asked: &ArpRequest, own: Mac) -> Vec<u8> {
    let ends = ((own, asked.target), (asked.mac, asked.sender));
    arp(ArpOperation::REPLY, own, asked.mac, ends)
}

type Ends = ((Mac, Ipv4Addr), (Mac, Ipv4Addr));

fn arp(operation: ArpOperation, from: Mac, to: Mac, (sender, target): Ends) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &sender.0,
        &sender.1.octets(),
        &target.0,
        &target.1.octets(),
    )
    .expect("addresses of Ethernet and IPv4 have fixed lengths");
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from, to).arp(packet).write(&mut frame).expect("a vector takes all");
    frame
}

/// A neighbour solicitation.
#[derive(Clone, Copy, Debug)]
pub struct Solicitation {
    /// Who asks.
    pub mac: Mac,
    /// From which address; unspecified when it asks whether the target is free.
    pub source: Ipv6Addr,
    /// For which.
    pub target: Ipv6Addr,
    /// Whether it tells its own MAC address in an option.
    pub option: bool,
    /// 255 unless it is from beyond a router.
    pub hop_limit: u8,
}

impl Solicitation {
    /// A plain question.
    pub const fn new(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> Self {
        Self { mac, source, target, option: true, hop_limit: HOP_LIMIT }
    }

    /// The frame, sent to the target's solicited-node group (RFC 4291 section 2.7.1).
    pub fn build(&self) -> Vec<u8> {
        let [.., a, b, c] = self.target.octets();
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
        let to = [0x33, 0x33, 0xff, a, b, c];
        let option = self.option.then_some((1, self.mac));
        message(SOLICITATION, 0, self.target, option, (self.mac, self.source), (to, group), self.hop_limit)
    }
}

/// The answer to a solicitation: solicited and overriding, with the target's MAC address as an option.
pub fn advertisement(asked: &Solicitation, own: Mac) -> Vec<u8> {
    const SOLICITED_OVERRIDE: u8 = 0x60;
    message(
        ADVERTISEMENT,
        SOLICITED_OVERRIDE,
        asked.target,
        Some((2, own)),
        (own, asked.target),
        (asked.mac, asked.source),
        HOP_LIMIT,
    )
}

fn message(
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    option: Option<(u8, Mac)>,
    from: (Mac, Ipv6Addr),
    to: (Mac, Ipv6Addr),
    hop_limit: u8,
) -> Vec<u8> {
    let mut body = target.octets().to_vec();
    if let Some((number, mac)) = option {
        // The length is in units of eight bytes.
        body.extend([number, 1]);
        body.extend(mac);
    }
    let header = Ipv6Header {
        hop_limit,
        next_header: IpNumber::IPV6_ICMP,
        source: from.1.octets(),
        destination: to.1.octets(),
        ..Default::default()
    };
    let icmp = Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [flags, 0, 0, 0] };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.0, to.0)
        .ip(etherparse::IpHeaders::Ipv6(header, Default::default()))
        .icmpv6(icmp)
        .write(&mut frame, &body)
        .expect("a vector takes all");
    frame
}
