//! The daemon's state as `status` shows it.

use std::time::Instant;

use lb_common::{
    layout::{Load, PORT_SETS, RESERVED_SETS, Traffic},
    pick::{COST_ONE, FLOW, Steer},
    reason::{Action, Reason},
    table::WAYS,
};

use super::{ages, core::Core};
use crate::{
    api::{
        Backend, Daemon, Events, Flows, Gpu, Health, HealthState, Interface, Kernel, NatSource, NextHop,
        Nvml, Reported, Snapshot, Vip,
    },
    config,
    dataplane::{
        Error,
        counters::{self, mean, quantile},
        spec,
    },
    health,
    net::neighbour::Resolution,
    signals::{Fault, Hardware, Scrape},
};

/// Ports that a source address has for flows: all but those below 1024.
const PORTS: u32 = (PORT_SETS - RESERVED_SETS) * WAYS as u32;

/// A picture of everything.
///
/// # Errors
///
/// When a map cannot be read.
pub fn take(core: &Core) -> Result<Snapshot, Error> {
    let reasons = core.dataplane.reasons()?;
    let of = |action: Action| {
        let named = reasons.iter().filter(|(reason, _)| reason.action() == action);
        // What is not ours at all is the host's own traffic, and none of a VIP's.
        named
            .filter(|(reason, _)| **reason != Reason::NotOurs)
            .map(|(r, &n)| (r.name().to_owned(), n))
            .collect()
    };
    let mut evictions = 0;
    let mut vips = Vec::new();
    for (service, vip) in core.dataplane.steering.services().iter().zip(&core.config.vips) {
        let (shown, evicted) = vip_of(core, &service.backends, vip)?;
        vips.push(shown);
        evictions += evicted;
    }
    let daemon = daemon(core, evictions)?;
    Ok(Snapshot { daemon, vips, drops: of(Action::Drop), passes: of(Action::Pass) })
}

fn daemon(core: &Core, evictions: u64) -> Result<Daemon, Error> {
    let interfaces = core.config.interfaces.iter();
    Ok(Daemon {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: core.started.elapsed().as_secs_f64(),
        tick_seconds: core.config.daemon.tick.as_secs_f64(),
        kernel: Kernel {
            sha256: core.dataplane.object_sha256().to_owned(),
            build: core.dataplane.build(),
            pinned: core.dataplane.is_pinned(),
            interfaces: interfaces.map(|i| Interface { name: i.name.clone(), mode: i.mode }).collect(),
        },
        flows: Flows {
            slots: u64::from(core.dataplane.maps().meta.read(0).flow_sets) * WAYS as u64,
            used: core.pass.used,
            evictions,
        },
        nat_sources: nat_sources(core),
        events: Events { sample: core.traces.sample(), lost: core.traces.lost()? },
        nvml: nvml(core),
    })
}

/// How reading GPUs goes, if anybody wants them read.
fn nvml(core: &Core) -> Option<Nvml> {
    let standing = core.gpus.standing()?;
    Some(Nvml {
        driver: standing.driver,
        problem: standing.problem,
        calls: standing.calls,
        spent_seconds: standing.spent.as_secs_f64(),
        overruns: standing.overruns,
    })
}

fn nat_sources(core: &Core) -> Vec<NatSource> {
    let used = |number| core.pass.ports.get(number).copied().unwrap_or(0);
    let addresses = core.config.nat.addresses().into_iter().enumerate();
    addresses.map(|(number, address)| NatSource { address, ports: PORTS, used: used(number) }).collect()
}

fn vip_of(core: &Core, ids: &[u16], vip: &config::Vip) -> Result<(Vip, u64), Error> {
    let maps = core.dataplane.maps();
    let shares = core.shares.of(ids, |id| maps.loads.read(usize::from(id)).opened);
    let (mut backends, mut sum, mut opened) = (Vec::new(), Traffic::default(), 0);
    for ((&id, backend), share) in ids.iter().zip(&vip.backends).zip(shares) {
        let traffic = core.dataplane.traffic(id)?;
        let load = maps.loads.read(usize::from(id));
        sum.packets += traffic.packets;
        sum.bytes += traffic.bytes;
        sum.evicted += traffic.evicted;
        opened += load.opened;
        backends.push(backend_of(core, id, backend, &load, &traffic, share));
    }
    let shown = Vip {
        name: vip.name.clone(),
        address: vip.address,
        port: vip.port,
        protocol: vip.protocol,
        mode: vip.mode,
        policy: vip.policy.kind(),
        governor: vip.governor,
        packets: sum.packets,
        bytes: sum.bytes,
        new_flows: opened,
        backends,
    };
    Ok((shown, sum.evicted))
}

