//! One balancer: its own gauges, its governor, and how its policy chooses.

use std::{collections::VecDeque, time::Duration};

use lb_common::{
    flow::{mix, reduce},
    pick::{self, Context, Rule},
    slot::{self, Gauge, Slot},
};

use super::{
    super::{
        engine::Request,
        oracle::{self, Until},
        policy::Policy,
        prequal::Prequal,
        view::View,
    },
    host::Host,
};
use crate::{
    governor::{AWAITING_WEIGHT, Governor, Input, Mode, Options, Reported},
    recording::VipSample,
};

/// A server as a poll saw it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Polled {
    waiting: u32,
    kv_usage: f64,
    in_flight: u32,
}

#[derive(Debug)]
pub(super) struct Balancer {
    policy: Policy,
    pub(super) view: View,
    pub(super) governor: Governor,
    pub(super) inputs: Vec<Input>,
    /// Reports on their way, by server.
    heard: Vec<VecDeque<(Duration, Reported)>>,
    polled: Vec<Polled>,
    /// Cumulated weights of [`Policy::Weights`].
    weights: Vec<f64>,
    prequal: Prequal,
}

impl Balancer {
    pub(super) fn new(policy: Policy, servers: usize) -> Self {
        let mode = if policy.is_governed() { Mode::On } else { Mode::Static };
        let mut governor = Governor::new(Options { mode, ..Options::default() });
        let inputs = vec![Input { weight: 100, usable: true, ..Input::default() }; servers];
        let mut outputs = Vec::new();
        governor.tick(Duration::ZERO, &inputs, &mut outputs);
        Self {
            policy,
            view: View::new(outputs),
            governor,
            inputs,
            heard: vec![VecDeque::new(); servers],
            polled: vec![Polled::default(); servers],
            weights: Vec::new(),
            prequal: Prequal::default(),
        }
    }

    /// A flow goes from one state to another.
    pub(super) fn turn(&mut self, server: usize, from: Slot, to: Slot) {
        let gauges = &mut self.view.gauges[server];
        if let Some(gauge) = from.state().gauge() {
            gauges[gauge as usize] -= 1;
        }
        if let Some(gauge) = to.state().gauge() {
            gauges[gauge as usize] += 1;
        }
        gauges[Gauge::Prompts as usize] += to.prompts();
        gauges[Gauge::Prompts as usize] -= from.prompts();
    }

    /// A report leaves for this balancer and is there at `at`.
    pub(super) fn hear(&mut self, server: usize, at: Duration, report: Reported) {
        self.heard[server].push_back((at, report));
    }

    /// Looks at all servers as a poll does.
    pub(super) fn poll(&mut self, hosts: &[Host]) {
        for (polled, host) in self.polled.iter_mut().zip(hosts) {
            *polled = Polled {
                waiting: host.shown.waiting,
                kv_usage: host.shown.kv_usage,
                in_flight: host.in_flight,
            };
        }
    }

    /// The governor's tick.
    pub(super) fn tick(&mut self, now: Duration) {
        let seen = self.inputs.iter_mut().zip(&self.view.gauges).zip(&mut self.heard);
        for ((input, gauges), heard) in seen {
            input.gauges = *gauges;
            while let Some((_, report)) = heard.pop_front_if(|(at, _)| *at <= now) {
                input.reported = Some(report);
            }
        }
        self.governor.tick(now, &self.inputs, &mut self.view.outputs);
        if self.policy == Policy::Weights {
            let mut sum = 0.0;
            let inverse = self.view.gauges.iter().zip(&self.view.outputs).map(|(gauges, output)| {
                let live = slot::flows(gauges);
                1.0 / (f64::from(live + 1) * f64::from(output.cost))
            });
            self.weights.clear();
            self.weights.extend(inverse.map(|weight| {
                sum += weight;
                sum
            }));
        }
    }

    /// What the last tick was told, and what it wrote.
    pub(super) fn sample(&self) -> VipSample {
        VipSample::of(&self.governor.total(), &self.inputs, &self.view.outputs)
    }

