//! A data plane of one test: loaded, told what to steer, and asked what it made of a frame.

use std::{collections::BTreeMap, net::SocketAddr};

use guidevane::dataplane::{
    Dataplane, flows,
    loader::{Maps, Options},
    pool,
    spec::{BackendSpec, NextHop, Standing, VipSpec},
};
use guidevane_tests::packet::{Mac, Packet};
use lb_common::{
    address::Endpoint,
    flow::FlowKey,
    layout::{FlowInfo, Load, Mode, Vip},
    pick::{Policy, Rule, Steer},
    reason::{Action, Reason},
    slot::{GAUGES, Gauge, Slot, State},
};

pub const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 0xc];
pub const OWN_MAC: Mac = [2, 0, 0, 0, 0, 0xb];
/// On the interface that looks at the backends.
pub const INNER_MAC: Mac = [2, 0, 0, 0, 0, 0xa];

/// Test runs come in on the loopback interface, whose index this is in every network namespace.
pub const HERE: u32 = 1;
/// Any other interface.
pub const ELSEWHERE: u32 = 7;

/// Slots of the flow table.
pub const SLOTS: u32 = 4096;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// Verdicts as the kernel numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Pass,
    Transmit,
    Redirect,
}

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    pub reason: Reason,
    pub frame: Vec<u8>,
}

pub struct Plane {
    pub dataplane: Dataplane,
    seen: BTreeMap<Reason, u64>,
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

pub fn endpoint(at: SocketAddr, protocol: u8) -> Endpoint {
    Endpoint::new(at.ip().into(), at.port(), protocol)
}

/// The MAC address of the way to the backend at an address: any that differs between backends.
pub fn mac_of(backend: SocketAddr) -> Mac {
    let port = backend.port().to_be_bytes();
    match backend.ip() {
        std::net::IpAddr::V4(ip) => [2, 4, ip.octets()[2], ip.octets()[3], port[0], port[1]],
        std::net::IpAddr::V6(ip) => [2, 6, ip.octets()[13], ip.octets()[15], port[0], port[1]],
    }
}

/// A VIP with backends, under the plainest rule.
pub fn service(vip: &str, protocol: u8, mode: Mode, backends: &[&str]) -> VipSpec {
    let spec = |text: &&str| BackendSpec {
        name: (*text).to_owned(),
        endpoint: endpoint(at(text), protocol),
        weight: 100,
        server_id: None,
    };
    VipSpec {
        name: format!("{vip}/{protocol}"),
        endpoint: endpoint(at(vip), protocol),
        mode,
        gue: false,
        source_nat: false,
        quic: None,
        rule: Rule { policy: Policy::Least as u8, awaiting_weight: 4, epsilon: 256 },
        client_affinity: false,
        skip_bytes: 0,
        answers: None,
        backends: backends.iter().map(spec).collect(),
    }
}

/// Up, active, and reached over the interface on which frames come in.
pub fn up(backend: SocketAddr) -> Standing {
    up_over(backend, HERE)
}

pub fn up_over(backend: SocketAddr, interface: u32) -> Standing {
    let hop = NextHop { mac: mac_of(backend).into(), source_mac: INNER_MAC.into(), interface, mtu: 1500 };
    Standing { healthy: true, active: true, hop: Some(hop) }
}

impl Plane {
    /// A data plane that steers `specs`, with every backend up.
    pub fn new(specs: &[VipSpec]) -> Self {
        let mut plane = Self::open(&Options { pin: None, flow_slots: SLOTS, nat_sources: Vec::new() });
        plane.apply(specs);
        plane
    }

    /// A data plane that steers nothing yet.
    pub fn open(options: &Options) -> Self {
        let dataplane = Dataplane::open(options).unwrap_or_else(|error| panic!("load: {error}"));
        let seen = dataplane.reasons().expect("counters are readable");
        Self { dataplane, seen }
    }

