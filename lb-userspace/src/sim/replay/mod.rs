//! What another way to steer would have made of a recording, one step at a time.
//!
//! Between two samples, the new flows that came are dealt out anew by [`lb_common::pick`] over the live flows that
//! were really there at the first of the two, less those that left since, and over those dealt out before in the same
//! interval. Then the recorded state holds again: what a way would have made of the live flows in the long run is not known, for
//! nobody knows how fast the servers would have answered. So a share says where a way would have sent the next
//! flow, and no time to first token is told.
//!
//! Hashes of flows are drawn, and backends have a place of their own in the Maglev table: who gets which flow differs
//! from what was, shares do not. The governor runs from the first sample on, with nothing learned before.

mod report;
mod scene;
mod way;

use std::time::Duration;

use lb_common::{
    flow::mix,
    pick::{self, Candidate, Context, FULL, LOAD_ONE, Rule, Steer},
};

use super::view::View;
use crate::{
    governor::{Governor, Input, Mode, Options, Output},
    recording::{self, Recording, VipSample},
};

pub use report::{BackendReplay, Replay, Terms, VipReplay, WayReplay};
pub use way::{UnknownWay, Way};

use report::Tally;
use scene::Scene;

/// The margin of [`pick::Policy::Bounded`] is kept in this many parts.
const EPSILON_ONE: f64 = 1024.0;

/// Replays a recording in `ways`. The same recording gives the same figures.
pub fn replay(recording: &Recording, ways: &[Way]) -> Replay {
    let mut players: Vec<Player> = Vec::new();
    for segment in &recording.segments {
        for (position, vip) in segment.header.vips.iter().enumerate() {
            let known = players.iter().position(|player| player.vip.name == vip.name);
            let player = known.unwrap_or_else(|| {
                players.push(Player::new(ways, vip));
                players.len() - 1
            });
            let player = &mut players[player];
            player.begin(vip);
            for sample in &segment.samples {
                player.take(Duration::from_micros(sample.at_us), &sample.vips[position]);
            }
        }
    }
    Replay { vips: players.into_iter().map(|player| player.tally.report(&player.vip)).collect() }
}

/// A moment of the recording, with what the governor makes of it under mode `on`.
struct Moment {
    at: Duration,
    sample: VipSample,
    inputs: Vec<Input>,
    on: Vec<Output>,
    /// For how long requests have waited for their first progress lately.
    waits: Vec<Duration>,
}

/// The replay of one VIP.
struct Player {
    vip: recording::Vip,
    ways: Vec<Way>,
    governor: Governor,
    last: Option<Moment>,
    /// Who takes flows by which weight.
    weights: Vec<u32>,
    /// What each way picks from.
    views: Vec<View>,
    /// The same for what really happened.
    recorded: View,
    /// Flows dealt out so far, which makes their hashes.
    flows: u64,
    tally: Tally,
}

impl Player {
    fn new(ways: &[Way], vip: &recording::Vip) -> Self {
        Self {
            vip: recording::Vip { backends: Vec::new(), ..vip.clone() },
            ways: ways.to_vec(),
            governor: Governor::new(Options { mode: Mode::On, ..Options::default() }),
            last: None,
            weights: Vec::new(),
            views: Vec::new(),
            recorded: View::with_weights(&[], Vec::new()),
            flows: 0,
            tally: Tally::new(ways),
        }
    }

    /// Goes on with other settings or backends, known by their names.
    fn begin(&mut self, vip: &recording::Vip) {
        let before = &self.vip.backends;
        let origin = |name: &String| before.iter().position(|known| known == name);
        self.governor.reset_membership(&vip.backends.iter().map(origin).collect::<Vec<_>>());
        self.tally.seat(&vip.backends);
        self.vip = vip.clone();
        // Positions may have changed though weights have not.
        self.weights.clear();
        self.last = None;
    }

    fn take(&mut self, at: Duration, sample: &VipSample) {
        let inputs: Vec<Input> = sample.backends.iter().map(recording::BackendSample::input).collect();
        let mut on = Vec::new();
        self.governor.tick(at, &inputs, &mut on);
        let wait = |backend| self.governor.explain(backend).and_then(|explained| explained.first_progress);
        let waits = (0..inputs.len()).map(|backend| wait(backend).unwrap_or(Duration::MAX)).collect();
        let next = Moment { at, sample: sample.clone(), inputs, on, waits };
        if let Some(last) = self.last.take() {
            self.deal(&last, &next);
            self.tally.pass(next.at - last.at, &last.sample, &last.on);
        }
        self.last = Some(next);
    }

