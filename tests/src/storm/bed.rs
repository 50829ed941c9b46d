//! The data plane, its VIPs and the traffic program.

use std::io;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, TestRun as _, TestRunAttrs, TestRunOptions,
    maps::{Array, MapData, PerCpuArray},
    programs::Xdp,
};
use guidevane::{
    config::Daemon,
    daemon::{age_tick, timeouts},
    dataplane::{
        Dataplane,
        clock::Clock,
        loader::{Kernel, Maps, Options},
        spec::{BackendSpec, NextHop, Standing, VipSpec},
        sweep,
    },
};
use lb_common::{
    address::{Address, Endpoint},
    layout::{Load, Mode, Total, reason_element},
    pick::{Policy, Rule},
    reason::Reason,
    slot::{AGE_MASK, GAUGES},
    table::WAYS,
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::{
    frames::{PORT, Traffic, VIP},
    layout::Storm,
};
use crate::packet::Mac;

/// The traffic program.
const PROGRAM: &str = "bench_storm";

/// Static weights of the backends: shares differ, so that equal ones cannot come about by chance.
const WEIGHTS: [u32; 8] = [50, 100, 150, 200, 50, 100, 150, 200];

/// Backends of each VIP.
pub const BACKENDS: usize = WEIGHTS.len();

const TCP: u8 = 6;
const UDP: u8 = 17;
const BACKEND_PORT: u16 = 8000;
const INNER_MAC: Mac = [2, 0, 0, 0, 0, 0xa];
const MTU: u16 = 1500;

/// The interface that test runs come in on unless told: loopback, in every network namespace.
pub const LOOPBACK: u32 = 1;

/// Live frames under way at once: the kernel's own default.
const BATCH: u32 = 64;

// SAFETY: `repr(C)` integers without padding; every bit pattern is valid.
unsafe impl aya::Pod for Storm {}

/// The data plane with one TCP and one UDP VIP, and traffic for it.
pub struct Bed {
    /// The data plane.
    pub dataplane: Dataplane,
    storms: Array<MapData, Storm>,
}

impl Bed {
    /// Loads the object that the environment names with a flow table of `slots`; backends are reached over
    /// `interface`.
    ///
    /// # Errors
    /// Not root, the object has no traffic program, or the kernel refuses.
    pub fn new(slots: u32, interface: u32) -> Result<Self> {
        let mut dataplane =
            Dataplane::open(&Options { pin: None, flow_slots: slots, nat_sources: Vec::new() })?;
        dataplane
            .kernel()
            .load_other(PROGRAM)
            .context("`cargo xtask bench object` builds one that has it")?;
        dataplane.steering.apply(&[spec(TCP), spec(UDP)], 1)?;
        let services = dataplane.steering.services().to_vec();
        for service in &services {
            let standings = service.backends.iter().enumerate();
            dataplane.steering.stand(standings.map(|(place, &id)| (id, standing(place, interface))))?;
        }
        let map = dataplane.kernel().ebpf.take_map("BENCH_STORM").context("BENCH_STORM")?;
        Ok(Self { storms: Array::try_from(map).context("BENCH_STORM")?, dataplane })
    }

    /// The traffic of a CPU from now on.
    ///
    /// # Errors
    /// There is no such CPU.
    pub fn set(&mut self, cpu: usize, traffic: &Traffic) -> Result<()> {
        self.storms.set(cpu as u32, traffic.storm, 0).with_context(|| format!("BENCH_STORM of CPU {cpu}"))
    }

    /// What test runs take.
    pub fn kernel(&mut self) -> &Kernel {
        self.dataplane.kernel()
    }

    /// Empties the flow table and the gauges that count it; nothing else may work on them.
    pub fn empty(&self) {
        let maps = self.dataplane.maps();
        for set in 0..maps.flows.len() {
            maps.flows.write(set, &[0; WAYS]);
        }
        for id in self.backends() {
            let load = maps.loads.read(id.into());
            maps.loads.write(id.into(), &Load { gauges: [0; GAUGES], ..load });
        }
        for id in self.dataplane.steering.vip_ids() {
            let total = maps.totals.read(id.into());
            maps.totals.write(id.into(), &Total { gauges: [0; GAUGES], ..total });
        }
    }

    /// Ids of all backends.
    pub fn backends(&self) -> Vec<u16> {
        self.dataplane.steering.services().iter().flat_map(|service| service.backends.clone()).collect()
    }

    /// Flows that were ever opened.
    pub fn opened(&self) -> u64 {
        let maps = self.dataplane.maps();
        self.backends().into_iter().map(|id| maps.loads.read(id.into()).opened).sum()
    }

    /// Flows that were ever evicted, in whatever state but closed.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn evicted(&self) -> Result<u64> {
        let mut evicted = 0;
        for id in self.backends() {
            evicted += self.dataplane.traffic(id)?.evicted;
        }
        Ok(evicted)
    }
}

