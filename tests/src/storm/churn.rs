//! Flows that open, live and end on all CPUs at once, in a table that holds as many as it is rated for.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use guidevane::dataplane::{
    loader::Maps,
    sweep::{Pass, Policy, Sweep},
};
use lb_common::{reason::Reason, slot::AGE_MASK, table::Limits};
use serde::Serialize;

use super::{
    bed::{self, Bed, LOOPBACK},
    frames::{Traffic, churn},
    gauges::{live, recount},
    layout::{End, PACKETS_OF_FLOW, SILENT, elder_of, end_of},
};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Slots of the table, a power of two.
    pub slots: u32,
    /// Flows in all.
    pub flows: u64,
    /// What all randomness comes from.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Churned {
    /// Slots of the table.
    pub slots: u32,
    /// CPUs that made traffic.
    pub cpus: usize,
    /// Flows that were entered.
    pub opened: u64,
    /// Flows that found no place, since other CPUs took it twice.
    pub untracked: u64,
    /// Most live flows at once, as a part of the slots.
    pub fill: f64,
    /// Most slots in use at once, ended flows among them, likewise.
    pub used: f64,
    /// Evictions that the kernel counted, of flows in whatever state but closed.
    pub evicted: u64,
    /// Live flows that were evicted, at most.
    pub evicted_live: u64,
    /// The same for each 10,000 that were opened.
    pub evicted_per_10k: f64,
    /// Whole passes of the sweep, without a recount, and flows that it freed.
    pub passes: u64,
    /// See `passes`.
    pub expired: u64,
    /// Gauges that differ from a count of the table afterwards.
    pub wrong: Vec<String>,
    /// Live flows by the gauges after the sweep has freed every flow that fell silent: none.
    pub left: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Runs the churn.
///
/// # Errors
/// Not root, the object has no traffic program, or the kernel refuses.
pub fn run(plan: &Plan) -> Result<Churned> {
    let cpus = bed::cpus()?;
    let each = plan.flows / cpus.len() as u64;
    // Those that fall silent stay for as long as the churn lasts: with the last of them the table is at its rate.
    let rated = u64::from(plan.slots) * 6 / 10;
    let silent = plan.flows / SILENT;
    ensure!(silent < rated / 2, "{} flows are too many for a table of {} slots", plan.flows, plan.slots);
    let live_each = ((rated - silent) / cpus.len() as u64) as u32;
    let mut bed = Bed::new(plan.slots, LOOPBACK)?;
    let traffics: Vec<Traffic> = (0..cpus.len() as u8)
        .map(|place| churn(plan.seed + u64::from(place), live_each, Ipv4Addr::new(10, 1 + place, 0, 0)))
        .collect();
    for (&cpu, traffic) in cpus.iter().zip(&traffics) {
        bed.set(cpu, traffic)?;
    }
    let begun = Instant::now();
    let seen = storm(&mut bed, &cpus, &traffics, each * PACKETS_OF_FLOW)?;
    let seconds = begun.elapsed().as_secs_f64();

    let counted = recount(&bed);
    let ended: u64 = traffics.iter().map(|traffic| ended(traffic, each)).sum();
    let opened = bed.opened();
    let vip = bed.dataplane.steering.services()[0].id;
    let reasons = bed.dataplane.reasons_of(vip)?;
    let count = |reason| reasons.get(&reason).copied().unwrap_or(0);
    // Of all flows that were opened, some were ended and some still live; what is missing was evicted. An end
    // that found no flow ended none.
    let evicted_live = (opened + count(Reason::Unknown)).saturating_sub(ended + counted.live);
    let part = |count: u64| count as f64 / f64::from(plan.slots);
    let evicted = bed.evicted()?;
    let left = drain(&bed);
    Ok(Churned {
        slots: plan.slots,
        cpus: cpus.len(),
        opened,
        untracked: count(Reason::Untracked),
        fill: part(seen.live.max(counted.live)),
        used: part(seen.used.max(counted.used)),
        evicted,
        evicted_live,
        evicted_per_10k: evicted_live as f64 * 1e4 / opened as f64,
        passes: seen.passes,
        expired: seen.expired,
        wrong: counted.wrong,
        left,
        seconds,
    })
}

/// Flows of a CPU's traffic that were ended by a packet, when it has opened `flows`.
fn ended(traffic: &Traffic, flows: u64) -> u64 {
    let elders = (0..flows).filter_map(|flow| elder_of(traffic.storm.live, flow));
    elders.filter(|&elder| end_of(traffic.storm.seed, elder) != End::Silence).count() as u64
}

/// What the sweep saw meanwhile.
#[derive(Default)]
struct Seen {
    live: u64,
    used: u64,
    passes: u64,
    expired: u64,
}

/// Makes `packets` of traffic on every CPU, and sweeps.
fn storm(bed: &mut Bed, cpus: &[usize], traffics: &[Traffic], packets: u64) -> Result<Seen> {
    /// Packets from one system call to the next.
    const BATCH: u64 = 1 << 14;
    let (maps, clock) = (bed.dataplane.maps(), bed.dataplane.clock());
    let vips: Vec<u16> = bed.dataplane.steering.vip_ids().collect();
    let policy = bed::time_outs(&maps);
    let kernel = bed.kernel();
    let running = AtomicUsize::new(cpus.len());
    thread::scope(|scope| {
        let workers: Vec<_> = cpus
            .iter()
            .zip(traffics)
            .map(|(&cpu, traffic)| {
                let running = &running;
                scope.spawn(move || {
                    let shots = || -> Result<()> {
                        bed::pin(cpu)?;
                        let mut left = packets;
                        while left > 0 {
                            let batch = left.min(BATCH);
                            bed::shoot(kernel, &traffic.frame, batch as u32)?;
                            left -= batch;
                        }
                        Ok(())
                    };
                    let result = shots();
                    running.fetch_sub(1, Ordering::SeqCst);
                    result
                })
            })
            .collect();
        let mut seen = Seen::default();
        while running.load(Ordering::SeqCst) > 0 {
            let pass = pass(&maps, policy, bed::age(&maps, &clock));
            seen.live = seen.live.max(live(&maps, &vips));
            seen.used = seen.used.max(pass.used);
            seen.expired += pass.expired;
            seen.passes += 1;
            thread::sleep(Duration::from_millis(50));
        }
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(seen)
    })
}

/// One pass of a new sweep at age-clock time `now`: it would not recount before its twentieth.
fn pass(maps: &Arc<Maps>, policy: Policy, now: u32) -> Pass {
    let mut sweep = Sweep::new(Arc::clone(maps), policy);
    sweep.slice(sweep.sets(), now).expect("a slice of all sets is a whole pass")
}

/// Sweeps as if all flows had long been silent, and gives the live ones that the gauges still have.
fn drain(bed: &Bed) -> u64 {
    /// Streaming flows fall idle, idle ones are freed.
    const PASSES: u32 = 2;
    const SOON: u32 = 10;
    let maps = bed.dataplane.maps();
    let limits =
        Limits { idle_after: SOON, idle_timeout: SOON, half_open: SOON, closing: SOON, linger: SOON };
    let policy = Policy { tcp: limits, udp: limits, ports: limits };
    let now = (bed::age(&maps, &bed.dataplane.clock()) + Limits::LONGEST / 2) & AGE_MASK;
    for _ in 0..PASSES {
        pass(&maps, policy, now);
    }
    let vips: Vec<u16> = bed.dataplane.steering.vip_ids().collect();
    live(&maps, &vips)
}
