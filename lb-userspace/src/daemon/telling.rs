//! Events in names and words, for those who trace.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lb_common::{
    event::{Event, Kind, Sight},
    layout::backend_bits,
    maglev::NOBODY,
    pick::{self, COST_ONE, FLOW, LOAD_ONE, Policy, Steer},
    reason::Reason,
};
use nix::time::{ClockId, clock_gettime};

use crate::{
    api::{Candidate, FlowEvent, Lack, Outcome, Why},
    config::PolicyKind,
    dataplane::counters::live,
};

/// Names of what events know by number.
#[derive(Debug, Default)]
pub struct Names {
    /// VIPs by id.
    pub vips: HashMap<u16, String>,
    /// Backends by id.
    pub backends: HashMap<u16, String>,
}

/// An event in words and names.
pub fn tell(event: &Event, names: &Names) -> FlowEvent {
    let policy = match Policy::from_number(event.rule.policy) {
        Policy::Least => PolicyKind::Least,
        Policy::Bounded => PolicyKind::Bounded,
        Policy::Hash => PolicyKind::Hash,
        Policy::RoundRobin => PolicyKind::RoundRobin,
        Policy::LeastConnections => PolicyKind::LeastConnections,
    };
    let outcome = match Kind::from_number(event.kind) {
        Some(Kind::Opened) => Outcome::Opened,
        Some(Kind::PathMtu) => Outcome::PathMtu,
        Some(Kind::Refused) | None => Outcome::Refused,
    };
    let reason = Reason::from_number(event.reason).unwrap_or(Reason::Internal);
    FlowEvent {
        unix_seconds: unix_seconds(event.at_ns),
        outcome,
        reason: reason.name().to_owned(),
        vip: name(&names.vips, event.vip),
        client: SocketAddr::new(event.client.into(), u16::from_be(event.client_port_be)),
        backend: (event.backend != NOBODY).then(|| name(&names.backends, event.backend)),
        mtu: (outcome == Outcome::PathMtu).then_some(event.mtu),
        policy,
        why: event.choice().map(why),
        hash: format!("{:016x}", event.hash),
        cpu: event.cpu,
        governor_silent: event.silent != 0,
        moved: event.moved != 0,
        candidates: event.candidates().iter().map(|sight| candidate(event, sight, names)).collect(),
    }
}

fn why(why: pick::Why) -> Why {
    match why {
        pick::Why::Least => Why::Least,
        pick::Why::AllFull => Why::AllFull,
        pick::Why::Explored => Why::Explored,
        pick::Why::WithinBound => Why::WithinBound,
        pick::Why::First => Why::First,
        pick::Why::NextMember => Why::NextMember,
    }
}

fn candidate(event: &Event, sight: &Sight, names: &Names) -> Candidate {
    let (weight, steer) = (event.weigh(sight), Steer::from_word(sight.steer));
    let [opening, awaiting, streaming, idle, prompts_kib] = live(&sight.gauges);
    Candidate {
        backend: name(&names.backends, sight.backend),
        picked: sight.backend == event.backend,
        load: f64::from(weight.load) / LOAD_ONE as f64,
        opening,
        awaiting,
        prompts_kib,
        streaming,
        idle,
        cost: f64::from(steer.cost) / f64::from(COST_ONE),
        correction: f64::from(steer.correction) / f64::from(FLOW),
        limit: (sight.limit > 0).then_some(sight.limit),
        at_limit: weight.at_limit,
        over_bound: weight.over_bound,
        lacks: lacks(sight.lacks.into()),
    }
}

fn lacks(bits: u32) -> Vec<Lack> {
    let all = [
        (backend_bits::PRESENT, Lack::Configured),
        (backend_bits::HEALTHY, Lack::Healthy),
        (backend_bits::ACTIVE, Lack::Active),
        (backend_bits::REACHABLE, Lack::Reachable),
    ];
    all.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, lack)| lack).collect()
}

/// What an id is called; one that is gone by now is called by its number.
pub fn name(names: &HashMap<u16, String>, id: u16) -> String {
    names.get(&id).cloned().unwrap_or_else(|| format!("#{id}"))
}

/// When a moment of `CLOCK_MONOTONIC` was, in seconds since 1970.
fn unix_seconds(at_ns: u64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    let ago = monotonic.saturating_sub(Duration::from_nanos(at_ns));
    now.saturating_sub(ago).as_secs_f64()
}
