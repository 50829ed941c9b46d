//! Floods of forged packets, as live frames on one CPU, beside streams and new connections on another, under the
//! daemon's own sweep and governor.

use std::{
    mem::offset_of,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use guidevane::{
    config::{Daemon, GovernorMode, PolicyKind},
    daemon::{
        governing::{Governing, Subject, Ward},
        sweeping::Sweeping,
    },
    dataplane::{loader::Maps, sweep::Sweep},
    governor, recording,
};
use lb_common::{layout::Total, reason::Reason};
use nix::net::if_::if_nametoindex;
use serde::Serialize;

use super::{
    bed::{self, BACKENDS, Bed},
    clients::{Connections, Streams},
    frames::Flood,
    gauges::recount,
};
use crate::bed::{Namespace, xdp};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Slots of the table, a power of two.
    pub slots: u32,
    /// Established streams.
    pub streams: u32,
    /// Packets of each flood.
    pub packets: u64,
    /// Connections that are opened without any flood, and at least during each.
    pub connections: u32,
    /// Time from one of these to the next, at least.
    pub pause: Duration,
    /// What all randomness comes from.
    pub seed: u64,
}

/// What came of a flood, or of none.
#[derive(Clone, Debug, Serialize)]
pub struct Flooded {
    /// What it was made of.
    pub flood: &'static str,
    /// Its packets.
    pub packets: u64,
    /// How long it took.
    pub seconds: f64,
    /// What became of its packets, on its CPU, by reason and VIP's protocol.
    pub reasons: Vec<(String, u64)>,
    /// Frames that reached the far end of the wire.
    pub delivered: u64,
    /// Established streams, their packets that were looked at, and those that went elsewhere.
    pub streams: u32,
    /// See `streams`.
    pub checked: u64,
    /// See `streams`.
    pub strayed: u64,
    /// Packets of streams and connections that were counted as anything but established or a new flow.
    pub misjudged: u64,
    /// Connections that were opened meanwhile, and those that broke.
    pub connections: u32,
    /// See `connections`.
    pub broken: u64,
    /// Each backend's part of these connections.
    pub shares: [f64; BACKENDS],
    /// The largest relative difference of a share from the run without a flood.
    pub shift: f64,
    /// The lowest cap on half-open flows that the governor set for the TCP VIP.
    pub opening_cap: u32,
    /// Flows that were evicted, in whatever state but closed.
    pub evicted: u64,
    /// Gauges that differ from a count of the table afterwards, when nothing runs any more.
    pub wrong: Vec<String>,
    /// Gauges that the daemon's sweep corrected.
    pub corrected: u64,
}

/// Runs connections without a flood, then with each, on the same streams and connections of the same clients.
///
/// # Errors
/// Not root, fewer than two CPUs, no traffic program in the object, or the kernel refuses.
pub fn run(plan: &Plan, floods: &[Flood], mut each: impl FnMut(&Flooded) + Send) -> Result<Vec<Flooded>> {
    let cpus = bed::cpus()?;
    ensure!(cpus.len() > 1, "a flood and those that it must not hurt need a CPU each");
    let wire = Wire::new()?;
    wire.namespace.run(|| {
        let mut bed = Bed::new(plan.slots, wire.near)?;
        let mut ground = Ground { plan, bed: &mut bed, wire: &wire, cpus: [cpus[0], cpus[1]] };
        let mut all = Vec::new();
        for flood in std::iter::once(None).chain(floods.iter().copied().map(Some)) {
            let mut flooded = ground.weather(flood)?;
            flooded.shift = all.first().map_or(0.0, |calm: &Flooded| shift(&calm.shares, &flooded.shares));
            each(&flooded);
            all.push(flooded);
        }
        Ok(all)
    })
}

fn shift(calm: &[f64; BACKENDS], now: &[f64; BACKENDS]) -> f64 {
    calm.iter().zip(now).map(|(calm, now)| (now / calm - 1.0).abs()).fold(0.0, f64::max)
}

/// A link whose far end drops what it gets.
struct Wire {
    namespace: Namespace,
    near: u32,
    _programs: [xdp::Attachment; 2],
}

