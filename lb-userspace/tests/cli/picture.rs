//! A daemon's state with everything in it, and how `guidevane status` shows it.

use std::collections::BTreeMap;

use guidevane::api::{
    AdminState, Backend, Daemon, Events, Flows, Gpu, Health, HealthState, Interface, Kernel, NatSource,
    NextHop, Nvml, Reported, Signal, SignalSource, Snapshot, Vip,
};
use guidevane::config::{Encap, ForwardMode, GovernorMode, PolicyKind, Protocol, XdpMode};
use guidevane::dataplane::build::Build;

/// Two VIPs, with a backend for each thing that can be missing.
pub fn snapshot() -> Snapshot {
    let idle = Backend {
        name: "gpu-1".to_owned(),
        address: "10.0.0.22".parse().unwrap(),
        port: 8000,
        weight: 100,
        limit: None,
        health: Health { state: HealthState::Down, reason: Some("connection refused".to_owned()) },
        admin: AdminState::Draining,
        next_hop: None,
        unreachable: Some("neighbour 10.0.0.22 on eth0 does not answer".to_owned()),
        opening: 0,
        awaiting: 0,
        prompts_kib: 0,
        streaming: 0,
        idle: 0,
        cost: 1.0,
        correction: 0.0,
        share: None,
        requests: 0,
        unanswered: 3,
        packets: 0,
        bytes: 0,
        ttft_mean_seconds: None,
        ttft_p50_seconds: None,
        ttft_p99_seconds: None,
        reported: None,
        gpu: None,
        signals: vec![Signal::new(SignalSource::Kernel, Some(0.003))],
    };
    let busy = Backend {
        name: "gpu-0".to_owned(),
        address: "10.0.0.21".parse().unwrap(),
        limit: Some(32),
        health: Health { state: HealthState::Up, reason: None },
        admin: AdminState::Active,
        next_hop: Some(NextHop {
            mac: "52:54:00:00:00:21".to_owned(),
            interface: "eth0".to_owned(),
            mtu: 9000,
        }),
        unreachable: None,
        opening: 1,
        awaiting: 2,
        prompts_kib: 9,
        streaming: 30,
        idle: 4,
        cost: 1.256,
        correction: -2.5,
        share: Some(0.625),
        requests: 123_456,
        unanswered: 0,
        packets: 9_876_543,
        bytes: 1_234_567_890,
        ttft_mean_seconds: Some(0.1525),
        ttft_p50_seconds: Some(0.1374),
        ttft_p99_seconds: Some(1.25),
        reported: Some(Reported { running: 31.0, waiting: 2.0, kv_usage: Some(0.873), age_seconds: 0.0421 }),
        gpu: Some(Gpu {
            speed: Some(0.25),
            foreign: Some(0.6),
            utilization: Some(1.0),
            memory: None,
            fault: Some("xid 79".to_owned()),
            age_seconds: 0.75,
        }),
        signals: vec![
            Signal::new(SignalSource::Kernel, Some(0.003)),
            Signal {
                server: Some("vllm".to_owned()),
                failures: BTreeMap::from([("timeout".to_owned(), 9)]),
                consecutive_failures: 2,
                last_error: Some("no answer within 1s".to_owned()),
                ..Signal::new(SignalSource::Metrics, Some(0.0421))
            },
            Signal::new(SignalSource::Gpu, None),
        ],
        ..idle.clone()
    };
    let chat = Vip {
        name: "chat".to_owned(),
        address: "10.0.0.10".parse().unwrap(),
        port: 8000,
        protocol: Protocol::Tcp,
        mode: ForwardMode::L2,
        policy: PolicyKind::Least,
        governor: GovernorMode::On,
        packets: 9_876_543,
        bytes: 1_234_567_890,
        new_flows: 4321,
        backends: vec![busy, idle.clone()],
    };
    let code = Vip {
        name: "code".to_owned(),
        address: "2001:db8::10".parse().unwrap(),
        port: 80,
        mode: ForwardMode::Nat { source_nat: true },
        policy: PolicyKind::RoundRobin,
        packets: 0,
        bytes: 0,
        new_flows: 0,
        backends: vec![Backend {
            name: "cpu-0".to_owned(),
            address: "2001:db8:1::21".parse().unwrap(),
            port: 8080,
            weight: 1000,
            health: Health { state: HealthState::Unknown, reason: None },
            admin: AdminState::Active,
            unreachable: None,
            ..idle.clone()
        }],
        ..chat.clone()
    };
    let voice = Vip {
        name: "voice".to_owned(),
        port: 0,
        protocol: Protocol::Udp,
        mode: ForwardMode::Tunnel { encap: Encap::Gue },
        backends: vec![],
        ..code.clone()
    };
    Snapshot {
        daemon: Daemon {
            version: "0.1.0".to_owned(),
            uptime_seconds: 3725.8,
            tick_seconds: 0.005,
            kernel: Kernel {
                sha256: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef".to_owned(),
                build: Build::Modern,
                pinned: false,
                interfaces: vec![Interface { name: "eth0".to_owned(), mode: XdpMode::Native }],
            },
            flows: Flows { slots: 1_048_576, used: 1234, evictions: 5 },
            nat_sources: vec![NatSource { address: "fd00::200".parse().unwrap(), ports: 64_512, used: 17 }],
            events: Events { sample: 0, lost: 0 },
            nvml: Some(Nvml {
                driver: Some("580.95.05".to_owned()),
                problem: None,
                calls: 4321,
                spent_seconds: 0.0123,
                overruns: 1,
            }),
        },
        vips: vec![chat, code, voice],
        drops: BTreeMap::from([("no-backend".to_owned(), 17), ("bad-checksum".to_owned(), 0)]),
        passes: BTreeMap::from([("not-for-a-vip".to_owned(), 42)]),
    }
}

