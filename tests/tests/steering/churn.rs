//! Ten thousand connections while everything changes at once: costs at 1 kHz, backends that join, leave and
//! drain, tables that flip, the sweep, and each flow's packets alternating between two CPUs.

use std::{
    net::Ipv4Addr,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use guidevane::dataplane::{
    Dataplane,
    clock::Clock,
    loader::{Kernel, Maps, Options},
    spec::{BackendSpec, NextHop, Standing, VipSpec},
    steering::Steering,
    sweep::{Policy, Sweep},
};
use lb_common::{
    address::{Address, Endpoint},
    layout::{Load, Mode, Total},
    pick::{self, COST_ONE, FLOW, Rule, Steer},
    slot::{AGE_MASK, GAUGES, Slot},
    table::Limits,
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// Connections in all, and how many are under way at once.
const CONNECTIONS: u32 = 10_000;
const AT_ONCE: u32 = 500;

const BACKENDS: u8 = 8;
const VIP: [u8; 4] = [10, 200, 1, 1];
const PORT: u16 = 8000;
const TCP: u8 = 6;

/// The interface that a test run's packets seem to come in on: loopback.
const LOOPBACK: u32 = 1;

/// Where things stand in the frames of this test.
const FLAGS: usize = 14 + 20 + 13;

fn vip() -> VipSpec {
    let backend = |number: u8| BackendSpec {
        name: format!("backend-{number}"),
        endpoint: Endpoint::new(Address::from_v4([10, 0, 0, number]), PORT, TCP),
        weight: 100,
        server_id: None,
    };
    VipSpec {
        name: "churn".into(),
        endpoint: Endpoint::new(Address::from_v4(VIP), PORT, TCP),
        mode: Mode::L2,
        gue: false,
        source_nat: false,
        quic: None,
        rule: Rule { policy: pick::Policy::Least as u8, awaiting_weight: 4, epsilon: 0 },
        client_affinity: false,
        skip_bytes: 100,
        answers: None,
        backends: (0..BACKENDS).map(backend).collect(),
    }
}

/// The MAC address of a backend tells its number.
fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 9, number]
}

fn standing(number: u8, active: bool) -> Standing {
    let hop = NextHop {
        mac: mac(number).into(),
        source_mac: [2, 0, 0, 0, 8, 1].into(),
        interface: LOOPBACK,
        mtu: 1500,
    };
    Standing { healthy: true, active, hop: Some(hop) }
}

/// What a client sends, in order: flags, payload, and how much of the answer it acknowledges.
const SCRIPT: [(u8, usize, u32); 9] = [
    (0x02, 0, 0),
    (0x10, 0, 0),
    (0x18, 100, 0),
    (0x10, 0, 60),
    (0x10, 0, 200),
    (0x10, 0, 400),
    (0x18, 100, 500),
    (0x10, 0, 900),
    (0x11, 0, 1000),
];

fn frame(flow: u32, step: usize) -> Vec<u8> {
    let (flags, payload, acknowledged) = SCRIPT[step];
    let sent: usize = SCRIPT[..step].iter().map(|(_, payload, _)| payload).sum();
    let sequence = if step == 0 { 1000 } else { 1001 + sent as u32 };
    let client = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 9, 0, 0)) + flow / 1000);
    let port = 20_000 + (flow % 1000) as u16;
    let mut frame = vec![2, 0, 0, 0, 8, 1, 2, 0, 0, 0, 7, 1, 8, 0];
    let length = (40 + payload) as u16;
    frame.extend([0x45, 0, (length >> 8) as u8, length as u8, 0, 0, 0, 0, 64, TCP, 0, 0]);
    frame.extend(client.octets());
    frame.extend(VIP);
    frame.extend(port.to_be_bytes());
    frame.extend(PORT.to_be_bytes());
    frame.extend(sequence.to_be_bytes());
    frame.extend((5000 + acknowledged).to_be_bytes());
    frame.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(frame.len() + payload, b'x');
    assert_eq!(frame[FLAGS], flags, "the frame is laid out as the test reads it");
    frame
}

/// Runs one packet of a flow and gives the number of the backend it went to.
fn send(kernel: &Kernel, flow: u32, step: usize) -> u8 {
    const XDP_TX: u32 = 3;
    let (result, out) = kernel.test_run(&frame(flow, step), 1).expect("run the program");
    assert_eq!(result.return_value, XDP_TX, "flow {flow}, packet {step}");
    assert_eq!(out[..5], mac(0)[..5], "flow {flow}, packet {step}: it goes to a backend");
    out[5]
}

/// One of two CPUs' share of the traffic: a flow's packets come to them in turn.
fn client(kernel: &Kernel, cpu: u32, step_done: &Barrier) -> Vec<Vec<u8>> {
    let mut set = CpuSet::new();
    set.set(cpu as usize).expect("a CPU number");
    sched_setaffinity(Pid::from_raw(0), &set).expect("stay on one CPU");
    let mut seen = vec![Vec::new(); CONNECTIONS as usize];
    for first in (0..CONNECTIONS).step_by(AT_ONCE as usize) {
        for step in 0..SCRIPT.len() {
            let mine = (first..first + AT_ONCE).filter(|flow| (flow + step as u32) % 2 == cpu);
            for flow in mine {
                seen[flow as usize].push(send(kernel, flow, step));
            }
            step_done.wait();
        }
    }
    seen
}

/// Writes a random cost, correction and limit for every backend, a thousand times a second.
fn rewrite_costs(maps: &Maps, stop: &AtomicBool) -> u64 {
    let mut random = StdRng::seed_from_u64(1);
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        for id in 0..usize::from(BACKENDS) {
            let cost = random.random_range(COST_ONE / 8..COST_ONE * 8);
            let steer = Steer { cost, correction: random.random_range(-20..20) * FLOW as i32 };
            maps.loads.word(id, std::mem::offset_of!(Load, steer)).store(steer.to_word(), Ordering::Relaxed);
        }
        rounds += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    rounds
}

