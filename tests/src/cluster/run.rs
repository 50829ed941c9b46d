//! The run itself: one queue of events, in order of time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use guidevane::governor::{Explained, Governor, Input, Mode, Options, Output, Reported};
use lb_common::{
    pick::{self, Context, Rule},
    slot::State,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{Balancer, Outcome, Scenario, Times, Traffic, view::View};
use crate::sim::engine::{Engine, Event as Token, Request};

/// The governor's period.
const TICK: Duration = Duration::from_millis(5);

/// How often a server is scraped, and how long before and after its answer.
const SCRAPE: Duration = Duration::from_millis(250);
const SCRAPE_TRIP: Duration = Duration::from_millis(2);

/// One way through the network.
const TRIP: Duration = Duration::from_micros(100);

/// The kernel's age clock: acknowledged bytes are noted once in this for each flow.
const AGE_TICK: Duration = Duration::from_millis(1024);

/// Bytes of a token's event in a stream.
const TOKEN_BYTES: u64 = 200;

/// How much more a waiting flow counts: the default of VIPs.
const AWAITING_WEIGHT: u8 = 4;

/// Virtual time after the end in which everything must have been answered.
const DRAIN: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Open,
    Ask(u64),
    Reach(u64),
    Close(u64),
    Step(usize),
    Rate(usize, usize),
    Scrape(usize),
    Tick,
    Age,
}

struct Flow {
    server: usize,
    state: State,
    opened: Duration,
    first: Option<Duration>,
    unnoted: u64,
    request: Request,
}

/// What a server's metrics show: the state at the end of its last step.
#[derive(Clone, Copy, Default)]
struct Shown {
    running: u32,
    waiting: u32,
    kv_usage: f64,
    tokens: u64,
}

struct Host {
    engine: Engine,
    stepping: bool,
    shown: Shown,
    input: Input,
    /// A report on its way.
    heard: Option<Reported>,
}

struct Cluster<'a> {
    scenario: &'a Scenario,
    balancer: Balancer,
    hosts: Vec<Host>,
    view: View,
    governor: Governor,
    flows: BTreeMap<u64, Flow>,
    opened: u64,
    events: BinaryHeap<Reverse<(Duration, u64, What)>>,
    sequence: u64,
    now: Duration,
    arrivals: StdRng,
    first_token: Vec<f64>,
    latency: Vec<f64>,
    tokens: u64,
    served: Vec<usize>,
    explained: Vec<Explained>,
}

/// Runs a scenario to the answer of its last request.
///
/// # Panics
/// If the scenario's requests do not fit its servers.
pub fn run(scenario: &Scenario, balancer: Balancer) -> Outcome {
    let mut cluster = Cluster::new(scenario, balancer);
    cluster.start();
    while let Some(Reverse((at, _, what))) = cluster.events.pop() {
        cluster.now = at;
        if at > scenario.end && cluster.flows.is_empty() {
            break;
        }
        assert!(at < scenario.end + DRAIN, "{} requests are not answered", cluster.flows.len());
        cluster.handle(what);
    }
    cluster.outcome()
}

impl<'a> Cluster<'a> {
    fn new(scenario: &'a Scenario, balancer: Balancer) -> Self {
        let mode = if balancer == Balancer::Governor { Mode::On } else { Mode::Static };
        let mut governor = Governor::new(Options { mode, ..Options::default() });
        let hosts: Vec<Host> = scenario.servers.iter().map(Host::new).collect();
        let inputs: Vec<Input> = hosts.iter().map(|host| host.input).collect();
        let mut outputs: Vec<Output> = Vec::new();
        governor.tick(Duration::ZERO, &inputs, &mut outputs);
        Self {
            scenario,
            balancer,
            served: vec![0; hosts.len()],
            explained: vec![Explained::default(); hosts.len()],
            hosts,
            view: View::new(outputs),
            governor,
            flows: BTreeMap::new(),
            opened: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            now: Duration::ZERO,
            arrivals: StdRng::seed_from_u64(scenario.seed),
            first_token: Vec::new(),
            latency: Vec::new(),
            tokens: 0,
        }
    }

    fn after(&mut self, delay: Duration, what: What) {
        self.sequence += 1;
        self.events.push(Reverse((self.now + delay, self.sequence, what)));
    }