/// The age clock's time.
pub fn age(maps: &Maps, clock: &Clock) -> u32 {
    (clock.jiffies() >> maps.meta.read(0).age_shift) as u32 & AGE_MASK
}

/// The daemon's time-outs as they are unless configured.
pub fn time_outs(maps: &Maps) -> sweep::Policy {
    timeouts(&Daemon::default(), age_tick(&maps.meta.read(0)))
}

fn spec(protocol: u8) -> VipSpec {
    let backend = |(place, &weight): (usize, &u32)| BackendSpec {
        name: format!("{protocol}-{place}"),
        endpoint: Endpoint::new(Address::from_v4([10, 100, 0, place as u8 + 1]), BACKEND_PORT, protocol),
        weight,
        server_id: None,
    };
    VipSpec {
        name: format!("storm-{protocol}"),
        endpoint: Endpoint::new(Address::from_v4(VIP.octets()), PORT, protocol),
        mode: Mode::L2,
        gue: false,
        source_nat: false,
        quic: None,
        rule: Rule { policy: Policy::Least as u8, awaiting_weight: 4, epsilon: 256 },
        client_affinity: false,
        skip_bytes: 0,
        answers: None,
        backends: WEIGHTS.iter().enumerate().map(backend).collect(),
    }
}

/// The static weight of a backend by its place.
pub const fn weight(place: usize) -> u32 {
    WEIGHTS[place]
}

/// The MAC address of a backend tells its place.
const fn mac(place: usize) -> Mac {
    [2, 1, 0, 0, 0, place as u8]
}

fn standing(place: usize, interface: u32) -> Standing {
    let hop = NextHop { mac: mac(place).into(), source_mac: INNER_MAC.into(), interface, mtu: MTU };
    Standing { healthy: true, active: true, hop: Some(hop) }
}

/// Steers a frame with the real program and gives the place of the backend that it goes to.
///
/// # Errors
/// The kernel refuses, or the frame goes nowhere.
pub fn forward(kernel: &Kernel, frame: &[u8]) -> Result<usize> {
    let (result, sent) = kernel.test_run(frame, 1)?;
    const TRANSMIT: u32 = 3;
    const REDIRECT: u32 = 4;
    ensure!(matches!(result.return_value, TRANSMIT | REDIRECT), "the verdict is {}", result.return_value);
    let place = usize::from(sent[5]);
    ensure!(place < BACKENDS && sent[..6] == mac(place), "a frame goes to {:x?}", &sent[..6]);
    Ok(place)
}

/// Makes the next `repeat` packets of this CPU's traffic, all of one frame.
///
/// # Errors
/// The kernel refuses.
pub fn shoot(kernel: &Kernel, frame: &[u8], repeat: u32) -> Result<()> {
    let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
    traffic(kernel)?.test_run(options).context(PROGRAM)?;
    Ok(())
}

/// Likewise with live frames that come in on `interface` and are really sent on.
///
/// # Errors
/// The kernel refuses: the interface has no program of its own, or the kernel is older than 5.18.
pub fn shoot_live(kernel: &Kernel, frame: &[u8], repeat: u32, interface: u32) -> Result<()> {
    // `struct xdp_md`: where data begins and ends, where metadata begins, interface and queue of arrival and
    // the interface of departure.
    let context = [0, frame.len() as u32, 0, interface, 0, 0].map(u32::to_ne_bytes).concat();
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        repeat,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::default()
    };
    traffic(kernel)?.test_run(options).context("live frames")?;
    Ok(())
}

fn traffic(kernel: &Kernel) -> Result<&Xdp> {
    Ok(kernel.ebpf.program(PROGRAM).context(PROGRAM)?.try_into()?)
}

/// How often each reason was counted for a VIP on one CPU.
///
/// # Errors
/// The map cannot be read.
pub fn reasons_on(ebpf: &Ebpf, vip: u16, cpu: usize) -> Result<Vec<(Reason, u64)>> {
    let map = PerCpuArray::<_, u64>::try_from(ebpf.map("REASONS_SEEN").context("REASONS_SEEN")?)?;
    let read = |&reason: &Reason| Ok((reason, map.get(&reason_element(vip, reason), 0)?[cpu]));
    Reason::ALL.iter().map(read).collect()
}

/// The CPUs that this process may run on.
///
/// # Errors
/// The system does not tell.
pub fn cpus() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("sched_getaffinity")?;
    Ok((0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect())
}

/// Keeps the calling thread on a CPU.
///
/// # Errors
/// There is no such CPU.
pub fn pin(cpu: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu).map_err(io::Error::from)?;
    sched_setaffinity(Pid::from_raw(0), &one).with_context(|| format!("run on CPU {cpu}"))
}
