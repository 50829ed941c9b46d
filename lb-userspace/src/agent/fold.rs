//! What is known of a backend into the standard's report, and back again.
//!
//! One table serves both directions. Numbers are sent as they are and judged where they arrive: a report is
//! someone else's word. Counts have vLLM's ORCA names, so that other balancers understand them and other servers
//! are understood; the rest is named `guidevane.*`.

use std::time::{Duration, Instant};

use super::{clock::Bracket, message::OrcaLoadReport};
use crate::signals::{Fault, Hardware, Observation, ServerKind, Totals};

/// Milliseconds since the agent took the subscription, by the agent's clock.
const SENT: &str = "guidevane.sent_ms";

/// How old what follows was when it was sent, and how long it took to read.
const OBSERVATION: Names =
    Names { age: "guidevane.observation_age_ms", span: "guidevane.observation_span_ms" };
const HARDWARE: Names = Names { age: "guidevane.hardware_age_ms", span: "guidevane.hardware_span_ms" };

/// Behind this stands what configuration and status call the server.
const SERVER: &str = "guidevane.server.";

const FAULT_XID: &str = "guidevane.gpu_fault_xid";
const FAULT_ECC: &str = "guidevane.gpu_fault_ecc";
const FAULT_LOST: &str = "guidevane.gpu_fault_lost";

/// Nothing older is worth a number; it also keeps times representable.
const OLDEST: Duration = Duration::from_secs(24 * 3600);

struct Names {
    age: &'static str,
    span: &'static str,
}

#[derive(Clone, Copy)]
enum Kind {
    /// From 0 up.
    Count,
    /// From 0 to 1; more is taken for 1.
    Part,
}

struct Field<T> {
    name: &'static str,
    kind: Kind,
    get: fn(&T) -> Option<f64>,
    set: fn(&mut T, f64),
}

const OBSERVED: [Field<Observation>; 12] = [
    Field {
        name: "num_requests_running",
        kind: Kind::Count,
        get: |o| o.running,
        set: |o, value| o.running = Some(value),
    },
    Field {
        name: "num_requests_waiting",
        kind: Kind::Count,
        get: |o| o.waiting,
        set: |o, value| o.waiting = Some(value),
    },
    Field {
        name: "kv_cache_usage_perc",
        kind: Kind::Part,
        get: |o| o.kv_usage,
        set: |o, value| o.kv_usage = Some(value),
    },
    Field {
        name: "guidevane.generation_tokens",
        kind: Kind::Count,
        get: |o| o.generation_tokens,
        set: |o, value| o.generation_tokens = Some(value),
    },
    Field {
        name: "guidevane.prompt_tokens",
        kind: Kind::Count,
        get: |o| o.prompt_tokens,
        set: |o, value| o.prompt_tokens = Some(value),
    },
    Field {
        name: "guidevane.requests",
        kind: Kind::Count,
        get: |o| o.requests,
        set: |o, value| o.requests = Some(value),
    },
    Field {
        name: "guidevane.ttft_seconds_sum",
        kind: Kind::Count,
        get: |o| o.ttft.map(|totals| totals.sum),
        set: |o, value| o.ttft.get_or_insert(HALF).sum = value,
    },
    Field {
        name: "guidevane.ttft_seconds_count",
        kind: Kind::Count,
        get: |o| o.ttft.map(|totals| totals.count),
        set: |o, value| o.ttft.get_or_insert(HALF).count = value,
    },
    Field {
        name: "guidevane.time_per_token_seconds_sum",
        kind: Kind::Count,
        get: |o| o.time_per_token.map(|totals| totals.sum),
        set: |o, value| o.time_per_token.get_or_insert(HALF).sum = value,
    },
    Field {
        name: "guidevane.time_per_token_seconds_count",
        kind: Kind::Count,
        get: |o| o.time_per_token.map(|totals| totals.count),
        set: |o, value| o.time_per_token.get_or_insert(HALF).count = value,
    },
    Field {
        name: "guidevane.cadence_ms",
        kind: Kind::Count,
        get: |o| o.cadence.map(millis),
        set: |o, value| o.cadence = Duration::try_from_secs_f64(value / 1e3).ok(),
    },
    Field {
        name: "guidevane.max_num_seqs",
        kind: Kind::Count,
        get: |o| o.max_num_seqs.map(f64::from),
        // Casts saturate.
        set: |o, value| o.max_num_seqs = Some(value as u32),
    },
];