    pub fn apply(&mut self, specs: &[VipSpec]) {
        self.dataplane.steering.apply(specs, 1).unwrap_or_else(|error| panic!("apply: {error}"));
        for id in self.backends() {
            let backend = self.address_of(id);
            self.stand(id, up(backend));
        }
        // VIPs that leave take their counts along.
        self.seen = self.dataplane.reasons().expect("counters are readable");
    }

    pub fn stand(&mut self, id: u16, standing: Standing) {
        self.dataplane.steering.stand([(id, standing)]).unwrap_or_else(|error| panic!("stand: {error}"));
    }

    /// The ids of all configured backends.
    pub fn backends(&self) -> Vec<u16> {
        self.dataplane.steering.services().iter().flat_map(|service| service.backends.clone()).collect()
    }

    /// Where a backend listens.
    pub fn address_of(&self, id: u16) -> SocketAddr {
        let known = self.dataplane.steering.backends.get(id).expect("a configured backend");
        SocketAddr::new(known.spec.endpoint.address.into(), known.spec.endpoint.port())
    }

    /// The id of a backend by what its frames are addressed to.
    pub fn backend_by_mac(&self, frame: &[u8]) -> u16 {
        self.backends()
            .into_iter()
            .find(|&id| mac_of(self.address_of(id)) == frame[..6])
            .unwrap_or_else(|| panic!("no backend has MAC address {:x?}", &frame[..6]))
    }

    /// The VIP's id at this place of the specification.
    pub fn vip_id(&self, position: usize) -> u16 {
        self.dataplane.steering.services()[position].id
    }

    pub fn maps(&self) -> std::sync::Arc<Maps> {
        self.dataplane.maps()
    }

    /// Runs the program on a frame; exactly one reason must be counted, and it must fit the verdict.
    pub fn send(&mut self, frame: &[u8]) -> Outcome {
        let (result, frame) =
            self.dataplane.kernel().test_run(frame, 1).unwrap_or_else(|error| panic!("test run: {error}"));
        let now = self.dataplane.reasons().expect("counters are readable");
        let counted: Vec<_> = now
            .iter()
            .map(|(&reason, &count)| (reason, count - self.seen.get(&reason).copied().unwrap_or(0)))
            .filter(|&(_, count)| count > 0)
            .collect();
        self.seen = now;
        let [(reason, 1)] = counted[..] else { panic!("one packet was counted as {counted:?}") };
        let verdict = match result.return_value {
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            3 => Verdict::Transmit,
            4 => Verdict::Redirect,
            other => panic!("verdict {other}"),
        };
        let fits = match reason.action() {
            Action::Forward => matches!(verdict, Verdict::Transmit | Verdict::Redirect),
            Action::Answer => verdict == Verdict::Transmit,
            Action::Pass => verdict == Verdict::Pass,
            Action::Drop => verdict == Verdict::Drop,
        };
        assert!(fits, "{verdict:?} was counted as {reason:?}");
        Outcome { verdict, reason, frame }
    }

    /// Takes note of packets that were not sent by [`Plane::send`].
    pub fn catch_up(&mut self) {
        self.seen = self.dataplane.reasons().expect("counters are readable");
    }

    /// Sends a packet and says what was counted.
    pub fn reason(&mut self, packet: &Packet) -> Reason {
        self.send(&packet.build()).reason
    }

    /// Sends a packet that must be forwarded and gives the backend it went to.
    pub fn forward(&mut self, packet: &Packet) -> u16 {
        let outcome = self.send(&packet.build());
        assert_eq!(outcome.reason.action(), Action::Forward, "{packet:?} came to {:?}", outcome.reason);
        self.backend_by_mac(&outcome.frame)
    }

    /// The hash of a client's flow to a VIP.
    pub fn hash(&self, client: SocketAddr, vip: u16) -> u64 {
        let key = FlowKey { client: client.ip().into(), client_port_be: client.port().to_be(), vip };
        key.hash(self.maps().meta.read(0).key)
    }