impl Wire {
    fn new() -> Result<Self> {
        const XDP_DROP: i32 = 1;
        let namespace = Namespace::new("storm")?;
        let ip = |arguments: &str| -> Result<()> {
            let mut command: Command = namespace.command("ip");
            let status = command.args(arguments.split(' ')).status().context("ip")?;
            ensure!(status.success(), "`ip {arguments}` failed");
            Ok(())
        };
        ip("link add near type veth peer name far")?;
        ip("link set near up")?;
        ip("link set far up")?;
        let index =
            |name| namespace.run(move || if_nametoindex(name)).with_context(|| format!("link {name}"));
        let (near, far) = (index("near")?, index("far")?);
        // A link takes live frames in only while it has a program, whatever that does.
        let programs = [
            xdp::attach(&namespace, near, &xdp::Instruction::verdict(xdp::XDP_PASS))?,
            xdp::attach(&namespace, far, &xdp::Instruction::verdict(XDP_DROP))?,
        ];
        Ok(Self { namespace, near, _programs: programs })
    }

    /// Frames that have reached the far end. To be asked inside the namespace.
    fn delivered(&self) -> Result<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev").context("net/dev")?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix("far:")).context("no link `far`")?;
        let packets = line.split_whitespace().nth(1).context("no count of packets")?;
        packets.parse().context("count of packets")
    }
}

struct Ground<'a> {
    plan: &'a Plan,
    bed: &'a mut Bed,
    wire: &'a Wire,
    /// Of the flood, and of streams and connections.
    cpus: [usize; 2],
}

/// What streams and connections came to.
struct Outcome {
    streams: Streams,
    connections: Connections,
    opening_cap: u32,
}

