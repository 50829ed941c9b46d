//! What is compared on: the servers and the traffic, the same in every run.

use std::{fmt, path::Path, time::Duration};

use anyhow::Context as _;
use clap::ValueEnum;
use guidevane_tests::{
    load::{
        LoadOptions, Traffic,
        lengths::Lengths,
        trace::{self, Arrival},
        traffic::Sizes,
    },
    sim::{
        engine::{EngineConfig, StepWork},
        profile::{H100X2_70B_FP8, Profile},
        server::{ServerOptions, SimServer},
    },
};

use crate::Args;

/// A 70B model, as in the report that the demo is set beside.
const PROFILE: Profile = H100X2_70B_FP8;
/// Batch slots of each server.
const SLOTS: u32 = 32;
/// Servers of one kind differ by some percent in life; the pattern repeats.
const SPEEDS: [f64; 4] = [1.1, 1.0, 0.9, 1.0];
/// Part of its rate that a loaded server keeps, as in the report.
const KEPT: f64 = 0.28;
/// Short enough that a loaded server turns over its batch several times in a run.
const PROMPT: Lengths = Lengths::LogNormal { median: 192.0, sigma: 0.5 };
const OUTPUT: Lengths = Lengths::LogNormal { median: 40.0, sigma: 0.4 };
/// Part of what all servers together can do that a trace asks for: too much for round robin, not for the servers.
const TRACE_LOAD: f64 = 0.6;
/// Requests of traces are long; the servers run this many times faster, so that a run takes tens of seconds.
const TRACE_SPEED: f64 = 4.0;
/// Far above the longest wait of any run.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What loads half of the servers from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preload {
    /// They keep 0.28 of their rate, and no gauge of theirs shows why
    Rate,
    /// Foreign requests hold 0.72 of their batch slots and show in their gauges
    Foreign,
    /// Nothing
    None,
}

/// Servers and traffic.
#[derive(Debug)]
pub struct Scenario {
    preload: Preload,
    speeds: Vec<f64>,
    traffic: Traffic,
    warm_up: Duration,
    seconds: Duration,
    seed: u64,
    /// Requests of the trace that no server could hold.
    too_long: usize,
}

impl Scenario {
    /// The scenario that the command line asks for.
    ///
    /// # Errors
    /// The trace cannot be read.
    pub fn new(args: &Args) -> anyhow::Result<Self> {
        let servers = args.servers as usize;
        let mut scenario = Self {
            preload: args.preload,
            speeds: SPEEDS.into_iter().cycle().take(servers).collect(),
            traffic: Traffic::Closed { clients: servers * SLOTS as usize },
            warm_up: Duration::from_secs(args.warm_up.into()),
            seconds: Duration::from_secs(args.seconds.into()),
            seed: args.seed,
            too_long: 0,
        };
        if let Some(path) = &args.trace {
            scenario.replay(path)?;
        }
        Ok(scenario)
    }

    /// Takes the first requests of a trace, as many and as fast as make [`TRACE_LOAD`].
    fn replay(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut arrivals = trace::read(path, 1.0)?;
        self.speeds.iter_mut().for_each(|speed| *speed *= TRACE_SPEED);
        let engine = engine();
        let all = arrivals.len();
        arrivals.retain(|arrival| engine.admits(arrival.prompt_tokens, arrival.output_tokens).is_ok());
        self.too_long = all - arrivals.len();
        let capacity: f64 = self.rates().sum();
        let fitted = fit(&arrivals, &engine, capacity * TRACE_LOAD, self.seconds);
        let fitted = fitted.with_context(|| format!("{}: no request fits the servers", path.display()))?;
        self.traffic = Traffic::Trace(fitted.into());
        Ok(())
    }

    /// Number of servers.
    pub fn servers(&self) -> usize {
        self.speeds.len()
    }

    /// Whether a server is loaded from outside.
    pub fn is_loaded(&self, server: usize) -> bool {
        self.preload != Preload::None && server >= self.servers() / 2
    }

    /// The rate that is left to each server, in parts of its profile's.
    fn rates(&self) -> impl Iterator<Item = f64> {
        let kept = |server| if self.is_loaded(server) { KEPT } else { 1.0 };
        self.speeds.iter().enumerate().map(move |(server, speed)| speed * kept(server))
    }

