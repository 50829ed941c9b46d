//! The programs under test and their maps, on one CPU.

use std::{collections::BTreeMap, net::Ipv4Addr, net::Ipv6Addr, sync::atomic::Ordering};

use anyhow::{Context as _, Result};
use aya::maps::{Array, MapData};
use guidevane::dataplane::{Dataplane, loader::Options};
use lb_common::{
    address::Address,
    layout::{FlowInfo, Load, NO_VIP, Total},
    reason::Reason,
    slot::GAUGES,
    track::{self, Track},
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::{
    layout::{Run, Seen},
    reference::{Reference, take},
    services::{self, Service},
    shots::Salvo,
};

/// Flows that both tables have room for: slots of ours, entries of the reference's.
pub const FLOWS: u32 = 1 << 21;

/// Enters and leaves.
pub const NOP: &str = "bench_nop";
/// Prepares a packet, pushes and undoes.
pub const HARNESS: &str = "bench_harness";
/// Ours.
pub const GUIDEVANE: &str = "bench_guidevane";
/// The reference.
pub const REFERENCE: &str = "bench_reference";
/// Takes a flow out of the reference's table.
pub const FORGET: &str = "bench_forget";

/// What the verifier and the loader made of a program.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Instructions as loaded, translated.
    pub instructions: u32,
    /// Instructions the verifier walked.
    pub verified: u32,
}

/// What came of a run.
#[derive(Clone, Copy, Debug)]
pub struct Volley {
    /// The mean of its packets, in nanoseconds, as the kernel tells it: a whole number.
    pub nanoseconds: u32,
    /// The last packet's verdict, as the kernel numbers them.
    pub verdict: u32,
    /// The last packet's length.
    pub length: usize,
}

/// Our own counters, of one VIP and of packets that are no VIP's.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Packets by reason.
    pub reasons: BTreeMap<Reason, u64>,
    /// Flows evicted.
    pub evicted: u64,
    /// Requests seen.
    pub requests: u64,
    /// First progresses of answers.
    pub progresses: u64,
}

/// Both balancers, loaded and configured.
pub struct Bed {
    /// The VIPs of both.
    pub services: Vec<Service>,
    /// All programs.
    pub programs: Vec<Program>,
    dataplane: Dataplane,
    reference: Reference,
    run: Array<MapData, Run>,
    cpu: u32,
}

impl Bed {
    /// Loads the object that the environment names, configures both and stays on `cpu`.
    ///
    /// # Errors
    /// Not root, the object has no such programs, or the kernel refuses.
    pub fn new(cpu: Option<u32>) -> Result<Self> {
        let cpu = pin(cpu)?;
        let mut dataplane =
            Dataplane::open(&Options { pin: None, flow_slots: FLOWS, nat_sources: Vec::new() })?;
        let mut programs = Vec::new();
        for name in [NOP, HARNESS, GUIDEVANE, REFERENCE, FORGET] {
            let info = dataplane.kernel().load_other(name)?;
            // Eight bytes an instruction.
            let instructions = info.size_translated().unwrap_or(0) / 8;
            let verified = info.verified_instruction_count().unwrap_or(0);
            programs.push(Program { name, instructions, verified });
        }
        let services = services::all();
        steer(&mut dataplane, &services)?;
        let ebpf = &mut dataplane.kernel().ebpf;
        let run = take(ebpf, "BENCH_RUN")?;
        let reference = Reference::new(ebpf, &services, FLOWS)?;
        let mut bed = Self { services, programs, dataplane, reference, run, cpu };
        bed.reset()?;
        Ok(bed)
    }

    /// Empties both flow tables.
    ///
    /// # Errors
    /// The kernel has no room for another one of the reference's.
    pub fn reset(&mut self) -> Result<()> {
        self.reference.empty(self.cpu)?;
        self.empty_ours();
        Ok(())
    }

