//! Figures of a replay: what came to whom, as a table and JSON.

use std::{fmt::Write as _, time::Duration};

use lb_common::pick::{COST_ONE, FLOW};
use serde::Serialize;

use super::Way;
use crate::{
    config::{GovernorMode, PolicyKind},
    governor::Output,
    recording::{self, VipSample},
};

/// A replay of all VIPs of a recording.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replay {
    /// In the order in which they come in the recording.
    pub vips: Vec<VipReplay>,
}

/// A replay of one VIP.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VipReplay {
    /// Its name.
    pub name: String,
    /// How it picked, at the end of the recording.
    pub policy: PolicyKind,
    /// What the governor did, at the end of the recording.
    pub governor: GovernorMode,
    /// Time between samples, in sum.
    pub seconds: f64,
    /// Intervals between samples.
    pub intervals: u64,
    /// Flows that came.
    pub new_flows: u64,
    /// The standard error of a share of one half at so many flows; `None` without any. Smaller differences say nothing.
    pub share_error: Option<f64>,
    /// What happened.
    pub recorded: WayReplay,
    /// What other ways would have made of it.
    pub ways: Vec<WayReplay>,
    /// What the kernel was told, and what it would have been told.
    pub backends: Vec<BackendReplay>,
}

/// What came to whom in one way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WayReplay {
    /// Its name, or `recorded`.
    pub name: &'static str,
    /// Parts of the new flows, in the order of backends; zeros if none came.
    pub shares: Vec<f64>,
    /// Mean load that a flow met, in flows at nominal cost, as mode `on` weighs them; `None` if none came.
    pub mean_load: Option<f64>,
    /// Flows that no backend could take.
    pub refused: u64,
}

/// A backend's terms: means over the recording.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackendReplay {
    /// Its name.
    pub name: String,
    /// What the kernel was told.
    pub written: Terms,
    /// What mode `on` would have told it.
    pub on: Terms,
}

/// Means over time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Terms {
    /// Slowness; 1 is nominal.
    pub cost: f64,
    /// Requests at the server beyond the live flows.
    pub correction: f64,
    /// Requests it runs at once, at the end; `None` when unknown.
    pub limit: Option<u32>,
}

/// What came to whom so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Count {
    flows: Vec<u64>,
    load: f64,
    pub(super) refused: u64,
}

/// Sums of terms, weighed by time.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    seconds: f64,
    cost: f64,
    correction: f64,
    limit: u32,
}

/// The figures of one VIP so far; backends keep their place when others come and go.
#[derive(Debug)]
pub(super) struct Tally {
    names: Vec<String>,
    /// Places of the backends that there are now.
    seats: Vec<usize>,
    time: Duration,
    intervals: u64,
    recorded: Count,
    ways: Vec<(Way, Count)>,
    written: Vec<Sum>,
    on: Vec<Sum>,
}

impl Count {
    fn place(&mut self, seat: usize, load: f64) {
        self.flows[seat] += 1;
        self.load += load;
    }

    fn report(&self, name: &'static str) -> WayReplay {
        let all: u64 = self.flows.iter().sum();
        let share = |count: &u64| if all > 0 { *count as f64 / all as f64 } else { 0.0 };
        WayReplay {
            name,
            shares: self.flows.iter().map(share).collect(),
            mean_load: (all > 0).then(|| self.load / all as f64),
            refused: self.refused,
        }
    }
}

impl Sum {
    fn add(&mut self, seconds: f64, output: &Output) {
        self.seconds += seconds;
        self.cost += seconds * f64::from(output.cost) / f64::from(COST_ONE);
        self.correction += seconds * f64::from(output.correction) / f64::from(FLOW);
        self.limit = output.limit;
    }

    fn terms(&self) -> Terms {
        let mean = |sum: f64| if self.seconds > 0.0 { sum / self.seconds } else { 0.0 };
        let limit = (self.limit > 0).then_some(self.limit);
        Terms { cost: mean(self.cost), correction: mean(self.correction), limit }
    }
}

impl Tally {
    pub(super) fn new(ways: &[Way]) -> Self {
        Self {
            names: Vec::new(),
            seats: Vec::new(),
            time: Duration::ZERO,
            intervals: 0,
            recorded: Count::default(),
            ways: ways.iter().map(|way| (*way, Count::default())).collect(),
            written: Vec::new(),
            on: Vec::new(),
        }
    }

    /// These are the backends now.
    pub(super) fn seat(&mut self, backends: &[String]) {
        self.seats.clear();
        for name in backends {
            let known = self.names.iter().position(|known| known == name);
            self.seats.push(known.unwrap_or(self.names.len()));
            if known.is_none() {
                self.names.push(name.clone());
            }
        }
        for count in self.ways.iter_mut().map(|(_, count)| count).chain([&mut self.recorded]) {
            count.flows.resize(self.names.len(), 0);
        }
        self.written.resize(self.names.len(), Sum::default());
        self.on.resize(self.names.len(), Sum::default());
    }