/// Lets backends leave and join, drain and resume: each change builds and flips the table.
fn change_members(steering: &mut Steering, stop: &AtomicBool) -> u64 {
    let mut random = StdRng::seed_from_u64(2);
    let mut changes = 0;
    while !stop.load(Ordering::Relaxed) {
        let out = random.random_range(0..BACKENDS);
        let mut spec = vip();
        let gone = spec.backends.remove(usize::from(out));
        steering.apply(&[spec], changes).expect("a backend leaves");
        steering.apply(&[vip()], changes).expect("it joins again");
        let ids = steering.services()[0].backends.clone();
        assert_eq!(vip().backends[usize::from(out)].endpoint, gone.endpoint, "the same backend joins");
        steering.stand([(ids[usize::from(out)], standing(out, false))]).expect("it drains");
        steering.stand([(ids[usize::from(out)], standing(out, true))]).expect("it resumes");
        changes += 1;
    }
    changes
}

fn sweep(maps: &std::sync::Arc<Maps>, clock: &Clock, stop: &AtomicBool) -> (u64, u64) {
    let ticks = |ticks| Limits::ticks(ticks);
    let limits = Limits {
        idle_after: ticks(2),
        idle_timeout: ticks(7000),
        half_open: ticks(64),
        closing: ticks(60),
        linger: ticks(10),
    };
    let mut sweep =
        Sweep::new(std::sync::Arc::clone(maps), Policy { tcp: limits, udp: limits, ports: limits });
    let shift = maps.meta.read(0).age_shift;
    let (mut passes, mut corrected) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        if let Some(pass) = sweep.slice(512, (clock.jiffies() >> shift) as u32 & AGE_MASK) {
            passes = pass.number;
            corrected += pass.corrected;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    (passes, corrected)
}

/// The gauges that the table itself calls for, by backend.
fn recount(maps: &Maps) -> Vec<[u32; GAUGES]> {
    let mut counts = vec![[0; GAUGES]; usize::from(BACKENDS)];
    for set in 0..maps.flows.len() {
        for word in maps.flows.read(set) {
            let slot = Slot(word);
            let counted = &mut counts[usize::from(slot.backend())];
            counted.iter_mut().zip(slot.counts()).for_each(|(sum, one)| *sum += one);
        }
    }
    counts
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn no_connection_changes_its_backend_whatever_else_changes() {
    let mut dataplane = Dataplane::open(&Options { pin: None, flow_slots: 1 << 16, nat_sources: Vec::new() })
        .expect("load the kernel object");
    dataplane.steering.apply(&[vip()], 0).expect("apply the VIP");
    let ids = dataplane.steering.services()[0].backends.clone();
    assert_eq!(ids, (0..u16::from(BACKENDS)).collect::<Vec<_>>(), "ids are given in order");
    dataplane
        .steering
        .stand((0..BACKENDS).map(|number| (u16::from(number), standing(number, true))))
        .expect("all backends are up");
    let (maps, clock) = (dataplane.maps(), dataplane.clock());
    let (steering, kernel) = dataplane.split();
    let (stop, step_done) = (AtomicBool::new(false), Barrier::new(2));

    let (seen, costs, changes, (passes, corrected)) = std::thread::scope(|scope| {
        let costs = scope.spawn(|| rewrite_costs(&maps, &stop));
        let changes = scope.spawn(|| change_members(steering, &stop));
        let sweeps = scope.spawn(|| sweep(&maps, &clock, &stop));
        let clients = [0, 1].map(|cpu| {
            let step_done = &step_done;
            scope.spawn(move || client(kernel, cpu, step_done))
        });
        let seen = clients.map(|client| client.join().expect("a CPU's share of the traffic"));
        stop.store(true, Ordering::Relaxed);
        let join = "a thread of the test";
        (seen, costs.join().expect(join), changes.join().expect(join), sweeps.join().expect(join))
    });

    let [even, odd] = seen;
    let mut used = [0u32; BACKENDS as usize];
    for (flow, (even, odd)) in even.iter().zip(&odd).enumerate() {
        let all: Vec<u8> = even.iter().chain(odd).copied().collect();
        assert_eq!(all.len(), SCRIPT.len(), "flow {flow}: every packet went somewhere");
        assert!(all.iter().all(|&backend| backend == all[0]), "flow {flow} went to {all:?}");
        used[usize::from(all[0])] += 1;
    }
    println!(
        "{CONNECTIONS} connections over {used:?}; {costs} rounds of costs, {changes} rounds of membership, \
         {passes} passes of the sweep"
    );
    assert!(used.iter().all(|&flows| flows > 0), "every backend got flows: {used:?}");
    assert!(costs > 0 && changes > 1 && passes > 1, "everything changed meanwhile");
    assert_eq!(corrected, 0, "no gauge was off");

    let counts = recount(&maps);
    let mut totals = [0; GAUGES];
    for (id, counted) in counts.iter().enumerate() {
        assert_eq!(maps.loads.read(id).gauges, *counted, "gauges of backend {id}");
        for (total, count) in totals.iter_mut().zip(counted) {
            *total += count;
        }
    }
    let Total { gauges, .. } = maps.totals.read(0);
    assert_eq!(gauges, totals, "gauges of the VIP");
    let opened: u64 = (0..usize::from(BACKENDS)).map(|id| maps.loads.read(id).opened).sum();
    assert_eq!(opened, u64::from(CONNECTIONS), "each connection was opened once");
}