pub const TABLE: &str = "\
guidevane 0.1.0, up 1h 2m 5s; a tick every 5ms
kernel program 0123456789ab (modern) on eth0 (native), not pinned
flow table: 1234 of 1048576 slots used, 5 evictions

VIP    ADDRESS             PROTOCOL  MODE             POLICY       GOVERNOR  NEW_FLOWS  PACKETS       BYTES
chat   10.0.0.10:8000      tcp       l2               least        on             4321  9876543  1234567890
code   [2001:db8::10]:80   tcp       nat (one-armed)  round-robin  on                0        0           0
voice  [2001:db8::10]:any  udp       tunnel (gue)     round-robin  on                0        0           0

VIP   BACKEND  HEALTH   ADMIN     OPENING  AWAITING  STREAMING  IDLE  COST  SHARE_PCT  REQUESTS  TTFT_P50_MS  TTFT_P99_MS  REASON
chat  gpu-0    up       active          1         2         30     4  1.26       62.5    123456        137.4       1250.0  -
chat  gpu-1    down     draining        0         0          0     0  1.00          -         0            -            -  no next hop: neighbour 10.0.0.22 on eth0 does not answer; connection refused
code  cpu-0    unknown  active          0         0          0     0  1.00          -         0            -            -  -

GPU driver 580.95.05; 4321 calls in 12.3 ms, 1 cut short
GPUS_OF  BUSY_PCT  FOREIGN_PCT  SPEED_PCT  MEMORY_PCT  AGE_MS  FAULT
gpu-0       100.0         60.0       25.0           -   750.0  xid 79

NAT_SOURCE  PORTS_USED  PORTS
fd00::200           17  64512

DROP_REASON  PACKETS
no-backend        17
";

pub const WIDE: &str = "\
guidevane 0.1.0, up 1h 2m 5s; a tick every 5ms
kernel program 0123456789ab (modern) on eth0 (native), not pinned
flow table: 1234 of 1048576 slots used, 5 evictions

VIP    ADDRESS             PROTOCOL  MODE             POLICY       GOVERNOR  NEW_FLOWS  PACKETS       BYTES
chat   10.0.0.10:8000      tcp       l2               least        on             4321  9876543  1234567890
code   [2001:db8::10]:80   tcp       nat (one-armed)  round-robin  on                0        0           0
voice  [2001:db8::10]:any  udp       tunnel (gue)     round-robin  on                0        0           0

VIP   BACKEND  ADDRESS                HEALTH   ADMIN     WEIGHT  LIMIT  OPENING  AWAITING  STREAMING  IDLE  COST  CORRECTION  SHARE_PCT  REQUESTS  UNANSWERED  TTFT_P50_MS  TTFT_P99_MS  PACKETS       BYTES  RUNNING  WAITING  KV_PCT  REPORT_AGE_MS  SERVER  SIGNAL_AGES_MS               NEXT_HOP                 MTU  REASON
chat  gpu-0    10.0.0.21:8000         up       active       100     32        1         2         30     4  1.26        -2.5       62.5    123456           0        137.4       1250.0  9876543  1234567890       31        2    87.3           42.1  vllm    kernel:3,metrics:42!2,gpu:-  52:54:00:00:00:21%eth0  9000  -
chat  gpu-1    10.0.0.22:8000         down     draining     100      -        0         0          0     0  1.00        +0.0          -         0           3            -            -        0           0        -        -       -              -  -       kernel:3                     -                          -  no next hop: neighbour 10.0.0.22 on eth0 does not answer; connection refused
code  cpu-0    [2001:db8:1::21]:8080  unknown  active      1000      -        0         0          0     0  1.00        +0.0          -         0           3            -            -        0           0        -        -       -              -  -       kernel:3                     -                          -  -

GPU driver 580.95.05; 4321 calls in 12.3 ms, 1 cut short
GPUS_OF  BUSY_PCT  FOREIGN_PCT  SPEED_PCT  MEMORY_PCT  AGE_MS  FAULT
gpu-0       100.0         60.0       25.0           -   750.0  xid 79

NAT_SOURCE  PORTS_USED  PORTS
fd00::200           17  64512

DROP_REASON  PACKETS
no-backend        17

PASS_REASON    PACKETS
not-for-a-vip       42
";
