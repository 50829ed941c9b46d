//! Which backend a new flow gets, through the real maps.

use std::{collections::BTreeMap, net::SocketAddr, sync::atomic::Ordering};

use guidevane::dataplane::spec::VipSpec;
use guidevane_tests::packet::{Packet, flags};
use lb_common::{
    flow::FlowKey,
    layout::{Control, Mode},
    maglev,
    pick::{COST_MAX, COST_ONE, Choice, FLOW, Nominal, Policy, Pool as _, Rule, Steer},
    reason::{Action, Reason},
    slot::{self, Gauge},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    mirror::{Mirror, mirror, ordinary_clients},
    plane::{Plane, TCP, arriving, at, gauge, service},
};

pub const VIP: &str = "10.200.1.1:80";
/// The clients' address where only ports differ.
const CLIENT: &str = "192.168.1.7";

/// A VIP of so many backends.
pub fn spec(policy: Policy, backends: usize) -> VipSpec {
    let backends: Vec<String> =
        (1..=backends).map(|n| format!("10.0.{}.{}:8000", n / 256, n % 256)).collect();
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    VipSpec {
        rule: Rule { policy: policy as u8, awaiting_weight: AWAITING_WEIGHT as u8, epsilon: 256 },
        ..service(VIP, TCP, Mode::L2, &backends)
    }
}

pub fn syn(client: SocketAddr) -> Packet {
    arriving(Packet::tcp(client, at(VIP))).segment(flags::SYN, 1000, 0)
}

/// What a flow that waits for its first progress counts more.
const AWAITING_WEIGHT: u32 = 4;

fn opening(plane: &Plane, id: u16) -> u32 {
    gauge(&plane.load(id).gauges, Gauge::Opening)
}

