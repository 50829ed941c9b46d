//! `guidevane status` for people. Units are in the headers; counters are plain numbers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use humantime::format_duration;
use serde::Serialize;

use super::table::{Cell, Colour, Column, cell, cell_or_nothing, numbers, only_wide, table, words};
use crate::api::{AdminState, Backend, Daemon, Gpu, HealthState, NatSource, NextHop, Nvml, Snapshot, Vip};
use crate::config::ANY_PORT;

/// Digits of the kernel object's hash that tell one build from another.
const SHORT_HASH: usize = 12;

/// A backend in its VIP.
type Row<'a> = (&'a str, &'a Backend);

pub(super) fn render(snapshot: &Snapshot, wide: bool, colour: bool) -> String {
    let backends = snapshot
        .vips
        .iter()
        .flat_map(|vip| vip.backends.iter().map(move |backend| (vip.name.as_str(), backend)));
    let mut parts = vec![
        summary(&snapshot.daemon),
        table(&vip_columns(), snapshot.vips.iter(), colour),
        table(&backend_columns(wide), backends, colour),
    ];
    parts.extend(gpus(snapshot, colour));
    parts.extend(sources(&snapshot.daemon.nat_sources, colour));
    parts.extend(reasons("DROP_REASON", &snapshot.drops, colour));
    if wide {
        parts.extend(reasons("PASS_REASON", &snapshot.passes, colour));
    }
    parts.join("\n")
}

/// The VIPs alone.
pub(super) fn render_vips(vips: &[Vip], colour: bool) -> String {
    table(&vip_columns(), vips.iter(), colour)
}

/// A backend and whose it is.
#[derive(Serialize)]
pub(super) struct BackendOf {
    vip: String,
    #[serde(flatten)]
    backend: Backend,
}

/// The backends alone.
pub(super) fn backends_of(snapshot: Snapshot) -> Vec<BackendOf> {
    let of = |vip: Vip| {
        let Vip { name, backends, .. } = vip;
        backends.into_iter().map(move |backend| BackendOf { vip: name.clone(), backend })
    };
    snapshot.vips.into_iter().flat_map(of).collect()
}

pub(super) fn render_backends(backends: &[BackendOf], wide: bool, colour: bool) -> String {
    let rows = backends.iter().map(|BackendOf { vip, backend }| (vip.as_str(), backend));
    table(&backend_columns(wide), rows, colour)
}

fn summary(daemon: &Daemon) -> String {
    let Daemon { version, uptime_seconds, tick_seconds, kernel, flows, events, .. } = daemon;
    let uptime = format_duration(Duration::from_secs(seconds(*uptime_seconds).as_secs()));
    let tick = format_duration(seconds(*tick_seconds));
    let hash = kernel.sha256.get(..SHORT_HASH).unwrap_or(&kernel.sha256);
    let interfaces: Vec<String> = kernel
        .interfaces
        .iter()
        .map(|interface| format!("{} ({})", interface.name, interface.mode))
        .collect();
    let interfaces = if interfaces.is_empty() { "no interface".to_owned() } else { interfaces.join(", ") };
    let pinned = if kernel.pinned { "pinned" } else { "not pinned" };
    // Nothing to say of traces where there are none.
    let traced = match (events.sample, events.lost) {
        (0, 0) => String::new(),
        (0, lost) => format!("no trace; {lost} events lost so far\n"),
        (sample, lost) => format!("tracing 1 in {sample} new flows; {lost} events lost so far\n"),
    };
    format!(
        "guidevane {version}, up {uptime}; a tick every {tick}\n\
         kernel program {hash} ({}) on {interfaces}, {pinned}\n\
         flow table: {} of {} slots used, {} evictions\n{traced}",
        kernel.build.name(),
        flows.used,
        flows.slots,
        flows.evictions
    )
}

/// A duration from the wire, which may hold anything.
fn seconds(value: f64) -> Duration {
    // Whole microseconds: binary fractions are no news to a reader.
    Duration::try_from_secs_f64((value * 1e6).round() / 1e6).unwrap_or_default()
}