    /// How to start each server; then [`Scenario::load`] it.
    pub fn options(&self) -> Vec<ServerOptions> {
        let options = |(server, speed): (usize, &f64)| {
            let mut options = ServerOptions::new(&PROFILE);
            options.driver.engine = engine();
            options.driver.speed = *speed;
            options.close = true;
            if self.preload == Preload::Foreign && self.is_loaded(server) {
                options.driver.foreign = (f64::from(SLOTS) * (1.0 - KEPT)).round() as u32;
            }
            options
        };
        self.speeds.iter().enumerate().map(options).collect()
    }

    /// Slows the servers that are to be slowed.
    pub fn load(&self, servers: &[SimServer]) {
        if self.preload == Preload::Rate {
            let loaded = servers.iter().enumerate().filter(|(server, _)| self.is_loaded(*server));
            loaded.for_each(|(_, server)| server.set_rate(KEPT));
        }
    }

    /// The traffic, to be sent to `url`.
    pub fn traffic(&self, url: String) -> LoadOptions {
        let mut options = LoadOptions::new(url, self.traffic.clone());
        options.sizes = Sizes { prompt: PROMPT, output: OUTPUT, seed: self.seed };
        options.timeout = TIMEOUT;
        // A trace is measured whole, to the end of its last request.
        if matches!(self.traffic, Traffic::Trace(_)) {
            options.duration = None;
        } else {
            options.warm_up = self.warm_up;
            options.duration = Some(self.seconds);
        }
        options
    }

    /// What the figures mean and what they do not.
    pub fn fine_print(&self) -> String {
        let mut text = String::new();
        if matches!(self.traffic, Traffic::Closed { .. }) && self.preload != Preload::Foreign {
            let (sum, slowest) = (self.rates().sum::<f64>(), self.rates().fold(f64::INFINITY, f64::min));
            let bound = (sum / (slowest * self.servers() as f64) - 1.0) * 100.0;
            text += &format!(
                "In a closed loop round robin runs at the pace of its slowest server: +{bound:.0} % tokens/s is all \
                 there is\nto gain with these servers, and plain least connections comes near it too.\n"
            );
        }
        if matches!(self.traffic, Traffic::Trace(_)) {
            text += "Tokens/s of a trace are over the time to the end of its last request, which a slow server may \
                     have to itself.\n";
        }
        text += "This is a simulation of GPUs on real packets: connections, XDP program, daemon and clients are \
                 real,\nthe servers' batching, prefill and decode times are a model's.";
        text
    }
}

fn engine() -> EngineConfig {
    EngineConfig { max_num_seqs: SLOTS, ..PROFILE.engine_config() }
}

/// Seconds that a request takes of an unloaded server whose batch is full.
fn service_seconds(engine: &EngineConfig, arrival: &Arrival) -> f64 {
    let (prompt, output) = (arrival.prompt_tokens, arrival.output_tokens);
    let context = u64::from(prompt) + u64::from(output) / 2;
    let slots = engine.max_num_seqs;
    let step = StepWork { decodes: slots, kv_tokens: u64::from(slots) * context, ..StepWork::default() };
    let prefill = engine.costs.per_prefill_token * f64::from(prompt);
    prefill + f64::from(output) * engine.costs.seconds(&step) / f64::from(slots)
}

/// The first arrivals of a trace, as many as `rate` servers serve in `span`, and spread over it. A trace with too few
/// is spread over the time that they are served in.
fn fit(arrivals: &[Arrival], engine: &EngineConfig, rate: f64, span: Duration) -> Option<Vec<Arrival>> {
    let wanted = rate * span.as_secs_f64();
    let mut work = 0.0;
    let enough = arrivals.iter().position(|arrival| {
        work += service_seconds(engine, arrival);
        work >= wanted
    });
    let taken = &arrivals[..enough.map_or(arrivals.len(), |last| last + 1)];
    let (first, last) = (taken.first()?.at, taken.last()?.at);
    // All at one moment have no time to stretch.
    let length = Some((last - first).as_secs_f64()).filter(|length| *length > 0.0);
    let stretch = length.map_or(0.0, |length| (work / rate).min(span.as_secs_f64()) / length);
    let spread = |arrival: &Arrival| Arrival { at: (arrival.at - first).mul_f64(stretch), ..*arrival };
    Some(taken.iter().map(spread).collect())
}