/// Totals of which nothing has come yet.
const HALF: Totals = Totals { sum: f64::NAN, count: f64::NAN };

const HARDWARE_READ: [Field<Hardware>; 4] = [
    Field {
        name: "guidevane.gpu_speed",
        kind: Kind::Part,
        get: |h| h.speed,
        set: |h, value| h.speed = Some(value),
    },
    Field {
        name: "guidevane.gpu_foreign",
        kind: Kind::Part,
        get: |h| h.foreign,
        set: |h, value| h.foreign = Some(value),
    },
    Field {
        name: "guidevane.gpu_utilization",
        kind: Kind::Part,
        get: |h| h.utilization,
        set: |h, value| h.utilization = Some(value),
    },
    Field {
        name: "guidevane.gpu_memory",
        kind: Kind::Part,
        get: |h| h.memory,
        set: |h, value| h.memory = Some(value),
    },
];

/// What an agent knows of one backend and of its host.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The server's last good answer, however old.
    pub observation: Option<Observation>,
    /// The GPUs' last good reading, however old.
    pub hardware: Option<Hardware>,
    /// Part of the host's CPU time in use, 0 to 1.
    pub cpu: Option<f64>,
    /// Part of the host's memory in use, 0 to 1.
    pub memory: Option<f64>,
    /// Requests a second that the server answers.
    pub rate: Option<f64>,
}

/// The report of what is known at `now`, on a subscription taken at `begun`.
pub fn report(known: &Known, begun: Instant, now: Instant) -> OrcaLoadReport {
    let mut report = OrcaLoadReport {
        cpu_utilization: known.cpu.unwrap_or_default(),
        mem_utilization: known.memory.unwrap_or_default(),
        rps_fractional: known.rate.unwrap_or_default(),
        application_utilization: busy(known).unwrap_or_default(),
        ..OrcaLoadReport::default()
    };
    let mut put = |name: &str, value: f64| {
        report.named_metrics.insert(name.to_owned(), value);
    };
    put(SENT, millis(now.saturating_duration_since(begun)));
    if let Some(observation) = &known.observation {
        OBSERVATION.put(observation.taken_start, observation.taken_end, now, &mut put);
        if let Some(server) = observation.server {
            put(&format!("{SERVER}{server}"), 1.0);
        }
        for field in &OBSERVED {
            (field.get)(observation).into_iter().for_each(|value| put(field.name, value));
        }
    }
    if let Some(hardware) = &known.hardware {
        HARDWARE.put(hardware.taken_start, hardware.taken_end, now, &mut put);
        for field in &HARDWARE_READ {
            (field.get)(hardware).into_iter().for_each(|value| put(field.name, value));
        }
        match hardware.fault {
            Some(Fault::Xid(number)) => put(FAULT_XID, f64::from(number)),
            Some(Fault::Ecc) => put(FAULT_ECC, 1.0),
            Some(Fault::Lost) => put(FAULT_LOST, 1.0),
            None => {}
        }
    }
    report
}

/// How busy a server is, for balancers that want one number: its requests over its batch size, or its fullest
/// memory; where it says neither, its GPU.
fn busy(known: &Known) -> Option<f64> {
    let of_server = known.observation.as_ref().and_then(|observation| {
        let slots = observation.max_num_seqs.filter(|slots| *slots > 0).map(f64::from);
        let requests = observation.running.map(|running| running + observation.waiting.unwrap_or_default());
        let batch = slots.zip(requests).map(|(slots, requests)| requests / slots);
        batch.into_iter().chain(observation.kv_usage).reduce(f64::max)
    });
    of_server.or_else(|| known.hardware.as_ref()?.utilization)
}

