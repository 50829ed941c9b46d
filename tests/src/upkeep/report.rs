//! What is printed and written, and what of it must hold.

use std::{fmt, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::{GOVERNOR, Plan, servers::Detail, usage::Usage};

/// Numbers of backends with the microseconds that a tick may cost, and the part of a core that the daemon may use.
const PROMISES: [(usize, f64, Option<f64>); 2] = [(64, 50.0, Some(0.05)), (1000, 1000.0, None)];

/// The part of a core that a real server may use for being scraped.
const SCRAPED_BOUND: f64 = 0.01;

/// Threads that wait for the driver of GPUs. Here that is the stand-in, which looks at its script every millisecond, so
/// they are told and not counted.
const DRIVERS: &str = "gpu";

/// The threads that wait for sockets: scrapes, probes, netlink and the admin socket.
const SOCKETS: &str = "tokio-rt-worker";

/// Everything that was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The daemon, once for each number of backends.
    pub daemon: Vec<Upkeep>,
    /// A real server, where one is installed.
    pub server: Option<Scraped>,
}

/// What the daemon uses with a number of backends.
#[derive(Clone, Debug, Serialize)]
pub struct Upkeep {
    /// How many backends.
    pub backends: usize,
    /// Whether every server told the 52 KB of a real one at each scrape, or what is read of it alone.
    pub whole_expositions: bool,
    /// Ticks that were counted.
    pub ticks: u64,
    /// Mean CPU time of a tick in microseconds: reading, deciding, writing, and the sleep's system call.
    pub tick_microseconds: f64,
    /// Ticks that were timed one by one.
    pub single_ticks: usize,
    /// 99 of 100 of those cost no more, in microseconds.
    pub tick_p99_microseconds: f64,
    /// The most that a tick may cost in the mean, where that is promised.
    pub tick_bound_microseconds: Option<f64>,
    /// CPU time of the whole daemon in parts of one core, without what waits for the stand-in of GPUs.
    pub daemon: f64,
    /// The most it may be, where that is promised.
    pub daemon_bound: Option<f64>,
    /// The same by name of threads, most first, those included.
    pub threads: Vec<(String, f64)>,
}

/// What a real server uses while it has nothing to do, in parts of one core.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Scraped {
    /// By itself.
    pub alone: f64,
    /// Scraped every 250 ms and probed every second.
    pub scraped: f64,
}

impl Report {
    /// What does not hold, each in words.
    pub fn failures(&self) -> Vec<String> {
        let server = self.server.iter().filter(|server| server.cost() > SCRAPED_BOUND).map(|server| {
            format!("a real server uses {:.2} % of a core for being scraped", server.cost() * 100.0)
        });
        self.daemon.iter().flat_map(Upkeep::failures).chain(server).collect()
    }
}

impl Upkeep {
    /// Of what threads have used, and of single ticks, sorted.
    ///
    /// # Errors
    /// There were no ticks.
    pub fn of(plan: &Plan, detail: Detail, usage: &Usage, singles: Vec<Duration>) -> Result<Self> {
        let governor = usage.get(GOVERNOR).context("the daemon has no governor")?;
        ensure!(governor.waits > 0, "the governor stands still");
        let promise = PROMISES.iter().find(|(backends, ..)| *backends == plan.backends);
        let part = |time: Duration| time.as_secs_f64() / plan.time.as_secs_f64();
        let mut threads: Vec<(String, f64)> =
            usage.iter().map(|(name, used)| (name.clone(), part(used.time))).collect();
        threads.sort_by(|a, b| b.1.total_cmp(&a.1));
        let counted = usage.iter().filter(|(name, _)| !name.starts_with(DRIVERS));
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let p99 = singles.get((singles.len() * 99).div_ceil(100).saturating_sub(1));
        Ok(Self {
            backends: plan.backends,
            whole_expositions: detail == Detail::Whole,
            ticks: governor.waits,
            tick_microseconds: micros(governor.time) / governor.waits as f64,
            single_ticks: singles.len(),
            tick_p99_microseconds: p99.copied().map_or(0.0, micros),
            tick_bound_microseconds: promise.map(|(_, tick, _)| *tick),
            daemon: part(counted.map(|(_, used)| used.time).sum()),
            daemon_bound: promise.and_then(|(.., daemon)| *daemon),
            threads,
        })
    }

    fn failures(&self) -> Vec<String> {
        let Self { backends, tick_microseconds, daemon, .. } = self;
        let tick = self.tick_bound_microseconds.filter(|bound| tick_microseconds > bound).map(|bound| {
            format!("{backends} backends: a tick costs {tick_microseconds:.1} us, above {bound}")
        });
        let daemon = self.daemon_bound.filter(|bound| daemon > bound).map(|bound| {
            let [used, most] = [*daemon, bound].map(|part| part * 100.0);
            format!("{backends} backends: the daemon uses {used:.1} % of a core, above {most}")
        });
        tick.into_iter().chain(daemon).collect()
    }
}

impl Scraped {
    /// The part of a core that being scraped and probed costs it.
    pub fn cost(&self) -> f64 {
        self.scraped - self.alone
    }
}

impl fmt::Display for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backends, ticks, tick_microseconds, single_ticks, tick_p99_microseconds, .. } = self;
        let told = if self.whole_expositions { "52 KB" } else { "the lines that are read" };
        writeln!(f, "{backends} backends, each scraped every 250 ms, {told} at a time")?;
        write!(
            f,
            "  tick    {tick_microseconds:.1} us of CPU in the mean of {ticks}, p99 {tick_p99_microseconds:.1} us \
             (of {single_ticks} timed one by one)"
        )?;
        if let Some(bound) = self.tick_bound_microseconds {
            write!(f, "; bound {bound} us")?;
        }
        write!(f, "\n  daemon  {:.2} % of a core", self.daemon * 100.0)?;
        if let Some(bound) = self.daemon_bound {
            write!(f, "; bound {} %", bound * 100.0)?;
        }
        for (name, part) in &self.threads {
            let does = match name.as_str() {
                GOVERNOR => " (ticks)",
                SOCKETS => " (scrapes, probes)",
                name if name.starts_with(DRIVERS) => " (not counted: waits for the stand-in of GPUs)",
                _ => "",
            };
            write!(f, "\n    {:.2} %  {name}{does}", part * 100.0)?;
        }
        Ok(())
    }
}

impl fmt::Display for Scraped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [alone, scraped, cost, bound] =
            [self.alone, self.scraped, self.cost(), SCRAPED_BOUND].map(|part| part * 100.0);
        write!(
            f,
            "a real server (llama.cpp) without requests\n  {scraped:.2} % of a core scraped and probed, {alone:.2} % by \
             itself: {cost:.2} % for the daemon; bound {bound} %"
        )
    }
}