fn backend_of(
    core: &Core,
    id: u16,
    backend: &config::Backend,
    load: &Load,
    traffic: &Traffic,
    share: Option<f64>,
) -> Backend {
    let [opening, awaiting, streaming, idle, prompts_kib] = counters::live(&load.gauges);
    let steer = Steer::from_word(load.steer);
    let progress = core.dataplane.maps().progress.read(usize::from(id));
    let hop = core.dataplane.steering.backends.get(id).and_then(|known| known.standing.hop);
    Backend {
        name: backend.name.clone(),
        address: backend.address,
        port: backend.port,
        weight: backend.weight,
        limit: (load.limit > 0).then_some(load.limit),
        health: health_of(core.health.get(backend.name.as_str()), core.faults.get(backend.name.as_str())),
        admin: core.admin(&backend.name),
        next_hop: hop.map(|hop| next_hop(core, &hop)),
        unreachable: if hop.is_none() { unreachable(core, backend) } else { None },
        opening,
        awaiting,
        prompts_kib,
        streaming,
        idle,
        cost: f64::from(steer.cost) / f64::from(COST_ONE),
        correction: f64::from(steer.correction) / f64::from(FLOW),
        share,
        requests: load.requests,
        unanswered: traffic.unanswered,
        packets: traffic.packets,
        bytes: traffic.bytes,
        ttft_mean_seconds: mean(&progress),
        ttft_p50_seconds: quantile(&progress, 0.5),
        ttft_p99_seconds: quantile(&progress, 0.99),
        signals: ages::signals_of(core, &backend.name),
        gpu: core.hardware.subscribe(&backend.name).and_then(|gpu| Some(gpu_of(gpu.borrow().as_ref()?))),
        reported: core.reports(&backend.name).and_then(|scrape| reported(&scrape.borrow())),
    }
}

/// What the probes say, unless a fault of its GPUs says more.
fn health_of(status: Option<&health::Status>, fault: Option<&Fault>) -> Health {
    if let Some(fault) = fault {
        return Health { state: HealthState::Down, reason: Some(fault.to_string()) };
    }
    let state = match status.map(|status| status.state) {
        Some(health::State::Up) => HealthState::Up,
        Some(health::State::Down) => HealthState::Down,
        Some(health::State::Unknown) | None => HealthState::Unknown,
    };
    Health { state, reason: status.and_then(|status| status.reason.clone()) }
}

fn next_hop(core: &Core, hop: &spec::NextHop) -> NextHop {
    let mac: [u8; 6] = hop.mac.into();
    let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let named = core.interfaces.values().find(|interface| interface.index == hop.interface);
    let interface = named.map_or_else(|| format!("#{}", hop.interface), |interface| interface.name.clone());
    NextHop { mac: mac.join(":"), interface, mtu: hop.mtu }
}

/// Why a backend has no next hop.
fn unreachable(core: &Core, backend: &config::Backend) -> Option<String> {
    match core.table.get(&backend.address) {
        Some(Resolution::Unresolved(reason)) => Some(reason.to_string()),
        Some(Resolution::Resolved(_)) | None => None,
    }
}

fn reported(scrape: &Scrape) -> Option<Reported> {
    let last = scrape.newest()?;
    Some(Reported {
        running: last.running?,
        waiting: last.waiting.unwrap_or(0.0),
        kv_usage: last.kv_usage,
        age_seconds: last.age(Instant::now()).at_least.as_secs_f64(),
    })
}

fn gpu_of(hardware: &Hardware) -> Gpu {
    Gpu {
        speed: hardware.speed,
        foreign: hardware.foreign,
        utilization: hardware.utilization,
        memory: hardware.memory,
        fault: hardware.fault.map(|fault| fault.to_string()),
        age_seconds: hardware.taken_start.elapsed().as_secs_f64(),
    }
}
