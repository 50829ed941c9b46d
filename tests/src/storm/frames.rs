//! Templates of the traffic, and the packets of clients that behave.

use std::net::{Ipv4Addr, SocketAddr};

use super::layout::{Kind, Storm, TEMPLATE_WORDS};
use crate::packet::{Mac, Packet, flags};

/// What clients connect to, with TCP and UDP.
pub const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The port of both VIPs.
pub const PORT: u16 = 443;

const ROUTER_MAC: Mac = [2, 0, 0, 0, 0, 0xc];
const OWN_MAC: Mac = [2, 0, 0, 0, 0, 0xb];

/// Bytes of a frame that the traffic program may write.
const TEMPLATE: usize = TEMPLATE_WORDS * 8;

/// Longer than any frame of the traffic: what lies behind the IP packet is padding.
const FRAME: usize = 128;

/// The VIP's address and port.
pub fn vip() -> SocketAddr {
    SocketAddr::new(VIP.into(), PORT)
}

/// A client's segment as it arrives.
pub fn segment(client: SocketAddr, bits: u8, sequence: u32, acknowledged: u32, payload: &[u8]) -> Vec<u8> {
    arriving(Packet::tcp(client, vip()).segment(bits, sequence, acknowledged).payload(payload))
}

fn arriving(packet: Packet) -> Vec<u8> {
    packet.macs(ROUTER_MAC, OWN_MAC).build()
}

/// A frame, and the traffic that is made of it.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// The frame.
    pub frame: Vec<u8>,
    /// What the program is told.
    pub storm: Storm,
}

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// SYNs.
    Syn,
    /// Bare ACKs.
    Ack,
    /// Datagrams.
    Udp,
    /// First and later fragments of datagrams.
    Fragments,
}

impl Flood {
    /// All.
    pub const ALL: [Self; 4] = [Self::Syn, Self::Ack, Self::Udp, Self::Fragments];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::Ack => "ack",
            Self::Udp => "udp",
            Self::Fragments => "fragments",
        }
    }

    /// Its packets.
    pub fn traffic(self, seed: u64) -> Traffic {
        let anyone = SocketAddr::new(Ipv4Addr::new(32, 0, 0, 1).into(), 1);
        let (packet, kind) = match self {
            Self::Syn => (Packet::tcp(anyone, vip()).segment(flags::SYN, 0, 0), Kind::Segments),
            Self::Ack => (Packet::tcp(anyone, vip()), Kind::Segments),
            Self::Udp => (Packet::udp(anyone, vip()).payload(b"datagram"), Kind::Datagrams),
            // Eight bytes and a header: whole units of a fragment's offset.
            Self::Fragments => (Packet::udp(anyone, vip()).payload(b"fragment"), Kind::Fragments),
        };
        traffic(packet, kind, seed)
    }
}

/// Flows that come and go, `live` at once, of clients from `client` on.
pub fn churn(seed: u64, live: u32, client: Ipv4Addr) -> Traffic {
    let packet = Packet::tcp(SocketAddr::new(client.into(), 1), vip());
    let mut traffic = traffic(packet, Kind::Churn, seed);
    traffic.storm.live = live;
    traffic.storm.client = client.to_bits();
    traffic
}

fn traffic(packet: Packet, kind: Kind, seed: u64) -> Traffic {
    let mut frame = arriving(packet);
    frame.resize(FRAME, 0);
    let mut words = frame[..TEMPLATE].chunks_exact(8);
    let template = std::array::from_fn(|_| {
        let word = words.next().expect("the frame is longer than a template");
        u64::from_ne_bytes(word.try_into().expect("eight bytes"))
    });
    let storm = Storm { template, next: 0, seed, kind: kind as u32, live: 0, client: 0, reserved: 0 };
    Traffic { frame, storm }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::storm::layout::{End, SILENT, elder_of, end_of};

    #[test]
    fn every_flow_of_a_generation_ends_once_in_the_next() {
        for live in [1_u32, 7, 1000, 78_643] {
            let live_flows = u64::from(live);
            for generation in 1..4 {
                let opened = generation * live_flows..(generation + 1) * live_flows;
                let ended: BTreeSet<u64> = opened.filter_map(|flow| elder_of(live, flow)).collect();
                let expected: BTreeSet<u64> =
                    ((generation - 1) * live_flows..generation * live_flows).collect();
                assert_eq!(ended, expected, "{live} flows, generation {generation}");
            }
        }
        assert_eq!(elder_of(1000, 999), None, "the first generation has no elders");
    }

    #[test]
    fn flows_end_in_each_of_the_three_ways() {
        const FLOWS: u64 = 100_000;
        let count = |end| (0..FLOWS).filter(|&flow| end_of(1, flow) == end).count() as u64;
        let silent = count(End::Silence);
        assert!((FLOWS / SILENT / 2..FLOWS / SILENT * 2).contains(&silent), "{silent} fall silent");
        for end in [End::Finish, End::Reset] {
            assert!(count(end) > FLOWS / 3, "{} end by {end:?}", count(end));
        }
    }
}
