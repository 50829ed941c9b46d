use std::time::Duration;

use lb_common::pick::PROMPT;

use super::{Replay, VipReplay, Way, replay};
use crate::{
    config::{GovernorMode, PolicyKind},
    recording::{BackendSample, Header, Recording, Sample, Segment, Vip, VipSample, Written},
    sim::{Policy, Scenario, Server, Sizes, Traffic, lengths::Lengths, profile::H100_8B, run_watched},
};

/// How often the simulator's ticks are taken.
const EVERY: Duration = Duration::from_millis(100);

fn vip(backends: usize) -> Vip {
    Vip {
        name: "chat".to_owned(),
        policy: PolicyKind::Least,
        awaiting_weight: crate::governor::AWAITING_WEIGHT,
        epsilon: 0.0,
        governor: GovernorMode::On,
        backends: (0..backends).map(|number| format!("gpu-{number}")).collect(),
    }
}

fn recording(vip: Vip, samples: Vec<Sample>) -> Recording {
    Recording { segments: vec![Segment { header: Header::new(vec![vip]), samples }] }
}

/// A minute of four servers, one of them at a third of its speed, steered by the governor.
fn simulated() -> Recording {
    let sizes =
        Sizes { prompt: Lengths::LogNormal { median: 500.0, sigma: 0.7 }, output: Lengths::Geometric(150.0) };
    let mut servers = vec![Server::new(&H100_8B, 64); 4];
    servers[3] = servers[3].clone().at_rate(0.35);
    let scenario = Scenario::new(servers, Traffic::Poisson(60.0, sizes), Duration::from_secs(60));
    let mut samples: Vec<Sample> = Vec::new();
    run_watched(&scenario, Policy::Guidevane, |at, sample| {
        let at_us = at.as_micros() as u64;
        if samples.last().is_none_or(|last| at_us >= last.at_us + EVERY.as_micros() as u64) {
            samples.push(Sample { at_us, vips: vec![sample] });
        }
    });
    recording(vip(4), samples)
}

fn only(replay: &Replay) -> &VipReplay {
    let [vip] = &replay.vips[..] else { panic!("one VIP: {replay:?}") };
    vip
}

fn share(vip: &VipReplay, way: Way, backend: usize) -> f64 {
    let way = vip.ways.iter().find(|replayed| replayed.name == way.name()).expect("it was asked for");
    way.shares[backend]
}

#[test]
fn what_was_written_gives_the_shares_that_were_and_the_governor_finds_it_again() {
    let replayed = replay(&simulated(), &Way::ALL);
    println!("{}", replayed.table());
    let vip = only(&replayed);
    assert!(vip.new_flows > 3000, "{} flows in a minute at 60 a second", vip.new_flows);
    // What happens within an interval is known in outline alone, which is worth a point.
    let noise = 3.0 * vip.share_error.expect("flows came") + 0.01;
    for backend in 0..4 {
        for way in [Way::AsWritten, Way::Guidevane] {
            let (was, would) = (vip.recorded.shares[backend], share(vip, way, backend));
            assert!((was - would).abs() <= noise, "{way}, backend {backend}: {was:.3} became {would:.3}");
        }
    }
}

#[test]
fn other_ways_do_what_they_do() {
    let replayed = replay(&simulated(), &Way::ALL);
    let vip = only(&replayed);
    for backend in 0..4 {
        let turn = share(vip, Way::RoundRobin, backend);
        assert!((turn - 0.25).abs() < 0.001, "round robin gives each a quarter, not {turn:.3}");
    }
    let slow = |way| share(vip, way, 3);
    assert!((slow(Way::Hash) - 0.25).abs() < 0.05, "hashing knows no speed: {:.3}", slow(Way::Hash));
    assert!(slow(Way::Guidevane) < slow(Way::LiveCounts), "a slow server gets fewer when its speed is known");
    // It was kept emptier than the rest: one step on, that is where the fewest connections are.
    assert!(slow(Way::LeastConnections) > 0.5, "{:.3}", slow(Way::LeastConnections));
    let load = |way: Way| vip.ways.iter().find(|it| it.name == way.name()).and_then(|it| it.mean_load);
    assert!(load(Way::Guidevane) < load(Way::RoundRobin), "the least load is less than any");
}

