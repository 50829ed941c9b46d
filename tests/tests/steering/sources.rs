//! Every source killed, stalled and lied to while real connections go on: none fails, costs forget the source, and follow
//! it again when it is back.
//!
//! How soon is proved in virtual time, beside the governor; here it is printed, and waited for with patience.

use std::{
    f64::consts::TAU,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use guidevane::{
    agent::enroll::{Subject, enroll},
    api::{Client, Explanation, HealthState},
};
use guidevane_tests::{
    bed::{Background, Topology},
    daemon::Daemon,
    load::{
        client::Direct,
        lengths::Lengths,
        run::{LoadOptions, run},
        stats::{Live, Report},
        traffic::{Sizes, Traffic},
    },
    nvml::Standin,
    sim::{
        engine::Counters,
        exposition::{Exposition, Manner, Numbers},
        metrics::Stats,
    },
};
use nix::sys::signal::Signal;

use crate::{
    agents::{Agent, with_agents},
    support::{Mode, Plan, Server, quick, server_address},
};

/// Where the metrics are that fail; the servers' own are not read.
const METRICS: u16 = 9100;

/// The backends by what is known of them: metrics, an agent's reports, a GPU; the last one's metrics never fail.
const SCRAPED: usize = 0;
const REPORTING: usize = 1;
const COUNTED: usize = 2;
const SOUND: usize = 3;

/// Requests a second, short ones.
const RATE: f64 = 60.0;

/// Far above what is asked for, on a machine that others use too; and what is asked for.
const PATIENCE: Duration = Duration::from_secs(60);
const ASKED: Duration = Duration::from_secs(2);

/// The daemon stands still for so long: longer than the kernel's patience with it.
const STILL: Duration = Duration::from_millis(2500);

/// Costs as close as this are the same: within the deadbands of two.
const SAME: f64 = 0.1;

/// What a server says that gives so many tokens a second to each of about 20 requests, and has so much of its cache in use.
fn numbers(at: Duration, speed: f64, kv_usage: f64) -> Stats {
    const MEAN: f64 = 20.0;
    const SWING: f64 = 8.0;
    const PERIOD: f64 = 3.0;
    let (seconds, phase) = (at.as_secs_f64(), at.as_secs_f64() / PERIOD * TAU);
    let request_seconds = MEAN * seconds + SWING * PERIOD / TAU * (1.0 - phase.cos());
    let generation_tokens = (speed * request_seconds) as u64;
    Stats {
        running: (MEAN + SWING * phase.sin()).round() as u32,
        kv_usage,
        counters: Counters { generation_tokens, ..Counters::default() },
        ..Stats::default()
    }
}

/// Slow, and its cache is full.
const LAME: Numbers = |at| numbers(at, 15.0, 1.0);
const WELL: Numbers = |at| numbers(at, 60.0, 0.3);

/// The bed with everything that runs in it.
struct Scene<'a> {
    daemon: &'a Daemon,
    live: &'a Live,
}