impl Ground<'_> {
    fn weather(&mut self, flood: Option<Flood>) -> Result<Flooded> {
        self.bed.empty();
        let (before, evicted, delivered) = (self.reasons()?, self.bed.evicted()?, self.wire.delivered()?);
        let sweeping = self.sweep()?;
        let mut passes = sweeping.passes();
        let governing = self.govern()?;
        let corrected = AtomicU64::new(0);
        let begun = Instant::now();
        let (outcome, seconds) = self.run(flood, || {
            if passes.has_changed().unwrap_or(false) {
                corrected.fetch_add(passes.borrow_and_update().corrected, Ordering::Relaxed);
            }
        })?;
        let seconds = if flood.is_some() { seconds } else { begun.elapsed().as_secs_f64() };
        drop((sweeping, governing));
        let after = self.reasons()?;
        let grown = |place: usize| {
            let pairs = before[place].iter().zip(&after[place]);
            pairs.map(|((name, before), (_, after))| (name.clone(), after - before))
        };
        let allowed = [Reason::NewFlow, Reason::Established].map(|reason| named(0, reason));
        let misjudged = grown(1).filter(|(name, _)| !allowed.contains(name)).map(|(_, count)| count).sum();
        let counted = recount(self.bed);
        Ok(Flooded {
            flood: flood.map_or("none", Flood::name),
            packets: if flood.is_some() { self.plan.packets } else { 0 },
            seconds,
            reasons: grown(0).filter(|&(_, count)| count > 0).collect(),
            delivered: self.wire.delivered()? - delivered,
            streams: self.plan.streams,
            checked: outcome.streams.checked,
            strayed: outcome.streams.strayed,
            misjudged,
            connections: outcome.connections.count(),
            broken: outcome.connections.broken,
            shares: outcome.connections.shares(),
            shift: 0.0,
            opening_cap: outcome.opening_cap,
            evicted: self.bed.evicted()? - evicted,
            wrong: counted.wrong,
            corrected: corrected.into_inner(),
        })
    }

    /// Streams and connections on this thread, the flood on another.
    fn run(&mut self, flood: Option<Flood>, mut meanwhile: impl FnMut()) -> Result<(Outcome, f64)> {
        let traffic = flood.map(|flood| flood.traffic(self.plan.seed));
        let [flood_cpu, cpu] = self.cpus;
        if let Some(traffic) = &traffic {
            self.bed.set(flood_cpu, traffic)?;
        }
        let (maps, vip) = (self.bed.dataplane.maps(), self.bed.dataplane.steering.services()[0].id);
        let (plan, near) = (self.plan, self.wire.near);
        let kernel = self.bed.kernel();
        bed::pin(cpu)?;
        let mut streams = Streams::establish(kernel, plan.streams)?;
        let mut connections = Connections::new(plan.connections as usize / 8);
        thread::scope(|scope| {
            let flood = traffic.map(|traffic| {
                scope.spawn(move || -> Result<f64> {
                    /// Frames from one system call to the next.
                    const BATCH: u64 = 1 << 16;
                    bed::pin(flood_cpu)?;
                    let (begun, mut left) = (Instant::now(), plan.packets);
                    while left > 0 {
                        let batch = left.min(BATCH);
                        bed::shoot_live(kernel, &traffic.frame, batch as u32, near)?;
                        left -= batch;
                    }
                    Ok(begun.elapsed().as_secs_f64())
                })
            });
            let mut opening_cap = u32::MAX;
            while connections.count() < plan.connections
                || flood.as_ref().is_some_and(|flood| !flood.is_finished())
            {
                let next = Instant::now() + plan.pause;
                connections.open(kernel)?;
                streams.go_on(kernel, 16)?;
                meanwhile();
                opening_cap = opening_cap.min(cap(&maps, vip));
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            streams.check_all(kernel)?;
            let seconds = match flood {
                Some(flood) => flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
                None => 0.0,
            };
            Ok((Outcome { streams, connections, opening_cap }, seconds))
        })
    }

    /// What was counted on both CPUs, TCP before UDP.
    fn reasons(&mut self) -> Result<[Vec<(String, u64)>; 2]> {
        let vips: Vec<u16> =
            self.bed.dataplane.steering.services().iter().map(|service| service.id).collect();
        let ebpf = &self.bed.dataplane.kernel().ebpf;
        let of = |cpu| {
            let mut all = Vec::new();
            for (place, &vip) in vips.iter().enumerate() {
                let counts = bed::reasons_on(ebpf, vip, cpu)?;
                all.extend(counts.into_iter().map(|(reason, count)| (named(place, reason), count)));
            }
            anyhow::Ok(all)
        };
        Ok([of(self.cpus[0])?, of(self.cpus[1])?])
    }

    fn sweep(&self) -> Result<Sweeping> {
        let (maps, clock) = (self.bed.dataplane.maps(), self.bed.dataplane.clock());
        self.bed.dataplane.anchor_clock()?;
        let (policy, shift) = (bed::time_outs(&maps), maps.meta.read(0).age_shift);
        Sweeping::start(Sweep::new(maps, policy), policy, clock, shift).context("the sweep's thread")
    }

    fn govern(&self) -> Result<Governing> {
        let (maps, clock) = (self.bed.dataplane.maps(), self.bed.dataplane.clock());
        // Nothing is to be learned of servers that do not exist, but for how many connections are real.
        let options = governor::Options::default();
        let tick = Daemon::default().tick;
        let governing = Governing::start(maps, clock, tick, options).context("the governor's thread")?;
        let subject = |(place, &id): (usize, &u16)| Subject {
            id,
            weight: bed::weight(place),
            limit: None,
            usable: true,
            scrape: None,
            hardware: None,
        };
        let services = self.bed.dataplane.steering.services().iter();
        let ward = services.map(|service| Ward {
            mode: governor::Mode::Static,
            vip: service.id,
            duty: None,
            described: recording::Vip {
                name: service.spec.name.clone(),
                policy: PolicyKind::Least,
                awaiting_weight: 0,
                epsilon: 0.0,
                governor: GovernorMode::Static,
                backends: service.backends.iter().map(u16::to_string).collect(),
            },
            backends: service.backends.iter().enumerate().map(subject).collect(),
        });
        governing.set_plan(ward.collect());
        Ok(governing)
    }
}

/// A reason as it is told for the VIP of TCP or of UDP.
fn named(place: usize, reason: Reason) -> String {
    format!("{}-{}", ["tcp", "udp"][place], reason.name())
}

fn cap(maps: &Arc<Maps>, vip: u16) -> u32 {
    maps.totals.half(vip.into(), offset_of!(Total, opening_cap)).load(Ordering::Relaxed)
}