fn vip_columns<'a>() -> Vec<Column<&'a Vip>> {
    vec![
        words("VIP", |vip| cell(&vip.name)),
        words("ADDRESS", |vip| cell(endpoint(vip.address, vip.port))),
        words("PROTOCOL", |vip| cell(vip.protocol)),
        words("MODE", |vip| cell(vip.mode)),
        words("POLICY", |vip| cell(vip.policy)),
        words("GOVERNOR", |vip| cell(vip.governor)),
        numbers("NEW_FLOWS", |vip| cell(vip.new_flows)),
        numbers("PACKETS", |vip| cell(vip.packets)),
        numbers("BYTES", |vip| cell(vip.bytes)),
    ]
}

fn backend_columns<'a>(wide: bool) -> Vec<Column<Row<'a>>> {
    let mut columns: Vec<Column<Row<'a>>> = vec![
        words("VIP", |(vip, _)| cell(vip)),
        words("BACKEND", |(_, backend)| cell(&backend.name)),
        only_wide(words("ADDRESS", |(_, backend)| cell(endpoint(backend.address, backend.port)))),
        words("HEALTH", |(_, backend)| health(backend.health.state)),
        words("ADMIN", |(_, backend)| admin(backend.admin)),
        only_wide(numbers("WEIGHT", |(_, backend)| cell(backend.weight))),
        only_wide(numbers("LIMIT", |(_, backend)| cell_or_nothing(backend.limit))),
        numbers("OPENING", |(_, backend)| cell(backend.opening)),
        numbers("AWAITING", |(_, backend)| cell(backend.awaiting)),
        numbers("STREAMING", |(_, backend)| cell(backend.streaming)),
        numbers("IDLE", |(_, backend)| cell(backend.idle)),
        numbers("COST", |(_, backend)| cell(format!("{:.2}", backend.cost))),
        only_wide(numbers("CORRECTION", |(_, backend)| cell(format!("{:+.1}", backend.correction)))),
        numbers("SHARE_PCT", |(_, backend)| cell_or_nothing(backend.share.map(percent))),
        numbers("REQUESTS", |(_, backend)| cell(backend.requests)),
        only_wide(numbers("UNANSWERED", |(_, backend)| cell(backend.unanswered))),
        numbers("TTFT_P50_MS", |(_, backend)| cell_or_nothing(backend.ttft_p50_seconds.map(milliseconds))),
        numbers("TTFT_P99_MS", |(_, backend)| cell_or_nothing(backend.ttft_p99_seconds.map(milliseconds))),
        only_wide(numbers("PACKETS", |(_, backend)| cell(backend.packets))),
        only_wide(numbers("BYTES", |(_, backend)| cell(backend.bytes))),
        only_wide(numbers("RUNNING", |(_, backend)| {
            cell_or_nothing(backend.reported.as_ref().map(|r| r.running))
        })),
        only_wide(numbers("WAITING", |(_, backend)| {
            cell_or_nothing(backend.reported.as_ref().map(|r| r.waiting))
        })),
        only_wide(numbers("KV_PCT", |(_, backend)| {
            cell_or_nothing(backend.reported.as_ref().and_then(|r| r.kv_usage).map(percent))
        })),
        only_wide(numbers("REPORT_AGE_MS", |(_, backend)| {
            cell_or_nothing(backend.reported.as_ref().map(|r| milliseconds(r.age_seconds)))
        })),
        only_wide(words("SERVER", |(_, backend)| cell_or_nothing(server(backend)))),
        only_wide(words("SIGNAL_AGES_MS", |(_, backend)| signals(backend))),
        only_wide(words("NEXT_HOP", |(_, backend)| cell_or_nothing(backend.next_hop.as_ref().map(next_hop)))),
        only_wide(numbers("MTU", |(_, backend)| {
            cell_or_nothing(backend.next_hop.as_ref().map(|hop| hop.mtu))
        })),
        words("REASON", |(_, backend)| cell_or_nothing(reason(backend))),
    ];
    columns.retain(|column| wide || !column.wide);
    columns
}