impl Scene<'_> {
    /// Waits until a backend is as wanted, and says how long it took.
    fn wait(&self, number: usize, what: &str, wanted: impl Fn(&Explanation) -> bool) -> Duration {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < PATIENCE {
            let known = Client::connect(&self.daemon.socket())
                .and_then(|mut client| client.explain(&format!("v4-{number}")));
            match known {
                Ok(known) if wanted(&known) => return begun.elapsed(),
                other => last = Some(other),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("backend {number}, {what}: {last:#?}\n{}", self.daemon.log());
    }

    /// Breaks a source, sees the costs of its backend forget it, mends it, and sees them follow it again.
    fn trial(&self, number: usize, trial: &Trial, mut set: impl FnMut(bool)) {
        let Trial { what, claimed, forgotten } = trial;
        self.wait(number, &format!("before {what}"), claimed);
        set(false);
        let fell = self.wait(number, what, forgotten);
        set(true);
        let rose = self.wait(number, &format!("after {what}"), claimed);
        let late = if fell > ASKED { ", late" } else { "" };
        println!("{what}: forgotten after {fell:.2?}{late}, back {rose:.2?} after its end");
        let snapshot = self.live.snapshot();
        assert_eq!(snapshot.failed, 0, "{what}: requests failed\n{}", self.daemon.log());
    }
}

type Judge = fn(&Explanation) -> bool;

struct Trial {
    what: &'static str,
    claimed: Judge,
    forgotten: Judge,
}

/// The cost is what the kernel's own signals make it, but for the factor of a full cache. What is written may be more:
/// where reports make the others look slow, a backend has at most twice the share that the kernel knows of.
fn is_of_kernel(known: &Explanation, saturation: f64) -> bool {
    let same = |one: f64, other: f64| (one / other - 1.0).abs() < SAME;
    same(known.factor, known.trust.kernel_factor * saturation)
        && (known.trust.bounded || same(known.written.cost, known.cost_by_weight * known.factor))
}

fn has_no_more(known: &Explanation) -> bool {
    known.correction.smoothed == 0.0 && (known.trust.bounded || known.written.correction == 0.0)
}

fn is_static(known: &Explanation) -> bool {
    is_of_kernel(known, 1.0) && has_no_more(known)
}

fn is_slow(known: &Explanation) -> bool {
    // Beyond what has changed of a cost until it is seen to be forgotten.
    let by_tokens = known.factor / known.saturation / known.trust.kernel_factor > 1.0 + SAME * 1.5;
    by_tokens && has_more(known) && known.saturation > 1.3
}

/// The same, and it was measured since the daemon stood still.
fn is_slow_anew(known: &Explanation) -> bool {
    is_slow(known) && known.slowness.age_seconds.is_some_and(|age| age < STILL.as_secs_f64() / 2.0)
}

fn has_more(known: &Explanation) -> bool {
    known.correction.smoothed > 3.0 && known.written.cost > 1.2
}

fn forgets_counters(known: &Explanation) -> bool {
    is_of_kernel(known, known.saturation)
}

fn forgets_queue(known: &Explanation) -> bool {
    forgets_counters(known) && has_no_more(known)
}

fn is_throttled(known: &Explanation) -> bool {
    known.written.cost > 2.0
}

fn break_metrics(scene: &Scene<'_>, metrics: &Exposition) {
    let cases: [(_, _, Judge); 6] = [
        ("metrics refused", Manner::Refuses, is_static),
        ("metrics stalled", Manner::Stalls, is_static),
        ("metrics of junk", Manner::Junk, is_static),
        ("metrics of NaN", Manner::NotANumber, is_static),
        ("counters that leap and go back", Manner::CountsBack, forgets_counters),
        ("a queue of a thousand million", Manner::Boasts, forgets_queue),
    ];
    for (what, manner, forgotten) in cases {
        let trial = Trial { what, claimed: is_slow, forgotten };
        scene.trial(SCRAPED, &trial, |sound| metrics.set(if sound { Manner::Sound } else { manner }));
    }
}

fn break_agent(scene: &Scene<'_>, start: impl Fn(&[&str]) -> Agent) {
    let trial = |what| Trial { what, claimed: has_more, forgotten: is_static };
    let mut agent = Some(start(&[]));
    scene.trial(REPORTING, &trial("agent stopped"), |sound| {
        let signal = if sound { Signal::SIGCONT } else { Signal::SIGSTOP };
        agent.as_ref().expect("it runs").signal(signal);
    });
    scene.trial(REPORTING, &trial("agent killed"), |sound| agent = sound.then(|| start(&[])));
    // Another clock for the same host: twelve days ahead of what it was.
    let ahead = ["unshare", "--time", "--monotonic", "1000000", "--fork", "--kill-child"];
    scene.trial(REPORTING, &trial("agent killed, its clock set"), |sound| {
        agent = sound.then(|| start(&ahead));
    });
}

fn break_driver(scene: &Scene<'_>, standin: &mut Standin) {
    /// Returned by `nvmlInit` and then by every call: no driver is loaded.
    const NOT_LOADED: u32 = 9;
    const HANGS: Duration = Duration::from_secs(4);
    let trial = |what| Trial { what, claimed: is_throttled, forgotten: is_static };
    scene.trial(COUNTED, &trial("driver that hangs"), |sound| {
        standin.change(|script| script.delay_us = if sound { 0 } else { HANGS.as_micros() as u64 });
    });
    scene.trial(COUNTED, &trial("driver gone"), |sound| {
        standin.change(|script| script.init = if sound { 0 } else { NOT_LOADED });
    });
    let state = || scene.daemon.status().map(|snapshot| snapshot.vips[0].backends[COUNTED].health.state);
    scene.trial(COUNTED, &Trial { forgotten: |_| true, ..trial("GPU lost") }, |sound| {
        standin.change(|script| script.gpus[0].lost = !sound);
        if sound {
            let name = format!("v4-{COUNTED}");
            let resumed = Client::connect(&scene.daemon.socket()).and_then(|mut client| client.resume(&name));
            resumed.expect("resume the backend");
            return;
        }
        let begun = Instant::now();
        while state() != Some(HealthState::Down) {
            assert!(begun.elapsed() < PATIENCE, "a lost GPU takes flows\n{}", scene.daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

fn load(bed: &Topology, live: &Live) -> Background<Report> {
    let url = format!("http://{}:8000/v1/completions", bed.vip.v4);
    let mut options = LoadOptions::new(url, Traffic::Poisson { rate: RATE });
    options.sizes = Sizes { prompt: Lengths::Fixed(64), output: Lengths::Fixed(2), seed: 7 };
    options.duration = Some(PATIENCE * 20);
    let live = live.clone();
    bed.client.namespace.spawn_runtime(move || async move {
        run(options, Direct::default(), live).await.expect("the options are sound")
    })
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn sources_that_die_stall_or_lie_cost_no_connection_and_are_forgotten_until_they_are_back() {
    let bed = Topology::one_arm(4).expect("make the test bed");
    let _servers = Server::everywhere(&bed, &quick());
    let room = tempfile::tempdir().expect("a temporary folder");
    let mut standin = Standin::with_servers(&[1]);
    standin.change(|script| (script.gpus[0].clock, script.gpus[0].reasons) = (495, 0x20));
    let vip = IpAddr::V4(bed.vip.v4);
    let at = |number| SocketAddr::new(server_address(&bed, number, vip), METRICS);
    let metrics =
        |number: usize, numbers| Exposition::start(&bed.servers[number].namespace, at(number), numbers);
    let (scraped, _reporting, _sound) =
        (metrics(SCRAPED, LAME), metrics(REPORTING, LAME), metrics(SOUND, WELL));

    let balancer = enroll(room.path(), &Subject::Balancer, 1, false).expect("enrol the balancer");
    let mut plan = Plan::new(&bed, Mode::L2);
    (plan.vips, plan.metrics) = (vec![vip], false);
    let mut text = with_agents(&bed, &plan.toml(), &balancer, &[REPORTING]);
    for (number, line) in [
        (SCRAPED, format!("metrics = \"http://{}/metrics\"", at(SCRAPED))),
        (SOUND, format!("metrics = \"http://{}/metrics\"", at(SOUND))),
        (COUNTED, "gpus = [0]".to_owned()),
    ] {
        let name = format!("name = \"v4-{number}\"\n");
        text = text.replace(&name, &format!("{name}{line}\n"));
    }
    // What the sources say is looked at, not what the probes say on a busy machine.
    let text = text.replace("[health]", "[health]\nfall = 50");
    let text = format!("[nvml]\nlibrary = \"{}\"\n{text}", standin.library().display());
    let mut daemon = Daemon::start(&bed.balancer.namespace, &text);
    daemon.wait_until_up();
    let live = Live::default();
    let _load = load(&bed, &live);

    let scene = Scene { daemon: &daemon, live: &live };
    let agent = |around: &[&str]| Agent::start(&bed, REPORTING, METRICS, room.path(), around);
    // Each source in turn, and the sources of the three beside each other.
    std::thread::scope(|scope| {
        scope.spawn(|| break_metrics(&scene, &scraped));
        scope.spawn(|| break_agent(&scene, agent));
        scope.spawn(|| break_driver(&scene, &mut standin));
    });
    let before = live.snapshot();
    daemon.signal(Signal::SIGSTOP).expect("stop the daemon");
    std::thread::sleep(STILL);
    let meanwhile = live.snapshot();
    daemon.signal(Signal::SIGCONT).expect("let the daemon go on");
    let rose = scene.wait(SCRAPED, "after the daemon stood still", is_slow_anew);
    println!("the daemon stood still for {STILL:.2?}, costs followed after {rose:.2?}");
    assert!(meanwhile.finished > before.finished, "nothing ended while the daemon stood still");
    let end = live.snapshot();
    println!("{} requests ended well, {} failed", end.finished, end.failed);
    assert_eq!(end.failed, 0, "{}", daemon.log());
}