    /// Has the servers of `nat` accept every connection that is half open: any of a hundred may have been picked, and
    /// their SYN-ACKs are not what is measured.
    pub fn accept(&self) {
        const FLAGS: usize = std::mem::offset_of!(FlowInfo, track) + std::mem::offset_of!(Track, flags);
        let maps = self.dataplane.maps();
        for slot in 0..maps.flow_info.len() {
            let flags = maps.flow_info.half(slot, FLAGS);
            if flags.load(Ordering::Relaxed) & track::BOTH_WAYS != 0 {
                flags.fetch_or(track::ANSWERED, Ordering::Relaxed);
            }
        }
    }

    /// Empties our flow table and the gauges that count it.
    pub fn empty_ours(&self) {
        let maps = self.dataplane.maps();
        for set in 0..maps.flows.len() {
            maps.flows.write(set, &[0; lb_common::table::WAYS]);
        }
        for backend in 0..maps.loads.len() {
            let load = maps.loads.read(backend);
            if load.gauges != [0; GAUGES] {
                maps.loads.write(backend, &Load { gauges: [0; GAUGES], ..load });
            }
        }
        for vip in 0..maps.totals.len() {
            let total = maps.totals.read(vip);
            if total.gauges != [0; GAUGES] {
                maps.totals.write(vip, &Total { gauges: [0; GAUGES], ..total });
            }
        }
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Runs a program for `repeat` packets of a salvo, from number `next` on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn shoot(&mut self, program: &'static str, salvo: &Salvo, next: u64, repeat: u32) -> Result<Volley> {
        self.run.set(0, Run { next, ..salvo.run }, 0).context("BENCH_RUN")?;
        let (result, frame) = self.dataplane.kernel().test_run_of(program, &salvo.frame, repeat)?;
        Ok(Volley {
            nanoseconds: result.duration.as_nanos() as u32,
            verdict: result.return_value,
            length: frame.len(),
        })
    }

    /// Our counters of a VIP.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn counts(&self, service: Option<usize>) -> Result<Counts> {
        let mut counts = Counts { reasons: self.dataplane.reasons_of(NO_VIP)?, ..Counts::default() };
        let Some(service) = service else { return Ok(counts) };
        let maps = self.dataplane.maps();
        let service = &self.dataplane.steering.services()[service];
        for (reason, count) in self.dataplane.reasons_of(service.id)? {
            *counts.reasons.entry(reason).or_default() += count;
        }
        for &backend in &service.backends {
            counts.evicted += self.dataplane.traffic(backend)?.evicted;
            counts.requests += maps.loads.read(backend.into()).requests;
            counts.progresses += maps.progress.read(backend.into()).count;
        }
        Ok(counts)
    }

    /// The reference's counters.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn seen(&self) -> Result<[u64; Seen::ALL.len()]> {
        self.reference.seen()
    }
}

/// Steers `services`, every backend up, tunnels from the sources that the reference takes too.
fn steer(dataplane: &mut Dataplane, services: &[Service]) -> Result<()> {
    let specs: Vec<_> = services.iter().map(Service::spec).collect();
    dataplane.steering.apply(&specs, 1)?;
    let configured = dataplane.steering.services().to_vec();
    for (service, configured) in services.iter().zip(&configured) {
        let standing = |(place, &id)| (id, service.standing(place));
        dataplane.steering.stand(configured.backends.iter().enumerate().map(standing))?;
    }
    let maps = dataplane.maps();
    let mut control = maps.control.read(0);
    control.source_v4 = u32::from_ne_bytes(Ipv4Addr::new(172, 16, 0, 0).octets());
    control.spread_v4 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    control.source_v6 = Address::from_v6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0).octets());
    control.spread_v6 = u32::MAX;
    maps.control.write(0, &control);
    Ok(())
}

/// Stays on a CPU: the last that it may run on, unless told.
fn pin(cpu: Option<u32>) -> Result<u32> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("sched_getaffinity")?;
    let last = (0..CpuSet::count()).rev().find(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let cpu = cpu.map_or(last, |cpu| Some(cpu as usize)).context("no CPU to run on")?;
    let mut one = CpuSet::new();
    one.set(cpu).with_context(|| format!("CPU {cpu}"))?;
    sched_setaffinity(this, &one).with_context(|| format!("run on CPU {cpu}"))?;
    Ok(cpu as u32)
}
