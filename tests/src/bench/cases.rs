//! What is measured, and what must become of the packets: a case whose packets went another way than its name
//! says is wrong, whatever its figure.

use lb_common::{layout::Mode, reason::Reason};

use super::{
    layout::Seen,
    services::{Family, Protocol, Service},
    shots::Shot,
};

/// Verdicts as the kernel numbers them.
const DROP: u32 = 1;
const PASS: u32 = 2;
/// See [`DROP`]; sent on.
pub(super) const TRANSMIT: u32 = 3;

/// What goes before each measured run, unmeasured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing: these packets leave no trace.
    Nothing,
    /// A lap of the same packets: tables and caches are as these packets themselves leave them.
    Same,
    /// The tables are emptied, so that each flow is new.
    Empty,
    /// A request of each flow, so that each awaits its answer.
    Requests,
}

/// What a packet must be counted as besides its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request.
    Request,
    /// The first progress of an answer.
    Progress,
}

/// The packets of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packets {
    /// Of flows to or from a VIP.
    Flows {
        /// The VIP's place among the services.
        service: usize,
        /// How many flows, as a power of two.
        bits: u32,
        /// Laps that go before everything.
        warm: &'static [Shot],
        /// What goes before each run.
        before: Before,
        /// What is measured.
        shot: Shot,
    },
    /// One frame, again and again.
    Frame(Vec<u8>),
}

/// A case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its name: protocol and family, mode, what the packets are, how many flows.
    pub name: String,
    /// What the kernel's own benchmark (`bench_xdp_lb` of its selftests) calls it.
    pub kernel_name: Option<&'static str>,
    /// The packets.
    pub packets: Packets,
    /// What ours must count each as, and its verdict.
    pub ours: (Reason, u32),
    /// Likewise the reference.
    pub reference: (Seen, u32),
    /// What ours must see in each.
    pub event: Option<Event>,
}

impl Case {
    /// Whether a run may meet each flow once only.
    pub const fn is_one_lap(&self) -> bool {
        matches!(self.packets, Packets::Flows { before: Before::Empty | Before::Requests, .. })
    }
}

const OPENED: &[Shot] = &[Shot::Syn, Shot::Request, Shot::Progress];
const DATAGRAMS: &[Shot] = &[Shot::Datagram, Shot::Datagram];
const HIT: ((Reason, u32), (Seen, u32)) = ((Reason::Established, TRANSMIT), (Seen::Hit, TRANSMIT));

const ONE: u32 = 0;
const K1: u32 = 10;
const K4: u32 = 12;
const K64: u32 = 16;
const K512: u32 = 19;
const M1: u32 = 20;

/// Every case.
pub fn all(services: &[Service]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (place, service) in services.iter().enumerate() {
        let mut list = List { place, service, cases: &mut cases };
        match (service.name, service.protocol) {
            ("nat-return", _) => list.returns(),
            ("tunnel4in6" | "gue", _) => list.variant(),
            (_, Protocol::Tcp) => list.tcp(),
            (_, Protocol::Udp) => list.udp(),
        }
    }
    cases.extend(super::exits::all(services));
    cases
}

/// The cases of one VIP.
struct List<'a> {
    place: usize,
    service: &'a Service,
    cases: &'a mut Vec<Case>,
}