impl fmt::Display for Scenario {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (servers, loaded) =
            (self.servers(), (0..self.servers()).filter(|server| self.is_loaded(*server)));
        write!(out, "{servers} simulated servers ({}, {SLOTS} batch slots)", PROFILE.description)?;
        let loaded = loaded.count();
        match self.preload {
            Preload::Rate => write!(out, ", {loaded} of them slowed from outside to {KEPT} of their rate")?,
            Preload::Foreign => {
                write!(out, ", foreign requests in {:.2} of the slots of {loaded}", 1.0 - KEPT)?;
            }
            Preload::None => {}
        }
        match &self.traffic {
            Traffic::Closed { clients } => write!(
                out,
                "\n{clients} clients in a closed loop, a connection a request; each run {} s to warm up and {} s \
                 measured",
                self.warm_up.as_secs(),
                self.seconds.as_secs()
            ),
            Traffic::Trace(arrivals) => {
                let last = arrivals.last().map_or(0.0, |arrival| arrival.at.as_secs_f64());
                write!(
                    out,
                    "\n{} requests of the trace in {last:.1} s, a connection each; servers run at {TRACE_SPEED} times their speed",
                    arrivals.len()
                )?;
                match self.too_long {
                    0 => Ok(()),
                    count => write!(out, "; {count} were left out: longer than a server's KV cache"),
                }
            }
            Traffic::Poisson { rate } => write!(out, "\n{rate} requests a second"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;
    use guidevane_tests::load::trace::Arrival;

    use super::{Scenario, engine, fit, service_seconds};
    use crate::Args;

    fn scenario(options: &[&str]) -> Scenario {
        let args = Args::try_parse_from(["demo"].iter().chain(options)).expect("the options are right");
        Scenario::new(&args).expect("a scenario")
    }

    fn arrivals(count: u64) -> Vec<Arrival> {
        let arrival =
            |second| Arrival { at: Duration::from_secs(second), prompt_tokens: 500, output_tokens: 100 };
        (100..100 + count).map(arrival).collect()
    }

    #[test]
    fn half_of_the_servers_are_loaded_and_the_bound_of_the_gain_is_said() {
        let scenario = scenario(&[]);
        assert_eq!((0..8).filter(|server| scenario.is_loaded(*server)).count(), 4);
        // Four at full rate and four at 0.28, against eight at 0.28 of the slowest.
        let bound = (4.0 + 4.0 * 0.28) / (8.0 * 0.9 * 0.28) - 1.0;
        assert!(
            scenario.fine_print().contains(&format!("+{:.0} %", bound * 100.0)),
            "{}",
            scenario.fine_print()
        );
    }

    #[test]
    fn a_trace_is_cut_to_what_the_servers_can_do_and_spread_over_the_time() {
        let engine = engine();
        let each = service_seconds(&engine, &arrivals(1)[0]);
        let fitted = fit(&arrivals(1000), &engine, each * 5.0, Duration::from_secs(20)).expect("a trace");
        assert_eq!(fitted.len(), 100);
        assert_eq!(fitted[0].at, Duration::ZERO);
        assert!((fitted[99].at.as_secs_f64() - 20.0).abs() < 1e-6, "{:?}", fitted[99]);
    }

    #[test]
    fn a_short_trace_is_not_stretched_beyond_its_work() {
        let engine = engine();
        let each = service_seconds(&engine, &arrivals(1)[0]);
        let fitted = fit(&arrivals(10), &engine, each * 5.0, Duration::from_secs(20)).expect("a trace");
        assert!((fitted[9].at.as_secs_f64() - 2.0).abs() < 1e-6, "{:?}", fitted[9]);
        assert_eq!(fit(&[], &engine, 1.0, Duration::from_secs(1)), None);
        let one = fit(&arrivals(1), &engine, 1.0, Duration::from_secs(1)).expect("one request");
        assert_eq!(one[0].at, Duration::ZERO);
    }
}