#[test]
fn the_same_recording_gives_the_same_figures() {
    let recording = simulated();
    assert_eq!(replay(&recording, &Way::ALL), replay(&recording, &Way::ALL));
}

/// A backend that is idle, and has opened so many flows.
fn idle(opened: u64, usable: bool) -> BackendSample {
    let written = Written { cost: 1024, correction: 0, limit: 0, static_cost: 1024, share: 32_768 };
    BackendSample {
        opening: 0,
        awaiting: 0,
        streaming: 0,
        idle: 0,
        prompts: 0,
        opened,
        requests: opened,
        progressed: 0,
        progress_count: 0,
        progress_sum_ns: 0,
        weight: 100,
        configured_limit: None,
        usable,
        reported: None,
        hardware: None,
        written,
    }
}

fn moment(number: u64, backends: Vec<BackendSample>) -> Sample {
    let vip = VipSample { opening_cap: u32::MAX, duty: 256, prompt: PROMPT, backends };
    Sample { at_us: number * 100_000, vips: vec![vip] }
}

#[test]
fn who_takes_no_flows_gets_none_and_with_nobody_there_all_are_refused() {
    let flows = |number| moment(number, vec![idle(10 * number, number < 4), idle(0, false)]);
    let replayed = replay(&recording(vip(2), (0..8).map(flows).collect()), &Way::ALL);
    let vip = only(&replayed);
    assert_eq!(vip.new_flows, 70);
    for way in &vip.ways {
        assert_eq!((&way.shares[..], way.refused), (&[1.0, 0.0][..], 30), "{}", way.name);
    }
    assert!(replayed.table().contains("REFUSED"), "{}", replayed.table());
}

#[test]
fn backends_are_known_by_their_names_when_others_come_and_go() {
    let named =
        |names: &[&str]| Vip { backends: names.iter().map(|&name| name.to_owned()).collect(), ..vip(0) };
    let segment = |vip: Vip, samples| Segment { header: Header::new(vec![vip]), samples };
    let first = segment(
        named(&["a", "b"]),
        vec![moment(0, vec![idle(0, true), idle(0, true)]), moment(1, vec![idle(30, true), idle(0, true)])],
    );
    let second = segment(
        named(&["b", "c"]),
        vec![moment(2, vec![idle(0, true), idle(0, true)]), moment(3, vec![idle(10, true), idle(20, true)])],
    );
    let replayed = replay(&Recording { segments: vec![first, second] }, &[Way::RoundRobin]);
    let vip = only(&replayed);
    let names: Vec<&str> = vip.backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(vip.recorded.shares, [30.0 / 60.0, 10.0 / 60.0, 20.0 / 60.0]);
    assert_eq!(vip.ways[0].shares, [0.25, 0.5, 0.25], "each in turn in both halves");
    assert_eq!(vip.intervals, 2, "what lies between two sets of backends is no interval");
}

#[test]
fn a_recording_without_flows_has_no_shares_and_names_are_disarmed() {
    let vip = Vip { name: "ch\u{1b}at".to_owned(), ..vip(1) };
    let samples = (0..2).map(|number| moment(number, vec![idle(5, true)])).collect();
    let replayed = replay(&recording(vip, samples), &[Way::Guidevane]);
    let expected = "\
VIP ch?at: 0 new flows in 0.1 s, 1 intervals; picked by least, governor on

SHARE_PCT  RECORDED  GUIDEVANE
gpu-0             0          0
MEAN_LOAD         -          -

TERMS      COST_WRITTEN  COST_ON  CORRECTION_WRITTEN  CORRECTION_ON  LIMIT_WRITTEN LIMIT_ON
gpu-0              1.00     1.00                +0.0           +0.0              -        -
";
    assert_eq!(replayed.table(), expected);
}