    /// Deals the flows out that came from `moment` to `next`, at random times.
    fn deal(&mut self, moment: &Moment, next: &Moment) {
        let came = moment.inputs.iter().zip(&next.inputs);
        // A counter that went back is a new one.
        let came: Vec<u64> = came.map(|(before, now)| now.opened.saturating_sub(before.opened)).collect();
        let flows: u64 = came.iter().sum();
        if flows == 0 {
            return;
        }
        self.seat(moment);
        let times = moments(self.flows, flows, next.at - moment.at);
        let mut scene = Scene::of(moment, next);
        for (backend, &now) in in_turns(&came).into_iter().zip(&times) {
            scene.advance(moment, now, &mut self.recorded.gauges);
            self.tally.came(backend, met(&self.recorded, moment, &self.vip, backend));
            scene.place(backend, now);
        }
        for number in 0..self.ways.len() {
            let (way, view) = (self.ways[number], &mut self.views[number]);
            view.outputs = outputs(way, moment);
            let mut scene = Scene::of(moment, next);
            for (flow, &now) in (self.flows..).zip(&times) {
                scene.advance(moment, now, &mut view.gauges);
                let choice = pick::pick(&context(&self.vip, way, moment, view, mix(flow)), view);
                let backend = choice.map(|choice| usize::from(choice.backend));
                let to = backend.map(|backend| (backend, met(view, moment, &self.vip, backend)));
                self.tally.would_come(number, to);
                if let Some(backend) = backend {
                    scene.place(backend, now);
                }
            }
        }
        self.flows += flows;
    }

    /// Sets all views to a moment, with new tables if others take flows than before.
    fn seat(&mut self, moment: &Moment) {
        let weight = |input: &Input| if input.usable { input.weight } else { 0 };
        let weights: Vec<u32> = moment.inputs.iter().map(weight).collect();
        if weights != self.weights {
            let view = || View::with_weights(&weights, moment.on.clone());
            self.views = self.ways.iter().map(|_| view()).collect();
            self.recorded = view();
            self.weights = weights;
        }
    }
}

/// What a way goes by at each backend.
fn outputs(way: Way, moment: &Moment) -> Vec<Output> {
    let backends = moment.sample.backends.iter().zip(&moment.on);
    backends.map(|(backend, on)| way.output(backend.output(), *on, backend.configured_limit)).collect()
}

fn context(vip: &recording::Vip, way: Way, moment: &Moment, view: &View, hash: u64) -> Context {
    let policy = way.policy(vip.policy);
    let (opening_cap, duty) = (moment.sample.opening_cap, moment.sample.duty);
    let live = |gauges| pick::live::<View>(gauges, opening_cap, duty);
    Context {
        rule: Rule {
            policy: policy as u8,
            awaiting_weight: vip.awaiting_weight,
            epsilon: (vip.epsilon * EPSILON_ONE).round() as u16,
        },
        hash,
        flow_hash: hash,
        table_size: view.table_size(),
        members: view.members(),
        opening_cap,
        duty,
        prompt: moment.sample.prompt,
        // Nobody else asks for it.
        total: if policy == pick::Policy::Bounded { view.gauges.iter().map(live).sum() } else { 0 },
        silence: 0,
        patience: 1,
    }
}

/// The load that a flow meets at a backend, in flows at nominal cost. All ways are measured alike: by what mode `on`
/// would have written.
fn met(view: &View, moment: &Moment, vip: &recording::Vip, backend: usize) -> f64 {
    let Output { cost, correction, limit, static_cost, share } = moment.on[backend];
    let candidate = Candidate {
        lacks: 0,
        gauges: view.gauges[backend],
        steer: Steer { cost, correction },
        limit,
        static_cost,
        share,
    };
    let load = pick::load::<View>(&context(vip, Way::Guidevane, moment, view, 0), &candidate) % FULL;
    load as f64 / LOAD_ONE as f64
}

/// When flows come within `time`, in order: as at random, for even distances would hide that they come in bunches.
fn moments(first: u64, flows: u64, time: Duration) -> Vec<Duration> {
    /// Keeps these draws apart from the hashes of flows.
    const TIMES: u64 = 1 << 63;
    let draw = |flow: u64| time.mul_f64((mix(flow | TIMES) >> 11) as f64 / (1_u64 << 53) as f64);
    let mut times: Vec<Duration> = (first..first + flows).map(draw).collect();
    times.sort_unstable();
    times
}

/// Backends as often as flows came to them, evenly mixed.
fn in_turns(came: &[u64]) -> Vec<usize> {
    let mut order: Vec<(f64, usize)> = Vec::new();
    for (backend, &count) in came.iter().enumerate() {
        order.extend((0..count).map(|number| ((number as f64 + 0.5) / count as f64, backend)));
    }
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    order.into_iter().map(|(_, backend)| backend).collect()
}

#[cfg(test)]
mod tests;
