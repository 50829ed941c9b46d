//! A pool in virtual time: the governor, the kernel's pick, and servers whose flows live as long as they are told.

use std::{collections::BTreeMap, time::Duration};

use lb_common::{
    pick::{self, Context, Policy, Rule},
    slot::{Gauge, PROMPTS_LEAST},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    governor::{AWAITING_WEIGHT, Governor, Input, Options},
    sim::view::View,
};

const TICK: Duration = Duration::from_millis(5);
const SERVERS: usize = 8;

/// The first server may fail from here on; windows are looked at a little later.
const FAILS: f64 = 6.0;
const SETTLED: f64 = 2.0;
const END: f64 = 20.0;

/// How a connection to a server goes.
#[derive(Clone, Copy, Debug)]
enum Habit {
    /// Lives for this many seconds as a mean, some of them awaiting, and acknowledges this many bytes.
    Serves(f64, f64),
    /// Answers at once with an error of this many bytes.
    Errors(f64),
    /// The error is smaller than headers are taken to be: the sweep ends the flow, seconds later.
    ShortErrors,
    /// Refuses: the balancer sees a SYN and no more.
    Refuses,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Open,
    Turn(usize, Gauge, Option<Gauge>),
    End(usize, Gauge, u64),
    Tick,
}

struct Pool {
    rate: f64,
    habits: [Habit; SERVERS],
    later: Habit,
    governor: Governor,
    view: View,
    inputs: Vec<Input>,
    events: BTreeMap<(Duration, u64), What>,
    now: Duration,
    sequence: u64,
    random: StdRng,
    /// When each server was given a flow, in seconds.
    opened: Vec<Vec<f64>>,
}

impl Pool {
    fn run(rate: f64, habits: [Habit; SERVERS], later: Habit) -> Self {
        let mut governor = Governor::new(Options::default());
        let inputs = vec![Input { weight: 100, usable: true, ..Input::default() }; SERVERS];
        let mut outputs = Vec::new();
        governor.tick(Duration::ZERO, &inputs, &mut outputs);
        let mut pool = Self {
            rate,
            habits,
            later,
            governor,
            view: View::new(outputs),
            inputs,
            events: BTreeMap::new(),
            now: Duration::ZERO,
            sequence: 0,
            random: StdRng::seed_from_u64(7),
            opened: vec![Vec::new(); SERVERS],
        };
        pool.after(0.0, What::Open);
        pool.after(TICK.as_secs_f64(), What::Tick);
        while let Some(((at, _), what)) = pool.events.pop_first() {
            pool.now = at;
            if at.as_secs_f64() > END {
                break;
            }
            pool.handle(what);
        }
        pool
    }

    fn after(&mut self, seconds: f64, what: What) {
        self.sequence += 1;
        self.events.insert((self.now + Duration::from_secs_f64(seconds), self.sequence), what);
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        let uniform: f64 = self.random.random();
        -(1.0 - uniform).ln() * mean
    }

    fn handle(&mut self, what: What) {
        match what {
            What::Open => {
                let gap = self.exponential(1.0 / self.rate);
                self.after(gap, What::Open);
                self.open();
            }
            What::Turn(server, from, to) => {
                self.leave(server, from);
                if let Some(to) = to {
                    self.view.gauges[server][to as usize] += 1;
                    self.view.gauges[server][Gauge::Prompts as usize] +=
                        PROMPTS_LEAST * u32::from(to == Gauge::Awaiting);
                    self.inputs[server].requests += u64::from(to == Gauge::Awaiting);
                }
            }
            What::End(server, from, bytes) => {
                self.leave(server, from);
                self.inputs[server].progressed += bytes;
                self.inputs[server].progress_count += 1;
            }
            What::Tick => {
                for (input, gauges) in self.inputs.iter_mut().zip(&self.view.gauges) {
                    input.gauges = *gauges;
                }
                self.governor.tick(self.now, &self.inputs, &mut self.view.outputs);
                self.after(TICK.as_secs_f64(), What::Tick);
            }
        }
    }

    fn leave(&mut self, server: usize, from: Gauge) {
        self.view.gauges[server][from as usize] -= 1;
        self.view.gauges[server][Gauge::Prompts as usize] -=
            PROMPTS_LEAST * u32::from(from == Gauge::Awaiting);
    }

    fn open(&mut self) {
        let server = self.choose();
        let now = self.now.as_secs_f64();
        self.opened[server].push(now);
        self.inputs[server].opened += 1;
        self.view.gauges[server][Gauge::Opening as usize] += 1;
        let habit = if server == 0 && now >= FAILS { self.later } else { self.habits[server] };
        let (opening, awaiting, streaming) = (Gauge::Opening, Gauge::Awaiting, Gauge::Streaming);
        // A round trip to the server and back.
        let trip = 0.0005;
        match habit {
            Habit::Refuses => self.after(1.5, What::Turn(server, opening, None)),
            Habit::ShortErrors => {
                self.after(trip, What::Turn(server, opening, Some(awaiting)));
                self.after(1.5, What::Turn(server, awaiting, None));
            }
            Habit::Errors(bytes) => {
                self.after(trip, What::Turn(server, opening, Some(awaiting)));
                self.after(trip + 0.001, What::End(server, awaiting, bytes as u64));
            }
            Habit::Serves(mean, bytes) => {
                let life = self.exponential(mean) + trip * 2.0;
                self.after(trip, What::Turn(server, opening, Some(awaiting)));
                self.after(trip + life * 0.2, What::Turn(server, awaiting, Some(streaming)));
                self.after(trip + life, What::End(server, streaming, (bytes * life / mean) as u64));
            }
        }
    }