/// A table of the backends whose GPUs are read, and how that goes; none if there are none.
fn gpus(snapshot: &Snapshot, colour: bool) -> Option<String> {
    let columns: [Column<(&str, &Gpu)>; 7] = [
        words("GPUS_OF", |(backend, _)| cell(backend)),
        numbers("BUSY_PCT", |(_, gpu)| cell_or_nothing(gpu.utilization.map(percent))),
        numbers("FOREIGN_PCT", |(_, gpu)| cell_or_nothing(gpu.foreign.map(percent))),
        numbers("SPEED_PCT", |(_, gpu)| cell_or_nothing(gpu.speed.map(percent))),
        numbers("MEMORY_PCT", |(_, gpu)| cell_or_nothing(gpu.memory.map(percent))),
        numbers("AGE_MS", |(_, gpu)| cell(milliseconds(gpu.age_seconds))),
        words("FAULT", |(_, gpu)| match &gpu.fault {
            Some(fault) => Cell::coloured(fault, Colour::Red),
            None => cell_or_nothing(None::<&str>),
        }),
    ];
    let Nvml { driver, problem, calls, spent_seconds, overruns } = snapshot.daemon.nvml.as_ref()?;
    let driver = driver.as_deref().unwrap_or("not there");
    let problem = problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
    let spent = milliseconds(*spent_seconds);
    let backends = snapshot.vips.iter().flat_map(|vip| &vip.backends);
    let rows = backends.filter_map(|backend| Some((backend.name.as_str(), backend.gpu.as_ref()?)));
    let table = table(&columns, rows, colour);
    Some(format!("GPU driver {driver}{problem}; {calls} calls in {spent} ms, {overruns} cut short\n{table}"))
}

/// A table of the source addresses of one-armed `nat`; none if there are none.
fn sources(sources: &[NatSource], colour: bool) -> Option<String> {
    let columns = [
        words("NAT_SOURCE", |source: &NatSource| cell(source.address)),
        numbers("PORTS_USED", |source| cell(source.used)),
        numbers("PORTS", |source| cell(source.ports)),
    ];
    (!sources.is_empty()).then(|| table(&columns, sources.iter(), colour))
}

/// A table of the reasons that occurred; none if none did.
pub(super) fn reasons(header: &'static str, counts: &BTreeMap<String, u64>, colour: bool) -> Option<String> {
    let mut rows = counts.iter().filter(|&(_, &packets)| packets > 0).peekable();
    rows.peek()?;
    let columns = [
        words(header, |(reason, _): (&String, &u64)| cell(reason)),
        numbers("PACKETS", |(_, packets)| cell(packets)),
    ];
    Some(table(&columns, rows, colour))
}

fn health(state: HealthState) -> Cell {
    let colour = match state {
        HealthState::Up => Colour::Plain,
        HealthState::Down => Colour::Red,
        HealthState::Unknown => Colour::Yellow,
    };
    Cell::coloured(state, colour)
}

fn admin(state: AdminState) -> Cell {
    let colour = match state {
        AdminState::Active => Colour::Plain,
        AdminState::Draining => Colour::Yellow,
    };
    Cell::coloured(state, colour)
}

/// Which inference server it was recognised as.
fn server(backend: &Backend) -> Option<&str> {
    backend.signals.iter().find_map(|signal| signal.server.as_deref())
}

/// The age of each source's last word, and how often in a row it could not be heard since: `metrics:212,gpu:-!7`.
fn signals(backend: &Backend) -> Cell {
    let shown = backend.signals.iter().map(|signal| {
        let age = signal.age_seconds.map_or("-".to_owned(), |age| format!("{:.0}", age * 1000.0));
        let failed = match signal.consecutive_failures {
            0 => String::new(),
            failures => format!("!{failures}"),
        };
        format!("{}:{age}{failed}", signal.source)
    });
    let colour = match backend.signals.iter().any(|signal| signal.consecutive_failures > 0) {
        true => Colour::Yellow,
        false => Colour::Plain,
    };
    Cell::coloured(shown.collect::<Vec<_>>().join(","), colour)
}

/// All that keeps a backend from new flows, or may soon.
fn reason(backend: &Backend) -> Option<String> {
    let unreachable = backend.unreachable.as_ref().map(|reason| format!("no next hop: {reason}"));
    let reasons: Vec<String> = unreachable.into_iter().chain(backend.health.reason.clone()).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

fn endpoint(address: IpAddr, port: u16) -> String {
    match (address, port) {
        (IpAddr::V4(v4), ANY_PORT) => format!("{v4}:any"),
        (IpAddr::V6(v6), ANY_PORT) => format!("[{v6}]:any"),
        _ => SocketAddr::new(address, port).to_string(),
    }
}

fn next_hop(NextHop { mac, interface, .. }: &NextHop) -> String {
    format!("{mac}%{interface}")
}

fn percent(part: f64) -> String {
    format!("{:.1}", part * 100.0)
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1}", seconds * 1000.0)
}
