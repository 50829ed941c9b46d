//! The run itself: one queue of events, in order of time.

mod balancer;
mod flow;
mod host;
mod learning;

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use lb_common::{
    flow::reduce,
    slot::{Slot, State},
    track::size_of_request,
};
use rand::{Rng as _, rngs::StdRng};

use super::{
    Outcome, Policy, Scenario, Times, Traffic,
    engine::{Event as Token, Request},
    random::{self, Use},
    scenario::Sizes,
    spectrum,
};
use crate::{
    governor::{Explained, Reported},
    recording::VipSample,
};

use balancer::Balancer;
use flow::{AGE_TICK, Asked, Flow, IDLE_AFTER, KEEP_ALIVE, PROMPT_BYTES, TOKEN_BYTES, slot};
use host::Host;
use learning::Learning;

/// The governor's period.
const TICK: Duration = Duration::from_millis(5);

/// How long a scrape takes to a server, and from it.
const SCRAPE_TRIP: Duration = Duration::from_millis(2);

/// One way through the network.
const TRIP: Duration = Duration::from_micros(100);

/// Periods of polls: the reference endpoint picker's, and of stale power of two.
const EPP_POLL: Duration = Duration::from_millis(50);
const STALE_POLL: Duration = Duration::from_secs(5);

/// Virtual time after the end in which everything must have been answered.
const DRAIN: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Open,
    Ask(u32),
    Reach(u32),
    Close(u32),
    /// A connection has been silent since its request with this number.
    Rest(u32, u32),
    Expire(u32, u32),
    Step(u32),
    Rate(u32, u32),
    Scrape(u32, u32),
    Poll(u32),
    Tick(u32),
    Sample,
}

/// Runs a scenario until its last request is answered, an hour after its end at the latest.
///
/// # Panics
/// If the scenario's requests do not fit its servers.
pub fn run(scenario: &Scenario, policy: Policy) -> Outcome {
    World::new(scenario, policy, None).run()
}

/// The same, and tells `watch` when the first balancer's governor ticks, and what it was told and wrote; policies
/// without a governor have no ticks.
///
/// # Panics
/// As [`run`].
pub fn run_watched(
    scenario: &Scenario,
    policy: Policy,
    mut watch: impl FnMut(Duration, VipSample),
) -> Outcome {
    World::new(scenario, policy, Some(&mut watch)).run()
}

/// Takes note of a tick.
type Watch<'a> = Option<&'a mut dyn FnMut(Duration, VipSample)>;

