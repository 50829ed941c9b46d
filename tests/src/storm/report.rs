//! What is printed and written, and what of it must hold.

use serde::Serialize;

use super::{churn::Churned, flood::Flooded};

/// Everything that was run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Slots of the largest table that was loaded, if one was.
    pub largest: Option<u32>,
    /// The churn.
    pub churn: Option<Churned>,
    /// Connections without a flood, then with each.
    pub floods: Vec<Flooded>,
}

/// Most live flows that may be evicted for each 10,000 that open, at the rated fill.
const EVICTED_PER_10K: f64 = 1.0;

/// Most by which a backend's share of new connections may differ during a flood.
const SHIFT: f64 = 0.2;

/// Part of new connections that may break during a flood. A half-open flow is worth no more than a forged one, and may
/// be pushed out before its client answers, if the flood renews the table in little more than a round trip.
const BROKEN: f64 = 0.01;

impl Churned {
    /// What does not hold, each in words.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if self.evicted_per_10k >= EVICTED_PER_10K {
            failures.push(format!("{:.3} live flows were evicted per 10,000 opens", self.evicted_per_10k));
        }
        if self.left > 0 {
            failures.push(format!("{} flows are left in the gauges of an empty table", self.left));
        }
        failures.extend(self.wrong.iter().cloned());
        failures
    }

    /// One line for people.
    pub fn line(&self) -> String {
        format!(
            "churn: {} flows on {} CPUs in {} slots, {:.1} % live and {:.1} % in use at most; evicted of live \
             flows {} ({:.4} per 10,000), of all but closed {}; untracked {}; {} passes freed {}; {} gauges wrong; \
             {} left after the last sweep; {:.1} s",
            self.opened,
            self.cpus,
            self.slots,
            self.fill * 100.0,
            self.used * 100.0,
            self.evicted_live,
            self.evicted_per_10k,
            self.evicted,
            self.untracked,
            self.passes,
            self.expired,
            self.wrong.len(),
            self.left,
            self.seconds,
        )
    }
}

impl Flooded {
    /// What does not hold, each in words.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if self.broken as f64 > f64::from(self.connections) * BROKEN {
            failures.push(format!("{}: {} new connections broke", self.flood, self.broken));
        }
        // A connection that breaks does so at its request.
        let of_established = self.misjudged.saturating_sub(self.broken);
        let none = [
            (self.strayed, "packets of established streams went elsewhere"),
            (of_established, "packets of streams and connections were of no known flow"),
            (self.corrected, "gauges were corrected"),
        ];
        let some = none.iter().filter(|(count, _)| *count > 0);
        failures.extend(some.map(|(count, what)| format!("{}: {count} {what}", self.flood)));
        failures.extend(self.wrong.iter().map(|wrong| format!("{}: {wrong}", self.flood)));
        failures
    }

    /// That shares differ by too much, if they do.
    pub fn unfairness(&self) -> Option<String> {
        let [shift, most] = [self.shift, SHIFT].map(|part| part * 100.0);
        let say = || format!("{}: a share differs by {shift:.1} %, above {most} %", self.flood);
        (shift > most).then(say)
    }

    /// A few lines for people.
    pub fn line(&self) -> String {
        let reasons: Vec<String> =
            self.reasons.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let cap = match self.opening_cap {
            u32::MAX => "none".to_owned(),
            cap => cap.to_string(),
        };
        format!(
            "{}: {} packets in {:.1} s, {} delivered ({})\n  {} streams: {} packets looked at, {} strayed, {} \
             misjudged; {} new connections, {} broken, shares differ by {:.1} % at most; lowest cap {cap}; {} \
             evicted; {} gauges wrong, {} corrected",
            self.flood,
            self.packets,
            self.seconds,
            self.delivered,
            if reasons.is_empty() { "nothing".to_owned() } else { reasons.join(", ") },
            self.streams,
            self.checked,
            self.strayed,
            self.misjudged,
            self.connections,
            self.broken,
            self.shift * 100.0,
            self.evicted,
            self.wrong.len(),
            self.corrected,
        )
    }
}