    fn start(&mut self) {
        let scenario = self.scenario;
        match scenario.traffic {
            Traffic::Closed(clients) => (0..clients).for_each(|_| self.after(Duration::ZERO, What::Open)),
            Traffic::Poisson(_) => self.after(Duration::ZERO, What::Open),
        }
        let servers = self.hosts.len() as u32;
        for (server, host) in scenario.servers.iter().enumerate() {
            for (number, (at, _)) in host.changes.iter().enumerate() {
                self.after(*at, What::Rate(server, number));
            }
            self.after(SCRAPE * server as u32 / servers, What::Scrape(server));
            self.kick(server);
        }
        self.after(AGE_TICK, What::Age);
        if self.balancer == Balancer::Governor {
            self.after(TICK, What::Tick);
        }
    }

    fn handle(&mut self, what: What) {
        match what {
            What::Open => self.open(),
            What::Ask(id) => self.ask(id),
            What::Reach(id) => self.reach(id),
            What::Close(id) => self.close(id),
            What::Step(server) => self.step(server),
            What::Rate(server, number) => {
                self.hosts[server].engine.set_rate(self.scenario.servers[server].changes[number].1);
            }
            What::Scrape(server) => self.scrape(server),
            What::Tick => self.tick(),
            What::Age => self.age(),
        }
    }

