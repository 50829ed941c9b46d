//! A comparison of policies on one cluster: the same seeds for all, on all cores.

use std::{
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    Cluster, Outcome, Policy, PreLoad, Reports, Scenario, Server, Traffic,
    engine::{EngineConfig, Refusal},
    random::{self, Use},
    report::{Report, Run},
    saturation, spectrum,
    trace::Arrival,
    world,
};

/// What to compare, and on what.
///
/// A seed draws anew where in the trace the replay begins (it goes round once), the hashes of all flows, the phases of
/// scrapes and ticks, which reports are lost, and when stragglers are slow. All policies see the same seeds.
#[derive(Debug, Clone)]
pub struct Study {
    /// Requests, in order of time; the replay is as fast as the load asks.
    pub trace: Vec<Arrival>,
    /// How many replays of the trace, each from a point of its own, come at once: more servers have more users,
    /// not faster ones.
    pub copies: usize,
    /// Servers.
    pub cluster: Cluster,
    /// How many; the cluster's own number without.
    pub gpus: Option<usize>,
    /// Load from elsewhere.
    pub pre_load: Option<PreLoad>,
    /// Requests a second as a part of what the servers answer at most (see [`saturation::requests_per_second`]),
    /// each at its best batch size and its mean speed; load from elsewhere is not taken off.
    pub load: f64,
    /// Runs of each policy.
    pub seeds: u64,
    /// Who is compared.
    pub policies: Vec<Policy>,
    /// Balancers that share the servers.
    pub balancers: u32,
    /// What they hear.
    pub reports: Reports,
    /// Requests on a connection.
    pub requests_per_connection: f64,
    /// The part of the time that is not measured, at the start.
    pub warm_up: f64,
}

/// Why there is nothing to compare.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// A request of the trace does not fit a server.
    #[error("server {server} cannot take request {request} of the trace: {refusal}")]
    DoesNotFit {
        /// The server's number.
        server: usize,
        /// The request's number.
        request: usize,
        /// Why not.
        refusal: Refusal,
    },
    /// The load from elsewhere does not fit a server.
    #[error("pre-load: {0}")]
    PreLoad(#[from] Refusal),
}

impl Study {
    /// Runs everything. `progress` is told how many runs are done, of how many.
    ///
    /// # Errors
    /// When a request could never run on some server.
    pub fn run(&self, progress: impl Fn(usize, usize) + Sync) -> Result<Report, StudyError> {
        let capacities = self.capacities()?;
        let scenarios: Vec<Scenario> =
            (0..self.seeds).map(|seed| self.scenario(seed + 1, &capacities)).collect::<Result<_, _>>()?;
        let jobs: Vec<(usize, usize)> = (0..scenarios.len())
            .flat_map(|seed| (0..self.policies.len()).map(move |policy| (policy, seed)))
            .collect();
        let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            while let Some(&(policy, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let run = summary(world::run(&scenarios[seed], self.policies[policy]));
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                done.push((policy, seed, run));
                progress(done.len(), jobs.len());
            }
        };
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(jobs.len());
        thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Whoever was faster: sums of floats must not depend on it.
        done.sort_by_key(|(policy, seed, _)| (*policy, *seed));
        let interval = self.reports.interval + self.reports.delay;
        let span = scenarios.first().map_or(Duration::ZERO, |scenario| scenario.end);
        Ok(Report::of(&self.policies, done.into_iter().map(|(policy, _, run)| (policy, run)), span, interval))
    }

    /// Saturation of each server at rate 1.
    fn capacities(&self) -> Result<Vec<f64>, StudyError> {
        let lengths: Vec<(u32, u32)> =
            self.trace.iter().map(|arrival| (arrival.prompt_tokens, arrival.output_tokens)).collect();
        let mut known: Vec<(EngineConfig, f64)> = Vec::new();
        let mut capacities = Vec::new();
        for (server, host) in self.cluster.servers(self.gpus, 0, Duration::ZERO).iter().enumerate() {
            if let Some((_, capacity)) = known.iter().find(|(config, _)| *config == host.engine) {
                capacities.push(*capacity);
                continue;
            }
            for (request, &(prompt, output)) in lengths.iter().enumerate() {
                let fits = host.engine.admits(prompt, output);
                fits.map_err(|refusal| StudyError::DoesNotFit { server, request, refusal })?;
            }
            let capacity = saturation::requests_per_second(&host.engine, &lengths);
            known.push((host.engine, capacity));
            capacities.push(capacity);
        }
        Ok(capacities)
    }