struct World<'a> {
    scenario: &'a Scenario,
    policy: Policy,
    hosts: Vec<Host>,
    balancers: Vec<Balancer>,
    flows: Vec<Flow>,
    requests: Vec<Asked>,
    /// Connections without a request, kept open.
    resting: Vec<u32>,
    unanswered: usize,
    events: BinaryHeap<Reverse<(Duration, u64, What)>>,
    sequence: u64,
    now: Duration,
    arrivals: StdRng,
    tokens: u64,
    scraped: u64,
    served: Vec<usize>,
    explained: Vec<Explained>,
    learning: Learning,
    load: Vec<Vec<f32>>,
    step_events: Vec<Token>,
    watch: Watch<'a>,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, policy: Policy, watch: Watch<'a>) -> Self {
        let servers = scenario.servers.len();
        let hosts: Vec<Host> = scenario.servers.iter().map(Host::new).collect();
        Self {
            scenario,
            policy,
            hosts,
            balancers: (0..scenario.balancers.max(1)).map(|_| Balancer::new(policy, servers)).collect(),
            flows: Vec::new(),
            requests: Vec::new(),
            resting: Vec::new(),
            unanswered: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            now: Duration::ZERO,
            arrivals: random::generator(scenario.seed, Use::Request, u64::MAX),
            tokens: 0,
            scraped: 0,
            served: vec![0; servers],
            explained: vec![Explained::default(); servers],
            learning: Learning::default(),
            load: vec![Vec::new(); servers],
            step_events: Vec::new(),
            watch,
        }
    }

    fn run(mut self) -> Outcome {
        self.start();
        while let Some(Reverse((at, _, what))) = self.events.pop() {
            self.now = at;
            let end = self.scenario.end;
            if (at > end && self.unanswered == 0) || at > end + DRAIN {
                break;
            }
            self.handle(what);
        }
        self.outcome()
    }

    fn after(&mut self, delay: Duration, what: What) {
        self.sequence += 1;
        self.events.push(Reverse((self.now + delay, self.sequence, what)));
    }

    fn phase(&self, number: u64) -> f64 {
        random::unit(self.scenario.seed, Use::Phase, number)
    }

    fn start(&mut self) {
        let scenario = self.scenario;
        match &scenario.traffic {
            Traffic::Closed(clients, _) => (0..*clients).for_each(|_| self.after(Duration::ZERO, What::Open)),
            Traffic::Poisson(..) => self.after(Duration::ZERO, What::Open),
            Traffic::Trace(arrivals) => {
                if let Some(first) = arrivals.first() {
                    self.after(first.at, What::Open);
                }
            }
        }
        for (server, host) in scenario.servers.iter().enumerate() {
            for (number, (at, _)) in host.changes.iter().enumerate() {
                self.after(*at, What::Rate(server as u32, number as u32));
            }
            self.kick(server);
        }
        for balancer in 0..self.balancers.len() {
            self.start_balancer(balancer as u32);
        }
        self.after(spectrum::SAMPLE, What::Sample);
    }

    fn start_balancer(&mut self, balancer: u32) {
        if self.policy.is_governed() {
            for server in 0..self.hosts.len() as u32 {
                let phase = self.phase(u64::from(balancer) << 32 | u64::from(server));
                self.after(self.scenario.reports.interval.mul_f64(phase), What::Scrape(balancer, server));
            }
            let phase = self.phase(u64::from(balancer) << 32 | u64::from(u32::MAX));
            self.after(TICK.mul_f64(phase), What::Tick(balancer));
        }
        if matches!(self.policy, Policy::Epp | Policy::PowerOfTwoStale) {
            self.after(Duration::ZERO, What::Poll(balancer));
        }
    }

    fn handle(&mut self, what: What) {
        match what {
            What::Open => self.open(),
            What::Ask(id) => self.ask(id),
            What::Reach(id) => self.reach(id),
            What::Close(flow) => self.close(flow),
            What::Rest(flow, request) => self.rest(flow, request),
            What::Expire(flow, request) => self.expire(flow, request),
            What::Step(server) => self.step(server as usize),
            What::Rate(server, number) => self.change_rate(server as usize, number as usize),
            What::Scrape(balancer, server) => self.scrape(balancer, server),
            What::Poll(balancer) => self.poll(balancer),
            What::Tick(balancer) => self.tick(balancer),
            What::Sample => self.sample(),
        }
    }

    /// A request comes, on a kept-open connection or a new one: there the balancer chooses.
    fn open(&mut self) {
        if self.now > self.scenario.end {
            return;
        }
        let id = self.requests.len() as u32;
        let request = self.next_request(id);
        let seed = self.scenario.seed;
        let kept = 1.0 - 1.0 / self.scenario.requests_per_connection.max(1.0);
        let reuse = random::unit(seed, Use::Reuse, u64::from(id));
        let flow = if reuse < kept && !self.resting.is_empty() {
            let position = (reuse / kept * self.resting.len() as f64) as usize;
            let flow = self.resting.swap_remove(position);
            self.flows[flow as usize].ask(id);
            self.after(TRIP, What::Ask(id));
            flow
        } else {
            self.connect(id, request)
        };
        let server = self.flows[flow as usize].server as usize;
        self.hosts[server].on_the_way.push(request);
        self.hosts[server].in_flight += 1;
        self.requests.push(Asked { request, flow, at: self.now, first: None, done: None });
        self.unanswered += 1;
        if self.now >= self.scenario.warm_up {
            self.served[server] += 1;
        }
    }

    /// Sizes depend on the request's number alone, so every policy gets the same requests.
    fn next_request(&mut self, id: u32) -> Request {
        let draw = |sizes: &Sizes| {
            let mut random = random::generator(self.scenario.seed, Use::Request, u64::from(id));
            (sizes.prompt.draw(&mut random), sizes.output.draw(&mut random))
        };
        let (prompt_tokens, output_tokens) = match &self.scenario.traffic {
            Traffic::Closed(_, sizes) => draw(sizes),
            Traffic::Poisson(rate, sizes) => {
                let drawn = draw(sizes);
                let uniform: f64 = self.arrivals.random();
                self.after(Duration::from_secs_f64(-(1.0 - uniform).ln() / rate), What::Open);
                drawn
            }
            Traffic::Trace(arrivals) => {
                let position = id as usize;
                if let Some(next) = arrivals.get(position + 1) {
                    self.after(next.at.saturating_sub(self.now), What::Open);
                }
                (arrivals[position].prompt_tokens, arrivals[position].output_tokens)
            }
        };
        Request { id: u64::from(id), prompt_tokens, output_tokens }
    }

    fn connect(&mut self, id: u32, request: Request) -> u32 {
        let flow = self.flows.len() as u32;
        let hash = random::bits(self.scenario.seed, Use::Flow, u64::from(id));
        let balancer = reduce(hash as u32, self.balancers.len() as u32) as u16;
        let chosen = &mut self.balancers[usize::from(balancer)];
        let spread = random::bits(self.scenario.seed, Use::Policy, u64::from(id));
        let server = chosen.choose(self.now, spread, request, &self.hosts);
        chosen.inputs[server].opened += 1;
        self.flows.push(Flow::new(balancer, server as u32, id));
        self.turn(flow, slot(State::Opening));
        self.after(TRIP * 2, What::Ask(id));
        flow
    }

    /// What the slot of a flow becomes; all of its fields but state and size are nobody's here.
    fn turn(&mut self, flow: u32, slot: Slot) {
        let flow = &mut self.flows[flow as usize];
        self.balancers[usize::from(flow.balancer)].turn(flow.server as usize, flow.slot, slot);
        flow.slot = slot;
    }

    /// The request passes the balancer.
    fn ask(&mut self, id: u32) {
        let Asked { flow, request, .. } = self.requests[id as usize];
        let bytes = request.prompt_tokens.saturating_mul(PROMPT_BYTES);
        self.turn(flow, slot(State::Awaiting).asking(size_of_request(bytes)));
        let flow = &self.flows[flow as usize];
        self.balancers[usize::from(flow.balancer)].inputs[flow.server as usize].requests += 1;
        self.after(TRIP, What::Reach(id));
    }

    /// The request reaches the server.
    fn reach(&mut self, id: u32) {
        let asked = &self.requests[id as usize];
        let server = self.flows[asked.flow as usize].server as usize;
        let host = &mut self.hosts[server];
        host.on_the_way.retain(|request| request.id != u64::from(id));
        host.engine.submit(asked.request).expect("requests fit every server");
        self.kick(server);
    }

    fn kick(&mut self, server: usize) {
        if let Some(duration) = self.hosts[server].kick(self.now) {
            self.after(duration, What::Step(server as u32));
        }
    }

    fn step(&mut self, server: usize) {
        let host = &mut self.hosts[server];
        let mut events = std::mem::take(&mut self.step_events);
        events.clear();
        events.extend_from_slice(host.engine.finish_step());
        host.publish();
        for event in &events {
            if let Token::Token { id, number, last } = *event {
                self.token(id as u32, number, last);
            }
        }
        self.step_events = events;
        self.kick(server);
    }

    /// A token comes out; the client's acknowledgement of it is taken to pass at once.
    fn token(&mut self, id: u32, number: u32, last: bool) {
        let measured = self.now >= self.scenario.warm_up && self.now <= self.scenario.end;
        self.tokens += u64::from(measured);
        let asked = &mut self.requests[id as usize];
        let number_of_flow = asked.flow;
        if number == 1 {
            asked.first = Some(self.now);
            let waited = self.now - asked.at;
            let server = self.flows[number_of_flow as usize].server as usize;
            self.hosts[server].latency.note(waited.as_secs_f64());
            self.turn(number_of_flow, slot(State::Streaming));
            let flow = &self.flows[number_of_flow as usize];
            let input = &mut self.balancers[usize::from(flow.balancer)].inputs[flow.server as usize];
            input.progress_count += 1;
            input.progress_sum_ns += waited.as_nanos() as u64;
        }
        let flow = &mut self.flows[number_of_flow as usize];
        flow.unnoted += TOKEN_BYTES;
        let age = (self.now.as_nanos() / AGE_TICK.as_nanos()) as u32;
        if std::mem::replace(&mut flow.age, age) != age || last {
            let input = &mut self.balancers[usize::from(flow.balancer)].inputs[flow.server as usize];
            input.progressed += std::mem::take(&mut flow.unnoted);
        }
        if last {
            self.finish(id, number_of_flow);
        }
    }

    fn finish(&mut self, id: u32, flow: u32) {
        let asked = &mut self.requests[id as usize];
        asked.done = Some(self.now);
        self.unanswered -= 1;
        let host = &mut self.hosts[self.flows[flow as usize].server as usize];
        host.in_flight -= 1;
        if self.scenario.requests_per_connection <= 1.0 {
            self.after(TRIP, What::Close(flow));
        } else {
            self.flows[flow as usize].request = None;
            self.resting.push(flow);
            self.after(IDLE_AFTER, What::Rest(flow, id));
            self.after(KEEP_ALIVE, What::Expire(flow, id));
        }
    }

    fn close(&mut self, flow: u32) {
        self.turn(flow, slot(State::Closed));
        if matches!(self.scenario.traffic, Traffic::Closed(..)) {
            self.after(TRIP, What::Open);
        }
    }

    /// Whether nothing was asked on a connection since its request `last`.
    fn rests(&self, flow: u32, last: u32) -> bool {
        let flow = &self.flows[flow as usize];
        flow.request.is_none() && flow.last == last
    }

    fn rest(&mut self, flow: u32, last: u32) {
        if self.rests(flow, last) {
            self.turn(flow, slot(State::Idle));
        }
    }

    fn expire(&mut self, flow: u32, last: u32) {
        if self.rests(flow, last) {
            self.resting.retain(|resting| *resting != flow);
            self.turn(flow, slot(State::Closed));
        }
    }

    fn change_rate(&mut self, server: usize, number: usize) {
        let changes = &self.scenario.servers[server].changes;
        let before = number.checked_sub(1).map_or(self.scenario.servers[server].rate, |n| changes[n].1);
        let rate = changes[number].1;
        self.hosts[server].set_rate(rate);
        if self.policy == Policy::Guidevane && self.now <= self.scenario.end {
            let theta = self.balancers[0].governor.explain(server).map_or(1.0, |known| known.theta.applied);
            self.learning.change(self.now, server, theta, before / rate);
        }
    }

    fn scrape(&mut self, balancer: u32, server: u32) {
        let reports = &self.scenario.reports;
        if reports.end.is_some_and(|end| self.now >= end) {
            return;
        }
        self.scraped += 1;
        if random::unit(self.scenario.seed, Use::Loss, self.scraped) >= reports.loss {
            let shown = self.hosts[server as usize].shown;
            let report = Reported {
                running: Some(f64::from(shown.running)),
                waiting: Some(f64::from(shown.waiting)),
                kv_usage: Some(shown.kv_usage),
                generation_tokens: Some(shown.tokens as f64),
                prompt_tokens: Some(shown.prompt_tokens as f64),
                // As vLLM, which does not tell.
                max_num_seqs: None,
                cadence: None,
                taken_start: self.now.saturating_sub(SCRAPE_TRIP),
                taken_end: self.now + SCRAPE_TRIP,
            };
            let heard = report.taken_end + reports.delay;
            self.balancers[balancer as usize].hear(server as usize, heard, report);
        }
        self.after(reports.interval, What::Scrape(balancer, server));
    }

    fn poll(&mut self, balancer: u32) {
        self.balancers[balancer as usize].poll(&self.hosts);
        let period = if self.policy == Policy::Epp { EPP_POLL } else { STALE_POLL };
        self.after(period, What::Poll(balancer));
    }

    fn tick(&mut self, number: u32) {
        let balancer = &mut self.balancers[number as usize];
        balancer.tick(self.now);
        if number == 0 && self.now <= self.scenario.end {
            self.learning.tick(self.now, &balancer.governor);
            if let Some(watch) = &mut self.watch {
                watch(self.now, balancer.sample());
            }
            for (server, explained) in self.explained.iter_mut().enumerate() {
                *explained = balancer.governor.explain(server).expect("the governor knows every server");
            }
        }
        self.after(TICK, What::Tick(number));
    }

    fn sample(&mut self) {
        if self.now > self.scenario.end {
            return;
        }
        for (load, host) in self.load.iter_mut().zip(&self.hosts) {
            load.push(host.outstanding() as f32);
        }
        self.after(spectrum::SAMPLE, What::Sample);
    }

    fn outcome(self) -> Outcome {
        let span = self.scenario.end - self.scenario.warm_up;
        let measured = || self.requests.iter().filter(|asked| asked.at >= self.scenario.warm_up);
        let since = |asked: &Asked, moment: Option<Duration>| Some((moment? - asked.at).as_secs_f64());
        let latency: Vec<f64> = measured().filter_map(|asked| since(asked, asked.done)).collect();
        Outcome {
            requests: latency.len(),
            unfinished: measured().count() - latency.len(),
            tokens_per_second: self.tokens as f64 / span.as_secs_f64(),
            first_token: Times::of(measured().filter_map(|asked| since(asked, asked.first)).collect()),
            latency: Times::of(latency),
            served: self.served,
            explained: self.explained,
            learned: self.learning.end(),
            load: self.load,
        }
    }
}