    /// A connection opens: this is where the balancer chooses.
    fn open(&mut self) {
        if self.now > self.scenario.end {
            return;
        }
        let id = self.opened;
        self.opened += 1;
        if let Traffic::Poisson(rate) = self.scenario.traffic {
            let uniform: f64 = self.arrivals.random();
            self.after(Duration::from_secs_f64(-(1.0 - uniform).ln() / rate), What::Open);
        }
        // A request's size and hash depend on its number alone, so every balancer gets the same requests.
        let mut random = StdRng::seed_from_u64(self.scenario.seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let request = Request {
            id,
            prompt_tokens: self.scenario.prompt.draw(&mut random),
            output_tokens: self.scenario.output.draw(&mut random),
        };
        let server = self.choose(random.random());
        if self.now >= self.scenario.warm_up {
            self.served[server] += 1;
        }
        self.hosts[server].input.opened += 1;
        let flow = Flow { server, state: State::Empty, opened: self.now, first: None, unnoted: 0, request };
        self.flows.insert(id, flow);
        self.turn(id, State::Opening);
        self.after(TRIP * 2, What::Ask(id));
    }

    fn choose(&self, hash: u64) -> usize {
        let rule =
            Rule { policy: self.balancer.policy() as u8, awaiting_weight: AWAITING_WEIGHT, epsilon: 256 };
        let context = Context {
            rule,
            hash,
            flow_hash: hash,
            table_size: self.view.table_size(),
            members: self.hosts.len() as u32,
            opening_cap: self.governor.opening_cap(),
            duty: self.governor.duty(),
            total: 0,
            silence: 0,
            patience: 1,
        };
        usize::from(pick::pick(&context, &self.view).expect("all backends can take flows").backend)
    }

    fn turn(&mut self, id: u64, state: State) {
        let flow = self.flows.get_mut(&id).expect("the flow is open");
        let gauges = &mut self.view.gauges[flow.server];
        if let Some(gauge) = flow.state.gauge() {
            gauges[gauge as usize] -= 1;
        }
        if let Some(gauge) = state.gauge() {
            gauges[gauge as usize] += 1;
        }
        flow.state = state;
    }

    /// The request passes the balancer.
    fn ask(&mut self, id: u64) {
        self.turn(id, State::Awaiting);
        self.hosts[self.flows[&id].server].input.requests += 1;
        self.after(TRIP, What::Reach(id));
    }

    /// The request reaches the server.
    fn reach(&mut self, id: u64) {
        let flow = &self.flows[&id];
        let server = flow.server;
        self.hosts[server].engine.submit(flow.request).expect("requests fit every server");
        self.kick(server);
    }

    /// Begins a step if the engine rests and has something to do.
    fn kick(&mut self, server: usize) {
        let now = self.now;
        let host = &mut self.hosts[server];
        if host.stepping {
            return;
        }
        host.engine.advance_to(now);
        if let Some(duration) = host.engine.begin_step() {
            host.stepping = true;
            self.after(duration, What::Step(server));
        }
    }

    fn step(&mut self, server: usize) {
        let host = &mut self.hosts[server];
        host.stepping = false;
        let tokens = host.engine.finish_step().to_vec();
        host.shown = Shown::of(&host.engine);
        for token in tokens {
            if let Token::Token { id, number, last } = token {
                self.token(id, number, last);
            }
        }
        self.kick(server);
    }

    /// A token comes out; the client's acknowledgement of it is taken to pass at once.
    fn token(&mut self, id: u64, number: u32, last: bool) {
        let measured = self.now >= self.scenario.warm_up && self.now <= self.scenario.end;
        self.tokens += u64::from(measured);
        if number == 1 {
            self.turn(id, State::Streaming);
        }
        let flow = self.flows.get_mut(&id).expect("the flow is open");
        flow.unnoted += TOKEN_BYTES;
        if number == 1 {
            flow.first = Some(self.now);
            let waited = self.now - flow.opened;
            let input = &mut self.hosts[flow.server].input;
            input.progress_count += 1;
            input.progress_sum_ns += waited.as_nanos() as u64;
        }
        if last {
            self.after(TRIP, What::Close(id));
        }
    }

    fn close(&mut self, id: u64) {
        self.turn(id, State::Closed);
        let flow = self.flows.remove(&id).expect("the flow is open");
        self.hosts[flow.server].input.progressed += flow.unnoted;
        let first = flow.first.expect("a closed flow has had its tokens");
        if flow.opened >= self.scenario.warm_up {
            self.first_token.push((first - flow.opened).as_secs_f64());
            self.latency.push((self.now - flow.opened).as_secs_f64());
        }
        if matches!(self.scenario.traffic, Traffic::Closed(_)) {
            self.after(TRIP, What::Open);
        }
    }

    fn scrape(&mut self, server: usize) {
        if self.scenario.reports_end.is_some_and(|end| self.now >= end) {
            return;
        }
        let shown = self.hosts[server].shown;
        // It is heard of at the first tick after the way back.
        self.hosts[server].heard = Some(Reported {
            running: Some(f64::from(shown.running)),
            waiting: Some(f64::from(shown.waiting)),
            kv_usage: Some(shown.kv_usage),
            generation_tokens: Some(shown.tokens as f64),
            cadence: None,
            taken_start: self.now.saturating_sub(SCRAPE_TRIP),
            taken_end: self.now + SCRAPE_TRIP,
        });
        self.after(SCRAPE, What::Scrape(server));
    }

    fn tick(&mut self) {
        let now = self.now;
        for (host, gauges) in self.hosts.iter_mut().zip(&self.view.gauges) {
            host.input.gauges = *gauges;
            if let Some(heard) = host.heard.take_if(|heard| heard.taken_end <= now) {
                host.input.reported = Some(heard);
            }
        }
        let inputs: Vec<Input> = self.hosts.iter().map(|host| host.input).collect();
        self.governor.tick(now, &inputs, &mut self.view.outputs);
        if now <= self.scenario.end {
            for (server, explained) in self.explained.iter_mut().enumerate() {
                *explained = *self.governor.explain(server).expect("the governor knows every server");
            }
        }
        self.after(TICK, What::Tick);
    }

    /// The age clock ticks: the next packet of every streaming flow has its bytes noted.
    fn age(&mut self) {
        for flow in self.flows.values_mut().filter(|flow| flow.state == State::Streaming) {
            self.hosts[flow.server].input.progressed += std::mem::take(&mut flow.unnoted);
        }
        self.after(AGE_TICK, What::Age);
    }

    fn outcome(self) -> Outcome {
        let measured = self.scenario.end - self.scenario.warm_up;
        Outcome {
            requests: self.latency.len(),
            tokens_per_second: self.tokens as f64 / measured.as_secs_f64(),
            first_token: Times::of(self.first_token),
            latency: Times::of(self.latency),
            served: self.served,
            explained: self.explained,
        }
    }
}

impl Shown {
    fn of(engine: &Engine) -> Self {
        Self {
            running: engine.running(),
            waiting: engine.waiting(),
            kv_usage: engine.kv_usage(),
            tokens: engine.counters().generation_tokens,
        }
    }
}

impl Host {
    fn new(server: &super::Server) -> Self {
        let mut engine = Engine::new(server.engine);
        engine.set_rate(server.rate);
        engine.set_foreign(server.foreign).expect("the scenario's foreign requests fit");
        let input = Input {
            gauges: [0; 4],
            opened: 0,
            requests: 0,
            progressed: 0,
            progress_count: 0,
            progress_sum_ns: 0,
            weight: 100,
            configured_limit: None,
            usable: true,
            reported: None,
            hardware: None,
        };
        Self { engine, stepping: false, shown: Shown::default(), input, heard: None }
    }
}