    fn scenario(&self, seed: u64, capacities: &[f64]) -> Result<Scenario, StudyError> {
        let requests = (self.trace.len() * self.copies) as f64;
        let demand = |servers: &[Server], span: Duration| -> f64 {
            let each = servers.iter().zip(capacities);
            self.load * each.map(|(server, capacity)| capacity * server.mean_rate(span)).sum::<f64>()
        };
        let steady = self.cluster.servers(self.gpus, seed, Duration::ZERO);
        let guess = Duration::from_secs_f64(requests / demand(&steady, Duration::from_secs(1)));
        // Stragglers go on while backlogs are worked off.
        let mut servers = self.cluster.servers(self.gpus, seed, guess * 4);
        let span = Duration::from_secs_f64(requests / demand(&servers, guess));
        for (server, capacity) in servers.iter_mut().zip(capacities) {
            server.capacity = *capacity;
        }
        if let Some(pre_load) = self.pre_load {
            pre_load.apply(&mut servers)?;
        }
        Ok(Scenario {
            balancers: self.balancers,
            reports: self.reports,
            requests_per_connection: self.requests_per_connection,
            warm_up: span.mul_f64(self.warm_up),
            seed,
            ..Scenario::new(servers, Traffic::Trace(self.arrivals(seed, span).into()), span)
        })
    }

    /// The trace's copies, each turned by a random part of its length, in `span` altogether.
    fn arrivals(&self, seed: u64, span: Duration) -> Vec<Arrival> {
        let length = self.trace.last().map_or(0.0, |last| last.at.as_secs_f64());
        // One mean gap from the last request to the first.
        let round = length * (1.0 + 1.0 / self.trace.len().max(2) as f64);
        let mut arrivals: Vec<Arrival> = Vec::new();
        for copy in 0..self.copies {
            let turn = random::unit(seed, Use::Rotation, copy as u64);
            arrivals.extend(self.trace.iter().map(|arrival| {
                let place = if round > 0.0 { arrival.at.as_secs_f64() / round + turn } else { turn };
                Arrival { at: span.mul_f64(place.fract()), ..*arrival }
            }));
        }
        arrivals.sort_by_key(|arrival| arrival.at);
        arrivals
    }
}

fn summary(outcome: Outcome) -> Run {
    Run {
        first_token: outcome.first_token,
        latency: outcome.latency,
        tokens_per_second: outcome.tokens_per_second,
        unfinished: outcome.unfinished,
        learned: outcome.learned,
        spectrum: spectrum::of(&outcome.load),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::trace::Arrival, Cluster, Policy, PreLoad, Reports, Study};

    /// Requests of changing size at even times.
    fn study(policies: &[Policy]) -> Study {
        let arrival = |number: u32| Arrival {
            at: Duration::from_millis(u64::from(number) * 100),
            prompt_tokens: 100 + number * 37 % 900,
            output_tokens: 5 + number * 13 % 60,
        };
        Study {
            trace: (0..400).map(arrival).collect(),
            copies: 1,
            cluster: Cluster::Mixed,
            gpus: Some(4),
            pre_load: None,
            load: 0.5,
            seeds: 2,
            policies: policies.to_vec(),
            balancers: 2,
            reports: Reports { loss: 0.1, ..Reports::default() },
            requests_per_connection: 2.0,
            warm_up: 0.0,
        }
    }

    #[test]
    fn every_policy_answers_every_request_and_figures_repeat() {
        let all = study(&Policy::ALL);
        let report = all.run(|_, _| ()).unwrap();
        for policy in &report.policies {
            assert_eq!(policy.unfinished, 0.0, "{}", policy.name);
            assert!(policy.ttft_seconds.mean > 0.0 && policy.output_tokens_per_second > 0.0, "{policy:?}");
            assert!(policy.latency_seconds.p99 >= policy.ttft_seconds.p50, "{policy:?}");
        }
        assert_eq!(all.run(|_, _| ()).unwrap(), report);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["policies"][0]["name"], "round-robin");
        assert!(json["policies"][0]["ttft_seconds"]["p99"].is_f64(), "{json}");
        assert!(report.table().contains("oracle-latency") && report.svg("a < b").contains("a &lt; b"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut long = study(&[Policy::Random]);
        long.trace[7].prompt_tokens = 1_000_000;
        let error = long.run(|_, _| ()).unwrap_err().to_string();
        assert!(error.starts_with("server 0 cannot take request 7"), "{error}");
        let crowded = Study { pre_load: Some(PreLoad::Foreign(5000)), ..study(&[Policy::Random]) };
        assert!(crowded.run(|_, _| ()).unwrap_err().to_string().starts_with("pre-load: "));
    }
}