    /// The slot of a client's flow to a VIP, and its cold line, whosever that is.
    pub fn flow(&self, client: SocketAddr, vip: u16) -> Option<(Slot, FlowInfo)> {
        let maps = self.maps();
        let services = self.dataplane.steering.services();
        let service = services.iter().find(|service| service.id == vip).expect("a configured VIP");
        let found = flows::find(&maps, &self.row(&service.spec.endpoint), self.hash(client, vip))?;
        Some((found.slot, maps.flow_info.read(found.number)))
    }

    /// The state of a client's flow; `Empty` when there is none.
    pub fn state(&self, client: SocketAddr, vip: u16) -> State {
        self.flow(client, vip).map_or(State::Empty, |(slot, _)| slot.state())
    }

    /// Every slot in use.
    pub fn slots(&self) -> Vec<Slot> {
        let maps = self.maps();
        let words = (0..maps.flows.len()).flat_map(|set| maps.flows.read(set));
        words.map(Slot).filter(|slot| slot.state() != State::Empty).collect()
    }

    pub fn load(&self, backend: u16) -> Load {
        self.maps().loads.read(usize::from(backend))
    }

    pub fn set_load(&self, backend: u16, change: impl FnOnce(&mut Load)) {
        let maps = self.maps();
        let mut load = maps.loads.read(usize::from(backend));
        change(&mut load);
        maps.loads.write(usize::from(backend), &load);
    }

    pub fn set_cost(&self, backend: u16, cost: u32) {
        self.set_load(backend, |load| load.steer = Steer { cost, correction: 0 }.to_word());
    }

    /// Flows evicted, over all backends.
    pub fn evicted(&self) -> u64 {
        let traffic = |id| self.dataplane.traffic(id).expect("counters are readable").evicted;
        self.backends().into_iter().map(traffic).sum()
    }

    /// Fails unless every gauge, of backends and VIPs, says what the table holds.
    pub fn check_gauges(&self, when: &str) {
        let maps = self.maps();
        let mut counted: BTreeMap<u16, [u32; GAUGES]> = BTreeMap::new();
        for slot in self.slots() {
            if slot.state().gauge().is_some() {
                let gauges = counted.entry(slot.backend()).or_default();
                gauges.iter_mut().zip(slot.counts()).for_each(|(sum, one)| *sum += one);
            }
        }
        for service in self.dataplane.steering.services() {
            let mut total = [0; GAUGES];
            for &id in &service.backends {
                let expected = counted.remove(&id).unwrap_or_default();
                assert_eq!(self.load(id).gauges, expected, "{when}: gauges of backend {id}");
                total.iter_mut().zip(expected).for_each(|(sum, one)| *sum += one);
            }
            let vip = maps.totals.read(usize::from(service.id)).gauges;
            assert_eq!(vip, total, "{when}: gauges of VIP {}", service.spec.name);
        }
        assert!(counted.is_empty(), "{when}: flows of backends that nobody configured: {counted:?}");
    }

    /// The live row of the VIP at an endpoint.
    pub fn row(&self, endpoint: &Endpoint) -> Vip {
        pool::vip_at(&self.maps(), endpoint).unwrap_or_else(|| panic!("no VIP at {endpoint:?}"))
    }
}

/// One gauge of a line of them.
pub const fn gauge(gauges: &[u32; GAUGES], which: Gauge) -> u32 {
    gauges[which as usize]
}

/// A client's packet as it arrives: from its router, to the balancer.
pub fn arriving(packet: Packet) -> Packet {
    packet.macs(CLIENT_MAC, OWN_MAC)
}

/// The same packet as a backend should get it: addressed to its next hop, one hop further on.
pub fn delivered(packet: &Packet, backend: SocketAddr) -> Packet {
    let ttl = packet.ttl - 1;
    packet.clone().macs(INNER_MAC, mac_of(backend)).ttl(ttl)
}
