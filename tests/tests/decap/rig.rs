//! The loaded program, told what to accept, and asked what it made of a frame.

use std::net::{IpAddr, SocketAddr};

use guidevane::decap::{Counts, Frames, Kernel, Prefix};
use guidevane_tests::packet::{
    Packet, flags,
    tunnel::{Link, Outer, network},
};
use lb_common::decap::{Action, Reason};

pub const OWN_V4: &str = "10.1.0.2";
pub const OWN_V6: &str = "fd01::2";
/// Outer sources that are accepted, and the prefixes they are in.
pub const SOURCE_V4: &str = "10.9.1.7";
pub const SOURCE_V6: &str = "fd09::1:7";
const SOURCES: [&str; 2] = ["10.9.0.0/16", "fd09::/64"];

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub reason: Reason,
    /// As the stack gets it; none when it was dropped.
    pub frame: Option<Vec<u8>>,
}

pub struct Rig {
    kernel: Kernel,
    seen: Counts,
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

impl Rig {
    pub fn new(frames: Frames) -> Self {
        let sources = SOURCES.map(|text| text.parse().expect("a prefix"));
        Self::accepting(frames, &[ip(OWN_V4), ip(OWN_V6)], &sources)
    }

    pub fn accepting(frames: Frames, locals: &[IpAddr], sources: &[Prefix]) -> Self {
        let mut kernel = Kernel::load_for(frames).unwrap_or_else(|error| panic!("load: {error:#}"));
        kernel.set_locals(&locals.iter().copied().collect()).expect("set the outer destinations");
        kernel.accept(sources).expect("set the outer sources");
        Self { kernel, seen: Counts::default() }
    }

    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Sends a frame into the program; exactly one reason must be counted for it.
    pub fn send(&mut self, frame: &[u8]) -> Outcome {
        let (verdict, frame) = self.kernel.test_run(frame).unwrap_or_else(|error| panic!("{error:#}"));
        let counts = self.kernel.counts().expect("counters are readable");
        let before = |reason| self.seen.reasons.get(reason).copied().unwrap_or(0);
        let moved: Vec<Reason> = counts
            .reasons
            .iter()
            .flat_map(|(reason, &count)| std::iter::repeat_n(*reason, (count - before(reason)) as usize))
            .collect();
        let &[reason] = moved.as_slice() else { panic!("{moved:?} were counted for one frame") };
        self.seen = counts;
        let expected = if reason.action() == Action::Drop { XDP_DROP } else { XDP_PASS };
        assert_eq!(verdict, expected, "the verdict for {reason:?}");
        Outcome { reason, frame: (verdict == XDP_PASS).then_some(frame) }
    }

    /// What was counted after the last frame.
    pub fn counts(&self) -> &Counts {
        &self.seen
    }
}

/// The frame's addresses in every test.
pub fn link() -> Link {
    Link { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2], tags: Vec::new() }
}

/// Without tags, with one of each kind, and with two.
pub fn links() -> Vec<Link> {
    [vec![], vec![(0x8100, 0x6005)], vec![(0x88a8, 0x0064)], vec![(0x88a8, 0x2064), (0x8100, 0x8005)]]
        .into_iter()
        .map(|tags| Link { tags, ..link() })
        .collect()
}

pub const VIP_V4: &str = "198.51.100.10";
pub const VIP_V6: &str = "2001:db8:77::10";

/// Inner packets, by what they are.
pub fn inners() -> Vec<(&'static str, Vec<u8>)> {
    let (v4, v6) = (at("198.51.100.10:8000"), at("[2001:db8:77::10]:8000"));
    let (client_v4, client_v6) = (at("203.0.113.5:4242"), at("[2001:db8::5]:4242"));
    let segment = |packet: Packet| packet.segment(flags::PSH | flags::ACK, 7, 9).payload(b"a question");
    let packets = [
        ("TCP over IPv4", segment(Packet::tcp(client_v4, v4))),
        ("TCP over IPv4 with options", segment(Packet::tcp(client_v4, v4).ip_options(&[1; 8]))),
        ("UDP over IPv4", Packet::udp(client_v4, v4)),
        ("a fragment of UDP over IPv4", Packet::udp(client_v4, v4).fragment(0, true).payload(&[7; 16])),
        ("TCP over IPv6", segment(Packet::tcp(client_v6, v6))),
        ("UDP over IPv6", Packet::udp(client_v6, v6).payload(b"?")),
    ];
    packets.into_iter().map(|(what, packet)| (what, network(&packet.build()).to_vec())).collect()
}

/// Outer headers that are accepted, by what they are.
pub fn outers() -> Vec<(&'static str, Outer)> {
    let (v4, v6) = ((ip(SOURCE_V4), ip(OWN_V4)), (ip(SOURCE_V6), ip(OWN_V6)));
    vec![
        ("IPv4", Outer::ip(v4.0, v4.1)),
        ("IPv4 with options", Outer { options: vec![1; 12], ..Outer::ip(v4.0, v4.1) }),
        ("IPv6", Outer::ip(v6.0, v6.1)),
        ("GUE over IPv4", Outer::gue(v4.0, v4.1)),
        ("GUE over IPv4 with options", Outer { options: vec![1; 40], ..Outer::gue(v4.0, v4.1) }),
        ("GUE over IPv6", Outer::gue(v6.0, v6.1)),
    ]
}

/// Every inner packet in every outer one.
pub fn tunnelled() -> Vec<(String, Outer, Vec<u8>)> {
    let mut all = Vec::new();
    for (outer_name, outer) in outers() {
        for (inner_name, inner) in inners() {
            all.push((format!("{inner_name} in {outer_name}"), outer.clone(), inner));
        }
    }
    all
}

/// Both programs.
pub const FRAMES: [Frames; 2] = [Frames::MultiBuffer, Frames::OnePiece];