/// When a report was sent by its own words, since the subscription was taken.
pub fn sent(report: &OrcaLoadReport) -> Option<Duration> {
    duration(report, SENT)
}

/// What a report says of the server: counts under vLLM's names, all else under ours. None without any of them.
///
/// A utilization alone is no count and says nothing here.
pub fn observation(report: &OrcaLoadReport, sending: Bracket) -> Option<Observation> {
    let (taken_start, taken_end) = OBSERVATION.taken(report, sending)?;
    let nothing = Observation::silent(taken_start, taken_end);
    let mut read = fill(nothing.clone(), &OBSERVED, report);
    for totals in [&mut read.ttft, &mut read.time_per_token] {
        totals.take_if(|totals| totals.sum.is_nan() || totals.count.is_nan());
    }
    read.server = server(report);
    (read != nothing).then_some(read)
}

/// What a report says of the GPUs; none where it says nothing.
pub fn hardware(report: &OrcaLoadReport, sending: Bracket) -> Option<Hardware> {
    let (taken_start, taken_end) = HARDWARE.taken(report, sending)?;
    let nothing = Hardware {
        speed: None,
        foreign: None,
        utilization: None,
        memory: None,
        fault: None,
        taken_start,
        taken_end,
    };
    let mut read = fill(nothing.clone(), &HARDWARE_READ, report);
    read.fault = fault(report);
    (read != nothing).then_some(read)
}

/// When the observation was complete, and when the hardware was read, in milliseconds since the subscription by the
/// agent's clock: the same for every report of the same reading. None for those who do not say.
pub fn samples(report: &OrcaLoadReport) -> (Option<f64>, Option<f64>) {
    let said = |name| value(report, name, Kind::Count);
    let of = |names: &Names| Some(said(SENT)? - said(names.age)?);
    (of(&OBSERVATION), of(&HARDWARE))
}

fn server(report: &OrcaLoadReport) -> Option<ServerKind> {
    report.named_metrics.keys().find_map(|name| ServerKind::from_name(name.strip_prefix(SERVER)?))
}

fn fault(report: &OrcaLoadReport) -> Option<Fault> {
    let said = |name| value(report, name, Kind::Count);
    let set = |name| said(name).is_some_and(|value| value > 0.0);
    if set(FAULT_LOST) {
        Some(Fault::Lost)
    } else if let Some(number) = said(FAULT_XID) {
        Some(Fault::Xid(number as u32))
    } else {
        set(FAULT_ECC).then_some(Fault::Ecc)
    }
}

fn fill<T>(mut read: T, fields: &[Field<T>], report: &OrcaLoadReport) -> T {
    for field in fields {
        if let Some(value) = value(report, field.name, field.kind) {
            (field.set)(&mut read, value);
        }
    }
    read
}

/// A value as it can be: what is not a number, infinite or negative was not said.
fn value(report: &OrcaLoadReport, name: &str, kind: Kind) -> Option<f64> {
    let value = *report.named_metrics.get(name)?;
    let possible = value.is_finite() && value >= 0.0;
    possible.then_some(match kind {
        Kind::Count => value,
        Kind::Part => value.min(1.0),
    })
}

fn duration(report: &OrcaLoadReport, name: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(value(report, name, Kind::Count)? / 1e3).ok()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Names {
    fn put(&self, start: Instant, end: Instant, now: Instant, put: &mut impl FnMut(&str, f64)) {
        put(self.age, millis(now.saturating_duration_since(end)));
        put(self.span, millis(end.saturating_duration_since(start)));
    }

    /// The bracket of a reading: as old as the report says when it was sent, which was sometime in `sending`.
    /// Whoever says no age read it then. None for what is too old.
    fn taken(&self, report: &OrcaLoadReport, sending: Bracket) -> Option<(Instant, Instant)> {
        let age = duration(report, self.age).unwrap_or_default();
        let span = duration(report, self.span).unwrap_or_default();
        if age.max(span) > OLDEST {
            return None;
        }
        let start = sending.earliest.checked_sub(age)?.checked_sub(span)?;
        Some((start, sending.latest.checked_sub(age)?))
    }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
