use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{Curves, Theta, Watched, judge};
use crate::governor::terms::{Reported, ThetaSource};

const INTERVAL: Duration = Duration::from_millis(250);

/// A server of the model: tokens a second for a lone request, requests at once.
#[derive(Clone, Copy)]
struct Server {
    speed: f64,
    running: f64,
}

struct Pool {
    servers: Vec<(Server, f64, Theta)>,
    curves: Curves,
    now: Duration,
    random: StdRng,
}

impl Pool {
    fn new(servers: &[Server]) -> Self {
        Self {
            servers: servers.iter().map(|server| (*server, 0.0, Theta::default())).collect(),
            curves: Curves::default(),
            now: Duration::ZERO,
            random: StdRng::seed_from_u64(7),
        }
    }

    /// Lets reports come; each interval's progress is off by up to `noise`, and the batch varies by a tenth.
    fn run(&mut self, seconds: u64, noise: f64, slowing: impl Fn(f64) -> f64) {
        for _ in 0..seconds * 4 {
            self.now += INTERVAL;
            for (server, tokens, theta) in &mut self.servers {
                let running = server.running * self.random.random_range(0.9..1.1);
                let rate = server.speed * running / slowing(running);
                *tokens +=
                    rate * INTERVAL.as_secs_f64() * self.random.random_range(1.0 - noise..=1.0 + noise);
                let report = Reported {
                    running: Some(running),
                    waiting: Some(0.0),
                    kv_usage: None,
                    generation_tokens: Some(*tokens),
                    cadence: None,
                    prompt_tokens: None,
                    max_num_seqs: None,
                    taken_start: self.now,
                    taken_end: self.now,
                };
                theta.report(self.now, &report, &mut self.curves);
            }
            judge(self.now, &mut self.curves, self.servers.iter_mut().map(|(_, _, theta)| (theta, true)));
        }
    }

    fn factors(&self) -> Vec<f64> {
        self.servers.iter().map(|(_, _, theta)| theta.factor(self.now)).collect()
    }
}

fn flat(_: f64) -> f64 {
    1.0
}

#[test]
fn equal_servers_are_exactly_nominal_under_noise() {
    let mut pool = Pool::new(&[Server { speed: 50.0, running: 20.0 }; 8]);
    for _ in 0..120 {
        pool.run(1, 0.2, flat);
        assert_eq!(pool.factors(), [1.0; 8], "after {:?}", pool.now);
    }
}

#[test]
fn the_slower_a_server_the_higher_its_factor() {
    let mut last = 0.0;
    for speed in [1000.0, 80.0, 50.0, 25.0, 14.0, 8.0, 0.0] {
        let mut servers = [Server { speed: 50.0, running: 20.0 }; 5];
        servers[4].speed = speed;
        let mut pool = Pool::new(&servers);
        pool.run(20, 0.05, flat);
        let factor = pool.factors()[4];
        assert!(factor > last && (0.125..=8.0).contains(&factor), "{factor} at {speed} after {last}");
        if (14.0..60.0).contains(&speed) {
            assert!((factor * speed / 50.0 - 1.0).abs() < 0.05, "{factor} at {speed}");
        }
        last = factor;
    }
}

#[test]
fn a_slow_down_is_seen_within_seconds_and_its_end_too() {
    let mut pool = Pool::new(&[Server { speed: 50.0, running: 20.0 }; 8]);
    pool.run(20, 0.1, flat);
    pool.servers[3].0.speed = 20.0;
    pool.run(4, 0.1, flat);
    let slowed = pool.factors();
    assert!(slowed[3] > 1.9, "{slowed:?}");
    pool.servers[3].0.speed = 50.0;
    pool.run(12, 0.1, flat);
    assert_eq!(pool.factors(), [1.0; 8]);
}

#[test]
fn batching_is_not_mistaken_for_speed_nor_for_slowness() {
    // Sixty-four at once as fast for each as eight.
    let mut pool = Pool::new(&[8.0, 16.0, 32.0, 64.0].map(|running| Server { speed: 50.0, running }));
    pool.run(60, 0.05, flat);
    assert_eq!(pool.factors(), [1.0; 4]);
    // Each twice as slow at four times the count: equal servers all the same.
    let mut pool = Pool::new(&[16.0, 24.0, 36.0, 48.0].map(|running| Server { speed: 50.0, running }));
    pool.run(120, 0.01, f64::sqrt);
    for factor in pool.factors() {
        assert!((0.85..=1.18).contains(&factor), "{factor}");
    }
}

#[test]
fn bytes_serve_where_no_tokens_are_reported() {
    let mut thetas = [const { None }; 4].map(|_: Option<()>| Theta::default());
    let mut curves = Curves::default();
    let step = Duration::from_millis(5);
    let mut now = Duration::ZERO;
    for tick in 1..=6000_u64 {
        now += step;
        let mut sampled = false;
        for (number, theta) in thetas.iter_mut().enumerate() {
            // Noted once a second, for all flows together; the last server is half as fast.
            let each = if number == 3 { 5000 } else { 10_000 };
            let bytes = if tick % 200 == 30 { 10 * each } else { 0 };
            let watched = Watched { bytes, prompts: 0, streaming: 10, occupied: 12.0 };
            sampled |= theta.watch(now, step, &watched, &mut curves);
        }
        if sampled {
            judge(now, &mut curves, thetas.iter_mut().map(|theta| (theta, true)));
        }
    }
    let factors = thetas.each_ref().map(|theta| theta.factor(now));
    assert_eq!(factors[..3], [1.0; 3]);
    assert!((1.9..2.1).contains(&factors[3]), "{factors:?}");
    assert_eq!(thetas[0].explain(now, 1.0).source, Some(ThetaSource::Bytes));
    let later = thetas[3].factor(now + Duration::from_secs(30));
    assert!((later - factors[3].sqrt()).abs() < 0.05, "half of its logarithm after half a minute: {later}");
}

#[test]
fn a_server_alone_is_nominal() {
    let mut pool = Pool::new(&[Server { speed: 3.0, running: 20.0 }]);
    pool.run(20, 0.1, flat);
    assert_eq!(pool.factors(), [1.0]);
}
