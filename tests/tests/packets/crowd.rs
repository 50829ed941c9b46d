//! Many flows at once: what the table holds, what it gives up, and what the gauges say of it.

use std::net::SocketAddr;

use guidevane_tests::packet::{Packet, flags};
use lb_common::{layout::Mode, slot::State};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::plane::{Plane, SLOTS, TCP, arriving, at, service};

const VIP: &str = "10.200.1.1:80";
const BACKENDS: [&str; 4] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"];

fn plane() -> Plane {
    Plane::new(&[service(VIP, TCP, Mode::L2, &BACKENDS)])
}

fn segment(client: SocketAddr, bits: u8, sequence: u32, acknowledged: u32, payload: &[u8]) -> Packet {
    arriving(Packet::tcp(client, at(VIP))).segment(bits, sequence, acknowledged).payload(payload)
}

/// Client number `n` of those that behave.
fn client(n: u32) -> SocketAddr {
    let [_, a, b, c] = n.to_be_bytes();
    SocketAddr::new([10, 99, b, c].into(), 20_000 + u16::from(a))
}

fn establish(plane: &mut Plane, client: SocketAddr) -> u16 {
    plane.forward(&segment(client, flags::SYN, 1000, 0, b""));
    plane.forward(&segment(client, flags::ACK, 1001, 501, b"request"))
}

/// Flows that were ever opened.
fn opened(plane: &Plane) -> u64 {
    plane.backends().into_iter().map(|id| plane.load(id).opened).sum()
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn at_rated_capacity_every_flow_is_kept_and_every_gauge_exact() {
    let mut plane = plane();
    let count = SLOTS * 6 / 10;
    let backends: Vec<u16> = (0..count).map(|n| establish(&mut plane, client(n))).collect();
    plane.check_gauges("at 60 %");
    assert_eq!(opened(&plane), u64::from(count));
    let kept = plane.slots().len() as u64;
    assert_eq!(kept + plane.evicted(), u64::from(count), "what is not in the table was evicted, and counted");
    // Simulated: eight evictions in a million opens.
    assert!(plane.evicted() <= 2, "{} of {count} flows were evicted", plane.evicted());
    for (n, &backend) in (0..).zip(&backends) {
        let id = plane.forward(&segment(client(n), flags::ACK, 1008, 2000, b""));
        if plane.state(client(n), plane.vip_id(0)) != State::Empty {
            assert_eq!(id, backend, "client {n}");
        }
    }
    plane.check_gauges("with all of them streaming");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn beyond_capacity_what_is_given_up_is_counted_and_the_gauges_stay_exact() {
    let mut plane = plane();
    let mut random = StdRng::seed_from_u64(7);
    for n in 0..SLOTS * 3 / 2 {
        match random.random_range(0..4) {
            0 => {
                plane.forward(&segment(client(n), flags::SYN, 1000, 0, b""));
            }
            1 => {
                establish(&mut plane, client(n));
                plane.forward(&segment(client(n), flags::ACK, 1008, 2000, b""));
            }
            2 => {
                establish(&mut plane, client(n));
                plane.forward(&segment(client(n), flags::ACK, 1008, 2000, b""));
                plane.forward(&segment(client(n), flags::FIN | flags::ACK, 1008, 2000, b""));
            }
            _ => {
                establish(&mut plane, client(n));
            }
        }
        if n % 512 == 0 {
            plane.check_gauges(&format!("after {n} flows"));
        }
    }
    plane.check_gauges("at 150 %");
    assert_eq!(opened(&plane), u64::from(SLOTS * 3 / 2));
    assert!(plane.evicted() > 0);
    assert_eq!(
        plane.slots().len() as u64 + plane.evicted(),
        opened(&plane),
        "what is not in the table was evicted, and counted"
    );
    assert!(
        plane.slots().len() as u32 > SLOTS * 95 / 100,
        "{} of {SLOTS} slots are used",
        plane.slots().len()
    );
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_flood_of_syns_pushes_out_no_established_flow() {
    const FLOOD: u32 = 10_000;
    let mut plane = plane();
    let (count, vip) = (SLOTS / 2, plane.vip_id(0));
    let states = [State::Awaiting, State::Streaming];
    let flows: Vec<(u16, State)> = (0..count)
        .map(|n| {
            let id = establish(&mut plane, client(n));
            let state = states[n as usize % 2];
            if state == State::Streaming {
                plane.forward(&segment(client(n), flags::ACK, 1008, 2000, b""));
            }
            (id, state)
        })
        .collect();
    assert_eq!(plane.evicted(), 0, "half of the table is free");
    let mut random = StdRng::seed_from_u64(8);
    for _ in 0..FLOOD {
        let forged = SocketAddr::new(random.random::<[u8; 4]>().into(), random.random_range(1..=u16::MAX));
        let sequence = random.random();
        plane.forward(&segment(forged, flags::SYN, sequence, 0, b""));
    }
    for (n, &(id, state)) in (0..).zip(&flows) {
        let (slot, line) = plane.flow(client(n), vip).unwrap_or_else(|| panic!("client {n} was pushed out"));
        assert_eq!((slot.backend(), slot.state()), (id, state), "client {n}");
        assert_eq!(line.client, client(n).ip().into(), "the cold line of client {n}");
    }
    assert!(plane.evicted() > u64::from(FLOOD / 2), "the flood pushes itself out: {}", plane.evicted());
    plane.check_gauges("after the flood");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn cores_that_change_the_same_flows_at_once_leave_every_gauge_exact() {
    use flags::{ACK, FIN, RST, SYN};
    const THREADS: u64 = 4;
    const PACKETS: u32 = 20_000;
    let mut plane = plane();
    // Few flows, that cores meet, and more than the table holds, that they evict each other's.
    for (round, clients) in [4, SLOTS * 2].into_iter().enumerate() {
        let kernel = &*plane.dataplane.kernel();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(thread);
                    for n in 0..PACKETS {
                        let client = client(random.random_range(0..clients));
                        let bits = [SYN, SYN, ACK, ACK, ACK, ACK | FIN, RST][random.random_range(0..7)];
                        let payload: &[u8] = if bits == ACK && random.random() { b"request" } else { b"" };
                        let packet = segment(client, bits, 1000 + n * 10, 500 + n * 10, payload);
                        kernel.test_run(&packet.build(), 1).expect("a test run");
                    }
                });
            }
        });
        plane.catch_up();
        plane.check_gauges(&format!("round {round}"));
    }
}