    /// A flow came to a backend, and met this load.
    pub(super) fn came(&mut self, backend: usize, load: f64) {
        self.recorded.place(self.seats[backend], load);
    }

    /// A flow would have come to a backend, or to none.
    pub(super) fn would_come(&mut self, way: usize, to: Option<(usize, f64)>) {
        let count = &mut self.ways[way].1;
        match to {
            Some((backend, load)) => count.place(self.seats[backend], load),
            None => count.refused += 1,
        }
    }

    /// An interval has passed with these terms.
    pub(super) fn pass(&mut self, time: Duration, sample: &VipSample, on: &[Output]) {
        self.time += time;
        self.intervals += 1;
        for (&seat, (backend, on)) in self.seats.iter().zip(sample.backends.iter().zip(on)) {
            self.written[seat].add(time.as_secs_f64(), &backend.output());
            self.on[seat].add(time.as_secs_f64(), on);
        }
    }

    pub(super) fn report(&self, vip: &recording::Vip) -> VipReplay {
        let new_flows: u64 = self.recorded.flows.iter().sum();
        let terms = self.written.iter().zip(&self.on);
        VipReplay {
            name: vip.name.clone(),
            policy: vip.policy,
            governor: vip.governor,
            seconds: self.time.as_secs_f64(),
            intervals: self.intervals,
            new_flows,
            share_error: (new_flows > 0).then(|| 0.5 / (new_flows as f64).sqrt()),
            recorded: self.recorded.report("recorded"),
            ways: self.ways.iter().map(|(way, count)| count.report(way.name())).collect(),
            backends: self
                .names
                .iter()
                .zip(terms)
                .map(|(name, (written, on))| BackendReplay {
                    name: name.clone(),
                    written: written.terms(),
                    on: on.terms(),
                })
                .collect(),
        }
    }
}

impl Replay {
    /// For people.
    pub fn table(&self) -> String {
        let vips: Vec<String> = self.vips.iter().map(VipReplay::table).collect();
        vips.join("\n")
    }
}

impl VipReplay {
    fn table(&self) -> String {
        let Self { name, policy, governor, seconds, intervals, new_flows, .. } = self;
        let mut text = format!(
            "VIP {}: {new_flows} new flows in {seconds:.1} s, {intervals} intervals; picked by {policy}, governor {governor}\n\n",
            plain(name)
        );
        let width =
            self.backends.iter().map(|backend| backend.name.chars().count()).max().unwrap_or(0).max(9);
        let ways = || std::iter::once(&self.recorded).chain(&self.ways);
        let mut row = |first: &str, cells: Vec<String>| {
            let cells: String =
                ways().zip(cells).map(|(way, cell)| format!("  {cell:>0$}", way.name.len())).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:<width$}{cells}", plain(first));
        };
        row("SHARE_PCT", ways().map(|way| way.name.to_uppercase().replace('-', "_")).collect());
        for (number, backend) in self.backends.iter().enumerate() {
            row(&backend.name, ways().map(|way| format!("{:.0}", way.shares[number] * 100.0)).collect());
        }
        let load = |way: &WayReplay| way.mean_load.map_or("-".to_owned(), |load| format!("{load:.1}"));
        row("MEAN_LOAD", ways().map(load).collect());
        if ways().any(|way| way.refused > 0) {
            row("REFUSED", ways().map(|way| way.refused.to_string()).collect());
        }
        if let Some(error) = self.share_error {
            let points = (200.0 * error).max(1.0).ceil();
            let _ = writeln!(
                text,
                "\nShares are good to {points:.0} points. Each flow met the live flows that were really there: a share says where\n\
                 flows would have gone one step on, not what a policy would have led to."
            );
        }
        let _ = writeln!(
            text,
            "\n{:<width$}  {:>12} {:>8}  {:>18} {:>14}  {:>13} {:>8}",
            "TERMS",
            "COST_WRITTEN",
            "COST_ON",
            "CORRECTION_WRITTEN",
            "CORRECTION_ON",
            "LIMIT_WRITTEN",
            "LIMIT_ON"
        );
        for BackendReplay { name, written, on } in &self.backends {
            let limit = |terms: &Terms| terms.limit.map_or("-".to_owned(), |limit| limit.to_string());
            let _ = writeln!(
                text,
                "{:<width$}  {:>12.2} {:>8.2}  {:>+18.1} {:>+14.1}  {:>13} {:>8}",
                plain(name),
                written.cost,
                on.cost,
                written.correction,
                on.correction,
                limit(written),
                limit(on)
            );
        }
        text
    }
}

/// What came from a file must not move the cursor.
fn plain(name: &str) -> String {
    name.replace(char::is_control, "?")
}