    fn choose(&mut self) -> usize {
        let hash = self.random.random();
        let rule = Rule { policy: Policy::Least as u8, awaiting_weight: AWAITING_WEIGHT, epsilon: 0 };
        let context = Context {
            rule,
            hash,
            flow_hash: hash,
            table_size: self.view.table_size(),
            members: SERVERS as u32,
            opening_cap: self.governor.opening_cap(),
            duty: self.governor.duty(),
            prompt: self.governor.prompt(),
            total: 0,
            silence: 0,
            patience: 1,
        };
        usize::from(pick::pick(&context, &self.view).expect("all take flows").backend)
    }

    /// A server's share of new flows over its fair one: in all from `from` on, and in the second with the most.
    fn shares(&self, server: usize, from: f64) -> (f64, f64) {
        let within = |server: usize, from: f64, to: f64| {
            self.opened[server].iter().filter(|at| (from..to).contains(*at)).count() as f64
        };
        let share = |from, to| {
            let all: f64 = (0..SERVERS).map(|server| within(server, from, to)).sum();
            within(server, from, to) * SERVERS as f64 / all
        };
        let windows = (0..).map(|n| from + f64::from(n) * 0.1).take_while(|from| from + 1.0 <= END);
        (share(from, END), windows.map(|from| share(from, from + 1.0)).fold(0.0, f64::max))
    }
}

const ANSWERS: Habit = Habit::Serves(0.1, 4000.0);
const SMALL_ANSWERS: Habit = Habit::Serves(0.1, 600.0);
const STREAMS: Habit = Habit::Serves(4.0, 40_000.0);

#[test]
fn a_server_that_fails_at_once_gets_no_more_than_its_fair_share() {
    for (what, rate, good, bad) in [
        ("errors beside answers", 1600.0, ANSWERS, Habit::Errors(400.0)),
        ("errors as large as answers", 1600.0, SMALL_ANSWERS, Habit::Errors(600.0)),
        ("errors beside streams", 800.0, STREAMS, Habit::Errors(400.0)),
        ("short errors beside answers", 1600.0, ANSWERS, Habit::ShortErrors),
        ("short errors beside streams", 800.0, STREAMS, Habit::ShortErrors),
        ("refusals beside answers", 1600.0, ANSWERS, Habit::Refuses),
        ("refusals beside streams", 800.0, STREAMS, Habit::Refuses),
    ] {
        for from_the_start in [false, true] {
            let mut habits = [good; SERVERS];
            if from_the_start {
                habits[0] = bad;
            }
            let pool = Pool::run(rate, habits, bad);
            let (all, most) = pool.shares(0, FAILS + SETTLED);
            let (_, onset) = pool.shares(0, FAILS - 1.0);
            println!(
                "{what}, from the start {from_the_start}: {all:.3} of fair, at most {most:.3} in a second, {onset:.3} with the onset"
            );
            assert!(all <= 1.2 && most <= 1.2, "{what}: {all:.3}, at most {most:.3}");
            assert!(onset <= 2.5, "{what}: {onset:.3} when it begins");
        }
    }
}

#[test]
fn fast_servers_keep_what_they_earn_and_equal_ones_are_equal() {
    for (what, good, first, at_least) in [
        ("equal", ANSWERS, ANSWERS, 0.9),
        ("twice as fast", ANSWERS, Habit::Serves(0.05, 4000.0), 1.8),
        ("six times as fast", ANSWERS, Habit::Serves(0.1 / 6.0, 4000.0), 3.2),
        ("six times as fast, with small answers", SMALL_ANSWERS, Habit::Serves(0.1 / 6.0, 600.0), 3.2),
        ("thirty times as fast, with whole answers", STREAMS, Habit::Serves(4.0 / 30.0, 40_000.0), 4.0),
    ] {
        let mut habits = [good; SERVERS];
        habits[0] = first;
        let pool = Pool::run(800.0, habits, first);
        let (all, _) = pool.shares(0, FAILS + SETTLED);
        println!("{what}: {all:.3} of fair");
        assert!(all >= at_least, "{what}: {all:.3} of fair");
    }
}

#[test]
fn a_server_that_works_again_is_counted_as_it_is() {
    let mut habits = [ANSWERS; SERVERS];
    habits[0] = Habit::Errors(400.0);
    let pool = Pool::run(1600.0, habits, ANSWERS);
    let (all, _) = pool.shares(0, FAILS + SETTLED);
    let term = pool.governor.explain(0).expect("a server").fail_fast;
    assert!((0.8..1.2).contains(&all) && term.part == 0.0, "{all:.3} of fair, {term:?}");
}
