//! What the standard's own fields want to know and no inference server tells: the host's CPU and memory, and
//! requests a second. Read once a second.

use std::time::{Duration, Instant};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::signals::Scrape;

const PERIOD: Duration = Duration::from_secs(1);

/// The newest readings; none where there are none yet.
#[derive(Clone, Debug, Default)]
pub struct Vitals {
    /// Part of the host's CPU time in use, 0 to 1.
    pub cpu: Option<f64>,
    /// Part of the host's memory in use, 0 to 1.
    pub memory: Option<f64>,
    /// Requests a second of each backend, in the order given.
    pub rates: Vec<Option<f64>>,
}

/// Reads on the current tokio runtime until the last receiver is dropped.
pub fn spawn(scrapes: Vec<watch::Receiver<Scrape>>) -> watch::Receiver<Vitals> {
    let (publish, vitals) = watch::channel(Vitals { rates: vec![None; scrapes.len()], ..Vitals::default() });
    tokio::spawn(async move {
        let mut meters = vec![Meter::default(); scrapes.len()];
        let mut times = None;
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = publish.closed() => return,
                _ = ticks.tick() => {}
            }
            let stat = std::fs::read_to_string("/proc/stat").ok();
            let before = std::mem::replace(&mut times, stat.as_deref().and_then(Times::parse));
            let meminfo = std::fs::read_to_string("/proc/meminfo").ok();
            let rates = meters.iter_mut().zip(&scrapes).map(|(meter, scrape)| {
                let scrape = scrape.borrow();
                scrape.last.as_ref().and_then(|last| {
                    // Every request has a first token, and not every server counts requests.
                    let requests = last.requests.or_else(|| last.ttft.map(|totals| totals.count));
                    meter.read(requests?, last.taken_end)
                })
            });
            publish.send_replace(Vitals {
                cpu: before.zip(times).and_then(|(before, after)| after.busy_since(&before)),
                memory: meminfo.as_deref().and_then(memory_in_use),
                rates: rates.collect(),
            });
        }
    });
    vitals
}

#[derive(Clone, Debug, Default)]
struct Meter {
    before: Option<(f64, Instant)>,
    rate: Option<f64>,
}

impl Meter {
    fn read(&mut self, requests: f64, taken: Instant) -> Option<f64> {
        let (count, before) = *self.before.get_or_insert((requests, taken));
        let elapsed = taken.saturating_duration_since(before);
        if requests < count {
            // The server was restarted.
            *self = Self { before: Some((requests, taken)), rate: None };
        } else if elapsed >= PERIOD {
            *self = Self {
                before: Some((requests, taken)),
                rate: Some((requests - count) / elapsed.as_secs_f64()),
            };
        }
        self.rate
    }
}

/// Jiffies of all CPUs since boot.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Times {
    all: u64,
    idle: u64,
}

impl Times {
    /// From `/proc/stat`, proc_stat(5).
    fn parse(stat: &str) -> Option<Self> {
        /// user, nice, system, idle, iowait, irq, softirq and steal; guests are within user and nice.
        const FIELDS: usize = 8;
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let fields: Vec<u64> =
            line.split_whitespace().take(FIELDS).map(|field| field.parse().ok()).collect::<Option<_>>()?;
        let idle = fields.get(3)?.saturating_add(fields.get(4).copied().unwrap_or(0));
        Some(Self { all: fields.iter().fold(0, |sum, field| sum.saturating_add(*field)), idle })
    }

    fn busy_since(&self, before: &Self) -> Option<f64> {
        let all = self.all.checked_sub(before.all).filter(|all| *all > 0)?;
        // Time spent waiting for disks may be counted backwards.
        let idle = self.idle.saturating_sub(before.idle).min(all);
        Some((all - idle) as f64 / all as f64)
    }
}

/// From `/proc/meminfo`, proc_meminfo(5).
fn memory_in_use(meminfo: &str) -> Option<f64> {
    let kilobytes = |name: &str| -> Option<f64> {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let total = kilobytes("MemTotal:").filter(|total| *total > 0.0)?;
    Some((1.0 - kilobytes("MemAvailable:")? / total).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Meter, Times, memory_in_use};

    #[test]
    fn cpu_time_in_use_is_what_neither_idles_nor_waits_for_a_disk() {
        let stat = |line: &str| Times::parse(&format!("{line}\ncpu0 1 2 3 4 5 6 7 8 9 10\n"));
        let before = stat("cpu  100 0 50 800 50 0 0 0 0 0").unwrap();
        let after = stat("cpu  130 10 60 830 60 5 3 2 99 99").unwrap();
        assert_eq!(after.busy_since(&before), Some(0.6));
        assert_eq!(before.busy_since(&before), None, "no time has passed");
        assert_eq!(before.busy_since(&after), None, "a counter that goes back");
        for broken in ["", "cpu", "cpu  1 2 x 4", "intr 5"] {
            assert_eq!(stat(broken), None, "{broken}");
        }
    }

    #[test]
    fn memory_that_can_be_had_at_once_is_not_in_use() {
        let text = "MemTotal:       2000 kB\nMemFree:         100 kB\nMemAvailable:   1500 kB\n";
        assert_eq!(memory_in_use(text), Some(0.25));
        for broken in ["", "MemTotal: 0 kB\nMemAvailable: 0 kB\n", "MemTotal: 10 kB\n"] {
            assert_eq!(memory_in_use(broken), None, "{broken}");
        }
    }

    #[test]
    fn requests_are_counted_over_a_second_and_anew_after_a_restart() {
        let start = Instant::now();
        let mut meter = Meter::default();
        let mut read = |count, millis| meter.read(count, start + Duration::from_millis(millis));
        assert_eq!(read(10.0, 0), None);
        assert_eq!(read(15.0, 500), None);
        assert_eq!(read(40.0, 2000), Some(15.0));
        assert_eq!(read(41.0, 2100), Some(15.0));
        assert_eq!(read(3.0, 3000), None);
        assert_eq!(read(3.0, 4000), Some(0.0));
    }
}