impl List<'_> {
    fn tcp(&mut self) {
        for bits in [ONE, K1, K4, K64, K512] {
            self.add("established", bits, OPENED, Before::Same, Shot::Ack, HIT);
        }
        for bits in [ONE, K64, K512] {
            self.add("streaming", bits, OPENED, Before::Same, Shot::Progress, HIT);
        }
        for bits in [ONE, K64, K512] {
            self.add("request", bits, OPENED, Before::Same, Shot::Request, HIT).event = Some(Event::Request);
        }
        for bits in [K64, K512] {
            self.add("firstack", bits, OPENED, Before::Requests, Shot::Progress, HIT).event =
                Some(Event::Progress);
        }
        self.fresh(Shot::Syn);
        let miss = match self.service.mode {
            Mode::Nat => ((Reason::UnknownNat, DROP), (Seen::Miss, TRANSMIT)),
            _ => ((Reason::Unknown, TRANSMIT), (Seen::Miss, TRANSMIT)),
        };
        for bits in [ONE, M1] {
            self.add("miss", bits, &[], Before::Nothing, Shot::Ack, miss);
        }
        self.add("rst-miss", ONE, &[], Before::Nothing, Shot::Reset, miss);
    }

    fn udp(&mut self) {
        for bits in [ONE, K4, K64, K512] {
            self.add("established", bits, DATAGRAMS, Before::Same, Shot::Datagram, HIT);
        }
        self.fresh(Shot::Datagram);
    }

    /// Other tunnels: what differs is the header.
    fn variant(&mut self) {
        for bits in [ONE, K64] {
            self.add("established", bits, OPENED, Before::Same, Shot::Ack, HIT);
        }
        self.fresh(Shot::Syn);
    }

    fn returns(&mut self) {
        let returned = ((Reason::Returned, TRANSMIT), (Seen::Returned, TRANSMIT));
        let warm = match self.service.protocol {
            Protocol::Tcp => OPENED,
            Protocol::Udp => DATAGRAMS,
        };
        for bits in [ONE, K1, K64, K512] {
            self.add("", bits, warm, Before::Same, Shot::Answer, returned);
        }
    }

    fn fresh(&mut self, shot: Shot) {
        let new = ((Reason::NewFlow, TRANSMIT), (Seen::New, TRANSMIT));
        self.add("new", M1, &[], Before::Empty, shot, new);
    }

    fn add(
        &mut self,
        kind: &str,
        bits: u32,
        warm: &'static [Shot],
        before: Before,
        shot: Shot,
        (ours, reference): ((Reason, u32), (Seen, u32)),
    ) -> &mut Case {
        let protocol = match self.service.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let family = match self.service.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        let count = match bits {
            0..10 => format!("{}", 1 << bits),
            10..20 => format!("{}k", 1 << (bits - 10)),
            _ => format!("{}m", 1 << (bits - 20)),
        };
        let parts = [&format!("{protocol}{family}"), self.service.name, kind, &count];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let name = parts.join("-");
        let kernel_name = kernel_name(&name);
        let packets = Packets::Flows { service: self.place, bits, warm, before, shot };
        self.cases.push(Case { name, kernel_name, packets, ours, reference, event: None });
        self.cases.last_mut().expect("one was just added")
    }
}

/// The scenario of the kernel's benchmark that is the same: it encapsulates, too.
fn kernel_name(name: &str) -> Option<&'static str> {
    let known = [
        ("tcp4-tunnel-established-1", "tcp-v4-lru-hit"),
        ("tcp6-tunnel-established-1", "tcp-v6-lru-hit"),
        ("udp4-tunnel-established-1", "udp-v4-lru-hit"),
        ("udp6-tunnel-established-1", "udp-v6-lru-hit"),
        ("tcp4-tunnel4in6-established-1", "tcp-v4v6-lru-hit"),
        ("tcp4-tunnel-established-4k", "tcp-v4-lru"),
        ("tcp6-tunnel-established-4k", "tcp-v6-lru"),
        ("udp4-tunnel-established-4k", "udp-v4-lru"),
        ("tcp4-tunnel-miss-1", "tcp-v4-ch"),
        ("tcp6-tunnel-miss-1", "tcp-v6-ch"),
        ("tcp4-tunnel-rst-miss-1", "tcp-v4-rst-miss"),
    ];
    known.into_iter().find(|(ours, _)| *ours == name).map(|(_, theirs)| theirs)
}

/// What is not for a VIP, or not whole.
pub(super) const LEFT: ((Reason, u32), (Seen, u32)) = ((Reason::NotOurs, PASS), (Seen::NotOurs, PASS));
/// See [`LEFT`].
pub(super) const REFUSED: ((Reason, u32), (Seen, u32)) =
    ((Reason::FragmentUnknown, DROP), (Seen::Dropped, DROP));