    /// Chooses a server for a request; `hash` is its flow's.
    pub(super) fn choose(&mut self, now: Duration, hash: u64, request: Request, hosts: &[Host]) -> usize {
        let count = hosts.len();
        match self.policy {
            Policy::RoundRobin => self.pick(pick::Policy::RoundRobin, hash),
            Policy::Hash => self.pick(pick::Policy::Hash, hash),
            Policy::LeastConnectionsD => self.pick(pick::Policy::LeastConnections, hash),
            Policy::LiveCounts | Policy::Guidevane => self.pick(pick::Policy::Least, hash),
            Policy::Random => draw(hash, 0, count),
            Policy::LeastConnections => least(hash, count, |server| f64::from(self.view.open(server))),
            Policy::PowerOfTwo => two(hash, count, |server| hosts[server].in_flight),
            Policy::PowerOfTwoStale => two(hash, count, |server| self.polled[server].in_flight),
            Policy::Weights => self.by_weight(hash, count),
            Policy::Epp => self.by_score(hash, count),
            Policy::Prequal => self
                .prequal
                .choose(now, hash, count, |server| (hosts[server].in_flight, &hosts[server].latency)),
            Policy::OracleSpeeds => {
                least(hash, count, |server| f64::from(self.view.open(server) + 1) / hosts[server].speed)
            }
            Policy::OracleAwaiting => least(hash, count, |server| {
                let awaiting = self.view.gauges[server][Gauge::Awaiting as usize];
                let load = self.view.open(server) + 1 + u32::from(AWAITING_WEIGHT) * (awaiting + 1);
                f64::from(load) / hosts[server].speed
            }),
            Policy::OracleTtft => soonest(now, hash, request, hosts, Until::First),
            Policy::OracleLatency => soonest(now, hash, request, hosts, Until::Last),
        }
    }

    fn pick(&self, policy: pick::Policy, hash: u64) -> usize {
        let context = Context {
            rule: Rule { policy: policy as u8, awaiting_weight: AWAITING_WEIGHT, epsilon: 256 },
            hash,
            flow_hash: hash,
            table_size: self.view.table_size(),
            members: self.view.members(),
            opening_cap: self.governor.opening_cap(),
            duty: self.governor.duty(),
            prompt: self.governor.prompt(),
            total: 0,
            silence: 0,
            patience: 1,
        };
        usize::from(pick::pick(&context, &self.view).expect("all backends can take flows").backend)
    }

    fn by_weight(&self, hash: u64, count: usize) -> usize {
        let Some(sum) = self.weights.last() else { return draw(hash, 0, count) };
        let point = (mix(hash) >> 11) as f64 / (1_u64 << 53) as f64 * sum;
        self.weights.partition_point(|reach| *reach <= point).min(count - 1)
    }

    /// Two scorers of equal weight, each from 0 to 1; the highest sum wins, at random among equals.
    fn by_score(&self, hash: u64, count: usize) -> usize {
        let queues = || self.polled.iter().map(|polled| polled.waiting);
        let (low, high) = (queues().min().unwrap_or(0), queues().max().unwrap_or(0));
        least(hash, count, |server| {
            let polled = self.polled[server];
            let queue =
                if high == low { 1.0 } else { f64::from(high - polled.waiting) / f64::from(high - low) };
            -(queue + 1.0 - polled.kv_usage)
        })
    }
}

/// A random server: draw `number` of a hash.
fn draw(hash: u64, number: u64, count: usize) -> usize {
    let bits = mix(hash.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    reduce((bits >> 32) as u32, count as u32) as usize
}

/// The better of two random servers.
fn two(hash: u64, count: usize, load: impl Fn(usize) -> u32) -> usize {
    let first = draw(hash, 0, count);
    let second = (first + 1 + draw(hash, 1, count.saturating_sub(1).max(1))) % count;
    if load(second) < load(first) { second } else { first }
}

/// The server of the smallest load; hash order among equals.
fn least(hash: u64, count: usize, load: impl Fn(usize) -> f64) -> usize {
    let best = (0..count).map(|server| (load(server), server)).reduce(|best, next| {
        let order = next.0.total_cmp(&best.0);
        let order =
            order.then_with(|| pick::score(hash, next.1 as u16).cmp(&pick::score(hash, best.1 as u16)));
        if order.is_lt() { next } else { best }
    });
    best.map_or(0, |(_, server)| server)
}

/// The server that answers soonest. Those with fewer requests go first: they set a limit to the rest.
fn soonest(now: Duration, hash: u64, request: Request, hosts: &[Host], until: Until) -> usize {
    let mut order: Vec<usize> = (0..hosts.len()).collect();
    let load = |server: usize| f64::from(hosts[server].in_flight + 1) / hosts[server].speed;
    order.sort_by(|a, b| {
        let order = load(*a).total_cmp(&load(*b));
        order.then_with(|| pick::score(hash, *a as u16).cmp(&pick::score(hash, *b as u16)))
    });
    let mut best = (Duration::MAX, order[0]);
    for server in order {
        let host = &hosts[server];
        let answer = oracle::answer(&host.engine, &host.on_the_way, request, now, until, best.0);
        if let Some(at) = answer {
            best = (at, server);
        }
    }
    best.1
}