pub fn random_client(random: &mut StdRng) -> SocketAddr {
    SocketAddr::new(random.random::<u32>().to_be_bytes().into(), random.random_range(1024..=u16::MAX))
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn least_takes_the_smallest_load_times_cost() {
    let mut plane = Plane::new(&[spec(Policy::Least, 3)]);
    let [cheap, dear, dearest] = plane.backends()[..] else { panic!("three backends") };
    plane.set_cost(cheap, COST_ONE);
    plane.set_cost(dear, 2 * COST_ONE);
    plane.set_cost(dearest, 4 * COST_ONE);
    for client in ordinary_clients(&plane, 0, CLIENT).into_iter().take(70) {
        let load = |id| {
            let live = slot::flows(&plane.load(id).gauges);
            // The flow to come will wait for its first progress.
            u64::from(live + 1 + AWAITING_WEIGHT) * Steer::from_word(plane.load(id).steer).cost as u64
        };
        let smallest = [cheap, dear, dearest].map(load).into_iter().min().expect("three loads");
        let bound = smallest + smallest / 64;
        let loads: BTreeMap<u16, u64> = plane.backends().into_iter().map(|id| (id, load(id))).collect();
        let id = plane.forward(&syn(client));
        assert!(loads[&id] <= bound, "{client} went to {id}, loads are {loads:?}");
    }
    let counts = [cheap, dear, dearest].map(|id| opening(&plane, id));
    assert!(counts[0] > counts[1] && counts[1] > counts[2], "flows by cost 1, 2 and 4: {counts:?}");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn least_passes_over_a_backend_at_its_limit_until_all_are() {
    const LIMIT: u32 = 3;
    let mut plane = Plane::new(&[spec(Policy::Least, 2)]);
    let [cheap, dear] = plane.backends()[..] else { panic!("two backends") };
    plane.set_cost(dear, COST_MAX);
    for id in [cheap, dear] {
        plane.set_load(id, |load| load.limit = LIMIT);
    }
    let clients = ordinary_clients(&plane, 0, CLIENT);
    let went: Vec<u16> = clients[..8].iter().map(|&client| plane.forward(&syn(client))).collect();
    assert_eq!(went, [cheap, cheap, cheap, dear, dear, dear, cheap, cheap]);
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn least_sends_one_flow_in_128_to_its_first_candidate_whatever_its_load() {
    const FLOWS: u32 = 16_384;
    let mut plane = Plane::new(&[spec(Policy::Least, 4)]);
    let favourite = plane.backends()[0];
    for id in plane.backends() {
        plane.set_cost(id, if id == favourite { 1 } else { COST_MAX });
    }
    let mut random = StdRng::seed_from_u64(1);
    let strays = (0..FLOWS).filter(|_| plane.forward(&syn(random_client(&mut random))) != favourite).count();
    // Three in four first candidates are not the favourite; ten standard deviations to either side.
    let expected = f64::from(FLOWS) / 128.0 * 3.0 / 4.0;
    let (low, high) = (expected - 10.0 * expected.sqrt(), expected + 10.0 * expected.sqrt());
    assert!((low.max(1.0)..high).contains(&(strays as f64)), "{strays} strays, {expected} expected");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn round_robin_goes_around_the_members_whatever_they_cost() {
    let mut plane = Plane::new(&[spec(Policy::RoundRobin, 4)]);
    plane.set_cost(plane.backends()[1], COST_MAX);
    let members = mirror(&plane, 0).members();
    let mut random = StdRng::seed_from_u64(2);
    for turn in 0..100 {
        assert_eq!(plane.forward(&syn(random_client(&mut random))), members[turn % 4], "turn {turn}");
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn least_connections_counts_connections_and_no_cost() {
    let mut plane = Plane::new(&[spec(Policy::LeastConnections, 4)]);
    plane.set_cost(plane.backends()[0], 1);
    plane.set_cost(plane.backends()[1], COST_MAX);
    plane.set_load(plane.backends()[2], |load| load.limit = 1);
    let mut random = StdRng::seed_from_u64(3);
    for round in 1..=10 {
        for _ in 0..4 {
            plane.forward(&syn(random_client(&mut random)));
        }
        let counts: Vec<u32> = plane.backends().into_iter().map(|id| opening(&plane, id)).collect();
        assert_eq!(counts, [round; 4], "after {round} rounds");
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn hash_is_the_table() {
    let mut plane = Plane::new(&[spec(Policy::Hash, 7)]);
    let (vip, mirror) = (plane.vip_id(0), mirror(&plane, 0));
    let mut random = StdRng::seed_from_u64(4);
    for _ in 0..1000 {
        let client = random_client(&mut random);
        let slot = maglev::draw(plane.hash(client, vip), 0, mirror.size());
        assert_eq!(plane.forward(&syn(client)), mirror.table(slot), "{client}");
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn no_policy_gives_a_backend_of_weight_zero_a_flow() {
    let mut random = StdRng::seed_from_u64(9);
    for policy in [Policy::Least, Policy::Bounded, Policy::Hash, Policy::RoundRobin, Policy::LeastConnections]
    {
        let mut spec = spec(policy, 3);
        spec.backends[1].weight = 0;
        let mut plane = Plane::new(&[spec]);
        let idle = plane.backends()[1];
        for _ in 0..200 {
            assert_ne!(plane.forward(&syn(random_client(&mut random))), idle, "{policy:?}");
        }
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn hash_follows_weights_and_least_leaves_them_to_cost() {
    for (policy, parts) in [(Policy::Hash, 4), (Policy::Least, 2)] {
        let mut spec = spec(policy, 2);
        spec.backends[1].weight = 300;
        let plane = Plane::new(&[spec]);
        let (mirror, light) = (mirror(&plane, 0), plane.backends()[0]);
        let slots = (0..mirror.size()).filter(|&slot| mirror.table(slot) == light).count() as u32;
        assert!(slots.abs_diff(mirror.size() / parts) <= 1, "{policy:?}: {slots} of {}", mirror.size());
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn bounded_keeps_every_backend_under_its_bound() {
    const SHARE: u32 = 65_536;
    let mut plane = Plane::new(&[spec(Policy::Bounded, 4)]);
    for id in plane.backends() {
        plane.set_load(id, |load| {
            load.nominal = Nominal { static_cost: COST_ONE, share: SHARE / 4 }.to_word();
        });
    }
    let mut random = StdRng::seed_from_u64(5);
    for flow in 1..=500u32 {
        let id = plane.forward(&syn(random_client(&mut random)));
        // An epsilon of a quarter.
        let bound = (1.25 * f64::from(flow) / 4.0).ceil();
        assert!(
            f64::from(opening(&plane, id)) <= bound,
            "flow {flow} is number {} of {id}",
            opening(&plane, id)
        );
    }
    plane.check_gauges("after 500 flows");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn client_affinity_keeps_a_client_on_one_backend() {
    let mut plane = Plane::new(&[VipSpec { client_affinity: true, ..spec(Policy::Hash, 5) }]);
    let mirror = mirror(&plane, 0);
    let key = plane.maps().meta.read(0).key;
    let mut used = BTreeMap::new();
    for host in 1..=20u8 {
        let client = SocketAddr::new([192, 168, 1, host].into(), 0);
        let flow = FlowKey { client: client.ip().into(), client_port_be: 0, vip: plane.vip_id(0) };
        let expected = mirror.table(maglev::draw(flow.client_hash(key), 0, mirror.size()));
        for port in 1024..1124 {
            assert_eq!(plane.forward(&syn(SocketAddr::new(client.ip(), port))), expected, "{client}");
        }
        *used.entry(expected).or_insert(0) += 1;
    }
    assert!(used.len() > 1, "twenty clients went to {used:?}");
}

/// Makes the maps as unlike as they may come to be.
pub fn shuffle(plane: &Plane, random: &mut StdRng) {
    for id in plane.backends() {
        plane.set_load(id, |load| {
            let correction = random.random_range(-8 * FLOW as i32..8 * FLOW as i32);
            load.steer = Steer { cost: random.random_range(1..=COST_MAX), correction }.to_word();
            load.limit = [0, 0, 1, 4, 200][random.random_range(0..5)];
            let static_cost = random.random_range(1..=COST_MAX);
            load.nominal = Nominal { static_cost, share: random.random_range(1..=65_536) }.to_word();
        });
    }
}

/// What the kernel is about to pick, if the governor's last tick was just now, or long ago.
pub fn foretell(plane: &Plane, mirror: &Mirror, hash: u64, fresh: bool) -> Option<Choice> {
    const HEARTBEAT: usize = std::mem::offset_of!(Control, heartbeat);
    let now = plane.dataplane.clock().jiffies();
    let heartbeat = if fresh { now } else { now.wrapping_sub(2 * mirror.patience()) };
    plane.maps().control.word(0, HEARTBEAT).store(heartbeat, Ordering::SeqCst);
    mirror.pick(hash, hash, if fresh { 0 } else { 2 * mirror.patience() })
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn the_kernel_picks_what_the_same_code_picks_in_user_space() {
    use Policy::{Bounded, Hash, Least, LeastConnections, RoundRobin};
    const FLOWS: u32 = 2000;
    let mut random = StdRng::seed_from_u64(6);
    for backends in [3, 16, 40] {
        for policy in [Least, Bounded, Hash, RoundRobin, LeastConnections] {
            let mut plane = Plane::new(&[spec(policy, backends)]);
            let (vip, mirror) = (plane.vip_id(0), mirror(&plane, 0));
            for flow in 0..FLOWS / 10 {
                if flow % 10 == 0 {
                    shuffle(&plane, &mut random);
                }
                let (client, fresh) = (random_client(&mut random), random.random());
                let choice = foretell(&plane, &mirror, plane.hash(client, vip), fresh);
                let outcome = plane.send(&syn(client).build());
                let stalled = fresh && silence(&plane) > mirror.patience() / 2;
                if stalled {
                    // The machine stood still for a second: the heartbeat may have grown stale meanwhile.
                    continue;
                }
                let what = format!("{policy:?} among {backends}, flow {flow}: {choice:?} was foretold");
                let Some(choice) = choice else {
                    assert_eq!(outcome.reason, Reason::NoBackend, "{what}");
                    continue;
                };
                assert_eq!(outcome.reason.action(), Action::Forward, "{what}");
                assert_eq!(plane.backend_by_mac(&outcome.frame), choice.backend, "{what}");
                // A part of the flows goes on, so that all gauges count.
                if random.random() {
                    plane.forward(&syn(client).segment(flags::ACK, 1001, 501).payload(b"request"));
                }
                if random.random() {
                    plane.forward(&syn(client).segment(flags::ACK, 1008, 1501));
                }
            }
        }
    }
}

/// Jiffies since the governor's last tick.
pub fn silence(plane: &Plane) -> u64 {
    plane.dataplane.clock().jiffies().saturating_sub(plane.maps().control.read(0).heartbeat)
}
