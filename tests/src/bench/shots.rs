//! The packets: their frames, and what moves in them from one to the next.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    layout::{PORT_BASE, Run, TEMPLATE_WORDS},
    services::{Family, INNER_MAC, OWN_MAC, Protocol, ROUTER_MAC, Service},
};
use crate::packet::{Packet, flags};

/// What a packet is to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shot {
    /// SYN: opens a connection.
    Syn,
    /// The same bare ACK every time.
    Ack,
    /// Payload, and the acknowledgement of the answer to the one before: a new request every time.
    Request,
    /// A bare ACK that acknowledges more every time.
    Progress,
    /// A reset.
    Reset,
    /// A datagram from the client; the first opens a flow.
    Datagram,
    /// A server's segment or datagram, on its way back.
    Answer,
}

/// Time stamps (RFC 7323), as almost every segment has them, and what else a SYN brings.
const SEGMENT_OPTIONS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1];
const SYN_OPTIONS: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];

/// Longer than any header: what lies behind is no program's concern.
const PAYLOAD: [u8; 64] = [b'.'; 64];

/// Numbers of a SYN; what follows counts on from them.
const SEQUENCE: u32 = 1_000_000;
const ACKNOWLEDGED: u32 = 2_000_000;
/// What a client acknowledges from one packet to the next: one full segment.
const STEP: u32 = 1448;

/// Where a frame's fields lie, by family.
struct Places {
    source: u32,
    destination: u32,
    transport: u32,
}

const fn places(family: Family) -> Places {
    match family {
        // The last two bytes of the addresses.
        Family::V4 => Places { source: 28, destination: 32, transport: 34 },
        Family::V6 => Places { source: 36, destination: 52, transport: 54 },
    }
}

/// The client of the first flow; the last two bytes of its address and its port move with the flow.
fn client(family: Family) -> SocketAddr {
    let ip: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(10, 1, 0, 0).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0).into(),
    };
    SocketAddr::new(ip, PORT_BASE)
}

/// A frame and how it varies, ready to run.
#[derive(Clone, Debug)]
pub struct Salvo {
    /// The frame.
    pub frame: Vec<u8>,
    /// What the programs are told; `next` is up to the runner.
    pub run: Run,
}

impl Salvo {
    /// A frame that is sent again and again as it is, among `push` bytes of harness.
    pub fn fixed(frame: Vec<u8>) -> Self {
        let (client_at, client) = (28, u16::from_be_bytes([frame[28], frame[29]]).into());
        let run = Run { client_at, client, port_at: 34, ..template(&frame) };
        Self { frame, run }
    }

    /// Packets of `1 << bits` flows to a VIP.
    pub fn of(service: &Service, shot: Shot, bits: u32) -> Self {
        let client = client(service.family);
        let frame = packet(service, shot, client).build();
        let Places { source, destination, transport } = places(service.family);
        let (client_at, port_at) = match shot {
            Shot::Answer => (destination, transport + 2),
            _ => (source, transport),
        };
        let mut run = Run { flow_bits: bits, client_at, port_at, push: service.push(), ..template(&frame) };
        if service.protocol == Protocol::Tcp && matches!(shot, Shot::Request | Shot::Progress) {
            const NUMBERS: u32 = 4;
            run.numbers_at = transport + NUMBERS;
            run.sequence = [SEQUENCE + 1, PAYLOAD.len() as u32];
            run.acknowledged = [ACKNOWLEDGED, STEP];
        }
        Self { frame, run }
    }

    /// In the order of the flows' numbers, instead of one without stride.
    pub fn in_order(mut self) -> Self {
        (self.run.multiplier, self.run.fold) = (1, 31);
        self
    }
}

fn template(frame: &[u8]) -> Run {
    /// Odd and without pattern: 2^32 over the golden ratio.
    const MULTIPLIER: u32 = 0x9e37_79b1;
    const FOLD: u32 = 5;
    let word = |place: usize| {
        let mut bytes = [0; 8];
        let rest = frame.get(place * 8..).unwrap_or_default();
        let there = rest.len().min(8);
        bytes[..there].copy_from_slice(&rest[..there]);
        u64::from_ne_bytes(bytes)
    };
    Run {
        template: std::array::from_fn::<_, TEMPLATE_WORDS, _>(word),
        multiplier: MULTIPLIER,
        fold: FOLD,
        length: frame.len() as u32,
        ..Run::default()
    }
}

fn packet(service: &Service, shot: Shot, client: SocketAddr) -> Packet {
    let (from, to) = match shot {
        Shot::Answer => (service.backend(0), client),
        _ => (client, service.vip()),
    };
    let packet = match service.protocol {
        Protocol::Udp => Packet::udp(from, to).payload(&PAYLOAD),
        Protocol::Tcp => {
            let bare = Packet::tcp(from, to).tcp_options(&SEGMENT_OPTIONS);
            match shot {
                Shot::Syn => bare.tcp_options(&SYN_OPTIONS).segment(flags::SYN, SEQUENCE, 0),
                Shot::Request => bare.segment(flags::PSH | flags::ACK, 0, 0).payload(&PAYLOAD),
                Shot::Reset => bare.segment(flags::RST, SEQUENCE + 1, 0),
                Shot::Answer => bare.segment(flags::ACK, ACKNOWLEDGED, SEQUENCE + 1).payload(&PAYLOAD),
                Shot::Ack | Shot::Progress | Shot::Datagram => {
                    bare.segment(flags::ACK, SEQUENCE + 1, ACKNOWLEDGED)
                }
            }
        }
    };
    match shot {
        Shot::Answer => packet.macs(service.mac(0), INNER_MAC),
        _ => packet.macs(ROUTER_MAC, OWN_MAC),
    }
}
